//! When an endpoint counts as ready, and how it comes back.

use crate::world::*;
use http::Version;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio::sync::Notify;
use tokio::time::Instant;
use weft_balance::EndpointState;
use weft_connect::{ConnectError, Loopback, ReadyWhen, SendFailure, Whereabouts};
use weft_model::destination::ProtocolHint;
use weft_model::reason::Code;

fn failed_with(state: EndpointState) -> Option<Code> {
    match state {
        EndpointState::Failed(failure) => Some(failure.code),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_back_off_until_one_succeeds() {
    for hint in [ProtocolHint::Unknown, ProtocolHint::Http2] {
        let net = Net::new(serve_http2);
        net.refuse(Refuses::Yes);
        let start = Instant::now();
        let world = World::new(context(&net), info(hint));
        tokio::time::sleep(Duration::from_millis(1_600)).await;
        let attempts: Vec<_> =
            net.attempts.lock().unwrap().iter().map(|at| (*at - start).as_millis()).collect();
        assert_eq!(attempts, [0, 101, 302, 703, 1504].map(|t| near(t, &attempts)), "{hint:?}");
        assert_eq!(failed_with(world.state()), Some(Code::ConnectRefused));
        net.refuse(Refuses::No);
        tokio::time::sleep(Duration::from_millis(1_600)).await;
        assert_eq!(world.state(), EndpointState::Ready);
        assert_eq!(net.connects(), 1);
    }
}

/// The recorded time within a few milliseconds of the expected one (tokio's timers round up).
fn near(expected: u128, recorded: &[u128]) -> u128 {
    recorded.iter().copied().find(|t| t.abs_diff(expected) <= 5).unwrap_or(expected)
}

#[tokio::test(start_paused = true)]
async fn a_connect_that_takes_too_long_has_timed_out() {
    let net = Net::new(serve_http1);
    net.hangs.store(true, SeqCst);
    let world = World::new(context(&net), info(ProtocolHint::Unknown));
    tokio::time::sleep(Duration::from_millis(990)).await;
    assert_eq!(world.state(), EndpointState::Connecting);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(failed_with(world.state()), Some(Code::ConnectTimeout));
}

#[tokio::test(start_paused = true)]
async fn the_first_refused_connection_takes_an_endpoint_out() {
    let net = Net::new(|_, mut io: DuplexStream| async move {
        let _ = read_head(&mut io).await;
        answer(&mut io, "last").await;
    });
    let world = World::ready(context(&net), info(ProtocolHint::Unknown)).await;
    text(world.endpoint.send(&mut get(Version::HTTP_11)).await.unwrap()).await;
    net.refuse(Refuses::Yes);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.state(), EndpointState::Ready, "nobody has tried");
    let error = world.endpoint.send(&mut get(Version::HTTP_11)).await.unwrap_err();
    assert!(matches!(error.failure, SendFailure::Connect(ConnectError::Refused(_))));
    assert!(error.unprocessed && error.request == Whereabouts::Back);
    assert_eq!(failed_with(world.state()), Some(Code::ConnectRefused));
    assert!(world.backend.pick(Instant::now().into_std(), 0).is_err());
    net.refuse(Refuses::No);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.state(), EndpointState::Ready);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_closes_new_connections_is_not_hammered() {
    let net = Net::new(|_, io: DuplexStream| async move { drop(io) });
    let world = World::new(context(&net), info(ProtocolHint::Http2));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!((5..=9).contains(&net.connects()), "{} connections in 10 s", net.connects());
    assert_eq!(failed_with(world.state()), Some(Code::ConnectionLost));
}

#[tokio::test(start_paused = true)]
async fn an_opaque_endpoint_is_ready_without_connecting_until_it_fails() {
    let net = Net::new(|_, mut io: DuplexStream| async move {
        let _ = io.read_u8().await;
    });
    let mut context = context(&net);
    context.ready_when = ReadyWhen::NotFailing;
    let world = World::ready(context, info(ProtocolHint::Opaque)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(net.attempts.lock().unwrap().len(), 0);
    drop(world.endpoint.open().await.unwrap());
    net.refuse(Refuses::Yes);
    assert!(matches!(world.endpoint.open().await, Err(ConnectError::Refused(_))));
    assert_eq!(failed_with(world.state()), Some(Code::ConnectRefused));
    tokio::time::sleep(Duration::from_millis(110)).await;
    assert_eq!(world.state(), EndpointState::Ready);
    assert_eq!(net.attempts.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_application_beside_us_is_always_ready_and_failures_are_the_requests() {
    let net = Net::new(serve_http1);
    net.refuse(Refuses::Yes);
    let mut context = context(&net);
    context.ready_when = ReadyWhen::Always;
    let world = World::ready(context, info(ProtocolHint::Unknown)).await;
    let mut request = get(Version::HTTP_11);
    let error = world.endpoint.send(&mut request).await.unwrap_err();
    assert_eq!((error.code(), world.state()), (Code::ConnectRefused, EndpointState::Ready));
    net.refuse(Refuses::No);
    let response = world.endpoint.send(&mut request).await.unwrap();
    assert_eq!(text(response).await, "#0 HTTP/1.1 /path");
}

#[tokio::test(start_paused = true)]
async fn forbidden_addresses_are_never_connected_to() {
    for (own, loopback, expected) in [
        ("10.0.0.1:8080", Loopback::Allowed, Code::LoopDetected),
        ("10.0.0.9:8080", Loopback::Refused, Code::ConnectFailed),
    ] {
        let net = Net::new(serve_http1);
        let mut context = context(&net);
        context.own_listeners = vec![own.parse().unwrap()];
        context.loopback = loopback;
        let mut info = info(ProtocolHint::Unknown);
        if loopback == Loopback::Refused {
            info.addr = "127.0.0.7:80".parse().unwrap();
        }
        let world = World::new(context, info);
        settle().await;
        assert_eq!(failed_with(world.state()), Some(expected));
        assert!(net.attempts.lock().unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_closes_idle_connections_and_lets_requests_finish() {
    for hint in [ProtocolHint::Unknown, ProtocolHint::Http2] {
        let (closed, held) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (signal, hold) = (closed.clone(), held.clone());
        let net = Net::new(move |number, io: DuplexStream| {
            let (closed, held) = (signal.clone(), hold.clone());
            async move {
                let service = hyper::service::service_fn(move |request| {
                    let held = held.clone();
                    async move {
                        held.notified().await;
                        describe(number, request).await
                    }
                });
                let io = hyper_util::rt::TokioIo::new(io);
                match hint {
                    ProtocolHint::Http2 => {
                        let executor = hyper_util::rt::TokioExecutor::new();
                        let builder = hyper::server::conn::http2::Builder::new(executor);
                        let _ = builder.serve_connection(io, service).await;
                    }
                    _ => {
                        let builder = hyper::server::conn::http1::Builder::new();
                        let _ = builder.serve_connection(io, service).await;
                    }
                }
                closed.notify_one();
            }
        });
        let World { backend, endpoint } = World::ready(context(&net), info(hint)).await;
        let request = tokio::spawn(async move {
            let response = endpoint.send(&mut get(Version::HTTP_11)).await.unwrap();
            drop(endpoint);
            text(response).await
        });
        settle().await;
        drop(backend);
        held.notify_one();
        assert!(request.await.unwrap().starts_with("#0 "));
        closed.notified().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_removed_while_connecting_keeps_no_connection() {
    for hint in [ProtocolHint::Unknown, ProtocolHint::Http2] {
        let closed = Arc::new(Notify::new());
        let signal = closed.clone();
        let net = Net::new(move |number, io: DuplexStream| {
            let closed = signal.clone();
            async move {
                match hint {
                    ProtocolHint::Http2 => serve_http2(number, io).await,
                    _ => serve_http1(number, io).await,
                }
                closed.notify_one();
            }
        });
        let mut context = context(&net);
        context.ready_when = ReadyWhen::Always;
        let World { backend, endpoint } = World::ready(context, info(hint)).await;
        let request = tokio::spawn({
            let endpoint = endpoint.clone();
            async move { endpoint.send(&mut get(Version::HTTP_11)).await.is_ok() }
        });
        while net.connects() == 0 {
            tokio::task::yield_now().await;
        }
        request.abort();
        drop((backend, endpoint));
        closed.notified().await;
    }
}
