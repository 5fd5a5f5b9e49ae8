//! Destination profiles (§2.3): what of a profile is invalid is left out, the rest stays in force.
//!
//! Pure; protobuf's own limit of 100 nested messages bounds the recursion over condition trees.

use super::endpoint::{endpoint, label_map};
use super::{Warnings, duration, lenient_meta, route};
use linkerd2_proxy_api::destination as api;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;
use weft_model::address::NameAddr;
use weft_model::profile::{Profile, ProfileRoute, ResponseClass, ResponseCondition, WeightedDst};
use weft_model::route::{Condition, RetryBudget, StatusRange};

/// Reads a profile; `port` completes the service's name.
pub(super) fn profile(
    message: api::DestinationProfile,
    port: NonZeroU16,
    warnings: &mut Warnings,
) -> Profile {
    let name = message.fully_qualified_name;
    let logical = match name.parse() {
        Ok(name) => Some(NameAddr { name, port }),
        Err(_) if name.is_empty() => None,
        Err(e) => {
            warnings.add(format!("the profile's name is ignored: {e}"));
            None
        }
    };
    let retry_budget = message.retry_budget.and_then(|b| budget(b, warnings));
    let has_budget = retry_budget.is_some();
    let routes = message.routes.into_iter().filter_map(|r| profile_route(r, has_budget, warnings)).collect();
    Profile {
        logical,
        routes,
        retry_budget,
        overrides: message.dst_overrides.into_iter().filter_map(|o| weighted(o, warnings)).collect(),
        opaque: message.opaque_protocol,
        endpoint: message.endpoint.and_then(|e| endpoint(e, warnings)),
        parent: message.parent_ref.and_then(|r| lenient_meta(Some(r), "parent_ref").ok()),
        source: message.profile_ref.and_then(|r| lenient_meta(Some(r), "profile_ref").ok()),
    }
}

fn budget(message: api::RetryBudget, warnings: &mut Warnings) -> Option<RetryBudget> {
    let problem = match message.ttl.map(|t| duration(t, "ttl")) {
        _ if !(0.0..=1000.0).contains(&message.retry_ratio) => "its ratio is not within 0-1000",
        _ if i32::try_from(message.min_retries_per_second).is_err() => "its retries per second are too many",
        Some(Ok(ttl)) if (Duration::from_secs(1)..=Duration::from_secs(60)).contains(&ttl) => {
            let (ratio, min_per_second) = (message.retry_ratio, message.min_retries_per_second);
            return Some(RetryBudget { ttl, min_per_second, ratio });
        }
        Some(_) => "its TTL is not within 1-60 s",
        None => "it has no TTL",
    };
    warnings.add(format!("the retry budget is ignored, so nothing is retried: {problem}"));
    None
}

fn weighted(message: api::WeightedDst, warnings: &mut Warnings) -> Option<WeightedDst> {
    match message.authority.parse() {
        Ok(addr) => (message.weight != 0).then_some(WeightedDst { addr, weight: message.weight }),
        Err(e) => {
            warnings.add(format!("a destination override is skipped: {e}"));
            None
        }
    }
}

fn profile_route(message: api::Route, has_budget: bool, warnings: &mut Warnings) -> Option<ProfileRoute> {
    let Some(condition) = message.condition.and_then(condition) else {
        warnings.add("a profile route without a usable condition is skipped");
        return None;
    };
    if message.is_retryable && !has_budget {
        warnings.add("a profile route is retryable, but there is no valid retry budget");
    }
    let timeout = message.timeout.and_then(|t| match duration(t, "timeout") {
        Ok(timeout) if !timeout.is_zero() => Some(timeout),
        _ => {
            warnings.add("a profile route's timeout is ignored: it is not positive");
            None
        }
    });
    Some(ProfileRoute {
        condition,
        classes: message.response_classes.into_iter().filter_map(class).collect(),
        labels: Arc::new(label_map(message.metrics_labels, warnings)),
        retryable: message.is_retryable && has_budget,
        timeout,
    })
}

