//! What service profiles say about requests that come in (§4.5): the route that each is counted under, and which
//! answers count as failures.
//!
//! `proxy` looks the name of an admitted request up here. Names share one watch each, which ends when the name has
//! been unused for the idle time. A profile's limits and retries are the calling side's business and are not obeyed
//! here. Never refuses anything: without an answer, requests pass as if there were no profile.

use crate::cache::{Cache, CacheCounts, CacheLimits, Handle};
use crate::lookup::{Discover, LiveProfile};
use crate::stream::Latest;
use arc_swap::ArcSwapOption;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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

/// Names followed at a time. Any client may bear any name, and each costs the control plane a stream.
pub const NAMES: usize = 256;

/// New names in [`PERIOD`]: each asks the control plane for a stream, and displaces another's.
pub const NEW_NAMES: u32 = 64;

/// The period of [`NEW_NAMES`].
pub const PERIOD: Duration = Duration::from_secs(5);

/// The profiles of the names that inbound requests bear.
#[derive(Clone)]
pub struct Received {
    shared: Arc<Shared>,
}

struct Shared {
    lookup: Discover,
    metrics: Metrics,
    names: Cache<NameAddr, Name>,
    fresh: Mutex<Fresh>,
    runtime: runtime::Handle,
}

/// Counts new names.
struct Fresh {
    since: Instant,
    count: u32,
}

impl Fresh {
    /// Whether another new name may be followed.
    fn admits(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= PERIOD {
            *self = Self { since: now, count: 0 };
        }
        self.count += 1;
        self.count <= NEW_NAMES
    }
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
        let limits = lookup.settings().inbound_cache();
        let names = Cache::new(CacheLimits { capacity: limits.capacity.min(NAMES), ..limits }, runtime);
        let fresh = Mutex::new(Fresh { since: Instant::now(), count: 0 });
        Self { shared: Arc::new(Shared { lookup, metrics, names, fresh, runtime: runtime.clone() }) }
    }

    /// Whether no name has a profile, so that none need be looked up.
    pub fn is_idle(&self) -> bool {
        self.shared.lookup.settings().suffixes.is_empty()
    }

    /// The profile of a name; nothing if it is not one that profiles are asked for, or too many are in use or new.
    pub fn name(&self, name: NameAddr) -> Option<HeldName> {
        let addr = Addr::Name(name.clone());
        if !self.shared.lookup.settings().has_profile(&addr) {
            return None;
        }
        if let Some(known) = self.shared.names.known(&name) {
            return Some(HeldName(known));
        }
        let mut fresh = self.shared.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        if !fresh.admits(Instant::now()) {
            return None;
        }
        drop(fresh);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_names_are_bounded_in_each_period() {
        let start = Instant::now();
        let mut fresh = Fresh { since: start, count: 0 };
        let admitted =
            |fresh: &mut Fresh, at: Duration| (0..100).filter(|_| fresh.admits(start + at)).count();
        assert_eq!(admitted(&mut fresh, Duration::ZERO), NEW_NAMES as usize);
        assert_eq!(admitted(&mut fresh, PERIOD - Duration::from_millis(1)), 0);
        assert_eq!(admitted(&mut fresh, PERIOD), NEW_NAMES as usize);
    }
}
