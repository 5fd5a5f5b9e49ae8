//! Which functions Weft's proxies run, in an order for the linker.
//!
//! `layout` runs the proxies under valgrind's callgrind, through a start and the load of each case, and writes a
//! linker script that puts the functions which ran beside each other: first those that traffic runs, then those
//! of the start alone. Without it they lie strewn between ten times as much code that a proxy hardly ever runs
//! (the control plane, error paths, tools), and whole pages of that take memory and places in the processor's
//! table of pages. `crates/weft/build.rs` hands the script to the linker. Measures no time.

use crate::failure::Failure;
use crate::profile::output;
use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A program under valgrind is some fifty times slower; this is enough for thousands of requests.
pub(crate) const LOAD: Duration = Duration::from_secs(4);
/// Connections of that load.
pub(crate) const CONNECTIONS: usize = 4;

/// What begins the file, after `/* `.
const HEAD: &str = "Which functions a proxy runs, so that the linker puts them beside each other: first those that
   traffic runs, then those of the start. Written by `weft-bench layout` (docs/performance.md); not to be edited.
   A name that no longer exists does no harm. */";

/// The functions that ran, by their symbols.
#[derive(Default)]
pub(crate) struct Ran {
    traffic: BTreeSet<String>,
    start: BTreeSet<String>,
}

/// Writes a program in place of `weft` that runs `weft proxy` under callgrind and everything else as it is.
///
/// # Errors
/// The file cannot be written, or valgrind is not installed.
pub(crate) fn watched(weft: &Path, dir: &Path) -> Result<PathBuf, Failure> {
    use std::os::unix::fs::PermissionsExt;
    output(Command::new("valgrind").arg("--version"))?;
    let path = dir.join("weft-watched");
    let text = format!(
        "#!/bin/sh
[ \"$1\" = proxy ] || exec '{weft}' \"$@\"
exec valgrind --tool=callgrind --demangle=no --callgrind-out-file='{dir}/calls.%p' '{weft}' \"$@\"
",
        weft = weft.display(),
        dir = dir.display()
    );
    std::fs::write(&path, text).map_err(Failure::io(path.display().to_string()))?;
    let executable = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(&path, executable).map_err(Failure::io(path.display().to_string()))?;
    Ok(path)
}

/// Which of the two a process is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Start,
    Traffic,
}

impl Ran {
    /// Takes over what `pid` ran since it was last asked.
    ///
    /// # Errors
    /// callgrind_control fails, or wrote nothing.
    pub(crate) fn take(&mut self, pid: u32, phase: Phase, dir: &Path) -> Result<(), Failure> {
        output(Command::new("callgrind_control").arg("--dump").arg(pid.to_string()))?;
        // The first is asked for after the start, the second after the traffic.
        let number = if phase == Phase::Start { 1 } else { 2 };
        let path = dir.join(format!("calls.{pid}.{number}"));
        let text = std::fs::read_to_string(&path).map_err(Failure::io(path.display().to_string()))?;
        let set = if phase == Phase::Start { &mut self.start } else { &mut self.traffic };
        set.extend(functions(&text));
        Ok(())
    }

    /// The linker script, with those functions only that `binary` holds.
    ///
    /// # Errors
    /// nm(1) is missing or cannot read the binary.
    pub(crate) fn script(&self, binary: &Path) -> Result<String, Failure> {
        let symbols = output(Command::new("nm").arg("--defined-only").arg(binary))?;
        let symbols: BTreeSet<&str> = symbols.lines().filter_map(|line| line.splitn(3, ' ').nth(2)).collect();
        let patterns = |set: &BTreeSet<String>| -> BTreeSet<String> {
            set.iter().filter(|name| symbols.contains(name.as_str())).map(|name| pattern(name)).collect()
        };
        let (traffic, start) = (patterns(&self.traffic), patterns(&self.start));
        let mut text = format!("/* {HEAD}\nSECTIONS\n{{\n  .text.proxy : {{\n");
        for pattern in traffic.iter().chain(start.difference(&traffic)) {
            // What the compiler holds for unlikely lies in `.text.unlikely.`.
            let _ = writeln!(text, "    *(.text*.{pattern})");
        }
        text.push_str("  }\n}\nINSERT BEFORE .text;\n");
        Ok(text)
    }
}

