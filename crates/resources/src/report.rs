//! What a source has to say about the manifests it read: what was rejected, where and why.
//!
//! Made by `directory.rs`; `control` logs it, counts it (`manifest_errors{file}`) and shows it in
//! `/state.json`.

use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Entries kept of each list; the rest is counted in `more`.
pub const LIST_LIMIT: usize = 500;

/// One place of a manifest that is wrong, or worth a warning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The file, relative to the manifests' root.
    pub file: Arc<str>,
    /// The line, from 1; 0 if it is about the whole file.
    pub line: u32,
    /// The object, as far as it is known, such as `Service shop/web`.
    pub object: String,
    /// The field, such as `spec.ports[0].port`; empty if none in particular.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.object.is_empty() {
            write!(f, "{}: ", self.object)?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// The state of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Documents that are not in force, and files that could not be read.
    pub rejected: Vec<Finding>,
    /// What has no effect or looks like a mistake.
    pub warnings: Vec<Finding>,
    /// Findings left out of the two lists.
    pub more: usize,
    /// Errors by file; those of files beyond [`LIST_LIMIT`] count under `(others)`.
    pub errors_by_file: BTreeMap<Arc<str>, usize>,
    /// Documents of kinds that have no effect here, by `apiVersion/kind`.
    pub ignored: BTreeMap<String, usize>,
    /// Objects in force.
    pub objects: usize,
    /// Files read.
    pub files: usize,
    /// Changes published so far.
    pub revision: u64,
    /// A hash of the objects in force: equal on replicas that read the same manifests.
    pub hash: String,
    /// Removals that are held back.
    pub held: Option<Hold>,
    /// Why what is served is older than the manifests.
    pub stale: Option<String>,
}

/// Removals that look like an accident and wait to be confirmed, or for the objects to come back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hold {
    /// Objects that would go.
    pub missing: usize,
    /// Objects that there were.
    pub of: usize,
    /// Some of them.
    pub examples: Vec<String>,
    /// In words.
    pub message: String,
}

impl Report {
    /// Sorts and bounds the lists.
    pub(crate) fn with_findings(mut self, mut rejected: Vec<Finding>, mut warnings: Vec<Finding>) -> Self {
        for finding in &rejected {
            let known =
                self.errors_by_file.len() < LIST_LIMIT || self.errors_by_file.contains_key(&finding.file);
            let file = if known { finding.file.clone() } else { "(others)".into() };
            *self.errors_by_file.entry(file).or_default() += 1;
        }
        for list in [&mut rejected, &mut warnings] {
            list.sort();
            self.more += list.len().saturating_sub(LIST_LIMIT);
            list.truncate(LIST_LIMIT);
        }
        Self { rejected, warnings, ..self }
    }
}
