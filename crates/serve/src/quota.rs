//! How many calls somebody may make in a while, with a bounded memory of who made them.
//!
//! `certificates` asks per source address, `server` per connection. Time is an argument.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Calls in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// How many.
    pub calls: u32,
    /// In how long. The period begins with its first call.
    pub period: Duration,
}

/// The calls of one period.
#[derive(Clone, Copy, Debug)]
struct Window {
    began: Instant,
    calls: u32,
}

/// Counts calls by key. At most `keys` are told apart; those that find no room share one allowance.
#[derive(Debug)]
pub(crate) struct Quota<K> {
    allowance: Allowance,
    keys: usize,
    windows: Mutex<Windows<K>>,
}

#[derive(Debug)]
struct Windows<K> {
    by_key: HashMap<K, Window>,
    others: Option<Window>,
}

impl<K: Hash + Eq> Quota<K> {
    pub(crate) fn new(allowance: Allowance, keys: usize) -> Self {
        let windows = Mutex::new(Windows { by_key: HashMap::new(), others: None });
        Self { allowance, keys, windows }
    }

    /// Whether one more call is within the allowance; if so, it counts.
    pub(crate) fn admit(&self, key: K, now: Instant) -> bool {
        let Allowance { calls, period } = self.allowance;
        let fresh = Window { began: now, calls: 0 };
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if !windows.by_key.contains_key(&key) && windows.by_key.len() >= self.keys {
            windows.by_key.retain(|_, w| now.saturating_duration_since(w.began) < period);
        }
        let Windows { by_key, others } = &mut *windows;
        let window = if by_key.len() < self.keys || by_key.contains_key(&key) {
            by_key.entry(key).or_insert(fresh)
        } else {
            others.get_or_insert(fresh)
        };
        if now.saturating_duration_since(window.began) >= period {
            *window = fresh;
        }
        let admitted = window.calls < calls;
        window.calls += u32::from(admitted);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_per_key_and_period() {
        let period = Duration::from_secs(10);
        let quota = Quota::new(Allowance { calls: 2, period }, 2);
        let start = Instant::now();
        let later = start + period;
        for (key, now, admitted) in [
            ("a", start, true),
            ("a", start, true),
            ("a", start, false),
            ("b", start, true),
            // No room for more keys: these share.
            ("c", start, true),
            ("d", start, true),
            ("e", start, false),
            ("a", later, true),
            // Over periods make room.
            ("e", later, true),
        ] {
            assert_eq!(quota.admit(key, now), admitted, "{key}");
        }
    }
}
