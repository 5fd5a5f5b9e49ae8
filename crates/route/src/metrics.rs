//! What is counted per endpoint, route and backend, under the peer's family names (§5).
//!
//! `discover/compile.rs` resolves the handles when it builds a plan; the data path only adds to them.
//! One `Metrics` a direction, handed in at construction. Never looks a label up per request.

use crate::frames::{FRAME_BYTES, FrameSizes};
use http::StatusCode;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use weft_decide::classify::Class;
use weft_model::meta::Meta;
use weft_model::reason::{Code, Hop, grpc_name};
use weft_telemetry::metrics::LATENCY_MS;
use weft_telemetry::{Counter, Family, Histogram, Registry, Split, Written};

/// A label set resolved to text pairs once.
pub type Pairs = Vec<(String, String)>;

/// Buckets of route durations, seconds (§5.2).
const ROUTE_SECONDS: &[f64] = &[0.05, 0.5, 1.0, 10.0];

/// Buckets of backend and inbound durations, seconds (§5.2, §5.3).
const BACKEND_SECONDS: &[f64] = &[0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0];

/// The keys of label sets (§5). Each list stands once, and longer ones are made from it.
macro_rules! keys {
    ($($name:ident: $($key:literal)*;)*) => { $(const $name: &[&str] = &[$($key),*];)* };
}

macro_rules! endpoint {
    ($name:ident $($more:literal)*) => {
        keys! { $name: "direction" "target_addr" "target_ip" "target_port" "tls" "no_tls_reason" "client_id"
            "server_id" "sni" "srv_group" "srv_kind" "srv_name" "srv_port" "route_group" "route_kind" "route_name"
            "authz_group" "authz_kind" "authz_name" "dst_*" $($more)*; }
    };
}
endpoint!(ENDPOINT_KEYS);
endpoint!(ENDPOINT_STATUS_KEYS "status_code");
endpoint!(ENDPOINT_ENDING_KEYS "status_code" "classification" "grpc_status" "error");

macro_rules! route {
    ($name:ident $($more:literal)*) => {
        keys! { $name: "parent_group" "parent_kind" "parent_namespace" "parent_name" "parent_port"
            "parent_section_name" "route_group" "route_kind" "route_namespace" "route_name" $($more)*; }
    };
}
route!(ROUTE_KEYS "hostname");
route!(ROUTE_STATUS_KEYS "hostname" "http_status" "grpc_status" "error");
route!(BACKEND_KEYS "backend_group" "backend_kind" "backend_namespace" "backend_name" "backend_port"
    "backend_section_name");
route!(BACKEND_STATUS_KEYS "backend_group" "backend_kind" "backend_namespace" "backend_name" "backend_port"
    "backend_section_name" "http_status" "grpc_status" "error");

keys! {
    PROFILE_KEYS: "direction" "dst" "rt_*";
    PROFILE_STATUS_KEYS: "direction" "dst" "rt_*" "status_code";
    PROFILE_ENDING_KEYS: "direction" "dst" "rt_*" "status_code" "classification" "grpc_status" "error";
    INBOUND_KEYS: "parent_group" "parent_kind" "parent_name" "parent_port" "route_group" "route_kind" "route_name";
    INBOUND_STATUS_KEYS: "parent_group" "parent_kind" "parent_name" "parent_port" "route_group" "route_kind"
        "route_name" "status" "error";
}

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

    fn pairs(&self) -> Pairs {
        let mut pairs = Pairs::new();
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
    http: Arc<PolicyFamilies>,
    grpc: Arc<PolicyFamilies>,
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
    outcomes: OutcomeFamilies,
    backend: BackendFamilies,
    retries: Option<RetryFamilies>,
}

/// Outbound, all but the duration of responses, which its outcomes have; inbound, that and the frames.
#[derive(Debug)]
struct BackendFamilies {
    requests: Option<Family<Counter>>,
    outcomes: Option<OutcomeFamilies>,
    duration: Option<Family<Histogram>>,
    frames: Family<Histogram>,
}

#[derive(Debug)]
struct RetryFamilies {
    requests: Family<Counter>,
    successes: Family<Counter>,
    limit: Family<Counter>,
    overflow: Family<Counter>,
}

