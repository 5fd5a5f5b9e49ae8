//! What is said about servers, authorizations and routes: in force or not, why, and where Linkerd would differ.

use crate::world::*;
use weft_index::verdict::{State, Verdict, verdicts};
use weft_model::attach::{EgressNetwork, EgressTraffic, ParentKind, ParentRef, RouteResource};
use weft_model::object::Kind;
use weft_model::policy::DefaultPolicy;
use weft_model::route::{
    Filter, HeaderChange, HeaderMatch, HeaderValueMatch, HttpMatch, PathMatch, RequestMatch,
};
use weft_model::server::{
    AuthenticationRef, MeshTlsAuthentication, PolicyTarget, RateLimitPolicy, Selector, ServerProtocol,
    Subject, Workloads,
};
use weft_model::service::TargetPort;

fn of(world: &World, name: &str) -> Verdict {
    let found = verdicts(&world.index).into_iter().find(|v| v.key.name == name);
    found.unwrap_or_else(|| panic!("no verdict on {name}"))
}

/// State and notes in one text, each after `|`.
fn told(world: &World, name: &str) -> String {
    let verdict = of(world, name);
    let all = verdict.state.why().into_iter().chain(verdict.notes);
    format!("{}: {}", verdict.state.as_str(), all.collect::<Vec<_>>().join("|"))
}

fn shop() -> World {
    let mut world = World::new();
    world.put(service("shop/web", "240.0.0.1"));
    world.put(service("office/api", "240.0.0.2"));
    world.put(workload("shop/web-1", "web", "10.1.0.1"));
    world.put(workload("office/api-1", "api", "10.1.0.2"));
    world
}

fn http_port() -> TargetPort {
    TargetPort::Name("http".into())
}

fn to_web(port: Option<u16>) -> Vec<ParentRef> {
    vec![parent(ParentKind::Service, "shop/web", port)]
}

#[test]
fn sound_policies_are_accepted_without_notes() {
    let mut world = shop();
    let mut web = server("shop/web-http", "web", http_port());
    web.access = DefaultPolicy::AllAuthenticated;
    world.put(web);
    world.put(policy(
        "shop/p",
        PolicyTarget::Server("web-http".into()),
        vec![AuthenticationRef::Account(account("a"))],
    ));
    world.put(routed(Kind::HttpRoute, route("shop/r", to_web(Some(80)), &["/"])));
    for verdict in verdicts(&world.index) {
        let Verdict { state, notes, differs, key, .. } = verdict;
        assert_eq!((state, notes, differs), (State::Accepted, vec![], vec![]), "{key}");
    }
}

#[test]
fn servers_that_govern_nothing_are_named() {
    let mut world = shop();
    let open = |mut s: weft_model::server::Server| {
        s.access = DefaultPolicy::Audit;
        s
    };
    let mut old = open(server("shop/old", "web", http_port()));
    old.meta.created = created(1);
    world.put(old);
    world.put(open(server("shop/young", "web", TargetPort::Number(port(8080)))));
    world.put(open(server("shop/nobody", "none", http_port())));
    world.put(open(server("shop/noport", "web", TargetPort::Name("grpc".into()))));
    let mut pods = server("shop/pods", "web", http_port());
    pods.workloads = Workloads::Pods(Selector::default());
    world.put(pods);
    world.put(server("shop/closed", "web", TargetPort::Name("admin".into())));
    for (name, expected) in [
        ("old", "accepted: "),
        ("young", "conflicted: port 8080 of workload web-1, with Server shop/old"),
        ("nobody", "accepted: its selector picks no workload"),
        ("noport", "accepted: no workload that it selects declares its port"),
        ("closed", "accepted: no authorization is for it, so nobody is admitted"),
    ] {
        assert_eq!(told(&world, name), expected);
    }
    assert!(told(&world, "pods").starts_with("accepted: it selects pods"));
}

#[test]
fn a_server_whose_routes_leave_something_out_is_told_of_the_404() {
    let mut world = shop();
    let mut web = server("shop/web-http", "web", http_port());
    web.access = DefaultPolicy::Audit;
    world.put(web);
    let at = || vec![parent(ParentKind::Server, "shop/web-http", None)];
    world.put(routed(Kind::HttpRoute, route("shop/r", at(), &["/api"])));
    assert!(told(&world, "web-http").contains("answered with 404"));
    world.put(routed(Kind::PolicyHttpRoute, route("shop/all", at(), &["/"])));
    assert_eq!(told(&world, "web-http"), "accepted: ");
}

