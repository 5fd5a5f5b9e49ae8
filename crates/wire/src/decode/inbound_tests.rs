//! One table per rule of §2.5, each starting from a server that is valid.

use super::super::{Decoded, with_warnings};
use super::*;
use inbound::authn::{Permit, PermitMeshTls, PermitUnauthenticated, permit_mesh_tls};
use inbound::proxy_protocol::{Detect, Grpc, Http1, Kind};

fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn detect() -> Kind {
    let timeout = Some(prost_types::Duration { seconds: 10, nanos: 0 });
    Kind::Detect(Detect { timeout, ..Default::default() })
}

fn message(kind: Kind, authorizations: Vec<inbound::Authz>) -> inbound::Server {
    inbound::Server {
        protocol: Some(inbound::ProxyProtocol { kind: Some(kind) }),
        server_ips: vec![],
        authorizations,
        labels: labels(&[("name", "web")]),
    }
}

fn decode(message: inbound::Server) -> Decoded<InboundPolicy> {
    with_warnings(|w| server_or_invalid(message, w))
}

fn is_invalid(decoded: &Decoded<InboundPolicy>) -> bool {
    let invalid = decoded.value.meta == Meta::default_named("invalid");
    assert_eq!(!decoded.warnings.is_empty(), invalid);
    invalid
}

fn net(ip: &str, prefix_len: u32) -> inbound::Network {
    let ip: IpAddr = ip.parse().unwrap();
    inbound::Network { net: Some(net::IpNetwork { ip: Some(ip.into()), prefix_len }), except: vec![] }
}

fn authz() -> inbound::Authz {
    inbound::Authz {
        networks: vec![net("0.0.0.0", 0)],
        authentication: Some(inbound::Authn {
            permit: Some(Permit::Unauthenticated(PermitUnauthenticated {})),
        }),
        labels: labels(&[("name", "a")]),
        metadata: None,
    }
}

#[test]
fn an_invalid_server_admits_nobody() {
    let mut unlabelled = message(detect(), vec![]);
    unlabelled.labels.clear();
    let decoded = decode(unlabelled);
    assert!(is_invalid(&decoded));
    assert_eq!(decoded.value.authorizations, []);
    assert!(matches!(decoded.value.protocol, InboundProtocol::Detect { .. }));
    let no_protocol = inbound::Server { protocol: None, ..message(detect(), vec![]) };
    assert!(is_invalid(&decode(no_protocol)));
    assert!(is_invalid(&decode(message(Kind::Detect(Detect::default()), vec![]))), "no timeout");
}

#[test]
fn the_application_may_always_talk_to_itself() {
    let decoded = decode(message(detect(), vec![]));
    assert_eq!(decoded.value.authorizations, [localhost()]);
    assert_eq!(localhost().networks.len(), 2);
    let decoded = decode(message(detect(), vec![authz()]));
    assert_eq!(decoded.value.authorizations.last(), Some(&localhost()));
    assert_eq!(decoded.value.authorizations.len(), 2);
}

#[test]
fn labels_say_in_two_ways_what_the_server_is() {
    for (pairs, expected) in [
        (&[("name", "web")][..], Some(("policy.linkerd.io", "server", "web"))),
        (&[("group", "g"), ("kind", "k"), ("name", "web")], Some(("g", "k", "web"))),
        (&[("group", ""), ("kind", "default"), ("name", "deny")], Some(("", "default", "deny"))),
        (&[("kind", "default"), ("name", "deny")], Some(("", "default", "deny"))),
        (&[("name", "default:all-unauthenticated")], Some(("", "default", "all-unauthenticated"))),
        (&[("name", "server:web")], Some(("policy.linkerd.io", "server", "web"))),
        (&[("kind", "server")], None),
    ] {
        let meta = meta_from_labels(labels(pairs), "server").ok();
        assert_eq!(meta.as_ref().map(|m| (m.group(), m.kind(), m.name())), expected, "{pairs:?}");
    }
}

#[test]
fn authorizations_are_validated() {
    use inbound::{Authn, Authz};
    let metadata = || {
        let kind = linkerd2_proxy_api::meta::metadata::Kind::Default("probe".into());
        Some(linkerd2_proxy_api::meta::Metadata { kind: Some(kind) })
    };
    let tls = |clients| Some(Authn { permit: Some(Permit::MeshTls(PermitMeshTls { clients })) });
    let identity = |name: &str| {
        let identities = vec![inbound::Identity { name: name.into() }];
        Some(permit_mesh_tls::Clients::Identities(permit_mesh_tls::PermitClientIdentities {
            identities,
            suffixes: vec![],
        }))
    };
    let hole = inbound::Network { except: vec![net::IpNetwork::default()], ..net("10.0.0.0", 8) };
    for (authz, valid) in [
        (authz(), true),
        (Authz { labels: HashMap::new(), metadata: metadata(), ..authz() }, true),
        (Authz { labels: HashMap::new(), ..authz() }, false),
        (Authz { networks: vec![], ..authz() }, false),
        (Authz { networks: vec![net("10.0.0.0", 33)], ..authz() }, false),
        (Authz { networks: vec![net("10.0.0.0", 300)], ..authz() }, false),
        (Authz { networks: vec![net("fd00::", 64)], ..authz() }, true),
        (Authz { networks: vec![inbound::Network::default()], ..authz() }, false),
        (Authz { networks: vec![hole], ..authz() }, false),
        (Authz { authentication: None, ..authz() }, false),
        (Authz { authentication: Some(Authn { permit: None }), ..authz() }, false),
        (Authz { authentication: tls(None), ..authz() }, false),
        (Authz { authentication: tls(identity("web.x")), ..authz() }, true),
        (Authz { authentication: tls(identity("spiffe://m/web")), ..authz() }, true),
        (Authz { authentication: tls(identity("a b")), ..authz() }, false),
    ] {
        assert_eq!(authorization(authz.clone()).is_ok(), valid, "{authz:?}");
        assert_eq!(is_invalid(&decode(message(detect(), vec![authz]))), !valid);
    }
}

