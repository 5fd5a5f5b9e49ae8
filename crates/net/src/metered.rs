//! Reading HTTP/2 under a meter.
//!
//! A [`MeteredStream`] lies between a connection and hyper. Every byte passes unchanged until the client has
//! sent one frame too many of those that `frames` counts; then h2 is given frames instead, at which it says
//! GOAWAY with ENHANCE_YOUR_CALM by itself and closes, so that nobody writes into the middle of its frames.
//! `serve` holds the [`Handle`] and learns the reason afterwards, and of requests that h2 answered by itself as it
//! does. It writes nothing and counts nothing itself.

use crate::frames::{Flood, Meter, Rates};
use crate::guard;
use crate::refused::Written;
use crate::stream::Stream;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

/// A stream whose reads are counted as HTTP/2 frames.
#[derive(Debug)]
pub struct MeteredStream {
    io: Stream,
    meter: Meter,
    written: Written,
    told: Arc<Told>,
    /// What h2 still has to be fed, after a flood.
    bait: Option<Vec<u8>>,
}

/// What the owner is told.
#[derive(Debug, Default)]
struct Told {
    flood: OnceLock<Flood>,
    refusals: AtomicU32,
    refused: Notify,
}

/// The owner's end of a metered stream.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Told>);

impl Handle {
    /// What the client sent too much of, once it did; the connection closes by itself.
    pub fn flood(&self) -> Option<Flood> {
        self.0.flood.get().copied()
    }

    /// Requests since the last call that h2 answered with 431 by itself, because their header list was too large.
    pub fn refusals(&self) -> u32 {
        self.0.refusals.swap(0, Relaxed)
    }

    /// Resolves when there are such requests. Cancel safe.
    pub async fn refused(&self) {
        self.0.refused.notified().await;
    }
}

impl MeteredStream {
    /// Counts from a connection's first byte.
    pub fn new(io: Stream, rates: Rates) -> (Self, Handle) {
        let told = Arc::<Told>::default();
        let handle = Handle(told.clone());
        (Self { io, meter: Meter::new(rates), written: Written::default(), told, bait: None }, handle)
    }

    /// Bytes were written.
    fn wrote(&mut self, bytes: &[u8]) {
        let refusals = self.written.write(bytes);
        if refusals > 0 {
            self.told.refusals.fetch_add(refusals, Relaxed);
            self.told.refused.notify_one();
        }
    }

    fn feed(&mut self, buf: &mut ReadBuf<'_>) {
        let Some(bait) = &mut self.bait else { return };
        let n = bait.len().min(buf.remaining());
        buf.put_slice(&bait[..n]);
        bait.drain(..n);
    }
}

/// What h2 calls a flood: a header block in more pieces than any list within our size limits needs. The largest
/// stream id is one that no client can have used before.
fn bait() -> Vec<u8> {
    const HEADERS: [u8; 9] = [0, 0, 0, 1, 0, 0x7f, 0xff, 0xff, 0xff];
    const CONTINUATION: [u8; 9] = [0, 0, 0, 9, 0, 0x7f, 0xff, 0xff, 0xff];
    /// h2 takes a quarter more than the header list's limit in frames: of 16 MiB, the largest that may be
    /// set, 1,280. Some more cost nothing, since h2 stops reading at the first beyond its bound.
    const PIECES: usize = 1400;
    let mut bytes = HEADERS.to_vec();
    bytes.extend(CONTINUATION.repeat(PIECES));
    bytes
}

impl AsyncRead for MeteredStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.bait.is_some() {
            this.feed(buf); // and nothing afterwards: the end
            return Poll::Ready(Ok(()));
        }
        let start = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        if let Some((passed, flood)) = this.meter.read(&buf.filled()[start..], Instant::now) {
            buf.set_filled(start + passed);
            let _ = this.told.flood.set(flood);
            this.bait = Some(bait());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MeteredStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.io).poll_write(cx, buf))?;
        this.wrote(buf.get(..count).unwrap_or(buf));
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, bufs))?;
        let mut left = count;
        for buf in bufs {
            let here = left.min(buf.len());
            this.wrote(buf.get(..here).unwrap_or(buf));
            left -= here;
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        // Unread input would turn the close into a reset that overtakes h2's GOAWAY.
        guard::discard(&mut this.io, cx);
        Poll::Ready(Ok(()))
    }
}
