//! Service profiles: their routes, conditions, budget and split. Pure.
//!
//! Called by `kinds.rs`. A route that is wrong rejects the whole profile, so that the last good one
//! stays in force as a whole (§1B.2).

use crate::node::{At, Fields, Problem, Value, cut};
use crate::values::{go_duration, quantity_milli};
use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;
use weft_model::name::DnsName;
use weft_model::object::Metadata;
use weft_model::profile::{ProfileRoute, ResponseClass, ResponseCondition};
use weft_model::route::{Condition, Pattern, RetryBudget, StatusRange};
use weft_model::service::{ProfileOverride, ServiceProfile};

/// Most routes of a profile.
pub(crate) const ROUTE_LIMIT: usize = 1000;
/// Largest compiled pattern, bytes; proxies hold all of them.
const PATTERN_SIZE: usize = 1 << 20;

pub(crate) fn service_profile(f: &Fields<'_>, meta: Metadata) -> Result<ServiceProfile, Problem> {
    f.ignore(&["status"]);
    let spec = f.optional("spec", |at| {
        at.fields(|f| {
            f.optional("opaquePorts", |at| {
                at.warn("has no effect; annotate the service with config.linkerd.io/opaque-ports");
                Ok(())
            })?;
            let routes = f.optional("routes", |at| {
                let routes = at.items(route)?;
                match routes.len() > ROUTE_LIMIT {
                    true => Err(at.problem(format!("has more than {ROUTE_LIMIT} routes"))),
                    false => Ok(routes),
                }
            })?;
            let budget = f.optional("retryBudget", retry_budget)?;
            let overrides = f.optional("dstOverrides", |at| at.items(override_leg))?;
            Ok((routes.unwrap_or_default(), budget, overrides.unwrap_or_default()))
        })
    })?;
    let (routes, retry_budget, overrides) = spec.unwrap_or_default();
    Ok(ServiceProfile { meta, routes, retry_budget, overrides })
}

fn route(at: At<'_>) -> Result<ProfileRoute, Problem> {
    at.fields(|f| {
        let name = f.required("name", |at| at.text().map(str::to_owned))?;
        let condition = f.required("condition", condition)?;
        let classes = f.optional("responseClasses", |at| {
            at.items(|at| {
                at.fields(|f| {
                    let condition = f.required("condition", response_condition)?;
                    let is_failure = f.optional("isFailure", |at| at.boolean())?.unwrap_or(false);
                    Ok(ResponseClass { condition, is_failure })
                })
            })
        })?;
        let retryable = f.optional("isRetryable", |at| at.boolean())?.unwrap_or(false);
        let timeout = f.optional("timeout", |at| {
            let text = at.text()?;
            let timeout = go_duration(text);
            if timeout.is_none() {
                at.warn(format!(
                    "`{}` is not a duration such as 300ms; the route has no time limit",
                    cut(text)
                ));
            }
            Ok(timeout.filter(|t| !t.is_zero()))
        })?;
        Ok(ProfileRoute {
            condition,
            classes: classes.unwrap_or_default(),
            labels: Arc::new(BTreeMap::from([("route".to_owned(), name)])),
            retryable,
            timeout: timeout.flatten(),
        })
    })
}

/// A condition on requests; several parts on one level must all hold.
fn condition(at: At<'_>) -> Result<Condition, Problem> {
    let mut parts: Vec<Condition> = at.fields(|f| {
        let parts = [
            f.optional("all", |at| at.items(condition).map(Condition::All))?,
            f.optional("any", |at| at.items(condition).map(Condition::Any))?,
            f.optional("not", |at| condition(at).map(|c| Condition::Not(Box::new(c))))?,
            f.optional("pathRegex", |at| pattern(at).map(Condition::Path))?,
            f.optional("method", |at| {
                let text = at.text()?;
                let method = http::Method::from_bytes(text.as_bytes());
                method.map(Condition::Method).map_err(|_| at.problem(format!("`{}` is no method", cut(text))))
            })?,
        ];
        Ok(parts.into_iter().flatten().collect())
    })?;
    match parts.len() {
        0 => Err(at.problem("is empty; it needs one of all, any, not, pathRegex and method")),
        1 => Ok(parts.remove(0)),
        _ => Ok(Condition::All(parts)),
    }
}

