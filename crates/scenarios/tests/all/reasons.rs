//! What clients are told when the mesh itself answers.

use crate::retries::{answering, retrying};
use crate::world::{Pair, WEB, plain, proxy_of, proxy_to, ruled, tell};
use http::Response;
use std::cell::RefCell;
use std::sync::Once;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use weft_model::destination::EndpointInfo;
use weft_net::body::Body;
use weft_testkit::application::Application;
use weft_testkit::client::{Raw, get};
use weft_testkit::mesh::Mesh;
use weft_testkit::plane::Said;
use weft_testkit::policy::to;
use weft_testkit::until;

#[tokio::test]
async fn a_dead_endpoint_is_told_with_evidence_and_counted_once() {
    let (mesh, proxy) = plain(&[], &[]).await;
    let dead = Application::saying("x").await;
    let addr = dead.addr;
    dead.kill().await;
    mesh.facts.endpoints(WEB, Said::Told(vec![EndpointInfo::plain(addr)]));
    let answer = get(proxy.upstream(), "/").await;
    assert_eq!((answer.status, answer.header("connection")), (504, "close"), "{answer:?}");
    let reason = answer.header("weft-reason");
    assert!(reason.contains("known=1") && reason.contains("ready=0"), "{reason}");
    let code = reason.split([';', ',', ' ']).next().unwrap().to_owned();
    assert!(answer.header("l5d-proxy-error").starts_with(&code), "{answer:?}");
    let label = format!("\"{code}\"");
    assert_eq!(proxy.metric("weft_reasons_total", &[&label]).await, 1.0);
}

#[tokio::test]
async fn a_service_without_endpoints_fails_first_late_and_then_at_once() {
    let (_mesh, proxy) = plain(&[], &[]).await;
    let first = get(proxy.upstream(), "/").await;
    assert_eq!(first.status, 504, "{first:?}");
    let second = get(proxy.upstream(), "/").await;
    assert_eq!(second.status, 503, "{second:?}");
}

#[tokio::test]
async fn what_an_application_says_about_the_mesh_is_not_believed() {
    let app = Application::http(|_| async {
        let mut response = Response::new(Body::full("x"));
        for name in ["weft-reason", "l5d-proxy-error", "l5d-proxy-connection"] {
            response.headers_mut().insert(name, "forged".parse().unwrap());
        }
        response
    });
    let pair = Pair::around(app.await).await;
    for from in [pair.client.upstream(), pair.server.bind()] {
        let answer = get(from, "/").await;
        assert_eq!(answer.status, 200);
        assert!(!answer.headers.values().any(|value| value == "forged"), "{answer:?}");
    }
}

#[tokio::test]
async fn strangers_are_told_the_code_without_evidence() {
    let settings = [("INBOUND_DEFAULT_POLICY", "deny")];
    let pair = Pair::with(Application::saying("x").await, &settings, &[]).await;
    let stranger = get(pair.server.bind(), "/").await.header("weft-reason").to_owned();
    let peer = get(pair.client.upstream(), "/").await.header("weft-reason").to_owned();
    assert!(stranger.len() < peer.len(), "stranger: {stranger}; peer: {peer}");
}