/// Reads a condition; unusable members of lists are dropped silently, as the peer does.
fn condition(message: api::RequestMatch) -> Option<Condition> {
    use api::request_match::Match::*;
    let list = |seq: api::request_match::Seq| seq.matches.into_iter().filter_map(condition).collect();
    Some(match message.r#match? {
        All(seq) => Condition::All(list(seq)),
        Any(seq) => Condition::Any(list(seq)),
        Not(inner) => Condition::Not(Box::new(condition(*inner)?)),
        Path(path) => Condition::Path(route::pattern(path.regex.trim().to_owned()).ok()?),
        Method(method) => Condition::Method(method.try_into().ok()?),
    })
}

fn class(message: api::ResponseClass) -> Option<ResponseClass> {
    let condition = response_condition(message.condition?)?;
    Some(ResponseClass { condition, is_failure: message.is_failure })
}

/// Reads a response condition; a list without a usable member is itself unusable.
fn response_condition(message: api::ResponseMatch) -> Option<ResponseCondition> {
    use api::response_match::Match::*;
    let list = |seq: api::response_match::Seq| {
        let list: Vec<_> = seq.matches.into_iter().filter_map(response_condition).collect();
        (!list.is_empty()).then_some(list)
    };
    Some(match message.r#match? {
        All(seq) => ResponseCondition::All(list(seq)?),
        Any(seq) => ResponseCondition::Any(list(seq)?),
        Not(inner) => ResponseCondition::Not(Box::new(response_condition(*inner)?)),
        Status(range) => {
            let status = |n: u32| u16::try_from(n).ok().filter(|n| (100..=999).contains(n));
            let (min, max) = (status(range.min)?, status(range.max)?);
            ResponseCondition::Status((min <= max).then_some(StatusRange { min, max })?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Decoded, with_warnings};
    use super::*;
    use api::{request_match as rm, response_match as sm};
    use linkerd2_proxy_api::http_types;

    fn decode(message: api::DestinationProfile) -> Decoded<Profile> {
        with_warnings(|w| profile(message, NonZeroU16::new(80).unwrap(), w))
    }

    fn seconds(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    fn path(regex: &str) -> api::RequestMatch {
        api::RequestMatch { r#match: Some(rm::Match::Path(api::PathMatch { regex: regex.into() })) }
    }

    fn pattern(text: &str) -> Condition {
        Condition::Path(weft_model::route::Pattern(text.into()))
    }

    fn route_with(condition: Option<api::RequestMatch>) -> api::Route {
        api::Route { condition, ..Default::default() }
    }

    #[test]
    fn the_name_takes_the_port_of_the_lookup() {
        for (name, logical, warned) in [("Web.x", Some("web.x:80"), 0), ("", None, 0), ("a b", None, 1)] {
            let decoded =
                decode(api::DestinationProfile { fully_qualified_name: name.into(), ..Default::default() });
            assert_eq!(decoded.value.logical.map(|l| l.to_string()).as_deref(), logical);
            assert_eq!(decoded.warnings.len(), warned);
        }
    }

    #[test]
    fn a_budget_that_breaks_a_rule_is_dropped() {
        let max = i32::MAX as u32;
        for (ratio, min, ttl, valid) in [
            (0.2, 10, seconds(10), true),
            (0.0, 0, seconds(1), true),
            (1000.0, max, seconds(60), true),
            (1000.1, 10, seconds(10), false),
            (-0.1, 10, seconds(10), false),
            (f32::NAN, 10, seconds(10), false),
            (0.2, max + 1, seconds(10), false),
            (0.2, 10, seconds(0), false),
            (0.2, 10, seconds(61), false),
            (0.2, 10, seconds(-5), false),
            (0.2, 10, None, false),
        ] {
            let budget = api::RetryBudget { retry_ratio: ratio, min_retries_per_second: min, ttl };
            let route = api::Route { is_retryable: true, ..route_with(Some(path("/"))) };
            let message = api::DestinationProfile {
                retry_budget: Some(budget),
                routes: vec![route],
                ..Default::default()
            };
            let decoded = decode(message);
            assert_eq!(decoded.value.retry_budget.is_some(), valid, "{budget:?}");
            assert_eq!(decoded.value.routes[0].retryable, valid);
            assert_eq!(decoded.warnings.len(), if valid { 0 } else { 2 });
        }
    }

    #[test]
    fn overrides_without_weight_or_address_are_dropped() {
        let dst = |authority: &str, weight| api::WeightedDst {
            authority: authority.into(),
            weight,
            backend_ref: None,
        };
        let dst_overrides = vec![dst("a.x:80", 1), dst("b.x:80", 0), dst("c.x", 5), dst("d.x:0", 5)];
        let decoded = decode(api::DestinationProfile { dst_overrides, ..Default::default() });
        assert_eq!(decoded.value.overrides, [WeightedDst { addr: "a.x:80".parse().unwrap(), weight: 1 }]);
        assert_eq!(decoded.warnings.len(), 2);
    }

    #[test]
    fn unusable_conditions_drop_the_route_or_the_list_member() {
        let all = |matches| Some(api::RequestMatch { r#match: Some(rm::Match::All(rm::Seq { matches })) });
        let any = |matches| Some(api::RequestMatch { r#match: Some(rm::Match::Any(rm::Seq { matches })) });
        let not = |m| Some(api::RequestMatch { r#match: Some(rm::Match::Not(Box::new(m))) });
        let bad_method = http_types::HttpMethod {
            r#type: Some(http_types::http_method::Type::Unregistered("a b".into())),
        };
        let bad = api::RequestMatch { r#match: Some(rm::Match::Method(bad_method)) };
        for (message, expected) in [
            (None, None),
            (Some(path(" /a.* ")), Some(pattern("/a.*"))),
            (Some(path("(")), None),
            (Some(path("a)(b")), None),
            (Some(path("(?x)a #")), None),
            (Some(bad.clone()), None),
            (Some(api::RequestMatch { r#match: None }), None),
            (not(path("/")), Some(Condition::Not(Box::new(pattern("/"))))),
            (not(bad.clone()), None),
            (all(vec![bad.clone(), path("/")]), Some(Condition::All(vec![pattern("/")]))),
            (all(vec![]), Some(Condition::All(vec![]))),
            (any(vec![path("[")]), Some(Condition::Any(vec![]))),
        ] {
            let message = api::DestinationProfile { routes: vec![route_with(message)], ..Default::default() };
            let decoded = decode(message);
            assert_eq!(decoded.value.routes.first().map(|r| r.condition.clone()), expected);
            assert_eq!(decoded.warnings.is_empty(), expected.is_some());
        }
    }

    #[test]
    fn response_classes_without_a_usable_condition_are_dropped() {
        let status = |min, max| api::ResponseMatch {
            r#match: Some(sm::Match::Status(api::HttpStatusRange { min, max })),
        };
        let list = |matches| api::ResponseMatch { r#match: Some(sm::Match::All(sm::Seq { matches })) };
        let ok = StatusRange { min: 500, max: 599 };
        for (condition, expected) in [
            (Some(status(500, 599)), Some(ResponseCondition::Status(ok))),
            (Some(status(599, 500)), None),
            (Some(status(0, 599)), None),
            (Some(status(500, 70_000)), None),
            (Some(list(vec![])), None),
            (Some(list(vec![status(1, 2)])), None),
            (
                Some(list(vec![status(500, 599)])),
                Some(ResponseCondition::All(vec![ResponseCondition::Status(ok)])),
            ),
            (None, None),
        ] {
            let class = api::ResponseClass { condition, is_failure: true };
            let route = api::Route { response_classes: vec![class], ..route_with(Some(path("/"))) };
            let decoded = decode(api::DestinationProfile { routes: vec![route], ..Default::default() });
            assert_eq!(decoded.value.routes[0].classes.first().map(|c| c.condition.clone()), expected);
        }
    }

    #[test]
    fn only_positive_timeouts_count() {
        for (timeout, expected, warned) in [
            (seconds(3), Some(Duration::from_secs(3)), 0),
            (seconds(0), None, 1),
            (seconds(-1), None, 1),
            (None, None, 0),
        ] {
            let route = api::Route { timeout, ..route_with(Some(path("/"))) };
            let decoded = decode(api::DestinationProfile { routes: vec![route], ..Default::default() });
            assert_eq!((decoded.value.routes[0].timeout, decoded.warnings.len()), (expected, warned));
        }
    }
}
