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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_test::{assert_pending, assert_ready_ok};
    use tower_test::mock;
    use weft_identity::authority::{Authority, Lifetimes};
    use weft_identity::store::LocalName;

    const NAME: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";

    #[tokio::test]
    async fn a_controller_that_needs_a_certificate_is_not_connected_to_before_there_is_one() {
        let directory = std::env::temp_dir().join(format!("weft-channel-tls-{}", std::process::id()));
        let authority = Authority::open_now(&directory, "root", Lifetimes::default()).unwrap();
        let name = LocalName { id: NAME.parse().unwrap(), server_name: NAME.parse().unwrap() };
        let store = Store::new(name.clone(), (*authority.anchors()).clone());
        let server = TlsTarget { id: name.id, server_name: name.server_name };
        let security =
            |certificate| Security::Tls { store: store.clone(), server: server.clone(), certificate };

        let any = |inner| Tls::new(inner, security(ClientCertificate::IfAny));
        let (mut any, _handle) = mock::spawn_with::<SocketAddr, Stream, _, _>(any);
        assert_ready_ok!(any.poll_ready());

        let required = |inner| Tls::new(inner, security(ClientCertificate::Required));
        let (mut required, mut handle) = mock::spawn_with::<SocketAddr, Stream, _, _>(required);
        assert_pending!(required.poll_ready());
        let (issued, key) = authority.issue_own(store.local_id()).unwrap();
        store.install([vec![issued.leaf], issued.intermediates].concat(), key).unwrap();
        assert!(required.is_woken());
        handle.allow(0);
        assert_pending!(required.poll_ready(), "the layer below is asked, too");
        handle.allow(1);
        assert_ready_ok!(required.poll_ready());

        // What the layer below says is passed on; what it connects is not taken for TLS.
        let addr = SocketAddr::from(([10, 0, 0, 1], 1));
        let connecting = tokio::spawn(required.call(addr));
        let (asked, reply) = handle.next_request().await.unwrap();
        let (near, far) = tokio::io::duplex(4096);
        drop(far);
        reply.send_response(Stream::memory(near));
        assert_eq!(asked, addr);
        let error = connecting.await.unwrap().unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(ChannelError::Tls(_))), "{error}");
        let _ = std::fs::remove_dir_all(directory);
    }
}
