//! The edge: lets connections in, terminates their TLS, and leads each call to its service.
//!
//! `control` runs one on each listening address. With own names every connection is TLS; `Certify` may be called
//! without a client certificate, everything else only with one of this mesh. Without own names connections are
//! plaintext, and only from loopback. Every number that a client could drive up has a limit here.

use crate::metrics::Metrics;
use crate::quota::{Allowance, Places, Quota};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use weft_identity::store::{Accept, Store, TlsError, accept_any};
use weft_model::identity::Id;
use weft_net::body::Body;
use weft_net::drain::Drain;
use weft_net::socket::{AcceptError, SocketOptions, prepare};
use weft_net::stream::Stream;
use weft_net::web::{self, Http2Limits, KeepAlive};
use weft_wire::services::{CERTIFY_PATH, Caller, Code, Router, Status};

/// The protocol inside TLS. Proxies ask for none at all; other gRPC clients ask for this one.
const ALPN: &[&[u8]] = &[b"h2"];

/// How long accepting pauses when the process is out of descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Limits of the edge.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Of these, from one address.
    pub per_source: usize,
    /// Of these, without a client certificate.
    pub unidentified: usize,
    /// How long a connection without a client certificate may stay.
    pub unidentified_time: Duration,
    /// How long any connection may stay. It bounds how long a client is served whose certificate has expired
    /// since the handshake; proxies reconnect at once and keep what they know meanwhile. Up to a tenth less is
    /// taken, by chance, so that proxies that came together do not come back together.
    pub connection_time: Duration,
    /// Connections at once whose TLS handshake is under way.
    pub handshakes: usize,
    /// Of these, from one address: silent connections of one host must not keep others' from entering.
    pub handshakes_per_source: usize,
    /// Longest handshake.
    pub handshake_time: Duration,
    /// Longest time from a call's head to its answer's.
    pub answer_time: Duration,
    /// `Certify` calls of one connection.
    pub certify: Allowance,
    /// The HTTP loop.
    pub web: web::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        let http2 = Http2Limits {
            // A proxy holds about four streams for each destination, and one more for each port. One that
            // meets the limit waits, so it is high: a stream costs a few KiB.
            streams: 4096,
            // gRPC's heads have about 300 bytes.
            header_list: 16 * 1024,
            // Requests are small, and the large ones (tokens) rare.
            stream_window: 64 * 1024,
            connection_window: 256 * 1024,
            // Answers are shared, so what waits for a slow reader costs little.
            send_buffer: 64 * 1024,
            keep_alive: Some(KeepAlive {
                interval: Duration::from_secs(30),
                timeout: Duration::from_secs(20),
            }),
            ..Http2Limits::default()
        };
        Self {
            // At 43 KiB each for TLS and HTTP/2 buffers (measured in a debug build) these are 180 MiB; real meshes
            // per replica are smaller.
            connections: 4096,
            // Half of them: many proxies may stand behind one address, but none may shut out all others. A proxy
            // has two connections, and a third while its certificate is renewed.
            per_source: 2048,
            unidentified: 512,
            unidentified_time: Duration::from_secs(60),
            // A leaf's own lifetime.
            connection_time: Duration::from_secs(24 * 3600),
            // A handshake takes a round trip and a millisecond of computing, so these are a thousand proxies that
            // start within a moment; who is refused comes again with backoff.
            handshakes: 1024,
            handshakes_per_source: 512,
            handshake_time: Duration::from_secs(10),
            answer_time: Duration::from_secs(10),
            // A proxy renews once in hours; this allows for retries and for leaves of seconds in tests.
            certify: Allowance { calls: 16, period: Duration::from_secs(10) },
            web: web::Limits { http2, ..web::Limits::default() },
        }
    }
}

/// Lets connections in. Shared behind an `Arc`.
pub struct Edge {
    names: Vec<Store>,
    router: Router,
    limits: Limits,
    metrics: Metrics,
    drain: Drain,
    connections: Arc<Semaphore>,
    unidentified: Arc<Semaphore>,
    handshakes: Semaphore,
    handshakes_by_source: Places<Option<IpAddr>>,
    sources: Places<Option<IpAddr>>,
}

impl Edge {
    /// An edge that answers under `names`; with none, in plaintext to loopback.
    pub fn new(
        names: Vec<Store>,
        router: Router,
        limits: Limits,
        metrics: Metrics,
        drain: Drain,
    ) -> Arc<Self> {
        Arc::new(Self {
            names,
            router,
            metrics,
            drain,
            connections: Arc::new(Semaphore::new(limits.connections)),
            unidentified: Arc::new(Semaphore::new(limits.unidentified)),
            handshakes: Semaphore::new(limits.handshakes),
            handshakes_by_source: Places::new(limits.handshakes_per_source),
            sources: Places::new(limits.per_source),
            limits,
        })
    }

