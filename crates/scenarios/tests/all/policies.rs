//! Outbound policies: each protocol, its routes and backends, and the parameters of queue and balancer.

use crate::world::WEB;
use http::{Request, Response};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use weft_model::destination::EndpointInfo;
use weft_model::policy::OutboundProtocol;
use weft_model::route::{
    Dispatch, Distribution, GrpcMatch, HttpMatch, LoadParams, PathMatch, Queue, RequestMatch,
};
use weft_net::body::Body;
use weft_testkit::application::{Application, takes, with_trailers};
use weft_testkit::client::{Raw, ask, exchange, get, http2};
use weft_testkit::hello::{client_hello, records};
use weft_testkit::mesh::{Mesh, Running};
use weft_testkit::plane::Said;
use weft_testkit::policy::{
    backend, balanced, default_routes, detect, http_route, policy, route, routes, tcp_route, to,
};
use weft_testkit::{until, within};

/// A service of its own that a backend of a policy balances over.
fn name(version: &str) -> String {
    format!("web-{version}.default.svc.cluster.local:80")
}

/// A proxy in front of a service that has this policy; each application is a service `web-N`.
async fn ruled(
    protocol: OutboundProtocol,
    apps: &[(&str, &Application)],
    settings: &[(&str, &str)],
) -> (Mesh, Running) {
    let mesh = Mesh::new();
    for (version, app) in apps {
        mesh.facts.endpoints(&name(version), Said::Told(vec![EndpointInfo::plain(app.addr)]));
    }
    mesh.facts.outbound(WEB, Said::Told(policy(protocol)));
    let client = crate::world::proxy_to(&mesh, "client", settings).await;
    (mesh, client)
}

/// Says one word to whoever connects, and then everything that it hears.
async fn saying_bytes(word: &'static str) -> Application {
    Application::tcp(move |mut tcp| async move {
        let _ = tcp.write_all(word.as_bytes()).await;
        let (mut reader, mut writer) = tcp.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
        let _ = writer.shutdown().await;
    })
    .await
}

