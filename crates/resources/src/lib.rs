//! Where manifests come from: the only crate that knows a source of them.
//!
//! A [`source::Source`] gives an initial list and then batches of changes, which `control` applies to
//! the index. Today there is one: a directory of YAML and JSON files in the schema of Kubernetes and
//! Linkerd. The crate knows nothing of what the objects mean to proxies.

pub mod allocate;
pub mod directory;
mod hash;
mod kinds;
pub mod limits;
mod matches;
mod node;
pub mod parse;
mod policies;
mod profile;
pub mod render;
pub mod report;
mod routes;
mod scalars;
mod scan;
mod shelf;
pub mod source;
mod state;
mod values;
pub mod write;

pub use directory::{Directory, Handle, Settings};
pub use report::{Finding, Report};
pub use shelf::Guard;
pub use source::{Batch, Part, Source};
pub use write::Writer;
