//! Frames in front of the rest of a body: what was read of it already, to be read once more.
//!
//! `peek` puts back what it looked at, `replay` what it recorded. It changes no frame.

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use weft_net::body::{Body, BodyError};

/// A body that begins with these frames.
pub(crate) struct Ahead {
    pub(crate) frames: VecDeque<Result<Frame<Bytes>, BodyError>>,
    pub(crate) rest: Body,
}

impl http_body::Body for Ahead {
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
        let ahead: u64 = data.map(|data| data.len() as u64).sum();
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(ahead + rest.lower());
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(ahead)) {
            hint.set_upper(upper);
        }
        hint
    }
}