async fn body_of(response: Response<Body>) -> String {
    let (body, _) = weft_testkit::application::read(response.into_body()).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn detection_gives_each_protocol_its_own_routes() {
    let (one, two) = (Application::saying("one").await, Application::saying("two").await);
    let bytes = saying_bytes("bytes").await;
    let apps = [("one", &one), ("two", &two), ("bytes", &bytes)];
    let found =
        detect(default_routes(to(&name("one"))), default_routes(to(&name("two"))), to(&name("bytes")));
    let (_mesh, proxy) = ruled(found, &apps, &[]).await;
    assert_eq!(get(proxy.upstream(), "/").await.text(), "one");
    let mut client = http2(proxy.upstream()).await;
    let request = Request::get("http://web/").body(Body::empty()).unwrap();
    assert_eq!(body_of(ask(&mut client, request).await.unwrap()).await, "two");
    let mut raw = Raw::connect(proxy.upstream()).await;
    raw.send(b"\x00\x01\x02").await;
    assert_eq!(raw.bytes(8).await, b"bytes\x00\x01\x02");
}

#[tokio::test]
async fn the_policys_detect_timeout_is_obeyed() {
    let bytes = saying_bytes("220 ready").await;
    let none = || default_routes(to(&name("none")));
    let OutboundProtocol::Detect { http1, http2, opaque, .. } = detect(none(), none(), to(&name("bytes")))
    else {
        unreachable!()
    };
    let found = OutboundProtocol::Detect { timeout: Duration::from_millis(50), http1, http2, opaque };
    let settings = [("OUTBOUND_DETECT_TIMEOUT", "1h")];
    let (_mesh, proxy) = ruled(found, &[("bytes", &bytes)], &settings).await;
    assert_eq!(Raw::connect(proxy.upstream()).await.bytes(9).await, b"220 ready");
}

#[tokio::test]
async fn an_opaque_policy_relays_even_http_untouched() {
    let bytes = saying_bytes("220 ").await;
    let opaque = OutboundProtocol::Opaque(vec![tcp_route("opaque", &[], to(&name("bytes")))]);
    let settings = [("OUTBOUND_DETECT_TIMEOUT", "1h")];
    let (_mesh, proxy) = ruled(opaque, &[("bytes", &bytes)], &settings).await;
    let mut raw = Raw::connect(proxy.upstream()).await;
    assert_eq!(raw.bytes(4).await, b"220 ", "the server speaks first");
    let request = "GET / HTTP/1.1\r\nhost: web\r\nweft-reason: mine\r\nconnection: close\r\n\r\n";
    raw.send(request).await;
    raw.finish().await;
    assert_eq!(raw.rest().await, request.as_bytes());
}

#[tokio::test]
async fn under_an_http1_policy_a_late_first_line_is_still_http_and_nothing_else_passes() {
    let app = Application::saying("one").await;
    let policy = OutboundProtocol::Http1(default_routes(to(&name("one"))));
    let (_mesh, proxy) = ruled(policy, &[("one", &app)], &[("OUTBOUND_DETECT_TIMEOUT", "1ms")]).await;
    let mut raw = Raw::connect(proxy.upstream()).await;
    // Long after detection would have given up.
    let quiet = Duration::from_millis(50);
    assert!(tokio::time::timeout(quiet, raw.tcp.readable()).await.is_err(), "nobody speaks first");
    raw.send("GET / HTTP/1.1\r\nhost: web\r\nweft-reason: forged\r\n\r\n").await;
    assert_eq!(raw.answer().await.text(), "one");
    assert!(!app.seen()[0].headers().contains_key("weft-reason"), "it was served as HTTP");

    let mut raw = Raw::connect(proxy.upstream()).await;
    raw.send("\x00\x01 no HTTP at all\r\n\r\n").await;
    assert!(raw.rest().await.starts_with(b"HTTP/1.1 400 "));
    assert_eq!(app.seen().len(), 1);
}

#[tokio::test]
async fn under_an_http2_policy_nothing_but_http2_passes() {
    let app = Application::saying("two").await;
    let policy = OutboundProtocol::Http2(default_routes(to(&name("two"))));
    let (_mesh, proxy) = ruled(policy, &[("two", &app)], &[]).await;
    let mut client = http2(proxy.upstream()).await;
    let request = Request::get("http://web/").body(Body::empty()).unwrap();
    assert_eq!(body_of(ask(&mut client, request).await.unwrap()).await, "two");
    let mut raw = Raw::connect(proxy.upstream()).await;
    raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
    assert!(!String::from_utf8_lossy(&raw.rest().await).contains("200"));
    assert_eq!(app.seen().len(), 1);
}

#[tokio::test]
async fn a_grpc_policy_routes_by_method_and_answers_in_grpc() {
    let answering = |text: &'static str| {
        Application::http(move |_| async move {
            let mut response = Response::new(with_trailers(&[text], &[("grpc-status", "0")]));
            response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
            response
        })
    };
    let (get, all) = (answering("get").await, answering("all").await);
    let matched = |method: Option<&str>| {
        let method = method.map(str::to_owned);
        vec![RequestMatch::Grpc(GrpcMatch { service: Some("shop.Books".into()), method, headers: vec![] })]
    };
    let policy = OutboundProtocol::Grpc(routes(vec![
        route(http_route("get"), matched(Some("Get")), to(&name("get"))),
        route(http_route("all"), matched(None), to(&name("all"))),
    ]));
    let (_mesh, proxy) = ruled(policy, &[("get", &get), ("all", &all)], &[]).await;
    let mut client = http2(proxy.upstream()).await;
    let mut call = async |path: &str| {
        let call = Request::post(format!("http://web/{path}")).header("content-type", "application/grpc");
        let call = call.header("te", "trailers").body(Body::full("\0\0\0\0\0")).unwrap();
        ask(&mut client, call).await.unwrap()
    };
    assert_eq!(body_of(call("shop.Books/Get").await).await, "get");
    assert_eq!(body_of(call("shop.Books/List").await).await, "all");
    let refused = call("shop.Films/Get").await;
    assert_eq!((refused.status().as_u16(), &refused.headers()["grpc-status"]), (200, &"5".parse().unwrap()));
    assert!(refused.headers()["weft-reason"].to_str().unwrap().starts_with("no-route"));
}

