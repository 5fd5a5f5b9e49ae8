//! Health probes: requests that a workload's port answers to anybody, whatever its policy says (§1E.5).
//!
//! A probe comes from a supervisor or a load balancer that has no identity of the mesh. Where no pod spec tells its paths, the
//! annotation `weft/probes` does. Pure; only `inbound.rs` and `verdict.rs` call this.

use crate::annotations::PortList;
use crate::entry::WorkloadEntry;
use ipnet::IpNet;
use std::num::NonZeroU16;
use weft_model::authorization::{Authentication, Authorization, NetworkMatch};
use weft_model::meta::Meta;
use weft_model::route::{HttpMatch, PathMatch, RequestMatch, Route, Rule};

/// Ours, on a workload or its namespace: `PORT/PATH`, comma-separated, such as `8080/healthz, http/ready`.
pub(crate) const PROBES: &str = "weft/probes";

/// Longest path, and most probes; more are left out and reported.
const LONGEST: usize = 200;
const MOST: usize = 20;

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    port: PortList,
    path: String,
}

/// Reads the annotation. The second value names the parts that are no probe; they are left out.
pub(crate) fn parse(text: &str) -> (Vec<Probe>, Vec<String>) {
    let (mut probes, mut bad) = (Vec::new(), Vec::new());
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match read(part).filter(|_| probes.len() < MOST) {
            Some(probe) => probes.push(probe),
            None => bad.push(part.chars().take(80).collect()),
        }
    }
    (probes, bad)
}

fn read(part: &str) -> Option<Probe> {
    let (port, path) = part.split_once('/')?;
    let (port, bad) = PortList::parse(port);
    let is_path =
        path.len() < LONGEST && path.bytes().all(|b| b.is_ascii_graphic() && b != b'?' && b != b'#');
    (port != PortList::default() && bad.is_empty() && is_path)
        .then(|| Probe { port, path: format!("/{path}") })
}

/// The route by which probes of a workload's port are let in, if there are any.
pub(crate) fn route(
    text: &str,
    workload: &WorkloadEntry,
    port: NonZeroU16,
    networks: &[IpNet],
) -> Option<Route> {
    let probes = parse(text).0.into_iter().filter(|probe| workload.listed(&probe.port, port));
    let matches: Vec<_> = probes
        .map(|probe| {
            RequestMatch::Http(HttpMatch {
                path: Some(PathMatch::Exact(probe.path)),
                method: Some(http::Method::GET),
                ..HttpMatch::default()
            })
        })
        .collect();
    (!matches.is_empty()).then(|| Route {
        meta: Meta::default_named("probe"),
        hosts: Vec::new(),
        rules: vec![Rule::inbound(matches, Vec::new())],
        authorizations: vec![Authorization {
            meta: Meta::default_named("probe"),
            networks: networks.iter().copied().map(NetworkMatch::from).collect(),
            authentication: Authentication::Unauthenticated,
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, paths: &[&str], bad: &[&str]) {
        let (probes, wrong) = parse(text);
        assert_eq!(probes.iter().map(|p| p.path.as_str()).collect::<Vec<_>>(), paths, "{text}");
        assert_eq!(wrong, bad, "{text}");
    }

    #[test]
    fn probes_are_a_port_and_a_path() {
        check("8080/healthz, http/ready/now,8000-8010/", &["/healthz", "/ready/now", "/"], &[]);
        check("", &[], &[]);
        check("healthz, /x, 0/x, 80/a b, 80/a?b", &[], &["healthz", "/x", "0/x", "80/a b", "80/a?b"]);
        let many = vec!["80/x"; 25].join(",");
        assert_eq!((parse(&many).0.len(), parse(&many).1.len()), (20, 5));
        assert_eq!(parse(&format!("80/{}", "x".repeat(300))).1.len(), 1);
    }
}
