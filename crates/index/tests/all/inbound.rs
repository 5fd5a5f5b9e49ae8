//! `InboundServerPolicies.WatchPort` (§1E) without server resources.

use crate::world::*;
use weft_index::{Config, RefusalKind};
use weft_model::attach::ParentKind;
use weft_model::authorization::NetworkMatch;
use weft_model::object::Kind;
use weft_model::policy::{Authentication, DefaultPolicy, InboundProtocol};
use weft_model::route::Distribution;
use weft_model::server::ServerProtocol;
use weft_model::service::TargetPort;

const WEB: &str = r#"{"ns":"shop","external_workload":"web-1"}"#;
const POLICY: &str = "config.linkerd.io/default-inbound-policy";
const REQUIRE: &str = "config.linkerd.io/proxy-require-identity-inbound-ports";
const OPAQUE: &str = "config.linkerd.io/opaque-ports";

fn world(of_namespace: &[(&str, &str)], of_workload: &[(&str, &str)]) -> World {
    let mut world = World::new();
    world.put(namespace("shop", of_namespace));
    let mut web = workload("shop/web-1", "web", "10.1.0.1");
    web.meta.annotations = pairs(of_workload);
    world.put(web);
    world
}

#[test]
fn requests_must_name_a_known_workload_and_a_port() {
    use RefusalKind::*;
    let world = world(&[], &[]);
    for (workload, port, expected) in [
        (WEB, 8080, None),
        (WEB, 1, None),
        (WEB, 0, Some(InvalidArgument)),
        (WEB, 70_000, Some(InvalidArgument)),
        (r#"{"ns":"shop","external_workload":"gone"}"#, 8080, Some(NotFound)),
        (r#"{"ns":"shop","pod":"web-1"}"#, 8080, Some(NotFound)),
        ("shop:web-1", 8080, Some(NotFound)),
        ("{", 8080, Some(InvalidArgument)),
    ] {
        assert_eq!(kind(world.inbound(workload, port)), expected, "{workload} {port}");
    }
}

#[test]
fn the_default_policy_is_the_workloads_the_namespaces_or_the_meshs() {
    for (of_namespace, of_workload, expected) in [
        (None, None, "all-unauthenticated"),
        (Some("deny"), None, "deny"),
        (Some("deny"), Some("audit"), "audit"),
        (None, Some("all-authenticated"), "all-authenticated"),
        (None, Some("cluster-authenticated"), "cluster-authenticated"),
        (None, Some("cluster-unauthenticated"), "cluster-unauthenticated"),
        (Some("audit"), Some("all-authenticatd"), "deny"),
    ] {
        let annotate =
            |value: Option<&'static str>| value.map(|v| (POLICY, v)).into_iter().collect::<Vec<_>>();
        let world = world(&annotate(of_namespace), &annotate(of_workload));
        let policy = world.inbound(WEB, 8080).unwrap();
        assert_eq!((policy.meta.kind(), policy.meta.name()), ("default", expected));
        let default = DefaultPolicy::parse(expected).unwrap();
        assert_eq!(policy.authorizations, default.authorizations(&Config::default().cluster_networks));
    }
}

#[test]
fn a_default_server_detects_and_has_one_route_that_matches_everything() {
    let policy = world(&[], &[]).inbound(WEB, 8080).unwrap();
    let InboundProtocol::Detect { timeout, http } = &policy.protocol else { panic!("{policy:?}") };
    assert_eq!(timeout.as_secs(), 10);
    assert_eq!((http.routes.len(), &http.rate_limit), (1, &None));
    let route = &http.routes[0];
    assert_eq!((route.meta.kind(), route.meta.name()), ("default", "default"));
    assert!(route.authorizations.is_empty());
    assert_eq!(route.rules[0].backends, Distribution::Application);
}

#[test]
fn opaque_ports_are_those_of_the_workload_the_namespace_or_the_default_list() {
    for (of_namespace, of_workload, port, opaque) in [
        (None, None, 8080, false),
        (None, None, 3306, true),
        (None, Some(""), 3306, false),
        (Some("8080"), None, 8080, true),
        (Some("8080"), None, 3306, false),
        (Some("8080"), Some("9990"), 8080, false),
        (None, Some("admin"), 9990, true),
        (None, Some("http,oops!"), 8080, true),
    ] {
        let annotate =
            |value: Option<&'static str>| value.map(|v| (OPAQUE, v)).into_iter().collect::<Vec<_>>();
        let world = world(&annotate(of_namespace), &annotate(of_workload));
        let found = world.inbound(WEB, port).unwrap().protocol == InboundProtocol::Opaque;
        assert_eq!(found, opaque, "{of_namespace:?} {of_workload:?} {port}");
    }
}

#[test]
fn listed_ports_demand_an_identity() {
    for (policy, ports, port, expected) in [
        ("all-unauthenticated", "8080", 8080, "all-authenticated"),
        ("all-unauthenticated", "http", 8080, "all-authenticated"),
        ("all-unauthenticated", "9990", 8080, "all-unauthenticated"),
        ("cluster-unauthenticated", "8080", 8080, "cluster-authenticated"),
        ("audit", "8080", 8080, "all-authenticated"),
        ("deny", "8080", 8080, "deny"),
    ] {
        let world = world(&[(REQUIRE, ports)], &[(POLICY, policy)]);
        let found = world.inbound(WEB, port).unwrap();
        assert_eq!(found.meta.name(), expected, "{policy} {ports} {port}");
        if expected.ends_with("-authenticated") {
            let demanded = &found.authorizations[0].authentication;
            assert!(matches!(demanded, Authentication::TlsAuthenticated { ids, .. } if ids.is_empty()));
        }
    }
}

#[test]
fn changes_of_workload_and_namespace_touch_its_policies() {
    let mut world = world(&[], &[]);
    let view = world.index.view(&weft_index::Question::Inbound { workload: WEB.into(), port: 8080 }).unwrap();
    assert!(world.put(namespace("shop", &[(POLICY, "deny")])).touches(&view));
    assert!(!world.put(namespace("other", &[(POLICY, "deny")])).touches(&view));
    assert!(world.delete(workload("shop/web-1", "web", "10.1.0.1")).touches(&view));
    assert_eq!(kind(world.inbound(WEB, 8080)), Some(RefusalKind::NotFound));
}

#[test]
fn probes_are_let_in_where_everything_else_is_denied() {
    let probed = [(POLICY, "deny"), ("weft/probes", "8080/healthz, http/ready, 9/other, what")];
    let config = Config { probe_networks: vec!["10.9.0.0/16".parse().unwrap()], ..Config::default() };
    let mut world = world(&[], &probed);
    let mut narrow = World::with(config);
    let mut web = workload("shop/web-1", "web", "10.1.0.1");
    web.meta.annotations = pairs(&probed);
    narrow.put(web);
    let probe = |world: &World, expected: Option<&[NetworkMatch]>| {
        let policy = world.inbound(WEB, 8080).unwrap();
        let (InboundProtocol::Detect { http, .. } | InboundProtocol::Http1(http)) = &policy.protocol else {
            panic!("{policy:?}")
        };
        let found = http.routes.iter().find(|route| route.meta.name() == "probe");
        assert_eq!(found.map(|route| route.rules[0].matches.len()), expected.map(|_| 2), "{policy:?}");
        let Some(route) = found else { return };
        let [only] = &route.authorizations[..] else { panic!("{route:?}") };
        assert_eq!(only.authentication, Authentication::Unauthenticated);
        assert_eq!(Some(&only.networks[..]), expected);
        assert!(http.routes.iter().any(|route| route.meta.name() == "default"));
    };
    let everywhere = NetworkMatch::everywhere();
    probe(&world, Some(&everywhere));
    probe(&narrow, Some(&nets(&["10.9.0.0/16"])));
    assert!(world.inbound(WEB, 8080).unwrap().authorizations.is_empty());
    // A server denies as much and lets probes in as well, until it has routes of its own.
    let mut governing = server("shop/web-http", "web", TargetPort::Number(port(8080)));
    governing.protocol = ServerProtocol::Http1;
    world.put(governing);
    probe(&world, Some(&everywhere));
    let mut own = route("shop/own", vec![parent(ParentKind::Server, "shop/web-http", None)], &["/api"]);
    own.rules[0].backends = vec![];
    world.put(routed(Kind::HttpRoute, own));
    probe(&world, None);
    let verdicts = weft_index::verdict::verdicts(&world.index);
    let notes: Vec<_> =
        verdicts.iter().flat_map(|v| &v.notes).filter(|n| n.contains("`what` is no")).collect();
    assert_eq!(notes.len(), 1, "{verdicts:?}");
}
