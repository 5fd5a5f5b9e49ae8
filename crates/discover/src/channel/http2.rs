//! An HTTP/2 client connection on what the layers below connect.
//!
//! PINGs find a controller that hangs, also one whose kernel takes connections that nobody serves: a
//! connection counts only once the other side has spoken. Every limit is set here and none left to a
//! library's default.

use super::ChannelError;
use super::error::describe;
use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tower_service::Service;
use weft_model::destination::KeepAlive;
use weft_net::stream::Stream;
use weft_wire::services::{Body, BoxError};

/// Bytes a stream may receive before we have read them.
const STREAM_WINDOW: u32 = 65_535;
/// Bytes a connection may receive before we have read them.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Largest frame either way: the protocol's least.
const MAX_FRAME: u32 = 16 * 1024;
/// Bytes of response headers; gRPC's are a few hundred.
const MAX_HEADER_LIST: u32 = 16 * 1024;
/// Bytes buffered per stream for sending; requests are below 64 KiB.
const MAX_SEND_BUFFER: usize = 64 * 1024;
/// Streams opened before the server's SETTINGS have said how many it takes.
const INITIAL_STREAMS: usize = 100;
/// Locally reset streams remembered, and resets tolerated from the server (h2's own defaults).
const RESET_STREAMS: usize = 50;
const PENDING_RESETS: usize = 20;
const ERROR_RESETS: usize = 1_024;

/// Makes connections to an address.
#[derive(Clone)]
pub(super) struct Http2<C> {
    inner: C,
    keep_alive: KeepAlive,
}

/// One connection. Clones share it; it closes when they are gone and its calls have ended.
#[derive(Clone)]
pub(super) struct Connection {
    sender: SendRequest<Body>,
    closed: watch::Receiver<Option<String>>,
}

/// A call that got no response.
pub(super) struct Unanswered {
    /// What happened.
    pub(super) error: hyper::Error,
    /// The request, if it certainly was not sent.
    pub(super) request: Option<http::Request<Body>>,
}

impl Connection {
    /// Sends a request. Resolves with the response's head.
    pub(super) async fn send(
        &mut self,
        request: http::Request<Body>,
    ) -> Result<http::Response<Incoming>, Unanswered> {
        self.sender.try_send_request(request).await.map_err(|mut error| {
            let request = error.take_message();
            Unanswered { error: error.into_error(), request }
        })
    }

    /// Resolves when no more calls can be made on it; says why.
    pub(super) async fn closed(&mut self) -> String {
        // The sender is gone only together with the connection.
        let _ = self.closed.wait_for(Option::is_some).await;
        self.closed.borrow().clone().unwrap_or_else(|| "it was closed".into())
    }
}

impl<C> Http2<C> {
    pub(super) fn new(inner: C, keep_alive: KeepAlive) -> Self {
        Self { inner, keep_alive }
    }
}

impl<C> Service<SocketAddr> for Http2<C>
where
    C: Service<SocketAddr, Response = Stream, Error = BoxError>,
    C::Future: Send + 'static,
{
    type Response = Connection;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Connection, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, addr: SocketAddr) -> Self::Future {
        let connecting = self.inner.call(addr);
        let keep_alive = self.keep_alive;
        Box::pin(async move {
            let (spoke, mut spoken) = watch::channel(false);
            let stream = Heard { inner: connecting.await?, spoke: Some(spoke) };
            let handshake = builder(keep_alive).handshake::<_, Body>(TokioIo::new(stream)).await;
            let (sender, connection) = handshake.map_err(ChannelError::Http2)?;
            let (close, closed) = watch::channel(None);
            tokio::spawn(async move {
                let why = match connection.await {
                    Ok(()) => "the controller closed it".to_owned(),
                    Err(error) => describe(&error),
                };
                close.send_replace(Some(why));
            });
            let mut connection = Connection { sender, closed };
            tokio::select! {
                biased;
                Ok(_) = spoken.wait_for(|spoken| *spoken) => Ok(connection),
                why = connection.closed() => Err(ChannelError::Silent(why).into()),
            }
        })
    }
}

