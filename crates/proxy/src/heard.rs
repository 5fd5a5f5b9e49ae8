//! An answer as far as it was looked at before anybody decided what to do with it.
//!
//! Made by `forward` for every answer of an endpoint; `repeat` judges by it, `passage` settles by it. Never changes what is
//! passed on.

use crate::passage::GrpcOutcome;
use http::{HeaderMap, Response, Version};
use std::fmt;
use std::time::Instant;
use weft_attempt::peek;
use weft_decide::classify;
use weft_net::body::Body;
use weft_route::requested::Limits;
use weft_route::retry::Retry;

/// An answer.
pub(crate) struct Heard {
    pub(crate) response: Response<Body>,
    pub(crate) grpc: GrpcOutcome,
    /// The trailers, where they had to be known.
    pub(crate) trailers: Option<HeaderMap>,
}

/// Whether there is a copy of a request that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Yes,
    No,
}

impl Heard {
    /// Takes an answer, with its trailers where these decide whether its request, of which there is a copy, is tried again;
    /// waits for them as long as an answer to what was sent at `sent` may take.
    pub(crate) async fn of(
        mut response: Response<Body>,
        limits: &Limits,
        kept: Kept,
        (sent, deadline): (Instant, Option<Instant>),
    ) -> Self {
        let grpc = GrpcOutcome::of(response.headers());
        let matters = grpc == GrpcOutcome::Awaited
            && response.version() == Version::HTTP_2
            && kept == Kept::Yes
            && limits.retry.as_ref().is_some_and(Retry::wants_trailers);
        if !matters {
            return Heard { response, grpc, trailers: None };
        }
        let own = limits.timeouts.response.and_then(|limit| sent.checked_add(limit));
        let until = [own, deadline].into_iter().flatten().min();
        let trailers = Box::pin(peek::trailers(&mut response, until)).await;
        let code = trailers.as_ref().and_then(classify::grpc_status);
        Heard { response, grpc: code.map_or(grpc, GrpcOutcome::Known), trailers }
    }

    /// The fields that say how the call ended.
    pub(crate) fn said(&self) -> &HeaderMap {
        self.trailers.as_ref().unwrap_or(self.response.headers())
    }
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "answered {}", self.response.status().as_u16())?;
        self.grpc.code().map_or(Ok(()), |code| write!(f, ", grpc-status {code}"))
    }
}
