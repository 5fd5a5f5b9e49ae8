//! Streams whose receiver takes nothing end; streams that have nothing to send never do.

use crate::world::{Pair, plain};
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use weft_net::body::{Body, BodyError};
use weft_testkit::application::{Application, piecewise, read};
use weft_testkit::client::{Raw, ask, get, http2};
use weft_testkit::mesh::Running;
use weft_testkit::{until, within};

/// Far above the windows between an application and a client.
const LARGE: usize = 8 << 20;

async fn large() -> Application {
    Application::http(|_| async { Response::new(Body::full(vec![7; LARGE])) }).await
}

async fn stalled(proxy: &Running, limit: &str) {
    let label = format!("limit=\"{limit}\"");
    until("it is counted", async || proxy.metric("weft_limit_reached_total", &[&label]).await == 1.0).await;
}

fn request(body: Body) -> Request<Body> {
    Request::post("http://web/").body(body).unwrap()
}

#[tokio::test]
async fn a_stream_whose_window_stays_shut_is_reset_and_its_neighbour_is_not() {
    let app = large().await;
    // Long enough for a busy machine to pass the second answer, which is read.
    let (_mesh, proxy) = plain(&[&app], &[("OUTBOUND_STALL_TIMEOUT", "1s")]).await;
    let mut client = http2(proxy.upstream()).await;
    let unread = ask(&mut client, request(Body::empty())).await.unwrap();
    stalled(&proxy, "outbound-stall-timeout").await;
    assert_eq!(proxy.metric("weft_reasons_total", &["code=\"slow-client\""]).await, 1.0);
    let broken = read(unread.into_body()).await.unwrap_err();
    assert_eq!(broken, Some(h2::Reason::CANCEL));
    let whole = ask(&mut client, request(Body::empty())).await.unwrap();
    assert_eq!(read(whole.into_body()).await.unwrap().0.len(), LARGE, "the connection goes on");
}

#[tokio::test]
async fn a_slow_reader_that_goes_on_reading_gets_everything() {
    let app = large().await;
    let (_mesh, proxy) = plain(&[&app], &[("OUTBOUND_STALL_TIMEOUT", "300ms")]).await;
    let mut client = http2(proxy.upstream()).await;
    let mut body = ask(&mut client, request(Body::empty())).await.unwrap().into_body();
    let (mut taken, began) = (0, Instant::now());
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    while let Some(frame) = body.frame().await {
        taken += frame.unwrap().data_ref().map_or(0, Bytes::len);
        // Slowly at first: no reading for most of the limit, several times over.
        if began.elapsed() < Duration::from_millis(900) {
            pause.tick().await;
        }
    }
    assert_eq!(taken, LARGE);
}

#[tokio::test]
async fn a_stream_with_nothing_to_send_outlives_every_limit() {
    // Long enough for a busy machine to pass what is sent at first.
    let limits = [("OUTBOUND_STALL_TIMEOUT", "1s"), ("OUTBOUND_REQUEST_BODY_TIMEOUT", "50ms")];
    let own = [("INBOUND_STALL_TIMEOUT", "1s"), ("INBOUND_REQUEST_BODY_TIMEOUT", "50ms")];
    let pair = Pair::with(Application::echo().await, &own, &limits).await;
    let mut client = http2(pair.client.upstream()).await;
    let (sender, body) = piecewise();
    let mut echoed = ask(&mut client, request(body)).await.unwrap().into_body();
    // First more than a window, so that the stream had something to send when its client was full.
    let much = Bytes::from(vec![7; 500_000]);
    sender.send(much.clone()).await.unwrap();
    let mut came = 0;
    while came < much.len() {
        let frame = within("what was sent", echoed.frame()).await.unwrap().unwrap();
        came += frame.into_data().unwrap().len();
    }
    // Other requests come and go for longer than the limits.
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(2500) {
        assert_eq!(get(pair.client.upstream(), "/").await.status, 200);
    }
    sender.send(Bytes::from_static(b"still here")).await.unwrap();
    let last = within("the last frame", echoed.frame()).await.unwrap().unwrap();
    assert_eq!(last.into_data().unwrap(), "still here");
    for proxy in [&pair.client, &pair.server] {
        assert_eq!(proxy.metric("weft_limit_reached_total", &[]).await, 0.0);
    }
}

