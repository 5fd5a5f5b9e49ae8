//! Circuit breaking through proxies: what takes an endpoint out, what brings it back, and what is told meanwhile (§3.6).

use crate::world::{WEB, plain};
use http::{Request, Response};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;
use weft_model::destination::EndpointInfo;
use weft_model::policy::{FailureAccrual, HttpRoutes};
use weft_model::route::{Backoff, Distribution, LoadParams, Penalty, Queue};
use weft_net::body::Body;
use weft_testkit::application::{Application, with_trailers};
use weft_testkit::client::{Raw, ask, get, http2};
use weft_testkit::mesh::{Mesh, Running};
use weft_testkit::plane::Said;
use weft_testkit::policy::{balanced, http_route, policy, route, routes, to};
use weft_testkit::until;

/// Answers with whatever status it is told to.
struct Moody {
    app: Application,
    status: Arc<AtomicU16>,
}

impl Moody {
    async fn new(status: u16) -> Self {
        let status = Arc::new(AtomicU16::new(status));
        let answers = status.clone();
        let app = Application::http(move |_| {
            let status = answers.load(Ordering::Relaxed);
            async move { Response::builder().status(status).body(Body::from("x")).unwrap() }
        });
        Self { app: app.await, status }
    }

    fn asked(&self) -> usize {
        self.app.seen().len()
    }
}

fn backoff(wait: Duration) -> Backoff {
    Backoff { min: wait, max: wait, jitter: 0.0 }
}

/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);
/// Short enough to be waited for.
const SHORT: Duration = Duration::from_millis(300);

fn consecutive(max_failures: u32, wait: Duration) -> FailureAccrual {
    FailureAccrual::Consecutive { max_failures, backoff: backoff(wait) }
}

fn by_rate(max_consecutive: u32) -> FailureAccrual {
    FailureAccrual::Unified {
        success_rate: 0.7,
        window: Duration::from_secs(60),
        min_requests: 10,
        max_consecutive,
        backoff: backoff(LONG),
        respect_retry_after: false,
    }
}

/// A client's proxy in front of these, with a breaker for each.
async fn broken(apps: &[&Application], breaker: FailureAccrual, min_ready: u32) -> (Mesh, Running) {
    let (mesh, proxy) = plain(apps, &[]).await;
    let list = vec![route(http_route("it"), vec![], to(WEB))];
    let http = HttpRoutes { breaker: Some(breaker), min_ready, ..routes(list) };
    mesh.facts.outbound(WEB, Said::Told(policy(crate::world::same(http))));
    (mesh, proxy)
}

/// Statuses of so many requests in a row.
async fn statuses(proxy: &Running, count: usize) -> Vec<u16> {
    let mut raw = Raw::connect(proxy.upstream()).await;
    let mut all = Vec::new();
    for _ in 0..count {
        raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
        all.push(raw.answer().await.status);
    }
    all
}

#[tokio::test]
async fn an_endpoint_that_fails_so_often_in_a_row_is_left_alone() {
    let (bad, good) = (Moody::new(500).await, Moody::new(200).await);
    let (mesh, proxy) = broken(&[&bad.app], consecutive(3, LONG), 0).await;
    assert_eq!(statuses(&proxy, 3).await, [500; 3]);
    let both = [&bad.app, &good.app].map(|app| EndpointInfo::plain(app.addr));
    mesh.facts.endpoints(WEB, Said::Told(both.to_vec()));
    assert_eq!(statuses(&proxy, 300).await, [200; 300]);
    assert_eq!((bad.asked(), good.asked()), (3, 300));
    let state = proxy.state().await.to_string();
    assert!(state.contains("3 failures in a row, the last HTTP 500; left alone for 600000 ms"), "{state}");
}

