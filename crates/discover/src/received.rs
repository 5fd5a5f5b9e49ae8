//! What service profiles say about requests that come in (§4.5): the route that each is counted under, and which
//! answers count as failures.
//!
//! `proxy` looks the name of an admitted request up here. Names share one watch each, which ends when the name has
//! been unused for the idle time. A profile's limits and retries are the calling side's business and are not obeyed
//! here. Never refuses anything: without an answer, requests pass as if there were no profile.

use crate::cache::{Cache, CacheCounts, Handle};
use crate::lookup::{Discover, LiveProfile};
use crate::stream::Latest;
use arc_swap::ArcSwapOption;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use weft_decide::matching::{CompiledCondition, RequestView};
use weft_model::address::{Addr, NameAddr};
use weft_model::profile::{Profile, ResponseClass};
use weft_route::metrics::{Exchange, Metrics};

/// How long after a name was first looked up its requests wait for the profile (§1.4). What they wait for are only
/// counters and classes, so it is short, and not a setting.
const PATIENCE: Duration = Duration::from_millis(500);

/// The profiles of the names that inbound requests bear.
#[derive(Clone)]
pub struct Received {
    shared: Arc<Shared>,
}

struct Shared {
    lookup: Discover,
    metrics: Metrics,
    names: Cache<NameAddr, Name>,
    runtime: runtime::Handle,
}

/// A name's profile, followed for as long as this is held.
#[derive(Clone)]
pub struct HeldName(Handle<NameAddr, Name>);

struct Name {
    state: Arc<State>,
    since: Instant,
    task: AbortHandle,
}

#[derive(Default)]
struct State {
    routes: ArcSwapOption<Vec<(CompiledCondition, Arc<ReceivedRoute>)>>,
    answered: AtomicBool,
    answer: Notify,
}

/// A route of a profile, as what comes in is judged by it.
#[derive(Debug)]
pub struct ReceivedRoute {
    /// Which responses count as failures.
    pub classes: Box<[ResponseClass]>,
    /// Metric handles, resolved once.
    pub metrics: Exchange,
}

impl Received {
    /// Asks `lookup`; counts with `metrics`, of the inbound direction.
    pub fn new(lookup: Discover, metrics: Metrics, runtime: &runtime::Handle) -> Self {
        let names = Cache::new(lookup.settings().inbound_cache(), runtime);
        Self { shared: Arc::new(Shared { lookup, metrics, names, runtime: runtime.clone() }) }
    }

    /// Whether no name has a profile, so that none need be looked up.
    pub fn is_idle(&self) -> bool {
        self.shared.lookup.settings().suffixes.is_empty()
    }

    /// The profile of a name; nothing if it is not one that profiles are asked for, or too many are in use.
    pub fn name(&self, name: NameAddr) -> Option<HeldName> {
        let addr = Addr::Name(name.clone());
        if !self.shared.lookup.settings().has_profile(&addr) {
            return None;
        }
        let live = self.shared.lookup.profile(&addr).ok()??;
        self.shared.names.lookup(&name, |_| self.follow(live)).ok().map(HeldName)
    }

    /// What happened in the cache of names.
    pub fn counts(&self) -> CacheCounts {
        self.shared.names.counts()
    }

    fn follow(&self, mut live: LiveProfile) -> Name {
        let state = Arc::<State>::default();
        let (kept, metrics) = (state.clone(), self.shared.metrics.clone());
        let task = self.shared.runtime.spawn(async move {
            loop {
                match live.latest() {
                    Latest::Awaited => {}
                    Latest::Known(profile) => kept.put(routes(&metrics, &profile)),
                    Latest::Refused(_) => kept.put(None),
                }
                if live.changed().await.is_none() {
                    return std::future::pending().await;
                }
            }
        });
        Name { state, since: Instant::now(), task: task.abort_handle() }
    }
}

/// The routes of a profile, ready to run. Requests that meet none of them are not counted by route (§4.5).
fn routes(metrics: &Metrics, profile: &Profile) -> Option<Vec<(CompiledCondition, Arc<ReceivedRoute>)>> {
    let dst = profile.logical.as_ref()?.to_string();
    let routes = profile.routes.iter().filter_map(|route| {
        let condition = CompiledCondition::new(&route.condition).ok()?;
        let metrics = metrics.received_route(&dst, route.labels.iter());
        Some((condition, Arc::new(ReceivedRoute { classes: route.classes.clone().into(), metrics })))
    });
    Some(routes.collect()).filter(|routes: &Vec<_>| !routes.is_empty())
}

impl State {
    fn put(&self, routes: Option<Vec<(CompiledCondition, Arc<ReceivedRoute>)>>) {
        self.routes.store(routes.map(Arc::new));
        self.answered.store(true, Ordering::Release);
        self.answer.notify_waiters();
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HeldName {
    /// The route that a request meets, by what is known now.
    pub fn route(&self, request: &RequestView<'_>) -> Option<Arc<ReceivedRoute>> {
        let routes = self.0.state.routes.load();
        let mut met = routes.as_ref()?.iter().filter(|(condition, _)| condition.holds(request));
        met.next().map(|(_, route)| route.clone())
    }

    /// Whether a request should wait for the first answer.
    pub fn is_awaited(&self) -> bool {
        !self.0.state.answered.load(Ordering::Acquire) && self.0.since.elapsed() < PATIENCE
    }

    /// Waits for the first answer, half a second after the name was first looked up at the latest. Cancel safe.
    pub async fn answered(&self) {
        let answer = self.0.state.answer.notified();
        if self.is_awaited() {
            // Late or never: the request goes on without it.
            let _ = tokio::time::timeout_at((self.0.since + PATIENCE).into(), answer).await;
        }
    }
}
