//! A destination profile (`GetProfile`): a service's routes, budget, split and nature.
//!
//! Filled by `wire` and by `index`; `discover` compiles it into a plan.

use crate::address::NameAddr;
use crate::destination::EndpointInfo;
use crate::meta::Labels;
use crate::meta::Meta;
use crate::route::{Condition, RetryBudget, StatusRange};
use std::time::Duration;

/// What is known about the destination that an address or name belongs to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// The service's own name and port; `None` for addresses that belong to no service.
    pub logical: Option<NameAddr>,
    /// Routes in order; the first match wins.
    pub routes: Vec<ProfileRoute>,
    /// Budget shared by all retryable routes; without it nothing is retried.
    pub retry_budget: Option<RetryBudget>,
    /// Traffic split; empty means all goes to `logical`. Weights are never 0.
    pub overrides: Vec<WeightedDst>,
    /// Bytes only: no protocol detection.
    pub opaque: bool,
    /// The address is this one endpoint.
    pub endpoint: Option<EndpointInfo>,
    /// The service it is about, for metrics of receivers that want it; ours takes it from `logical`.
    pub parent: Option<Meta>,
    /// The resource that the routes come from.
    pub source: Option<Meta>,
}

/// One leg of a traffic split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedDst {
    /// The service it goes to.
    pub addr: NameAddr,
    /// Share relative to the others, at least 1.
    pub weight: u32,
}

/// A route of a service profile.
#[derive(Clone, Debug, PartialEq)]
pub struct ProfileRoute {
    /// Which requests it is for.
    pub condition: Condition,
    /// Which responses count as failures; the first match decides, 5xx if none does.
    pub classes: Vec<ResponseClass>,
    /// Labels for metrics, such as `route`.
    pub labels: Labels,
    /// Whether failures may be retried within the budget.
    pub retryable: bool,
    /// Limit until response headers, over all attempts.
    pub timeout: Option<Duration>,
}

/// Whether responses that meet a condition are failures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseClass {
    /// Which responses.
    pub condition: ResponseCondition,
    /// Whether they are failures.
    pub is_failure: bool,
}

/// A condition on a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResponseCondition {
    /// Every part holds.
    All(Vec<ResponseCondition>),
    /// At least one part holds.
    Any(Vec<ResponseCondition>),
    /// The part does not hold.
    Not(Box<ResponseCondition>),
    /// The status lies in the range.
    Status(StatusRange),
}
