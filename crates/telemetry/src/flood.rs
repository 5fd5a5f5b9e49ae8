//! Keeps a flood of equal log lines off the disk.
//!
//! The places that log one line per failure ask first, with a key such as (reason, destination), and
//! say on the next line they may write how many were left out. The number of keys is bounded: those
//! that find no room share one. Time is an argument. Never logs by itself.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many lines may be written.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// Lines a key in each period; at least one is allowed.
    pub lines: u32,
    /// The period. It begins with the first line.
    pub period: Duration,
    /// Keys that are told apart.
    pub keys: usize,
}

impl Default for Allowance {
    /// Ten lines a key in ten seconds, 1,024 keys: a guess at what a person reads; at most about 1,000
    /// lines a second if every key floods at once.
    fn default() -> Self {
        Self { lines: 10, period: Duration::from_secs(10), keys: 1_024 }
    }
}

/// Whether a line may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Write it, and say that this many of its key were left out since the last one.
    Write {
        /// Lines left out.
        suppressed: u64,
    },
    /// Leave it out.
    Suppress,
}

/// Decides for each line. Shared by reference.
#[derive(Debug)]
pub struct Flood {
    allowance: Allowance,
    hasher: RandomState,
    keys: Mutex<Keys>,
    suppressed: AtomicU64,
}

#[derive(Debug, Default)]
struct Keys {
    by_hash: HashMap<u64, Window>,
    others: Option<Window>,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    written: u32,
    suppressed: u64,
}

impl Default for Flood {
    fn default() -> Self {
        Self::new(Allowance::default())
    }
}

impl Flood {
    /// A limiter that has seen nothing.
    pub fn new(allowance: Allowance) -> Self {
        Self { allowance, hasher: RandomState::new(), keys: Mutex::default(), suppressed: AtomicU64::new(0) }
    }

    /// Decides about a line of this key at this time.
    pub fn admit(&self, key: impl Hash, now: Instant) -> Verdict {
        let hash = self.hasher.hash_one(key);
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = keys.window(hash, now, &self.allowance).admit(now, &self.allowance);
        if verdict == Verdict::Suppress {
            self.suppressed.fetch_add(1, Relaxed);
        }
        verdict
    }

    /// How many lines were left out in all.
    pub fn suppressed(&self) -> u64 {
        self.suppressed.load(Relaxed)
    }
}

impl Keys {
    fn window(&mut self, hash: u64, now: Instant, allowance: &Allowance) -> &mut Window {
        let full = self.by_hash.len() >= allowance.keys && !self.by_hash.contains_key(&hash);
        // Looked for once a period: what is over now cannot have been before the last search.
        if full && self.swept.is_none_or(|at| now.saturating_duration_since(at) >= allowance.period) {
            self.swept = Some(now);
            // A window that still owes a count is kept one period longer, so that it can be told.
            self.by_hash.retain(|_, window| {
                let age = now.saturating_duration_since(window.began);
                age < allowance.period || (window.suppressed > 0 && age < allowance.period * 2)
            });
        }
        if self.by_hash.len() >= allowance.keys && !self.by_hash.contains_key(&hash) {
            return self.others.get_or_insert_with(|| Window::new(now));
        }
        self.by_hash.entry(hash).or_insert_with(|| Window::new(now))
    }
}

impl Window {
    fn new(began: Instant) -> Self {
        Self { began, written: 0, suppressed: 0 }
    }

    fn admit(&mut self, now: Instant, allowance: &Allowance) -> Verdict {
        if now.saturating_duration_since(self.began) >= allowance.period {
            (self.began, self.written) = (now, 0);
        }
        if self.written >= allowance.lines.max(1) {
            self.suppressed += 1;
            return Verdict::Suppress;
        }
        self.written += 1;
        Verdict::Write { suppressed: std::mem::take(&mut self.suppressed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Allowance = Allowance { lines: 2, period: Duration::from_secs(10), keys: 2 };

    #[test]
    fn a_flood_is_cut_and_its_size_told_afterwards() {
        let (flood, start) = (Flood::new(SMALL), Instant::now());
        let verdicts: Vec<_> = (0..5).map(|i| flood.admit("a", start + Duration::from_secs(i))).collect();
        let write = Verdict::Write { suppressed: 0 };
        assert_eq!(verdicts, [write, write, Verdict::Suppress, Verdict::Suppress, Verdict::Suppress]);
        assert_eq!(flood.admit("a", start + Duration::from_secs(10)), Verdict::Write { suppressed: 3 });
        assert_eq!(flood.suppressed(), 3);
    }

    #[test]
    fn keys_do_not_disturb_each_other_until_there_are_too_many() {
        let (flood, start) = (Flood::new(SMALL), Instant::now());
        for key in ["a", "b"] {
            assert_eq!(flood.admit(key, start), Verdict::Write { suppressed: 0 });
        }
        let others: Vec<_> = ["c", "d", "e"].map(|key| flood.admit(key, start)).into();
        assert_eq!(others[2], Verdict::Suppress, "keys beyond the bound share one allowance");
        let later = start + SMALL.period;
        assert_eq!(flood.admit("f", later), Verdict::Write { suppressed: 0 }, "old keys made room");
        assert!(flood.keys.lock().unwrap().by_hash.len() <= SMALL.keys);
    }
}