#[test]
fn authorizations_that_lack_something_dangle() {
    let mut world = shop();
    world.put(server("shop/web-http", "web", http_port()));
    let target = || PolicyTarget::Server("web-http".into());
    let mesh = |namespace: Option<&str>| {
        vec![AuthenticationRef::MeshTls { namespace: namespace.map(str::to_owned), name: "m".into() }]
    };
    world.put(policy("shop/no-target", PolicyTarget::Server("gone".into()), vec![]));
    world.put(policy("shop/no-auth", target(), mesh(None)));
    world.put(policy("shop/no-route", PolicyTarget::Route(Kind::GrpcRoute, "gone".into()), vec![]));
    world.put(policy("shop/free", target(), vec![]));
    let limit = |path: &str, server: &str| RateLimitPolicy {
        meta: meta(path),
        server: server.into(),
        total: Some(1),
        identity: None,
        overrides: vec![],
    };
    world.put(limit("shop/lost-limit", "gone"));
    world.put(limit("shop/limit-a", "web-http"));
    world.put(limit("shop/limit-b", "web-http"));
    for (name, expected) in [
        ("no-target", "dangling: Server shop/gone is missing"),
        ("no-auth", "dangling: MeshTLSAuthentication shop/m is missing"),
        ("no-route", "dangling: GRPCRoute shop/gone is missing"),
        ("free", "accepted: it requires nothing, so everybody is admitted from anywhere"),
        ("lost-limit", "dangling: Server shop/gone is missing"),
        ("limit-a", "accepted: "),
        (
            "limit-b",
            "conflicted: the rate limit of Server web-http, with HTTPLocalRateLimitPolicy shop/limit-a",
        ),
    ] {
        assert_eq!(told(&world, name), expected);
    }
    let subjects = vec![Subject::Id("spiffe://mesh/shop/*".parse().unwrap())];
    world.put(MeshTlsAuthentication { meta: meta("shop/m"), subjects });
    assert_eq!(told(&world, "no-auth"), "accepted: ");
    assert!(of(&world, "m").differs[0].contains("Linkerd knows no prefixes"));
}

#[test]
fn routes_are_in_force_missing_something_or_lost() {
    let mut world = shop();
    let mut fixed = service("shop/fixed", "240.0.0.3");
    fixed.ports[0].app_protocol = Some("http".into());
    world.put(fixed);
    let mut grpc = server("shop/grpc", "web", http_port());
    grpc.protocol = ServerProtocol::Grpc;
    world.put(grpc);
    let on = |kind: ParentKind, path: &str, port: Option<u16>| vec![parent(kind, path, port)];
    let mut put = |kind: Kind, name: &str, parents: Vec<ParentRef>| {
        world.put(routed(kind, route(&format!("shop/{name}"), parents, &["/"])));
    };
    use ParentKind::*;
    put(Kind::HttpRoute, "gone", on(Service, "shop/gone", None));
    put(Kind::HttpRoute, "no-port", on(Service, "shop/web", Some(81)));
    put(Kind::HttpRoute, "no-server", on(Server, "shop/gone", None));
    put(Kind::HttpRoute, "far-server", on(Server, "office/x", None));
    put(Kind::HttpRoute, "port-of-server", on(Server, "shop/grpc", Some(80)));
    put(Kind::HttpRoute, "wrong-server", on(Server, "shop/grpc", None));
    put(Kind::GrpcRoute, "right-server", on(Server, "shop/grpc", None));
    put(Kind::GrpcRoute, "on-http", on(Service, "shop/fixed", None));
    put(Kind::HttpRoute, "foreign", on(Other("x/Gateway".into()), "shop/x", None));
    put(Kind::HttpRoute, "no-egress", on(EgressNetwork, "shop/out", Some(80)));
    put(Kind::TcpRoute, "winner", on(Service, "office/api", None));
    put(Kind::GrpcRoute, "top", to_web(None));
    put(Kind::HttpRoute, "below", to_web(Some(80)));
    let mut partly = to_web(None);
    partly.extend(on(Service, "shop/gone", None));
    put(Kind::GrpcRoute, "partly", partly);
    for (name, expected) in [
        ("gone", "dangling: Service shop/gone is missing"),
        ("no-port", "dangling: port 81 of Service shop/web is missing"),
        ("no-server", "dangling: Server shop/gone is missing"),
        ("far-server", "refused: a Server must be in the route's own namespace"),
        ("port-of-server", "refused: a Server has one port and no sections; remove port and sectionName"),
        (
            "wrong-server",
            "refused: Server grpc has the proxyProtocol gRPC, to which a HTTPRoute cannot attach",
        ),
        ("right-server", "accepted: "),
        (
            "on-http",
            "refused: what port 80 of Service shop/fixed speaks is fixed by appProtocol or as opaque; a GRPCRoute has no \
             effect there",
        ),
        ("foreign", "dangling: a parent of the mesh (Service, Server or EgressNetwork) is missing"),
        ("no-egress", "dangling: EgressNetwork shop/out is missing"),
        ("winner", "accepted: "),
        ("top", "accepted: "),
        ("below", "conflicted: port 80 of Service shop/web, with GRPCRoute shop/partly"),
        ("partly", "accepted: Service shop/gone is missing"),
    ] {
        assert_eq!(told(&world, name), expected);
    }
}

