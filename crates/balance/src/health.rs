//! Circuit breaking: when an endpoint that answers badly is left alone, and when it is tried again.
//!
//! Pure state machines over `FailureAccrual` (§3.6); verdicts, times and draws come from the caller
//! (`backend`), which takes an ejected endpoint out of the draw and sets the timer for its probation. A
//! breaker is closed, shut for a while, or in probation: exactly one probe decides then.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use weft_model::policy::FailureAccrual;
use weft_model::reason::Code;
use weft_model::route::Backoff;

/// Buckets of the success-rate window.
const BUCKETS: usize = 10;

/// Longest `Retry-After` that a shut breaker obeys; the peer's default for penalties (§2.4).
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// How one response or failed attempt is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A good answer.
    Success,
    /// A failure by class: HTTP 5xx, a failing gRPC code, or a transport error.
    Failure,
    /// HTTP 429 or gRPC RESOURCE_EXHAUSTED: no failure in a row, but a bad mark in the rate.
    RateLimited,
}

/// What a verdict changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The endpoint is left alone for this long; then `begin_probation`.
    Shut(Duration),
    /// The endpoint is in use again.
    Reopened,
}

/// What a failure was, for whoever asks why an endpoint is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// An HTTP status.
    Status(u16),
    /// The code of a gRPC call.
    Grpc(u16),
    /// No answer.
    Error(Code),
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mark::Status(status) => write!(f, "HTTP {status}"),
            Mark::Grpc(code) => write!(f, "gRPC {code}"),
            Mark::Error(code) => write!(f, "{code}"),
        }
    }
}

/// What made a breaker shut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trip {
    /// So many failures in a row.
    InARow(u32),
    /// Too few good answers among those of the window.
    Rate {
        /// Good ones.
        good: u64,
        /// All.
        all: u64,
    },
    /// The probe failed.
    Probe,
}

/// Why an endpoint is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// What made the breaker shut.
    pub trip: Trip,
    /// The last failure.
    pub last: Option<Mark>,
    /// For how long.
    pub wait: Duration,
    /// Probes that failed since the endpoint was in use.
    pub failed_probes: u32,
}

/// An endpoint that is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejected {
    /// Its address.
    pub addr: SocketAddr,
    /// Why.
    pub why: Ejection,
}

impl fmt::Display for Ejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.trip {
            Trip::InARow(1) => f.write_str("a failure")?,
            Trip::InARow(count) => write!(f, "{count} failures in a row")?,
            Trip::Rate { good, all } => write!(f, "{good} of {all} requests succeeded")?,
            Trip::Probe if self.failed_probes == 1 => f.write_str("the probe failed")?,
            Trip::Probe => write!(f, "{} probes failed", self.failed_probes)?,
        }
        match (self.trip, self.last) {
            (Trip::InARow(1), Some(last)) => write!(f, ", {last}")?,
            (Trip::Probe, Some(last)) if self.failed_probes == 1 => write!(f, ", {last}")?,
            (_, Some(last)) => write!(f, ", the last {last}")?,
            (_, None) => {}
        }
        write!(f, "; left alone for {} ms", self.wait.as_millis())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Shut,
    Probation,
}

/// The breaker of one endpoint.
#[derive(Clone, Debug)]
pub struct Breaker {
    params: FailureAccrual,
    state: State,
    consecutive: u32,
    window: Window,
    /// Steps of the backoff since the trip.
    steps: u32,
    last: Option<Mark>,
    ejection: Option<Ejection>,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(params: FailureAccrual, now: Instant) -> Self {
        Self {
            params,
            state: State::Closed,
            consecutive: 0,
            window: Window::new(now),
            steps: 0,
            last: None,
            ejection: None,
        }
    }

    /// Notes what the failure is that is about to be judged.
    pub fn note(&mut self, mark: Mark) {
        self.last = Some(mark);
    }

    /// Why the endpoint is left alone, if it is or is only being tried.
    pub fn ejection(&self) -> Option<Ejection> {
        self.ejection
    }

    /// Judges an ordinary response. Ignored unless the breaker is closed. `draw` is uniform in `0..1`.
    pub fn observe(
        &mut self,
        verdict: Verdict,
        retry_after: Option<Duration>,
        now: Instant,
        draw: f64,
    ) -> Option<Transition> {
        if self.state != State::Closed {
            return None;
        }
        let trip = self.trips(verdict, now)?;
        self.steps = 0;
        Some(self.shut(trip, retry_after, draw))
    }

    /// Judges the probe's response: it alone decides. `None` if there is no probation.
    pub fn observe_probe(
        &mut self,
        verdict: Verdict,
        retry_after: Option<Duration>,
        now: Instant,
        draw: f64,
    ) -> Option<Transition> {
        if self.state != State::Probation {
            return None;
        }
        let good = match (verdict, &self.params) {
            (Verdict::Success, _) => true,
            (Verdict::Failure, _) => false,
            (Verdict::RateLimited, FailureAccrual::Consecutive { .. }) => true,
            (Verdict::RateLimited, FailureAccrual::Unified { .. }) => false,
        };
        if !good {
            self.steps = self.steps.saturating_add(1);
            return Some(self.shut(Trip::Probe, retry_after, draw));
        }
        Some(self.pardon(now))
    }

