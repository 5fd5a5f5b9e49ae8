//! The waiting room of a backend, and when it fails fast.
//!
//! Plain data under the backend's lock: who waits, in order, up to a capacity, and since when nothing
//! has been ready. `backend` hands endpoints to those who wait, first come first served, one wake-up for
//! each one served. It knows no clock and starts no timer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Those who wait for a `T`, in order of arrival.
pub(crate) struct Room<T> {
    waiters: BTreeMap<u64, oneshot::Sender<T>>,
    next: u64,
    capacity: usize,
}

impl<T> Room<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { waiters: BTreeMap::new(), next: 0, capacity }
    }

    /// Takes a place, `None` if there is none left.
    pub(crate) fn enter(&mut self) -> Option<(u64, oneshot::Receiver<T>)> {
        if self.waiters.len() >= self.capacity {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        let ticket = self.next;
        self.next += 1;
        self.waiters.insert(ticket, sender);
        Some((ticket, receiver))
    }

    /// Gives a place up. False if it had been served already.
    pub(crate) fn leave(&mut self, ticket: u64) -> bool {
        let left = self.waiters.remove(&ticket).is_some();
        self.tidy();
        left
    }

    /// The one who has waited longest.
    pub(crate) fn next(&mut self) -> Option<oneshot::Sender<T>> {
        let first = self.waiters.pop_first().map(|(_, sender)| sender);
        self.tidy();
        first
    }

    /// Nobody waits nearly always, and an empty map that was not always so keeps room for eleven.
    fn tidy(&mut self) {
        if self.waiters.is_empty() {
            self.waiters = BTreeMap::new();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiters.len()
    }
}

/// Since when nothing is ready, and whether that is too long.
pub(crate) struct Failfast {
    limit: Duration,
    unready_since: Option<Instant>,
    /// Whether somebody has noticed that the gate is shut; for the counters alone.
    noticed: bool,
}

/// Whether requests may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// It has been shut before.
    Shut,
    /// It is shut, and this call is the first to see it.
    JustShut,
}

impl Failfast {
    /// Nothing is ready at first.
    pub(crate) fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, unready_since: Some(now), noticed: false }
    }

    /// Something is ready. True if the gate was shut and is open again.
    pub(crate) fn ready(&mut self) -> bool {
        self.unready_since = None;
        std::mem::take(&mut self.noticed)
    }

    /// Nothing is ready any more.
    pub(crate) fn unready(&mut self, now: Instant) {
        self.unready_since.get_or_insert(now);
    }

    /// When the gate shuts if nothing becomes ready.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.unready_since.and_then(|since| since.checked_add(self.limit))
    }

    pub(crate) fn gate(&mut self, now: Instant) -> Gate {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Gate::Open;
        }
        if std::mem::replace(&mut self.noticed, true) { Gate::Shut } else { Gate::JustShut }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_shuts_after_the_limit_and_is_noticed_once() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut failfast = Failfast::new(Duration::from_secs(3), start);
        assert_eq!(failfast.gate(at(2)), Gate::Open);
        failfast.unready(at(2)); // does not restart the clock
        assert_eq!(failfast.gate(at(3)), Gate::JustShut);
        assert_eq!(failfast.gate(at(4)), Gate::Shut);
        assert!(failfast.ready());
        assert_eq!(failfast.gate(at(5)), Gate::Open);
        failfast.unready(at(10));
        assert_eq!(failfast.deadline(), Some(at(13)));
        assert!(!failfast.ready(), "nobody noticed");
    }

    #[test]
    fn places_are_bounded_and_served_in_order() {
        let mut room = Room::new(2);
        let (first, _r1) = room.enter().unwrap();
        let (second, mut r2) = room.enter().unwrap();
        assert!(room.enter().is_none());
        assert!(room.leave(first) && !room.leave(first));
        assert!(room.enter().is_some());
        room.next().unwrap().send('x').unwrap();
        assert_eq!(r2.try_recv(), Ok('x'));
        assert!(!room.leave(second));
        assert_eq!(room.len(), 1);
    }
}
