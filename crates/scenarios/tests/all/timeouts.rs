//! Each time limit of a rule: when it begins, what it covers, and what the client sees of it (§3.8).

use crate::world::{WEB, plain, ruled, same};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use weft_model::destination::EndpointInfo;
use weft_model::route::{RetryPolicy, Rule, StatusRange, Timeouts};
use weft_net::body::Body;
use weft_testkit::application::{Application, piecewise, read, takes};
use weft_testkit::client::{Raw, ask, exchange, get, http2};
use weft_testkit::plane::Said;
use weft_testkit::policy::{http_route, policy, route, routes, rule, to};
use weft_testkit::until;

/// A limit that passes soon, and three times as long.
const LIMIT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_millis(600);

fn request(limit: Duration) -> Timeouts {
    Timeouts { request: Some(limit), ..Timeouts::default() }
}

fn response(limit: Duration) -> Timeouts {
    Timeouts { response: Some(limit), ..Timeouts::default() }
}

fn idle(limit: Duration) -> Timeouts {
    Timeouts { idle: Some(limit), ..Timeouts::default() }
}

fn within_limits(timeouts: Timeouts) -> Rule {
    Rule { timeouts, ..rule(to(WEB)) }
}

fn retrying(limit: u32, per_try: Option<Duration>) -> RetryPolicy {
    let http = vec![StatusRange { min: 503, max: 503 }];
    RetryPolicy { limit, http, timeout: per_try, backoff: None, ..RetryPolicy::default() }
}

/// Answers with a head at once, and with a piece of body for each piece that it is given; after the last one it says no more
/// and does not end.
async fn silent_after(pieces: &'static [&'static str]) -> Application {
    Application::http(move |_| async move {
        let (sender, body) = piecewise();
        tokio::spawn(async move {
            for piece in pieces {
                let _ = sender.send(Bytes::from_static(piece.as_bytes())).await;
            }
            sender.closed().await;
        });
        Response::new(body)
    })
    .await
}

#[tokio::test]
async fn the_request_timeout_covers_all_attempts() {
    let app = Application::http(|_| async {
        takes(LIMIT / 3).await;
        Response::builder().status(503).body(Body::empty()).unwrap()
    })
    .await;
    let rule = Rule { retry: Some(retrying(100, None)), ..within_limits(request(LIMIT)) };
    let (_mesh, proxy) = ruled(rule, &app).await;
    let answer = get(proxy.upstream(), "/").await;
    assert_eq!((answer.status, answer.header("connection")), (504, ""), "{answer:?}");
    assert!(answer.header("weft-reason").starts_with("request-timeout"), "{answer:?}");
    assert!(answer.header("weft-reason").contains("tries="), "{answer:?}");
    assert!(app.seen().len() > 1);
}

#[tokio::test]
async fn the_request_timeout_covers_the_answers_body_which_then_breaks_off() {
    for limits in [request(LIMIT), response(LIMIT)] {
        let app = silent_after(&["begun"]).await;
        let (_mesh, proxy) = ruled(within_limits(limits), &app).await;
        let mut raw = Raw::connect(proxy.upstream()).await;
        raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
        assert_eq!(raw.answer_to_head().await.status, 200);
        let rest = String::from_utf8(raw.rest().await).unwrap();
        assert_eq!(rest, "5\r\nbegun\r\n", "no last chunk: the answer is not whole");
        let mut client = http2(proxy.upstream()).await;
        let answer =
            ask(&mut client, Request::get("http://web/").body(Body::empty()).unwrap()).await.unwrap();
        assert!(matches!(read(answer.into_body()).await, Err(Some(_))), "the stream is reset");
        assert!(!client.is_closed(), "and its connection stays");
    }
}

#[tokio::test]
async fn waiting_for_an_endpoint_counts_for_the_request_timeout_alone() {
    let app = Application::saying("ok").await;
    for (limits, status) in [(response(LIMIT), 200), (request(LIMIT), 504)] {
        let (mesh, proxy) = plain(&[], &[]).await;
        let mut it = route(http_route("it"), vec![], to(WEB));
        it.rules[0].timeouts = limits;
        mesh.facts.outbound(WEB, Said::Told(policy(same(routes(vec![it])))));
        let at = proxy.upstream();
        let asking = tokio::spawn(async move { get(at, "/").await });
        takes(2 * LIMIT).await;
        mesh.facts.endpoints(WEB, Said::Told(vec![EndpointInfo::plain(app.addr)]));
        let answer = asking.await.unwrap();
        assert_eq!(answer.status, status, "{answer:?}");
    }
}

#[tokio::test]
async fn the_limits_of_an_attempt_begin_when_the_request_has_been_sent() {
    let app = Application::http(|request| async move {
        let _ = read(request.into_body()).await;
        Response::new(Body::from("ok"))
    })
    .await;
    let per_try = Rule { retry: Some(retrying(1, Some(LIMIT))), ..rule(to(WEB)) };
    for rule in [within_limits(response(LIMIT)), per_try] {
        let (_mesh, proxy) = ruled(rule, &app).await;
        let mut raw = Raw::connect(proxy.upstream()).await;
        raw.send("POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n").await;
        for _ in 0..3 {
            takes(LIMIT / 2).await;
            raw.send("1\r\nx\r\n").await;
        }
        takes(LIMIT / 2).await;
        raw.send("0\r\n\r\n").await;
        assert_eq!(raw.answer().await.status, 200);
    }
    assert_eq!(app.seen().len(), 2, "each was sent once");
}

