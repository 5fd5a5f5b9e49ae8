//! The one small HTTP server and client loop of the control paths.
//!
//! [`serve`] answers one connection, HTTP/1 or HTTP/2 by its first bytes, with an async function: admin,
//! API, dashboard and gRPC servers run on it. [`Http2Client`] carries gRPC, [`fetch`] scrapes. Every limit
//! is explicit. The data path uses hyper's connections itself and takes only [`Http2Limits`] from here.
//! Routing, TLS and accepting are the callers'.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{HOST, HeaderMap};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use crate::body::{Body, BodyError};
use crate::drain::Drain;
use crate::prefixed::{self, Bounds, Outcome};
use crate::socket::{self, SocketOptions};
use crate::stream::Stream;

/// How every HTTP/2 connection begins (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a request or a connection of the control paths can fail with.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// No connection, or it broke while its protocol was being told. Safe to repeat.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The HTTP connection failed, by the fault of either side. Repeatable if the request is.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// The body failed half-way.
    #[error("{0}")]
    Body(#[from] BodyError),
    /// The request could not be written as HTTP. The caller's fault.
    #[error("malformed request: {0}")]
    Request(#[from] http::Error),
    /// The answer is larger than the caller takes.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    /// No answer in time. Repeatable if the request is.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

/// PINGs that tell a dead peer from a silent one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Silence before a PING.
    pub interval: Duration,
    /// How long its answer may take before the connection counts as dead.
    pub timeout: Duration,
}

/// Limits of one HTTP/2 server connection. Each bounds what one client can make us hold or do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Limits {
    /// Requests at once.
    pub streams: u32,
    /// Bytes of a header list, decoded (as counted by RFC 9113 §6.5.2). h2 also bounds CONTINUATION by it.
    pub header_list: u32,
    /// Streams reset by the client before they were accepted (rapid reset) until we hang up.
    pub pending_accept_resets: usize,
    /// Streams that we reset for the client's errors (made-you-reset) until we hang up.
    pub local_error_resets: usize,
    /// Bytes of a response that wait for one stream's window.
    pub send_buffer: usize,
    /// Bytes of a request that one stream may have under way.
    pub stream_window: u32,
    /// Bytes of all requests that the connection may have under way: the bound on what unread bodies hold.
    pub connection_window: u32,
    /// Whether windows follow the measured bandwidth instead, up to 16 MiB.
    pub windows: Windows,
    /// Largest frame taken; `None`: 16 KiB, the protocol's least.
    pub frame: Option<u32>,
    /// PINGs to the client.
    pub keep_alive: Option<KeepAlive>,
}

/// How flow-control windows are sized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// As set.
    Fixed,
    /// By bandwidth and delay, measured with PINGs.
    Adaptive,
}

impl Default for Http2Limits {
    fn default() -> Self {
        Self {
            // hyper's default; nginx has 128, Envoy 100 at the edge. gRPC clients open more connections beyond.
            streams: 200,
            // As for HTTP/1 heads.
            header_list: 128 * 1024,
            // h2's default: an honest client cancels what was accepted, hardly ever so much before.
            pending_accept_resets: 20,
            // h2's default. Lower ones would hit clients whose streams race with our resets.
            local_error_resets: 1024,
            // hyper's 400 KiB times 200 streams would let one slow reader hold 80 MiB; this makes it 25.
            send_buffer: 128 * 1024,
            // The protocol's 64 KiB hold one stream at 0.5 Gbit/s over 1 ms. Four stalled streams of this
            // size fill the connection's window; one alone cannot starve the others.
            stream_window: 256 * 1024,
            // The peer's value.
            connection_window: 1024 * 1024,
            windows: Windows::Fixed,
            frame: None,
            keep_alive: None,
        }
    }
}

impl Http2Limits {
    /// Sets the limits on hyper's builder, and the timer that PINGs need.
    pub fn apply<E>(&self, builder: &mut http2::Builder<E>) {
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.streams)
            .max_header_list_size(self.header_list)
            .max_pending_accept_reset_streams(self.pending_accept_resets)
            .max_local_error_reset_streams(self.local_error_resets)
            .max_send_buf_size(self.send_buffer.min(u32::MAX as usize))
            .max_frame_size(self.frame);
        match self.windows {
            Windows::Adaptive => builder.adaptive_window(true),
            Windows::Fixed => builder
                .initial_stream_window_size(self.stream_window)
                .initial_connection_window_size(self.connection_window),
        };
        if let Some(KeepAlive { interval, timeout }) = self.keep_alive {
            builder.keep_alive_interval(interval).keep_alive_timeout(timeout);
        }
    }
}

