//! Inbound servers (§2.5). One invalid value invalidates the whole server, which then admits nobody.
//! Only an unknown filter is less: it makes its own rule answer 500. Pure.

use super::endpoint::ip;
use super::{Warnings, gather, lenient_meta, required_duration, route};
use crate::WireError;
use ipnet::IpNet;
use linkerd2_proxy_api::{http_route, inbound, meta, net};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;
use weft_model::identity::Id;
use weft_model::meta::{Meta, Resource};
use weft_model::policy::{
    Authentication, Authorization, InboundPolicy, InboundProtocol, InboundRoutes, NetworkMatch, RateLimit,
    Suffix,
};
use weft_model::route::{Filter, RequestMatch, Route, Rule};

/// How long an invalid server looks at a connection before it refuses it.
const INVALID_DETECT: Duration = Duration::from_secs(10);

/// Group of a server or authorization whose labels do not name one.
const DEFAULT_GROUP: &str = "policy.linkerd.io";

/// Reads a server, or makes one that admits nobody and warns why.
pub(super) fn server_or_invalid(message: inbound::Server, warnings: &mut Warnings) -> InboundPolicy {
    match server(message) {
        Ok(policy) => policy,
        Err(e) => {
            warnings.add(format!("the inbound policy is invalid, so nobody is admitted: {e}"));
            InboundPolicy {
                meta: Meta::default_named("invalid"),
                protocol: InboundProtocol::Detect { timeout: INVALID_DETECT, http: InboundRoutes::default() },
                authorizations: Vec::new(),
            }
        }
    }
}

fn server(message: inbound::Server) -> Result<InboundPolicy, WireError> {
    let meta = meta_from_labels(message.labels, "server")?;
    let kind = message.protocol.and_then(|p| p.kind).ok_or(WireError::Missing("protocol"))?;
    let mut authorizations =
        message.authorizations.into_iter().map(authorization).collect::<Result<Vec<_>, _>>()?;
    let localhost = localhost();
    if !authorizations.contains(&localhost) {
        authorizations.push(localhost);
    }
    Ok(InboundPolicy { meta, protocol: protocol(kind)?, authorizations })
}

/// The application may always talk to itself.
fn localhost() -> Authorization {
    let networks = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)].map(IpNet::from);
    Authorization {
        meta: Meta::default_named("localhost"),
        networks: networks.map(NetworkMatch::from).to_vec(),
        authentication: Authentication::Unauthenticated,
    }
}

/// Origin in labels: `group`, `kind` and `name`; or, from older control planes, a name `kind:name`.
fn meta_from_labels(mut labels: HashMap<String, String>, default_kind: &str) -> Result<Meta, WireError> {
    let name = labels.remove("name").ok_or(WireError::Missing("label `name`"))?;
    let group = labels.remove("group");
    let (kind, name) = match (labels.remove("kind"), name.split_once(':')) {
        (Some(kind), _) => (kind, name),
        (None, Some((kind, rest))) => (kind.to_owned(), rest.to_owned()),
        (None, None) => (default_kind.to_owned(), name),
    };
    if kind == "default" && group.as_deref().unwrap_or_default().is_empty() {
        return Ok(Meta::default_named(&name));
    }
    Ok(Meta::Resource(Arc::new(Resource {
        group: group.unwrap_or_else(|| DEFAULT_GROUP.to_owned()),
        kind,
        namespace: String::new(),
        name,
        section: String::new(),
        port: None,
    })))
}

fn protocol(kind: inbound::proxy_protocol::Kind) -> Result<InboundProtocol, WireError> {
    use inbound::proxy_protocol::Kind::*;
    Ok(match kind {
        Detect(d) => InboundProtocol::Detect {
            timeout: required_duration(d.timeout, "detect.timeout")?,
            http: http_routes(d.http_routes, d.http_local_rate_limit)?,
        },
        Http1(http) => InboundProtocol::Http1(http_routes(http.routes, http.local_rate_limit)?),
        Http2(http) => InboundProtocol::Http2(http_routes(http.routes, http.local_rate_limit)?),
        Grpc(grpc) => {
            let routes = grpc.routes.into_iter().map(grpc_route).collect::<Result<_, _>>()?;
            InboundProtocol::Grpc(InboundRoutes { routes, rate_limit: None })
        }
        Opaque(_) => InboundProtocol::Opaque,
        Tls(_) => InboundProtocol::Tls,
    })
}

fn http_routes(
    routes: Vec<inbound::HttpRoute>,
    limit: Option<inbound::HttpLocalRateLimit>,
) -> Result<InboundRoutes, WireError> {
    let routes = routes.into_iter().map(http_route).collect::<Result<_, _>>()?;
    Ok(InboundRoutes { routes, rate_limit: limit.map(rate_limit).transpose()?.map(Arc::new) })
}

fn http_route(message: inbound::HttpRoute) -> Result<Route, WireError> {
    let read = |rule: inbound::http_route::Rule| {
        let matches = rule.matches.into_iter().map(|m| route::http_match(m).map(RequestMatch::Http));
        let filters = rule.filters.into_iter().map(|f| http_filter(f.kind));
        Ok(Rule::inbound(gather(matches)?, super::filters(filters)))
    };
    let about = (message.metadata, message.hosts, message.authorizations);
    inbound_route(about, message.rules.into_iter().map(read))
}

