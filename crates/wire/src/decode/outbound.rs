//! Outbound policies (§2.4). One invalid value invalidates the whole policy, which then refuses
//! everything: half a policy could send traffic where it must not go. Pure.

use super::endpoint::endpoint;
use super::{Warnings, duration, gather, meta, optional_duration, required_duration, route};
use crate::WireError;
use linkerd2_proxy_api as api;
use linkerd2_proxy_api::outbound;
use prost::Message;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use weft_model::meta::Meta;
use weft_model::policy::{FailureAccrual, HttpRoutes, OutboundPolicy, OutboundProtocol, TcpRoute};
use weft_model::route::{
    Backend, Backoff, Dispatch, Distribution, Filter, LoadParams, Penalty, Queue, RequestMatch, RetryPolicy,
    Route, RouteBackend, Rule, StatusRange, Timeouts,
};

/// Largest waiting room that a policy may ask for; ten times the proxy's own default.
pub(crate) const MAX_QUEUE: usize = 100_000;

/// How long an invalid policy looks at a connection before it refuses it.
const INVALID_DETECT: Duration = Duration::from_secs(10);

/// Reads a policy, or makes one that refuses everything and warns why.
pub(super) fn policy_or_invalid(
    message: outbound::OutboundPolicy,
    warnings: &mut Warnings,
) -> OutboundPolicy {
    match policy(message, warnings) {
        Ok(policy) => policy,
        Err(e) => {
            warnings.add(format!("the outbound policy is invalid, so everything is refused: {e}"));
            invalid_policy(&e.to_string())
        }
    }
}

/// The policy in force when none can be understood.
fn invalid_policy(why: &str) -> OutboundPolicy {
    let origin = Meta::default_named("invalid");
    let filters = vec![Filter::Invalid { message: why.to_owned() }];
    let rule = Rule {
        matches: Vec::new(),
        filters: filters.clone(),
        backends: Distribution::Empty,
        timeouts: Timeouts::default(),
        retry: None,
        allow_request_headers: false,
    };
    let route =
        Route { meta: origin.clone(), hosts: Vec::new(), rules: vec![rule], authorizations: Vec::new() };
    let http = HttpRoutes { routes: Arc::new([route]), breaker: None, min_ready: 0 };
    let tcp = TcpRoute { meta: origin.clone(), snis: Vec::new(), filters, backends: Distribution::Empty };
    let protocol = OutboundProtocol::Detect {
        timeout: INVALID_DETECT,
        http1: http.clone(),
        http2: http,
        opaque: vec![tcp],
    };
    OutboundPolicy { meta: origin, protocol }
}

fn policy(message: outbound::OutboundPolicy, warnings: &mut Warnings) -> Result<OutboundPolicy, WireError> {
    use outbound::proxy_protocol::Kind::*;
    let mut reader = Reader { warnings, backends: HashMap::new() };
    let kind = message.protocol.and_then(|p| p.kind).ok_or(WireError::Missing("protocol"))?;
    let protocol = match kind {
        Detect(detect) => reader.detect(detect)?,
        Opaque(opaque) => OutboundProtocol::Opaque(reader.opaque(opaque)?),
        Http1(http) => OutboundProtocol::Http1(reader.http(http.routes, http.failure_accrual)?),
        Http2(http) => OutboundProtocol::Http2(reader.http(http.routes, http.failure_accrual)?),
        Grpc(grpc) => {
            let routes = grpc.routes.into_iter().map(|r| reader.grpc_route(r));
            let routes = routes.collect::<Result<Arc<[Route]>, _>>()?;
            OutboundProtocol::Grpc(reader.with_breaker(routes, grpc.failure_accrual)?)
        }
        Tls(tls) => {
            let routes = tls.routes.into_iter().map(|r| reader.tls_route(r));
            OutboundProtocol::Tls(gather(routes)?)
        }
    };
    Ok(OutboundPolicy { meta: meta(message.metadata, "policy metadata")?, protocol })
}

