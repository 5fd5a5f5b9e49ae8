//! What is counted per endpoint, route and backend, under the peer's family names (§5).
//!
//! `discover/compile.rs` resolves the handles when it builds a plan; the data path only adds to them.
//! One `Metrics` a direction, handed in at construction. Never looks a label up per request.

use http::StatusCode;
use std::sync::Arc;
use std::time::Duration;
use weft_decide::classify::Class;
use weft_model::meta::Meta;
use weft_model::reason::{Code, Hop};
use weft_telemetry::metrics::LATENCY_MS;
use weft_telemetry::{Counter, Family, Histogram, Registry, Split};

/// A label set resolved to text pairs once.
pub type Pairs = Vec<(String, String)>;

/// Buckets of route durations, seconds (§5.2).
const ROUTE_SECONDS: &[f64] = &[0.05, 0.5, 1.0, 10.0];

/// Buckets of backend and inbound durations, seconds (§5.2, §5.3).
const BACKEND_SECONDS: &[f64] = &[0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0];

/// How an exchange ended, for labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Status of the response; `None` if there was none.
    pub status: Option<StatusCode>,
    /// Status in gRPC's trailers or headers.
    pub grpc: Option<u16>,
    /// Whether it counts as a success.
    pub class: Class,
    /// Why the mesh ended it, if it did.
    pub error: Option<Code>,
}

impl Ending {
    /// A key for `Split`: equal endings, equal keys.
    fn key(&self) -> u64 {
        let status = u64::from(self.status.map_or(0, |s| s.as_u16()));
        let grpc = self.grpc.map_or(0, |g| u64::from(g) + 1);
        let error = self.error.map_or(0, |e| e as u64 + 1);
        status | grpc << 16 | error << 33 | u64::from(self.class == Class::Failure) << 48
    }

    fn pairs(&self, base: &Pairs) -> Pairs {
        let mut pairs = base.clone();
        if let Some(status) = self.status {
            pairs.push(("status_code".into(), status.as_str().into()));
        }
        pairs.push(("classification".into(), self.class.as_str().into()));
        pairs.push(("grpc_status".into(), self.grpc.map(|g| g.to_string()).unwrap_or_default()));
        pairs.push(("error".into(), self.error.map_or("", Code::as_str).into()));
        pairs
    }
}

/// One direction's families of requests and responses.
#[derive(Clone, Debug)]
pub struct Metrics {
    direction: Hop,
    endpoint: Arc<ExchangeFamilies>,
    route: Arc<ExchangeFamilies>,
    actual: Arc<ExchangeFamilies>,
    retryable: Family<Counter>,
    policy: Arc<PolicyFamilies>,
}

#[derive(Debug)]
struct ExchangeFamilies {
    requests: Family<Counter>,
    latency: Family<Histogram>,
    responses: Family<Counter>,
}

#[derive(Debug)]
struct PolicyFamilies {
    requests: Option<Family<Counter>>,
    duration: Family<Histogram>,
    statuses: Family<Counter>,
    backend: Option<BackendFamilies>,
    retries: Option<RetryFamilies>,
}

#[derive(Debug)]
struct BackendFamilies {
    requests: Family<Counter>,
    duration: Family<Histogram>,
    statuses: Family<Counter>,
}

#[derive(Debug)]
struct RetryFamilies {
    requests: Family<Counter>,
    successes: Family<Counter>,
    limit: Family<Counter>,
    overflow: Family<Counter>,
}

impl ExchangeFamilies {
    fn new(registry: &Registry, prefix: &str) -> Arc<Self> {
        let name = |n: &str| format!("{prefix}{n}");
        Arc::new(Self {
            requests: registry.counters(&name("request_total"), "Requests sent on."),
            latency: registry.histograms(
                &name("response_latency_ms"),
                "Time from sending a request on to the first frame of its response's body.",
                LATENCY_MS,
            ),
            responses: registry.counters(&name("response_total"), "Responses that ended."),
        })
    }
}