/// Limits of one server connection of the control paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest wait for the first bytes, which tell the protocol.
    pub first_bytes: Duration,
    /// Longest wait for a request's head on HTTP/1, idle time included.
    pub head_time: Duration,
    /// Most bytes of a request's head on HTTP/1.
    pub head_bytes: usize,
    /// Limits on HTTP/2.
    pub http2: Http2Limits,
}

impl Default for Limits {
    /// Longer idle times than usual scrape intervals (15 s), and PINGs so that dead clients of long
    /// streams are noticed.
    fn default() -> Self {
        let keep_alive =
            Some(KeepAlive { interval: Duration::from_secs(30), timeout: Duration::from_secs(20) });
        Self {
            first_bytes: Duration::from_secs(10),
            head_time: Duration::from_secs(30),
            head_bytes: 64 * 1024,
            http2: Http2Limits { keep_alive, ..Http2Limits::default() },
        }
    }
}

/// Answers all requests of one connection with `answer`, until the client leaves or, once the drain is
/// signaled, until what is under way is answered; it holds a guard meanwhile. On HTTP/2 requests are
/// answered side by side, on tasks of their own. Dropping the future cuts the connection.
pub async fn serve<F, R>(stream: Stream, limits: &Limits, answer: F, drain: &Drain) -> Result<(), WebError>
where
    F: Fn(Request<Body>) -> R + Clone + Send + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let _guard = drain.guard();
    let signaled = drain.signaled();
    let bounds = Bounds { bytes: PREFACE.len(), time: limits.first_bytes };
    let told = tokio::select! {
        told = prefixed::read(stream, bounds, is_http2) => told?,
        () = drain.signaled() => return Ok(()), // nothing was asked yet
    };
    let (version, stream) = match told {
        (Outcome::Decided(version), stream) => (version, stream),
        (Outcome::TimedOut, _) => return Err(WebError::TimedOut(limits.first_bytes)),
        (Outcome::Ended | Outcome::Full, stream) if stream.prefix().is_empty() => return Ok(()),
        (Outcome::Ended | Outcome::Full, stream) => (Version::Http1, stream),
    };
    let io = TokioIo::new(stream);
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(request.map(Body::incoming));
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut signaled = pin!(signaled);
    match version {
        Version::Http2 => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            limits.http2.apply(&mut builder);
            let mut connection = pin!(builder.serve_connection(io, service));
            tokio::select! {
                done = connection.as_mut() => return Ok(done?),
                () = signaled.as_mut() => connection.as_mut().graceful_shutdown(),
            }
            Ok(connection.await?)
        }
        Version::Http1 => {
            let mut builder = http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(limits.head_time)
                .max_buf_size(limits.head_bytes.max(8192)); // hyper panics below
            let mut connection = pin!(builder.serve_connection(io, service));
            tokio::select! {
                done = connection.as_mut() => return Ok(done?),
                () = signaled.as_mut() => connection.as_mut().graceful_shutdown(),
            }
            Ok(connection.await?)
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

fn is_http2(bytes: &[u8]) -> Option<Version> {
    if bytes.starts_with(PREFACE) {
        return Some(Version::Http2);
    }
    (!PREFACE.starts_with(bytes)).then_some(Version::Http1)
}

/// Settings of an HTTP/2 client connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2ClientOptions {
    /// Bytes that one response may have under way.
    pub stream_window: u32,
    /// Bytes that all responses may have under way.
    pub connection_window: u32,
    /// Bytes of a response's header list, decoded.
    pub header_list: u32,
    /// PINGs, also while nothing is asked: a hanging server counts as dead after one.
    pub keep_alive: Option<KeepAlive>,
}

impl Default for Http2ClientOptions {
    /// The peer's windows, and its 10 s + 3 s until a hanging control plane counts as dead.
    fn default() -> Self {
        let keep_alive =
            Some(KeepAlive { interval: Duration::from_secs(10), timeout: Duration::from_secs(3) });
        Self { stream_window: 65_535, connection_window: 1024 * 1024, header_list: 64 * 1024, keep_alive }
    }
}

/// One HTTP/2 connection to send requests on. Clones share it.
#[derive(Clone, Debug)]
pub struct Http2Client {
    sender: conn::http2::SendRequest<Body>,
}

