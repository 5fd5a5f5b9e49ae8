//! Policies: how a destination is spoken to (outbound) and who may speak to a port (inbound).
//!
//! `index` computes them, `wire` carries them, `discover` compiles them into plans. Includes the built-in
//! inbound policies that hold until the control plane has said something.

pub use crate::authorization::{Authentication, Authorization, NetworkMatch, Suffix};

use crate::identity::Id;
use crate::meta::Meta;
use crate::route::{Backoff, Distribution, Filter, HostMatch, Route};
use ipnet::IpNet;
use std::sync::Arc;
use std::time::Duration;

/// What `OutboundPolicies.Watch` says about a destination.
#[derive(Clone, Debug, PartialEq)]
pub struct OutboundPolicy {
    /// The parent: the service, egress network or built-in that it belongs to.
    pub meta: Meta,
    /// How to speak to it.
    pub protocol: OutboundProtocol,
}

/// How to speak to a destination.
#[derive(Clone, Debug, PartialEq)]
pub enum OutboundProtocol {
    /// Look at the first bytes.
    Detect {
        /// Longest look.
        timeout: Duration,
        /// If HTTP/1.
        http1: HttpRoutes,
        /// If HTTP/2.
        http2: HttpRoutes,
        /// If anything else.
        opaque: Vec<TcpRoute>,
    },
    /// HTTP/1 without looking.
    Http1(HttpRoutes),
    /// HTTP/2 without looking.
    Http2(HttpRoutes),
    /// gRPC, which is HTTP/2 without looking.
    Grpc(HttpRoutes),
    /// Bytes.
    Opaque(Vec<TcpRoute>),
    /// TLS of the application, routed by SNI.
    Tls(Vec<TcpRoute>),
}

/// HTTP or gRPC routes with their circuit breaker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpRoutes {
    /// Shared, because detection offers the same ones twice.
    pub routes: Arc<[Route]>,
    /// Breaker for every endpoint of every balanced backend.
    pub breaker: Option<FailureAccrual>,
    /// Endpoints of a backend that breakers leave in use at least (`EjectionConfig`); 0 lets them take all out, as the peer
    /// does.
    pub min_ready: u32,
}

/// An opaque or TLS route; it has exactly one rule.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpRoute {
    /// Where it comes from.
    pub meta: Meta,
    /// Server names it is for (TLS); none means all.
    pub snis: Vec<HostMatch>,
    /// Any filter here refuses the connection.
    pub filters: Vec<Filter>,
    /// Where connections go.
    pub backends: Distribution,
}

/// Circuit breaking (§3.6).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FailureAccrual {
    /// Trip after this many failures in a row.
    Consecutive {
        /// In a row.
        max_failures: u32,
        /// Waits between probes.
        backoff: Backoff,
    },
    /// Trip by success rate over a window, or by failures in a row.
    Unified {
        /// Least share of successes, 0–1; 0 turns the rate off.
        success_rate: f64,
        /// The window.
        window: Duration,
        /// Least requests in the window before the rate counts.
        min_requests: u32,
        /// In a row; 0 turns it off.
        max_consecutive: u32,
        /// Waits between probes.
        backoff: Backoff,
        /// Obey `Retry-After` of the tripping response.
        respect_retry_after: bool,
    },
}

/// What `InboundServerPolicies.WatchPort` says about a port.
#[derive(Clone, Debug, PartialEq)]
pub struct InboundPolicy {
    /// The server resource, or the default policy's name.
    pub meta: Meta,
    /// What the port speaks.
    pub protocol: InboundProtocol,
    /// Who may use it; empty means nobody.
    pub authorizations: Vec<Authorization>,
}

