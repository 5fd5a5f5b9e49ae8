//! What a change of manifests would do: routes, backends, limits and permissions that two indexes answer differently.
//!
//! The `diff` command asks before a change is made. Every answer is the one that proxies would get; its pieces are compared in the
//! words of `describe.rs`. Endpoints come and go by themselves and are not compared.

use crate::describe;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use weft_index::Index;
use weft_index::answer::Answer;
use weft_model::attach::EgressNetwork;
use weft_model::policy::{
    HttpRoutes, InboundPolicy, InboundProtocol, OutboundPolicy, OutboundProtocol, TcpRoute,
};
use weft_model::service::ServiceName;

/// What is answered differently about some things.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// About what: a service's port for clients of a namespace, an egress network, a workload's port.
    pub about: Vec<String>,
    /// What was said and is not said any more.
    pub gone: Vec<String>,
    /// What is said now and was not.
    pub new: Vec<String>,
}

/// Everything that two indexes answer differently, ordered by what it is about; the same difference is told once for all that
/// it concerns. Costs time in all services and workloads: for people.
pub fn differences(old: &Index, new: &Index) -> Vec<Difference> {
    let (before, after) = (answers(old), answers(new));
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let mut found: Vec<Difference> = Vec::new();
    let none = Vec::new();
    for key in keys {
        let (a, b) = (before.get(key).unwrap_or(&none), after.get(key).unwrap_or(&none));
        let only = |list: &[String], other: &[String]| {
            list.iter().filter(|line| !other.contains(line)).cloned().collect::<Vec<_>>()
        };
        let (gone, added) = (only(a, b), only(b, a));
        let moved = gone.is_empty() && added.is_empty() && a != b;
        if gone.is_empty() && added.is_empty() && !moved {
            continue;
        }
        let (gone, added) = if moved { (a.clone(), b.clone()) } else { (gone, added) };
        match found.iter_mut().find(|d| d.gone == gone && d.new == added) {
            Some(same) => same.about.push(key.clone()),
            None => found.push(Difference { about: vec![key.clone()], gone, new: added }),
        }
    }
    found
}

/// What is said about everything, line by line.
fn answers(index: &Index) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    for asked in index.outbound_ports() {
        if let Answer::Outbound(policy) = index.resolve(&asked.view()) {
            let own = asked.namespace == asked.service.namespace;
            let clients = if own { String::new() } else { format!(" for clients of {}", asked.namespace) };
            all.insert(format!("Service {} port {}{clients}", asked.service, asked.port), routed(&policy));
        }
    }
    for (name, network) in index.egress_networks() {
        egress(index, &name, network, &mut all);
    }
    for (workload, port, policy) in index.inbound_ports() {
        all.insert(format!("ExternalWorkload {workload} port {port}"), permitted(&policy));
    }
    all
}

/// The policy of an egress network, seen at an address in it.
fn egress(
    index: &Index,
    name: &ServiceName,
    network: &EgressNetwork,
    all: &mut BTreeMap<String, Vec<String>>,
) {
    let block = network.networks.as_ref().and_then(|blocks| blocks.first()).map(|block| block.net.network());
    // Any address outside of the cluster stands for a network without blocks.
    let ip = block.unwrap_or_else(|| IpAddr::from([192, 0, 2, 1]));
    let ports = index.egress_ports(name).into_iter().map(NonZeroU16::get);
    for port in ports.chain([80]).collect::<BTreeSet<u16>>() {
        let lines = match index.egress_at(network, SocketAddr::new(ip, port)) {
            Some(policy) => routed(&policy),
            None => vec!["not in force".to_owned()],
        };
        // The address stands for all; it is no part of what is compared.
        let lines = lines.into_iter().map(|line| line.replace(&format!(" at {ip}:{port}"), ""));
        let blocks = network.networks.iter().flatten().map(|block| format!("block {}", block.net));
        all.insert(format!("EgressNetwork {name} port {port}"), blocks.chain(lines).collect());
    }
}

fn routed(policy: &OutboundPolicy) -> Vec<String> {
    let mut lines = vec![format!("speaks {}", describe::outbound_protocol(&policy.protocol))];
    let http = |http: &HttpRoutes, lines: &mut Vec<String>| {
        lines.extend(http.routes.iter().flat_map(describe::route));
        lines.extend(http.breaker.iter().map(describe::breaker));
    };
    let tcp = |routes: &[TcpRoute], lines: &mut Vec<String>| {
        for route in routes {
            let snis = if route.snis.is_empty() {
                String::new()
            } else {
                format!(" for {}", describe::hosts(&route.snis))
            };
            let filters: Vec<_> =
                route.filters.iter().map(|f| format!("; {}", describe::filter(f))).collect();
            let (from, to) = (describe::origin(&route.meta), describe::distribution(&route.backends));
            lines.push(format!("{from}{snis}: connections → {to}{}", filters.concat()));
        }
    };
    match &policy.protocol {
        OutboundProtocol::Detect { http1, opaque, .. } => {
            http(http1, &mut lines);
            tcp(opaque, &mut lines);
        }
        OutboundProtocol::Http1(routes)
        | OutboundProtocol::Http2(routes)
        | OutboundProtocol::Grpc(routes) => {
            http(routes, &mut lines);
        }
        OutboundProtocol::Opaque(routes) | OutboundProtocol::Tls(routes) => tcp(routes, &mut lines),
    }
    lines
}

fn permitted(policy: &InboundPolicy) -> Vec<String> {
    let mut lines = vec![format!("speaks {}", describe::inbound_protocol(&policy.protocol))];
    lines.push(format!("governed by {}", describe::origin(&policy.meta)));
    let admits = |all: &[weft_model::authorization::Authorization], to: &str, lines: &mut Vec<String>| {
        for one in all {
            lines.push(format!("{} admits {}{to}", describe::origin(&one.meta), describe::admits(one)));
        }
    };
    match policy.authorizations.is_empty() {
        true => lines.push("admits nobody to all of it".to_owned()),
        false => admits(&policy.authorizations, "", &mut lines),
    }
    if let InboundProtocol::Detect { http, .. }
    | InboundProtocol::Http1(http)
    | InboundProtocol::Http2(http)
    | InboundProtocol::Grpc(http) = &policy.protocol
    {
        for route in http.routes.iter() {
            lines.extend(describe::route(route));
            admits(&route.authorizations, &format!(" to {}", describe::origin(&route.meta)), &mut lines);
        }
        lines.extend(http.rate_limit.iter().map(|limit| describe::rate_limit(limit)));
    }
    lines
}
