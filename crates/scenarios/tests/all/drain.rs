//! A proxy that ends lets what is under way end first.

use crate::world::{WEB, plain, proxy_of, proxy_to};
use http::{Request, Response};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use weft_model::destination::EndpointInfo;
use weft_net::body::Body;
use weft_testkit::application::{Application, read};
use weft_testkit::client::{Raw, ask, exchange, get, http2};
use weft_testkit::mesh::Mesh;
use weft_testkit::plane::Said;
use weft_testkit::{until, within};

/// An application that answers when it is told to, and tells when it was asked.
async fn waiting() -> (Application, Arc<Notify>, Arc<Notify>) {
    let (asked, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (a, g) = (asked.clone(), go.clone());
    let app = Application::http(move |_| {
        let (asked, go) = (a.clone(), g.clone());
        async move {
            asked.notify_one();
            go.notified().await;
            Response::new(Body::full("done"))
        }
    });
    (app.await, asked, go)
}

#[tokio::test]
async fn an_http1_request_under_way_is_answered_and_its_connection_closed() {
    let (app, asked, go) = waiting().await;
    let (_mesh, mut proxy) = plain(&[&app], &[]).await;
    let mut raw = Raw::connect(proxy.upstream()).await;
    raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
    within("the request's arrival", asked.notified()).await;
    proxy.proxy.stop();
    until("it drains", async || proxy.state().await["draining"] == true).await;
    go.notify_one();
    let answer = raw.answer().await;
    assert_eq!((answer.text().as_str(), answer.header("connection")), ("done", "close"));
    assert_eq!(raw.rest().await, b"");
    within("the drain", proxy.proxy.drained()).await;
}

#[tokio::test]
async fn an_http2_stream_under_way_completes() {
    let (app, asked, go) = waiting().await;
    let (_mesh, mut proxy) = plain(&[&app], &[]).await;
    let mut client = http2(proxy.upstream()).await;
    client.ready().await.unwrap();
    let response = tokio::spawn(client.send(Request::get("http://web/").body(Body::empty()).unwrap()));
    within("the request's arrival", asked.notified()).await;
    proxy.proxy.stop();
    until("it drains", async || proxy.state().await["draining"] == true).await;
    go.notify_one();
    let response = within("the response", response).await.unwrap().unwrap();
    assert_eq!(read(response.into_body()).await.unwrap().0, "done");
    let late = ask(&mut client, Request::get("http://web/").body(Body::empty()).unwrap()).await;
    assert!(late.is_err(), "no stream begins after GOAWAY");
    within("the drain", proxy.proxy.drained()).await;
}

#[tokio::test]
async fn a_tcp_connection_is_waited_for_until_the_grace_period() {
    let echo = Application::tcp(|mut tcp| async move {
        let mut byte = [0; 2];
        while tcp.read_exact(&mut byte).await.is_ok() && tcp.write_all(&byte).await.is_ok() {}
    });
    let echo = echo.await;
    let (_mesh, mut proxy) = plain(&[&echo], &[("SHUTDOWN_GRACE_PERIOD", "500ms")]).await;
    let mut raw = Raw::connect(proxy.upstream()).await;
    raw.send(b"\x00\x01").await;
    assert_eq!(raw.bytes(2).await, b"\x00\x01");
    proxy.proxy.stop();
    until("it drains", async || proxy.state().await["draining"] == true).await;
    raw.send(b"\x02\x03").await;
    assert_eq!(raw.bytes(2).await, b"\x02\x03", "it is still relayed");
    within("the grace period", proxy.proxy.drained()).await;
}

#[tokio::test]
async fn the_application_may_call_others_while_it_finishes_what_it_was_asked() {
    let (app, asked, go) = waiting().await;
    let other = Application::saying("other").await;
    let mesh = Mesh::new();
    mesh.facts.endpoints(WEB, Said::Told(vec![EndpointInfo::plain(other.addr)]));
    let mut proxy = proxy_of(&mesh, "web", &app, &[("FORWARD_PROXY_LISTEN_ADDR", "127.0.0.1:0")]).await;
    let (bind, forward) = (proxy.bind(), proxy.proxy.forward_proxy.unwrap());
    let mut raw = Raw::connect(bind).await;
    raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
    within("the request's arrival", asked.notified()).await;
    let mut early = Raw::connect(forward).await;
    let call = format!("GET http://{WEB}/ HTTP/1.1\r\nhost: x\r\n\r\n");
    proxy.proxy.stop();
    until("nobody comes in any more", async || TcpStream::connect(bind).await.is_err()).await;
    // On a connection from before, twice, and on a new one.
    for _ in 0..2 {
        early.send(&call).await;
        let answer = early.answer().await;
        assert_eq!((answer.text().as_str(), answer.header("connection")), ("other", ""), "{answer:?}");
    }
    assert_eq!(exchange(forward, &call).await.text(), "other");
    go.notify_one();
    let answer = raw.answer().await;
    assert_eq!((answer.text().as_str(), answer.header("connection")), ("done", "close"), "{answer:?}");
    within("the drain", proxy.proxy.drained()).await;
    assert_eq!(early.rest().await, b"", "then its own connections end, too");
    assert!(TcpStream::connect(forward).await.is_err());
}

#[tokio::test]
async fn what_does_not_end_is_left_at_the_grace_period() {
    let (app, asked, _go) = waiting().await;
    let mesh = Mesh::new();
    let mut proxy = proxy_of(&mesh, "web", &app, &[("SHUTDOWN_GRACE_PERIOD", "300ms")]).await;
    let mut raw = Raw::connect(proxy.bind()).await;
    raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
    within("the request's arrival", asked.notified()).await;
    let began = Instant::now();
    proxy.proxy.stop();
    within("the grace period", proxy.proxy.drained()).await;
    let took = began.elapsed();
    assert!((300..3_000).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test]
async fn a_client_that_has_said_nothing_does_not_hold_the_drain_up() {
    let app = Application::saying("x").await;
    let mesh = Mesh::new();
    let mut proxy = proxy_of(&mesh, "web", &app, &[]).await;
    let mut silent = Raw::connect(proxy.bind()).await;
    until("it is accepted", async || {
        proxy.metric("weft_accepted_connections", &["listener=\"bind\""]).await == 1.0
    })
    .await;
    let began = Instant::now();
    proxy.proxy.stop();
    within("the drain", proxy.proxy.drained()).await;
    assert!(began.elapsed() < Duration::from_secs(5), "the detect timeout is 10 s");
    assert_eq!(silent.rest().await, b"");
}

#[tokio::test]
async fn meshed_clients_leave_a_draining_server_unnoticed() {
    let mesh = Mesh::new();
    let (a, b) = (Application::echo().await, Application::echo().await);
    let (staying, mut leaving) =
        (proxy_of(&mesh, "web", &a, &[]).await, proxy_of(&mesh, "web", &b, &[]).await);
    let both = vec![staying.meshed("web"), leaving.meshed("web")];
    mesh.facts.endpoints(WEB, Said::Told(both));
    let client = proxy_to(&mesh, "client", &[]).await;
    let (at, total) = (client.upstream(), Arc::new(AtomicUsize::new(0)));
    assert_eq!(get(at, "/").await.status, 200);
    until("both are there", async || {
        client.state().await["outbound"][0]["plan"]["http"][0]["backends"][0]["ready"] == 2
    })
    .await;
    let mut clients = JoinSet::new();
    for number in 0..12 {
        let total = total.clone();
        clients.spawn(async move {
            let mut raw = Raw::connect(at).await;
            let mut http2 = http2(at).await;
            for _ in 0..40 {
                if number % 2 == 0 {
                    raw.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 4\r\n\r\nonce").await;
                    let answer = raw.answer().await;
                    assert_eq!((answer.status, answer.text().as_str()), (200, "once"), "{answer:?}");
                } else {
                    let request = Request::post("http://web/").body(Body::full("once")).unwrap();
                    let answer = ask(&mut http2, request).await.unwrap();
                    assert_eq!(answer.status(), 200, "{answer:?}");
                    assert_eq!(read(answer.into_body()).await.unwrap().0, "once");
                }
                total.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    until("load", async || total.load(Ordering::Relaxed) > 100).await;
    leaving.proxy.stop();
    within("the drain", leaving.proxy.drained()).await;
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    assert_eq!(a.seen().len() + b.seen().len(), 1 + 12 * 40, "every request was processed exactly once");
    assert!(!b.seen().is_empty());
    assert_eq!(get(at, "/").await.status, 200);
}
