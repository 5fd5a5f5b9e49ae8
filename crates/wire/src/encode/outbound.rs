//! Outbound policies as messages (§1F of the control plane). Pure.

use super::{duration, endpoint, meta, route};
use linkerd2_proxy_api as api;
use linkerd2_proxy_api::outbound;
use weft_model::policy::{FailureAccrual, HttpRoutes, OutboundPolicy, OutboundProtocol, TcpRoute};
use weft_model::route::{
    Backend, Backoff, Dispatch, Distribution, Filter, Labels, LoadParams, RetryPolicy, Route, Rule, Timeouts,
};

pub(super) fn policy(policy: &OutboundPolicy) -> outbound::OutboundPolicy {
    use outbound::proxy_protocol::{Detect, Grpc, Http1, Http2, Kind, Opaque, Tls};
    let opaque = |routes: &[TcpRoute]| Opaque { routes: routes.iter().map(opaque_route).collect() };
    let http1 = |r: &HttpRoutes| Http1 { routes: http_routes(r), failure_accrual: breaker(r) };
    let http2 = |r: &HttpRoutes| Http2 { routes: http_routes(r), failure_accrual: breaker(r) };
    let kind = match &policy.protocol {
        OutboundProtocol::Detect { timeout, http1: one, http2: two, opaque: tcp } => Kind::Detect(Detect {
            timeout: Some(duration(*timeout)),
            opaque: Some(opaque(tcp)),
            http1: Some(http1(one)),
            http2: Some(http2(two)),
        }),
        OutboundProtocol::Http1(routes) => Kind::Http1(http1(routes)),
        OutboundProtocol::Http2(routes) => Kind::Http2(http2(routes)),
        OutboundProtocol::Grpc(routes) => Kind::Grpc(Grpc {
            routes: routes.routes.iter().map(grpc_route).collect(),
            failure_accrual: breaker(routes),
        }),
        OutboundProtocol::Opaque(routes) => Kind::Opaque(opaque(routes)),
        OutboundProtocol::Tls(routes) => Kind::Tls(Tls { routes: routes.iter().map(tls_route).collect() }),
    };
    let protocol = Some(outbound::ProxyProtocol { kind: Some(kind) });
    outbound::OutboundPolicy { protocol, metadata: meta(&policy.meta) }
}

fn http_routes(routes: &HttpRoutes) -> Vec<outbound::HttpRoute> {
    routes.routes.iter().map(http_route).collect()
}

fn http_route(from: &Route) -> outbound::HttpRoute {
    outbound::HttpRoute {
        metadata: meta(&from.meta),
        hosts: route::hosts(&from.hosts),
        rules: from.rules.iter().filter_map(http_rule).collect(),
    }
}

fn grpc_route(from: &Route) -> outbound::GrpcRoute {
    outbound::GrpcRoute {
        metadata: meta(&from.meta),
        hosts: route::hosts(&from.hosts),
        rules: from.rules.iter().filter_map(grpc_rule).collect(),
    }
}

#[expect(deprecated, reason = "older proxies read only the old field")]
fn http_rule(rule: &Rule) -> Option<outbound::http_route::Rule> {
    Some(outbound::http_route::Rule {
        matches: route::http_matches(&rule.matches)?,
        filters: rule.filters.iter().map(http_filter).collect(),
        backends: Some(http_distribution(&rule.backends)),
        request_timeout: rule.timeouts.request.map(duration),
        timeouts: timeouts(&rule.timeouts),
        retry: rule.retry.as_ref().map(http_retry),
        allow_l5d_request_headers: rule.allow_request_headers,
    })
}

#[expect(deprecated, reason = "older proxies read only the old field")]
fn grpc_rule(rule: &Rule) -> Option<outbound::grpc_route::Rule> {
    Some(outbound::grpc_route::Rule {
        matches: route::grpc_matches(&rule.matches)?,
        filters: rule.filters.iter().filter_map(grpc_filter).collect(),
        backends: Some(grpc_distribution(&rule.backends)),
        request_timeout: rule.timeouts.request.map(duration),
        timeouts: timeouts(&rule.timeouts),
        retry: rule.retry.as_ref().map(grpc_retry),
        allow_l5d_request_headers: rule.allow_request_headers,
    })
}

fn opaque_route(from: &TcpRoute) -> outbound::OpaqueRoute {
    let rule = outbound::opaque_route::Rule {
        backends: Some(opaque_distribution(&from.backends)),
        filters: from.filters.iter().map(opaque_filter).collect(),
    };
    outbound::OpaqueRoute { metadata: meta(&from.meta), rules: vec![rule] }
}

fn tls_route(from: &TcpRoute) -> outbound::TlsRoute {
    let rule = outbound::tls_route::Rule {
        backends: Some(tls_distribution(&from.backends)),
        filters: from.filters.iter().map(tls_filter).collect(),
    };
    outbound::TlsRoute { metadata: meta(&from.meta), snis: route::snis(&from.snis), rules: vec![rule] }
}

