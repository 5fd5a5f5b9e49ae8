//! Retry budgets and the judgement whether an answer is worth another attempt (§2.3, §3.8). Pure:
//! time comes in as an argument.
//!
//! `proxy/forward.rs` asks after each attempt. Nothing here sends anything.

use http::StatusCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use weft_decide::classify::{self, Class};
use weft_model::profile::ResponseClass;
use weft_model::route::{RetryBudget, RetryPolicy};

/// Slots that a budget's window is cut into, so that old deposits leave in tenths of the window.
const SLOTS: usize = 10;

/// One withdrawal, in millionths, so that ratios of 1/1000 still count.
const UNIT: u64 = 1_000_000;

/// A retry budget: each first attempt deposits, each retry withdraws; deposits expire with the
/// window. Retries can so never exceed `ratio × requests + min_per_second × ttl` in any window.
#[derive(Debug)]
pub struct Budget {
    ratio: f64,
    reserve: u64,
    slot_length: Duration,
    state: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    started: Instant,
    slot: u64,
    deposits: [u64; SLOTS],
    withdrawals: [u64; SLOTS],
}

impl Budget {
    /// A full reserve and no deposits, starting at `now`. A ttl under 10 ms counts as 10 ms.
    pub fn new(settings: &RetryBudget, now: Instant) -> Self {
        let ttl = settings.ttl.max(Duration::from_millis(10));
        let reserve = f64::from(settings.min_per_second) * ttl.as_secs_f64() * UNIT as f64;
        Self {
            ratio: f64::from(settings.ratio.clamp(0.0, 1000.0)),
            reserve: reserve as u64,
            slot_length: ttl / SLOTS as u32,
            state: Mutex::new(Window {
                started: now,
                slot: 0,
                deposits: [0; SLOTS],
                withdrawals: [0; SLOTS],
            }),
        }
    }

    /// Notes a first attempt.
    pub fn deposit(&self, now: Instant) {
        let mut window = self.window(now);
        let slot = (window.slot as usize) % SLOTS;
        let amount = (self.ratio * UNIT as f64) as u64;
        window.deposits[slot] = window.deposits[slot].saturating_add(amount);
    }

    /// Takes one retry out of the budget, if it holds one.
    pub fn withdraw(&self, now: Instant) -> bool {
        let mut window = self.window(now);
        let credit: u64 = self.reserve.saturating_add(window.deposits.iter().sum());
        let spent: u64 = window.withdrawals.iter().sum();
        if spent.saturating_add(UNIT) > credit {
            return false;
        }
        let slot = (window.slot as usize) % SLOTS;
        window.withdrawals[slot] += UNIT;
        true
    }

    fn window(&self, now: Instant) -> std::sync::MutexGuard<'_, Window> {
        let mut window = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let elapsed = now.saturating_duration_since(window.started);
        let current = (elapsed.as_nanos() / self.slot_length.as_nanos()) as u64;
        if current > window.slot {
            for passed in 1..=(current - window.slot).min(SLOTS as u64) {
                let slot = ((window.slot + passed) as usize) % SLOTS;
                window.deposits[slot] = 0;
                window.withdrawals[slot] = 0;
            }
            window.slot = current;
        }
        window
    }
}

/// How a rule retries.
#[derive(Clone, Debug)]
pub enum Retry {
    /// As a route's policy says: a count, conditions and a backoff.
    Policy(RetryPolicy),
    /// As a service profile says: failed responses, within a budget all its routes share.
    Profile(std::sync::Arc<Budget>),
}

/// Request bodies that a profile's retries keep, bytes (§3.8).
pub const PROFILE_BODY_LIMIT: usize = 64 * 1024;

impl Retry {
    /// Request bytes kept for replay.
    pub fn body_limit(&self) -> usize {
        match self {
            Retry::Policy(policy) => policy.max_request_bytes,
            Retry::Profile(_) => PROFILE_BODY_LIMIT,
        }
    }

