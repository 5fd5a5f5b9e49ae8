//! Destination profiles as messages (§1B.2–1B.3 of the control plane). Pure.

use super::{duration, endpoint, labels, meta};
use linkerd2_proxy_api as root;
use linkerd2_proxy_api::destination as api;
use weft_model::address::NameAddr;
use weft_model::profile::{Profile, ProfileRoute, ResponseClass, ResponseCondition, WeightedDst};
use weft_model::route::{Condition, Labels, RetryBudget};

pub(super) fn profile(profile: &Profile) -> api::DestinationProfile {
    api::DestinationProfile {
        fully_qualified_name: profile.logical.as_ref().map(|l| l.name.to_string()).unwrap_or_default(),
        opaque_protocol: profile.opaque,
        routes: profile.routes.iter().map(route).collect(),
        retry_budget: profile.retry_budget.as_ref().map(budget),
        dst_overrides: profile.overrides.iter().map(weighted).collect(),
        endpoint: profile.endpoint.as_ref().map(|e| endpoint::endpoint(e, &Labels::default())),
        parent_ref: profile.parent.as_ref().and_then(meta),
        profile_ref: profile.source.as_ref().and_then(meta),
    }
}

/// The service that a name of the form `NAME.NS.svc.…` stands for.
fn service_ref(addr: &NameAddr) -> Option<root::meta::Metadata> {
    let mut labels = addr.name.as_str().splitn(4, '.');
    let (name, namespace) = (labels.next()?, labels.next()?);
    if labels.next()? != "svc" {
        return None;
    }
    let resource = root::meta::Resource {
        group: "core".into(),
        kind: "Service".into(),
        name: name.into(),
        namespace: namespace.into(),
        section: String::new(),
        port: addr.port.get().into(),
    };
    Some(root::meta::Metadata { kind: Some(root::meta::metadata::Kind::Resource(resource)) })
}

fn budget(budget: &RetryBudget) -> api::RetryBudget {
    api::RetryBudget {
        retry_ratio: budget.ratio,
        min_retries_per_second: budget.min_per_second,
        ttl: Some(duration(budget.ttl)),
    }
}

fn weighted(dst: &WeightedDst) -> api::WeightedDst {
    let backend_ref = service_ref(&dst.addr);
    api::WeightedDst { authority: dst.addr.to_string(), weight: dst.weight, backend_ref }
}

fn route(route: &ProfileRoute) -> api::Route {
    api::Route {
        condition: Some(condition(&route.condition)),
        response_classes: route.classes.iter().map(class).collect(),
        metrics_labels: labels(&route.labels),
        is_retryable: route.retryable,
        timeout: route.timeout.map(duration),
    }
}

fn condition(from: &Condition) -> api::RequestMatch {
    use api::request_match::{Match, Seq};
    let list = |conditions: &[Condition]| Seq { matches: conditions.iter().map(condition).collect() };
    let to = match from {
        Condition::All(conditions) => Match::All(list(conditions)),
        Condition::Any(conditions) => Match::Any(list(conditions)),
        Condition::Not(inner) => Match::Not(Box::new(condition(inner))),
        Condition::Path(pattern) => Match::Path(api::PathMatch { regex: pattern.0.clone() }),
        Condition::Method(method) => Match::Method(method.clone().into()),
    };
    api::RequestMatch { r#match: Some(to) }
}

fn class(class: &ResponseClass) -> api::ResponseClass {
    let condition = Some(response_condition(&class.condition));
    api::ResponseClass { condition, is_failure: class.is_failure }
}

fn response_condition(from: &ResponseCondition) -> api::ResponseMatch {
    use api::response_match::{Match, Seq};
    let list = |list: &[ResponseCondition]| Seq { matches: list.iter().map(response_condition).collect() };
    let to = match from {
        ResponseCondition::All(conditions) => Match::All(list(conditions)),
        ResponseCondition::Any(conditions) => Match::Any(list(conditions)),
        ResponseCondition::Not(inner) => Match::Not(Box::new(response_condition(inner))),
        ResponseCondition::Status(range) => {
            Match::Status(api::HttpStatusRange { min: range.min.into(), max: range.max.into() })
        }
    };
    api::ResponseMatch { r#match: Some(to) }
}
