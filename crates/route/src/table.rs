//! The table of rules that a plan owns: find the rule for a request, choose one of its backends.
//!
//! Built by `discover/compile.rs` whenever the control plane speaks, replaced as a whole; read once
//! per request by `proxy/forward.rs`, without locks.

use crate::metrics::{BackendMetrics, RouteMetrics};
use crate::requested::Limits;
use http::HeaderValue;
use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use weft_balance::Backend;
use weft_balance::endpoint::Target;
use weft_decide::explain::{NearMiss, near_miss};
use weft_decide::matching::{CompiledCondition, Matcher, RequestView};
use weft_decide::permission::Permission;
use weft_model::meta::Meta;
use weft_model::profile::ResponseClass;
use weft_model::route::Filter;

/// Rules and how to find the one for a request. `E` is the endpoint type of the backends.
#[derive(Debug)]
pub struct Table<E: Target> {
    selector: Selector,
    rules: Vec<Arc<Rule<E>>>,
}

#[derive(Debug)]
enum Selector {
    /// There is one rule and every request meets it.
    Single,
    /// By the precedence of routes; `first[i]` is the index of route `i`'s first rule.
    Routes { matcher: Matcher, first: Vec<usize> },
    /// The first condition that holds; the last rule is the default.
    Profile(Vec<CompiledCondition>),
}

/// One rule, ready to run.
#[derive(Debug)]
pub struct Rule<E: Target> {
    /// The route it belongs to.
    pub route: Meta,
    /// Who may pass (inbound); `None` asks nobody (outbound).
    pub permission: Option<Permission>,
    /// Run in order before a backend is chosen.
    pub filters: Box<[Filter]>,
    /// Where requests go.
    pub backends: Backends<E>,
    /// Limits and retries of the policy, or a profile's retries.
    pub limits: Limits,
    /// Whether requests may ask for other limits and retries, by their headers.
    pub allow_request_headers: bool,
    /// Limit of a service profile: until response headers, over all attempts.
    pub profile_timeout: Option<Duration>,
    /// Which responses count as failures.
    pub classes: Box<[ResponseClass]>,
    /// Sent as `l5d-dst-canonical` (service profiles).
    pub canonical: Option<HeaderValue>,
    /// Metric handles, resolved once.
    pub metrics: RouteMetrics,
}

/// The backends of a rule.
#[derive(Debug)]
pub enum Backends<E: Target> {
    /// The first that is open.
    First(Box<[RuleBackend<E>]>),
    /// A draw by weight among those that are open.
    Random(Box<[(RuleBackend<E>, u32)]>),
}

/// A backend as a rule uses it.
pub struct RuleBackend<E: Target> {
    /// The resource it stands for.
    pub meta: Meta,
    /// `None`: the policy names a backend that leads nowhere.
    pub backend: Option<Backend<E>>,
    /// Keeps the backend's discovery running for as long as the rule lives.
    pub source: Option<Arc<dyn Any + Send + Sync>>,
    /// Run after the rule's own.
    pub filters: Box<[Filter]>,
    /// Metric handles, resolved once.
    pub metrics: Arc<BackendMetrics>,
}

/// A found rule, and how much of the path its prefix match covers.
#[derive(Debug)]
pub struct Found<'a, E: Target> {
    /// The rule.
    pub rule: &'a Arc<Rule<E>>,
    /// Bytes of the path that a prefix match covered.
    pub prefix: Option<usize>,
}

impl<E: Target> Table<E> {
    /// A table whose only rule meets every request.
    pub fn single(rule: Rule<E>) -> Self {
        Self { selector: Selector::Single, rules: vec![Arc::new(rule)] }
    }

    /// A table of routes: `rules[i]` are the rules of route `i` of the matcher, in the same order.
    pub fn routes(matcher: Matcher, rules: Vec<Vec<Rule<E>>>) -> Self {
        let mut first = Vec::with_capacity(rules.len());
        let mut flat = Vec::new();
        for route in rules {
            first.push(flat.len());
            flat.extend(route.into_iter().map(Arc::new));
        }
        Self { selector: Selector::Routes { matcher, first }, rules: flat }
    }

