//! The way to a controller: layers from the socket up to what the clients of `wire` run on.
//!
//! The assembler of the proxy opens one channel for each controller. A channel connects to every replica
//! and keeps reconnecting; calls wait in a bounded buffer while no replica is there, and fail after the
//! dispatch timeout. It retries no call that may have been processed: `stream.rs` decides what to repeat.

mod balance;
mod body;
mod buffer;
mod count;
mod dial;
mod error;
mod http2;
mod origin;
mod replica;
mod resolve;
mod tls;

pub use balance::Replicas;
pub use count::{Controller, Metrics};
pub use error::ChannelError;
pub use tls::{ClientCertificate, Security};

use http::uri::Authority;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::runtime;
use tower::timeout::TimeoutLayer;
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, layer::layer_fn};
use tower_service::Service;
use weft_model::address::Addr;
use weft_model::destination::KeepAlive;
use weft_model::route::Backoff;
use weft_names::Resolver;
use weft_net::socket::SocketOptions;
use weft_net::stream::Stream;
use weft_wire::services::{BoxError, Channel};

/// Whether a controller is on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// A loopback address, or the name `localhost`.
    Loopback,
    /// Anything else.
    Remote,
}

/// The waits between attempts to reach a controller: from 100 ms up to 10 s on loopback, where a
/// restart is watched by a person, and up to 60 s elsewhere, with 10 % jitter.
pub const fn backoff_for(reach: Reach) -> Backoff {
    let max = match reach {
        Reach::Loopback => Duration::from_secs(10),
        Reach::Remote => Duration::from_secs(60),
    };
    Backoff { min: Duration::from_millis(100), max, jitter: 0.1 }
}

/// How a controller is reached.
#[derive(Clone, Debug)]
pub struct ChannelSettings {
    /// Its address (`*_SVC_ADDR`). A name is resolved again and again.
    pub addr: Addr,
    /// What requests name as authority: the address as configured.
    pub authority: Authority,
    /// TCP keepalive and user timeout.
    pub socket: SocketOptions,
    /// Limit of connecting, TLS included: 300 ms on loopback, 1 s elsewhere.
    pub connect_timeout: Duration,
    /// PINGs on the connection: every 10 s, answered within 3 s, or the replica counts as dead.
    pub keep_alive: KeepAlive,
    /// Waits between attempts to connect and to resolve.
    pub backoff: Backoff,
    /// Calls that may wait for a replica: 1,000.
    pub buffer: usize,
    /// How long they wait: 30 s.
    pub dispatch_timeout: Duration,
}

impl ChannelSettings {
    /// The defaults for an address.
    ///
    /// # Errors
    /// The address cannot stand in a request, which no valid address does.
    pub fn new(addr: Addr) -> Result<Self, http::uri::InvalidUri> {
        let reach = if addr.is_loopback() { Reach::Loopback } else { Reach::Remote };
        let connect_timeout = match reach {
            Reach::Loopback => Duration::from_millis(300),
            Reach::Remote => Duration::from_secs(1),
        };
        Ok(Self {
            authority: addr.to_string().parse()?,
            addr,
            socket: SocketOptions::default(),
            connect_timeout,
            keep_alive: KeepAlive {
                interval: Duration::from_secs(10),
                timeout: Duration::from_secs(3),
                while_idle: true,
            },
            backoff: backoff_for(reach),
            buffer: 1_000,
            dispatch_timeout: Duration::from_secs(30),
        })
    }
}

/// Opens a channel whose connections live on `runtime` until the channel and its replicas' handle are
/// dropped. Returns at once; nothing needs to be reachable yet.
pub fn open(
    settings: &ChannelSettings,
    security: Security,
    resolver: Resolver,
    metrics: &Metrics,
    runtime: &runtime::Handle,
) -> (Channel, Replicas) {
    let _tasks_run_there = runtime.enter();
    stack(settings, security, resolver, metrics, dial::Dial::new(settings.socket))
}

/// The page: every layer of a channel. `dial` connects, with keepalive.
fn stack<D>(
    settings: &ChannelSettings,
    security: Security,
    resolver: Resolver,
    metrics: &Metrics,
    dial: D,
) -> (Channel, Replicas)
where
    D: Service<SocketAddr, Response = Stream, Error = BoxError> + Clone + Send + Sync + 'static,
    D::Future: Send,
{
    let calls = metrics.calls(&settings.addr, &security);

    // One replica. The last line is the socket; each line above it stands on the one below.
    let connect = ServiceBuilder::new()
        .layer(layer_fn(|connect| http2::Http2::new(connect, settings.keep_alive)))
        .layer(TimeoutLayer::new(settings.connect_timeout))
        .layer(layer_fn(|connect| tls::Tls::new(connect, security.clone())))
        .service(dial);

    // All replicas, as DNS names them. Each one reconnects by itself, with backoff.
    let replicas = Replicas::new(settings, resolver, metrics, connect);
    metrics.balancer(&settings.addr, replicas.metrics(), settings.dispatch_timeout);

    // Calls, from the client down to the choice of a replica.
    let channel = ServiceBuilder::new()
        .layer(layer_fn(|calls| buffer::Buffer::new(calls, settings.buffer, settings.dispatch_timeout)))
        .layer(layer_fn(|calls| origin::Origin::new(calls, settings.authority.clone())))
        .layer(layer_fn(|replicas| count::Count::new(replicas, calls.clone())))
        .service(balance::Balance::new(replicas.clone()));
    (BoxCloneSyncService::new(channel), replicas)
}

#[cfg(test)]
#[path = "channel/tests.rs"]
mod tests;
