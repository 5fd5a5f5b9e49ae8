//! Annotations that change what proxies are told: port lists, circuit breakers, limits, retries.
//!
//! Pure readers of text. A value that cannot be read leaves its feature off and is reported by
//! `verdict.rs`; lists of ports lose only the parts that cannot be read.

use std::collections::BTreeMap;
use std::time::Duration;
use weft_model::duration;
use weft_model::policy::FailureAccrual;
use weft_model::route::{Backoff, LoadParams, Penalty, RetryPolicy, StatusRange, Timeouts, grpc_retry_code};

/// Ports on which nothing is detected.
pub const OPAQUE_PORTS: &str = "config.linkerd.io/opaque-ports";
/// Ports that do not go through the workload's proxy.
pub const SKIP_INBOUND_PORTS: &str = "config.linkerd.io/skip-inbound-ports";
/// The inbound policy of ports without a server.
pub const DEFAULT_INBOUND_POLICY: &str = "config.linkerd.io/default-inbound-policy";
/// Ports on which the default policy demands an identity.
pub const REQUIRE_IDENTITY_PORTS: &str = "config.linkerd.io/proxy-require-identity-inbound-ports";
/// Identity of another mesh's gateway, on the slices of a mirrored service.
pub const GATEWAY_IDENTITY: &str = "mirror.linkerd.io/remote-gateway-identity";
/// The mirrored service's name in the other mesh.
pub const REMOTE_SERVICE: &str = "mirror.linkerd.io/remote-svc-fq-name";
/// Label: the other mesh's name, on a mirrored service.
pub const MIRROR_CLUSTER: &str = "mirror.linkerd.io/cluster-name";

const ACCRUAL: &str = "balancer.linkerd.io/failure-accrual";
const MAX_FAILURES: &str = "balancer.linkerd.io/failure-accrual-consecutive-max-failures";
const MIN_PENALTY: &str = "balancer.linkerd.io/failure-accrual-consecutive-min-penalty";
const MAX_PENALTY: &str = "balancer.linkerd.io/failure-accrual-consecutive-max-penalty";
const JITTER: &str = "balancer.linkerd.io/failure-accrual-consecutive-jitter-ratio";
const THRESHOLD: &str = "balancer.alpha.linkerd.io/failure-accrual-success-rate-threshold";
const WINDOW: &str = "balancer.alpha.linkerd.io/failure-accrual-success-rate-window";
const MIN_REQUESTS: &str = "balancer.alpha.linkerd.io/failure-accrual-success-rate-min-requests";
const HONOR_RETRY_AFTER: &str = "balancer.alpha.linkerd.io/failure-accrual-honor-retry-after";
const PENALIZE: &str = "balancer.alpha.linkerd.io/penalize-failures";
const BIASER_PENALTY: &str = "balancer.alpha.linkerd.io/load-biaser-penalty";
const BIASER_RETRY_AFTER: &str = "balancer.alpha.linkerd.io/load-biaser-max-retry-after";

/// Ours: how many endpoints of a service breakers leave in use at least.
const MIN_READY: &str = "weft/min-ready-endpoints";
/// Ours: whether a retry waits for as long as the response's `Retry-After` asks.
const RESPECT_RETRY_AFTER: &str = "weft/respect-retry-after";
const RETRY_HTTP: &str = "retry.linkerd.io/http";
const RETRY_GRPC: &str = "retry.linkerd.io/grpc";

/// Annotations as objects carry them.
pub type Annotations = BTreeMap<String, String>;

/// Ports given by numbers, ranges and names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortList {
    ranges: Vec<(u16, u16)>,
    names: Vec<String>,
}

impl PortList {
    /// Reads a comma-separated list of numbers, ranges `low-high` and port names. The second value
    /// names the parts that are none of these; they are left out.
    pub fn parse(text: &str) -> (Self, Vec<String>) {
        let (mut list, mut bad) = (Self::default(), Vec::new());
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            match number_or_range(part) {
                Some(range) => list.ranges.push(range),
                None if is_port_name(part) => list.names.push(part.to_owned()),
                None => bad.push(part.chars().take(80).collect()),
            }
        }
        (list, bad)
    }

    /// Whether a port is listed by number, or by one of the names that it has.
    pub fn contains<'a>(&self, port: u16, mut names: impl Iterator<Item = &'a str>) -> bool {
        self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&port))
            || (!self.names.is_empty() && names.any(|name| self.names.iter().any(|n| n == name)))
    }

    /// The names in the list.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }
}

