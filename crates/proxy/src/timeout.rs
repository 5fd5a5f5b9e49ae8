//! Time limits of a rule (§3.8): per attempt until the response's head, and on the bodies.
//!
//! `forward` wraps the attempt and the response's body. A rule without limits costs nothing here.

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::time::Sleep;
use weft_discover::plan::Rule;
use weft_model::reason::{Code, Hop, Phase, Reason};
use weft_net::body::{Body, BodyError};
use weft_route::retry::Retry;

/// What ran out of time before there was a response's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expired {
    /// This attempt alone, by the limit of this code.
    Attempt(Code),
    /// The whole request.
    Request,
}

/// The limit of one attempt until its response's head, and its code. The last attempt of a retry policy has no
/// limit of its own (§3.8).
pub(crate) fn of_attempt(rule: &Rule, attempts: u32) -> Option<(Duration, Code)> {
    let per_try = match &rule.retry {
        Some(Retry::Policy(policy)) if attempts <= policy.limit => policy.timeout,
        _ => None,
    };
    let per_try = per_try.map(|limit| (limit, Code::HeadersTimeout));
    per_try.or(rule.timeouts.response.map(|limit| (limit, Code::ResponseTimeout)))
}

/// Waits for a response's head for as long as its attempt, and the request as a whole, may take. Takes the future
/// by reference: it holds a whole request, and would be stored twice and copied otherwise.
pub(crate) async fn head<T>(
    attempt: Option<(Duration, Code)>,
    deadline: Option<Instant>,
    sending: Pin<&mut impl Future<Output = T>>,
) -> Result<T, Expired> {
    let own =
        attempt.and_then(|(limit, code)| Some((Instant::now().checked_add(limit)?, Expired::Attempt(code))));
    let whole = deadline.map(|at| (at, Expired::Request));
    match [own, whole].into_iter().flatten().min_by_key(|(at, _)| *at) {
        Some((at, expired)) => tokio::time::timeout_at(at.into(), sending).await.map_err(|_| expired),
        None => Ok(sending.await),
    }
}

/// Limits on a response's body.
pub(crate) struct BodyLimits {
    end: Option<(Instant, Code)>,
    idle: Option<Duration>,
    hop: Hop,
}

impl BodyLimits {
    /// The limits of a rule for an attempt sent at `sent`; `deadline` is the request's own.
    pub(crate) fn of(rule: &Rule, hop: Hop, deadline: Option<Instant>, sent: Instant) -> Self {
        let request = rule.timeouts.request.and(deadline).map(|d| (d, Code::RequestTimeout));
        let response =
            rule.timeouts.response.and_then(|r| sent.checked_add(r)).map(|d| (d, Code::ResponseTimeout));
        let end = [request, response].into_iter().flatten().min_by_key(|(at, _)| *at);
        Self { end, idle: rule.timeouts.idle, hop }
    }

    /// Puts them on a body; a body without limits stays as it is.
    pub(crate) fn apply(self, body: Body) -> Body {
        if (self.end.is_none() && self.idle.is_none()) || body.is_end_stream() {
            return body;
        }
        let (at, code) = self.next(Instant::now());
        let timer = Box::pin(tokio::time::sleep_until(at.into()));
        Body::boxed(Limited { body, timer, code, limits: self })
    }

    /// When the body breaks off unless something moves, and why.
    fn next(&self, now: Instant) -> (Instant, Code) {
        let idle = self.idle.and_then(|i| now.checked_add(i)).map(|at| (at, Code::IdleTimeout));
        let nearest = [self.end, idle].into_iter().flatten().min_by_key(|(at, _)| *at);
        nearest.unwrap_or((now + Duration::from_secs(86_400), Code::IdleTimeout))
    }
}

/// A body that breaks off when its time is up.
struct Limited {
    body: Body,
    timer: Pin<Box<Sleep>>,
    code: Code,
    limits: BodyLimits,
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            if self.limits.idle.is_some() {
                let (at, code) = self.limits.next(Instant::now());
                self.code = code;
                self.timer.as_mut().reset(at.into());
            }
            return Poll::Ready(frame);
        }
        if self.timer.as_mut().poll(cx).is_ready() {
            let reason = Reason::new(self.code, self.limits.hop, Phase::Response);
            return Poll::Ready(Some(Err(BodyError::aborted(reason))));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
