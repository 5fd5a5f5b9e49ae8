//! Service profiles: routes by condition, what counts as a failure, retries within their budget, time limits.

use crate::world::{Pair, WEB, plain, proxy_of};
use http::{Response, StatusCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use weft_model::profile::{Profile, ProfileRoute, ResponseClass, ResponseCondition};
use weft_model::route::{Condition, Pattern, RetryBudget, StatusRange};
use weft_net::body::Body;
use weft_testkit::application::Application;
use weft_testkit::client::{Raw, exchange, get};
use weft_testkit::mesh::{Mesh, Running};
use weft_testkit::plane::Said;
use weft_testkit::until;

/// A route for everything, called `name` in metrics.
fn route(name: &str) -> ProfileRoute {
    ProfileRoute {
        condition: Condition::All(Vec::new()),
        classes: Vec::new(),
        labels: Arc::new([("route".to_owned(), name.to_owned())].into()),
        retryable: false,
        timeout: None,
    }
}

fn class(min: u16, max: u16, is_failure: bool) -> ResponseClass {
    ResponseClass { condition: ResponseCondition::Status(StatusRange { min, max }), is_failure }
}

/// A budget of so many retries for each request, and none on top.
fn budget(ratio: f32) -> RetryBudget {
    RetryBudget { ttl: Duration::from_secs(60), min_per_second: 0, ratio }
}

fn profile(routes: Vec<ProfileRoute>, retry_budget: Option<RetryBudget>) -> Said<Profile> {
    let logical = Some(WEB.parse().unwrap());
    Said::Told(Profile { logical, routes, retry_budget, ..Profile::default() })
}

/// An application that answers with the status in its path, and counts.
async fn as_asked() -> (Application, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let app = Application::http(move |request| {
        counted.fetch_add(1, Ordering::Relaxed);
        let status = request.uri().path().rsplit('/').next().and_then(|s| s.parse().ok());
        let mut response = Response::new(Body::full("x"));
        *response.status_mut() = status.unwrap_or(StatusCode::OK);
        async { response }
    });
    (app.await, count)
}

async fn profiled(
    routes: Vec<ProfileRoute>,
    budget: Option<RetryBudget>,
) -> (Mesh, Running, Arc<AtomicUsize>, Application) {
    let (app, count) = as_asked().await;
    let (mesh, proxy) = plain(&[&app], &[]).await;
    mesh.facts.profile(WEB, profile(routes, budget));
    (mesh, proxy, count, app)
}

/// Waits until a metric has a value, and expects that it is not more.
async fn counts(proxy: &Running, name: &str, labels: &[&str], expected: f64) {
    until(&format!("{name} {labels:?} is {expected}"), async || proxy.metric(name, labels).await >= expected)
        .await;
    assert_eq!(proxy.metric(name, labels).await, expected, "{name} {labels:?}");
}

#[tokio::test]
async fn requests_are_counted_under_the_first_route_whose_condition_holds() {
    let condition = Condition::All(vec![
        Condition::Method(http::Method::GET),
        Condition::Not(Box::new(Condition::Path(Pattern("/private/.*".into())))),
        Condition::Any(vec![
            Condition::Path(Pattern("/books(/.*)?".into())),
            Condition::Path(Pattern("/private/.*".into())),
        ]),
    ]);
    let routes = vec![ProfileRoute { condition, ..route("books") }, route("rest")];
    let (_mesh, proxy, _count, app) = profiled(routes, None).await;
    for (path, times) in [("/books", 2), ("/books/1", 1), ("/private/1", 1), ("/booksellers", 1)] {
        for _ in 0..times {
            assert_eq!(get(proxy.upstream(), path).await.status, 200);
        }
    }
    counts(&proxy, "route_response_total", &["rt_route=\"books\""], 3.0).await;
    counts(&proxy, "route_response_total", &["rt_route=\"rest\"", &format!("dst=\"{WEB}\"")], 2.0).await;
    let meant = app.seen()[0].headers().get("l5d-dst-canonical").cloned();
    assert_eq!(meant, Some(WEB.parse().unwrap()), "the other side learns which name was meant");
}

#[tokio::test]
async fn response_classes_say_what_counts_as_a_failure() {
    let classes = vec![class(404, 409, true), class(500, 599, false)];
    let (_mesh, proxy, _count, _app) = profiled(vec![ProfileRoute { classes, ..route("r") }], None).await;
    for status in [200, 404, 410, 500] {
        assert_eq!(get(proxy.upstream(), &format!("/{status}")).await.status, status);
    }
    for (status, class) in [(200, "success"), (404, "failure"), (410, "success"), (500, "success")] {
        let labels = [format!("status_code=\"{status}\""), format!("classification=\"{class}\"")];
        let labels = ["rt_route=\"r\"", &labels[0], &labels[1]];
        counts(&proxy, "route_response_total", &labels, 1.0).await;
    }
}

#[tokio::test]
async fn response_classes_decide_what_is_retried() {
    let classes = vec![class(404, 404, true), class(500, 500, false)];
    let route = ProfileRoute { classes, retryable: true, ..route("r") };
    let (_mesh, proxy, count, _app) = profiled(vec![route], Some(budget(1.0))).await;
    assert_eq!(get(proxy.upstream(), "/500").await.status, 500);
    assert_eq!(count.load(Ordering::Relaxed), 1, "a success by class is not retried");
    assert_eq!(get(proxy.upstream(), "/404").await.status, 404);
    assert!(count.load(Ordering::Relaxed) > 2, "a failure by class is");
}

#[tokio::test]
async fn a_retried_request_is_one_request_and_several_attempts() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let app = Application::http(move |_| {
        let mut response = Response::new(Body::full("x"));
        if counted.fetch_add(1, Ordering::Relaxed) == 0 {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        async { response }
    });
    let app = app.await;
    let (mesh, proxy) = plain(&[&app], &[]).await;
    mesh.facts.profile(WEB, profile(vec![ProfileRoute { retryable: true, ..route("r") }], Some(budget(1.0))));
    assert_eq!(get(proxy.upstream(), "/").await.status, 200);
    for (name, labels, expected) in [
        ("route_request_total", &[] as &[&str], 1.0),
        ("route_response_total", &[], 1.0),
        ("route_response_total", &["classification=\"success\""], 1.0),
        ("route_actual_request_total", &[], 2.0),
        ("route_actual_response_total", &[], 2.0),
        ("route_actual_response_total", &["classification=\"failure\"", "status_code=\"503\""], 1.0),
        ("route_retryable_total", &[], 1.0),
        ("request_total", &["direction=\"outbound\""], 2.0),
        ("response_total", &["direction=\"outbound\""], 2.0),
    ] {
        counts(&proxy, name, labels, expected).await;
    }
}

#[tokio::test]
async fn an_exhausted_budget_ends_retries_and_is_counted() {
    let route = ProfileRoute { retryable: true, ..route("r") };
    let (_mesh, proxy, count, _app) = profiled(vec![route], Some(budget(0.5))).await;
    let mut raw = Raw::connect(proxy.upstream()).await;
    for _ in 0..10 {
        raw.send("GET /500 HTTP/1.1\r\nhost: web\r\n\r\n").await;
        assert_eq!(raw.answer().await.status, 500, "what the application said, when there is no budget");
    }
    assert_eq!(count.load(Ordering::Relaxed), 15, "ten requests pay for five retries");
    counts(&proxy, "route_retryable_total", &["skipped=\"no_budget\""], 10.0).await;
    counts(&proxy, "route_request_total", &[], 10.0).await;
    counts(&proxy, "route_actual_request_total", &[], 15.0).await;
}

#[tokio::test]
async fn without_a_budget_nothing_is_retried() {
    let route = ProfileRoute { retryable: true, ..route("r") };
    let (_mesh, proxy, count, _app) = profiled(vec![route], None).await;
    assert_eq!(get(proxy.upstream(), "/500").await.status, 500);
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_request_body_is_retried_whole_and_too_large_a_one_not_at_all() {
    let route = ProfileRoute { retryable: true, ..route("r") };
    let (bodies, lengths) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (b, l) = (bodies.clone(), lengths.clone());
    let app = Application::http(move |request| {
        let (bodies, lengths) = (b.clone(), l.clone());
        async move {
            let (body, _) = weft_testkit::application::read(request.into_body()).await.unwrap();
            bodies.fetch_add(1, Ordering::Relaxed);
            lengths.fetch_add(body.len(), Ordering::Relaxed);
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        }
    });
    let app = app.await;
    let (mesh, proxy) = plain(&[&app], &[]).await;
    mesh.facts.profile(WEB, profile(vec![route], Some(budget(1.0))));
    let post = async |size: usize| {
        let mut raw = Raw::connect(proxy.upstream()).await;
        raw.send(format!("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: {size}\r\n\r\n")).await;
        raw.send(vec![b'x'; size]).await;
        assert_eq!(raw.answer().await.status, 502);
        (bodies.swap(0, Ordering::Relaxed), lengths.swap(0, Ordering::Relaxed))
    };
    assert_eq!(post(64 << 10).await, (2, 128 << 10));
    assert_eq!(post((64 << 10) + 1).await, (1, (64 << 10) + 1));
}

#[tokio::test]
async fn a_routes_timeout_covers_all_attempts_and_spares_other_routes() {
    let app = Application::http(|request| async move {
        if request.uri().path() == "/hang" {
            std::future::pending::<()>().await;
        }
        Response::new(Body::full("x"))
    });
    let app = app.await;
    let (mesh, proxy) = plain(&[&app], &[]).await;
    let limit = Duration::from_millis(100);
    let condition = Condition::Path(Pattern("/hang".into()));
    let hanging = ProfileRoute { condition, timeout: Some(limit), retryable: true, ..route("hang") };
    mesh.facts.profile(WEB, profile(vec![hanging, route("rest")], Some(budget(10.0))));
    let mut raw = Raw::connect(proxy.upstream()).await;
    for _ in 0..3 {
        raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
        assert_eq!(raw.answer().await.status, 200);
    }
    raw.send("GET /hang HTTP/1.1\r\nhost: web\r\n\r\n").await;
    let answer = raw.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (504, "close"), "{answer:?}");
    assert!(answer.header("weft-reason").starts_with("profile-timeout"), "{answer:?}");
    assert_eq!(raw.rest().await, b"");
    // The request was sent to an endpoint and ended there without an answer: that is counted, too.
    for (name, labels) in [
        ("route_response_total", ["rt_route=\"hang\"", "error=\"profile-timeout\""]),
        ("route_actual_response_total", ["rt_route=\"hang\"", "error=\"profile-timeout\""]),
        ("response_total", ["direction=\"outbound\"", "error=\"profile-timeout\""]),
    ] {
        counts(&proxy, name, &labels, 1.0).await;
    }
}

#[tokio::test]
async fn a_profile_that_changes_rules_the_next_request_of_a_live_connection() {
    let (mesh, proxy, count, _app) = profiled(vec![route("before")], Some(budget(1.0))).await;
    let mut raw = Raw::connect(proxy.upstream()).await;
    let mut ask = async || {
        raw.send("GET /500 HTTP/1.1\r\nhost: web\r\n\r\n").await;
        assert_eq!(raw.answer().await.status, 500);
        count.swap(0, Ordering::Relaxed)
    };
    assert_eq!(ask().await, 1);
    mesh.facts.profile(WEB, profile(vec![ProfileRoute { retryable: true, ..route("r") }], Some(budget(1.0))));
    until("failures are retried", async || ask().await == 2).await;
}

/// A request for a path, by the service's full name.
fn named(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: web.default.svc.cluster.local\r\n\r\n")
}

#[tokio::test]
async fn what_comes_in_is_counted_and_judged_by_the_routes_of_its_names_profile() {
    let (app, _) = as_asked().await;
    let pair = Pair::around(app).await;
    let books = Condition::Path(Pattern("/books(/.*)?".into()));
    let classes = vec![class(404, 404, true)];
    let route = ProfileRoute { condition: books, classes, retryable: true, ..route("books") };
    pair.mesh.facts.profile(WEB, profile(vec![route], Some(budget(1.0))));
    // From a stranger, from a peer that says the name, and by its profile one that says another name.
    for path in ["/books/200", "/books/404", "/else/200"] {
        let status = path.rsplit('/').next().unwrap().parse::<u16>().unwrap();
        assert_eq!(exchange(pair.server.bind(), &named(path)).await.status, status);
    }
    assert_eq!(exchange(pair.client.upstream(), &named("/books/200")).await.status, 200);
    assert_eq!(get(pair.client.upstream(), "/books/201").await.status, 201);
    let dst = format!("dst=\"{WEB}\"");
    let inbound = ["direction=\"inbound\"", dst.as_str(), "rt_route=\"books\""];
    let with = |more: &[&'static str]| [&inbound[..], more].concat();
    for (labels, expected) in [
        (&[][..], 4.0),
        (&["status_code=\"404\"", "classification=\"failure\""], 1.0),
        (&["status_code=\"200\"", "classification=\"success\""], 2.0),
        (&["status_code=\"201\"", "classification=\"success\""], 1.0),
    ] {
        counts(&pair.server, "route_response_total", &with(labels), expected).await;
    }
    counts(&pair.server, "route_request_total", &inbound, 4.0).await;
    counts(&pair.server, "route_response_latency_ms_count", &inbound, 4.0).await;
    counts(&pair.server, "route_request_total", &[], 4.0).await;
    let failed = ["direction=\"inbound\"", "status_code=\"404\"", "classification=\"failure\""];
    counts(&pair.server, "response_total", &failed, 1.0).await;
    assert_eq!(pair.server.metric("route_actual_request_total", &[]).await, 0.0, "retries are the caller's");
}

#[tokio::test]
async fn a_profile_of_what_comes_in_is_shared_follows_changes_and_is_given_up_when_unused() {
    let (app, _) = as_asked().await;
    let mesh = Mesh::new();
    let short = [("INBOUND_DISCOVERY_IDLE_TIMEOUT", "20ms"), ("OUTBOUND_DISCOVERY_IDLE_TIMEOUT", "20ms")];
    let server = proxy_of(&mesh, "web", &app, &short).await;
    mesh.facts.profile(WEB, profile(vec![route("before")], None));
    let question = format!("profile {WEB}");
    let (mut first, mut second) = (Raw::connect(server.bind()).await, Raw::connect(server.bind()).await);
    for raw in [&mut first, &mut second] {
        raw.send(named("/200")).await;
        assert_eq!(raw.answer().await.status, 200);
    }
    counts(&server, "route_request_total", &["rt_route=\"before\""], 2.0).await;
    mesh.facts.profile(WEB, profile(vec![route("after")], None));
    until("the new route counts", async || {
        first.send(named("/200")).await;
        first.answer().await;
        server.metric("route_request_total", &["rt_route=\"after\""]).await > 0.0
    })
    .await;
    assert_eq!(mesh.facts.asked(&question), 1, "one watch for both, and for all time");
    let watched = async || server.state().await["lookups"].to_string().contains(WEB);
    assert!(watched().await);
    // Names that have no profile are not asked about.
    for host in ["elsewhere.example", "10.0.0.1", "web"] {
        first.send(format!("GET /200 HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!(first.answer().await.status, 200);
    }
    assert_eq!(mesh.facts.asked("profile "), 1);
    drop(second);
    until("it is given up", async || !watched().await).await;
}

#[tokio::test]
async fn a_control_plane_that_says_nothing_of_a_name_holds_what_comes_in_up_only_once() {
    let (app, _) = as_asked().await;
    let mesh = Mesh::new();
    let server = proxy_of(&mesh, "web", &app, &[]).await;
    mesh.facts.profile(WEB, Said::Silence);
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(exchange(server.bind(), &named("/200")).await.status, 200);
    }
    assert!(began.elapsed() >= Duration::from_millis(500), "the first waited");
    assert!(began.elapsed() < Duration::from_secs(4), "others would have waited 500 ms each");
    mesh.facts.profile(WEB, profile(vec![route("late")], None));
    until("the late answer counts", async || {
        exchange(server.bind(), &named("/200")).await;
        server.metric("route_request_total", &["rt_route=\"late\""]).await > 0.0
    })
    .await;
}
