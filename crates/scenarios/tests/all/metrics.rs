//! What a proxy counts: connections, their bytes, what they turned out to be, and its own state, under the names
//! and labels of Linkerd's proxy, so that dashboards made for it work.

use crate::world::{Pair, WEB, plain};
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_model::profile::Profile;
use weft_testkit::application::{Application, piecewise};
use weft_testkit::client::{Raw, get};
use weft_testkit::mesh::{Running, identity};
use weft_testkit::plane::Said;
use weft_testkit::until;

/// Sends back what it gets.
async fn echo() -> Application {
    Application::tcp(|mut tcp| async move {
        let (mut reader, mut writer) = tcp.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
        let _ = writer.shutdown().await;
    })
    .await
}

async fn becomes(proxy: &Running, name: &str, labels: &[&str], expected: f64) {
    let what = format!("{name}{labels:?} is {expected}");
    until(&what, async || proxy.metric(name, labels).await == expected).await;
}

fn opaque() -> Said<Profile> {
    Said::Told(Profile { opaque: true, ..Profile::default() })
}

/// Sends 1,000 bytes through a proxy and back, and expects them on one side of it, before and after the connection
/// closed.
async fn are_counted(proxy: &Running, at: SocketAddr, sides: [&[&str]; 2]) {
    let mut raw = Raw::connect(at).await;
    raw.send([0; 1000]).await;
    assert_eq!(raw.bytes(1000).await.len(), 1000);
    for side in sides {
        becomes(proxy, "tcp_read_bytes_total", side, 1000.0).await;
        becomes(proxy, "tcp_write_bytes_total", side, 1000.0).await;
    }
    becomes(proxy, "tcp_open_total", sides[0], 1.0).await;
    becomes(proxy, "tcp_open_connections", sides[0], 1.0).await;
    assert_eq!(proxy.metric("tcp_close_total", sides[0]).await, 0.0);
    raw.finish().await;
    raw.rest().await;
    becomes(proxy, "tcp_open_connections", sides[0], 0.0).await;
    becomes(proxy, "tcp_close_total", &[sides[0], &["errno=\"\""]].concat(), 1.0).await;
    becomes(proxy, "tcp_connection_duration_ms_count", sides[0], 1.0).await;
    for side in sides {
        assert_eq!(proxy.metric("tcp_read_bytes_total", side).await, 1000.0, "counted twice: {side:?}");
    }
}

#[tokio::test]
async fn bytes_are_counted_exactly_on_both_sides_while_a_connection_is_open() {
    let app = echo().await;
    let (mesh, proxy) = plain(&[&app], &[]).await;
    mesh.facts.profile(WEB, opaque());
    let address = format!("target_addr=\"{WEB}\"");
    let source = ["direction=\"outbound\"", "peer=\"src\"", "no_tls_reason=\"loopback\"", &address];
    let endpoint = format!("target_addr=\"{}\"", app.addr);
    let target = ["direction=\"outbound\"", "peer=\"dst\"", "not_provided_by_service_discovery", &endpoint];
    are_counted(&proxy, proxy.upstream(), [&source, &target]).await;

    let pair = Pair::around(echo().await).await;
    let port = format!("srv_port=\"{}\"", pair.server.bind().port());
    let source = ["direction=\"inbound\"", "peer=\"src\"", "no_tls_reason=\"no_tls_from_remote\"", &port];
    let target = ["direction=\"inbound\"", "peer=\"dst\"", "tls=\"no_identity\"", "\"loopback\""];
    are_counted(&pair.server, pair.server.bind(), [&source, &target]).await;
}