    /// A table of a service profile: condition `i` leads to rule `i`, everything else to `default`.
    pub fn profile(routes: Vec<(CompiledCondition, Rule<E>)>, default: Rule<E>) -> Self {
        let (conditions, rules): (Vec<_>, Vec<_>) = routes.into_iter().unzip();
        let rules = rules.into_iter().chain([default]).map(Arc::new).collect();
        Self { selector: Selector::Profile(conditions), rules }
    }

    /// A table that no request matches.
    pub fn empty() -> Self {
        Self { selector: Selector::Profile(Vec::new()), rules: Vec::new() }
    }

    /// The rule for a request.
    pub fn find(&self, request: &RequestView<'_>) -> Option<Found<'_, E>> {
        let (index, prefix) = match &self.selector {
            Selector::Single => (0, Some(1)),
            Selector::Routes { matcher, first } => {
                let matched = matcher.find(request)?;
                (first.get(matched.route)? + matched.rule, matched.prefix)
            }
            Selector::Profile(conditions) => {
                let met = conditions.iter().position(|c| c.holds(request));
                (met.unwrap_or(conditions.len()), None)
            }
        };
        self.rules.get(index).map(|rule| Found { rule, prefix })
    }

    /// Which route came nearest to a request that none is found for, and what its rule wanted. Costs as much as a search
    /// that looks at every rule.
    pub fn near_miss(&self, request: &RequestView<'_>) -> Option<(Option<&Meta>, NearMiss)> {
        let Selector::Routes { matcher, first } = &self.selector else { return None };
        let near = near_miss(matcher, request);
        let rule = near.rule.and_then(|(route, rule)| self.rules.get(first.get(route)? + rule));
        Some((rule.map(|rule| &rule.route), near))
    }

    /// Every rule, for `/state.json`.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule<E>>> {
        self.rules.iter()
    }
}

impl<E: Target> Rule<E> {
    /// The backend for this request, as `choose` says.
    pub fn choose(&self, now: Instant, draw: f64) -> Option<&RuleBackend<E>> {
        choose(&self.backends, now, draw)
    }

    /// Every backend of the rule.
    pub fn each_backend(&self) -> impl Iterator<Item = &RuleBackend<E>> {
        each(&self.backends)
    }
}

/// Every backend of a set.
pub fn each<E: Target>(backends: &Backends<E>) -> impl Iterator<Item = &RuleBackend<E>> {
    let (mut first, mut random): (&[RuleBackend<E>], &[_]) = (&[], &[]);
    match backends {
        Backends::First(list) => first = list,
        Backends::Random(list) => random = list,
    }
    first.iter().chain(random.iter().map(|(b, _)| b))
}

impl<E: Target> RuleBackend<E> {
    fn is_open(&self, now: Instant) -> bool {
        self.backend.as_ref().is_none_or(|b| b.is_open(now))
    }
}

/// A backend for one request or connection: open ones first; if none is open, the one that would have
/// been taken, so that its refusal explains itself. `None`: there is no backend at all. `draw`: a uniform
/// draw in `0.0..1.0`.
pub fn choose<E: Target>(backends: &Backends<E>, now: Instant, draw: f64) -> Option<&RuleBackend<E>> {
    match backends {
        Backends::First(list) => match &**list {
            [only] => Some(only),
            list => list.iter().find(|b| b.is_open(now)).or_else(|| list.first()),
        },
        Backends::Random(list) => {
            let open = |(b, _): &&(RuleBackend<E>, u32)| b.is_open(now);
            draw_by_weight(list.iter().filter(open), draw).or_else(|| draw_by_weight(list.iter(), draw))
        }
    }
}

impl<E: Target> fmt::Debug for RuleBackend<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuleBackend")
            .field("meta", &self.meta)
            .field("filters", &self.filters)
            .finish_non_exhaustive()
    }
}

fn draw_by_weight<'a, E: Target>(
    list: impl Iterator<Item = &'a (RuleBackend<E>, u32)> + Clone,
    draw: f64,
) -> Option<&'a RuleBackend<E>> {
    let total: u64 = list.clone().map(|(_, weight)| u64::from(*weight)).sum();
    let mut point = (draw.clamp(0.0, 1.0) * total as f64) as u64;
    point = point.min(total.checked_sub(1)?);
    for (backend, weight) in list {
        match point.checked_sub(u64::from(*weight)) {
            Some(rest) => point = rest,
            None => return Some(backend),
        }
    }
    None
}
