//! Why a backend had no endpoint for a request, with the evidence.
//!
//! Made by `backend` and `wait`; turned into a reason by `proxy/reply.rs`. Plain data that costs no
//! allocation, because it is made for every refused request while a backend fails fast.

use crate::endpoint::Failure;
use crate::health::Ejected;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use weft_model::reason::{Code, Evidence, Phase};

/// What stood in the way. In every case nothing was sent, so a retry is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Cause {
    /// The control plane has not answered about this backend yet.
    #[error("discovery has not answered yet")]
    Undiscovered,
    /// The control plane knows no such service.
    #[error("the service does not exist")]
    NoSuchService,
    /// The service has no endpoints.
    #[error("the service has no endpoints")]
    NoEndpoints,
    /// Endpoints are known, and breakers leave alone those that are not unready.
    #[error("circuit breakers leave every endpoint alone")]
    AllEjected,
    /// Endpoints are known, none is ready.
    #[error("no endpoint is ready")]
    AllUnready,
    /// As many requests wait as may.
    #[error("the queue is full")]
    QueueFull,
    /// The caller's own deadline passed.
    #[error("the deadline passed")]
    Deadline,
}

/// No endpoint for a request.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{cause} ({ready} of {known} endpoints ready, waited {} ms)", waited.as_millis())]
pub struct Unavailable {
    /// What stood in the way.
    pub cause: Cause,
    /// `Shed`: refused at once because the backend already fails fast. `Queue`: after or instead of
    /// waiting.
    pub phase: Phase,
    /// Endpoints that discovery has announced.
    pub known: usize,
    /// Of these, ready.
    pub ready: usize,
    /// How long the request waited.
    pub waited: Duration,
    /// Age of the last discovery update, if there was any.
    pub age: Option<Duration>,
    /// The endpoint that failed last, and why.
    pub last_failure: Option<(SocketAddr, Arc<Failure>)>,
    /// An endpoint that its breaker leaves alone, and why, where that is the cause.
    pub ejection: Option<Arc<Ejected>>,
}

impl Unavailable {
    /// The code of the catalogue.
    pub fn code(&self) -> Code {
        match self.cause {
            Cause::Undiscovered => Code::DiscoveryTimeout,
            Cause::NoSuchService => Code::NoSuchService,
            Cause::NoEndpoints => Code::NoEndpoints,
            Cause::AllUnready => Code::AllUnready,
            Cause::AllEjected => Code::AllEjected,
            Cause::QueueFull => Code::QueueFull,
            Cause::Deadline => Code::RequestTimeout,
        }
    }

    /// What was known, for the reason.
    pub fn evidence(&self) -> Evidence {
        let (endpoint, detail) = match (&self.ejection, &self.last_failure) {
            (Some(who), _) => (Some(who.addr.to_string()), Some(who.why.to_string())),
            (None, Some((addr, failure))) => (Some(addr.to_string()), Some(failure.to_string())),
            (None, None) => (None, None),
        };
        Evidence {
            known: Some(self.known),
            ready: Some(self.ready),
            waited: Some(self.waited),
            tries: None,
            age: self.age,
            endpoint,
            policy: None,
            detail,
        }
    }
}