/// Reads one policy; equal backends become one shared value.
struct Reader<'w> {
    warnings: &'w mut Warnings,
    backends: HashMap<Vec<u8>, Arc<Backend>>,
}

/// Defines the reader of one protocol's distribution, the four of which differ only in their types.
macro_rules! distribution {
    ($name:ident, $backend:ident, $filter:ident, $protocol:ident) => {
        impl Reader<'_> {
            fn $name(
                &mut self,
                message: Option<outbound::$protocol::Distribution>,
            ) -> Result<Distribution, WireError> {
                use outbound::$protocol::distribution::Kind::*;
                let kind = message.and_then(|m| m.kind).ok_or(WireError::Missing("distribution"))?;
                match kind {
                    Empty(_) => Ok(Distribution::Empty),
                    FirstAvailable(first) if !first.backends.is_empty() => {
                        let backends = first.backends.into_iter().map(|b| self.$backend(b));
                        Ok(Distribution::FirstAvailable(gather(backends)?))
                    }
                    RandomAvailable(random) if !random.backends.is_empty() => {
                        let read = |b: outbound::$protocol::WeightedRouteBackend| {
                            let backend = b.backend.ok_or(WireError::Missing("weighted backend"))?;
                            Ok((self.$backend(backend)?, b.weight))
                        };
                        let backends = gather(random.backends.into_iter().map(read))?;
                        Ok(self.weighted(backends))
                    }
                    _ => Err(WireError::invalid("distribution", "its list of backends is empty")),
                }
            }

            fn $backend(
                &mut self,
                message: outbound::$protocol::RouteBackend,
            ) -> Result<RouteBackend, WireError> {
                let backend = self.backend(message.backend.ok_or(WireError::Missing("backend"))?)?;
                let read = message.filters.into_iter().map(|f| $filter(f.kind));
                Ok(RouteBackend { backend, filters: super::filters(read) })
            }
        }
    };
}

distribution!(http_distribution, http_backend, http_filter, http_route);
distribution!(grpc_distribution, grpc_backend, grpc_filter, grpc_route);
distribution!(opaque_distribution, opaque_backend, opaque_filter, opaque_route);
distribution!(tls_distribution, tls_backend, tls_filter, tls_route);