#[tokio::test]
async fn bytes_inside_mutual_tls_are_counted_with_the_identity_at_the_other_end() {
    let pair = Pair::around(echo().await).await;
    let mut raw = Raw::connect(pair.client.upstream()).await;
    raw.send([0; 1000]).await;
    assert_eq!(raw.bytes(1000).await.len(), 1000);
    let client = format!("client_id=\"{}\"", identity("client"));
    let server = format!("server_id=\"{}\"", identity("web"));
    for (proxy, side) in [
        (&pair.client, ["direction=\"outbound\"", "peer=\"dst\"", "tls=\"true\"", &server]),
        (&pair.server, ["direction=\"inbound\"", "peer=\"src\"", "tls=\"true\"", &client]),
    ] {
        // The endpoint's HTTP/2 connection is open beside it.
        becomes(proxy, "tcp_open_total", &side, 2.0).await;
        assert!(proxy.metric("tcp_read_bytes_total", &side).await >= 1000.0);
        assert!(proxy.metric("tcp_write_bytes_total", &side).await >= 1000.0);
    }
}

#[tokio::test]
async fn bulk_that_the_kernel_moves_is_counted_too() {
    let app = echo().await;
    let (mesh, proxy) = plain(&[&app], &[]).await;
    mesh.facts.profile(WEB, opaque());
    let raw = Raw::connect(proxy.upstream()).await;
    let (mut reader, mut writer) = raw.tcp.into_split();
    const SIZE: usize = 8 << 20;
    let sending = tokio::spawn(async move {
        writer.write_all(&vec![7; SIZE]).await.unwrap();
        writer
    });
    let mut back = vec![0; SIZE];
    reader.read_exact(&mut back).await.unwrap();
    for peer in ["peer=\"src\"", "peer=\"dst\""] {
        becomes(&proxy, "tcp_read_bytes_total", &["direction=\"outbound\"", peer], SIZE as f64).await;
        becomes(&proxy, "tcp_write_bytes_total", &["direction=\"outbound\"", peer], SIZE as f64).await;
    }
    drop(sending.await.unwrap());
}

#[tokio::test]
async fn a_pooled_connection_is_counted_once_and_a_broken_one_by_its_error() {
    let app = Application::saying("x").await;
    let (_mesh, proxy) = plain(&[&app], &[]).await;
    let mut raw = Raw::connect(proxy.upstream()).await;
    for _ in 0..3 {
        raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
        assert_eq!(raw.answer().await.status, 200);
    }
    let source = ["direction=\"outbound\"", "peer=\"src\""];
    becomes(&proxy, "tcp_open_total", &source, 1.0).await;
    becomes(&proxy, "tcp_open_total", &["direction=\"outbound\"", "peer=\"dst\""], 1.0).await;
    raw.tcp.set_zero_linger().unwrap();
    drop(raw);
    becomes(&proxy, "tcp_close_total", &[source[0], source[1], "errno=\"ECONNRESET\""], 1.0).await;
}

#[tokio::test]
async fn connections_are_counted_by_what_they_turned_out_to_be() {
    let pair = Pair::around(Application::saying("x").await).await;
    assert_eq!(get(pair.client.upstream(), "/").await.status, 200);
    assert_eq!(get(pair.server.bind(), "/").await.status, 200);
    let http1 = "result=\"http/1\"";
    becomes(&pair.client, "outbound_tcp_detect_http_results_total", &[http1, "parent_group"], 1.0).await;
    becomes(&pair.client, "outbound_tcp_detect_http_duration_seconds_count", &[], 1.0).await;
    becomes(&pair.client, "outbound_tcp_protocol_connections_total", &["protocol=\"detect\""], 1.0).await;
    becomes(&pair.server, "inbound_tcp_detect_http_results_total", &[http1, "srv_port"], 1.0).await;
    let client = format!("client_id=\"{}\"", identity("client"));
    let header = ["session_protocol=\"http/2\"", &client];
    becomes(&pair.server, "inbound_tcp_transport_header_connections_total", &header, 1.0).await;
}

