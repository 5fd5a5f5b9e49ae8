//! What became of routes and egress networks, and what Linkerd's control plane would make of them.
//!
//! Called by `verdict.rs` alone. Nothing depends on it: what is in force is decided in `attach.rs`, `routes.rs`, `inbound.rs` and
//! `egress.rs`, whose rules are asked here.

use super::{Opinion, State};
use crate::attach::Class;
use crate::inbound::server_ref_problem;
use crate::index::Index;
use crate::kept::Parent;
use crate::order::contradictions;
use crate::routes::Ground;
use crate::scope::Scope;
use std::num::NonZeroU16;
use weft_model::attach::{BackendKind, EgressNetwork, ParentKind, ParentRef, RouteResource};
use weft_model::object::{Key, Kind};
use weft_model::route::Filter;
use weft_model::server::ServerProtocol;
use weft_model::service::Transport;

/// What became of one reference to a parent.
enum Parented {
    /// It is in force, at least in part.
    InForce,
    /// What it refers to is not there.
    Missing(String),
    /// It cannot be in force as it is written.
    Refused(String),
    /// Another route has what it claims.
    Lost { with: Key, about: String },
    /// It is none of the mesh's business.
    Foreign,
}

pub(super) fn route(index: &Index, scope: &Scope, kind: Kind, route: &RouteResource) -> Opinion {
    let mut opinion = Opinion::default();
    let outcomes: Vec<Parented> = route
        .parents
        .iter()
        .map(|parent| match parent.kind {
            ParentKind::Service => service_parent(index, kind, route, parent, &mut opinion),
            ParentKind::EgressNetwork => egress_parent(index, route, parent),
            ParentKind::Server => server_parent(scope, kind, route, parent, &mut opinion),
            ParentKind::Other(_) => Parented::Foreign,
        })
        .collect();
    overall(outcomes, &mut opinion);
    for (number, rule) in route.rules.iter().enumerate() {
        for (at, backend) in rule.backends.iter().enumerate() {
            if let Some(problem) = index.backend_problem((kind, route), backend) {
                opinion.notes.push(format!(
                    "rules[{number}].backendRefs[{at}]: {problem}; its share of the requests is refused"
                ));
            }
        }
        if !rule.backends.is_empty() && rule.backends.iter().all(|backend| backend.weight == 0) {
            opinion
                .notes
                .push(format!("rules[{number}]: every backend has the weight 0; its requests are refused"));
            opinion.differs.push("Linkerd's proxy cannot take backends that all have the weight 0".into());
        }
    }
    opinion.differs.extend(differences(kind, route));
    opinion
}

/// One state out of those of all parents: in force wins, then what is wrong, then what is missing.
fn overall(outcomes: Vec<Parented>, opinion: &mut Opinion) {
    let in_force = outcomes.iter().any(|outcome| matches!(outcome, Parented::InForce));
    let mut state = None;
    for outcome in outcomes {
        let (found, told) = match outcome {
            Parented::InForce | Parented::Foreign => continue,
            Parented::Missing(missing) => {
                let told = format!("{missing} is missing");
                (State::Dangling { missing }, told)
            }
            Parented::Refused(why) => (State::Refused { why: why.clone() }, why),
            Parented::Lost { with, about } => {
                let told = format!("{with} has {about}");
                (State::Conflicted { with, about }, told)
            }
        };
        match in_force || state.is_some() {
            true => opinion.notes.push(told),
            false => state = Some(found),
        }
    }
    opinion.state = match (in_force, state) {
        (true, _) => State::Accepted,
        (false, Some(state)) => state,
        (false, None) => {
            State::Dangling { missing: "a parent of the mesh (Service, Server or EgressNetwork)".into() }
        }
    };
}