#[tokio::test]
async fn a_tls_policy_routes_by_server_name_however_the_hello_is_cut() {
    let (exact, suffix) = (saying_bytes("exact").await, saying_bytes("suffix").await);
    let policy = OutboundProtocol::Tls(vec![
        tcp_route("suffix", &["*.example.com"], to(&name("suffix"))),
        tcp_route("exact", &["books.example.com"], to(&name("exact"))),
    ]);
    let (_mesh, proxy) = ruled(policy, &[("exact", &exact), ("suffix", &suffix)], &[]).await;
    for (sni, greeting) in
        [("books.example.com", "exact"), ("films.example.com", "suffix"), ("a.b.example.com", "suffix")]
    {
        for record in [1 << 14, 9] {
            let hello = records(&client_hello(sni), record);
            let mut raw = Raw::connect(proxy.upstream()).await;
            raw.tcp.set_nodelay(true).unwrap();
            for segment in hello.chunks(4) {
                raw.send(segment).await;
                tokio::task::yield_now().await;
            }
            let expected = [greeting.as_bytes(), &hello].concat();
            assert_eq!(raw.bytes(expected.len()).await, expected, "{sni}");
        }
    }
    for refused in [records(&client_hello("example.org"), 1 << 14), b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        let mut raw = Raw::connect(proxy.upstream()).await;
        raw.send(refused).await;
        assert_eq!(raw.rest().await, b"", "no route: the connection is closed");
    }
    assert_eq!(proxy.metric("weft_reasons_total", &["\"no-route\""]).await, 2.0);
    let concrete = format!("concrete=\"{}\"", name("exact"));
    let ready = [concrete.as_str(), "endpoint_state=\"ready\""];
    assert_eq!(proxy.metric("outbound_tls_balancer_endpoints", &ready).await, 1.0);
    assert_eq!(proxy.metric("outbound_tls_balancer_queue_requests_total", &[&concrete]).await, 2.0);
    assert_eq!(proxy.metric("outbound_tcp_balancer_endpoints", &[]).await, 0.0);
}

#[tokio::test]
async fn routes_choose_backends_and_carry_their_names_into_the_metrics() {
    let (a, b) = (Application::saying("a").await, Application::saying("b").await);
    let path = |path: &str| {
        let path = Some(PathMatch::Prefix(path.into()));
        vec![RequestMatch::Http(HttpMatch { path, ..HttpMatch::default() })]
    };
    let policy = OutboundProtocol::Http1(routes(vec![
        route(http_route("films"), path("/films"), to(&name("b"))),
        route(http_route("books"), path("/books"), to(&name("a"))),
    ]));
    let (_mesh, proxy) = ruled(policy, &[("a", &a), ("b", &b)], &[]).await;
    assert_eq!(get(proxy.upstream(), "/books/1").await.text(), "a");
    assert_eq!(get(proxy.upstream(), "/films").await.text(), "b");
    let none = get(proxy.upstream(), "/").await;
    assert_eq!((none.status, none.header("connection")), (404, ""), "{none:?}");
    assert!(none.header("weft-reason").starts_with("no-route"), "{none:?}");
    let labels = |route: &str, backend: &str| {
        [
            "parent_name=\"web\"".to_owned(),
            format!("route_name=\"{route}\""),
            format!("backend_name=\"{backend}\""),
        ]
    };
    for (route, backend) in [("books", "web-a"), ("films", "web-b")] {
        let labels = labels(route, backend);
        let labels: Vec<_> = labels.iter().map(String::as_str).collect();
        let count = proxy.metric("outbound_http_route_backend_requests_total", &labels).await;
        assert_eq!(count, 1.0, "{labels:?}");
    }
}

#[tokio::test]
async fn default_routes_are_counted_under_their_name() {
    let app = Application::saying("x").await;
    let policy = OutboundProtocol::Http1(default_routes(to(&name("a"))));
    let (_mesh, proxy) = ruled(policy, &[("a", &app)], &[]).await;
    assert_eq!(get(proxy.upstream(), "/").await.status, 200);
    let labels = ["route_kind=\"default\"", "route_name=\"http\"", "http_status=\"200\""];
    until("the response is counted", async || {
        proxy.metric("outbound_http_route_request_statuses_total", &labels).await == 1.0
    })
    .await;
}

