//! What the tests share: a network in memory, servers on it, and requests.

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::Handle;
use tokio::time::Instant;
use weft_balance::{Backend, Change, EndpointState, Params, Readiness};
use weft_connect::context::Connecting;
use weft_connect::{Connect, Context, Endpoint};
use weft_model::destination::{EndpointInfo, ProtocolHint};
use weft_net::body::Body;
use weft_net::stream::Stream;

type Serve = Box<dyn Fn(usize, DuplexStream) + Send + Sync>;

/// A network with one server, which is told the number of each connection (from 0).
pub(crate) struct Net {
    serve: Serve,
    pub(crate) connects: AtomicUsize,
    /// When attempts were made.
    pub(crate) attempts: Mutex<Vec<Instant>>,
    pub(crate) refuses: AtomicBool,
    pub(crate) hangs: AtomicBool,
}

impl Net {
    /// Every connection is served by a task of its own.
    pub(crate) fn new<F, S>(serve: S) -> Arc<Self>
    where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(usize, DuplexStream) -> F + Send + Sync + 'static,
    {
        Arc::new(Self {
            serve: Box::new(move |number, io| drop(tokio::spawn(serve(number, io)))),
            connects: AtomicUsize::new(0),
            attempts: Mutex::default(),
            refuses: AtomicBool::new(false),
            hangs: AtomicBool::new(false),
        })
    }

    pub(crate) fn connects(&self) -> usize {
        self.connects.load(SeqCst)
    }

    pub(crate) fn refuse(&self, refuses: Refuses) {
        self.refuses.store(matches!(refuses, Refuses::Yes), SeqCst);
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Refuses {
    Yes,
    No,
}

pub(crate) struct Connector(pub(crate) Arc<Net>);

impl Connect for Connector {
    fn connect(&self, _: SocketAddr) -> Connecting {
        let net = self.0.clone();
        Box::pin(async move {
            net.attempts.lock().unwrap().push(Instant::now());
            if net.hangs.load(SeqCst) {
                std::future::pending::<()>().await;
            }
            if net.refuses.load(SeqCst) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            (net.serve)(net.connects.fetch_add(1, SeqCst), theirs);
            Ok(Stream::memory(ours))
        })
    }
}

pub(crate) fn context(net: &Arc<Net>) -> Context {
    let mut context = Context::new(Handle::current());
    context.connector = Arc::new(Connector(net.clone()));
    context.backoff.jitter = 0.0;
    context
}

pub(crate) fn info(hint: ProtocolHint) -> EndpointInfo {
    EndpointInfo { hint, ..EndpointInfo::plain(addr()) }
}

pub(crate) fn addr() -> SocketAddr {
    "10.0.0.1:8080".parse().unwrap()
}

/// A backend of this one endpoint, and the endpoint.
pub(crate) struct World {
    pub(crate) backend: Backend<Endpoint>,
    pub(crate) endpoint: Endpoint,
}

impl World {
    pub(crate) fn new(context: Context, info: EndpointInfo) -> Self {
        let context = Arc::new(context);
        let made = Arc::new(Mutex::new(None));
        let slot = made.clone();
        let backend =
            Backend::new(Params::default(), move |info: Arc<EndpointInfo>, readiness: Readiness| {
                let endpoint = Endpoint::new(info, context.clone(), readiness);
                *slot.lock().unwrap() = Some(endpoint.clone());
                endpoint
            });
        backend.apply(Change::Reset(vec![info]));
        let endpoint = made.lock().unwrap().take().unwrap();
        Self { backend, endpoint }
    }

    /// Waits until the endpoint is ready.
    pub(crate) async fn ready(context: Context, info: EndpointInfo) -> Self {
        let world = Self::new(context, info);
        drop(world.backend.ready(None).await.unwrap());
        world
    }

    pub(crate) fn state(&self) -> EndpointState {
        self.endpoint.status().state
    }
}

/// Lets every other task run until it waits.
pub(crate) async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn get(version: Version) -> Request<Body> {
    request(version, Body::empty())
}

pub(crate) fn request(version: Version, body: Body) -> Request<Body> {
    let builder = Request::builder().version(version);
    match version {
        Version::HTTP_2 => builder.uri("http://web/path"),
        _ => builder.uri("/path").header("host", "web"),
    }
    .body(body)
    .unwrap()
}

pub(crate) async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What a server saw of a request: version, target, carried version.
pub(crate) async fn describe(
    number: usize,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let carried = request.headers().get("l5d-orig-proto").map(|v| v.to_str().unwrap().to_owned());
    let mut text = format!("#{number} {:?} {}", request.version(), request.uri());
    let mut response = Response::builder();
    if let Some(carried) = carried {
        text = format!("{text} [{carried}]");
        response = response.header("l5d-orig-proto", "HTTP/1.1");
    }
    Ok(response.body(Full::from(text)).unwrap())
}

pub(crate) async fn serve_http1(number: usize, io: DuplexStream) {
    let service = service_fn(move |request| describe(number, request));
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
}

pub(crate) async fn serve_http2(number: usize, io: DuplexStream) {
    let service = service_fn(move |request| describe(number, request));
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = builder.serve_connection(TokioIo::new(io), service).await;
}

/// Reads a request head by hand; empty at the end of the stream.
pub(crate) async fn read_head(io: &mut DuplexStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match io.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

pub(crate) async fn answer(io: &mut DuplexStream, body: &str) {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    io.write_all(head.as_bytes()).await.unwrap();
    io.write_all(body.as_bytes()).await.unwrap();
}
