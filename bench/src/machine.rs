//! What was measured on, in words: figures without it mean nothing.

use std::process::Command;

/// Processor, kernel, memory, day and commit, one sentence each.
pub(crate) fn describe() -> Vec<(&'static str, String)> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let kib: u64 = field(&read("/proc/meminfo"), "MemTotal").and_then(|kib| first(&kib)).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let count = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let model = field(&cpuinfo, "model name").unwrap_or_else(|| "processor unknown".to_owned());
    vec![
        ("processors", format!("{count} × {model}")),
        ("memory", format!("{:.0} GiB", kib as f64 / f64::from(1 << 20))),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("day", said("date", &["-u", "+%Y-%m-%d"])),
        ("commit", said("git", &["describe", "--always", "--dirty", "--exclude=*"])),
        ("compiler", said("rustc", &["--version"])),
    ]
}

/// The value of `name : value` in one of the kernel's tables.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

fn first(text: &str) -> Option<u64> {
    text.split(' ').next()?.parse().ok()
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "MemTotalX: 1\nMemTotal:       24 kB\nmodel name\t: A B\n";
        assert_eq!(field(text, "MemTotal").as_deref(), Some("24 kB"));
        assert_eq!(field(text, "model name").as_deref(), Some("A B"));
        assert_eq!(field(text, "model"), None);
    }
}
