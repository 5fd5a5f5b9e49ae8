//! Accept loops: every listener of the proxy, and the bounds on its connections.
//!
//! `run` starts one task a listener. Each accepted connection becomes a task that `serve` lives in. Running
//! out of descriptors pauses the loop and is counted; it neither spins nor ends it. Draining ends it.

use crate::limits::Limit;
use crate::serve::Incoming;
use crate::via::Shared;
use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use weft_model::reason::{Code, Hop, Phase, Reason};
use weft_net::drain::Guard;
use weft_net::socket::{self, AcceptError, SocketOptions};
use weft_net::stream::Stream;
use weft_telemetry::{Counter, Family, Gauge, Registry};

/// What a listener is for, as its metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Redirected traffic of the application.
    Outbound,
    /// An explicit upstream.
    Upstream,
    /// The forward proxy.
    ForwardProxy,
    /// Redirected or direct traffic to the workload.
    Inbound,
    /// An explicit port of the workload.
    Bind,
}

impl Role {
    pub(crate) fn hop(self) -> Hop {
        match self {
            Role::Outbound | Role::Upstream | Role::ForwardProxy => Hop::Outbound,
            Role::Inbound | Role::Bind => Hop::Inbound,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Role::Outbound => "outbound",
            Role::Upstream => "upstream",
            Role::ForwardProxy => "forward-proxy",
            Role::Inbound => "inbound",
            Role::Bind => "bind",
        }
    }
}

/// Counts of all accept loops. The peer's `tcp_*` families count what is served of it, with who it turned out to be.
#[derive(Clone, Debug)]
pub(crate) struct AcceptMetrics {
    accepted: Family<Counter>,
    open: Family<Gauge>,
    pauses: Family<Counter>,
}

impl AcceptMetrics {
    /// Registers the families.
    pub(crate) fn new(registry: &Registry) -> Self {
        let (accepted, open) = ("weft_accepted_connections_total", "weft_accepted_connections");
        let pauses = "Pauses of an accept loop for want of descriptors.";
        Self {
            accepted: registry
                .counters(accepted, "Connections that a listener accepted.")
                .labels(&["listener"]),
            open: registry.gauges(open, "Accepted connections that are open now.").labels(&["listener"]),
            pauses: registry.counters("weft_accept_pauses_total", pauses).labels(&["listener"]),
        }
    }
}

/// Bounds on a listener's connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// In all.
    pub(crate) total: usize,
    /// From one address.
    pub(crate) per_source: usize,
    /// How long to pause when descriptors run out.
    pub(crate) pause: Duration,
}

/// A bound listener, not yet accepting.
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    pub(crate) role: Role,
    pub(crate) options: SocketOptions,
    pub(crate) bounds: Bounds,
}

/// Connections of one listener by source.
#[derive(Default)]
struct Sources {
    by_ip: HashMap<IpAddr, usize>,
}

/// One accepted connection's place in the bounds and in the gauges.
struct Place {
    sources: Arc<Mutex<Sources>>,
    ip: IpAddr,
    open: Gauge,
    _permit: OwnedSemaphorePermit,
    /// From the start: its request may already be on its way.
    _guard: Guard,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.dec();
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sources.by_ip.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                sources.by_ip.remove(&self.ip);
            }
        }
    }
}

impl Listener {
    /// Binds, with the address in the error.
    pub(crate) fn bind(
        addr: SocketAddr,
        role: Role,
        options: SocketOptions,
        bounds: Bounds,
    ) -> std::io::Result<Self> {
        let socket = socket::listen(addr, &options).map_err(|e| {
            std::io::Error::new(e.kind(), format!("cannot listen on {addr} ({}): {e}", role.as_str()))
        })?;
        Ok(Self { socket, role, options, bounds })
    }

    /// Where it listens.
    pub(crate) fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts until the proxy drains; `serve` makes the life of each connection.
    pub(crate) async fn run<F>(
        self,
        shared: Arc<Shared>,
        metrics: AcceptMetrics,
        serve: impl Fn(Accepted) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let labels = [("listener", self.role.as_str())];
        let (opened, open) = (metrics.accepted.series(&labels), metrics.open.series(&labels));
        let pauses = metrics.pauses.series(&labels);
        let sources = Arc::new(Mutex::new(Sources::default()));
        let drained = shared.drains.of(self.role.hop()).signaled();
        tokio::pin!(drained);
        let places = Arc::new(Semaphore::new(self.bounds.total.min(Semaphore::MAX_PERMITS)));
        loop {
            // Beyond the total, connections wait in the kernel's backlog.
            if places.available_permits() == 0 {
                shared.reports.limits.reached(Limit::Connections, self.role.hop());
            }
            let accepted = tokio::select! {
                biased;
                () = &mut drained => return,
                accepted = next(&self.socket, &places) => accepted,
            };
            let ((tcp, client), permit) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => match AcceptError::of(&error) {
                    AcceptError::Connection => continue,
                    AcceptError::Exhausted => {
                        pauses.inc();
                        tracing::warn!(%error, listener = self.role.as_str(), "pausing: no more descriptors");
                        tokio::time::sleep(self.bounds.pause).await;
                        continue;
                    }
                    AcceptError::Listener => {
                        tracing::error!(%error, listener = self.role.as_str(), "the listener broke");
                        return;
                    }
                },
            };
            let Some(()) = enter(&sources, client.ip(), &self.bounds) else {
                let reason = Reason::new(Code::ConnectionLimit, self.role.hop(), Phase::Accept);
                shared
                    .reports
                    .connection(&reason.detail(format!("on the {} listener", self.role.as_str())), client);
                continue;
            };
            open.inc();
            opened.inc();
            let place = Place {
                sources: sources.clone(),
                ip: client.ip(),
                open: open.clone(),
                _permit: permit,
                _guard: shared.drains.of(self.role.hop()).guard(),
            };
            if let Err(error) = socket::prepare(&tcp, &self.options) {
                tracing::debug!(%error, %client, "the connection was gone before it was served");
                continue;
            }
            tokio::spawn(Life { serving: serve(Accepted { tcp, client }), _place: place });
        }
    }
}

pin_project_lite::pin_project! {
    /// A connection's task: an `async` block that awaits what it was given would hold that twice.
    struct Life<F> {
        #[pin]
        serving: F,
        _place: Place,
    }
}

impl<F: Future<Output = ()>> Future for Life<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.project().serving.poll(cx)
    }
}

/// A connection fresh from its listener.
pub(crate) struct Accepted {
    pub(crate) tcp: TcpStream,
    pub(crate) client: SocketAddr,
}

impl From<Accepted> for Incoming {
    fn from(accepted: Accepted) -> Self {
        Incoming { stream: Stream::tcp(accepted.tcp), client: accepted.client }
    }
}

/// The next connection, once there is a place for it.
async fn next(
    socket: &TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<((TcpStream, SocketAddr), OwnedSemaphorePermit)> {
    let permit = places.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    Ok((socket.accept().await?, permit))
}

fn enter(sources: &Mutex<Sources>, ip: IpAddr, bounds: &Bounds) -> Option<()> {
    let mut sources = sources.lock().unwrap_or_else(PoisonError::into_inner);
    let count = sources.by_ip.entry(ip).or_default();
    if *count >= bounds.per_source {
        return None;
    }
    *count += 1;
    Some(())
}
