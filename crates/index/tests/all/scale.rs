//! Ten thousand endpoints behind one service.

use crate::world::*;
use std::time::Instant;
use weft_index::{Answer, Question, diff};
use weft_model::workload::Asker;

/// Generous for a debug build on a busy machine; quadratic work would take minutes.
const BOUND_SECONDS: u64 = 20;

#[test]
fn a_change_of_one_endpoint_in_ten_thousand_costs_no_more_than_reading_them_once() {
    let started = Instant::now();
    let mut world = World::new();
    world.put(service("shop/web", "240.0.0.1"));
    for n in 0..10_000u32 {
        let ip = std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string();
        world.put(workload(&format!("shop/web-{n:05}"), "web", &ip));
    }
    for n in 0..10_000u32 {
        let ip = std::net::Ipv4Addr::from(0x0b00_0000 + n).to_string();
        world.put(workload(&format!("shop/other-{n:05}"), "other", &ip));
    }
    let built = started.elapsed();
    let asker = Asker::default();
    let question = Question::Endpoints { path: "web.shop.svc.cluster.local:80".into(), asker };
    let view = world.index.view(&question).unwrap();
    let resolve = |world: &World| match world.index.resolve(&view) {
        Answer::Endpoints(set) => set.endpoints,
        other => panic!("{other:?}"),
    };
    let mut last = resolve(&world);
    assert_eq!(last.len(), 10_000);
    let started = Instant::now();
    for n in 0..50u32 {
        let ip = std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string();
        let mut web = workload(&format!("shop/web-{n:05}"), "web", &ip);
        web.ready = Some(false);
        let touched = world.put(web);
        assert!(touched.touches(&view));
        assert_eq!(touched.endpoints.len(), 1);
        let next = resolve(&world);
        let (adds, removes) = diff(&last, &next);
        assert_eq!((adds.len(), removes.len()), (0, 1));
        last = next;
    }
    let changed = started.elapsed();
    println!("20,000 workloads indexed in {built:?}; one change resolved and compared in {:?}", changed / 50);
    assert!((built + changed).as_secs() < BOUND_SECONDS, "{built:?} {changed:?}");
}