impl Metrics {
    /// Registers one direction's families.
    pub fn new(registry: &Registry, direction: Hop) -> Self {
        let policy = match direction {
            Hop::Outbound => {
                let name = |n: &str| format!("outbound_http_route_{n}");
                PolicyFamilies {
                    requests: None,
                    duration: registry.histograms(
                        &name("request_duration_seconds"),
                        "Time from a request's dispatch to the end of its response.",
                        ROUTE_SECONDS,
                    ),
                    statuses: registry.counters(&name("request_statuses_total"), "Requests by outcome."),
                    backend: Some(BackendFamilies {
                        requests: registry
                            .counters(&name("backend_requests_total"), "Attempts sent to a backend."),
                        duration: registry.histograms(
                            &name("backend_response_duration_seconds"),
                            "Time from an attempt's dispatch to the end of its response.",
                            BACKEND_SECONDS,
                        ),
                        statuses: registry
                            .counters(&name("backend_response_statuses_total"), "Attempts by outcome."),
                    }),
                    retries: Some(RetryFamilies {
                        requests: registry.counters(&name("retry_requests_total"), "Retries sent."),
                        successes: registry
                            .counters(&name("retry_successes_total"), "Retries that succeeded."),
                        limit: registry
                            .counters(&name("retry_limit_exceeded_total"), "Requests out of retries."),
                        overflow: registry
                            .counters(&name("retry_overflow_total"), "Retries without a ready backend."),
                    }),
                }
            }
            Hop::Inbound => PolicyFamilies {
                requests: Some(registry.counters("inbound_http_requests_total", "Requests received.")),
                duration: registry.histograms(
                    "inbound_http_request_duration_seconds",
                    "Time from a request's dispatch to the end of its response.",
                    BACKEND_SECONDS,
                ),
                statuses: registry.counters("inbound_http_statuses_total", "Requests by status."),
                backend: None,
                retries: None,
            },
        };
        Self {
            direction,
            endpoint: ExchangeFamilies::new(registry, ""),
            route: ExchangeFamilies::new(registry, "route_"),
            actual: ExchangeFamilies::new(registry, "route_actual_"),
            retryable: registry.counters("route_retryable_total", "Responses a service profile would retry."),
            policy: Arc::new(policy),
        }
    }

    /// The direction whose families these are.
    pub fn direction(&self) -> Hop {
        self.direction
    }

    /// The triple of one endpoint; `labels` without `direction`.
    pub fn endpoint(&self, labels: Pairs) -> Exchange {
        Exchange::new(&self.endpoint, self.directed(labels))
    }

    /// The handles of a policy's route.
    pub fn policy_route(&self, parent: &Meta, route: &Meta) -> RouteMetrics {
        let mut labels = self.route_labels(parent, route);
        let families = &self.policy;
        let requests = families.requests.as_ref().map(|f| f.series(&labels[..]));
        if self.direction == Hop::Outbound {
            labels.push(("hostname".into(), String::new()));
        }
        let retries = families.retries.as_ref().map(|r| RetryMetrics {
            requests: r.requests.series(&labels[..]),
            successes: r.successes.series(&labels[..]),
            limit: r.limit.series(&labels[..]),
            overflow: r.overflow.series(&labels[..]),
        });
        let outcome = Outcomes::new(&families.duration, &families.statuses, labels, self.status_label());
        RouteMetrics {
            requests,
            outcome: Some(outcome),
            exchange: None,
            actual: None,
            retries,
            no_budget: None,
        }
    }

    /// The handles of a service profile's route; `dst` is `name:port`, `route` its `rt_*` labels.
    pub fn profile_route(&self, dst: &str, route: &[(String, String)]) -> RouteMetrics {
        let mut labels = vec![("dst".to_owned(), dst.to_owned())];
        labels.extend(route.iter().map(|(k, v)| (format!("rt_{k}"), v.clone())));
        let labels = self.directed(labels);
        let mut no_budget = labels.clone();
        no_budget.push(("skipped".into(), "no_budget".into()));
        RouteMetrics {
            requests: None,
            outcome: None,
            exchange: Some(Exchange::new(&self.route, labels.clone())),
            actual: Some(Exchange::new(&self.actual, labels.clone())),
            retries: None,
            no_budget: Some((self.retryable.series(&labels[..]), self.retryable.series(&no_budget[..]))),
        }
    }

    /// The handles of a backend under a route.
    pub fn backend(&self, parent: &Meta, route: &Meta, backend: &Meta) -> BackendMetrics {
        let Some(families) = &self.policy.backend else {
            return BackendMetrics { requests: None, outcome: None };
        };
        let mut labels = self.route_labels(parent, route);
        push_meta(&mut labels, "backend", backend);
        BackendMetrics {
            requests: Some(families.requests.series(&labels[..])),
            outcome: Some(Outcomes::new(&families.duration, &families.statuses, labels, self.status_label())),
        }
    }

    fn directed(&self, labels: Pairs) -> Pairs {
        let mut all = vec![("direction".to_owned(), self.direction.as_str().to_owned())];
        all.extend(labels);
        all
    }

