//! Directories of manifests as an index, for commands that judge them without running anything.
//!
//! `why` and `diff` call it. What cannot be taken in is told on the error stream and left out, as the control plane would;
//! `check` tells it in full.

use std::path::{Path, PathBuf};
use weft_index::{Config, Index};
use weft_model::object::Change;
use weft_resources::directory::read_once;

/// The index of one or several directories. Of an object that is in two of them the first counts.
pub(crate) fn index<'a>(roots: impl Iterator<Item = &'a PathBuf>, config: Config) -> Result<Index, String> {
    let mut index = Index::new(config);
    let mut known = std::collections::BTreeSet::new();
    for root in roots {
        read(root, &mut index, &mut known)?;
    }
    Ok(index)
}

fn read(
    root: &Path,
    index: &mut Index,
    known: &mut std::collections::BTreeSet<weft_model::object::Key>,
) -> Result<(), String> {
    let (objects, report) =
        read_once(root).map_err(|error| format!("{} cannot be read: {error}", root.display()))?;
    for finding in &report.rejected {
        let (file, line, message) = (&finding.file, finding.line, &finding.message);
        eprintln!("weft: {file}:{line}: {} is left out: {} {message}", finding.object, finding.field);
    }
    let new = objects.into_iter().filter(|(key, _)| known.insert(key.clone()));
    index.apply(new.map(|(_, object)| Change::Upsert(object)));
    Ok(())
}
