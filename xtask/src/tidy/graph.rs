//! Rule 2, for what is really built: one crypto library, one TLS library, no second version of what is big.
//!
//! Cargo.lock also lists what nobody builds (parts of optional features), so `cargo tree` is asked for the
//! graph of this machine's target.

use crate::finding::Finding;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Packages that must not be in the build graph, with the reason.
const BANNED: &[(&str, &str)] = &[
    ("ring", "the one crypto library is aws-lc-rs"),
    ("openssl", "the one TLS library is rustls"),
    ("openssl-sys", "the one TLS library is rustls"),
    ("native-tls", "the one TLS library is rustls"),
    ("bindgen", "building needs nothing but Rust and a C compiler"),
    ("protoc-bin-vendored", "building needs nothing but Rust and a C compiler"),
];

/// Packages that may be there in one version only.
const SINGLE: &[&str] = &["rustls", "tokio", "hyper", "h2", "http", "tower", "aws-lc-rs", "prost", "tonic"];

/// Asks cargo for the graph and judges it.
pub(super) fn check(root: &Path, findings: &mut Vec<Finding>) {
    // Set by cargo for whatever it runs, so that the same cargo answers.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["tree", "--workspace", "--locked", "--offline", "--prefix", "none", "--format", "{p}"];
    let answer = Command::new(cargo).args(arguments).current_dir(root).output();
    let failed = match answer {
        Ok(output) if output.status.success() => {
            return judge(&String::from_utf8_lossy(&output.stdout), findings);
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    push(findings, format!("`cargo tree --locked` failed: {failed}"));
}

/// `tree` holds a package a line: name, version, and perhaps more.
fn judge(tree: &str, findings: &mut Vec<Finding>) {
    let package = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    };
    let packages: BTreeSet<(String, String)> = tree.lines().filter_map(package).collect();
    for (name, reason) in BANNED {
        if packages.iter().any(|(package, _)| package == name) {
            push(
                findings,
                format!("{name} is built, but {reason}; find who brings it with `cargo tree -i {name}`"),
            );
        }
    }
    for single in SINGLE {
        let versions: Vec<&str> = packages
            .iter()
            .filter(|(package, _)| package == single)
            .map(|(_, version)| version.as_str())
            .collect();
        if versions.len() > 1 {
            push(findings, format!("{single} is built in {}; see `cargo tree -d`", versions.join(" and ")));
        }
    }
}

fn push(findings: &mut Vec<Finding>, message: String) {
    findings.push(Finding { path: "Cargo.lock".to_owned(), line: 0, rule: "graph", message });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_crypto_or_tls_library_is_found() {
        let mut findings = Vec::new();
        judge("ring v0.17.1\nrustls v0.23.1\nrustls v0.23.1 (*)\nrustls-webpki v1\n\n", &mut findings);
        judge("rustls v0.23.1\nrustls v0.24.0 (/x)\n", &mut findings);
        let messages: Vec<_> = findings.iter().map(|finding| finding.message.as_str()).collect();
        assert_eq!(messages.len(), 2);
        assert!(messages[0].starts_with("ring is built") && messages[1].contains("v0.23.1 and v0.24.0"));
    }
}
