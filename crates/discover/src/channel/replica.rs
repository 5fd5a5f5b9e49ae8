//! One replica of a controller, kept connected.
//!
//! A task connects, reports readiness to the balancer, waits for the connection to close and connects
//! again, with exponential backoff between failures. Calls take the connection as it is; they never
//! wait for one here.

use super::error::{describe, failure};
use super::http2::Connection;
use hyper::body::Incoming;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tower::ServiceExt;
use tower_service::Service;
use weft_balance::{EndpointState, Failure, Readiness};
use weft_model::reason::Code;
use weft_model::route::Backoff;
use weft_wire::services::{Body, BoxError};

/// A connection that lasted this long has shown that the replica works: the next attempt follows at
/// once when it closes. A replica that accepts and closes is met with backoff. A guess, long against a
/// handshake and short against any real connection.
const SETTLED: Duration = Duration::from_secs(1);

/// The end of a connection that a replica is kept up with.
pub(super) trait Link: Clone + Send + 'static {
    /// Resolves when the connection takes no more calls; says why.
    fn wait_closed(&mut self) -> impl Future<Output = String> + Send;
}

impl Link for Connection {
    async fn wait_closed(&mut self) -> String {
        self.closed().await
    }
}

/// The replica's connection, while there is one.
type Current<L> = Arc<Mutex<Option<L>>>;

/// One replica. Dropping it stops the reconnecting; calls in flight go on.
pub(super) struct Replica {
    addr: SocketAddr,
    current: Current<Connection>,
    task: AbortHandle,
}

impl Replica {
    /// Starts connecting, on the current runtime.
    pub(super) fn start<C>(connect: C, addr: SocketAddr, backoff: Backoff, readiness: Readiness) -> Self
    where
        C: Service<SocketAddr, Response = Connection, Error = BoxError> + Send + 'static,
        C::Future: Send,
    {
        let current = Current::default();
        let keep = Keep { connect, addr, backoff, current: current.clone() };
        let task = tokio::spawn(keep.connected(readiness)).abort_handle();
        Self { addr, current, task }
    }

    /// Sends a request. `Err(Some(_))` gives it back: it was certainly not sent.
    pub(super) async fn send(
        &self,
        request: http::Request<Body>,
    ) -> Result<http::Response<Incoming>, (BoxError, Option<http::Request<Body>>)> {
        let connection = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(mut connection) = connection else {
            return Err((super::ChannelError::Closed.into(), Some(request)));
        };
        connection.send(request).await.map_err(|unanswered| {
            tracing::debug!(addr = %self.addr, error = describe(&unanswered.error), "a call got no answer");
            (super::ChannelError::Http2(unanswered.error).into(), unanswered.request)
        })
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
        self.current.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

struct Keep<C, L> {
    connect: C,
    addr: SocketAddr,
    backoff: Backoff,
    current: Current<L>,
}

impl<C, L> Keep<C, L>
where
    C: Service<SocketAddr, Response = L, Error = BoxError>,
    L: Link,
{
    async fn connected(mut self, readiness: Readiness) {
        let addr = self.addr;
        let mut failures = 0;
        loop {
            let failure = match self.attempt().await {
                Ok(mut link) => {
                    let since = Instant::now();
                    self.set(Some(link.clone()));
                    readiness.set(EndpointState::Ready);
                    let why = link.wait_closed().await;
                    self.set(None);
                    if since.elapsed() >= SETTLED {
                        tracing::info!(%addr, %why, "lost the connection to a controller, connecting again");
                        readiness.set(EndpointState::Connecting);
                        failures = 0;
                        continue;
                    }
                    Failure { code: Code::ConnectionLost, detail: why }
                }
                Err(error) => failure(&error),
            };
            // Once a failure, not once an attempt: an outage is one line.
            match failures {
                0 => tracing::warn!(%addr, %failure, "cannot reach a controller, trying again and again"),
                _ => tracing::debug!(%addr, %failure, failures, "still cannot reach a controller"),
            }
            readiness.set(EndpointState::Failed(Arc::new(failure)));
            tokio::time::sleep(self.backoff.wait(failures, fastrand::f64())).await;
            failures = failures.saturating_add(1);
        }
    }

    async fn attempt(&mut self) -> Result<L, BoxError> {
        self.connect.ready().await?.call(self.addr).await
    }

    fn set(&self, link: Option<L>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = link;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::watch;
    use tower_test::mock;

    const MS: Duration = Duration::from_millis(1);
    const BACKOFF: Backoff =
        Backoff { min: Duration::from_millis(100), max: Duration::from_secs(1), jitter: 0.0 };

    /// A connection that closes when told, or when the other end is dropped.
    #[derive(Clone)]
    struct Wire(watch::Receiver<bool>);

    impl Link for Wire {
        async fn wait_closed(&mut self) -> String {
            let _ = self.0.wait_for(|closed| *closed).await;
            "cut".into()
        }
    }

    fn wire() -> (Wire, watch::Sender<bool>) {
        let (cut, wire) = watch::channel(false);
        (Wire(wire), cut)
    }

    type Mock = (tokio::task::JoinHandle<()>, mock::Handle<SocketAddr, Wire>, Current<Wire>);

    fn keep() -> Mock {
        let (connect, handle) = mock::pair();
        let current = Current::default();
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        let keep = Keep { connect, addr, backoff: BACKOFF, current: current.clone() };
        (tokio::spawn(keep.connected(Readiness::unwatched())), handle, current)
    }

    async fn answer(handle: &mut mock::Handle<SocketAddr, Wire>, answer: Option<Wire>) -> Instant {
        let (_, reply) = handle.next_request().await.unwrap();
        match answer {
            Some(wire) => reply.send_response(wire),
            None => reply.send_error(ChannelErrorForTest),
        }
        Instant::now()
    }

    #[derive(Debug, thiserror::Error)]
    #[error("refused")]
    struct ChannelErrorForTest;

    #[tokio::test(start_paused = true)]
    async fn failed_attempts_back_off_and_a_settled_connection_is_renewed_at_once() {
        let (task, mut handle, current) = keep();
        let begun = Instant::now();
        for expected in [0, 100, 300, 700, 1500] {
            let at = answer(&mut handle, None).await;
            assert_eq!(at - begun, MS * expected);
        }
        let (first, cut) = wire();
        let at = answer(&mut handle, Some(first)).await;
        assert_eq!(at - begun, MS * 2500);
        tokio::task::yield_now().await; // lets the task take the connection up
        tokio::time::advance(SETTLED).await;
        assert!(current.lock().unwrap().is_some());
        cut.send_replace(true);
        let (second, cut) = wire();
        let again = answer(&mut handle, Some(second)).await;
        assert_eq!(again - at, SETTLED);
        cut.send_replace(true);
        let third = answer(&mut handle, None).await;
        assert_eq!(third - again, MS * 100, "a connection that closes at once counts as a failure");
        assert!(current.lock().unwrap().is_none());
        task.abort();
    }
}