impl ExchangeFamilies {
    /// `kinds` holds the keys of its label sets: of requests, of latencies, of responses.
    fn new(
        registry: &Registry,
        prefix: &str,
        [plain, status, ending]: [&'static [&'static str]; 3],
    ) -> Arc<Self> {
        let name = |n: &str| format!("{prefix}{n}");
        let help = "Time from sending a request on to the first frame of its response's body.";
        Arc::new(Self {
            requests: registry.counters(&name("request_total"), "Requests sent on.").labels(plain),
            latency: registry.histograms(&name("response_latency_ms"), help, LATENCY_MS).labels(status),
            responses: registry.counters(&name("response_total"), "Responses that ended.").labels(ending),
        })
    }
}

impl PolicyFamilies {
    fn outbound(registry: &Registry, kind: RouteKind) -> Self {
        let name = |n: &str| format!("outbound_{}_route_{n}", kind.as_str());
        let counters = |n: &str, help: &str| registry.counters(&name(n), help);
        let request = "Time from a request's dispatch to the end of its response.";
        let attempt = "Time from an attempt's dispatch to the end of its response.";
        Self {
            requests: None,
            outcomes: OutcomeFamilies::new(
                registry
                    .histograms(&name("request_duration_seconds"), request, ROUTE_SECONDS)
                    .labels(ROUTE_KEYS),
                counters("request_statuses_total", "Requests by outcome.").labels(ROUTE_STATUS_KEYS),
            ),
            backend: BackendFamilies {
                requests: Some(
                    counters("backend_requests_total", "Attempts sent to a backend.").labels(BACKEND_KEYS),
                ),
                outcomes: Some(OutcomeFamilies::new(
                    registry
                        .histograms(&name("backend_response_duration_seconds"), attempt, BACKEND_SECONDS)
                        .labels(BACKEND_KEYS),
                    counters("backend_response_statuses_total", "Attempts by outcome.")
                        .labels(BACKEND_STATUS_KEYS),
                )),
                duration: None,
                frames: frames(registry, &name("backend_response_frame_size_bytes")).labels(BACKEND_KEYS),
            },
            retries: Some(RetryFamilies {
                requests: counters("retry_requests_total", "Retries sent.").labels(ROUTE_KEYS),
                successes: counters("retry_successes_total", "Retries that succeeded.").labels(ROUTE_KEYS),
                limit: counters("retry_limit_exceeded_total", "Requests out of retries.").labels(ROUTE_KEYS),
                overflow: counters("retry_overflow_total", "Retries without a ready backend.")
                    .labels(ROUTE_KEYS),
            }),
        }
    }

    fn inbound(registry: &Registry, kind: RouteKind) -> Self {
        let name = |n: &str| format!("inbound_{}_{n}", kind.as_str());
        let request = "Time from a request's dispatch to the end of its response.";
        let attempt = "Time from a request's sending to the application to the end of its response.";
        Self {
            requests: Some(
                registry.counters(&name("requests_total"), "Requests received.").labels(INBOUND_KEYS),
            ),
            outcomes: OutcomeFamilies::new(
                registry
                    .histograms(&name("request_duration_seconds"), request, BACKEND_SECONDS)
                    .labels(INBOUND_KEYS),
                registry.counters(&name("statuses_total"), "Requests by status.").labels(INBOUND_STATUS_KEYS),
            ),
            backend: BackendFamilies {
                requests: None,
                outcomes: None,
                duration: Some(
                    registry
                        .histograms(&name("response_duration_seconds"), attempt, ROUTE_SECONDS)
                        .labels(INBOUND_KEYS),
                ),
                frames: frames(registry, &name("response_frame_size_bytes")).labels(INBOUND_KEYS),
            },
            retries: None,
        }
    }
}

fn frames(registry: &Registry, name: &str) -> Family<Histogram> {
    registry.histograms(name, "Sizes of the frames of responses' bodies.", FRAME_BYTES)
}

/// Whether a route is for gRPC: its kind decides, not what passes (§5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RouteKind {
    Http,
    Grpc,
}

impl RouteKind {
    fn of(route: &Meta) -> Self {
        if route.kind().eq_ignore_ascii_case("GRPCRoute") { Self::Grpc } else { Self::Http }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }
}