fn server_parent(
    scope: &Scope,
    kind: Kind,
    route: &RouteResource,
    parent: &ParentRef,
    opinion: &mut Opinion,
) -> Parented {
    if let Some(problem) = server_ref_problem(parent, &route.meta.namespace) {
        return Parented::Refused(problem.into());
    }
    let Some(server) = scope.kept.server(&parent.name) else {
        return Parented::Missing(format!("Server {}/{}", route.meta.namespace, parent.name));
    };
    let fits = match server.protocol {
        ServerProtocol::Unknown | ServerProtocol::Http1 | ServerProtocol::Http2 => {
            matches!(kind, Kind::HttpRoute | Kind::PolicyHttpRoute)
        }
        ServerProtocol::Grpc => kind == Kind::GrpcRoute,
        ServerProtocol::Opaque | ServerProtocol::Tls => false,
    };
    if !fits {
        let speaks = server.protocol.name();
        return Parented::Refused(format!(
            "Server {} has the proxyProtocol {speaks}, to which a {} cannot attach",
            parent.name,
            kind.name()
        ));
    }
    if route.rules.iter().flat_map(|r| &r.filters).any(|f| matches!(f, Filter::ResponseHeaders(_))) {
        opinion.notes.push("response headers cannot be changed on the way into a workload".into());
    }
    if route.rules.iter().any(|rule| !rule.backends.is_empty()) {
        opinion.notes.push("backendRefs have no effect on the way into a workload".into());
    }
    Parented::InForce
}

fn egress_parent(index: &Index, route: &RouteResource, parent: &ParentRef) -> Parented {
    let name = parent.target(&route.meta.namespace);
    let found = index.scope(&name.namespace).and_then(|scope| scope.kept.egress_network(&name.name));
    match found {
        None => Parented::Missing(format!("EgressNetwork {name}")),
        Some(network) if index.overlap(network).is_some() => {
            Parented::Refused(format!("EgressNetwork {name} is not in force"))
        }
        Some(_) => Parented::InForce,
    }
}

fn service_parent(
    index: &Index,
    kind: Kind,
    route: &RouteResource,
    parent: &ParentRef,
    opinion: &mut Opinion,
) -> Parented {
    let name = parent.target(&route.meta.namespace);
    let Some(service) = index.service(&name) else { return Parented::Missing(format!("Service {name}")) };
    if parent.section.is_some() {
        return Parented::Refused("a Service has no sections; remove sectionName and name a port".into());
    }
    if service.virtual_ips().is_empty() {
        opinion
            .differs
            .push(format!("Linkerd does not let routes attach to Service {name}: it has no cluster IP"));
    }
    let tcp = service.ports.iter().filter(|p| p.transport == Transport::Tcp && parent.is_for(p.port));
    let ports: Vec<NonZeroU16> = tcp.map(|p| p.port).collect();
    if ports.is_empty() {
        let port = parent.port.map_or_else(|| "a TCP port".to_owned(), |port| format!("port {port}"));
        return Parented::Missing(format!("{port} of Service {name}"));
    }
    let Some(class) = Class::of(kind) else { return Parented::Foreign };
    let (mut worst, mut in_force) = (None, false);
    for port in ports {
        match at_port(index, (kind, route), class, (&Parent::service(&name), port)) {
            Parented::InForce => {
                in_force = true;
                merged(index, (kind, route), class, (&Parent::service(&name), port), opinion);
            }
            other => worst = Some(other),
        }
    }
    match worst {
        Some(Parented::Lost { with, about }) if in_force => {
            opinion.notes.push(format!("{with} has {about}"));
            Parented::InForce
        }
        Some(Parented::Refused(why)) if in_force => {
            opinion.notes.push(why);
            Parented::InForce
        }
        Some(worst) => worst,
        None => Parented::InForce,
    }
}

/// What became of a route at one port of a service, for the clients that it is for.
fn at_port(
    index: &Index,
    (kind, route): (Kind, &RouteResource),
    class: Class,
    (parent, port): (&Parent, NonZeroU16),
) -> Parented {
    let classes = index.speaks(&parent.name, port).classes();
    let about = format!("port {port} of Service {}", parent.name);
    if !classes.contains(&class) {
        return Parented::Refused(format!(
            "what {about} speaks is fixed by appProtocol or as opaque; a {} has no effect there",
            kind.name()
        ));
    }
    let winners = index.attached(parent, port, &route.meta.namespace, classes);
    let Some((winning, winners)) = winners else { return Parented::Foreign };
    // Of TCP routes the first takes all connections.
    let count = if winning == Class::Tcp { 1 } else { winners.len() };
    let mut in_force = winners.iter().take(count);
    if in_force.any(|(k, r)| {
        *k == kind && r.meta.name == route.meta.name && r.meta.namespace == route.meta.namespace
    }) {
        return Parented::InForce;
    }
    match winners.first() {
        Some((kind, winner)) => {
            let with =
                Key { kind: *kind, namespace: winner.meta.namespace.clone(), name: winner.meta.name.clone() };
            Parented::Lost { with, about }
        }
        None => Parented::Foreign,
    }
}

