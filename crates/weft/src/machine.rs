//! What the operating system grants this process: reads the files that `settings::workers` understands.
//!
//! Called once by `commands/proxy.rs`. Files that are missing or unreadable grant everything.

use std::fs::read_to_string;
use std::path::Path;
use weft_settings::workers::{self, Group, Machine, Quota};

/// Processors and quotas of this process.
pub(crate) fn read() -> Machine {
    let status = read_to_string("/proc/self/status").unwrap_or_default();
    let all = || std::thread::available_parallelism().map_or(1, usize::from);
    let groups = workers::groups(&read_to_string("/proc/self/cgroup").unwrap_or_default());
    Machine {
        processors: workers::allowed(&status).unwrap_or_else(all),
        quotas: groups.iter().filter_map(quota).collect(),
    }
}

fn quota(group: &Group) -> Option<Quota> {
    let read = |directory: &str, name: &str| read_to_string(Path::new(directory).join(name)).ok();
    match group {
        Group::V2(directory) => read(directory, "cpu.max").map(Quota::V2),
        Group::V1(directory) => Some(Quota::V1 {
            quota: read(directory, "cpu.cfs_quota_us")?,
            period: read(directory, "cpu.cfs_period_us")?,
        }),
    }
}
