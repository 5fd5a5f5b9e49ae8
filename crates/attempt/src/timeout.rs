//! Time limits of a request (§3.8): per attempt until the response's head, and on the bodies.
//!
//! `forward` wraps each attempt, the request's body where it has one, and the response's. What an attempt may take is counted
//! from when its request was wholly sent. A request without limits costs nothing here.

use bytes::Bytes;
use http::Request;
use http_body::{Body as _, Frame, SizeHint};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::Sleep;
use weft_model::reason::{Code, Hop, Phase, Reason};
use weft_net::body::{Body, BodyError};
use weft_route::requested::Limits;
use weft_route::retry::Retry;

/// What ran out of time before there was a response's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    /// This attempt alone, by the limit of this code.
    Attempt(Code),
    /// The whole request.
    Request,
}

/// How a request's body is getting along.
pub struct Outgoing {
    began: Instant,
    /// Nanoseconds from the beginning until its last frame so far.
    moved: AtomicU64,
    /// Whether that was the last.
    over: AtomicBool,
    /// It was.
    ends: Notify,
}

impl Outgoing {
    /// Watches the body of a request that is about to be sent, if any limit depends on it.
    pub fn watch(request: &mut Request<Body>, limits: &Limits) -> Option<Arc<Self>> {
        let per_try = matches!(&limits.retry, Some(Retry::Policy(policy)) if policy.timeout.is_some());
        let timeouts = &limits.timeouts;
        let matters = per_try || timeouts.response.is_some() || timeouts.idle.is_some();
        if !matters || request.body().is_end_stream() {
            return None;
        }
        let outgoing = Arc::new(Self {
            began: Instant::now(),
            moved: AtomicU64::new(0),
            over: AtomicBool::new(false),
            ends: Notify::new(),
        });
        let body = std::mem::replace(request.body_mut(), Body::empty());
        *request.body_mut() = Body::boxed(Noted { body, outgoing: outgoing.clone() });
        Some(outgoing)
    }

    /// Notes that it moves now, unless it has ended.
    fn moves(&self) {
        if !self.over.load(Ordering::Relaxed) {
            let nanos = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.moved.store(nanos, Ordering::Relaxed);
        }
    }

    /// Notes that it ends now.
    fn ends(&self) {
        self.moves();
        if !self.over.swap(true, Ordering::Release) {
            self.ends.notify_one();
        }
    }

    /// When its last frame so far was sent.
    fn moved(&self) -> Instant {
        self.began + Duration::from_nanos(self.moved.load(Ordering::Relaxed))
    }

    /// When all of it had been sent, or was no longer wanted.
    fn ended(&self) -> Option<Instant> {
        self.over.load(Ordering::Acquire).then(|| self.moved())
    }
}

/// A request's body that tells how it gets along.
struct Noted {
    body: Body,
    outgoing: Arc<Outgoing>,
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.outgoing.ends();
    }
}