/// Defines the writer of one protocol's distribution, the four of which differ only in their types.
macro_rules! distribution {
    ($name:ident, $protocol:ident, |$filters:ident| $write:expr $(, $old:ident)?) => {
        fn $name(from: &Distribution) -> outbound::$protocol::Distribution {
            use outbound::$protocol::distribution::{Empty, FirstAvailable, Kind, RandomAvailable};
            use outbound::$protocol::{RouteBackend, WeightedRouteBackend};
            #[allow(deprecated, reason = "the literal must name the old field too")]
            let one = |b: &weft_model::route::RouteBackend| {
                let $filters = &b.filters;
                RouteBackend { backend: Some(backend(&b.backend)), filters: $write $(, $old: None)? }
            };
            let kind = match from {
                Distribution::FirstAvailable(backends) if !backends.is_empty() => {
                    Kind::FirstAvailable(FirstAvailable { backends: backends.iter().map(one).collect() })
                }
                // Several backends without any weight would crash a foreign proxy.
                Distribution::RandomAvailable(backends) if backends.iter().any(|(_, w)| *w > 0) => {
                    let weighted = |(b, weight): &(_, u32)| WeightedRouteBackend {
                        backend: Some(one(b)),
                        weight: *weight,
                    };
                    Kind::RandomAvailable(RandomAvailable {
                        backends: backends.iter().map(weighted).collect(),
                    })
                }
                _ => Kind::Empty(Empty {}),
            };
            outbound::$protocol::Distribution { kind: Some(kind) }
        }
    };
}

distribution!(http_distribution, http_route, |f| f.iter().map(http_filter).collect(), request_timeout);
distribution!(grpc_distribution, grpc_route, |f| f.iter().filter_map(grpc_filter).collect(), request_timeout);
distribution!(opaque_distribution, opaque_route, |f| f.iter().map(opaque_filter).collect());
distribution!(tls_distribution, tls_route, |f| f.iter().map(tls_filter).collect());

fn backend(from: &Backend) -> outbound::Backend {
    use outbound::backend::{BalanceP2c, EndpointDiscovery, Kind, endpoint_discovery};
    let kind = match &from.dispatch {
        Dispatch::Missing => None,
        Dispatch::Forward(info) => Some(Kind::Forward(endpoint::endpoint(info, &Labels::default()))),
        Dispatch::Balance { dst, load: params } => {
            let get = endpoint_discovery::DestinationGet { path: dst.to_string() };
            let discovery = EndpointDiscovery { kind: Some(endpoint_discovery::Kind::Dst(get)) };
            Some(Kind::Balancer(BalanceP2c { discovery: Some(discovery), load: Some(load(params)) }))
        }
    };
    let queue = outbound::Queue {
        capacity: u32::try_from(from.queue.capacity).unwrap_or(u32::MAX),
        failfast_timeout: Some(duration(from.queue.failfast)),
    };
    outbound::Backend { metadata: meta(&from.meta), queue: Some(queue), kind }
}

fn load(params: &LoadParams) -> outbound::backend::balance_p2c::Load {
    use outbound::backend::balance_p2c::{Load, PeakEwma, PenaltyPeakEwma};
    let (default_rtt, decay) = (Some(duration(params.default_rtt)), Some(duration(params.decay)));
    match params.penalty {
        None => Load::PeakEwma(PeakEwma { default_rtt, decay }),
        Some(penalty) => Load::PenaltyPeakEwma(PenaltyPeakEwma {
            default_rtt,
            decay,
            penalty: Some(duration(penalty.penalty)),
            max_retry_after: Some(duration(penalty.max_retry_after)),
            penalty_decay: Some(duration(penalty.decay)),
        }),
    }
}

fn breaker(routes: &HttpRoutes) -> Option<outbound::FailureAccrual> {
    use outbound::failure_accrual::{ConsecutiveFailures, Kind, Unified};
    let kind = match routes.breaker? {
        FailureAccrual::Consecutive { max_failures, backoff: waits } => {
            Kind::ConsecutiveFailures(ConsecutiveFailures {
                max_failures,
                backoff: Some(backoff(waits, RetryAfter::Ignored)),
            })
        }
        FailureAccrual::Unified {
            success_rate,
            window,
            min_requests,
            max_consecutive,
            backoff: waits,
            respect_retry_after,
        } => Kind::Unified(Unified {
            success_rate_threshold: success_rate,
            decay: Some(duration(window)),
            min_requests,
            max_consecutive_failures: max_consecutive,
            backoff: Some(backoff(waits, RetryAfter::from(respect_retry_after))),
        }),
    };
    let floor = (routes.min_ready > 0).then_some(routes.min_ready);
    let ejection = floor.map(|min_ready_endpoints| outbound::EjectionConfig { min_ready_endpoints });
    Some(outbound::FailureAccrual { ejection, kind: Some(kind) })
}

