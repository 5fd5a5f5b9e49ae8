//! Routes: what requests match, what is done to them, where they go and how long they may take.
//!
//! One shape serves outbound and inbound, HTTP and gRPC, policies and service profiles: a route holds
//! rules; a rule holds matches, permission, filters, backends and limits. `decide` evaluates it,
//! `route` keeps it compiled, `wire` carries it.

use crate::address::NameAddr;
use crate::authorization::Authorization;
use crate::destination::EndpointInfo;
pub use crate::meta::Labels;
use crate::meta::Meta;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use std::sync::Arc;
use std::time::Duration;

/// A regular expression as text; compiled, anchored at both ends, by `decide`. `wire` and `index`
/// only let expressions in that compile.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(pub String);

/// An HTTP or gRPC route.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Where it comes from.
    pub meta: Meta,
    /// Hosts it is for; none means all.
    pub hosts: Vec<HostMatch>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
    /// Who may use it: on inbound routes, in addition to the server's own authorizations. Unused
    /// outbound.
    pub authorizations: Vec<Authorization>,
}

/// One rule of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Any of these selects the rule; none means all requests.
    pub matches: Vec<RequestMatch>,
    /// Run in order.
    pub filters: Vec<Filter>,
    /// Where matching requests go.
    pub backends: Distribution,
    /// Time limits.
    pub timeouts: Timeouts,
    /// Retries, if any.
    pub retry: Option<RetryPolicy>,
    /// Whether `l5d-retry-*` and `l5d-timeout*` request headers are obeyed.
    pub allow_request_headers: bool,
}

impl Rule {
    /// A rule of what comes in, which leads to the application and has no limits.
    pub fn inbound(matches: Vec<RequestMatch>, filters: Vec<Filter>) -> Self {
        Self {
            matches,
            filters,
            backends: Distribution::Application,
            timeouts: Timeouts::default(),
            retry: None,
            allow_request_headers: false,
        }
    }
}

/// A host pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostMatch {
    /// This host, compared without case.
    Exact(String),
    /// Any host with at least one more label before these labels (given last label first).
    Suffix {
        /// `["com", "example"]` stands for `*.example.com`.
        reversed_labels: Vec<String>,
    },
}

/// What a rule looks for in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestMatch {
    /// By HTTP parts.
    Http(HttpMatch),
    /// By gRPC method.
    Grpc(GrpcMatch),
}

/// All given parts must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpMatch {
    /// The path.
    pub path: Option<PathMatch>,
    /// Headers, all of them.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters, all of them.
    pub query: Vec<QueryMatch>,
    /// The method.
    pub method: Option<Method>,
}

/// A gRPC method match; `None` is a wildcard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrpcMatch {
    /// Full service name.
    pub service: Option<String>,
    /// Method name.
    pub method: Option<String>,
    /// Headers, all of them.
    pub headers: Vec<HeaderMatch>,
}

/// A path match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// By whole segments.
    Prefix(String),
    /// Covering the whole path.
    Regex(Pattern),
}

/// A header match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Which header.
    pub name: HeaderName,
    /// What one of its values must be.
    pub value: HeaderValueMatch,
}

/// What a header value must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderValueMatch {
    /// These bytes.
    Exact(Vec<u8>),
    /// A text covered by the expression.
    Regex(Pattern),
}

/// A query parameter match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatch {
    /// Which parameter, form-decoded.
    pub name: String,
    /// What its value must be.
    pub value: QueryValueMatch,
}

/// What a query parameter must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryValueMatch {
    /// This text.
    Exact(String),
    /// Covered by the expression.
    Regex(Pattern),
}

/// A condition tree on requests, as service profiles have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Every part holds; an empty list always does.
    All(Vec<Condition>),
    /// At least one part holds; an empty list never does.
    Any(Vec<Condition>),
    /// The part does not hold.
    Not(Box<Condition>),
    /// The expression covers the path.
    Path(Pattern),
    /// The method is this.
    Method(Method),
}

/// Something done to a request or its response before or instead of sending it on.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// Change request headers.
    RequestHeaders(HeaderChange),
    /// Change response headers.
    ResponseHeaders(HeaderChange),
    /// Answer with a redirect.
    Redirect(Redirect),
    /// Answer with a status, for a share of the requests.
    InjectFailure(Injection),
    /// Answer 500: the policy could not be understood.
    Invalid {
        /// What is wrong with it.
        message: String,
    },
    /// Refuse: the destination may not be used like this.
    Forbidden,
}

