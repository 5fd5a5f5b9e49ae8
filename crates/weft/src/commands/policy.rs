//! The arguments that say what the whole mesh agrees on: names, networks, defaults. `control` runs with them; `check`, `why` and
//! `diff` judge manifests with them, so that all four mean the same mesh.
//!
//! Turns arguments into `weft_index::Config`; knows nothing of what it does.

use super::mesh;
use clap::{Arg, ArgAction, ArgMatches};
use weft_index::PortList;
use weft_index::config::{Config, ReferenceGrants, RequestHeaders, ZoneWeights};
use weft_model::policy::DefaultPolicy;
use weft_settings::grammar;

/// The peer's names of what it has, too.
const ZONE_WEIGHTS: &str = "ext-endpoint-zone-weights";
const REQUEST_HEADERS: &str = "allow-l5d-request-headers";
const EGRESS_NAMESPACE: &str = "global-egress-network-namespace";
const REFERENCE_GRANTS: &str = "require-reference-grants";
const PROBE_NETWORKS: &str = "probe-networks";

pub(crate) fn arguments(command: clap::Command) -> clap::Command {
    let plain = |name: &'static str, value: &'static str, default: &'static str| {
        Arg::new(name).long(name).value_name(value).default_value(default)
    };
    let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    command
        .arg(plain("cluster-networks", "CIDRS", "").help(
            "Networks of the mesh's own addresses, comma-separated; what `cluster-*` policies admit \
             [default: the private ones and 240.0.0.0/4]",
        ))
        .arg(plain(PROBE_NETWORKS, "CIDRS", "").help(
            "Networks from which the probes of `weft/probes` are let in whatever a port's policy says, comma-separated \
             [default: all]",
        ))
        .arg(
            plain("default-policy", "POLICY", "all-unauthenticated")
                .value_parser(DefaultPolicy::ALL.map(DefaultPolicy::name))
                .help("Who may use ports that no manifest speaks of"),
        )
        .arg(
            plain("opaque-ports", "PORTS", "25,587,3306,4444,5432,6379,9300,11211")
                .help("Ports that are opaque unless a manifest says otherwise, such as `25,5000-5010`"),
        )
        .arg(flag(ZONE_WEIGHTS).help("Endpoints in the asker's own zone get ten times the weight of others"))
        .arg(flag(REQUEST_HEADERS).help("Clients may override time limits and retries by `l5d-*` request headers"))
        .arg(flag(REFERENCE_GRANTS).help(
            "A route needs a ReferenceGrant to lead to a service of another namespace, as the Gateway API has it",
        ))
        .arg(
            plain(EGRESS_NAMESPACE, "NAMESPACE", "linkerd-egress")
                .help("Namespace whose egress networks are for all namespaces that have none"),
        )
}

/// What the mesh agrees on, or every mistake in it.
pub(crate) fn config(matches: &ArgMatches) -> Result<Config, Vec<String>> {
    let mut mistakes = Vec::new();
    let text = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
    let (networks, ports, policy) = (text("cluster-networks"), text("opaque-ports"), text("default-policy"));
    let mut config = Config::default();
    for (name, place) in
        [("cluster-networks", &mut config.cluster_networks), (PROBE_NETWORKS, &mut config.probe_networks)]
    {
        let given = text(name);
        match grammar::networks(&given) {
            Some(networks) if networks.is_empty() => {}
            Some(networks) => *place = networks,
            None => mistakes.push(format!("--{name}: `{given}`; expected networks such as `10.0.0.0/8`")),
        }
    }
    if grammar::ports(&ports).is_none() {
        mistakes.push(format!("--opaque-ports: `{ports}`; expected ports such as `25,5000-5010`"));
    }
    config.default_opaque_ports = PortList::parse(&ports).0;
    config.default_policy = DefaultPolicy::parse(&policy).unwrap_or(DefaultPolicy::Deny);
    if policy.starts_with("cluster-") && networks.is_empty() {
        mistakes.push(format!("--default-policy: `{policy}` needs --cluster-networks"));
    }
    match mesh::names(matches) {
        Ok(names) => config.mesh = names,
        Err(mistake) => mistakes.push(mistake),
    }
    if matches.get_flag(ZONE_WEIGHTS) {
        config.zone_weights = ZoneWeights::LocalTenfold;
    }
    if matches.get_flag(REQUEST_HEADERS) {
        config.request_headers = RequestHeaders::Obeyed;
    }
    if matches.get_flag(REFERENCE_GRANTS) {
        config.reference_grants = ReferenceGrants::Required;
    }
    config.egress_namespace = text(EGRESS_NAMESPACE);
    if mistakes.is_empty() { Ok(config) } else { Err(mistakes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Config, Vec<String>> {
        let all = ["x"].iter().chain(flags);
        config(&arguments(mesh::naming(clap::Command::new("x"))).try_get_matches_from(all).unwrap())
    }

    #[test]
    fn without_arguments_the_mesh_has_its_defaults() {
        assert_eq!(parse(&[]).unwrap(), Config::default());
    }

    #[test]
    fn each_argument_is_obeyed() {
        let config = parse(&[
            "--cluster-networks=10.0.0.0/8",
            "--probe-networks=10.9.0.0/16",
            "--default-policy=cluster-authenticated",
            "--opaque-ports=25",
            "--ext-endpoint-zone-weights",
            "--allow-l5d-request-headers",
            "--require-reference-grants",
            "--global-egress-network-namespace=out",
            "--trust-domain=mesh.example",
        ])
        .unwrap();
        assert_eq!(config.cluster_networks, ["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(config.probe_networks, ["10.9.0.0/16".parse().unwrap()]);
        assert_eq!(config.default_policy, DefaultPolicy::ClusterAuthenticated);
        assert_eq!(config.default_opaque_ports, PortList::parse("25").0);
        assert_eq!(config.zone_weights, ZoneWeights::LocalTenfold);
        assert_eq!(config.request_headers, RequestHeaders::Obeyed);
        assert_eq!(config.reference_grants, ReferenceGrants::Required);
        assert_eq!(
            (config.egress_namespace.as_str(), config.mesh.trust_domain.as_str()),
            ("out", "mesh.example")
        );
    }

    #[test]
    fn mistakes_are_told_all_at_once() {
        let mistakes = parse(&["--cluster-networks", "x", "--probe-networks", "y", "--opaque-ports", "9-1"])
            .unwrap_err();
        assert_eq!(mistakes.len(), 3, "{mistakes:?}");
        assert!(parse(&["--default-policy", "cluster-authenticated"]).is_err());
        assert!(parse(&["--trust-domain", "a b"]).is_err());
    }
}
