//! Inbound policies: what a workload's port speaks and who may use it (§1E).
//!
//! Only `resolve.rs`, `verdict.rs` and `why.rs` call this. A server resource governs a port, or the default server does; who is
//! admitted is worked out in `permits.rs`.

use crate::annotations::{DEFAULT_INBOUND_POLICY, PortList, REQUIRE_IDENTITY_PORTS};
use crate::answer::{Refusal, RefusalKind};
use crate::entry::WorkloadEntry;
use crate::index::Index;
use crate::probes::{self, PROBES};
use crate::scope::Scope;
use std::num::NonZeroU16;
use std::sync::Arc;
use weft_model::attach::{ParentKind, ParentRef, RouteResource};
use weft_model::meta::{Meta, Resource};
use weft_model::object::{Kind, Metadata};
use weft_model::policy::{DefaultPolicy, InboundPolicy, InboundProtocol, InboundRoutes, RateLimit};
use weft_model::route::{HttpMatch, PathMatch, RequestMatch, Route, Rule};
use weft_model::server::{PolicyTarget, RateLimitPolicy, Server, ServerProtocol, Workloads};
use weft_model::service::TargetPort;
use weft_model::workload::WorkloadName;

impl Index {
    /// The inbound policy of a workload's port (§1E.3).
    pub fn inbound(&self, name: &WorkloadName, port: NonZeroU16) -> Result<InboundPolicy, Refusal> {
        let workload = self.workload_entry(name).ok_or_else(|| {
            Refusal::new(RefusalKind::NotFound, format!("external workload {name} is not known"))
        })?;
        let scope = self.scope(&name.namespace);
        Ok(match scope.and_then(|scope| Some((scope, governing(scope, workload, port)?))) {
            Some((scope, server)) => self.server_policy(scope, server, workload, port),
            None => self.default_server(workload, port),
        })
    }

    /// What a server resource makes of its ports (§1E.4).
    fn server_policy(
        &self,
        scope: &Scope,
        server: &Server,
        workload: &WorkloadEntry,
        port: NonZeroU16,
    ) -> InboundPolicy {
        let http = || InboundRoutes {
            routes: match self.inbound_routes(scope, server, &[Kind::HttpRoute, Kind::PolicyHttpRoute]) {
                Some(routes) => routes,
                None => self.default_routes(workload, port),
            },
            rate_limit: limit_of(scope, server).map(|limit| Arc::new(self.rate_limit(limit))),
        };
        let protocol = match server.protocol {
            ServerProtocol::Unknown => {
                InboundProtocol::Detect { timeout: self.config().detect_timeout, http: http() }
            }
            ServerProtocol::Http1 => InboundProtocol::Http1(http()),
            ServerProtocol::Http2 => InboundProtocol::Http2(http()),
            ServerProtocol::Grpc => InboundProtocol::Grpc(InboundRoutes {
                routes: self
                    .inbound_routes(scope, server, &[Kind::GrpcRoute])
                    .unwrap_or_else(|| Arc::new([default_route()])),
                rate_limit: None,
            }),
            ServerProtocol::Opaque => InboundProtocol::Opaque,
            ServerProtocol::Tls => InboundProtocol::Tls,
        };
        let authorizations = self.server_authorizations(scope, server);
        InboundPolicy { meta: policy_meta("server", &server.meta), protocol, authorizations }
    }

    /// What a port without routes of its own has: everything, and its probes, which have an authorization of their own.
    fn default_routes(&self, workload: &WorkloadEntry, port: NonZeroU16) -> Arc<[Route]> {
        let networks = &self.config().probe_networks;
        let probes = self.inherited(&workload.object.meta, PROBES);
        let probes = probes.and_then(|text| probes::route(text, workload, port, networks));
        probes.into_iter().chain([default_route()]).collect()
    }

    /// The routes of a server, the oldest first, if it has any (§1E.5).
    fn inbound_routes(&self, scope: &Scope, server: &Server, kinds: &[Kind]) -> Option<Arc<[Route]>> {
        let mut attached: Vec<(Kind, &RouteResource)> = attached_routes(scope, server, kinds).collect();
        attached.sort_by(|a, b| a.1.meta.seniority().cmp(&b.1.meta.seniority()));
        let routes = attached.iter().map(|(kind, route)| self.inbound_route(scope, *kind, route));
        (!attached.is_empty()).then(|| routes.collect())
    }

    fn inbound_route(&self, scope: &Scope, kind: Kind, route: &RouteResource) -> Route {
        let rules = route.rules.iter().map(|rule| Rule::inbound(rule.matches.clone(), rule.filters.clone()));
        let target = PolicyTarget::Route(kind, route.meta.name.clone());
        Route {
            meta: route_meta(kind, &route.meta),
            hosts: route.hosts.clone(),
            rules: rules.collect(),
            authorizations: self.policies_about(scope, &target),
        }
    }

    fn rate_limit(&self, limit: &RateLimitPolicy) -> RateLimit {
        let overrides = limit.overrides.iter().map(|(rate, clients)| {
            let ids = clients.iter().filter_map(|client| self.account_id(client, &limit.meta.namespace));
            (*rate, ids.collect())
        });
        RateLimit {
            meta: policy_meta("HTTPLocalRateLimitPolicy", &limit.meta),
            total: limit.total,
            identity: limit.identity,
            overrides: overrides.collect(),
        }
    }

