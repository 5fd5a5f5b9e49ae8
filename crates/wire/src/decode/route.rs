//! The parts of the route language that outbound and inbound routes share: hosts, matches and filters
//! (§2.4, §3.4, Appendix A). Here every invalid value is an error, which invalidates the policy. Pure.

use super::gather;
use crate::WireError;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use linkerd2_proxy_api::{grpc_route, http_route, http_types, tls_route};
use weft_model::route::{
    Filter, GrpcMatch, HeaderChange, HeaderMatch, HeaderValueMatch, HostMatch, HttpMatch, InjectedAnswer,
    Injection, PathMatch, PathRewrite, Pattern, QueryMatch, QueryValueMatch, Redirect,
};

/// Longest expression, bytes. Kubernetes' route kinds allow 1,024 for a path.
pub(crate) const MAX_PATTERN: usize = 4096;

/// Largest compiled program of one expression, bytes; the crate's own default of 10 MiB would let one
/// message of many expressions fill the memory.
pub(crate) const MAX_PROGRAM: usize = 1024 * 1024;

/// Admits an expression that compiles by itself and anchored at both ends.
pub(super) fn pattern(text: String) -> Result<Pattern, WireError> {
    let refuse = |why: String| Err(WireError::invalid("regex", why));
    if text.len() > MAX_PATTERN {
        return refuse(format!("it is longer than {MAX_PATTERN} bytes"));
    }
    for form in [&text, &format!("^(?:{text})$")] {
        if let Err(e) = regex::RegexBuilder::new(form).size_limit(MAX_PROGRAM).build() {
            return refuse(e.to_string());
        }
    }
    Ok(Pattern(text))
}

/// Reads the hosts of a route.
pub(super) fn hosts(hosts: Vec<http_route::HostMatch>) -> Result<Vec<HostMatch>, WireError> {
    use http_route::host_match::Match::*;
    let read = |host: http_route::HostMatch| match host.r#match {
        Some(Exact(name)) => Ok(HostMatch::Exact(name)),
        Some(Suffix(suffix)) => Ok(HostMatch::Suffix { reversed_labels: suffix.reverse_labels }),
        None => Err(WireError::Missing("host match")),
    };
    gather(hosts.into_iter().map(read))
}

/// Reads the server names of a TLS route.
pub(super) fn snis(snis: Vec<tls_route::SniMatch>) -> Result<Vec<HostMatch>, WireError> {
    use tls_route::sni_match::Match::*;
    let read = |sni: tls_route::SniMatch| match sni.r#match {
        Some(Exact(name)) => Ok(HostMatch::Exact(name)),
        Some(Suffix(suffix)) => Ok(HostMatch::Suffix { reversed_labels: suffix.reverse_labels }),
        None => Err(WireError::Missing("SNI match")),
    };
    gather(snis.into_iter().map(read))
}

/// Reads an HTTP match.
pub(super) fn http_match(message: http_route::HttpRouteMatch) -> Result<HttpMatch, WireError> {
    Ok(HttpMatch {
        path: message.path.map(path_match).transpose()?,
        headers: gather(message.headers.into_iter().map(header_match))?,
        query: gather(message.query_params.into_iter().map(query_match))?,
        method: message.method.map(method).transpose()?,
    })
}

/// Reads a gRPC match; an empty service or method is a wildcard.
pub(super) fn grpc_match(message: grpc_route::GrpcRouteMatch) -> Result<GrpcMatch, WireError> {
    let rpc = message.rpc.ok_or(WireError::Missing("rpc match"))?;
    let wildcard = |text: String| (!text.is_empty()).then_some(text);
    Ok(GrpcMatch {
        service: wildcard(rpc.service),
        method: wildcard(rpc.method),
        headers: gather(message.headers.into_iter().map(header_match))?,
    })
}

fn path_match(message: http_route::PathMatch) -> Result<PathMatch, WireError> {
    use http_route::path_match::Kind::*;
    Ok(match message.kind.ok_or(WireError::Missing("path match"))? {
        Exact(path) => PathMatch::Exact(path),
        Prefix(path) => PathMatch::Prefix(path),
        Regex(regex) => PathMatch::Regex(pattern(regex)?),
    })
}

fn header_match(message: http_route::HeaderMatch) -> Result<HeaderMatch, WireError> {
    use http_route::header_match::Value::*;
    let value = match message.value.ok_or(WireError::Missing("header match value"))? {
        Exact(bytes) => {
            HeaderValue::from_bytes(&bytes).map_err(|e| WireError::invalid("header value", e))?;
            HeaderValueMatch::Exact(bytes)
        }
        Regex(regex) => HeaderValueMatch::Regex(pattern(regex)?),
    };
    Ok(HeaderMatch { name: header_name(&message.name)?, value })
}