    /// Too few others are left: the endpoint stays in use, and its failures so far are forgotten.
    pub fn pardon(&mut self, now: Instant) -> Transition {
        self.state = State::Closed;
        self.consecutive = 0;
        self.window = Window::new(now);
        self.ejection = None;
        Transition::Reopened
    }

    /// The wait is over: one probe may go. True if the breaker was shut.
    pub fn begin_probation(&mut self) -> bool {
        let was_shut = self.state == State::Shut;
        if was_shut {
            self.state = State::Probation;
        }
        was_shut
    }

    fn shut(&mut self, trip: Trip, retry_after: Option<Duration>, draw: f64) -> Transition {
        self.state = State::Shut;
        let wait = self.backoff().wait(self.steps, draw);
        let asked = match self.params {
            FailureAccrual::Unified { respect_retry_after: true, .. } => retry_after.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        let wait = wait.max(asked.min(MAX_RETRY_AFTER));
        self.ejection = Some(Ejection { trip, last: self.last, wait, failed_probes: self.steps });
        Transition::Shut(wait)
    }

    fn backoff(&self) -> Backoff {
        match self.params {
            FailureAccrual::Consecutive { backoff, .. } | FailureAccrual::Unified { backoff, .. } => backoff,
        }
    }

    /// Takes a verdict into the counts; what trips the breaker now, if anything does.
    fn trips(&mut self, verdict: Verdict, now: Instant) -> Option<Trip> {
        match self.params {
            FailureAccrual::Consecutive { max_failures, .. } => {
                self.consecutive = match verdict {
                    Verdict::Failure => self.consecutive.saturating_add(1),
                    Verdict::Success | Verdict::RateLimited => 0,
                };
                (self.consecutive >= max_failures.max(1)).then_some(Trip::InARow(self.consecutive))
            }
            FailureAccrual::Unified { success_rate, window, min_requests, max_consecutive, .. } => {
                match verdict {
                    Verdict::Failure => self.consecutive = self.consecutive.saturating_add(1),
                    Verdict::Success => self.consecutive = 0,
                    Verdict::RateLimited => {}
                }
                let in_a_row = (max_consecutive > 0 && self.consecutive >= max_consecutive)
                    .then_some(Trip::InARow(self.consecutive));
                if success_rate <= 0.0 {
                    return in_a_row;
                }
                self.window.record(verdict == Verdict::Success, window, now);
                in_a_row.or_else(|| self.window.below(success_rate, min_requests))
            }
        }
    }
}

/// Good and bad answers in a ring of buckets that spans the window.
#[derive(Clone, Debug)]
struct Window {
    buckets: [(u32, u32); BUCKETS],
    current: usize,
    /// When the current bucket began.
    began: Instant,
}

impl Window {
    fn new(now: Instant) -> Self {
        Self { buckets: [(0, 0); BUCKETS], current: 0, began: now }
    }

    fn record(&mut self, good: bool, span: Duration, now: Instant) {
        // The API admits windows from 10 ms; a millisecond keeps a nonsensical one from dividing by 0.
        let width = (span / BUCKETS as u32).max(Duration::from_millis(1));
        let passed = now.saturating_duration_since(self.began).as_nanos() / width.as_nanos();
        if passed >= BUCKETS as u128 {
            *self = Window::new(now);
        } else {
            for _ in 0..passed {
                self.current = (self.current + 1) % BUCKETS;
                self.buckets[self.current] = (0, 0);
                self.began += width;
            }
        }
        let bucket = &mut self.buckets[self.current];
        match good {
            true => bucket.0 = bucket.0.saturating_add(1),
            false => bucket.1 = bucket.1.saturating_add(1),
        }
    }

