//! Rich values written and read back; and what is written where a message cannot say what is meant.

use super::*;
use crate::decode::{self, Decoded};
use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;
use weft_model::destination::{Http2Params, KeepAlive, Locality, ProtocolHint, Windows};
use weft_model::identity::TlsTarget;
use weft_model::meta::{Meta, Resource};
use weft_model::policy::*;
use weft_model::profile::*;
use weft_model::route::*;

fn read<T>(decoded: Result<Decoded<T>, crate::WireError>) -> T {
    let decoded = decoded.unwrap();
    assert_eq!(decoded.warnings, Vec::<String>::new());
    decoded.value
}

fn labelled(pairs: &[(&str, &str)]) -> Labels {
    Arc::new(pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<BTreeMap<_, _>>())
}

fn rich_endpoint(last: u8) -> EndpointInfo {
    EndpointInfo {
        addr: SocketAddr::from(([10, 0, 0, last], 8080)),
        weight: 10_000,
        labels: labelled(&[("namespace", "shop"), ("service", "web"), ("zone_locality", "local")]),
        tls: Some(TlsTarget {
            id: "spiffe://mesh/web".parse().unwrap(),
            server_name: "web.shop.mesh".parse().unwrap(),
        }),
        hint: ProtocolHint::Http2,
        transport_port: NonZeroU16::new(4143),
        authority_override: Some("web.other.mesh:80".into()),
        http2: Some(Http2Params {
            windows: Some(Windows::Fixed { stream: 65_535, connection: 1 << 20 }),
            keep_alive: Some(KeepAlive {
                interval: Duration::from_secs(10),
                timeout: Duration::from_millis(2_500),
                while_idle: true,
            }),
            max_concurrent_reset_streams: Some(7),
            max_frame_size: Some(16_384),
            max_send_buf_size: None,
        }),
        locality: Locality::Local,
    }
}

fn resource(kind: &str, name: &str) -> Meta {
    Meta::Resource(Arc::new(Resource {
        group: "core".into(),
        kind: kind.into(),
        namespace: "shop".into(),
        name: name.into(),
        section: "s".into(),
        port: Some(80),
    }))
}

#[test]
fn endpoint_updates_round_trip() {
    let opaque =
        EndpointInfo { hint: ProtocolHint::Opaque, http2: Some(Http2Params::default()), ..rich_endpoint(2) };
    let v6 = EndpointInfo::plain("[2001:db8::7]:443".parse().unwrap());
    for update in [
        EndpointUpdate::Add(vec![rich_endpoint(1), opaque, v6]),
        EndpointUpdate::Remove(vec!["10.0.0.1:80".parse().unwrap(), "[::1]:81".parse().unwrap()]),
        EndpointUpdate::NoEndpoints { exists: true },
        EndpointUpdate::NoEndpoints { exists: false },
    ] {
        let bytes = endpoint_update(&update, &Labels::default());
        assert_eq!(read(decode::endpoint_update(&mut &bytes[..])), Some(update));
    }
}

#[test]
fn labels_of_the_set_are_sent_once() {
    let set = labelled(&[("namespace", "shop"), ("service", "web")]);
    let update = EndpointUpdate::Add((1..=100).map(rich_endpoint).collect());
    let with_set = endpoint_update(&update, &set);
    let without = endpoint_update(&update, &Labels::default());
    assert!(with_set.len() + 99 * 30 < without.len(), "{} {}", with_set.len(), without.len());
    assert_eq!(read(decode::endpoint_update(&mut &with_set[..])), Some(update));
}

#[test]
fn the_locality_always_stands_with_the_address() {
    let endpoint =
        EndpointInfo { locality: Locality::Remote, ..EndpointInfo::plain("10.0.0.1:80".parse().unwrap()) };
    let set = labelled(&[("zone_locality", "remote")]);
    let bytes = endpoint_update(&EndpointUpdate::Add(vec![endpoint]), &set);
    let Some(EndpointUpdate::Add(list)) = read(decode::endpoint_update(&mut &bytes[..])) else { panic!() };
    assert_eq!(list[0].locality, Locality::Remote);
}

