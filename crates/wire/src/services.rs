//! The proxy API's four services, for both sides of the wire, without protobuf.
//!
//! `discover` uses the clients, which run on one concrete channel type and give streams of model types.
//! `serve` implements the server-side traits and routes connections through [`Router`]; its streams are
//! of already encoded messages, so that a change is encoded once for thousands of streams. Nothing here
//! retries, waits with a time limit or logs.

mod client;
mod codec;
mod message;
mod server;
mod status;

pub use client::{DestinationClient, IdentityClient, PolicyClient, Updates};
pub use message::Message;
pub use server::{Answer, Answers, Caller, Certificates, Destinations, Policies, Router};
pub use status::{Code, Status};
/// The body of every request and response of these services.
pub use tonic::body::Body;

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::SystemTime;

/// Any error of a layer below.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What the clients run on: HTTP requests to whatever the channel's layers lead to. The channel adds
/// scheme and authority.
pub type Channel = tower::util::BoxCloneSyncService<http::Request<Body>, http::Response<Body>, BoxError>;

/// Largest message that is read or written, bytes: gRPC's own default, which foreign proxies have too.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// Largest request that a server reads, bytes. The largest is `Certify` with a token and a CSR.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// Path of the one method that a client may call without an identity.
pub const CERTIFY_PATH: &str = "/io.linkerd.proxy.identity.Identity/Certify";

const DESTINATION_GET: &str = "/io.linkerd.proxy.destination.Destination/Get";
const DESTINATION_GET_PROFILE: &str = "/io.linkerd.proxy.destination.Destination/GetProfile";
const OUTBOUND_GET: &str = "/io.linkerd.proxy.outbound.OutboundPolicies/Get";
const OUTBOUND_WATCH: &str = "/io.linkerd.proxy.outbound.OutboundPolicies/Watch";
const INBOUND_GET: &str = "/io.linkerd.proxy.inbound.InboundServerPolicies/GetPort";
const INBOUND_WATCH: &str = "/io.linkerd.proxy.inbound.InboundServerPolicies/WatchPort";

/// Response header that says in how many messages a stream's first endpoint set comes. Ours: foreign
/// proxies ignore it, and treat the first message as the whole set until the next arrives.
const PARTS_HEADER: &str = "weft-parts";

/// Most messages that one endpoint set may come in; with 3 MiB each, over 100,000 endpoints.
pub(crate) const MAX_PARTS: u16 = 16;

/// A request for endpoints or for a profile (`GetDestination`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationQuery {
    /// `host:port`, unvalidated.
    pub path: String,
    /// Opaque text that says who asks, unvalidated.
    pub context: String,
}

/// A request for the policy of a destination (`TrafficSpec`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficQuery {
    /// Opaque text that says who asks, unvalidated.
    pub workload: String,
    /// What it wants to talk to.
    pub target: Target,
}

/// A destination as a proxy sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The original destination.
    Addr(SocketAddr),
    /// A name with a port, unvalidated.
    Authority(String),
}

/// A request for the policy of an own port (`PortSpec`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortQuery {
    /// Opaque text that says whose port it is, unvalidated.
    pub workload: String,
    /// The port.
    pub port: NonZeroU16,
}

/// A request for a certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct CertifyRequest {
    /// The identity to be certified, unvalidated.
    pub identity: String,
    /// What proves it.
    pub token: Vec<u8>,
    /// The signing request, DER.
    pub csr: Vec<u8>,
}

impl std::fmt::Debug for CertifyRequest {
    /// Keeps the token out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertifyRequest")
            .field("identity", &self.identity)
            .field("token", &format_args!("<{} bytes>", self.token.len()))
            .field("csr", &format_args!("<{} bytes>", self.csr.len()))
            .finish()
    }
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertifyResponse {
    /// The certificate, DER.
    pub leaf: Vec<u8>,
    /// Certificates between it and a trust anchor, DER.
    pub intermediates: Vec<Vec<u8>>,
    /// Its end; whether that lies in the future is the receiver's business.
    pub valid_until: SystemTime,
}

#[cfg(test)]
#[path = "services/tests.rs"]
mod tests;
