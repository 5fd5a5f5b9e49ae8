//! What a backend counts: plain atomics, read as a snapshot by whoever exports them.
//!
//! The handle outlives the backend, so its owner decides how long a series lives. Nothing here knows a
//! registry, a name or a label.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Upper bounds of the queue latency buckets in seconds (§5.2); one more bucket takes the rest.
pub const LATENCY_BOUNDS: [f64; 6] = [0.0005, 0.005, 0.05, 0.5, 1.0, 3.0];

/// The counters of one backend.
#[derive(Debug, Default)]
pub struct Metrics {
    pub(crate) endpoints: AtomicI64,
    pub(crate) ready: AtomicI64,
    pub(crate) updates_reset: AtomicU64,
    pub(crate) updates_add: AtomicU64,
    pub(crate) updates_remove: AtomicU64,
    pub(crate) updates_empty: AtomicU64,
    pub(crate) waiting: AtomicI64,
    pub(crate) requests: AtomicU64,
    gate_opened: AtomicU64,
    gate_shut: AtomicU64,
    pub(crate) ejections: AtomicU64,
    /// Unix time in milliseconds, 0 for never.
    gate_opened_at: AtomicU64,
    gate_shut_at: AtomicU64,
    waited: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    waited_nanos: AtomicU64,
}

/// One reading of the counters. Gauges and counters are read one after the other, so sums may be off by
/// what happened meanwhile.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Endpoints that take requests.
    pub endpoints_ready: u64,
    /// Known endpoints that do not.
    pub endpoints_pending: u64,
    /// Discovery updates that replaced the set.
    pub updates_reset: u64,
    /// Updates that added or changed endpoints.
    pub updates_add: u64,
    /// Updates that removed endpoints.
    pub updates_remove: u64,
    /// Updates that said there are none.
    pub updates_empty: u64,
    /// Requests waiting now.
    pub queue_length: u64,
    /// Requests that asked for an endpoint, waiting or not.
    pub queue_requests: u64,
    /// Requests by time waited, one count a bucket of `LATENCY_BOUNDS` (not cumulative).
    pub queue_latency: [u64; LATENCY_BOUNDS.len() + 1],
    /// Sum of the waits.
    pub queue_latency_sum: Duration,
    /// Times that failing fast ended.
    pub gate_opened: u64,
    /// Times that failing fast began.
    pub gate_shut: u64,
    /// When failing fast last ended, since the Unix epoch; zero for never.
    pub gate_opened_at: Duration,
    /// When it last began.
    pub gate_shut_at: Duration,
    /// Times that a breaker took an endpoint out.
    pub ejections: u64,
}

impl Metrics {
    /// Reads everything.
    pub fn snapshot(&self) -> Counts {
        let gauge = |g: &AtomicI64| u64::try_from(g.load(Relaxed)).unwrap_or(0);
        let (known, ready) = (gauge(&self.endpoints), gauge(&self.ready));
        let mut queue_latency = [0; LATENCY_BOUNDS.len() + 1];
        for (count, waited) in queue_latency.iter_mut().zip(&self.waited) {
            *count = waited.load(Relaxed);
        }
        let requests = self.requests.load(Relaxed);
        // Requests served at once are not counted bucket by bucket, to keep the fast path at one counter.
        queue_latency[0] += requests.saturating_sub(queue_latency.iter().sum());
        Counts {
            endpoints_ready: ready,
            endpoints_pending: known.saturating_sub(ready),
            updates_reset: self.updates_reset.load(Relaxed),
            updates_add: self.updates_add.load(Relaxed),
            updates_remove: self.updates_remove.load(Relaxed),
            updates_empty: self.updates_empty.load(Relaxed),
            queue_length: gauge(&self.waiting),
            queue_requests: requests,
            queue_latency,
            queue_latency_sum: Duration::from_nanos(self.waited_nanos.load(Relaxed)),
            gate_opened: self.gate_opened.load(Relaxed),
            gate_shut: self.gate_shut.load(Relaxed),
            gate_opened_at: Duration::from_millis(self.gate_opened_at.load(Relaxed)),
            gate_shut_at: Duration::from_millis(self.gate_shut_at.load(Relaxed)),
            ejections: self.ejections.load(Relaxed),
        }
    }

    /// Counts an end of failing fast.
    pub(crate) fn gate_opens(&self) {
        self.gate_opened.fetch_add(1, Relaxed);
        self.gate_opened_at.store(unix_millis(), Relaxed);
    }

    /// Counts a beginning of failing fast.
    pub(crate) fn gate_shuts(&self) {
        self.gate_shut.fetch_add(1, Relaxed);
        self.gate_shut_at.store(unix_millis(), Relaxed);
    }

    /// Counts the wait of a request that was not served at once.
    pub(crate) fn waited(&self, wait: Duration) {
        let seconds = wait.as_secs_f64();
        let bucket = LATENCY_BOUNDS.iter().position(|b| seconds <= *b).unwrap_or(LATENCY_BOUNDS.len());
        if let Some(count) = self.waited.get(bucket) {
            count.fetch_add(1, Relaxed);
        }
        self.waited_nanos.fetch_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }
}

/// The wall clock, since a scrape compares it with other machines'.
fn unix_millis() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_served_at_once_are_in_the_first_bucket() {
        let metrics = Metrics::default();
        metrics.requests.fetch_add(5, Relaxed);
        for millis in [4, 2_000] {
            metrics.waited(Duration::from_millis(millis));
        }
        let counts = metrics.snapshot();
        assert_eq!(counts.queue_latency, [3, 1, 0, 0, 0, 1, 0]);
        assert_eq!(counts.queue_latency_sum, Duration::from_millis(2_004));
    }
}
