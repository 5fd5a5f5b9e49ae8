//! Short ways to write the policies that a control plane tells.
//!
//! A test says only what it is about; everything else is what the control plane says by default. Nothing
//! here decides anything.

use std::sync::Arc;
use std::time::Duration;
use weft_model::meta::{Meta, Resource};
use weft_model::policy::{HttpRoutes, OutboundPolicy, OutboundProtocol, TcpRoute};
use weft_model::route::{
    Backend, Dispatch, Distribution, HostMatch, LoadParams, Queue, RequestMatch, Route, RouteBackend, Rule,
    Timeouts,
};

/// A service as the parent of a policy.
pub fn service(name: &str, port: u16) -> Meta {
    resource("core", "Service", name, Some(port))
}

/// A route's origin.
pub fn http_route(name: &str) -> Meta {
    resource("gateway.networking.k8s.io", "HTTPRoute", name, None)
}

fn resource(group: &str, kind: &str, name: &str, port: Option<u16>) -> Meta {
    Meta::Resource(Arc::new(Resource {
        group: group.into(),
        kind: kind.into(),
        namespace: "default".into(),
        name: name.into(),
        section: String::new(),
        port,
    }))
}

/// A policy of a service called `web`.
pub fn policy(protocol: OutboundProtocol) -> OutboundPolicy {
    OutboundPolicy { meta: service("web", 80), protocol }
}

/// A backend that balances over a name (`host:port`), with a queue and a way to estimate load.
pub fn balanced(name: &str, queue: Queue, load: LoadParams) -> RouteBackend {
    let dst = name.parse().unwrap();
    let short = name.split('.').next().unwrap_or_default();
    backend(short, queue, Dispatch::Balance { dst, load })
}

/// A backend that leads to something else.
pub fn backend(name: &str, queue: Queue, dispatch: Dispatch) -> RouteBackend {
    RouteBackend {
        backend: Arc::new(Backend { meta: service(name, 80), queue, dispatch }),
        filters: Vec::new(),
    }
}

/// A backend that balances over a name and is otherwise as usual, except that tests wait less long.
pub fn to(name: &str) -> Distribution {
    let queue = Queue { capacity: 100, failfast: Duration::from_secs(1) };
    Distribution::FirstAvailable(vec![balanced(name, queue, LoadParams::default())])
}

/// A rule for all requests.
pub fn rule(backends: Distribution) -> Rule {
    Rule {
        matches: Vec::new(),
        filters: Vec::new(),
        backends,
        timeouts: Timeouts::default(),
        retry: None,
        allow_request_headers: false,
    }
}

/// A route with one rule.
pub fn route(meta: Meta, matches: Vec<RequestMatch>, backends: Distribution) -> Route {
    Route {
        meta,
        hosts: Vec::new(),
        rules: vec![Rule { matches, ..rule(backends) }],
        authorizations: Vec::new(),
    }
}

/// HTTP routes without a breaker.
pub fn routes(routes: Vec<Route>) -> HttpRoutes {
    HttpRoutes { routes: routes.into(), breaker: None, min_ready: 0 }
}

/// The one route that the control plane makes where there is none.
pub fn default_routes(backends: Distribution) -> HttpRoutes {
    routes(vec![route(Meta::default_named("http"), Vec::new(), backends)])
}

/// A host, or all names below one (`*.` before it).
pub fn host(name: &str) -> HostMatch {
    match name.strip_prefix("*.") {
        Some(suffix) => {
            HostMatch::Suffix { reversed_labels: suffix.rsplit('.').map(str::to_owned).collect() }
        }
        None => HostMatch::Exact(name.to_owned()),
    }
}

/// A route for bytes, or for TLS of these server names (`*.` before a suffix).
pub fn tcp_route(name: &str, snis: &[&str], backends: Distribution) -> TcpRoute {
    TcpRoute {
        meta: Meta::default_named(name),
        snis: snis.iter().map(|name| host(name)).collect(),
        filters: Vec::new(),
        backends,
    }
}

/// Detection with different backends for what it finds.
pub fn detect(http1: HttpRoutes, http2: HttpRoutes, opaque: Distribution) -> OutboundProtocol {
    let opaque = vec![tcp_route("opaque", &[], opaque)];
    OutboundProtocol::Detect { timeout: Duration::from_secs(10), http1, http2, opaque }
}