fn grpc_route(message: inbound::GrpcRoute) -> Result<Route, WireError> {
    let read = |rule: inbound::grpc_route::Rule| {
        let matches = rule.matches.into_iter().map(|m| route::grpc_match(m).map(RequestMatch::Grpc));
        let filters = rule.filters.into_iter().map(|f| grpc_filter(f.kind));
        Ok(Rule::inbound(gather(matches)?, super::filters(filters)))
    };
    let about = (message.metadata, message.hosts, message.authorizations);
    inbound_route(about, message.rules.into_iter().map(read))
}

/// What routes of both protocols have beside their rules.
type About = (Option<meta::Metadata>, Vec<http_route::HostMatch>, Vec<inbound::Authz>);

fn inbound_route(
    (metadata, hosts, authorizations): About,
    rules: impl Iterator<Item = Result<Rule, WireError>>,
) -> Result<Route, WireError> {
    Ok(Route {
        meta: lenient_meta(metadata, "route metadata")?,
        hosts: route::hosts(hosts)?,
        rules: rules.collect::<Result<_, WireError>>()?,
        authorizations: gather(authorizations.into_iter().map(authorization))?,
    })
}

fn http_filter(kind: Option<inbound::http_route::filter::Kind>) -> Result<Filter, WireError> {
    use inbound::http_route::filter::Kind::*;
    match kind {
        Some(FailureInjector(failure)) => route::http_failure(failure),
        Some(RequestHeaderModifier(change)) => route::request_headers(change),
        Some(Redirect(redirect)) => route::redirect(redirect),
        None => Ok(unknown_filter()),
    }
}

fn grpc_filter(kind: Option<inbound::grpc_route::filter::Kind>) -> Result<Filter, WireError> {
    use inbound::grpc_route::filter::Kind::*;
    match kind {
        Some(FailureInjector(failure)) => route::grpc_failure(failure),
        Some(RequestHeaderModifier(change)) => route::request_headers(change),
        None => Ok(unknown_filter()),
    }
}

fn unknown_filter() -> Filter {
    Filter::Invalid { message: "a filter of an unknown kind".into() }
}

fn authorization(message: inbound::Authz) -> Result<Authorization, WireError> {
    let meta = match message.metadata {
        Some(metadata) => lenient_meta(Some(metadata), "authorization metadata")?,
        None => meta_from_labels(message.labels, "serverauthorization")?,
    };
    if message.networks.is_empty() {
        return Err(WireError::Missing("networks of an authorization"));
    }
    let networks = gather(message.networks.into_iter().map(network))?;
    let permit = message.authentication.and_then(|a| a.permit);
    let authentication = authentication(permit.ok_or(WireError::Missing("authentication"))?)?;
    Ok(Authorization { meta, networks, authentication })
}

fn network(message: inbound::Network) -> Result<NetworkMatch, WireError> {
    let net = ip_network(message.net.ok_or(WireError::Missing("net of a network"))?)?;
    let except = gather(message.except.into_iter().map(ip_network))?;
    Ok(NetworkMatch { net, except })
}

fn ip_network(message: net::IpNetwork) -> Result<IpNet, WireError> {
    let addr = message.ip.and_then(ip).ok_or(WireError::Missing("address of a network"))?;
    let length = u8::try_from(message.prefix_len).map_err(|e| WireError::invalid("prefix_len", e))?;
    IpNet::new(addr, length).map_err(|e| WireError::invalid("prefix_len", e))
}

fn authentication(permit: inbound::authn::Permit) -> Result<Authentication, WireError> {
    use inbound::authn::Permit;
    use inbound::authn::permit_mesh_tls::Clients;
    match permit {
        Permit::Unauthenticated(_) => Ok(Authentication::Unauthenticated),
        Permit::MeshTls(tls) => match tls.clients.ok_or(WireError::Missing("meshTLS clients"))? {
            Clients::Unauthenticated(_) => Ok(Authentication::TlsUnauthenticated),
            Clients::Identities(clients) => Ok(Authentication::TlsAuthenticated {
                ids: identities(clients.identities)?,
                suffixes: clients.suffixes.into_iter().map(|s| Suffix(s.parts.join("."))).collect(),
            }),
        },
    }
}

fn identities(messages: Vec<inbound::Identity>) -> Result<Vec<Id>, WireError> {
    let read = |id: inbound::Identity| id.name.parse().map_err(|e| WireError::invalid("identity", e));
    messages.into_iter().map(read).collect()
}

fn rate_limit(message: inbound::HttpLocalRateLimit) -> Result<RateLimit, WireError> {
    type Limit = inbound::http_local_rate_limit::Limit;
    let read = |limit: Limit| match limit.requests_per_second {
        0 => Err(WireError::invalid("requests_per_second", "it is 0")),
        rate => Ok(rate),
    };
    let read_override = |o: inbound::http_local_rate_limit::Override| {
        let rate = read(o.limit.ok_or(WireError::Missing("limit of a rate override"))?)?;
        let clients = o.clients.ok_or(WireError::Missing("clients of a rate override"))?;
        Ok((rate, identities(clients.identities)?))
    };
    Ok(RateLimit {
        meta: lenient_meta(message.metadata, "rate limit metadata")?,
        total: message.total.map(read).transpose()?,
        identity: message.identity.map(read).transpose()?,
        overrides: message.overrides.into_iter().map(read_override).collect::<Result<_, WireError>>()?,
    })
}

#[cfg(test)]
#[path = "inbound_tests.rs"]
mod tests;
