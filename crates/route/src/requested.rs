//! Time limits and retries that a request asks for itself, by its `l5d-*` headers (§3.5). Pure.
//!
//! `proxy/forward.rs` asks once per request whose rule allows it; on every other request these headers pass unread. What a
//! request asks for replaces its own part of the rule and leaves the rest.

use crate::retry::Retry;
use http::{HeaderMap, HeaderName};
use std::time::Duration;
use weft_model::duration;
use weft_model::route::{RetryPolicy, StatusRange, Timeouts, grpc_retry_code};

/// How long a request may take, and how often it is tried.
#[derive(Debug, Default)]
pub struct Limits {
    /// Limits of the policy.
    pub timeouts: Timeouts,
    /// Retries, if any.
    pub retry: Option<Retry>,
}

/// Most retries that a request may ask for; more are read as this many. A guess: far more than helps anybody.
pub const MOST_RETRIES: u32 = 100;

const RETRY_HTTP: HeaderName = HeaderName::from_static("l5d-retry-http");
const RETRY_GRPC: HeaderName = HeaderName::from_static("l5d-retry-grpc");
const RETRY_LIMIT: HeaderName = HeaderName::from_static("l5d-retry-limit");
const RETRY_TIMEOUT: HeaderName = HeaderName::from_static("l5d-retry-timeout");
const TIMEOUT: HeaderName = HeaderName::from_static("l5d-timeout");
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("l5d-request-timeout");
const RESPONSE_TIMEOUT: HeaderName = HeaderName::from_static("l5d-response-timeout");

/// The limits of a request whose rule has these: takes the headers out and obeys them. `None` if there are none.
///
/// A value that cannot be read changes nothing, except in a list: items that are not known are left out, and a list of
/// nothing else asks for no retries. A profile's retries, which a budget bounds, stay as they are.
pub fn take(headers: &mut HeaderMap, rule: &Limits) -> Option<Box<Limits>> {
    // One look at each name costs less than looking each of these up; most requests have none.
    if !headers.keys().any(|name| name.as_str().starts_with("l5d-re") || name == TIMEOUT) {
        return None;
    }
    let mut text = |name| Some(headers.remove(name)?.to_str().unwrap_or_default().to_owned());
    let (http, grpc) = (text(RETRY_HTTP), text(RETRY_GRPC));
    let (limit, per_try) = (text(RETRY_LIMIT), text(RETRY_TIMEOUT));
    let asks_for_retries = [&http, &grpc, &limit, &per_try].iter().any(|header| header.is_some());
    let mut span = |name| duration::parse(&text(name)?).filter(|span: &Duration| !span.is_zero());
    let (request, again) = (span(TIMEOUT), span(REQUEST_TIMEOUT));
    let timeouts = Timeouts {
        request: again.or(request).or(rule.timeouts.request),
        response: span(RESPONSE_TIMEOUT).or(rule.timeouts.response),
        idle: rule.timeouts.idle,
    };
    let policy = match &rule.retry {
        Some(Retry::Policy(policy)) => Some(policy.clone()),
        None if asks_for_retries => Some(RetryPolicy::default()),
        Some(Retry::Profile(_)) | None => None,
    };
    let retry = match policy {
        Some(mut policy) => {
            if let Some(http) = http {
                policy.http = items(&http).filter_map(StatusRange::parse).collect();
            }
            if let Some(grpc) = grpc {
                policy.grpc = items(&grpc).filter_map(grpc_retry_code).collect();
            }
            if let Some(limit) = limit.and_then(|limit| limit.trim().parse::<u32>().ok()) {
                policy.limit = limit.min(MOST_RETRIES);
            }
            if let Some(limit) = per_try.and_then(|limit| duration::parse(&limit)) {
                policy.timeout = Some(limit).filter(|limit| !limit.is_zero());
            }
            Some(Retry::Policy(policy))
        }
        None => rule.retry.clone(),
    };
    Some(Box::new(Limits { timeouts, retry }))
}

