//! Peak EWMA: how loaded an endpoint is, from how long it takes to answer and how much it owes.
//!
//! Pure: times come from the caller (`backend`). An estimate packs into 64 bits so that the caller can
//! keep it in one atomic and needs no lock on the hot path. A response time above the estimate replaces
//! it at once; below, the estimate decays towards it exponentially. Load is estimate × (pending + 1).

use std::time::{Duration, Instant};
use weft_model::route::{LoadParams, Penalty};

/// Least estimate in seconds that enters a load. Without it, idle endpoints would decay to zero and
/// pending requests would no longer count. A guess: below it, differences are scheduling noise.
const FLOOR: f64 = 50e-6;

/// Least initial estimate (§3.6).
const INITIAL_FLOOR: Duration = Duration::from_millis(1);

/// Coarse time: units of 2²⁰ ns (about 1.05 ms) since an epoch, wrapping after 52 days. Coarse enough to
/// fit into half an atomic; decay constants are thousands of units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick(u32);

impl Tick {
    /// The tick of `now` on a clock that started at `epoch`; earlier times count as the epoch.
    pub fn new(epoch: Instant, now: Instant) -> Self {
        Tick((now.saturating_duration_since(epoch).as_nanos() >> 20) as u32)
    }

    /// Seconds since `earlier`; 0 if it is later, as another thread's clock reading may be.
    fn seconds_since(self, earlier: Tick) -> f64 {
        let ticks = self.0.wrapping_sub(earlier.0);
        if ticks > u32::MAX / 2 { 0.0 } else { f64::from(ticks) * (1u64 << 20) as f64 * 1e-9 }
    }
}

/// An estimated response time and when it was last updated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    seconds: f32,
    at: Tick,
}

impl Estimate {
    /// What an endpoint starts with that has not answered yet.
    pub fn initial(params: &LoadParams, at: Tick) -> Self {
        Self { seconds: params.default_rtt.max(INITIAL_FLOOR).as_secs_f32(), at }
    }

    /// What an endpoint starts with that joins others whose estimate this is, in seconds; without, the initial one.
    pub fn first(params: &LoadParams, others: Option<f64>, at: Tick) -> Self {
        match others.filter(|seconds| seconds.is_finite() && *seconds > 0.0) {
            Some(seconds) => Self { seconds: seconds as f32, at },
            None => Self::initial(params, at),
        }
    }

    /// Nothing: loses against every sample.
    pub fn zero(at: Tick) -> Self {
        Self { seconds: 0.0, at }
    }

    /// The estimate at `now` in seconds, decayed towards zero with the time constant `decay`.
    pub fn at(self, now: Tick, decay: Duration) -> f64 {
        f64::from(self.seconds) * fade(now.seconds_since(self.at), decay)
    }

    /// Takes in a response time. `None` if nothing changes: samples below the estimate that fall into
    /// one tick count once.
    pub fn sample(self, rtt: Duration, now: Tick, decay: Duration) -> Option<Self> {
        let (rtt, elapsed) = (rtt.as_secs_f64(), now.seconds_since(self.at));
        let old = f64::from(self.seconds);
        if rtt > old {
            return Some(Self { seconds: rtt as f32, at: now });
        }
        if elapsed <= 0.0 {
            return None;
        }
        let kept = fade(elapsed, decay);
        Some(Self { seconds: (old * kept + rtt * (1.0 - kept)) as f32, at: now })
    }

    /// Takes in that an answer took at least this long; never lowers the estimate.
    pub fn at_least(self, rtt: Duration, now: Tick) -> Option<Self> {
        (rtt.as_secs_f64() > f64::from(self.seconds)).then_some(Self { seconds: rtt.as_secs_f32(), at: now })
    }

    /// The packed form.
    pub fn to_bits(self) -> u64 {
        u64::from(self.seconds.to_bits()) << 32 | u64::from(self.at.0)
    }

    /// Reads the packed form.
    pub fn from_bits(bits: u64) -> Self {
        Self { seconds: f32::from_bits((bits >> 32) as u32), at: Tick(bits as u32) }
    }
}

/// The share of an old value that is left after `elapsed` seconds.
fn fade(elapsed: f64, decay: Duration) -> f64 {
    if elapsed <= 0.0 {
        return 1.0; // the common case on a busy endpoint, without the exponential
    }
    (-elapsed / decay.as_secs_f64().max(1e-9)).exp()
}

/// The load of an endpoint with an estimate in seconds and requests that it has not answered.
pub fn load(estimate: f64, pending: u32) -> f64 {
    estimate.max(FLOOR) * (f64::from(pending) + 1.0)
}

/// How long failures weigh on an endpoint: the time constant with which they and its good answers are forgotten.
const MEMORY: Duration = Duration::from_secs(10);

/// Failures fewer than this are as good as forgotten.
const FORGOTTEN: f32 = 0.05;

/// How steeply a share of failures makes an endpoint unattractive. With 4, one that fails half its requests must otherwise
/// look sixteen times better than the others; one that fails one of a hundred, as any may, a twenty-fifth better. Chosen
/// in the laboratory so that an endpoint that fails half at once gets under 2 % of the requests.
const STEEPNESS: i32 = 4;