#[tokio::test]
async fn successes_in_between_keep_it_in_use() {
    let asked = AtomicUsize::new(0);
    let asked = Arc::new(asked);
    let app = Application::http(move |_| {
        let status = if asked.fetch_add(1, Ordering::Relaxed) % 3 == 2 { 200 } else { 500 };
        async move { Response::builder().status(status).body(Body::empty()).unwrap() }
    })
    .await;
    let (_mesh, proxy) = broken(&[&app], consecutive(3, LONG), 0).await;
    let statuses = statuses(&proxy, 30).await;
    assert!(!statuses.contains(&503), "{statuses:?}");
}

#[tokio::test]
async fn where_all_are_left_alone_the_answer_says_what_the_last_one_failed_with() {
    let bad = Moody::new(502).await;
    let (_mesh, proxy) = broken(&[&bad.app], consecutive(2, LONG), 0).await;
    assert_eq!(statuses(&proxy, 2).await, [502, 502]);
    // The first to come waits for the queue's patience, and whoever comes then is shed at once.
    let (first, then) = (get(proxy.upstream(), "/").await, get(proxy.upstream(), "/").await);
    assert_eq!((first.status, then.status), (504, 503));
    for answer in [first, then] {
        let why = answer.header("weft-reason");
        assert!(why.starts_with("all-ejected; hop=outbound"), "{why}");
        assert!(why.contains(&format!("endpoint=\"{}\"", bad.app.addr)), "{why}");
        assert!(why.contains("2 failures in a row, the last HTTP 502"), "{why}");
    }
    assert_eq!(bad.asked(), 2);
}

#[tokio::test]
async fn one_probe_decides_whether_it_is_used_again() {
    let bad = Moody::new(500).await;
    let (_mesh, proxy) = broken(&[&bad.app], consecutive(1, SHORT), 0).await;
    assert_eq!(statuses(&proxy, 1).await, [500]);
    // Whoever waits is the probe, and fails; the next one waits again.
    assert_eq!(statuses(&proxy, 1).await, [500]);
    assert_eq!(bad.asked(), 2);
    let state = proxy.state().await.to_string();
    assert!(state.contains("the probe failed, HTTP 500"), "{state}");
    bad.status.store(200, Ordering::Relaxed);
    assert_eq!(statuses(&proxy, 50).await, [200; 50]);
    assert_eq!(proxy.metric("outbound_http_balancer_ejections_total", &[]).await, 2.0);
}

#[tokio::test]
async fn an_endpoint_below_its_success_rate_is_left_alone() {
    // Every other request fails, so that never two in a row do.
    let asked = Arc::new(AtomicUsize::new(0));
    let app = Application::http(move |_| {
        let status = if asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) { 500 } else { 200 };
        async move { Response::builder().status(status).body(Body::empty()).unwrap() }
    })
    .await;
    let (_mesh, proxy) = broken(&[&app], by_rate(0), 0).await;
    // Not before there were enough to tell.
    statuses(&proxy, 10).await;
    assert_eq!(app.seen().len(), 10);
    let answer = get(proxy.upstream(), "/").await;
    assert!(answer.header("weft-reason").contains("5 of 10 requests succeeded"), "{answer:?}");
}

#[tokio::test]
async fn being_told_to_slow_down_lowers_the_rate_and_is_no_failure_in_a_row() {
    let slow = Moody::new(429).await;
    let (_mesh, proxy) = broken(&[&slow.app], by_rate(5), 0).await;
    assert_eq!(statuses(&proxy, 10).await, [429; 10], "twice five, and none of them counts in a row");
    let answer = get(proxy.upstream(), "/").await;
    assert!(answer.header("weft-reason").contains("0 of 10 requests succeeded"), "{answer:?}");
    // The breaker by failures in a row alone has nothing against it.
    let (_mesh, proxy) = broken(&[&slow.app], consecutive(5, LONG), 0).await;
    assert_eq!(statuses(&proxy, 20).await, [429; 20]);
}

