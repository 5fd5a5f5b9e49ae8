//! Chores of the house: `cargo xtask tidy` checks its rules, `cargo xtask docs` writes what is generated.
//!
//! Run by people and by CI; `cargo test` runs the same checks as plain tests. Reads and writes only files
//! of this repository, starts no other program than cargo and uses no network.

mod docs;
mod finding;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

const USAGE: &str = "usage: cargo xtask tidy | docs [--check]

tidy           check the house's rules (xtask/src/tidy/)
docs           write the generated documents
docs --check   only say which of them are out of date";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["tidy"] => run_tidy(),
        ["docs"] => write_docs(),
        ["docs", "--check"] => report(&docs::drift(&root())),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(64)
        }
    }
}

fn run_tidy() -> ExitCode {
    let began = Instant::now();
    let (mut findings, files) = tidy::check(&root());
    findings.extend(docs::drift(&root()));
    let code = report(&findings);
    println!("tidy: {files} files, {} findings, {} ms", findings.len(), began.elapsed().as_millis());
    code
}

fn write_docs() -> ExitCode {
    for (path, text) in docs::generate() {
        if let Err(error) = std::fs::write(root().join(path), text) {
            eprintln!("{path}: {error}");
            return ExitCode::FAILURE;
        }
        println!("wrote {path}");
    }
    // The documents of settings and limits are made by tests of the crates that obey them, so that this program
    // builds in seconds and works even while they do not compile.
    // That of the metrics comes from a running proxy, hence from a scenario.
    for (package, tests) in [
        ("weft-proxy", ["--lib", "document"].as_slice()),
        ("weft-control", &["--lib", "document"]),
        ("weft-scenarios", &["--test", "all", "metrics_document"]),
    ] {
        let mut cargo = Command::new(env!("CARGO"));
        let status = cargo
            .args(["test", "--quiet", "--package", package])
            .args(tests)
            .env("WEFT_UPDATE_DOCS", "1")
            .current_dir(root())
            .status();
        if !status.is_ok_and(|status| status.success()) {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn report(findings: &[finding::Finding]) -> ExitCode {
    for finding in findings {
        eprintln!("{finding}");
    }
    if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The repository, found from where this program was compiled.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_house_is_tidy() {
        let (findings, files) = crate::tidy::check(&crate::root());
        assert!(files > 20, "only {files} files were found");
        assert_none(&findings);
    }

    #[test]
    fn the_generated_documents_are_up_to_date() {
        assert_none(&crate::docs::drift(&crate::root()));
    }

    #[track_caller]
    fn assert_none(findings: &[crate::finding::Finding]) {
        let text: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), text.join("\n"));
    }
}
