//! Pieces of policy in words, one line each: what `why.rs` tells step by step and `difference.rs` compares.
//!
//! The same piece always has the same words, and two pieces that differ in effect have different ones. It decides nothing.

use std::fmt::Write as _;
use weft_model::authorization::{Authentication, Authorization, NetworkMatch};
use weft_model::duration;
use weft_model::meta::Meta;
use weft_model::policy::{FailureAccrual, InboundProtocol, OutboundProtocol, RateLimit};
use weft_model::route::{
    Dispatch, Distribution, Filter, HeaderMatch, HeaderValueMatch, HostMatch, InjectedAnswer, PathMatch,
    PathRewrite, QueryValueMatch, RequestMatch, RetryPolicy, Route, RouteBackend, Rule, Timeouts,
};

/// Where something comes from: `HTTPRoute shop/web`, `Service shop/web:80`, `default http`.
pub(crate) fn origin(meta: &Meta) -> String {
    match meta {
        Meta::Default(name) => format!("default {name}"),
        Meta::Resource(r) => {
            let kind = match r.kind.as_str() {
                "server" => "Server",
                "serverauthorization" => "ServerAuthorization",
                "authorizationpolicy" => "AuthorizationPolicy",
                kind => kind,
            };
            let port = r.port.map(|port| format!(":{port}")).unwrap_or_default();
            format!("{kind} {}/{}{port}", r.namespace, r.name)
        }
    }
}

pub(crate) fn host(host: &HostMatch) -> String {
    match host {
        HostMatch::Exact(host) => host.clone(),
        HostMatch::Suffix { reversed_labels } => {
            let labels: Vec<_> = reversed_labels.iter().rev().map(String::as_str).collect();
            format!("*.{}", labels.join("."))
        }
    }
}

pub(crate) fn hosts(list: &[HostMatch]) -> String {
    list.iter().map(host).collect::<Vec<_>>().join(", ")
}

fn header(of: &HeaderMatch) -> String {
    match &of.value {
        HeaderValueMatch::Exact(bytes) => {
            format!("header {} is `{}`", of.name, String::from_utf8_lossy(bytes))
        }
        HeaderValueMatch::Regex(pattern) => format!("header {} like `{}`", of.name, pattern.0),
    }
}

/// What one match looks for.
fn one_match(of: &RequestMatch) -> String {
    let mut parts = Vec::new();
    match of {
        RequestMatch::Http(http) => {
            parts.extend(http.method.iter().map(|method| method.to_string()));
            parts.extend(http.path.iter().map(|path| match path {
                PathMatch::Exact(path) => format!("path {path} exactly"),
                PathMatch::Prefix(path) if path == "/" => "any path".to_owned(),
                PathMatch::Prefix(path) => format!("paths below {path}"),
                PathMatch::Regex(pattern) => format!("paths like `{}`", pattern.0),
            }));
            parts.extend(http.headers.iter().map(header));
            parts.extend(http.query.iter().map(|query| match &query.value {
                QueryValueMatch::Exact(text) => format!("parameter {} is `{text}`", query.name),
                QueryValueMatch::Regex(pattern) => format!("parameter {} like `{}`", query.name, pattern.0),
            }));
        }
        RequestMatch::Grpc(grpc) => {
            parts.extend(grpc.service.iter().map(|service| format!("service {service}")));
            parts.extend(grpc.method.iter().map(|method| format!("method {method}")));
            parts.extend(grpc.headers.iter().map(header));
        }
    }
    match parts.is_empty() {
        true => "everything".to_owned(),
        false => parts.join(" and "),
    }
}

/// What a rule looks for.
pub(crate) fn matches(list: &[RequestMatch]) -> String {
    match list {
        [] => "everything".to_owned(),
        list => list.iter().map(one_match).collect::<Vec<_>>().join(", or "),
    }
}