/// Whether a backoff gives way to the server's own hint.
#[derive(Clone, Copy, PartialEq)]
enum RetryAfter {
    Ignored,
    Respected,
}

impl From<bool> for RetryAfter {
    fn from(respected: bool) -> Self {
        if respected { RetryAfter::Respected } else { RetryAfter::Ignored }
    }
}

fn backoff(waits: Backoff, retry_after: RetryAfter) -> outbound::ExponentialBackoff {
    outbound::ExponentialBackoff {
        min_backoff: Some(duration(waits.min)),
        max_backoff: Some(duration(waits.max)),
        jitter_ratio: waits.jitter as f32,
        respect_retry_after_hint: retry_after == RetryAfter::Respected,
    }
}

fn timeouts(from: &Timeouts) -> Option<api::http_route::Timeouts> {
    (*from != Timeouts::default()).then(|| api::http_route::Timeouts {
        response: from.response.map(duration),
        request: from.request.map(duration),
        idle: from.idle.map(duration),
    })
}

fn http_retry(retry: &RetryPolicy) -> outbound::http_route::Retry {
    use outbound::http_route::retry::{Conditions, conditions::StatusRange};
    let range = |r: &weft_model::route::StatusRange| StatusRange { start: r.min.into(), end: r.max.into() };
    outbound::http_route::Retry {
        // The peer refuses the whole policy when this exceeds 16 bits.
        max_retries: retry.limit.min(u16::MAX.into()),
        max_request_bytes: u32::try_from(retry.max_request_bytes).unwrap_or(u32::MAX),
        conditions: Some(Conditions { status_ranges: retry.http.iter().map(range).collect() }),
        timeout: retry.timeout.map(duration),
        backoff: retry.backoff.map(|b| backoff(b, retry.respect_retry_after.into())),
    }
}

fn grpc_retry(retry: &RetryPolicy) -> outbound::grpc_route::Retry {
    let on = |code| retry.grpc.contains(&code);
    outbound::grpc_route::Retry {
        max_retries: retry.limit,
        max_request_bytes: u32::try_from(retry.max_request_bytes).unwrap_or(u32::MAX),
        conditions: Some(outbound::grpc_route::retry::Conditions {
            cancelled: on(1),
            deadine_exceeded: on(4),
            resource_exhausted: on(8),
            internal: on(13),
            unavailable: on(14),
        }),
        timeout: retry.timeout.map(duration),
        backoff: retry.backoff.map(|b| backoff(b, retry.respect_retry_after.into())),
    }
}

fn http_filter(from: &Filter) -> outbound::http_route::Filter {
    use outbound::http_route::filter::Kind;
    let kind = match from {
        Filter::RequestHeaders(change) => Kind::RequestHeaderModifier(route::request_headers(change)),
        Filter::ResponseHeaders(change) => Kind::ResponseHeaderModifier(route::response_headers(change)),
        Filter::Redirect(redirect) => Kind::Redirect(route::redirect(redirect)),
        Filter::InjectFailure(failure) => Kind::FailureInjector(route::http_failure(failure)),
        Filter::Invalid { message } => Kind::FailureInjector(route::always_http(500, message)),
        Filter::Forbidden => Kind::FailureInjector(route::always_http(403, "traffic not allowed")),
    };
    outbound::http_route::Filter { kind: Some(kind) }
}

fn grpc_filter(from: &Filter) -> Option<outbound::grpc_route::Filter> {
    use outbound::grpc_route::filter::Kind;
    let kind = match route::grpc_effect(from)? {
        route::GrpcEffect::Headers(change) => Kind::RequestHeaderModifier(change),
        route::GrpcEffect::Failure(failure) => Kind::FailureInjector(failure),
    };
    Some(outbound::grpc_route::Filter { kind: Some(kind) })
}

/// Connections know only refusal; any other filter is refused as invalid.
fn opaque_filter(from: &Filter) -> outbound::opaque_route::Filter {
    use outbound::opaque_route::filter::Kind;
    let kind = match refusal(from) {
        Some(message) => Kind::Invalid(api::opaque_route::Invalid { message }),
        None => Kind::Forbidden(api::opaque_route::Forbidden {}),
    };
    outbound::opaque_route::Filter { kind: Some(kind) }
}

fn tls_filter(from: &Filter) -> outbound::tls_route::Filter {
    use outbound::tls_route::filter::Kind;
    let kind = match refusal(from) {
        Some(message) => Kind::Invalid(api::opaque_route::Invalid { message }),
        None => Kind::Forbidden(api::opaque_route::Forbidden {}),
    };
    outbound::tls_route::Filter { kind: Some(kind) }
}

/// What to say when refusing a connection; `None`: it is forbidden.
fn refusal(filter: &Filter) -> Option<String> {
    match filter {
        Filter::Forbidden => None,
        Filter::Invalid { message } => Some(message.clone()),
        _ => Some("a filter that connections cannot have".into()),
    }
}
