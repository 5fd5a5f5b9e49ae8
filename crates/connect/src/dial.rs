//! One connection to an endpoint: TCP, then TLS, then the transport header, under one time limit.
//!
//! `pool`, `multiplex` and `tunnel` call `Reach::stream`. A failure is reported to the endpoint's backend
//! before anybody else hears of it, so no further request is sent there. It never falls back to
//! plaintext.

use crate::context::{Context, Loopback, ReadyWhen};
use crate::error::ConnectError;
use crate::transport::Transport;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use weft_balance::{EndpointState, Failure, Readiness};
use weft_model::destination::{EndpointInfo, ProtocolHint};
use weft_net::stream::Stream;
use weft_wire::header::{self, Header, Session};

/// How one endpoint is reached, shared by all that connect to it.
pub(crate) struct Reach {
    pub(crate) info: Arc<EndpointInfo>,
    pub(crate) context: Arc<Context>,
    pub(crate) readiness: Readiness,
    /// Wakes the endpoint's task after a failed attempt.
    pub(crate) suspect: Notify,
    pub(crate) counts: Counts,
    /// Resolved with the first connection, and held by those that are open: an endpoint at rest needs none.
    transport: Mutex<Weak<Transport>>,
    last_error: Mutex<Option<ConnectError>>,
}

/// What connecting has come to so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) connected: AtomicU64,
    pub(crate) failed: AtomicU64,
}

impl Reach {
    pub(crate) fn new(info: Arc<EndpointInfo>, context: Arc<Context>, readiness: Readiness) -> Self {
        Self {
            info,
            context,
            readiness,
            suspect: Notify::new(),
            counts: Counts::default(),
            transport: Mutex::default(),
            last_error: Mutex::new(None),
        }
    }

    /// A fresh stream on which nothing but the transport header has been said.
    pub(crate) async fn stream(&self, session: Option<Session>) -> Result<Stream, ConnectError> {
        let limit = self.context.connect_timeout;
        let addr = target(&self.info);
        let outcome = match tokio::time::timeout(limit, self.attempt(addr, session)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ConnectError::Timeout { addr, limit }),
        };
        match &outcome {
            Ok(_) => _ = self.counts.connected.fetch_add(1, Relaxed),
            Err(error) => self.failed(error),
        }
        outcome.map(|stream| match self.transport() {
            Some(transport) => transport.open(stream),
            None => stream,
        })
    }

    fn transport(&self) -> Option<Arc<Transport>> {
        let mut known = self.transport.lock().unwrap_or_else(PoisonError::into_inner);
        let transport = known
            .upgrade()
            .or_else(|| self.context.counting.transport(&self.info, self.context.no_tls(&self.info)))?;
        *known = Arc::downgrade(&transport);
        Some(transport)
    }

    async fn attempt(&self, addr: SocketAddr, session: Option<Session>) -> Result<Stream, ConnectError> {
        guard(&self.context, addr)?;
        let io = |error| ConnectError::io(addr, error);
        let stream = self.context.connector.connect(addr).await.map_err(io)?;
        let Some(tls) = &self.info.tls else { return Ok(stream) };
        let store = self.context.identity.as_ref().ok_or(ConnectError::NoIdentity(addr))?;
        let alpn: &[&[u8]] = if wants_header(&self.info) { &[header::ALPN] } else { &[] };
        let connected = store
            .connect(stream, tls, alpn)
            .await
            .map_err(|error| ConnectError::Tls { addr, source: Arc::new(error) })?;
        let mut stream = connected.stream;
        if connected.alpn.as_deref() == Some(header::ALPN) {
            let header = transport_header(&self.info, session);
            stream.write_all(&header.encode()).await.map_err(io)?;
            stream.flush().await.map_err(io)?;
        }
        Ok(stream)
    }

    /// Takes note of a failure: in force for the next pick.
    pub(crate) fn failed(&self, error: &ConnectError) {
        self.counts.failed.fetch_add(1, Relaxed);
        tracing::debug!(endpoint = %self.info.addr, code = %error.code(), %error, "cannot connect");
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        if self.context.ready_when != ReadyWhen::Always {
            let failure = Failure { code: error.code(), detail: error.to_string() };
            self.readiness.set(EndpointState::Failed(Arc::new(failure)));
            self.suspect.notify_one();
        }
    }

    pub(crate) fn last_error(&self) -> Option<ConnectError> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Refuses addresses that must not be reached from here.