impl Http2Client {
    /// Opens HTTP/2 on a fresh stream. The connection is driven by a task, which ends when all clones and
    /// responses are gone or the connection fails.
    pub async fn open(stream: Stream, options: &Http2ClientOptions) -> Result<Self, WebError> {
        let mut builder = conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window)
            .max_header_list_size(options.header_list);
        if let Some(KeepAlive { interval, timeout }) = options.keep_alive {
            builder.keep_alive_interval(interval).keep_alive_timeout(timeout).keep_alive_while_idle(true);
        }
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an HTTP/2 client connection failed");
            }
        });
        Ok(Self { sender })
    }

    /// Waits until the connection takes a request. An error means that it is over: open another.
    pub async fn ready(&mut self) -> Result<(), WebError> {
        Ok(self.sender.ready().await?)
    }

    /// As [`ready`](Self::ready), inside a `poll_ready`.
    pub fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), WebError>> {
        self.sender.poll_ready(cx).map_err(WebError::from)
    }

    /// Whether the connection is over. It may not have been noticed yet.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a request, whose target must be absolute. Dropping the future resets the stream.
    pub fn send(
        &mut self,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Body>, WebError>> + Send + 'static + use<> {
        let response = self.sender.send_request(request);
        async move { Ok(response.await?.map(Body::incoming)) }
    }
}

/// Sends one HTTP/1.1 request on a fresh stream, which closes after the response. The request's target must
/// be in origin form and its `host` set. The connection is driven by a task until the response was read or
/// dropped.
pub async fn request(stream: Stream, request: Request<Body>) -> Result<Response<Body>, WebError> {
    let (mut sender, connection) =
        conn::http1::Builder::new().max_buf_size(64 * 1024).handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "an HTTP/1 client connection failed");
        }
    });
    Ok(sender.send_request(request).await?.map(Body::incoming))
}

/// What [`fetch`] brings.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The answer's status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its whole body.
    pub body: Bytes,
}

/// GETs a path over plain HTTP/1.1: scraping and tests. `bounds` limits the whole exchange, and the body.
pub async fn fetch(address: SocketAddr, path: &str, bounds: Bounds) -> Result<Fetched, WebError> {
    let exchange = async {
        let stream = socket::connect(address, &SocketOptions::default()).await?;
        let get = Request::get(path).header(HOST, address.to_string()).body(Body::empty())?;
        let (head, body) = request(Stream::tcp(stream), get).await?.into_parts();
        let body = read_all(body, bounds.bytes).await?;
        Ok(Fetched { status: head.status, headers: head.headers, body })
    };
    match tokio::time::timeout(bounds.time, exchange).await {
        Ok(fetched) => fetched,
        Err(_) => Err(WebError::TimedOut(bounds.time)),
    }
}