#[test]
fn large_sets_are_split_below_the_limit_and_lose_nothing() {
    let all: Vec<_> = (0..2000u16)
        .map(|n| EndpointInfo {
            addr: SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 80)),
            ..rich_endpoint(0)
        })
        .collect();
    let set = labelled(&[("namespace", "shop")]);
    for (limit, expected) in [(usize::MAX, 1), (100_000, 4), (1, 2000)] {
        let messages = endpoints(&all, &set, limit);
        assert!(messages.len() >= expected && messages.len() <= expected + 2, "{}", messages.len());
        let mut joined = Vec::new();
        for bytes in &messages {
            assert!(bytes.len() <= limit || limit == 1);
            let Some(EndpointUpdate::Add(part)) = read(decode::endpoint_update(&mut &bytes[..])) else {
                panic!()
            };
            joined.extend(part);
        }
        assert_eq!(joined, all);
    }
    assert_eq!(endpoints(&[], &set, 100), Vec::<Bytes>::new());
}

#[test]
fn ten_thousand_endpoints_fit_into_a_few_messages() {
    let name = "x".repeat(60);
    let endpoint = |n: u32| EndpointInfo {
        addr: SocketAddr::from((std::net::Ipv4Addr::from_bits(0x0a00_0000 + n), 8080)),
        labels: labelled(&[
            ("external_workload", &format!("{name}{n}")),
            ("deployment", &name),
            ("zone", "eu-1a"),
        ]),
        ..rich_endpoint(1)
    };
    let all: Vec<_> = (0..10_000).map(endpoint).collect();
    let messages = endpoints(&all, &labelled(&[("namespace", "shop")]), MAX_SET_BYTES);
    assert!(messages.len() > 1 && messages.iter().all(|m| m.len() <= MAX_SET_BYTES));
}

#[test]
fn profiles_round_trip() {
    let pattern = |text: &str| Condition::Path(Pattern(text.into()));
    let condition = Condition::All(vec![
        pattern("/books/[0-9]+"),
        Condition::Not(Box::new(Condition::Any(vec![
            Condition::Method("PATCH".parse().unwrap()),
            pattern("/x"),
        ]))),
        Condition::Method("PURGE".parse().unwrap()),
    ]);
    let status = |min, max| ResponseCondition::Status(StatusRange { min, max });
    let class = ResponseCondition::Any(vec![
        status(500, 599),
        ResponseCondition::Not(Box::new(ResponseCondition::All(vec![status(200, 299)]))),
    ]);
    let value = Profile {
        logical: Some("web.shop.svc.cluster.local:80".parse().unwrap()),
        routes: vec![ProfileRoute {
            condition,
            classes: vec![ResponseClass { condition: class, is_failure: true }],
            labels: labelled(&[("route", "GET /books/{id}")]),
            retryable: true,
            timeout: Some(Duration::from_millis(300)),
        }],
        retry_budget: Some(RetryBudget::default()),
        overrides: vec![
            WeightedDst { addr: "a.shop.svc.cluster.local:80".parse().unwrap(), weight: 9_000 },
            WeightedDst { addr: "b.example:81".parse().unwrap(), weight: 1 },
        ],
        opaque: true,
        endpoint: Some(rich_endpoint(9)),
        parent: Some(resource("Service", "web")),
        source: Some(resource("ServiceProfile", "web.shop.svc.cluster.local")),
    };
    for value in [value, Profile::default()] {
        let bytes = profile(&value);
        assert_eq!(read(decode::profile(&mut &bytes[..], NonZeroU16::new(80).unwrap())), value);
    }
}

fn http_rule() -> Rule {
    let header = |name: &str, value| HeaderMatch { name: name.parse().unwrap(), value };
    let query = |name: &str, value| QueryMatch { name: name.into(), value };
    let matched = HttpMatch {
        path: Some(PathMatch::Regex(Pattern("/a|/b".into()))),
        headers: vec![
            header("x-a", HeaderValueMatch::Exact(b"\xff1".to_vec())),
            header("x-b", HeaderValueMatch::Regex(Pattern("[0-9]+".into()))),
        ],
        query: vec![
            query("q", QueryValueMatch::Exact("1".into())),
            query("r", QueryValueMatch::Regex(Pattern(".*".into()))),
        ],
        method: Some("GET".parse().unwrap()),
    };
    let prefix = HttpMatch { path: Some(PathMatch::Prefix("/c".into())), ..HttpMatch::default() };
    let pair = |name: &str, value: &str| (name.parse().unwrap(), value.parse().unwrap());
    let change = HeaderChange {
        add: vec![pair("x-add", "1")],
        set: vec![pair("x-set", "2")],
        remove: vec!["x-gone".parse().unwrap()],
    };
    Rule {
        matches: vec![RequestMatch::Http(matched), RequestMatch::Http(prefix)],
        filters: vec![
            Filter::RequestHeaders(change.clone()),
            Filter::ResponseHeaders(change),
            Filter::Redirect(Redirect {
                scheme: Some("https".into()),
                host: Some("web.x".into()),
                port: Some(8443),
                path: Some(PathRewrite::Prefix("/d".into())),
                status: Some(http::StatusCode::FOUND),
            }),
            Filter::InjectFailure(Injection {
                answer: InjectedAnswer::Http(http::StatusCode::IM_A_TEAPOT),
                message: "short and stout".into(),
                ratio: (1, 3),
            }),
        ],
        backends: Distribution::RandomAvailable(vec![(balanced("web"), 9), (forwarded(), 0)]),
        timeouts: Timeouts {
            request: Some(Duration::from_secs(10)),
            response: Some(Duration::from_secs(5)),
            idle: Some(Duration::from_millis(1500)),
        },
        retry: Some(RetryPolicy {
            limit: 3,
            max_request_bytes: 65_536,
            http: vec![StatusRange { min: 500, max: 599 }],
            grpc: vec![],
            timeout: Some(Duration::from_millis(250)),
            backoff: Some(Backoff {
                min: Duration::from_millis(25),
                max: Duration::from_millis(250),
                jitter: 1.0,
            }),
            respect_retry_after: true,
        }),
        allow_request_headers: true,
    }
}

