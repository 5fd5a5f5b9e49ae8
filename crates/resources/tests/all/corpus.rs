//! The body of the fuzz target of manifests over its corpus and a fixed walk around it.

#[path = "../../../../fuzz/bodies/manifest.rs"]
mod manifest;
#[path = "../../../../fuzz/bodies/mutate.rs"]
mod mutate;

/// Fewer than of the other targets: a manifest takes a hundred times as long as a head.
const MUTANTS: usize = 5_000;

#[test]
fn every_text_is_read_to_its_end() {
    mutate::over("manifest", MUTANTS, manifest::run);
}