#[tokio::test]
async fn the_response_timeout_passes_when_nothing_answers_what_was_sent() {
    let app = Application::http(|request| async move {
        let _ = read(request.into_body()).await;
        std::future::pending().await
    })
    .await;
    let (_mesh, proxy) = ruled(within_limits(response(LIMIT)), &app).await;
    let answer =
        exchange(proxy.upstream(), "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 1\r\n\r\nx").await;
    assert_eq!((answer.status, answer.header("connection")), (504, ""), "{answer:?}");
    assert!(answer.header("weft-reason").starts_with("response-timeout"), "{answer:?}");
}

#[tokio::test]
async fn an_attempt_that_says_nothing_in_time_is_tried_again_and_the_last_is_waited_for() {
    let asked = Arc::new(AtomicUsize::new(0));
    let app = Application::http(move |_| {
        let number = asked.fetch_add(1, Ordering::Relaxed);
        async move {
            takes(if number == 0 { 10 * LONG } else { LONG }).await;
            Response::new(Body::from("late"))
        }
    })
    .await;
    let (_mesh, proxy) = ruled(Rule { retry: Some(retrying(1, Some(LIMIT))), ..rule(to(WEB)) }, &app).await;
    assert_eq!(get(proxy.upstream(), "/").await.text(), "late");
    assert_eq!(app.seen().len(), 2);
}

#[tokio::test]
async fn where_both_are_set_an_attempts_own_limit_holds_until_the_head() {
    let app = Application::http(|_| std::future::pending()).await;
    let rule = Rule { retry: Some(retrying(1, Some(LIMIT))), ..within_limits(response(LONG)) };
    let (_mesh, proxy) = ruled(rule, &app).await;
    let answer = get(proxy.upstream(), "/").await;
    // The first attempt by its own limit; the last has none but the response's.
    assert!(answer.header("weft-reason").starts_with("response-timeout"), "{answer:?}");
    assert_eq!(app.seen().len(), 2);
}

#[tokio::test]
async fn a_request_whose_body_rests_too_long_is_told_so() {
    let app = Application::http(|request| async move {
        let _ = read(request.into_body()).await;
        Response::new(Body::from("ok"))
    })
    .await;
    let (_mesh, proxy) = ruled(within_limits(idle(LIMIT)), &app).await;
    // One that goes on moving may take as long as it likes, and so may an answer after it.
    let mut raw = Raw::connect(proxy.upstream()).await;
    raw.send("POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n").await;
    for _ in 0..6 {
        takes(LIMIT / 3).await;
        raw.send("1\r\nx\r\n").await;
    }
    raw.send("0\r\n\r\n").await;
    assert_eq!(raw.answer().await.status, 200);
    let mut raw = Raw::connect(proxy.upstream()).await;
    raw.send("POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n").await;
    let answer = raw.answer().await;
    assert_eq!(answer.status, 504, "{answer:?}");
    assert!(answer.header("weft-reason").starts_with("idle-timeout"), "{answer:?}");
}

#[tokio::test]
async fn an_answer_that_rests_too_long_breaks_off_unless_the_request_still_moves() {
    let silent = silent_after(&["begun"]).await;
    let (_mesh, proxy) = ruled(within_limits(idle(LIMIT)), &silent).await;
    let mut client = http2(proxy.upstream()).await;
    let answer = ask(&mut client, Request::get("http://web/").body(Body::empty()).unwrap()).await.unwrap();
    assert!(matches!(read(answer.into_body()).await, Err(Some(_))), "the stream is reset");

    // An application that answers when the request has ended, and until then only with a head.
    let app = Application::http(|request| async move {
        let (sender, body) = piecewise();
        tokio::spawn(async move {
            let (all, _) = read(request.into_body()).await.unwrap();
            let _ = sender.send(all).await;
        });
        Response::new(body)
    })
    .await;
    let (_mesh, proxy) = ruled(within_limits(idle(LIMIT)), &app).await;
    let mut client = http2(proxy.upstream()).await;
    let (sender, body) = piecewise();
    let talking = tokio::spawn(async move {
        for _ in 0..6 {
            takes(LIMIT / 3).await;
            let _ = sender.send(Bytes::from_static(b"x")).await;
        }
    });
    let answer = ask(&mut client, Request::post("http://web/").body(body).unwrap()).await.unwrap();
    assert_eq!(read(answer.into_body()).await.unwrap().0, "xxxxxx");
    talking.await.unwrap();
}

#[tokio::test]
async fn what_is_slow_is_told_apart_from_what_fails() {
    // A limit that passes is the endpoint's failure, except where nobody knows whose it is.
    let gate = Arc::new(Mutex::new(()));
    let held = gate.clone().lock_owned().await;
    let app = Application::http(move |_| {
        let gate = gate.clone();
        async move {
            drop(gate.lock().await);
            Response::builder().status(StatusCode::OK).body(Body::empty()).unwrap()
        }
    })
    .await;
    let (_mesh, proxy) = ruled(within_limits(request(LIMIT)), &app).await;
    assert_eq!(get(proxy.upstream(), "/").await.status, 504);
    drop(held);
    until("it is heard again", async || get(proxy.upstream(), "/").await.status == 200).await;
    let labels = ["route_name=\"it\"", "error=\"REQUEST_TIMEOUT\""];
    let timed_out = proxy.metric("outbound_http_route_request_statuses_total", &labels).await;
    assert_eq!(timed_out, 1.0);
}
