//! The listener for applications that honour HTTP_PROXY.

use crate::world::WEB;
use std::net::{SocketAddr, UdpSocket};
use tokio::io::AsyncWriteExt;
use weft_model::destination::EndpointInfo;
use weft_testkit::application::Application;
use weft_testkit::client::{Answer, Raw, exchange};
use weft_testkit::mesh::{Mesh, Running};
use weft_testkit::plane::Said;

async fn proxy(app: &Application) -> (Mesh, Running) {
    let mesh = Mesh::new();
    mesh.facts.endpoints(WEB, Said::Told(vec![EndpointInfo::plain(app.addr)]));
    let proxy = mesh.proxy("client", &[("FORWARD_PROXY_LISTEN_ADDR", "127.0.0.1:0")]).await;
    (mesh, proxy)
}

#[tokio::test]
async fn absolute_requests_go_to_the_service_they_name() {
    let app = Application::saying("found").await;
    let (_mesh, proxy) = proxy(&app).await;
    let request = format!("GET http://{WEB}/x HTTP/1.1\r\nhost: web\r\n\r\n");
    let answer = exchange(proxy.proxy.forward_proxy.unwrap(), &request).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "found"));
    assert_eq!(app.seen()[0].uri().path(), "/x");
}

#[tokio::test]
async fn connect_opens_a_tunnel_of_bytes() {
    let app = Application::tcp(|mut tcp| async move {
        let _ = tcp.write_all(b"220 ready").await;
        let (mut reader, mut writer) = tcp.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    });
    let app = app.await;
    let (mesh, proxy) = proxy(&app).await;
    mesh.facts.profile(WEB, Said::Told(weft_model::profile::Profile { opaque: true, ..Default::default() }));
    let mut raw = Raw::connect(proxy.proxy.forward_proxy.unwrap()).await;
    raw.send(format!("CONNECT {WEB} HTTP/1.1\r\nhost: {WEB}\r\n\r\n")).await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(raw.bytes(1).await);
    }
    assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
    assert_eq!(raw.bytes(9).await, b"220 ready");
    raw.send("ping").await;
    assert_eq!(raw.bytes(4).await, b"ping");
    raw.finish().await;
    assert_eq!(raw.rest().await, b"");
}

#[tokio::test]
async fn it_leads_neither_to_itself_nor_to_the_hosts_own_services() {
    let app = Application::saying("never").await;
    let (_mesh, proxy) = proxy(&app).await;
    let at = proxy.proxy.forward_proxy.unwrap();
    let (admin, inbound) = (proxy.proxy.admin.to_string(), proxy.proxy.inbound.to_string());
    for target in [at.to_string().as_str(), &admin, &inbound, "169.254.169.254", "[fe80::1]"] {
        let answer = exchange(at, &format!("GET http://{target}/ HTTP/1.1\r\nhost: {target}\r\n\r\n")).await;
        assert_eq!(
            (answer.status, answer.header("l5d-proxy-error").split(':').next()),
            (403, Some("forbidden-target")),
            "{target}"
        );
        let tunnel = exchange(at, &format!("CONNECT {target}:80 HTTP/1.1\r\nhost: {target}\r\n\r\n")).await;
        assert!(tunnel.status >= 400, "{target}: {tunnel:?}");
    }
}

#[tokio::test]
async fn a_listener_on_all_addresses_is_itself_at_every_address_of_the_host() {
    let mesh = Mesh::new();
    let all = [("FORWARD_PROXY_LISTEN_ADDR", "127.0.0.1:0"), ("INBOUND_LISTEN_ADDR", "0.0.0.0:0")];
    let proxy = mesh.proxy("client", &all).await;
    let at = proxy.proxy.forward_proxy.unwrap();
    let mut hosts = vec!["127.0.0.1".to_owned(), "127.7.7.7".to_owned()];
    // The address that this host has towards others, if it has one. Nothing is sent.
    let towards = UdpSocket::bind("0.0.0.0:0").unwrap();
    if towards.connect("192.0.2.1:9").is_ok() {
        hosts.push(towards.local_addr().unwrap().ip().to_string());
    }
    for host in hosts {
        let target = format!("{host}:{}", proxy.proxy.inbound.port());
        let answer = exchange(at, &format!("GET http://{target}/ HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        assert_eq!(answer.status, 403, "{target}: {answer:?}");
        assert!(answer.header("weft-reason").starts_with("forbidden-target"), "{target}: {answer:?}");
    }
}

#[tokio::test]
async fn evidence_goes_to_the_own_application_and_not_to_clients_from_elsewhere() {
    let mesh = Mesh::new();
    mesh.facts.endpoints(WEB, Said::Told(Vec::new()));
    let all = [("FORWARD_PROXY_LISTEN_ADDR", "0.0.0.0:0"), ("ALLOW_REMOTE_CLIENTS", "true")];
    let proxy = mesh.proxy("client", &all).await;
    let port = proxy.proxy.forward_proxy.unwrap().port();
    let request = format!("GET http://{WEB}/ HTTP/1.1\r\nhost: {WEB}\r\n\r\n");
    let own = exchange(SocketAddr::from(([127, 0, 0, 1], port)), &request).await;
    let parts = |answer: &Answer| answer.header("weft-reason").split("; ").count();
    assert!(parts(&own) > 3, "code, hop, phase and evidence: {own:?}");
    // The address that this host has towards others, if it has one. Nothing is sent.
    let towards = UdpSocket::bind("0.0.0.0:0").unwrap();
    if towards.connect("192.0.2.1:9").is_ok() {
        let remote = SocketAddr::new(towards.local_addr().unwrap().ip(), port);
        let answer = exchange(remote, &request).await;
        assert_eq!(parts(&answer), 3, "code, hop and phase: {answer:?}");
        assert!(answer.header("weft-reason").starts_with("no-endpoints; hop=outbound"), "{answer:?}");
    }
}
