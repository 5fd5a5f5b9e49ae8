//! A proxy beside an ingress: requests name where they go, one by one (§3.10).

use crate::world::{WEB, proxy_to};
use tokio::io::AsyncWriteExt;
use weft_model::destination::EndpointInfo;
use weft_model::policy::OutboundProtocol;
use weft_testkit::application::Application;
use weft_testkit::client::{Raw, exchange, get};
use weft_testkit::mesh::{Mesh, Running};
use weft_testkit::plane::Said;
use weft_testkit::policy::{policy, tcp_route, to};

const BOOKS: &str = "books.default.svc.cluster.local";

/// Connections lead to `web`; requests may name `books`.
async fn beside_an_ingress(settings: &[(&str, &str)]) -> (Mesh, Running, [Application; 2]) {
    let mesh = Mesh::new();
    let (web, books) = (Application::saying("web").await, Application::saying("books").await);
    mesh.facts.endpoints(WEB, Said::Told(vec![EndpointInfo::plain(web.addr)]));
    let name = format!("{BOOKS}:80");
    mesh.facts.endpoints(&name, Said::Told(vec![EndpointInfo::plain(books.addr)]));
    let proxy = proxy_to(&mesh, "ingress", &[&[("INGRESS_MODE", "true")], settings].concat()).await;
    (mesh, proxy, [web, books])
}

async fn naming(proxy: &Running, name: &str) -> weft_testkit::client::Answer {
    let request = format!("GET / HTTP/1.1\r\nhost: shop.example\r\nl5d-dst-override: {name}\r\n\r\n");
    exchange(proxy.upstream(), &request).await
}

#[tokio::test]
async fn each_request_goes_where_its_header_says_or_where_its_connection_was_meant_to_go() {
    let (_mesh, proxy, [web, books]) = beside_an_ingress(&[]).await;
    let mut raw = Raw::connect(proxy.upstream()).await;
    for (header, text) in [
        (String::new(), "web"),
        (format!("l5d-dst-override: {BOOKS}:80\r\n"), "books"),
        (format!("l5d-dst-override: {BOOKS}\r\n"), "books"),
        (String::new(), "web"),
    ] {
        raw.send(format!("GET / HTTP/1.1\r\nhost: shop.example\r\n{header}\r\n")).await;
        assert_eq!(raw.answer().await.text(), text, "{header}");
    }
    assert_eq!((web.seen().len(), books.seen().len()), (2, 2));
    assert!(books.seen().iter().all(|request| !request.headers().contains_key("l5d-dst-override")));
    assert_eq!(books.seen()[0].headers()["host"], "shop.example", "the application sees what was asked for");
}

#[tokio::test]
async fn the_header_means_nothing_where_there_is_no_ingress() {
    let (mesh, _proxy, [web, _books]) = beside_an_ingress(&[]).await;
    let sidecar = proxy_to(&mesh, "sidecar", &[]).await;
    assert_eq!(naming(&sidecar, BOOKS).await.text(), "web");
    assert!(web.seen()[0].headers().contains_key("l5d-dst-override"), "it passes unread");
}

#[tokio::test]
async fn a_name_that_leads_nowhere_is_an_error_and_never_the_original_destination() {
    let settings = [("OUTBOUND_DISABLE_INFORMATIONAL_HEADERS", "false")];
    let (mesh, proxy, [web, _books]) = beside_an_ingress(&settings).await;
    for (name, status) in [("nobody.default.svc.cluster.local", 503), ("not a name", 400)] {
        let answer = naming(&proxy, name).await;
        assert_eq!(answer.status, status, "{name}: {answer:?}");
    }
    // A destination of bytes is none for a request.
    let opaque = OutboundProtocol::Opaque(vec![tcp_route("opaque", &[], to(&format!("{BOOKS}:81")))]);
    mesh.facts.outbound(&format!("{BOOKS}:81"), Said::Told(policy(opaque)));
    let answer = naming(&proxy, &format!("{BOOKS}:81")).await;
    assert_eq!(answer.status, 500, "{answer:?}");
    assert!(answer.header("weft-reason").contains("speaks no HTTP"), "{answer:?}");
    assert!(web.seen().is_empty());
}

#[tokio::test]
async fn what_is_no_http_goes_where_its_connection_was_meant_to_go() {
    let greeting = Application::tcp(|mut tcp| async move {
        let _ = tcp.write_all(b"220 ").await;
        let (mut reader, mut writer) = tcp.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    })
    .await;
    let (mesh, proxy, _apps) = beside_an_ingress(&[]).await;
    mesh.facts.endpoints(WEB, Said::Told(vec![EndpointInfo::plain(greeting.addr)]));
    let mut raw = Raw::connect(proxy.upstream()).await;
    raw.send(b"\x00\x01\x02").await;
    assert_eq!(raw.bytes(7).await, b"220 \x00\x01\x02");
}

#[tokio::test]
async fn strangers_behind_an_ingress_are_told_nothing_unless_a_setting_says_so() {
    for (settings, told) in
        [(&[][..], false), (&[("OUTBOUND_DISABLE_INFORMATIONAL_HEADERS", "false")][..], true)]
    {
        let (mesh, proxy, _apps) = beside_an_ingress(settings).await;
        mesh.facts.endpoints(WEB, Said::Told(Vec::new()));
        let answer = get(proxy.upstream(), "/").await;
        assert_eq!(answer.status, 504);
        assert_eq!(answer.header("l5d-proxy-error").is_empty(), !told, "{answer:?}");
    }
}