fn guard(context: &Context, addr: SocketAddr) -> Result<(), ConnectError> {
    if context.is_own_listener(addr) {
        return Err(ConnectError::OwnListener(addr));
    }
    if context.loopback == Loopback::Refused && addr.ip().to_canonical().is_loopback() {
        return Err(ConnectError::Loopback(addr));
    }
    Ok(())
}

/// Where the TCP connection goes: a meshed endpoint's proxy, if its port is announced.
pub(crate) fn target(info: &EndpointInfo) -> SocketAddr {
    match info.transport_port {
        Some(port) if info.tls.is_some() => SocketAddr::new(info.addr.ip(), port.get()),
        _ => info.addr,
    }
}

/// Whether the transport header is offered (§3.7).
fn wants_header(info: &EndpointInfo) -> bool {
    info.transport_port.is_some() || info.authority_override.is_some()
}

/// What the transport header says: the endpoint's port, or name and port of an authority override that
/// carries a port. Under the opaque hint the session protocol is left out.
fn transport_header(info: &EndpointInfo, session: Option<Session>) -> Header {
    let session = session.filter(|_| info.hint != ProtocolHint::Opaque);
    let overridden = info.authority_override.as_deref().and_then(|authority| {
        let (host, port) = authority.rsplit_once(':')?;
        Some((host.parse().ok()?, port.parse().ok()?))
    });
    match overridden {
        Some((name, port)) => Header { port, name: Some(name), session },
        // Discovery announces no port 0; should it, the connection itself has failed already.
        None => {
            Header { port: NonZeroU16::new(info.addr.port()).unwrap_or(NonZeroU16::MIN), name: None, session }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::identity::TlsTarget;

    fn meshed(change: impl FnOnce(&mut EndpointInfo)) -> EndpointInfo {
        let mut info = EndpointInfo::plain("10.0.0.1:8080".parse().unwrap());
        info.tls =
            Some(TlsTarget { id: "web.shop".parse().unwrap(), server_name: "web.shop".parse().unwrap() });
        change(&mut info);
        info
    }

    fn check(
        info: &EndpointInfo,
        session: Option<Session>,
        expected: (&str, u16, Option<&str>, Option<Session>),
    ) {
        let (tcp, port, name, said) = expected;
        let header = transport_header(info, session);
        assert_eq!(target(info).to_string(), tcp);
        assert_eq!((header.port.get(), header.name.as_ref().map(|n| n.as_str())), (port, name));
        assert_eq!(header.session, said);
    }

    #[test]
    fn targets_and_headers_follow_discovery() {
        let http2 = Some(Session::Http2);
        let port = NonZeroU16::new(4143);
        let info = meshed(|i| i.transport_port = port);
        check(&info, http2, ("10.0.0.1:4143", 8080, None, http2));
        assert!(wants_header(&info));
        let info = meshed(|i| {
            i.transport_port = port;
            i.hint = ProtocolHint::Opaque;
        });
        check(&info, http2, ("10.0.0.1:4143", 8080, None, None));
        let info = meshed(|i| i.authority_override = Some("web.shop:80".into()));
        check(&info, None, ("10.0.0.1:8080", 80, Some("web.shop"), None));
        assert!(wants_header(&info));
        let info = meshed(|i| i.authority_override = Some("web.shop".into()));
        check(&info, http2, ("10.0.0.1:8080", 8080, None, http2));
        let plain = meshed(|i| {
            i.tls = None;
            i.transport_port = port;
        });
        check(&plain, http2, ("10.0.0.1:8080", 8080, None, http2));
        assert!(!wants_header(&meshed(|_| {})));
    }
}
