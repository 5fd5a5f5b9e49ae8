//! Which of several routes a request meets, in front of a service and in front of an application (§3.4).
//!
//! Each route answers with a status of its own, so that the answer says which one it was.

use crate::world::{WEB, either_side, only, speaking};
use http::{Method, Request, StatusCode};
use std::net::SocketAddr;
use weft_model::policy::{InboundProtocol, InboundRoutes, OutboundProtocol};
use weft_model::route::{
    Distribution, Filter, GrpcMatch, HeaderMatch, HeaderValueMatch, HttpMatch, InjectedAnswer, Injection,
    PathMatch, Pattern, QueryMatch, QueryValueMatch, RequestMatch, Route, Rule,
};
use weft_net::body::Body;
use weft_testkit::application::Application;
use weft_testkit::client::{ask, exchange, http2};
use weft_testkit::plane::Said;
use weft_testkit::policy::{host, policy, routes, rule, to};

fn answering(answer: InjectedAnswer, hosts: &[&str], matches: Vec<RequestMatch>) -> Route {
    let answer = Filter::InjectFailure(Injection { answer, message: "it".into(), ratio: (1, 1) });
    let rule = Rule { matches, filters: vec![answer], ..rule(to(WEB)) };
    Route { hosts: hosts.iter().map(|name| host(name)).collect(), ..only(rule) }
}

fn http(status: u16, hosts: &[&str], matches: Vec<HttpMatch>) -> Route {
    let answer = InjectedAnswer::Http(StatusCode::from_u16(status).unwrap());
    answering(answer, hosts, matches.into_iter().map(RequestMatch::Http).collect())
}

fn path(path: PathMatch) -> HttpMatch {
    HttpMatch { path: Some(path), ..HttpMatch::default() }
}

fn exact(text: &str) -> HttpMatch {
    path(PathMatch::Exact(text.into()))
}

fn prefix(text: &str) -> HttpMatch {
    path(PathMatch::Prefix(text.into()))
}

fn regex(text: &str) -> HttpMatch {
    path(PathMatch::Regex(Pattern(text.into())))
}

fn header(name: &'static str, value: HeaderValueMatch) -> HeaderMatch {
    HeaderMatch { name: http::HeaderName::from_static(name), value }
}

fn is(value: &str) -> HeaderValueMatch {
    HeaderValueMatch::Exact(value.into())
}

fn query(name: &str, value: QueryValueMatch) -> QueryMatch {
    QueryMatch { name: name.into(), value }
}

async fn status(at: SocketAddr, request: &str) -> u16 {
    exchange(at, &format!("{request}\r\n\r\n")).await.status
}

