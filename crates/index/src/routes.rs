//! Route resources as the routes that outbound policies hold: rules, backends, limits, retries (§1F.4–1F.6).
//!
//! Used by `policies.rs` and `egress.rs`. A backend that cannot be used keeps its share and answers with an error, so that no
//! other backend gets requests that were not meant for it.

use crate::annotations::{grpc_retry, http_retry, timeouts};
use crate::attach::{Attached, Class};
use crate::config::{ReferenceGrants, RequestHeaders};
use crate::inbound::route_meta;
use crate::index::Index;
use crate::kept::Parent;
use http::StatusCode;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;
use weft_model::attach::{BackendKind, BackendRef, RouteResource, RouteRule};
use weft_model::destination::EndpointInfo;
use weft_model::meta::{Meta, Resource};
use weft_model::object::Kind;
use weft_model::policy::TcpRoute;
use weft_model::route::{
    Backend, Dispatch, Distribution, Filter, InjectedAnswer, Injection, LoadParams, Queue, RetryPolicy,
    Route, RouteBackend, Rule, Timeouts,
};
use weft_model::service::{Addressing, ServiceName};

/// The waiting room of every backend (§1F.4).
pub(crate) const QUEUE: Queue = Queue { capacity: 100, failfast: Duration::from_secs(3) };

/// gRPC UNAVAILABLE: what the Gateway API answers for a backend that cannot be used.
const GRPC_UNAVAILABLE: u16 = 14;

/// What routes of one parent's port have in common.
pub(crate) struct Ground {
    /// What the routes attach to, with the port.
    pub(crate) parent: Meta,
    /// Where requests go whose rule names no backend.
    pub(crate) default: Backend,
    /// How load is estimated where requests are balanced.
    pub(crate) load: LoadParams,
    /// Limits of rules that have none.
    pub(crate) timeouts: Timeouts,
    /// Retries of HTTP rules that have none.
    pub(crate) http_retry: Option<RetryPolicy>,
    /// Retries of gRPC rules that have none.
    pub(crate) grpc_retry: Option<RetryPolicy>,
    /// Of an egress network: its name, and where the client was going.
    pub(crate) egress: Option<(ServiceName, SocketAddr)>,
}

impl Ground {
    /// What routes stand on while it only matters what they match.
    pub(crate) fn for_judging(parent: &Parent, port: NonZeroU16) -> Self {
        let parent = service_meta(&parent.name, port);
        Self {
            default: Backend { meta: parent.clone(), queue: QUEUE, dispatch: Dispatch::Missing },
            parent,
            load: LoadParams::default(),
            timeouts: Timeouts::default(),
            http_retry: None,
            grpc_retry: None,
            egress: None,
        }
    }
}

impl Index {
    /// HTTP or gRPC routes, in their order.
    pub(crate) fn requests(&self, ground: &Ground, class: Class, attached: &[Attached]) -> Vec<Route> {
        attached
            .iter()
            .map(|(kind, route)| Route {
                meta: route_meta(*kind, &route.meta),
                hosts: route.hosts.clone(),
                rules: route
                    .rules
                    .iter()
                    .map(|rule| self.rule(ground, class, (*kind, route), rule))
                    .collect(),
                authorizations: Vec::new(),
            })
            .collect()
    }

    fn rule(&self, ground: &Ground, class: Class, of: (Kind, &RouteResource), rule: &RouteRule) -> Rule {
        let annotations = &of.1.meta.annotations;
        let mut limits = timeouts(annotations).unwrap_or_default();
        limits.request = limits.request.or(rule.request_timeout);
        limits.response = limits.response.or(rule.backend_timeout);
        // All or nothing (§1F.6): a rule with any limit of its own has none of the service's.
        let limits = if limits == Timeouts::default() { ground.timeouts } else { limits };
        let (own, inherited) = match class {
            Class::Grpc => (grpc_retry(annotations), &ground.grpc_retry),
            _ => (http_retry(annotations), &ground.http_retry),
        };
        Rule {
            matches: rule.matches.clone(),
            filters: rule.filters.clone(),
            backends: self.distribution(ground, class, of, rule),
            timeouts: limits,
            retry: own.unwrap_or_default().or_else(|| inherited.clone()),
            allow_request_headers: self.config().request_headers == RequestHeaders::Obeyed,
        }
    }

    /// TLS routes; of TCP routes only the oldest.
    pub(crate) fn connections(&self, ground: &Ground, class: Class, attached: &[Attached]) -> Vec<TcpRoute> {
        let count = if class == Class::Tcp { 1 } else { attached.len() };
        let routes = attached.iter().take(count).filter_map(|(kind, route)| {
            let rule = route.rules.first()?;
            Some(TcpRoute {
                meta: route_meta(*kind, &route.meta),
                snis: if class == Class::Tls { route.hosts.clone() } else { Vec::new() },
                filters: Vec::new(),
                backends: self.distribution(ground, class, (*kind, route), rule),
            })
        });
        routes.collect()
    }

    fn distribution(
        &self,
        ground: &Ground,
        class: Class,
        of: (Kind, &RouteResource),
        rule: &RouteRule,
    ) -> Distribution {
        if rule.backends.is_empty() {
            let backend = RouteBackend { backend: Arc::new(ground.default.clone()), filters: Vec::new() };
            return Distribution::FirstAvailable(vec![backend]);
        }
        let weighted = rule.backends.iter().filter(|backend| backend.weight > 0);
        let backends: Vec<(RouteBackend, u32)> = weighted
            .map(|backend| {
                let leg = match self.leg(ground, of, backend) {
                    Ok(leg) => leg,
                    Err(problem) => invalid(class, of.1, backend, &problem),
                };
                (leg, backend.weight)
            })
            .collect();
        match backends.is_empty() {
            // Nobody may have the requests: they are refused, as the Gateway API demands.
            true => {
                let problem = "every backend of the rule has the weight 0";
                let leg = rule.backends.first().map(|backend| invalid(class, of.1, backend, problem));
                leg.map_or(Distribution::Empty, |leg| Distribution::FirstAvailable(vec![leg]))
            }
            false => Distribution::RandomAvailable(backends),
        }
    }

