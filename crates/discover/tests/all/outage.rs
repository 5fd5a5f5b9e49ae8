//! What the proxy knows while its control plane answers, dies, comes back, or was never there.

use crate::plane::{Facts, Plane, addr, discover, open};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use weft_balance::Change;
use weft_discover::channel::Security;
use weft_discover::endpoints::Listener;
use weft_discover::lookup::{Method, has_no_policy};
use weft_discover::stream::{Latest, Phase};
use weft_model::address::{Addr, NameAddr};
use weft_net::socket::{self, SocketOptions};

const LOCAL: ([u8; 4], u16) = ([127, 0, 0, 1], 0);
const WEB: &str = "web.shop.svc.cluster.local:80";

/// Passes changes on to the test.
struct Ear(mpsc::Sender<Change>);

impl Listener for Ear {
    fn apply(&self, change: Change) {
        self.0.try_send(change).unwrap();
    }
}

fn ear() -> (Arc<Ear>, mpsc::Receiver<Change>) {
    let (sender, receiver) = mpsc::channel(64);
    (Arc::new(Ear(sender)), receiver)
}

async fn next<T>(receiver: &mut mpsc::Receiver<T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), receiver.recv()).await.unwrap().unwrap()
}

fn ports(change: &Change) -> (&'static str, Vec<u16>) {
    match change {
        Change::Reset(infos) => ("reset", infos.iter().map(|info| info.addr.port()).collect()),
        Change::Add(infos) => ("add", infos.iter().map(|info| info.addr.port()).collect()),
        Change::Remove(addrs) => ("remove", addrs.iter().map(SocketAddr::port).collect()),
        Change::Empty { .. } => ("empty", Vec::new()),
    }
}

#[tokio::test]
async fn everything_is_asked_with_who_asks_and_answered() {
    let facts = Facts::new(None);
    facts.set(WEB, &[8080]);
    let plane = Plane::start(LOCAL.into(), &facts, None);
    let (channel, _replicas) = open(plane.at, Security::Plain);
    let discover = discover(channel);
    let name: NameAddr = WEB.parse().unwrap();
    let web = Addr::Name(name.clone());
    let endpoints = discover.endpoints(&name).unwrap();
    let known = endpoints.first().await.unwrap();
    assert_eq!((known.endpoints, known.exists), (1, true));
    let profile = discover.profile(&web).unwrap().unwrap();
    assert!(profile.first().await.unwrap().opaque);
    let policy = discover.outbound_policy(&web).unwrap().unwrap();
    assert_eq!(policy.first().await.unwrap().meta.name(), "told");
    let nobody = discover.outbound_policy(&"192.0.2.1:80".parse().unwrap()).unwrap().unwrap();
    assert!(has_no_policy(&nobody.first().await.unwrap_err()));
    let mut inbound = discover.inbound_policy(NonZeroU16::new(8080).unwrap()).unwrap();
    while !matches!(inbound.latest(), Latest::Known(policy) if policy.meta.name() == "deny") {
        inbound.changed().await.unwrap();
    }
    let mut asked: Vec<_> = facts.asked.lock().unwrap().iter().map(|(what, _)| what.clone()).collect();
    asked.sort();
    assert_eq!(
        asked,
        [
            &format!("endpoints {WEB} for ns:shop"),
            "inbound 8080",
            "outbound 192.0.2.1:80 for shop:web-1",
            &format!("outbound {WEB} for shop:web-1"),
            &format!("profile {WEB}"),
        ]
    );
    assert_eq!(discover.rows().len(), 5);
}