#[tokio::test]
async fn an_upload_that_dribbles_over_http2_ends_alone() {
    let app = Application::echo().await;
    let (_mesh, proxy) = plain(&[&app], &[("OUTBOUND_REQUEST_BODY_TIMEOUT", "200ms")]).await;
    let mut client = http2(proxy.upstream()).await;
    let (sender, body) = piecewise();
    sender.send(Bytes::from_static(b"abc")).await.unwrap();
    let mut upload = request(body);
    upload.headers_mut().insert("content-length", 100_000.into());
    let ended = ask(&mut client, upload).await;
    stalled(&proxy, "outbound-request-body-timeout").await;
    if let Ok(response) = ended {
        let early = response.status() == 408 || read(response.into_body()).await.is_err();
        assert!(early, "an echo that never ended");
    }
    assert_eq!(ask(&mut client, request(Body::empty())).await.unwrap().status(), 200, "its neighbours go on");
}

#[tokio::test]
async fn an_upload_that_dribbles_to_a_meshed_endpoint_is_its_clients_fault() {
    let app = Application::http(|request| async move {
        let _ = read(request.into_body()).await;
        Response::new(Body::full("all"))
    });
    let pair = Pair::with(app.await, &[], &[("OUTBOUND_REQUEST_BODY_TIMEOUT", "200ms")]).await;
    let mut raw = Raw::connect(pair.client.upstream()).await;
    raw.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 100000\r\n\r\nabc").await;
    let answer = raw.answer().await;
    assert_eq!(answer.status, 408, "{answer:?}");
    assert!(answer.header("weft-reason").starts_with("slow-client"), "{answer:?}");
    stalled(&pair.client, "outbound-request-body-timeout").await;
}

/// Frames that an application which reads nothing says at first: the window of each stream, and what is added to the
/// connection's.
fn windows(stream: u32, connection: u32) -> Vec<u8> {
    let settings = [&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4], stream.to_be_bytes().as_slice()].concat();
    let update = [&[0, 0, 4, 8, 0, 0, 0, 0, 0], connection.to_be_bytes().as_slice()].concat();
    [settings, update].concat()
}

/// How much of a hundred uploads of 4 MiB is taken from their clients while the application, which says these frames,
/// reads nothing.
async fn taken_for_an_application_that_reads_nothing(frames: Vec<u8>) -> usize {
    let app = Application::tcp(move |mut tcp| {
        let frames = frames.clone();
        async move {
            tcp.write_all(&frames).await.unwrap();
            std::future::pending().await
        }
    })
    .await;
    let (_mesh, proxy) = plain(&[&app], &[]).await;
    let (taken, mut uploads) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    for _ in 0..20 {
        // So few on a connection that its window is never what holds them back.
        let client = http2(proxy.upstream()).await;
        for _ in 0..5 {
            let (mut client, taken) = (client.clone(), taken.clone());
            let pieces = (0..256).map(move |_| {
                taken.fetch_add(16 << 10, Ordering::Relaxed);
                Ok::<_, BodyError>(Frame::data(Bytes::from_static(&[7; 16 << 10])))
            });
            let body = Body::boxed(StreamBody::new(stream::iter(pieces)));
            uploads.spawn(async move {
                client.ready().await.unwrap();
                client.send(request(body)).await.map(drop)
            });
        }
    }
    until("uploads begin", async || taken.load(Ordering::Relaxed) > 0).await;
    // Nothing tells when no more is taken: it is seen from its standing still.
    let (mut before, mut pause) = (0, tokio::time::interval(Duration::from_millis(500)));
    pause.tick().await;
    loop {
        pause.tick().await;
        let now = taken.load(Ordering::Relaxed);
        if now == before {
            break;
        }
        before = now;
    }
    assert!(uploads.try_join_next().is_none(), "none has ended");
    before
}

#[tokio::test]
async fn uploads_to_an_application_that_reads_nothing_fill_one_bound_and_not_one_a_stream() {
    let shut = taken_for_an_application_that_reads_nothing(windows(0, 1)).await;
    let wide = taken_for_an_application_that_reads_nothing(windows(0x7fff_ffff, 0x7fff_0000)).await;
    println!("{} KiB are taken for shut windows, {} for wide ones", shut >> 10, wide >> 10);
    // Each stream's own window towards its client, 64 KiB, and the frames that its client and we have in hand.
    let own = 100 * (96 << 10);
    assert!(shut <= own, "{} KiB are taken for shut windows", shut >> 10);
    // And its beginning and a frame, 16 KiB each, and 1 MiB over all, and what the kernel takes, 4 MiB each way. Without
    // it 1 MiB a stream.
    let most = own + 100 * (32 << 10) + (9 << 20);
    assert!(wide <= most, "{} KiB are taken for wide windows", wide >> 10);
}
