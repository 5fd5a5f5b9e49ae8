//! HTTP/2 and gRPC through two proxies under mutual TLS.

use crate::world::{Pair, plain};
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::BodyExt;
use std::sync::Arc;
use tokio::sync::Notify;
use weft_net::body::Body;
use weft_testkit::application::{Application, piecewise, read, reset_after, with_trailers};
use weft_testkit::client::{ask, get, http2};
use weft_testkit::within;

fn post(body: Body) -> Request<Body> {
    Request::post("http://web/echo").body(body).unwrap()
}

#[tokio::test]
async fn an_http1_request_passes_two_proxies_and_both_sides_see_mutual_tls() {
    let pair = Pair::around(Application::saying("hello").await).await;
    let answer = get(pair.client.upstream(), "/a?b=c").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    let seen = pair.app.seen();
    assert_eq!((seen.len(), seen[0].version()), (1, Version::HTTP_11));
    assert_eq!(
        (seen[0].uri().to_string().as_str(), &seen[0].headers()["host"]),
        ("/a?b=c", &"web".parse().unwrap())
    );
    for (protocol, connections) in
        [("session_protocol=\"http/2\"", 1.0), ("session_protocol=\"http/1\"", 0.0)]
    {
        let told = pair.server.metric("inbound_tcp_transport_header_connections_total", &[protocol]).await;
        assert_eq!(told, connections, "{protocol}: it is carried over the one HTTP/2 connection");
    }
    let outbound = pair.client.metric("request_total", &["direction=\"outbound\"", "tls=\"true\""]).await;
    let inbound = pair.server.metric("request_total", &["direction=\"inbound\"", "tls=\"true\""]).await;
    assert_eq!((outbound, inbound), (1.0, 1.0));
}

#[tokio::test]
async fn http2_bodies_and_trailers_pass_in_both_directions() {
    let pair = Pair::around(Application::echo().await).await;
    let mut client = http2(pair.client.upstream()).await;
    let response = ask(&mut client, post(with_trailers(&["one", "two"], &[("x-end", "yes")]))).await.unwrap();
    assert_eq!(response.status(), 200);
    let (body, trailers) = read(response.into_body()).await.unwrap();
    assert_eq!(body, "onetwo");
    assert_eq!(trailers.unwrap()["x-end"], "yes");
    assert_eq!(pair.app.seen()[0].version(), Version::HTTP_2);
}

#[tokio::test]
async fn a_grpc_status_in_trailers_passes() {
    let app = Application::http(|_| async {
        let mut response = Response::new(with_trailers(&["\0\0\0\0\x01a"], &[("grpc-status", "7")]));
        response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        response
    });
    let pair = Pair::around(app.await).await;
    let mut client = http2(pair.client.upstream()).await;
    let call = Request::post("http://web/pkg.Svc/Method").header("content-type", "application/grpc");
    let call = call.header("te", "trailers").body(Body::full("\0\0\0\0\0")).unwrap();
    let (_, trailers) = read(ask(&mut client, call).await.unwrap().into_body()).await.unwrap();
    assert_eq!(trailers.unwrap()["grpc-status"], "7");
    assert_eq!(pair.app.seen()[0].headers()["te"], "trailers");
}