/// The items of a list. Blanks around one do not count, unlike the peer's, which skips such items.
fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use weft_model::route::Backoff;

    fn asked(pairs: &[(&'static str, &str)], rule: &Limits) -> (Option<Box<Limits>>, HeaderMap) {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
        let mut headers = HeaderMap::from_iter(pairs);
        let limits = take(&mut headers, rule);
        (limits, headers)
    }

    fn policy(pairs: &[(&'static str, &str)], rule: &Limits) -> RetryPolicy {
        match asked(pairs, rule).0.unwrap().retry {
            Some(Retry::Policy(policy)) => policy,
            other => panic!("{other:?}"),
        }
    }

    fn ranges(list: &[(u16, u16)]) -> Vec<StatusRange> {
        list.iter().map(|(min, max)| StatusRange { min: *min, max: *max }).collect()
    }

    #[test]
    fn a_request_that_asks_for_nothing_keeps_its_rule() {
        let (limits, headers) = asked(&[("l5d-require-id", "web"), ("host", "web")], &Limits::default());
        assert!(limits.is_some_and(|limits| limits.retry.is_none()));
        assert_eq!(headers.len(), 2);
        assert!(asked(&[("host", "web"), ("l5d-client-id", "x")], &Limits::default()).0.is_none());
    }

    #[test]
    fn without_a_policy_a_header_brings_the_usual_one() {
        let (limits, headers) = asked(&[("l5d-retry-http", "5xx")], &Limits::default());
        assert!(headers.is_empty(), "{headers:?}");
        let Some(Retry::Policy(policy)) = limits.unwrap().retry else { panic!() };
        let backoff =
            Backoff { min: Duration::from_millis(25), max: Duration::from_millis(250), jitter: 1.0 };
        assert_eq!((policy.limit, policy.max_request_bytes, policy.backoff), (1, 65_536, Some(backoff)));
        assert_eq!((policy.http, policy.timeout), (ranges(&[(500, 599)]), None));
        let none = asked(&[("l5d-timeout", "1s")], &Limits::default()).0.unwrap();
        assert!(none.retry.is_none(), "a time limit is no retry");
    }

    #[test]
    fn each_header_replaces_its_own_part() {
        let own = RetryPolicy {
            limit: 3,
            http: ranges(&[(503, 503)]),
            grpc: vec![14],
            timeout: Some(Duration::from_secs(1)),
            ..RetryPolicy::default()
        };
        let rule = || Limits { retry: Some(Retry::Policy(own.clone())), ..Limits::default() };
        let check = |header, value, expected: RetryPolicy| {
            assert_eq!(policy(&[(header, value)], &rule()), expected, "{header}: {value}");
        };
        let statuses = |list: &[(u16, u16)]| RetryPolicy { http: ranges(list), ..own.clone() };
        check(
            "l5d-retry-http",
            "gateway-error, 500,429-430",
            statuses(&[(502, 504), (500, 500), (429, 430)]),
        );
        check("l5d-retry-http", "sometimes,99,600,504-502,5xx", statuses(&[(500, 599)]));
        check("l5d-retry-http", "sometimes", statuses(&[]));
        let codes = |list: &[u16]| RetryPolicy { grpc: list.to_vec(), ..own.clone() };
        check(
            "l5d-retry-grpc",
            "cancelled,deadline-exceeded,internal, resource-exhausted,unavailable",
            codes(&[1, 4, 13, 8, 14]),
        );
        check("l5d-retry-grpc", "ok", codes(&[]));
        check("l5d-retry-limit", "0", RetryPolicy { limit: 0, ..own.clone() });
        check("l5d-retry-limit", "4294967295", RetryPolicy { limit: MOST_RETRIES, ..own.clone() });
        check("l5d-retry-limit", "many", own.clone());
        check(
            "l5d-retry-timeout",
            "20ms",
            RetryPolicy { timeout: Some(Duration::from_millis(20)), ..own.clone() },
        );
        check("l5d-retry-timeout", "soon", own.clone());
    }

    #[test]
    fn time_limits_are_replaced_and_the_second_name_wins() {
        let second = Duration::from_secs(1);
        let own = Timeouts { request: Some(second), response: Some(second), idle: Some(second) };
        let rule = Limits { timeouts: own, retry: None };
        let timeouts = |pairs: &[(&'static str, &str)]| asked(pairs, &rule).0.unwrap().timeouts;
        let ms = |n| Some(Duration::from_millis(n));
        assert_eq!(timeouts(&[("l5d-timeout", "5ms")]), Timeouts { request: ms(5), ..own });
        let both = [("l5d-timeout", "5ms"), ("l5d-request-timeout", "7ms")];
        assert_eq!(timeouts(&both), Timeouts { request: ms(7), ..own });
        assert_eq!(timeouts(&[("l5d-response-timeout", "9ms")]), Timeouts { response: ms(9), ..own });
        assert_eq!(timeouts(&[("l5d-response-timeout", "never")]), own);
    }
}