#[test]
fn backends_that_cannot_be_used_are_named_one_by_one() {
    let mut world = shop();
    let mut made = route("shop/r", to_web(Some(80)), &["/"]);
    made.rules[0].backends =
        vec![backend("shop/gone", 80, 1), backend("shop/web", 99, 1), backend("office/api", 80, 1)];
    world.put(routed(Kind::HttpRoute, made.clone()));
    assert_eq!(
        told(&world, "r"),
        "accepted: rules[0].backendRefs[0]: Service shop/gone does not exist; its share of the requests is refused|\
         rules[0].backendRefs[1]: Service shop/web has no port 99; its share of the requests is refused"
    );
    made.rules[0].backends = vec![backend("shop/web", 80, 0)];
    world.put(routed(Kind::HttpRoute, made));
    assert!(told(&world, "r").contains("every backend has the weight 0"));
    assert!(of(&world, "r").differs[0].contains("weight 0"));
}

#[test]
fn an_egress_network_inside_the_cluster_is_refused() {
    let mut world = World::new();
    let network = |path: &str, networks: Option<&[&str]>| EgressNetwork {
        meta: meta(path),
        traffic: EgressTraffic::Deny,
        networks: networks.map(nets),
    };
    world.put(network("shop/inside", Some(&["0.0.0.0/0"])));
    world.put(network("shop/outside", Some(&["203.0.113.0/24"])));
    world.put(network("shop/all", None));
    assert_eq!(
        told(&world, "inside"),
        "refused: its block 0.0.0.0/0 reaches into the cluster's network 10.0.0.0/8; except that, or name others"
    );
    assert_eq!((told(&world, "outside"), told(&world, "all")), ("accepted: ".into(), "accepted: ".into()));
    let on = vec![parent(ParentKind::EgressNetwork, "shop/inside", Some(80))];
    world.put(routed(Kind::HttpRoute, route("shop/r", on, &["/"])));
    assert_eq!(told(&world, "r"), "refused: EgressNetwork shop/inside is not in force");
}

/// What Linkerd would do otherwise with a route that `change` was done to.
fn differs(
    change: impl FnOnce(&mut RouteResource),
    kind: Kind,
    others: Vec<weft_model::object::Object>,
) -> String {
    let mut world = shop();
    others.into_iter().for_each(|other| drop(world.put(other)));
    let mut made = route("shop/r", to_web(Some(80)), &["/a"]);
    change(&mut made);
    world.put(routed(kind, made));
    let verdict = of(&world, "r");
    verdict.differs.join("|")
}

#[test]
fn what_linkerd_would_make_of_a_route_is_told() {
    let headers = || Filter::ResponseHeaders(HeaderChange::default());
    let abroad = |r: &mut RouteResource| {
        r.meta.namespace = "office".into();
        r.rules[0].backends = vec![backend("office/api", 80, 1)];
        r.rules[0].backends[0].namespace = None;
    };
    let exact = |r: &mut RouteResource| {
        let exact = HttpMatch { path: Some(PathMatch::Exact("/a".into())), ..HttpMatch::default() };
        let mut second = r.rules[0].clone();
        second.matches = vec![RequestMatch::Http(exact)];
        r.rules.push(second);
    };
    let producer = || vec![routed(Kind::HttpRoute, route("shop/p", to_web(None), &["/"]))];
    for (found, expected) in [
        (differs(|_| {}, Kind::HttpRoute, vec![]), ""),
        (differs(abroad, Kind::HttpRoute, vec![]), "in the parent's namespace"),
        (
            differs(
                |r| r.rules[0].filters.push(Filter::Invalid { message: "x".into() }),
                Kind::HttpRoute,
                vec![],
            ),
            "leaves out the whole route",
        ),
        (differs(|r| r.rules[0].filters.push(headers()), Kind::PolicyHttpRoute, vec![]), "request's headers"),
        (differs(|r| r.rules[0].filters.push(headers()), Kind::HttpRoute, vec![]), ""),
        (
            differs(
                |r| r.rules[0].backend_timeout = Some(std::time::Duration::from_secs(1)),
                Kind::HttpRoute,
                vec![],
            ),
            "backendRequest",
        ),
        (differs(exact, Kind::HttpRoute, vec![]), "listed first"),
        (differs(|r| r.meta.namespace = "office".into(), Kind::HttpRoute, producer()), "would merge"),
    ] {
        assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{found} / {expected}");
    }
}

#[test]
fn an_order_that_proxies_cannot_be_told_is_reported() {
    let mut world = shop();
    let mut by_method = route("shop/by-method", to_web(Some(80)), &["/a"]);
    let mut by_header = route("shop/by-header", to_web(Some(80)), &["/a"]);
    if let RequestMatch::Http(http) = &mut by_method.rules[0].matches[0] {
        http.method = Some(http::Method::GET);
    }
    if let RequestMatch::Http(http) = &mut by_header.rules[0].matches[0] {
        let value = HeaderValueMatch::Exact(b"1".to_vec());
        http.headers.push(HeaderMatch { name: http::HeaderName::from_static("x"), value });
    }
    world.put(routed(Kind::HttpRoute, by_method));
    world.put(routed(Kind::HttpRoute, by_header));
    assert!(
        told(&world, "by-method").contains("ought to win over route by-header"),
        "{}",
        told(&world, "by-method")
    );
    assert_eq!(told(&world, "by-header"), "accepted: ");
}