#[tokio::test]
async fn an_endpoint_that_is_somebody_else_is_told_as_such() {
    let app = Application::saying("x").await;
    let mesh = Mesh::new();
    let server = proxy_of(&mesh, "web", &app, &[]).await;
    mesh.facts.endpoints(WEB, Said::Told(vec![server.meshed("books")]));
    let client = proxy_to(&mesh, "client", &[]).await;
    let answer = get(client.upstream(), "/").await;
    let reason = answer.header("weft-reason");
    assert!(reason.contains("tls-wrong-identity"), "{reason}");
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn a_connection_lost_after_the_request_was_sent_is_not_repeated() {
    let app = Application::tcp(|mut tcp| async move {
        let _ = tokio::io::AsyncReadExt::read_u8(&mut tcp).await;
    });
    let app = app.await;
    let (_mesh, proxy) = plain(&[&app], &[]).await;
    let mut raw = Raw::connect(proxy.upstream()).await;
    raw.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 0\r\n\r\n").await;
    let answer = raw.answer().await;
    assert_eq!(
        (answer.status, answer.header("l5d-proxy-error").split(':').next()),
        (502, Some("connection-lost"))
    );
}

#[tokio::test]
async fn an_endpoint_that_goes_is_left_and_one_that_comes_is_used() {
    let (a, b) = (Application::saying("a").await, Application::saying("b").await);
    let (mesh, proxy) = plain(&[&a], &[]).await;
    assert_eq!(get(proxy.upstream(), "/").await.text(), "a");
    tell(&mesh, &[&b]);
    until("the new endpoint answers", async || get(proxy.upstream(), "/").await.text() == "b").await;
    a.kill().await;
    assert_eq!(get(proxy.upstream(), "/").await.text(), "b");
}

thread_local! {
    /// What was logged on this thread, where everything of a test runs.
    static LOGGED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// The log of the whole test program; each test sees its own thread's lines.
struct Lines;

impl Lines {
    fn begin() -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| tracing::subscriber::set_global_default(Lines).unwrap());
        Lines
    }

    fn with(&self, text: &str) -> Vec<String> {
        LOGGED.with_borrow(|lines| lines.iter().filter(|line| line.contains(text)).cloned().collect())
    }
}

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0.push_str(&format!("{}={value:?} ", field.name()));
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        LOGGED.with_borrow_mut(|lines| lines.push(text.0));
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_failure_is_one_log_line_with_code_method_authority_path_and_peer() {
    let lines = Lines::begin();
    let settings = [("INBOUND_DEFAULT_POLICY", "deny")];
    let pair = Pair::with(Application::saying("x").await, &settings, &[]).await;
    let answer = get(pair.client.upstream(), "/secret?token=hidden").await;
    assert_eq!((answer.status, answer.header("l5d-proxy-error").starts_with("unauthorized")), (403, true));
    let reason = answer.header("weft-reason");
    for part in ["unauthorized", "hop=inbound", "phase=route", "policy="] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    let logged = lines.with("reason=unauthorized");
    let [line] = &logged[..] else { panic!("{logged:#?} of {:#?}", lines.with("")) };
    let peer = weft_testkit::mesh::identity("client");
    for part in ["method=GET", "authority=\"web\"", "path=\"/secret\"", "client=127.0.0.1:", &peer] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(!line.contains("hidden"), "queries may hold secrets: {line}");
    let code = ["code=\"unauthorized\"", "direction=\"inbound\"", "phase=\"route\""];
    assert_eq!(pair.server.metric("weft_reasons_total", &code).await, 1.0);
}

#[tokio::test]
async fn what_is_tried_again_is_told_with_what_came_of_it() {
    let lines = Lines::begin();
    let app = answering(&[503]).await;
    let (_mesh, proxy) = ruled(retrying(2, to(WEB)), &app).await;
    assert_eq!(get(proxy.upstream(), "/x?token=hidden").await.status, 200);
    let logged = lines.with("reason=retried");
    let [line] = &logged[..] else { panic!("{logged:#?} of {:#?}", lines.with("")) };
    let endpoint = app.addr.to_string();
    for part in ["tries=1", "policy=\"it\"", &endpoint, "answered 503", "method=GET", "path=\"/x\""] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(!line.contains("hidden"), "queries may hold secrets: {line}");
    assert_eq!(
        proxy.metric("weft_reasons_total", &["code=\"retried\"", "direction=\"outbound\""]).await,
        1.0
    );
    assert_eq!(proxy.metric("outbound_http_errors_total", &[]).await, 0.0, "it is no error of the mesh");
}

#[tokio::test]
async fn what_the_engine_answers_by_itself_is_counted_and_logged_with_the_limit() {
    let lines = Lines::begin();
    let app = Application::saying("x").await;
    let (_mesh, proxy) = plain(&[&app], &[]).await;
    let huge = "x".repeat(200 << 10);
    for (request, status, code, limit) in [
        (
            format!("GET / HTTP/1.1\r\nhost: web\r\nx: {huge}\r\n\r\n"),
            431,
            "headers-too-large",
            "131072 bytes",
        ),
        (
            format!("GET / HTTP/1.1\r\nhost: web\r\n{}\r\n", "a: b\r\n".repeat(300)),
            431,
            "headers-too-large",
            "more than 100 fields",
        ),
        (format!("GET /{huge} HTTP/1.1\r\nhost: web\r\n\r\n"), 414, "uri-too-long", "65534 bytes"),
        ("GET / HTTP/1.1\r\nhost: web\r\n folded: x\r\n\r\n".into(), 400, "ambiguous-framing", "folded"),
        ("GET / HTTP/1.1\r\nhost: web\r\nnocolon\r\n\r\n".into(), 400, "bad-request", "header name"),
    ] {
        let before = proxy.metric("weft_reasons_total", &[&format!("code=\"{code}\"")]).await;
        let mut raw = Raw::connect(proxy.upstream()).await;
        let _ = tokio::io::AsyncWriteExt::write_all(&mut raw.tcp, request.as_bytes()).await;
        assert_eq!(raw.answer().await.status, status, "{code}");
        let label = format!("code=\"{code}\"");
        until(code, async || proxy.metric("weft_reasons_total", &[&label]).await == before + 1.0).await;
        let logged = lines.with(&format!("reason={code}"));
        assert!(logged.iter().any(|line| line.contains(limit)), "{code}: {logged:#?}");
    }
}

