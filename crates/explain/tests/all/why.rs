//! Decisions told step by step, and what a change of manifests would do to them.

use crate::world::*;
use weft_explain::difference::differences;
use weft_explain::why::{self, Hypothesis, Told, header};
use weft_index::Index;
use weft_model::attach::{EgressNetwork, EgressTraffic, ParentKind};
use weft_model::object::{Change, Kind, Object};
use weft_model::policy::DefaultPolicy;
use weft_model::profile::ProfileRoute;
use weft_model::route::{Condition, Filter, InjectedAnswer, Injection, Pattern, Redirect, RequestMatch};
use weft_model::server::{AuthenticationRef, PolicyTarget, RateLimitPolicy};
use weft_model::service::{ProfileOverride, ServiceProfile, TargetPort};

fn ask(query: &str) -> Hypothesis {
    Hypothesis::from_query(query).unwrap_or_else(|problem| panic!("{query}: {problem}"))
}

const WEB: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";

/// A caller `web` and a service `books` with one workload, whose server admits web alone.
fn shop() -> World {
    let mut world = World::new();
    world.put(workload("shop/web-1", "web", "10.1.0.9"));
    world.put(service("shop/books", "240.0.0.1"));
    world.put(workload("shop/books-1", "books", "10.1.0.1"));
    world.put(server("shop/books-http", "books", TargetPort::Name("http".into())));
    let target = PolicyTarget::Server("books-http".into());
    world.put(policy("shop/web-only", target, vec![AuthenticationRef::Account(account("web"))]));
    world
}

fn why(world: &World, query: &str) -> Told {
    why::why(&world.index, &ask(query)).unwrap_or_else(|refusal| panic!("{query}: {refusal}"))
}

fn step(told: &Told, about: &str) -> String {
    let found = told.steps.iter().filter(|step| step.about == about).map(|step| step.text.clone());
    found.collect::<Vec<_>>().join("|")
}

/// Asks as web of shop; expects a part of the outcome, a reason, and a part of one step.
fn check(world: &World, query: &str, outcome: &str, reason: Option<&str>, (about, part): (&str, &str)) {
    let told = why(world, &format!("namespace=shop&identity={WEB}&{query}"));
    assert!(told.outcome.contains(outcome), "{query}: {told:#?}");
    assert_eq!(told.reason, reason, "{query}: {told:#?}");
    assert!(step(&told, about).contains(part), "{query}: {about}: {told:#?}");
}

#[test]
fn a_decision_names_what_it_was_made_by() {
    let mut world = shop();
    let books = || vec![parent(ParentKind::Service, "shop/books", None)];
    let mut routes = route("shop/r", books(), &["/api", "/old", "/fail", "/gone"]);
    routes.rules[0].filters = vec![];
    routes.rules[1].filters =
        vec![Filter::Redirect(Redirect { host: Some("new.example".into()), ..Redirect::default() })];
    let injected = Injection {
        answer: InjectedAnswer::Http(http::StatusCode::IM_A_TEAPOT),
        message: "tea".into(),
        ratio: (1, 1),
    };
    routes.rules[2].filters = vec![Filter::InjectFailure(injected)];
    routes.rules[3].backends = vec![backend("shop/none", 80, 1)];
    if let RequestMatch::Http(http) = &mut routes.rules[0].matches[0] {
        http.method = Some(http::Method::PUT);
    }
    world.put(routed(Kind::HttpRoute, routes));
    let total = Some(5);
    world.put(RateLimitPolicy {
        meta: meta("shop/calm"),
        server: "books-http".into(),
        total,
        identity: None,
        overrides: vec![],
    });
    let to = "to=books.shop:80";
    check(
        &world,
        &format!("{to}&method=PUT&uri=/api/x"),
        "reaches the application",
        None,
        ("route", "HTTPRoute shop/r, rule 0: PUT and paths below /api"),
    );
    check(
        &world,
        &format!("{to}&method=PUT&uri=/api/x"),
        "",
        None,
        ("authorization", "AuthorizationPolicy shop/web-only admits web.shop"),
    );
    check(&world, &format!("{to}&method=PUT&uri=/api/x"), "", None, ("limit", "5 requests a second in all"));
    check(
        &world,
        &format!("{to}&method=PUT&uri=/api/x"),
        "",
        None,
        ("server", "Server shop/books-http (test.yaml:1)"),
    );
    check(
        &world,
        &format!("{to}&uri=/api/x"),
        "404",
        Some("no-route"),
        ("route", "is for this method; nearest is HTTPRoute shop/r"),
    );
    check(
        &world,
        &format!("{to}&uri=/other"),
        "404",
        Some("no-route"),
        ("route", "no rule is for this path"),
    );
    check(
        &world,
        &format!("{to}&uri=/old"),
        "301 to http://new.example/old",
        None,
        ("filter", "answers 301"),
    );
    check(&world, &format!("{to}&uri=/fail"), "418", Some("injected-failure"), ("filter", "tea"));
    check(
        &world,
        &format!("{to}&uri=/gone"),
        "500",
        Some("injected-failure"),
        ("filter", "Service shop/none does not exist"),
    );
    check(&world, "to=none.shop", "503", Some("no-such-service"), ("destination", "does not exist"));
    check(
        &world,
        "to=10.1.0.1:8080",
        "reaches the application",
        None,
        ("destination", "workload's own address"),
    );
    check(&world, "to=203.0.113.1:443", "in plaintext", None, ("server", "not in the mesh"));
    check(&world, "to=240.0.0.1:81", "403", Some("forbidden"), ("destination", "which it does not declare"));
    world.delete(workload("shop/books-1", "books", "10.1.0.1"));
    check(
        &world,
        &format!("{to}&method=PUT&uri=/api"),
        "503",
        Some("no-endpoints"),
        ("endpoint", "has none"),
    );
}