/// Runs what a connection wants run, each thing in a box that goes with its end. A stream of HTTP/2 remembers the
/// task that sent its request for as long as it is open, and watches stay open for as long as the proxy lives: what
/// is remembered must not be the whole of that task, 1.5 KiB a call.
#[derive(Clone, Copy)]
struct Boxing;

impl<F> hyper::rt::Executor<F> for Boxing
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        tokio::spawn(Box::pin(future));
    }
}

/// A stream that says when the other side has sent its first bytes, which in HTTP/2 are its SETTINGS.
struct Heard {
    inner: Stream,
    spoke: Option<watch::Sender<bool>>,
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if self.spoke.is_some()
            && buf.filled().len() > before
            && let Some(spoke) = self.spoke.take()
        {
            spoke.send_replace(true);
        }
        read
    }
}

impl AsyncWrite for Heard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

fn builder(keep_alive: KeepAlive) -> Builder<Boxing> {
    let mut builder = Builder::new(Boxing);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .adaptive_window(false)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .initial_max_send_streams(INITIAL_STREAMS)
        .max_concurrent_reset_streams(RESET_STREAMS)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(ERROR_RESETS)
        .keep_alive_interval(keep_alive.interval)
        .keep_alive_timeout(keep_alive.timeout)
        .keep_alive_while_idle(keep_alive.while_idle);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Empty};
    use hyper::service::service_fn;
    use hyper_util::rt::TokioExecutor;
    use std::time::Duration;
    use tower::ServiceExt;
    use tower_test::mock;

    const KEEP_ALIVE: KeepAlive =
        KeepAlive { interval: Duration::from_secs(10), timeout: Duration::from_secs(3), while_idle: true };

    type Making = tokio::task::JoinHandle<Result<Connection, BoxError>>;

    /// Asks for a connection; gives it as it comes, and the far end of its stream.
    async fn connecting() -> (Making, tokio::io::DuplexStream) {
        let (connect, mut handle) = mock::pair::<SocketAddr, Stream>();
        let http2 = Http2::new(connect, KEEP_ALIVE);
        let making = tokio::spawn(http2.oneshot(SocketAddr::from(([10, 0, 0, 1], 1))));
        let (near, far) = tokio::io::duplex(64 * 1024);
        handle.next_request().await.unwrap().1.send_response(Stream::memory(near));
        (making, far)
    }

    fn serve(far: tokio::io::DuplexStream) -> tokio::task::JoinHandle<()> {
        let service = service_fn(|_| async {
            Ok::<_, std::convert::Infallible>(http::Response::new(Empty::<bytes::Bytes>::new()))
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(async move { drop(server.serve_connection(TokioIo::new(far), service).await) })
    }

    fn request() -> http::Request<Body> {
        http::Request::post("http://dst.mesh/x").body(Body::empty()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_serves_calls_and_tells_when_it_closes() {
        let (making, far) = connecting().await;
        let server = serve(far);
        let mut connection = making.await.unwrap().unwrap();
        let response = connection.send(request()).await.ok().unwrap();
        assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
        server.abort();
        let mut other = connection.clone();
        assert!(!other.closed().await.is_empty());
        let unanswered = connection.send(request()).await.err().unwrap();
        assert!(unanswered.request.is_some(), "nothing was sent, so the call can go elsewhere");
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_no_connection() {
        let (making, far) = connecting().await;
        let begun = tokio::time::Instant::now();
        let error = making.await.unwrap().err().unwrap();
        assert!(matches!(error.downcast_ref(), Some(ChannelError::Silent(_))), "{error}");
        assert_eq!(begun.elapsed(), Duration::from_secs(13));
        drop(far);

        let (making, far) = connecting().await;
        drop(far);
        let error = making.await.unwrap().err().unwrap();
        assert!(
            matches!(error.downcast_ref(), Some(ChannelError::Silent(_) | ChannelError::Http2(_))),
            "{error}"
        );
    }
}
