//! A proxy that ends lets what is under way end first.

use crate::world::plain;
use http::{Request, Response};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use weft_net::body::Body;
use weft_testkit::application::{Application, read};
use weft_testkit::client::{Raw, ask, http2};
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
