//! Who gets in, how far, and how much of it.

use crate::world::*;
use linkerd2_proxy_api::destination as api;
use linkerd2_proxy_api::destination::destination_client::DestinationClient;
use linkerd2_proxy_api::identity::identity_client::IdentityClient;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;
use weft_identity::authority::{Authority, Lifetimes};
use weft_net::socket::{self, SocketOptions};
use weft_net::stream::Stream;
use weft_net::web::{Http2Client, Http2ClientOptions};
use weft_serve::server::Limits;
use weft_serve::{Allowance, StreamLimits};

fn get() -> api::GetDestination {
    api::GetDestination { path: "web.shop.svc.cluster.local:80".into(), ..Default::default() }
}

async fn code(channel: Channel) -> Option<Code> {
    DestinationClient::with_origin(channel, origin()).get(get()).await.err().map(|s| s.code())
}

async fn tcp(world: &World) -> Stream {
    Stream::tcp(socket::connect(world.address, &SocketOptions::default()).await.unwrap())
}

#[tokio::test]
async fn without_a_certificate_only_certify_is_reachable() {
    let world = World::start().await;
    world.put(service("shop/web", "240.0.0.1"));
    let stranger = || async { channel(world.connect(&world.anonymous()).await) };
    assert_eq!(code(stranger().await).await, Some(Code::Unauthenticated));
    let mut identity = IdentityClient::with_origin(stranger().await, origin());
    let refused = identity.certify(linkerd2_proxy_api::identity::CertifyRequest::default()).await;
    assert_eq!(refused.err().map(|s| s.code()), Some(Code::InvalidArgument), "it was looked at");
    assert_eq!(code(world.channel().await).await, None);
}

#[tokio::test]
async fn a_certificate_of_another_mesh_is_refused() {
    let world = World::start().await;
    let clock = Arc::new(rustls::time_provider::DefaultTimeProvider);
    let foreign = Authority::in_memory(Lifetimes::default(), clock).unwrap();
    // It trusts our anchors, so that only its own certificate can be the trouble.
    let store = identity(&foreign, WEB);
    let anchors = weft_identity::anchors::Anchors::from_pem(world.authority.anchors().to_pem()).unwrap();
    store.replace_anchors(anchors);
    let target =
        weft_model::identity::TlsTarget { id: NAME.parse().unwrap(), server_name: NAME.parse().unwrap() };
    let refused = async {
        let connected = store.connect(tcp(&world).await, &target, &[]).await.ok()?;
        let client = Http2Client::open(connected.stream, &Http2ClientOptions::default()).await.ok()?;
        code(channel(client)).await.is_none().then_some(())
    };
    assert_eq!(refused.await, None);
}

#[tokio::test]
async fn an_edge_with_a_name_speaks_no_plaintext_and_no_other_name() {
    let world = World::start().await;
    let mut stream = tcp(&world).await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    // A TLS alert (RFC 8446 §5.1) at most; HTTP/2 would begin with its settings.
    assert!(answer.first().is_none_or(|kind| *kind == 21), "{answer:?}");

    let store = world.identity(WEB);
    let other =
        weft_model::identity::TlsTarget { id: NAME.parse().unwrap(), server_name: "x.mesh".parse().unwrap() };
    assert!(store.connect(tcp(&world).await, &other, &[]).await.is_err());
}

#[tokio::test]
async fn an_edge_without_names_serves_loopback_in_plaintext() {
    let world = World::with(Edges::Plaintext, Limits::default()).await;
    world.put(service("shop/web", "240.0.0.1"));
    assert_eq!(code(world.plaintext().await).await, None);
}

#[tokio::test]
async fn plaintext_from_elsewhere_is_refused() {
    let world = World::with(Edges::Plaintext, Limits::default()).await;
    let edge = {
        let (_trigger, drain) = weft_net::drain::channel();
        let metrics = weft_serve::metrics::Metrics::new(&world.registry);
        let router = weft_wire::services::Router::new();
        weft_serve::server::Edge::new(vec![], router, Limits::default(), metrics, drain)
    };
    for (peer, served) in [("127.0.0.1:9", true), ("[::1]:9", true), ("10.0.0.1:9", false)] {
        let (ours, theirs) = tokio::io::duplex(4096);
        let local = "127.0.0.1:1".parse().unwrap();
        let stream = Stream::memory_between(theirs, local, peer.parse().unwrap());
        tokio::spawn(edge.clone().connection(stream));
        let opened = Http2Client::open(Stream::memory(ours), &Http2ClientOptions::default()).await;
        let answered = match opened {
            Ok(client) => code(channel(client)).await == Some(Code::Unimplemented),
            Err(_) => false,
        };
        assert_eq!(answered, served, "{peer}");
    }
}

