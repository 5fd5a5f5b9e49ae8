//! The repository's sources and manifests, read once.
//!
//! Every rule gets this. Build output, fuzz corpora and git's own files are left out.

use super::source::Source;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Folders in which nothing is checked.
const SKIPPED: &[&str] = &["target", ".git", "corpus", "artifacts"];

/// What there is to check.
pub(super) struct Tree {
    /// Rust files, by path.
    pub(super) files: Vec<Source>,
    /// Cargo.toml files, by path from the root.
    pub(super) manifests: BTreeMap<String, String>,
}

impl Tree {
    /// Reads everything below `root`. What cannot be read is left out; the compiler will say so.
    pub(super) fn read(root: &Path) -> Self {
        let mut tree = Self { files: Vec::new(), manifests: BTreeMap::new() };
        tree.walk(root, "");
        // A file that its parent declares under `#[cfg(test)]` exists only for tests.
        let only_tests: Vec<String> = tree.files.iter().flat_map(declared_tests).collect();
        for file in &mut tree.files {
            file.only_tests |= only_tests.contains(&file.path);
        }
        tree
    }

    fn walk(&mut self, dir: &Path, path: &str) {
        let Ok(entries) = fs::read_dir(dir) else { return };
        let mut entries: Vec<_> = entries.flatten().collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if !SKIPPED.contains(&name.as_str()) {
                    self.walk(&entry.path(), &path);
                }
            } else if name.ends_with(".rs") {
                if let Ok(text) = fs::read_to_string(entry.path()) {
                    self.files.push(Source::new(&path, text));
                }
            } else if name == "Cargo.toml" {
                self.manifests.insert(path, fs::read_to_string(entry.path()).unwrap_or_default());
            }
        }
    }

    /// The files of a crate, by its folder name.
    pub(super) fn of<'a>(&'a self, krate: &'a str) -> impl Iterator<Item = &'a Source> {
        self.files.iter().filter(move |file| file.krate() == krate)
    }
}

/// The paths of the files that this one declares as `#[cfg(test)] mod name;`.
fn declared_tests(file: &Source) -> Vec<String> {
    let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
    let folder = match name {
        "lib.rs" | "main.rs" | "mod.rs" => folder.to_owned(),
        name => format!("{folder}/{}", name.trim_end_matches(".rs")),
    };
    let modules = file.words().filter(|word| word.text == "mod" && file.is_test(word.at));
    let named = modules.filter_map(|word| {
        let (name, _) = file.after(word).split_once(';')?;
        name.chars().all(|c| c.is_alphanumeric() || c == '_').then(|| format!("{folder}/{name}.rs"))
    });
    named.collect()
}