pub(crate) fn filter(of: &Filter) -> String {
    let change = |what: &str, of: &weft_model::route::HeaderChange| {
        let pair = |verb: &str, name: &http::HeaderName, value: &http::HeaderValue| {
            format!("{verb} {name}: {}", String::from_utf8_lossy(value.as_bytes()))
        };
        let mut parts: Vec<String> = of.add.iter().map(|(n, v)| pair("add", n, v)).collect();
        parts.extend(of.set.iter().map(|(n, v)| pair("set", n, v)));
        parts.extend(of.remove.iter().map(|name| format!("remove {name}")));
        format!("{what} headers: {}", parts.join(", "))
    };
    match of {
        Filter::RequestHeaders(of) => change("request", of),
        Filter::ResponseHeaders(of) => change("response", of),
        Filter::Redirect(to) => {
            let status = to.status.map_or(301, |status| status.as_u16());
            let mut text = format!("answers {status}, a redirect");
            let mut part = |name: &str, value: Option<String>| {
                if let Some(value) = value {
                    // Writing to a string cannot fail.
                    let _ = write!(text, ", {name} {value}");
                }
            };
            part("scheme", to.scheme.clone());
            part("host", to.host.clone());
            part("port", to.port.map(|port| port.to_string()));
            part(
                "path",
                to.path.as_ref().map(|path| match path {
                    PathRewrite::Full(path) => path.clone(),
                    PathRewrite::Prefix(prefix) => format!("prefix {prefix}"),
                }),
            );
            text
        }
        Filter::InjectFailure(failure) => {
            let answer = match failure.answer {
                InjectedAnswer::Http(status) => status.as_u16().to_string(),
                InjectedAnswer::Grpc(code) => format!("gRPC code {code}"),
            };
            let share = match failure.ratio {
                (a, b) if a >= b => String::new(),
                (a, b) => format!(" to {a} of {b} requests"),
            };
            format!("answers {answer}{share}: {}", failure.message)
        }
        Filter::Invalid { message } => format!("answers 500: {message}"),
        Filter::Forbidden => "refuses: traffic not allowed".to_owned(),
    }
}

fn backend(of: &RouteBackend) -> String {
    let mut text = origin(&of.backend.meta);
    if let Dispatch::Forward(to) = &of.backend.dispatch {
        let _ = write!(text, " at {}", to.addr);
    }
    for one in &of.filters {
        let _ = write!(text, " ({})", filter(one));
    }
    text
}

/// Where requests go, with shares.
pub(crate) fn distribution(of: &Distribution) -> String {
    match of {
        Distribution::Empty => "nowhere".to_owned(),
        Distribution::Application => "the application".to_owned(),
        Distribution::FirstAvailable(list) => list.iter().map(backend).collect::<Vec<_>>().join(", else "),
        Distribution::RandomAvailable(list) => {
            let total: u64 = list.iter().map(|(_, weight)| u64::from(*weight)).sum();
            let leg = |(one, weight): &(RouteBackend, u32)| match list.len() {
                1 => backend(one),
                _ => {
                    let share = f64::from(*weight) * 100.0 / total.max(1) as f64;
                    format!("{} {}%", backend(one), (share * 10.0).round() / 10.0)
                }
            };
            list.iter().map(leg).collect::<Vec<_>>().join(", ")
        }
    }
}