/// Header changes, applied add, then set, then remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChange {
    /// Appended.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Replaced.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Removed.
    pub remove: Vec<HeaderName>,
}

/// A redirect; `None` keeps the request's part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// New scheme.
    pub scheme: Option<String>,
    /// New host.
    pub host: Option<String>,
    /// New port.
    pub port: Option<u16>,
    /// New path.
    pub path: Option<PathRewrite>,
    /// Status, 301 if none.
    pub status: Option<StatusCode>,
}

/// How a redirect changes the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// The whole path, perhaps with a query.
    Full(String),
    /// The matched prefix.
    Prefix(String),
}

/// An injected failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    /// What the client sees.
    pub answer: InjectedAnswer,
    /// For people.
    pub message: String,
    /// `numerator / denominator` of the requests; the denominator is never 0.
    pub ratio: (u32, u32),
}

/// What an injected failure looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InjectedAnswer {
    /// An HTTP status.
    Http(StatusCode),
    /// A gRPC code in an HTTP 200.
    Grpc(u16),
}

/// How requests are spread over backends.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Distribution {
    /// Nowhere: never ready.
    #[default]
    Empty,
    /// To the application beside this proxy (inbound only).
    Application,
    /// To the first that is ready.
    FirstAvailable(Vec<RouteBackend>),
    /// To a draw by weight among those that are ready. At least one weight is not 0.
    RandomAvailable(Vec<(RouteBackend, u32)>),
}

/// A backend as one rule uses it.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteBackend {
    /// The backend, shared by every rule that names it.
    pub backend: Arc<Backend>,
    /// Run after the rule's own.
    pub filters: Vec<Filter>,
}

/// A set of endpoints and how to choose among them.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Where it comes from.
    pub meta: Meta,
    /// Its waiting room.
    pub queue: Queue,
    /// What it leads to.
    pub dispatch: Dispatch,
}

/// The bounded queue in front of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Requests that may wait.
    pub capacity: usize,
    /// How long a backend may have nothing ready before it fails fast.
    pub failfast: Duration,
}

impl Default for Queue {
    /// 10,000 requests and 3 s, the peer's outbound defaults (§1.3).
    fn default() -> Self {
        Self { capacity: 10_000, failfast: Duration::from_secs(3) }
    }
}

/// What a backend leads to.
#[derive(Clone, Debug, PartialEq)]
pub enum Dispatch {
    /// The endpoints of a name, balanced.
    Balance {
        /// Asked from `Destination.Get`.
        dst: NameAddr,
        /// How load is estimated.
        load: LoadParams,
    },
    /// One endpoint.
    Forward(Box<EndpointInfo>),
    /// Nothing: requests fail with "no dispatcher".
    Missing,
}

/// Peak EWMA parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoadParams {
    /// Estimate of an endpoint that has not answered yet.
    pub default_rtt: Duration,
    /// Time constant of the decay.
    pub decay: Duration,
    /// Failures count as slow answers, if set.
    pub penalty: Option<Penalty>,
}

impl Default for LoadParams {
    /// 30 ms and 10 s, without penalties (§3.6).
    fn default() -> Self {
        Self { default_rtt: Duration::from_millis(30), decay: Duration::from_secs(10), penalty: None }
    }
}

/// How failures weigh in the load estimate (`PenaltyPeakEwma`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalty {
    /// Least response time that a failure counts as.
    pub penalty: Duration,
    /// Longest `Retry-After` that is believed.
    pub max_retry_after: Duration,
    /// Time constant with which a penalty fades.
    pub decay: Duration,
}

/// Time limits of a rule (§3.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// All attempts and the response body, from entry into the route.
    pub request: Option<Duration>,
    /// From the end of the request body to the end of the response, per attempt.
    pub response: Option<Duration>,
    /// Longest gap between body frames in either direction.
    pub idle: Option<Duration>,
}