/// Most that failures weigh: even an endpoint that fails everything is tried when the others owe this much more.
const HEAVIEST: f64 = 1000.0;

/// Recent failures of an endpoint. Good answers are counted by one atomic addition; what they come to is worked out only
/// where there were failures, so that a healthy endpoint costs nothing more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Failures {
    /// How many, each fading since it happened.
    count: f32,
    at: Tick,
}

/// Good answers of an endpoint up to its last failure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Successes {
    /// How many, each fading since it happened.
    count: f32,
    /// What the endpoint's counter of good answers said then.
    mark: u32,
}

impl Failures {
    /// None.
    pub fn none(at: Tick) -> Self {
        Self { count: 0.0, at }
    }

    /// Takes in one more failure, while the counter of good answers says `answers`.
    pub fn another(self, good: Successes, answers: u32, now: Tick) -> (Self, Successes) {
        let (failures, successes) = self.weighed(good, answers, now);
        (Self { count: failures as f32 + 1.0, at: now }, Successes { count: successes as f32, mark: answers })
    }

    /// Failures and good answers of late.
    fn weighed(self, good: Successes, answers: u32, now: Tick) -> (f64, f64) {
        let elapsed = now.seconds_since(self.at);
        let kept = fade(elapsed, MEMORY);
        let since = f64::from(answers.wrapping_sub(good.mark));
        // Those since then came evenly, as far as anybody knows.
        let fresh = if elapsed > 0.0 { MEMORY.as_secs_f64() / elapsed * (1.0 - kept) } else { 1.0 };
        (f64::from(self.count) * kept, f64::from(good.count) * kept + since * fresh.min(1.0))
    }

    /// By how much the endpoint looks more loaded than it is; 1 if it has not failed of late.
    pub fn weight(self, good: impl FnOnce() -> (Successes, u32), now: Tick) -> f64 {
        if self.count < FORGOTTEN {
            return 1.0;
        }
        let (good, answers) = good();
        let (failures, successes) = self.weighed(good, answers, now);
        if failures < f64::from(FORGOTTEN) {
            return 1.0;
        }
        // One more good answer than there was, so that a first failure is no certainty.
        let share = failures / (failures + successes + 1.0);
        (1.0 - share).powi(STEEPNESS).recip().min(HEAVIEST)
    }

    /// The packed form.
    pub fn to_bits(self) -> u64 {
        u64::from(self.count.to_bits()) << 32 | u64::from(self.at.0)
    }

    /// Reads the packed form.
    pub fn from_bits(bits: u64) -> Self {
        Self { count: f32::from_bits((bits >> 32) as u32), at: Tick(bits as u32) }
    }
}

impl Successes {
    /// None.
    pub fn none() -> Self {
        Self { count: 0.0, mark: 0 }
    }

    /// The packed form.
    pub fn to_bits(self) -> u64 {
        u64::from(self.count.to_bits()) << 32 | u64::from(self.mark)
    }

    /// Reads the packed form.
    pub fn from_bits(bits: u64) -> Self {
        Self { count: f32::from_bits((bits >> 32) as u32), mark: bits as u32 }
    }
}

/// How long a new endpoint takes until it gets its whole share. Caches fill and compilers finish within seconds; a guess
/// in between what HAProxy's and Envoy's examples use.
pub const WARM_UP: Duration = Duration::from_secs(10);

/// The share that a new endpoint begins with, of what it would get.
const COLD: f64 = 0.1;

/// Whether an endpoint of this age is passed over for another one, given a uniform draw in `0..1`.
pub fn is_passed_over(age: Duration, draw: f64) -> bool {
    age < WARM_UP && draw >= COLD + (1.0 - COLD) * age.as_secs_f64() / WARM_UP.as_secs_f64()
}

