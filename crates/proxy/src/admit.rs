//! The bound on requests in flight in one direction, above which requests are shed at once.
//!
//! Each exchange holds a place of it (`via::Admitted`), from the request's head to the end of both bodies.

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
    pub(crate) fn enter(&self) -> bool {
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

    /// Gives a place back that `enter` gave.
    pub(crate) fn leave(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
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
