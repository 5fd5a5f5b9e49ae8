//! Tests of the sources of manifests.

mod corpus;
mod directory;
mod documents;
mod policies;