fn balanced(name: &str) -> RouteBackend {
    let penalty = Penalty {
        penalty: Duration::from_secs(5),
        max_retry_after: Duration::from_secs(300),
        decay: Duration::from_secs(10),
    };
    let backend = Backend {
        meta: resource("Service", name),
        queue: Queue { capacity: 100, failfast: Duration::from_secs(3) },
        dispatch: Dispatch::Balance {
            dst: format!("{name}.shop.svc.cluster.local:80").parse().unwrap(),
            load: LoadParams { penalty: Some(penalty), ..LoadParams::default() },
        },
    };
    RouteBackend { backend: Arc::new(backend), filters: vec![] }
}

fn forwarded() -> RouteBackend {
    let backend = Backend {
        meta: Meta::default_named("forward"),
        queue: Queue::default(),
        dispatch: Dispatch::Forward(Box::new(rich_endpoint(3))),
    };
    RouteBackend { backend: Arc::new(backend), filters: vec![] }
}

fn route_of(rule: Rule) -> Route {
    Route {
        meta: resource("HTTPRoute", "r"),
        hosts: vec![
            HostMatch::Exact("web.shop".into()),
            HostMatch::Suffix { reversed_labels: vec!["com".into(), "example".into()] },
        ],
        rules: vec![rule],
        authorizations: vec![],
    }
}

fn breaker() -> FailureAccrual {
    FailureAccrual::Unified {
        success_rate: 0.8,
        window: Duration::from_secs(10),
        min_requests: 5,
        max_consecutive: 7,
        backoff: Backoff { min: Duration::from_secs(1), max: Duration::from_secs(60), jitter: 0.5 },
        respect_retry_after: true,
    }
}

fn grpc_rule() -> Rule {
    let matched = GrpcMatch { service: Some("shop.Books".into()), method: None, headers: vec![] };
    Rule {
        matches: vec![RequestMatch::Grpc(matched)],
        filters: vec![Filter::InjectFailure(Injection {
            answer: InjectedAnswer::Grpc(14),
            message: "no".into(),
            ratio: (1, 2),
        })],
        retry: http_rule().retry.map(|r| RetryPolicy { http: vec![], grpc: vec![1, 14], ..r }),
        ..http_rule()
    }
}

fn tcp_route(name: &str, snis: Vec<HostMatch>) -> TcpRoute {
    let filters = vec![Filter::Invalid { message: "no".into() }, Filter::Forbidden];
    TcpRoute {
        meta: Meta::default_named(name),
        snis,
        filters,
        backends: Distribution::FirstAvailable(vec![balanced("tcp"), forwarded()]),
    }
}