/// Requests (without the empty line at their end) and the statuses of the routes that they are to meet; 404 for none.
async fn check(list: Vec<Route>, expected: &[(&str, u16)]) {
    let app = Application::saying("x").await;
    for (_mesh, _proxy, at) in either_side(list, &app).await {
        for (request, wanted) in expected {
            assert_eq!(status(at, request).await, *wanted, "{request}");
        }
    }
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn an_exact_host_wins_over_a_suffix_over_none_and_longer_ones_over_shorter() {
    let any = || vec![prefix("/")];
    let list = vec![
        http(420, &[], vec![exact("/long/path")]),
        http(421, &["*.shop"], any()),
        http(422, &["*.books.shop"], any()),
        http(423, &["new.books.shop", "books.shop"], any()),
    ];
    check(
        list,
        &[
            ("GET /long/path HTTP/1.1\r\nhost: elsewhere", 420),
            ("GET /long/path HTTP/1.1\r\nhost: films.shop", 421),
            ("GET /long/path HTTP/1.1\r\nhost: a.books.shop", 422),
            ("GET /long/path HTTP/1.1\r\nhost: a.b.books.shop", 422),
            ("GET /long/path HTTP/1.1\r\nhost: new.books.shop", 423),
            ("GET /long/path HTTP/1.1\r\nhost: BOOKS.shop:8080", 423),
            // A dot at the end says no more than its absence.
            ("GET / HTTP/1.1\r\nhost: books.shop.", 423),
            // A suffix wants one label more at least; the target's authority comes before `Host`.
            ("GET / HTTP/1.1\r\nhost: shop", 404),
            ("GET http://new.books.shop/ HTTP/1.1\r\nhost: shop", 423),
        ],
    )
    .await;
}

#[tokio::test]
async fn more_characters_of_the_path_win_whatever_the_kind_and_the_first_of_equals() {
    let list = vec![
        http(420, &[], vec![prefix("/")]),
        http(421, &[], vec![prefix("/a/b")]),
        http(422, &[], vec![regex("/a/b/[a-z]+")]),
        http(423, &[], vec![exact("/a/b/x")]),
        http(424, &[], vec![exact("/e")]),
        http(425, &[], vec![prefix("/e")]),
        http(426, &[], vec![prefix("/f")]),
        http(427, &[], vec![exact("/f")]),
    ];
    check(
        list,
        &[
            ("GET / HTTP/1.1\r\nhost: web", 420),
            ("GET /a/b HTTP/1.1\r\nhost: web", 421),
            ("GET /a/b/7 HTTP/1.1\r\nhost: web", 421),
            // An expression counts the whole path, as an exact path does, and stands first.
            ("GET /a/b/x HTTP/1.1\r\nhost: web", 422),
            ("GET /e HTTP/1.1\r\nhost: web", 424),
            ("GET /f HTTP/1.1\r\nhost: web", 426),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_prefix_is_whole_segments_and_an_expression_the_whole_path() {
    let list = vec![
        http(420, &[], vec![prefix("/a/")]),
        http(421, &[], vec![regex("/b|/bc")]),
        http(422, &[], vec![exact("/e/")]),
    ];
    check(
        list,
        &[
            ("GET /a HTTP/1.1\r\nhost: web", 420),
            ("GET /a/ HTTP/1.1\r\nhost: web", 420),
            ("GET /a/x?q HTTP/1.1\r\nhost: web", 420),
            ("GET /ab HTTP/1.1\r\nhost: web", 404),
            ("GET /b HTTP/1.1\r\nhost: web", 421),
            ("GET /b/ HTTP/1.1\r\nhost: web", 404),
            ("GET /xb HTTP/1.1\r\nhost: web", 404),
            ("GET /e/ HTTP/1.1\r\nhost: web", 422),
            ("GET /e HTTP/1.1\r\nhost: web", 404),
            ("GET /E/ HTTP/1.1\r\nhost: web", 404),
        ],
    )
    .await;
}

#[tokio::test]
async fn of_equal_paths_more_headers_win_then_more_parameters_then_a_method() {
    let one = || vec![header("a", is("1"))];
    let parameter = || vec![query("q", QueryValueMatch::Exact("1".into()))];
    let list = vec![
        http(420, &[], vec![HttpMatch { method: Some(Method::GET), ..prefix("/") }]),
        http(421, &[], vec![HttpMatch { query: parameter(), ..prefix("/") }]),
        http(422, &[], vec![HttpMatch { headers: one(), ..prefix("/") }]),
        http(
            423,
            &[],
            vec![HttpMatch { headers: [one(), vec![header("b", is("2"))]].concat(), ..prefix("/") }],
        ),
        http(424, &[], vec![HttpMatch { headers: one(), query: parameter(), ..prefix("/") }]),
        http(425, &[], vec![prefix("/")]),
    ];
    check(
        list,
        &[
            ("PUT / HTTP/1.1\r\nhost: web", 425),
            ("GET / HTTP/1.1\r\nhost: web", 420),
            ("GET /?q=1 HTTP/1.1\r\nhost: web", 421),
            ("GET / HTTP/1.1\r\nhost: web\r\na: 1", 422),
            ("GET / HTTP/1.1\r\nhost: web\r\na: 1\r\nb: 2", 423),
            ("GET /?q=1 HTTP/1.1\r\nhost: web\r\na: 1", 424),
            ("GET /?q=1 HTTP/1.1\r\nhost: web\r\na: 1\r\nb: 2", 423),
            ("GET /?q=1 HTTP/1.1\r\nhost: web\r\nb: 2", 421),
        ],
    )
    .await;
}

#[tokio::test]
async fn headers_match_any_of_their_values_and_parameters_are_decoded() {
    let whole = |text: &str| HeaderValueMatch::Regex(Pattern(text.into()));
    let list = vec![
        http(420, &[], vec![HttpMatch { headers: vec![header("a", is("x y"))], ..HttpMatch::default() }]),
        http(
            421,
            &[],
            vec![HttpMatch { headers: vec![header("b", whole("[0-9]+"))], ..HttpMatch::default() }],
        ),
        http(
            422,
            &[],
            vec![HttpMatch {
                query: vec![query("the name", QueryValueMatch::Exact("a&b".into()))],
                ..HttpMatch::default()
            }],
        ),
        http(
            423,
            &[],
            vec![HttpMatch {
                query: vec![query("n", QueryValueMatch::Regex(Pattern("[0-9]+".into())))],
                ..HttpMatch::default()
            }],
        ),
    ];
    check(
        list,
        &[
            ("GET / HTTP/1.1\r\nhost: web\r\na: other\r\na: x y", 420),
            ("GET / HTTP/1.1\r\nhost: web\r\nA: x y", 420),
            ("GET / HTTP/1.1\r\nhost: web\r\na: X Y", 404),
            ("GET / HTTP/1.1\r\nhost: web\r\nb: 12", 421),
            ("GET / HTTP/1.1\r\nhost: web\r\nb: 12x", 404),
            ("GET /?the+name=a%26b HTTP/1.1\r\nhost: web", 422),
            ("GET /?the%20name=a%26b&n=x HTTP/1.1\r\nhost: web", 422),
            ("GET /?n=7 HTTP/1.1\r\nhost: web", 423),
            ("GET /?n=7a HTTP/1.1\r\nhost: web", 404),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_request_that_meets_no_route_is_told_so_and_keeps_its_connection() {
    let app = Application::saying("x").await;
    for (_mesh, _proxy, at) in either_side(vec![http(420, &["other"], vec![])], &app).await {
        let mut raw = weft_testkit::client::Raw::connect(at).await;
        for _ in 0..2 {
            raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
            let answer = raw.answer().await;
            assert_eq!((answer.status, answer.header("connection")), (404, ""), "{answer:?}");
            assert!(answer.header("weft-reason").starts_with("no-route"), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn grpc_calls_are_matched_by_service_then_method_then_headers() {
    let grpc = |code, service: Option<&str>, method: Option<&str>, headers: Vec<HeaderMatch>| {
        let (service, method) = (service.map(str::to_owned), method.map(str::to_owned));
        let matches = vec![RequestMatch::Grpc(GrpcMatch { service, method, headers })];
        answering(InjectedAnswer::Grpc(code), &[], matches)
    };
    let list = vec![
        grpc(30, None, Some("Get"), vec![]),
        grpc(31, Some("shop.Books"), None, vec![]),
        grpc(32, Some("shop.Books"), Some("Get"), vec![]),
        grpc(33, Some("shop.Books"), Some("Get"), vec![header("user", is("me"))]),
    ];
    let app = Application::saying("x").await;
    let (mesh, client) = crate::world::plain(&[&app], &[]).await;
    mesh.facts.outbound(WEB, Said::Told(policy(OutboundProtocol::Grpc(routes(list.clone())))));
    let mut inbound = list;
    inbound.iter_mut().for_each(|route| route.rules[0].backends = Distribution::Application);
    let http = InboundRoutes { routes: inbound.into(), rate_limit: None };
    let (_other, server) = speaking(InboundProtocol::Grpc(http), &app).await;
    for at in [client.upstream(), server.bind()] {
        let mut client = http2(at).await;
        for (method, path, user, code) in [
            (Method::POST, "/other.Svc/Get", "", "30"),
            (Method::POST, "/shop.Books/List", "", "31"),
            (Method::POST, "/shop.Books/Get", "", "32"),
            (Method::POST, "/shop.Books/Get", "me", "33"),
            (Method::POST, "/shop.Books/Get/more", "", "32"),
            (Method::POST, "/other.Svc/List", "", "5"),
            (Method::GET, "/shop.Books/Get", "", "5"),
        ] {
            let call =
                Request::builder().method(&method).uri(format!("http://web{path}")).header("user", user);
            let call = call.header("content-type", "application/grpc").header("te", "trailers");
            let answer = ask(&mut client, call.body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(answer.headers()["grpc-status"], code, "{method} {path} {user}");
        }
    }
    assert!(app.seen().is_empty());
}
