//! A set of endpoints and the choice among them.
//!
//! `discover` applies changes, `proxy` picks for every request, endpoints report readiness from their
//! own tasks. A pick reads an immutable list of ready slots without a lock; changes mark the list stale
//! and the next pick rebuilds it, so a burst of changes costs one rebuild. Requests that find nothing
//! ready wait in a bounded room until the backend fails fast. It never connects and never retries.

use crate::endpoint::{Cell, EndpointState, Failure, Readiness, Target, Watch};
use crate::health::{Ejected, Ejection};
use crate::load::{self, Tick};
use crate::metrics::Metrics;
use crate::pick;
use crate::slot::{Owner, Parts, Slot, clock};
pub use crate::slot::{Pending, Picked};
use crate::unavailable::{Cause, Unavailable};
use crate::wait::{Failfast, Gate, Room};
use arc_swap::ArcSwap;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use weft_model::destination::{EndpointInfo, EndpointUpdate, Locality};
use weft_model::policy::FailureAccrual;
use weft_model::reason::Phase;
use weft_model::route::{LoadParams, Queue};

/// Endpoints that one backend keeps; more are ignored and logged. Far above any service (the control
/// plane is tested with 10,000), it bounds what a broken control plane can make us hold.
const MAX_ENDPOINTS: usize = 100_000;

/// Endpoints whose estimates are averaged for one that joins them: enough for a mean, few enough for any size of service.
const ESTABLISHED: usize = 100;

/// How a backend behaves.
#[derive(Clone, Debug, Default)]
pub struct Params {
    /// The waiting room and the failfast time.
    pub queue: Queue,
    /// How load is estimated.
    pub load: LoadParams,
    /// The breaker of every endpoint, if there is to be one.
    pub breaker: Option<FailureAccrual>,
    /// Endpoints that breakers leave in use at least; one that trips beyond that begins anew.
    pub min_ready: usize,
    /// Where to count.
    pub metrics: Arc<Metrics>,
}

/// A change of the endpoint set.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// These endpoints and no others.
    Reset(Vec<EndpointInfo>),
    /// These too, new or changed.
    Add(Vec<EndpointInfo>),
    /// Not these any more.
    Remove(Vec<SocketAddr>),
    /// None.
    Empty {
        /// Whether the service itself exists.
        exists: bool,
    },
}

impl From<EndpointUpdate> for Change {
    fn from(update: EndpointUpdate) -> Self {
        match update {
            EndpointUpdate::Add(infos) => Change::Add(infos),
            EndpointUpdate::Remove(addrs) => Change::Remove(addrs),
            EndpointUpdate::NoEndpoints { exists } => Change::Empty { exists },
        }
    }
}

/// A set of endpoints and the choice among them. Clones are handles to the same set; endpoints are
/// dropped with the last one.
pub struct Backend<E: Target> {
    shared: Arc<Shared<E>>,
}

impl<E: Target> Clone for Backend<E> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

type Make<E> = Box<dyn Fn(Arc<EndpointInfo>, Readiness) -> E + Send + Sync>;

struct Shared<E: Target> {
    params: Params,
    /// Where the clock of the load estimates starts.
    epoch: Instant,
    /// Where the breakers' timers run.
    runtime: Handle,
    make: Make<E>,
    ready: ArcSwap<Drawable<E>>,
    /// Whether `ready` lags behind `state`. Set under the lock of `state`.
    stale: AtomicBool,
    state: Mutex<State<E>>,
    /// Serialises changes; holds the next slot's id.
    applying: Mutex<u64>,
}

/// The endpoints that may be drawn.
struct Drawable<E: Target> {
    /// Those of the own zone first, if zones matter.
    slots: Vec<Arc<Slot<E>>>,
    /// How many are of the own zone; 0 if zones do not matter, because some zone is not known or all are the same.
    local: usize,
}

impl<E: Target> Drawable<E> {
    fn of(mut slots: Vec<Arc<Slot<E>>>) -> Self {
        let of = |locality: Locality| slots.iter().filter(|slot| slot.info.locality == locality).count();
        let (local, remote) = (of(Locality::Local), of(Locality::Remote));
        let matters = local > 0 && remote > 0 && local + remote == slots.len();
        if matters {
            slots.sort_by_key(|slot| slot.info.locality != Locality::Local); // stable: by address within
        }
        Self { local: if matters { local } else { 0 }, slots }
    }

