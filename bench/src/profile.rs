//! Where Weft's own processor time goes under the load of a case, crate by crate.
//!
//! `profile` samples the proxies with perf(1) and gives every sample to the crate whose code was running, inlined
//! functions included (addr2line(1) tells them from the line tables). The standard library's generic code
//! belongs to the crate that it was inlined into. What nobody can be found for and copying count as ours, so that
//! the share of our own code is never made to look smaller than it is.

use crate::failure::Failure;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Samples a second; prime, so that nothing periodic hides between them.
const RATE: &str = "1999";

/// The layers of the standard library, which have no cost of their own.
const STANDARD: [&str; 3] = ["core", "alloc", "std"];

/// Where the samples of one case fell.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    /// Samples by whose code was running.
    by_owner: BTreeMap<String, u64>,
    /// Samples in our own functions, by name.
    ours: BTreeMap<String, u64>,
    total: u64,
}

/// Samples processes for a while.
///
/// # Errors
/// perf or addr2line is missing or fails, or `binary` cannot be read.
pub(crate) async fn sample(
    pids: &[u32],
    binary: &Path,
    window: Duration,
    dir: &Path,
) -> Result<Profile, Failure> {
    let data = dir.join("perf.data");
    // The whole machine is sampled: attached to a process, perf spins as soon as one of its threads ends.
    let status = tokio::process::Command::new("perf")
        .args(["record", "-q", "-a", "-e", "cpu-clock", "-F", RATE, "-o"])
        .arg(&data)
        .args(["--", "sleep", &window.as_secs().to_string()])
        .status()
        .await
        .map_err(Failure::io("perf (Debian: linux-perf)"))?;
    if !status.success() {
        return Err(Failure::Machine("perf record failed; it needs the rights of root".to_owned()));
    }
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let mut script = Command::new("perf");
    script
        .args(["script", "--no-demangle", "-F", "ip,sym,symoff,dso", "--pid", &pids.join(","), "-i"])
        .arg(&data);
    let samples = output(&mut script)?;
    let samples: Vec<Sample> = samples.lines().filter_map(parse_sample).collect();
    let symbols = symbols(&output(Command::new("nm").arg("--defined-only").arg(binary))?);
    let mut profile = Profile::default();
    let mut places: HashMap<u64, u64> = HashMap::new();
    for sample in &samples {
        match sample.address(binary, &symbols) {
            Ok(address) => *places.entry(address).or_default() += 1,
            Err(owner) => profile.add(owner, 1),
        }
    }
    let addresses: Vec<u64> = places.keys().copied().collect();
    for (address, frames) in addresses.iter().zip(frames(binary, &addresses)?) {
        let samples = places.get(address).copied().unwrap_or_default();
        let owner = owner(&frames);
        if is_ours(&owner) {
            let name =
                frames.iter().find(|f| is_ours(&crate_of(f))).or(frames.last()).cloned().unwrap_or_default();
            *profile.ours.entry(name).or_default() += samples;
        }
        profile.add(&owner, samples);
    }
    Ok(profile)
}

/// One line of `perf script`.
#[derive(Debug, PartialEq, Eq)]
struct Sample<'a> {
    symbol: &'a str,
    offset: u64,
    object: &'a str,
}

/// Reads `  5567 symbol+0x1f (/path/of/object)`.
fn parse_sample(line: &str) -> Option<Sample<'_>> {
    let (rest, object) = line.trim().strip_suffix(')')?.rsplit_once(" (")?;
    let (_, place) = rest.split_once(' ')?;
    let (symbol, offset) = place.rsplit_once("+0x").unwrap_or((place, "0"));
    Some(Sample { symbol, offset: u64::from_str_radix(offset, 16).ok()?, object })
}

impl Sample<'_> {
    /// The address within the binary, or whose sample it is where that needs no address.
    fn address(&self, binary: &Path, symbols: &HashMap<String, u64>) -> Result<u64, &'static str> {
        if self.object.starts_with("[kernel") || self.object.starts_with("[guest") {
            return Err("the kernel");
        }
        if Path::new(self.object).file_name() != binary.file_name() {
            let copies = self.symbol.contains("memmove") || self.symbol.contains("memcpy");
            return Err(if copies { COPYING } else { "libc and vdso" });
        }
        symbols.get(self.symbol).map(|start| start + self.offset).ok_or(UNKNOWN)
    }
}