pub(crate) fn pattern(at: At<'_>) -> Result<Pattern, Problem> {
    let text = at.text()?;
    let compiled = regex::RegexBuilder::new(&format!("^(?:{text})$")).size_limit(PATTERN_SIZE).build();
    match compiled {
        Ok(_) => Ok(Pattern(text.to_owned())),
        Err(regex::Error::CompiledTooBig(limit)) => {
            Err(at.problem(format!("`{}` takes more than {limit} bytes when compiled", cut(text))))
        }
        Err(_) => Err(at.problem(format!("`{}` is not a regular expression", cut(text)))),
    }
}

fn response_condition(at: At<'_>) -> Result<ResponseCondition, Problem> {
    let mut parts: Vec<ResponseCondition> = at.fields(|f| {
        let parts = [
            f.optional("all", |at| at.items(response_condition).map(ResponseCondition::All))?,
            f.optional("any", |at| at.items(response_condition).map(ResponseCondition::Any))?,
            f.optional("not", |at| response_condition(at).map(|c| ResponseCondition::Not(Box::new(c))))?,
            f.optional("status", |at| status_range(at).map(ResponseCondition::Status))?,
        ];
        Ok(parts.into_iter().flatten().collect())
    })?;
    match parts.len() {
        0 => Err(at.problem("is empty; it needs one of all, any, not and status")),
        1 => Ok(parts.remove(0)),
        _ => Ok(ResponseCondition::All(parts)),
    }
}

/// A range of statuses; a bound that is missing equals the other.
fn status_range(at: At<'_>) -> Result<StatusRange, Problem> {
    at.fields(|f| {
        let bound = |at: At<'_>| {
            let number = at.integer()?;
            let status = u16::try_from(number).ok().filter(|s| (100..=599).contains(s));
            status.ok_or_else(|| at.problem(format!("{number} is not a status in 100–599")))
        };
        let (min, max) = (f.optional("min", bound)?, f.optional("max", bound)?);
        match (min.or(max), max.or(min)) {
            (Some(min), Some(max)) if min <= max => Ok(StatusRange { min, max }),
            (Some(_), Some(_)) => Err(at.problem("min is greater than max")),
            _ => Err(at.problem("needs min or max")),
        }
    })
}

fn retry_budget(at: At<'_>) -> Result<RetryBudget, Problem> {
    at.fields(|f| {
        let ratio = f.required("retryRatio", |at| {
            let ratio = at.number()?;
            match (0.0..=1000.0).contains(&ratio) {
                true => Ok(ratio as f32),
                false => Err(at.problem(format!("{ratio} is not in 0–1000"))),
            }
        })?;
        let min_per_second = f.required("minRetriesPerSecond", |at| {
            let number = at.integer()?;
            // The peer's proxy takes at most this.
            let number = u32::try_from(number).ok().filter(|n| *n < i32::MAX as u32);
            number.ok_or_else(|| at.problem(format!("must be in 0–{}", i32::MAX - 1)))
        })?;
        let ttl = f.required("ttl", |at| {
            let text = at.text()?;
            let ttl = go_duration(text);
            let fits = ttl.filter(|t| (Duration::from_secs(1)..=Duration::from_secs(60)).contains(t));
            fits.ok_or_else(|| at.problem(format!("`{}` is not a duration from 1s to 60s", cut(text))))
        })?;
        Ok(RetryBudget { ttl, min_per_second, ratio })
    })
}

fn override_leg(at: At<'_>) -> Result<ProfileOverride, Problem> {
    at.fields(|f| {
        let (host, port) = f.required("authority", authority)?;
        let weight = f.optional("weight", |at| {
            let milli = match &at.node.value {
                Value::Int(n) => u64::try_from(*n).ok().and_then(|n| n.checked_mul(1000)),
                Value::Float(n) => quantity_milli(&n.to_string()),
                _ => quantity_milli(at.text()?),
            };
            let weight = milli.and_then(|m| u32::try_from(m.checked_mul(10)?).ok());
            weight.ok_or_else(|| at.problem("is not a weight such as 1, 0.5 or 500m, at most 400000"))
        })?;
        // Kubernetes' zero value: a leg without a weight gets nothing.
        Ok(ProfileOverride { host, port, weight: weight.unwrap_or(0) })
    })
}

fn authority(at: At<'_>) -> Result<(DnsName, Option<NonZeroU16>), Problem> {
    let text = at.text()?;
    let wrong = || at.problem(format!("`{}` is not the name of a service, with or without port", cut(text)));
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().map_err(|_| wrong())?)),
        None => (text, None),
    };
    Ok((host.parse().map_err(|_| wrong())?, port))
}
