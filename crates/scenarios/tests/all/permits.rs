//! Rate limits, and what a refusal says about who came nearest.

use crate::world::{Pair, proxy_of};
use http::{Request, StatusCode};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use weft_model::meta::Meta;
use weft_model::policy::{
    Authentication, Authorization, DefaultPolicy, InboundPolicy, InboundProtocol, InboundRoutes,
    NetworkMatch, RateLimit,
};
use weft_model::route::{Filter, HttpMatch, InjectedAnswer, Injection, PathMatch, RequestMatch, Route, Rule};
use weft_net::body::Body;
use weft_testkit::application::Application;
use weft_testkit::client::{Raw, ask, get, http2};
use weft_testkit::mesh::{Mesh, identity};
use weft_testkit::plane::Said;
use weft_testkit::until;

/// An address that is not the one which every policy of a control plane admits.
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

fn limited(total: Option<u32>, identity: Option<u32>, overrides: &[(u32, &str)]) -> InboundPolicy {
    let overrides =
        overrides.iter().map(|(rate, name)| (*rate, vec![self::identity(name).parse().unwrap()])).collect();
    let limit = RateLimit { meta: Meta::default_named("calm"), total, identity, overrides };
    let http = InboundRoutes { routes: Arc::new([]), rate_limit: Some(Arc::new(limit)) };
    InboundPolicy {
        meta: Meta::default_named("told"),
        protocol: InboundProtocol::Detect { timeout: Duration::from_secs(10), http },
        authorizations: DefaultPolicy::AllUnauthenticated.authorizations(&[]),
    }
}

/// A pair whose server has this policy in force.
async fn pair(policy: InboundPolicy) -> Pair {
    let pair = Pair::around(Application::saying("ok").await).await;
    told(&pair, policy).await;
    pair
}

async fn told(pair: &Pair, policy: InboundPolicy) {
    let port = pair.server.bind().port();
    let meta = policy.meta.name().to_owned();
    pair.mesh.facts.inbound(port, Said::Told(policy));
    until("the policy is in force", async || {
        pair.server.state().await.to_string().contains(&format!("\"{meta}\""))
    })
    .await;
}

/// How many of `count` requests over one connection are taken; the connection must bear all of them.
async fn taken(at: std::net::SocketAddr, count: usize) -> usize {
    let mut http = Raw::connect(at).await;
    let mut taken = 0;
    for _ in 0..count {
        http.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
        let answer = http.answer().await;
        match answer.status {
            200 => taken += 1,
            429 => assert!(answer.header("weft-reason").starts_with("rate-limited"), "{answer:?}"),
            other => panic!("{other}: {answer:?}"),
        }
    }
    taken
}

#[tokio::test]
async fn requests_above_the_total_are_answered_429_and_the_connection_is_kept() {
    // So low that no request becomes due while the test runs, unless a second passes.
    let pair = pair(limited(Some(3), None, &[])).await;
    let count = taken(pair.server.bind(), 12).await;
    assert!((3..12).contains(&count), "{count} of 12");
    let labels = ["srv_name=\"told\"", "ratelimit_name=\"calm\"", "ratelimit_scope=\"total\""];
    let refused = pair.server.metric("inbound_http_local_ratelimit_total", &labels).await;
    assert_eq!(refused, (12 - count) as f64);
    assert_eq!(pair.server.metric("inbound_http_errors_total", &[]).await, 0.0, "a denial, and no error");
}

