//! How many calls somebody may make in a while, and how many places he may hold at a time.
//!
//! `certificates` asks per source address, `server` per connection and address, `follow` per proxy. Who is
//! remembered is bounded: by a number, or by the places that are held. Time is an argument.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// Counts what is held by key. Remembers a key only while it holds something.
#[derive(Debug)]
pub(crate) struct Places<K: Hash + Eq> {
    each: usize,
    held: Arc<Mutex<HashMap<K, usize>>>,
}

/// One place, held until it is dropped.
#[derive(Debug)]
pub(crate) struct Place<K: Hash + Eq> {
    key: K,
    held: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Hash + Eq + Clone> Places<K> {
    /// So many for each key.
    pub(crate) fn new(each: usize) -> Self {
        Self { each, held: Arc::default() }
    }

    /// A place, if the key has not all of its own.
    pub(crate) fn take(&self, key: K) -> Option<Place<K>> {
        let mut held = locked(&self.held);
        let count = held.entry(key.clone()).or_insert(0);
        if *count >= self.each {
            return None;
        }
        *count += 1;
        Some(Place { key, held: self.held.clone() })
    }
}

impl<K: Hash + Eq> Drop for Place<K> {
    fn drop(&mut self) {
        let mut held = locked(&self.held);
        if let Some(count) = held.get_mut(&self.key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                held.remove(&self.key);
            }
        }
    }
}

fn locked<K>(held: &Mutex<HashMap<K, usize>>) -> MutexGuard<'_, HashMap<K, usize>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_per_key_and_come_back() {
        let places = Places::new(2);
        let (first, second, other) = (places.take("a"), places.take("a"), places.take("b"));
        assert!(first.is_some() && second.is_some() && other.is_some());
        assert!(places.take("a").is_none());
        drop(first);
        assert!(places.take("a").is_some());
        drop((second, other));
        assert!(locked(&places.held).is_empty(), "nobody is remembered who holds nothing");
    }

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
