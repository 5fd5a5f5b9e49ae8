//! The process' own numbers: start, CPU, memory, files, threads, traffic, build.
//!
//! Read from /proc at each scrape, on the thread that serves it. A file that is missing or not
//! understood (another system, a hardened container) only leaves its lines out. Never writes.

use crate::registry::Registry;
use crate::text::{Exposition, Kind, LabelWriter, Labels};
use std::fs;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Clock ticks a second in /proc: the kernel's USER_HZ, 100 on every architecture that Rust's standard
/// library supports; asking sysconf would need unsafe code.
const TICKS: f64 = 100.0;

/// What this program was built from.
#[derive(Clone, Debug, Default)]
pub struct Build {
    /// The version.
    pub version: String,
    /// The commit, or empty.
    pub git_sha: String,
    /// The day of the build, or empty.
    pub date: String,
    /// Cargo's profile.
    pub profile: String,
    /// Who built it.
    pub vendor: String,
}

impl Labels for Build {
    fn write(&self, out: &mut LabelWriter<'_>) {
        out.pair("date", &self.date);
        out.pair("git_sha", &self.git_sha);
        out.pair("profile", &self.profile);
        out.pair("vendor", &self.vendor);
        out.pair("version", &self.version);
    }
}

/// Adds the `process_*` families and `proxy_build_info` to the registry. Register it last: they stand
/// at the end of the scrape, as the peer's do.
pub fn register(registry: &Registry, build: Build) {
    let info = registry
        .gauges("proxy_build_info", "What this program was built from")
        .labels(&["date", "git_sha", "profile", "vendor", "version"])
        .series(&build);
    info.set(1);
    let started = Instant::now();
    registry.collector("process", move |out| {
        // Held here for as long as the process lives; an unheld series would go.
        info.set(1);
        clocks(out, started);
        cpu_and_start(out);
        memory_and_threads(out);
        files(out);
        traffic(out);
    });
}

fn clocks(out: &mut Exposition, started: Instant) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    out.single("process_clock_time_seconds", "Current system time", Kind::Gauge, now.as_secs_f64());
    let uptime = started.elapsed().as_secs_f64();
    out.single("process_uptime_seconds_total", "Time since the process began", Kind::Counter, uptime);
}

fn cpu_and_start(out: &mut Exposition) {
    let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(parse_stat) else {
        return;
    };
    let help = "Total user and system CPU time spent";
    out.single("process_cpu_seconds_total", help, Kind::Counter, stat.cpu_ticks as f64 / TICKS);
    let boot = fs::read_to_string("/proc/stat").ok().as_deref().and_then(parse_boot_time);
    if let Some(boot) = boot {
        let start = boot as f64 + stat.start_ticks as f64 / TICKS;
        out.single("process_start_time_seconds", "Time when the process started", Kind::Gauge, start);
    }
}

#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
}

/// proc_pid_stat(5). The command's name may hold blanks and parentheses: fields count from the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    // The first of these is field 3 of the manual.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat { cpu_ticks: field(14)?.checked_add(field(15)?)?, start_ticks: field(22)? })
}

fn parse_boot_time(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn memory_and_threads(out: &mut Exposition) {
    let Ok(status) = fs::read_to_string("/proc/self/status") else { return };
    let rows = [
        ("VmSize:", 1024, "process_virtual_memory_bytes", "Virtual memory size"),
        ("VmRSS:", 1024, "process_resident_memory_bytes", "Resident memory size"),
        ("Threads:", 1, "process_threads", "Number of OS threads"),
    ];
    for (key, unit, name, help) in rows {
        if let Some(value) = parse_status(&status, key) {
            out.single(name, help, Kind::Gauge, value.saturating_mul(unit));
        }
    }
}

fn parse_status(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

fn files(out: &mut Exposition) {
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        // One of them is the directory being read.
        let open = entries.count().saturating_sub(1);
        out.single("process_open_fds", "Number of open file descriptors", Kind::Gauge, open);
    }
    let limits = fs::read_to_string("/proc/self/limits").ok();
    if let Some(limit) = limits.as_deref().and_then(|text| parse_status(text, "Max open files")) {
        out.single("process_max_fds", "Maximum number of open file descriptors", Kind::Gauge, limit);
    }
}

/// Counts the whole network namespace, as the peer's families of these names do.
fn traffic(out: &mut Exposition) {
    let Ok(text) = fs::read_to_string("/proc/self/net/netstat") else { return };
    let rows = [
        ("InOctets", "process_network_receive_bytes_total", "Bytes received in this network namespace"),
        ("OutOctets", "process_network_transmit_bytes_total", "Bytes sent in this network namespace"),
    ];
    for (key, name, help) in rows {
        if let Some(value) = parse_netstat(&text, key) {
            out.single(name, help, Kind::Counter, value);
        }
    }
}

fn parse_netstat(text: &str, key: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("IpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut pairs = names.split_ascii_whitespace().zip(values.split_ascii_whitespace());
    pairs.find(|(name, _)| *name == key)?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_from_behind_the_name() {
        let text =
            "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 9 0 1234 8192 3 18446744073709551615";
        assert_eq!(parse_stat(text), Some(Stat { cpu_ticks: 200, start_ticks: 1234 }));
        assert_eq!(parse_stat("7 (a) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn other_files_are_read_by_key() {
        assert_eq!(parse_boot_time("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000));
        assert_eq!(parse_status("VmRSS:\t  12 kB\n", "VmRSS:"), Some(12));
        assert_eq!(parse_status("Max open files    1024    4096   files\n", "Max open files"), Some(1024));
        assert_eq!(parse_status("Max open files    unlimited\n", "Max open files"), None);
        let netstat = "TcpExt: A\nTcpExt: 1\nIpExt: InNoRoutes InOctets OutOctets\nIpExt: 0 10 20\n";
        assert_eq!(parse_netstat(netstat, "OutOctets"), Some(20));
        assert_eq!(parse_netstat("IpExt: InOctets\n", "InOctets"), None);
    }

    #[test]
    fn a_scrape_of_this_process_has_every_family_once() {
        let registry = Registry::new();
        register(&registry, Build { version: "1.2.3".to_owned(), ..Build::default() });
        let text = registry.render();
        assert!(text.contains(
            "proxy_build_info{date=\"\",git_sha=\"\",profile=\"\",vendor=\"\",version=\"1.2.3\"} 1\n"
        ));
        for name in
            ["start_time_seconds", "cpu_seconds_total", "resident_memory_bytes", "open_fds", "threads"]
        {
            assert_eq!(text.matches(&format!("\nprocess_{name} ")).count(), 1, "{name} in:\n{text}");
        }
    }
}
