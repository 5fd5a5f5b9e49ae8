//! The shop's programs: a web server, a gRPC server and a byte server, each with its quirks.
//!
//! `weft demo-app` runs one of them a process. It knows nothing of the mesh: the sidecar beside it does
//! everything else. A failure on purpose says so in a header, so that the demo can tell it from others.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use weft_net::body::Body;
use weft_net::drain;
use weft_net::socket::{self, SocketOptions};
use weft_net::stream::Stream;
use weft_net::web::{self, Limits};

/// Marks answers that failed on purpose.
pub(crate) const INJECTED: &str = "demo-injected";

/// Longest wait for answers under way when the program is told to end.
const GRACE: Duration = Duration::from_secs(5);

/// What a program speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// HTTP/1.1.
    Http,
    /// gRPC, unary.
    Grpc,
    /// Lines, the server's first.
    Lines,
}

impl Speaks {
    /// All of them.
    pub(crate) const ALL: [Speaks; 3] = [Speaks::Http, Speaks::Grpc, Speaks::Lines];

    /// As an argument.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Speaks::Http => "http",
            Speaks::Grpc => "grpc",
            Speaks::Lines => "lines",
        }
    }

    /// Reads that argument.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|speaks| speaks.name() == text)
    }
}

/// How a program behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nature {
    pub(crate) speaks: Speaks,
    /// Time that an answer takes.
    pub(crate) takes: Duration,
    /// Every so many requests one fails with 500; 0: none.
    pub(crate) fails_every: u64,
    /// The request of this number is answered by half; 0: none.
    pub(crate) breaks_off_at: u64,
}

/// Serves until SIGTERM, and then until what is under way is answered.
pub(crate) async fn run(listen: SocketAddr, nature: Nature) -> io::Result<()> {
    // First of all: whoever reaches this program may also tell it to end, and expects it to end well.
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = socket::listen(listen, &SocketOptions::default())?;
    let (trigger, drain) = drain::channel();
    let count = Arc::new(AtomicU64::new(0));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = terminate.recv() => break,
        };
        let Ok((stream, _)) = accepted else { continue };
        // Without it, an answer in two writes waits for the client's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        let (drain, count) = (drain.clone(), count.clone());
        tokio::spawn(async move {
            // A client that leaves early is none of this program's business.
            let _ = connection(stream, nature, count, &drain).await;
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(GRACE, trigger.drain()).await;
    Ok(())
}

async fn connection(
    stream: TcpStream,
    nature: Nature,
    count: Arc<AtomicU64>,
    drain: &drain::Drain,
) -> Result<(), web::WebError> {
    if nature.speaks == Speaks::Lines {
        return Ok(lines(stream, nature).await?);
    }
    let answer = move |request: Request<Body>| {
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        answer(request, nature, number)
    };
    web::serve(Stream::tcp(stream), &Limits::default(), answer, drain).await
}

async fn answer(request: Request<Body>, nature: Nature, number: u64) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let read = request.into_body().collect().await.map(|body| body.to_bytes());
    tokio::time::sleep(nature.takes).await;
    if nature.fails_every > 0 && number.is_multiple_of(nature.fails_every) {
        return failed_on_purpose();
    }
    match (nature.speaks, read) {
        (_, Err(_)) => status(StatusCode::BAD_REQUEST),
        (Speaks::Grpc, Ok(message)) => grpc(&message),
        _ if number == nature.breaks_off_at => broken_off(),
        (_, Ok(body)) => {
            Response::new(Body::full(format!("{{\"path\":{path:?},\"read\":{}}}\n", body.len())))
        }
    }
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn failed_on_purpose() -> Response<Body> {
    let mut response = status(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(INJECTED, HeaderValue::from_static("out of stock"));
    response
}

/// Half an answer, after which the connection breaks. The pause lets the half go out: an answer of which
/// nobody saw a byte would be asked for again, and nothing would be lost.
fn broken_off() -> Response<Body> {
    let pause = Box::pin(tokio::time::sleep(Duration::from_millis(50)));
    Response::new(Body::boxed(Half { is_sent: false, pause }))
}

/// A body that breaks off.
struct Half {
    is_sent: bool,
    pause: Pin<Box<tokio::time::Sleep>>,
}

impl http_body::Body for Half {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if !std::mem::replace(&mut self.is_sent, true) {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"{\"path\":")))));
        }
        self.pause.as_mut().poll(cx).map(|()| Some(Err(io::Error::other("broken off"))))
    }
}

/// A unary answer: one message of five bytes of frame header and what came in, then the trailers.
fn grpc(message: &Bytes) -> Response<Body> {
    let mut framed = BytesMut::new();
    let payload = message.get(5..).unwrap_or_default();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(payload.len()).unwrap_or(0));
    framed.put_slice(payload);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Ok(Frame::data(framed.freeze())), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(Body::boxed(Frames(frames.into_iter())));
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// Frames in hand, as a body.
struct Frames<I>(I);

impl<I: Iterator<Item = io::Result<Frame<Bytes>>> + Unpin> http_body::Body for Frames<I> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<I::Item>> {
        Poll::Ready(self.0.next())
    }
}

/// The store: greets first, then answers one line for each.
async fn lines(stream: TcpStream, nature: Nature) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"store ready\n").await?;
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        tokio::time::sleep(nature.takes).await;
        stream.write_all(format!("got {}\n", line.trim_end()).as_bytes()).await?;
        line.clear();
    }
    Ok(())
}
