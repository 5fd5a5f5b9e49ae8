//! What the kernel says that processes used: processor time and resident memory, from /proc.
//!
//! Called at both ends of each measured window. The parsing is pure; reading a process that has ended gives
//! an error, never a zero that would look like a cheap proxy.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Processor time that a process and its ended children used, in clock ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ticks {
    pub(crate) user: u64,
    pub(crate) system: u64,
}

/// Reads `/proc/PID/stat` (proc_pid_stat(5)): fields 14 and 15. The name, field 2, may hold blanks and
/// brackets, so fields are counted from the last closing bracket.
pub(crate) fn parse_stat(text: &str) -> Option<Ticks> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    Some(Ticks { user: fields.next()?.parse().ok()?, system: fields.next()?.parse().ok()? })
}

/// Reads the first line of `/proc/stat` (proc_stat(5)): the time that all processors together were busy, or
/// were taken away by the host (steal), in ticks. Interrupts are among it: the packets of loopback are handled
/// in them, on the account of the process that they interrupt.
pub(crate) fn parse_busy(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _waiting, hard, soft, steal, ..] = fields[..] else { return None };
    Some(user + nice + system + hard + soft + steal)
}

/// Reads the line `VmRSS:   123 kB` of `/proc/PID/status`, in KiB.
pub(crate) fn parse_resident(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Reads the list of `/proc/PID/task/TID/children`.
pub(crate) fn parse_children(text: &str) -> Vec<u32> {
    text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Reads `/proc/net/tcp` (proc_pid_net(5)): where established connections lead to, from both of their ends.
pub(crate) fn parse_destinations(text: &str) -> Vec<SocketAddr> {
    const ESTABLISHED: &str = "01";
    let destination = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(2);
        let (ip, port) = fields.next()?.split_once(':')?;
        if fields.next()? != ESTABLISHED {
            return None;
        }
        // The address stands in the order of the processor, which on all that we measure on is little-endian.
        let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.swap_bytes());
        Some(SocketAddr::from((ip, u16::from_str_radix(port, 16).ok()?)))
    };
    text.lines().filter_map(destination).collect()
}

/// Processor time in seconds that `pids` and all their living descendants used so far.
///
/// # Errors
/// One of them has ended.
pub(crate) fn cpu_seconds(pids: &[u32]) -> io::Result<f64> {
    let mut ticks = 0;
    for pid in family(pids)? {
        let path = format!("/proc/{pid}/stat");
        let found = parse_stat(&std::fs::read_to_string(&path)?).ok_or_else(|| unreadable(&path))?;
        ticks += found.user + found.system;
    }
    Ok(seconds(ticks))
}

/// Processor time in seconds that this process used, without its children: generator and application.
pub(crate) fn own_seconds() -> io::Result<f64> {
    let path = "/proc/self/stat";
    let ticks = parse_stat(&std::fs::read_to_string(path)?).ok_or_else(|| unreadable(path))?;
    Ok(seconds(ticks.user + ticks.system))
}

/// Processor time in seconds that everything on this machine used.
pub(crate) fn machine_seconds() -> io::Result<f64> {
    let path = "/proc/stat";
    parse_busy(&std::fs::read_to_string(path)?).map(seconds).ok_or_else(|| unreadable(path))
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// Resident memory in KiB of `pids` and all their living descendants. Pages that they share count for each.
///
/// # Errors
/// One of them has ended.
pub(crate) fn resident_kib(pids: &[u32]) -> io::Result<u64> {
    let mut sum = 0;
    for pid in family(pids)? {
        let path = format!("/proc/{pid}/status");
        sum += parse_resident(&std::fs::read_to_string(&path)?).ok_or_else(|| unreadable(&path))?;
    }
    Ok(sum)
}

fn unreadable(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{path} is not what the kernel documents"))
}

fn family(pids: &[u32]) -> io::Result<Vec<u32>> {
    let mut all = pids.to_vec();
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let path: PathBuf = task?.path().join("children");
            // A thread may end between the listing and the reading.
            let children = std::fs::read_to_string(path).unwrap_or_default();
            all.extend(parse_children(&children));
        }
        next += 1;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let check = |text: &str, expected: Option<(u64, u64)>| {
            assert_eq!(parse_stat(text), expected.map(|(user, system)| Ticks { user, system }), "{text}");
        };
        let rest = "S 1 2 3 4 5 6 7 8 9 10 111 222 0 0 20 0 1 0 300";
        check(&format!("4711 (envoy) {rest}"), Some((111, 222)));
        check(&format!("4711 (a (b) c) {rest}"), Some((111, 222)));
        check(&format!("4711 (x) 1 2 3) {rest}"), Some((111, 222)));
        check("4711 (envoy) S 1 2 3", None);
        check("4711 (envoy) S 1 2 3 4 5 6 7 8 9 10 x 222", None);
        check("", None);
    }

    #[test]
    fn the_machine_is_busy_with_processes_interrupts_and_other_guests() {
        let check = |text: &str, expected| assert_eq!(parse_busy(text), expected, "{text}");
        check("cpu  10 2 30 400 5 6 7 8 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n", Some(63));
        check("cpu  10 2 30 400\n", None);
        check("cpu0 10 2 30 400 5 6 7 8\n", None);
    }

    #[test]
    fn resident_memory_is_the_line_of_that_name() {
        let check = |text: &str, expected| assert_eq!(parse_resident(text), expected, "{text}");
        check("Name:\tx\nVmHWM:\t  9 kB\nVmRSS:\t   12345 kB\nRssAnon:\t 1 kB\n", Some(12345));
        check("Name:\tkthread\n", None);
        check("VmRSS:\t12 MB\n", None);
    }

    #[test]
    fn children_are_listed_by_number() {
        assert_eq!(parse_children("12 345 \n"), [12, 345]);
        assert!(parse_children("").is_empty());
    }

    #[test]
    fn destinations_are_those_of_established_connections() {
        let text = "  sl  local_address rem_address   st tx_queue\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000\n\
            1: 0100007F:9C40 02424D7F:102F 01 00000000\n\
            2: 0100007F:9C41 02424D7F:1030 06 00000000\n";
        assert_eq!(parse_destinations(text), ["127.77.66.2:4143".parse().unwrap()]);
        assert!(parse_destinations("nonsense\n1: x y 01\n").is_empty());
    }

    #[test]
    fn this_very_process_uses_memory_and_does_not_lose_time() {
        let me = [std::process::id()];
        let before = cpu_seconds(&me).unwrap();
        assert!(resident_kib(&me).unwrap() > 0);
        assert!(cpu_seconds(&me).unwrap() >= before);
        assert!(own_seconds().unwrap() <= machine_seconds().unwrap());
        assert!(cpu_seconds(&[u32::MAX]).is_err());
    }
}