#[test]
fn a_refusal_names_the_nearest_authorization_and_the_clause() {
    let mut world = shop();
    let other =
        "namespace=shop&to=books.shop&identity=api.shop.serviceaccount.identity.linkerd.cluster.local";
    let told = why(&world, other);
    assert_eq!(told.reason, Some("unauthorized"));
    assert!(step(&told, "authorization").ends_with("the client's identity is not one of its"), "{told:#?}");
    let told = why(&world, "namespace=shop&to=books.shop");
    assert!(step(&told, "authorization").ends_with("the client does not speak TLS of the mesh"), "{told:#?}");
    assert!(step(&told, "caller").contains("an address that is assumed"), "{told:#?}");
    world.delete(policy("shop/web-only", PolicyTarget::Namespace, vec![]));
    assert!(step(&why(&world, other), "authorization").contains("none is there"));
}

#[test]
fn what_differs_between_workloads_of_one_service_is_told_of_each() {
    let mut world = shop();
    let mut open = workload("shop/books-2", "books", "10.1.0.2");
    open.meta.labels.insert("tier".into(), "open".into());
    world.put(open);
    let told = why(&world, &format!("namespace=shop&identity={WEB}&to=books.shop"));
    assert!(step(&told, "server").contains("books-1 (test.yaml:1) and 1 like it"), "{told:#?}");
    let mut rival = server("shop/a-rival", "books", TargetPort::Name("http".into()));
    if let weft_model::server::Workloads::External(selector) = &mut rival.workloads {
        selector.labels.insert("tier".into(), "open".into());
    }
    rival.meta.created = created(1);
    world.put(rival);
    let told = why(&world, &format!("namespace=shop&identity={WEB}&to=books.shop"));
    assert!(told.outcome.contains("reaches") && told.outcome.contains("403"), "{told:#?}");
}

#[test]
fn profiles_and_egress_networks_are_told_too() {
    let mut world = shop();
    world.put(service("shop/books-v2", "240.0.0.2"));
    let retried = ProfileRoute {
        condition: Condition::Path(Pattern("/api.*".into())),
        classes: vec![],
        labels: std::sync::Arc::new(pairs(&[("route", "api")])),
        retryable: true,
        timeout: None,
    };
    let leg = |host: &str| ProfileOverride { host: host.parse().unwrap(), port: None, weight: 10_000 };
    world.put(ServiceProfile {
        meta: meta("shop/books.shop.svc.cluster.local"),
        routes: vec![retried],
        retry_budget: None,
        overrides: vec![leg("books-v2.shop.svc.cluster.local"), leg("books.shop.svc.cluster.local")],
    });
    check(&world, "to=books.shop&uri=/api/1", "reaches", None, ("policy", "wins over every other route"));
    check(&world, "to=books.shop&uri=/api/1", "reaches", None, ("route", "`api`, retried within the budget"));
    check(
        &world,
        "to=books.shop&uri=/x",
        "reaches",
        None,
        ("backend", "books-v2.shop.svc.cluster.local:80 with 50%"),
    );
    world.put(EgressNetwork { meta: meta("shop/out"), traffic: EgressTraffic::Deny, networks: None });
    check(
        &world,
        "to=203.0.113.1:80",
        "403",
        Some("forbidden"),
        ("destination", "EgressNetwork shop/out:80"),
    );
}

