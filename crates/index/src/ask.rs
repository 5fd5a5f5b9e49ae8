//! What proxies ask, read from the text they send: names, addresses and tokens.
//!
//! `serve` makes a [`Question`] of each request and turns it into a view by [`crate::Index::view`].
//! All text is hostile. Nothing here looks at manifests.

use crate::answer::{Refusal, RefusalKind};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use weft_model::address::Addr;
use weft_model::name::DnsName;
use weft_model::service::ServiceName;
use weft_model::workload::{Asker, WorkloadName};

/// The port of names that are asked without one (§1A.1, §1F.1).
pub const DEFAULT_PORT: NonZeroU16 = NonZeroU16::MIN.saturating_add(79);

/// Longest token that is read, bytes; the peer's are under 300.
pub(crate) const TOKEN_LIMIT: usize = 4096;

/// One request of a proxy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// `Destination.Get`.
    Endpoints {
        /// `host[:port]`.
        path: String,
        /// Who asks.
        asker: Asker,
    },
    /// `Destination.GetProfile`.
    Profile {
        /// `ip:port` or `name[:port]`.
        path: String,
        /// Who asks.
        asker: Asker,
    },
    /// `OutboundPolicies.Watch`.
    Outbound {
        /// What it wants to reach.
        target: OutboundTarget,
        /// Who asks.
        asker: Asker,
    },
    /// `InboundServerPolicies.WatchPort`.
    Inbound {
        /// The workload, as [`workload`] reads it.
        workload: String,
        /// The port.
        port: u32,
    },
}

impl Question {
    /// Who asks; nobody in particular for inbound policies.
    pub fn asker(&self) -> Option<&Asker> {
        match self {
            Question::Endpoints { asker, .. }
            | Question::Profile { asker, .. }
            | Question::Outbound { asker, .. } => Some(asker),
            Question::Inbound { .. } => None,
        }
    }
}

/// What a proxy wants to reach.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OutboundTarget {
    /// An original destination address.
    Address(SocketAddr),
    /// An authority, `host[:port]`.
    Authority(String),
}

/// Reads a context token: JSON `{"ns", "nodeName", "pod" | "external_workload"}` or `ns:NAMESPACE`.
/// `None` if it is malformed, which callers treat as an empty asker (§1A.1), perhaps with a log line.
pub fn asker(token: &str) -> Option<Asker> {
    #[derive(serde::Deserialize)]
    struct Token {
        #[serde(default)]
        ns: String,
        #[serde(default, rename = "nodeName")]
        node: String,
        #[serde(default)]
        pod: String,
        #[serde(default)]
        external_workload: String,
    }
    if token.is_empty() {
        return Some(Asker::default());
    }
    if token.len() > TOKEN_LIMIT {
        return None;
    }
    if let Some(namespace) = token.strip_prefix("ns:") {
        return Some(Asker { namespace: namespace.into(), ..Asker::default() });
    }
    let token: Token = serde_json::from_str(token).ok()?;
    let workload = if token.external_workload.is_empty() { token.pod } else { token.external_workload };
    Some(Asker { namespace: token.ns, workload, node: token.node })
}

/// The workload that a policy request is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PolicyWorkload {
    /// A pod.
    Pod(WorkloadName),
    /// An external workload.
    External(WorkloadName),
}

/// Reads the workload of a policy request: JSON `{"ns", "pod"}` or `{"ns", "external_workload"}`, or
/// the old form `ns:pod` (§1E.2). Anything else is an invalid argument.
pub fn workload(text: &str) -> Result<PolicyWorkload, Refusal> {
    #[derive(serde::Deserialize)]
    struct Token {
        ns: String,
        pod: Option<String>,
        external_workload: Option<String>,
    }
    let refuse = || {
        let shown: String = text.chars().take(200).collect();
        Refusal::new(RefusalKind::InvalidArgument, format!("`{shown}` names no workload"))
    };
    if text.len() > TOKEN_LIMIT {
        return Err(refuse());
    }
    if !text.trim_start().starts_with('{') {
        let (namespace, name) = text.split_once(':').ok_or_else(refuse)?;
        return match (namespace, name) {
            ("", _) | (_, "") => Err(refuse()),
            _ => Ok(PolicyWorkload::Pod(WorkloadName { namespace: namespace.into(), name: name.into() })),
        };
    }
    let token: Token = serde_json::from_str(text).map_err(|_| refuse())?;
    let named = |name: String| WorkloadName { namespace: token.ns.clone(), name };
    match (token.pod, token.external_workload) {
        (Some(pod), None) => Ok(PolicyWorkload::Pod(named(pod))),
        (None, Some(workload)) => Ok(PolicyWorkload::External(named(workload))),
        _ => Err(refuse()),
    }
}

/// The port of a request; 0 and anything above 65535 is an invalid argument.
pub fn port(number: u32) -> Result<NonZeroU16, Refusal> {
    u16::try_from(number)
        .ok()
        .and_then(NonZeroU16::new)
        .ok_or_else(|| Refusal::new(RefusalKind::InvalidArgument, format!("port {number} is not in 1–65535")))
}

