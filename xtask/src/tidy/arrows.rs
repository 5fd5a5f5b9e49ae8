//! Rule 1: which crate may depend on which. The table is the house's floor plan: a new arrow is a new
//! word here, which a reviewer sees. Crates not in the table fail, so that a new room is announced.

use super::tree::Tree;
use crate::finding::Finding;

/// Crate, and what it may depend on, from the ground up. No arrow may point down this list, so the
/// crates cannot form a circle.
#[rustfmt::skip]
const ARROWS: &[(&str, &[&str])] = &[
    // shared ground
    ("model", &[]),
    ("telemetry", &["model"]),
    ("names", &["model"]),
    ("decide", &["model"]),
    ("wire", &["model"]),
    // the data plane
    ("net", &["model"]),
    // What a proxy is told, in the types of those who obey it.
    ("settings", &["model", "net", "telemetry"]),
    ("identity", &["model", "net", "telemetry"]),
    ("balance", &["model", "telemetry"]),
    // An endpoint reports its readiness to its backend through `balance::Readiness`; `balance` knows no endpoint.
    ("connect", &["model", "wire", "net", "identity", "balance", "telemetry"]),
    ("route", &["model", "decide", "balance", "telemetry"]),
    ("attempt", &["model", "net", "connect", "route"]),
    ("discover", &["model", "wire", "net", "names", "identity", "balance", "connect", "route", "decide", "telemetry"]),
    ("proxy", &["model", "wire", "net", "names", "identity", "balance", "connect", "route", "attempt", "decide", "discover", "settings", "telemetry"]),
    // the control plane
    ("index", &["model"]),
    ("explain", &["model", "decide", "index"]),
    ("resources", &["model", "index"]),
    ("serve", &["model", "wire", "net", "identity", "index", "telemetry"]),
    // to wire for its router, which the assembled services hang in
    ("control", &["model", "wire", "net", "identity", "index", "explain", "resources", "serve", "telemetry"]),
    // beside the house
    ("testkit", &["model", "wire", "net", "identity", "settings", "proxy", "control", "telemetry", "index", "resources"]),
    ("scenarios", &["model", "net", "identity", "proxy", "control", "telemetry", "testkit"]),
    ("weft", &["model", "net", "identity", "index", "explain", "resources", "settings", "proxy", "control", "telemetry", "testkit"]),
    ("xtask", &["model"]),
];

pub(super) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    for (path, text) in &tree.manifests {
        let Some(krate) = crate_of(path) else { continue };
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == krate) else {
            let message = format!("the crate {krate} is not in the table of arrows; add it to {}", file!());
            findings.push(Finding { path: path.clone(), line: 0, rule: "arrows", message });
            continue;
        };
        for (line, target) in arrows(text) {
            if !allowed.contains(&target.as_str()) {
                let message = format!(
                    "{krate} may not depend on {target}; turn the arrow round, or add it to the table in {} and say why",
                    file!()
                );
                findings.push(Finding { path: path.clone(), line, rule: "arrows", message });
            }
        }
    }
}

fn crate_of(path: &str) -> Option<&str> {
    match path.split('/').collect::<Vec<_>>().as_slice() {
        ["crates", krate, "Cargo.toml"] | [krate @ "xtask", "Cargo.toml"] => Some(krate),
        _ => None,
    }
}

/// Line and target of each dependency on one of ours, of any kind.
fn arrows(manifest: &str) -> Vec<(usize, String)> {
    let mut section = "";
    let mut found = Vec::new();
    for (number, line) in manifest.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            section = line;
        } else if section.contains("dependencies")
            && let Some(rest) = line.strip_prefix("weft-")
        {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(rest.len());
            found.push((number + 1, rest[..end].to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_no_circle() {
        for (at, (krate, allowed)) in ARROWS.iter().enumerate() {
            for target in *allowed {
                let below = ARROWS[..at].iter().any(|(name, _)| name == target);
                assert!(below, "{krate} → {target} does not point upwards in the table");
            }
        }
    }

    #[test]
    fn arrows_that_are_not_in_the_table_are_found() {
        let manifest = |path: &str, dependency: &str| {
            (path.to_owned(), format!("[dependencies]\nweft-{dependency}.workspace = true\n"))
        };
        let manifests = [
            manifest("crates/net/Cargo.toml", "model"),
            manifest("crates/model/Cargo.toml", "net"),
            manifest("crates/proxy/Cargo.toml", "testkit"),
            manifest("crates/cellar/Cargo.toml", "model"),
        ];
        let mut findings = Vec::new();
        check(&Tree { files: Vec::new(), manifests: manifests.into() }, &mut findings);
        let found: Vec<_> = findings.iter().map(|finding| (finding.path.as_str(), finding.line)).collect();
        let expected =
            [("crates/cellar/Cargo.toml", 0), ("crates/model/Cargo.toml", 2), ("crates/proxy/Cargo.toml", 2)];
        assert_eq!(found, expected);
    }

    #[test]
    fn arrows_are_read_from_every_kind_of_section() {
        let manifest = "[package]\nname = \"weft-x\"\n[dependencies]\nweft-model.workspace = true\nhttp = \"1\"\n\
            [dev-dependencies]\nweft-net = { workspace = true }\n";
        assert_eq!(arrows(manifest), [(4, "model".to_owned()), (7, "net".to_owned())]);
    }
}
