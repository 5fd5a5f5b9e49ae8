//! Ejection of failing endpoints and their probation.

use crate::{Start, World, addr, infos, now};
use std::time::Duration;
use tokio::task::yield_now;
use weft_balance::health::Mark;
use weft_balance::{Cause, Change, Params, Verdict};
use weft_model::policy::FailureAccrual;
use weft_model::reason::Code;
use weft_model::route::Backoff;

fn params() -> Params {
    let backoff = Backoff { min: Duration::from_secs(1), max: Duration::from_secs(60), jitter: 0.0 };
    Params { breaker: Some(FailureAccrual::Consecutive { max_failures: 3, backoff }), ..Params::default() }
}

/// Ends one request at whatever endpoint is drawn.
fn request(world: &World, draw: u64, verdict: Verdict) -> u16 {
    let mut pending = world.backend.pick(now(), draw).unwrap().into_pending();
    pending.first_frame(now());
    pending.judge(verdict, None, now());
    pending.info().addr.port()
}

async fn advance(time: Duration) {
    tokio::time::advance(time).await;
    yield_now().await; // lets the breaker's timer run
}

#[tokio::test(start_paused = true)]
async fn an_ejected_endpoint_is_not_drawn_until_its_probation() {
    let world = World::new(params(), Start::Ready);
    world.backend.apply(Change::Reset(infos([1])));
    for _ in 0..3 {
        request(&world, 0, Verdict::Failure);
    }
    world.backend.apply(Change::Add(infos([2])));
    for draw in 0..64 {
        assert_eq!(request(&world, draw << 58, Verdict::Success), 2);
    }
    let ejected: Vec<_> = world.backend.snapshot().endpoints.iter().map(|e| e.ejected.is_some()).collect();
    assert_eq!(ejected, [true, false], "whether they are left alone");
    assert_eq!(world.backend.metrics().snapshot().ejections, 1);
    yield_now().await;
    advance(Duration::from_secs(1)).await;
    let drawn: Vec<_> = (0..64).map(|draw| request(&world, draw << 58, Verdict::Success)).collect();
    assert!(drawn.contains(&1) && drawn.contains(&2), "{drawn:?}");
    world.assert_at_rest();
}

#[tokio::test(start_paused = true)]
async fn probation_admits_exactly_one_request() {
    let world = World::new(params(), Start::Ready);
    world.backend.apply(Change::Reset(infos([1])));
    for _ in 0..3 {
        request(&world, 0, Verdict::Failure);
    }
    assert_eq!(world.backend.pick(now(), 0).unwrap_err().cause, Cause::AllEjected);
    yield_now().await;
    advance(Duration::from_secs(1)).await;

    let probe = world.backend.pick(now(), 0).unwrap();
    assert!(world.backend.pick(now(), 0).is_err(), "one probe at a time");
    drop(probe); // given up without a verdict: another may go
    let mut probe = world.backend.pick(now(), 0).unwrap().into_pending();
    probe.fail(now(), None);
    probe.judge(Verdict::Failure, None, now());
    drop(probe);

    yield_now().await;
    advance(Duration::from_secs(1)).await;
    assert!(world.backend.pick(now(), 0).is_err(), "the second wait is longer");
    advance(Duration::from_secs(1)).await;
    request(&world, 0, Verdict::Success);
    assert!(world.backend.pick(now(), 0).is_ok());
    assert!(world.backend.pick(now(), 0).is_ok());
    world.assert_at_rest();
}

#[tokio::test(start_paused = true)]
async fn a_probation_serves_a_waiting_request() {
    let world = World::new(params(), Start::Ready);
    world.backend.apply(Change::Reset(infos([1])));
    for _ in 0..3 {
        request(&world, 0, Verdict::Failure);
    }
    let wait = || {
        let backend = world.backend.clone();
        tokio::spawn(async move { backend.ready(None).await })
    };
    let (first, second) = (wait(), wait());
    let probe = first.await.unwrap().unwrap();
    assert_eq!(world.backend.snapshot().waiting, 1, "the probation is for one");
    let mut pending = probe.into_pending();
    pending.judge(Verdict::Success, None, now());
    assert_eq!(second.await.unwrap().unwrap().info().addr, addr(1));
}

#[tokio::test(start_paused = true)]
async fn breakers_leave_as_many_endpoints_in_use_as_they_are_told() {
    for (min_ready, expected) in [(0, 4), (1, 3), (3, 1), (9, 0)] {
        let world = World::new(Params { min_ready, ..params() }, Start::Ready);
        world.backend.apply(Change::Reset(infos(1..=4)));
        for draw in 0..200u64 {
            let picked = world.backend.pick(now(), draw.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let Ok(picked) = picked else { break };
            let mut pending = picked.into_pending();
            pending.first_frame(now());
            pending.judge(Verdict::Failure, None, now());
        }
        let ejected = world.backend.snapshot().endpoints.iter().filter(|e| e.ejected.is_some()).count();
        assert_eq!(ejected, expected, "at least {min_ready} left");
        yield_now().await;
        // A probe that fails leaves no fewer, either.
        advance(Duration::from_secs(1)).await;
        world.assert_at_rest();
    }
}

#[tokio::test(start_paused = true)]
async fn who_finds_every_endpoint_left_alone_learns_what_the_last_one_failed_with() {
    let world = World::new(params(), Start::Ready);
    world.backend.apply(Change::Reset(infos([1])));
    let fail = |mark| {
        let mut pending = world.backend.pick(now(), 0).unwrap().into_pending();
        pending.first_frame(now());
        pending.mark(mark);
        pending.judge(Verdict::Failure, None, now());
    };
    for mark in [Mark::Status(500), Mark::Error(Code::ConnectionLost), Mark::Status(503)] {
        fail(mark);
    }
    let why = |expected: &str| {
        let refusal = world.backend.pick(now(), 0).unwrap_err();
        let evidence = refusal.evidence();
        assert_eq!((refusal.code(), evidence.known, evidence.ready), (Code::AllEjected, Some(1), Some(0)));
        assert_eq!(evidence.endpoint, Some(addr(1).to_string()));
        assert_eq!(evidence.detail.as_deref(), Some(expected));
        let shown = world.backend.snapshot().endpoints[0].ejected.map(|why| why.to_string());
        assert_eq!(shown.as_deref(), Some(expected));
    };
    why("3 failures in a row, the last HTTP 503; left alone for 1000 ms");
    yield_now().await;
    advance(Duration::from_secs(1)).await;
    fail(Mark::Grpc(14));
    why("the probe failed, gRPC 14; left alone for 2000 ms");
    yield_now().await;
    advance(Duration::from_secs(2)).await;
    request(&world, 0, Verdict::Success);
    assert_eq!(world.backend.snapshot().endpoints[0].ejected, None);
    world.assert_at_rest();
}