/// Reads `host[:port]`, with port 80 where none is given.
pub(crate) fn path(text: &str) -> Result<Addr, Refusal> {
    Addr::from_authority(text, DEFAULT_PORT)
        .map_err(|error| Refusal::new(RefusalKind::InvalidArgument, error.to_string()))
}

/// A service, or one instance of a headless one, as a host name says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceHost {
    /// The first label of the five-part form.
    pub(crate) instance: Option<String>,
    /// The service.
    pub(crate) service: ServiceName,
}

/// Reads `[instance.]service.namespace.svc.DOMAIN`; `None` if the name has another form.
pub(crate) fn service_host(name: &DnsName, domain: &str) -> Option<ServiceHost> {
    let rest = name.as_str().strip_suffix(domain.trim_matches('.'))?.strip_suffix(".svc.")?;
    let labels: Vec<&str> = rest.split('.').collect();
    let (instance, service, namespace) = match labels[..] {
        [service, namespace] => (None, service, namespace),
        [instance, service, namespace] => (Some(instance.to_owned()), service, namespace),
        _ => return None,
    };
    Some(ServiceHost { instance, service: ServiceName { namespace: namespace.into(), name: service.into() } })
}

/// Reads `service.namespace.svc[.DOMAIN]`, as authorities of outbound policies have it; `None` if the
/// name has another form. The peer lets any domain pass; a foreign one is not a service here.
pub(crate) fn authority_host(name: &DnsName, domain: &str) -> Option<ServiceName> {
    if let Some(host) = service_host(name, domain) {
        return host.instance.is_none().then_some(host.service);
    }
    let rest = name.as_str().strip_suffix(".svc")?;
    let (service, namespace) = rest.split_once('.')?;
    (!namespace.contains('.')).then(|| ServiceName { namespace: namespace.into(), name: service.into() })
}

/// The address without IPv4-in-IPv6 disguise.
pub(crate) fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(namespace: &str, workload: &str, node: &str) -> Option<Asker> {
        Some(Asker { namespace: namespace.into(), workload: workload.into(), node: node.into() })
    }

    #[test]
    fn context_tokens_are_read_in_both_forms() {
        for (token, expected) in [
            ("", who("", "", "")),
            (r#"{"ns":"shop","nodeName":"n1","pod":"web-1"}"#, who("shop", "web-1", "n1")),
            (r#"{"ns":"shop","external_workload":"vm1"}"#, who("shop", "vm1", "")),
            (r#"{"ns":"shop"}"#, who("shop", "", "")),
            ("ns:shop", who("shop", "", "")),
            ("{", None),
            (r#"{"ns":1}"#, None),
            ("shop", None),
        ] {
            assert_eq!(asker(token), expected, "{token}");
        }
        assert_eq!(asker(&format!("ns:{}", "a".repeat(5000))), None);
    }

    #[test]
    fn policy_workloads_are_read_in_all_forms() {
        let name = |name: &str| WorkloadName { namespace: "shop".into(), name: name.into() };
        for (text, expected) in [
            (r#"{"ns":"shop","pod":"p"}"#, Some(PolicyWorkload::Pod(name("p")))),
            (r#"{"ns":"shop","external_workload":"w"}"#, Some(PolicyWorkload::External(name("w")))),
            ("shop:p", Some(PolicyWorkload::Pod(name("p")))),
            (r#"{"ns":"shop","pod":"p","external_workload":"w"}"#, None),
            (r#"{"ns":"shop"}"#, None),
            (r#"{"pod":"p"}"#, None),
            ("shop", None),
            (":p", None),
            ("", None),
        ] {
            assert_eq!(workload(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn names_of_services_need_the_mesh_domain() {
        let parse = |text: &str| {
            let host = service_host(&text.parse().unwrap(), "cluster.local")?;
            Some((host.instance.unwrap_or_default(), host.service.to_string()))
        };
        let some = |instance: &str, service: &str| Some((instance.to_owned(), service.to_owned()));
        for (text, expected) in [
            ("web.shop.svc.cluster.local", some("", "shop/web")),
            ("Web.Shop.svc.cluster.local.", some("", "shop/web")),
            ("a.web.shop.svc.cluster.local", some("a", "shop/web")),
            ("a.b.web.shop.svc.cluster.local", None),
            ("shop.svc.cluster.local", None),
            ("web.shop.svc.example.org", None),
            ("web.shop.svc", None),
            ("web.shop.cluster.local", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn authorities_of_services_may_leave_the_domain_out_but_not_change_it() {
        let parse =
            |text: &str| authority_host(&text.parse().unwrap(), "cluster.local").map(|s| s.to_string());
        for (text, expected) in [
            ("web.shop.svc", Some("shop/web")),
            ("web.shop.svc.cluster.local", Some("shop/web")),
            ("web.shop.svc.example.org", None),
            ("a.web.shop.svc", None),
            ("a.web.shop.svc.cluster.local", None),
            ("web.shop", None),
        ] {
            assert_eq!(parse(text).as_deref(), expected, "{text}");
        }
    }
}
