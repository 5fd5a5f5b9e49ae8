//! The table of answers that the mesh gives itself: status, code and headers for HTTP and for gRPC, and whether
//! the client's connection ends with them.

use crate::world::{Pair, WEB, plain, ruled, same};
use http::{Request, Response};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use weft_model::route::{
    Dispatch, Distribution, Filter, HttpMatch, InjectedAnswer, Injection, PathMatch, Queue, Redirect,
    RequestMatch, Rule, Timeouts,
};
use weft_net::body::Body;
use weft_testkit::application::{Application, piecewise, read, reset_after};
use weft_testkit::client::{Raw, ask, http2};
use weft_testkit::plane::Said;
use weft_testkit::policy::{backend, http_route, policy, route, routes, rule, to};
use weft_testkit::until;

/// What a row of the table says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    code: &'static str,
    status: u16,
    grpc: &'static str,
    closes: bool,
}

pub(crate) const fn row(code: &'static str, status: u16, grpc: &'static str, closes: bool) -> Row {
    Row { code, status, grpc, closes }
}

/// Asks over HTTP/1 and as a gRPC call, and expects what the row says.
pub(crate) async fn answers(at: SocketAddr, row: Row) {
    let mut raw = Raw::connect(at).await;
    let request = "POST / HTTP/1.1\r\nhost: web\r\nl5d-require-id: REQUIRED\r\ncontent-length: 0\r\n\r\n";
    let request = match row.code {
        "identity-required" => request.replace("REQUIRED", "somebody.else"),
        _ => request.replace("l5d-require-id: REQUIRED\r\n", ""),
    };
    raw.send(&request).await;
    let answer = raw.answer().await;
    assert_eq!(answer.status, row.status, "{row:?}: {answer:?}");
    for header in ["weft-reason", "l5d-proxy-error"] {
        assert!(answer.header(header).starts_with(row.code), "{row:?}: {answer:?}");
    }
    assert_eq!(answer.header("connection"), if row.closes { "close" } else { "" }, "{row:?}: {answer:?}");
    assert_eq!(answer.header("content-length"), "0", "{row:?}: {answer:?}");
    if row.closes {
        assert_eq!(raw.rest().await, b"", "{row:?}");
    } else {
        raw.send(&request).await;
        assert_eq!(raw.answer().await.status, row.status, "{row:?}: the connection stays");
    }

    let mut client = http2(at).await;
    let call = || {
        let call = Request::post("http://web/pkg.Svc/Call").header("content-type", "application/grpc");
        let call = match row.code {
            "identity-required" => call.header("l5d-require-id", "somebody.else"),
            _ => call,
        };
        call.header("te", "trailers").body(Body::empty()).unwrap()
    };
    let answer = ask(&mut client, call()).await.unwrap();
    let header = |name: &str| answer.headers().get(name).map_or("", |value| value.to_str().unwrap());
    assert_eq!((answer.status().as_u16(), header("grpc-status")), (200, row.grpc), "{row:?}: {answer:?}");
    assert_eq!(header("content-type"), "application/grpc", "{row:?}: {answer:?}");
    assert_eq!(header("grpc-message"), row.code, "{row:?}: {answer:?}");
    assert!(header("weft-reason").starts_with(row.code), "{row:?}: {answer:?}");
    assert_eq!(header("l5d-proxy-connection"), if row.closes { "close" } else { "" }, "{row:?}: {answer:?}");
    if row.closes {
        until("the connection ends", async || client.is_closed()).await;
    } else {
        assert!(ask(&mut client, call()).await.is_ok(), "{row:?}: the connection stays");
    }
}

async fn hanging() -> Application {
    Application::http(|_| std::future::pending()).await
}

