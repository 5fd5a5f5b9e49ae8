//! Mutual TLS to a controller, or none on loopback.
//!
//! Controllers that demand a client certificate are not even connected to before there is one: a
//! connection made earlier would stay anonymous for its whole life.

use super::ChannelError;
use futures_util::future::BoxFuture;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};
use tokio_util::sync::ReusableBoxFuture;
use tower_service::Service;
use weft_identity::store::Store;
use weft_model::identity::TlsTarget;
use weft_net::stream::Stream;
use weft_wire::services::BoxError;

/// How connections to a controller are secured.
#[derive(Clone, Debug)]
pub enum Security {
    /// Not at all; for loopback only, which the settings see to.
    Plain,
    /// By TLS, without ALPN.
    Tls {
        /// Our identity and the anchors.
        store: Store,
        /// Who the controller must prove to be (`*_NAME`).
        server: TlsTarget,
        /// Whether to wait for a certificate of ours.
        certificate: ClientCertificate,
    },
}

/// Whether a controller must see a certificate of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    /// Connect only once there is one (destination and policy).
    Required,
    /// Show one if there is one (identity, which issues the first).
    IfAny,
}

/// Puts TLS on what the layer below connects. Ready when it may connect.
pub(super) struct Tls<C> {
    inner: C,
    security: Security,
    waiting: Option<ReusableBoxFuture<'static, ()>>,
}

impl<C> Tls<C> {
    pub(super) fn new(inner: C, security: Security) -> Self {
        Self { inner, security, waiting: None }
    }
}

impl<C: Clone> Clone for Tls<C> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.security.clone())
    }
}

impl<C> Service<SocketAddr> for Tls<C>
where
    C: Service<SocketAddr, Response = Stream, Error = BoxError>,
    C::Future: Send + 'static,
{
    type Response = Stream;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Stream, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if let Security::Tls { store, certificate: ClientCertificate::Required, .. } = &self.security
            && !store.is_ready()
        {
            let waiting = self.waiting.get_or_insert_with(|| {
                let store = store.clone();
                ReusableBoxFuture::new(async move { store.wait_ready().await })
            });
            ready!(waiting.poll(cx));
        }
        self.waiting = None;
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, addr: SocketAddr) -> Self::Future {
        let connecting = self.inner.call(addr);
        let security = self.security.clone();
        Box::pin(async move {
            let stream = connecting.await?;
            match security {
                Security::Plain => Ok(stream),
                Security::Tls { store, server, .. } => {
                    let connected = store.connect(stream, &server, &[]).await;
                    Ok(connected.map_err(ChannelError::Tls)?.stream)
                }
            }
        })
    }
}
