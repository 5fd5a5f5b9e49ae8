//! Why there is nothing to go by about a destination.
//!
//! Raised by `lookup` and `stream`; turned into a reason by `proxy/reply.rs`.

use crate::cache::CacheFull;
use std::sync::Arc;
use std::time::Duration;
use weft_model::reason::Code;
use weft_wire::services::Status;

/// Nothing is known about a destination. Nothing was sent anywhere, so a retry is always safe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoverError {
    /// No first answer in time. The control plane's fault or the network's. The lookup goes on, so a
    /// retry may succeed.
    #[error("the control plane has not answered within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The control plane refused for good: whoever configured the destination, or asks for it, is at
    /// fault. A retry helps only once the entry has left the cache.
    #[error("the control plane refused: {0}")]
    Refused(Arc<Status>),
    /// As many destinations are in use as may be. The mesh is overloaded; a retry may succeed later.
    #[error(transparent)]
    Full(#[from] CacheFull),
}

impl DiscoverError {
    /// The code of the catalogue.
    pub fn code(&self) -> Code {
        match self {
            DiscoverError::Timeout(_) => Code::DiscoveryTimeout,
            DiscoverError::Refused(_) => Code::DiscoveryRefused,
            DiscoverError::Full(_) => Code::Overloaded,
        }
    }
}