/// Reads a body to its end; trailers are dropped. Fails as soon as it is, or says that it will be, larger
/// than `limit`.
pub async fn read_all(body: Body, limit: usize) -> Result<Bytes, WebError> {
    if usize::try_from(body.size_hint().lower()).is_ok_and(|least| least > limit) {
        return Err(WebError::TooLarge(limit));
    }
    let mut body = pin!(body);
    let mut only = Bytes::new(); // most bodies are one frame, which needs no copy
    let mut all = BytesMut::new();
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let Ok(data) = frame?.into_data() else { continue };
        if only.len() + all.len() + data.len() > limit {
            return Err(WebError::TooLarge(limit));
        }
        if only.is_empty() && all.is_empty() {
            only = data;
        } else {
            all.extend_from_slice(&std::mem::take(&mut only));
            all.extend_from_slice(&data);
        }
    }
    Ok(if all.is_empty() { only } else { all.freeze() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::Notify;
    use tokio::task::JoinHandle;

    const BOUNDS: Bounds = Bounds { bytes: 1 << 20, time: Duration::from_secs(10) };

    async fn echo(request: Request<Body>) -> Response<Body> {
        let version = format!("{:?} {} ", request.version(), request.uri().path());
        let body = read_all(request.into_body(), 1 << 20).await.unwrap();
        Response::new(Body::full([version.as_bytes(), &body].concat()))
    }

    fn served(drain: &Drain) -> (DuplexStream, JoinHandle<Result<(), WebError>>) {
        let (ours, theirs) = duplex(4096);
        let drain = drain.clone();
        let serving = async move { serve(Stream::memory(theirs), &Limits::default(), echo, &drain).await };
        (ours, tokio::spawn(serving))
    }

    #[tokio::test]
    async fn both_versions_are_told_by_their_first_bytes() {
        let (_trigger, drain) = drain::channel();
        let (ours, _serving) = served(&drain);
        let post = |uri: &str| Request::post(uri).header(HOST, "x").body(Body::full("body")).unwrap();
        let response = request(Stream::memory(ours), post("/a")).await.unwrap();
        assert_eq!(&read_all(response.into_body(), 100).await.unwrap()[..], b"HTTP/1.1 /a body");

        let (ours, _serving) = served(&drain);
        let mut client =
            Http2Client::open(Stream::memory(ours), &Http2ClientOptions::default()).await.unwrap();
        let large = Body::full(vec![b'x'; 900_000]);
        for (body, length) in [(Body::full("body"), 16), (large, 900_012), (Body::empty(), 12)] {
            client.ready().await.unwrap();
            let request = Request::post("http://x/a").body(body).unwrap();
            let answer = read_all(client.send(request).await.unwrap().into_body(), 1 << 20).await.unwrap();
            assert!(answer.starts_with(b"HTTP/2.0 /a ") && answer.len() == length, "{}", answer.len());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_dropped() {
        let (_trigger, drain) = drain::channel();
        let (_ours, serving) = served(&drain);
        assert!(matches!(serving.await.unwrap(), Err(WebError::TimedOut(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dribbling_head_is_cut_off() {
        let (_trigger, drain) = drain::channel();
        let (mut ours, serving) = served(&drain);
        ours.write_all(b"GET / HT").await.unwrap();
        assert!(matches!(serving.await.unwrap(), Err(WebError::Http(e)) if e.is_timeout()));
    }

    #[tokio::test]
    async fn a_client_that_leaves_without_a_word_is_no_error() {
        let (_trigger, drain) = drain::channel();
        let (ours, serving) = served(&drain);
        drop(ours);
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_oversized_head_is_refused() {
        let (_trigger, drain) = drain::channel();
        let (mut ours, _serving) = served(&drain);
        let head = format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(100_000));
        let _ = ours.write_all(head.as_bytes()).await;
        let mut answer = String::new();
        let _ = ours.read_to_string(&mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn draining_lets_requests_under_way_end_and_closes_idle_connections() {
        let (trigger, drain) = drain::channel();
        let (started, finish) = (std::sync::Arc::new(Notify::new()), std::sync::Arc::new(Notify::new()));
        let (announce, wait) = (started.clone(), finish.clone());
        let slow = move |_: Request<Body>| {
            let (announce, wait) = (announce.clone(), wait.clone());
            async move {
                announce.notify_one();
                wait.notified().await;
                Response::new(Body::full("done"))
            }
        };
        let (ours, theirs) = duplex(4096);
        let of = drain.clone();
        tokio::spawn(async move { serve(Stream::memory(theirs), &Limits::default(), slow, &of).await });
        let (_idle, idle_serving) = served(&drain);
        let get = Request::get("/").header(HOST, "x").body(Body::empty()).unwrap();
        let asking = tokio::spawn(request(Stream::memory(ours), get));
        started.notified().await;
        let draining = tokio::spawn(trigger.drain());
        idle_serving.await.unwrap().unwrap();
        finish.notify_one();
        let response = asking.await.unwrap().unwrap();
        assert_eq!(response.headers()["connection"], "close");
        assert_eq!(&read_all(response.into_body(), 10).await.unwrap()[..], b"done");
        draining.await.unwrap();
    }

    #[tokio::test]
    async fn fetching_is_bounded() {
        let listener = socket::listen("127.0.0.1:0".parse().unwrap(), &SocketOptions::default()).unwrap();
        let address = listener.local_addr().unwrap();
        let (_trigger, drain) = drain::channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = serve(Stream::tcp(stream), &Limits::default(), echo, &drain).await;
            }
        });
        let fetched = fetch(address, "/metrics", BOUNDS).await.unwrap();
        assert_eq!((fetched.status, &fetched.body[..]), (StatusCode::OK, &b"HTTP/1.1 /metrics "[..]));
        let small = Bounds { bytes: 5, ..BOUNDS };
        assert!(matches!(fetch(address, "/metrics", small).await, Err(WebError::TooLarge(5))));
    }
}