    /// The less loaded of two, or of more if both are busy; one that is still warming up gives way for a part of the draws. Where
    /// zones matter, the own zone is drawn from, and one of the others takes over only if it is much less loaded.
    fn choose(&self, now: Instant, tick: Tick, bits: u64) -> Option<usize> {
        let load = |i: usize| self.slots.get(i).map_or(f64::MAX, |slot| slot.load(tick));
        let passed_over =
            |i: usize, draw: f64| self.slots.get(i).is_some_and(|s| s.is_passed_over(now, draw));
        let busy = |i: usize| self.slots.get(i).is_some_and(|slot| slot.pending() > 0);
        match self.local {
            0 => pick::choose_idle(self.slots.len(), bits, load, passed_over, busy),
            local => {
                let own = pick::choose_idle(local, bits, load, passed_over, busy)?;
                let other = local + pick::one(self.slots.len() - local, bits)?;
                Some(if load(own) > load(other) * pick::DISTANCE { other } else { own })
            }
        }
    }
}

struct State<E: Target> {
    entries: BTreeMap<SocketAddr, Entry<E>>,
    /// How many entries are drawable.
    drawable: usize,
    room: Room<Picked<E>>,
    failfast: Failfast,
    /// When discovery last said something, and whether the service exists.
    discovered: Option<(Instant, bool)>,
    last_failure: Option<(SocketAddr, Arc<Failure>)>,
    /// Whom a breaker took out last.
    last_ejected: Option<SocketAddr>,
    /// What this backend has added to the gauges.
    counted_ready: i64,
    counted_known: i64,
}

struct Entry<E: Target> {
    slot: Arc<Slot<E>>,
    /// As counted in `State::drawable`.
    drawable: bool,
}

/// One reading of a backend, for `/state.json`.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Endpoints that discovery has announced.
    pub known: usize,
    /// Of these, ready and not ejected.
    pub ready: usize,
    /// Age of the last discovery update.
    pub age: Option<Duration>,
    /// Whether the service exists, once discovery has said so.
    pub exists: Option<bool>,
    /// Whether requests may wait; otherwise the backend fails fast.
    pub open: bool,
    /// Requests waiting.
    pub waiting: usize,
    /// The endpoint that failed last, and why.
    pub last_failure: Option<(SocketAddr, Arc<Failure>)>,
    /// Every endpoint, by address.
    pub endpoints: Vec<EndpointSnapshot>,
}

/// One reading of an endpoint.
#[derive(Clone, Debug)]
pub struct EndpointSnapshot {
    /// What discovery says about it.
    pub info: Arc<EndpointInfo>,
    /// What it reports about itself.
    pub state: EndpointState,
    /// Why its breaker keeps it out of the draw, if it does.
    pub ejected: Option<Ejection>,
    /// Requests that it has not answered.
    pub pending: u32,
    /// Its estimated response time.
    pub estimate: Duration,
}

