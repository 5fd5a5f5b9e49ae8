//! Who may speak to a workload, as manifests describe it: servers, authorizations, authentications, rate limits.
//!
//! Validated by `resources` before they get here; `index` makes the inbound policies of ports from them. The nouns that
//! proxies are told stand in `policy` and `authorization`.

use crate::authorization::NetworkMatch;
use crate::identity::Id;
use crate::kind::Kind;
use crate::metadata::Metadata;
use crate::policy::DefaultPolicy;
use crate::service::TargetPort;
use std::collections::BTreeMap;

/// Which objects are meant, by their labels. An empty selector means all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    /// Each of these labels must have this value.
    pub labels: BTreeMap<String, String>,
    /// And each of these must hold.
    pub expressions: Vec<Expression>,
}

/// One condition on a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Expression {
    /// The label.
    pub key: String,
    /// What must hold of it.
    pub operator: Operator,
}

/// What must hold of a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operator {
    /// It is there and has one of these values.
    In(Vec<String>),
    /// It is not there or has none of these values.
    NotIn(Vec<String>),
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

impl Selector {
    /// Whether an object with these labels is meant.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.expressions.iter().all(|Expression { key, operator }| match operator {
                Operator::In(values) => labels.get(key).is_some_and(|value| values.contains(value)),
                Operator::NotIn(values) => !labels.get(key).is_some_and(|value| values.contains(value)),
                Operator::Exists => labels.contains_key(key),
                Operator::DoesNotExist => !labels.contains_key(key),
            })
    }
}

/// A port of some workloads: what it speaks, and who may use it if nothing else says so (`Server`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Metadata.
    pub meta: Metadata,
    /// Which workloads.
    pub workloads: Workloads,
    /// Which of their ports.
    pub port: TargetPort,
    /// What the port speaks.
    pub protocol: ServerProtocol,
    /// Who may use the port beside those who are authorized.
    pub access: DefaultPolicy,
}

/// Which workloads of its namespace a server is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workloads {
    /// Pods with these labels.
    Pods(Selector),
    /// External workloads with these labels.
    External(Selector),
}

/// What a server's port speaks (`proxyProtocol`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerProtocol {
    /// Found out from the first bytes.
    #[default]
    Unknown,
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// gRPC.
    Grpc,
    /// Bytes.
    Opaque,
    /// TLS of the application.
    Tls,
}

impl ServerProtocol {
    /// Every protocol with its name in manifests.
    pub const ALL: [(ServerProtocol, &str); 6] = [
        (ServerProtocol::Unknown, "unknown"),
        (ServerProtocol::Http1, "HTTP/1"),
        (ServerProtocol::Http2, "HTTP/2"),
        (ServerProtocol::Grpc, "gRPC"),
        (ServerProtocol::Opaque, "opaque"),
        (ServerProtocol::Tls, "TLS"),
    ];

    /// Its name in manifests.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(protocol, _)| *protocol == self).map_or("unknown", |(_, name)| name)
    }
}

/// Who may use servers (`ServerAuthorization`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAuthorization {
    /// Metadata.
    pub meta: Metadata,
    /// Which servers of its namespace.
    pub servers: Servers,
    /// From which networks; none means those of the cluster.
    pub networks: Vec<NetworkMatch>,
    /// What clients must prove.
    pub client: Client,
}

/// Which servers of a namespace are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// The one of this name.
    Named(String),
    /// Those with these labels.
    Selected(Selector),
}

/// What a client must prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Client {
    /// Nothing.
    Unauthenticated,
    /// TLS of the mesh, with or without an identity.
    TlsUnauthenticated,
    /// One of these identities.
    Authenticated(Vec<Subject>),
}

/// Whose identity is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// Anybody who has one (`*`).
    Anybody,
    /// Exactly this identity. A SPIFFE id that ends in `/*` stands for all below it.
    Id(Id),
    /// A DNS identity with at least one more label before this (`*.suffix`).
    Within(String),
    /// A service account.
    Account(AccountRef),
    /// Every service account of a namespace.
    Namespace(String),
}

/// A service account. Without a namespace it is that of the object that names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountRef {
    /// Its namespace, if it is said.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// Who may use a server, a route or a whole namespace (`AuthorizationPolicy`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// Metadata.
    pub meta: Metadata,
    /// What it is about, in its own namespace.
    pub target: PolicyTarget,
    /// What clients must prove: each of these. Without any, everybody may.
    pub required: Vec<AuthenticationRef>,
}

/// What an authorization policy is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyTarget {
    /// Every server of the namespace.
    Namespace,
    /// A server.
    Server(String),
    /// A route of a server: its kind and name.
    Route(Kind, String),
}

/// One thing that clients must prove. Without a namespace it is the policy's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthenticationRef {
    /// What a `MeshTLSAuthentication` says.
    MeshTls {
        /// Its namespace, if it is said.
        namespace: Option<String>,
        /// Its name.
        name: String,
    },
    /// What a `NetworkAuthentication` says.
    Network {
        /// Its namespace, if it is said.
        namespace: Option<String>,
        /// Its name.
        name: String,
    },
    /// To be this service account.
    Account(AccountRef),
}

/// Identities (`MeshTLSAuthentication`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshTlsAuthentication {
    /// Metadata.
    pub meta: Metadata,
    /// Any of these.
    pub subjects: Vec<Subject>,
}

/// Networks (`NetworkAuthentication`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkAuthentication {
    /// Metadata.
    pub meta: Metadata,
    /// Any of these.
    pub networks: Vec<NetworkMatch>,
}

/// How many requests a second a server takes (`HTTPLocalRateLimitPolicy`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitPolicy {
    /// Metadata.
    pub meta: Metadata,
    /// The server, of the same namespace.
    pub server: String,
    /// From everybody together.
    pub total: Option<u32>,
    /// From each identity.
    pub identity: Option<u32>,
    /// From these identities instead.
    pub overrides: Vec<(u32, Vec<AccountRef>)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn check(operator: Operator, given: &[(&str, &str)], selected: bool) {
        let expressions = vec![Expression { key: "tier".into(), operator }];
        let selector = Selector { labels: labels(&[("app", "web")]), expressions };
        assert_eq!(selector.selects(&labels(given)), selected, "{selector:?} {given:?}");
    }

    #[test]
    fn selectors_want_every_label_and_every_expression() {
        let two = || vec!["a".to_owned(), "b".to_owned()];
        check(Operator::In(two()), &[("app", "web"), ("tier", "a")], true);
        check(Operator::In(two()), &[("app", "web"), ("tier", "c")], false);
        check(Operator::In(two()), &[("app", "web")], false);
        check(Operator::In(two()), &[("app", "db"), ("tier", "a")], false);
        check(Operator::NotIn(two()), &[("app", "web"), ("tier", "c")], true);
        check(Operator::NotIn(two()), &[("app", "web")], true);
        check(Operator::NotIn(two()), &[("app", "web"), ("tier", "b")], false);
        check(Operator::Exists, &[("app", "web"), ("tier", "")], true);
        check(Operator::Exists, &[("app", "web")], false);
        check(Operator::DoesNotExist, &[("app", "web")], true);
        check(Operator::DoesNotExist, &[("app", "web"), ("tier", "")], false);
        assert!(Selector::default().selects(&labels(&[])), "an empty selector means all");
    }
}