impl Reader<'_> {
    fn detect(&mut self, message: outbound::proxy_protocol::Detect) -> Result<OutboundProtocol, WireError> {
        let http1 = message.http1.ok_or(WireError::Missing("detect.http1"))?;
        let http2 = message.http2.ok_or(WireError::Missing("detect.http2"))?;
        let opaque = message.opaque.ok_or(WireError::Missing("detect.opaque"))?;
        let same = http1.routes == http2.routes;
        let http1 = self.http(http1.routes, http1.failure_accrual)?;
        let http2 = match same {
            true => self.with_breaker(http1.routes.clone(), http2.failure_accrual)?,
            false => self.http(http2.routes, http2.failure_accrual)?,
        };
        let timeout = required_duration(message.timeout, "detect.timeout")?;
        Ok(OutboundProtocol::Detect { timeout, http1, http2, opaque: self.opaque(opaque)? })
    }

    fn http(
        &mut self,
        routes: Vec<outbound::HttpRoute>,
        accrual: Option<outbound::FailureAccrual>,
    ) -> Result<HttpRoutes, WireError> {
        let routes = routes.into_iter().map(|r| self.http_route(r)).collect::<Result<_, _>>()?;
        self.with_breaker(routes, accrual)
    }

    fn http_route(&mut self, message: outbound::HttpRoute) -> Result<Route, WireError> {
        Ok(forbidding(Route {
            meta: meta(message.metadata, "route metadata")?,
            hosts: route::hosts(message.hosts)?,
            rules: gather(message.rules.into_iter().map(|r| self.http_rule(r)))?,
            authorizations: Vec::new(),
        }))
    }

    fn grpc_route(&mut self, message: outbound::GrpcRoute) -> Result<Route, WireError> {
        Ok(forbidding(Route {
            meta: meta(message.metadata, "route metadata")?,
            hosts: route::hosts(message.hosts)?,
            rules: gather(message.rules.into_iter().map(|r| self.grpc_rule(r)))?,
            authorizations: Vec::new(),
        }))
    }

    #[expect(deprecated, reason = "older control planes send only the old field")]
    fn http_rule(&mut self, message: outbound::http_route::Rule) -> Result<Rule, WireError> {
        let matches = message.matches.into_iter().map(|m| route::http_match(m).map(RequestMatch::Http));
        let filters = message.filters.into_iter().map(|f| http_filter(f.kind));
        Ok(Rule {
            matches: gather(matches)?,
            filters: super::filters(filters),
            backends: self.http_distribution(message.backends)?,
            timeouts: timeouts(message.timeouts, message.request_timeout)?,
            retry: message.retry.map(http_retry).transpose()?,
            allow_request_headers: message.allow_l5d_request_headers,
        })
    }

    #[expect(deprecated, reason = "older control planes send only the old field")]
    fn grpc_rule(&mut self, message: outbound::grpc_route::Rule) -> Result<Rule, WireError> {
        let matches = message.matches.into_iter().map(|m| route::grpc_match(m).map(RequestMatch::Grpc));
        let filters = message.filters.into_iter().map(|f| grpc_filter(f.kind));
        Ok(Rule {
            matches: gather(matches)?,
            filters: super::filters(filters),
            backends: self.grpc_distribution(message.backends)?,
            timeouts: timeouts(message.timeouts, message.request_timeout)?,
            retry: message.retry.map(grpc_retry).transpose()?,
            allow_request_headers: message.allow_l5d_request_headers,
        })
    }

    fn opaque(&mut self, message: outbound::proxy_protocol::Opaque) -> Result<Vec<TcpRoute>, WireError> {
        if message.routes.len() > 1 {
            return Err(WireError::invalid("opaque routes", "there is more than one"));
        }
        gather(message.routes.into_iter().map(|r| self.opaque_route(r)))
    }

    fn opaque_route(&mut self, message: outbound::OpaqueRoute) -> Result<TcpRoute, WireError> {
        let rule = only(message.rules, "opaque route rules")?;
        let filters = rule.filters.into_iter().map(|f| opaque_filter(f.kind));
        Ok(TcpRoute {
            meta: meta(message.metadata, "route metadata")?,
            snis: Vec::new(),
            filters: super::filters(filters),
            backends: self.opaque_distribution(rule.backends)?,
        })
    }

    fn tls_route(&mut self, message: outbound::TlsRoute) -> Result<TcpRoute, WireError> {
        let rule = only(message.rules, "TLS route rules")?;
        let filters = rule.filters.into_iter().map(|f| tls_filter(f.kind));
        Ok(TcpRoute {
            meta: meta(message.metadata, "route metadata")?,
            snis: route::snis(message.snis)?,
            filters: super::filters(filters),
            backends: self.tls_distribution(rule.backends)?,
        })
    }

    /// A single backend is taken whatever its weight; several without any weight lead nowhere (the peer
    /// panics on them).
    fn weighted(&mut self, mut backends: Vec<(RouteBackend, u32)>) -> Distribution {
        if backends.len() == 1 {
            return Distribution::FirstAvailable(backends.drain(..).map(|(b, _)| b).collect());
        }
        if backends.iter().all(|(_, weight)| *weight == 0) {
            self.warnings.add("a rule leads nowhere: the weights of all its backends are 0");
            return Distribution::Empty;
        }
        Distribution::RandomAvailable(backends)
    }

    fn backend(&mut self, message: outbound::Backend) -> Result<Arc<Backend>, WireError> {
        let key = message.encode_to_vec();
        if let Some(known) = self.backends.get(&key) {
            return Ok(known.clone());
        }
        let backend = Arc::new(Backend {
            meta: meta(message.metadata, "backend metadata")?,
            queue: self.queue(message.queue.ok_or(WireError::Missing("backend queue"))?)?,
            dispatch: self.dispatch(message.kind)?,
        });
        self.backends.insert(key, backend.clone());
        Ok(backend)
    }

    fn queue(&mut self, message: outbound::Queue) -> Result<Queue, WireError> {
        let default = Queue::default();
        let capacity = match usize::try_from(message.capacity).unwrap_or(usize::MAX) {
            0 => default.capacity,
            n => n.min(MAX_QUEUE),
        };
        let failfast = optional_duration(message.failfast_timeout, "failfast_timeout")?;
        Ok(Queue { capacity, failfast: failfast.unwrap_or(default.failfast) })
    }

    fn dispatch(&mut self, kind: Option<outbound::backend::Kind>) -> Result<Dispatch, WireError> {
        use outbound::backend::Kind::*;
        use outbound::backend::endpoint_discovery::Kind::Dst;
        match kind {
            None => Ok(Dispatch::Missing),
            Some(Forward(addr)) => {
                let endpoint = endpoint(addr, self.warnings);
                let endpoint = endpoint.ok_or(WireError::Missing("address of the forward backend"))?;
                Ok(Dispatch::Forward(Box::new(endpoint)))
            }
            Some(Balancer(balancer)) => {
                let discovery = balancer.discovery.and_then(|d| d.kind);
                let Dst(dst) = discovery.ok_or(WireError::Missing("balancer.discovery"))?;
                let dst = dst.path.parse().map_err(|e| WireError::invalid("balancer.discovery", e))?;
                let load = load(balancer.load.ok_or(WireError::Missing("balancer.load"))?)?;
                Ok(Dispatch::Balance { dst, load })
            }
        }
    }

    fn with_breaker(
        &mut self,
        routes: Arc<[Route]>,
        accrual: Option<outbound::FailureAccrual>,
    ) -> Result<HttpRoutes, WireError> {
        let ejection = accrual.as_ref().and_then(|accrual| accrual.ejection.as_ref());
        let min_ready = ejection.map_or(0, |ejection| ejection.min_ready_endpoints);
        Ok(HttpRoutes { routes, breaker: self.breaker(accrual)?, min_ready })
    }

    fn breaker(
        &mut self,
        message: Option<outbound::FailureAccrual>,
    ) -> Result<Option<FailureAccrual>, WireError> {
        use outbound::failure_accrual::Kind::*;
        let Some(message) = message else { return Ok(None) };
        match message.kind {
            None => {
                self.warnings.add("a circuit breaker of an unknown kind is ignored");
                Ok(None)
            }
            Some(ConsecutiveFailures(c)) if c.max_failures == 0 => {
                self.warnings.add("a circuit breaker is off: it would trip after 0 failures");
                Ok(None)
            }
            Some(ConsecutiveFailures(c)) => {
                let (backoff, _) = backoff(c.backoff.ok_or(WireError::Missing("breaker backoff"))?)?;
                Ok(Some(FailureAccrual::Consecutive { max_failures: c.max_failures, backoff }))
            }
            Some(Unified(unified)) => unified_breaker(unified).map(Some),
        }
    }
}