    fn below(&self, rate: f64, min_requests: u32) -> Option<Trip> {
        let sum = |pick: fn(&(u32, u32)) -> u32| self.buckets.iter().map(|b| u64::from(pick(b))).sum::<u64>();
        let (good, bad) = (sum(|b| b.0), sum(|b| b.1));
        let all = good + bad;
        let below = all > 0 && all >= u64::from(min_requests) && (good as f64) < rate * all as f64;
        below.then_some(Trip::Rate { good, all })
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict::*;
    use super::*;

    const BACKOFF: Backoff =
        Backoff { min: Duration::from_secs(1), max: Duration::from_secs(60), jitter: 0.0 };

    fn consecutive(max_failures: u32) -> FailureAccrual {
        FailureAccrual::Consecutive { max_failures, backoff: BACKOFF }
    }

    fn unified(success_rate: f64, min_requests: u32, max_consecutive: u32) -> FailureAccrual {
        FailureAccrual::Unified {
            success_rate,
            window: Duration::from_secs(10),
            min_requests,
            max_consecutive,
            backoff: BACKOFF,
            respect_retry_after: true,
        }
    }

    /// Feeds verdicts 10 ms apart; expects the breaker to trip at exactly the given one, or never.
    fn check(params: FailureAccrual, verdicts: &[Verdict], trips_at: Option<usize>) {
        let start = Instant::now();
        let mut breaker = Breaker::new(params, start);
        let tripped = verdicts.iter().enumerate().position(|(i, v)| {
            breaker.observe(*v, None, start + Duration::from_millis(10 * i as u64), 0.0).is_some()
        });
        assert_eq!(tripped, trips_at, "{params:?} {verdicts:?}");
    }

    #[test]
    fn only_failures_in_a_row_trip_the_consecutive_breaker() {
        check(consecutive(3), &[Failure, Failure, Failure], Some(2));
        check(consecutive(3), &[Failure, Failure, Success, Failure, Failure], None);
        check(consecutive(3), &[Failure, Failure, RateLimited, Failure, Failure], None);
        check(consecutive(0), &[Failure], Some(0));
    }

    #[test]
    fn the_unified_breaker_trips_by_run_or_by_rate() {
        check(unified(0.0, 0, 3), &[Failure, RateLimited, Failure, Failure], Some(3));
        check(unified(0.0, 0, 3), &[Failure, Failure, Success, Failure, Failure], None);
        check(unified(0.5, 4, 0), &[Success, Failure, Success, Failure, Failure], Some(4));
        check(unified(0.5, 10, 0), &[Failure; 9], None);
        check(unified(0.5, 10, 0), &[Failure; 10], Some(9));
        check(unified(0.5, 2, 0), &[RateLimited, RateLimited], Some(1));
        check(unified(0.0, 0, 0), &[Failure; 50], None);
    }

    #[test]
    fn the_window_forgets() {
        let start = Instant::now();
        let mut breaker = Breaker::new(unified(0.5, 4, 0), start);
        for second in [0, 1, 2, 12] {
            let now = start + Duration::from_secs(second);
            assert_eq!(breaker.observe(Failure, None, now, 0.0), None, "second {second}");
        }
        for second in [60, 61, 62] {
            let now = start + Duration::from_secs(second);
            assert_eq!(breaker.observe(Failure, None, now, 0.0), None, "second {second}");
        }
        assert!(breaker.observe(Failure, None, start + Duration::from_secs(63), 0.0).is_some());
    }

    #[test]
    fn one_probe_decides_and_the_backoff_grows_then_restarts() {
        let now = Instant::now();
        let mut breaker = Breaker::new(consecutive(1), now);
        let shut = |secs| Some(Transition::Shut(Duration::from_secs(secs)));
        assert_eq!(breaker.observe(Failure, None, now, 0.0), shut(1));
        assert_eq!(breaker.observe(Failure, None, now, 0.0), None, "ignored while shut");
        assert_eq!(breaker.observe_probe(Success, None, now, 0.0), None, "no probation yet");
        assert!(breaker.begin_probation());
        assert!(!breaker.begin_probation());
        assert_eq!(breaker.observe(Success, None, now, 0.0), None, "stragglers do not decide");
        assert_eq!(breaker.observe_probe(Failure, None, now, 0.0), shut(2));
        assert!(breaker.begin_probation());
        assert_eq!(breaker.observe_probe(Failure, None, now, 0.0), shut(4));
        assert!(breaker.begin_probation());
        assert_eq!(breaker.observe_probe(Success, None, now, 0.0), Some(Transition::Reopened));
        assert_eq!(breaker.observe(Failure, None, now, 0.0), shut(1));
    }

    #[test]
    fn retry_after_lengthens_the_wait_of_a_unified_breaker_within_bounds() {
        let now = Instant::now();
        for (hint, expected) in [(0, 1), (30, 30), (100_000, 300)] {
            let mut breaker = Breaker::new(unified(0.0, 0, 1), now);
            let got = breaker.observe(Failure, Some(Duration::from_secs(hint)), now, 0.0);
            assert_eq!(got, Some(Transition::Shut(Duration::from_secs(expected))));
        }
    }

    #[test]
    fn a_rate_limited_probe_fails_only_under_the_unified_breaker() {
        let now = Instant::now();
        for (params, reopens) in [(consecutive(1), true), (unified(0.0, 0, 1), false)] {
            let mut breaker = Breaker::new(params, now);
            breaker.observe(Failure, None, now, 0.0);
            breaker.begin_probation();
            let got = breaker.observe_probe(RateLimited, None, now, 0.0);
            assert_eq!(got == Some(Transition::Reopened), reopens);
        }
    }
}