/// The functions that have a cost of their own in a file of callgrind's. Names are written out once, wherever
/// they are first mentioned, and numbered.
fn functions(text: &str) -> BTreeSet<String> {
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut ran = BTreeSet::new();
    for line in text.lines() {
        let (called, rest) = match (line.strip_prefix("fn="), line.strip_prefix("cfn=")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => continue,
        };
        let (number, name) = rest.split_once(' ').unwrap_or((rest, ""));
        if !name.is_empty() {
            names.insert(number, name);
        }
        if let Some(name) = names.get(number).filter(|_| !called) {
            // A recursion's deeper levels are told apart by a mark.
            ran.insert(name.split('\'').next().unwrap_or_default().to_owned());
        }
    }
    ran
}

/// A symbol without what another compiler or another build would call differently: hashes, and the numbers of
/// copies.
fn pattern(symbol: &str) -> String {
    let unnumbered = symbol.split(".llvm.").next().unwrap_or(symbol);
    let plain = unnumbered.trim_end_matches(|c: char| c == '.' || c.is_ascii_digit());
    let copies = plain.len() < unnumbered.len() && unnumbered[plain.len()..].starts_with('.');
    let name = if copies { plain } else { unnumbered };
    // `17h` and sixteen digits end a name of Rust's older kind.
    if let Some(at) = name.rfind("17h").filter(|at| name.len() >= at + 19) {
        return format!("{}17h*", &name[..at]);
    }
    let mut text = String::new();
    let mut rest = name;
    // `Cs`, letters and digits, `_` stand for a crate in a name of the newer kind.
    while let Some(at) = rest.find("Cs") {
        let (before, crate_hash) = rest.split_at(at + 2);
        let end = crate_hash.find('_').filter(|end| (5..=14).contains(end));
        text.push_str(before);
        rest = crate_hash;
        if let Some(end) = end {
            text.push('*');
            rest = &crate_hash[end..];
        }
    }
    text.push_str(rest);
    if copies || text.starts_with("_R") {
        text.push('*');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_ran_where_it_has_a_cost_of_its_own() {
        let text = "fn=(1) alpha\n3 4\ncfn=(2) beta\ncalls=1 2\n5 6\nfn=(3) gamma'2\n1 1\nfn=(2)\n9 9\ncfn=(4) delta\n";
        assert_eq!(functions(text).into_iter().collect::<Vec<_>>(), ["alpha", "beta", "gamma"]);
    }

    #[test]
    fn a_pattern_outlives_the_build_that_it_was_taken_from() {
        let hash = "17h0123456789abcdefE";
        for (symbol, expected) in [
            (format!("_ZN5tokio4poll{hash}"), "_ZN5tokio4poll17h*"),
            (format!("_ZN5tokio4poll{hash}.llvm.8123"), "_ZN5tokio4poll17h*"),
            (format!("_ZN5tokio4poll{hash}.74"), "_ZN5tokio4poll17h*"),
            ("_RNvNtCslNYArtu3iFV_5alloc3fmt".to_owned(), "_RNvNtCs*_5alloc3fmt*"),
            ("_RNvNtCslNYArtu3iFV_5alloc3fmt.4732".to_owned(), "_RNvNtCs*_5alloc3fmt*"),
            ("rand_bytes_impl.part.0".to_owned(), "rand_bytes_impl.part*"),
            ("sha256_hw".to_owned(), "sha256_hw"),
            ("x25519".to_owned(), "x25519"),
        ] {
            assert_eq!(pattern(&symbol), expected, "{symbol}");
        }
    }

    #[test]
    fn what_traffic_runs_stands_first_and_what_the_binary_lacks_is_left_out() {
        let own = std::env::current_exe().unwrap();
        let set = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let ran = Ran { traffic: set(&["main", "no_such_function"]), start: set(&["_start", "main"]) };
        let script = ran.script(&own).unwrap();
        let lines: Vec<&str> = script.lines().filter(|line| line.contains("*(")).collect();
        assert_eq!(lines, ["    *(.text*.main)", "    *(.text*._start)"], "{script}");
        assert!(script.ends_with("INSERT BEFORE .text;\n"), "{script}");
    }
}