#[tokio::test]
async fn what_a_rule_says_is_answered_by_the_table() {
    let app = hanging().await;
    let limit = Some(Duration::from_millis(50));
    let only = PathMatch::Exact("/only".into());
    let matches = vec![RequestMatch::Http(HttpMatch { path: Some(only), ..HttpMatch::default() })];
    let injected = Filter::InjectFailure(Injection {
        answer: InjectedAnswer::Http(http::StatusCode::IM_A_TEAPOT),
        message: "an experiment".into(),
        ratio: (1, 1),
    });
    let redirect = Filter::Redirect(Redirect { host: Some("elsewhere".into()), ..Redirect::default() });
    let none = Distribution::FirstAvailable(vec![backend("none", Queue::default(), Dispatch::Missing)]);
    let timeouts = |request, response| Timeouts { request, response, idle: None };
    for (rule, row) in [
        (Rule { matches, ..rule(to(WEB)) }, row("no-route", 404, "5", false)),
        (rule(none), row("no-dispatcher", 502, "14", true)),
        (rule(Distribution::Empty), row("no-backend", 503, "14", true)),
        (Rule { timeouts: timeouts(limit, None), ..rule(to(WEB)) }, row("request-timeout", 504, "4", false)),
        (Rule { timeouts: timeouts(None, limit), ..rule(to(WEB)) }, row("response-timeout", 504, "4", false)),
        (Rule { filters: vec![injected], ..rule(to(WEB)) }, row("injected-failure", 418, "9", false)),
        (Rule { filters: vec![redirect], ..rule(to(WEB)) }, row("redirected", 301, "5", false)),
        (rule(to(WEB)), row("identity-required", 502, "14", true)),
    ] {
        let (_mesh, proxy) = ruled(rule, &app).await;
        answers(proxy.upstream(), row).await;
    }
}

#[tokio::test]
async fn unready_and_missing_endpoints_time_the_first_out_and_shed_the_rest() {
    let (_mesh, proxy) = plain(&[], &[]).await;
    let mut raw = Raw::connect(proxy.upstream()).await;
    raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
    let first = raw.answer().await;
    assert_eq!((first.status, first.header("connection")), (504, "close"), "{first:?}");
    answers(proxy.upstream(), row("no-endpoints", 503, "14", true)).await;
}

#[tokio::test]
async fn a_failing_endpoint_is_answered_by_the_table() {
    let garbage = Application::tcp(|mut tcp| async move {
        let _ = tcp.read_u8().await;
        let _ = tcp.write_all(b"this is no HTTP at all\r\n\r\n").await;
    });
    let closing = Application::tcp(|mut tcp| async move {
        let _ = tcp.read_u8().await;
    });
    for (app, code) in [(garbage.await, "protocol-error"), (closing.await, "connection-lost")] {
        let (_mesh, proxy) = plain(&[&app], &[]).await;
        let mut raw = Raw::connect(proxy.upstream()).await;
        raw.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 0\r\n\r\n").await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (502, "close"), "{answer:?}");
        assert!(answer.header("weft-reason").starts_with(code), "{answer:?}");
    }
}

#[tokio::test]
async fn more_requests_in_flight_than_there_may_be_are_shed() {
    let app = hanging().await;
    let (_mesh, proxy) = plain(&[&app], &[("OUTBOUND_MAX_IN_FLIGHT", "1")]).await;
    let mut first = Raw::connect(proxy.upstream()).await;
    first.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
    until("it is in flight", async || app.seen().len() == 1).await;
    answers(proxy.upstream(), row("overloaded", 503, "14", true)).await;
}

#[tokio::test]
async fn a_receiving_proxy_answers_by_the_table() {
    let pair = Pair::with(Application::saying("x").await, &[("INBOUND_DEFAULT_POLICY", "deny")], &[]).await;
    answers(pair.server.bind(), row("unauthorized", 403, "7", false)).await;
    answers(pair.client.upstream(), row("unauthorized", 403, "7", false)).await;

    let pair =
        Pair::with(Application::saying("x").await, &[("INBOUND_HTTP_FAILFAST_TIMEOUT", "50ms")], &[]).await;
    let (server, client, _mesh) = (pair.server, pair.client, pair.mesh);
    pair.app.kill().await;
    answers(server.bind(), row("connect-refused", 502, "14", true)).await;
    // Its peers hear it through their own proxies, whose clients keep or lose nothing of their own by it.
    let mut raw = Raw::connect(client.upstream()).await;
    raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
    let answer = raw.answer().await;
    assert_eq!(answer.status, 502, "{answer:?}");
    assert!(answer.header("weft-reason").starts_with("connect-refused; hop=inbound"), "{answer:?}");
}