fn number_or_range(part: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.trim().parse::<u16>().ok().filter(|n| *n > 0);
    if let Some(port) = number(part) {
        return Some((port, port));
    }
    let (low, high) = part.split_once('-')?;
    let (low, high) = (number(low)?, number(high)?);
    (low <= high).then_some((low, high))
}

/// A port name of Kubernetes: 1–63 lower-case letters, digits and inner hyphens, with a letter.
pub(crate) fn is_port_name(text: &str) -> bool {
    let allowed = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    allowed
        && (1..=63).contains(&text.len())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().any(|b| b.is_ascii_lowercase())
}

/// The circuit breaker that annotations ask for (§1F.7), `None` if they ask for none. The error says
/// which annotation is wrong; the breaker is then off.
pub fn failure_accrual(annotations: &Annotations) -> Result<Option<FailureAccrual>, String> {
    let mode = match annotations.get(ACCRUAL).map(String::as_str) {
        None => return Ok(None),
        Some(mode @ ("consecutive" | "unified")) => mode,
        Some(other) => return Err(format!("{ACCRUAL}: `{other}` is neither `consecutive` nor `unified`")),
    };
    let max_failures = number(annotations, MAX_FAILURES, 7u32)?;
    let min = span(annotations, MIN_PENALTY, Duration::from_secs(1))?;
    let max = span(annotations, MAX_PENALTY, Duration::from_secs(60))?;
    if max.is_zero() || min > max {
        return Err(format!("{MIN_PENALTY} must not exceed {MAX_PENALTY}, which must not be 0"));
    }
    let jitter = number(annotations, JITTER, 0.5f64)?;
    if !(0.0..=100.0).contains(&jitter) {
        return Err(format!("{JITTER}: `{jitter}` is not in 0–100"));
    }
    let backoff = Backoff { min, max, jitter };
    if mode == "consecutive" {
        return Ok(Some(FailureAccrual::Consecutive { max_failures, backoff }));
    }
    let success_rate = number(annotations, THRESHOLD, 0.8f64)?;
    if !(0.0..=1.0).contains(&success_rate) {
        return Err(format!("{THRESHOLD}: `{success_rate}` is not in 0–1"));
    }
    let window = span(annotations, WINDOW, Duration::from_secs(10))?;
    let min_requests = number(annotations, MIN_REQUESTS, 5u32)?;
    let by_rate = success_rate != 0.0;
    if window.is_zero() || (by_rate && window < Duration::from_millis(10)) {
        return Err(format!("{WINDOW} must be at least 10ms"));
    }
    if by_rate && min_requests > 1_000_000 {
        return Err(format!("{MIN_REQUESTS}: `{min_requests}` is more than 1000000"));
    }
    Ok(Some(FailureAccrual::Unified {
        success_rate,
        window,
        min_requests,
        max_consecutive: max_failures,
        backoff,
        respect_retry_after: flag(annotations, HONOR_RETRY_AFTER)?,
    }))
}

/// How many endpoints breakers leave in use at least, as an annotation of ours asks. The error says that it is wrong; it
/// is then 0.
pub fn min_ready(annotations: &Annotations) -> Result<u32, String> {
    number(annotations, MIN_READY, 0)
}

/// How load is estimated as annotations ask (§1F.7). The error says which annotation is wrong;
/// failures then carry no penalty.
pub fn load(annotations: &Annotations) -> Result<LoadParams, String> {
    if !flag(annotations, PENALIZE)? {
        return Ok(LoadParams::default());
    }
    let penalty = span(annotations, BIASER_PENALTY, Duration::from_secs(5))?;
    if penalty.as_millis() > u128::from(u32::MAX) {
        return Err(format!("{BIASER_PENALTY} is longer than {} ms", u32::MAX));
    }
    let max_retry_after = span(annotations, BIASER_RETRY_AFTER, Duration::from_secs(300))?;
    let decay = Duration::from_secs(10);
    Ok(LoadParams { penalty: Some(Penalty { penalty, max_retry_after, decay }), ..LoadParams::default() })
}

/// Time limits that annotations ask for (§1F.6). The error says which annotation is wrong; no limit
/// applies then.
pub fn timeouts(annotations: &Annotations) -> Result<Timeouts, String> {
    let limit = |key: &str| match annotations.get(key) {
        None => Ok(None),
        Some(text) => match duration::parse(text) {
            Some(limit) => Ok(Some(limit).filter(|l| !l.is_zero())),
            None => Err(format!("{key}: `{text}` is not a duration such as `500ms`")),
        },
    };
    Ok(Timeouts {
        request: limit("timeout.linkerd.io/request")?,
        response: limit("timeout.linkerd.io/response")?,
        idle: limit("timeout.linkerd.io/idle")?,
    })
}

