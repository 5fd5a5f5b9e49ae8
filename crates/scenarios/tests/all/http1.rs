//! HTTP/1 in all its shapes, carried over HTTP/2 between two proxies.

use crate::world::{Pair, WEB, plain, proxy_of, proxy_to};
use http::{Response, Version};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_model::destination::{EndpointInfo, ProtocolHint};
use weft_net::body::Body;
use weft_testkit::application::{Application, read, takes, with_trailers};
use weft_testkit::client::{Raw, exchange};
use weft_testkit::mesh::Mesh;
use weft_testkit::plane::Said;
use weft_testkit::until;

#[tokio::test]
async fn an_absolute_target_and_a_differing_host_both_arrive_untouched() {
    let pair = Pair::around(Application::saying("ok").await).await;
    let request = "GET http://books:80/x HTTP/1.1\r\nhost: other\r\n\r\n";
    assert_eq!(exchange(pair.client.upstream(), request).await.status, 200);
    let seen = &pair.app.seen()[0];
    assert_eq!(seen.uri().to_string(), "http://books:80/x");
    assert_eq!(seen.headers()["host"], "other");
}

#[tokio::test]
async fn http_1_0_is_answered_and_closed() {
    let pair = Pair::around(Application::saying("old").await).await;
    let mut raw = Raw::connect(pair.client.upstream()).await;
    raw.send("GET / HTTP/1.0\r\nhost: web\r\n\r\n").await;
    let all = String::from_utf8(raw.rest().await).unwrap();
    assert!(all.starts_with("HTTP/1.0 200"), "{all}");
    assert!(all.ends_with("old") && !all.contains("chunked"), "{all}");
}

#[tokio::test]
async fn a_client_that_expects_is_told_to_continue() {
    let pair = Pair::around(Application::echo().await).await;
    let mut raw = Raw::connect(pair.client.upstream()).await;
    raw.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n").await;
    assert_eq!(raw.answer().await.status, 100);
    raw.send("body").await;
    assert_eq!(raw.answer().await.text(), "body");
    assert_eq!(pair.app.seen()[0].headers()["expect"], "100-continue", "the application is asked, too");
}

#[tokio::test]
async fn chunked_bodies_pass_both_ways() {
    let pair = Pair::around(Application::echo().await).await;
    let request =
        "POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let answer = exchange(pair.client.upstream(), request).await;
    assert_eq!((answer.header("transfer-encoding"), answer.text().as_str()), ("chunked", "abcde"));
}