    fn default_server(&self, workload: &WorkloadEntry, port: NonZeroU16) -> InboundPolicy {
        let policy = self.default_policy_at(workload, port);
        let protocol = if self.is_opaque_at(workload, port) {
            InboundProtocol::Opaque
        } else {
            let http = InboundRoutes { routes: self.default_routes(workload, port), rate_limit: None };
            InboundProtocol::Detect { timeout: self.config().detect_timeout, http }
        };
        InboundPolicy {
            meta: Meta::default_named(policy.name()),
            protocol,
            authorizations: policy.authorizations(&self.config().cluster_networks),
        }
    }

    /// The default policy of a port: the workload's annotation, else its namespace's, else the
    /// mesh's; an identity is demanded on the ports that are listed for it. A name that is no policy
    /// denies, because taking the mesh's wide default for it would open what somebody meant to close.
    fn default_policy_at(&self, workload: &WorkloadEntry, port: NonZeroU16) -> DefaultPolicy {
        let meta = &workload.object.meta;
        let policy = match self.inherited(meta, DEFAULT_INBOUND_POLICY) {
            Some(name) => DefaultPolicy::parse(name.trim()).unwrap_or(DefaultPolicy::Deny),
            None => self.config().default_policy,
        };
        let demanded = self.inherited(meta, REQUIRE_IDENTITY_PORTS);
        match demanded.is_some_and(|text| workload.listed(&PortList::parse(text).0, port)) {
            true => policy.requiring_identity(),
            false => policy,
        }
    }
}

/// The server that governs a workload's port: of several, the oldest (§1E.3).
pub(crate) fn governing<'a>(
    scope: &'a Scope,
    workload: &WorkloadEntry,
    port: NonZeroU16,
) -> Option<&'a Arc<Server>> {
    let candidates = scope.kept.servers().filter(|server| covers(server, workload, port));
    candidates.min_by(|a, b| a.meta.seniority().cmp(&b.meta.seniority()))
}

/// Whether a server is for a workload's port.
pub(crate) fn covers(server: &Server, workload: &WorkloadEntry, port: NonZeroU16) -> bool {
    selects(server, workload)
        && match &server.port {
            TargetPort::Number(number) => *number == port,
            TargetPort::Name(name) => workload.object.ports.iter().any(|p| p.name == *name && p.port == port),
        }
}

/// Whether a server is for a workload.
pub(crate) fn selects(server: &Server, workload: &WorkloadEntry) -> bool {
    match &server.workloads {
        Workloads::External(selector) => selector.selects(&workload.object.meta.labels),
        Workloads::Pods(_) => false,
    }
}

/// The routes of these kinds that attach to a server.
pub(crate) fn attached_routes<'a>(
    scope: &'a Scope,
    server: &'a Server,
    kinds: &'a [Kind],
) -> impl Iterator<Item = (Kind, &'a RouteResource)> {
    let named = scope.kept.routes_at(&server.meta.name).filter(|(kind, _)| kinds.contains(kind));
    named.map(|(kind, route)| (kind, &**route)).filter(|(_, route)| {
        route.parents.iter().any(|parent| {
            parent.name == server.meta.name && server_ref_problem(parent, &route.meta.namespace).is_none()
        })
    })
}

/// Why a route cannot attach to the server that it names, if it cannot. `None` also for parents of other kinds.
pub(crate) fn server_ref_problem(parent: &ParentRef, namespace: &str) -> Option<&'static str> {
    match parent {
        parent if parent.kind != ParentKind::Server => None,
        parent if parent.namespace.as_deref().is_some_and(|ns| ns != namespace) => {
            Some("a Server must be in the route's own namespace")
        }
        parent if parent.port.is_some() || parent.section.is_some() => {
            Some("a Server has one port and no sections; remove port and sectionName")
        }
        _ => None,
    }
}

/// The rate limit of a server: of several, the oldest (§1E.6).
pub(crate) fn limit_of<'a>(scope: &'a Scope, server: &Server) -> Option<&'a Arc<RateLimitPolicy>> {
    let limits = scope.kept.limits_of(&server.meta.name);
    limits.min_by(|a, b| a.meta.seniority().cmp(&b.meta.seniority()))
}

/// The origin that a policy object is.
pub(crate) fn policy_meta(kind: &str, meta: &Metadata) -> Meta {
    resource("policy.linkerd.io", kind, meta)
}

/// The origin that a route is.
pub(crate) fn route_meta(kind: Kind, meta: &Metadata) -> Meta {
    resource(kind.group(), kind.name(), meta)
}

fn resource(group: &str, kind: &str, meta: &Metadata) -> Meta {
    Meta::Resource(Arc::new(Resource {
        group: group.into(),
        kind: kind.into(),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        section: String::new(),
        port: None,
    }))
}

/// The route of a server without routes: everything, to the application.
fn default_route() -> Route {
    let everything = HttpMatch { path: Some(PathMatch::Prefix("/".into())), ..HttpMatch::default() };
    Route {
        meta: Meta::default_named("default"),
        hosts: Vec::new(),
        rules: vec![Rule::inbound(vec![RequestMatch::Http(everything)], Vec::new())],
        authorizations: Vec::new(),
    }
}
