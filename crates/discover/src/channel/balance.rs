//! A call goes to the replica of the controller that answers fastest and is reachable.

use super::body::{Observe, Observed, Outcome};
use super::count::Metrics;
use super::http2::Connection;
use super::replica::Replica;
use super::resolve;
use super::{ChannelError, ChannelSettings};
use futures_util::future::BoxFuture;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::task::AbortHandle;
use tokio_util::sync::ReusableBoxFuture;
use tower_service::Service;
use weft_balance::{Backend, Params, Pending, Picked, Snapshot, Unavailable};
use weft_model::route::Queue;
use weft_names::Resolver;
use weft_wire::services::{Body, BoxError};

/// How often a call that was certainly not sent goes to a replica anew. Each time a connection was
/// found closed; a third time says that something else is wrong.
const ATTEMPTS: usize = 3;

/// The replicas of a controller, connected and balanced. Clones share them; they are let go with the
/// last clone and the channel.
#[derive(Clone)]
pub struct Replicas {
    backend: Backend<Replica>,
    _resolving: Arc<Abort>,
}

struct Abort(AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Replicas {
    /// Starts resolving and connecting, on the current runtime.
    pub(super) fn new<C>(
        settings: &ChannelSettings,
        resolver: Resolver,
        metrics: &Metrics,
        connect: C,
    ) -> Self
    where
        C: Service<SocketAddr, Response = Connection, Error = BoxError> + Clone + Send + Sync + 'static,
        C::Future: Send,
    {
        let backoff = settings.backoff;
        // The buffer above says how long calls wait; here they wait for as long as they are polled.
        let queue = Queue { capacity: settings.buffer, failfast: Duration::MAX };
        let params = Params { queue, ..Params::default() };
        let backend = Backend::new(params, move |info, readiness| {
            Replica::start(connect.clone(), info.addr, backoff, readiness)
        });
        let (target, resolutions) = (backend.clone(), metrics.resolutions());
        let following =
            resolve::follow(settings.addr.clone(), resolver, backoff, resolutions, move |change| {
                target.apply(change);
            });
        let resolving = Arc::new(Abort(tokio::spawn(following).abort_handle()));
        Self { backend, _resolving: resolving }
    }

    /// What the balancer counts, for `control_*_balancer_*`.
    pub fn metrics(&self) -> &Arc<weft_balance::Metrics> {
        self.backend.metrics()
    }

    /// Every replica with its state and load, for `/state.json`.
    pub fn snapshot(&self) -> Snapshot {
        self.backend.snapshot()
    }

    /// Why no replica is connected, while none is.
    pub fn trouble(&self) -> Option<String> {
        let snapshot = self.snapshot();
        match (snapshot.ready, snapshot.known, snapshot.last_failure) {
            (0, _, Some((addr, failure))) => Some(format!("{addr}: {failure}")),
            (0, 0, None) => Some("the control plane's name is not resolved yet".into()),
            _ => None,
        }
    }
}

/// Sends calls to replicas. Ready when one is.
pub(super) struct Balance {
    replicas: Replicas,
    waiting: Option<ReusableBoxFuture<'static, Result<Picked<Replica>, Unavailable>>>,
    picked: Option<Picked<Replica>>,
}

impl Balance {
    pub(super) fn new(replicas: Replicas) -> Self {
        Self { replicas, waiting: None, picked: None }
    }
}

impl Clone for Balance {
    fn clone(&self) -> Self {
        Self::new(self.replicas.clone())
    }
}

impl Service<http::Request<Body>> for Balance {
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<http::Response<Body>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.picked.is_some() {
            return Poll::Ready(Ok(()));
        }
        let waiting = self.waiting.get_or_insert_with(|| {
            let backend = self.replicas.backend.clone();
            ReusableBoxFuture::new(async move { backend.ready(None).await })
        });
        let picked = ready!(waiting.poll(cx));
        self.waiting = None;
        self.picked = Some(picked.map_err(ChannelError::Unavailable)?);
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (picked, backend) = (self.picked.take(), self.replicas.backend.clone());
        Box::pin(async move {
            let mut picked = match picked {
                Some(picked) => picked,
                None => backend.ready(None).await.map_err(ChannelError::Unavailable)?,
            };
            let mut request = request;
            for _ in 0..ATTEMPTS {
                let sent = picked.endpoint().send(request).await;
                let mut pending = picked.into_pending();
                match sent {
                    Ok(response) => {
                        let first_frame = FirstFrame(Some(pending));
                        return Ok(response.map(|body| Observed::wrap(Body::new(body), first_frame)));
                    }
                    Err((error, unsent)) => {
                        pending.fail(now(), None);
                        request = unsent.ok_or(error)?;
                    }
                }
                // Lets the replica notice that its connection is closed.
                tokio::task::yield_now().await;
                picked = backend.ready(None).await.map_err(ChannelError::Unavailable)?;
            }
            Err(ChannelError::Closed.into())
        })
    }
}

/// The present time, on tokio's clock so that tests can pause it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A call is pending at its replica until the first frame of its response.
struct FirstFrame(Option<Pending<Replica>>);

impl Observe for FirstFrame {
    fn first_frame(&mut self) {
        if let Some(mut pending) = self.0.take() {
            pending.first_frame(now());
        }
    }

    fn end(&mut self, _: Outcome<'_>) {
        self.0 = None;
    }
}
