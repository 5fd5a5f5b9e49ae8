//! One endpoint as its backend keeps it: the endpoint itself, its load and its breaker.
//!
//! `backend` makes slots and draws among them; a `Picked` or `Pending` holds one for a request and gives
//! it back what was learned. The load lives in atomics; the breaker's lock is taken once a judged
//! response, and only where a breaker is configured.

use crate::endpoint::{Cell, EndpointState, Target, Watch};
use crate::health::{Breaker, Ejected, Mark, Transition, Verdict};
use crate::load::{self, Estimate, Failures, Successes, Tick};
use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use weft_model::destination::EndpointInfo;
use weft_model::policy::FailureAccrual;
use weft_model::route::LoadParams;

/// The breaker lets everything through.
const OPEN: u8 = 0;
/// It lets nothing through.
const SHUT: u8 = 1;
/// It lets one request through.
const PROBATION: u8 = 2;
/// That one is under way.
const PROBING: u8 = 3;

/// The present time, on tokio's clock so that tests can pause it.
pub(crate) fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// What a slot tells its backend, and borrows from it.
pub(crate) trait Owner: Watch {
    /// A breaker took an endpoint out.
    fn ejected(&self, who: &Ejected);
    /// Whether enough others are in use for this one to be taken out.
    fn may_eject(&self, cell: &Cell) -> bool;
    /// Where breakers' timers run.
    fn runtime(&self) -> &Handle;
}

pub(crate) struct Slot<E: Target> {
    pub(crate) info: Arc<EndpointInfo>,
    pub(crate) endpoint: E,
    pub(crate) cell: Arc<Cell>,
    pending: AtomicU32,
    estimate: AtomicU64,
    penalty: AtomicU64,
    /// Good answers, wrapping.
    answers: AtomicU32,
    failures: AtomicU64,
    successes: AtomicU64,
    /// When it joined others that were there before; `None`: it is as warm as they are.
    joined: Option<Instant>,
    /// What the breaker says, readable without its lock.
    gate: AtomicU8,
    breaker: Option<Mutex<Breaker>>,
    /// Why the breaker shut. Apart from it, because who holds the backend's lock asks, which the breaker's holder takes.
    ejection: Mutex<Option<Arc<Ejected>>>,
    params: LoadParams,
    epoch: Instant,
    owner: Weak<dyn Owner>,
}

/// What a slot is made of.
pub(crate) struct Parts<E: Target> {
    pub(crate) info: Arc<EndpointInfo>,
    pub(crate) endpoint: E,
    pub(crate) cell: Arc<Cell>,
    pub(crate) load: LoadParams,
    pub(crate) breaker: Option<FailureAccrual>,
    /// What it starts with, if it joins others: their estimate, so that it looks neither better nor worse than they do.
    pub(crate) joins: Option<f64>,
    pub(crate) epoch: Instant,
    pub(crate) owner: Weak<dyn Owner>,
}

impl<E: Target> Slot<E> {
    pub(crate) fn new(parts: Parts<E>, now: Instant) -> Arc<Self> {
        let tick = Tick::new(parts.epoch, now);
        Arc::new(Self {
            info: parts.info,
            endpoint: parts.endpoint,
            cell: parts.cell,
            pending: AtomicU32::new(0),
            estimate: AtomicU64::new(Estimate::first(&parts.load, parts.joins, tick).to_bits()),
            penalty: AtomicU64::new(Estimate::zero(tick).to_bits()),
            answers: AtomicU32::new(0),
            failures: AtomicU64::new(Failures::none(tick).to_bits()),
            successes: AtomicU64::new(Successes::none().to_bits()),
            joined: parts.joins.map(|_| now),
            gate: AtomicU8::new(OPEN),
            breaker: parts.breaker.map(|params| Mutex::new(Breaker::new(params, now))),
            ejection: Mutex::new(None),
            params: parts.load,
            epoch: parts.epoch,
            owner: parts.owner,
        })
    }

    /// Whether it may be drawn.
    pub(crate) fn is_drawable(&self) -> bool {
        matches!(self.gate.load(Ordering::Acquire), OPEN | PROBATION)
            && self.cell.state() == EndpointState::Ready
    }

    pub(crate) fn is_ejected(&self) -> bool {
        self.gate.load(Ordering::Acquire) != OPEN
    }

    /// Why it is left alone, if its breaker does that.
    pub(crate) fn ejection(&self) -> Option<Arc<Ejected>> {
        let kept = || self.ejection.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if self.is_ejected() { kept() } else { None }
    }

    pub(crate) fn pending(&self) -> u32 {
        self.pending.load(Ordering::Relaxed)
    }

    /// The estimated response time in seconds, penalties included.
    pub(crate) fn estimate(&self, now: Tick) -> f64 {
        let read = |bits: &AtomicU64| Estimate::from_bits(bits.load(Ordering::Relaxed));
        let estimate = read(&self.estimate).at(now, self.params.decay);
        match &self.params.penalty {
            Some(penalty) => estimate.max(read(&self.penalty).at(now, penalty.decay)),
            None => estimate,
        }
    }

