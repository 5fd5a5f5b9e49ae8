//! How many worker threads the data path gets.
//!
//! Called by the binary, which reads the files of the control group and hands their texts in. Pure.

use crate::settings::Cores;

/// What limits the processors of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Machine<'a> {
    /// Processors the process may run on, as the affinity mask says; 0 counts as 1.
    pub processors: usize,
    /// Content of `cpu.max` (control groups v2), such as `150000 100000` or `max 100000`.
    pub cpu_max: Option<&'a str>,
    /// Content of `cpu.cfs_quota_us` (v1), such as `150000` or `-1`.
    pub cfs_quota: Option<&'a str>,
    /// Content of `cpu.cfs_period_us` (v1), such as `100000`.
    pub cfs_period: Option<&'a str>,
}

/// The processors available: the quota rounded up, at most those of the machine, at least 1. Rounding up,
/// because a quota of 1.5 processors cannot be used up by one thread. Unreadable texts are no quota.
pub fn available(machine: &Machine<'_>) -> usize {
    let processors = machine.processors.max(1);
    let v2 = machine.cpu_max.and_then(|text| text.split_once(' '));
    let v1 = machine.cfs_quota.zip(machine.cfs_period);
    let quota = v2.and_then(threads).or_else(|| v1.and_then(threads));
    quota.unwrap_or(processors).clamp(1, processors)
}

fn threads((quota, period): (&str, &str)) -> Option<usize> {
    let quota: u64 = quota.trim().parse().ok()?; // fails for `max` and `-1`: no quota
    let period: u64 = period.trim().parse().ok().filter(|p| *p > 0)?;
    quota.div_ceil(period).try_into().ok()
}

/// The number of worker threads: `max`, else the share of the available processors rounded, else all of
/// them; at least `min`, at most all available, never 0.
pub fn count(cores: &Cores, machine: &Machine<'_>) -> usize {
    let available = available(machine);
    let share = |ratio: f64| (available as f64 * ratio).round() as usize;
    let most = cores.max.or_else(|| cores.max_ratio.map(share)).unwrap_or(available);
    most.max(cores.min.unwrap_or(1)).clamp(1, available)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(
        cpu_max: &str,
        (min, max, max_ratio): (Option<usize>, Option<usize>, Option<f64>),
        expected: usize,
    ) {
        let machine = Machine { processors: 8, cpu_max: Some(cpu_max), ..Machine::default() };
        assert_eq!(count(&Cores { min, max, max_ratio }, &machine), expected, "{cpu_max}");
    }

    #[test]
    fn the_quota_decides_unless_told_otherwise() {
        check("max 100000\n", (None, None, None), 8);
        check("150000 100000\n", (None, None, None), 2);
        check("10000 100000", (None, None, None), 1);
        check("9900000 100000", (None, None, None), 8);
        check("nonsense", (None, None, None), 8);
        check("200000 0", (None, None, None), 8);
    }

    #[test]
    fn cores_settings_bound_it() {
        check("max 100000", (None, Some(3), None), 3);
        check("max 100000", (None, None, Some(0.3)), 2);
        check("max 100000", (None, None, Some(0.01)), 1);
        check("max 100000", (Some(4), Some(3), None), 4);
        check("max 100000", (None, Some(3), Some(1.0)), 3);
        check("200000 100000", (Some(4), None, None), 2);
        check("200000 100000", (None, Some(16), None), 2);
    }

    #[test]
    fn the_older_control_groups_are_understood() {
        let machine = |quota| Machine {
            processors: 8,
            cfs_quota: Some(quota),
            cfs_period: Some("100000\n"),
            ..Machine::default()
        };
        assert_eq!(available(&machine("250000\n")), 3);
        assert_eq!(available(&machine("-1\n")), 8);
        assert_eq!(available(&Machine::default()), 1);
    }
}
