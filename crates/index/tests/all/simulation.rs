//! Random changes: the order of batches does not matter, and what is touched covers what differs.

use crate::world::*;
use fastrand::Rng;
use std::collections::BTreeMap;
use weft_index::config::ReferenceGrants;
use weft_index::{Answer, Config, Index, OutboundTarget, Question, ViewKey};
use weft_model::attach::{EgressNetwork, EgressTraffic, ParentKind, ReferenceGrant};
use weft_model::object::{Change, Kind, Object};
use weft_model::policy::DefaultPolicy;
use weft_model::server::{
    AuthenticationRef, Client, MeshTlsAuthentication, NetworkAuthentication, PolicyTarget, RateLimitPolicy,
    Selector, ServerAuthorization, ServerProtocol, Servers, Subject,
};
use weft_model::service::{ProfileOverride, ServiceProfile, TargetKind, TargetPort, TrafficPolicy};
use weft_model::workload::Asker;

const NAMESPACES: [&str; 2] = ["shop", "office"];
const GRANTS: [ReferenceGrants; 2] = [ReferenceGrants::Ignored, ReferenceGrants::Required];
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
    let mut object = if rng.bool() { policy_object(rng) } else { plain_object(rng) };
    if rng.u8(..3) == 0 {
        object.meta_mut().created = created(rng.i64(..5));
    }
    object
}

/// A server, authorization, route or the like.
fn policy_object(rng: &mut Rng) -> Object {
    let (ns, app) = (one(rng, &NAMESPACES), one(rng, &APPS));
    let path = |rng: &mut Rng, of: &str| format!("{ns}/{of}-{}", rng.u8(..2));
    let other = one(rng, &NAMESPACES);
    match rng.u8(..9) {
        0 => {
            let target = [TargetPort::Name("http".into()), TargetPort::Number(port(8080))];
            let mut server = server(&path(rng, "server"), app, target[rng.usize(..2)].clone());
            server.meta.labels = pairs(&[("app", app)]);
            server.protocol = ServerProtocol::ALL[rng.usize(..6)].0;
            server.access = DefaultPolicy::ALL[rng.usize(..6)];
            server.object()
        }
        1 => {
            let servers = match rng.bool() {
                true => Servers::Named(format!("server-{}", rng.u8(..2))),
                false => Servers::Selected(Selector { labels: pairs(&[("app", app)]), expressions: vec![] }),
            };
            let client = [Client::Unauthenticated, Client::TlsUnauthenticated][rng.usize(..2)].clone();
            let networks = if rng.bool() { nets(&["10.0.0.0/8"]) } else { vec![] };
            ServerAuthorization { meta: meta(&path(rng, "saz")), servers, networks, client }.object()
        }
        2 => {
            let target = match rng.u8(..3) {
                0 => PolicyTarget::Namespace,
                1 => PolicyTarget::Server(format!("server-{}", rng.u8(..2))),
                _ => PolicyTarget::Route(Kind::HttpRoute, format!("route-{}", rng.u8(..2))),
            };
            let named = rng.bool().then(|| other.to_owned());
            let required = match rng.u8(..4) {
                0 => vec![],
                1 => vec![AuthenticationRef::Account(account(app))],
                2 => vec![AuthenticationRef::MeshTls { namespace: named, name: "mesh-0".into() }],
                _ => vec![AuthenticationRef::Network { namespace: named, name: "net-0".into() }],
            };
            policy(&path(rng, "policy"), target, required).object()
        }
        3 => {
            let subjects = vec![[Subject::Anybody, Subject::Account(account(app))][rng.usize(..2)].clone()];
            MeshTlsAuthentication { meta: meta(&path(rng, "mesh")), subjects }.object()
        }
        4 => {
            let networks = nets(&[["10.0.0.0/8", "10.1.0.0/16"][rng.usize(..2)]]);
            NetworkAuthentication { meta: meta(&path(rng, "net")), networks }.object()
        }
        5 => {
            let (total, server) = (Some(rng.u32(1..3)), format!("server-{}", rng.u8(..2)));
            let meta = meta(&path(rng, "limit"));
            RateLimitPolicy { meta, server, total, identity: None, overrides: vec![] }.object()
        }
        6 => {
            let networks =
                (rng.u8(..3) > 0).then(|| nets(&[["203.0.113.0/24", "10.0.0.0/8"][rng.usize(..2)]]));
            let traffic = [EgressTraffic::Allow, EgressTraffic::Deny][rng.usize(..2)];
            let path =
                if rng.u8(..3) == 0 { "linkerd-egress/egress-0".to_owned() } else { path(rng, "egress") };
            EgressNetwork { meta: meta(&path), traffic, networks }.object()
        }
        7 => {
            let to = vec![rng.bool().then(|| app.to_owned())];
            let from = vec![(Kind::HttpRoute, other.to_owned())];
            ReferenceGrant { meta: meta(&path(rng, "grant")), from, to }.object()
        }
        _ => {
            let number = [None, Some(80), Some(81)][rng.usize(..3)];
            let parent = match rng.u8(..4) {
                0 => parent(ParentKind::Server, &format!("{ns}/server-{}", rng.u8(..2)), None),
                1 => parent(ParentKind::EgressNetwork, &format!("{other}/egress-0"), Some(80)),
                _ => parent(ParentKind::Service, &format!("{other}/{app}"), number),
            };
            let mut made = route(&path(rng, "route"), vec![parent], &[["/", "/a"][rng.usize(..2)]]);
            if rng.bool() {
                let to = format!("{}/{}", one(rng, &NAMESPACES), one(rng, &APPS));
                made.rules[0].backends = vec![backend(&to, 80, rng.u32(..3)), backend("shop/none", 80, 1)];
            }
            let kind = Kind::ROUTES[rng.usize(..5)];
            if kind == Kind::GrpcRoute {
                made.rules[0].matches.clear();
            }
            routed(kind, made)
        }
    }
}

fn plain_object(rng: &mut Rng) -> Object {
    let ns = one(rng, &NAMESPACES);
    let app = one(rng, &APPS);
    match rng.u8(..10) {
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
    }
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
        for ip in (1..4)
            .map(|n| format!("240.0.0.{n}"))
            .chain((1..9).map(|n| format!("10.0.0.{n}")))
            .chain(["203.0.113.7".to_owned()])
        {
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
    let config = Config { reference_grants: GRANTS[rng.usize(..2)], ..Config::default() };
    let changes: Vec<Change> = (0..80)
        .map(|_| {
            let object = object(&mut rng);
            if rng.u8(..4) == 0 { Change::Delete(object.key()) } else { Change::Upsert(object) }
        })
        .collect();

    // One by one, recomputing only what is touched, as a server does.
    let mut single = Index::new(config.clone());
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
    let mut at_once = Index::new(config.clone());
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
    let mut shuffled = Index::new(config.clone());
    shuffled.apply(last);
    assert_eq!(answers(&shuffled, &questions), expected, "seed {seed}: shuffled");
    assert_eq!(shuffled.objects().count(), single.objects().count(), "seed {seed}");

    // And nothing is left when everything is gone.
    let all: Vec<Change> = single.objects().map(|o| Change::Delete(o.key())).collect();
    single.apply(all);
    let empty = Index::new(config.clone());
    assert_eq!(format!("{single:?}"), format!("{empty:?}"), "seed {seed}: something is left behind");
}

#[test]
fn random_changes_one_by_one_equal_the_same_changes_at_once() {
    for seed in 0..24 {
        run(seed);
    }
}