impl<E: Target> Backend<E> {
    /// An empty backend, not yet discovered. `make` builds an endpoint; it is called from `apply`, and
    /// what it builds reports through the `Readiness` (at once, or later from a task of its own).
    ///
    /// # Panics
    /// Outside a tokio runtime; the breakers' timers run on the one it is created in.
    pub fn new<F>(params: Params, make: F) -> Self
    where
        F: Fn(Arc<EndpointInfo>, Readiness) -> E + Send + Sync + 'static,
    {
        let now = clock();
        let state = State {
            entries: BTreeMap::new(),
            drawable: 0,
            room: Room::new(params.queue.capacity),
            failfast: Failfast::new(params.queue.failfast, now),
            discovered: None,
            last_failure: None,
            last_ejected: None,
            counted_ready: 0,
            counted_known: 0,
        };
        let shared = Shared {
            params,
            epoch: now,
            runtime: Handle::current(),
            make: Box::new(make),
            ready: ArcSwap::from_pointee(Drawable { slots: Vec::new(), local: 0 }),
            stale: AtomicBool::new(false),
            state: Mutex::new(state),
            applying: Mutex::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Changes the set; in force for the next pick. An endpoint announced unchanged is kept with its
    /// connections; a changed one is rebuilt. Requests in flight on a removed endpoint go on.
    pub fn apply(&self, change: impl Into<Change>) {
        self.shared.apply(change.into());
    }

    /// Takes an endpoint at once, or says why there is none. `draw` is 64 uniformly random bits.
    pub fn pick(&self, now: Instant, draw: u64) -> Result<Picked<E>, Unavailable> {
        self.shared.params.metrics.requests.fetch_add(1, Relaxed);
        self.shared.draw(now, draw).ok_or_else(|| self.shared.refuse(now))
    }

    /// Takes an endpoint that is none of these, if one is ready: for a request that these did not process.
    pub fn pick_other(&self, now: Instant, draw: u64, avoided: &[SocketAddr]) -> Option<Picked<E>> {
        self.shared.draw_other(now, draw, avoided)
    }

    /// Takes an endpoint, waiting in the bounded room while none is ready: until one is, until the
    /// backend has had none ready for the failfast time (or the request has waited that long), or until
    /// `deadline`. While failing fast it refuses at once. Dropping the future gives the place up.
    pub async fn ready(&self, deadline: Option<Instant>) -> Result<Picked<E>, Unavailable> {
        let now = clock();
        match self.pick(now, fastrand::u64(..)) {
            Err(refusal) if refusal.phase == Phase::Queue => self.wait(now, deadline).await,
            decided => decided,
        }
    }

    /// Whether a request would be served or may wait; false while the backend fails fast.
    pub fn is_open(&self, now: Instant) -> bool {
        self.shared.refresh();
        !self.shared.ready.load().slots.is_empty()
            || self.shared.lock().gate(&self.shared.params, now) == Gate::Open
    }

    /// Whether an endpoint is ready now, so that a request need not wait.
    pub fn has_ready(&self) -> bool {
        self.shared.refresh();
        !self.shared.ready.load().slots.is_empty()
    }

    /// What it counts.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.params.metrics
    }

    /// Reads everything, for people.
    pub fn snapshot(&self) -> Snapshot {
        let now = clock();
        let tick = Tick::new(self.shared.epoch, now);
        let mut state = self.shared.lock();
        let open = state.gate(&self.shared.params, now) == Gate::Open;
        let endpoint = |entry: &Entry<E>| EndpointSnapshot {
            info: entry.slot.info.clone(),
            state: entry.slot.cell.state(),
            ejected: entry.slot.ejection().map(|who| who.why),
            pending: entry.slot.pending(),
            estimate: Duration::try_from_secs_f64(entry.slot.estimate(tick)).unwrap_or_default(),
        };
        Snapshot {
            known: state.entries.len(),
            ready: state.drawable,
            age: state.age(now),
            exists: state.discovered.map(|(_, exists)| exists),
            open,
            waiting: state.room.len(),
            last_failure: state.last_failure.clone(),
            endpoints: state.entries.values().map(endpoint).collect(),
        }
    }

    async fn wait(&self, started: Instant, deadline: Option<Instant>) -> Result<Picked<E>, Unavailable> {
        let shared = &*self.shared;
        let Place { mut served, ticket } = match shared.enter(started)? {
            Entered::Served(picked) => return Ok(picked),
            Entered::Waiting(place) => place,
        };
        let _leave = Leave { shared, ticket, started };
        let patience = started.checked_add(shared.params.queue.failfast);
        loop {
            let gate_shuts = shared.lock().failfast.deadline();
            let until = [gate_shuts, patience, deadline].into_iter().flatten().min();
            let timer = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Ok(picked) = &mut served => return Ok(picked),
                () = timer => {}
            }
            let now = clock();
            let mut state = shared.lock();
            let cause = match state.gate(&shared.params, now) {
                Gate::Open if deadline.is_some_and(|d| d <= now) => Cause::Deadline,
                Gate::Open if patience.is_none_or(|p| p > now) => continue,
                _ => state.cause(),
            };
            // Served between the timer and the lock: the endpoint is on its way.
            if state.room.leave(ticket) {
                let waited = now.saturating_duration_since(started);
                return Err(Unavailable { waited, ..state.unavailable(cause, Phase::Queue, now) });
            }
        }
    }
}