#[tokio::test]
async fn a_client_that_gives_up_frees_the_application() {
    let (begun, ended) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    struct OnDrop(Arc<Notify>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let (b, e) = (begun.clone(), ended.clone());
    let app = Application::http(move |_| {
        let (begun, guard) = (b.clone(), OnDrop(e.clone()));
        async move {
            begun.notify_one();
            let _guard = guard;
            std::future::pending().await
        }
    });
    let pair = Pair::around(app.await).await;
    let mut client = http2(pair.client.upstream()).await;
    client.ready().await.unwrap();
    let response = tokio::spawn(client.send(post(Body::empty())));
    within("the request's arrival", begun.notified()).await;
    response.abort();
    within("the application's release", ended.notified()).await;
}

#[tokio::test]
async fn large_bodies_pass_both_ways_at_once() {
    let pair = Pair::around(Application::echo().await).await;
    let mut client = http2(pair.client.upstream()).await;
    let (sender, body) = piecewise();
    let piece = Bytes::from(vec![7; 64 << 10]);
    let response = ask(&mut client, post(body)).await.unwrap();
    let sending = async {
        for _ in 0..128 {
            sender.send(piece.clone()).await.unwrap();
        }
        drop(sender);
    };
    let reading = read(response.into_body());
    let (_, echoed) = within("the echo", async { tokio::join!(sending, reading) }).await;
    assert_eq!(echoed.unwrap().0.len(), 8 << 20);
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_sender() {
    let pair = Pair::around(Application::echo().await).await;
    let mut client = http2(pair.client.upstream()).await;
    let (sender, body) = piecewise();
    let response = ask(&mut client, post(body)).await.unwrap();
    let piece = Bytes::from(vec![7; 64 << 10]);
    // Nobody reads the response: what is taken is what all buffers on the way hold.
    let mut taken = 0;
    while let Ok(Ok(())) =
        tokio::time::timeout(std::time::Duration::from_millis(300), sender.send(piece.clone())).await
    {
        taken += piece.len();
        assert!(taken < 32 << 20, "the way there buffers without bound");
    }
    drop(sender);
    assert_eq!(read(response.into_body()).await.unwrap().0.len() / taken, 1);
}

#[tokio::test]
async fn http2_passes_one_proxy_to_an_endpoint_in_plaintext() {
    let app = Application::echo().await;
    let (_mesh, proxy) = plain(&[&app], &[]).await;
    let mut client = http2(proxy.upstream()).await;
    let response = ask(&mut client, post(with_trailers(&["x"], &[("x-end", "yes")]))).await.unwrap();
    assert_eq!(read(response.into_body()).await.unwrap().1.unwrap()["x-end"], "yes");
}

/// An application on HTTP/2 that resets every stream with the code in its path, after a head where it says so.
async fn resetting() -> Application {
    Application::tcp(|tcp| async move {
        let Ok(mut connection) = h2::server::handshake(tcp).await else { return };
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let path = request.uri().path().to_owned();
            let (when, code) = path[1..].split_once('/').unwrap();
            let code = h2::Reason::from(code.parse::<u32>().unwrap());
            if when == "early" {
                respond.send_reset(code);
                continue;
            }
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            body.send_data(Bytes::from_static(b"begun"), false).unwrap();
            tokio::spawn(async move {
                // The reset must not overtake the data: it is sent when all of it was taken.
                weft_testkit::application::takes(std::time::Duration::from_millis(20)).await;
                body.send_reset(code);
            });
        }
    })
    .await
}

const CODES: [h2::Reason; 4] = [
    h2::Reason::INTERNAL_ERROR,
    h2::Reason::CANCEL,
    h2::Reason::ENHANCE_YOUR_CALM,
    h2::Reason::HTTP_1_1_REQUIRED,
];

#[tokio::test]
async fn a_reset_by_the_application_reaches_the_client_with_its_code() {
    let pair = Pair::around(resetting().await).await;
    let mut client = http2(pair.client.upstream()).await;
    for code in CODES {
        let request = |when: &str| {
            let uri = format!("http://web/{when}/{}", u32::from(code));
            Request::get(uri).body(Body::empty()).unwrap()
        };
        let early = ask(&mut client, request("early")).await.unwrap_err();
        assert!(format!("{early:?}").contains(&format!("{code:?}")), "{early:?}");
        let late = ask(&mut client, request("late")).await.unwrap();
        assert_eq!(read(late.into_body()).await.unwrap_err(), Some(code));
    }
}

#[tokio::test]
async fn a_reset_by_the_client_reaches_the_application_with_its_code() {
    let (sender, mut seen) = tokio::sync::mpsc::channel(8);
    let begun = Arc::new(Notify::new());
    let arrived = begun.clone();
    let app = Application::http(move |request| {
        let sender = sender.clone();
        arrived.notify_one();
        // In a task of its own: a server gives up answering a request that is reset.
        let reading = tokio::spawn(async move {
            let ended = read(request.into_body()).await;
            sender.send(ended.map(|(bytes, _)| bytes)).await.unwrap();
        });
        async move {
            reading.await.unwrap();
            Response::new(Body::empty())
        }
    });
    let pair = Pair::around(app.await).await;
    let mut client = http2(pair.client.upstream()).await;
    for code in CODES {
        let go = Arc::new(Notify::new());
        client.ready().await.unwrap();
        let sending = tokio::spawn(client.send(post(reset_after("begin", code, go.clone()))));
        within("the request's arrival", begun.notified()).await;
        go.notify_one();
        assert_eq!(within("the reset", seen.recv()).await.unwrap(), Err(Some(code)));
        assert!(sending.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn a_long_call_in_both_directions_is_carried_message_by_message_to_its_end() {
    // Every message comes back before the next is sent: nothing on the way may hold one back.
    let app = Application::http(|request| async move {
        let mut response = Response::new(request.into_body());
        response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        response
    });
    let pair = Pair::around(app.await).await;
    let mut client = http2(pair.client.upstream()).await;
    let (sender, body) = piecewise();
    let call = Request::post("http://web/pkg.Svc/Chat").header("content-type", "application/grpc");
    let response = ask(&mut client, call.header("te", "trailers").body(body).unwrap()).await.unwrap();
    let mut echoed = response.into_body();
    for number in 0..300_u32 {
        let message = Bytes::from(vec![number as u8; 1 + number as usize * 37]);
        sender.send(message.clone()).await.unwrap();
        let mut got = Vec::new();
        while got.len() < message.len() {
            let frame = within("a message", echoed.frame()).await.unwrap().unwrap();
            got.extend_from_slice(frame.data_ref().unwrap());
        }
        assert_eq!(got, message, "message {number}");
    }
    drop(sender);
    // The echo of a body without trailers ends without them; an empty frame may carry the end.
    while let Some(frame) = within("the end", echoed.frame()).await {
        assert!(frame.unwrap().data_ref().is_some_and(Bytes::is_empty));
    }
}
