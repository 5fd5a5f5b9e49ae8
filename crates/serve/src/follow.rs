//! One stream: a question, followed as long as the client listens.
//!
//! `destinations` and `policies` open them. A stream asks its view again whenever that is touched, sends the
//! difference between what the client knows and the newest state, and never more often than the pace allows, so
//! that a burst of changes costs a few messages. It has no queue besides the parts of one difference.

use crate::claims;
use crate::content::{Known, Messages};
use crate::metrics::{MethodMetrics, Metrics};
use crate::quota::{Place, Places};
use crate::views::{Moves, Subscription, Views};
use futures_util::stream;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};
use weft_index::{Answer, Question, Refusal, RefusalKind};
use weft_model::identity::Id;
use weft_model::workload::Asker;
use weft_net::drain::Drain;
use weft_telemetry::metrics::Tracked;
use weft_wire::services::{Answers, Caller, Code, Message, Status};

/// Limits of the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// Of all proxies together.
    pub total: usize,
    /// Of one proxy: one identity at one address.
    pub per_proxy: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        // 20,000 are ten each of 2,000 proxies. One takes 9 KiB in a debug build, so these stay below 256 MiB. One
        // proxy that looks up everything has two connections full; it may not take so many that others get none.
        Self { total: 20_000, per_proxy: 8_192 }
    }
}

/// Shortest time between two differences on one stream. A rolling update of a large service changes something
/// every few milliseconds; 20 ms make that 50 messages a second at most, and nobody notices the delay.
pub(crate) const PACE: Duration = Duration::from_millis(20);

/// What all services of one control plane share. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    pub(crate) views: Views,
    metrics: Metrics,
    drain: Drain,
    streams: Arc<Semaphore>,
    proxies: Arc<Places<Proxy>>,
}

/// Whom a stream is counted for: replicas of a workload share an identity, hosts behind one address do not.
type Proxy = (Option<Id>, Option<IpAddr>);

impl Service {
    /// Services over the views. When the drain is signaled all streams end well, and proxies ask elsewhere.
    pub fn new(views: Views, metrics: Metrics, drain: Drain, limits: StreamLimits) -> Self {
        let streams = Arc::new(Semaphore::new(limits.total.min(Semaphore::MAX_PERMITS)));
        Self { views, metrics, drain, streams, proxies: Arc::new(Places::new(limits.per_proxy)) }
    }

    /// Checks that a caller is who it claims to be.
    pub(crate) fn check_claim(&self, caller: &Caller, claim: &Asker) -> Result<(), Status> {
        self.views.read(|index| claims::check(caller, claim, index))
    }

    /// Opens a stream. The first answer is computed or found at once.
    pub(crate) fn follow(
        &self,
        caller: &Caller,
        method: &'static str,
        question: Question,
    ) -> Result<Answers, Status> {
        if self.drain.is_signaled() {
            return Err(Status::new(Code::Unavailable, "the control plane is shutting down"));
        }
        let place = self.place(caller)?;
        let moves = question.asker().and_then(|asker| self.views.moves_of(asker));
        let mut subscription = self.views.subscribe(&question).map_err(refused)?;
        let content = subscription.newest();
        if let Answer::Refused(refusal) = &content.answer {
            return Err(refused(refusal.clone()));
        }
        let pending = content.snapshot();
        let parts = u16::try_from(pending.len()).unwrap_or(u16::MAX);
        let metrics = self.metrics.method(method);
        let follow = Follow {
            views: self.views.clone(),
            question,
            subscription,
            moves,
            known: content.known(),
            version: content.version,
            pending,
            sent: 0,
            next: None,
            over: false,
            drained: Box::pin(self.drain.signaled()),
            _tracked: metrics.streams.track(),
            metrics,
            _place: place,
        };
        let stream = stream::unfold(follow, |mut follow| async move { Some((follow.next().await?, follow)) });
        Ok(Answers { parts, ..Answers::new(stream) })
    }

    /// Room for one more stream of a caller.
    fn place(&self, caller: &Caller) -> Result<(OwnedSemaphorePermit, Place<Proxy>), Status> {
        let refused = |limit: &str, problem: &str| {
            self.metrics.limit_reached(limit);
            Status::new(Code::ResourceExhausted, problem)
        };
        let proxy = (caller.id.clone(), caller.addr.map(|addr| addr.ip().to_canonical()));
        let place = self.proxies.take(proxy);
        let place =
            place.ok_or_else(|| refused("streams-per-proxy", "this proxy has too many streams open"))?;
        let permit = self.streams.clone().try_acquire_owned();
        let permit = permit.map_err(|_| refused("streams", "too many streams are open"))?;
        Ok((permit, place))
    }
}