/// Time limits and retries; nothing if there are none.
pub(crate) fn limits(timeouts: &Timeouts, retry: Option<&RetryPolicy>) -> Option<String> {
    let mut parts = Vec::new();
    let mut limit = |name: &str, limit: Option<std::time::Duration>| {
        parts.extend(limit.map(|limit| format!("{name} {}", duration::format(limit))));
    };
    limit("request timeout", timeouts.request);
    limit("response timeout", timeouts.response);
    limit("idle timeout", timeouts.idle);
    if let Some(retry) = retry {
        let mut on: Vec<String> = retry
            .http
            .iter()
            .map(|r| if r.min == r.max { r.min.to_string() } else { format!("{}-{}", r.min, r.max) })
            .collect();
        on.extend(retry.grpc.iter().map(|code| format!("gRPC code {code}")));
        let each = retry.timeout.map(|t| format!(", {} each", duration::format(t))).unwrap_or_default();
        let after = if retry.respect_retry_after { ", as late as Retry-After asks" } else { "" };
        parts.push(format!("{} retries on {}{each}{after}", retry.limit, on.join(", ")));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// A rule on one line, but for its origin.
pub(crate) fn rule(of: &Rule) -> String {
    let mut text = format!("{} → {}", matches(&of.matches), distribution(&of.backends));
    for one in &of.filters {
        let _ = write!(text, "; {}", filter(one));
    }
    if let Some(limits) = limits(&of.timeouts, of.retry.as_ref()) {
        let _ = write!(text, "; {limits}");
    }
    text
}

/// Every rule of a route, on a line each.
pub(crate) fn route(of: &Route) -> Vec<String> {
    let hosts = if of.hosts.is_empty() { String::new() } else { format!("for {}: ", hosts(&of.hosts)) };
    let from = origin(&of.meta);
    of.rules.iter().map(|one| format!("{from}: {hosts}{}", rule(one))).collect()
}

fn network(of: &NetworkMatch) -> String {
    match of.except.as_slice() {
        [] => of.net.to_string(),
        except => {
            let except: Vec<_> = except.iter().map(ToString::to_string).collect();
            format!("{} except {}", of.net, except.join(" and "))
        }
    }
}

/// Whom an authorization admits, and from where.
pub(crate) fn admits(of: &Authorization) -> String {
    let whom = match &of.authentication {
        Authentication::Unauthenticated => "everybody".to_owned(),
        Authentication::TlsUnauthenticated => "everybody over TLS of the mesh".to_owned(),
        Authentication::TlsAuthenticated { ids, suffixes } => {
            let mut all: Vec<String> = ids.iter().map(ToString::to_string).collect();
            all.extend(suffixes.iter().map(|suffix| match suffix.0.as_str() {
                "" => "every identity".to_owned(),
                suffix => format!("*.{suffix}"),
            }));
            if all.is_empty() { "nobody".to_owned() } else { all.join(", ") }
        }
    };
    let everywhere = of.networks.iter().any(|n| n.net.prefix_len() == 0 && n.except.is_empty());
    let from = if everywhere {
        "anywhere".to_owned()
    } else {
        of.networks.iter().map(network).collect::<Vec<_>>().join(", ")
    };
    format!("{whom} from {from}")
}

pub(crate) fn rate_limit(of: &RateLimit) -> String {
    let mut parts = Vec::new();
    parts.extend(of.total.map(|rate| format!("{rate} requests a second in all")));
    parts.extend(of.identity.map(|rate| format!("{rate} from each identity")));
    for (rate, ids) in &of.overrides {
        let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
        parts.push(format!("{rate} from each of {}", ids.join(", ")));
    }
    format!("{}: {}", origin(&of.meta), parts.join(", "))
}

pub(crate) fn breaker(of: &FailureAccrual) -> String {
    match of {
        FailureAccrual::Consecutive { max_failures, .. } => {
            format!("an endpoint is left alone after {max_failures} failures in a row")
        }
        FailureAccrual::Unified { success_rate, window, min_requests, max_consecutive, .. } => format!(
            "an endpoint is left alone below {}% success over {} and {min_requests} requests, or after \
             {max_consecutive} failures in a row",
            success_rate * 100.0,
            duration::format(*window)
        ),
    }
}

/// What a port speaks, outbound.
pub(crate) fn outbound_protocol(of: &OutboundProtocol) -> &'static str {
    match of {
        OutboundProtocol::Detect { .. } => "detected",
        OutboundProtocol::Http1(_) => "HTTP/1",
        OutboundProtocol::Http2(_) => "HTTP/2",
        OutboundProtocol::Grpc(_) => "gRPC",
        OutboundProtocol::Opaque(_) => "bytes",
        OutboundProtocol::Tls(_) => "TLS",
    }
}

/// What a port speaks, inbound.
pub(crate) fn inbound_protocol(of: &InboundProtocol) -> &'static str {
    match of {
        InboundProtocol::Detect { .. } => "detected",
        InboundProtocol::Http1(_) => "HTTP/1",
        InboundProtocol::Http2(_) => "HTTP/2",
        InboundProtocol::Grpc(_) => "gRPC",
        InboundProtocol::Opaque => "bytes",
        InboundProtocol::Tls => "TLS",
    }
}
