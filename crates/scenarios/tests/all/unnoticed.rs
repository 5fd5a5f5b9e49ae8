//! Requests that an endpoint certainly did not process go to another one, and nobody notices; others do not.

use crate::world::{WEB, plain, proxy_of, proxy_to, tell};
use bytes::Bytes;
use http::{Request, Response};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_model::destination::EndpointInfo;
use weft_model::policy::OutboundProtocol;
use weft_model::route::Timeouts;
use weft_net::body::Body;
use weft_testkit::application::{Application, piecewise, read, takes};
use weft_testkit::client::{Raw, ask, http2};
use weft_testkit::mesh::{Mesh, Running, identity};
use weft_testkit::plane::Said;
use weft_testkit::policy::{policy, route, routes, rule, service, to};

/// What an HTTP/2 endpoint does with a stream that it does not want.
#[derive(Clone, Copy, Debug)]
enum Refusal {
    /// REFUSED_STREAM, after so long.
    Stream(Duration),
    /// GOAWAY with a last stream below it.
    Goaway,
}

/// An HTTP/2 endpoint that processes nothing, and how many streams it has refused.
async fn refusing(how: Refusal) -> (Application, Arc<AtomicUsize>) {
    let refused = Arc::new(AtomicUsize::new(0));
    let count = refused.clone();
    let app = Application::tcp(move |tcp| {
        let count = count.clone();
        async move {
            if matches!(how, Refusal::Goaway) {
                // The other side leaves at some time, in the midst of a frame.
                let _ = going_away(tcp, &count).await;
                return;
            }
            let builder = h2::server::Builder::new();
            let Ok(mut connection) = builder.handshake::<_, Bytes>(tcp).await else { return };
            while let Some(Ok((_request, mut respond))) = connection.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let Refusal::Stream(after) = how else { return };
                tokio::spawn(async move {
                    takes(after).await;
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                });
            }
        }
    });
    (app.await, refused)
}

/// An HTTP/2 server, frame by frame, that answers the first stream with GOAWAY, last stream 0, and reads on.
async fn going_away(mut tcp: TcpStream, count: &AtomicUsize) -> std::io::Result<()> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const SETTINGS_ACK: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];
    const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const PREFACE: usize = 24;
    tcp.read_exact(&mut [0; PREFACE]).await?;
    tcp.write_all(&SETTINGS).await?;
    let mut refused = false;
    loop {
        let mut head = [0; 9];
        tcp.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        tcp.read_exact(&mut vec![0; length as usize]).await?;
        match (head[3], head[4] & 1) {
            (4, 0) => tcp.write_all(&SETTINGS_ACK).await?,
            (1, _) if !std::mem::replace(&mut refused, true) => {
                count.fetch_add(1, Ordering::Relaxed);
                tcp.write_all(&GOAWAY).await?;
            }
            _ => {}
        }
    }
}

fn get() -> Request<Body> {
    Request::get("http://web/").body(Body::empty()).unwrap()
}

fn post(body: Body) -> Request<Body> {
    Request::post("http://web/").body(body).unwrap()
}

/// Sends requests with and without bodies until some were refused, and expects every one to be answered whole.
async fn nobody_notices(how: Refusal) {
    let ((refuser, refused), willing) = (refusing(how).await, Application::echo().await);
    let mut rounds = 0;
    while refused.load(Ordering::Relaxed) < 9 {
        rounds += 1;
        assert!(rounds < 300, "refused {} times only", refused.load(Ordering::Relaxed));
        // A proxy soon sends little to whoever refuses; one that has just begun knows nothing.
        let (_mesh, proxy) = plain(&[&refuser, &willing], &[]).await;
        let mut client = http2(proxy.upstream()).await;
        let answer = ask(&mut client, get()).await.unwrap();
        assert_eq!(answer.status(), 200, "{answer:?}");
        let answer = ask(&mut client, post(Body::full("whole"))).await.unwrap();
        assert_eq!(answer.status(), 200, "{answer:?}");
        assert_eq!(read(answer.into_body()).await.unwrap().0, "whole");
        // A body that goes on while its beginning is refused.
        let (sender, body) = piecewise();
        sender.send(Bytes::from_static(b"begin")).await.unwrap();
        let answer = ask(&mut client, post(body)).await.unwrap();
        sender.send(Bytes::from_static(b" and end")).await.unwrap();
        drop(sender);
        assert_eq!(read(answer.into_body()).await.unwrap().0, "begin and end");
    }
}

#[tokio::test]
async fn a_refused_stream_goes_to_another_endpoint() {
    nobody_notices(Refusal::Stream(Duration::ZERO)).await;
}

#[tokio::test]
async fn a_stream_above_the_last_one_of_a_goaway_goes_to_another_endpoint() {
    nobody_notices(Refusal::Goaway).await;
}

