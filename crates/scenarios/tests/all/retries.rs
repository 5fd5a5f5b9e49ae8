//! Retries by a policy's own rules, and what is counted of them.

use crate::world::{WEB, only, plain, proxy_to, ruled, same};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use weft_model::destination::EndpointInfo;
use weft_model::policy::OutboundProtocol;
use weft_model::route::{
    Backoff, Distribution, Filter, GrpcMatch, HeaderChange, RequestMatch, RetryPolicy, Rule, StatusRange,
};
use weft_net::body::Body;
use weft_testkit::application::{Application, piecewise, read, takes, with_trailers};
use weft_testkit::client::{Answer, Raw, ask, exchange, get, http2};
use weft_testkit::mesh::{Mesh, Running};
use weft_testkit::plane::Said;
use weft_testkit::policy::{http_route, policy, route, routes, rule, to};
use weft_testkit::{until, within};

/// An application that answers with these statuses in turn, and then 200.
pub(crate) async fn answering(statuses: &[u16]) -> Application {
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
pub(crate) fn retrying(limit: u32, backends: Distribution) -> Rule {
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

/// A proxy whose gRPC route retries UNAVAILABLE once.
async fn retrying_grpc(app: &Application) -> (Mesh, Running) {
    let (mesh, proxy) = plain(&[app], &[]).await;
    let mut it = route(http_route("it"), vec![RequestMatch::Grpc(GrpcMatch::default())], to(WEB));
    it.rules[0].retry = retrying(1, to(WEB)).retry.map(|own| RetryPolicy { grpc: vec![14], ..own });
    mesh.facts.outbound(WEB, Said::Told(policy(OutboundProtocol::Grpc(routes(vec![it])))));
    (mesh, proxy)
}

fn call(body: Body) -> Request<Body> {
    let call = Request::post("http://web/shop.Books/Get").header("content-type", "application/grpc");
    call.header("te", "trailers").body(body).unwrap()
}

#[tokio::test]
async fn a_grpc_call_is_tried_again_by_the_code_in_its_head_or_its_trailers() {
    for in_head in [true, false] {
        for (data, code, attempts) in
            [(&[][..], "14", 2), (&["a message"][..], "14", 2), (&[][..], "13", 1), (&["a message"], "13", 1)]
        {
            let asked = Arc::new(AtomicUsize::new(0));
            let app = Application::http(move |_| {
                let code = if asked.fetch_add(1, Ordering::Relaxed) == 0 { code } else { "0" };
                async move {
                    let response = Response::builder().header("content-type", "application/grpc");
                    if in_head {
                        return response.header("grpc-status", code).body(Body::empty()).unwrap();
                    }
                    response.body(with_trailers(data, &[("grpc-status", code)])).unwrap()
                }
            })
            .await;
            let (_mesh, proxy) = retrying_grpc(&app).await;
            let answer = ask(&mut http2(proxy.upstream()).await, call(Body::empty())).await.unwrap();
            let head = answer.headers().get("grpc-status").cloned();
            let (body, trailers) = read(answer.into_body()).await.unwrap();
            let told = head.or_else(|| Some(trailers?["grpc-status"].clone())).unwrap();
            let expected = if attempts == 2 { "0" } else { code };
            assert_eq!(
                (app.seen().len(), told.to_str().unwrap()),
                (attempts, expected),
                "{in_head} {data:?}"
            );
            assert_eq!(body, if in_head { String::new() } else { data.concat() });
        }
    }
}

#[tokio::test]
async fn an_answer_that_streams_is_not_held_up_for_its_trailers() {
    let (sender, receiver) = tokio::sync::mpsc::channel::<()>(1);
    let go_on = Arc::new(tokio::sync::Mutex::new(receiver));
    let app = Application::http(move |_| {
        let go_on = go_on.clone();
        async move {
            let (pieces, body) = piecewise();
            tokio::spawn(async move {
                let _ = pieces.send("first".into()).await;
                let _ = go_on.lock().await.recv().await;
                let _ = pieces.send("second".into()).await;
            });
            Response::builder().header("content-type", "application/grpc").body(body).unwrap()
        }
    })
    .await;
    let (_mesh, proxy) = retrying_grpc(&app).await;
    let answer = ask(&mut http2(proxy.upstream()).await, call(Body::empty())).await.unwrap();
    let mut body = answer.into_body();
    let first = within("the first message", body.frame()).await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "first");
    sender.send(()).await.unwrap();
    assert_eq!(read(body).await.unwrap().0, "second");
}

#[tokio::test]
async fn a_body_that_is_declared_too_long_is_sent_once_and_one_of_exactly_the_limit_again() {
    for (size, status, attempts) in [(1024, 200, 2), (1025, 503, 1)] {
        let app = answering(&[503]).await;
        let (_mesh, proxy) = ruled(retrying(1, to(WEB)), &app).await;
        let body = "b".repeat(size);
        let request = format!("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: {size}\r\n\r\n{body}");
        assert_eq!(exchange(proxy.upstream(), &request).await.status, status, "{size}");
        assert_eq!(app.seen().len(), attempts, "{size}");
    }
}

#[tokio::test]
async fn an_answer_that_comes_while_the_request_is_still_being_sent_is_passed_on() {
    let app = answering(&[503]).await;
    let (_mesh, proxy) = ruled(retrying(1, to(WEB)), &app).await;
    let mut client = http2(proxy.upstream()).await;
    let (sender, body) = piecewise();
    sender.send("begun".into()).await.unwrap();
    let answer = ask(&mut client, Request::post("http://web/").body(body).unwrap()).await.unwrap();
    assert_eq!((answer.status(), app.seen().len()), (StatusCode::SERVICE_UNAVAILABLE, 1));
    drop(sender);
    assert_eq!(counts(&proxy).await[0], 0.0);
}

#[tokio::test]
async fn a_request_that_waited_in_vain_goes_to_the_next_backend_where_its_rule_retries() {
    let app = Application::saying("second").await;
    for (retry, status, counted) in [(true, 200, [1.0, 1.0, 0.0, 0.0]), (false, 504, [0.0; 4])] {
        let mesh = Mesh::new();
        let second = "second.default.svc.cluster.local:80";
        let both = [to(WEB), to(second)].map(|one| match one {
            Distribution::FirstAvailable(list) => list,
            _ => Vec::new(),
        });
        let mut rule = retrying(1, Distribution::FirstAvailable(both.concat()));
        rule.retry = rule.retry.filter(|_| retry);
        mesh.facts.endpoints(WEB, Said::Told(Vec::new()));
        mesh.facts.endpoints(second, Said::Told(vec![EndpointInfo::plain(app.addr)]));
        mesh.facts.outbound(WEB, Said::Told(policy(same(routes(vec![only(rule)])))));
        let proxy = proxy_to(&mesh, "client", &[]).await;
        let answer = get(proxy.upstream(), "/").await;
        assert_eq!(answer.status, status, "{answer:?}");
        if retry {
            assert_eq!(counts(&proxy).await, counted);
        }
        // Whoever comes after finds the first backend shut, and needs no retry.
        assert_eq!(get(proxy.upstream(), "/").await.text(), "second");
    }
}

#[tokio::test]
async fn each_backend_sees_its_own_filters_on_a_request_that_is_tried_again() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let app = |own: &'static str, status: u16| {
        let seen = seen.clone();
        Application::http(move |request| {
            let who = request.headers().get_all("who").iter().map(|v| v.to_str().unwrap().to_owned());
            seen.lock().unwrap().push((own, who.collect::<Vec<_>>()));
            async move { Response::builder().status(status).body(Body::from(own)).unwrap() }
        })
    };
    let (failing, fine) = (app("failing", 503).await, app("fine", 200).await);
    let mesh = Mesh::new();
    let mut backends = Vec::new();
    for (name, app) in [("failing", &failing), ("fine", &fine)] {
        let host = format!("{name}.default.svc.cluster.local:80");
        mesh.facts.endpoints(&host, Said::Told(vec![EndpointInfo::plain(app.addr)]));
        let Distribution::FirstAvailable(mut one) = to(&host) else { unreachable!() };
        let add = vec![("who".parse().unwrap(), name.parse().unwrap())];
        one[0].filters = vec![Filter::RequestHeaders(HeaderChange { add, ..HeaderChange::default() })];
        backends.push((one.remove(0), 1));
    }
    let rule = retrying(20, Distribution::RandomAvailable(backends));
    mesh.facts.outbound(WEB, Said::Told(policy(same(routes(vec![only(rule)])))));
    let proxy = proxy_to(&mesh, "client", &[]).await;
    for _ in 0..20 {
        assert_eq!(get(proxy.upstream(), "/").await.text(), "fine");
    }
    let seen = seen.lock().unwrap();
    assert!(seen.iter().all(|(own, who)| who == &[*own]), "{seen:?}");
    assert!(seen.len() > 20, "some were tried again");
}
