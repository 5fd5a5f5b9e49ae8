//! The pace at which a client must send a request's body once it has declared its length.
//!
//! `serve` wraps each request's body. Only the time spent waiting for the client counts, so a slow endpoint is not
//! held against it; a body without a declared length, as of a gRPC stream, may be silent for ever. A request without
//! a body costs nothing, and one whose body comes at once no timer.

use crate::limits::Limit;
use crate::via::Via;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};
use weft_model::reason::{Code, Hop, Phase, Reason};
use weft_net::body::{Body, BodyError};
use weft_telemetry::Counter;

/// What must come within the time limit. Slow networks of today bring as much within a second; a guess, and far
/// from anything that somebody waits for.
const LEAST: usize = 1024;

/// Limits a request's body, if its client has declared its length.
pub(crate) fn paced(via: &Arc<Via>, body: Body) -> Body {
    let hop = via.client.hop;
    let limit = via.shared.settings.direction(hop).request_body_timeout;
    match body.size_hint().exact() {
        Some(1..) if !limit.is_zero() => {
            let late = via.shared.reports.limits.counter(Limit::RequestBody, hop);
            let via = Some(via.clone());
            Body::boxed(Paced { via, ..Paced::new(body, limit, (hop, late)) })
        }
        _ => body,
    }
}

struct Paced {
    body: Body,
    limit: Duration,
    hop: Hop,
    /// The connection, which is told: over HTTP/2, an endpoint's connection drops a body's error.
    via: Option<Arc<Via>>,
    /// Counts bodies that were too slow. The answer's reason is counted where there still is an answer.
    late: Counter,
    /// Bytes that came since the client was last on time.
    came: usize,
    /// Time spent waiting for it since then.
    waited: Duration,
    /// Since when we wait, while we do.
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    fn new(body: Body, limit: Duration, (hop, late): (Hop, Counter)) -> Self {
        Self { body, limit, hop, via: None, late, came: 0, waited: Duration::ZERO, since: None, timer: None }
    }

    fn came(&mut self, bytes: usize) {
        self.came = self.came.saturating_add(bytes);
        if self.came >= LEAST {
            self.came = 0;
            self.waited = Duration::ZERO;
        }
    }

    /// Whether the client is late; if not, the task is woken when it will be.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        if self.waited >= self.limit {
            return true;
        }
        let now = Instant::now();
        let end = now + (self.limit - self.waited);
        self.since = Some(now);
        let timer = match &mut self.timer {
            Some(timer) => {
                timer.as_mut().reset(end);
                timer
            }
            none => none.insert(Box::pin(tokio::time::sleep_until(end))),
        };
        timer.as_mut().poll(cx).is_ready()
    }
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                if let Some(Ok(frame)) = &frame {
                    self.came(frame.data_ref().map_or(0, Bytes::len));
                }
                Poll::Ready(frame)
            }
            Poll::Pending if self.is_late(cx) => {
                self.late.inc();
                if let Some(via) = &self.via {
                    via.late.store(true, Ordering::Relaxed);
                }
                let reason = Reason::new(Code::SlowClient, self.hop, Phase::Request);
                Poll::Ready(Some(Err(BodyError::aborted(reason))))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;
    use http_body_util::{BodyExt, StreamBody};

    const LIMIT: Duration = Duration::from_secs(60);

    /// A body that brings a piece each time.
    fn pieces(size: usize, every: Duration) -> Paced {
        let frames = futures_util::stream::repeat(()).then(move |()| async move {
            tokio::time::sleep(every).await;
            Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![0; size])))
        });
        Paced::new(Body::boxed(StreamBody::new(Box::pin(frames))), LIMIT, (Hop::Inbound, Counter::default()))
    }

    async fn taken(mut body: Paced, most: usize) -> (usize, Option<Code>) {
        for n in 0..most {
            match body.frame().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return (n, Some(error.code())),
                None => return (n, None),
            }
        }
        (most, None)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_dribbles_is_late() {
        let second = Duration::from_secs(1);
        assert_eq!(taken(pieces(1, second), 1000).await, (60, Some(Code::SlowClient)));
        assert_eq!(taken(pieces(LEAST, LIMIT - second), 100).await, (100, None));
        assert_eq!(taken(pieces(LEAST, LIMIT + second), 100).await, (0, Some(Code::SlowClient)));
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nobody_asks_is_not_the_clients() {
        let mut body = pieces(1, Duration::from_secs(1));
        for _ in 0..50 {
            body.frame().await.unwrap().unwrap();
            tokio::time::advance(LIMIT * 10).await;
        }
    }
}