    /// Whether an answer should be tried again, conditions alone considered; `grpc` is the code of a gRPC call, as far as it
    /// is known.
    pub fn wants(&self, classes: &[ResponseClass], status: StatusCode, grpc: Option<u16>) -> bool {
        match self {
            Retry::Policy(policy) => {
                policy.http.iter().any(|range| range.contains(status.as_u16()))
                    || grpc.is_some_and(|code| policy.grpc.contains(&code))
            }
            Retry::Profile(_) => class_of(classes, status, grpc) == Class::Failure,
        }
    }

    /// Whether the trailers of a gRPC call, whose head said nothing of its outcome, may be what it is tried again for.
    pub fn wants_trailers(&self) -> bool {
        match self {
            Retry::Policy(policy) => !policy.grpc.is_empty(),
            Retry::Profile(_) => true,
        }
    }
}

/// Classifies an answer by what is known: gRPC by its code if there is one, else by classes.
pub fn class_of(classes: &[ResponseClass], status: StatusCode, grpc: Option<u16>) -> Class {
    match grpc {
        Some(code) => classify::by_grpc(Some(code)),
        None => classify::by_status(classes, status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(ratio: f32, min_per_second: u32, ttl: u64, now: Instant) -> Budget {
        Budget::new(&RetryBudget { ttl: Duration::from_secs(ttl), min_per_second, ratio }, now)
    }

    fn withdrawals(budget: &Budget, now: Instant) -> usize {
        (0..10_000).take_while(|_| budget.withdraw(now)).count()
    }

    #[test]
    fn the_reserve_allows_a_minimum_of_retries() {
        let now = Instant::now();
        assert_eq!(withdrawals(&budget(0.0, 10, 10, now), now), 100);
        assert_eq!(withdrawals(&budget(0.5, 0, 10, now), now), 0);
    }

    #[test]
    fn deposits_buy_retries_by_the_ratio_and_expire() {
        let now = Instant::now();
        let b = budget(0.2, 0, 10, now);
        (0..100).for_each(|_| b.deposit(now));
        assert_eq!(withdrawals(&b, now), 20);
        (0..100).for_each(|_| b.deposit(now));
        assert_eq!(withdrawals(&b, now + Duration::from_secs(11)), 0);
        let b = budget(2.0, 0, 10, now);
        b.deposit(now);
        assert_eq!(withdrawals(&b, now), 2);
    }

    #[test]
    fn amplification_never_exceeds_the_budget_in_any_window() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..60 {
            let (ratio, least) = (rng.u32(..300) as f32 / 100.0, rng.u32(..5));
            let ttl = Duration::from_secs(rng.u64(1..=20));
            let settings = RetryBudget { ttl, min_per_second: least, ratio };
            let start = Instant::now();
            let budget = Budget::new(&settings, start);
            let (mut now, mut requests, mut retries) = (start, Vec::new(), Vec::new());
            // Crowds and lulls, and every request that may retries as often as it may.
            let mut pace = 1000;
            for _ in 0..3000 {
                if rng.u8(..50) == 0 {
                    pace = [10, 1000, 100_000][rng.usize(..3)];
                }
                now += Duration::from_micros(rng.u64(..pace));
                budget.deposit(now);
                requests.push(now);
                while rng.bool() && budget.withdraw(now) {
                    retries.push(now);
                }
            }
            // In whatever window of the budget's length: what came in it and in the slot that it began in pays for it.
            let slot = ttl / SLOTS as u32;
            let reserve = f64::from(least) * ttl.as_secs_f64();
            for end in retries.iter().step_by(7) {
                let within = |list: &[Instant], length: Duration| {
                    list.iter().filter(|at| **at <= *end && *end - **at < length).count() as f64
                };
                let allowed = f64::from(ratio) * within(&requests, ttl + slot) + reserve;
                let spent = within(&retries, ttl - slot);
                assert!(spent <= allowed + 1e-3, "{spent} retries, {allowed} allowed: {settings:?}");
            }
        }
    }
}