/// What comes of several routes at one port: where the order of the Gateway API cannot be told to proxies, and where Linkerd
/// would have another one.
fn merged(
    index: &Index,
    (kind, route): (Kind, &RouteResource),
    class: Class,
    (parent, port): (&Parent, NonZeroU16),
    opinion: &mut Opinion,
) {
    let consumer = route.meta.namespace != parent.name.namespace;
    if consumer
        && index
            .attached(parent, port, &parent.name.namespace, index.speaks(&parent.name, port).classes())
            .is_some()
    {
        opinion.differs.push(format!(
            "for clients of namespace {} it takes the place of the routes of Service {}'s own namespace; Linkerd would merge \
             them",
            route.meta.namespace, parent.name
        ));
    }
    if class != Class::Http {
        return;
    }
    let Some((_, all)) = index.attached(parent, port, &route.meta.namespace, &[Class::Http]) else { return };
    let ground = Ground::for_judging(parent, port);
    let made = index.requests(&ground, class, &all);
    let is_mine = |number: usize| {
        all.get(number).is_some_and(|(k, r)| {
            *k == kind && r.meta.name == route.meta.name && r.meta.namespace == route.meta.namespace
        })
    };
    let other = |number: usize| all.get(number).map(|(_, r)| r.meta.name.clone()).unwrap_or_default();
    for (_, wins, path) in contradictions(&made).into_iter().filter(|(ought, _, _)| is_mine(*ought)) {
        let winner =
            if is_mine(wins) { "another rule of it".to_owned() } else { format!("route {}", other(wins)) };
        opinion.notes.push(format!(
            "for path {path} its match by method ought to win over {winner}, which asks for more headers or parameters, but \
             proxies take the latter; give both the method"
        ));
    }
    let moved = crate::order::exact_first(made.clone());
    if moved != made {
        opinion.differs.push(
            "an exact path wins over the same path as a prefix wherever it stands; Linkerd takes what is listed first".into(),
        );
    }
}

/// Where Linkerd's control plane makes something else of a route (control-plane.md §9).
fn differences(kind: Kind, route: &RouteResource) -> Vec<String> {
    let mut found = Vec::new();
    let outbound = route.parents.iter().filter(|p| p.kind != ParentKind::Server);
    let abroad = outbound.clone().any(|p| p.target(&route.meta.namespace).namespace != route.meta.namespace);
    let backends = || route.rules.iter().flat_map(|rule| &rule.backends);
    if abroad && backends().any(|b| b.namespace.is_none() && b.kind == BackendKind::Service) {
        found.push(
            "Linkerd looks for a backend without namespace in the parent's namespace, here it is the route's"
                .to_owned(),
        );
    }
    let filters = || route.rules.iter().flat_map(|rule| &rule.filters);
    if filters().any(|filter| matches!(filter, Filter::Invalid { .. })) {
        found.push(
            "Linkerd leaves out the whole route, because it does not support one of its filters".to_owned(),
        );
    }
    if kind == Kind::PolicyHttpRoute && filters().any(|filter| matches!(filter, Filter::ResponseHeaders(_))) {
        found.push(
            "Linkerd changes the request's headers where ResponseHeaderModifier is asked for".to_owned(),
        );
    }
    if kind == Kind::GrpcRoute && filters().any(|filter| matches!(filter, Filter::ResponseHeaders(_))) {
        found.push(
            "proxies cannot be told to change response headers of gRPC; the filter has no effect".to_owned(),
        );
    }
    if route.rules.iter().any(|rule| rule.backend_timeout.is_some()) {
        found.push("Linkerd ignores timeouts.backendRequest".to_owned());
    }
    found
}

pub(super) fn egress_network(index: &Index, network: &EgressNetwork) -> Opinion {
    let Some((block, ours)) = index.overlap(network) else { return Opinion::default() };
    Opinion {
        state: State::Refused {
            why: format!(
                "its block {block} reaches into the cluster's network {ours}; except that, or name others"
            ),
        },
        differs: vec!["Linkerd does not accept it either, but lets it capture traffic".into()],
        ..Opinion::default()
    }
}