#[test]
fn outbound_policies_round_trip() {
    let http =
        HttpRoutes { routes: Arc::new([route_of(http_rule())]), breaker: Some(breaker()), min_ready: 2 };
    let consecutive = FailureAccrual::Consecutive {
        max_failures: 7,
        backoff: Backoff { min: Duration::from_secs(1), max: Duration::from_secs(60), jitter: 0.5 },
    };
    let missing = RouteBackend {
        backend: Arc::new(Backend { dispatch: Dispatch::Missing, ..(*balanced("gone").backend).clone() }),
        filters: vec![Filter::InjectFailure(Injection {
            answer: InjectedAnswer::Http(http::StatusCode::INTERNAL_SERVER_ERROR),
            message: "invalid backend".into(),
            ratio: (1, 1),
        })],
    };
    let gone = Rule { backends: Distribution::FirstAvailable(vec![missing]), ..http_rule() };
    let other = HttpRoutes { routes: Arc::new([route_of(gone)]), breaker: Some(consecutive), min_ready: 0 };
    let grpc = HttpRoutes { routes: Arc::new([route_of(grpc_rule())]), breaker: None, min_ready: 0 };
    let sni = vec![HostMatch::Exact("a.x".into()), HostMatch::Suffix { reversed_labels: vec!["x".into()] }];
    for protocol in [
        OutboundProtocol::Detect {
            timeout: Duration::from_secs(10),
            http1: http.clone(),
            http2: http.clone(),
            opaque: vec![tcp_route("opaq", vec![])],
        },
        OutboundProtocol::Http1(http.clone()),
        OutboundProtocol::Http2(other),
        OutboundProtocol::Grpc(grpc),
        OutboundProtocol::Opaque(vec![]),
        OutboundProtocol::Tls(vec![tcp_route("a", sni), tcp_route("b", vec![])]),
    ] {
        let value = OutboundPolicy { meta: resource("Service", "web"), protocol };
        let bytes = outbound_policy(&value);
        assert_eq!(read(decode::outbound_policy(&mut &bytes[..])), value);
    }
}

#[test]
fn inbound_policies_round_trip() {
    let plain = |name: &str| {
        Meta::Resource(Arc::new(Resource {
            group: "policy.linkerd.io".into(),
            kind: "server".into(),
            namespace: String::new(),
            name: name.into(),
            section: String::new(),
            port: None,
        }))
    };
    let hole =
        NetworkMatch { net: "10.0.0.0/8".parse().unwrap(), except: vec!["10.1.0.0/16".parse().unwrap()] };
    let authenticated = Authentication::TlsAuthenticated {
        ids: vec!["web.shop".parse().unwrap(), "spiffe://m/web".parse().unwrap()],
        suffixes: vec![Suffix(String::new()), Suffix("shop.mesh".into())],
    };
    let authorize = |name, authentication| Authorization {
        meta: Meta::default_named(name),
        networks: vec![hole.clone(), NetworkMatch::from("fd00::/8".parse::<ipnet::IpNet>().unwrap())],
        authentication,
    };
    let mut rule = Rule {
        backends: Distribution::Application,
        timeouts: Timeouts::default(),
        retry: None,
        allow_request_headers: false,
        ..http_rule()
    };
    rule.filters.retain(|f| !matches!(f, Filter::ResponseHeaders(_)));
    let mut route = route_of(rule);
    route.authorizations = vec![authorize("probe", Authentication::TlsUnauthenticated)];
    let limit = RateLimit {
        meta: resource("HTTPLocalRateLimitPolicy", "l"),
        total: Some(100),
        identity: Some(10),
        overrides: vec![(20, vec!["web.shop".parse().unwrap()])],
    };
    let http = InboundRoutes { routes: Arc::new([route]), rate_limit: Some(Arc::new(limit)) };
    let grpc_rule =
        Rule { filters: vec![], ..Rule { matches: grpc_rule().matches, ..http.routes[0].rules[0].clone() } };
    let grpc = InboundRoutes { routes: Arc::new([route_of(grpc_rule)]), rate_limit: None };
    // What a decoder appends is there already.
    let localhost = Authorization {
        meta: Meta::default_named("localhost"),
        networks: ["127.0.0.1/32", "::1/128"]
            .map(|n| NetworkMatch::from(n.parse::<ipnet::IpNet>().unwrap()))
            .to_vec(),
        authentication: Authentication::Unauthenticated,
    };
    for protocol in [
        InboundProtocol::Detect { timeout: Duration::from_secs(10), http: http.clone() },
        InboundProtocol::Detect { timeout: Duration::from_secs(1), http: InboundRoutes::default() },
        InboundProtocol::Http1(http.clone()),
        InboundProtocol::Http2(http.clone()),
        InboundProtocol::Grpc(grpc),
        InboundProtocol::Opaque,
        InboundProtocol::Tls,
    ] {
        let authorizations = vec![
            authorize("a", authenticated.clone()),
            authorize("b", Authentication::Unauthenticated),
            localhost.clone(),
        ];
        for meta in [plain("web"), Meta::default_named("all-unauthenticated")] {
            let (protocol, authorizations) = (protocol.clone(), authorizations.clone());
            let value = InboundPolicy { meta, protocol, authorizations };
            let bytes = inbound_policy(&value);
            assert_eq!(read(decode::inbound_policy(&mut &bytes[..])), value);
        }
    }
}

