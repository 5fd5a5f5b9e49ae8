//! Why an endpoint could not be reached, or a request not be answered, and whether it may be sent again.
//!
//! Raised by every file here; turned into reasons by `proxy/reply.rs`. An error of hyper or h2 is read
//! once, in `SendError::classify`, and nowhere else.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use weft_identity::store::TlsError;
use weft_model::reason::Code;
use weft_net::body::BodyError;

/// Why no connection was made. Nothing was sent, so trying elsewhere is always safe. Cheap to clone:
/// several requests may share one attempt.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing listens there. The endpoint's fault.
    #[error("{0} refused the connection")]
    Refused(SocketAddr),
    /// TCP connect, TLS handshake and transport header took longer than allowed. The network's or the
    /// endpoint's fault.
    #[error("{addr} did not complete the connection within {} ms", limit.as_millis())]
    Timeout {
        /// Who.
        addr: SocketAddr,
        /// The limit.
        limit: Duration,
    },
    /// Another error of the operating system.
    #[error("the connection to {addr} failed: {source}")]
    Io {
        /// Who.
        addr: SocketAddr,
        /// What it said.
        source: Arc<io::Error>,
    },
    /// The TLS handshake failed, or the endpoint is not who it should be.
    #[error("TLS with {addr} failed: {source}")]
    Tls {
        /// Who.
        addr: SocketAddr,
        /// Why.
        source: Arc<TlsError>,
    },
    /// The endpoint demands TLS and this proxy has no identity. Our configuration's fault.
    #[error("{0} is to be reached over mutual TLS, but this proxy has no identity")]
    NoIdentity(SocketAddr),
    /// The connection would arrive at this proxy itself. Discovery's fault.
    #[error("{0} is one of this proxy's own listeners")]
    OwnListener(SocketAddr),
    /// A loopback endpoint where traffic is captured. Discovery's fault.
    #[error("{0} is a loopback address")]
    Loopback(SocketAddr),
    /// The HTTP/2 connection was lost as soon as it was made.
    #[error("{addr} closed a new connection: {detail}")]
    Closed {
        /// Who.
        addr: SocketAddr,
        /// What is known.
        detail: Arc<str>,
    },
    /// The endpoint was removed while connecting.
    #[error("the endpoint was removed")]
    Removed,
}

impl ConnectError {
    /// The code of the catalogue.
    pub fn code(&self) -> Code {
        match self {
            ConnectError::Refused(_) => Code::ConnectRefused,
            ConnectError::Timeout { .. } => Code::ConnectTimeout,
            ConnectError::Io { .. } | ConnectError::Loopback(_) => Code::ConnectFailed,
            ConnectError::Tls { source, .. } => source.code(),
            ConnectError::NoIdentity(_) => Code::TlsFailed,
            ConnectError::OwnListener(_) => Code::LoopDetected,
            ConnectError::Closed { .. } | ConnectError::Removed => Code::ConnectionLost,
        }
    }

    pub(crate) fn io(addr: SocketAddr, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => ConnectError::Refused(addr),
            _ => ConnectError::Io { addr, source: Arc::new(error) },
        }
    }
}

/// What became of a request that got no response.
#[derive(Debug, thiserror::Error)]
pub enum SendFailure {
    /// No connection for it. Not sent.
    #[error(transparent)]
    Connect(ConnectError),
    /// The connection broke. Unless the error says otherwise, it may have been processed.
    #[error("the connection was lost: {0}")]
    Lost(#[source] hyper::Error),
    /// What came back was not valid HTTP. The endpoint's fault; it may have been processed.
    #[error("the answer was not valid HTTP: {0}")]
    Protocol(#[source] hyper::Error),
    /// The endpoint reset the stream.
    #[error("the stream was reset: {0}")]
    Reset(h2::Reason),
    /// The request's own body broke off while it was sent: the client's fault.
    #[error("the request's body broke off: {0}")]
    RequestBody(#[source] hyper::Error),
}

/// No response to a request.
#[derive(Debug, thiserror::Error)]
#[error("{failure}")]
pub struct SendError {
    /// What happened.
    #[source]
    pub failure: SendFailure,
    /// Whether the endpoint certainly did not process it, or cannot be harmed by a repetition: never sent;
    /// refused (REFUSED_STREAM, above GOAWAY's last stream); or an idempotent request without a body whose
    /// connection was lost before any answer. Sending it again is safe then.
    pub unprocessed: bool,
    /// Where the request is now: back if it was not sent, and if it is unprocessed and had no body.
    pub request: Whereabouts,
}

/// Where a request is that got no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// In the place that `send` took it from, as it was.
    Back,
    /// Sent, and gone.
    Gone,
}

impl SendError {
    /// The code of the catalogue.
    pub fn code(&self) -> Code {
        match &self.failure {
            SendFailure::Connect(error) => error.code(),
            SendFailure::Lost(_) => Code::ConnectionLost,
            SendFailure::Protocol(_) => Code::ProtocolError,
            SendFailure::Reset(_) => Code::StreamReset,
            SendFailure::RequestBody(error) => match find::<BodyError>(error) {
                Some(BodyError::Aborted { reason, .. }) => reason.code,
                _ => Code::ClientGone,
            },
        }
    }

    /// The HTTP/2 reset of the stream, to be passed on to an HTTP/2 client.
    pub fn reset(&self) -> Option<h2::Reason> {
        match self.failure {
            SendFailure::Reset(reason) => Some(reason),
            _ => None,
        }
    }

    pub(crate) fn unsent(failure: SendFailure) -> Self {
        Self { failure, unprocessed: true, request: Whereabouts::Back }
    }

    /// Reads what hyper says about a request that had been handed to a connection.
    pub(crate) fn classify(error: hyper::Error) -> Self {
        let (failure, unprocessed) = if find::<BodyError>(&error).is_some() {
            (SendFailure::RequestBody(error), false)
        } else if let Some(h2) = find::<h2::Error>(&error) {
            let refused =
                h2.is_remote() && (h2.is_go_away() || h2.reason() == Some(h2::Reason::REFUSED_STREAM));
            match h2.reason().filter(|_| h2.is_reset() && h2.is_remote()) {
                Some(reason) => (SendFailure::Reset(reason), refused),
                // hyper resets the stream of a request whose body fails, and drops the body's error.
                None if h2.is_reset() && !h2.is_remote() && !h2.is_library() => {
                    (SendFailure::RequestBody(error), false)
                }
                None if h2.is_io() || h2.is_go_away() && h2.is_remote() => {
                    (SendFailure::Lost(error), refused)
                }
                None => (SendFailure::Protocol(error), false),
            }
        } else if error.is_parse() {
            (SendFailure::Protocol(error), false)
        } else {
            (SendFailure::Lost(error), false)
        };
        Self { failure, unprocessed, request: Whereabouts::Gone }
    }
}

/// The first error of a type in a chain of causes.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
