//! HTTP/2: one connection, carried HTTP/1, GOAWAY, refused and reset streams.

use crate::world::*;
use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::{Request, Response, Version};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::sync::Notify;
use weft_connect::{SendFailure, Whereabouts};
use weft_model::destination::ProtocolHint;
use weft_model::reason::Code;
use weft_net::body::Body;

#[tokio::test(start_paused = true)]
async fn http1_is_carried_over_the_one_connection_and_comes_back_as_it_was() {
    let net = Net::new(serve_http2);
    let world = World::ready(context(&net), info(ProtocolHint::Http2)).await;
    for (version, carried) in [(Version::HTTP_11, "HTTP/1.1"), (Version::HTTP_10, "HTTP/1.0")] {
        let response = world.endpoint.send(&mut get(version)).await.unwrap();
        assert_eq!(response.version(), Version::HTTP_11, "as the response says");
        assert!(!response.headers().contains_key("l5d-orig-proto"));
        assert_eq!(text(response).await, format!("#0 HTTP/2.0 http://web/path [{carried}]"));
    }
    let response = world.endpoint.send(&mut get(Version::HTTP_2)).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    assert_eq!(text(response).await, "#0 HTTP/2.0 http://web/path");
    assert_eq!(net.connects(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_of_an_unmeshed_endpoint_gets_an_http2_connection() {
    let net = Net::new(|number, io| async move {
        match number {
            0 => serve_http1(number, io).await,
            _ => serve_http2(number, io).await,
        }
    });
    let world = World::ready(context(&net), info(ProtocolHint::Unknown)).await;
    let requests: Vec<_> = (0..5)
        .map(|_| {
            let endpoint = world.endpoint.clone();
            tokio::spawn(async move { text(endpoint.send(&mut get(Version::HTTP_2)).await.unwrap()).await })
        })
        .collect();
    for request in requests {
        assert_eq!(request.await.unwrap(), "#1 HTTP/2.0 http://web/path");
    }
    assert_eq!(net.connects(), 2, "all share one attempt");
}

type Stream = (Request<h2::RecvStream>, SendResponse<Bytes>);

fn respond((_request, mut respond): Stream, text: String) {
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    stream.send_data(text.into(), true).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_connection_told_to_go_away_finishes_its_streams_and_new_ones_go_elsewhere() {
    let (held, gone) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (release, go) = (held.clone(), gone.clone());
    let net = Net::new(move |number, io: DuplexStream| {
        let (held, gone) = (held.clone(), gone.clone());
        async move {
            let mut connection = h2::server::handshake(io).await.unwrap();
            if number == 0 {
                let stream = connection.accept().await.unwrap().unwrap();
                connection.graceful_shutdown();
                tokio::spawn(async move {
                    held.notified().await;
                    respond(stream, "first".into());
                });
                gone.notify_one();
            }
            while let Some(Ok(stream)) = connection.accept().await {
                respond(stream, format!("#{number}"));
            }
        }
    });
    let world = World::ready(context(&net), info(ProtocolHint::Http2)).await;
    let endpoint = world.endpoint.clone();
    let first =
        tokio::spawn(async move { text(endpoint.send(&mut get(Version::HTTP_11)).await.unwrap()).await });
    go.notified().await;
    settle().await;
    for _ in 0..3 {
        let mut post = request(Version::HTTP_2, Body::full("data"));
        assert_eq!(text(world.endpoint.send(&mut post).await.unwrap()).await, "#1");
    }
    release.notify_one();
    assert_eq!(first.await.unwrap(), "first");
    assert_eq!(net.connects(), 2);
}

/// A server that resets every stream.
fn resetting(reason: Reason) -> Arc<Net> {
    Net::new(move |_, io: DuplexStream| async move {
        let mut connection = h2::server::handshake(io).await.unwrap();
        while let Some(Ok((_request, mut respond))) = connection.accept().await {
            respond.send_reset(reason);
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_refused_stream_is_unprocessed_and_comes_back_if_it_had_no_body() {
    let net = resetting(Reason::REFUSED_STREAM);
    let world = World::ready(context(&net), info(ProtocolHint::Http2)).await;
    let mut request = get(Version::HTTP_11);
    let error = world.endpoint.send(&mut request).await.unwrap_err();
    assert_eq!((error.code(), error.unprocessed), (Code::StreamReset, true));
    assert_eq!((error.reset(), error.request), (Some(Reason::REFUSED_STREAM), Whereabouts::Back));
    assert_eq!((request.version(), request.uri().to_string()), (Version::HTTP_11, "/path".into()));
    assert!(!request.headers().contains_key("l5d-orig-proto"));

    let mut post = crate::world::request(Version::HTTP_2, Body::full("data"));
    let error = world.endpoint.send(&mut post).await.unwrap_err();
    assert!(error.unprocessed && error.request == Whereabouts::Gone);
    assert_eq!(net.connects(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reset_stream_may_have_been_processed_and_keeps_its_reason() {
    let net = resetting(Reason::ENHANCE_YOUR_CALM);
    let world = World::ready(context(&net), info(ProtocolHint::Http2)).await;
    let error = world.endpoint.send(&mut get(Version::HTTP_2)).await.unwrap_err();
    assert!(matches!(error.failure, SendFailure::Reset(Reason::ENHANCE_YOUR_CALM)));
    assert_eq!((error.code(), error.unprocessed), (Code::StreamReset, false));
}

#[tokio::test(start_paused = true)]
async fn streams_above_the_last_one_of_a_goaway_are_unprocessed() {
    let net = Net::new(|_, io: DuplexStream| async move {
        let mut connection = h2::server::handshake(io).await.unwrap();
        // Says GOAWAY with last stream 0 while a stream is under way, without having looked at it.
        connection.abrupt_shutdown(Reason::NO_ERROR);
        let _ = std::future::poll_fn(|cx| connection.poll_closed(cx)).await;
    });
    let world = World::ready(context(&net), info(ProtocolHint::Http2)).await;
    let error = world.endpoint.send(&mut get(Version::HTTP_2)).await.unwrap_err();
    assert!(error.unprocessed && error.request == Whereabouts::Back, "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_loses_its_streams_and_is_made_again() {
    let net = Net::new(|number, io: DuplexStream| async move {
        let mut connection = h2::server::handshake(io).await.unwrap();
        while let Some(Ok(stream)) = connection.accept().await {
            if number == 0 {
                return; // torn down with the stream under way
            }
            respond(stream, format!("#{number}"));
        }
    });
    let world = World::ready(context(&net), info(ProtocolHint::Http2)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut post = get(Version::HTTP_2);
    *post.method_mut() = http::Method::POST;
    let endpoint = world.endpoint.clone();
    let idempotent = tokio::spawn(async move {
        let mut request = get(Version::HTTP_2);
        (endpoint.send(&mut request).await.unwrap_err(), request)
    });
    let error = world.endpoint.send(&mut post).await.unwrap_err();
    assert_eq!((error.code(), error.unprocessed), (Code::ConnectionLost, false));
    let (error, request) = idempotent.await.unwrap();
    assert_eq!((error.code(), error.unprocessed), (Code::ConnectionLost, true));
    assert_eq!((error.request, request.uri().path()), (Whereabouts::Back, "/path"));
    let picked = world.backend.ready(None).await.unwrap();
    assert_eq!(net.connects(), 2, "made again by itself, at once");
    assert_eq!(text(picked.endpoint().send(&mut get(Version::HTTP_2)).await.unwrap()).await, "#1");
}

#[tokio::test(start_paused = true)]
async fn dropping_a_request_resets_its_stream_alone() {
    let resets = Arc::new(AtomicUsize::new(0));
    let count = resets.clone();
    let net = Net::new(move |_, io: DuplexStream| {
        let resets = count.clone();
        async move {
            let mut connection = h2::server::handshake(io).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let resets = resets.clone();
                tokio::spawn(async move {
                    if request.uri().path() == "/path" {
                        let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                        assert_eq!(reason.unwrap(), Reason::CANCEL);
                        resets.fetch_add(1, SeqCst);
                    } else {
                        self::respond((request, respond), "other".into());
                    }
                });
            }
        }
    });
    let world = World::ready(context(&net), info(ProtocolHint::Http2)).await;
    let gave_up =
        tokio::time::timeout(Duration::from_secs(1), world.endpoint.send(&mut get(Version::HTTP_2))).await;
    assert!(gave_up.is_err());
    let mut other = get(Version::HTTP_2);
    *other.uri_mut() = "http://web/other".parse().unwrap();
    assert_eq!(text(world.endpoint.send(&mut other).await.unwrap()).await, "other");
    assert_eq!((resets.load(SeqCst), net.connects()), (1, 1));
}
