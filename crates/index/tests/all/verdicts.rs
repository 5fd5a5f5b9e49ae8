//! What is said about objects that are not, or not wholly, in force.

use crate::world::*;
use weft_index::verdict::{State, settle, verdicts};
use weft_model::object::{Object, Origin};
use weft_model::service::TargetKind;

fn of(world: &World, name: &str) -> (State, Vec<String>) {
    let found = verdicts(&world.index).into_iter().find(|v| v.key.name == name);
    let found = found.unwrap_or_else(|| panic!("no verdict on {name}"));
    (found.state, found.notes)
}

#[test]
fn sound_objects_are_accepted_without_notes() {
    let mut world = World::new();
    world.put(service("shop/web", "240.0.0.1"));
    world.put(workload("shop/web-1", "web", "10.1.0.1"));
    world.put(namespace("shop", &[]));
    for verdict in verdicts(&world.index) {
        assert_eq!((verdict.state, verdict.notes), (State::Accepted, vec![]), "{}", verdict.key);
    }
}

#[test]
fn two_services_with_one_address_conflict_and_so_do_two_workloads() {
    let mut world = World::new();
    world.put(service("shop/a", "240.0.0.1"));
    world.put(service("shop/b", "240.0.0.1"));
    world.put(workload("shop/x", "a", "10.1.0.1"));
    world.put(workload("shop/y", "b", "10.1.0.1"));
    for (loser, winner) in [("b", "a"), ("y", "x")] {
        let (state, _) = of(&world, loser);
        assert!(matches!(state, State::Conflicted { with, .. } if with.name == winner), "{loser}");
        assert_eq!(of(&world, winner).0, State::Accepted);
    }
}

#[test]
fn what_refers_to_nothing_dangles() {
    let mut world = World::new();
    world.put(slice("shop/s1", "gone", vec![]));
    world.put(slice("shop/s2", "", vec![]));
    for name in ["gone.shop.svc.cluster.local", "gone"] {
        world.put(weft_model::service::ServiceProfile {
            meta: meta(&format!("shop/{name}")),
            routes: vec![],
            retry_budget: None,
            overrides: vec![],
        });
    }
    for name in ["s1", "s2", "gone.shop.svc.cluster.local", "gone"] {
        assert!(matches!(of(&world, name).0, State::Dangling { .. }), "{name}");
    }
}

#[test]
fn parts_that_have_no_effect_are_noted() {
    let mut world = World::new();
    let mut web = service("shop/web", "240.0.0.1");
    web.meta.annotations = pairs(&[
        ("balancer.linkerd.io/failure-accrual", "often"),
        ("config.linkerd.io/opaque-ports", "80,?"),
        ("timeout.linkerd.io/request", "soon"),
    ]);
    web.ports[0].app_protocol = Some("grpc".into());
    world.put(web);
    let mut pod = endpoint("10.2.0.1");
    pod.target = target(TargetKind::Pod, "shop/p");
    let mut gone = endpoint("10.2.0.2");
    gone.target = target(TargetKind::ExternalWorkload, "shop/q");
    world.put(slice("shop/slice", "web", vec![pod, gone]));
    world.put(namespace("shop", &[("config.linkerd.io/default-inbound-policy", "open")]));
    for (name, texts) in [
        ("web", &["failure-accrual", "opaque-ports: `?`", "timeout", "`grpc`", "no workload"][..]),
        ("slice", &["pod p", "external workload q"]),
        ("shop", &["`open` is no policy"]),
    ] {
        let (_, notes) = of(&world, name);
        for text in texts {
            assert!(notes.iter().any(|n| n.contains(text)), "{name}: {text} in {notes:?}");
        }
    }
}

#[test]
fn of_two_manifests_of_one_object_the_one_in_force_stays() {
    let at = |file: &str, line: u32| {
        let mut web = service("shop/web", "240.0.0.1");
        web.meta.origin = Origin { file: file.into(), line };
        web.object()
    };
    let kept = |candidates: Vec<Object>, held: Option<&str>| {
        let held = held.map(|file| Origin { file: file.into(), line: 1 });
        let (kept, lost) = settle(candidates, |_| held.clone());
        let winner = kept.values().next().unwrap().meta().origin.to_string();
        assert!(lost.iter().all(|d| d.kept.to_string() == winner), "each loser is told who won");
        (winner, lost.len())
    };
    let three = || vec![at("b.yaml", 1), at("a.yaml", 5), at("a.yaml", 2)];
    assert_eq!(kept(three(), None), ("a.yaml:2".into(), 2));
    assert_eq!(kept(three(), Some("b.yaml")), ("b.yaml:1".into(), 2));
    assert_eq!(kept(three(), Some("gone.yaml")), ("a.yaml:2".into(), 2));
    assert_eq!(kept(vec![at("b.yaml", 1)], Some("a.yaml")), ("b.yaml:1".into(), 0));
}