#[test]
fn questions_survive_the_way_through_a_url() {
    let mut given = ask("namespace=shop&to=books.shop:80&method=PUT&uri=/a%3Fb%3D%26%25");
    given.identity = Some("spiffe://mesh/web".parse().unwrap());
    given.address = Some("fd00::1".parse().unwrap());
    let (name, value) = header("X-User:  a b&c ").unwrap();
    given.headers.append(name, value);
    assert_eq!(Hypothesis::from_query(&given.to_query()), Ok(given));
    for wrong in [
        "",
        "namespace=a",
        "to=a.b",
        "namespace=a&to=b&x=1",
        "namespace=a&to=b&address=x",
        "namespace=a&to=b&header=x",
    ] {
        assert!(Hypothesis::from_query(wrong).is_err(), "{wrong}");
    }
    assert!(Hypothesis::from_query(&format!("namespace={}", "a".repeat(20_000))).is_err());
    let world = shop();
    for wrong in ["namespace=shop&to=books", "namespace=shop&to=a:x"] {
        assert!(why::why(&world.index, &ask(wrong)).is_err(), "{wrong}");
    }
}

/// What the second index says and the first does not, and the other way round, for one thing.
fn changed(old: &Index, change: Object) -> Vec<(String, Vec<String>, Vec<String>)> {
    let mut new = old.clone();
    new.apply([Change::Upsert(change)]);
    differences(old, &new).into_iter().map(|d| (d.about.join("|"), d.gone, d.new)).collect()
}

#[test]
fn a_change_of_manifests_is_told_by_what_it_does() {
    let mut world = shop();
    let books = || vec![parent(ParentKind::Service, "shop/books", None)];
    let made = || route("shop/r", books(), &["/"]);
    world.put(routed(Kind::HttpRoute, made()));
    let old = world.index.clone();
    assert_eq!(changed(&old, routed(Kind::HttpRoute, made())), []);

    let mut split = made();
    split.rules[0].backends = vec![backend("shop/books", 80, 3), backend("shop/none", 80, 1)];
    let found = changed(&old, routed(Kind::HttpRoute, split));
    let [(about, gone, new)] = &found[..] else { panic!("{found:#?}") };
    assert_eq!(about, "Service shop/books port 80");
    assert_eq!(gone, &["HTTPRoute shop/r: any path → Service shop/books:80"]);
    assert_eq!(
        new,
        &[
            "HTTPRoute shop/r: any path → Service shop/books:80 75%, Service shop/none:80 (answers 500: Service shop/none \
           does not exist) 25%"
        ]
    );

    let mut open = server("shop/books-http", "books", TargetPort::Name("http".into()));
    open.access = DefaultPolicy::AllUnauthenticated;
    let found = changed(&old, open.object());
    let [(about, gone, new)] = &found[..] else { panic!("{found:#?}") };
    assert_eq!((about.as_str(), gone.len()), ("ExternalWorkload shop/books-1 port 8080", 0));
    assert_eq!(new, &["default all-unauthenticated admits everybody from anywhere"]);

    let consumer = route("office/c", books(), &["/"]);
    let found = changed(&old, routed(Kind::HttpRoute, consumer));
    assert_eq!(found[0].0, "Service shop/books port 80 for clients of office");
    assert_eq!(found.len(), 1);
}

#[test]
fn an_authorization_of_the_route_is_asked_before_the_servers() {
    let mut world = shop();
    let mut own = route("shop/r", vec![parent(ParentKind::Server, "shop/books-http", None)], &["/api"]);
    own.rules[0].backends = vec![];
    world.put(routed(Kind::HttpRoute, own));
    let target = PolicyTarget::Route(Kind::HttpRoute, "r".into());
    world.put(policy("shop/route-only", target, vec![AuthenticationRef::Account(account("web"))]));
    let expected = ("authorization", "AuthorizationPolicy shop/route-only admits");
    check(&world, "to=books.shop:80&uri=/api/x", "it reaches", None, expected);
}