#[tokio::test]
async fn a_control_plane_killed_and_restarted_leaves_the_last_answer_and_then_brings_the_new_one() {
    let facts = Facts::new(None);
    facts.set(WEB, &[1, 2]);
    let plane = Plane::start(LOCAL.into(), &facts, None);
    let at = plane.at;
    let (channel, _replicas) = open(at, Security::Plain);
    let discover = discover(channel);
    let live = discover.endpoints(&WEB.parse().unwrap()).unwrap();
    let (ear, mut heard) = ear();
    let _feed = live.feed(ear);
    assert_eq!(ports(&next(&mut heard).await), ("reset", vec![1, 2]));
    facts.set(WEB, &[1, 2, 3]);
    assert_eq!(ports(&next(&mut heard).await), ("add", vec![1, 2, 3]));
    facts.set(WEB, &[2, 3]);
    assert_eq!(ports(&next(&mut heard).await), ("remove", vec![1]));

    plane.kill().await;
    while live.get().progress().phase == Phase::Streaming {
        tokio::task::yield_now().await;
    }
    assert_eq!(live.first().await.unwrap().endpoints, 2, "the last good answer is in force");
    assert!(heard.try_recv().is_err());

    facts.set(WEB, &[3, 4]);
    let plane = Plane::start(at, &facts, None);
    assert_eq!(ports(&next(&mut heard).await), ("reset", vec![3, 4]));
    let list: Vec<_> = live.get().list().unwrap().iter().map(|info| info.addr).collect();
    assert_eq!(list, [addr(3), addr(4)]);
    plane.kill().await;
}

#[tokio::test]
async fn a_control_plane_absent_at_start_costs_a_bounded_wait_and_is_found_when_it_comes() {
    // A port that is free for sure, because it was just given back.
    let at = socket::listen(LOCAL.into(), &SocketOptions::default()).unwrap().local_addr().unwrap();
    let (channel, replicas) = open(at, Security::Plain);
    let discover = discover(channel);
    let live = discover.endpoints(&WEB.parse().unwrap()).unwrap();
    let error = live.first().await.unwrap_err();
    assert_eq!(error.code().as_str(), "discovery-timeout");
    let failure = replicas.snapshot().last_failure.unwrap().1;
    assert_eq!(failure.code.as_str(), "connect-refused");

    let facts = Facts::new(None);
    facts.set(WEB, &[1]);
    let _plane = Plane::start(at, &facts, None);
    let (ear, mut heard) = ear();
    let _feed = live.feed(ear);
    assert_eq!(ports(&next(&mut heard).await), ("reset", vec![1]));
}

#[tokio::test]
async fn a_control_plane_that_takes_connections_and_says_nothing_blocks_nobody() {
    let listener = socket::listen(LOCAL.into(), &SocketOptions::default()).unwrap();
    let at = listener.local_addr().unwrap();
    let (channel, replicas) = open(at, Security::Plain);
    let discover = discover(channel);
    let live = discover.endpoints(&WEB.parse().unwrap()).unwrap();
    assert_eq!(live.first().await.unwrap_err().code().as_str(), "discovery-timeout");
    // One keepalive later the replica counts as failed.
    while replicas.snapshot().last_failure.is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(replicas.snapshot().ready, 0);
    let inbound = discover.inbound_policy(NonZeroU16::new(80).unwrap()).unwrap();
    assert_eq!(inbound.first().await.unwrap().meta.name(), "all-unauthenticated");
}

#[tokio::test]
async fn a_flapping_control_plane_never_takes_an_answer_away() {
    let facts = Facts::new(None);
    facts.set(WEB, &[1]);
    let mut plane = Plane::start(LOCAL.into(), &facts, None);
    let at = plane.at;
    let (channel, _replicas) = open(at, Security::Plain);
    let discover = discover(channel);
    let live = discover.endpoints(&WEB.parse().unwrap()).unwrap();
    live.first().await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    for round in 2..8 {
        plane.kill().await;
        facts.set(WEB, &[round, round + 100]);
        plane = Plane::start(at, &facts, None);
        let (ear, mut heard) = ear();
        let _feed = live.feed(ear);
        loop {
            let change = next(&mut heard).await;
            let (kind, ports) = ports(&change);
            seen.lock().unwrap().push(kind);
            if ports == [round, round + 100] {
                break;
            }
        }
        assert_eq!(discover.counts(Method::Endpoints).entries, 1);
    }
    assert!(seen.lock().unwrap().iter().all(|kind| *kind == "reset"), "{seen:?}");
}
