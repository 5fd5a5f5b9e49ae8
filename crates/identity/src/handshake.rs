//! Runs TLS handshakes over a [`Stream`] and says precisely why one failed.
//!
//! Called by `store`, which chooses the configuration. It never reads the ClientHello for routing (the proxy
//! has done so and left the bytes as the stream's prefix), and never touches application data.

use crate::certificate::Certificate;
use crate::verify::Refusal;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, ServerConfig};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, TlsAcceptor, TlsConnector, TlsStream};
use weft_model::identity::Id;
use weft_model::name::DnsName;
use weft_model::reason::Code;
use weft_net::stream::Stream;

/// How a server side handshake is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Accept {
    /// Protocols offered, best first. With none, whatever the client asks for is ignored; with some, a client
    /// that asks only for others is refused (RFC 7301 §3.2), and one that asks for none is accepted.
    pub alpn: &'static [&'static [u8]],
    /// Bound on the whole handshake.
    pub timeout: Duration,
}

/// A finished server side handshake.
#[derive(Debug)]
pub struct Accepted {
    /// The plaintext.
    pub stream: Stream,
    /// The verified identity of the client; `None`: it showed no certificate.
    pub client: Option<Id>,
    /// The protocol agreed on.
    pub alpn: Option<Vec<u8>>,
    /// Which of our names the client asked for.
    pub server_name: DnsName,
}

/// A finished client side handshake.
///
/// In TLS 1.3 a client is done before the server has looked at the client's certificate. A server that refuses
/// ours shows that only by an alert at the first read.
#[derive(Debug)]
pub struct Connected {
    /// The plaintext.
    pub stream: Stream,
    /// The protocol agreed on.
    pub alpn: Option<Vec<u8>>,
}

/// Why a handshake failed. No application data was sent, so another attempt is always safe; where a variant
/// says nothing else, it is also sensible.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The other side's certificate is refused. Its fault, or that of the configuration that named it; useless
    /// to repeat against the same endpoint until its certificate changes.
    #[error("{0}")]
    Refused(Refusal),
    /// We have no certificate yet, so nobody can be accepted. Ours; passes once the identity is issued.
    #[error("no certificate has been issued to us yet")]
    NotReady,
    /// The handshake took longer than allowed. The other side's or the network's.
    #[error("the TLS handshake took longer than {0:?}")]
    Timeout(Duration),
    /// The other side broke the protocol, or shares no parameters with us; the text names the alert. Its fault,
    /// unless the alert says that it refuses our certificate.
    #[error("the TLS handshake failed: {0}")]
    Handshake(String),
    /// The server owns no certificate for the name that we asked for: somebody else has that address.
    #[error("the server says that the name asked for is not its own")]
    NotOwned,
    /// The client asked for a name that is not ours.
    #[error("the TLS client asked for {}", .0.as_deref().map_or("no name".into(), |name| format!("`{name}`, which is not ours")))]
    UnknownName(Option<String>),
    /// The connection broke. The network's or the other side's.
    #[error("the connection broke during the TLS handshake: {0}")]
    Io(#[source] io::Error),
}

impl TlsError {
    /// The row of the catalogue that this belongs to.
    pub fn code(&self) -> Code {
        match self {
            TlsError::Refused(Refusal::Untrusted(_)) => Code::TlsUntrusted,
            TlsError::Refused(Refusal::WrongIdentity { .. } | Refusal::Nameless) | TlsError::NotOwned => {
                Code::TlsWrongIdentity
            }
            TlsError::Refused(Refusal::Expired { .. } | Refusal::NotYetValid { .. }) => Code::TlsExpired,
            TlsError::Refused(Refusal::Malformed(_))
            | TlsError::NotReady
            | TlsError::Timeout(_)
            | TlsError::Handshake(_)
            | TlsError::UnknownName(_)
            | TlsError::Io(_) => Code::TlsFailed,
        }
    }
}

impl From<io::Error> for TlsError {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            // What rustls' own servers say who find no certificate for the name is the second.
            Some(rustls::Error::AlertReceived(
                AlertDescription::UnrecognisedName | AlertDescription::AccessDenied,
            )) => TlsError::NotOwned,
            Some(tls) => match Refusal::of(tls) {
                Some(refusal) => TlsError::Refused(refusal),
                None => TlsError::Handshake(tls.to_string().chars().take(300).collect()),
            },
            None => TlsError::Io(error),
        }
    }
}

/// Accepts with a configuration already chosen.
pub(crate) async fn accept(
    config: Arc<ServerConfig>,
    stream: Stream,
    server_name: DnsName,
    timeout: Duration,
) -> Result<Accepted, TlsError> {
    let handshake = TlsAcceptor::from(config).accept(stream);
    let session = within(timeout, handshake).await?;
    accepted(session.into(), server_name)
}

/// Reads the ClientHello, for [`finish`] to go on with.
pub(crate) async fn start(stream: Stream) -> Result<StartHandshake<Stream>, TlsError> {
    Ok(LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?)
}

/// Goes on after [`start`].
pub(crate) async fn finish(
    start: StartHandshake<Stream>,
    config: Arc<ServerConfig>,
    server_name: DnsName,
) -> Result<Accepted, TlsError> {
    accepted(start.into_stream(config).await?.into(), server_name)
}

/// Tells a client that asked for a name which is not ours that it is not (RFC 6066 §3), and closes the connection.
/// Dropping the future closes it without a word.
pub async fn disown(mut stream: Stream) {
    /// A fatal `unrecognized_name` in a record of its own: TLS 1.2's number is what is sent before an agreement.
    const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
    // Who has gone meanwhile need not be told.
    let _ = stream.write_all(&ALERT).await;
    let _ = stream.shutdown().await;
}

fn accepted(session: TlsStream<Stream>, server_name: DnsName) -> Result<Accepted, TlsError> {
    let (_, state) = session.get_ref();
    let client = match state.peer_certificates().and_then(<[_]>::first) {
        None => None,
        Some(der) => {
            let certificate = Certificate::parse(der).map_err(|e| TlsError::Refused(e.into()))?;
            Some(certificate.id().cloned().ok_or(TlsError::Refused(Refusal::Nameless))?)
        }
    };
    let alpn = state.alpn_protocol().map(<[u8]>::to_vec);
    Ok(Accepted { stream: Stream::tls(session), client, alpn, server_name })
}

/// Connects with a configuration already made for the target.
pub(crate) async fn connect(
    config: ClientConfig,
    stream: Stream,
    sni: &DnsName,
) -> Result<Connected, TlsError> {
    let name = ServerName::try_from(sni.as_str().to_owned())
        .map_err(|_| TlsError::Handshake(format!("`{sni}` cannot be sent as SNI")))?;
    let session = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let alpn = session.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    Ok(Connected { stream: Stream::tls(session.into()), alpn })
}

/// Runs a handshake, or a part of one, for at most `timeout`.
pub(crate) async fn within<T, E: Into<TlsError>>(
    timeout: Duration,
    handshake: impl Future<Output = Result<T, E>>,
) -> Result<T, TlsError> {
    match tokio::time::timeout(timeout, handshake).await {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(_) => Err(TlsError::Timeout(timeout)),
    }
}