#[test]
fn suffixes_are_joined_and_the_empty_one_admits_every_identity() {
    for (parts, expected) in [(vec![], ""), (vec!["shop".to_owned(), "x".to_owned()], "shop.x")] {
        let suffixes = vec![inbound::IdentitySuffix { parts }];
        let clients = permit_mesh_tls::PermitClientIdentities { identities: vec![], suffixes };
        let clients = Some(permit_mesh_tls::Clients::Identities(clients));
        let read = authentication(Permit::MeshTls(PermitMeshTls { clients })).unwrap();
        let suffixes = vec![Suffix(expected.into())];
        assert_eq!(read, Authentication::TlsAuthenticated { ids: vec![], suffixes });
    }
}

#[test]
fn filters_that_are_unknown_or_make_no_sense_fail_their_own_requests() {
    use inbound::{GrpcRoute, HttpRoute, grpc_route as gr, http_route as hr};
    let metadata = || {
        let kind = linkerd2_proxy_api::meta::metadata::Kind::Default("r".into());
        Some(linkerd2_proxy_api::meta::Metadata { kind: Some(kind) })
    };
    let with = |kind| {
        let rule = hr::Rule { matches: vec![], filters: vec![hr::Filter { kind }] };
        let route = HttpRoute { metadata: metadata(), rules: vec![rule], ..Default::default() };
        message(Kind::Http1(Http1 { routes: vec![route], local_rate_limit: None }), vec![])
    };
    let InboundProtocol::Http1(http) = decode(with(None)).value.protocol else { panic!() };
    let rule = &http.routes[0].rules[0];
    assert!(matches!(rule.filters[..], [Filter::Invalid { .. }]));
    assert_eq!(rule.backends, weft_model::route::Distribution::Application);
    let bad = linkerd2_proxy_api::http_route::HttpFailureInjector { status: 1, ..Default::default() };
    let decoded = decode(with(Some(hr::filter::Kind::FailureInjector(bad))));
    let InboundProtocol::Http1(http) = decoded.value.protocol else { panic!() };
    assert!(matches!(http.routes[0].rules[0].filters[..], [Filter::Invalid { .. }]));

    let rule = gr::Rule { matches: vec![], filters: vec![gr::Filter { kind: None }] };
    let route = GrpcRoute { metadata: metadata(), rules: vec![rule], ..Default::default() };
    let decoded = decode(message(Kind::Grpc(Grpc { routes: vec![route] }), vec![]));
    let InboundProtocol::Grpc(grpc) = decoded.value.protocol else { panic!() };
    assert!(matches!(grpc.routes[0].rules[0].filters[..], [Filter::Invalid { .. }]));
}

#[test]
fn rate_limits_are_positive() {
    use inbound::http_local_rate_limit::{Limit, Override, r#override::ClientIdentities};
    let metadata = || {
        let kind = linkerd2_proxy_api::meta::metadata::Kind::Default("l".into());
        Some(linkerd2_proxy_api::meta::Metadata { kind: Some(kind) })
    };
    let limit = |n| Some(Limit { requests_per_second: n });
    let clients = || {
        let identities = vec![inbound::Identity { name: "web.x".into() }];
        Some(ClientIdentities { identities })
    };
    let with = |total, identity, overrides| inbound::HttpLocalRateLimit {
        metadata: metadata(),
        total,
        identity,
        overrides,
    };
    for (message, valid) in [
        (with(limit(10), None, vec![]), true),
        (with(None, None, vec![]), true),
        (with(limit(0), None, vec![]), false),
        (with(None, limit(0), vec![]), false),
        (with(None, None, vec![Override { limit: limit(5), clients: clients() }]), true),
        (with(None, None, vec![Override { limit: limit(0), clients: clients() }]), false),
        (with(None, None, vec![Override { limit: None, clients: clients() }]), false),
        (with(None, None, vec![Override { limit: limit(5), clients: None }]), false),
        (inbound::HttpLocalRateLimit { metadata: None, ..with(limit(1), None, vec![]) }, false),
    ] {
        assert_eq!(rate_limit(message.clone()).is_ok(), valid, "{message:?}");
    }
}
