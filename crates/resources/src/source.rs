//! What every source of manifests gives: an initial list, then batches of changes, in order.
//!
//! `control` drives one source and applies its batches to the index; it does not know which kind it
//! has. Today there is the directory; etcd and Kubernetes fit behind the same trait.

use crate::report::Report;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::watch;
use weft_model::object::Change;

/// Changes that belong together: whoever applies them shows all of them or none.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// What changed.
    pub changes: Vec<Change>,
    /// Whether this is the first one.
    pub part: Part,
    /// Counts batches, from 1.
    pub revision: u64,
}

/// Where a batch stands in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first batch: every object there is.
    Initial,
    /// What changed since the last batch; never empty.
    Changes,
}

/// The next batch, when there is one.
pub type NextBatch<'a> = Pin<Box<dyn Future<Output = Batch> + Send + 'a>>;

/// A source of manifests.
pub trait Source: Send {
    /// Waits for the next batch. The first one comes at once, also when nothing can be read. Dropping
    /// the future loses nothing; the stream has no end.
    fn next(&mut self) -> NextBatch<'_>;

    /// The state of the source: what was rejected, held back or is out of date. Changes also without a
    /// batch.
    fn reports(&self) -> watch::Receiver<Arc<Report>>;
}
