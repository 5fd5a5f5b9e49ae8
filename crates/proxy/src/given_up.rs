//! What a client gives up before anybody has answered, counted to its end.
//!
//! Whoever drops a request's future says nothing more: `forward` leaves an [`Unanswered`] across the wait for an
//! answer, and whatever still stands when the future goes is counted here. Says nothing about the endpoint, which may
//! have been as fast as ever.

use std::time::Instant;
use weft_decide::classify::Class;
use weft_discover::plan::Rule;
use weft_model::reason::Code;
use weft_route::metrics::{BackendMetrics, Ending, Exchange};

/// How a request ends that its client gives up.
pub(crate) const GIVEN_UP: Ending =
    Ending { status: None, grpc: None, class: Class::Failure, error: Some(Code::ClientGone) };

/// An attempt under way. Dropped, it counts as given up.
pub(crate) struct Unanswered<'a> {
    pub(crate) exchange: Option<&'a Exchange>,
    pub(crate) backend: &'a BackendMetrics,
    pub(crate) rule: &'a Rule,
    pub(crate) sent: Instant,
}

impl Unanswered<'_> {
    /// There is an outcome: somebody else counts.
    pub(crate) fn settled(self) {
        std::mem::forget(self); // only references
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(metrics) = self.exchange {
            metrics.ended(&GIVEN_UP);
        }
        self.backend.ended(&GIVEN_UP, self.sent.elapsed());
        self.rule.metrics.attempt_ended(&GIVEN_UP);
    }
}