    /// What is compared: the estimate for each request that it owes, and more if it failed of late, because failing fast
    /// is not being fast.
    pub(crate) fn load(&self, now: Tick) -> f64 {
        load::load(self.estimate(now), self.pending()) * self.blame(now)
    }

    fn blame(&self, now: Tick) -> f64 {
        if self.gate.load(Ordering::Relaxed) == PROBATION {
            return 1.0; // its one request is to come soon: it decides, and not what was before
        }
        Failures::from_bits(self.failures.load(Ordering::Relaxed)).weight(
            || {
                let good = Successes::from_bits(self.successes.load(Ordering::Relaxed));
                (good, self.answers.load(Ordering::Relaxed))
            },
            now,
        )
    }

    fn failed(&self, now: Tick) {
        // Two numbers that belong together change one after the other; a reader between them sees an estimate.
        let read = || (self.failures.load(Ordering::Relaxed), self.successes.load(Ordering::Relaxed));
        let (failures, successes) = read();
        let answers = self.answers.load(Ordering::Relaxed);
        let another = Failures::from_bits(failures).another(Successes::from_bits(successes), answers, now);
        self.failures.store(another.0.to_bits(), Ordering::Relaxed);
        self.successes.store(another.1.to_bits(), Ordering::Relaxed);
    }

    /// Whether it is so new that this draw passes it over.
    pub(crate) fn is_passed_over(&self, now: Instant, draw: f64) -> bool {
        self.joined.is_some_and(|joined| load::is_passed_over(now.saturating_duration_since(joined), draw))
    }

    /// Takes the slot for a request. `None` if the breaker does not let it through.
    pub(crate) fn take(self: &Arc<Self>, now: Instant) -> Option<Picked<E>> {
        let probe = match self.gate.load(Ordering::Acquire) {
            OPEN => false,
            PROBATION => {
                self.gate.compare_exchange(PROBATION, PROBING, Ordering::AcqRel, Ordering::Acquire).ok()?;
                self.reconsider();
                true
            }
            _ => return None,
        };
        self.pending.fetch_add(1, Ordering::Relaxed);
        Some(Picked {
            pending: Pending {
                slot: self.clone(),
                started: now,
                probe,
                mark: None,
                counted: true,
                failed: false,
            },
        })
    }

    /// Lets the backend know that `is_drawable` may have changed.
    fn reconsider(&self) {
        if let Some(owner) = self.owner.upgrade() {
            owner.changed(&self.cell);
        }
    }

    fn update(&self, cell: &AtomicU64, change: impl Fn(Estimate) -> Option<Estimate>) {
        // Losing a race for good is impossible: a failed update sees the winner's value and tries again.
        let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| {
            change(Estimate::from_bits(bits)).map(Estimate::to_bits)
        });
    }

    fn breaker(&self) -> Option<MutexGuard<'_, Breaker>> {
        self.breaker.as_ref().map(|b| b.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn judge(self: &Arc<Self>, verdict: Verdict, retry_after: Option<Duration>, judged: Judged) {
        let Some(mut breaker) = self.breaker() else { return };
        let draw = fastrand::f64();
        if let Some(mark) = judged.mark.filter(|_| verdict != Verdict::Success) {
            breaker.note(mark);
        }
        let transition = match judged.probe {
            true => breaker.observe_probe(verdict, retry_after, judged.now, draw),
            false => breaker.observe(verdict, retry_after, judged.now, draw),
        };
        let tripped = matches!(transition, Some(Transition::Shut(_)));
        let spared = tripped && self.owner.upgrade().is_some_and(|owner| !owner.may_eject(&self.cell));
        let transition = if spared { Some(breaker.pardon(judged.now)) } else { transition };
        let gate = match transition {
            None => return,
            Some(Transition::Reopened) if spared => OPEN,
            Some(Transition::Reopened) => {
                let none = Failures::none(Tick::new(self.epoch, judged.now));
                self.failures.store(none.to_bits(), Ordering::Relaxed);
                OPEN
            }
            Some(Transition::Shut(_)) => SHUT,
        };
        let ejection = breaker.ejection().map(|why| Arc::new(Ejected { addr: self.info.addr, why }));
        *self.ejection.lock().unwrap_or_else(PoisonError::into_inner) = ejection.clone();
        self.gate.store(gate, Ordering::Release);
        drop(breaker);
        if let (Some(Transition::Shut(wait)), Some(why), Some(owner)) =
            (transition, ejection, self.owner.upgrade())
        {
            owner.ejected(&why);
            let slot = Arc::downgrade(self);
            owner.runtime().spawn(async move {
                tokio::time::sleep(wait).await;
                if let Some(slot) = slot.upgrade() {
                    slot.begin_probation();
                }
            });
        }
        self.reconsider();
    }

    fn begin_probation(&self) {
        if let Some(mut breaker) = self.breaker()
            && breaker.begin_probation()
        {
            self.gate.store(PROBATION, Ordering::Release);
        }
        self.reconsider();
    }

    /// The probe ended without a verdict: another may go.
    fn return_probe(&self) {
        let back = self.gate.compare_exchange(PROBING, PROBATION, Ordering::AcqRel, Ordering::Acquire);
        if back.is_ok() {
            self.reconsider();
        }
    }
}