/// Copying: much of it moves our own futures and requests.
const COPYING: &str = "copying (memmove)";
const UNKNOWN: &str = "unknown";

/// Reads the lines `address type name` of nm(1).
fn symbols(text: &str) -> HashMap<String, u64> {
    let symbol = |line: &str| {
        let mut fields = line.splitn(3, ' ');
        let address = u64::from_str_radix(fields.next()?, 16).ok()?;
        Some((fields.nth(1)?.to_owned(), address))
    };
    text.lines().filter_map(symbol).collect()
}

/// The functions at each address, the innermost inlined one first.
fn frames(binary: &Path, addresses: &[u64]) -> Result<Vec<Vec<String>>, Failure> {
    let mut child = Command::new("addr2line")
        .args(["-a", "-i", "-f", "-C", "-e"])
        .arg(binary)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Failure::io("addr2line (Debian: binutils)"))?;
    let lines: String = addresses.iter().map(|address| format!("{address:#x}\n")).collect();
    let stdin = child.stdin.take();
    // Written beside the reading: both pipes are smaller than what goes through them.
    let writer = std::thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(lines.as_bytes())));
    let output = child.wait_with_output().map_err(Failure::io("addr2line"))?;
    let _ = writer.join();
    Ok(parse_frames(&String::from_utf8_lossy(&output.stdout)))
}

/// Reads, for each address, a line with it and then two lines a frame: function, and file with line.
fn parse_frames(text: &str) -> Vec<Vec<String>> {
    let mut all: Vec<Vec<String>> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        match all.last_mut() {
            _ if line.starts_with("0x") => all.push(Vec::new()),
            Some(frames) => {
                frames.push(line.to_owned());
                lines.next();
            }
            None => {}
        }
    }
    all
}

/// The crate that a function's name begins with: `<weft_net::stream::Stream as tokio::io::AsyncRead>::poll_read`
/// is of `weft_net`.
fn crate_of(function: &str) -> String {
    let name = function.trim_start_matches(['<', '&', '*', '(', '[', '{']);
    let name = name.strip_prefix("mut ").or(name.strip_prefix("dyn ")).unwrap_or(name);
    let end = name.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(name.len());
    let (first, rest) = name.split_at(end);
    if rest.starts_with("::") { first.to_owned() } else { String::new() }
}

/// Whose code runs in these frames: the innermost that is not the standard library's.
fn owner(frames: &[String]) -> String {
    let crates: Vec<String> = frames.iter().map(|frame| crate_of(frame)).collect();
    if let Some(named) = crates.iter().find(|c| !c.is_empty() && !STANDARD.contains(&c.as_str())) {
        return named.clone();
    }
    let text = frames.concat();
    match () {
        () if text.contains("weft_") => "weft (drop glue)".to_owned(),
        () if crates.iter().any(|c| !c.is_empty()) => "std".to_owned(),
        () if text.contains("mi_") => "mimalloc".to_owned(),
        () if text.contains("aws_lc") || text.contains("gcm") || text.contains("aes") => "aws-lc".to_owned(),
        () => UNKNOWN.to_owned(),
    }
}

/// Whether it counts as our own code.
fn is_ours(owner: &str) -> bool {
    owner.starts_with("weft") || owner == UNKNOWN
}

impl Profile {
    fn add(&mut self, owner: &str, samples: u64) {
        *self.by_owner.entry(owner.to_owned()).or_default() += samples;
        self.total += samples;
    }

    fn percent(&self, samples: u64) -> f64 {
        100.0 * samples as f64 / self.total.max(1) as f64
    }

    /// The share of our own code in percent, copying included.
    pub(crate) fn own(&self) -> f64 {
        let ours = self.by_owner.iter().filter(|(owner, _)| is_ours(owner) || *owner == COPYING);
        self.percent(ours.map(|(_, samples)| samples).sum())
    }

    /// The share of the kernel in percent.
    pub(crate) fn kernel(&self) -> f64 {
        self.percent(self.by_owner.get("the kernel").copied().unwrap_or_default())
    }

