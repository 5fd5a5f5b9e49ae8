//! Seeded simulations in fake time. A failure names its seed.

use crate::{Start, World, addr, failed, infos, now};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::task::JoinSet;
use weft_balance::{Change, EndpointState, Params};
use weft_model::route::{LoadParams, Penalty, Queue};

/// Sends `rate` requests a second for a minute of fake time to endpoints 1..=10. `serve` says, for an
/// endpoint and a uniform draw, how long it takes and whether it fails. Gives the share of each.
async fn shares(
    seed: u64,
    load: LoadParams,
    rate: u64,
    serve: fn(u16, f64) -> (Duration, bool),
) -> BTreeMap<u16, f64> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let world = World::new(Params { load, ..Params::default() }, Start::Ready);
    world.backend.apply(Change::Reset(infos(1..=10)));
    let (mut counts, mut requests) = (BTreeMap::<u16, u64>::new(), JoinSet::new());
    let total = 60 * rate;
    for _ in 0..total {
        let picked = world.backend.pick(now(), rng.u64(..)).unwrap();
        let port = picked.info().addr.port();
        *counts.entry(port).or_default() += 1;
        let (time, fails) = serve(port, rng.f64());
        requests.spawn(async move {
            let mut pending = picked.into_pending();
            tokio::time::sleep(time).await;
            match fails {
                true => pending.fail(now(), None),
                false => pending.first_frame(now()),
            }
        });
        // Exponential gaps: arrivals as from many independent clients.
        let gap = -rng.f64().max(1e-9).ln() / rate as f64;
        tokio::time::sleep(Duration::from_secs_f64(gap)).await;
    }
    while requests.join_next().await.is_some() {}
    world.assert_at_rest();
    counts.into_iter().map(|(port, n)| (port, n as f64 / total as f64)).collect()
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_ten_times_slower_gets_under_a_fifth_of_its_fair_share() {
    for seed in 0..4 {
        let shares = shares(seed, LoadParams::default(), 200, |port, draw| {
            let mean = if port == 7 { 0.2 } else { 0.02 };
            (Duration::from_secs_f64(mean * (0.5 + draw)), false)
        })
        .await;
        let slow = shares.get(&7).copied().unwrap_or_default();
        assert!(slow < 0.1 / 5.0, "seed {seed}: {shares:?}");
        let least = shares.iter().filter(|(p, _)| **p != 7).map(|(_, s)| *s).fold(1.0, f64::min);
        assert!(least > 0.08, "seed {seed}, the others share evenly: {shares:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_fast_attracts_no_traffic_under_penalties() {
    let penalty = Penalty {
        penalty: Duration::from_secs(5),
        max_retry_after: Duration::from_secs(300),
        decay: Duration::from_secs(10),
    };
    for seed in 0..4 {
        let load = LoadParams { penalty: Some(penalty), ..LoadParams::default() };
        let shares = shares(seed, load, 200, |port, draw| match port {
            7 => (Duration::from_millis(1), true),
            _ => (Duration::from_secs_f64(0.02 * (0.5 + draw)), false),
        })
        .await;
        assert!(shares.get(&7).copied().unwrap_or_default() < 0.02, "seed {seed}: {shares:?}");
    }
}

/// Endpoints come, go, connect and fail at random while requests wait, give up and finish.
async fn churn(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let failfast = Duration::from_millis(300);
    let queue = Queue { capacity: 50, failfast };
    let world = World::new(Params { queue, ..Params::default() }, Start::Connecting);
    let done = Arc::new(AtomicU64::new(0));
    let mut requests = JoinSet::new();
    let mut asked = 0;
    for _ in 0..2_000 {
        let port = rng.u16(1..=8);
        match rng.u8(0..10) {
            0 => world.backend.apply(Change::Reset(infos((1..=8).filter(|_| rng.bool())))),
            1 => world.backend.apply(Change::Add(infos([port]))),
            2 => world.backend.apply(Change::Remove(vec![addr(port)])),
            3 if rng.u8(..) < 20 => world.backend.apply(Change::Empty { exists: rng.bool() }),
            _ => {
                let known = world.backend.snapshot().endpoints;
                if let Some(endpoint) = known.get(rng.usize(0..known.len().max(1))) {
                    let state = match rng.u8(0..4) {
                        0 => EndpointState::Connecting,
                        1 => failed("flapping"),
                        _ => EndpointState::Ready,
                    };
                    world.set(endpoint.info.addr.port(), state);
                }
            }
        }
        for _ in 0..rng.u8(0..4) {
            asked += 1;
            let (backend, done) = (world.backend.clone(), done.clone());
            let (service, patience) = (rng.u64(0..100), rng.u64(1..400));
            let impatient = rng.u8(0..4) == 0;
            requests.spawn(async move {
                let started = now();
                let work = async {
                    let outcome = backend.ready(None).await;
                    assert!(now() - started <= failfast, "seed {seed}: waited {:?}", now() - started);
                    if let Ok(picked) = outcome {
                        let mut pending = picked.into_pending();
                        tokio::time::sleep(Duration::from_millis(service)).await;
                        pending.first_frame(now());
                    }
                };
                match impatient {
                    true => drop(tokio::time::timeout(Duration::from_millis(patience), work).await),
                    false => work.await,
                }
                done.fetch_add(1, Relaxed);
            });
        }
        tokio::time::sleep(Duration::from_millis(rng.u64(0..20))).await;
    }
    while let Some(request) = requests.join_next().await {
        request.unwrap();
    }
    assert_eq!(done.load(Relaxed), asked, "seed {seed}: a waiter was lost");
    world.assert_at_rest();
    let (snapshot, counts) = (world.backend.snapshot(), world.backend.metrics().snapshot());
    assert_eq!(counts.endpoints_ready as usize, snapshot.ready, "seed {seed}");
    assert_eq!(counts.endpoints_pending as usize, snapshot.known - snapshot.ready, "seed {seed}");
    let living = world.built().len() - world.dropped().len();
    assert_eq!(living, snapshot.known, "seed {seed}: removed endpoints are dropped");
}

#[tokio::test(start_paused = true)]
async fn endpoint_churn_loses_no_waiter_and_leaks_no_pending_request() {
    for seed in 0..20 {
        churn(seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn picks_and_changes_from_many_threads_leave_no_trace() {
    let world = World::new(Params::default(), Start::Ready);
    world.backend.apply(Change::Reset(infos(1..=4)));
    let mut tasks = JoinSet::new();
    for seed in 0..4 {
        let backend = world.backend.clone();
        tasks.spawn(async move {
            let mut rng = fastrand::Rng::with_seed(seed);
            for _ in 0..5_000 {
                if let Ok(picked) = backend.pick(now(), rng.u64(..)) {
                    picked.into_pending().first_frame(now());
                }
                if rng.u8(..) == 0 {
                    backend.apply(Change::Reset(infos((1..=4).filter(|_| rng.bool()))));
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    world.assert_at_rest();
    world.backend.apply(Change::Reset(infos([1])));
    assert_eq!(world.backend.pick(now(), 0).unwrap().info().addr, addr(1));
}