#[tokio::test]
async fn unknown_methods_are_unimplemented_and_http1_is_told_so() {
    let world = World::with(Edges::Plaintext, Limits::default()).await;
    let mut client = {
        let mut grpc = tonic::client::Grpc::with_origin(world.plaintext().await, origin());
        grpc.ready().await.unwrap();
        linkerd2_proxy_api::destination::destination_client::DestinationClient::with_origin(
            tower::ServiceBuilder::new()
                .map_request(|mut request: http::Request<tonic::body::Body>| {
                    *request.uri_mut() = http::Uri::from_static("http://control.mesh/some.Service/Method");
                    request
                })
                .service(world.plaintext().await),
            origin(),
        )
    };
    assert_eq!(client.get(get()).await.err().map(|s| s.code()), Some(Code::Unimplemented));
    let request = http::Request::get("/").header("host", "x").body(weft_net::body::Body::empty()).unwrap();
    let response = weft_net::web::request(tcp(&world).await, request).await.unwrap();
    assert_eq!(response.status(), 505);
}

#[tokio::test]
async fn certify_calls_of_one_connection_are_limited() {
    let certify = Allowance { calls: 2, period: Duration::from_secs(3600) };
    let world = World::with(Edges::Tls, Limits { certify, ..Limits::default() }).await;
    let mut client = IdentityClient::with_origin(channel(world.connect(&world.anonymous()).await), origin());
    let mut codes = Vec::new();
    for _ in 0..3 {
        codes.push(
            client.certify(linkerd2_proxy_api::identity::CertifyRequest::default()).await.unwrap_err().code(),
        );
    }
    assert_eq!(codes, [Code::InvalidArgument, Code::InvalidArgument, Code::ResourceExhausted]);
}

#[tokio::test]
async fn connections_are_limited_in_all_and_per_source_and_without_identity() {
    let limits = [
        Limits { connections: 1, ..Limits::default() },
        Limits { per_source: 1, ..Limits::default() },
        Limits { unidentified: 1, ..Limits::default() },
    ];
    for limits in limits {
        let world = World::with(Edges::Tls, limits).await;
        let first = world.connect(&world.anonymous()).await;
        assert_eq!(code(channel(first.clone())).await, Some(Code::Unauthenticated));
        let second = async {
            let target = weft_model::identity::TlsTarget {
                id: NAME.parse().unwrap(),
                server_name: NAME.parse().unwrap(),
            };
            let connected = world.anonymous().connect(tcp(&world).await, &target, &[]).await.ok()?;
            let client = Http2Client::open(connected.stream, &Http2ClientOptions::default()).await.ok()?;
            code(channel(client)).await.filter(|code| *code == Code::Unauthenticated)
        };
        assert_eq!(second.await, None, "{limits:?}");
        assert!(world.registry.render().contains("control_plane_connections_refused_total"));
        drop(first);
    }
}

#[tokio::test]
async fn a_connection_that_never_says_anything_does_not_stay() {
    let limits = Limits { handshake_time: Duration::from_millis(50), ..Limits::default() };
    let world = World::with(Edges::Tls, limits).await;
    let mut silent = tcp(&world).await;
    let mut answer = Vec::new();
    let _ = silent.read_to_end(&mut answer).await;
    let limits = Limits { unidentified_time: Duration::from_millis(50), ..Limits::default() };
    let world = World::with(Edges::Tls, limits).await;
    let store = world.anonymous();
    let target =
        weft_model::identity::TlsTarget { id: NAME.parse().unwrap(), server_name: NAME.parse().unwrap() };
    let mut idle = store.connect(tcp(&world).await, &target, &[]).await.unwrap().stream;
    let _ = idle.read_to_end(&mut answer).await;
}

#[tokio::test]
async fn no_connection_stays_for_ever() {
    let limits = Limits { connection_time: Duration::from_millis(200), ..Limits::default() };
    let world = World::with(Edges::Tls, limits).await;
    world.put(service("shop/web", "240.0.0.1"));
    let mut client = DestinationClient::with_origin(world.channel().await, origin());
    let mut stream = client.get(get()).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    assert!(stream.message().await.is_err(), "cut, so the proxy asks again");
}

