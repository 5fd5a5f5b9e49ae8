//! Reading ahead until something can be decided.
//!
//! [`read`] collects a connection's first bytes until a pure function decides on them, and gives the
//! stream back with these bytes in front, so that whoever comes next sees the connection from its
//! beginning. `serve` uses it for protocol detection and for the transport header. A connection that says
//! nothing costs no buffer. It knows no protocol.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

use crate::stream::Stream;

/// Most bytes read at once: most first segments (a request head, a ClientHello) fit.
const PIECE: usize = 2048;

/// How far a decision may look.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most bytes to collect.
    pub bytes: usize,
    /// Longest time from the call to the decision.
    pub time: Duration,
}

/// What came of reading ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// The function decided.
    Decided(T),
    /// The peer finished sending before there was a decision.
    Ended,
    /// The bytes reached the bound before there was a decision.
    Full,
    /// Time ran out before there was a decision.
    TimedOut,
}

/// Reads until `decide` gives an answer about all bytes so far, a bound is reached, or the peer ends.
/// Whatever the outcome, the stream comes back with the bytes in front. An error of the connection, and
/// dropping the future, lose it.
pub async fn read<T>(
    mut stream: Stream,
    bounds: Bounds,
    decide: impl FnMut(&[u8]) -> Option<T>,
) -> io::Result<(Outcome<T>, Stream)> {
    let mut bytes = BytesMut::new();
    let outcome =
        tokio::time::timeout(bounds.time, collect(&mut stream, &mut bytes, bounds.bytes, decide)).await;
    let outcome = match outcome {
        Ok(result) => result?,
        Err(_) => Outcome::TimedOut,
    };
    Ok((outcome, stream.with_prefix(bytes.freeze())))
}

async fn collect<T>(
    stream: &mut Stream,
    bytes: &mut BytesMut,
    limit: usize,
    mut decide: impl FnMut(&[u8]) -> Option<T>,
) -> io::Result<Outcome<T>> {
    loop {
        let rest = limit.saturating_sub(bytes.len());
        if rest == 0 {
            return Ok(Outcome::Full);
        }
        if poll_fn(|cx| read_some(stream, cx, bytes, rest)).await? == 0 {
            return Ok(Outcome::Ended);
        }
        if let Some(decided) = decide(bytes) {
            return Ok(Outcome::Decided(decided));
        }
    }
}

/// Reads into space on the stack, so that a connection that says nothing holds none, and one that waits long for
/// its reader holds no more than it said.
fn read_some(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    bytes: &mut BytesMut,
    limit: usize,
) -> Poll<io::Result<usize>> {
    let mut space = [MaybeUninit::uninit(); PIECE];
    let mut piece = ReadBuf::uninit(&mut space[..limit.min(PIECE)]);
    ready!(Pin::new(stream).poll_read(cx, &mut piece))?;
    bytes.extend_from_slice(piece.filled());
    Poll::Ready(Ok(piece.filled().len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const BOUNDS: Bounds = Bounds { bytes: 16, time: Duration::from_secs(10) };

    fn line(bytes: &[u8]) -> Option<usize> {
        bytes.iter().position(|b| *b == b'\n')
    }

    async fn rest(mut stream: Stream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_dribble_in_are_decided_together_and_read_again() {
        let (ours, mut theirs) = duplex(1);
        let writer = tokio::spawn(async move { theirs.write_all(b"abc\nde").await.unwrap() });
        let (outcome, stream) = read(Stream::memory(ours), BOUNDS, line).await.unwrap();
        assert_eq!(outcome, Outcome::Decided(3));
        assert_eq!(&stream.prefix()[..], b"abc\n");
        assert_eq!(rest(stream).await, "abc\nde");
        writer.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_times_out_and_keeps_its_stream() {
        let (ours, mut theirs) = duplex(64);
        theirs.write_all(b"abc").await.unwrap();
        let (outcome, stream) = read(Stream::memory(ours), BOUNDS, line).await.unwrap();
        assert_eq!(outcome, Outcome::TimedOut);
        drop(theirs);
        assert_eq!(rest(stream).await, "abc");
    }

    #[tokio::test(start_paused = true)]
    async fn the_bound_is_never_passed() {
        let (ours, mut theirs) = duplex(64);
        theirs.write_all(&[b'x'; 40]).await.unwrap();
        let (outcome, stream) = read(Stream::memory(ours), BOUNDS, line).await.unwrap();
        assert_eq!((outcome, stream.prefix().len()), (Outcome::Full, 16));
        drop(theirs);
        assert_eq!(rest(stream).await.len(), 40);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_before_the_decision_is_told() {
        let (ours, mut theirs) = duplex(64);
        theirs.write_all(b"ab").await.unwrap();
        drop(theirs);
        let (outcome, stream) = read(Stream::memory(ours), BOUNDS, line).await.unwrap();
        assert_eq!(outcome, Outcome::Ended);
        assert_eq!(rest(stream).await, "ab");
    }
}
