//! What all endpoints of one direction share: how to connect, within which limits, as whom.
//!
//! Built once by `proxy` from its settings, handed to every `Endpoint`. Plain data but for the connector,
//! which tests replace by an in-memory one.

use crate::transport::Counting;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use weft_identity::store::Store;
use weft_model::destination::{EndpointInfo, Http2Params, ProtocolHint, Windows};
use weft_model::identity::NoTls;
use weft_model::route::Backoff;
use weft_net::socket::{self, SocketOptions};
use weft_net::stream::Stream;

/// A connection attempt under way.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

/// Opens byte streams. The time limit is the caller's.
pub trait Connect: Send + Sync {
    /// Connects to the address. Dropping the future gives the attempt up.
    fn connect(&self, addr: SocketAddr) -> Connecting;
}

/// Connects over TCP with these options.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp(pub SocketOptions);

impl Connect for Tcp {
    fn connect(&self, addr: SocketAddr) -> Connecting {
        let options = self.0;
        Box::pin(async move { socket::connect(addr, &options).await.map(Stream::tcp) })
    }
}

/// What all endpoints of one direction share.
#[derive(Clone)]
pub struct Context {
    /// Who we are. Without it, endpoints that demand TLS cannot be reached; they are never reached in
    /// plaintext instead.
    pub identity: Option<Store>,
    /// How streams are opened.
    pub connector: Arc<dyn Connect>,
    /// Bound on TCP connect, TLS handshake and transport header together.
    pub connect_timeout: Duration,
    /// Waits between failed attempts.
    pub backoff: Backoff,
    /// When an endpoint counts as ready.
    pub ready_when: ReadyWhen,
    /// Bounds of the HTTP/1 pool.
    pub pool: PoolLimits,
    /// HTTP/2 parameters, replaced one by one by what discovery says.
    pub http2: Http2Params,
    /// Whether loopback endpoints may be reached.
    pub loopback: Loopback,
    /// Our own listeners, which must never be reached from here. One bound to an unspecified address
    /// stands for every address in `local_ips` and for loopback.
    pub own_listeners: Vec<SocketAddr>,
    /// Addresses of this workload: endpoints there are reached in plaintext, as the application itself.
    pub local_ips: Vec<IpAddr>,
    /// How connections are counted.
    pub counting: Counting,
    /// Where connections are driven.
    pub runtime: Handle,
}

/// When an endpoint counts as ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadyWhen {
    /// Only after a connection was made, eagerly; a failed attempt ends it until the next success. For
    /// HTTP endpoints of a balanced destination.
    Proven,
    /// From the start, without connecting, until an attempt fails; then again after one step of the
    /// backoff. For opaque endpoints, whose servers may resent connections that are never used.
    NotFailing,
    /// Always: failures go to the request that met them. For the application beside the proxy.
    Always,
}

/// Whether endpoints on loopback addresses may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loopback {
    /// Nothing redirects traffic, so a loopback address means what it says.
    Allowed,
    /// Traffic is captured: a loopback endpoint of a destination would be this workload by mistake.
    Refused,
}

/// Bounds of the HTTP/1 pool of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Idle connections kept; more are closed.
    pub max_idle: usize,
    /// How long a connection may be idle. Closed at most half as much later.
    pub idle_timeout: Duration,
}

impl Default for PoolLimits {
    /// 10,000 connections, 3 s (§1.3).
    fn default() -> Self {
        Self { max_idle: 10_000, idle_timeout: Duration::from_secs(3) }
    }
}

impl Context {
    /// The peer's outbound defaults (§1.3, §9): 1 s to connect, backoff of 100 ms–60 s with a tenth of
    /// jitter, HTTP/2 windows of 64 KiB a stream and 1 MiB a connection; plaintext only.
    pub fn new(runtime: Handle) -> Self {
        Self {
            identity: None,
            connector: Arc::new(Tcp::default()),
            connect_timeout: Duration::from_secs(1),
            backoff: Backoff { min: Duration::from_millis(100), max: Duration::from_secs(60), jitter: 0.1 },
            ready_when: ReadyWhen::Proven,
            pool: PoolLimits::default(),
            http2: Http2Params {
                windows: Some(Windows::Fixed { stream: 65_535, connection: 1 << 20 }),
                ..Http2Params::default()
            },
            loopback: Loopback::Allowed,
            own_listeners: Vec::new(),
            local_ips: Vec::new(),
            counting: Counting::default(),
            runtime,
        }
    }

    /// How an endpoint is reached from here: one on our own address is the application beside us, so
    /// without TLS, port redirection, authority override and HTTP/2 upgrade (§3.7).
    pub fn localize(&self, info: Arc<EndpointInfo>) -> Arc<EndpointInfo> {
        if self.no_tls(&info) != NoTls::Loopback {
            return info;
        }
        let mut local = EndpointInfo::clone(&info);
        local.tls = None;
        local.transport_port = None;
        local.authority_override = None;
        local.hint = ProtocolHint::Unknown;
        Arc::new(local)
    }

    /// Why an endpoint is reached in plaintext, if it is.
    pub fn no_tls(&self, info: &EndpointInfo) -> NoTls {
        match self.local_ips.contains(&info.addr.ip().to_canonical()) {
            true => NoTls::Loopback,
            false => NoTls::NotProvidedByDiscovery,
        }
    }

    /// Whether a connection to `addr` would arrive at one of our own listeners.
    pub(crate) fn is_own_listener(&self, addr: SocketAddr) -> bool {
        let ip = addr.ip().to_canonical();
        self.own_listeners.iter().any(|own| {
            let any = own.ip().is_unspecified() && (ip.is_loopback() || self.local_ips.contains(&ip));
            own.port() == addr.port() && (any || own.ip().to_canonical() == ip)
        })
    }

    /// Our HTTP/2 parameters overlaid by an endpoint's.
    pub(crate) fn http2_for(&self, info: &EndpointInfo) -> Http2Params {
        let ours = self.http2;
        let theirs = info.http2.unwrap_or_default();
        Http2Params {
            windows: theirs.windows.or(ours.windows),
            keep_alive: theirs.keep_alive.or(ours.keep_alive),
            max_concurrent_reset_streams: theirs
                .max_concurrent_reset_streams
                .or(ours.max_concurrent_reset_streams),
            max_frame_size: theirs.max_frame_size.or(ours.max_frame_size),
            max_send_buf_size: theirs.max_send_buf_size.or(ours.max_send_buf_size),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn own_listeners_are_recognized() {
        let mut context = Context::new(Handle::current());
        context.own_listeners = vec!["0.0.0.0:4143".parse().unwrap(), "127.0.0.1:4140".parse().unwrap()];
        context.local_ips = vec!["10.0.0.5".parse().unwrap()];
        for (addr, own) in [
            ("127.0.0.1:4140", true),
            ("[::ffff:127.0.0.1]:4140", true),
            ("127.0.0.2:4140", false),
            ("127.0.0.2:4143", true),
            ("10.0.0.5:4143", true),
            ("10.0.0.6:4143", false),
            ("10.0.0.5:80", false),
        ] {
            assert_eq!(context.is_own_listener(addr.parse().unwrap()), own, "{addr}");
        }
    }
}