    fn route_labels(&self, parent: &Meta, route: &Meta) -> Pairs {
        let mut labels = Vec::new();
        match self.direction {
            Hop::Outbound => push_meta(&mut labels, "parent", parent),
            Hop::Inbound => {
                for (key, value) in
                    [("group", parent.group()), ("kind", parent.kind()), ("name", parent.name())]
                {
                    labels.push((format!("parent_{key}"), value.to_owned()));
                }
                labels.push(("parent_port".into(), parent.port().map(|p| p.to_string()).unwrap_or_default()));
            }
        }
        labels.push(("route_group".into(), route.group().to_owned()));
        labels.push(("route_kind".into(), route.kind().to_owned()));
        if self.direction == Hop::Outbound {
            labels.push(("route_namespace".into(), route.namespace().to_owned()));
        }
        labels.push(("route_name".into(), route.name().to_owned()));
        labels
    }

    fn status_label(&self) -> &'static str {
        if self.direction == Hop::Outbound { "http_status" } else { "status" }
    }
}

/// `prefix_group`, `_kind`, `_namespace`, `_name`, `_port`, `_section_name` (§5.2).
pub fn push_meta(labels: &mut Pairs, prefix: &str, meta: &Meta) {
    let port = meta.port().map(|p| p.to_string()).unwrap_or_default();
    for (key, value) in [
        ("group", meta.group()),
        ("kind", meta.kind()),
        ("namespace", meta.namespace()),
        ("name", meta.name()),
        ("port", &port),
        ("section_name", meta.section()),
    ] {
        labels.push((format!("{prefix}_{key}"), value.to_owned()));
    }
}

/// `request_total`, `response_total` and `response_latency_ms` of one label set.
#[derive(Debug)]
pub struct Exchange {
    requests: Counter,
    latency: Split<Histogram>,
    responses: Split<Counter>,
    families: Arc<ExchangeFamilies>,
    labels: Pairs,
}

impl Exchange {
    fn new(families: &Arc<ExchangeFamilies>, labels: Pairs) -> Self {
        Self {
            requests: families.requests.series(&labels[..]),
            latency: Split::default(),
            responses: Split::default(),
            families: families.clone(),
            labels,
        }
    }

    /// Counts a request.
    pub fn sent(&self) {
        self.requests.inc();
    }

    /// Counts the time until the first frame of a response's body.
    pub fn answered(&self, status: StatusCode, after: Duration) {
        let resolve = || {
            let mut labels = self.labels.clone();
            labels.push(("status_code".into(), status.as_str().into()));
            self.families.latency.series(&labels[..])
        };
        self.latency.with(status.as_u16().into(), resolve, |h| h.observe_millis(after));
    }

    /// Counts the end of an exchange.
    pub fn ended(&self, ending: &Ending) {
        let resolve = || self.families.responses.series(&ending.pairs(&self.labels)[..]);
        self.responses.with(ending.key(), resolve, Counter::inc);
    }

    /// Requests counted so far.
    pub fn count(&self) -> u64 {
        self.requests.value()
    }
}

/// Duration and status counters of one label set.
#[derive(Debug)]
struct Outcomes {
    duration: Histogram,
    statuses: Split<Counter>,
    family: Family<Counter>,
    labels: Pairs,
    status_label: &'static str,
}

impl Outcomes {
    fn new(
        duration: &Family<Histogram>,
        statuses: &Family<Counter>,
        labels: Pairs,
        status_label: &'static str,
    ) -> Self {
        let duration = duration.series(&labels[..]);
        Self { duration, statuses: Split::default(), family: statuses.clone(), labels, status_label }
    }

    fn ended(&self, ending: &Ending, after: Duration) {
        self.duration.observe_seconds(after);
        let resolve = || {
            let mut labels = self.labels.clone();
            let status = ending.status.map(|s| s.as_str().to_owned()).unwrap_or_default();
            labels.push((self.status_label.into(), status));
            labels.push(("error".into(), ending.error.map_or("", error_label).into()));
            self.family.series(&labels[..])
        };
        let key = ending.key() & !(1 << 48) & !(0x1_ffff << 16);
        self.statuses.with(key, resolve, Counter::inc);
    }
}

/// The peer's names of errors in the `outbound_*` families (§5.2); ours where it has none.
fn error_label(code: Code) -> &'static str {
    match code {
        Code::AllUnready | Code::NoEndpoints | Code::NoSuchService => "FAIL_FAST",
        Code::QueueFull | Code::Overloaded => "LOAD_SHED",
        Code::RequestTimeout | Code::ProfileTimeout => "REQUEST_TIMEOUT",
        Code::HeadersTimeout => "RESPONSE_HEADERS_TIMEOUT",
        Code::ResponseTimeout => "RESPONSE_STREAM_TIMEOUT",
        Code::IdleTimeout => "IDLE_TIMEOUT",
        Code::ClientGone => "CANCEL",
        Code::StreamReset => "RESET",
        Code::ConnectRefused | Code::ConnectTimeout | Code::ConnectFailed | Code::ConnectionLost => "IO",
        _ => "UNKNOWN",
    }
}