#[tokio::test]
async fn a_peer_that_wants_to_be_left_ends_the_clients_connection_only_where_there_is_no_other() {
    let settings = [("INBOUND_HTTP_FAILFAST_TIMEOUT", "50ms")];
    let pair = Pair::with(Application::saying("x").await, &settings, &[]).await;
    let (server, client, mesh) = (pair.server, pair.client, pair.mesh);
    pair.app.kill().await;
    let told = |backends: Distribution| {
        let http = routes(vec![route(http_route("it"), Vec::new(), backends)]);
        mesh.facts.outbound(WEB, Said::Told(policy(same(http))));
    };
    told(to(WEB));
    let mut raw = Raw::connect(client.upstream()).await;
    let mut ask = async || {
        raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.header("l5d-proxy-connection")), (502, ""), "{answer:?}");
        answer.header("connection").to_owned()
    };
    assert_eq!([ask().await, ask().await], ["", ""], "one of several that could be there");

    let queue = Queue { capacity: 10, failfast: Duration::from_secs(1) };
    let forward = Dispatch::Forward(Box::new(server.meshed("web")));
    let only = Distribution::FirstAvailable(vec![backend("web", queue, forward)]);
    told(only);
    until("the policy is in force", async || ask().await == "close").await;
    assert_eq!(raw.rest().await, b"");
}

#[tokio::test]
async fn a_grpc_call_that_breaks_off_ends_in_its_own_words() {
    let go_on = Arc::new(Notify::new());
    let when = go_on.clone();
    let app = Application::http(move |_| {
        let body = reset_after("a message", h2::Reason::INTERNAL_ERROR, when.clone());
        async { Response::builder().header("content-type", "application/grpc").body(body).unwrap() }
    });
    let pair = Pair::around(app.await).await;
    for (kind, ends_well) in [("application/grpc", true), ("text/plain", false)] {
        let mut client = http2(pair.client.upstream()).await;
        let call =
            Request::post("http://web/a.B/C").header("content-type", kind).body(Body::empty()).unwrap();
        let answer = ask(&mut client, call).await.unwrap();
        go_on.notify_one();
        let read = read(answer.into_body()).await;
        assert_eq!(read.is_ok(), ends_well, "{kind}: {read:?}");
        if let Ok((body, trailers)) = read {
            let trailers = trailers.unwrap();
            assert_eq!((body, &trailers["grpc-status"]), ("a message".into(), &"14".parse().unwrap()));
            assert!(
                trailers["weft-reason"].to_str().unwrap().starts_with("stream-reset; hop=inbound"),
                "{trailers:?}"
            );
        }
    }
    // What takes too long is told as such.
    let app = Application::http(|_| async {
        let (sender, body) = piecewise();
        tokio::spawn(async move {
            let _ = sender.send("a message".into()).await;
            sender.closed().await;
        });
        Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    });
    let app = app.await;
    let limits = Timeouts { request: Some(Duration::from_millis(200)), ..Timeouts::default() };
    let (_mesh, proxy) = ruled(Rule { timeouts: limits, ..rule(to(WEB)) }, &app).await;
    let call = Request::post("http://web/a.B/C").header("content-type", "application/grpc");
    let answer = ask(&mut http2(proxy.upstream()).await, call.body(Body::empty()).unwrap()).await.unwrap();
    let (_, trailers) = read(answer.into_body()).await.unwrap();
    let trailers = trailers.unwrap();
    assert_eq!(trailers["grpc-status"], "4", "{trailers:?}");
    assert_eq!(trailers["grpc-message"], "request-timeout", "{trailers:?}");
}

#[tokio::test]
async fn a_client_of_a_workload_that_says_nothing_is_closed() {
    let settings = [("INBOUND_DETECT_TIMEOUT", "100ms")];
    let pair = Pair::with(Application::saying("x").await, &settings, &[]).await;
    assert_eq!(Raw::connect(pair.server.bind()).await.rest().await, b"");
    assert_eq!(pair.server.metric("weft_reasons_total", &["code=\"detect-timeout\""]).await, 1.0);
}
