//! The whole channel over in-memory HTTP/2 servers in paused time: controllers that answer, hang, die,
//! come back, or were never there.

use super::*;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tower::ServiceExt;
use weft_names::{Addresses, Fetch, NoRecords, Records, Services, TtlBounds};
use weft_telemetry::Registry;
use weft_wire::services::Body;

const MS: Duration = Duration::from_millis(1);

/// What listens at an address.
#[derive(Clone, Copy, PartialEq)]
enum Condition {
    /// Answers every call with its own address and its HTTP/2 connection's number.
    Up,
    /// Refuses connections.
    Down,
    /// Takes connections and never says anything.
    Mute,
}

/// Controllers by address, and the connections to them. Freezing one stops it like SIGSTOP.
#[derive(Clone, Default)]
struct Net {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    conditions: HashMap<SocketAddr, Condition>,
    connections: Vec<(SocketAddr, AbortHandle)>,
    frozen: HashMap<SocketAddr, watch::Sender<bool>>,
    attempts: usize,
    calls: Vec<SocketAddr>,
}

impl Net {
    fn set(&self, addr: SocketAddr, condition: Condition) {
        self.state.lock().unwrap().conditions.insert(addr, condition);
    }

    /// Ends the process at `addr`: connections break.
    fn kill(&self, addr: SocketAddr) {
        self.set(addr, Condition::Down);
        let mut state = self.state.lock().unwrap();
        state.connections.retain(|(at, task)| {
            if *at == addr {
                task.abort();
            }
            *at != addr
        });
    }

    /// The process at `addr` stands still: connections stay, new ones are taken by the kernel alone.
    fn freeze(&self, addr: SocketAddr) {
        self.set(addr, Condition::Mute);
        self.state.lock().unwrap().frozen.entry(addr).or_default().send_replace(true);
    }

    /// A new process at `addr`, which answers.
    fn thaw(&self, addr: SocketAddr) {
        self.set(addr, Condition::Up);
        self.state.lock().unwrap().frozen.entry(addr).or_default().send_replace(false);
    }

    fn attempts(&self) -> usize {
        self.state.lock().unwrap().attempts
    }

    fn calls(&self) -> usize {
        self.state.lock().unwrap().calls.len()
    }

    fn serve(&self, addr: SocketAddr, io: tokio::io::DuplexStream) {
        let net = self.clone();
        let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            net.state.lock().unwrap().calls.push(addr);
            let text = format!("{} at {addr}", request.uri());
            async move {
                let body = http_body_util::Full::new(Bytes::from(text));
                let trailers = http::HeaderMap::from_iter([(
                    http::HeaderName::from_static("grpc-status"),
                    http::HeaderValue::from_static("0"),
                )]);
                Ok::<_, io::Error>(http::Response::new(body.with_trailers(async { Some(Ok(trailers)) })))
            }
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let mut state = self.state.lock().unwrap();
        let mut frozen = state.frozen.entry(addr).or_default().subscribe();
        let task = tokio::spawn(async move {
            let mut serving = std::pin::pin!(server.serve_connection(TokioIo::new(io), service));
            let stopped = async move { drop(frozen.wait_for(|frozen| *frozen).await) };
            tokio::select! {
                _ = &mut serving => {}
                () = stopped => std::future::pending().await,
            }
        });
        state.connections.push((addr, task.abort_handle()));
    }
}

impl Service<SocketAddr> for Net {
    type Response = Stream;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Stream, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, addr: SocketAddr) -> Self::Future {
        let net = self.clone();
        Box::pin(async move {
            let condition = {
                let mut state = net.state.lock().unwrap();
                state.attempts += 1;
                state.conditions.get(&addr).copied().unwrap_or(Condition::Down)
            };
            let (near, far) = tokio::io::duplex(64 * 1024);
            match condition {
                Condition::Down => {
                    return Err(ChannelError::Connect(io::ErrorKind::ConnectionRefused.into()).into());
                }
                Condition::Up => net.serve(addr, far),
                Condition::Mute => {
                    let task = tokio::spawn(async move {
                        std::future::pending::<()>().await;
                        drop(far);
                    });
                    net.state.lock().unwrap().connections.push((addr, task.abort_handle()));
                }
            }
            Ok(Stream::memory(near))
        })
    }
}

/// A name with the addresses that it has just now.
#[derive(Clone, Default)]
struct Zone(Arc<Mutex<Vec<SocketAddr>>>);

impl Records for Zone {
    fn services<'a>(&'a self, _: &'a str) -> Fetch<'a, Services> {
        Box::pin(async { Err(NoRecords { problem: "no SRV".into(), negative_ttl: None }) })
    }

    fn addresses<'a>(&'a self, _: &'a str) -> Fetch<'a, Addresses> {
        let ips: Vec<_> = self.0.lock().unwrap().iter().map(SocketAddr::ip).collect();
        Box::pin(async {
            if ips.is_empty() {
                return Err(NoRecords { problem: "no such name".into(), negative_ttl: None });
            }
            Ok(Addresses { ips, ttl: Duration::from_secs(5) })
        })
    }
}

