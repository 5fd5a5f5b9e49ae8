//! The control plane silent, refusing, talking nonsense, hanging, dead, and back again.

use crate::world::{WEB, plain, proxy_to, tell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinSet;
use weft_testkit::application::Application;
use weft_testkit::client::{Raw, get};
use weft_testkit::mesh::{Mesh, Running};
use weft_testkit::plane::{Manner, Said};
use weft_testkit::until;

#[tokio::test]
async fn a_silent_control_plane_costs_a_bounded_wait_and_the_lookup_goes_on() {
    let app = Application::saying("late").await;
    let mesh = Mesh::new();
    mesh.facts.profile(WEB, Said::Silence);
    mesh.facts.outbound(WEB, Said::Silence);
    tell(&mesh, &[&app]);
    let proxy = proxy_to(&mesh, "client", &[]).await;
    let answer = get(proxy.upstream(), "/").await;
    assert_eq!(answer.status, 503);
    assert!(answer.header("weft-reason").contains("discovery-timeout"), "{answer:?}");
    let asked = mesh.facts.asked(&format!("profile {WEB}"));
    mesh.facts.profile(WEB, Said::Told(Default::default()));
    mesh.facts.outbound(WEB, Said::Refused(weft_testkit::plane::NOT_FOUND));
    until("it serves", async || get(proxy.upstream(), "/").await.status == 200).await;
    assert_eq!(mesh.facts.asked(&format!("profile {WEB}")), asked, "the same lookup went on");
}

#[tokio::test]
async fn what_the_control_plane_last_failed_with_is_told_with_the_timeout() {
    let mesh = Mesh::new();
    mesh.facts.profile(WEB, Said::Refused(weft_testkit::plane::UNAVAILABLE));
    mesh.facts.outbound(WEB, Said::Silence);
    let proxy = proxy_to(&mesh, "client", &[]).await;
    let answer = get(proxy.upstream(), "/").await;
    let reason = answer.header("weft-reason");
    assert!(reason.contains("discovery-timeout") && reason.contains("UNAVAILABLE"), "{reason}");
}

#[tokio::test]
async fn why_the_control_plane_cannot_be_reached_is_told_with_the_timeout() {
    let mut mesh = Mesh::new();
    let proxy = proxy_to(&mesh, "client", &[("DISCOVERY_TIMEOUT", "2s")]).await;
    mesh.kill_plane().await;
    let answer = get(proxy.upstream(), "/").await;
    let reason = answer.header("weft-reason");
    assert!(reason.contains("discovery-timeout") && reason.contains("refused"), "{reason}");
}

#[tokio::test]
async fn a_dead_control_plane_leaves_its_last_answer_in_force_and_is_heard_again() {
    let (a, b) = (Application::saying("a").await, Application::saying("b").await);
    let (mut mesh, proxy) = plain(&[&a], &[]).await;
    let mut raw = Raw::connect(proxy.upstream()).await;
    let mut ask = async || {
        raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
        let answer = raw.answer().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.text()
    };
    assert_eq!(ask().await, "a");
    mesh.kill_plane().await;
    for _ in 0..50 {
        assert_eq!(ask().await, "a");
    }
    tell(&mesh, &[&b]);
    mesh.start_plane(Manner::Talks).await;
    until("the restarted control plane is heard", async || ask().await == "b").await;
}

#[tokio::test]
async fn a_control_plane_that_flaps_under_load_costs_no_request_and_tells_nothing_false() {
    let (a, b) = (Application::saying("a").await, Application::saying("b").await);
    let (mut mesh, proxy) = plain(&[&a], &[]).await;
    let (upstream, over) = (proxy.upstream(), Arc::new(AtomicBool::new(false)));
    assert_eq!(get(upstream, "/").await.text(), "a");
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        let over = over.clone();
        clients.spawn(async move {
            let mut raw = Raw::connect(upstream).await;
            let mut texts = Vec::new();
            while !over.load(Ordering::Relaxed) {
                raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
                let answer = raw.answer().await;
                assert_eq!(answer.status, 200, "{answer:?}");
                texts.push(answer.text());
            }
            texts
        });
    }
    for round in 0..40 {
        match round % 4 {
            0 => mesh.kill_plane().await,
            1 => mesh.start_plane(Manner::Babbles).await,
            2 => mesh.start_plane(Manner::Hangs).await,
            _ => mesh.start_plane(Manner::Talks).await,
        }
        // A moment of load in each state.
        for _ in 0..20 {
            let answer = get(upstream, "/").await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "a"), "round {round}: {answer:?}");
        }
    }
    tell(&mesh, &[&b]);
    mesh.start_plane(Manner::Talks).await;
    until("the last one is heard", async || get(upstream, "/").await.text() == "b").await;
    over.store(true, Ordering::Relaxed);
    for texts in clients.join_all().await {
        let first_b = texts.iter().position(|text| text == "b").unwrap_or(texts.len());
        assert!(texts[..first_b].iter().all(|text| text == "a"), "nothing else was ever told");
        assert!(texts[first_b..].iter().all(|text| text == "b"), "and nothing old afterwards");
    }
}

#[tokio::test]
async fn a_control_plane_that_babbles_leaves_the_last_answer_and_its_successor_is_heard() {
    let (a, b) = (Application::saying("a").await, Application::saying("b").await);
    let (mut mesh, proxy) = plain(&[&a], &[]).await;
    assert_eq!(get(proxy.upstream(), "/").await.text(), "a");
    mesh.start_plane(Manner::Babbles).await;
    for _ in 0..50 {
        assert_eq!(get(proxy.upstream(), "/").await.text(), "a");
    }
    tell(&mesh, &[&b]);
    mesh.start_plane(Manner::Talks).await;
    until("the successor is heard", async || get(proxy.upstream(), "/").await.text() == "b").await;
}

