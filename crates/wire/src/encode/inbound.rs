//! Inbound servers as messages (§1E.4 of the control plane). Pure.

use super::{duration, meta, route};
use ipnet::IpNet;
use linkerd2_proxy_api::{inbound, net};
use std::collections::HashMap;
use weft_model::identity::Id;
use weft_model::meta::Meta;
use weft_model::policy::{
    Authentication, Authorization, InboundPolicy, InboundProtocol, InboundRoutes, NetworkMatch, RateLimit,
    Suffix,
};
use weft_model::route::{Filter, Route, Rule};

pub(super) fn server(policy: &InboundPolicy) -> inbound::Server {
    use inbound::proxy_protocol::{Detect, Grpc, Http1, Http2, Kind, Opaque, Tls};
    let routes = |http: &InboundRoutes| http.routes.iter().map(http_route).collect();
    let limit = |http: &InboundRoutes| http.rate_limit.as_deref().map(rate_limit);
    let kind = match &policy.protocol {
        InboundProtocol::Detect { timeout, http } => Kind::Detect(Detect {
            timeout: Some(duration(*timeout)),
            http_routes: routes(http),
            http_local_rate_limit: limit(http),
        }),
        InboundProtocol::Http1(http) => {
            Kind::Http1(Http1 { routes: routes(http), local_rate_limit: limit(http) })
        }
        InboundProtocol::Http2(http) => {
            Kind::Http2(Http2 { routes: routes(http), local_rate_limit: limit(http) })
        }
        InboundProtocol::Grpc(http) => {
            Kind::Grpc(Grpc { routes: http.routes.iter().map(grpc_route).collect() })
        }
        InboundProtocol::Opaque => Kind::Opaque(Opaque {}),
        InboundProtocol::Tls => Kind::Tls(Tls {}),
    };
    inbound::Server {
        protocol: Some(inbound::ProxyProtocol { kind: Some(kind) }),
        server_ips: Vec::new(),
        authorizations: policy.authorizations.iter().map(authorization).collect(),
        labels: origin_labels(&policy.meta),
    }
}

/// The origin as labels, which the inbound messages use beside or instead of metadata.
fn origin_labels(origin: &Meta) -> HashMap<String, String> {
    let labels = [("group", origin.group()), ("kind", origin.kind()), ("name", origin.name())];
    labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

fn http_route(from: &Route) -> inbound::HttpRoute {
    let rule = |rule: &Rule| {
        let filters = rule.filters.iter().filter_map(http_filter).collect();
        Some(inbound::http_route::Rule { matches: route::http_matches(&rule.matches)?, filters })
    };
    inbound::HttpRoute {
        metadata: meta(&from.meta),
        hosts: route::hosts(&from.hosts),
        authorizations: from.authorizations.iter().map(authorization).collect(),
        rules: from.rules.iter().filter_map(rule).collect(),
    }
}

fn grpc_route(from: &Route) -> inbound::GrpcRoute {
    let rule = |rule: &Rule| {
        let filters = rule.filters.iter().filter_map(grpc_filter).collect();
        Some(inbound::grpc_route::Rule { matches: route::grpc_matches(&rule.matches)?, filters })
    };
    inbound::GrpcRoute {
        metadata: meta(&from.meta),
        hosts: route::hosts(&from.hosts),
        authorizations: from.authorizations.iter().map(authorization).collect(),
        rules: from.rules.iter().filter_map(rule).collect(),
    }
}

/// Inbound messages cannot change response headers; that is left out, as the peer does.
fn http_filter(from: &Filter) -> Option<inbound::http_route::Filter> {
    use inbound::http_route::filter::Kind;
    let kind = match from {
        Filter::RequestHeaders(change) => Kind::RequestHeaderModifier(route::request_headers(change)),
        Filter::ResponseHeaders(_) => return None,
        Filter::Redirect(redirect) => Kind::Redirect(route::redirect(redirect)),
        Filter::InjectFailure(failure) => Kind::FailureInjector(route::http_failure(failure)),
        Filter::Invalid { message } => Kind::FailureInjector(route::always_http(500, message)),
        Filter::Forbidden => Kind::FailureInjector(route::always_http(403, "traffic not allowed")),
    };
    Some(inbound::http_route::Filter { kind: Some(kind) })
}

fn grpc_filter(from: &Filter) -> Option<inbound::grpc_route::Filter> {
    use inbound::grpc_route::filter::Kind;
    let kind = match route::grpc_effect(from)? {
        route::GrpcEffect::Headers(change) => Kind::RequestHeaderModifier(change),
        route::GrpcEffect::Failure(failure) => Kind::FailureInjector(failure),
    };
    Some(inbound::grpc_route::Filter { kind: Some(kind) })
}

fn authorization(from: &Authorization) -> inbound::Authz {
    inbound::Authz {
        networks: from.networks.iter().map(network).collect(),
        authentication: Some(inbound::Authn { permit: Some(permit(&from.authentication)) }),
        labels: origin_labels(&from.meta),
        metadata: meta(&from.meta),
    }
}

fn network(from: &NetworkMatch) -> inbound::Network {
    inbound::Network {
        net: Some(ip_network(&from.net)),
        except: from.except.iter().map(ip_network).collect(),
    }
}

fn ip_network(net: &IpNet) -> net::IpNetwork {
    (*net).into()
}

fn permit(from: &Authentication) -> inbound::authn::Permit {
    use inbound::authn::permit_mesh_tls::{Clients, PermitClientIdentities};
    use inbound::authn::{Permit, PermitMeshTls, PermitUnauthenticated};
    let tls = |clients| Permit::MeshTls(PermitMeshTls { clients: Some(clients) });
    match from {
        Authentication::Unauthenticated => Permit::Unauthenticated(PermitUnauthenticated {}),
        Authentication::TlsUnauthenticated => tls(Clients::Unauthenticated(PermitUnauthenticated {})),
        Authentication::TlsAuthenticated { ids, suffixes } => {
            let identities = identities(ids);
            let suffixes = suffixes.iter().map(suffix).collect();
            tls(Clients::Identities(PermitClientIdentities { identities, suffixes }))
        }
    }
}

fn identities(ids: &[Id]) -> Vec<inbound::Identity> {
    ids.iter().map(|id| inbound::Identity { name: id.to_string() }).collect()
}

/// The empty suffix, which admits every identity, has no parts.
fn suffix(suffix: &Suffix) -> inbound::IdentitySuffix {
    let parts = suffix.0.split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    inbound::IdentitySuffix { parts }
}

fn rate_limit(from: &RateLimit) -> inbound::HttpLocalRateLimit {
    use inbound::http_local_rate_limit::{Limit, Override, r#override::ClientIdentities};
    let limit = |requests_per_second| Limit { requests_per_second };
    let write = |(rate, ids): &(u32, Vec<Id>)| Override {
        limit: Some(limit(*rate)),
        clients: Some(ClientIdentities { identities: identities(ids) }),
    };
    inbound::HttpLocalRateLimit {
        metadata: meta(&from.meta),
        total: from.total.map(limit),
        identity: from.identity.map(limit),
        overrides: from.overrides.iter().map(write).collect(),
    }
}