#[tokio::test]
async fn draining_ends_all_streams_well() {
    let mut world = World::start().await;
    world.put(service("shop/web", "240.0.0.1"));
    let mut client = DestinationClient::with_origin(world.channel().await, origin());
    let mut stream = client.get(get()).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    let draining = tokio::spawn(world.trigger.take().unwrap().drain());
    assert_eq!(stream.message().await.unwrap(), None);
    draining.await.unwrap();
}

#[tokio::test]
async fn what_nobody_follows_any_more_is_forgotten() {
    let world = World::start().await;
    world.put(service("shop/web", "240.0.0.1"));
    let mut client = DestinationClient::with_origin(world.channel().await, origin());
    let mut stream = client.get(get()).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    let text = world.registry.render();
    assert!(
        text.contains("control_plane_views 1") && text.contains("control_plane_streams{method=\"Get\"} 1"),
        "{text}"
    );
    drop((stream, client));
    while world.views.live() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.views.oldest_unsent(), Duration::ZERO);
}

#[tokio::test]
async fn a_proxy_has_so_many_streams_and_others_are_served() {
    let streams = StreamLimits { per_proxy: 2, ..StreamLimits::default() };
    let world = World::limited(Edges::Tls, Limits::default(), streams).await;
    world.put(service("shop/web", "240.0.0.1"));
    let greedy = [world.channel().await, world.channel().await];
    let mut held = Vec::new();
    for channel in &greedy {
        held.push(DestinationClient::with_origin(channel.clone(), origin()).get(get()).await.unwrap());
    }
    let refused = DestinationClient::with_origin(greedy[0].clone(), origin()).get(get()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "over all of its connections");
    let other = world.identity("api.shop.serviceaccount.identity.linkerd.cluster.local");
    assert_eq!(code(channel(world.connect(&other).await)).await, None, "another proxy has its own");
    let metrics = world.registry.render();
    for line in [
        r#"weft_limit_reached_total{limit="streams-per-proxy"} 1"#,
        r#"control_plane_calls_refused_total{code="RESOURCE_EXHAUSTED"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    drop(held);
    while world.views.live() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(code(greedy[0].clone()).await, None, "what is given back can be had again");
}

#[tokio::test]
async fn all_proxies_together_have_so_many_streams() {
    let streams = StreamLimits { total: 1, ..StreamLimits::default() };
    let world = World::limited(Edges::Tls, Limits::default(), streams).await;
    world.put(service("shop/web", "240.0.0.1"));
    let channel = world.channel().await;
    let held = DestinationClient::with_origin(channel.clone(), origin()).get(get()).await.unwrap();
    assert_eq!(code(channel.clone()).await, Some(Code::ResourceExhausted));
    let metrics = world.registry.render();
    assert!(metrics.contains(r#"weft_limit_reached_total{limit="streams"} 1"#), "{metrics}");
    drop(held);
}

#[tokio::test]
async fn silent_connections_of_one_host_keep_nobody_elses_out() {
    let limits = Limits { handshakes_per_source: 1, ..Limits::default() };
    let world = World::with(Edges::Tls, limits).await;
    let silent = tcp(&world).await;
    for _ in 0..100 {
        if world.registry.render().contains(r#"limit="handshakes-per-source"} 1"#) {
            break;
        }
        // The first silent one may not have been counted yet; a second one at a time is closed at once.
        let mut second = tcp(&world).await;
        let mut nothing = Vec::new();
        let _ = tokio::time::timeout(Duration::from_millis(50), second.read_to_end(&mut nothing)).await;
    }
    let metrics = world.registry.render();
    assert!(metrics.contains(r#"limit="handshakes-per-source"} 1"#), "{metrics}");
    let elsewhere = tokio::net::TcpSocket::new_v4().unwrap();
    elsewhere.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let socket = elsewhere.connect(world.address).await.unwrap();
    let target =
        weft_model::identity::TlsTarget { id: NAME.parse().unwrap(), server_name: NAME.parse().unwrap() };
    world.identity(WEB).connect(Stream::tcp(socket), &target, &[]).await.unwrap();
    drop(silent);
}

#[tokio::test]
async fn requests_beyond_the_limit_are_refused_and_counted() {
    let world = World::start().await;
    let mut client = DestinationClient::with_origin(world.channel().await, origin());
    let path = "x".repeat(weft_wire::services::MAX_REQUEST_BYTES);
    let refused = client.get(api::GetDestination { path, ..Default::default() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    let metrics = world.registry.render();
    assert!(metrics.contains(r#"weft_limit_reached_total{limit="request-bytes"} 1"#), "{metrics}");
}
