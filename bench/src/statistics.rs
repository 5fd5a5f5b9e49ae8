//! The arithmetic of measurements: histograms of latencies, medians, and how sure a median of ratios is.
//!
//! Used by the load generator (histograms) and the report (the rest). Pure: random draws come in as a
//! function. Never decides what is worth measuring.

/// Sub-buckets per doubling: a value is known within 1/64, 1.6 %.
const SUB_BITS: u32 = 6;
const SUB: u64 = 1 << SUB_BITS;
/// The largest value told apart is 2^37 ns, a little over two minutes; windows are shorter.
const TOP_BIT: u32 = 37;
const BUCKETS: usize = ((TOP_BIT - SUB_BITS + 1) as usize) << SUB_BITS;

/// Counts of latencies in nanoseconds, in buckets that grow with the value.
#[derive(Clone)]
pub(crate) struct Histogram {
    counts: Vec<u32>,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; BUCKETS] }
    }

    /// Counts one value; those beyond two minutes count as two minutes.
    pub(crate) fn record(&mut self, nanos: u64) {
        self.counts[bucket(nanos)] += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().map(|n| u64::from(*n)).sum()
    }

    /// The smallest bucket's middle, in nanoseconds, that at least `share` of the values do not exceed;
    /// `None` if nothing was counted.
    pub(crate) fn percentile(&self, share: f64) -> Option<f64> {
        let wanted = (self.count() as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return Some(middle(index));
            }
        }
        None
    }
}

fn bucket(nanos: u64) -> usize {
    let nanos = nanos.min((1 << TOP_BIT) - 1);
    if nanos < SUB {
        return nanos as usize;
    }
    let shift = nanos.ilog2() - SUB_BITS;
    let octave = u64::from(shift + 1) << SUB_BITS;
    (octave + (nanos >> shift) - SUB) as usize
}

fn middle(index: usize) -> f64 {
    let (octave, sub) = (index as u64 >> SUB_BITS, index as u64 & (SUB - 1));
    if octave == 0 {
        return sub as f64;
    }
    let width = (1u64 << (octave - 1)) as f64;
    (SUB + sub) as f64 * width + width / 2.0
}

/// The median; the mean of the middle two where there are two. `None` of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[half]),
        _ => Some((sorted[half - 1] + sorted[half]) / 2.0),
    }
}

/// A median and the interval that holds it with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// How often the sample is drawn anew. 2,000 settle the 2.5th percentile to about a hundredth of the range.
const RESAMPLES: usize = 2_000;

/// The median of `values` with its bootstrap interval; `draw(n)` gives a number below `n`.
pub(crate) fn estimate(values: &[f64], mut draw: impl FnMut(usize) -> usize) -> Option<Estimate> {
    let center = median(values)?;
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let again: Vec<f64> = values.iter().map(|_| values[draw(values.len())]).collect();
            median(&again)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    let at = |share: f64| medians[((medians.len() - 1) as f64 * share).round() as usize];
    Some(Estimate { median: center, low: at(0.025), high: at(0.975) })
}

/// Which rounds moved no more than `tolerance` (0.05 is 5 %) away from the median of `baseline`.
pub(crate) fn steady(baseline: &[f64], tolerance: f64) -> Vec<bool> {
    let center = median(baseline).unwrap_or_default();
    baseline.iter().map(|value| (value - center).abs() <= tolerance * center).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_between_the_middle_two() {
        let check = |values: &[f64], expected: Option<f64>| assert_eq!(median(values), expected);
        check(&[], None);
        check(&[3.0], Some(3.0));
        check(&[3.0, 1.0, 2.0], Some(2.0));
        check(&[4.0, 1.0, 3.0, 2.0], Some(2.5));
        check(&[1.0, 1.0, 1.0, 1_000.0, 1.0], Some(1.0));
    }

    #[test]
    fn every_value_falls_into_a_bucket_whose_middle_is_near() {
        let mut nanos = 1;
        while nanos < 1 << TOP_BIT {
            for value in [nanos, nanos + nanos / 3, nanos * 2 - 1] {
                let near = middle(bucket(value));
                assert!((near - value as f64).abs() <= value as f64 / 64.0 + 1.0, "{value}: {near}");
            }
            nanos *= 2;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn buckets_follow_each_other_without_gaps() {
        let mut last = bucket(0);
        for value in 1..100_000 {
            let next = bucket(value);
            assert!(next == last || next == last + 1, "{value}");
            last = next;
        }
    }

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.percentile(0.5), None);
        for micros in 1..=1000 {
            histogram.record(micros * 1000);
        }
        let near = |share: f64, micros: f64| {
            let found = histogram.percentile(share).unwrap() / 1000.0;
            assert!((found - micros).abs() <= micros / 50.0, "{share}: {found}");
        };
        near(0.5, 500.0);
        near(0.99, 990.0);
        near(1.0, 1000.0);
        assert_eq!(histogram.count(), 1000);
    }

    #[test]
    fn merged_histograms_count_what_both_counted() {
        let (mut a, mut b) = (Histogram::new(), Histogram::new());
        a.record(10);
        b.record(1_000_000);
        b.record(2_000_000);
        a.merge(&b);
        assert_eq!(a.count(), 3);
        assert!(a.percentile(0.5).unwrap() > 900_000.0);
    }

    #[test]
    fn the_interval_holds_the_median_and_narrows_with_agreement() {
        let mut random = fastrand::Rng::with_seed(7);
        let wide = estimate(&[1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6], |n| random.usize(..n)).unwrap();
        let narrow = estimate(&[1.30, 1.31, 1.29, 1.30, 1.30, 1.31, 1.29], |n| random.usize(..n)).unwrap();
        for e in [wide, narrow] {
            assert!(e.low <= e.median && e.median <= e.high, "{e:?}");
            assert!((e.median - 1.3).abs() < 1e-9);
        }
        assert!(narrow.high - narrow.low < wide.high - wide.low);
        let one = estimate(&[2.0], |_| 0).unwrap();
        assert_eq!((one.low, one.high), (2.0, 2.0));
        assert_eq!(estimate(&[], |_| 0), None);
    }

    #[test]
    fn a_round_whose_baseline_moved_is_not_steady() {
        assert_eq!(steady(&[100.0, 104.0, 94.0, 100.0, 106.0], 0.05), [true, true, false, true, false]);
        assert_eq!(steady(&[], 0.05), Vec::<bool>::new());
    }
}