#[tokio::test]
async fn responses_without_a_body_leave_the_connection_usable() {
    let app = Application::http(|request| async move {
        let status: u16 = request.uri().path()[1..].parse().unwrap();
        let body = if status == 200 { Body::full("12345") } else { Body::empty() };
        let mut response = Response::new(body);
        *response.status_mut() = status.try_into().unwrap();
        response
    });
    let pair = Pair::around(app.await).await;
    let mut raw = Raw::connect(pair.client.upstream()).await;
    raw.send("HEAD /200 HTTP/1.1\r\nhost: web\r\n\r\n").await;
    let head = raw.answer_to_head().await;
    assert_eq!((head.status, head.header("content-length")), (200, "5"));
    for status in [204, 304] {
        raw.send(format!("GET /{status} HTTP/1.1\r\nhost: web\r\n\r\n")).await;
        assert_eq!(raw.answer().await.status, status);
    }
    raw.send("GET /200 HTTP/1.1\r\nhost: web\r\n\r\n").await;
    assert_eq!(raw.answer().await.text(), "12345");
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_has_ended() {
    let pair = Pair::around(Application::saying("enough").await).await;
    let mut raw = Raw::connect(pair.client.upstream()).await;
    raw.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 1000000\r\n\r\nbegin").await;
    assert_eq!(raw.answer().await.text(), "enough");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let app = Application::http(|r| async move { Response::new(Body::from(r.uri().path().to_owned())) });
    let pair = Pair::around(app.await).await;
    let mut raw = Raw::connect(pair.client.upstream()).await;
    let requests: String = (0..5).map(|n| format!("GET /{n} HTTP/1.1\r\nhost: web\r\n\r\n")).collect();
    raw.send(requests).await;
    for n in 0..5 {
        assert_eq!(raw.answer().await.text(), format!("/{n}"));
    }
}

#[tokio::test]
async fn a_first_line_that_dribbles_in_is_still_http() {
    let pair = Pair::around(Application::saying("patient").await).await;
    let mut raw = Raw::connect(pair.client.upstream()).await;
    raw.tcp.set_nodelay(true).unwrap();
    for byte in b"GET /slow HTTP/1.1\r\nhost: web\r\n\r\n" {
        raw.send([*byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(raw.answer().await.text(), "patient");
    let seen = &pair.app.seen()[0];
    assert_eq!(seen.uri().path(), "/slow");
    assert!(seen.headers().contains_key("l5d-client-id"), "relayed as bytes, it would have arrived, too");
}

/// An application that switches to another protocol and then echoes bytes.
async fn switching() -> Application {
    Application::tcp(|mut tcp| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = tcp.read_u8().await else { return };
            head.push(byte);
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        assert!(head.contains("connection: upgrade") && head.contains("upgrade: websocket"), "{head}");
        let answer =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhi!";
        tcp.write_all(answer.as_bytes()).await.unwrap();
        let (mut reader, mut writer) = tcp.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
        let _ = writer.shutdown().await;
    })
    .await
}

#[tokio::test]
async fn a_websocket_passes_two_proxies_and_ends_with_both_sides() {
    let pair = Pair::around(switching().await).await;
    let mut raw = Raw::connect(pair.client.upstream()).await;
    raw.send("GET /chat HTTP/1.1\r\nhost: web\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n").await;
    let answer = raw.answer().await;
    assert_eq!((answer.status, answer.header("upgrade")), (101, "websocket"));
    assert_eq!(raw.bytes(3).await, b"hi!");
    raw.send("frame").await;
    assert_eq!(raw.bytes(5).await, b"frame");
    raw.finish().await;
    assert_eq!(raw.rest().await, b"");
}

#[tokio::test]
async fn one_proxy_in_front_keeps_http1() {
    let app = Application::saying("direct").await;
    let (_mesh, proxy) = plain(&[&app], &[]).await;
    let mut raw = Raw::connect(proxy.upstream()).await;
    for _ in 0..3 {
        raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
        assert_eq!(raw.answer().await.text(), "direct");
    }
    assert!(app.seen().iter().all(|request| request.version() == Version::HTTP_11));
}

#[tokio::test]
async fn a_connection_at_rest_gives_its_buffers_back_and_serves_on() {
    let pair = Pair::around(Application::echo().await).await;
    let mut raw = Raw::connect(pair.client.upstream()).await;
    let count = async || pair.client.state().await["connections_at_rest"].as_u64().unwrap();
    let at_rest =
        async |expected: u64| until("so many are at rest", async || count().await == expected).await;
    for round in 0..3 {
        let body = format!("round {round}");
        // The second request follows at once, and the third in two pieces.
        let post = format!("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        raw.send(format!("{post}{post}{}", &post[..9])).await;
        assert_eq!((raw.answer().await.text(), raw.answer().await.text()), (body.clone(), body.clone()));
        raw.send(&post[9..]).await;
        assert_eq!(raw.answer().await.text(), body);
        at_rest(1).await;
    }
    // A request that has begun, and an answer that has not ended, are no rest.
    raw.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 5\r\n\r\nab").await;
    at_rest(0).await;
    let mut other = Raw::connect(pair.client.upstream()).await;
    other.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(other.answer().await.status, 200);
    at_rest(1).await; // the other, and it came later
    drop(other);
    at_rest(0).await;
    raw.send("cde").await;
    assert_eq!(raw.answer().await.text(), "abcde");
    at_rest(1).await;
    drop(raw);
    at_rest(0).await;
}

#[tokio::test]
async fn a_connection_under_tls_is_not_closed_where_a_plain_one_would_rest() {
    let mesh = Mesh::new();
    let app = Application::echo().await;
    let server = proxy_of(&mesh, "web", &app, &[]).await;
    // Without a hint the client's proxy speaks HTTP/1 within TLS.
    let endpoint = EndpointInfo { hint: ProtocolHint::Unknown, ..server.meshed("web") };
    mesh.facts.endpoints(WEB, Said::Told(vec![endpoint]));
    let client = proxy_to(&mesh, "client", &[]).await;
    let count = async || client.state().await["connections_at_rest"].as_u64().unwrap();
    let at_rest =
        async |expected: u64| until("so many are at rest", async || count().await == expected).await;
    const GET: &str = "GET / HTTP/1.1\r\nhost: web\r\n\r\n";
    let mut raw = Raw::connect(client.upstream()).await;
    for _ in 0..2 {
        raw.send(GET).await;
        assert_eq!(raw.answer().await.status, 200);
        at_rest(1).await;
        // Until this one rests too, the first has been silent for as long as it takes once more.
        let mut other = Raw::connect(client.upstream()).await;
        other.send(GET).await;
        assert_eq!(other.answer().await.status, 200);
        at_rest(2).await;
        drop(other);
        at_rest(1).await;
    }
    assert_eq!(server.metric("tcp_open_total", &["direction=\"inbound\"", "tls=\"true\""]).await, 1.0);
}

/// An application of bytes that reads a request's head, answers with these, and then echoes.
async fn answering(answer: &'static str) -> (Application, Arc<Mutex<String>>) {
    let seen = Arc::<Mutex<String>>::default();
    let noted = seen.clone();
    let app = Application::tcp(move |mut tcp| {
        let seen = noted.clone();
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = tcp.read_u8().await else { return };
                head.push(byte);
            }
            *seen.lock().unwrap() = String::from_utf8_lossy(&head).into_owned();
            tcp.write_all(answer.as_bytes()).await.unwrap();
            let (mut reader, mut writer) = tcp.split();
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            let _ = writer.shutdown().await;
        }
    });
    (app.await, seen)
}

#[tokio::test]
async fn connect_to_an_application_opens_a_tunnel_through_two_proxies() {
    let (app, seen) = answering("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n").await;
    let pair = Pair::around(app).await;
    let mut raw = Raw::connect(pair.client.upstream()).await;
    raw.send("CONNECT far.example:443 HTTP/1.1\r\nhost: far.example:443\r\n\r\n").await;
    let answer = raw.answer_to_head().await;
    assert_eq!((answer.status, answer.header("content-length")), (200, ""), "{answer:?}");
    assert!(seen.lock().unwrap().starts_with("CONNECT far.example:443 HTTP/1.1\r\n"));
    raw.send("through").await;
    assert_eq!(raw.bytes(7).await, b"through");
    raw.finish().await;
    assert_eq!(raw.rest().await, b"");
}

#[tokio::test]
async fn malformed_connects_are_refused_and_reach_nobody() {
    let (app, seen) = answering("HTTP/1.1 200 OK\r\n\r\n").await;
    let pair = Pair::around(app).await;
    for request in [
        "CONNECT / HTTP/1.1\r\nhost: web\r\n\r\n",
        "CONNECT http://web/ HTTP/1.1\r\nhost: web\r\n\r\n",
        "CONNECT web:80 HTTP/1.0\r\n\r\n",
        "GET web:80 HTTP/1.1\r\nhost: web\r\n\r\n",
    ] {
        let answer = exchange(pair.client.upstream(), request).await;
        assert_eq!(answer.status, 400, "{request}: {answer:?}");
    }
    assert_eq!(*seen.lock().unwrap(), "");
}

#[tokio::test]
async fn trailers_pass_both_ways_between_http1_ends() {
    let app = Application::http(|request| async move {
        let (_, trailers) = weft_testkit::application::read(request.into_body()).await.unwrap();
        let got = trailers.and_then(|t| t.get("x-sum").cloned());
        let mut response = Response::new(with_trailers(&["body"], &[("x-end", "yes")]));
        response.headers_mut().insert("trailer", "x-end".parse().unwrap());
        if let Some(got) = got {
            response.headers_mut().insert("x-got", got);
        }
        response
    });
    let pair = Pair::around(app.await).await;
    let mut raw = Raw::connect(pair.client.upstream()).await;
    raw.send("POST / HTTP/1.1\r\nhost: web\r\nte: trailers\r\ntrailer: x-sum\r\nconnection: close, te\r\n")
        .await;
    raw.send("transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n").await;
    let all = String::from_utf8(raw.rest().await).unwrap();
    assert!(all.starts_with("HTTP/1.1 200") && all.contains("x-got: 6\r\n"), "{all}");
    assert!(all.ends_with("0\r\nx-end: yes\r\n\r\n"), "{all}");
}

#[tokio::test]
async fn an_expectation_that_is_refused_is_answered_with_the_refusal() {
    let (app, _) = answering("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno").await;
    let pair = Pair::around(app).await;
    let mut raw = Raw::connect(pair.client.upstream()).await;
    raw.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n").await;
    let mut answer = raw.answer().await;
    if answer.status == 100 {
        raw.send("body").await;
        answer = raw.answer().await;
    }
    assert_eq!((answer.status, answer.text().as_str()), (417, "no"), "{answer:?}");
}

#[tokio::test]
async fn an_answer_in_http_1_0_is_given_in_the_clients_version() {
    let (app, _) = answering("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let pair = Pair::around(app).await;
    let mut raw = Raw::connect(pair.client.upstream()).await;
    // Twice: the client's connection is not closed for what the application cannot do.
    for _ in 0..2 {
        raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
        assert_eq!(raw.bytes(12).await, b"HTTP/1.1 200");
        let mut rest = Vec::new();
        while !rest.ends_with(b"\r\n\r\nok") {
            rest.extend(raw.bytes(1).await);
        }
    }
}

#[tokio::test]
async fn a_client_that_has_said_all_is_still_answered() {
    let app = Application::http(|request| async move {
        let _ = read(request.into_body()).await;
        takes(Duration::from_millis(100)).await;
        Response::new(Body::from("late"))
    });
    let pair = Pair::around(app.await).await;
    let mut raw = Raw::connect(pair.client.upstream()).await;
    raw.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 4\r\n\r\nonce").await;
    raw.finish().await;
    let all = String::from_utf8(raw.rest().await).unwrap();
    assert!(all.starts_with("HTTP/1.1 200") && all.ends_with("late"), "{all}");
}

#[tokio::test]
async fn http_1_0_may_do_without_a_host() {
    let pair = Pair::around(Application::saying("old").await).await;
    let mut raw = Raw::connect(pair.client.upstream()).await;
    raw.send("GET /x HTTP/1.0\r\n\r\n").await;
    let all = String::from_utf8(raw.rest().await).unwrap();
    assert!(all.starts_with("HTTP/1.0 200") && all.ends_with("old"), "{all}");
    assert_eq!(pair.app.seen()[0].uri().path(), "/x");
}
