//! Reading HTTP/1 requests under inspection.
//!
//! A [`GuardedStream`] lies between a connection and hyper. Bytes that are fine pass unchanged; on an
//! offence the offending byte is withheld and hyper is given bytes instead at which it answers 400, 414 or
//! 431 by itself and closes, in its place among pipelined answers. Within a body, where a request may be
//! under way, the read fails, so that the body breaks and nothing behind it is ever read. `serve` holds the
//! [`Handle`]: it tells the offence afterwards, and is told how upgrades and tunnels were answered. It
//! writes nothing and judges nothing itself (`head` does).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::head::{Handover, Inspector, Limits, Offence, Place, Refused, Verdict};
use crate::stream::Stream;

/// Most bytes read and thrown away when a refused connection closes, so that unread input does not turn
/// the close into a reset that overtakes the answer.
const LINGER: usize = 256 * 1024;

/// A stream whose reads are inspected as HTTP/1 requests.
#[derive(Debug)]
pub struct GuardedStream {
    io: Stream,
    inspector: Inspector,
    phase: Phase,
    /// Bytes to be read before the stream's next: read too far before a handover, or fed after an offence.
    held: Bytes,
    limits: Limits,
    shared: Arc<Shared>,
    /// Whether a read has waited within the head that is being read.
    waited: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Inspecting.
    Open,
    /// After an upgrade or CONNECT, until it is answered.
    Waiting,
    /// No longer HTTP/1.
    Tunnel,
    /// Feeding what makes hyper refuse, then an end.
    Refusing,
    /// The body broke.
    Broken(Offence),
}

/// What connects the stream inside hyper with its owner outside.
#[derive(Debug, Default)]
struct Shared {
    answer: AtomicU8,
    offence: OnceLock<Offence>,
    reader: Mutex<Option<Waker>>,
    /// Reads that brought something; wraps.
    reads: AtomicU32,
    /// The head that a read waits within: its number, or 0 for none.
    head: AtomicU32,
    /// The head that was given up, or 0.
    given_up: AtomicU32,
    /// A read has begun to wait within a head.
    waiting: Notify,
    /// Whether the client has begun a request and not ended it.
    amid_request: AtomicBool,
    /// Whether the last write was not taken whole, so that hyper may hold more of an answer.
    behind: AtomicBool,
    writes: Writes,
}

/// What is known of the client's taking of answers.
#[derive(Debug, Default)]
struct Writes {
    /// Writes that took something; wraps.
    done: AtomicU32,
    /// Whether the last one took nothing.
    blocked: AtomicBool,
    /// Whether somebody waits to hear of it.
    watched: AtomicBool,
    begun: Notify,
    /// The connection is to be broken off.
    given_up: AtomicBool,
}

/// A head that has begun and of which more is awaited. Another one is never equal, for four billion heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowHead(u32);

/// Nothing is asked, and nothing was told.
const NOTHING: u8 = 0;
/// An upgrade waits for its answer.
const ASKED_UPGRADE: u8 = 1;
/// A CONNECT waits for its answer.
const ASKED_CONNECT: u8 = 2;
/// It was refused: HTTP/1 goes on.
const REFUSED: u8 = 3;
/// It was granted, or the guard was switched off.
const GRANTED: u8 = 4;

