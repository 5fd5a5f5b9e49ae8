//! Bytes that are not HTTP.

use crate::world::{Pair, WEB, plain};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_model::policy::{OutboundProtocol, TcpRoute};
use weft_model::profile::Profile;
use weft_model::route::{Dispatch, Distribution, Filter, Queue};
use weft_testkit::application::Application;
use weft_testkit::client::Raw;
use weft_testkit::hello::{client_hello, records};
use weft_testkit::mesh::{Mesh, Running};
use weft_testkit::plane::Said;
use weft_testkit::policy::{backend, policy, tcp_route, to};

/// Reads all that comes and then answers how much it was.
async fn counting() -> Application {
    Application::tcp(|mut tcp| async move {
        let mut bytes = Vec::new();
        let _ = tcp.read_to_end(&mut bytes).await;
        let _ = tcp.write_all(format!("{} bytes", bytes.len()).as_bytes()).await;
    })
    .await
}

fn opaque() -> Said<Profile> {
    Said::Told(Profile { opaque: true, ..Profile::default() })
}

#[tokio::test]
async fn an_unknown_protocol_is_relayed_and_half_closes() {
    let app = counting().await;
    let (_mesh, proxy) = plain(&[&app], &[]).await;
    let mut raw = Raw::connect(proxy.upstream()).await;
    raw.send(b"\x00\x01 not http at all\r\n").await;
    raw.finish().await;
    assert_eq!(raw.rest().await, b"20 bytes");
}

#[tokio::test]
async fn a_server_may_speak_first_on_an_opaque_port() {
    let app = Application::tcp(|mut tcp| async move {
        let _ = tcp.write_all(b"220 ready").await;
        let _ = tcp.read_u8().await;
    });
    let app = app.await;
    // Nobody looks at the first bytes, or this would take an hour.
    let (mesh, proxy) = plain(&[&app], &[("OUTBOUND_DETECT_TIMEOUT", "1h")]).await;
    mesh.facts.profile(WEB, opaque());
    let mut raw = Raw::connect(proxy.upstream()).await;
    assert_eq!(raw.bytes(9).await, b"220 ready");
}

#[tokio::test]
async fn a_client_that_says_nothing_is_relayed_after_the_detect_timeout() {
    let app = Application::tcp(|mut tcp| async move {
        let _ = tcp.write_all(b"220 ready").await;
        let _ = tcp.read_u8().await;
    });
    let app = app.await;
    let (_mesh, proxy) = plain(&[&app], &[("OUTBOUND_DETECT_TIMEOUT", "50ms")]).await;
    let mut raw = Raw::connect(proxy.upstream()).await;
    assert_eq!(raw.bytes(9).await, b"220 ready");
}

#[tokio::test]
async fn tls_of_the_application_is_passed_through_untouched() {
    // For another name than the proxy's. In one record, and in many, as RFC 8446 §5.1 allows.
    let hello = client_hello("elsewhere.example");
    let hellos = [records(&hello, 1 << 14), records(&hello, 7)];
    let echo = Application::tcp(|mut tcp| async move {
        let (mut reader, mut writer) = tcp.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    });
    let pair = Pair::around(echo.await).await;
    // In at the workload's port, and out through two proxies.
    for to in [pair.server.bind(), pair.client.upstream()] {
        for hello in &hellos {
            let mut raw = Raw::connect(to).await;
            raw.tcp.set_nodelay(true).unwrap();
            for segment in hello.chunks(5) {
                raw.send(segment).await;
                tokio::task::yield_now().await;
            }
            assert_eq!(raw.bytes(hello.len()).await, *hello);
        }
    }
}

#[tokio::test]
async fn bytes_half_close_through_two_proxies_in_either_order() {
    let pair = Pair::around(counting().await).await;
    let mut raw = Raw::connect(pair.client.upstream()).await;
    raw.send(b"\x00\x01\x02 and more").await;
    raw.finish().await;
    assert_eq!(raw.rest().await, b"12 bytes", "the client was done first");

    let farewell = Application::tcp(|mut tcp| async move {
        let _ = tcp.read_u8().await;
        let _ = tcp.write_all(b"bye").await;
        let _ = tcp.shutdown().await;
        let mut rest = Vec::new();
        let _ = tcp.read_to_end(&mut rest).await;
        assert_eq!(rest, b"\x01 still here");
    });
    let pair = Pair::around(farewell.await).await;
    let mut raw = Raw::connect(pair.client.upstream()).await;
    raw.send(b"\x00\x01").await;
    assert_eq!(raw.rest().await, b"bye", "the server was done first");
    raw.send(b" still here").await;
    raw.finish().await;
}

/// A proxy whose policy relays bytes by this route.
async fn relaying(route: TcpRoute, app: &Application) -> (Mesh, Running) {
    let (mesh, proxy) = plain(&[app], &[]).await;
    mesh.facts.outbound(WEB, Said::Told(policy(OutboundProtocol::Opaque(vec![route]))));
    (mesh, proxy)
}

#[tokio::test]
async fn a_route_that_refuses_bytes_closes_their_connections_and_is_counted_by_its_reason() {
    let app = Application::tcp(|tcp| async move { drop(tcp) }).await;
    let none = backend("none", Queue::default(), Dispatch::Missing);
    for (filters, backends, code) in [
        (vec![Filter::Forbidden], to(WEB), "forbidden"),
        (vec![Filter::Invalid { message: "no such thing".into() }], to(WEB), "invalid-policy"),
        (vec![], Distribution::FirstAvailable(vec![none]), "no-dispatcher"),
        (vec![], Distribution::Empty, "no-backend"),
    ] {
        let route = TcpRoute { filters, backends, ..tcp_route("opaque", &[], Distribution::Empty) };
        let (_mesh, proxy) = relaying(route, &app).await;
        let mut raw = Raw::connect(proxy.upstream()).await;
        assert_eq!(raw.rest().await, b"", "{code}");
        let label = format!("code=\"{code}\"");
        assert_eq!(proxy.metric("weft_reasons_total", &[&label]).await, 1.0, "{code}");
    }
}
