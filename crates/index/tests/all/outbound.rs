//! `OutboundPolicies.Watch` (§1F).

use crate::world::*;
use std::time::Duration;
use weft_index::config::RequestHeaders;
use weft_index::{Config, RefusalKind};
use weft_model::policy::{FailureAccrual, HttpRoutes, OutboundPolicy, OutboundProtocol, TcpRoute};
use weft_model::route::{
    Dispatch, Distribution, Filter, HttpMatch, LoadParams, PathMatch, RequestMatch, RouteBackend,
};

const WEB: &str = "web.shop.svc.cluster.local:80";

fn shop() -> World {
    let mut world = World::new();
    world.put(service("shop/web", "240.0.0.1"));
    world.put(workload("shop/web-1", "web", "10.1.0.1"));
    world
}

fn speaks(policy: &OutboundPolicy) -> &'static str {
    match policy.protocol {
        OutboundProtocol::Detect { .. } => "detect",
        OutboundProtocol::Http1(_) => "http1",
        OutboundProtocol::Http2(_) => "http2",
        OutboundProtocol::Grpc(_) => "grpc",
        OutboundProtocol::Opaque(_) => "opaque",
        OutboundProtocol::Tls(_) => "tls",
    }
}

fn http(policy: &OutboundPolicy) -> &HttpRoutes {
    match &policy.protocol {
        OutboundProtocol::Detect { http1, .. } => http1,
        OutboundProtocol::Http1(routes) | OutboundProtocol::Http2(routes) => routes,
        other => panic!("{other:?} has no HTTP routes"),
    }
}

fn tcp(policy: &OutboundPolicy) -> &TcpRoute {
    match &policy.protocol {
        OutboundProtocol::Detect { opaque, .. } | OutboundProtocol::Opaque(opaque) => &opaque[0],
        other => panic!("{other:?} has no opaque route"),
    }
}

fn only(backends: &Distribution) -> &RouteBackend {
    match backends {
        Distribution::FirstAvailable(list) => &list[0],
        Distribution::RandomAvailable(list) => &list[0].0,
        other => panic!("{other:?} has no backend"),
    }
}

fn load_of(backends: &Distribution) -> LoadParams {
    match only(backends).backend.dispatch {
        Dispatch::Balance { load, .. } => load,
        _ => panic!("not balanced"),
    }
}

#[test]
fn a_service_without_routes_is_detected_and_balanced() {
    let world = shop();
    let policy = world.outbound(WEB).unwrap();
    assert_eq!(policy, world.outbound("240.0.0.1:80").unwrap());
    let meta = &policy.meta;
    assert_eq!(
        (meta.group(), meta.kind(), meta.namespace(), meta.name(), meta.port()),
        ("core", "Service", "shop", "web", Some(80))
    );
    let OutboundProtocol::Detect { timeout, http1, http2, opaque } = &policy.protocol else {
        panic!("{policy:?}")
    };
    assert_eq!(*timeout, Duration::from_secs(10));
    assert_eq!(http1, http2);
    assert_eq!((http1.breaker, http1.routes.len(), opaque.len()), (None, 1, 1));
    let (route, opaque) = (&http1.routes[0], &opaque[0]);
    assert_eq!((route.meta.kind(), route.meta.name()), ("default", "http"));
    assert_eq!((opaque.meta.kind(), opaque.meta.name()), ("default", "opaq"));
    let slash = HttpMatch { path: Some(PathMatch::Prefix("/".into())), ..HttpMatch::default() };
    assert_eq!(route.rules[0].matches, [RequestMatch::Http(slash)]);
    let backend = &only(&route.rules[0].backends).backend;
    assert!(matches!(route.rules[0].backends, Distribution::FirstAvailable(_)));
    assert_eq!((backend.queue.capacity, backend.queue.failfast), (100, Duration::from_secs(3)));
    assert_eq!(backend.meta, policy.meta);
    let Dispatch::Balance { dst, load } = &backend.dispatch else { panic!("{backend:?}") };
    assert_eq!((dst.to_string().as_str(), *load), (WEB, LoadParams::default()));
    assert_eq!(opaque.backends, route.rules[0].backends);
}

#[test]
fn the_protocol_follows_app_protocol_then_opaque_ports() {
    for (app, opaque_ports, expected) in [
        (None, None, "detect"),
        (Some("http"), None, "http1"),
        (Some("kubernetes.io/h2c"), None, "http2"),
        (Some("linkerd.io/opaque"), None, "opaque"),
        (Some("linkerd.io/tcp"), None, "opaque"),
        (Some("https"), None, "opaque"),
        (Some("kubernetes.io/ws"), None, "opaque"),
        (Some("grpc"), None, "opaque"),
        (None, Some("80"), "opaque"),
        (Some("http"), Some("80"), "http1"),
    ] {
        let mut world = World::new();
        let mut web = service("shop/web", "240.0.0.1");
        web.ports[0].app_protocol = app.map(str::to_owned);
        web.meta.annotations =
            opaque_ports.map(|v| pairs(&[("config.linkerd.io/opaque-ports", v)])).unwrap_or_default();
        world.put(web);
        assert_eq!(speaks(&world.outbound(WEB).unwrap()), expected, "{app:?} {opaque_ports:?}");
    }
}

