//! Retries by a policy's own rules, and what is counted of them.

use crate::world::{WEB, plain, ruled};
use http::{Request, Response, StatusCode};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use weft_model::route::{Backoff, Distribution, RetryPolicy, Rule, StatusRange};
use weft_net::body::Body;
use weft_testkit::application::{Application, takes};
use weft_testkit::client::{Answer, Raw, ask, get, http2};
use weft_testkit::mesh::Running;
use weft_testkit::plane::Said;
use weft_testkit::policy::{rule, to};
use weft_testkit::until;

/// An application that answers with these statuses in turn, and then 200.
async fn answering(statuses: &[u16]) -> Application {
    let left = Arc::new(Mutex::new(statuses.iter().copied().collect::<VecDeque<_>>()));
    Application::http(move |_| {
        let status = left.lock().unwrap().pop_front().unwrap_or(200);
        let mut response = Response::new(Body::full("x"));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        async { response }
    })
    .await
}

/// Retries 503 so often.
fn retrying(limit: u32, backends: Distribution) -> Rule {
    let retry = RetryPolicy {
        limit,
        max_request_bytes: 1024,
        http: vec![StatusRange { min: 503, max: 503 }],
        grpc: Vec::new(),
        timeout: None,
        backoff: None,
        respect_retry_after: false,
    };
    Rule { retry: Some(retry), ..rule(backends) }
}

/// Retries sent, those that succeeded, requests out of retries, and retries that nobody was ready for.
async fn counts(proxy: &Running) -> [f64; 4] {
    let mut counts = [0.0; 4];
    for (count, name) in counts.iter_mut().zip(["requests", "successes", "limit_exceeded", "overflow"]) {
        let name = format!("outbound_http_route_retry_{name}_total");
        *count = proxy.metric(&name, &["route_name=\"it\""]).await;
    }
    counts
}

#[tokio::test]
async fn retries_are_counted_with_those_that_succeed_and_requests_that_run_out() {
    let app = answering(&[503, 503]).await;
    let (_mesh, proxy) = ruled(retrying(2, to(WEB)), &app).await;
    assert_eq!(get(proxy.upstream(), "/").await.status, 200);
    assert_eq!(counts(&proxy).await, [2.0, 1.0, 0.0, 0.0]);
    assert_eq!(get(proxy.upstream(), "/").await.status, 200);
    assert_eq!(counts(&proxy).await, [2.0, 1.0, 0.0, 0.0], "nothing was retried");

    let app = answering(&[503; 3]).await;
    let (_mesh, proxy) = ruled(retrying(2, to(WEB)), &app).await;
    assert_eq!(get(proxy.upstream(), "/").await.status, 503);
    assert_eq!(counts(&proxy).await, [2.0, 0.0, 1.0, 0.0]);
}

#[tokio::test]
async fn a_retry_that_nobody_is_ready_for_is_not_waited_for() {
    let go_on = Arc::new(Notify::new());
    let gate = go_on.clone();
    let app = Application::http(move |_| {
        let gate = gate.clone();
        async move {
            gate.notified().await;
            let mut response = Response::new(Body::full("mine"));
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response
        }
    });
    let app = app.await;
    let (mesh, proxy) = ruled(retrying(1, to(WEB)), &app).await;
    let asking = tokio::spawn(get_owned(proxy.upstream()));
    until("the request is under way", async || app.seen().len() == 1).await;
    mesh.facts.endpoints(WEB, Said::Told(Vec::new()));
    until("the endpoint is gone", async || {
        proxy.metric("outbound_http_balancer_p2c_endpoints", &[]).await == 0.0
    })
    .await;
    go_on.notify_one();
    let answer = asking.await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (503, "mine"), "{answer:?}");
    assert_eq!(counts(&proxy).await, [0.0, 0.0, 0.0, 1.0]);
}

async fn get_owned(from: SocketAddr) -> Answer {
    get(from, "/").await
}

#[tokio::test]
async fn a_retry_whose_answer_is_long_in_coming_still_arrives() {
    let asked = Arc::new(AtomicUsize::new(0));
    let app = Application::http(move |_| {
        let first = asked.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            let mut response = Response::new(Body::full("late"));
            if first {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                return response;
            }
            // Longer than an HTTP/1 connection with nothing under way keeps its buffers.
            takes(Duration::from_secs(2)).await;
            response
        }
    });
    let app = app.await;
    let (_mesh, proxy) = ruled(retrying(1, to(WEB)), &app).await;
    assert_eq!(get(proxy.upstream(), "/").await.text(), "late");
}

