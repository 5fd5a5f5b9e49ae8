//! Who may use a workload's port, and what its application learns about them.

use crate::world::{Pair, WEB, proxy_of, proxy_to};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_model::destination::EndpointInfo;
use weft_model::meta::Meta;
use weft_model::policy::{Authorization, DefaultPolicy, InboundPolicy, InboundProtocol, InboundRoutes};
use weft_testkit::application::Application;
use weft_testkit::client::{Raw, exchange, get};
use weft_testkit::hello::{client_hello, records};
use weft_testkit::mesh::{Alpn, Mesh, identity};
use weft_testkit::plane::Said;
use weft_testkit::until;

#[tokio::test]
async fn the_application_learns_the_clients_identity_and_nobody_forges_it() {
    let pair = Pair::around(Application::saying("x").await).await;
    let forged =
        "GET / HTTP/1.1\r\nhost: web\r\nl5d-client-id: admin\r\nweft-reason: x\r\nl5d-proxy-error: y\r\n\r\n";
    assert_eq!(exchange(pair.client.upstream(), forged).await.status, 200);
    assert_eq!(exchange(pair.server.bind(), forged).await.status, 200);
    let seen = pair.app.seen();
    assert_eq!(seen[0].headers()["l5d-client-id"], identity("client").as_str());
    assert!(!seen[1].headers().contains_key("l5d-client-id"));
    for request in &seen {
        for claim in ["weft-reason", "l5d-proxy-error"] {
            assert!(!request.headers().contains_key(claim), "{claim}");
        }
    }
}

/// An application that answers HTTP requests and greets everybody else, and how many connections it had.
async fn either() -> (Application, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let app = Application::tcp(move |mut tcp| {
        let count = counted.clone();
        async move {
            let mut first = [0; 4096];
            let Ok(read @ 1..) = tcp.read(&mut first).await else { return };
            count.fetch_add(1, Ordering::Relaxed);
            let answer: &[u8] = match &first[..read] {
                [b'G', ..] => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
                _ => b"bytes",
            };
            let _ = tcp.write_all(answer).await;
        }
    });
    (app.await, count)
}

/// Asks as HTTP and as bytes at an address, and expects to be served or refused in the way of each.
async fn asked(at: std::net::SocketAddr, served: bool, shown: &str) {
    let mut http = Raw::connect(at).await;
    http.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
    let answer = http.answer().await;
    let mut bytes = Raw::connect(at).await;
    bytes.send(b"\x00\x01\x02").await;
    if served {
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{shown}: {answer:?}");
        assert_eq!(bytes.bytes(5).await, b"bytes", "{shown}");
        return;
    }
    assert_eq!((answer.status, answer.header("connection")), (403, ""), "{shown}: {answer:?}");
    assert!(answer.header("weft-reason").starts_with("unauthorized"), "{shown}: {answer:?}");
    assert_eq!(bytes.rest().await, b"", "{shown}: closed without a word");
    http.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
    assert_eq!(http.answer().await.status, 403, "{shown}: the connection is kept");
}

#[tokio::test]
async fn each_default_policy_admits_whom_it_names() {
    let (here, elsewhere) = ("127.0.0.0/8", "10.0.0.0/8");
    for (policy, networks, strangers, peers) in [
        ("all-unauthenticated", elsewhere, true, true),
        ("all-authenticated", elsewhere, false, true),
        ("cluster-unauthenticated", here, true, true),
        ("cluster-unauthenticated", elsewhere, false, false),
        ("cluster-authenticated", here, false, true),
        ("cluster-authenticated", elsewhere, false, false),
        ("audit", elsewhere, true, true),
        ("deny", elsewhere, false, false),
    ] {
        let (app, count) = either().await;
        let settings = [("INBOUND_DEFAULT_POLICY", policy), ("POLICY_CLUSTER_NETWORKS", networks)];
        let pair = Pair::with(app, &settings, &[]).await;
        asked(pair.server.bind(), strangers, &format!("a stranger under {policy} of {networks}")).await;
        asked(pair.client.upstream(), peers, &format!("a peer under {policy} of {networks}")).await;
        let expected = 2 * (usize::from(strangers) + usize::from(peers));
        assert_eq!(count.load(Ordering::Relaxed), expected, "{policy}: nothing refused reaches it");
        // Who was let through is counted under the policy's name, and who was not, too.
        let label = format!("srv_name=\"{policy}\"");
        let (mut allowed, mut denied) = (0.0, 0.0);
        for layer in ["http", "tcp"] {
            allowed += pair.server.metric(&format!("inbound_{layer}_authz_allow_total"), &[&label]).await;
            denied += pair.server.metric(&format!("inbound_{layer}_authz_deny_total"), &[&label]).await;
        }
        assert_eq!((allowed, denied > 0.0), (expected as f64, expected < 4), "{policy}");
    }
}

