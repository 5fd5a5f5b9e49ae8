//! What clients are told when the mesh itself answers.

use crate::world::{Pair, WEB, plain, proxy_of, proxy_to, tell};
use http::Response;
use weft_model::destination::EndpointInfo;
use weft_net::body::Body;
use weft_testkit::application::Application;
use weft_testkit::client::{Raw, get};
use weft_testkit::mesh::Mesh;
use weft_testkit::plane::Said;
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
