//! Looks at the first frames of a gRPC call's answer for the trailers that tell how it ended.
//!
//! `forward` asks where the outcome decides whether the call is tried again. It waits for one frame, takes a second only if
//! that is there already, and puts both back: an answer that streams is held up by one message at most (§3.8).

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;
use weft_net::body::{Body, BodyError};

/// The trailers, if they are among the first two frames and come until `until`.
pub async fn trailers(response: &mut Response<Body>, until: Option<Instant>) -> Option<HeaderMap> {
    let body = response.body_mut();
    let first = match until {
        Some(until) => tokio::time::timeout_at(until.into(), body.frame()).await.ok()?,
        None => body.frame().await,
    };
    let mut frames = VecDeque::with_capacity(2);
    frames.extend(first);
    if frames.front().is_some_and(|frame| frame.as_ref().is_ok_and(Frame::is_data)) {
        // Whoever reads on is woken for itself.
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(Some(second)) = Pin::new(&mut *body).poll_frame(&mut cx) {
            frames.push_back(second);
        }
    }
    let trailers = frames.back().and_then(|frame| frame.as_ref().ok()?.trailers_ref().cloned());
    let rest = std::mem::replace(body, Body::empty());
    *body = Body::boxed(Peeked { frames, rest });
    trailers
}

/// A body whose first frames were looked at.
struct Peeked {
    frames: VecDeque<Result<Frame<Bytes>, BodyError>>,
    rest: Body,
}

impl http_body::Body for Peeked {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.frames.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let data = self.frames.iter().filter_map(|frame| frame.as_ref().ok()?.data_ref());
        let peeked: u64 = data.map(|data| data.len() as u64).sum();
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(peeked + rest.lower());
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(peeked)) {
            hint.set_upper(upper);
        }
        hint
    }
}
