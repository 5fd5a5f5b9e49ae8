//! Where manifests come from: the only crate that knows a source of them.
//!
//! A [`source::Source`] gives an initial list and then batches of changes, which `control` applies to
//! the index. Today there is one: a directory of YAML and JSON files in the schema of Kubernetes and
//! Linkerd. The crate knows nothing of what the objects mean to proxies.

mod kinds;
mod node;
pub mod parse;
mod profile;
pub mod render;
pub mod report;
mod values;