#[tokio::test]
async fn frames_of_responses_are_counted_by_size_on_both_sides() {
    let app = Application::http(|_| async {
        let parts = ["x"; 3].map(|part| part.into()).into_iter().chain(["y".repeat(5000)]);
        let (frames, body) = piecewise();
        let sending = async move {
            for part in parts {
                let _ = frames.send(part.into()).await;
            }
        };
        tokio::spawn(sending);
        http::Response::new(body)
    });
    let pair = Pair::around(app.await).await;
    assert_eq!(get(pair.client.upstream(), "/").await.body.len(), 5003);
    for (proxy, family) in [
        (&pair.client, "outbound_http_route_backend_response_frame_size_bytes"),
        (&pair.server, "inbound_http_response_frame_size_bytes"),
    ] {
        // What is sent piece by piece may arrive in other pieces; nothing is lost or counted twice.
        becomes(proxy, &format!("{family}_sum"), &["route_name"], 5003.0).await;
        let large = proxy.metric(&format!("{family}_bucket"), &["le=\"10240\""]).await;
        let small = proxy.metric(&format!("{family}_bucket"), &["le=\"128\""]).await;
        assert!(large >= 1.0 && large > small, "{family}: {small} of {large}");
    }
    becomes(&pair.server, "inbound_http_response_duration_seconds_count", &["route_name"], 1.0).await;
}

#[tokio::test]
async fn the_control_planes_channel_and_the_certificate_are_shown() {
    let pair = Pair::around(Application::saying("x").await).await;
    assert_eq!(get(pair.client.upstream(), "/").await.status, 200);
    let proxy = &pair.client;
    assert!(proxy.metric("control_request_total", &["addr=\"127.0.0.1:"]).await >= 1.0);
    assert!(
        proxy.metric("control_response_total", &["grpc_status=\"0\""]).await >= 1.0,
        "Certify ended well"
    );
    let ready = ["endpoint_state=\"ready\""];
    becomes(proxy, "control_destination_balancer_endpoints", &ready, 1.0).await;
    becomes(proxy, "control_policy_balancer_endpoints", &ready, 1.0).await;
    assert!(proxy.metric("control_destination_balancer_queue_requests_total", &[]).await >= 1.0);
    let web = ["backend_name=\"web\"", "parent_name", ready[0]];
    becomes(proxy, "outbound_http_balancer_endpoints", &web, 1.0).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let refreshed = proxy.metric("control_identity_cert_refresh_timestamp_seconds", &[]).await;
    assert!(refreshed > now - 3600.0 && refreshed <= now + 1.0, "{refreshed}");
    assert!(proxy.metric("control_identity_cert_expiration_timestamp_seconds", &[]).await > now);
    assert_eq!(proxy.metric("control_identity_cert_refreshes_total", &["result=\"ok\""]).await, 1.0);
    assert_eq!(proxy.metric("proxy_build_info", &["version"]).await, 1.0);
    assert_eq!(proxy.metric("rustls_info", &["X25519MLKEM768"]).await, 1.0);
    assert!(proxy.metric("process_resident_memory_bytes", &[]).await > 1e6);
}

#[tokio::test]
async fn label_sets_beyond_the_bound_share_one_series() {
    let app = Application::saying("x").await;
    let (_mesh, proxy) =
        plain(&[&app], &[("METRICS_MAX_SERIES", "4"), ("FORWARD_PROXY_LISTEN_ADDR", "127.0.0.1:0")]).await;
    let to = proxy.proxy.forward_proxy.unwrap();
    for n in 1..=12 {
        // Each is a destination, and a label set, of its own.
        let mut raw = Raw::connect(to).await;
        raw.send(format!("CONNECT 127.0.0.{n}:{} HTTP/1.1\r\nhost: x\r\n\r\n", app.addr.port())).await;
        assert_eq!(raw.answer_to_head().await.status, 200);
        raw.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        raw.answer().await;
    }
    let page = String::from_utf8_lossy(&proxy.page("/metrics").await.body).into_owned();
    let mut counts = std::collections::HashMap::<&str, usize>::new();
    for line in page.lines().filter(|l| l.starts_with("outbound_") || l.starts_with("tcp_")) {
        if !line.contains("_bucket{") {
            *counts.entry(line.split(['{', ' ']).next().unwrap()).or_default() += 1;
        }
    }
    let worst = counts.iter().max_by_key(|(_, count)| **count).unwrap();
    assert!(*worst.1 <= 5, "{worst:?}");
    assert!(page.contains("overflow=\"true\"") && page.contains("weft_metrics_series_refused_total{"));
}
