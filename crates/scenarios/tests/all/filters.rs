//! What filters do to requests and answers, in front of a service and in front of an application (§3.4, §4.4).

use crate::world::{WEB, either_side, only, plain, routed, ruled, speaking};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use weft_model::meta::Meta;
use weft_model::policy::{InboundProtocol, InboundRoutes, OutboundProtocol};
use weft_model::route::{
    Distribution, Filter, GrpcMatch, HeaderChange, HttpMatch, InjectedAnswer, Injection, PathMatch,
    PathRewrite, Redirect, RequestMatch, Route, Rule,
};
use weft_net::body::Body;
use weft_testkit::application::Application;
use weft_testkit::client::{Raw, ask, exchange, get, http2};
use weft_testkit::plane::Said;
use weft_testkit::policy::{http_route, policy, route, routes, rule, to};

/// `add`, `set` and `remove`, each a list of `name=value`, or names.
fn change(add: &[&'static str], set: &[&'static str], remove: &[&'static str]) -> HeaderChange {
    let pair = |text: &&'static str| {
        let (name, value) = text.split_once('=').unwrap();
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    HeaderChange {
        add: add.iter().map(pair).collect(),
        set: set.iter().map(pair).collect(),
        remove: remove.iter().map(|name| HeaderName::from_static(name)).collect(),
    }
}

fn filtered(filters: Vec<Filter>) -> Vec<Route> {
    vec![only(Rule { filters, ..rule(to(WEB)) })]
}

fn inject(answer: InjectedAnswer, ratio: (u32, u32)) -> Filter {
    Filter::InjectFailure(Injection { answer, message: "an experiment".into(), ratio })
}

#[tokio::test]
async fn request_headers_are_added_then_set_then_removed_filter_by_filter() {
    let first = change(&["a=added", "b=added"], &["b=set", "c=set"], &["c", "d"]);
    let second = change(&["e=later"], &[], &["gone"]);
    let filters = vec![Filter::RequestHeaders(first), Filter::RequestHeaders(second)];
    let app = Application::saying("ok").await;
    for (_mesh, _proxy, at) in either_side(filtered(filters), &app).await {
        let request =
            "GET / HTTP/1.1\r\nhost: web\r\na: mine\r\nb: mine\r\nb: too\r\nd: mine\r\ngone: 1\r\n\r\n";
        assert_eq!(exchange(at, request).await.status, 200);
        let seen = app.seen().pop().unwrap();
        let all = |name: &str| seen.headers().get_all(name).iter().cloned().collect::<Vec<_>>();
        assert_eq!(
            (all("a"), all("b")),
            (vec!["mine".parse().unwrap(), "added".parse().unwrap()], vec!["set".parse().unwrap()])
        );
        assert!(["c", "d", "gone"].iter().all(|name| all(name).is_empty()), "{seen:?}");
        assert_eq!(all("e"), ["later"]);
    }
}

#[tokio::test]
async fn response_headers_are_changed_on_the_way_back() {
    let app = Application::http(|_| async {
        Response::builder().header("a", "its").header("b", "its").body(Body::from("ok")).unwrap()
    })
    .await;
    let filters = vec![Filter::ResponseHeaders(change(&["c=added"], &["a=set"], &["b"]))];
    // The proxy API has no such filter for what comes in.
    let (_mesh, proxy) = routed(filtered(filters), &app).await;
    let answer = get(proxy.upstream(), "/").await;
    assert_eq!((answer.header("a"), answer.header("b"), answer.header("c")), ("set", "", "added"));
    assert_eq!(answer.text(), "ok");
}

#[tokio::test]
async fn a_redirect_keeps_what_it_does_not_name_and_the_connection() {
    let app = Application::saying("ok").await;
    let none = Redirect::default;
    let full = |path: &str| Redirect { path: Some(PathRewrite::Full(path.into())), ..none() };
    let prefix = |path: &str| Redirect { path: Some(PathRewrite::Prefix(path.into())), ..none() };
    let on = |port| Redirect { port: Some(port), ..none() };
    let host = |port| Redirect { host: Some("new".into()), port, ..none() };
    for (redirect, status, location) in [
        (Redirect { scheme: Some("https".into()), ..none() }, 301, "https://web:8080/old/x?q=1"),
        (host(Some(90)), 301, "http://new:90/old/x?q=1"),
        // A port that was asked for and is not the scheme's own is kept.
        (host(None), 301, "http://new:8080/old/x?q=1"),
        (on(90), 301, "http://web:90/old/x?q=1"),
        (on(80), 301, "http://web/old/x?q=1"),
        (full("/there"), 301, "http://web:8080/there?q=1"),
        (full("/there?r=2"), 301, "http://web:8080/there?r=2"),
        (prefix("/new"), 301, "http://web:8080/new/x?q=1"),
        (Redirect { status: Some(StatusCode::FOUND), ..host(Some(90)) }, 302, "http://new:90/old/x?q=1"),
    ] {
        let path = Some(PathMatch::Prefix("/old".into()));
        let matches = vec![RequestMatch::Http(HttpMatch { path, ..HttpMatch::default() })];
        let mut list = vec![route(http_route("it"), matches, to(WEB))];
        list[0].rules[0].filters = vec![Filter::Redirect(redirect.clone())];
        for (_mesh, _proxy, at) in either_side(list, &app).await {
            let mut raw = Raw::connect(at).await;
            for _ in 0..2 {
                raw.send("GET /old/x?q=1 HTTP/1.1\r\nhost: web:8080\r\n\r\n").await;
                let answer = raw.answer().await;
                assert_eq!(
                    (answer.status, answer.header("location")),
                    (status, location),
                    "{redirect:?}: {answer:?}"
                );
                assert_eq!(answer.header("connection"), "", "{redirect:?}");
            }
        }
    }
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn a_redirect_to_where_the_request_already_is_does_nothing() {
    let app = Application::saying("ok").await;
    let here = Redirect { host: Some("web".into()), ..Redirect::default() };
    for (_mesh, _proxy, at) in either_side(filtered(vec![Filter::Redirect(here)]), &app).await {
        assert_eq!(get(at, "/x").await.text(), "ok");
    }
}

#[tokio::test]
async fn a_prefix_is_replaced_only_where_a_prefix_was_matched() {
    let app = Application::saying("ok").await;
    let redirect = Redirect { path: Some(PathRewrite::Prefix("/new".into())), ..Redirect::default() };
    let exact = Some(PathMatch::Exact("/old".into()));
    let matches = vec![RequestMatch::Http(HttpMatch { path: exact, ..HttpMatch::default() })];
    let mut list = vec![route(http_route("it"), matches, to(WEB))];
    list[0].rules[0].filters = vec![Filter::Redirect(redirect)];
    for (_mesh, _proxy, at) in either_side(list, &app).await {
        let answer = get(at, "/old").await;
        assert_eq!((answer.status, answer.header("connection")), (500, "close"), "{answer:?}");
        assert!(answer.header("weft-reason").starts_with("invalid-policy"), "{answer:?}");
    }
}

#[tokio::test]
async fn injected_failures_come_out_as_they_are_configured_on_both_sides() {
    let app = Application::saying("ok").await;
    let teapot = inject(InjectedAnswer::Http(StatusCode::IM_A_TEAPOT), (1, 1));
    for (_mesh, _proxy, at) in either_side(filtered(vec![teapot]), &app).await {
        let mut raw = Raw::connect(at).await;
        for _ in 0..2 {
            raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
            let told = raw.answer().await;
            assert_eq!((told.status, told.header("connection")), (418, ""), "{told:?}");
            assert!(told.header("weft-reason").starts_with("injected-failure"), "{told:?}");
        }
    }
    // A gRPC route says a gRPC code.
    let mut list = vec![route(http_route("it"), vec![RequestMatch::Grpc(GrpcMatch::default())], to(WEB))];
    list[0].rules[0].filters = vec![inject(InjectedAnswer::Grpc(10), (1, 1))];
    let (mesh, client) = plain(&[&app], &[]).await;
    mesh.facts.outbound(WEB, Said::Told(policy(OutboundProtocol::Grpc(routes(list.clone())))));
    list[0].rules[0].backends = Distribution::Application;
    let http = InboundRoutes { routes: list.into(), rate_limit: None };
    let (_other, server) = speaking(InboundProtocol::Grpc(http), &app).await;
    for at in [client.upstream(), server.bind()] {
        let mut client = http2(at).await;
        for _ in 0..2 {
            let call = Request::post("http://web/pkg.Svc/Call").header("content-type", "application/grpc");
            let call = call.header("te", "trailers").body(Body::empty()).unwrap();
            let told = ask(&mut client, call).await.unwrap();
            assert_eq!(
                (told.status().as_u16(), &told.headers()["grpc-status"]),
                (200, &"10".parse().unwrap())
            );
        }
    }
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn failures_are_injected_into_the_share_of_requests_that_is_configured() {
    let app = Application::saying("ok").await;
    let teapot = || InjectedAnswer::Http(StatusCode::IM_A_TEAPOT);
    for (ratio, expected) in [((0, 1), 0..1), ((1, 4), 50..151)] {
        for (_mesh, _proxy, at) in either_side(filtered(vec![inject(teapot(), ratio)]), &app).await {
            let mut raw = Raw::connect(at).await;
            let mut injected = 0;
            for _ in 0..400 {
                raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
                injected += u32::from(raw.answer().await.status == 418);
            }
            // Of 400 draws at 1/4, fewer than 50 or more than 150 come out once in 10⁸ runs.
            assert!(expected.contains(&injected), "{ratio:?}: {injected}");
        }
    }
}

#[tokio::test]
async fn the_first_filter_that_answers_is_the_last_that_runs() {
    let app = Application::saying("ok").await;
    let teapot = || inject(InjectedAnswer::Http(StatusCode::IM_A_TEAPOT), (1, 1));
    let away = || Filter::Redirect(Redirect { host: Some("new".into()), ..Redirect::default() });
    for (filters, status) in [(vec![teapot(), away()], 418), (vec![away(), teapot()], 301)] {
        for (_mesh, _proxy, at) in either_side(filtered(filters), &app).await {
            assert_eq!(get(at, "/").await.status, status);
        }
    }
}

#[tokio::test]
async fn a_filter_that_makes_no_sense_fails_its_requests_and_no_others() {
    let app = Application::saying("ok").await;
    let path = |path: &str| {
        let path = Some(PathMatch::Prefix(path.into()));
        vec![RequestMatch::Http(HttpMatch { path, ..HttpMatch::default() })]
    };
    let good = route(http_route("good"), path("/"), to(WEB));
    for ratio in [(2, 1), (1, 0)] {
        let mut list = vec![route(http_route("bad"), path("/bad"), to(WEB)), good.clone()];
        list[0].rules[0].filters = vec![inject(InjectedAnswer::Http(StatusCode::IM_A_TEAPOT), ratio)];
        for (_mesh, _proxy, at) in either_side(list.clone(), &app).await {
            let answer = get(at, "/bad").await;
            assert_eq!((answer.status, answer.header("connection")), (500, "close"), "{answer:?}");
            assert!(answer.header("weft-reason").starts_with("invalid-policy"), "{answer:?}");
            assert_eq!(get(at, "/good").await.text(), "ok");
        }
        // Strangers from elsewhere learn no more; a proxy's own clients do.
        let (_mesh, proxy) = routed(list, &app).await;
        let answer = get(proxy.upstream(), "/bad").await;
        assert!(answer.header("l5d-proxy-error").contains("ratio"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_backends_filters_run_after_the_rules() {
    let app = Application::saying("ok").await;
    let Distribution::FirstAvailable(mut backends) = to(WEB) else { unreachable!() };
    backends[0].filters = vec![
        Filter::RequestHeaders(change(&[], &["who=backend"], &[])),
        Filter::ResponseHeaders(change(&["passed=backend"], &[], &[])),
    ];
    let filters = vec![
        Filter::RequestHeaders(change(&[], &["who=rule", "rule=ran"], &[])),
        Filter::ResponseHeaders(change(&["passed=rule"], &[], &[])),
    ];
    let rule = Rule { filters, ..rule(Distribution::FirstAvailable(backends)) };
    let (_mesh, proxy) = ruled(rule, &app).await;
    let answer = get(proxy.upstream(), "/").await;
    // The last field of a name that stands more than once.
    assert_eq!((answer.status, answer.header("passed")), (200, "rule"), "{answer:?}");
    let seen = app.seen().pop().unwrap();
    assert_eq!(
        (&seen.headers()["who"], &seen.headers()["rule"]),
        (&"backend".parse().unwrap(), &"ran".parse().unwrap())
    );
}

#[tokio::test]
async fn what_an_egress_network_denies_is_told_as_forbidden_and_the_connection_kept() {
    let app = Application::saying("ok").await;
    let mut list = vec![route(Meta::default_named("http-egress-deny"), vec![], to(WEB))];
    list[0].rules[0].filters = vec![Filter::Forbidden];
    let (_mesh, proxy) = routed(list, &app).await;
    let mut raw = Raw::connect(proxy.upstream()).await;
    for _ in 0..2 {
        raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (403, ""), "{answer:?}");
        assert!(answer.header("weft-reason").starts_with("forbidden"), "{answer:?}");
    }
    assert!(app.seen().is_empty());
}