impl http_body::Body for Noted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(frame) = &polled {
            let trailers = frame.as_ref().is_some_and(|frame| frame.as_ref().is_ok_and(Frame::is_trailers));
            match frame.is_none() || trailers || self.body.is_end_stream() {
                true => self.outgoing.ends(),
                false => self.outgoing.moves(),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The limits of one attempt until its response's head.
#[derive(Clone, Copy)]
pub struct Attempt {
    own: Option<(Duration, Code)>,
    idle: Option<Duration>,
    deadline: Option<Instant>,
}

impl Attempt {
    /// Those of the attempt of this number, counted from 1. The last of a retry policy has no limit of its own (§3.8).
    pub fn of(limits: &Limits, attempts: u32, deadline: Option<Instant>) -> Self {
        let per_try = match &limits.retry {
            Some(Retry::Policy(policy)) if attempts <= policy.limit => policy.timeout,
            _ => None,
        };
        let per_try = per_try.map(|limit| (limit, Code::HeadersTimeout));
        let own = per_try.or(limits.timeouts.response.map(|limit| (limit, Code::ResponseTimeout)));
        Self { own, idle: limits.timeouts.idle, deadline }
    }

    /// What runs out next, for a request that was wholly sent at `sent`, or whose body last moved at `moved`.
    fn next(&self, sent: Option<Instant>, moved: Option<Instant>) -> Option<(Instant, Expired)> {
        let after = |from: Option<Instant>, limit: Duration, code| {
            Some((from?.checked_add(limit)?, Expired::Attempt(code)))
        };
        let own = self.own.and_then(|(limit, code)| after(sent, limit, code));
        let idle = self.idle.and_then(|idle| after(moved, idle, Code::IdleTimeout));
        let whole = self.deadline.map(|at| (at, Expired::Request));
        [own, idle, whole].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// Waits for a response's head for as long as its attempt, and the request as a whole, may take. Takes the future by
    /// reference: it holds a whole request, and would be stored twice and copied otherwise.
    pub async fn head<T>(
        self,
        outgoing: Option<&Outgoing>,
        sending: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Expired> {
        if let Some(outgoing) = outgoing {
            return Box::pin(self.head_after_body(outgoing, sending)).await;
        }
        match self.next(Some(Instant::now()), None) {
            Some((at, expired)) => tokio::time::timeout_at(at.into(), sending).await.map_err(|_| expired),
            None => Ok(sending.await),
        }
    }

    async fn head_after_body<T>(
        self,
        outgoing: &Outgoing,
        mut sending: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Expired> {
        loop {
            let sent = outgoing.ended();
            let moved = sent.is_none().then(|| outgoing.moved());
            let until = match self.next(sent, moved) {
                Some((at, expired)) if at <= Instant::now() => return Err(expired),
                Some((at, _)) => at,
                None => Instant::now() + LONG,
            };
            tokio::select! {
                biased;
                done = sending.as_mut() => return Ok(done),
                () = outgoing.ends.notified(), if sent.is_none() => {}
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }
}

/// When to look again if nothing runs out.
const LONG: Duration = Duration::from_secs(86_400);

/// Limits on a response's body.
pub struct BodyLimits {
    /// The request's own end.
    deadline: Option<Instant>,
    response: Option<Duration>,
    idle: Option<Duration>,
    /// When the request was sent, if it had no body to watch.
    sent: Instant,
    outgoing: Option<Arc<Outgoing>>,
    hop: Hop,
}

impl BodyLimits {
    /// The limits of an attempt sent at `sent`, or when the body of its request was; that body's frames count as signs of life,
    /// too. `deadline` is the request's own.
    pub fn of(
        limits: &Limits,
        hop: Hop,
        deadline: Option<Instant>,
        (sent, outgoing): (Instant, Option<Arc<Outgoing>>),
    ) -> Self {
        let deadline = limits.timeouts.request.and(deadline);
        let (response, idle) = (limits.timeouts.response, limits.timeouts.idle);
        Self { deadline, response, idle, sent, outgoing, hop }
    }

    /// Puts them on a body; a body without limits stays as it is.
    pub fn apply(self, body: Body) -> Body {
        let unlimited = self.deadline.is_none() && self.response.is_none() && self.idle.is_none();
        if unlimited || body.is_end_stream() {
            return body;
        }
        let now = Instant::now();
        let timer = Box::pin(tokio::time::sleep_until(self.next(now, now).0.into()));
        Body::boxed(Limited { body, timer, moved: now, limits: self })
    }

    /// When the body breaks off unless something moves after `moved`, and why. While the request's body has not ended, this
    /// is when to look again at the latest.
    fn next(&self, moved: Instant, now: Instant) -> (Instant, Code) {
        let (sent, moved) = match &self.outgoing {
            Some(outgoing) => (outgoing.ended().unwrap_or(now), outgoing.moved().max(moved)),
            None => (self.sent, moved),
        };
        let request = self.deadline.map(|at| (at, Code::RequestTimeout));
        let response =
            self.response.and_then(|limit| Some((sent.checked_add(limit)?, Code::ResponseTimeout)));
        let idle = self.idle.and_then(|idle| Some((moved.checked_add(idle)?, Code::IdleTimeout)));
        let nearest = [request, response, idle].into_iter().flatten().min_by_key(|(at, _)| *at);
        nearest.unwrap_or((now + LONG, Code::IdleTimeout))
    }
}

/// A body that breaks off when its time is up.
struct Limited {
    body: Body,
    timer: Pin<Box<Sleep>>,
    moved: Instant,
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
                self.moved = Instant::now();
            }
            return Poll::Ready(frame);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let (at, code) = self.limits.next(self.moved, now);
            if at <= now {
                let reason = Reason::new(code, self.limits.hop, Phase::Response);
                return Poll::Ready(Some(Err(BodyError::aborted(reason))));
            }
            self.timer.as_mut().reset(at.into());
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
