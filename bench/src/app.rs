//! The application behind the proxies: answers every request with the same 200, as cheaply as possible.
//!
//! One listener for HTTP, which speaks HTTP/1.1 or HTTP/2 as the first bytes ask, and one for opaque bytes,
//! which swallows them and answers with their number. Runs in the harness' own process, beside the load
//! generator. Counts what it served, so that the harness can tell that nothing was answered by anybody else.

use crate::frame::{self, Frame};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What every response carries: 128 bytes, a small answer of an API.
pub(crate) const BODY: &[u8; 128] = &[b'x'; 128];

/// The first byte of an opaque connection whose bytes are to be summed as well as counted.
pub(crate) const SUMMED: u8 = b'S';

/// What was served since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) http1: AtomicU64,
    pub(crate) http2: AtomicU64,
    /// Connections of either HTTP version.
    pub(crate) connections: AtomicU64,
    /// Bytes swallowed.
    pub(crate) bytes: AtomicU64,
}

/// Where it listens, and what it counts.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) http: SocketAddr,
    pub(crate) sink: SocketAddr,
    pub(crate) counts: Arc<Counts>,
}

/// Starts both listeners; they end with the runtime.
pub(crate) async fn start() -> io::Result<App> {
    let (http, sink) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    let counts = Arc::new(Counts::default());
    let app = App { http: http.local_addr()?, sink: sink.local_addr()?, counts };
    let counts = app.counts.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = http.accept().await {
            counts.connections.fetch_add(1, Relaxed);
            // An error here is the proxy's way to close; what matters are the answers its client gets.
            let counts = counts.clone();
            tokio::spawn(async move { serve(stream, &counts).await });
        }
    });
    let counts = app.counts.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = sink.accept().await {
            let counts = counts.clone();
            tokio::spawn(async move { swallow(stream, &counts).await });
        }
    });
    Ok(app)
}

async fn serve(mut stream: TcpStream, counts: &Counts) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(4096);
    while buffer.len() < 4 {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
    if buffer.starts_with(&frame::PREFACE[..4]) {
        serve_http2(stream, buffer, counts).await
    } else {
        serve_http1(stream, buffer, counts).await
    }
}

fn http1_response() -> Vec<u8> {
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n", BODY.len());
    [head.as_bytes(), BODY].concat()
}