/// The owner's end of a guarded stream.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    /// What the client did wrong, once it did; the connection closes by itself.
    pub fn offence(&self) -> Option<Offence> {
        self.shared.offence.get().copied()
    }

    /// Waits until the reader waits within a head, which costs the usual request, whose head comes in one piece,
    /// nothing. Time spent on an answer is not counted: nothing is read then.
    pub async fn slow_head(&self) -> SlowHead {
        loop {
            if let Some(head) = self.still_slow() {
                return head;
            }
            self.shared.waiting.notified().await;
        }
    }

    /// The head that the reader waits within now.
    pub fn still_slow(&self) -> Option<SlowHead> {
        Some(self.shared.head.load(Ordering::Acquire)).filter(|n| *n != 0).map(SlowHead)
    }

    /// Ends the connection at its next read with 408, if it still waits within this head. The caller polls the
    /// connection afterwards.
    pub fn give_up(&self, head: SlowHead) {
        self.shared.given_up.store(head.0, Ordering::Release);
    }

    /// Whether the connection was ended because of [`Self::give_up`].
    pub fn gave_up(&self) -> bool {
        let given_up = self.shared.given_up.load(Ordering::Acquire);
        given_up != 0 && given_up == self.shared.head.load(Ordering::Acquire)
    }

    /// Whether the client is between two requests and what was written to it was taken whole. If no answer is
    /// under way either, whoever reads from and writes to the stream holds nothing.
    pub fn is_at_rest(&self) -> bool {
        !self.shared.amid_request.load(Ordering::Relaxed) && !self.shared.behind.load(Ordering::Relaxed)
    }

    /// How often something was read, wrapping: if it does not change, the client says nothing.
    pub fn reads(&self) -> u32 {
        self.shared.reads.load(Ordering::Relaxed)
    }

    /// Waits until the client has taken nothing of what was written for `limit` at least, and twice that at most.
    /// Costs nothing while it takes what it gets.
    pub async fn blocked_for(&self, limit: Duration) {
        let writes = &self.shared.writes;
        loop {
            writes.watched.store(true, Ordering::Release);
            if !writes.blocked.load(Ordering::Acquire) {
                writes.begun.notified().await;
            }
            let mut last = None;
            while writes.blocked.load(Ordering::Acquire) {
                let done = writes.done.load(Ordering::Relaxed);
                if last == Some(done) {
                    return;
                }
                last = Some(done);
                tokio::time::sleep(limit).await;
            }
        }
    }

    /// Breaks the connection off at its next write. The caller polls the connection afterwards.
    pub fn give_up_writing(&self) {
        self.shared.writes.given_up.store(true, Ordering::Release);
    }

    /// Whether the connection was ended because of [`Self::give_up_writing`].
    pub fn gave_up_writing(&self) -> bool {
        self.shared.writes.given_up.load(Ordering::Acquire)
    }

    /// Must be told the status of every answer, before hyper gets it: after an upgrade or CONNECT nothing
    /// more is read until then. 101 to the one and 2xx to the other open the tunnel, others go on with HTTP/1.
    /// Costs one atomic load otherwise.
    pub fn answered(&self, status: StatusCode) {
        let granted = match self.shared.answer.load(Ordering::Acquire) {
            ASKED_UPGRADE => status == StatusCode::SWITCHING_PROTOCOLS,
            ASKED_CONNECT => status.is_success(),
            _ => return,
        };
        self.shared.tell(if granted { GRANTED } else { REFUSED });
    }

    /// Switches the guard off: every further byte passes unseen.
    pub fn tunnel(&self) {
        self.shared.tell(GRANTED);
    }
}

impl Shared {
    fn begin_waiting(&self) {
        // 0 is kept for "none"; only the reader writes, and takes numbers from the count of reads.
        let number = self.reads.load(Ordering::Relaxed).max(1);
        self.head.store(number, Ordering::Release);
        self.waiting.notify_one();
    }

