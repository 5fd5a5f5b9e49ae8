//! A bound on the message bytes that one HTTP/2 connection holds for a peer that does not read them.
//!
//! hyper's own bound is one a stream, and two hundred streams of it are more than a proxy has. `serve` gives every
//! connection an [`Outbox`] for responses and `connect` one for requests; `Body::within` draws on it. Beyond the bound
//! a stream that still has bytes waiting is not read from, one without is: so none is shut out by others that stand
//! still. The beginning of a body is free, and costs nothing.

use bytes::Bytes;
use http_body::Frame;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Bytes of all bodies that wait to be written to one connection, beyond each one's beginning. A healthy peer's are in
/// the kernel's buffers within a round of the runtime, so this much waits only for one that does not read.
pub const MAX_WAITING: usize = 1 << 20;

/// The beginning of a body that is not counted: most bodies end before it does.
pub const FREE: usize = 16 << 10;

/// What one connection holds. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Outbox(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: AtomicUsize,
    held_back: Mutex<HeldBack>,
}

/// Streams that may not be read from, by number.
#[derive(Debug, Default)]
struct HeldBack {
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

impl Outbox {
    /// Bytes that wait now.
    pub fn waiting(&self) -> usize {
        self.0.waiting.load(SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, HeldBack> {
        self.0.held_back.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body whose frames count in an outbox from when they are taken until they are dropped.
pub(crate) struct Outgoing<B> {
    pub(crate) body: B,
    stream: Arc<Stream>,
    /// Bytes given so far, up to [`FREE`].
    begun: usize,
    /// Whether the last poll was held back.
    pub(crate) held_back: bool,
}

struct Stream {
    outbox: Outbox,
    number: u64,
    waiting: AtomicUsize,
}

impl<B> Outgoing<B> {
    pub(crate) fn new(body: B, outbox: &Outbox) -> Self {
        let number = {
            let mut held_back = outbox.lock();
            held_back.next += 1;
            held_back.next
        };
        let stream = Arc::new(Stream { outbox: outbox.clone(), number, waiting: AtomicUsize::new(0) });
        Self { body, stream, begun: 0, held_back: false }
    }

    pub(crate) fn poll_frame<E>(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, E>>>
    where
        B: http_body::Body<Data = Bytes, Error = E> + Unpin,
    {
        self.held_back = self.begun >= FREE && !self.stream.may_take(cx);
        if self.held_back {
            return Poll::Pending;
        }
        let polled = http_body::Body::poll_frame(Pin::new(&mut self.body), cx);
        polled.map_ok(|frame| match frame.into_data() {
            Ok(bytes) => Frame::data(self.counted(bytes)),
            Err(other) => other,
        })
    }

    fn counted(&mut self, bytes: Bytes) -> Bytes {
        let length = bytes.len();
        if self.begun + length <= FREE {
            self.begun += length;
            return bytes;
        }
        self.begun = FREE;
        self.stream.waiting.fetch_add(length, SeqCst);
        self.stream.outbox.0.waiting.fetch_add(length, SeqCst);
        Bytes::from_owner(Counted { bytes, stream: self.stream.clone() })
    }
}

impl<B> Drop for Outgoing<B> {
    fn drop(&mut self) {
        if self.held_back {
            self.stream.outbox.lock().wakers.remove(&self.stream.number);
        }
    }
}

impl Stream {
    fn is_free(&self) -> bool {
        self.waiting.load(SeqCst) == 0 || self.outbox.waiting() < MAX_WAITING
    }

    fn may_take(&self, cx: &Context<'_>) -> bool {
        if self.is_free() {
            return true;
        }
        self.outbox.lock().wakers.insert(self.number, cx.waker().clone());
        // Looked at again: bytes may have gone before the waker was there.
        self.is_free()
    }

    /// Bytes were written, or their stream is over.
    fn gone(&self, length: usize) {
        let own = self.waiting.fetch_sub(length, SeqCst) - length;
        let before = self.outbox.0.waiting.fetch_sub(length, SeqCst);
        // All at once, and at half the bound: woken one by one they would be woken for each frame.
        let woken = if before >= MAX_WAITING / 2 && before - length < MAX_WAITING / 2 {
            std::mem::take(&mut self.outbox.lock().wakers)
        } else if own == 0 && before >= MAX_WAITING / 2 {
            let mut held_back = self.outbox.lock();
            held_back.wakers.remove(&self.number).into_iter().map(|waker| (self.number, waker)).collect()
        } else {
            return;
        };
        woken.into_values().for_each(Waker::wake);
    }
}

/// A frame's bytes while they wait.
struct Counted {
    bytes: Bytes,
    stream: Arc<Stream>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.stream.gone(self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::{Body, BodyError};
    use http_body::Body as _;

    /// A body that gives `count` frames of 64 KiB at once.
    fn large(count: usize) -> Body {
        let frame = || Ok::<_, BodyError>(Frame::data(Bytes::from(vec![0; 64 << 10])));
        Body::boxed(http_body_util::StreamBody::new(futures_util::stream::iter(
            (0..count).map(move |_| frame()),
        )))
    }

    /// Takes what a body gives until it pauses.
    fn take(body: &mut Body) -> Vec<Bytes> {
        let mut taken = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut *body).poll_frame(&mut cx) {
            taken.extend(frame.into_data());
        }
        taken
    }

    #[test]
    fn what_waits_is_bounded_over_all_streams_and_every_stream_gets_on() {
        let outbox = Outbox::default();
        let mut streams: Vec<Body> = (0..200).map(|_| large(32).within(&outbox)).collect();
        let mut held: Vec<Vec<Bytes>> = streams.iter_mut().map(take).collect();
        assert!(held.iter().all(|frames| !frames.is_empty()));
        assert!(outbox.waiting() <= MAX_WAITING + 201 * (64 << 10), "{}", outbox.waiting());
        // One whose bytes are written goes on although the others stand still.
        held[199].clear();
        assert_eq!(take(&mut streams[199]).len(), 1);
        held.clear();
        assert_eq!(outbox.waiting(), 0);
        assert_eq!(take(&mut streams[0]).len(), 16);
        drop(streams);
        assert!(outbox.lock().wakers.is_empty());
    }

    #[test]
    fn a_body_that_moves_to_another_connection_waits_in_none_but_that_ones_outbox() {
        let (first, second) = (Outbox::default(), Outbox::default());
        let mut moved = large(4).within(&first).within(&second);
        let held = take(&mut moved);
        assert_eq!((first.waiting(), second.waiting()), (0, held.len() * (64 << 10)));
        // Sent over HTTP/1, it waits in none.
        let mut plain = large(4).within(&first).without_outbox();
        assert_eq!((take(&mut plain).len(), first.waiting()), (4, 0));
    }

    #[tokio::test]
    async fn a_stream_held_back_is_woken_when_bytes_are_gone() {
        let outbox = Outbox::default();
        let mut body = large(40).within(&outbox);
        let mut held = take(&mut body);
        assert_eq!(held.len(), 16);
        let rest = tokio::spawn(async move {
            let mut count = 0;
            while let Some(Ok(frame)) = http_body_util::BodyExt::frame(&mut body).await {
                count += usize::from(frame.is_data());
            }
            count
        });
        tokio::task::yield_now().await;
        held.truncate(8);
        tokio::task::yield_now().await;
        assert!(!rest.is_finished(), "half the bound still waits");
        held.clear();
        assert_eq!(rest.await.unwrap(), 24);
    }

    #[test]
    fn small_bodies_are_left_as_they_are() {
        let outbox = Outbox::default();
        let mut body = Body::full(vec![0; FREE]).within(&outbox);
        let held = take(&mut body);
        assert_eq!((held.len(), outbox.waiting()), (1, 0));
    }
}