#[test]
fn what_a_message_cannot_say_refuses_instead_of_admitting() {
    let decode_rules = |rules: Vec<Rule>, grpc: bool| {
        let route = Route { rules, ..route_of(http_rule()) };
        let routes = HttpRoutes { routes: Arc::new([route]), breaker: None, min_ready: 0 };
        let protocol = if grpc { OutboundProtocol::Grpc(routes) } else { OutboundProtocol::Http1(routes) };
        let bytes = outbound_policy(&OutboundPolicy { meta: resource("Service", "web"), protocol });
        match read(decode::outbound_policy(&mut &bytes[..])).protocol {
            OutboundProtocol::Http1(http) | OutboundProtocol::Grpc(http) => http.routes[0].rules.clone(),
            other => panic!("{other:?}"),
        }
    };
    // A rule whose matches are of the other kind goes; it does not come to match everything.
    assert_eq!(decode_rules(vec![grpc_rule()], false).len(), 0);
    assert_eq!(decode_rules(vec![http_rule()], true).len(), 0);
    // Refusing filters become failures that always happen.
    let answers = |filter: Filter, grpc| {
        let rule = Rule { matches: vec![], filters: vec![filter], ..http_rule() };
        decode_rules(vec![rule], grpc)[0]
            .filters
            .iter()
            .map(|f| match f {
                Filter::InjectFailure(i) => (i.answer.clone(), i.ratio),
                other => panic!("{other:?}"),
            })
            .next()
    };
    let http = |status| Some((InjectedAnswer::Http(http::StatusCode::from_u16(status).unwrap()), (1, 1)));
    let grpc = |code| Some((InjectedAnswer::Grpc(code), (1, 1)));
    let invalid = || Filter::Invalid { message: "m".into() };
    assert_eq!(answers(Filter::Forbidden, false), http(403));
    assert_eq!(answers(invalid(), false), http(500));
    assert_eq!(answers(Filter::Forbidden, true), grpc(7));
    assert_eq!(answers(invalid(), true), grpc(13));
    assert_eq!(answers(Filter::Redirect(Redirect::default()), true), grpc(13));
    assert_eq!(answers(Filter::ResponseHeaders(HeaderChange::default()), true), None);
    // A foreign proxy panics on several backends without weight.
    let weightless = Distribution::RandomAvailable(vec![(balanced("a"), 0), (balanced("b"), 0)]);
    for backends in [weightless, Distribution::FirstAvailable(vec![]), Distribution::Application] {
        let rules = decode_rules(vec![Rule { backends, ..http_rule() }], false);
        assert_eq!(rules[0].backends, Distribution::Empty);
    }
}

#[test]
fn damaged_messages_never_panic() {
    let http =
        HttpRoutes { routes: Arc::new([route_of(http_rule())]), breaker: Some(breaker()), min_ready: 0 };
    let detect = OutboundProtocol::Detect {
        timeout: Duration::from_secs(10),
        http1: http.clone(),
        http2: http,
        opaque: vec![tcp_route("opaq", vec![])],
    };
    let outbound = outbound_policy(&OutboundPolicy { meta: resource("Service", "web"), protocol: detect });
    let endpoints =
        endpoint_update(&EndpointUpdate::Add((1..4).map(rich_endpoint).collect()), &Labels::default());
    let inbound = inbound_policy(&InboundPolicy {
        meta: Meta::default_named("all-authenticated"),
        protocol: InboundProtocol::Http1(InboundRoutes {
            routes: Arc::new([route_of(http_rule())]),
            rate_limit: None,
        }),
        authorizations: DefaultPolicy::AllAuthenticated.authorizations(&[]),
    });
    // A small reproducible generator: the damage is the same in every run.
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut draw = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for message in [outbound, endpoints, inbound] {
        for _ in 0..3_000 {
            let mut bytes = message.to_vec();
            for _ in 0..=draw() % 4 {
                let at = (draw() as usize) % bytes.len();
                bytes[at] = draw() as u8;
            }
            bytes.truncate(bytes.len() - (draw() as usize) % 8);
            let _ = decode::endpoint_update(&mut &bytes[..]);
            let _ = decode::profile(&mut &bytes[..], NonZeroU16::MIN);
            let _ = decode::outbound_policy(&mut &bytes[..]);
            let _ = decode::inbound_policy(&mut &bytes[..]);
        }
    }
}