    fn tell(&self, answer: u8) {
        self.answer.store(answer, Ordering::Release);
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn poll_answer(&self, cx: &mut Context<'_>) -> Poll<u8> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        match self.answer.load(Ordering::Acquire) {
            answer @ (REFUSED | GRANTED) => Poll::Ready(answer),
            _ => {
                match &mut *reader {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}

impl GuardedStream {
    /// Guards a connection from its first byte.
    pub fn new(io: Stream, limits: Limits) -> (Self, Handle) {
        let shared = Arc::new(Shared::default());
        let handle = Handle { shared: shared.clone() };
        let inspector = Inspector::new(limits);
        (
            Self { io, inspector, phase: Phase::Open, held: Bytes::new(), limits, shared, waited: false },
            handle,
        )
    }

    /// The stream below, with the bytes that were read too far in front. For upgrades.
    pub fn into_inner(self) -> Stream {
        match self.phase {
            Phase::Refusing | Phase::Broken(_) => self.io,
            Phase::Open | Phase::Waiting | Phase::Tunnel => self.io.with_prefix(self.held),
        }
    }

    /// Ready once the connection has something to read, or its end; costs no buffer.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() { self.io.poll_readable(cx) } else { Poll::Ready(Ok(())) }
    }

    /// The stream below.
    pub fn get_ref(&self) -> &Stream {
        &self.io
    }

    /// Reads held bytes, or the stream's.
    fn poll_next(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        self.give_held(buf);
        Poll::Ready(Ok(()))
    }

    /// Reads on; within a head, whoever minds the time is told, and may end it.
    fn poll_inspected(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = self.poll_next(cx, buf);
        if polled.is_ready() {
            self.shared.reads.fetch_add(1, Ordering::Relaxed);
            return polled;
        }
        if self.waited {
            let head = self.shared.head.load(Ordering::Relaxed);
            if head != 0 && self.shared.given_up.load(Ordering::Acquire) == head {
                self.say_timeout(cx);
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        } else if self.inspector.is_within_head() {
            self.waited = true;
            self.shared.begin_waiting();
        }
        Poll::Pending
    }

    /// hyper has no answer for a head that never ends, so this one is written here, unless hyper may be in the
    /// middle of another. Nobody waits for a client that does not take it.
    fn say_timeout(&mut self, cx: &mut Context<'_>) {
        const ANSWER: &[u8] =
            b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let behind = self.shared.behind.load(Ordering::Relaxed);
        if !behind && matches!(Pin::new(&mut self.io).poll_write(cx, ANSWER), Poll::Ready(Ok(_))) {
            let _ = Pin::new(&mut self.io).poll_flush(cx);
        }
    }

    /// Takes note of a write of `whole` bytes.
    fn wrote(&self, whole: usize, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let writes = &self.shared.writes;
        let behind = !matches!(&polled, Poll::Ready(Ok(n)) if *n == whole);
        self.shared.behind.store(behind, Ordering::Relaxed);
        match &polled {
            Poll::Ready(Ok(_)) => {
                writes.done.store(writes.done.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
                if writes.blocked.load(Ordering::Relaxed) {
                    writes.blocked.store(false, Ordering::Release);
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                writes.blocked.store(true, Ordering::Release);
                if writes.watched.load(Ordering::Relaxed) && writes.watched.swap(false, Ordering::AcqRel) {
                    writes.begun.notify_one();
                }
                if writes.given_up.load(Ordering::Acquire) {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
        }
        polled
    }

    fn give_held(&mut self, buf: &mut ReadBuf<'_>) {
        let n = self.held.len().min(buf.remaining());
        buf.put_slice(&self.held[..n]);
        self.held.advance(n);
        if self.held.is_empty() {
            self.held = Bytes::new();
        }
    }

    /// Looks at what was read from `start` on, and cuts off what must not pass. Whether hyper may have the rest.
    fn inspect(&mut self, start: usize, buf: &mut ReadBuf<'_>) -> Passed {
        let new = &buf.filled()[start..];
        let seen = self.inspector.inspect(new);
        match seen.verdict {
            Verdict::Fine => Passed::All,
            Verdict::Handover(kind) => {
                let beyond = &new[seen.passed..];
                if !beyond.is_empty() {
                    self.held = [beyond, &self.held].concat().into();
                }
                buf.set_filled(start + seen.passed);
                let asked = match kind {
                    Handover::Upgrade => ASKED_UPGRADE,
                    Handover::Connect => ASKED_CONNECT,
                };
                // A guard that was switched off stays so.
                let answer = &self.shared.answer;
                let unless = answer.compare_exchange(NOTHING, asked, Ordering::AcqRel, Ordering::Acquire);
                self.phase = if unless.is_ok() { Phase::Waiting } else { Phase::Tunnel };
                Passed::Some
            }
            Verdict::Offence(offence, place) => {
                let _ = self.shared.offence.set(offence);
                tracing::debug!(offence = offence.as_str(), "refusing an HTTP/1 request");
                self.refuse(offence, place, start + seen.passed, seen.head_end.map(|end| start + end), buf);
                Passed::Some
            }
        }
    }

    fn refuse(
        &mut self,
        offence: Offence,
        place: Place,
        at: usize,
        head: Option<usize>,
        buf: &mut ReadBuf<'_>,
    ) {
        self.held = match (place, head) {
            // The head is still in our hands: without its last line feed it is no request yet.
            (Place::Body, Some(end)) => {
                buf.set_filled(end - 1);
                Bytes::from_static(BREAK)
            }
            (Place::Body, None) => {
                buf.set_filled(at);
                self.phase = Phase::Broken(offence);
                return;
            }
            (Place::RequestLine | Place::Head, _) => {
                buf.set_filled(at);
                bait(offence, place, self.limits)
            }
        };
        self.phase = Phase::Refusing;
    }
}

enum Passed {
    All,
    Some,
}

/// No head may hold a NUL: hyper answers 400. It looks only once the head seems complete, hence the rest.
const BREAK: &[u8] = b"\0\r\n\r\n";

/// What makes hyper refuse a head cut off here, with the status that fits. Each is also malformed in a second
/// way, so that a hyper with other limits still refuses.
fn bait(offence: Offence, place: Place, limits: Limits) -> Bytes {
    match offence {
        Offence::TargetTooLong => Bytes::from_static(b" HTTP/1.1\r\ntransfer-encoding: none\r\n\r\n"),
        Offence::HeadTooLarge | Offence::TooManyHeaders => {
            let line: &[u8] = match place {
                Place::RequestLine => b" HTTP/1.1\r\n",
                Place::Head | Place::Body => b"",
            };
            // One line more than hyper takes; it counts before it reads the last.
            let most = limits.headers.max(Limits::default().headers);
            [line, &b"a:\r\n".repeat(most + 1), BREAK].concat().into()
        }
        _ => Bytes::from_static(BREAK),
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match this.phase {
                Phase::Open => {
                    if this.shared.answer.load(Ordering::Relaxed) == GRANTED {
                        this.phase = Phase::Tunnel;
                        continue;
                    }
                    let start = buf.filled().len();
                    ready!(this.poll_inspected(cx, buf))?;
                    let passed = this.inspect(start, buf);
                    let amid = !this.inspector.is_between_requests();
                    this.shared.amid_request.store(amid, Ordering::Relaxed);
                    if this.waited && !this.inspector.is_within_head() {
                        this.waited = false;
                        this.shared.head.store(0, Ordering::Release);
                    }
                    match passed {
                        Passed::All => return Poll::Ready(Ok(())),
                        Passed::Some if buf.filled().len() > start => return Poll::Ready(Ok(())),
                        Passed::Some => {} // giving nothing would mean the end
                    }
                }
                Phase::Waiting => {
                    this.phase = match ready!(this.shared.poll_answer(cx)) {
                        GRANTED => Phase::Tunnel,
                        _ => {
                            this.shared.answer.store(NOTHING, Ordering::Release);
                            this.inspector.resume();
                            Phase::Open
                        }
                    };
                }
                Phase::Tunnel => return this.poll_next(cx, buf),
                Phase::Refusing => {
                    this.give_held(buf); // and nothing afterwards: the end
                    return Poll::Ready(Ok(()));
                }
                Phase::Broken(offence) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, Refused(offence))));
                }
            }
        }
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write(cx, buf);
        this.wrote(buf.len(), polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.wrote(bufs.iter().map(|b| b.len()).sum(), polled)
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
        if matches!(this.phase, Phase::Refusing | Phase::Broken(_)) {
            discard(&mut this.io, cx);
        }
        Poll::Ready(Ok(()))
    }
}

/// Throws away what has arrived already, within bounds, without waiting for more.
pub(crate) fn discard(io: &mut Stream, cx: &mut Context<'_>) {
    let mut space = [0; 4096];
    for _ in 0..LINGER / space.len() {
        let mut buf = ReadBuf::new(&mut space);
        match Pin::new(&mut *io).poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Body;
    use http::{Request, Response};
    use http_body_util::BodyExt;
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use std::convert::Infallible;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    type Seen = Arc<Mutex<Vec<String>>>;

    /// A hyper server behind a guard, which notes the requests that it received whole.
    fn server(capacity: usize) -> (DuplexStream, Handle, Seen, tokio::task::JoinHandle<hyper::Result<()>>) {
        let (ours, theirs) = duplex(capacity);
        let (io, handle) = GuardedStream::new(Stream::memory(theirs), Limits::default());
        let seen = Seen::default();
        let (note, guard) = (seen.clone(), handle.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            let (note, guard) = (note.clone(), guard.clone());
            async move {
                let mut response = Response::new(Body::full("ok"));
                if request.uri() == "/switch" || request.method() == http::Method::CONNECT {
                    if request.method() != http::Method::CONNECT {
                        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                    }
                    *response.body_mut() = Body::empty();
                    tokio::spawn(tunnel(hyper::upgrade::on(&mut request), note.clone()));
                } else {
                    let line = format!("{} {}", request.method(), request.uri());
                    let outcome = Body::incoming(request.into_body()).collect().await;
                    let body = outcome.map(|body| String::from_utf8(body.to_bytes().to_vec()).unwrap());
                    note.lock().unwrap().push(format!(
                        "{line} {}",
                        body.unwrap_or_else(|error| format!("broken by {}", error.code()))
                    ));
                }
                guard.answered(response.status());
                Ok::<_, Infallible>(response)
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        (ours, handle, seen, tokio::spawn(connection))
    }

    async fn tunnel(on: hyper::upgrade::OnUpgrade, note: Seen) {
        let parts = on.await.unwrap().downcast::<TokioIo<GuardedStream>>().unwrap();
        let mut stream = parts.io.into_inner().into_inner().with_prefix(parts.read_buf);
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        note.lock().unwrap().push(format!("tunnel {text}"));
    }

    /// Sends the pieces, each once hyper has taken the one before, and reads to the end of the answers.
    async fn talk(pieces: &[&str]) -> (String, Vec<String>, Option<Offence>) {
        let (mut client, handle, seen, connection) = server(1 << 20);
        for piece in pieces {
            let _ = client.write_all(piece.as_bytes()).await; // it may be closed already
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
        let _ = client.shutdown().await;
        let mut answers = Vec::new();
        client.read_to_end(&mut answers).await.unwrap();
        let _ = connection.await.unwrap();
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let seen = seen.lock().unwrap().clone();
        (String::from_utf8(answers).unwrap(), seen, handle.offence())
    }

    fn statuses(answers: &str) -> Vec<&str> {
        answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect()
    }

    const POST: &str = "POST /p HTTP/1.1\r\nHost: x\r\n";

    #[tokio::test]
    async fn an_ordinary_connection_passes_unchanged() {
        let first = format!("{POST}Content-Length: 2\r\n\r\nab{POST}Transfer-Encoding: chunked\r\n\r\n");
        let input = format!("{first}3;x\r\ncde\r\n0\r\n\r\nGET /g HTTP/1.1\r\nHost: x\r\n\r\n");
        let expected = ["POST /p ab", "POST /p cde", "GET /g "];
        let (answers, seen, offence) = talk(&[&input]).await;
        assert_eq!(
            (statuses(&answers), seen, offence),
            (vec!["200"; 3], expected.map(str::to_owned).to_vec(), None)
        );
        let bytes: Vec<String> = input.chars().map(String::from).collect();
        let pieces: Vec<&str> = bytes.iter().map(String::as_str).collect();
        assert_eq!(talk(&pieces).await.1, expected);
    }

    #[tokio::test]
    async fn offences_in_a_head_are_answered_with_400_and_reach_nobody() {
        for headers in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            "Content-Length: +5\r\n\r\nhello",
            "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
            "Transfer-Encoding: xchunked\r\n\r\n",
            "A: b\n\n",
            "A: b\rC: d\r\n\r\n",
            "A: b\r\r\n\r\n",
            "A: b\r\n c\r\n\r\n",
            "\r\0",
            "A: \0\r\n\r\n",
            "Host: y\r\n\r\n",
        ] {
            let input = format!("{POST}{headers}");
            for at in [0, 3, POST.len() - 1, input.len() - 3] {
                let (first, second) = input.split_at(at);
                let (answers, seen, offence) = talk(&[first, second, "GET /evil HTTP/1.1\r\n\r\n"]).await;
                assert_eq!((statuses(&answers), seen), (vec!["400"], vec![]), "{input:?} at {at}");
                assert!(offence.is_some(), "{input:?}");
            }
        }
    }

    #[tokio::test]
    async fn requests_before_an_offence_are_still_answered_first() {
        let input = format!("GET /1 HTTP/1.1\r\n\r\n{POST}Content-Length: 1\r\n\r\nx{POST}A : b\r\n\r\n");
        let (answers, seen, offence) = talk(&[&input]).await;
        assert_eq!(statuses(&answers), ["200", "200", "400"]);
        assert_eq!(seen, ["GET /1 ", "POST /p x"]);
        assert_eq!(offence, Some(Offence::SpaceBeforeColon));
    }

    #[tokio::test]
    async fn an_offence_in_a_body_that_comes_with_its_head_reaches_nobody() {
        for body in
            ["x\r\n", "2\r\nab0\r\n\r\n", "2;a\nab\r\n", "+2\r\nab\r\n0\r\n\r\n", "0\r\nHost: x\r\n\r\n"]
        {
            let input = format!("{POST}Transfer-Encoding: chunked\r\n\r\n{body}GET /evil HTTP/1.1\r\n\r\n");
            let (answers, seen, offence) = talk(&[&input]).await;
            assert_eq!((statuses(&answers), seen), (vec!["400"], vec![]), "{body:?}");
            assert!(offence.is_some());
        }
    }

    #[tokio::test]
    async fn an_offence_in_a_body_under_way_breaks_it_and_ends_the_connection() {
        let head = format!("{POST}Transfer-Encoding: chunked\r\n\r\n");
        let (answers, seen, offence) =
            talk(&[&head, "2\r\nab\r\n", "x\r\n", "GET /evil HTTP/1.1\r\n\r\n"]).await;
        assert!(statuses(&answers).len() <= 1, "{answers}");
        assert_eq!(seen, ["POST /p broken by ambiguous-framing"]);
        assert_eq!(offence, Some(Offence::BadChunkSize));
    }

    #[tokio::test]
    async fn oversized_heads_get_their_own_statuses() {
        let many = format!("{POST}{}\r\n", "A: b\r\n".repeat(100));
        let large_value = format!("{POST}A: {}\r\n\r\n", "b".repeat(128 * 1024));
        let large_name = format!("{POST}{}: b\r\n\r\n", "A".repeat(128 * 1024));
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(70_000));
        for (input, status, offence) in [
            (many, "431", Offence::TooManyHeaders),
            (large_value, "431", Offence::HeadTooLarge),
            (large_name, "431", Offence::HeadTooLarge),
            (long, "414", Offence::TargetTooLong),
        ] {
            let (answers, seen, found) = talk(&[&input]).await;
            assert_eq!((statuses(&answers), seen, found), (vec![status], vec![], Some(offence)));
        }
        let most = format!("{POST}{}\r\n", "A: b\r\n".repeat(99));
        assert_eq!(statuses(&talk(&[&most]).await.0), ["200"]);
    }

    #[tokio::test]
    async fn a_granted_upgrade_passes_early_bytes_to_the_tunnel_unseen() {
        let input = "GET /switch HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n\u{1}early\n\n";
        let (answers, seen, offence) = talk(&[input, "late"]).await;
        assert_eq!((statuses(&answers), offence), (vec!["101"], None));
        assert_eq!(seen, ["tunnel \u{1}early\n\nlate"]);
        let (answers, seen, _) = talk(&["CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n\u{16}", "late"]).await;
        assert_eq!(statuses(&answers), ["200"]);
        assert_eq!(seen, ["tunnel \u{16}late"]);
    }

    #[tokio::test]
    async fn a_refused_upgrade_is_guarded_as_before() {
        let input = "GET /no HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nGET /2 HTTP/1.1\r\n\r\nA\n";
        let (answers, seen, offence) = talk(&[input]).await;
        assert_eq!(statuses(&answers), ["200", "200", "400"]);
        assert_eq!(seen, ["GET /no ", "GET /2 "]);
        assert_eq!(offence, Some(Offence::BareLf));
    }

    #[tokio::test]
    async fn a_guard_switched_off_passes_everything() {
        let (mut ours, theirs) = duplex(64);
        let (mut io, handle) = GuardedStream::new(Stream::memory(theirs), Limits::default());
        handle.tunnel();
        ours.write_all(b"\0\n\r").await.unwrap();
        drop(ours);
        let mut all = Vec::new();
        io.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"\0\n\r");
    }
}
