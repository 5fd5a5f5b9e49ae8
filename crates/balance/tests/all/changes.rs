//! How changes of the endpoint set take effect.

use crate::{Start, World, addr, failed, infos, now};
use weft_balance::{Cause, Change, EndpointState, Params};
use weft_model::destination::ProtocolHint;
use weft_model::reason::{Code, Phase};

#[tokio::test(start_paused = true)]
async fn a_change_is_in_force_for_the_next_pick() {
    let world = World::new(Params::default(), Start::Ready);
    assert_eq!(world.backend.pick(now(), 0).unwrap_err().cause, Cause::Undiscovered);
    world.backend.apply(Change::Add(infos([1])));
    assert_eq!(world.backend.pick(now(), 0).unwrap().info().addr, addr(1));
    world.backend.apply(Change::Reset(infos([2])));
    for draw in 0..50 {
        assert_eq!(world.backend.pick(now(), draw << 30).unwrap().info().addr, addr(2));
    }
    world.backend.apply(Change::Remove(vec![addr(2)]));
    assert_eq!(world.backend.pick(now(), 0).unwrap_err().cause, Cause::NoEndpoints);
    world.backend.apply(Change::Empty { exists: false });
    assert_eq!(world.backend.pick(now(), 0).unwrap_err().cause, Cause::NoSuchService);
    world.assert_at_rest();
}

#[tokio::test(start_paused = true)]
async fn unchanged_endpoints_are_kept_and_changed_ones_rebuilt() {
    let world = World::new(Params::default(), Start::Ready);
    world.backend.apply(Change::Add(infos([1, 2, 3])));
    let mut changed = infos([1, 2]);
    changed[1].hint = ProtocolHint::Http2;
    world.backend.apply(Change::Reset(changed));
    assert_eq!(world.built(), [1, 2, 3, 2]);
    let mut dropped = world.dropped();
    dropped.sort_unstable();
    assert_eq!(dropped, [2, 3]);
    world.backend.apply(Change::Add(infos([1])));
    assert_eq!(world.built().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_request_in_flight_keeps_its_removed_endpoint() {
    let world = World::new(Params::default(), Start::Ready);
    world.backend.apply(Change::Add(infos([1])));
    let picked = world.backend.pick(now(), 0).unwrap();
    world.backend.apply(Change::Empty { exists: true });
    assert_eq!(world.dropped(), [] as [u16; 0]);
    assert_eq!(picked.endpoint().addr, addr(1));
    let mut pending = picked.into_pending();
    pending.first_frame(now());
    assert_eq!(world.dropped(), [] as [u16; 0]);
    drop(pending);
    assert_eq!(world.dropped(), [1]);
}

#[tokio::test(start_paused = true)]
async fn reports_of_a_replaced_endpoint_are_ignored() {
    let world = World::new(Params::default(), Start::Connecting);
    world.backend.apply(Change::Add(infos([1])));
    let old = world.fake(1);
    let mut changed = infos([1]);
    changed[0].weight = 1;
    world.backend.apply(Change::Add(changed));
    old.readiness.set(EndpointState::Ready);
    assert_eq!(world.backend.pick(now(), 0).unwrap_err().cause, Cause::AllUnready);
    old.readiness.set(failed("long ago"));
    assert_eq!(world.backend.snapshot().last_failure, None, "nor is its failure told");
    world.set(1, EndpointState::Ready);
    assert!(world.backend.pick(now(), 0).is_ok());
}

#[tokio::test(start_paused = true)]
async fn only_ready_endpoints_are_drawn_and_the_evidence_says_why() {
    let world = World::new(Params::default(), Start::Connecting);
    world.backend.apply(Change::Add(infos([1, 2])));
    world.set(1, failed("no one listens"));
    let refusal = world.backend.pick(now(), 0).unwrap_err();
    assert_eq!((refusal.code(), refusal.phase), (Code::AllUnready, Phase::Queue));
    assert_eq!((refusal.known, refusal.ready), (2, 0));
    let detail = refusal.evidence().detail.unwrap();
    assert_eq!(detail, "connect-refused: no one listens");
    world.set(2, EndpointState::Ready);
    for draw in 0..50 {
        assert_eq!(world.backend.pick(now(), draw << 58).unwrap().info().addr, addr(2));
    }
    world.set(2, EndpointState::Connecting);
    assert!(world.backend.pick(now(), 0).is_err());
}

#[tokio::test(start_paused = true)]
async fn gauges_and_counters_follow_and_vanish_with_the_backend() {
    let world = World::new(Params::default(), Start::Connecting);
    let metrics = world.backend.metrics().clone();
    world.backend.apply(Change::Reset(infos([1, 2, 3])));
    world.set(2, EndpointState::Ready);
    world.backend.apply(Change::Remove(vec![addr(3), addr(9)]));
    let counts = metrics.snapshot();
    assert_eq!((counts.endpoints_ready, counts.endpoints_pending), (1, 1));
    assert_eq!((counts.updates_reset, counts.updates_add, counts.updates_remove), (1, 0, 1));
    drop(world);
    let counts = metrics.snapshot();
    assert_eq!((counts.endpoints_ready, counts.endpoints_pending), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_backend_drops_its_endpoints() {
    let World { backend, dropped, .. } = World::new(Params::default(), Start::Ready);
    backend.apply(Change::Reset(infos([1, 2])));
    drop(backend.pick(now(), 0).unwrap());
    let clone = backend.clone();
    drop(backend);
    assert_eq!(dropped.lock().unwrap().len(), 0);
    drop(clone);
    assert_eq!(dropped.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_some_did_not_process_goes_to_another() {
    let world = World::new(Params::default(), Start::Ready);
    world.backend.apply(Change::Add(infos([1, 2, 3])));
    for draw in 0..50 {
        let other = world.backend.pick_other(now(), draw << 58, &[addr(1), addr(3)]);
        assert_eq!(other.unwrap().info().addr, addr(2));
    }
    assert!(world.backend.pick_other(now(), 0, &[addr(1), addr(2), addr(3)]).is_none());
}
