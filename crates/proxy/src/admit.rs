//! The bound on requests in flight in one direction, above which requests are shed at once, and the count of
//! those under way on one connection, which tells whether it rests.
//!
//! `forward` takes a place for each request; it is given back when the exchange is over, the body included.

use crate::via::Via;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A counted bound.
#[derive(Debug)]
pub(crate) struct Admission {
    in_flight: AtomicUsize,
    limit: usize,
}

impl Admission {
    /// At most `limit` at a time.
    pub(crate) fn new(limit: usize) -> Self {
        Self { in_flight: AtomicUsize::new(0), limit }
    }

    /// Takes a place, if one is free.
    fn enter(&self) -> bool {
        let free = self.in_flight.fetch_add(1, Relaxed) < self.limit;
        if !free {
            self.leave();
        }
        free
    }

    /// How many are taken.
    pub(crate) fn count(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    fn leave(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }
}

/// One request's place, given back on drop.
pub(crate) struct Admitted(Arc<Via>);

impl Admitted {
    /// Takes a place, or `None` if all of this direction are taken.
    pub(crate) fn of(via: &Arc<Via>) -> Option<Self> {
        via.admission().enter().then(|| {
            via.under_way.fetch_add(1, Relaxed);
            Self(via.clone())
        })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Relaxed);
        self.0.admission().leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let admission = Admission::new(2);
        assert!(admission.enter() && admission.enter() && !admission.enter() && !admission.enter());
        admission.leave();
        assert!(admission.enter() && !admission.enter());
        assert_eq!(admission.count(), 2);
    }
}