#[tokio::test]
async fn the_first_available_backend_serves_and_the_next_when_it_cannot() {
    let (a, b) = (Application::saying("a").await, Application::saying("b").await);
    let queue = Queue { capacity: 10, failfast: Duration::from_millis(20) };
    let one = |version| balanced(&name(version), queue, LoadParams::default());
    let both = Distribution::FirstAvailable(vec![one("a"), one("b")]);
    let (_mesh, proxy) =
        ruled(OutboundProtocol::Http1(default_routes(both)), &[("a", &a), ("b", &b)], &[]).await;
    until("the first serves", async || get(proxy.upstream(), "/").await.text() == "a").await;
    assert_eq!(get(proxy.upstream(), "/").await.text(), "a");
    a.kill().await;
    until("the second serves", async || get(proxy.upstream(), "/").await.text() == "b").await;
    assert_eq!(get(proxy.upstream(), "/").await.text(), "b");
}

#[tokio::test]
async fn weights_spread_requests_over_backends() {
    let (a, b) = (Application::saying("a").await, Application::saying("b").await);
    let queue = Queue { capacity: 100, failfast: Duration::from_secs(1) };
    let one = |version| balanced(&name(version), queue, LoadParams::default());
    let weighted = Distribution::RandomAvailable(vec![(one("a"), 3), (one("b"), 1), (one("none"), 0)]);
    let (_mesh, proxy) =
        ruled(OutboundProtocol::Http1(default_routes(weighted)), &[("a", &a), ("b", &b)], &[]).await;
    let mut raw = Raw::connect(proxy.upstream()).await;
    let mut from_a = 0;
    for _ in 0..400 {
        raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
        let answer = raw.answer().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        from_a += usize::from(answer.text() == "a");
    }
    // 300 ± 5 standard deviations of 8.7.
    assert!((256..=344).contains(&from_a), "{from_a} of 400");
}

#[tokio::test]
async fn a_backend_may_be_one_endpoint_or_nothing() {
    let app = Application::saying("forwarded").await;
    let info = Box::new(EndpointInfo::plain(app.addr));
    let forward = backend("one", Queue::default(), Dispatch::Forward(info));
    let missing = backend("none", Queue::default(), Dispatch::Missing);
    for (backends, status, reason) in [
        (Distribution::FirstAvailable(vec![forward]), 200, ""),
        (Distribution::FirstAvailable(vec![missing]), 502, "no-dispatcher"),
        (Distribution::Empty, 503, "no-backend"),
    ] {
        let (_mesh, proxy) = ruled(OutboundProtocol::Http1(default_routes(backends)), &[], &[]).await;
        let answer = get(proxy.upstream(), "/").await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.header("weft-reason").starts_with(reason), "{answer:?}");
    }
}

#[tokio::test]
async fn the_policys_queue_bounds_who_waits_and_for_how_long() {
    let queue = Queue { capacity: 2, failfast: Duration::from_secs(1) };
    let backends = Distribution::FirstAvailable(vec![balanced(&name("none"), queue, LoadParams::default())]);
    // The settings would have one wait for an hour, and a thousand of them.
    let settings = [("OUTBOUND_HTTP_FAILFAST_TIMEOUT", "1h"), ("OUTBOUND_HTTP_QUEUE_CAPACITY", "1000")];
    let (mesh, proxy) = ruled(OutboundProtocol::Http1(default_routes(backends)), &[], &settings).await;
    mesh.facts.endpoints(&name("none"), Said::Told(Vec::new()));
    let began = Instant::now();
    let waiting = [(); 2].map(|()| tokio::spawn(get_owned(proxy.upstream())));
    until("two wait", async || {
        proxy.metric("outbound_http_balancer_queue_length", &["web-none"]).await == 2.0
    })
    .await;
    let full = get(proxy.upstream(), "/").await;
    assert!(began.elapsed() < queue.failfast, "it is refused at once");
    assert_eq!((full.status, full.header("connection")), (503, "close"), "{full:?}");
    assert!(full.header("weft-reason").starts_with("queue-full"), "{full:?}");
    for waiting in waiting {
        let waited = within("an answer to those who wait", waiting).await.unwrap();
        assert!(began.elapsed() >= queue.failfast);
        assert_eq!(waited.status, 504, "{waited:?}");
        assert!(waited.header("weft-reason").starts_with("no-endpoints"), "{waited:?}");
    }
    let shed = get(proxy.upstream(), "/").await;
    assert_eq!(shed.status, 503, "it fails fast from now on: {shed:?}");
    assert!(shed.header("weft-reason").contains("phase=shed"), "{shed:?}");
}

