//! Many requests at once while endpoints are slow, come, go and flap.

use crate::world::{WEB, plain, tell};
use http::{Request, Response};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use weft_model::destination::EndpointInfo;
use weft_net::body::Body;
use weft_testkit::application::{Application, takes};
use weft_testkit::client::{Raw, ask, get, http2};
use weft_testkit::plane::Said;
use weft_testkit::{until, within};

/// An application that takes so long for each answer and counts them.
async fn taking(how_long: Duration) -> (Application, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let app = Application::http(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            takes(how_long).await;
            Response::new(Body::full("x"))
        }
    });
    (app.await, count)
}

#[tokio::test]
async fn a_slow_endpoint_gets_its_small_share_under_concurrent_load() {
    let mut apps = Vec::new();
    for millis in [50, 3, 3, 3, 3] {
        apps.push(taking(Duration::from_millis(millis)).await);
    }
    let all: Vec<_> = apps.iter().map(|(app, _)| app).collect();
    let (_mesh, proxy) = plain(&all, &[]).await;
    let at = proxy.upstream();
    let mut clients = JoinSet::new();
    for _ in 0..16 {
        clients.spawn(async move {
            let mut raw = Raw::connect(at).await;
            for _ in 0..60 {
                raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
                assert_eq!(raw.answer().await.status, 200);
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    let counts: Vec<_> = apps.iter().map(|(_, count)| count.load(Ordering::Relaxed)).collect();
    let (total, fair) = (counts.iter().sum::<usize>(), 16 * 60 / 5);
    assert_eq!(total, 16 * 60);
    assert!(
        counts[0] > 0 && counts[0] < fair / 2,
        "the slow one got {} of a fair {fair}: {counts:?}",
        counts[0]
    );
    for count in &counts[1..] {
        assert!(*count > fair / 2, "{counts:?}");
    }
}

#[tokio::test]
async fn churn_drops_no_request_in_flight() {
    let mut apps = Vec::new();
    for _ in 0..4 {
        apps.push(taking(Duration::from_millis(5)).await.0);
    }
    let (mesh, proxy) = plain(&[&apps[0]], &[]).await;
    assert_eq!(get(proxy.upstream(), "/").await.status, 200);
    let (at, over) = (proxy.upstream(), Arc::new(AtomicBool::new(false)));
    let mut clients = JoinSet::new();
    for number in 0..16 {
        clients.spawn(async move {
            if number % 2 == 0 {
                let mut raw = Raw::connect(at).await;
                for _ in 0..40 {
                    raw.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 4\r\n\r\nonce").await;
                    let answer = raw.answer().await;
                    assert_eq!(answer.status, 200, "{answer:?}");
                }
            } else {
                let mut client = http2(at).await;
                for _ in 0..40 {
                    let request = Request::post("http://web/").body(Body::full("once")).unwrap();
                    let answer = ask(&mut client, request).await.unwrap();
                    assert_eq!(answer.status(), 200, "{answer:?}");
                }
            }
        });
    }
    let ended = over.clone();
    let requests = async {
        while let Some(done) = clients.join_next().await {
            done.unwrap();
        }
        ended.store(true, Ordering::Relaxed);
    };
    let mut rounds = 0_usize;
    let churn = async {
        while !over.load(Ordering::Relaxed) {
            // One is always kept, so that there is always somewhere to go.
            let next = rounds % apps.len();
            rounds += 1;
            tell(&mesh, &[&apps[next], &apps[(next + 1) % apps.len()]]);
            takes(Duration::from_millis(1)).await;
        }
    };
    within("all answers", async { tokio::join!(requests, churn) }).await;
    assert!(rounds > 20, "only {rounds} changes");
    let total: usize = apps.iter().map(|app| app.seen().len()).sum();
    assert_eq!(total, 16 * 40 + 1, "every request was processed exactly once");
}

#[tokio::test]
async fn flapping_replicas_give_no_wrong_answer_and_no_hang() {
    // Every replica answers with what it was asked, so that an answer to another question is seen.
    let replica = || {
        Application::http(|request| async move { Response::new(Body::from(request.uri().path().to_owned())) })
    };
    let settings = [("OUTBOUND_CONNECT_TIMEOUT", "500ms")];
    let (mesh, proxy) = plain(&[], &settings).await;
    let (at, over) = (proxy.upstream(), Arc::new(AtomicBool::new(false)));
    let mut clients = JoinSet::new();
    for client in 0..8 {
        let over = over.clone();
        clients.spawn(async move {
            let (mut answered, mut number) = (0, 0);
            let mut raw = Raw::connect(at).await;
            while !over.load(Ordering::Relaxed) {
                number += 1;
                let path = format!("/{client}/{number}");
                let began = Instant::now();
                raw.send(format!("GET {path} HTTP/1.1\r\nhost: web\r\n\r\n")).await;
                let answer = raw.answer().await;
                // Four attempts, each behind a queue of a second at most, on a machine that may be busy.
                assert!(began.elapsed() < Duration::from_secs(8), "{answer:?} after {:?}", began.elapsed());
                match answer.status {
                    200 => {
                        assert_eq!(answer.text(), path);
                        answered += 1;
                    }
                    502..=504 => assert!(!answer.header("weft-reason").is_empty(), "{answer:?}"),
                    _ => panic!("{answer:?}"),
                }
                if answer.header("connection") == "close" {
                    raw = Raw::connect(at).await;
                }
            }
            answered
        });
    }
    // Three replicas, each killed and replaced by a new one ten times a second.
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(replica().await);
    }
    for round in 0..30 {
        tell(&mesh, &replicas.iter().collect::<Vec<_>>());
        takes(Duration::from_millis(33)).await;
        std::mem::replace(&mut replicas[round % 3], replica().await).kill().await;
    }
    tell(&mesh, &replicas.iter().collect::<Vec<_>>());
    until("it serves again", async || get(at, "/again").await.status == 200).await;
    over.store(true, Ordering::Relaxed);
    let mut answered = 0;
    while let Some(done) = within("the clients' end", clients.join_next()).await {
        answered += done.unwrap();
    }
    assert!(answered > 100, "only {answered} answers");
    // What was is forgotten: three endpoints, no request left behind.
    let state = proxy.state().await;
    let backend = &state["outbound"][0]["plan"]["http"][0]["backends"][0];
    assert_eq!(backend["known"], 3, "{backend}");
    assert_eq!(state["requests_in_flight"]["outbound"], 0);
    for replica in replicas {
        replica.kill().await;
    }
}

#[tokio::test]
async fn a_service_that_nobody_knows_is_told_apart_from_one_without_endpoints() {
    let (mesh, proxy) = plain(&[], &[]).await;
    let shed = async |code: &str| {
        until(code, async || get(proxy.upstream(), "/").await.header("weft-reason").starts_with(code)).await;
        let answer = get(proxy.upstream(), "/").await;
        assert_eq!((answer.status, answer.header("connection")), (503, "close"), "{answer:?}");
        assert!(answer.header("weft-reason").contains("known=0"), "{answer:?}");
    };
    shed("no-endpoints").await;
    mesh.facts.endpoints(WEB, Said::Refused(weft_testkit::plane::NOT_FOUND));
    shed("no-such-service").await;
    let app = Application::saying("x").await;
    mesh.facts.endpoints(WEB, Said::Told(vec![EndpointInfo::plain(app.addr)]));
    until("it exists again", async || get(proxy.upstream(), "/").await.status == 200).await;
}
