//! The arguments that `control` and `token` share: the names of the mesh, and where the control plane
//! keeps its state and is reached. They must agree between the two, hence one definition.

use clap::{Arg, ArgMatches, value_parser};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use weft_model::duration;
use weft_model::identity::{Id, MeshNames};
use weft_model::name::DnsName;

/// Where the control plane listens unless told otherwise: only for this host.
pub(crate) const LISTEN: &str = "127.0.0.1:8086";

/// The service account of the control plane, from which its default name is made.
const ACCOUNT: &str = "weft-control";

pub(crate) fn arguments(command: clap::Command) -> clap::Command {
    naming(
        command.arg(
            Arg::new("state-dir")
                .long("state-dir")
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf))
                .default_value("weft-state")
                .help("Where the certificate authority and the key of join tokens are kept"),
        ),
    )
}

/// The arguments that name the mesh.
pub(crate) fn naming(command: clap::Command) -> clap::Command {
    command
        .arg(
            text("control-namespace", "NAME", "linkerd").help("Namespace of the control plane in identities"),
        )
        .arg(text("cluster-domain", "DOMAIN", "cluster.local").help("Domain of services"))
        .arg(
            Arg::new("trust-domain")
                .long("trust-domain")
                .value_name("DOMAIN")
                .help("Domain of identities [default: the cluster domain]"),
        )
}

/// The domain of services.
fn domain(matches: &ArgMatches) -> Result<String, String> {
    let text = matches.get_one::<String>("cluster-domain").cloned();
    named("cluster-domain", text.unwrap_or(MeshNames::default().cluster_domain))
}

fn named(argument: &'static str, text: String) -> Result<String, String> {
    let name = text.parse::<DnsName>().map_err(|e| format!("--{argument}: {e}; expected a DNS name"))?;
    Ok(name.to_string())
}

fn text(name: &'static str, value: &'static str, default: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).default_value(default)
}

/// The state directory.
pub(crate) fn state(matches: &ArgMatches) -> PathBuf {
    matches.get_one::<PathBuf>("state-dir").cloned().unwrap_or_default()
}

/// The names of the mesh.
pub(crate) fn names(matches: &ArgMatches) -> Result<MeshNames, String> {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let defaults = MeshNames::default();
    let cluster_domain = domain(matches)?;
    let trust_domain = match text("trust-domain") {
        Some(text) => named("trust-domain", text)?,
        None => cluster_domain.clone(),
    };
    let namespace = text("control-namespace").unwrap_or(defaults.control_namespace);
    let control_namespace = named("control-namespace", namespace)?;
    Ok(MeshNames { control_namespace, cluster_domain, trust_domain })
}

/// The identity of a service account of this mesh, `account.namespace`; anything longer is taken as it is.
pub(crate) fn identity(text: &str, mesh: &MeshNames) -> Result<Id, String> {
    let id: Id = text.parse().map_err(|e| format!("{e}; expected `account.namespace` or a full identity"))?;
    match &id {
        Id::Dns(name) => match name.as_str().split('.').collect::<Vec<_>>().as_slice() {
            [account, namespace] => {
                Id::service_account(account, namespace, mesh).map_err(|error| error.to_string())
            }
            _ => Ok(id),
        },
        Id::Uri(_) => Ok(id),
    }
}

/// The name of the control plane unless told otherwise.
pub(crate) fn control_name(mesh: &MeshNames) -> Result<DnsName, String> {
    let MeshNames { control_namespace, trust_domain, .. } = mesh;
    format!("{ACCOUNT}.{control_namespace}.serviceaccount.identity.{control_namespace}.{trust_domain}")
        .parse()
        .map_err(|error| format!("the control plane's name: {error}"))
}

/// What an authority of this mesh is called.
pub(crate) fn authority_name(mesh: &MeshNames) -> String {
    format!("root.{}.{}", mesh.control_namespace, mesh.trust_domain)
}

/// Reads a duration argument.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    duration::parse(text)
        .filter(|d| !d.is_zero())
        .ok_or("expected a whole number and one of ms, s, m, h, d, such as `24h`")
}

/// Reads a socket address argument.
pub(crate) fn parse_socket(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "expected `IP:port`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_may_be_given_short() {
        let mesh = MeshNames::default();
        let check = |text: &str, expected: Option<&str>| {
            let id = identity(text, &mesh).ok();
            assert_eq!(id.as_ref().map(Id::as_str), expected, "{text}");
        };
        check("web.shop", Some("web.shop.serviceaccount.identity.linkerd.cluster.local"));
        check("web.shop.mesh.example", Some("web.shop.mesh.example"));
        check("web", Some("web"));
        check("spiffe://mesh/web", Some("spiffe://mesh/web"));
        check("web shop", None);
    }
}