#[tokio::test]
async fn retries_keep_the_distance_that_their_rule_wants() {
    let pause = Duration::from_millis(300);
    let app = answering(&[503, 503]).await;
    let mut rule = retrying(2, to(WEB));
    if let Some(retry) = &mut rule.retry {
        retry.backoff = Some(Backoff { min: pause, max: pause, jitter: 0.0 });
    }
    let (_mesh, proxy) = ruled(rule, &app).await;
    let begun = Instant::now();
    assert_eq!(get(proxy.upstream(), "/").await.status, 200);
    assert!(begun.elapsed() >= 2 * pause, "{:?}", begun.elapsed());
    // What is not retried waits for nothing: two pauses would show.
    assert_eq!(counts(&proxy).await, [2.0, 1.0, 0.0, 0.0]);
    // The pauses are nobody's: with them, the three attempts would have taken at least as long.
    let attempts = proxy.metric("outbound_http_route_backend_response_duration_seconds_sum", &[]).await;
    assert!(attempts < (2 * pause).as_secs_f64(), "{attempts}");
}

/// An application that answers 503 once with these headers, and then 200.
async fn asking_for_a_pause(header: (&'static str, &'static str)) -> Application {
    let asked = Arc::new(AtomicUsize::new(0));
    Application::http(move |_| {
        let first = asked.fetch_add(1, Ordering::Relaxed) == 0;
        let mut response = Response::new(Body::full("x"));
        if first {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response.headers_mut().insert(header.0, header.1.parse().unwrap());
        }
        async { response }
    })
    .await
}

#[tokio::test]
async fn a_retry_waits_as_long_as_the_answer_asks_where_the_rule_says_so() {
    let respecting = |limit: Option<Duration>| {
        let mut rule = retrying(1, to(WEB));
        rule.timeouts.request = limit;
        if let Some(retry) = &mut rule.retry {
            // The wire says it of a backoff.
            let short = Duration::from_millis(1);
            retry.backoff = Some(Backoff { min: short, max: short, jitter: 0.0 });
            retry.respect_retry_after = true;
        }
        rule
    };
    for (header, limit, status, least) in [
        (("retry-after", "1"), None, 200, 1),
        (("grpc-retry-pushback-ms", "300"), None, 200, 0),
        // Longer than the request may take, longer than anybody waits, and never: the answer is passed on.
        (("retry-after", "2"), Some(Duration::from_millis(500)), 503, 0),
        (("retry-after", "3600"), None, 503, 0),
        (("grpc-retry-pushback-ms", "-1"), None, 503, 0),
    ] {
        let app = asking_for_a_pause(header).await;
        let (_mesh, proxy) = ruled(respecting(limit), &app).await;
        let begun = Instant::now();
        let answer = get(proxy.upstream(), "/").await;
        assert_eq!(
            (answer.status, answer.header(header.0).is_empty()),
            (status, status == 200),
            "{header:?}"
        );
        assert!(begun.elapsed() >= Duration::from_secs(least), "{header:?}");
    }
    // A rule that does not say so retries at once.
    let app = asking_for_a_pause(("retry-after", "3600")).await;
    let (_mesh, proxy) = ruled(retrying(1, to(WEB)), &app).await;
    assert_eq!(get(proxy.upstream(), "/").await.status, 200);
}

#[tokio::test]
async fn a_streamed_body_is_sent_again_up_to_the_limit() {
    for (size, status, attempts) in [(1000, 200, 2), (1025, 503, 1)] {
        let app = answering(&[503]).await;
        let (_mesh, proxy) = ruled(retrying(1, to(WEB)), &app).await;
        let mut raw = Raw::connect(proxy.upstream()).await;
        raw.send("POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n").await;
        // Two pieces, so that no length is known before the end.
        for part in [size / 2, size - size / 2] {
            raw.send(format!("{part:x}\r\n{}\r\n", "b".repeat(part))).await;
        }
        raw.send("0\r\n\r\n").await;
        assert_eq!(raw.answer().await.status, status, "{size}");
        let seen = app.seen();
        assert_eq!(seen.len(), attempts, "{size}");
    }
}

#[tokio::test]
async fn what_a_client_gives_up_is_counted_to_its_end() {
    let app = Application::http(|_| std::future::pending()).await;
    let (_mesh, proxy) = plain(&[&app], &[]).await;
    let mut client = http2(proxy.upstream()).await;
    let asking = tokio::spawn(async move {
        let request = Request::get("http://web/").body(Body::empty()).unwrap();
        ask(&mut client, request).await.is_ok()
    });
    until("the request is under way", async || app.seen().len() == 1).await;
    asking.abort();
    for (family, labels) in [
        ("outbound_http_route_request_statuses_total", ["parent_name=\"fallback\"", "error=\"CANCEL\""]),
        (
            "outbound_http_route_backend_response_statuses_total",
            ["parent_name=\"fallback\"", "error=\"CANCEL\""],
        ),
        ("response_total", ["direction=\"outbound\"", "classification=\"failure\""]),
    ] {
        until(family, async || proxy.metric(family, &labels).await == 1.0).await;
    }
}