#[tokio::test]
async fn tls_is_terminated_only_for_the_proxys_own_name() {
    let (app, count) = either().await;
    let pair = Pair::around(app).await;
    let mut own = Raw::connect(pair.server.bind()).await;
    own.send(records(&client_hello(&identity("web")), 1 << 14)).await;
    // This hello offers nothing that could be agreed on, so that the proxy's TLS answers with an alert.
    assert_eq!(own.rest().await.first(), Some(&21));
    assert_eq!(count.load(Ordering::Relaxed), 0);
    let mut other = Raw::connect(pair.server.bind()).await;
    other.send(records(&client_hello(&identity("other")), 1 << 14)).await;
    assert_eq!(other.bytes(5).await, b"bytes");
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

/// An address that is not the one which every policy of a control plane admits.
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// A policy of the control plane for a port.
fn told(protocol: InboundProtocol, authorizations: Vec<Authorization>) -> Said<InboundPolicy> {
    Said::Told(InboundPolicy { meta: Meta::default_named("told"), protocol, authorizations })
}

fn detect() -> InboundProtocol {
    InboundProtocol::Detect { timeout: Duration::from_secs(10), http: InboundRoutes::default() }
}

#[tokio::test]
async fn a_policy_that_changes_is_enforced_on_live_connections() {
    let app = Application::saying("ok").await;
    let mesh = Mesh::new();
    let server = proxy_of(&mesh, "web", &app, &[]).await;
    let port = server.bind().port();
    let everybody = DefaultPolicy::AllUnauthenticated.authorizations(&[]);
    mesh.facts.inbound(port, told(detect(), everybody.clone()));
    let mut http = Raw::connect_from(STRANGER, server.bind()).await;
    let mut status = async || {
        http.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
        http.answer().await.status
    };
    assert_eq!(status().await, 200);
    mesh.facts.inbound(port, told(detect(), Vec::new()));
    until("requests are refused", async || status().await == 403).await;
    mesh.facts.inbound(port, told(detect(), everybody));
    until("requests are admitted again", async || status().await == 200).await;
}

#[tokio::test]
async fn a_connection_of_bytes_that_is_no_longer_admitted_is_cut() {
    let app = Application::tcp(|mut tcp| async move {
        let (mut reader, mut writer) = tcp.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    });
    let app = app.await;
    let mesh = Mesh::new();
    let server = proxy_of(&mesh, "web", &app, &[]).await;
    let port = server.bind().port();
    let everybody = DefaultPolicy::AllUnauthenticated.authorizations(&[]);
    mesh.facts.inbound(port, told(InboundProtocol::Opaque, everybody));
    let mut raw = Raw::connect_from(STRANGER, server.bind()).await;
    raw.send(b"ping").await;
    assert_eq!(raw.bytes(4).await, b"ping");
    mesh.facts.inbound(port, told(InboundProtocol::Opaque, Vec::new()));
    assert_eq!(raw.rest().await, b"");
    assert_eq!(server.metric("inbound_tcp_authz_terminate_total", &[]).await, 1.0);
    assert_eq!(server.metric("weft_reasons_total", &["\"authorization-revoked\""]).await, 1.0);
}

#[tokio::test]
async fn the_protocol_that_a_port_is_told_to_speak_is_obeyed() {
    let everybody = || DefaultPolicy::AllUnauthenticated.authorizations(&[]);
    let routes = InboundRoutes::default;
    let http2 = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for (protocol, request, starts) in [
        (InboundProtocol::Opaque, "HEAD / HTTP/1.1\r\n\r\n", "bytes"),
        (InboundProtocol::Tls, "hello, world\r\n\r\n", "bytes"),
        (InboundProtocol::Http1(routes()), "GET / HTTP/1.1\r\nhost: web\r\n\r\n", "HTTP/1.1 200"),
        // Only a list for bytes could admit these, and an HTTP policy has none.
        (InboundProtocol::Http1(routes()), "hello, world\r\n\r\n", ""),
        // SETTINGS come first, in a frame whose length has zeros in front.
        (InboundProtocol::Http2(routes()), http2, "\0\0"),
        (InboundProtocol::Grpc(routes()), http2, "\0\0"),
    ] {
        let (app, _count) = either().await;
        let mesh = Mesh::new();
        let server = proxy_of(&mesh, "web", &app, &[]).await;
        let shown = format!("{protocol:?}: {request:?}");
        mesh.facts.inbound(server.bind().port(), told(protocol, everybody()));
        // The first connection is what the port's policy is asked for.
        drop(Raw::connect(server.bind()).await);
        until("the policy is known", async || {
            server.state().await["inbound"].to_string().contains("\"told\"")
        })
        .await;
        let mut raw = Raw::connect(server.bind()).await;
        raw.send(request).await;
        match starts.len() {
            0 => assert_eq!(raw.rest().await, b"", "{shown}"),
            length => assert_eq!(raw.bytes(length).await, starts.as_bytes(), "{shown}"),
        }
    }
}

#[tokio::test]
async fn loops_are_refused() {
    let (app, count) = either().await;
    let pair = Pair::around(app).await;
    let info = pair.server.meshed("web");
    // A peer that names the inbound port itself gets no connection.
    let to_itself = EndpointInfo { addr: pair.server.proxy.inbound, ..info.clone() };
    pair.mesh.facts.endpoints(WEB, Said::Told(vec![to_itself]));
    until("the peer is refused", async || {
        let _ = get(pair.client.upstream(), "/").await;
        // At once, and not only where the proxy would connect to itself.
        pair.server.metric("weft_reasons_total", &["\"loop-detected\"", "phase=\"accept\""]).await > 0.0
    })
    .await;
    // One that names another of its listeners is told so.
    let to_admin = EndpointInfo { addr: pair.server.proxy.admin, ..info };
    pair.mesh.facts.endpoints(WEB, Said::Told(vec![to_admin]));
    until("it is a loop", async || get(pair.client.upstream(), "/").await.status == 508).await;
    let answer = get(pair.client.upstream(), "/").await;
    assert!(answer.header("weft-reason").starts_with("loop-detected"), "{answer:?}");
    // And an endpoint that is a listener of the client's own proxy is never connected to.
    let client = proxy_to(&pair.mesh, "other", &[]).await;
    pair.mesh.facts.endpoints(WEB, Said::Told(vec![EndpointInfo::plain(client.upstream())]));
    let answer = get(client.upstream(), "/").await;
    assert!((503..=508).contains(&answer.status), "{answer:?}");
    assert!(answer.header("weft-reason").contains("ready=0"), "{answer:?}");
    assert_eq!(client.metric("request_total", &[]).await, 0.0);
    assert_eq!(count.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn the_inbound_port_itself_is_for_meshed_peers_alone() {
    let (app, count) = either().await;
    let pair = Pair::around(app).await;
    for sent in
        [b"GET / HTTP/1.1\r\nhost: web\r\n\r\n".to_vec(), records(&client_hello("elsewhere.example"), 99)]
    {
        let mut raw = Raw::connect(pair.server.proxy.inbound).await;
        raw.send(sent).await;
        // TLS for another name may be told so by an alert.
        assert!(raw.rest().await.first().is_none_or(|first| *first == 21));
    }
    assert_eq!(pair.server.metric("weft_reasons_total", &["\"transport-header\""]).await, 2.0);
    assert_eq!(count.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_transport_header_counts_only_where_its_protocol_was_agreed_on() {
    let pair = Pair::around(Application::saying("x").await).await;
    let target = pair.server.meshed("web");
    for (alpn, status) in [(Alpn::TransportHeader, Some("HTTP/1.1 200")), (Alpn::None, None)] {
        let mut stream = pair.mesh.secured("peer", pair.server.proxy.inbound, &target, alpn).await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert_eq!(answer.get(..12), status, "{answer}");
    }
    assert_eq!(pair.server.metric("weft_reasons_total", &["\"transport-header\""]).await, 1.0);
    assert_eq!(pair.app.seen().len(), 1);
}

#[tokio::test]
async fn a_session_for_a_port_of_bytes_has_no_route() {
    let pair = Pair::around(Application::saying("x").await).await;
    let target = pair.server.meshed("web");
    let everybody = DefaultPolicy::AllUnauthenticated.authorizations(&[]);
    pair.mesh.facts.inbound(target.addr.port(), told(InboundProtocol::Opaque, everybody));
    until("it is in force", async || pair.server.state().await["inbound"].to_string().contains("told")).await;
    let mut stream =
        pair.mesh.secured("peer", pair.server.proxy.inbound, &target, Alpn::TransportHeader).await;
    // The connection stays: the second request closes it.
    for (headers, closes) in [("", false), ("connection: close\r\n", true)] {
        let request = format!("GET / HTTP/1.1\r\nhost: web\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        assert!(answer.contains("weft-reason: no-route"), "{answer}");
        assert_eq!(answer.contains("connection: close"), closes, "{answer}");
    }
    assert!(pair.app.seen().is_empty());
}

#[tokio::test]
async fn connections_meant_for_other_addresses_are_closed_before_they_are_looked_at() {
    for (ours, served) in [("127.0.0.9", false), ("127.0.0.1,127.0.0.9", true)] {
        let app = Application::saying("x").await;
        let pair = Pair::with(app, &[("INBOUND_IPS", ours)], &[]).await;
        let mut raw = Raw::connect(pair.server.proxy.inbound).await;
        if served {
            // It is looked at, and refused as what it is.
            raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
        }
        assert_eq!(raw.rest().await, b"", "closed without a word");
        let code = if served { "\"transport-header\"" } else { "\"forbidden-target\"" };
        assert_eq!(pair.server.metric("weft_reasons_total", &[code]).await, 1.0, "{ours}");
        let errors = pair.server.metric("inbound_tcp_errors_total", &["error=\"unexpected\""]).await;
        assert_eq!(errors, 1.0, "{ours}");
        assert_eq!(get(pair.client.upstream(), "/").await.status, if served { 200 } else { 504 }, "{ours}");
    }
}

#[tokio::test]
async fn requests_for_whatever_host_share_connections_to_the_application() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let app = Application::tcp(move |mut tcp| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            let mut head = [0; 4096];
            while let Ok(1..) = tcp.read(&mut head).await {
                let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        }
    });
    let mesh = Mesh::new();
    let app = app.await;
    let server = proxy_of(&mesh, "web", &app, &[]).await;
    let mut raw = Raw::connect(server.bind()).await;
    for host in ["web", "books", "web:80"] {
        raw.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        let answer = raw.answer().await;
        assert_eq!(answer.text(), "ok", "{host}: {answer:?}");
    }
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_policy_of_an_explicit_port_is_in_force_before_anyone_connects() {
    let app = Application::saying("x").await;
    let mesh = Mesh::new();
    let server = proxy_of(&mesh, "web", &app, &[]).await;
    let port = server.bind().port();
    until("it is asked for", async || mesh.facts.asked(&format!("inbound {port}")) > 0).await;
    mesh.facts.inbound(port, told(detect(), Vec::new()));
    until("it is in force", async || server.state().await["inbound"].to_string().contains("told")).await;
    let mut raw = Raw::connect_from(STRANGER, server.bind()).await;
    raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
    assert_eq!((raw.answer().await.status, app.seen().len()), (403, 0));
}

#[tokio::test]
async fn a_request_on_which_the_application_dies_is_not_pressed_on_it() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let app = Application::tcp(move |mut tcp| {
        let asked = counted.clone();
        async move {
            let mut first = [0; 4096];
            if matches!(tcp.read(&mut first).await, Ok(1..)) {
                asked.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let pair = Pair::around(app.await).await;
    let answer = get(pair.client.upstream(), "/boom").await;
    assert_eq!(answer.status, 502, "{answer:?}");
    assert!(answer.header("weft-reason").starts_with("connection-lost"), "{answer:?}");
    // Each of the two proxies may try it four times in all.
    let asked = asked.load(Ordering::Relaxed);
    assert!((1..=4).contains(&asked), "{asked} times");
}