#[tokio::test]
async fn a_grpc_request_above_the_limit_is_told_resource_exhausted() {
    let pair = pair(limited(Some(1), None, &[])).await;
    let mut client = http2(pair.server.bind()).await;
    let mut codes = Vec::new();
    for _ in 0..4 {
        let request = Request::post("http://web/a.B/C").header("content-type", "application/grpc");
        let response = ask(&mut client, request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        codes.push(response.headers().get("grpc-status").map(|code| code.to_str().unwrap().to_owned()));
    }
    assert!(codes.contains(&Some("8".into())), "{codes:?}");
}

#[tokio::test]
async fn each_identity_has_its_own_rate_and_some_have_another() {
    for (name, rate) in [("client", 6), ("other", 2)] {
        let pair = pair(limited(None, Some(2), &[(6, name)])).await;
        // The client's proxy proves `client`; whoever has no identity shares one rate. A second may pass.
        let meshed = taken(pair.client.upstream(), 20).await;
        assert!((rate..=2 * rate + 1).contains(&meshed), "{name}: {meshed}");
        let plain = taken(pair.server.bind(), 10).await;
        assert!((2..8).contains(&plain), "{plain}");
        let scope = ["ratelimit_scope=\"identity\"", &format!("client_id=\"{}\"", identity("client"))];
        assert!(pair.server.metric("inbound_http_local_ratelimit_total", &scope).await > 0.0);
    }
}

#[tokio::test]
async fn another_policy_with_the_same_limit_goes_on_counting_and_another_limit_begins_anew() {
    let pair = pair(limited(Some(2), None, &[])).await;
    assert!(taken(pair.server.bind(), 8).await < 8);
    let mut renamed = limited(Some(2), None, &[]);
    renamed.meta = Meta::default_named("renamed");
    told(&pair, renamed).await;
    // A second may have passed; a fresh limit would take more of what follows at once.
    assert!(taken(pair.server.bind(), 8).await < 8);
    told(&pair, InboundPolicy { meta: Meta::default_named("wide"), ..limited(Some(1000), None, &[]) }).await;
    assert_eq!(taken(pair.server.bind(), 20).await, 20);
}

fn route(path: &str, filters: Vec<Filter>) -> Route {
    let of = HttpMatch { path: Some(PathMatch::Prefix(path.into())), ..HttpMatch::default() };
    Route {
        meta: Meta::default_named(path.trim_start_matches('/')),
        hosts: vec![],
        rules: vec![Rule::inbound(vec![RequestMatch::Http(of)], filters)],
        authorizations: vec![],
    }
}

#[tokio::test]
async fn what_a_filter_answers_and_what_is_denied_uses_up_nothing_of_a_rate() {
    let injected = Injection {
        answer: InjectedAnswer::Http(StatusCode::IM_A_TEAPOT),
        message: "tea".into(),
        ratio: (1, 1),
    };
    let mut policy = limited(Some(1), None, &[]);
    if let InboundProtocol::Detect { http, .. } = &mut policy.protocol {
        http.routes = Arc::new([route("/tea", vec![Filter::InjectFailure(injected)]), route("/", vec![])]);
    }
    let pair = pair(policy).await;
    for _ in 0..5 {
        assert_eq!(get(pair.server.bind(), "/tea").await.status, 418, "as configured");
    }
    assert_eq!(get(pair.server.bind(), "/").await.status, 200);
}

/// An authorization of one network.
fn of(name: usize, net: &str) -> Authorization {
    let networks = vec![NetworkMatch { net: net.parse().unwrap(), except: vec![] }];
    Authorization {
        meta: Meta::default_named(&format!("a{name}")),
        networks,
        authentication: Authentication::Unauthenticated,
    }
}

#[tokio::test]
async fn ten_thousand_authorizations_decide_as_few_do() {
    let app = Application::saying("ok").await;
    let mesh = Mesh::new();
    let server = proxy_of(&mesh, "web", &app, &[]).await;
    let mut authorizations: Vec<_> =
        (0..10_000).map(|n| of(n, &format!("10.{}.{}.0/24", n / 256 % 256, n % 256))).collect();
    let policy = |authorizations: &[Authorization]| {
        let http = InboundRoutes::default();
        let protocol = InboundProtocol::Detect { timeout: Duration::from_secs(10), http };
        let meta = Meta::default_named("told");
        Said::Told(InboundPolicy { meta, protocol, authorizations: authorizations.to_vec() })
    };
    let status = async || {
        let mut http = Raw::connect_from(STRANGER, server.bind()).await;
        http.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
        http.answer().await.status
    };
    mesh.facts.inbound(server.bind().port(), policy(&authorizations));
    until("nobody is admitted", async || status().await == 403).await;
    authorizations.push(of(10_000, "127.0.0.2/32"));
    mesh.facts.inbound(server.bind().port(), policy(&authorizations));
    until("the last one admits", async || status().await == 200).await;
    let by = ["authz_name=\"a10000\""];
    assert!(server.metric("inbound_http_authz_allow_total", &by).await > 0.0);
}

#[tokio::test]
async fn a_denied_peer_learns_which_authorization_came_nearest() {
    let settings =
        [("INBOUND_DEFAULT_POLICY", "cluster-authenticated"), ("POLICY_CLUSTER_NETWORKS", "10.0.0.0/8")];
    let pair = Pair::with(Application::saying("x").await, &settings, &[]).await;
    let answer = get(pair.client.upstream(), "/").await;
    let told = format!("{} {}", answer.header("weft-reason"), answer.header("l5d-proxy-error"));
    assert!(
        told.contains("nearest is default cluster-authenticated: the client's address is in none"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_request_without_a_route_learns_what_the_nearest_wanted() {
    let mut policy = limited(None, None, &[]);
    let mut only = route("/api", vec![]);
    if let RequestMatch::Http(of) = &mut only.rules[0].matches[0] {
        of.method = Some(http::Method::PUT);
    }
    if let InboundProtocol::Detect { http, .. } = &mut policy.protocol {
        http.routes = Arc::new([only]);
    }
    let pair = pair(policy).await;
    for (path, wanted) in
        [("/api", "for this method; nearest is default api"), ("/x", "no rule is for this path")]
    {
        let answer = get(pair.client.upstream(), path).await;
        let told = format!("{} {}", answer.header("weft-reason"), answer.header("l5d-proxy-error"));
        assert_eq!(answer.status, 404);
        assert!(told.contains(wanted), "{answer:?}");
    }
}
