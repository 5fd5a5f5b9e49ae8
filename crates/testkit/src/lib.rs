//! A small world in one process: fake applications, clients and a control plane around real proxies.
//!
//! Used by `scenarios` and by the binary's tests, never by a product crate. Everything listens on loopback
//! at a port that the system chooses, and ends with the test's runtime. Nothing here sleeps: what must
//! come about is asked for again and again until it has, or until [`PATIENCE`] is over.

pub mod application;
pub mod client;
pub mod hello;
pub mod mesh;
pub mod plane;
pub mod policy;

use std::time::{Duration, Instant};

/// Longest wait for anything that must come about. Far above what a busy machine needs; a test that waits
/// this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks until the answer is yes.
///
/// # Panics
/// When [`PATIENCE`] is over, with `what` was awaited.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "in vain: {what}");
        tokio::task::yield_now().await;
    }
}

/// Waits for a future, but not for ever.
///
/// # Panics
/// When [`PATIENCE`] is over, with `what` was awaited.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}
