//! Rule 5, the zeros: what the tree does not contain at all.
//!
//! Unsafe code outside two files, unbounded channels, tests that sleep or are switched off without a
//! trace, files whose name or first line says nothing.

use super::source::{Source, Word};
use super::tree::Tree;
use crate::finding::Finding;
use std::collections::BTreeMap;

/// A file of fewer lines may say in one line what it does.
const SMALL: usize = 120;

/// Where `unsafe` may stand.
const UNSAFE: &[&str] = &["crates/net/src/socket.rs", "crates/net/src/splice.rs"];

/// Where the feature `fips` may make a difference.
const FIPS: &str = "crates/identity/src/tls.rs";

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] =
    &["util", "utils", "common", "core", "helper", "helpers", "manager", "misc", "shared"];

pub(super) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    for file in &tree.files {
        file_name(file, findings);
        file_doc(file, findings);
        ignored_tests(file, findings);
        fips(file, findings);
        for word in file.words() {
            if let Some(message) = offence(file, word) {
                push(file, word.at, message, findings);
            }
        }
    }
    test_binaries(tree, findings);
}

fn offence(file: &Source, word: Word<'_>) -> Option<&'static str> {
    match word.text {
        "unsafe" if !UNSAFE.contains(&file.path.as_str()) => Some(
            "`unsafe` stands only in net/socket.rs and net/splice.rs; use a safe crate, or move it there with its proof",
        ),
        "unbounded_channel" | "UnboundedSender" | "UnboundedReceiver" | "unbounded" => Some(
            "an unbounded channel grows without limit under load; give it a bound and say what happens beyond it",
        ),
        "channel" if is_unbounded_std(file, word) => Some(
            "std's `mpsc::channel` has no bound; use `sync_channel`, and say what happens beyond the bound",
        ),
        "sleep" if is_real_sleep(file, word) => Some(
            "a test that sleeps is slow and flaky; pause the clock (`start_paused`), or wait for the event itself",
        ),
        _ => None,
    }
}

fn is_unbounded_std(file: &Source, word: Word<'_>) -> bool {
    let call = file.after(word).trim_start_matches("::").trim_start();
    let call = if call.starts_with('<') { &call[super::source::closing_angle(call, 0)..] } else { call };
    file.before(word).ends_with("mpsc::") && call.starts_with("()")
}

/// In a test, and not on a paused clock. A blocking sleep is real on any clock.
fn is_real_sleep(file: &Source, word: Word<'_>) -> bool {
    let called = file.after(word).starts_with('(');
    let blocking = file.before(word).ends_with("thread::");
    let paused = file.code.contains("start_paused") || file.code.contains("time::pause()");
    let in_story = file.path.starts_with("crates/scenarios/");
    called && (file.is_test(word.at) || in_story) && (blocking || !paused)
}

fn file_name(file: &Source, findings: &mut Vec<Finding>) {
    let mut parts = file.path.trim_end_matches(".rs").split('/').skip_while(|part| *part != "src");
    if let Some(name) = parts.find(|part| EMPTY_NAMES.contains(part)) {
        push_at(file, format!("`{name}` says nothing; name the file after what it holds"), findings);
    }
}

/// A file begins by saying what it does.
fn file_doc(file: &Source, findings: &mut Vec<Finding>) {
    let product = file.path.contains("/src/") && !file.only_tests && !file.text.starts_with("// @generated");
    let doc = file.text.lines().take_while(|line| line.starts_with("//!")).count();
    // The parts of a module in a folder are introduced by the module's own file.
    let part = file.path.split("/src/").nth(1).is_some_and(|inside| inside.contains('/'));
    let enough = if part || file.product_lines() < SMALL { 1 } else { 2 };
    if product && doc < enough {
        let message = "the file needs a doc of three to eight lines (`//!`): what it does, who calls it, what it never does";
        push_at(file, message.to_owned(), findings);
    }
}

/// The validated cryptography is chosen in one place, so that nothing else has to be audited for it.
fn fips(file: &Source, findings: &mut Vec<Finding>) {
    if FIPS == file.path || file.path.starts_with("xtask/") {
        return;
    }
    for (at, _) in file.text.match_indices("feature = \"fips\"") {
        push(
            file,
            at,
            "the feature `fips` changes identity/tls.rs alone; move the difference there",
            findings,
        );
    }
}

fn ignored_tests(file: &Source, findings: &mut Vec<Finding>) {
    for (at, _) in file.code.match_indices("#[ignore") {
        let attribute = &file.text[at..at + file.text[at..].find(']').unwrap_or(0)];
        let issue = attribute
            .match_indices('#')
            .any(|(at, _)| attribute[at + 1..].starts_with(|c: char| c.is_ascii_digit()));
        if !issue {
            push(file, at, "an ignored test names its issue: `#[ignore = \"#12: …\"]`", findings);
        }
    }
}

/// A crate's integration tests are one binary: each further one links everything again.
fn test_binaries(tree: &Tree, findings: &mut Vec<Finding>) {
    let mut binaries: BTreeMap<&str, Vec<&Source>> = BTreeMap::new();
    for file in &tree.files {
        let Some((krate, inside)) = file.path.split_once("/tests/") else { continue };
        if !krate.contains("/src")
            && (!inside.contains('/') || inside.ends_with("/main.rs") && inside.matches('/').count() == 1)
        {
            binaries.entry(krate).or_default().push(file);
        }
    }
    for files in binaries.values().filter(|files| files.len() > 1) {
        for file in &files[1..] {
            push_at(
                file,
                "a crate's integration tests are one binary: make this a module of tests/all/main.rs"
                    .to_owned(),
                findings,
            );
        }
    }
}

fn push_at(file: &Source, message: String, findings: &mut Vec<Finding>) {
    findings.push(Finding { path: file.path.clone(), line: 1, rule: "forbidden", message });
}

fn push(file: &Source, at: usize, message: &str, findings: &mut Vec<Finding>) {
    findings.push(Finding {
        path: file.path.clone(),
        line: file.line(at),
        rule: "forbidden",
        message: message.to_owned(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_file(path: &str, text: &str, expected: &[usize]) {
        let text = format!("//! Doc.\n//! Doc.\n{text}");
        let tree = Tree { files: vec![Source::new(path, text)], manifests: BTreeMap::new() };
        let mut findings = Vec::new();
        check(&tree, &mut findings);
        let lines: Vec<_> = findings.iter().map(|finding| finding.line).collect();
        assert_eq!(lines, expected, "{findings:?}");
    }

    #[test]
    fn unsafe_code_stands_only_where_it_may() {
        check_file("crates/net/src/socket.rs", "unsafe { f() }", &[]);
        check_file("crates/net/src/stream.rs", "unsafe { f() } // unsafe", &[3]);
        check_file("crates/net/src/lib.rs", "#![deny(unsafe_code)]", &[]);
    }

    #[test]
    fn unbounded_channels_are_found() {
        check_file(
            "crates/x/src/a.rs",
            "mpsc::channel(8);\nmpsc::channel::<Vec<u8>>();\nunbounded_channel()",
            &[4, 5],
        );
    }

    #[test]
    fn sleeping_tests_are_found_unless_the_clock_is_paused() {
        check_file(
            "crates/x/src/a.rs",
            "fn f() { sleep(D) }\n#[cfg(test)]\nmod t { fn f() { time::sleep(D) } }",
            &[5],
        );
        check_file(
            "crates/x/tests/all/a.rs",
            "#[tokio::test(start_paused = true)]\nsleep(D);\nthread::sleep(D);",
            &[5],
        );
        check_file("crates/x/tests/all/a.rs", "sleepy(D)", &[]);
    }

    #[test]
    fn ignored_tests_need_an_issue_and_files_a_name_and_a_doc() {
        check_file("crates/x/src/a.rs", "#[ignore]\n#[ignore = \"#7: slow\"]\n#[ignore = \"slow\"]", &[3, 5]);
        check_file("crates/x/src/utils/a.rs", "", &[1]);
        let mut findings = Vec::new();
        file_doc(&Source::new("crates/x/src/a.rs", "fn f() {}\n".to_owned()), &mut findings);
        assert_eq!(findings.len(), 1);
    }

    #[test]
    fn validated_cryptography_makes_a_difference_in_one_file() {
        check_file("crates/identity/src/tls.rs", "#[cfg(feature = \"fips\")]", &[]);
        check_file("crates/identity/src/csr.rs", "#[cfg(not(feature = \"fips\"))]", &[3]);
        check_file("crates/proxy/src/run.rs", "if cfg!(feature = \"fips\") {}", &[3]);
    }

    #[test]
    fn a_crate_has_one_test_binary() {
        let file = |path: &str| Source::new(path, "//! A.\n//! B.\n".to_owned());
        let files = ["crates/x/tests/all/main.rs", "crates/x/tests/all/a.rs", "crates/x/tests/other.rs"]
            .map(file)
            .into();
        let mut findings = Vec::new();
        test_binaries(&Tree { files, manifests: BTreeMap::new() }, &mut findings);
        assert_eq!(findings.len(), 1);
    }
}
