//! Who passes a port's policy and its routes', in the order in which a request meets them (§4.4).

use crate::world::{WEB, elsewhere, only, proxy_of, proxy_to};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use weft_model::destination::EndpointInfo;
use weft_model::meta::Meta;
use weft_model::policy::{
    Authentication, Authorization, DefaultPolicy, InboundPolicy, InboundProtocol, InboundRoutes,
    NetworkMatch, Suffix,
};
use weft_model::route::{
    Distribution, Filter, HttpMatch, InjectedAnswer, Injection, PathMatch, RequestMatch, Route, Rule,
};
use weft_testkit::application::Application;
use weft_testkit::client::{Raw, get};
use weft_testkit::mesh::{Mesh, Running, identity};
use weft_testkit::plane::Said;
use weft_testkit::policy::rule;
use weft_testkit::until;

/// A server and a client, which reaches it from an address that is not its host's own.
struct Pair {
    mesh: Mesh,
    server: Running,
    client: Running,
    app: Application,
    _door: Application,
}

async fn pair(name: &str) -> Pair {
    let mesh = Mesh::new();
    let app = Application::saying("ok").await;
    let server = proxy_of(&mesh, "web", &app, &[]).await;
    let door = elsewhere(server.proxy.inbound).await;
    let transport_port = door.addr.port().try_into().ok();
    mesh.facts.endpoints(WEB, Said::Told(vec![EndpointInfo { transport_port, ..server.meshed("web") }]));
    let client = proxy_to(&mesh, name, &[]).await;
    Pair { mesh, server, client, app, _door: door }
}

impl Pair {
    async fn told(&self, policy: InboundPolicy) {
        let name = format!("\"{}\"", policy.meta.name());
        self.mesh.facts.inbound(self.server.bind().port(), Said::Told(policy));
        until("the policy is in force", async || {
            self.server.state().await["inbound"].to_string().contains(&name)
        })
        .await;
    }
}

fn policy(name: &str, routes: Vec<Route>, authorizations: Vec<Authorization>) -> InboundPolicy {
    let http = InboundRoutes { routes: routes.into(), rate_limit: None };
    let protocol = InboundProtocol::Detect { timeout: Duration::from_secs(10), http };
    InboundPolicy { meta: Meta::default_named(name), protocol, authorizations }
}

fn authorization(name: &str, networks: Vec<NetworkMatch>, authentication: Authentication) -> Authorization {
    Authorization { meta: Meta::default_named(name), networks, authentication }
}

fn named(ids: &[String], suffixes: &[&str]) -> Authentication {
    Authentication::TlsAuthenticated {
        ids: ids.iter().map(|id| id.parse().unwrap()).collect(),
        suffixes: suffixes.iter().map(|text| Suffix((*text).into())).collect(),
    }
}

async fn status_from(from: [u8; 4], at: SocketAddr) -> u16 {
    let mut raw = Raw::connect_from(IpAddr::V4(Ipv4Addr::from(from)), at).await;
    raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
    raw.answer().await.status
}

#[tokio::test]
async fn networks_admit_whom_they_hold_and_not_whom_they_except() {
    let pair = pair("client").await;
    let networks = vec![NetworkMatch {
        net: "127.0.0.0/24".parse().unwrap(),
        except: vec!["127.0.0.3/32".parse().unwrap(), "127.0.0.64/26".parse().unwrap()],
    }];
    let all = authorization("near", networks, Authentication::Unauthenticated);
    pair.told(policy("told", vec![], vec![all])).await;
    let at = pair.server.bind();
    for (from, status) in
        [([127, 0, 0, 2], 200), ([127, 0, 0, 3], 403), ([127, 0, 0, 65], 403), ([127, 0, 1, 2], 403)]
    {
        assert_eq!(status_from(from, at).await, status, "{from:?}");
    }
    // The host's own address passes whatever a policy says, so that an operator on it is never shut out.
    assert_eq!(status_from([127, 0, 0, 1], at).await, 200);
}