/// A place in the waiting room.
struct Place<E: Target> {
    ticket: u64,
    served: oneshot::Receiver<Picked<E>>,
}

enum Entered<E: Target> {
    Waiting(Place<E>),
    Served(Picked<E>),
}

/// Gives the place up and counts the wait, however it ends.
struct Leave<'a, E: Target> {
    shared: &'a Shared<E>,
    ticket: u64,
    started: Instant,
}

impl<E: Target> Drop for Leave<'_, E> {
    fn drop(&mut self) {
        self.shared.lock().room.leave(self.ticket);
        let metrics = &self.shared.params.metrics;
        metrics.waiting.fetch_sub(1, Relaxed);
        metrics.waited(clock().saturating_duration_since(self.started));
    }
}

impl<E: Target> Shared<E> {
    fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hot path: no lock unless the list is stale or a breaker is in probation.
    fn draw(&self, now: Instant, bits: u64) -> Option<Picked<E>> {
        self.refresh();
        let ready = self.ready.load();
        let chosen = ready.choose(now, Tick::new(self.epoch, now), bits)?;
        let slots = &ready.slots;
        match slots.get(chosen)?.take(now) {
            // Ejected since the list was read, or its one probe is gone: whoever comes next.
            None => slots.iter().cycle().skip(chosen + 1).take(slots.len()).find_map(|slot| slot.take(now)),
            picked => picked,
        }
    }

    /// Off the hot path: only requests that were refused come here.
    fn draw_other(&self, now: Instant, bits: u64, avoided: &[SocketAddr]) -> Option<Picked<E>> {
        self.refresh();
        let ready = self.ready.load();
        let others: Vec<_> = ready.slots.iter().filter(|slot| !avoided.contains(&slot.info.addr)).collect();
        let tick = Tick::new(self.epoch, now);
        let chosen = pick::choose(others.len(), bits, |i| others.get(i).map_or(f64::MAX, |s| s.load(tick)))?;
        others.iter().cycle().skip(chosen).take(others.len()).find_map(|slot| slot.take(now))
    }

    fn refresh(&self) {
        if self.stale.load(Ordering::Acquire) {
            let mut state = self.lock();
            self.publish(&mut state);
        }
    }

    fn publish(&self, state: &mut State<E>) {
        if self.stale.swap(false, Ordering::AcqRel) {
            let drawable = state.entries.values().filter(|e| e.drawable).map(|e| e.slot.clone());
            self.ready.store(Arc::new(Drawable::of(drawable.collect())));
        }
    }

    fn refuse(&self, now: Instant) -> Unavailable {
        let mut state = self.lock();
        let phase = match state.gate(&self.params, now) {
            Gate::Open => Phase::Queue,
            Gate::Shut | Gate::JustShut => Phase::Shed,
        };
        let cause = state.cause();
        state.unavailable(cause, phase, now)
    }

    /// Takes a place in the room, unless something became ready meanwhile.
    fn enter(&self, now: Instant) -> Result<Entered<E>, Unavailable> {
        // A ready endpoint can be lost to others between two looks; after a few it is as good as none.
        for _ in 0..8 {
            let mut state = self.lock();
            if state.drawable == 0 {
                let Some((ticket, served)) = state.room.enter() else {
                    return Err(state.unavailable(Cause::QueueFull, Phase::Queue, now));
                };
                self.params.metrics.waiting.fetch_add(1, Relaxed);
                return Ok(Entered::Waiting(Place { ticket, served }));
            }
            drop(state);
            if let Some(picked) = self.draw(now, fastrand::u64(..)) {
                return Ok(Entered::Served(picked));
            }
        }
        Err(self.refuse(now))
    }

    /// Hands endpoints to those who wait, in order, as long as there are both.
    fn serve_waiters(&self) {
        let now = clock();
        while self.lock().room.len() > 0 {
            let Some(picked) = self.draw(now, fastrand::u64(..)) else { return };
            let next = self.lock().room.next();
            // If nobody waits any more, or this one has just gone, dropping the pick gives it back.
            if let Some(waiter) = next {
                let _ = waiter.send(picked);
            }
        }
    }