fn unified_breaker(message: outbound::failure_accrual::Unified) -> Result<FailureAccrual, WireError> {
    let refuse = |field, why: &str| Err(WireError::invalid(field, why));
    let rate = message.success_rate_threshold;
    if !(0.0..=1.0).contains(&rate) {
        return refuse("success_rate_threshold", "it is not within 0-1");
    }
    let rate = (rate * 10_000.0).round() / 10_000.0;
    let window = match message.decay {
        Some(window) => duration(window, "success rate window")?,
        None => Duration::from_secs(10),
    };
    if rate > 0.0 && window < Duration::from_millis(10) {
        return refuse("success rate window", "it is shorter than 10 ms");
    }
    if message.min_requests > 1_000_000 {
        return refuse("min_requests", "it is above 1,000,000");
    }
    let (backoff, respect_retry_after) =
        backoff(message.backoff.ok_or(WireError::Missing("breaker backoff"))?)?;
    Ok(FailureAccrual::Unified {
        success_rate: rate,
        window,
        min_requests: message.min_requests,
        max_consecutive: message.max_consecutive_failures,
        backoff,
        respect_retry_after,
    })
}

/// Reads a backoff, and whether the server's own hint is respected.
fn backoff(message: outbound::ExponentialBackoff) -> Result<(Backoff, bool), WireError> {
    let min = required_duration(message.min_backoff, "min_backoff")?;
    let max = required_duration(message.max_backoff, "max_backoff")?;
    if min > max || max.is_zero() {
        return Err(WireError::invalid("max_backoff", "it is 0 or below min_backoff"));
    }
    if !(0.0..=100.0).contains(&message.jitter_ratio) {
        return Err(WireError::invalid("jitter_ratio", "it is not within 0-100"));
    }
    Ok((Backoff { min, max, jitter: message.jitter_ratio.into() }, message.respect_retry_after_hint))
}

