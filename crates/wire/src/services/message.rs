//! Encoded messages as they travel: framed once, then shared by every stream that sends them.
//!
//! `serve` makes a [`Message`] of each change; the router's response bodies pass it on without copying a
//! byte, so that thousands of slow readers of one large answer hold one copy of it.

use super::Status;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Bytes before each message: a flag (0: not compressed) and its length.
const PREFIX: usize = 5;

/// One encoded protobuf message in gRPC's frame. Clones share the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message(Bytes);

impl Message {
    /// Frames a message; copies it once.
    pub fn new(encoded: &[u8]) -> Self {
        let mut framed = BytesMut::with_capacity(PREFIX + encoded.len());
        framed.put_u8(0);
        // Above 4 GiB nothing could be sent; whoever makes messages keeps them below 4 MiB.
        framed.put_u32(u32::try_from(encoded.len()).unwrap_or(u32::MAX));
        framed.put_slice(encoded);
        Self(framed.freeze())
    }

    /// The message without its frame.
    pub fn encoded(&self) -> Bytes {
        self.0.slice(PREFIX.min(self.0.len())..)
    }
}

impl From<Bytes> for Message {
    fn from(encoded: Bytes) -> Self {
        Self::new(&encoded)
    }
}

/// A response's body: messages, then the status as trailers.
pub(super) struct Frames {
    messages: Option<BoxStream<'static, Result<Message, Status>>>,
}

impl Frames {
    pub(super) fn new(messages: BoxStream<'static, Result<Message, Status>>) -> Self {
        Self { messages: Some(messages) }
    }
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(messages) = &mut self.messages else { return Poll::Ready(None) };
        let trailers = match ready!(messages.poll_next_unpin(cx)) {
            Some(Ok(Message(framed))) => return Poll::Ready(Some(Ok(Frame::data(framed)))),
            Some(Err(status)) => trailers(status),
            None => HeaderMap::from_iter([(tonic::Status::GRPC_STATUS, HeaderValue::from_static("0"))]),
        };
        self.messages = None;
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.messages.is_none()
    }
}

fn trailers(status: Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    let code = HeaderValue::from(u16::from(status.code.number()));
    if tonic::Status::from(status).add_header(&mut trailers).is_err() {
        trailers.insert(tonic::Status::GRPC_STATUS, code);
    }
    trailers
}