    /// A table by owner and one of our dearest functions, in Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("{} samples.\n\n| whose code runs | share |\n|---|---:|\n", self.total);
        let mut owners: Vec<_> = self.by_owner.iter().collect();
        owners.sort_by_key(|(_, samples)| std::cmp::Reverse(**samples));
        let mut rest = 0;
        for (owner, samples) in owners {
            if self.percent(*samples) < 0.1 {
                rest += samples;
                continue;
            }
            let mark = if is_ours(owner) || owner == COPYING { "**" } else { "" };
            let _ = writeln!(text, "| {mark}{owner}{mark} | {:.1} % |", self.percent(*samples));
        }
        let _ = writeln!(text, "| others, each below 0.1 % | {:.1} % |", self.percent(rest));
        let _ = writeln!(text, "| **our own code in all** | **{:.1} %** |\n", self.own());
        text.push_str("| our dearest functions | share |\n|---|---:|\n");
        let mut functions: Vec<_> = self.ours.iter().collect();
        functions.sort_by_key(|(_, samples)| std::cmp::Reverse(**samples));
        for (name, samples) in functions.iter().take(12) {
            let _ = writeln!(text, "| `{name}` | {:.1} % |", self.percent(**samples));
        }
        text
    }
}

/// What a program prints.
///
/// # Errors
/// It is not installed, or says that it failed.
pub(crate) fn output(command: &mut Command) -> Result<String, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stderr(Stdio::null()).output().map_err(Failure::io(name.clone()))?;
    if !output.status.success() {
        return Err(Failure::Machine(format!("{name} failed: {}", output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_symbol_offset_and_object() {
        let line = "    55d0c0de _ZN5hyper5proto17h0E+0x1f (/x/release/weft)";
        let expected = Sample { symbol: "_ZN5hyper5proto17h0E", offset: 0x1f, object: "/x/release/weft" };
        assert_eq!(parse_sample(line), Some(expected));
        assert_eq!(
            parse_sample("ffffffff tcp_ack+0x0 ([kernel.kallsyms])").unwrap().object,
            "[kernel.kallsyms]"
        );
        assert_eq!(parse_sample("nonsense"), None);
        let symbols = symbols("0000000000000010 t _ZN5hyper5proto17h0E\nnonsense\n");
        let address = |line| parse_sample(line).unwrap().address(Path::new("/y/weft"), &symbols);
        assert_eq!(address(line), Ok(0x2f));
        assert_eq!(address("1 gone+0x1 (/x/weft)"), Err(UNKNOWN));
        assert_eq!(address("1 __memmove_avx+0x1 (/lib/libc.so.6)"), Err(COPYING));
        assert_eq!(address("1 tcp_ack+0x1 ([kernel.kallsyms])"), Err("the kernel"));
    }

    #[test]
    fn code_belongs_to_the_innermost_crate_that_is_not_the_standard_library() {
        let check = |frames: &[&str], expected: &str| {
            let frames: Vec<String> = frames.iter().map(ToString::to_string).collect();
            assert_eq!(owner(&frames), expected, "{frames:?}");
        };
        check(&["core::ptr::read<u8>", "hyper::proto::h1::role::encode", "weft_proxy::serve::http"], "hyper");
        check(&["<weft_net::stream::Stream as tokio::io::AsyncRead>::poll_read"], "weft_net");
        check(&["<&mut h2::frame::Head as core::fmt::Debug>::fmt"], "h2");
        check(&["core::ptr::drop_in_place<weft_proxy::via::Via>"], "weft (drop glue)");
        check(&["core::ptr::drop_in_place<http::Request<()>>"], "std");
        check(&["_mi_page_malloc_zero"], "mimalloc");
        check(&["??"], UNKNOWN);
    }

    #[test]
    fn frames_are_told_apart_by_their_addresses() {
        let text = "0x0000000000000010\na::b\n/x.rs:1\nc::d\n/y.rs:2\n0x0000000000000020\n??\n??:0\n";
        assert_eq!(parse_frames(text), [vec!["a::b".to_owned(), "c::d".to_owned()], vec!["??".to_owned()]]);
    }

    #[test]
    fn shares_add_up_and_ours_are_not_made_smaller() {
        let mut profile = Profile::default();
        for (owner, samples) in
            [("the kernel", 60), ("hyper", 30), ("weft_proxy", 4), (COPYING, 3), (UNKNOWN, 2), ("bytes", 1)]
        {
            profile.add(owner, samples);
        }
        assert_eq!((profile.own(), profile.kernel()), (9.0, 60.0));
        let text = profile.markdown();
        assert!(text.contains("| **our own code in all** | **9.0 %** |"), "{text}");
    }
}