    /// Looks at an endpoint again after its readiness or its breaker may have changed.
    fn reconsider(&self, cell: &Cell) {
        let mut state = self.lock();
        let Some(entry) = state.entries.get_mut(&cell.addr).filter(|e| e.slot.cell.id == cell.id) else {
            return; // removed meanwhile, or not yet taken in: `apply` will look at it
        };
        let before = entry.drawable;
        entry.drawable = entry.slot.is_drawable();
        let after = entry.drawable;
        if let EndpointState::Failed(failure) = cell.state() {
            state.last_failure = Some((cell.addr, failure));
        }
        if before == after {
            return;
        }
        match after {
            true => state.drawable += 1,
            false => state.drawable -= 1,
        }
        self.settle(&mut state);
        drop(state);
        if after {
            self.serve_waiters();
        }
    }

    /// After a change of what is drawable: the list, the gate and the gauge follow.
    fn settle(&self, state: &mut State<E>) {
        self.stale.store(true, Ordering::Release);
        let metrics = &self.params.metrics;
        if state.drawable == 0 {
            state.failfast.unready(clock());
        } else if state.failfast.ready() {
            metrics.gate_opens();
        }
        metrics.ready.fetch_add(state.drawable as i64 - state.counted_ready, Relaxed);
        metrics.endpoints.fetch_add(state.entries.len() as i64 - state.counted_known, Relaxed);
        state.counted_ready = state.drawable as i64;
        state.counted_known = state.entries.len() as i64;
    }

    fn apply(self: &Arc<Self>, change: Change) {
        let mut next_id = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        let metrics = &self.params.metrics;
        let (announced, gone, exists) = match change {
            Change::Reset(infos) => {
                metrics.updates_reset.fetch_add(1, Relaxed);
                let wanted: BTreeSet<_> = infos.iter().map(|info| info.addr).collect();
                let gone = self.lock().entries.keys().copied().filter(|a| !wanted.contains(a)).collect();
                (infos, gone, Some(true))
            }
            Change::Add(infos) => {
                metrics.updates_add.fetch_add(1, Relaxed);
                (infos, Vec::new(), Some(true))
            }
            Change::Remove(addrs) => {
                metrics.updates_remove.fetch_add(1, Relaxed);
                (Vec::new(), addrs, None)
            }
            Change::Empty { exists } => {
                metrics.updates_empty.fetch_add(1, Relaxed);
                (Vec::new(), self.lock().entries.keys().copied().collect(), Some(exists))
            }
        };
        let added = self.build(announced, &mut next_id);
        // Endpoints are dropped after the lock: closing them is their business and may take a moment.
        let dropped = self.replace(added, &gone, exists);
        drop(dropped);
        self.serve_waiters();
    }

    /// Makes slots for what is new or changed, without holding the lock: endpoints may report at once.
    fn build(self: &Arc<Self>, announced: Vec<EndpointInfo>, next_id: &mut u64) -> Vec<Arc<Slot<E>>> {
        let mut added = Vec::new();
        let joins = self.established();
        for info in announced {
            {
                let state = self.lock();
                let known = state.entries.get(&info.addr);
                if known.is_some_and(|entry| *entry.slot.info == info) {
                    continue;
                }
                if known.is_none() && state.entries.len() + added.len() >= MAX_ENDPOINTS {
                    tracing::warn!(limit = MAX_ENDPOINTS, "endpoints above the limit are ignored");
                    break;
                }
            }
            let info = Arc::new(info);
            *next_id += 1;
            let cell = Arc::new(Cell::new(*next_id, info.addr));
            let owner = Arc::downgrade(self);
            let readiness = Readiness::new(cell.clone(), owner.clone());
            let endpoint = (self.make)(info.clone(), readiness);
            let (load, breaker, epoch) = (self.params.load, self.params.breaker, self.epoch);
            added
                .push(Slot::new(Parts { info, endpoint, cell, load, breaker, joins, epoch, owner }, clock()));
        }
        added
    }

