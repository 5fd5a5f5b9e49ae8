//! Streams for opaque traffic and TLS that passes through: a fresh connection for each.
//!
//! `Endpoint::open` calls it; `proxy/opaque.rs` relays bytes over what it gets. Never pooled, never
//! shared.

use crate::dial::Reach;
use crate::error::ConnectError;
use weft_net::stream::Stream;

/// Connects; a meshed endpoint is told by the transport header that bytes follow.
pub(crate) async fn open(reach: &Reach) -> Result<Stream, ConnectError> {
    reach.stream(None).await
}