/// The response time that a failure counts as: the penalty or the server's hint (believed up to a
/// bound), and never less than it took or than the present estimate.
pub fn penalized(penalty: &Penalty, hint: Option<Duration>, took: Duration, estimate: f64) -> Duration {
    let hint = hint.unwrap_or_default().min(penalty.max_retry_after);
    let estimate = Duration::try_from_secs_f64(estimate).unwrap_or_default();
    penalty.penalty.max(hint).max(took).max(estimate)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECAY: Duration = Duration::from_secs(10);

    fn tick(millis: u64) -> Tick {
        let epoch = Instant::now();
        Tick::new(epoch, epoch + Duration::from_millis(millis))
    }

    /// Starts at 100 ms, takes one sample after `after` ms, expects an estimate in ms.
    fn check(after: u64, sample: u64, expected: f64) {
        let start = Estimate { seconds: 0.1, at: tick(0) };
        let next = start.sample(Duration::from_millis(sample), tick(after), DECAY).unwrap_or(start);
        let got = f64::from(next.seconds) * 1e3;
        assert!((got - expected).abs() < 0.05, "after {after} ms, {sample} ms: {got} and not {expected}");
    }

    #[test]
    fn peaks_replace_and_valleys_decay() {
        check(0, 500, 500.0);
        check(10_000, 500, 500.0);
        check(0, 1, 100.0);
        check(10_000, 0, 100.0 / std::f64::consts::E);
        check(10_000, 50, 50.0 + 50.0 / std::f64::consts::E);
        check(1_000_000, 50, 50.0);
    }

    #[test]
    fn an_idle_estimate_fades_and_pending_requests_still_count() {
        let estimate = Estimate { seconds: 0.1, at: tick(0) };
        assert!((estimate.at(tick(10_000), DECAY) - 0.1 / std::f64::consts::E).abs() < 1e-4);
        let faded = estimate.at(tick(1_000_000_000), DECAY);
        assert!(load(faded, 0) > 0.0 && load(faded, 1) == 2.0 * load(faded, 0));
        assert_eq!(load(0.2, 4), 1.0);
    }

    #[test]
    fn a_clock_reading_from_the_past_changes_nothing() {
        let estimate = Estimate { seconds: 0.1, at: tick(500) };
        assert_eq!(estimate.sample(Duration::ZERO, tick(400), DECAY), None);
        assert_eq!(estimate.at(tick(400), DECAY), f64::from(0.1f32));
    }

    #[test]
    fn packing_keeps_the_value() {
        let estimate = Estimate { seconds: 0.0123, at: tick(123_456) };
        assert_eq!(Estimate::from_bits(estimate.to_bits()), estimate);
    }

    #[test]
    fn a_lower_bound_only_raises() {
        let estimate = Estimate { seconds: 0.1, at: tick(0) };
        assert_eq!(estimate.at_least(Duration::from_millis(50), tick(9_000)), None);
        assert!(estimate.at_least(Duration::from_millis(200), tick(9_000)).is_some());
    }

    /// The weight of an endpoint after `good` answers and then `failures`, `later` ms after the last of them.
    fn weight(good: u32, failures: u32, later: u64) -> f64 {
        let (mut bad, mut kept) = (Failures::none(tick(0)), Successes::none());
        for _ in 0..failures {
            (bad, kept) = bad.another(kept, good, tick(1000));
        }
        let (bad, kept) = (Failures::from_bits(bad.to_bits()), Successes::from_bits(kept.to_bits()));
        bad.weight(|| (kept, good), tick(1000 + later))
    }

    #[test]
    fn failures_weigh_by_their_share_and_are_forgotten() {
        assert_eq!(weight(100, 0, 0), 1.0);
        let about =
            |got: f64, expected: f64| assert!((got / expected - 1.0).abs() < 0.15, "{got}, not {expected}");
        about(weight(0, 1, 0), 16.0);
        about(weight(1000, 10, 0), 1.04);
        about(weight(100, 100, 0), 16.0);
        assert_eq!(weight(0, 1000, 0), HEAVIEST);
        assert!(weight(0, 10, 60_000) < weight(0, 10, 20_000));
        assert_eq!(weight(0, 10, 200_000), 1.0);
    }

    #[test]
    fn good_answers_of_long_ago_excuse_nothing() {
        // A million in the hour before, then only failures.
        let (mut bad, mut good) = Failures::none(tick(0)).another(Successes::none(), 0, tick(0));
        let hour = 3_600_000;
        for _ in 0..3000 {
            (bad, good) = bad.another(good, 1_000_000, tick(hour));
        }
        let weight = bad.weight(|| (good, 1_000_000), tick(hour));
        assert!(weight > 5.0, "{weight}");
    }

    #[test]
    fn a_new_endpoint_gets_a_growing_share() {
        for (millis, share) in [(0, 0.1), (5_000, 0.55), (10_000, 1.0), (60_000, 1.0)] {
            let age = Duration::from_millis(millis);
            let passed = (0..1000).filter(|n| !is_passed_over(age, f64::from(*n) / 1000.0)).count();
            assert!((passed as f64 / 1000.0 - share).abs() < 0.01, "{millis}: {passed}");
        }
    }

    #[test]
    fn the_initial_estimate_has_a_floor() {
        let params = LoadParams { default_rtt: Duration::ZERO, ..LoadParams::default() };
        assert_eq!(Estimate::initial(&params, tick(0)).at(tick(0), DECAY), f64::from(0.001f32));
    }

    #[test]
    fn a_failure_counts_as_the_longest_of_penalty_hint_time_and_estimate() {
        let penalty = Penalty {
            penalty: Duration::from_secs(5),
            max_retry_after: Duration::from_secs(300),
            decay: DECAY,
        };
        for (hint, took, estimate, expected) in [
            (None, 1, 0.1, 5),
            (Some(60), 1, 0.1, 60),
            (Some(999), 1, 0.1, 300),
            (None, 7, 0.1, 7),
            (None, 1, 9.0, 9),
        ] {
            let hint = hint.map(Duration::from_secs);
            let got = penalized(&penalty, hint, Duration::from_secs(took), estimate);
            assert_eq!(got.as_secs(), expected);
        }
    }
}