#[tokio::test]
async fn identities_pass_by_their_name_or_a_suffix_of_it_and_plaintext_does_not() {
    let pair = pair("client").await;
    let everywhere = NetworkMatch::everywhere;
    for (wanted, passes) in [
        (named(&[identity("client")], &[]), true),
        (named(&[identity("other")], &[]), false),
        (named(&[], &["default.serviceaccount.identity.linkerd.cluster.local"]), true),
        (named(&[], &["other.serviceaccount.identity.linkerd.cluster.local"]), false),
        (named(&[], &[""]), true),
        (Authentication::TlsUnauthenticated, true),
    ] {
        let name = format!("told-{wanted:?}").replace('"', "");
        let it = authorization("it", everywhere(), wanted.clone());
        pair.told(policy(&name, vec![], vec![it])).await;
        let of_client = get(pair.client.upstream(), "/").await;
        assert_eq!(of_client.status, if passes { 200 } else { 403 }, "{wanted:?}: {of_client:?}");
        assert_eq!(status_from([127, 0, 0, 2], pair.server.bind()).await, 403, "{wanted:?} in plaintext");
    }
}

fn path(path: &str) -> Vec<RequestMatch> {
    let path = Some(PathMatch::Prefix(path.into()));
    vec![RequestMatch::Http(HttpMatch { path, ..HttpMatch::default() })]
}

fn route(name: &str, at: &str, filters: Vec<Filter>, who: Vec<Authorization>) -> Route {
    let rule = Rule { matches: path(at), filters, ..rule(Distribution::Application) };
    Route { meta: Meta::default_named(name), authorizations: who, ..only(rule) }
}

#[tokio::test]
async fn a_routes_own_authorizations_open_it_and_no_other() {
    let pair = pair("client").await;
    let client = || authorization("c", NetworkMatch::everywhere(), named(&[identity("client")], &[]));
    let nobody = || authorization("n", NetworkMatch::everywhere(), named(&[identity("nobody")], &[]));
    let routes =
        vec![route("open", "/open", vec![], vec![client()]), route("shut", "/", vec![], vec![nobody()])];
    pair.told(policy("told", routes, vec![])).await;
    let at = pair.client.upstream();
    assert_eq!([get(at, "/open").await.status, get(at, "/").await.status], [200, 403]);
    // A route of nobody's is answered 404, which is no denial.
    pair.told(policy("again", vec![route("open", "/open", vec![], vec![client()])], vec![])).await;
    let none = get(at, "/").await;
    assert_eq!(none.status, 404);
    assert!(none.header("weft-reason").starts_with("no-route; hop=inbound"), "{none:?}");
    assert_eq!(pair.server.metric("inbound_http_route_not_found_total", &[]).await, 1.0);
}

#[tokio::test]
async fn permission_is_asked_before_any_filter_runs() {
    let pair = pair("client").await;
    let injected = Filter::InjectFailure(Injection {
        answer: InjectedAnswer::Http(http::StatusCode::IM_A_TEAPOT),
        message: "it".into(),
        ratio: (1, 1),
    });
    let routes = |who| vec![route("it", "/", vec![injected.clone()], who)];
    pair.told(policy("shut", routes(vec![]), vec![])).await;
    assert_eq!(get(pair.client.upstream(), "/").await.status, 403);
    let everybody = DefaultPolicy::AllUnauthenticated.authorizations(&[]);
    pair.told(policy("open", routes(everybody), vec![])).await;
    assert_eq!(get(pair.client.upstream(), "/").await.status, 418);
    assert!(pair.app.seen().is_empty());
}

#[tokio::test]
async fn under_audit_everybody_passes_and_is_counted_as_audited() {
    let pair = pair("client").await;
    pair.told(policy("told", vec![], DefaultPolicy::Audit.authorizations(&[]))).await;
    assert_eq!(status_from([127, 0, 0, 2], pair.server.bind()).await, 200);
    assert_eq!(get(pair.client.upstream(), "/").await.status, 200);
    let labels = ["authz_name=\"audit\""];
    assert_eq!(pair.server.metric("inbound_http_authz_allow_total", &labels).await, 2.0);
}

#[tokio::test]
async fn a_port_that_turns_opaque_has_no_routes_for_connections_that_are_open() {
    let pair = pair("client").await;
    let everybody = || DefaultPolicy::AllUnauthenticated.authorizations(&[]);
    pair.told(policy("http", vec![], everybody())).await;
    let mut raw = Raw::connect_from(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), pair.server.bind()).await;
    let mut status = async || {
        raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
        raw.answer().await.status
    };
    assert_eq!(status().await, 200);
    let opaque = InboundPolicy { protocol: InboundProtocol::Opaque, ..policy("bytes", vec![], everybody()) };
    pair.told(opaque).await;
    assert_eq!(status().await, 404);
}
