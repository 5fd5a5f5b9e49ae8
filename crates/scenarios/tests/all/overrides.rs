//! Limits and retries that a request asks for by its own headers, where its rule allows that (§3.5).

use crate::world::{WEB, ruled};
use http::{Request, Response};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use weft_model::route::{RetryPolicy, Rule, StatusRange, Timeouts};
use weft_net::body::Body;
use weft_testkit::application::{Application, read, takes, with_trailers};
use weft_testkit::client::{Answer, ask, exchange, http2};
use weft_testkit::policy::{rule, to};

fn allowing(retry: Option<RetryPolicy>) -> Rule {
    Rule { allow_request_headers: true, retry, ..rule(to(WEB)) }
}

/// Answers the first so many requests with this status, and then 200.
async fn failing(times: usize, status: u16) -> Application {
    let asked = Arc::new(AtomicUsize::new(0));
    Application::http(move |_| {
        let status = if asked.fetch_add(1, Ordering::Relaxed) < times { status } else { 200 };
        async move { Response::builder().status(status).body(Body::from("x")).unwrap() }
    })
    .await
}

async fn asking(rule: Rule, app: &Application, headers: &str) -> Answer {
    let (_mesh, proxy) = ruled(rule, app).await;
    exchange(proxy.upstream(), &format!("GET / HTTP/1.1\r\nhost: web\r\n{headers}\r\n")).await
}

#[tokio::test]
async fn headers_pass_unread_where_the_rule_does_not_allow_them() {
    let app = failing(1, 503).await;
    let headers = "l5d-retry-http: 5xx\r\nl5d-timeout: 1ms\r\n";
    let answer = asking(rule(to(WEB)), &app, headers).await;
    assert_eq!(answer.status, 503);
    let seen = app.seen().pop().unwrap();
    assert_eq!(
        (&seen.headers()["l5d-retry-http"], &seen.headers()["l5d-timeout"]),
        (&"5xx".parse().unwrap(), &"1ms".parse().unwrap())
    );
}

#[tokio::test]
async fn a_request_says_which_statuses_are_tried_again_and_how_often() {
    let own = RetryPolicy { http: vec![StatusRange { min: 500, max: 599 }], ..RetryPolicy::default() };
    for (retry, headers, fails, expected, attempts) in [
        // Without a policy of the rule, one retry.
        (None, "l5d-retry-http: 5xx\r\n", 1, 200, 2),
        (None, "l5d-retry-http: gateway-error\r\n", 1, 200, 2),
        (None, "l5d-retry-http: 500, 503\r\n", 1, 200, 2),
        (None, "l5d-retry-http: 501-503\r\n", 1, 200, 2),
        (None, "l5d-retry-http: 5xx\r\n", 2, 503, 2),
        (None, "l5d-retry-http: 5xx\r\nl5d-retry-limit: 2\r\n", 2, 200, 3),
        (None, "l5d-retry-limit: 3\r\n", 1, 503, 1),
        (None, "", 1, 503, 1),
        // With one, each header replaces its own part.
        (Some(own.clone()), "", 1, 200, 2),
        (Some(own.clone()), "l5d-retry-http: 502\r\n", 1, 503, 1),
        (Some(own.clone()), "l5d-retry-http: never\r\n", 1, 503, 1),
        (Some(own.clone()), "l5d-retry-limit: 0\r\n", 1, 503, 1),
        (Some(own.clone()), "l5d-retry-limit: 2\r\n", 2, 200, 3),
    ] {
        let app = failing(fails, 503).await;
        let answer = asking(allowing(retry), &app, headers).await;
        let seen = app.seen();
        assert_eq!((answer.status, seen.len()), (expected, attempts), "{headers:?}");
        let left = seen[0].headers().keys().find(|name| name.as_str().starts_with("l5d-re"));
        assert_eq!(left, None, "they are the mesh's own and end here");
    }
}

#[tokio::test]
async fn a_request_says_which_grpc_codes_are_tried_again() {
    for (header, attempts) in [("unavailable", 2), ("internal,cancelled", 1)] {
        let asked = Arc::new(AtomicUsize::new(0));
        let app = Application::http(move |_| {
            let code = if asked.fetch_add(1, Ordering::Relaxed) == 0 { "14" } else { "0" };
            async move {
                let response = Response::builder().header("content-type", "application/grpc");
                response.body(with_trailers(&[], &[("grpc-status", code)])).unwrap()
            }
        })
        .await;
        let (_mesh, proxy) = ruled(allowing(None), &app).await;
        let call = Request::post("http://web/a.B/C").header("content-type", "application/grpc");
        let call = call.header("l5d-retry-grpc", header).body(Body::empty()).unwrap();
        let answer = ask(&mut http2(proxy.upstream()).await, call).await.unwrap();
        let (_, trailers) = read(answer.into_body()).await.unwrap();
        let expected = if attempts == 2 { "0" } else { "14" };
        assert_eq!(
            (app.seen().len(), &trailers.unwrap()["grpc-status"]),
            (attempts, &expected.parse().unwrap())
        );
    }
}

#[tokio::test]
async fn a_request_says_how_long_it_and_its_attempts_may_take() {
    // Far above what any of these allow, and far below what the test waits for.
    let slow = || {
        Application::http(|_| async {
            takes(Duration::from_secs(3)).await;
            Response::new(Body::from("x"))
        })
    };
    for (headers, code) in [
        ("l5d-timeout: 50ms\r\n", "request-timeout"),
        ("l5d-request-timeout: 50ms\r\n", "request-timeout"),
        ("l5d-timeout: 1h\r\nl5d-request-timeout: 50ms\r\n", "request-timeout"),
        ("l5d-response-timeout: 50ms\r\n", "response-timeout"),
    ] {
        let app = slow().await;
        let mut own = allowing(None);
        let hour = Some(Duration::from_secs(3600));
        own.timeouts = Timeouts { request: hour, response: hour, idle: None };
        let answer = asking(own, &app, headers).await;
        assert_eq!(answer.status, 504, "{headers:?}");
        assert!(answer.header("weft-reason").starts_with(code), "{headers:?}: {answer:?}");
    }
    let asked = Arc::new(AtomicUsize::new(0));
    let app = Application::http(move |_| {
        let first = asked.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if first {
                std::future::pending::<()>().await;
            }
            Response::new(Body::from("second"))
        }
    })
    .await;
    assert_eq!(asking(allowing(None), &app, "l5d-retry-timeout: 50ms\r\n").await.text(), "second");
}
