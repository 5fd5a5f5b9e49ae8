//! Random changes: the order of batches does not matter, and what is touched covers what differs.

use crate::world::*;
use fastrand::Rng;
use std::collections::BTreeMap;
use weft_index::{Answer, Config, Index, OutboundTarget, Question, ViewKey};
use weft_model::object::{Change, Object};
use weft_model::service::{ProfileOverride, ServiceProfile, TargetKind, TrafficPolicy};
use weft_model::workload::Asker;

const NAMESPACES: [&str; 2] = ["shop", "office"];
const APPS: [&str; 3] = ["web", "db", "api"];

fn one<'a>(rng: &mut Rng, list: &[&'a str]) -> &'a str {
    list[rng.usize(..list.len())]
}

fn annotations(rng: &mut Rng) -> Vec<(&'static str, &'static str)> {
    let all = [
        ("config.linkerd.io/opaque-ports", "80,http"),
        ("config.linkerd.io/opaque-ports", "1-9000"),
        ("config.linkerd.io/skip-inbound-ports", "8080"),
        ("config.linkerd.io/default-inbound-policy", "deny"),
        ("config.linkerd.io/default-inbound-policy", "nonsense"),
        ("config.linkerd.io/proxy-require-identity-inbound-ports", "http"),
        ("balancer.linkerd.io/failure-accrual", "unified"),
    ];
    all.into_iter().filter(|_| rng.u8(..5) == 0).collect()
}

fn object(rng: &mut Rng) -> Object {
    let ns = one(rng, &NAMESPACES);
    let app = one(rng, &APPS);
    let mut object = match rng.u8(..10) {
        0 => namespace(ns, &annotations(rng)).object(),
        1..=2 => {
            let ip = format!("240.0.0.{}", rng.u8(1..4));
            let mut service = service(&format!("{ns}/{app}"), if rng.u8(..4) == 0 { "None" } else { &ip });
            match rng.u8(..4) {
                0 => service.selector.clear(),
                1 => drop(service.selector.insert("tier".into(), "x".into())),
                _ => {}
            }
            if rng.u8(..4) == 0 {
                service.traffic = TrafficPolicy::Local;
            }
            if rng.bool() {
                service.ports.push(service_port("more", 81, "9990"));
            }
            service.meta.annotations = pairs(&annotations(rng));
            service.object()
        }
        3..=4 => {
            let mut found = Vec::new();
            for _ in 0..rng.u8(..3) {
                let mut e = endpoint(&format!("10.0.0.{}", rng.u8(1..9)));
                let name = format!("{ns}/{}-{}", one(rng, &APPS), rng.u8(..3));
                e.target = match rng.u8(..3) {
                    0 => target(TargetKind::ExternalWorkload, &name),
                    1 => target(TargetKind::Pod, &name),
                    _ => None,
                };
                e.hostname = rng.bool().then(|| "h0".to_owned());
                found.push(e);
            }
            slice(&format!("{ns}/slice-{}", rng.u8(..3)), app, found).object()
        }
        5..=8 => {
            let name = format!("{ns}/{app}-{}", rng.u8(..3));
            let mut ips = format!("10.0.0.{}", rng.u8(1..9));
            if rng.u8(..3) == 0 {
                ips.push_str(",fd00::1");
            }
            let mut workload = workload(&name, one(rng, &APPS), &ips);
            if rng.bool() {
                workload.meta.labels.insert("tier".into(), "x".into());
            }
            if rng.bool() {
                workload
                    .meta
                    .labels
                    .insert("topology.kubernetes.io/zone".into(), one(rng, &["a", "b"]).into());
            }
            if rng.bool() {
                workload.meta.labels.insert("kubernetes.io/hostname".into(), "n1".into());
            }
            workload.ready = [None, Some(true), Some(false)][rng.usize(..3)];
            workload.meta.annotations = pairs(&annotations(rng));
            workload.object()
        }
        _ => {
            let of = one(rng, &NAMESPACES);
            let host = format!("{app}.{of}.svc.cluster.local");
            ServiceProfile {
                meta: meta(&format!("{ns}/{host}")),
                routes: Vec::new(),
                retry_budget: None,
                overrides: vec![ProfileOverride {
                    host: host.parse().unwrap(),
                    port: None,
                    weight: rng.u32(..3),
                }],
            }
            .object()
        }
    };
    if rng.u8(..3) == 0 {
        object.meta_mut().created = created(rng.i64(..5));
    }
    object
}