/// An HTTP/1 endpoint that reads requests and closes without a word, and how many it has read.
async fn closing() -> (Application, Arc<AtomicUsize>) {
    let closed = Arc::new(AtomicUsize::new(0));
    let count = closed.clone();
    let app = Application::tcp(move |mut tcp| {
        let count = count.clone();
        async move {
            if tcp.read_u8().await.is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    (app.await, closed)
}

#[tokio::test]
async fn an_idempotent_request_whose_connection_closed_before_any_answer_goes_to_another_endpoint() {
    let ((closer, closed), willing) = (closing().await, Application::saying("x").await);
    let mut rounds = 0;
    while closed.load(Ordering::Relaxed) < 3 {
        rounds += 1;
        assert!(rounds < 300, "closed {} times only", closed.load(Ordering::Relaxed));
        let (_mesh, proxy) = plain(&[&closer, &willing], &[]).await;
        let mut raw = Raw::connect(proxy.upstream()).await;
        raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "x"), "{answer:?}");
    }
}

#[tokio::test]
async fn other_requests_on_a_lost_connection_are_not_repeated() {
    let (closer, closed) = closing().await;
    let (mesh, proxy) = plain(&[&closer], &[]).await;
    let mut raw = Raw::connect(proxy.upstream()).await;
    raw.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 4\r\n\r\nonce").await;
    let answer = raw.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (502, "close"), "{answer:?}");
    assert!(answer.header("weft-reason").starts_with("connection-lost"), "{answer:?}");
    assert_eq!(closed.load(Ordering::Relaxed), 1);
    drop(mesh);
}

#[tokio::test]
async fn whoever_is_asked_next_is_whom_the_request_demands_too() {
    let (refuser, refused) = refusing(Refusal::Stream(Duration::ZERO)).await;
    let stranger = Application::saying("not who you wanted").await;
    let mesh = Mesh::new();
    let server = proxy_of(&mesh, "web", &refuser, &[]).await;
    let endpoints = vec![server.meshed("web"), EndpointInfo::plain(stranger.addr)];
    mesh.facts.endpoints(WEB, Said::Told(endpoints));
    let proxy = proxy_to(&mesh, "client", &[]).await;
    while refused.load(Ordering::Relaxed) == 0 {
        let mut client = http2(proxy.upstream()).await;
        let request = Request::get("http://web/").header("l5d-require-id", identity("web"));
        let answer = ask(&mut client, request.body(Body::empty()).unwrap()).await;
        let reason =
            answer.as_ref().map(|answer| answer.headers()["weft-reason"].to_str().unwrap_or_default());
        assert!(reason.is_ok_and(|reason| reason.starts_with("identity-required")), "{answer:?}");
    }
    assert!(stranger.seen().is_empty());
}

/// A proxy in front of a service all of whose endpoints refuse everything.
async fn hopeless(after: Duration) -> (Mesh, Running, [Application; 2], impl Fn() -> usize) {
    let ((a, first), (b, second)) =
        (refusing(Refusal::Stream(after)).await, refusing(Refusal::Stream(after)).await);
    let (mesh, proxy) = plain(&[&a, &b], &[]).await;
    let attempts = move || first.load(Ordering::Relaxed) + second.load(Ordering::Relaxed);
    (mesh, proxy, [a, b], attempts)
}

#[tokio::test]
async fn repeating_is_bounded_by_a_budget() {
    let (_mesh, proxy, _apps, attempts) = hopeless(Duration::ZERO).await;
    let mut client = http2(proxy.upstream()).await;
    let refused = ask(&mut client, get()).await;
    assert!(refused.is_err(), "the refusal itself is passed on: {refused:?}");
    assert!((2..=4).contains(&attempts()), "{} attempts for one request", attempts());
    for _ in 0..499 {
        assert!(ask(&mut client, get()).await.is_err());
    }
    // 100 of reserve and a fifth of the requests; a second begun adds ten.
    let limit = 500 + 100 + 100 + 50;
    assert!(attempts() > 550 && attempts() <= limit, "{} attempts", attempts());
}

#[tokio::test]
async fn repeating_is_bounded_by_the_requests_deadline() {
    let (mesh, proxy, _apps, attempts) = hopeless(Duration::from_millis(200)).await;
    let timeouts = Timeouts { request: Some(Duration::from_millis(300)), ..Timeouts::default() };
    let mut limited = route(service("web", 80), Vec::new(), to(WEB));
    limited.rules = vec![weft_model::route::Rule { timeouts, ..rule(to(WEB)) }];
    mesh.facts.outbound(WEB, Said::Told(policy(OutboundProtocol::Http2(routes(vec![limited])))));
    let mut client = http2(proxy.upstream()).await;
    let began = Instant::now();
    let answer = ask(&mut client, get()).await.unwrap();
    assert_eq!(answer.status(), 504, "{answer:?}");
    assert!(answer.headers()["weft-reason"].to_str().unwrap().starts_with("request-timeout"), "{answer:?}");
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(attempts(), 2, "the third would have begun after the deadline");
}

#[tokio::test]
async fn an_endpoint_killed_under_load_loses_nothing_that_can_be_repeated() {
    let answering = || {
        Application::http(|_| async {
            takes(Duration::from_millis(2)).await;
            Response::new(Body::full("x"))
        })
    };
    let (living, dying) = (answering().await, answering().await);
    let (mesh, proxy) = plain(&[&living, &dying], &[]).await;
    let (at, total) = (proxy.upstream(), Arc::new(AtomicUsize::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..32 {
        let total = total.clone();
        clients.spawn(async move {
            if number % 2 == 0 {
                let mut raw = Raw::connect(at).await;
                for _ in 0..40 {
                    raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
                    assert_eq!(raw.answer().await.status, 200);
                    total.fetch_add(1, Ordering::Relaxed);
                }
            } else {
                let mut client = http2(at).await;
                for _ in 0..40 {
                    let answer = ask(&mut client, get()).await.unwrap();
                    assert_eq!(answer.status(), 200, "{answer:?}");
                    total.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    weft_testkit::until("load", async || total.load(Ordering::Relaxed) > 300).await;
    dying.kill().await;
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    assert_eq!(total.load(Ordering::Relaxed), 32 * 40);
    tell(&mesh, &[&living]);
}
