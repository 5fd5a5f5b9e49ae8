//! Watches one response's body pass and settles everything that hangs on it: load, breaker, metrics.
//!
//! `forward` hangs a `Passage` on each response. It sees the first frame (the end of the response time
//! that balancing learns from) and the end, the error or the giving up. Never touches the bytes.

use crate::received::{Counted, exchange_of};
use crate::reply::{self, Openness};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weft_balance::health::{Mark, Verdict};
use weft_decide::classify::{self, Class};
use weft_discover::plan::{Rule, Upstream};
use weft_discover::received::ReceivedRoute;
use weft_model::reason::{Code, Hop, Phase, Reason};
use weft_net::body::{BodyError, Watch};
use weft_net::splice::Relayed;
use weft_route::frames::FrameSizes;
use weft_route::metrics::{BackendMetrics, Ending, Exchange};
use weft_route::retry::class_of;

/// What is still owed for a request when its response's head has been passed on.
pub(crate) struct Passage {
    pub(crate) pending: weft_balance::backend::Pending<Upstream>,
    pub(crate) rule: Arc<Rule>,
    pub(crate) backend: Arc<BackendMetrics>,
    /// Inbound, what the request is counted under.
    pub(crate) counted: Option<Counted>,
    /// When the request entered its rule.
    pub(crate) started: Instant,
    /// When this attempt was sent.
    pub(crate) sent: Instant,
    pub(crate) status: StatusCode,
    /// Whether it is a gRPC call, whose outcome stands in the trailers.
    pub(crate) grpc: GrpcOutcome,
    /// How long the answer asks to be left alone.
    pub(crate) retry_after: Option<Duration>,
    /// What has passed of the body.
    pub(crate) frames: FrameSizes,
    pub(crate) answered: bool,
    pub(crate) ended: bool,
    /// How a gRPC call is ended that breaks off: in its own words, and not by a reset.
    pub(crate) last_words: Option<(Hop, Openness)>,
    /// Held until the exchange is over.
    pub(crate) admitted: Option<crate::via::Admitted>,
}

/// What is known of a gRPC call's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrpcOutcome {
    /// Not a gRPC call.
    None,
    /// The head said it.
    Known(u16),
    /// The trailers will say it.
    Awaited,
}

impl GrpcOutcome {
    /// Looks at a response's head.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        match classify::is_grpc(headers) {
            false => GrpcOutcome::None,
            true => classify::grpc_status(headers).map_or(GrpcOutcome::Awaited, GrpcOutcome::Known),
        }
    }

    /// The code, as far as it is known.
    pub(crate) fn code(self) -> Option<u16> {
        match self {
            GrpcOutcome::Known(code) => Some(code),
            GrpcOutcome::None | GrpcOutcome::Awaited => None,
        }
    }
}

impl Passage {
    /// The series of the exchange.
    fn metrics(&self) -> Option<&Exchange> {
        exchange_of(&self.counted, self.pending.endpoint())
    }

    /// The route of the received name's profile.
    fn received(&self) -> Option<&ReceivedRoute> {
        self.counted.as_ref()?.route.as_deref()
    }

    fn class(&self, grpc: Option<u16>) -> Class {
        let classes = self.received().map_or(&self.rule.classes, |route| &route.classes);
        match self.grpc {
            GrpcOutcome::None => class_of(classes, self.status, None),
            GrpcOutcome::Known(code) => classify::by_grpc(Some(code)),
            GrpcOutcome::Awaited => classify::by_grpc(grpc),
        }
    }

    /// The first frame of an answer that is passed on.
    fn first(&mut self, now: Instant) {
        if self.attempt_answered(now) {
            let took = now.saturating_duration_since(self.started);
            self.rule.metrics.answered(self.status, took);
            if let Some(route) = self.received() {
                route.metrics.answered(self.status, took);
            }
        }
    }

