//! The edge: lets connections in, terminates their TLS, and leads each call to its service.
//!
//! `control` runs one on each listening address. With own names every connection is TLS; `Certify` may be called
//! without a client certificate, everything else only with one of this mesh. Without own names connections are
//! plaintext, and only from loopback. Every number that a client could drive up has a limit here.

use crate::metrics::Metrics;
use crate::quota::{Allowance, Quota};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use weft_identity::store::{Accept, Store, accept_any};
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
    /// TLS handshakes at once; further ones wait.
    pub handshakes: usize,
    /// Longest handshake, waiting included.
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
            // At about 50 KiB each for TLS and HTTP/2 buffers these are 200 MiB; real meshes per replica are
            // smaller. A guess, to be settled by a measurement of idle connections.
            connections: 4096,
            per_source: 4096,
            unidentified: 512,
            unidentified_time: Duration::from_secs(60),
            // A leaf's own lifetime.
            connection_time: Duration::from_secs(24 * 3600),
            handshakes: 64,
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
    sources: Mutex<HashMap<IpAddr, usize>>,
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
            sources: Mutex::new(HashMap::new()),
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
            return self.metrics.connection_refused("connections");
        };
        let Some(_counted) = self.count_source(peer) else {
            return self.metrics.connection_refused("source");
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
                Err(_) => return self.metrics.connection_refused("unidentified"),
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
        let time = self.limits.handshake_time;
        let handshake = async {
            let _permit = self.handshakes.acquire().await.ok();
            accept_any(&self.names, stream, Accept { alpn: ALPN, timeout: time }).await
        };
        match timeout(time, handshake).await {
            Ok(Ok(accepted)) => Ok((accepted.stream, accepted.client)),
            Ok(Err(error)) => {
                tracing::debug!(?peer, %error, "refused a connection");
                Err(error.code().as_str())
            }
            Err(_) => Err("handshake-timeout"),
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

    /// Counts a connection of an address; `None` at the limit.
    fn count_source(&self, peer: Option<SocketAddr>) -> Option<Counted<'_>> {
        let ip = peer.map(|addr| addr.ip().to_canonical());
        if let Some(ip) = ip {
            let mut sources = self.lock_sources();
            let count = sources.entry(ip).or_insert(0);
            if *count >= self.limits.per_source {
                return None;
            }
            *count += 1;
        }
        Some(Counted { edge: self, ip })
    }

    fn lock_sources(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection in the count of its address.
struct Counted<'a> {
    edge: &'a Edge,
    ip: Option<IpAddr>,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let Some(ip) = self.ip else { return };
        let mut sources = self.edge.lock_sources();
        if let Some(count) = sources.get_mut(&ip) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                sources.remove(&ip);
            }
        }
    }
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
        if let Err(status) = self.admit(request.uri().path()) {
            self.metrics.call_refused(status.code);
            return status.into_response().map(Body::boxed);
        }
        request.extensions_mut().insert(self.caller.clone());
        match timeout(self.answer_time, self.router.call(request)).await {
            Ok(response) => response.map(Body::boxed),
            Err(_) => {
                let status = Status::new(Code::Unavailable, "no answer in time; was the request complete?");
                status.into_response().map(Body::boxed)
            }
        }
    }

    fn admit(&self, path: &str) -> Result<(), Status> {
        if path == CERTIFY_PATH {
            return match self.certify.admit((), Instant::now()) {
                true => Ok(()),
                false => {
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