#[tokio::test]
async fn grpc_calls_are_judged_by_their_code_also_under_an_http_route() {
    for (code, fails) in [
        ("0", false),
        ("1", false),
        ("2", true),
        ("3", false),
        ("4", true),
        ("5", false),
        ("7", true),
        ("9", false),
        ("12", false),
        ("13", true),
        ("14", true),
        ("15", true),
        ("16", false),
    ] {
        let app = Application::http(move |_| async move {
            let response = Response::builder().header("content-type", "application/grpc");
            response.body(with_trailers(&["a message"], &[("grpc-status", code)])).unwrap()
        })
        .await;
        let (_mesh, proxy) = broken(&[&app], consecutive(2, LONG), 0).await;
        let mut client = http2(proxy.upstream()).await;
        for _ in 0..2 {
            let call = Request::post("http://web/a.B/C").header("content-type", "application/grpc");
            let answer = ask(&mut client, call.body(Body::empty()).unwrap()).await.unwrap();
            let _ = weft_testkit::application::read(answer.into_body()).await;
        }
        let ejections = proxy.metric("outbound_http_balancer_ejections_total", &[]).await;
        assert_eq!(ejections > 0.0, fails, "gRPC {code}");
    }
}

#[tokio::test]
async fn what_breaks_off_is_a_failure_too() {
    let gone = Application::tcp(|tcp| async move { drop(tcp) }).await;
    let (_mesh, proxy) = broken(&[&gone], consecutive(2, LONG), 0).await;
    // Such a request is sent to nobody else and fails.
    for _ in 0..2 {
        let mut raw = Raw::connect(proxy.upstream()).await;
        raw.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(raw.answer().await.status, 502);
    }
    let answer = get(proxy.upstream(), "/").await;
    assert!(answer.header("weft-reason").contains("the last connection-lost"), "{answer:?}");
}

#[tokio::test]
async fn so_many_endpoints_stay_in_use_however_they_fail() {
    let (one, other) = (Moody::new(500).await, Moody::new(500).await);
    let (_mesh, proxy) = broken(&[&one.app, &other.app], consecutive(2, LONG), 1).await;
    let statuses = statuses(&proxy, 40).await;
    assert_eq!(statuses, [500; 40], "one of them is left, and answers as well as it can");
    assert_eq!(proxy.metric("outbound_http_balancer_ejections_total", &[]).await, 1.0);
}

#[tokio::test]
async fn what_asks_to_be_left_alone_counts_as_slow_for_that_long() {
    // One of two answers quickly and says it is overloaded; the other one takes its time.
    let hasty = Application::http(|_| async {
        Response::builder().status(503).header("retry-after", "60").body(Body::empty()).unwrap()
    })
    .await;
    let fine = Moody::new(200).await;
    let penalty = Penalty {
        penalty: Duration::from_millis(100),
        max_retry_after: Duration::from_secs(300),
        decay: Duration::from_secs(10),
    };
    let load = LoadParams { penalty: Some(penalty), ..LoadParams::default() };
    let backends = Distribution::FirstAvailable(vec![balanced(WEB, Queue::default(), load)]);
    let (mesh, proxy) = plain(&[&hasty, &fine.app], &[]).await;
    let list = vec![route(http_route("it"), vec![], backends)];
    mesh.facts.outbound(WEB, Said::Told(policy(crate::world::same(routes(list)))));
    statuses(&proxy, 200).await;
    // Once at most it was chosen before it was known.
    assert!(hasty.seen().len() <= 1, "{}", hasty.seen().len());
    let estimates = async || {
        let state = proxy.state().await;
        let endpoints = &state["outbound"][0]["plan"]["http"][0]["backends"][0]["endpoints"];
        endpoints
            .as_array()
            .map(|all| all.iter().filter_map(|e| e["estimate_ms"].as_f64()).fold(0.0, f64::max))
    };
    if !hasty.seen().is_empty() {
        until("the pause is believed", async || estimates().await.is_some_and(|most| most > 30_000.0)).await;
    }
}
