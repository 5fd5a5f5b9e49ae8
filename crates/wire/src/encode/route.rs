//! The parts of the route language that outbound and inbound messages share. Pure.

use http::{HeaderName, HeaderValue};
use linkerd2_proxy_api::{grpc_route, http_route, http_types, tls_route};
use weft_model::route::{
    Filter, GrpcMatch, HeaderChange, HeaderMatch, HeaderValueMatch, HostMatch, HttpMatch, InjectedAnswer,
    Injection, PathMatch, PathRewrite, QueryMatch, QueryValueMatch, Redirect, RequestMatch,
};

/// gRPC INTERNAL, for what a gRPC route cannot express otherwise.
const GRPC_INTERNAL: u16 = 13;

pub(super) fn hosts(hosts: &[HostMatch]) -> Vec<http_route::HostMatch> {
    use http_route::host_match::{Match, Suffix};
    let write = |host: &HostMatch| match host {
        HostMatch::Exact(name) => Match::Exact(name.clone()),
        HostMatch::Suffix { reversed_labels } => {
            Match::Suffix(Suffix { reverse_labels: reversed_labels.clone() })
        }
    };
    hosts.iter().map(|h| http_route::HostMatch { r#match: Some(write(h)) }).collect()
}

pub(super) fn snis(snis: &[HostMatch]) -> Vec<tls_route::SniMatch> {
    use tls_route::sni_match::{Match, Suffix};
    let write = |sni: &HostMatch| match sni {
        HostMatch::Exact(name) => Match::Exact(name.clone()),
        HostMatch::Suffix { reversed_labels } => {
            Match::Suffix(Suffix { reverse_labels: reversed_labels.clone() })
        }
    };
    snis.iter().map(|s| tls_route::SniMatch { r#match: Some(write(s)) }).collect()
}

/// The HTTP matches of a rule. `None`: the rule has matches, none of them for HTTP; such a rule must be
/// left out, because one without matches would match everything.
pub(super) fn http_matches(matches: &[RequestMatch]) -> Option<Vec<http_route::HttpRouteMatch>> {
    let only = |m: &RequestMatch| match m {
        RequestMatch::Http(m) => Some(http_match(m)),
        RequestMatch::Grpc(_) => None,
    };
    let written: Vec<_> = matches.iter().filter_map(only).collect();
    (matches.is_empty() || !written.is_empty()).then_some(written)
}

/// The gRPC matches of a rule, as [`http_matches`].
pub(super) fn grpc_matches(matches: &[RequestMatch]) -> Option<Vec<grpc_route::GrpcRouteMatch>> {
    let only = |m: &RequestMatch| match m {
        RequestMatch::Grpc(m) => Some(grpc_match(m)),
        RequestMatch::Http(_) => None,
    };
    let written: Vec<_> = matches.iter().filter_map(only).collect();
    (matches.is_empty() || !written.is_empty()).then_some(written)
}

fn http_match(from: &HttpMatch) -> http_route::HttpRouteMatch {
    use http_route::path_match::Kind;
    let path = from.path.as_ref().map(|path| match path {
        PathMatch::Exact(path) => Kind::Exact(path.clone()),
        PathMatch::Prefix(path) => Kind::Prefix(path.clone()),
        PathMatch::Regex(pattern) => Kind::Regex(pattern.0.clone()),
    });
    http_route::HttpRouteMatch {
        path: path.map(|kind| http_route::PathMatch { kind: Some(kind) }),
        headers: from.headers.iter().map(header_match).collect(),
        query_params: from.query.iter().map(query_match).collect(),
        method: from.method.clone().map(Into::into),
    }
}

fn grpc_match(from: &GrpcMatch) -> grpc_route::GrpcRouteMatch {
    let rpc = grpc_route::GrpcRpcMatch {
        service: from.service.clone().unwrap_or_default(),
        method: from.method.clone().unwrap_or_default(),
    };
    let headers = from.headers.iter().map(header_match).collect();
    grpc_route::GrpcRouteMatch { rpc: Some(rpc), headers }
}

fn header_match(from: &HeaderMatch) -> http_route::HeaderMatch {
    use http_route::header_match::Value;
    let value = match &from.value {
        HeaderValueMatch::Exact(bytes) => Value::Exact(bytes.clone()),
        HeaderValueMatch::Regex(pattern) => Value::Regex(pattern.0.clone()),
    };
    http_route::HeaderMatch { name: from.name.to_string(), value: Some(value) }
}

fn query_match(from: &QueryMatch) -> http_route::QueryParamMatch {
    use http_route::query_param_match::Value;
    let value = match &from.value {
        QueryValueMatch::Exact(text) => Value::Exact(text.clone()),
        QueryValueMatch::Regex(pattern) => Value::Regex(pattern.0.clone()),
    };
    http_route::QueryParamMatch { name: from.name.clone(), value: Some(value) }
}

fn headers(headers: &[(HeaderName, HeaderValue)]) -> Option<http_types::Headers> {
    use http_types::headers::Header;
    let write = |(name, value): &(HeaderName, HeaderValue)| Header {
        name: name.to_string(),
        value: value.as_bytes().to_vec(),
    };
    (!headers.is_empty()).then(|| http_types::Headers { headers: headers.iter().map(write).collect() })
}

fn names(names: &[HeaderName]) -> Vec<String> {
    names.iter().map(HeaderName::to_string).collect()
}

pub(super) fn request_headers(change: &HeaderChange) -> http_route::RequestHeaderModifier {
    let HeaderChange { add, set, remove } = change;
    http_route::RequestHeaderModifier { add: headers(add), set: headers(set), remove: names(remove) }
}

pub(super) fn response_headers(change: &HeaderChange) -> http_route::ResponseHeaderModifier {
    let HeaderChange { add, set, remove } = change;
    http_route::ResponseHeaderModifier { add: headers(add), set: headers(set), remove: names(remove) }
}

pub(super) fn redirect(from: &Redirect) -> http_route::RequestRedirect {
    use http_route::path_modifier::Replace;
    let path = from.path.as_ref().map(|path| match path {
        PathRewrite::Full(path) => Replace::Full(path.clone()),
        PathRewrite::Prefix(prefix) => Replace::Prefix(prefix.clone()),
    });
    http_route::RequestRedirect {
        scheme: from.scheme.as_deref().map(Into::into),
        host: from.host.clone().unwrap_or_default(),
        path: path.map(|replace| http_route::PathModifier { replace: Some(replace) }),
        port: from.port.unwrap_or(0).into(),
        status: from.status.map_or(0, |s| s.as_u16().into()),
    }
}

/// An injected failure as HTTP knows it; a gRPC code becomes a 500.
pub(super) fn http_failure(from: &Injection) -> http_route::HttpFailureInjector {
    let status = match &from.answer {
        InjectedAnswer::Http(status) => status.as_u16(),
        InjectedAnswer::Grpc(_) => 500,
    };
    let ratio = Some(ratio(from.ratio));
    http_route::HttpFailureInjector { status: status.into(), message: from.message.clone(), ratio }
}

/// An injected failure as gRPC knows it; an HTTP status becomes INTERNAL.
fn grpc_failure(from: &Injection) -> grpc_route::GrpcFailureInjector {
    let code = match &from.answer {
        InjectedAnswer::Grpc(code) => *code,
        InjectedAnswer::Http(_) => GRPC_INTERNAL,
    };
    let ratio = Some(ratio(from.ratio));
    grpc_route::GrpcFailureInjector { code: code.into(), message: from.message.clone(), ratio }
}

/// A failure that always happens, for filters that a message cannot carry.
pub(super) fn always_http(status: u16, message: &str) -> http_route::HttpFailureInjector {
    let ratio = Some(ratio((1, 1)));
    http_route::HttpFailureInjector { status: status.into(), message: message.into(), ratio }
}

/// As [`always_http`], for gRPC.
/// What a filter comes to on a gRPC route, inbound or outbound.
pub(super) enum GrpcEffect {
    Headers(http_route::RequestHeaderModifier),
    Failure(grpc_route::GrpcFailureInjector),
}

/// gRPC routes cannot change response headers (left out: harmless) nor redirect (refused).
pub(super) fn grpc_effect(from: &Filter) -> Option<GrpcEffect> {
    let fail = |code, message: &str| GrpcEffect::Failure(always_grpc(code, message));
    Some(match from {
        Filter::RequestHeaders(change) => GrpcEffect::Headers(request_headers(change)),
        Filter::ResponseHeaders(_) => return None,
        Filter::Redirect(_) => fail(GRPC_INTERNAL, "a gRPC route cannot redirect"),
        Filter::InjectFailure(failure) => GrpcEffect::Failure(grpc_failure(failure)),
        Filter::Invalid { message } => fail(GRPC_INTERNAL, message),
        Filter::Forbidden => fail(7, "traffic not allowed"),
    })
}

fn always_grpc(code: u16, message: &str) -> grpc_route::GrpcFailureInjector {
    let ratio = Some(ratio((1, 1)));
    grpc_route::GrpcFailureInjector { code: code.into(), message: message.into(), ratio }
}

fn ratio((numerator, denominator): (u32, u32)) -> http_route::Ratio {
    http_route::Ratio { numerator, denominator }
}
