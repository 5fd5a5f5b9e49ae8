//! How many worker threads the data path gets.
//!
//! Called by the binary, which reads the files named here and hands their texts in. Knows control groups of
//! both versions. Pure.

use crate::Cores;

/// What limits the processors of this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Processors the process may run on; 0 counts as 1.
    pub processors: usize,
    /// The quotas of its control group and of the groups around it; the smallest holds.
    pub quotas: Vec<Quota>,
}

/// The CPU quota of one control group, as its files say it. Texts that cannot be read are no quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quota {
    /// Version 2: `cpu.max`, such as `150000 100000` or `max 100000`.
    V2(String),
    /// Version 1: `cpu.cfs_quota_us` such as `150000` or `-1`, and `cpu.cfs_period_us` such as `100000`.
    V1 {
        /// Time.
        quota: String,
        /// Of this time.
        period: String,
    },
}

impl Quota {
    /// Threads that can use it up: rounded up, because one thread cannot use up a quota of 1.5 processors.
    fn threads(&self) -> Option<usize> {
        let (quota, period) = match self {
            Quota::V2(text) => text.split_once(' ')?,
            Quota::V1 { quota, period } => (quota.as_str(), period.as_str()),
        };
        let quota: u64 = quota.trim().parse().ok()?; // fails for `max` and `-1`: no quota
        let period: u64 = period.trim().parse().ok().filter(|p| *p > 0)?;
        quota.div_ceil(period).try_into().ok()
    }
}

/// A directory where a quota may stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Group {
    /// With `cpu.max`.
    V2(String),
    /// With `cpu.cfs_quota_us` and `cpu.cfs_period_us`.
    V1(String),
}

/// Control groups around one process; deeper nesting than this is not looked at.
const MAX_DEPTH: usize = 32;

/// The directories of the control groups that a process is in, given the text of `/proc/self/cgroup`: its
/// own first, then those around it.
pub fn groups(cgroup: &str) -> Vec<Group> {
    let mut groups = Vec::new();
    for line in cgroup.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let group: fn(&str) -> Group = match id {
            "0" => |path| Group::V2(format!("/sys/fs/cgroup{path}")),
            _ if controllers.split(',').any(|c| c == "cpu") => {
                |path| Group::V1(format!("/sys/fs/cgroup/cpu{path}"))
            }
            _ => continue,
        };
        let mut path = path.trim_end_matches('/');
        for _ in 0..MAX_DEPTH {
            groups.push(group(path));
            let Some((parent, _)) = path.rsplit_once('/') else { break };
            path = parent;
        }
    }
    groups
}

/// The number of processors that the text of `/proc/self/status` allows the process.
pub fn allowed(status: &str) -> Option<usize> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let count = |item: &str| {
        let (low, high) = item.split_once('-').unwrap_or((item, item));
        let (low, high): (usize, usize) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
        high.checked_sub(low)?.checked_add(1)
    };
    list.split(',').map(count).try_fold(0, |sum: usize, n| sum.checked_add(n?))
}

/// The processors available: the smallest quota, at most those of the machine, at least 1.
pub fn available(machine: &Machine) -> usize {
    let processors = machine.processors.max(1);
    let quota = machine.quotas.iter().filter_map(Quota::threads).min();
    quota.unwrap_or(processors).clamp(1, processors)
}

/// The number of worker threads: `max`, else the share of the available processors rounded, else all of
/// them; at least `min`, at most all available, never 0.
pub fn count(cores: &Cores, machine: &Machine) -> usize {
    let available = available(machine);
    let share = |ratio: f64| (available as f64 * ratio).round() as usize;
    let most = cores.max.or_else(|| cores.max_ratio.map(share)).unwrap_or(available);
    most.max(cores.min.unwrap_or(1)).clamp(1, available)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Bounds = (Option<usize>, Option<usize>, Option<f64>);

    #[track_caller]
    fn check(quotas: &[&str], (min, max, max_ratio): Bounds, expected: usize) {
        let quotas = quotas.iter().map(|text| Quota::V2((*text).to_owned())).collect();
        let machine = Machine { processors: 8, quotas };
        assert_eq!(count(&Cores { min, max, max_ratio }, &machine), expected);
    }

    #[test]
    fn the_smallest_quota_decides_unless_told_otherwise() {
        let unset = (None, None, None);
        check(&[], unset, 8);
        check(&["max 100000\n"], unset, 8);
        check(&["150000 100000\n"], unset, 2);
        check(&["10000 100000"], unset, 1);
        check(&["9900000 100000"], unset, 8);
        check(&["nonsense"], unset, 8);
        check(&["200000 0"], unset, 8);
        check(&["max 100000\n", "500000 100000\n", "300000 100000\n"], unset, 3);
    }

    #[test]
    fn cores_settings_bound_it() {
        check(&[], (None, Some(3), None), 3);
        check(&[], (None, None, Some(0.3)), 2);
        check(&[], (None, None, Some(0.01)), 1);
        check(&[], (Some(4), Some(3), None), 4);
        check(&[], (None, Some(3), Some(1.0)), 3);
        check(&["200000 100000"], (Some(4), None, None), 2);
        check(&["200000 100000"], (None, Some(16), None), 2);
    }

    #[test]
    fn the_older_control_groups_are_understood() {
        let machine = |quota: &str| {
            let quotas = vec![Quota::V1 { quota: quota.into(), period: "100000\n".into() }];
            Machine { processors: 8, quotas }
        };
        assert_eq!(available(&machine("250000\n")), 3);
        assert_eq!(available(&machine("-1\n")), 8);
        assert_eq!(available(&Machine::default()), 1);
    }

    #[test]
    fn groups_are_found_up_to_the_root() {
        let v2 = |path: &str| Group::V2(path.into());
        assert_eq!(
            groups("0::/a/b\n"),
            [v2("/sys/fs/cgroup/a/b"), v2("/sys/fs/cgroup/a"), v2("/sys/fs/cgroup")]
        );
        assert_eq!(groups("0::/\n"), [v2("/sys/fs/cgroup")]);
        let v1 = Group::V1("/sys/fs/cgroup/cpu".into());
        assert_eq!(groups("4:memory:/x\n3:cpu,cpuacct:/\nnonsense\n"), [v1]);
    }

    #[test]
    fn allowed_processors_are_counted() {
        assert_eq!(allowed("Name:\tx\nCpus_allowed_list:\t0-3,8\n"), Some(5));
        assert_eq!(allowed("Cpus_allowed_list:\t0\n"), Some(1));
        assert_eq!(allowed("Cpus_allowed_list:\t3-1\n"), None);
        assert_eq!(allowed(""), None);
    }
}