/// Why a question has no answer, in gRPC's terms.
fn refused(refusal: Refusal) -> Status {
    let code = match refusal.kind {
        RefusalKind::InvalidArgument => Code::InvalidArgument,
        RefusalKind::FailedPrecondition => Code::FailedPrecondition,
        RefusalKind::NotFound => Code::NotFound,
    };
    Status::new(code, refusal.message)
}

struct Follow {
    views: Views,
    question: Question,
    subscription: Subscription,
    moves: Option<Moves>,
    /// What the client knows once all pending messages are sent.
    known: Known,
    version: u64,
    pending: Messages,
    /// How many of the pending messages are sent.
    sent: usize,
    /// The next difference is not sent before.
    next: Option<Instant>,
    over: bool,
    drained: Pin<Box<dyn Future<Output = ()> + Send>>,
    metrics: MethodMetrics,
    _tracked: Tracked,
    _place: (OwnedSemaphorePermit, Place<Proxy>),
}

impl Follow {
    /// The next message, as soon as there is one; `None` when the stream ends well.
    async fn next(&mut self) -> Option<Result<Message, Status>> {
        loop {
            if let Some(message) = self.pending.get(self.sent).cloned() {
                self.sent += 1;
                if self.sent == self.pending.len() {
                    self.settled();
                }
                self.metrics.messages.inc();
                return Some(Ok(message));
            }
            if self.over {
                return None;
            }
            tokio::select! {
                biased;
                () = &mut self.drained => return None,
                () = changed(&mut self.subscription, &mut self.moves, self.next) => {}
            }
            if let Err(end) = self.catch_up() {
                self.over = true;
                return end.map(Err);
            }
        }
    }

    /// Everything known is sent.
    fn settled(&mut self) {
        self.next = Some(Instant::now() + PACE);
        self.subscription.note_sent(self.version);
    }

    /// Makes pending what leads from the known to the newest state. An error ends the stream: with a status, or
    /// with none if it ends well.
    fn catch_up(&mut self) -> Result<(), Option<Status>> {
        let key = self.views.read(|index| index.view(&self.question));
        let moved = match key {
            Ok(key) => key != *self.subscription.key(),
            Err(refusal) => return Err(self.gone(refusal)),
        };
        if moved {
            self.subscription = match self.views.subscribe(&self.question) {
                Ok(subscription) => subscription,
                Err(refusal) => return Err(self.gone(refusal)),
            };
        }
        let content = self.subscription.newest();
        if content.version == self.version {
            return Ok(());
        }
        if let (Answer::Refused(refusal), false) =
            (&content.answer, matches!(self.question, Question::Endpoints { .. }))
        {
            return Err(self.gone(refusal.clone()));
        }
        if let Some(since) = self.subscription.first_change_after(self.version).filter(|_| !moved) {
            self.metrics.propagated(Instant::now().saturating_duration_since(since));
        }
        self.pending = content.step(self.version, &self.known);
        self.sent = 0;
        self.known = content.known();
        self.version = content.version;
        if self.pending.is_empty() {
            self.settled();
        }
        Ok(())
    }

    /// How a stream ends whose question has lost its answer. The streams of a workload's own ports end well
    /// (§1E.2). Of the codes that are final for proxies none is used: what was there may come back.
    fn gone(&self, refusal: Refusal) -> Option<Status> {
        match (&self.question, refusal.kind) {
            (Question::Inbound { .. }, _) => None,
            (_, RefusalKind::NotFound) => Some(Status::new(Code::NotFound, refusal.message)),
            _ => Some(Status::new(Code::Unavailable, refusal.message)),
        }
    }
}

/// Waits until the view is touched or the asker's workload changes, and then until the pace allows a difference.
async fn changed(subscription: &mut Subscription, moves: &mut Option<Moves>, next: Option<Instant>) {
    match moves {
        None => subscription.touched().await,
        Some(moves) => tokio::select! {
            () = subscription.touched() => {}
            () = moves.moved() => {}
        },
    }
    if let Some(next) = next {
        sleep_until(next).await;
    }
}