#[tokio::test]
async fn a_header_list_that_http2_refuses_by_itself_is_counted_and_logged_with_the_limit() {
    let lines = Lines::begin();
    let app = Application::http(|_| async {
        let mut response = http::Response::new(Body::empty());
        *response.status_mut() = http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        response
    });
    let app = app.await;
    let (_mesh, proxy) = plain(&[&app], &[]).await;
    let mut client = weft_testkit::client::http2(proxy.upstream()).await;
    let mut ask = async |size: usize, body: Body| {
        let request = http::Request::post("http://web/").header("x", "x".repeat(size)).body(body).unwrap();
        weft_testkit::client::ask(&mut client, request).await.unwrap().status().as_u16()
    };
    let code = ["code=\"headers-too-large\"", "phase=\"head\"", "direction=\"outbound\""];
    for (count, body) in [(1.0, Body::empty()), (2.0, Body::full("with a body")), (3.0, Body::empty())] {
        assert_eq!(ask(200 << 10, body).await, 431);
        until("it is counted", async || proxy.metric("weft_reasons_total", &code).await == count).await;
    }
    let limit = ["limit=\"outbound-server-http2-max-header-list-size\""];
    assert_eq!(proxy.metric("weft_limit_reached_total", &limit).await, 3.0);
    let logged = lines.with("reason=headers-too-large");
    assert!(logged.iter().any(|line| line.contains("larger than 131072 bytes")), "{logged:#?}");
    // What the application answers is its own affair, and the connection goes on.
    assert_eq!(app.seen().len(), 0);
    assert_eq!(ask(10, Body::empty()).await, 431);
    assert_eq!(app.seen().len(), 1);
    assert_eq!(proxy.metric("weft_reasons_total", &code).await, 3.0);
}

#[tokio::test]
async fn a_grpc_call_is_told_in_grpcs_own_way() {
    let (_mesh, proxy) = plain(&[], &[]).await;
    let mut client = weft_testkit::client::http2(proxy.upstream()).await;
    let call = http::Request::post("http://web/pkg.Svc/Method").header("content-type", "application/grpc");
    let call = call.header("te", "trailers").body(Body::full("\0\0\0\0\0")).unwrap();
    let answer = weft_testkit::client::ask(&mut client, call).await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["grpc-status"]), (200, &"4".parse().unwrap()));
    assert!(answer.headers()["weft-reason"].to_str().unwrap().contains("hop=outbound"));
    assert!(!answer.headers()["grpc-message"].is_empty());
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_at_all_is_told_as_a_connect_timeout() {
    // Whose queue of connections is full says nothing to another one.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let short = Duration::from_millis(100);
    let mut held = Vec::new();
    while let Ok(Ok(tcp)) = tokio::time::timeout(short, TcpStream::connect(addr)).await {
        held.push(tcp);
        assert!(held.len() < 100, "its queue is never full");
    }
    let mesh = Mesh::new();
    mesh.facts.endpoints(WEB, Said::Told(vec![EndpointInfo::plain(addr)]));
    let client = proxy_to(&mesh, "client", &[("OUTBOUND_CONNECT_TIMEOUT", "100ms")]).await;
    let answer = get(client.upstream(), "/").await;
    assert_eq!(answer.status, 504, "{answer:?}");
    assert!(answer.header("weft-reason").contains("connect-timeout"), "{answer:?}");
    drop((listener, held));
}

#[tokio::test]
async fn the_workloads_own_address_is_reached_without_tls() {
    let pair = Pair::with(Application::saying("x").await, &[], &[("INBOUND_IPS", "127.0.0.1")]).await;
    assert_eq!(get(pair.client.upstream(), "/").await.text(), "x");
    assert!(!pair.app.seen()[0].headers().contains_key("l5d-client-id"), "nobody proved anything");
    let labels = ["direction=\"outbound\"", "no_tls_reason=\"loopback\""];
    assert_eq!(pair.client.metric("request_total", &labels).await, 1.0);
}