/// Handles of a route. Which are set depends on where the route comes from.
#[derive(Debug, Default)]
pub struct RouteMetrics {
    requests: Option<Counter>,
    outcome: Option<Outcomes>,
    exchange: Option<Exchange>,
    actual: Option<Exchange>,
    /// Retry counters of a policy's route.
    pub retries: Option<RetryMetrics>,
    no_budget: Option<(Counter, Counter)>,
}

/// Retry counters of a policy's route.
#[derive(Debug)]
pub struct RetryMetrics {
    /// Retries sent.
    pub requests: Counter,
    /// Retries that succeeded.
    pub successes: Counter,
    /// Requests that ran out of retries.
    pub limit: Counter,
    /// Retries for which no backend was ready.
    pub overflow: Counter,
}

impl RouteMetrics {
    /// Counts a request that met this route.
    pub fn received(&self) {
        if let Some(requests) = &self.requests {
            requests.inc();
        }
        if let Some(exchange) = &self.exchange {
            exchange.sent();
        }
    }

    /// Counts an attempt of a profile's route.
    pub fn attempted(&self) {
        if let Some(actual) = &self.actual {
            actual.sent();
        }
    }

    /// Counts the time until the first frame of the response's body.
    pub fn answered(&self, status: StatusCode, after: Duration) {
        if let Some(exchange) = &self.exchange {
            exchange.answered(status, after);
        }
    }

    /// Counts the end of a request, however many attempts it took.
    pub fn ended(&self, ending: &Ending, after: Duration) {
        if let Some(outcome) = &self.outcome {
            outcome.ended(ending, after);
        }
        if let Some(exchange) = &self.exchange {
            exchange.ended(ending);
        }
    }

    /// Counts the end of an attempt of a profile's route.
    pub fn attempt_ended(&self, ending: &Ending) {
        if let Some(actual) = &self.actual {
            actual.ended(ending);
        }
    }

    /// Counts a profile's retryable failure; `granted`: whether the budget paid for a retry.
    pub fn retryable(&self, granted: Granted) {
        if let Some((all, skipped)) = &self.no_budget {
            all.inc();
            if granted == Granted::No {
                skipped.inc();
            }
        }
    }
}

/// Whether a budget paid for a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// It did.
    Yes,
    /// It was used up.
    No,
}

/// Handles of a backend under a route.
#[derive(Debug, Default)]
pub struct BackendMetrics {
    requests: Option<Counter>,
    outcome: Option<Outcomes>,
}

impl BackendMetrics {
    /// Counts an attempt.
    pub fn sent(&self) {
        if let Some(requests) = &self.requests {
            requests.inc();
        }
    }

    /// Counts an attempt's end.
    pub fn ended(&self, ending: &Ending, after: Duration) {
        if let Some(outcome) = &self.outcome {
            outcome.ended(ending, after);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_series_carry_the_peers_names_and_labels() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry, Hop::Outbound);
        let exchange = metrics.endpoint(vec![("target_addr".into(), "1.2.3.4:80".into())]);
        exchange.sent();
        exchange.answered(StatusCode::OK, Duration::from_millis(7));
        let ending = Ending { status: Some(StatusCode::OK), grpc: None, class: Class::Success, error: None };
        exchange.ended(&ending);
        let text = registry.render();
        for line in [
            r#"request_total{direction="outbound",target_addr="1.2.3.4:80"} 1"#,
            r#"response_total{direction="outbound",target_addr="1.2.3.4:80",status_code="200",classification="success",grpc_status="",error=""} 1"#,
            r#"response_latency_ms_bucket{direction="outbound",target_addr="1.2.3.4:80",status_code="200",le="10"} 1"#,
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn endings_that_differ_have_different_keys() {
        let of = |status, grpc, class, error| Ending { status, grpc, class, error }.key();
        let ok = Some(StatusCode::OK);
        let keys = [
            of(ok, None, Class::Success, None),
            of(None, None, Class::Success, None),
            of(ok, Some(0), Class::Success, None),
            of(ok, None, Class::Failure, None),
            of(ok, None, Class::Success, Some(Code::DiscoveryTimeout)),
            of(ok, None, Class::Success, Some(Code::Internal)),
        ];
        let unique: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(unique.len(), keys.len());
    }
}