    /// A backend that can be used, or why it cannot.
    fn leg(
        &self,
        ground: &Ground,
        of: (Kind, &RouteResource),
        backend: &BackendRef,
    ) -> Result<RouteBackend, String> {
        if let Some(problem) = self.backend_problem(of, backend) {
            return Err(problem);
        }
        let target = backend.target(&of.1.meta.namespace);
        let made = match (&backend.kind, backend.port, &ground.egress) {
            (BackendKind::Service, Some(port), _) => self.service_backend(&target, port, ground.load),
            (BackendKind::EgressNetwork, _, Some((network, addr))) if *network == target => {
                forward(ground.parent.clone(), *addr)
            }
            _ => return Err("an EgressNetwork can only be a backend of the routes that attach to it".into()),
        };
        Ok(RouteBackend { backend: Arc::new(made), filters: backend.filters.clone() })
    }

    /// Why a backend of a route cannot be used, as far as that does not depend on the parent.
    pub(crate) fn backend_problem(
        &self,
        (kind, route): (Kind, &RouteResource),
        backend: &BackendRef,
    ) -> Option<String> {
        if let Some(Filter::Invalid { message }) =
            backend.filters.iter().find(|filter| matches!(filter, Filter::Invalid { .. }))
        {
            return Some(message.clone());
        }
        let target = backend.target(&route.meta.namespace);
        match &backend.kind {
            BackendKind::Other(kind) => Some(format!("{kind} cannot be a backend")),
            BackendKind::EgressNetwork => {
                let found = self.scope(&target.namespace).and_then(|s| s.kept.egress_network(&target.name));
                found.is_none().then(|| format!("EgressNetwork {target} does not exist"))
            }
            BackendKind::Service => {
                let Some(service) = self.service(&target) else {
                    return Some(format!("Service {target} does not exist"));
                };
                if let Addressing::External(name) = &service.addressing {
                    return Some(format!("Service {target} stands for {name} and has no endpoints"));
                }
                if backend.port.is_none_or(|port| service.port(port).is_none()) {
                    let port = backend.port.map_or_else(|| "(none)".to_owned(), |port| port.to_string());
                    return Some(format!("Service {target} has no port {port}"));
                }
                if self.config().reference_grants == ReferenceGrants::Required
                    && !self.is_granted(kind, &route.meta.namespace, &target)
                {
                    return Some(format!("no ReferenceGrant lets the route lead to Service {target}"));
                }
                None
            }
        }
    }

    /// Whether routes of this kind and namespace may lead to a service: their own, or one whose namespace grants it.
    pub(crate) fn is_granted(&self, kind: Kind, namespace: &str, target: &ServiceName) -> bool {
        namespace == target.namespace
            || self.scope(&target.namespace).is_some_and(|scope| {
                scope.kept.grants().any(|grant| grant.admits(kind, namespace, &target.name))
            })
    }

    /// A balanced backend of a service's port (§1F.4).
    pub(crate) fn service_backend(&self, name: &ServiceName, port: NonZeroU16, load: LoadParams) -> Backend {
        let dispatch = match self.dst_of(name, port) {
            Some(dst) => Dispatch::Balance { dst, load },
            None => Dispatch::Missing,
        };
        Backend { meta: service_meta(name, port), queue: QUEUE, dispatch }
    }
}

/// A backend that leads to one address.
pub(crate) fn forward(meta: Meta, addr: SocketAddr) -> Backend {
    Backend { meta, queue: QUEUE, dispatch: Dispatch::Forward(Box::new(EndpointInfo::plain(addr))) }
}

/// A backend that answers with an error (§1F.4). The peer puts an HTTP status into a gRPC code; a real one here.
fn invalid(class: Class, route: &RouteResource, backend: &BackendRef, problem: &str) -> RouteBackend {
    let target = backend.target(&route.meta.namespace);
    let (group, kind) = match &backend.kind {
        BackendKind::Service => ("core", "Service"),
        BackendKind::EgressNetwork => ("policy.linkerd.io", "EgressNetwork"),
        BackendKind::Other(kind) => kind.rsplit_once('/').unwrap_or(("", kind)),
    };
    let meta = Meta::Resource(Arc::new(Resource {
        group: group.into(),
        kind: kind.into(),
        namespace: target.namespace,
        name: target.name,
        section: String::new(),
        port: backend.port.map(NonZeroU16::get),
    }));
    let always =
        |answer| Filter::InjectFailure(Injection { answer, message: problem.to_owned(), ratio: (1, 1) });
    let filter = match class {
        Class::Http => always(InjectedAnswer::Http(StatusCode::INTERNAL_SERVER_ERROR)),
        Class::Grpc => always(InjectedAnswer::Grpc(GRPC_UNAVAILABLE)),
        Class::Tls | Class::Tcp => Filter::Invalid { message: problem.to_owned() },
    };
    let backend = Backend { meta, queue: QUEUE, dispatch: Dispatch::Missing };
    RouteBackend { backend: Arc::new(backend), filters: vec![filter] }
}

/// The resource that a service's port is.
pub(crate) fn service_meta(name: &ServiceName, port: NonZeroU16) -> Meta {
    Meta::Resource(Arc::new(Resource {
        group: "core".into(),
        kind: "Service".into(),
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        section: String::new(),
        port: Some(port.get()),
    }))
}