#[tokio::test]
async fn a_hanging_control_plane_is_noticed_and_its_successor_heard() {
    let (a, b) = (Application::saying("a").await, Application::saying("b").await);
    let (mut mesh, proxy) = plain(&[&a], &[]).await;
    assert_eq!(get(proxy.upstream(), "/").await.text(), "a");
    mesh.start_plane(Manner::Hangs).await;
    for _ in 0..20 {
        assert_eq!(get(proxy.upstream(), "/").await.text(), "a");
    }
    tell(&mesh, &[&b]);
    mesh.start_plane(Manner::Talks).await;
    until("the successor is heard", async || get(proxy.upstream(), "/").await.text() == "b").await;
}

#[tokio::test]
async fn a_control_plane_that_stops_amid_its_streams_is_noticed_although_its_connections_stay_open() {
    let (a, b) = (Application::saying("a").await, Application::saying("b").await);
    let (mut mesh, proxy) = plain(&[&a], &[]).await;
    assert_eq!(get(proxy.upstream(), "/").await.text(), "a");
    mesh.freeze_plane().await;
    for _ in 0..20 {
        assert_eq!(get(proxy.upstream(), "/").await.text(), "a");
    }
    tell(&mesh, &[&b]);
    mesh.start_plane(Manner::Talks).await;
    until("the successor is heard", async || get(proxy.upstream(), "/").await.text() == "b").await;
}

#[tokio::test]
async fn a_proxy_started_without_a_control_plane_serves_when_there_is_one() {
    let app = Application::saying("x").await;
    let mut mesh = Mesh::new();
    mesh.kill_plane().await;
    tell(&mesh, &[&app]);
    let upstream = format!("127.0.0.1:0={WEB}");
    let proxy = mesh.unready_proxy("client", &[("UPSTREAM", &upstream)]).await;
    let ready = proxy.page("/ready").await;
    assert_eq!(ready.status, 503);
    assert!(ready.body.len() > "not ready\n".len(), "it says for what it waits");
    assert_eq!(proxy.page("/live").await.status, 200);
    mesh.start_plane(Manner::Talks).await;
    until("it is ready", async || proxy.page("/ready").await.status == 200).await;
    assert_eq!(get(proxy.upstream(), "/").await.text(), "x");
}

#[tokio::test]
async fn nonsense_leaves_the_last_answer_in_force() {
    let (a, b) = (Application::saying("a").await, Application::saying("b").await);
    let (mesh, proxy) = plain(&[&a], &[]).await;
    assert_eq!(get(proxy.upstream(), "/").await.text(), "a");
    let before = mesh.facts.asked(&format!("endpoints {WEB}"));
    mesh.facts.endpoints(WEB, Said::Nonsense);
    mesh.facts.profile(WEB, Said::Nonsense);
    until("it is asked again", async || mesh.facts.asked(&format!("endpoints {WEB}")) > before).await;
    assert_eq!(get(proxy.upstream(), "/").await.text(), "a");
    mesh.facts.profile(WEB, Said::Told(Default::default()));
    tell(&mesh, &[&b]);
    until("sense is heard", async || get(proxy.upstream(), "/").await.text() == "b").await;
}

#[tokio::test]
async fn the_state_page_shows_endpoints_lookups_and_identity() {
    let app = Application::saying("x").await;
    let (_mesh, proxy) = plain(&[&app], &[]).await;
    assert_eq!(get(proxy.upstream(), "/").await.status, 200);
    let state = proxy.state().await;
    assert_eq!(state["outbound"][0]["destination"], WEB);
    let backend = &state["outbound"][0]["plan"]["http"][0]["backends"][0];
    assert_eq!((backend["known"].as_u64(), backend["ready"].as_u64()), (Some(1), Some(1)));
    assert_eq!(state["identity"]["id"], weft_testkit::mesh::identity("client"));
    assert!(!state["lookups"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn a_destination_that_nobody_uses_is_given_up_with_all_that_was_asked_about_it() {
    let app = Application::saying("here").await;
    let mesh = Mesh::new();
    mesh.facts.profile(WEB, Said::Told(Default::default()));
    tell(&mesh, &[&app]);
    let idle = |time| [("OUTBOUND_DISCOVERY_IDLE_TIMEOUT", time)];
    let (brief, patient) =
        (proxy_to(&mesh, "client", &idle("20ms")).await, proxy_to(&mesh, "client", &idle("10m")).await);
    // How often the name stands in the state: as a destination, and once for each thing that is asked.
    let known = async |proxy: &Running| {
        let state = proxy.state().await;
        let lookups = state["lookups"].as_array().unwrap().iter();
        let about = lookups.filter(|row| row["about"].as_str().is_some_and(|about| about.contains(WEB)));
        (state["outbound"].to_string().contains(WEB), about.count())
    };
    for proxy in [&brief, &patient] {
        assert_eq!(get(proxy.upstream(), "/").await.body, b"here");
    }
    until("it is given up", async || known(&brief).await == (false, 0)).await;
    assert_eq!(known(&patient).await, (true, 3), "profile, policy and endpoints");
    assert_eq!(get(brief.upstream(), "/").await.body, b"here", "and found anew");
}
