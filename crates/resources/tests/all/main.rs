//! Tests of the sources of manifests.

mod documents;
