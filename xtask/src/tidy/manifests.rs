//! Rule 2, for Cargo's files: every third-party dependency stands once, in the workspace, with its reason,
//! and the crates inherit it from there.

use super::tree::Tree;
use crate::finding::Finding;

pub(super) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    for (path, text) in &tree.manifests {
        if path == "Cargo.toml" {
            reasons(path, text, findings);
        } else if path.starts_with("crates/") || path.starts_with("xtask/") {
            inherited(path, text, findings);
        }
    }
}

/// Each workspace dependency has its reason behind it, or on the line above.
fn reasons(path: &str, text: &str, findings: &mut Vec<Finding>) {
    let (mut section, mut above) = ("", "");
    for (number, line) in text.lines().map(str::trim).enumerate() {
        if line.starts_with('[') {
            section = line;
        }
        let dependency =
            section == "[workspace.dependencies]" && line.contains('=') && !line.starts_with('#');
        let reason = line.rsplit_once('#').map_or("", |(_, reason)| reason.trim());
        let has_reason = reason.len() >= 5 || (above.starts_with('#') && !above.contains("──"));
        if dependency && !line.starts_with("weft-") && !has_reason {
            let message =
                "a dependency needs its reason as a comment: what it is for, why not our own".to_owned();
            findings.push(Finding { path: path.to_owned(), line: number + 1, rule: "reason", message });
        }
        above = line;
    }
}

/// A crate takes its dependencies from the workspace.
fn inherited(path: &str, text: &str, findings: &mut Vec<Finding>) {
    let mut section = "";
    for (number, line) in text.lines().map(str::trim).enumerate() {
        if line.starts_with('[') {
            section = line;
        } else if section.contains("dependencies")
            && line.contains('=')
            && !line.starts_with('#')
            && !line.contains("workspace = true")
        {
            let message =
                "a dependency is named in the workspace's Cargo.toml, with its reason, and inherited here";
            findings.push(Finding {
                path: path.to_owned(),
                line: number + 1,
                rule: "reason",
                message: message.to_owned(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(check: impl FnOnce(&mut Vec<Finding>)) -> Vec<usize> {
        let mut findings = Vec::new();
        check(&mut findings);
        findings.iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_dependency_without_reason_is_found() {
        let text = "[workspace.dependencies]\n# ── a ──\na = \"1\"\nb = \"1\" # parses things\n# parses other things\nc = \"1\"\nweft-x = { path = \"x\" }\n";
        assert_eq!(lines(|f| reasons("Cargo.toml", text, f)), [3]);
        let text = "[dependencies]\na.workspace = true\nb = \"1\"\nc = { workspace = true, features = [] }\n";
        assert_eq!(lines(|f| inherited("x", text, f)), [3]);
    }
}
