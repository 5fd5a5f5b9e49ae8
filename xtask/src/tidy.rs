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
