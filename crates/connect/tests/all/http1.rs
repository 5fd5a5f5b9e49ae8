//! HTTP/1: the pool, one-off connections, upgrades, and what may be sent again.

use crate::world::*;
use bytes::Bytes;
use http::{Method, StatusCode, Version};
use http_body_util::BodyExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::Notify;
use weft_connect::http::AbsoluteForm;
use weft_connect::{SendFailure, Whereabouts};
use weft_model::destination::ProtocolHint;
use weft_model::reason::Code;
use weft_net::body::Body;

#[tokio::test(start_paused = true)]
async fn one_connection_serves_one_request_after_another() {
    let net = Net::new(serve_http1);
    let world = World::ready(context(&net), info(ProtocolHint::Unknown)).await;
    for _ in 0..10 {
        let response = world.endpoint.send(&mut get(Version::HTTP_11)).await.unwrap();
        assert_eq!(text(response).await, "#0 HTTP/1.1 /path");
    }
    assert_eq!(net.connects(), 1);
    assert_eq!(world.endpoint.status().idle_http1, 1);
}

#[tokio::test(start_paused = true)]
async fn requests_at_once_get_connections_of_their_own_and_idle_ones_are_closed() {
    let gate = Arc::new(Notify::new());
    let held = gate.clone();
    let net = Net::new(move |_, mut io: DuplexStream| {
        let gate = held.clone();
        async move {
            while !read_head(&mut io).await.is_empty() {
                gate.notified().await;
                answer(&mut io, "done").await;
            }
        }
    });
    let world = World::ready(context(&net), info(ProtocolHint::Unknown)).await;
    let requests: Vec<_> = (0..3)
        .map(|_| {
            let endpoint = world.endpoint.clone();
            tokio::spawn(async move { text(endpoint.send(&mut get(Version::HTTP_11)).await.unwrap()).await })
        })
        .collect();
    settle().await;
    assert_eq!(net.connects(), 3);
    gate.notify_waiters();
    for request in requests {
        assert_eq!(request.await.unwrap(), "done");
    }
    assert_eq!(world.endpoint.status().idle_http1, 3);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.endpoint.status().idle_http1, 0);
    assert_eq!(net.connects(), 3, "an idle HTTP/1 endpoint is not connected to for its own sake");
}