fn questions() -> Vec<Question> {
    let mut all = Vec::new();
    for (workload, node) in [("web-0", ""), ("web-1", "n1"), ("none", "")] {
        let asker = Asker { namespace: "shop".into(), workload: workload.into(), node: node.into() };
        for ns in NAMESPACES {
            for app in APPS {
                for port in [80, 81, 8080] {
                    let path = format!("{app}.{ns}.svc.cluster.local:{port}");
                    all.push(Question::Endpoints { path: path.clone(), asker: asker.clone() });
                    all.push(Question::Profile { path: path.clone(), asker: asker.clone() });
                    let target = OutboundTarget::Authority(path.clone());
                    all.push(Question::Outbound { target, asker: asker.clone() });
                    all.push(Question::Profile { path: format!("h0.{path}"), asker: asker.clone() });
                    all.push(Question::Endpoints { path: format!("{app}-0.{path}"), asker: asker.clone() });
                }
            }
        }
        for ip in (1..4).map(|n| format!("240.0.0.{n}")).chain((1..9).map(|n| format!("10.0.0.{n}"))) {
            for port in [80, 81, 8080] {
                let path = format!("{ip}:{port}");
                let target = OutboundTarget::Address(path.parse().unwrap());
                all.push(Question::Profile { path, asker: asker.clone() });
                all.push(Question::Outbound { target, asker: asker.clone() });
            }
        }
    }
    for ns in NAMESPACES {
        for app in APPS {
            let workload = format!(r#"{{"ns":"{ns}","external_workload":"{app}-0"}}"#);
            all.push(Question::Inbound { workload, port: 8080 });
        }
    }
    all
}

fn answers(index: &Index, questions: &[Question]) -> Vec<Answer> {
    questions
        .iter()
        .map(|q| match index.view(q) {
            Ok(view) => index.resolve(&view),
            Err(refusal) => Answer::Refused(refusal),
        })
        .collect()
}

fn run(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let questions = questions();
    let changes: Vec<Change> = (0..40)
        .map(|_| {
            let object = object(&mut rng);
            if rng.u8(..4) == 0 { Change::Delete(object.key()) } else { Change::Upsert(object) }
        })
        .collect();

    // One by one, recomputing only what is touched, as a server does.
    let mut single = Index::new(Config::default());
    let mut held: Vec<Option<(ViewKey, Answer)>> = Vec::new();
    for question in &questions {
        held.push(single.view(question).ok().map(|view| {
            let answer = single.resolve(&view);
            (view, answer)
        }));
    }
    for (step, change) in changes.iter().enumerate() {
        let touched = single.apply([change.clone()]);
        for (question, held) in questions.iter().zip(&mut held) {
            let Some((view, answer)) = held else { continue };
            if touched.touches(view) || question.asker().is_some_and(|a| touched.moves(a)) {
                *view = single.view(question).unwrap();
                *answer = single.resolve(view);
            }
            let fresh = single.resolve(&single.view(question).unwrap());
            assert_eq!(
                *answer, fresh,
                "seed {seed}, step {step}: {question:?} was not touched by {change:?}"
            );
        }
    }

    let expected = answers(&single, &questions);
    let mut at_once = Index::new(Config::default());
    at_once.apply(changes.clone());
    assert_eq!(answers(&at_once, &questions), expected, "seed {seed}: all at once");

    // Only the last state of each object, in any order.
    let mut last: BTreeMap<_, Change> = BTreeMap::new();
    for change in &changes {
        let key = match change {
            Change::Upsert(object) => object.key(),
            Change::Delete(key) => key.clone(),
        };
        last.insert(key, change.clone());
    }
    let mut last: Vec<Change> = last.into_values().collect();
    rng.shuffle(&mut last);
    let mut shuffled = Index::new(Config::default());
    shuffled.apply(last);
    assert_eq!(answers(&shuffled, &questions), expected, "seed {seed}: shuffled");
    assert_eq!(shuffled.objects().count(), single.objects().count(), "seed {seed}");

    // And nothing is left when everything is gone.
    let all: Vec<Change> = single.objects().map(|o| Change::Delete(o.key())).collect();
    single.apply(all);
    let empty = Index::new(Config::default());
    assert_eq!(format!("{single:?}"), format!("{empty:?}"), "seed {seed}: something is left behind");
}

#[test]
fn random_changes_one_by_one_equal_the_same_changes_at_once() {
    for seed in 0..12 {
        run(seed);
    }
}