struct World {
    net: Net,
    zone: Zone,
    registry: Registry,
    channel: Channel,
    replicas: Replicas,
}

fn addr(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 8086))
}

/// A channel to a name, without jitter, in a world where nothing is up.
fn world(change: impl FnOnce(&mut ChannelSettings)) -> World {
    let mut settings = ChannelSettings::new("dst.mesh:8086".parse().unwrap()).unwrap();
    settings.backoff.jitter = 0.0;
    change(&mut settings);
    let (net, zone, registry) = (Net::default(), Zone::default(), Registry::new());
    let resolver = Resolver::new(zone.clone(), TtlBounds::default());
    let metrics = Metrics::new(&registry, Controller::Destination);
    let (channel, replicas) = stack(&settings, Security::Plain, resolver, &metrics, net.clone());
    World { net, zone, registry, channel, replicas }
}

impl World {
    fn up(&self, last: u8) {
        self.net.set(addr(last), Condition::Up);
        self.zone.0.lock().unwrap().push(addr(last));
    }

    /// Makes a call; gives its text or its error.
    async fn call(&self) -> Result<String, BoxError> {
        let request = http::Request::post("/Destination/Get").body(Body::empty()).unwrap();
        let response = self.channel.clone().oneshot(request).await?;
        let bytes = response.into_body().collect().await?.to_bytes();
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }
}