#[test]
fn an_undeclared_port_is_forbidden_until_it_is_declared() {
    let mut world = shop();
    let policy = world.outbound("240.0.0.1:81").unwrap();
    assert_eq!(policy.meta.port(), Some(81));
    let route = tcp(&policy);
    assert_eq!(speaks(&policy), "opaque");
    assert_eq!((route.meta.kind(), route.meta.name()), ("default", "undefined-port"));
    assert_eq!(route.filters, [Filter::Forbidden]);
    assert_eq!(route.backends, Distribution::Empty);
    let mut web = service("shop/web", "240.0.0.1");
    web.ports.push(service_port("more", 81, "http"));
    let touched = world.put(web);
    assert!(touched.addresses.contains(&"240.0.0.1".parse().unwrap()));
    assert_eq!(speaks(&world.outbound("240.0.0.1:81").unwrap()), "detect");
}

#[test]
fn an_address_outside_the_mesh_is_forwarded_to_itself() {
    let world = shop();
    let policy = world.outbound("203.0.113.7:443").unwrap();
    assert_eq!((policy.meta.kind(), policy.meta.name()), ("default", "egress-fallback"));
    assert_eq!(speaks(&policy), "detect");
    for backends in [&http(&policy).routes[0].rules[0].backends, &tcp(&policy).backends] {
        let Distribution::RandomAvailable(list) = backends else { panic!("{backends:?}") };
        assert_eq!(list[0].1, 1);
        let Dispatch::Forward(endpoint) = &list[0].0.backend.dispatch else { panic!("{list:?}") };
        assert_eq!(endpoint.addr.to_string(), "203.0.113.7:443");
        assert!(endpoint.tls.is_none());
    }
    assert_eq!(http(&policy).routes[0].meta.name(), "egress-fallback");
    assert_eq!(tcp(&policy).meta.name(), "egress-fallback");
    assert_eq!(http(&policy).breaker, None);
}

#[test]
fn addresses_of_the_mesh_that_are_no_service_are_not_found() {
    let mut world = shop();
    world.put(workload("shop/far", "far", "203.0.113.9"));
    for (target, expected) in [
        ("10.1.0.1:8080", Some(RefusalKind::NotFound)),
        ("10.200.0.1:8080", Some(RefusalKind::NotFound)),
        ("240.0.0.99:80", Some(RefusalKind::NotFound)),
        ("[fd00::7]:80", Some(RefusalKind::NotFound)),
        // Outside the networks, but a workload: its profile knows its identity.
        ("203.0.113.9:8080", Some(RefusalKind::NotFound)),
        ("240.0.0.1:0", Some(RefusalKind::InvalidArgument)),
        ("203.0.113.10:8080", None),
    ] {
        assert_eq!(kind(world.outbound(target)), expected, "{target}");
    }
}

#[test]
fn authorities_name_services_of_this_mesh() {
    let world = shop();
    for (authority, expected) in [
        ("web.shop.svc", None),
        ("web.shop.svc:8080", None),
        ("web.shop.svc.cluster.local.", None),
        ("none.shop.svc.cluster.local:80", None),
        ("web.shop.svc.example.org", Some(RefusalKind::NotFound)),
        ("web.shop", Some(RefusalKind::NotFound)),
        ("example.org:80", Some(RefusalKind::NotFound)),
        ("a b", Some(RefusalKind::InvalidArgument)),
        ("web.shop.svc:http", Some(RefusalKind::InvalidArgument)),
    ] {
        assert_eq!(kind(world.outbound(authority)), expected, "{authority}");
    }
    let missing = world.outbound("none.shop.svc.cluster.local").unwrap();
    assert_eq!((speaks(&missing), missing.meta.name(), missing.meta.port()), ("detect", "none", Some(80)));
}

#[test]
fn annotations_of_the_service_tune_breaker_load_limits_and_retries() {
    let mut world = shop();
    let mut web = service("shop/web", "240.0.0.1");
    web.meta.annotations = pairs(&[
        ("balancer.linkerd.io/failure-accrual", "consecutive"),
        ("balancer.linkerd.io/failure-accrual-consecutive-max-failures", "3"),
        ("balancer.alpha.linkerd.io/penalize-failures", "true"),
        ("weft/min-ready-endpoints", "2"),
        ("timeout.linkerd.io/request", "3s"),
        ("retry.linkerd.io/http", "5xx"),
        ("retry.linkerd.io/limit", "2"),
    ]);
    world.put(web.clone());
    let policy = world.outbound(WEB).unwrap();
    let routes = http(&policy);
    assert!(matches!(routes.breaker, Some(FailureAccrual::Consecutive { max_failures: 3, .. })));
    assert_eq!(routes.min_ready, 2);
    let rule = &routes.routes[0].rules[0];
    assert!(load_of(&rule.backends).penalty.is_some());
    assert!(load_of(&tcp(&policy).backends).penalty.is_some());
    assert_eq!(rule.timeouts.request, Some(Duration::from_secs(3)));
    assert_eq!(rule.retry.as_ref().unwrap().limit, 2);

    web.ports[0].app_protocol = Some("linkerd.io/tcp".into());
    world.put(web.clone());
    let policy = world.outbound(WEB).unwrap();
    assert_eq!(load_of(&tcp(&policy).backends).penalty, None, "bytes have no failures to penalize");

    web.ports[0].app_protocol = None;
    web.meta.annotations.insert("balancer.linkerd.io/failure-accrual".into(), "often".into());
    world.put(web);
    assert_eq!(http(&world.outbound(WEB).unwrap()).breaker, None, "a bad annotation leaves the breaker off");
}

#[test]
fn request_headers_are_obeyed_only_if_the_mesh_allows_it() {
    for (request_headers, expected) in [(RequestHeaders::Ignored, false), (RequestHeaders::Obeyed, true)] {
        let mut world = World::with(Config { request_headers, ..Config::default() });
        world.put(service("shop/web", "240.0.0.1"));
        let policy = world.outbound(WEB).unwrap();
        assert_eq!(http(&policy).routes[0].rules[0].allow_request_headers, expected);
    }
}