fn load(message: outbound::backend::balance_p2c::Load) -> Result<LoadParams, WireError> {
    use outbound::backend::balance_p2c::Load::*;
    match message {
        PeakEwma(ewma) => Ok(LoadParams {
            default_rtt: required_duration(ewma.default_rtt, "default_rtt")?,
            decay: required_duration(ewma.decay, "decay")?,
            penalty: None,
        }),
        PenaltyPeakEwma(ewma) => {
            let or = |value: Option<_>, field, default| {
                value.map_or(Ok(Duration::from_millis(default)), |d| duration(d, field))
            };
            let penalty = Penalty {
                penalty: or(ewma.penalty, "penalty", 5_000)?,
                max_retry_after: or(ewma.max_retry_after, "max_retry_after", 300_000)?,
                decay: or(ewma.penalty_decay, "penalty_decay", 10_000)?,
            };
            Ok(LoadParams {
                default_rtt: or(ewma.default_rtt, "default_rtt", 30)?,
                decay: or(ewma.decay, "decay", 10_000)?,
                penalty: Some(penalty),
            })
        }
    }
}

fn timeouts(
    message: Option<api::http_route::Timeouts>,
    deprecated_request: Option<prost_types::Duration>,
) -> Result<Timeouts, WireError> {
    let message = message.unwrap_or_default();
    Ok(Timeouts {
        request: optional_duration(message.request.or(deprecated_request), "timeouts.request")?,
        response: optional_duration(message.response, "timeouts.response")?,
        idle: optional_duration(message.idle, "timeouts.idle")?,
    })
}

fn http_retry(message: outbound::http_route::Retry) -> Result<RetryPolicy, WireError> {
    let limit = u16::try_from(message.max_retries).map_err(|e| WireError::invalid("retry.max_retries", e))?;
    let read = |r: outbound::http_route::retry::conditions::StatusRange| {
        let status = |n: u32| u16::try_from(n).ok().filter(|n| (1..=599).contains(n));
        match (status(r.start), status(r.end)) {
            (Some(min), Some(max)) if min <= max => Ok(StatusRange { min, max }),
            _ => Err(WireError::invalid("retry status range", "it is reversed or not within 1-599")),
        }
    };
    let ranges = message.conditions.unwrap_or_default().status_ranges.into_iter().map(read);
    let (backoff, respect_retry_after) = retry_backoff(message.backoff)?;
    Ok(RetryPolicy {
        limit: limit.into(),
        max_request_bytes: usize::try_from(message.max_request_bytes).unwrap_or(usize::MAX),
        http: gather(ranges)?,
        grpc: Vec::new(),
        timeout: optional_duration(message.timeout, "retry.timeout")?,
        backoff,
        respect_retry_after,
    })
}

