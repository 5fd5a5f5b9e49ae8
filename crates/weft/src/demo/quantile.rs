//! Latencies in the buckets that the proxies use, and quantiles of them. Pure.
//!
//! The load generator counts into the same buckets as the sidecar, so that both can be compared bucket by
//! bucket: what they measure differs by the way between them, never by the way of counting.

use super::scrape::Sample;
use weft_telemetry::metrics::LATENCY_MS;

/// A histogram: one count a bucket of `LATENCY_MS`, and one more for the rest.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Latencies {
    counts: Vec<u64>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: vec![0; LATENCY_MS.len() + 1] }
    }
}

impl Latencies {
    /// Counts one.
    pub(crate) fn observe(&mut self, millis: f64) {
        let bucket = LATENCY_MS.iter().position(|bound| millis <= *bound).unwrap_or(LATENCY_MS.len());
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
    }

    /// Adds the cumulative buckets of scraped series.
    pub(crate) fn add<'a>(&mut self, buckets: impl Iterator<Item = &'a Sample>) {
        let mut cumulative = vec![None; self.counts.len()];
        for sample in buckets {
            let le = sample.label("le");
            let bound: f64 = le.parse().unwrap_or(f64::INFINITY);
            let bucket = LATENCY_MS.iter().position(|b| (b - bound).abs() < 1e-9).unwrap_or(LATENCY_MS.len());
            if let Some(sum) = cumulative.get_mut(bucket) {
                *sum = Some(sum.unwrap_or(0) + sample.count());
            }
        }
        let mut before = 0;
        for (count, sum) in self.counts.iter_mut().zip(cumulative) {
            // A page may leave a bucket out that nothing fell into.
            let Some(sum) = sum else { continue };
            *count += sum.saturating_sub(before);
            before = sum;
        }
    }

    /// How many were counted.
    pub(crate) fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The bucket that holds a quantile; `None` if nothing was counted.
    pub(crate) fn bucket(&self, quantile: f64) -> Option<usize> {
        let rank = (self.total() as f64 * quantile).ceil().max(1.0) as u64;
        let mut below = 0;
        self.counts.iter().position(|count| {
            below += count;
            below >= rank && *count > 0
        })
    }

    /// A quantile in milliseconds, interpolated within its bucket; `None` if nothing was counted.
    pub(crate) fn quantile(&self, quantile: f64) -> Option<f64> {
        let bucket = self.bucket(quantile)?;
        let below: u64 = self.counts.iter().take(bucket).sum();
        let within = *self.counts.get(bucket)?;
        let low = bucket.checked_sub(1).and_then(|b| LATENCY_MS.get(b)).copied().unwrap_or(0.0);
        let high = LATENCY_MS.get(bucket).copied().unwrap_or(low);
        let rank = self.total() as f64 * quantile;
        let share = ((rank - below as f64) / within as f64).clamp(0.0, 1.0);
        Some(low + (high - low) * share)
    }

    /// What was counted since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let counts = self.counts.iter().zip(&earlier.counts).map(|(now, then)| now.saturating_sub(*then));
        Self { counts: counts.collect() }
    }
}

/// Whether a measurement's quantile is in the same bucket as another's, or in the next. Of a few hundred
/// requests a handful decides p99, and the two sides do not see them in the same order: so the other's
/// neighbours within one percent are looked at, too.
pub(crate) fn agree(one: &Latencies, other: &Latencies, quantile: f64) -> bool {
    let (low, high) = ((quantile - 0.01).max(0.0), (quantile + 0.01).min(1.0));
    match (one.bucket(quantile), other.bucket(low), other.bucket(high)) {
        (Some(one), Some(low), Some(high)) => one + 1 >= low && one <= high + 1,
        (one, other, _) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::scrape::Page;

    fn of(millis: &[f64]) -> Latencies {
        let mut latencies = Latencies::default();
        millis.iter().for_each(|m| latencies.observe(*m));
        latencies
    }

    #[test]
    fn a_quantile_is_interpolated_within_its_bucket() {
        let check = |millis: &[f64], quantile: f64, expected: Option<f64>| {
            let got = of(millis).quantile(quantile);
            assert_eq!(got.map(|q| (q * 100.0).round() / 100.0), expected, "{millis:?} {quantile}");
        };
        check(&[], 0.5, None);
        check(&[0.5], 0.5, Some(0.5));
        check(&[0.5], 1.0, Some(1.0));
        check(&[7.0, 7.0, 7.0, 7.0], 0.5, Some(7.5));
        check(&[1.0, 15.0, 15.0], 0.99, Some(19.85));
        check(&[99_999.0], 0.99, Some(50_000.0));
        let mut many = vec![2.5; 98];
        many.extend([45.0, 450.0]);
        check(&many, 0.5, Some(2.51));
        check(&many, 0.99, Some(50.0));
        check(&many, 1.0, Some(500.0));
    }

    #[test]
    fn scraped_buckets_are_the_same_histogram() {
        let page = Page::parse(
            "l_bucket{le=\"1\"} 2\nl_bucket{le=\"2\"} 2\nl_bucket{le=\"3\"} 5\nl_bucket{le=\"+Inf\"} 5\n",
        );
        let mut scraped = Latencies::default();
        scraped.add(page.of("l_bucket"));
        assert_eq!(scraped.bucket(0.5), of(&[0.1, 0.2, 2.5, 2.5, 2.5]).bucket(0.5));
        assert_eq!(of(&[1.0, 2.0, 2.0]).since(&of(&[1.0, 2.0])), of(&[2.0]));
    }

    #[test]
    fn quantiles_agree_within_a_bucket() {
        let check = |one: &[f64], other: &[f64], expected: bool| {
            assert_eq!(agree(&of(one), &of(other), 0.99), expected, "{one:?} {other:?}");
        };
        check(&[5.0], &[4.9], true);
        check(&[4.0], &[5.1], false);
        check(&[9.0], &[11.0], true);
        check(&[9.0], &[31.0], false);
        check(&[], &[], true);
        check(&[1.0], &[], false);
    }
}