/// Requests have no body: the load sends none, so each empty line ends one.
async fn serve_http1(mut stream: TcpStream, mut buffer: Vec<u8>, counts: &Counts) -> io::Result<()> {
    let response = http1_response();
    loop {
        let (requests, end) = complete_heads(&buffer);
        if requests > 0 {
            counts.http1.fetch_add(requests as u64, Relaxed);
            match requests {
                1 => stream.write_all(&response).await?,
                many => stream.write_all(&response.repeat(many)).await?,
            }
            buffer.drain(..end);
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// How many heads are complete, and where the last of them ends.
fn complete_heads(buffer: &[u8]) -> (usize, usize) {
    let (mut heads, mut end) = (0, 0);
    while let Some(at) = buffer[end..].windows(4).position(|four| four == b"\r\n\r\n") {
        heads += 1;
        end += at + 4;
    }
    (heads, end)
}

/// The server's side of one HTTP/2 connection.
struct Http2 {
    response: Vec<u8>,
    /// How much DATA the peer takes on the whole connection.
    window: i64,
    /// Streams that wait for the window to open; bounded by the streams that the settings allow.
    waiting: VecDeque<u32>,
    out: Vec<u8>,
}

async fn serve_http2(mut stream: TcpStream, mut buffer: Vec<u8>, counts: &Counts) -> io::Result<()> {
    let mut response = vec![0x88]; // RFC 7541, static table: `:status: 200`
    frame::write_literal(&mut response, &[0x0f, 0x10], b"text/plain"); // 31: content-type
    frame::write_literal(&mut response, &[0x0f, 0x0d], BODY.len().to_string().as_bytes()); // 28: content-length
    let mut state = Http2 { response, window: 65_535, waiting: VecDeque::new(), out: Vec::new() };
    frame::write_settings(&mut state.out, &[(0x3, 256)]); // SETTINGS_MAX_CONCURRENT_STREAMS
    while buffer.len() < frame::PREFACE.len() {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
    buffer.drain(..frame::PREFACE.len());
    loop {
        let mut read = 0;
        while let Some((frame, length)) = Frame::read(&buffer[read..]).map_err(io::Error::other)? {
            read += length;
            state.take(frame, counts);
        }
        buffer.drain(..read);
        if !state.out.is_empty() {
            stream.write_all(&state.out).await?;
            state.out.clear();
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

impl Http2 {
    fn take(&mut self, frame: Frame<'_>, counts: &Counts) {
        match frame.kind {
            frame::SETTINGS if !frame.is_ack() => {
                frame::write(&mut self.out, (frame::SETTINGS, frame::ACK), 0, &[]);
            }
            frame::PING if !frame.is_ack() => {
                frame::write(&mut self.out, (frame::PING, frame::ACK), 0, frame.payload);
            }
            frame::WINDOW_UPDATE if frame.stream == 0 => self.window += frame.increment(),
            _ if frame.ends_stream() => {
                counts.http2.fetch_add(1, Relaxed);
                self.waiting.push_back(frame.stream);
            }
            _ => {}
        }
        while self.window >= BODY.len() as i64 {
            let Some(stream) = self.waiting.pop_front() else { break };
            self.window -= BODY.len() as i64;
            frame::write(&mut self.out, (frame::HEADERS, frame::END_HEADERS), stream, &self.response);
            frame::write(&mut self.out, (frame::DATA, frame::END_STREAM), stream, BODY);
        }
    }
}

/// Counts bytes until their end, then answers with their number and, if asked, their sum, both big-endian.
async fn swallow(mut stream: TcpStream, counts: &Counts) -> io::Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    let (mut total, mut sum, mut summed) = (0u64, 0u64, None);
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        let summed = *summed.get_or_insert(buffer[0] == SUMMED);
        counts.bytes.fetch_add(read as u64, Relaxed);
        total += read as u64;
        if summed {
            sum = fold(sum, &buffer[..read]);
        }
    }
    stream.write_all(&[total.to_be_bytes(), sum.to_be_bytes()].concat()).await?;
    stream.shutdown().await
}

/// A sum that notices changed, lost and exchanged bytes.
pub(crate) fn fold(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte) + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_counted_when_their_empty_line_has_come() {
        let check = |text: &str, expected| assert_eq!(complete_heads(text.as_bytes()), expected, "{text:?}");
        check("", (0, 0));
        check("GET / HTTP/1.1\r\nhost: a\r\n", (0, 0));
        check("GET / HTTP/1.1\r\n\r\n", (1, 18));
        check("GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\nGET", (2, 36));
    }

    #[test]
    fn the_sum_notices_what_a_count_does_not() {
        assert_ne!(fold(0, b"ab"), fold(0, b"ba"));
        assert_ne!(fold(0, b"ab"), fold(0, b"ac"));
        assert_eq!(fold(fold(0, b"a"), b"b"), fold(0, b"ab"));
    }

    #[test]
    fn responses_wait_for_the_window() {
        let mut state =
            Http2 { response: vec![0x88], window: 200, waiting: VecDeque::new(), out: Vec::new() };
        let counts = Counts::default();
        let request = |stream| Frame { kind: frame::HEADERS, flags: 5, stream, payload: &[0x82] };
        state.take(request(1), &counts);
        state.take(request(3), &counts);
        assert_eq!((state.waiting.len(), state.window), (1, 72));
        let more = 1000u32.to_be_bytes();
        state.take(Frame { kind: frame::WINDOW_UPDATE, flags: 0, stream: 0, payload: &more }, &counts);
        assert_eq!((state.waiting.len(), state.window, counts.http2.load(Relaxed)), (0, 944, 2));
    }
}