/// Retries of a rule (§3.8).
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Retries after the first attempt.
    pub limit: u32,
    /// Request bodies up to this many bytes are kept for replay.
    pub max_request_bytes: usize,
    /// Statuses that are retried.
    pub http: Vec<StatusRange>,
    /// gRPC codes that are retried.
    pub grpc: Vec<u16>,
    /// Limit until response headers, per attempt.
    pub timeout: Option<Duration>,
    /// Wait between attempts.
    pub backoff: Option<Backoff>,
    /// Obey `Retry-After` and `grpc-retry-pushback-ms`.
    pub respect_retry_after: bool,
}

impl Default for RetryPolicy {
    /// What annotations and request headers start from: one retry of nothing, bodies up to 64 KiB, 25 to 250 ms between
    /// attempts (§3.5).
    fn default() -> Self {
        let backoff =
            Backoff { min: Duration::from_millis(25), max: Duration::from_millis(250), jitter: 1.0 };
        Self {
            limit: 1,
            max_request_bytes: 65_536,
            http: Vec::new(),
            grpc: Vec::new(),
            timeout: None,
            backoff: Some(backoff),
            respect_retry_after: false,
        }
    }
}

/// Inclusive range of HTTP statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StatusRange {
    /// First status.
    pub min: u16,
    /// Last status.
    pub max: u16,
}

/// The number of a gRPC code that may be a condition of retries, by its name in annotations and request headers.
pub fn grpc_retry_code(name: &str) -> Option<u16> {
    match name {
        "cancelled" => Some(1),
        "deadline-exceeded" => Some(4),
        "resource-exhausted" => Some(8),
        "internal" => Some(13),
        "unavailable" => Some(14),
        _ => None,
    }
}

impl StatusRange {
    /// Reads `5xx`, `gateway-error` (502–504), a status from 100 to 599, or `low-high`, as annotations and request headers
    /// have it.
    pub fn parse(text: &str) -> Option<Self> {
        let status = |text: &str| text.trim().parse::<u16>().ok().filter(|s| (100..=599).contains(s));
        match text {
            "5xx" => Some(StatusRange { min: 500, max: 599 }),
            "gateway-error" => Some(StatusRange { min: 502, max: 504 }),
            _ => {
                let (low, high) = text.split_once('-').unwrap_or((text, text));
                let (min, max) = (status(low)?, status(high)?);
                (min <= max).then_some(StatusRange { min, max })
            }
        }
    }

    /// Whether `status` lies in the range.
    pub fn contains(self, status: u16) -> bool {
        (self.min..=self.max).contains(&status)
    }
}

/// Exponential backoff with jitter: `min × 2ⁿ` capped at `max`, plus up to `jitter` of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// First wait.
    pub min: Duration,
    /// Longest wait.
    pub max: Duration,
    /// Share added at random, 0–100.
    pub jitter: f64,
}

impl Backoff {
    /// The wait before attempt `n` (the first is 0), given a uniform draw in `0.0..1.0`. Never above
    /// `max`.
    pub fn wait(&self, n: u32, draw: f64) -> Duration {
        let base = self.min.saturating_mul(1u32.checked_shl(n.min(31)).unwrap_or(u32::MAX)).min(self.max);
        let jitter = base.as_secs_f64() * self.jitter.clamp(0.0, 100.0) * draw.clamp(0.0, 1.0);
        (base + Duration::try_from_secs_f64(jitter).unwrap_or_default()).min(self.max)
    }
}

/// A retry budget (§2.3): every request deposits, a retry withdraws.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// How long deposits stay, 1–60 s.
    pub ttl: Duration,
    /// Retries allowed on top of the ratio.
    pub min_per_second: u32,
    /// Retries per original request, 0–1000.
    pub ratio: f32,
}

impl Default for RetryBudget {
    /// 20 %, 10 a second, over 10 s: the control plane's default (§1B.2).
    fn default() -> Self {
        Self { ttl: Duration::from_secs(10), min_per_second: 10, ratio: 0.2 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_and_is_capped() {
        let b = Backoff { min: Duration::from_millis(100), max: Duration::from_secs(1), jitter: 0.5 };
        let waits: Vec<_> = (0..6).map(|n| b.wait(n, 0.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(b.wait(0, 1.0).as_millis(), 150);
        assert_eq!(b.wait(40, 1.0).as_millis(), 1000);
    }
}