/// What an inbound port speaks.
#[derive(Clone, Debug, PartialEq)]
pub enum InboundProtocol {
    /// Look at the first bytes.
    Detect {
        /// Longest look at what is inside TLS or plaintext.
        timeout: Duration,
        /// If HTTP.
        http: InboundRoutes,
    },
    /// HTTP/1.
    Http1(InboundRoutes),
    /// HTTP/2.
    Http2(InboundRoutes),
    /// gRPC.
    Grpc(InboundRoutes),
    /// Bytes, TLS not looked for.
    Opaque,
    /// TLS of the application.
    Tls,
}

/// Routes of an inbound port. Without any, everything matches and the port's authorizations decide.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InboundRoutes {
    /// The routes, in order.
    pub routes: Arc<[Route]>,
    /// Local rate limit, if any.
    pub rate_limit: Option<Arc<RateLimit>>,
}

/// A local rate limit, requests per second, burst equal to the rate.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    /// Where it comes from.
    pub meta: Meta,
    /// For everybody together.
    pub total: Option<u32>,
    /// For each identity.
    pub identity: Option<u32>,
    /// For these identities instead.
    pub overrides: Vec<(u32, Vec<Id>)>,
}

/// The built-in inbound policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DefaultPolicy {
    /// Nobody.
    Deny,
    /// Any mesh identity, from anywhere.
    AllAuthenticated,
    /// Everybody.
    AllUnauthenticated,
    /// Any mesh identity, from the cluster networks.
    ClusterAuthenticated,
    /// Everybody in the cluster networks.
    ClusterUnauthenticated,
    /// Everybody, but logged and counted.
    Audit,
}

impl DefaultPolicy {
    /// Every policy, in the order that documentation lists them.
    pub const ALL: [DefaultPolicy; 6] = [
        DefaultPolicy::Deny,
        DefaultPolicy::AllAuthenticated,
        DefaultPolicy::AllUnauthenticated,
        DefaultPolicy::ClusterAuthenticated,
        DefaultPolicy::ClusterUnauthenticated,
        DefaultPolicy::Audit,
    ];

    /// Its name in settings and annotations.
    pub fn name(self) -> &'static str {
        match self {
            DefaultPolicy::Deny => "deny",
            DefaultPolicy::AllAuthenticated => "all-authenticated",
            DefaultPolicy::AllUnauthenticated => "all-unauthenticated",
            DefaultPolicy::ClusterAuthenticated => "cluster-authenticated",
            DefaultPolicy::ClusterUnauthenticated => "cluster-unauthenticated",
            DefaultPolicy::Audit => "audit",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.name() == name)
    }

    /// Who is admitted: the authorizations that stand for this policy, none for `deny`.
    pub fn authorizations(self, cluster_networks: &[IpNet]) -> Vec<Authorization> {
        use DefaultPolicy::*;
        let networks = match self {
            ClusterAuthenticated | ClusterUnauthenticated => {
                cluster_networks.iter().copied().map(NetworkMatch::from).collect()
            }
            _ => NetworkMatch::everywhere(),
        };
        let authentication = match self {
            Deny => return Vec::new(),
            AllAuthenticated | ClusterAuthenticated => {
                Authentication::TlsAuthenticated { ids: Vec::new(), suffixes: vec![Suffix(String::new())] }
            }
            AllUnauthenticated | ClusterUnauthenticated | Audit => Authentication::Unauthenticated,
        };
        vec![Authorization { meta: Meta::default_named(self.name()), networks, authentication }]
    }

    /// The same policy with a mesh identity demanded (ports listed as requiring identity).
    pub fn requiring_identity(self) -> Self {
        match self {
            DefaultPolicy::AllUnauthenticated | DefaultPolicy::Audit => DefaultPolicy::AllAuthenticated,
            DefaultPolicy::ClusterUnauthenticated => DefaultPolicy::ClusterAuthenticated,
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_policies_round_trip_and_deny_admits_nobody() {
        for policy in DefaultPolicy::ALL {
            assert_eq!(DefaultPolicy::parse(policy.name()), Some(policy));
            assert_eq!(policy.authorizations(&[]).is_empty(), policy == DefaultPolicy::Deny);
        }
    }
}