/// Lets paused time run, timer by timer.
async fn run_for(time: Duration) {
    let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_reaches_a_replica_with_the_controllers_origin_and_is_counted() {
    let world = world(|_| {});
    world.up(1);
    assert_eq!(world.call().await.unwrap(), "http://dst.mesh:8086/Destination/Get at 10.0.0.1:8086");
    let text = world.registry.render();
    let labels = "addr=\"dst.mesh:8086\",tls=\"no_identity\",no_tls_reason=\"loopback\"";
    for line in [
        format!("control_request_total{{{labels}}} 1"),
        format!(
            "control_response_total{{{labels},status_code=\"200\",classification=\"success\",\
             grpc_status=\"0\",error=\"\"}} 1"
        ),
        format!("control_response_latency_ms_count{{{labels},status_code=\"200\"}} 1"),
        "control_dns_resolutions_total{client=\"destination\",record_type=\"A/AAAA\",result=\"ok\"} 1".into(),
    ] {
        assert!(text.contains(&line), "{line}\nis not in\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_wait_for_a_controller_that_is_absent_at_start() {
    let world = world(|_| {});
    let begun = Instant::now();
    let late = async {
        run_for(Duration::from_secs(10)).await;
        world.up(1);
    };
    let (answer, ()) = tokio::join!(world.call(), late);
    answer.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_call_fails_after_the_dispatch_timeout_and_at_once_when_the_buffer_is_full() {
    let world = world(|settings| settings.buffer = 2);
    let begun = Instant::now();
    let (first, second, third) = tokio::join!(world.call(), world.call(), async {
        let error = world.call().await.unwrap_err();
        assert_eq!(begun.elapsed(), Duration::ZERO);
        error
    });
    assert_eq!(begun.elapsed(), Duration::from_secs(30));
    for late in [first, second] {
        let late = late.unwrap_err();
        assert!(matches!(late.downcast_ref(), Some(ChannelError::NotDispatched(_))), "{late}");
    }
    assert!(matches!(third.downcast_ref(), Some(ChannelError::Full(2))), "{third}");
}

#[tokio::test(start_paused = true)]
async fn a_killed_controller_is_reconnected_with_backoff_and_found_when_it_is_back() {
    let world = world(|_| {});
    world.up(1);
    world.call().await.unwrap();
    run_for(Duration::from_secs(2)).await;
    let before = world.net.attempts();
    world.net.kill(addr(1));
    run_for(Duration::from_secs(300)).await;
    // At once, then after 100 ms, 200 ms … 60 s: eleven in the first 102 s, then one a minute.
    let attempts = world.net.attempts() - before;
    assert!((13..=15).contains(&attempts), "{attempts} attempts in five minutes");
    let snapshot = world.replicas.snapshot();
    assert_eq!((snapshot.known, snapshot.ready), (1, 0));
    world.net.set(addr(1), Condition::Up);
    run_for(Duration::from_secs(61)).await;
    let begun = Instant::now();
    world.call().await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_controller_counts_as_dead_after_one_keepalive() {
    let world = world(|_| {});
    world.up(1);
    world.call().await.unwrap();
    world.up(2);
    world.net.set(addr(2), Condition::Mute);
    run_for(Duration::from_secs(6)).await;
    assert_eq!(world.replicas.snapshot().ready, 1, "who takes connections and says nothing is not ready");
    world.net.freeze(addr(1));
    let begun = Instant::now();
    let request = http::Request::post("/Destination/Get").body(Body::empty()).unwrap();
    let call = world.channel.clone().oneshot(request);
    let ended = tokio::time::timeout(Duration::from_secs(60), call).await;
    let error = ended.expect("the call ends with its connection").unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(ChannelError::Http2(_))), "{error}");
    assert!(begun.elapsed() <= Duration::from_secs(13), "{:?}", begun.elapsed());
    assert_eq!(world.replicas.snapshot().ready, 0);
    // The next call waits for whoever wakes up first.
    world.net.kill(addr(2));
    world.net.set(addr(2), Condition::Up);
    assert!(world.call().await.unwrap().ends_with("10.0.0.2:8086"));
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn calls_are_spread_over_replicas_and_follow_dns() {
    let world = world(|_| {});
    world.up(1);
    world.up(2);
    let mut seen = Vec::new();
    run_for(MS).await;
    for _ in 0..50 {
        seen.push(world.call().await.unwrap());
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 2);
    world.up(3);
    world.zone.0.lock().unwrap().retain(|at| *at == addr(3));
    run_for(Duration::from_secs(6)).await;
    for _ in 0..10 {
        assert!(world.call().await.unwrap().ends_with("10.0.0.3:8086"));
    }
    // A name that is gone leaves the last answer in force.
    world.zone.0.lock().unwrap().clear();
    run_for(Duration::from_secs(60)).await;
    world.call().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_dies_between_calls_costs_no_call_when_another_is_there() {
    let world = world(|_| {});
    world.up(1);
    world.up(2);
    world.call().await.unwrap();
    for round in 0..20 {
        let victim = addr(1 + round % 2);
        world.net.kill(victim);
        run_for(MS).await;
        world.call().await.unwrap();
        world.net.set(victim, Condition::Up);
        run_for(Duration::from_secs(5)).await;
    }
    assert_eq!(world.net.calls(), 21);
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_replica_closes_between_its_choice_and_the_sending_goes_to_another() {
    let world = world(|_| {});
    world.up(1);
    let mut chosen = balance::Balance::new(world.replicas.clone());
    chosen.ready().await.unwrap();
    world.up(2);
    run_for(Duration::from_secs(6)).await;
    world.net.kill(addr(1));
    run_for(MS).await;
    let request = http::Request::post("http://dst.mesh/Destination/Get").body(Body::empty()).unwrap();
    let response = chosen.call(request).await;
    assert!(response.is_ok(), "{:?}", response.err());
    assert_eq!(world.net.state.lock().unwrap().calls, [addr(2)]);
}

#[tokio::test(start_paused = true)]
async fn replicas_that_all_flap_ten_times_a_second_hang_no_call_and_pile_nothing_up() {
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let world = world(|_| {});
        let runtime = runtime::Handle::current();
        (1..=3).for_each(|last| world.up(last));
        world.call().await.unwrap();
        let quiet = runtime.metrics().num_alive_tasks();
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..100 {
            for last in 1..=3 {
                match random.u8(..3) {
                    0 => world.net.kill(addr(last)),
                    1 => world.net.set(addr(last), Condition::Up),
                    _ => world.net.freeze(addr(last)),
                }
            }
            let (channel, begun) = (world.channel.clone(), Instant::now());
            calls.spawn(async move {
                let request = http::Request::post("/Destination/Get").body(Body::empty()).unwrap();
                let answered = async {
                    channel.oneshot(request).await?.into_body().collect().await.map_err(BoxError::from)
                };
                (answered.await.is_ok(), begun.elapsed())
            });
            run_for(MS * 100).await;
        }
        (1..=3).for_each(|last| {
            world.net.kill(addr(last));
            world.net.thaw(addr(last));
        });
        let mut answered = 0;
        while let Some(call) = calls.join_next().await {
            let (ok, took) = call.unwrap();
            // Until it is dispatched, and then until a replica that stands still is noticed.
            assert!(took <= Duration::from_secs(30 + 13), "seed {seed}: {took:?}");
            answered += usize::from(ok);
        }
        assert!(answered > 0, "seed {seed}");
        run_for(Duration::from_secs(120)).await;
        assert!(world.call().await.is_ok(), "seed {seed}: when they stand, they are used");
        run_for(Duration::from_secs(60)).await;
        let alive = runtime.metrics().num_alive_tasks();
        assert!(alive <= quiet + 3, "seed {seed}: {alive} tasks are left of {quiet}");
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_the_channel_ends_its_tasks() {
    let runtime = runtime::Handle::current();
    let before = runtime.metrics().num_alive_tasks();
    let world = world(|_| {});
    world.up(1);
    world.net.set(addr(2), Condition::Down);
    world.zone.0.lock().unwrap().push(addr(2));
    world.call().await.unwrap();
    let World { channel, replicas, .. } = world;
    drop((channel, replicas));
    run_for(MS * 10).await;
    assert_eq!(runtime.metrics().num_alive_tasks(), before);
}