fn query_match(message: http_route::QueryParamMatch) -> Result<QueryMatch, WireError> {
    use http_route::query_param_match::Value::*;
    if message.name.is_empty() {
        return Err(WireError::Missing("query parameter name"));
    }
    let value = match message.value.ok_or(WireError::Missing("query parameter value"))? {
        Exact(text) => QueryValueMatch::Exact(text),
        Regex(regex) => QueryValueMatch::Regex(pattern(regex)?),
    };
    Ok(QueryMatch { name: message.name, value })
}

fn method(message: http_types::HttpMethod) -> Result<Method, WireError> {
    message.try_into().map_err(|e| WireError::invalid("method", e))
}

fn header_name(text: &str) -> Result<HeaderName, WireError> {
    text.parse().map_err(|e| WireError::invalid("header name", e))
}

fn headers(message: Option<http_types::Headers>) -> Result<Vec<(HeaderName, HeaderValue)>, WireError> {
    let read = |header: http_types::headers::Header| {
        let value =
            HeaderValue::from_bytes(&header.value).map_err(|e| WireError::invalid("header value", e))?;
        Ok((header_name(&header.name)?, value))
    };
    message.unwrap_or_default().headers.into_iter().map(read).collect()
}

fn header_change(
    add: Option<http_types::Headers>,
    set: Option<http_types::Headers>,
    remove: Vec<String>,
) -> Result<HeaderChange, WireError> {
    let remove = gather(remove.iter().map(|n| header_name(n)))?;
    Ok(HeaderChange { add: headers(add)?, set: headers(set)?, remove })
}

/// Reads a change of request headers.
pub(super) fn request_headers(m: http_route::RequestHeaderModifier) -> Result<Filter, WireError> {
    header_change(m.add, m.set, m.remove).map(Filter::RequestHeaders)
}

/// Reads a change of response headers.
pub(super) fn response_headers(m: http_route::ResponseHeaderModifier) -> Result<Filter, WireError> {
    header_change(m.add, m.set, m.remove).map(Filter::ResponseHeaders)
}

/// Reads a redirect; an empty host, a port of 0 and a status of 0 mean that it keeps the request's.
pub(super) fn redirect(message: http_route::RequestRedirect) -> Result<Filter, WireError> {
    use http_route::path_modifier::Replace;
    let scheme = message.scheme.map(scheme).transpose()?;
    let host = match message.host.as_str() {
        "" => None,
        host => {
            host.parse::<http::uri::Authority>().map_err(|e| WireError::invalid("redirect host", e))?;
            Some(message.host)
        }
    };
    let absolute = |path: String| match path.starts_with('/') {
        true => Ok(path),
        false => Err(WireError::invalid("redirect path", "it does not start with `/`")),
    };
    let path = match message.path.map(|p| p.replace.ok_or(WireError::Missing("redirect path"))).transpose()? {
        Some(Replace::Full(path)) => Some(PathRewrite::Full(absolute(path)?)),
        Some(Replace::Prefix(path)) => Some(PathRewrite::Prefix(absolute(path)?)),
        None => None,
    };
    let port = u16::try_from(message.port).map_err(|e| WireError::invalid("redirect port", e))?;
    let status = match message.status {
        0 => None,
        other => Some(status(other, "redirect status")?),
    };
    Ok(Filter::Redirect(Redirect { scheme, host, port: (port != 0).then_some(port), path, status }))
}

fn scheme(message: http_types::Scheme) -> Result<String, WireError> {
    let scheme: http::uri::Scheme = message.try_into().map_err(|e| WireError::invalid("scheme", e))?;
    Ok(scheme.as_str().to_owned())
}

fn status(code: u32, field: &'static str) -> Result<StatusCode, WireError> {
    let code = u16::try_from(code).map_err(|e| WireError::invalid(field, e))?;
    StatusCode::from_u16(code).map_err(|e| WireError::invalid(field, e))
}

/// Reads an injected HTTP failure.
pub(super) fn http_failure(message: http_route::HttpFailureInjector) -> Result<Filter, WireError> {
    let answer = InjectedAnswer::Http(status(message.status, "injected status")?);
    Ok(Filter::InjectFailure(Injection { answer, message: message.message, ratio: ratio(message.ratio)? }))
}

/// Reads an injected gRPC failure.
pub(super) fn grpc_failure(message: grpc_route::GrpcFailureInjector) -> Result<Filter, WireError> {
    let code = u16::try_from(message.code).map_err(|e| WireError::invalid("injected code", e))?;
    let answer = InjectedAnswer::Grpc(code);
    Ok(Filter::InjectFailure(Injection { answer, message: message.message, ratio: ratio(message.ratio)? }))
}