    /// The first frame of an attempt's answer; false if there was one before.
    fn attempt_answered(&mut self, now: Instant) -> bool {
        if std::mem::replace(&mut self.answered, true) {
            return false;
        }
        let failed = self.status.is_server_error()
            || self.status == StatusCode::TOO_MANY_REQUESTS
            || matches!(self.grpc, GrpcOutcome::Known(code) if classify::grpc_failed(code) || code == 8);
        if failed {
            self.pending.fail(now, self.retry_after);
        } else {
            self.pending.first_frame(now);
        }
        let took = now.saturating_duration_since(self.sent);
        if let Some(metrics) = self.metrics() {
            metrics.answered(self.status, took);
        }
        true
    }

    /// The end of an answer that was passed on.
    fn settle(&mut self, grpc: Option<u16>, error: Option<Code>) {
        let now = Instant::now();
        if !self.ended {
            self.first(now);
        }
        if let Some(ending) = self.attempt_ended(grpc, error, now) {
            self.rule.metrics.ended(&ending, now.saturating_duration_since(self.started));
            if let Some(route) = self.received() {
                route.metrics.ended(&ending);
            }
        }
    }

    /// The end of an attempt's answer; nothing if it has ended before.
    fn attempt_ended(&mut self, grpc: Option<u16>, error: Option<Code>, now: Instant) -> Option<Ending> {
        if std::mem::replace(&mut self.ended, true) {
            return None;
        }
        let grpc = match self.grpc {
            GrpcOutcome::Known(code) => Some(code),
            _ => grpc,
        };
        let class = if error.is_some() { Class::Failure } else { self.class(grpc) };
        let ending = Ending { status: Some(self.status), grpc, class, error };
        let verdict = match (self.status.as_u16(), grpc, class) {
            (429, _, _) | (_, Some(8), _) => Verdict::RateLimited,
            // A client that went away says nothing about the endpoint.
            (_, _, Class::Failure) if error != Some(Code::ClientGone) => Verdict::Failure,
            _ => Verdict::Success,
        };
        self.pending.mark(match (error, grpc) {
            (Some(error), _) => Mark::Error(error),
            (None, Some(code)) => Mark::Grpc(code),
            (None, None) => Mark::Status(self.status.as_u16()),
        });
        self.pending.judge(verdict, self.retry_after, now);
        if let Some(metrics) = self.metrics() {
            metrics.ended(&ending);
        }
        self.backend.ended(&ending, now.saturating_duration_since(self.sent));
        self.backend.passed(&self.frames);
        self.rule.metrics.attempt_ended(&ending);
        Some(ending)
    }
}

impl Passage {
    /// Settles an attempt whose answer nobody will pass on, because the request is about to be repeated: the
    /// request itself goes on.
    pub(crate) fn settle_attempt(&mut self) {
        let now = Instant::now();
        self.attempt_answered(now);
        let _ = self.attempt_ended(None, None, now);
    }

    /// Settles an exchange that became a tunnel.
    pub(crate) fn settle_tunnel(&mut self, outcome: &Relayed) {
        tracing::debug!(sent = outcome.from_a, received = outcome.from_b, "a tunnel ended");
        self.settle(None, None);
    }
}

impl Watch for Passage {
    fn frame(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.frames.passed(data.len());
        }
        if !self.answered {
            self.first(Instant::now());
        }
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) {
        self.settle(trailers.and_then(classify::grpc_status), None);
    }

    fn error(&mut self, error: &BodyError) -> Option<HeaderMap> {
        self.settle(None, Some(error.code()));
        let (hop, openness) = self.last_words?;
        let reason = match error {
            BodyError::Aborted { reason, .. } => (**reason).clone(),
            BodyError::Http(_) | BodyError::Other(_) => Reason::new(error.code(), hop, Phase::Response),
        };
        Some(reply::last_words(&reason, openness))
    }
}

impl Drop for Passage {
    /// Neither end nor error was seen: the client went away.
    fn drop(&mut self) {
        self.settle(None, Some(Code::ClientGone));
    }
}
