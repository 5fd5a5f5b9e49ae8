//! The sizes of a body's frames, sorted while it passes and counted at its end.
//!
//! `proxy/passage.rs` fills one a response, so that a body of many frames touches the shared counters once. Pure.

use weft_telemetry::Histogram;

/// Buckets of frame sizes, bytes (§5.2, §5.3).
pub(crate) const FRAME_BYTES: &[f64] = &[128.0, 1024.0, 10240.0];

/// What has passed of one body.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FrameSizes {
    counts: [u32; 4],
    bytes: u64,
}

impl FrameSizes {
    /// A frame of so many bytes passed.
    pub fn passed(&mut self, bytes: usize) {
        let [small, medium, large, beyond] = &mut self.counts;
        let count = match bytes {
            0..=128 => small,
            129..=1024 => medium,
            1025..=10240 => large,
            _ => beyond,
        };
        *count = count.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// Adds them to a histogram of `FRAME_BYTES`.
    pub(crate) fn add_to(&self, histogram: &Histogram) {
        histogram.observe_sorted(&self.counts, self.bytes as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_telemetry::Registry;

    #[test]
    fn frames_are_sorted_as_the_histogram_would_sort_them() {
        let registry = Registry::new();
        let one = registry.histograms("one", "One by one.", FRAME_BYTES).series(&());
        let all = registry.histograms("all", "All at once.", FRAME_BYTES).series(&());
        let mut sizes = FrameSizes::default();
        sizes.add_to(&all);
        for bytes in [0, 1, 128, 129, 1024, 1025, 10240, 10241, 1 << 20] {
            one.observe(bytes as f64);
            sizes.passed(bytes);
        }
        sizes.add_to(&all);
        let text = registry.render();
        let lines = |name: &str| {
            let of = |line: &&str| line.starts_with(name);
            text.lines().filter(of).map(|line| line.replacen(name, "", 1)).collect::<Vec<_>>()
        };
        assert_eq!(lines("all"), lines("one"), "{text}");
        assert!(text.contains("all_count 9") && text.contains("all_bucket{le=\"128\"} 3"), "{text}");
    }
}
