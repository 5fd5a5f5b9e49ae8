//! The house's rules as a program: each file in `tidy/` checks a few and holds their tables.
//!
//! `check` reads the tree once and hands it to all of them. The checks look at lines and words, not at
//! syntax trees: quick, without dependencies, and wrong only in ways that a person sees at once. A rule
//! that does not fit is changed here, in the open, with its reason.

mod arrows;
mod budgets;
mod circles;
mod forbidden;
mod graph;
mod libraries;
mod manifests;
mod source;
mod tree;

use crate::finding::Finding;
use std::path::Path;

/// Checks everything; gives the offences, and how many source files were read.
pub(crate) fn check(root: &Path) -> (Vec<Finding>, usize) {
    let tree = tree::Tree::read(root);
    let mut findings = Vec::new();
    arrows::check(&tree, &mut findings);
    manifests::check(&tree, &mut findings);
    graph::check(root, &mut findings);
    libraries::check(&tree, &mut findings);
    circles::check(&tree, &mut findings);
    budgets::check(&tree, &mut findings);
    forbidden::check(&tree, &mut findings);
    findings.sort_by(|a, b| (&a.path, a.line, a.rule).cmp(&(&b.path, b.line, b.rule)));
    (findings, tree.files.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_rule_is_applied_to_a_tree_on_disk() {
        let root = std::env::temp_dir().join(format!("weft-untidy-{}", std::process::id()));
        let boolean = "pub fn f(on: bool) {}\nuse crate::b::B;\n";
        for (path, text) in [
            ("Cargo.toml", "[workspace.dependencies]\nplain = \"1\"\n"),
            ("crates/model/Cargo.toml", "[dependencies]\nweft-net.workspace = true\n"),
            ("crates/model/src/a.rs", boolean),
            (
                "crates/model/src/b.rs",
                "use crate::a::f;\nuse tokio::net::TcpStream;\nfn g() { unsafe { h() } }\n",
            ),
            ("crates/model/src/c.rs", &"x;\n".repeat(701)),
        ] {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let (findings, files) = check(&root);
        std::fs::remove_dir_all(&root).unwrap();
        let rules: BTreeSet<_> = findings.iter().map(|finding| finding.rule).collect();
        // There is nothing that cargo could draw the graph of, which is told, too.
        let all = ["arrows", "boolean", "budget", "circles", "forbidden", "graph", "libraries", "reason"];
        assert_eq!((files, rules), (3, all.into()), "{}", findings.len());
    }
}