/// Retries of HTTP requests that annotations ask for (§1F.6), `None` if they ask for none. The error
/// says which annotation is wrong; nothing is retried then.
pub fn http_retry(annotations: &Annotations) -> Result<Option<RetryPolicy>, String> {
    let http = listed(annotations, RETRY_HTTP, |part| {
        StatusRange::parse(part).ok_or("neither `5xx`, `gateway-error`, a status nor a range of statuses")
    })?;
    retry(annotations, RETRY_HTTP, |policy| policy.http = http)
}

/// Retries of gRPC requests that annotations ask for, as [`http_retry`].
pub fn grpc_retry(annotations: &Annotations) -> Result<Option<RetryPolicy>, String> {
    let grpc = listed(annotations, RETRY_GRPC, |part| {
        let wanted = "none of cancelled, deadline-exceeded, internal, resource-exhausted, unavailable";
        grpc_retry_code(part).ok_or(wanted)
    })?;
    retry(annotations, RETRY_GRPC, |policy| policy.grpc = grpc)
}

/// Reads a comma-separated list.
fn listed<T>(
    annotations: &Annotations,
    key: &str,
    read: impl Fn(&str) -> Result<T, &'static str>,
) -> Result<Vec<T>, String> {
    let parts = annotations.get(key).into_iter().flat_map(|text| text.split(',')).map(str::trim);
    parts.map(|part| read(part).map_err(|wanted| format!("{key}: `{part}` is {wanted}"))).collect()
}

/// What all retries have in common; `condition` is the annotation that says what is retried.
fn retry(
    annotations: &Annotations,
    condition: &str,
    fill: impl FnOnce(&mut RetryPolicy),
) -> Result<Option<RetryPolicy>, String> {
    const LIMIT: &str = "retry.linkerd.io/limit";
    const TIMEOUT: &str = "retry.linkerd.io/timeout";
    if ![condition, LIMIT, TIMEOUT].iter().any(|key| annotations.contains_key(*key)) {
        return Ok(None);
    }
    let limit = match number(annotations, LIMIT, 1u32)? {
        0 => 1,
        limit => limit,
    };
    let timeout = span(annotations, TIMEOUT, Duration::ZERO)?;
    let mut policy = RetryPolicy {
        limit,
        timeout: Some(timeout).filter(|t| !t.is_zero()),
        respect_retry_after: flag(annotations, RESPECT_RETRY_AFTER)?,
        ..RetryPolicy::default()
    };
    fill(&mut policy);
    Ok(Some(policy))
}

fn number<T: std::str::FromStr>(annotations: &Annotations, key: &str, default: T) -> Result<T, String> {
    match annotations.get(key) {
        None => Ok(default),
        Some(text) => {
            text.trim().parse().map_err(|_| format!("{key}: `{text}` is not a number of that kind"))
        }
    }
}

fn span(annotations: &Annotations, key: &str, default: Duration) -> Result<Duration, String> {
    match annotations.get(key) {
        None => Ok(default),
        Some(text) => {
            duration::parse(text).ok_or_else(|| format!("{key}: `{text}` is not a duration such as `500ms`"))
        }
    }
}

