//! The control plane: reads manifests, tells proxies what to do, issues certificates.
//!
//! [`start`] assembles it from [`Options`]: a directory of manifests feeds an index, whose views are served
//! to proxies over gRPC by an edge that terminates TLS with leaves of its own authority. Called by the binary
//! and by tests. It never reads the environment and never installs anything global.

mod admin;
mod api;
mod assemble;
#[cfg(test)]
mod document;
mod issuer;
mod judged;
pub mod options;
mod sources;

pub use assemble::{Control, start};
pub use options::Options;
pub use weft_serve::StreamLimits;

/// The limits of the edge and of its streams where no option says otherwise.
pub fn limits() -> (weft_serve::server::Limits, StreamLimits) {
    Default::default()
}

use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use weft_telemetry::log::LogLevel;

/// Longest drain: streams of proxies end at once, so only answers under way are waited for.
const GRACE: Duration = Duration::from_secs(5);

/// Why the control plane cannot run: the operator's fault or the machine's, told in the text.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// An address cannot be listened on.
    #[error("cannot listen on {addr} for {what}: {source}")]
    Listen {
        /// Where.
        addr: std::net::SocketAddr,
        /// For what.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The authority or the token key cannot be opened.
    #[error("identity: {0}")]
    Identity(String),
    /// Plaintext was asked for on an address that other hosts can reach.
    #[error("{0} is reachable from other hosts; without TLS only a loopback address may be used")]
    Plaintext(std::net::SocketAddr),
    /// Signals cannot be received.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] std::io::Error),
}

/// Runs the control plane until SIGTERM or SIGINT, then drains. The log's level can be changed through its
/// admin server.
///
/// # Errors
/// When it cannot start.
pub async fn run(options: Options, log: LogLevel) -> Result<(), ControlError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ControlError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ControlError::Signals)?;
    let mut asked_to_end = std::pin::pin!(async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    });
    // Reading many manifests takes a while, and who ends it then should not have to wait.
    let control = tokio::select! {
        started = start(options, Some(log)) => started?,
        () = &mut asked_to_end => return Ok(()),
    };
    asked_to_end.await;
    control.stop(GRACE).await;
    Ok(())
}