fn grpc_retry(message: outbound::grpc_route::Retry) -> Result<RetryPolicy, WireError> {
    let on = message.conditions.unwrap_or_default();
    let codes = [
        (on.cancelled, 1),
        (on.deadine_exceeded, 4),
        (on.resource_exhausted, 8),
        (on.internal, 13),
        (on.unavailable, 14),
    ];
    let (backoff, respect_retry_after) = retry_backoff(message.backoff)?;
    Ok(RetryPolicy {
        limit: message.max_retries,
        max_request_bytes: usize::try_from(message.max_request_bytes).unwrap_or(usize::MAX),
        http: Vec::new(),
        grpc: codes.into_iter().filter_map(|(on, code)| on.then_some(code)).collect(),
        timeout: optional_duration(message.timeout, "retry.timeout")?,
        backoff,
        respect_retry_after,
    })
}

fn retry_backoff(
    message: Option<outbound::ExponentialBackoff>,
) -> Result<(Option<Backoff>, bool), WireError> {
    let read = message.map(backoff).transpose()?;
    Ok(read.map_or((None, false), |(backoff, hint)| (Some(backoff), hint)))
}

/// Exactly one rule.
fn only<T>(rules: Vec<T>, field: &'static str) -> Result<T, WireError> {
    let mut rules = rules.into_iter();
    match (rules.next(), rules.next()) {
        (Some(rule), None) => Ok(rule),
        _ => Err(WireError::invalid(field, "there must be exactly one")),
    }
}

/// Names the refusal by an egress network for what it is: the API has only an injected failure for it (§1F).
fn forbidding(mut route: Route) -> Route {
    if matches!(&route.meta, Meta::Default(name) if matches!(&**name, "http-egress-deny" | "grpc-egress-deny"))
    {
        for filter in route.rules.iter_mut().flat_map(|rule| &mut rule.filters) {
            if matches!(filter, Filter::InjectFailure(_)) {
                *filter = Filter::Forbidden;
            }
        }
    }
    route
}

fn http_filter(kind: Option<outbound::http_route::filter::Kind>) -> Result<Filter, WireError> {
    use outbound::http_route::filter::Kind::*;
    match kind.ok_or(WireError::Missing("kind of a filter"))? {
        FailureInjector(failure) => route::http_failure(failure),
        RequestHeaderModifier(change) => route::request_headers(change),
        Redirect(redirect) => route::redirect(redirect),
        ResponseHeaderModifier(change) => route::response_headers(change),
    }
}

fn grpc_filter(kind: Option<outbound::grpc_route::filter::Kind>) -> Result<Filter, WireError> {
    use outbound::grpc_route::filter::Kind::*;
    match kind.ok_or(WireError::Missing("kind of a filter"))? {
        FailureInjector(failure) => route::grpc_failure(failure),
        RequestHeaderModifier(change) => route::request_headers(change),
    }
}

fn opaque_filter(kind: Option<outbound::opaque_route::filter::Kind>) -> Result<Filter, WireError> {
    use outbound::opaque_route::filter::Kind::*;
    match kind.ok_or(WireError::Missing("kind of a filter"))? {
        Invalid(invalid) => Ok(Filter::Invalid { message: invalid.message }),
        Forbidden(_) => Ok(Filter::Forbidden),
    }
}

fn tls_filter(kind: Option<outbound::tls_route::filter::Kind>) -> Result<Filter, WireError> {
    use outbound::tls_route::filter::Kind::*;
    match kind.ok_or(WireError::Missing("kind of a filter"))? {
        Invalid(invalid) => Ok(Filter::Invalid { message: invalid.message }),
        Forbidden(_) => Ok(Filter::Forbidden),
    }
}

#[cfg(test)]
#[path = "outbound_tests.rs"]
mod tests;