/// Absent means always.
fn ratio(message: Option<http_route::Ratio>) -> Result<(u32, u32), WireError> {
    match message.map_or((1, 1), |r| (r.numerator, r.denominator)) {
        (_, 0) => Err(WireError::invalid("ratio", "its denominator is 0")),
        (n, d) if n > d => Err(WireError::invalid("ratio", "it is above 1")),
        ratio => Ok(ratio),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_route::path_match::Kind;
    use http_types::headers::Header;

    #[test]
    fn patterns_compile_by_themselves_and_anchored() {
        for (text, valid) in [
            ("/a.*|/b", true),
            ("", true),
            ("(", false),
            ("a)(b", false),
            ("a{1000}{1000}", false),
            (&"a".repeat(MAX_PATTERN + 1), false),
        ] {
            assert_eq!(pattern(text.into()).is_ok(), valid, "{text}");
        }
    }

    #[test]
    fn matches_with_invalid_parts_are_refused() {
        let header = |name: &str, value| http_route::HeaderMatch { name: name.into(), value };
        let exact = |bytes: &[u8]| Some(http_route::header_match::Value::Exact(bytes.to_vec()));
        let query = |name: &str, value| http_route::QueryParamMatch { name: name.into(), value };
        let text = || Some(http_route::query_param_match::Value::Exact("1".into()));
        let path = |kind| Some(http_route::PathMatch { kind });
        let with = |path, headers, query_params| http_route::HttpRouteMatch {
            path,
            headers,
            query_params,
            method: None,
        };
        for (message, valid) in [
            (with(None, vec![], vec![]), true),
            (with(path(Some(Kind::Prefix("/a".into()))), vec![], vec![]), true),
            (with(path(Some(Kind::Regex("(".into()))), vec![], vec![]), false),
            (with(path(None), vec![], vec![]), false),
            (with(None, vec![header("x-a", exact(b"1"))], vec![]), true),
            (with(None, vec![header("x a", exact(b"1"))], vec![]), false),
            (with(None, vec![header("x-a", exact(b"\n"))], vec![]), false),
            (with(None, vec![header("x-a", None)], vec![]), false),
            (with(None, vec![], vec![query("q", text())]), true),
            (with(None, vec![], vec![query("", text())]), false),
            (with(None, vec![], vec![query("q", None)]), false),
        ] {
            assert_eq!(http_match(message.clone()).is_ok(), valid, "{message:?}");
        }
        assert!(grpc_match(grpc_route::GrpcRouteMatch::default()).is_err());
    }

    #[test]
    fn redirects_are_validated() {
        use http_route::{PathModifier, RequestRedirect, path_modifier::Replace};
        let base = RequestRedirect::default;
        let path = |replace| Some(PathModifier { replace });
        for (message, valid) in [
            (base(), true),
            (RequestRedirect { host: "web.x".into(), port: 8080, status: 302, ..base() }, true),
            (RequestRedirect { host: "a b".into(), ..base() }, false),
            (RequestRedirect { port: 70_000, ..base() }, false),
            (RequestRedirect { status: 99, ..base() }, false),
            (RequestRedirect { status: 70_000, ..base() }, false),
            (RequestRedirect { path: path(Some(Replace::Full("/a".into()))), ..base() }, true),
            (RequestRedirect { path: path(Some(Replace::Full("a".into()))), ..base() }, false),
            (RequestRedirect { path: path(Some(Replace::Prefix(String::new()))), ..base() }, false),
            (RequestRedirect { path: path(None), ..base() }, false),
            (RequestRedirect { scheme: Some("https".into()), ..base() }, true),
            (RequestRedirect { scheme: Some("a b".into()), ..base() }, false),
        ] {
            assert_eq!(redirect(message.clone()).is_ok(), valid, "{message:?}");
        }
    }

    #[test]
    fn failures_have_a_status_and_a_ratio_up_to_one() {
        for (status, ratio, expected) in [
            (503, None, Some((1, 1))),
            (503, Some((1, 3)), Some((1, 3))),
            (503, Some((0, 3)), Some((0, 3))),
            (503, Some((1, 0)), None),
            (503, Some((4, 3)), None),
            (42, None, None),
        ] {
            let ratio = ratio.map(|(numerator, denominator)| http_route::Ratio { numerator, denominator });
            let message = http_route::HttpFailureInjector { status, message: "m".into(), ratio };
            let read = http_failure(message).ok().map(|f| match f {
                Filter::InjectFailure(i) => i.ratio,
                other => panic!("{other:?}"),
            });
            assert_eq!(read, expected);
        }
        let grpc = |code| grpc_route::GrpcFailureInjector { code, ..Default::default() };
        assert!(grpc_failure(grpc(14)).is_ok());
        assert!(grpc_failure(grpc(70_000)).is_err());
    }

    #[test]
    fn header_changes_need_valid_names_and_values() {
        let one = |name: &str, value: &[u8]| {
            Some(http_types::Headers { headers: vec![Header { name: name.into(), value: value.into() }] })
        };
        let change = |add, remove: &[&str]| http_route::RequestHeaderModifier {
            add,
            set: None,
            remove: remove.iter().map(|r| r.to_string()).collect(),
        };
        assert!(request_headers(change(one("x-a", b"1"), &["x-b"])).is_ok());
        assert!(request_headers(change(one("x a", b"1"), &[])).is_err());
        assert!(request_headers(change(one("x-a", b"\r\n"), &[])).is_err());
        assert!(request_headers(change(None, &["x b"])).is_err());
    }
}
