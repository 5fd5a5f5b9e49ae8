//! Routes as manifests describe them, what they attach to, and egress networks.
//!
//! Validated by `resources` before they get here; `index` makes the routes of policies from them. The route language that
//! proxies are told stands in `route`.

use crate::authorization::NetworkMatch;
use crate::kind::Kind;
use crate::metadata::Metadata;
use crate::route::{Filter, HostMatch, RequestMatch};
use crate::service::ServiceName;
use std::num::NonZeroU16;
use std::time::Duration;

/// A route of any kind: `HTTPRoute` of either group, `GRPCRoute`, `TLSRoute` or `TCPRoute`.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteResource {
    /// Metadata.
    pub meta: Metadata,
    /// What it attaches to.
    pub parents: Vec<ParentRef>,
    /// Hosts it is for (for TLS, server names); none means all.
    pub hosts: Vec<HostMatch>,
    /// Its rules, in order; exactly one for TLS and TCP.
    pub rules: Vec<RouteRule>,
}

/// What a route attaches to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentRef {
    /// The kind of thing.
    pub kind: ParentKind,
    /// Its namespace; the route's own if it is not said.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// The section of it that is meant, if any.
    pub section: Option<String>,
    /// The port of it that is meant; all of them if none.
    pub port: Option<NonZeroU16>,
}

/// Kinds of things that routes attach to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ParentKind {
    /// A service: requests to it.
    Service,
    /// An egress network: requests that leave the mesh.
    EgressNetwork,
    /// A server: requests that arrive at a workload.
    Server,
    /// Something else, as `group/Kind`; of no concern to the mesh.
    Other(String),
}

impl ParentRef {
    /// The namespace and name of the parent of a route in a namespace.
    pub fn target(&self, route_namespace: &str) -> ServiceName {
        let namespace = self.namespace.as_deref().unwrap_or(route_namespace);
        ServiceName { namespace: namespace.to_owned(), name: self.name.clone() }
    }

    /// Whether a port of the parent is meant.
    pub fn is_for(&self, port: NonZeroU16) -> bool {
        self.port.is_none_or(|own| own == port)
    }
}

/// One rule of a route.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteRule {
    /// Any of these selects the rule; none means all requests.
    pub matches: Vec<RequestMatch>,
    /// Run in order. What is not supported stands here as [`Filter::Invalid`].
    pub filters: Vec<Filter>,
    /// Where requests go; none means the parent itself.
    pub backends: Vec<BackendRef>,
    /// Limit for all attempts and the response.
    pub request_timeout: Option<Duration>,
    /// Limit for one attempt.
    pub backend_timeout: Option<Duration>,
}

/// Where requests go, with a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendRef {
    /// The kind of thing.
    pub kind: BackendKind,
    /// Its namespace; the route's own if it is not said.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: Option<NonZeroU16>,
    /// Its share, relative to the others.
    pub weight: u32,
    /// Run after the rule's own.
    pub filters: Vec<Filter>,
}

/// Kinds of things that requests may go to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BackendKind {
    /// A service.
    Service,
    /// An egress network, which must be the parent too.
    EgressNetwork,
    /// Something else, as `group/Kind`; not usable.
    Other(String),
}

impl BackendRef {
    /// The namespace and name of the backend of a route in a namespace.
    pub fn target(&self, route_namespace: &str) -> ServiceName {
        let namespace = self.namespace.as_deref().unwrap_or(route_namespace);
        ServiceName { namespace: namespace.to_owned(), name: self.name.clone() }
    }
}

/// Addresses outside of the mesh, and whether they may be reached (`EgressNetwork`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressNetwork {
    /// Metadata.
    pub meta: Metadata,
    /// What becomes of traffic that no route describes.
    pub traffic: EgressTraffic,
    /// Which addresses; `None` means all that are not the cluster's.
    pub networks: Option<Vec<NetworkMatch>>,
}

/// What becomes of traffic that no route describes (`trafficPolicy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressTraffic {
    /// It goes where it was going.
    Allow,
    /// It is refused.
    Deny,
}

/// Leave for routes of other namespaces to lead here (`ReferenceGrant`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceGrant {
    /// Metadata.
    pub meta: Metadata,
    /// Who may: kinds of routes and their namespace. What is no route of ours is left out.
    pub from: Vec<(Kind, String)>,
    /// What they may lead to: services of the grant's namespace by name, all of them for `None`. What is no service is
    /// left out.
    pub to: Vec<Option<String>>,
}

impl ReferenceGrant {
    /// Whether a route of this kind and namespace may lead to a service of the grant's namespace.
    pub fn admits(&self, kind: Kind, namespace: &str, service: &str) -> bool {
        self.from.iter().any(|(from, ns)| *from == kind && ns == namespace)
            && self.to.iter().any(|to| to.as_deref().is_none_or(|name| name == service))
    }
}
