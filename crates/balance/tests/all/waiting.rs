//! The waiting room and failing fast.

use crate::{Start, World, infos, now};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::yield_now;
use weft_balance::{Cause, Change, EndpointState, Params};
use weft_model::reason::{Code, Phase};
use weft_model::route::Queue;

fn params(capacity: usize) -> Params {
    Params { queue: Queue { capacity, failfast: Duration::from_secs(3) }, ..Params::default() }
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_until_an_endpoint_is_ready() {
    let world = World::new(params(10), Start::Connecting);
    world.backend.apply(Change::Reset(infos([1])));
    let backend = world.backend.clone();
    let waiter = tokio::spawn(async move { backend.ready(None).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.backend.snapshot().waiting, 1);
    world.set(1, EndpointState::Ready);
    drop(waiter.await.unwrap().unwrap());
    let counts = world.backend.metrics().snapshot();
    assert_eq!(counts.queue_latency_sum, Duration::from_secs(1));
    assert_eq!((counts.queue_requests, counts.gate_shut), (1, 0));
    world.assert_at_rest();
}

#[tokio::test(start_paused = true)]
async fn waiting_requests_fail_at_the_failfast_time_and_later_ones_are_refused_at_once() {
    let world = World::new(params(10), Start::Connecting);
    world.backend.apply(Change::Reset(infos([1])));
    tokio::time::advance(Duration::from_secs(1)).await;
    let before = now();
    let refusal = world.backend.ready(None).await.unwrap_err();
    assert_eq!(now() - before, Duration::from_secs(2), "the clock runs since nothing is ready");
    assert_eq!((refusal.code(), refusal.phase), (Code::AllUnready, Phase::Queue));
    assert_eq!(refusal.waited, Duration::from_secs(2));
    assert!(!world.backend.is_open(now()));

    let before = now();
    let refusal = world.backend.ready(None).await.unwrap_err();
    assert_eq!((refusal.phase, now() - before), (Phase::Shed, Duration::ZERO));

    world.set(1, EndpointState::Ready);
    assert!(world.backend.is_open(now()));
    assert!(world.backend.ready(None).await.is_ok());
    world.set(1, EndpointState::Connecting);
    assert!(world.backend.is_open(now()), "it may fail again only after another failfast time");
    let counts = world.backend.metrics().snapshot();
    assert_eq!((counts.gate_shut, counts.gate_opened), (1, 1));
    world.assert_at_rest();
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_discovery_is_told_from_an_empty_answer() {
    let world = World::new(params(10), Start::Ready);
    let refusal = world.backend.ready(None).await.unwrap_err();
    assert_eq!((refusal.code(), refusal.waited), (Code::DiscoveryTimeout, Duration::from_secs(3)));
    world.backend.apply(Change::Empty { exists: true });
    assert_eq!(world.backend.ready(None).await.unwrap_err().code(), Code::NoEndpoints);
}

#[tokio::test(start_paused = true)]
async fn the_callers_deadline_ends_the_wait() {
    let world = World::new(params(10), Start::Ready);
    let before = now();
    let refusal = world.backend.ready(Some(before + Duration::from_millis(500))).await.unwrap_err();
    assert_eq!((refusal.cause, now() - before), (Cause::Deadline, Duration::from_millis(500)));
    world.assert_at_rest();
}

#[tokio::test(start_paused = true)]
async fn the_room_is_bounded_and_served_in_order() {
    let world = World::new(params(3), Start::Connecting);
    world.backend.apply(Change::Reset(infos([1])));
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut waiters = Vec::new();
    for n in 0..3 {
        let (backend, order) = (world.backend.clone(), order.clone());
        waiters.push(tokio::spawn(async move {
            let picked = backend.ready(None).await.unwrap();
            order.lock().unwrap().push(n);
            picked
        }));
        yield_now().await;
    }
    let refusal = world.backend.ready(None).await.unwrap_err();
    assert_eq!((refusal.code(), refusal.waited), (Code::QueueFull, Duration::ZERO));
    world.set(1, EndpointState::Ready);
    for waiter in waiters {
        waiter.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [0, 1, 2]);
    world.assert_at_rest();
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_gives_up_frees_its_place_and_harms_nobody() {
    let world = World::new(params(2), Start::Connecting);
    world.backend.apply(Change::Reset(infos([1])));
    let wait = || {
        let backend = world.backend.clone();
        tokio::spawn(async move { backend.ready(None).await })
    };
    let (first, second) = (wait(), wait());
    yield_now().await;
    first.abort();
    assert!(first.await.is_err());
    assert_eq!(world.backend.snapshot().waiting, 1);
    let third = wait();
    yield_now().await;
    // Served but dropped before it could look: what it was given comes back.
    world.set(1, EndpointState::Ready);
    second.abort();
    let _ = second.await;
    assert!(third.await.unwrap().is_ok());
    world.assert_at_rest();
}
