//! What became of servers, authorizations and rate limits.
//!
//! Called by `verdict.rs` alone. Nothing depends on it: what is in force is decided in `inbound.rs` and `permits.rs`, whose rules
//! are asked here.

use super::{Opinion, State};
use crate::entry::WorkloadEntry;
use crate::inbound::{attached_routes, covers, governing, limit_of, selects};
use crate::index::Index;
use crate::scope::Scope;
use std::num::NonZeroU16;
use std::sync::Arc;
use weft_model::identity::Id;
use weft_model::object::{Key, Kind, Object};
use weft_model::route::{HttpMatch, PathMatch, RequestMatch};
use weft_model::server::{
    AuthorizationPolicy, MeshTlsAuthentication, PolicyTarget, RateLimitPolicy, Server, ServerAuthorization,
    ServerProtocol, Servers, Subject, Workloads,
};

pub(super) fn server(index: &Index, scope: &Scope, server: &Server) -> Opinion {
    let mut opinion = Opinion::default();
    if matches!(server.workloads, Workloads::Pods(_)) {
        opinion.notes.push(
            "it selects pods, and there are none here; external workloads are selected by externalWorkloadSelector"
                .into(),
        );
        return opinion;
    }
    let selected: Vec<&WorkloadEntry> = scope.workloads.values().filter(|w| selects(server, w)).collect();
    if selected.is_empty() {
        opinion.notes.push("its selector picks no workload".into());
    }
    let ports: Vec<(&WorkloadEntry, NonZeroU16)> = selected
        .iter()
        .flat_map(|w| w.object.ports.iter().map(|p| (*w, p.port)))
        .filter(|(w, port)| covers(server, w, *port))
        .collect();
    if !selected.is_empty() && ports.is_empty() {
        opinion.notes.push("no workload that it selects declares its port".into());
    }
    let winner = |(w, port): &(&WorkloadEntry, NonZeroU16)| {
        let winner = governing(scope, w, *port).filter(|winner| winner.meta.name != server.meta.name)?;
        Some((winner.clone(), w.object.meta.name.clone(), *port))
    };
    let lost: Vec<_> = ports.iter().filter_map(winner).collect();
    if let Some((winner, workload, port)) = lost.first() {
        let about = format!("port {port} of workload {workload}");
        match lost.len() == ports.len() {
            true => {
                let with = Object::Server(winner.clone()).key();
                opinion.state = State::Conflicted { with, about };
            }
            false => opinion.notes.push(format!("Server {} is older and governs {about}", winner.meta.name)),
        }
    }
    if index.server_authorizations(scope, server).is_empty()
        && attached_routes(scope, server, &ROUTES).next().is_none()
    {
        opinion.notes.push("no authorization is for it, so nobody is admitted".into());
    }
    opinion.notes.extend(unmatched(scope, server));
    opinion
}

const ROUTES: [Kind; 3] = [Kind::HttpRoute, Kind::PolicyHttpRoute, Kind::GrpcRoute];

/// A server with routes answers 404 to what none of them matches, probes included.
fn unmatched(scope: &Scope, server: &Server) -> Option<String> {
    let mut routes = attached_routes(scope, server, &ROUTES[..2]).map(|(_, route)| route).peekable();
    routes.peek()?;
    let all = |of: &RequestMatch| match of {
        RequestMatch::Http(HttpMatch { path, headers, query, method }) => {
            let path = path.as_ref().is_none_or(|p| matches!(p, PathMatch::Prefix(p) if p == "/"));
            path && headers.is_empty() && query.is_empty() && method.is_none()
        }
        RequestMatch::Grpc(_) => false,
    };
    let takes_all = routes.any(|route| {
        route.hosts.is_empty()
            && route.rules.iter().any(|r| r.matches.is_empty() || r.matches.iter().any(all))
    });
    (!takes_all).then(|| {
        "it has routes, so what none of them matches is answered with 404; health checks need a route of their own"
            .to_owned()
    })
}

pub(super) fn server_authorization(scope: &Scope, from: &ServerAuthorization) -> Opinion {
    match &from.servers {
        Servers::Named(name) if scope.kept.server(name).is_none() => {
            Opinion::dangling(format!("Server {}/{name}", from.meta.namespace))
        }
        Servers::Selected(selector) if !scope.kept.servers().any(|s| selector.selects(&s.meta.labels)) => {
            Opinion::dangling("a Server that its selector picks".into())
        }
        _ => Opinion::default(),
    }
}

pub(super) fn authorization_policy(index: &Index, scope: &Scope, policy: &AuthorizationPolicy) -> Opinion {
    let namespace = &policy.meta.namespace;
    let missing = match &policy.target {
        PolicyTarget::Namespace => None,
        PolicyTarget::Server(name) => {
            scope.kept.server(name).is_none().then(|| format!("Server {namespace}/{name}"))
        }
        PolicyTarget::Route(kind, name) => scope
            .kept
            .route(*kind, name)
            .is_none()
            .then(|| Key { kind: *kind, namespace: namespace.clone(), name: name.clone() }.to_string()),
    };
    if let Some(missing) = missing {
        return Opinion::dangling(missing);
    }
    if let Err(missing) = index.authorization_policy(policy) {
        return Opinion::dangling(missing.to_string());
    }
    let mut opinion = Opinion::default();
    if policy.required.is_empty() {
        opinion.notes.push("it requires nothing, so everybody is admitted from anywhere".into());
    }
    if let PolicyTarget::Route(kind, name) = &policy.target
        && !scope
            .kept
            .servers()
            .any(|s| attached_routes(scope, s, &[*kind]).any(|(_, r)| r.meta.name == *name))
    {
        opinion.notes.push(format!("{} {name} attaches to no Server, so it has no effect", kind.name()));
    }
    opinion
}

pub(super) fn mesh_tls(authentication: &MeshTlsAuthentication) -> Opinion {
    let prefix = authentication.subjects.iter().find_map(|subject| match subject {
        Subject::Id(Id::Uri(uri)) if uri.ends_with("/*") => Some(uri),
        _ => None,
    });
    let differs = prefix.map(|uri| format!("Linkerd knows no prefixes: nobody has the identity `{uri}`"));
    Opinion { differs: differs.into_iter().collect(), ..Opinion::default() }
}

pub(super) fn rate_limit(scope: &Scope, limit: &RateLimitPolicy) -> Opinion {
    let Some(server) = scope.kept.server(&limit.server) else {
        return Opinion::dangling(format!("Server {}/{}", limit.meta.namespace, limit.server));
    };
    let mut opinion = Opinion::default();
    if let Some(winner) = limit_of(scope, server).filter(|winner| winner.meta.name != limit.meta.name) {
        opinion.state = State::Conflicted {
            with: Object::RateLimitPolicy(Arc::clone(winner)).key(),
            about: format!("the rate limit of Server {}", limit.server),
        };
    }
    let speaks = server.protocol;
    if matches!(speaks, ServerProtocol::Grpc | ServerProtocol::Opaque | ServerProtocol::Tls) {
        opinion.notes.push(format!(
            "Server {} speaks {}, for which there are no rate limits",
            limit.server,
            speaks.name()
        ));
    }
    opinion
}
