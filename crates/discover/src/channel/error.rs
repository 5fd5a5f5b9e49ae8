//! What can go wrong between a client of `wire` and a controller.

use std::io;
use std::time::Duration;
use tower::timeout::error::Elapsed;
use weft_balance::{Failure, Unavailable};
use weft_identity::store::TlsError;
use weft_model::reason::Code;
use weft_wire::services::BoxError;

/// Why a call or a connection to a controller failed. Each one is safe to repeat: either nothing was
/// sent, or the call was a question.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// No connection. The controller's fault or the network's.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// No TLS session. The certificate's on either side.
    #[error("no TLS session: {0}")]
    Tls(#[source] TlsError),
    /// The HTTP/2 connection broke or hung. The controller's fault or the network's.
    #[error("the HTTP/2 connection failed: {}", describe(.0))]
    Http2(#[source] hyper::Error),
    /// The controller took the connection and ended it, or let it hang, without a word of HTTP/2. Its
    /// fault.
    #[error("the controller never spoke HTTP/2: {0}")]
    Silent(String),
    /// As many calls wait as may. The mesh is overloaded.
    #[error("{0} calls wait for the controller already")]
    Full(usize),
    /// No replica was reachable in time.
    #[error("no replica of the controller was reachable within {} ms", .0.as_millis())]
    NotDispatched(Duration),
    /// No replica can be had.
    #[error("{0}")]
    Unavailable(#[source] Unavailable),
    /// The replica's connection closed before the call was sent, several times over.
    #[error("the connection closed before the call was sent")]
    Closed,
}

/// What the balancer is to know of a failed attempt to connect.
pub(super) fn failure(error: &BoxError) -> Failure {
    let code = match error.downcast_ref::<ChannelError>() {
        Some(ChannelError::Connect(io)) if io.kind() == io::ErrorKind::ConnectionRefused => {
            Code::ConnectRefused
        }
        Some(ChannelError::Tls(tls)) => tls.code(),
        _ if error.is::<Elapsed>() => Code::ConnectTimeout,
        _ => Code::ConnectFailed,
    };
    let detail = match code {
        Code::ConnectTimeout => "connecting took too long".into(),
        _ => error.to_string().chars().take(200).collect(),
    };
    Failure { code, detail }
}

/// An error with its causes, which hyper's own text leaves out.
pub(super) fn describe(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.chars().take(200).collect()
}
