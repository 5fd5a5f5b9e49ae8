//! The nouns of resolving: what names an answer, what it says, and why there may be none.
//!
//! `resolve.rs` and the modules behind it make them; `touched.rs` names the ones that a change concerns;
//! `serve` keeps and encodes them.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use weft_model::destination::EndpointInfo;
use weft_model::policy::{InboundPolicy, OutboundPolicy};
use weft_model::profile::Profile;
use weft_model::route::Labels;
use weft_model::service::ServiceName;
use weft_model::workload::WorkloadName;

/// Names one answer: equal keys have equal answers at any one time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ViewKey {
    /// The endpoints of a service's port.
    Endpoints {
        /// The service.
        service: ServiceName,
        /// The service's port.
        port: NonZeroU16,
        /// Only the endpoints of this host name.
        instance: Option<String>,
        /// The asker's zone, empty if unknown.
        zone: String,
        /// The asker's host; empty unless the service keeps traffic on the host.
        node: String,
    },
    /// The profile of a destination.
    Profile {
        /// The destination.
        target: ProfileTarget,
        /// The asker's namespace, whose profiles come first.
        namespace: String,
    },
    /// The outbound policy of an address.
    OutboundAddress {
        /// The address.
        addr: SocketAddr,
        /// The asker's namespace, whose routes apply too.
        namespace: String,
    },
    /// The outbound policy of a service by name.
    OutboundService {
        /// The service.
        service: ServiceName,
        /// Its port.
        port: NonZeroU16,
        /// The asker's namespace, whose routes apply too.
        namespace: String,
    },
    /// The inbound policy of a workload's port.
    Inbound {
        /// The workload.
        workload: WorkloadName,
        /// The port.
        port: NonZeroU16,
    },
}

/// What a profile is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProfileTarget {
    /// An address.
    Address(SocketAddr),
    /// A service's port.
    Service {
        /// The service.
        service: ServiceName,
        /// Its port.
        port: NonZeroU16,
    },
    /// One instance of a headless service.
    Instance {
        /// The service.
        service: ServiceName,
        /// The instance's host name.
        instance: String,
        /// The service's port.
        port: NonZeroU16,
    },
}

/// What a view says. Equal answers need not be sent again.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The endpoints that there are.
    Endpoints(EndpointSet),
    /// The profile.
    Profile(Box<Profile>),
    /// The outbound policy.
    Outbound(Box<OutboundPolicy>),
    /// The inbound policy.
    Inbound(Box<InboundPolicy>),
    /// There is no answer. On a stream that had one before, the thing asked for is gone.
    Refused(Refusal),
}

/// Endpoints of one port.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSet {
    /// Labels of all of them.
    pub labels: Labels,
    /// The endpoints, sorted by address, each address once. Their labels leave those of the set out.
    pub endpoints: Arc<[EndpointInfo]>,
    /// Endpoints beyond [`MAX_ENDPOINTS`], which nobody is told of.
    pub left_out: usize,
}

/// Most endpoints of one answer, as many as a proxy takes; the first by address are told.
pub const MAX_ENDPOINTS: usize = 100_000;

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The kind, which decides whether askers come back.
    pub kind: RefusalKind,
    /// For people.
    pub message: String,
}

/// Kinds of refusals. Askers never repeat the first two of them by themselves, so nothing that may
/// pass is ever refused in these ways (§7.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// The question makes no sense: the asker's fault, not to be repeated.
    InvalidArgument,
    /// The manifests lack what the question needs: not to be repeated before they change.
    FailedPrecondition,
    /// There is no such thing now; it may come.
    NotFound,
}

impl Refusal {
    /// A refusal.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}
