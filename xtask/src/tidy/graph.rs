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
    behind(root, findings);
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

/// The fuzz targets are a workspace of their own: their lock file must know what our crates depend on today.
fn behind(root: &Path, findings: &mut Vec<Finding>) {
    let path = "fuzz/Cargo.lock";
    let Ok(lock) = std::fs::read_to_string(root.join(path)) else { return };
    for package in lock.split("[[package]]") {
        let Some(name) =
            package.lines().find_map(|line| line.strip_prefix("name = \"weft-")?.strip_suffix('"'))
        else {
            continue;
        };
        let Ok(manifest) = std::fs::read_to_string(root.join(format!("crates/{name}/Cargo.toml"))) else {
            continue;
        };
        for needed in dependencies(&manifest).filter(|needed| !package.contains(&format!(" \"{needed}"))) {
            let message = format!(
                "{path} does not know that weft-{name} depends on {needed}; run `cargo update --workspace` in fuzz/"
            );
            findings.push(Finding { path: path.to_owned(), line: 0, rule: "graph", message });
        }
    }
}

/// What a manifest's `[dependencies]` name.
fn dependencies(manifest: &str) -> impl Iterator<Item = &str> {
    let lines = manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let own = lines.take_while(|line| !line.starts_with('['));
    own.filter_map(|line| {
        line.split(['.', ' ', '=']).next().filter(|name| !name.is_empty() && !name.starts_with('#'))
    })
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

    #[test]
    fn a_lock_file_of_the_fuzz_targets_that_lags_behind_is_told() {
        let root = std::env::temp_dir().join(format!("weft-lagging-{}", std::process::id()));
        for (path, text) in [
            (
                "crates/a/Cargo.toml",
                "[package]\n[dependencies]\n# one\nhttp.workspace = true\nserde = { workspace = true }\n\n\
                 [dev-dependencies]\nfastrand.workspace = true\n",
            ),
            ("fuzz/Cargo.lock", "[[package]]\nname = \"weft-a\"\ndependencies = [\n \"http\",\n]\n"),
        ] {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let mut findings = Vec::new();
        behind(&root, &mut findings);
        std::fs::remove_dir_all(&root).unwrap();
        let told: Vec<_> = findings.iter().map(|finding| finding.message.as_str()).collect();
        assert!(matches!(told[..], [one] if one.contains("weft-a depends on serde;")), "{told:?}");
    }
}
