//! Who somebody is: the names that certificates carry and policies match.
//!
//! Settings, certificates, policies and discovery all name workloads with these. Whether a name is *proven*
//! is said by `Peer`; only a handshake in `identity` makes one.

use crate::name::{DnsName, InvalidName};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A workload identity as its certificate's SAN carries it: a DNS name, or a URI such as a SPIFFE ID.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Id {
    /// A DNS SAN, such as `web.default.serviceaccount.identity.linkerd.cluster.local`.
    Dns(DnsName),
    /// A URI SAN, such as `spiffe://mesh/web`.
    Uri(Arc<str>),
}

/// The name a peer is reached by over TLS and the identity it must prove.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsTarget {
    /// A SAN of the peer's certificate must equal this.
    pub id: Id,
    /// What to send as SNI; independent of `id`.
    pub server_name: DnsName,
}

impl FromStr for Id {
    type Err = InvalidName;

    /// A DNS name without trailing dot; failing that, an absolute URI.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.contains("://") && text.len() <= 2048 && text.bytes().all(|b| b.is_ascii_graphic()) {
            let scheme = text.split("://").next().unwrap_or_default();
            if !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
            {
                return Ok(Id::Uri(text.into()));
            }
        }
        text.parse().map(Id::Dns)
    }
}

impl Id {
    /// The identity as text.
    pub fn as_str(&self) -> &str {
        match self {
            Id::Dns(name) => name.as_str(),
            Id::Uri(uri) => uri,
        }
    }

    /// The identity of a service account: `<sa>.<ns>.serviceaccount.identity.<cpns>.<trust domain>`.
    pub fn service_account(account: &str, namespace: &str, mesh: &MeshNames) -> Result<Self, InvalidName> {
        let MeshNames { control_namespace, trust_domain, .. } = mesh;
        format!("{account}.{namespace}.serviceaccount.identity.{control_namespace}.{trust_domain}")
            .parse()
            .map(Id::Dns)
    }

    /// The service account and namespace this identity stands for, where it has that form.
    pub fn account_and_namespace(&self) -> Option<(&str, &str)> {
        let Id::Dns(name) = self else { return None };
        let mut labels = name.as_str().split('.');
        let (account, namespace) = (labels.next()?, labels.next()?);
        (labels.next()? == "serviceaccount" && labels.next()? == "identity").then_some((account, namespace))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The names that a whole mesh shares and that identities and service names are built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshNames {
    /// Namespace of the control plane, `linkerd` unless set.
    pub control_namespace: String,
    /// Domain of services, `cluster.local` unless set.
    pub cluster_domain: String,
    /// Domain of identities, the cluster domain unless set.
    pub trust_domain: String,
}

impl Default for MeshNames {
    fn default() -> Self {
        Self {
            control_namespace: "linkerd".into(),
            cluster_domain: "cluster.local".into(),
            trust_domain: "cluster.local".into(),
        }
    }
}

/// Who is at the other end of a connection, as TLS proved it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Mutual TLS terminated by us. `None`: the client showed no certificate.
    Tls(Option<Id>),
    /// TLS that is not for us and passes through; what its SNI said.
    Passthrough(Option<DnsName>),
    /// No TLS, and why.
    Plain(NoTls),
}

/// Why a connection carries no TLS of the mesh. The texts are the peer's `no_tls_reason` values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoTls {
    /// The workload talks to itself.
    Loopback,
    /// The port is opaque, TLS was not looked for.
    PortSkipped,
    /// The client sent something other than TLS.
    NotFromRemote,
    /// Discovery named no identity for the endpoint.
    NotProvidedByDiscovery,
}

impl NoTls {
    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            NoTls::Loopback => "loopback",
            NoTls::PortSkipped => "port_skipped",
            NoTls::NotFromRemote => "no_tls_from_remote",
            NoTls::NotProvidedByDiscovery => "not_provided_by_service_discovery",
        }
    }
}

impl Peer {
    /// The verified identity, if there is one.
    pub fn id(&self) -> Option<&Id> {
        match self {
            Peer::Tls(id) => id.as_ref(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_names_or_uris() {
        assert!(matches!("web.default".parse(), Ok(Id::Dns(_))));
        assert!(matches!("spiffe://mesh/web".parse(), Ok(Id::Uri(_))));
        assert!("a b".parse::<Id>().is_err());
        assert!("://x".parse::<Id>().is_err());
    }

    #[test]
    fn service_account_identities_round_trip() {
        let id = Id::service_account("web", "shop", &MeshNames::default()).unwrap();
        assert_eq!(id.as_str(), "web.shop.serviceaccount.identity.linkerd.cluster.local");
        assert_eq!(id.account_and_namespace(), Some(("web", "shop")));
        assert_eq!("web.shop".parse::<Id>().unwrap().account_and_namespace(), None);
    }
}
