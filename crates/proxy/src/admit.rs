//! The bound on requests in flight in one direction: above it requests are shed at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A counted bound. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    in_flight: Arc<AtomicUsize>,
    limit: usize,
}

/// One place, given back on drop.
#[derive(Debug)]
pub(crate) struct Admitted(Arc<AtomicUsize>);

impl Admission {
    /// At most `limit` at a time.
    pub(crate) fn new(limit: usize) -> Self {
        Self { in_flight: Arc::default(), limit }
    }

    /// Takes a place, or `None` if all are taken.
    pub(crate) fn enter(&self) -> Option<Admitted> {
        let before = self.in_flight.fetch_add(1, Relaxed);
        let place = Admitted(self.in_flight.clone());
        (before < self.limit).then_some(place)
    }

    /// How many are taken.
    pub(crate) fn count(&self) -> usize {
        self.in_flight.load(Relaxed)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let admission = Admission::new(2);
        let (a, b) = (admission.enter(), admission.enter());
        assert!(a.is_some() && b.is_some() && admission.enter().is_none());
        drop(a);
        assert!(admission.enter().is_some());
        assert_eq!(admission.count(), 1);
    }
}