    /// Accepts until the drain is signaled or the listener breaks. Connections live on in tasks of their own, and
    /// hold guards of the drain.
    pub async fn listen(self: Arc<Self>, listener: TcpListener) {
        let drained = self.drain.signaled();
        tokio::pin!(drained);
        let options = SocketOptions::default();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut drained => return,
            };
            match accepted {
                Ok((socket, _)) => {
                    if let Err(error) = prepare(&socket, &options) {
                        tracing::debug!(%error, "a connection broke before it was served");
                        continue;
                    }
                    tokio::spawn(self.clone().connection(Stream::tcp(socket)));
                }
                Err(error) => match AcceptError::of(&error) {
                    AcceptError::Connection => {}
                    AcceptError::Exhausted => {
                        self.metrics.connection_refused("exhausted");
                        tracing::warn!(%error, "cannot accept; pausing");
                        sleep(EXHAUSTED_PAUSE).await;
                    }
                    AcceptError::Listener => {
                        tracing::error!(%error, "the listener is broken");
                        return;
                    }
                },
            }
        }
    }

    /// Serves one connection to its end.
    pub async fn connection(self: Arc<Self>, stream: Stream) {
        let peer = stream.peer_addr();
        let Ok(_permit) = self.connections.clone().try_acquire_owned() else {
            return self.refuse("connections");
        };
        let Some(_counted) = self.sources.take(ip(peer)) else {
            return self.refuse("connections-per-source");
        };
        let (stream, id) = match self.enter(stream, peer).await {
            Ok(entered) => entered,
            Err(cause) => return self.metrics.connection_refused(cause),
        };
        let access = match (&id, self.names.is_empty()) {
            (None, false) => Access::CertifyOnly,
            _ => Access::All,
        };
        let _tracked = self.metrics.connections(if id.is_some() { "true" } else { "false" }).track();
        let serving = self.serve(stream, Caller { id, addr: peer }, access);
        let (time, place) = match access {
            Access::All => (self.limits.connection_time.mul_f64(1.0 - fastrand::f64() / 10.0), None),
            Access::CertifyOnly => match self.unidentified.clone().try_acquire_owned() {
                Ok(place) => (self.limits.unidentified_time, Some(place)),
                Err(_) => return self.refuse("connections-unidentified"),
            },
        };
        if timeout(time, serving).await.is_err() {
            tracing::debug!(?peer, "a connection has stayed long enough");
        }
        drop(place);
    }

    /// Terminates TLS, or checks that none is needed. The error is a label.
    async fn enter(
        &self,
        stream: Stream,
        peer: Option<SocketAddr>,
    ) -> Result<(Stream, Option<Id>), &'static str> {
        if self.names.is_empty() {
            return match peer {
                Some(addr) if addr.ip().to_canonical().is_loopback() => Ok((stream, None)),
                _ => {
                    tracing::warn!(
                        ?peer,
                        "refused a connection: without own names only loopback may connect"
                    );
                    Err("plaintext")
                }
            };
        }
        let at = |limit: &'static str| {
            self.metrics.limit_reached(limit);
            "limit"
        };
        let _under_way = self.handshakes.try_acquire().map_err(|_| at("handshakes"))?;
        let _of_its_source =
            self.handshakes_by_source.take(ip(peer)).ok_or_else(|| at("handshakes-per-source"))?;
        let accept = Accept { alpn: ALPN, timeout: self.limits.handshake_time };
        match accept_any(&self.names, stream, accept).await {
            Ok(accepted) => Ok((accepted.stream, accepted.client)),
            Err(TlsError::Timeout(_)) => Err(at("handshake-time")),
            Err(error) => {
                tracing::debug!(?peer, %error, "refused a connection");
                Err(error.code().as_str())
            }
        }
    }

    async fn serve(&self, stream: Stream, caller: Caller, access: Access) {
        let calls = Arc::new(Calls {
            router: self.router.clone(),
            metrics: self.metrics.clone(),
            caller,
            access,
            certify: Quota::new(self.limits.certify, 1),
            answer_time: self.limits.answer_time,
        });
        let answer = move |request| calls.clone().answer(request);
        if let Err(error) = web::serve(stream, &self.limits.web, answer, &self.drain).await {
            tracing::debug!(%error, "a connection ended");
        }
    }

    /// Counts a connection that met a limit.
    fn refuse(&self, limit: &str) {
        self.metrics.connection_refused("limit");
        self.metrics.limit_reached(limit);
    }
}

/// The address that a connection is counted for.
fn ip(peer: Option<SocketAddr>) -> Option<IpAddr> {
    peer.map(|addr| addr.ip().to_canonical())
}

/// What the calls of a connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    All,
    CertifyOnly,
}

/// The calls of one connection.
struct Calls {
    router: Router,
    metrics: Metrics,
    caller: Caller,
    access: Access,
    certify: Quota<()>,
    answer_time: Duration,
}

impl Calls {
    async fn answer(self: Arc<Self>, mut request: http::Request<Body>) -> http::Response<Body> {
        if request.version() != http::Version::HTTP_2 {
            let mut response = http::Response::new(Body::full("gRPC needs HTTP/2\n"));
            *response.status_mut() = http::StatusCode::HTTP_VERSION_NOT_SUPPORTED;
            return response;
        }
        let response = match self.admit(request.uri().path()) {
            Err(status) => status.into_response(),
            Ok(()) => {
                request.extensions_mut().insert(self.caller.clone());
                let answer = timeout(self.answer_time, self.router.call(request)).await;
                answer.unwrap_or_else(|_| {
                    self.metrics.limit_reached("answer-time");
                    let problem = "no answer in time; was the request complete?";
                    Status::new(Code::Unavailable, problem).into_response()
                })
            }
        };
        // A refusal is a response whose head has the status; a stream's comes at its end.
        if let Some(code) = Status::of_head(response.headers()).filter(|code| *code != Code::Ok) {
            self.metrics.call_refused(code);
            if code == Code::OutOfRange {
                self.metrics.limit_reached("request-bytes");
            }
        }
        response.map(Body::boxed)
    }

    fn admit(&self, path: &str) -> Result<(), Status> {
        if path == CERTIFY_PATH {
            return match self.certify.admit((), Instant::now()) {
                true => Ok(()),
                false => {
                    self.metrics.limit_reached("certify-per-connection");
                    Err(Status::new(Code::ResourceExhausted, "too many Certify calls on this connection"))
                }
            };
        }
        match self.access {
            Access::All => Ok(()),
            Access::CertifyOnly => {
                Err(Status::new(Code::Unauthenticated, "show a client certificate of this mesh"))
            }
        }
    }
}