struct Judged {
    probe: bool,
    mark: Option<Mark>,
    now: Instant,
}

/// An endpoint taken for a request. Counts as pending there until the response's first body frame, or
/// until it is dropped.
pub struct Picked<E: Target> {
    pending: Pending<E>,
}

impl<E: Target> Picked<E> {
    /// The endpoint.
    pub fn endpoint(&self) -> &E {
        &self.pending.slot.endpoint
    }

    /// What discovery says about it.
    pub fn info(&self) -> &Arc<EndpointInfo> {
        &self.pending.slot.info
    }

    /// What is left to report about the request; keeps the endpoint until it is dropped.
    pub fn into_pending(self) -> Pending<E> {
        self.pending
    }
}

impl<E: Target> fmt::Debug for Picked<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Picked").field(&self.info().addr).finish()
    }
}

/// A request under way at an endpoint. Whoever watches the response reports here. Dropped without a
/// report it counts as given up: its time so far can raise the endpoint's estimate but not lower it.
pub struct Pending<E: Target> {
    slot: Arc<Slot<E>>,
    started: Instant,
    /// Whether the breaker's probation hangs on this request.
    probe: bool,
    /// What it failed with.
    mark: Option<Mark>,
    /// Whether it still counts as pending.
    counted: bool,
    /// Whether it counts as a failure.
    failed: bool,
}

impl<E: Target> Pending<E> {
    /// The endpoint.
    pub fn endpoint(&self) -> &E {
        &self.slot.endpoint
    }

    /// What discovery says about the endpoint.
    pub fn info(&self) -> &Arc<EndpointInfo> {
        &self.slot.info
    }

    /// When the endpoint was taken.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The response's first body frame, its end where there is none, or the end of a TCP connect: the
    /// time until now is a sample, and the request is no longer pending. Later calls do nothing.
    pub fn first_frame(&mut self, now: Instant) {
        let Some((took, tick)) = self.settle(now) else { return };
        let slot = &*self.slot;
        slot.answers.fetch_add(1, Ordering::Relaxed);
        slot.update(&slot.estimate, |e| e.sample(took, tick, slot.params.decay));
    }

    /// The request failed, by transport or by status. The share of failures weighs on the load. With penalties configured
    /// a failure also counts as slow for `max(penalty, retry_after)`; without, it cannot lower the estimate. Later calls do
    /// nothing.
    pub fn fail(&mut self, now: Instant, retry_after: Option<Duration>) {
        let Some((took, tick)) = self.settle(now) else { return };
        self.failed = true;
        let slot = &*self.slot;
        slot.failed(tick);
        match &slot.params.penalty {
            Some(penalty) => {
                let cost = load::penalized(penalty, retry_after, took, slot.estimate(tick));
                slot.update(&slot.penalty, |e| e.sample(cost, tick, penalty.decay));
            }
            None => slot.update(&slot.estimate, |e| e.at_least(took, tick)),
        }
    }

    /// Says what the failure is that is about to be judged.
    pub fn mark(&mut self, mark: Mark) {
        self.mark = Some(mark);
    }

    /// Tells the endpoint's breaker, if it has one, how the request ended. To be called once.
    pub fn judge(&mut self, verdict: Verdict, retry_after: Option<Duration>, now: Instant) {
        let probe = std::mem::take(&mut self.probe);
        // A failure that shows only at the end, as gRPC's do.
        if verdict != Verdict::Success && !std::mem::replace(&mut self.failed, true) {
            self.slot.failed(Tick::new(self.slot.epoch, now));
        }
        self.slot.judge(verdict, retry_after, Judged { probe, mark: self.mark, now });
    }

    /// Ends the pending count; `None` if it has ended before.
    fn settle(&mut self, now: Instant) -> Option<(Duration, Tick)> {
        if !std::mem::take(&mut self.counted) {
            return None;
        }
        self.slot.pending.fetch_sub(1, Ordering::Relaxed);
        Some((now.saturating_duration_since(self.started), Tick::new(self.slot.epoch, now)))
    }
}

impl<E: Target> Drop for Pending<E> {
    fn drop(&mut self) {
        if self.counted
            && let Some((took, tick)) = self.settle(clock())
        {
            self.slot.update(&self.slot.estimate, |e| e.at_least(took, tick));
        }
        if self.probe {
            self.slot.return_probe();
        }
    }
}

impl<E: Target> fmt::Debug for Pending<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("addr", &self.slot.info.addr).field("counted", &self.counted).finish()
    }
}
