//! A response body that somebody watches: the layers above learn when a call first answered and how it
//! ended, without holding it up.

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use weft_wire::services::Body;

/// How a response body ended.
pub(super) enum Outcome<'a> {
    /// Well, perhaps with trailers.
    Complete(Option<&'a HeaderMap>),
    /// With an error.
    Failed,
    /// The reader dropped it.
    Dropped,
}

/// Hears of one response body.
pub(super) trait Observe: Send + Unpin + 'static {
    /// The first frame is there. Not called for a body without frames.
    fn first_frame(&mut self);

    /// The body ended. Called once.
    fn end(&mut self, outcome: Outcome<'_>);
}

/// The watched body.
pub(super) struct Observed<O: Observe> {
    inner: Body,
    observer: O,
    begun: bool,
    ended: bool,
}

impl<O: Observe> Observed<O> {
    /// Watches a body.
    pub(super) fn wrap(inner: Body, observer: O) -> Body {
        Body::new(Self { inner, observer, begun: false, ended: false })
    }

    fn end(&mut self, outcome: Outcome<'_>) {
        if !std::mem::replace(&mut self.ended, true) {
            self.observer.end(outcome);
        }
    }
}

impl<O: Observe> http_body::Body for Observed<O> {
    type Data = Bytes;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if !std::mem::replace(&mut this.begun, true) {
                    this.observer.first_frame();
                }
                if frame.is_trailers() {
                    this.end(Outcome::Complete(frame.trailers_ref()));
                }
            }
            Some(Err(_)) => this.end(Outcome::Failed),
            None => this.end(Outcome::Complete(None)),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<O: Observe> Drop for Observed<O> {
    fn drop(&mut self) {
        // A body whose end was announced by `is_end_stream` may never be polled to it.
        match self.inner.is_end_stream() {
            true => self.end(Outcome::Complete(None)),
            false => self.end(Outcome::Dropped),
        }
    }
}