async fn get_owned(from: std::net::SocketAddr) -> weft_testkit::client::Answer {
    get(from, "/").await
}

#[tokio::test]
async fn the_policys_default_round_trip_time_is_what_an_unknown_endpoint_starts_with() {
    let app = Application::saying("x").await;
    let load = LoadParams { default_rtt: Duration::from_millis(777), ..LoadParams::default() };
    let backends = Distribution::FirstAvailable(vec![balanced(&name("a"), Queue::default(), load)]);
    let (_mesh, proxy) = ruled(OutboundProtocol::Http1(default_routes(backends)), &[("a", &app)], &[]).await;
    // Any answer makes the plan; this one comes from the proxy itself, so nothing is learnt.
    let refused = exchange(proxy.upstream(), "CONNECT / HTTP/1.1\r\nhost: web\r\n\r\n").await;
    assert_eq!(refused.status, 400);
    until("the endpoint is known", async || {
        let state = proxy.state().await;
        let endpoint = &state["outbound"][0]["plan"]["http"][0]["backends"][0]["endpoints"][0];
        endpoint["estimate_ms"].as_f64().is_some_and(|estimate| (estimate - 777.0).abs() < 70.0)
    })
    .await;
}

#[tokio::test]
async fn the_policys_decay_says_how_soon_a_slow_answer_is_forgotten() {
    // One endpoint is slow once; how many of the next requests it gets is the decay's doing.
    async fn share(decay: Duration) -> usize {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let slow_once = Application::http(move |_| {
            let number = counted.fetch_add(1, Ordering::Relaxed);
            async move {
                if number == 0 {
                    takes(Duration::from_millis(150)).await;
                }
                Response::new(Body::full("x"))
            }
        });
        let (slow_once, quick) = (slow_once.await, Application::saying("x").await);
        let load = LoadParams { default_rtt: Duration::from_millis(1), decay, penalty: None };
        let backends = Distribution::FirstAvailable(vec![balanced(&name("a"), Queue::default(), load)]);
        let (mesh, proxy) =
            ruled(OutboundProtocol::Http1(default_routes(backends)), &[("a", &slow_once)], &[]).await;
        assert_eq!(get(proxy.upstream(), "/").await.status, 200);
        let both = [slow_once.addr, quick.addr].map(EndpointInfo::plain);
        mesh.facts.endpoints(&name("a"), Said::Told(both.to_vec()));
        let mut raw = Raw::connect(proxy.upstream()).await;
        for _ in 0..600 {
            raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
            assert_eq!(raw.answer().await.status, 200);
        }
        count.load(Ordering::Relaxed)
    }
    let (forgetful, resentful) =
        (share(Duration::from_millis(10)).await, share(Duration::from_secs(60)).await);
    assert!(forgetful > 4 * resentful, "forgetful: {forgetful} of 600, resentful: {resentful} of 600");
}

#[tokio::test]
async fn a_policy_that_changes_while_a_connection_lives_rules_its_next_request() {
    let (a, b) = (Application::saying("a").await, Application::saying("b").await);
    let to_version = |version| OutboundProtocol::Http1(default_routes(to(&name(version))));
    let (mesh, proxy) = ruled(to_version("a"), &[("a", &a), ("b", &b)], &[]).await;
    let mut raw = Raw::connect(proxy.upstream()).await;
    let mut ask = async || {
        raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
        raw.answer().await.text()
    };
    assert_eq!(ask().await, "a");
    mesh.facts.outbound(WEB, Said::Told(policy(to_version("b"))));
    until("the new policy rules", async || ask().await == "b").await;
}