/// Reads the tokens of Go's `ParseBool`, as manifests for the peer use them.
fn flag(annotations: &Annotations, key: &str) -> Result<bool, String> {
    match annotations.get(key).map(String::as_str) {
        None | Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(false),
        Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(true),
        Some(other) => Err(format!("{key}: `{other}` is neither true nor false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&str, &str)]) -> Annotations {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn port_lists_have_numbers_ranges_and_names() {
        let (list, bad) = PortList::parse("25, 8000-8002 ,mysql,,0,70000,9-8,UPPER,-x");
        assert_eq!(bad, ["0", "70000", "9-8", "UPPER", "-x"]);
        for (port, names, listed) in [
            (25, vec![], true),
            (26, vec![], false),
            (8000, vec![], true),
            (8002, vec![], true),
            (8003, vec![], false),
            (3306, vec!["http", "mysql"], true),
            (3306, vec!["http"], false),
        ] {
            assert_eq!(list.contains(port, names.into_iter()), listed, "{port}");
        }
    }

    #[test]
    fn breakers_have_the_peers_defaults() {
        let backoff = Backoff { min: Duration::from_secs(1), max: Duration::from_secs(60), jitter: 0.5 };
        assert_eq!(failure_accrual(&given(&[])), Ok(None));
        assert_eq!(
            failure_accrual(&given(&[(ACCRUAL, "consecutive")])),
            Ok(Some(FailureAccrual::Consecutive { max_failures: 7, backoff }))
        );
        assert_eq!(
            failure_accrual(&given(&[(ACCRUAL, "unified")])),
            Ok(Some(FailureAccrual::Unified {
                success_rate: 0.8,
                window: Duration::from_secs(10),
                min_requests: 5,
                max_consecutive: 7,
                backoff,
                respect_retry_after: false,
            }))
        );
    }

    #[test]
    fn breakers_may_have_to_leave_some_endpoints_in_use() {
        assert_eq!(min_ready(&given(&[])), Ok(0));
        assert_eq!(min_ready(&given(&[(MIN_READY, "2")])), Ok(2));
        assert!(min_ready(&given(&[(MIN_READY, "-1")])).unwrap_err().contains(MIN_READY));
    }

    #[test]
    fn a_wrong_breaker_annotation_is_named() {
        for (mode, key, value) in [
            ("sometimes", MAX_FAILURES, "1"),
            ("consecutive", MAX_FAILURES, "-1"),
            ("consecutive", MIN_PENALTY, "2m"),
            ("consecutive", MAX_PENALTY, "0"),
            ("consecutive", MAX_PENALTY, "soon"),
            ("consecutive", JITTER, "101"),
            ("consecutive", JITTER, "NaN"),
            ("unified", THRESHOLD, "1.5"),
            ("unified", WINDOW, "5ms"),
            ("unified", WINDOW, "0"),
            ("unified", MIN_REQUESTS, "1000001"),
            ("unified", HONOR_RETRY_AFTER, "maybe"),
        ] {
            let problem = failure_accrual(&given(&[(ACCRUAL, mode), (key, value)])).unwrap_err();
            let named = if mode == "sometimes" { ACCRUAL } else { key };
            assert!(problem.contains(named), "{problem}");
        }
        let off =
            given(&[(ACCRUAL, "unified"), (THRESHOLD, "0"), (WINDOW, "5ms"), (MIN_REQUESTS, "2000000")]);
        assert!(failure_accrual(&off).is_ok(), "limits of the rate do not matter while the rate is off");
    }

    #[test]
    fn penalties_are_off_unless_asked_for() {
        assert_eq!(load(&given(&[])), Ok(LoadParams::default()));
        assert_eq!(load(&given(&[(PENALIZE, "F")])), Ok(LoadParams::default()));
        let penalty = load(&given(&[(PENALIZE, "t"), (BIASER_PENALTY, "2s")])).unwrap().penalty.unwrap();
        assert_eq!(penalty.penalty, Duration::from_secs(2));
        assert_eq!(penalty.max_retry_after, Duration::from_secs(300));
        assert_eq!(penalty.decay, Duration::from_secs(10));
        assert!(load(&given(&[(PENALIZE, "yes")])).is_err());
        assert!(load(&given(&[(PENALIZE, "1"), (BIASER_PENALTY, "60d")])).is_err());
    }

    #[test]
    fn limits_and_retries_are_read() {
        let limits =
            timeouts(&given(&[("timeout.linkerd.io/request", "3s"), ("timeout.linkerd.io/idle", "0")]));
        assert_eq!(limits, Ok(Timeouts { request: Some(Duration::from_secs(3)), ..Timeouts::default() }));
        assert!(timeouts(&given(&[("timeout.linkerd.io/response", "1.5s")])).is_err());

        assert_eq!(http_retry(&given(&[])), Ok(None));
        let retry = http_retry(&given(&[("retry.linkerd.io/http", "gateway-error, 429,500-501,5xx")]));
        let ranges: Vec<_> = retry.unwrap().unwrap().http.iter().map(|r| (r.min, r.max)).collect();
        assert_eq!(ranges, [(502, 504), (429, 429), (500, 501), (500, 599)]);
        let retry = http_retry(&given(&[("retry.linkerd.io/limit", "0")])).unwrap().unwrap();
        assert_eq!((retry.limit, retry.http.len(), retry.max_request_bytes), (1, 0, 65_536));
        assert!(http_retry(&given(&[("retry.linkerd.io/http", "4xx")])).is_err());

        assert_eq!(grpc_retry(&given(&[("retry.linkerd.io/http", "5xx")])), Ok(None));
        let retry = grpc_retry(&given(&[
            ("retry.linkerd.io/grpc", "cancelled,deadline-exceeded, resource-exhausted,internal,unavailable"),
            ("weft/respect-retry-after", "true"),
        ]));
        let retry = retry.unwrap().unwrap();
        assert_eq!(
            (retry.grpc, retry.http, retry.respect_retry_after),
            (vec![1, 4, 8, 13, 14], vec![], true)
        );
        assert!(grpc_retry(&given(&[("retry.linkerd.io/grpc", "not-found")])).is_err());
    }
}