impl Metrics {
    /// Registers one direction's families.
    pub fn new(registry: &Registry, direction: Hop) -> Self {
        let policy = |kind| match direction {
            Hop::Outbound => PolicyFamilies::outbound(registry, kind),
            Hop::Inbound => PolicyFamilies::inbound(registry, kind),
        };
        let exchanges = [ENDPOINT_KEYS, ENDPOINT_STATUS_KEYS, ENDPOINT_ENDING_KEYS];
        let profile = [PROFILE_KEYS, PROFILE_STATUS_KEYS, PROFILE_ENDING_KEYS];
        Self {
            direction,
            endpoint: ExchangeFamilies::new(registry, "", exchanges),
            route: ExchangeFamilies::new(registry, "route_", profile),
            actual: ExchangeFamilies::new(registry, "route_actual_", profile),
            retryable: registry
                .counters("route_retryable_total", "Responses a service profile would retry.")
                .labels(&["direction", "dst", "rt_*", "skipped"]),
            http: policy(RouteKind::Http).into(),
            grpc: policy(RouteKind::Grpc).into(),
        }
    }

    fn policy(&self, kind: RouteKind) -> &PolicyFamilies {
        match kind {
            RouteKind::Http => &self.http,
            RouteKind::Grpc => &self.grpc,
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
        if self.direction == Hop::Outbound {
            labels.push(("hostname".into(), String::new()));
        }
        let labels = Written::new(&labels[..]);
        let kind = RouteKind::of(route);
        let families = self.policy(kind);
        let requests = families.requests.as_ref().map(|f| f.series(&labels)); // inbound only
        let retries = families.retries.as_ref().map(|r| RetryMetrics {
            requests: r.requests.series(&labels),
            successes: r.successes.series(&labels),
            limit: r.limit.series(&labels),
            overflow: r.overflow.series(&labels),
        });
        let outcome = families.outcomes.of(&labels, self.status(kind));
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

    /// The handles of a service profile's route under which what comes in is counted.
    pub fn received_route<'a>(
        &self,
        dst: &str,
        route: impl Iterator<Item = (&'a String, &'a String)>,
    ) -> Exchange {
        let mut labels = vec![("dst".to_owned(), dst.to_owned())];
        labels.extend(route.map(|(k, v)| (format!("rt_{k}"), v.clone())));
        Exchange::new(&self.route, self.directed(labels))
    }

    /// The handles of a backend under a route.
    pub fn backend(&self, parent: &Meta, route: &Meta, backend: &Meta) -> BackendMetrics {
        let kind = RouteKind::of(route);
        let families = &self.policy(kind).backend;
        let mut labels = self.route_labels(parent, route);
        if self.direction == Hop::Outbound {
            push_meta(&mut labels, "backend", backend);
        }
        let labels = Written::new(&labels[..]);
        BackendMetrics {
            requests: families.requests.as_ref().map(|f| f.series(&labels)),
            outcome: families.outcomes.as_ref().map(|f| f.of(&labels, self.status(kind))),
            duration: families.duration.as_ref().map(|f| f.series(&labels)),
            frames: Some(families.frames.series(&labels)),
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

    fn status(&self, kind: RouteKind) -> Status {
        match (self.direction, kind) {
            (Hop::Outbound, RouteKind::Http) => Status::Http("http_status"),
            (Hop::Outbound, RouteKind::Grpc) => Status::GrpcName("grpc_status"),
            (Hop::Inbound, RouteKind::Http) => Status::Http("status"),
            (Hop::Inbound, RouteKind::Grpc) => Status::GrpcNumber("status"),
        }
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
    labels: Written,
}

impl Exchange {
    fn new(families: &Arc<ExchangeFamilies>, labels: Pairs) -> Self {
        let labels = Written::new(&labels[..]);
        Self {
            requests: families.requests.series(&labels),
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
        let resolve = || self.families.latency.series(&(&self.labels, [("status_code", status.as_str())]));
        self.latency.with(status.as_u16().into(), resolve, |h| h.observe_millis(after));
    }

    /// Counts the end of an exchange.
    pub fn ended(&self, ending: &Ending) {
        let resolve = || self.families.responses.series(&(&self.labels, &ending.pairs()[..]));
        self.responses.with(ending.key(), resolve, Counter::inc);
    }

    /// Requests counted so far.
    pub fn count(&self) -> u64 {
        self.requests.value()
    }
}

/// The families of durations and statuses, and the label sets of theirs in use.
#[derive(Debug)]
struct OutcomeFamilies {
    duration: Family<Histogram>,
    statuses: Family<Counter>,
    known: Mutex<HashMap<Written, Weak<Outcomes>>>,
}

/// Duration and status counters of one label set.
#[derive(Debug)]
struct Outcomes {
    duration: Histogram,
    statuses: Split<Counter>,
    family: Family<Counter>,
    labels: Written,
    status: Status,
}

/// What a status label is called and what it shows (§5.2, §5.3).
#[derive(Clone, Copy, Debug)]
enum Status {
    Http(&'static str),
    /// `OK`, `NOT_FOUND`; a missing one is `UNKNOWN`.
    GrpcName(&'static str),
    GrpcNumber(&'static str),
}

impl Status {
    /// The part of an ending's key that it tells apart.
    fn key(self, ending: &Ending) -> u64 {
        let key = ending.key() & !(1 << 48);
        match self {
            Self::Http(_) => key & !(0x1_ffff << 16),
            Self::GrpcName(_) | Self::GrpcNumber(_) => key & !0xffff,
        }
    }

    fn pair(self, ending: &Ending) -> (String, String) {
        match self {
            Self::Http(key) => (key.into(), ending.status.map(|s| s.as_str().to_owned()).unwrap_or_default()),
            Self::GrpcName(key) => (key.into(), ending.grpc.map_or("UNKNOWN", grpc_name).into()),
            Self::GrpcNumber(key) => (key.into(), ending.grpc.map(|g| g.to_string()).unwrap_or_default()),
        }
    }
}

impl OutcomeFamilies {
    fn new(duration: Family<Histogram>, statuses: Family<Counter>) -> Self {
        Self { duration, statuses, known: Mutex::default() }
    }

    /// The outcomes of one label set, shared by all that count there: most plans of destinations without a policy do.
    fn of(&self, labels: &Written, status: Status) -> Arc<Outcomes> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outcomes) = known.get(labels).and_then(Weak::upgrade) {
            return outcomes;
        }
        if known.len() == known.capacity() {
            known.retain(|_, outcomes| outcomes.strong_count() > 0); // before it would grow
        }
        let outcomes = Arc::new(Outcomes {
            duration: self.duration.series(labels),
            statuses: Split::default(),
            family: self.statuses.clone(),
            labels: labels.clone(),
            status,
        });
        known.insert(labels.clone(), Arc::downgrade(&outcomes));
        outcomes
    }
}

impl Outcomes {
    fn ended(&self, ending: &Ending, after: Duration) {
        self.duration.observe_seconds(after);
        let resolve = || {
            let error = ("error".to_owned(), ending.error.map_or("", error_label).to_owned());
            self.family.series(&(&self.labels, [self.status.pair(ending), error]))
        };
        self.statuses.with(self.status.key(ending), resolve, Counter::inc);
    }
}

/// The peer's names of errors in the `outbound_*` families (§5.2); ours where it has none.
fn error_label(code: Code) -> &'static str {
    match code {
        Code::AllUnready | Code::AllEjected | Code::NoEndpoints | Code::NoSuchService => "FAIL_FAST",
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
    outcome: Option<Arc<Outcomes>>,
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
    outcome: Option<Arc<Outcomes>>,
    duration: Option<Histogram>,
    frames: Option<Histogram>,
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
        if let Some(duration) = &self.duration {
            duration.observe_seconds(after);
        }
    }

    /// Counts the frames of a response's body.
    pub fn passed(&self, sizes: &FrameSizes) {
        if let Some(frames) = &self.frames {
            sizes.add_to(frames);
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
    fn a_grpc_routes_requests_are_counted_by_grpc_status() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry, Hop::Outbound);
        let route = Meta::Resource(Arc::new(weft_model::meta::Resource {
            group: "gateway.networking.k8s.io".into(),
            kind: "GRPCRoute".into(),
            namespace: "default".into(),
            name: "r".into(),
            section: String::new(),
            port: None,
        }));
        let route = metrics.policy_route(&Meta::default_named("p"), &route);
        for (status, grpc) in [(200, Some(5)), (200, None), (503, None)] {
            let status = StatusCode::from_u16(status).ok();
            let ending = Ending { status, grpc, class: Class::Failure, error: None };
            route.ended(&ending, Duration::ZERO);
        }
        let text = registry.render();
        let count = |status: &str| {
            let label = format!("grpc_status=\"{status}\",error=\"\"}}");
            let mut lines =
                text.lines().filter(|l| l.starts_with("outbound_grpc_route_request_statuses_total"));
            let line = lines.find(|l| l.contains(&label));
            line.and_then(|l| l.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
        };
        assert_eq!((count("NOT_FOUND"), count("UNKNOWN")), (1, 2), "{text}");
        assert!(!text.contains("outbound_http_route"), "{text}");
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
