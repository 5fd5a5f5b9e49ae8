//! What is right by default, in seeded simulations with fake time: failing fast is not being fast, the new are warmed up, the near are
//! preferred until they are busy. A failure names its seed.

use crate::{Start, World, addr, infos, now};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::JoinSet;
use weft_balance::health::Verdict;
use weft_balance::{Change, Params};
use weft_model::destination::{EndpointInfo, Locality};

/// How long an endpoint takes, and whether it fails.
type Serve = fn(u16, f64) -> (Duration, bool);

/// A stream of requests that goes on from one look to the next.
struct Traffic {
    world: World,
    rng: fastrand::Rng,
    requests: JoinSet<bool>,
}

impl Traffic {
    fn to(infos: Vec<EndpointInfo>, seed: u64) -> Self {
        let world = World::new(Params::default(), Start::Ready);
        world.backend.apply(Change::Reset(infos));
        Self { world, rng: fastrand::Rng::with_seed(seed), requests: JoinSet::new() }
    }

    /// Sends `rate` requests a second for some time; gives the share of each endpoint.
    async fn flow(&mut self, rate: u32, time: Duration, serve: Serve) -> BTreeMap<u16, f64> {
        let (mut counts, end) = (BTreeMap::<u16, u64>::new(), now() + time);
        let mut total = 0;
        while now() < end {
            let picked = self.world.backend.pick(now(), self.rng.u64(..)).unwrap();
            let port = picked.info().addr.port();
            *counts.entry(port).or_default() += 1;
            total += 1;
            let (time, fails) = serve(port, self.rng.f64());
            self.requests.spawn(async move {
                let mut pending = picked.into_pending();
                tokio::time::sleep(time).await;
                match fails {
                    true => pending.fail(now(), None),
                    false => pending.first_frame(now()),
                }
                pending.judge(if fails { Verdict::Failure } else { Verdict::Success }, None, now());
                fails
            });
            let gap = -self.rng.f64().max(1e-9).ln() / f64::from(rate);
            tokio::time::sleep(Duration::from_secs_f64(gap)).await;
        }
        counts.into_iter().map(|(port, n)| (port, n as f64 / f64::from(total))).collect()
    }

    /// The share of all requests so far that failed.
    async fn failed(&mut self) -> f64 {
        let (mut all, mut failed) = (0u32, 0u32);
        while let Some(fails) = self.requests.join_next().await {
            all += 1;
            failed += u32::from(fails.unwrap());
        }
        f64::from(failed) / f64::from(all.max(1))
    }
}

fn share(shares: &BTreeMap<u16, f64>, ports: impl IntoIterator<Item = u16>) -> f64 {
    ports.into_iter().filter_map(|port| shares.get(&port)).sum()
}

const MINUTE: Duration = Duration::from_secs(60);

fn usual(draw: f64) -> Duration {
    Duration::from_secs_f64(0.01 * (0.5 + draw))
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_half_or_all_at_once_gets_hardly_anything() {
    for seed in 0..4 {
        for serve in [
            (|port, draw| match port {
                7 if draw < 0.5 => (Duration::from_millis(1), true),
                _ => (usual(draw), false),
            }) as Serve,
            |port, draw| match port {
                7 => (Duration::from_millis(1), true),
                _ => (usual(draw), false),
            },
        ] {
            let mut traffic = Traffic::to(infos(1..=10), seed);
            let shares = traffic.flow(200, MINUTE, serve).await;
            assert!(share(&shares, [7]) < 0.02, "seed {seed}: {shares:?}");
            assert!(traffic.failed().await < 0.01, "seed {seed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn failures_that_all_have_alike_drive_nobody_away() {
    for seed in 0..4 {
        let mut traffic = Traffic::to(infos(1..=10), seed);
        let shares = traffic.flow(500, MINUTE, |_, draw| (usual(draw), draw < 0.02)).await;
        let least = shares.values().copied().fold(1.0, f64::min);
        assert!(shares.len() == 10 && least > 0.06, "seed {seed}: {shares:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_has_recovered_gets_its_share_again() {
    for seed in 0..4 {
        let mut traffic = Traffic::to(infos(1..=10), seed);
        traffic.flow(200, MINUTE, |port, draw| (usual(draw), port == 7)).await;
        traffic.flow(200, MINUTE, |_, draw| (usual(draw), false)).await;
        let shares = traffic.flow(200, MINUTE, |_, draw| (usual(draw), false)).await;
        assert!(share(&shares, [7]) > 0.07, "seed {seed}: {shares:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_joins_others_is_warmed_up() {
    // Also where the others are far slower than an estimate of nothing, which would make the new one look best.
    for (seed, slowness) in [(0, 1), (1, 1), (2, 20), (3, 20)] {
        let serve: Serve = match slowness {
            1 => |_, draw| (usual(draw), false),
            _ => |_, draw| (20 * usual(draw), false),
        };
        let mut traffic = Traffic::to(infos(1..=9), seed);
        traffic.flow(200, MINUTE, serve).await;
        traffic.world.backend.apply(Change::Add(infos([10])));
        let cold = traffic.flow(200, Duration::from_secs(2), serve).await;
        assert!(share(&cold, [10]) < 0.06, "seed {seed}: {cold:?}");
        assert!(share(&cold, [10]) > 0.0, "seed {seed}: {cold:?}");
        traffic.flow(200, Duration::from_secs(10), serve).await;
        let warm = traffic.flow(200, MINUTE, serve).await;
        assert!(share(&warm, [10]) > 0.07, "seed {seed}: {warm:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_start_together_are_as_warm_as_each_other() {
    let mut traffic = Traffic::to(infos(1..=2), 5);
    traffic.world.backend.apply(Change::Add(infos(3..=10)));
    let shares = traffic.flow(200, Duration::from_secs(5), |_, draw| (usual(draw), false)).await;
    assert!(share(&shares, 3..=10) > 0.7, "{shares:?}");
}

/// Endpoints 1..=3 in the own zone, 4..=9 in another.
fn zones(unknown: Option<u16>) -> Vec<EndpointInfo> {
    let locality = |n: u16| match n {
        n if Some(n) == unknown => Locality::Unknown,
        1..=3 => Locality::Local,
        _ => Locality::Remote,
    };
    (1..=9).map(|n| EndpointInfo { locality: locality(n), ..EndpointInfo::plain(addr(n)) }).collect()
}

#[tokio::test(start_paused = true)]
async fn the_own_zone_is_preferred_until_it_is_busy() {
    for seed in 0..4 {
        let mut traffic = Traffic::to(zones(None), seed);
        let calm = traffic.flow(50, MINUTE, |_, draw| (usual(draw), false)).await;
        assert!(share(&calm, 1..=3) > 0.9, "seed {seed}: {calm:?}");
        let mut traffic = Traffic::to(zones(None), seed);
        // The own zone grinds: five times as slow as the others.
        let busy = traffic
            .flow(200, MINUTE, |port, draw| (if port <= 3 { 5 * usual(draw) } else { usual(draw) }, false))
            .await;
        assert!(share(&busy, 4..=9) > 0.5, "seed {seed}: {busy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_all_zones_nobody_is_preferred() {
    let mut traffic = Traffic::to(zones(Some(9)), 1);
    let shares = traffic.flow(100, MINUTE, |_, draw| (usual(draw), false)).await;
    assert!(share(&shares, 1..=3) < 0.5, "{shares:?}");
}