/// Answers the first request of every connection; closes the first connection at its second request,
/// which it has read.
async fn close_at_the_second(number: usize, mut io: DuplexStream) {
    let _ = read_head(&mut io).await;
    answer(&mut io, "one").await;
    let _ = read_head(&mut io).await;
    if number > 0 {
        answer(&mut io, "two").await;
        let _ = read_head(&mut io).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_idempotent_request_that_raced_with_the_close_comes_back() {
    let net = Net::new(close_at_the_second);
    let world = World::ready(context(&net), info(ProtocolHint::Unknown)).await;
    text(world.endpoint.send(&mut get(Version::HTTP_11)).await.unwrap()).await;
    let mut request = get(Version::HTTP_11);
    let error = world.endpoint.send(&mut request).await.unwrap_err();
    assert_eq!((error.code(), error.unprocessed), (Code::ConnectionLost, true));
    assert_eq!(error.request, Whereabouts::Back);
    assert_eq!((request.uri().path(), &request.headers()["host"]), ("/path", &"web".parse().unwrap()));
    assert_eq!(text(world.endpoint.send(&mut request).await.unwrap()).await, "one");
}

#[tokio::test(start_paused = true)]
async fn other_requests_on_a_lost_connection_may_have_been_processed() {
    let post = |body: &'static str| {
        let mut request = request(Version::HTTP_11, Body::full(body));
        *request.method_mut() = Method::POST;
        request
    };
    for mut again in [post(""), post("data")] {
        let net = Net::new(close_at_the_second);
        let world = World::ready(context(&net), info(ProtocolHint::Unknown)).await;
        text(world.endpoint.send(&mut get(Version::HTTP_11)).await.unwrap()).await;
        let error = world.endpoint.send(&mut again).await.unwrap_err();
        assert_eq!((error.code(), error.unprocessed), (Code::ConnectionLost, false));
        assert_eq!(error.request, Whereabouts::Gone);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_closed_while_idle_is_replaced_unnoticed() {
    let net = Net::new(|number, mut io: DuplexStream| async move {
        let _ = read_head(&mut io).await;
        answer(&mut io, &number.to_string()).await;
    });
    let world = World::ready(context(&net), info(ProtocolHint::Unknown)).await;
    for expected in ["0", "1", "2"] {
        let mut post = request(Version::HTTP_11, Body::full("data"));
        *post.method_mut() = Method::POST;
        assert_eq!(text(world.endpoint.send(&mut post).await.unwrap()).await, expected);
        settle().await;
    }
}

/// Records the first line and the host of each request, and answers.
fn recorder() -> (Arc<Net>, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = seen.clone();
    let net = Net::new(move |number, mut io: DuplexStream| {
        let record = record.clone();
        async move {
            loop {
                let head = read_head(&mut io).await;
                let Some(line) = head.lines().next().filter(|line| !line.is_empty()) else { return };
                record.lock().unwrap().push(format!("#{number} {line}"));
                answer(&mut io, "ok").await;
            }
        }
    });
    (net, seen)
}

#[tokio::test(start_paused = true)]
async fn absolute_targets_have_a_pool_and_old_requests_connections_of_their_own() {
    let (net, seen) = recorder();
    let world = World::ready(context(&net), info(ProtocolHint::Unknown)).await;
    let absolute = || {
        let mut request = get(Version::HTTP_11);
        *request.uri_mut() = "http://web/path".parse().unwrap();
        request.extensions_mut().insert(AbsoluteForm);
        request
    };
    let hostless = || {
        let mut request = get(Version::HTTP_11);
        request.headers_mut().clear();
        request
    };
    let old = || get(Version::HTTP_10);
    for mut request in
        [get(Version::HTTP_11), absolute(), absolute(), hostless(), old(), old(), get(Version::HTTP_11)]
    {
        let version = request.version();
        let response = world.endpoint.send(&mut request).await.unwrap();
        assert_eq!(response.version(), Version::HTTP_11, "{version:?} is answered as the server does");
        assert_eq!(text(response).await, "ok");
    }
    let expected = [
        "#0 GET /path HTTP/1.1",
        "#1 GET http://web/path HTTP/1.1",
        "#1 GET http://web/path HTTP/1.1",
        "#2 GET /path HTTP/1.1",
        "#3 GET /path HTTP/1.0",
        "#4 GET /path HTTP/1.0",
        "#0 GET /path HTTP/1.1",
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_response_given_up_closes_its_connection() {
    let closed = Arc::new(Notify::new());
    let signal = closed.clone();
    let net = Net::new(move |_, mut io: DuplexStream| {
        let closed = signal.clone();
        async move {
            let _ = read_head(&mut io).await;
            io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nbegin").await.unwrap();
            let mut rest = Vec::new();
            let _ = io.read_to_end(&mut rest).await;
            closed.notify_one();
        }
    });
    let world = World::ready(context(&net), info(ProtocolHint::Unknown)).await;
    let mut response = world.endpoint.send(&mut get(Version::HTTP_11)).await.unwrap();
    assert_eq!(
        response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(),
        Bytes::from("begin")
    );
    drop(response);
    closed.notified().await;
    assert_eq!(world.endpoint.status().idle_http1, 0);
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_becomes_a_tunnel_on_its_own_connection() {
    let net = Net::new(|number, mut io: DuplexStream| async move {
        let head = read_head(&mut io).await;
        if number == 0 {
            return assert_eq!(head, "", "the pooled connection stays unused");
        }
        assert!(head.contains("upgrade: echo\r\n") && head.contains("connection: upgrade\r\n"), "{head}");
        io.write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhello",
        )
        .await
        .unwrap();
        let mut four = [0; 4];
        io.read_exact(&mut four).await.unwrap();
        io.write_all(&four).await.unwrap();
    });
    let world = World::ready(context(&net), info(ProtocolHint::Unknown)).await;
    let mut request = get(Version::HTTP_11);
    for (name, value) in [("connection", "upgrade"), ("upgrade", "echo")] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let response = world.endpoint.send(&mut request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()["upgrade"], "echo");
    let upgraded = hyper::upgrade::on(response).await.unwrap();
    let mut io = hyper_util::rt::TokioIo::new(upgraded);
    io.write_all(b"ping").await.unwrap();
    let mut nine = [0; 9];
    io.read_exact(&mut nine).await.unwrap();
    assert_eq!(&nine, b"helloping");
}

#[tokio::test(start_paused = true)]
async fn nonsense_for_an_answer_is_a_protocol_error() {
    let net = Net::new(|_, mut io: DuplexStream| async move {
        let _ = read_head(&mut io).await;
        io.write_all(b"SSH-2.0-nonsense\r\n\r\n").await.unwrap();
    });
    let world = World::ready(context(&net), info(ProtocolHint::Unknown)).await;
    let error = world.endpoint.send(&mut get(Version::HTTP_11)).await.unwrap_err();
    assert_eq!((error.code(), error.unprocessed), (Code::ProtocolError, false));
    assert!(matches!(error.failure, SendFailure::Protocol(_)));
}

#[tokio::test(start_paused = true)]
async fn a_request_given_up_while_connecting_leaves_its_connection_to_others() {
    let net = Net::new(serve_http1);
    let mut context = context(&net);
    context.ready_when = weft_connect::ReadyWhen::Always;
    let world = World::ready(context, info(ProtocolHint::Unknown)).await;
    {
        let mut request = get(Version::HTTP_11);
        let mut send = Box::pin(world.endpoint.send(&mut request));
        assert!(futures_now(&mut send).await.is_none());
    }
    settle().await;
    assert_eq!((net.connects(), world.endpoint.status().idle_http1), (1, 1));
}

/// Polls once.
async fn futures_now<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = std::future::ready(()) => None,
    }
}