    /// What the endpoints that are in use look like, if some have been for as long as warming up takes: their mean estimate
    /// in seconds. Whoever joins them starts with it.
    fn established(&self) -> Option<f64> {
        let now = clock();
        if now.saturating_duration_since(self.epoch) < load::WARM_UP {
            return None;
        }
        let ready = self.ready.load();
        let tick = Tick::new(self.epoch, now);
        let (mut sum, mut count) = (0.0, 0u32);
        for slot in ready.slots.iter().take(ESTABLISHED) {
            sum += slot.estimate(tick);
            count += 1;
        }
        (count > 0).then(|| sum / f64::from(count))
    }

    /// Puts a change in force. Gives back what it displaced.
    fn replace(&self, added: Vec<Arc<Slot<E>>>, gone: &[SocketAddr], exists: Option<bool>) -> Vec<Entry<E>> {
        let mut state = self.lock();
        let mut displaced = Vec::new();
        displaced.extend(gone.iter().filter_map(|addr| state.entries.remove(addr)));
        for slot in added {
            let entry = Entry { drawable: slot.is_drawable(), slot };
            if let EndpointState::Failed(failure) = entry.slot.cell.state() {
                state.last_failure = Some((entry.slot.info.addr, failure));
            }
            displaced.extend(state.entries.insert(entry.slot.info.addr, entry));
        }
        state.drawable = state.entries.values().filter(|e| e.drawable).count();
        let exists = exists.or(state.discovered.map(|(_, exists)| exists)).unwrap_or(true);
        state.discovered = Some((clock(), exists));
        self.settle(&mut state);
        self.publish(&mut state);
        displaced
    }
}

impl<E: Target> Watch for Shared<E> {
    fn changed(&self, cell: &Cell) {
        self.reconsider(cell);
    }
}

impl<E: Target> Owner for Shared<E> {
    fn ejected(&self, who: &Ejected) {
        self.params.metrics.ejections.fetch_add(1, Relaxed);
        self.lock().last_ejected = Some(who.addr);
        tracing::info!(endpoint = %who.addr, why = %who.why, "circuit breaker open");
    }

    fn may_eject(&self, cell: &Cell) -> bool {
        if self.params.min_ready == 0 {
            return true;
        }
        let state = self.lock();
        let own = state.entries.get(&cell.addr).is_some_and(|e| e.drawable && e.slot.cell.id == cell.id);
        state.drawable - usize::from(own) >= self.params.min_ready
    }

    fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

impl<E: Target> Drop for Shared<E> {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.params.metrics.ready.fetch_sub(state.counted_ready, Relaxed);
        self.params.metrics.endpoints.fetch_sub(state.counted_known, Relaxed);
    }
}

impl<E: Target> State<E> {
    fn gate(&mut self, params: &Params, now: Instant) -> Gate {
        let gate = self.failfast.gate(now);
        if gate == Gate::JustShut {
            params.metrics.gate_shuts();
        }
        gate
    }

    fn age(&self, now: Instant) -> Option<Duration> {
        self.discovered.map(|(at, _)| now.saturating_duration_since(at))
    }

    fn cause(&self) -> Cause {
        match self.discovered {
            None => Cause::Undiscovered,
            Some((_, false)) => Cause::NoSuchService,
            Some((_, true)) if self.entries.is_empty() => Cause::NoEndpoints,
            Some((_, true)) if self.ejection().is_some() => Cause::AllEjected,
            Some((_, true)) => Cause::AllUnready,
        }
    }

    /// An endpoint that its breaker leaves alone, the latest if it still does, and why.
    fn ejection(&self) -> Option<Arc<Ejected>> {
        let of = |entry: &Entry<E>| entry.slot.ejection();
        let last = self.entries.get(&self.last_ejected?).and_then(of);
        last.or_else(|| self.entries.values().find_map(of))
    }

    fn unavailable(&self, cause: Cause, phase: Phase, now: Instant) -> Unavailable {
        Unavailable {
            cause,
            phase,
            known: self.entries.len(),
            ready: self.drawable,
            waited: Duration::ZERO,
            age: self.age(now),
            last_failure: self.last_failure.clone(),
            ejection: if cause == Cause::AllEjected { self.ejection() } else { None },
        }
    }
}
