//! Tests of the sources of manifests.

mod directory;
mod documents;
