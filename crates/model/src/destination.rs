//! What the destination service says about one name: its endpoints and how each is reached.
//!
//! Filled by `wire` from `Destination.Get` and by `index` from manifests; obeyed by `connect` and
//! `balance`.

use crate::identity::TlsTarget;
use crate::meta::Labels;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::Duration;

/// One endpoint and everything needed to reach it (`WeightedAddr`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointInfo {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Relative weight as announced; 10000 is one share.
    pub weight: u32,
    /// Labels for metrics: the set's labels overlaid by the address's own.
    pub labels: Labels,
    /// The identity it must prove; `None` means it is reached in plaintext.
    pub tls: Option<TlsTarget>,
    /// What protocol it may be spoken to in.
    pub hint: ProtocolHint,
    /// Inbound port of its proxy: connect there and say the real port in the transport header.
    pub transport_port: Option<NonZeroU16>,
    /// Replaces the request's authority (gateways of other meshes).
    pub authority_override: Option<String>,
    /// HTTP/2 client parameters that replace the proxy's own.
    pub http2: Option<Http2Params>,
    /// Whether it is in the same zone as the asker.
    pub locality: Locality,
}

impl EndpointInfo {
    /// An unmeshed endpoint about which nothing but its address is known.
    pub fn plain(addr: SocketAddr) -> Self {
        Self {
            addr,
            weight: 10_000,
            labels: Labels::default(),
            tls: None,
            hint: ProtocolHint::Unknown,
            transport_port: None,
            authority_override: None,
            http2: None,
            locality: Locality::Unknown,
        }
    }
}

/// What discovery says about the protocols of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ProtocolHint {
    /// Nothing: speak what the client speaks.
    #[default]
    Unknown,
    /// A meshed proxy that takes HTTP/1 carried over HTTP/2.
    Http2,
    /// Its port is opaque: bytes only.
    Opaque,
}

/// Where an endpoint is, seen from the asker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Locality {
    /// No zone is known for one of the two.
    #[default]
    Unknown,
    /// The same zone.
    Local,
    /// Another zone.
    Remote,
}

/// HTTP/2 client parameters (`Http2ClientParams`). `None` leaves the proxy's own value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Http2Params {
    /// Flow control windows.
    pub windows: Option<Windows>,
    /// PINGs.
    pub keep_alive: Option<KeepAlive>,
    /// Locally reset streams remembered.
    pub max_concurrent_reset_streams: Option<u32>,
    /// Largest frame, bytes.
    pub max_frame_size: Option<u32>,
    /// Send buffer per stream, bytes.
    pub max_send_buf_size: Option<u32>,
}

/// HTTP/2 flow control windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Windows {
    /// Grown by measured bandwidth-delay product.
    Adaptive,
    /// Fixed sizes in bytes.
    Fixed {
        /// Per stream.
        stream: u32,
        /// Per connection.
        connection: u32,
    },
}

/// HTTP/2 keepalive PINGs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeepAlive {
    /// Time between PINGs.
    pub interval: Duration,
    /// Time to wait for the answer before the connection counts as dead.
    pub timeout: Duration,
    /// Whether to ping with no stream open.
    pub while_idle: bool,
}

/// One message of the endpoint stream, already validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointUpdate {
    /// These endpoints exist, new or changed. The first one after a (re)connect is a reset, the
    /// receiver's business (§2.2).
    Add(Vec<EndpointInfo>),
    /// These are gone.
    Remove(Vec<SocketAddr>),
    /// There are none. `exists`: whether the service itself exists.
    NoEndpoints {
        /// Whether the name is known at all.
        exists: bool,
    },
}
