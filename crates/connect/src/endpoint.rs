//! One place to send to, with its connections.
//!
//! `balance` holds endpoints and draws among those that are ready; `proxy` sends requests and opens
//! tunnels through them. A task of the endpoint's own makes the first connection, proves it again after
//! a failure and closes idle ones; requests never wait for it. It never retries elsewhere: it says
//! whether that is safe.

use crate::context::{Context, ReadyWhen};
use crate::dial::Reach;
use crate::error::{ConnectError, SendError, SendFailure, Whereabouts};
use crate::http::{self as head, Original, Wire};
use crate::multiplex::Multiplex;
use crate::pool::{Checkin, Connection, Pool};
use crate::tunnel;
use ::http::{Method, Request, Response, Version};
use hyper::body::Incoming;
use std::fmt;
use std::mem::{replace, take};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use weft_balance::{EndpointState, Failure, Readiness};
use weft_model::destination::{EndpointInfo, ProtocolHint};
use weft_net::body::Body;
use weft_net::stream::Stream;

/// A connection that lived shorter than this proves nothing: the next attempt waits. A guess at how long
/// a server takes that accepts and then changes its mind.
const STABLE: Duration = Duration::from_secs(1);

/// One place to send to. Clones are handles to the same connections; with the last one, idle
/// connections are closed and requests in flight go on.
#[derive(Clone)]
pub struct Endpoint {
    owner: Arc<Owner>,
}

/// Ends the task when nobody needs the endpoint.
struct Owner {
    core: Arc<Core>,
    task: AbortHandle,
}

struct Core {
    reach: Arc<Reach>,
    origin: Arc<Pool>,
    absolute: Arc<Pool>,
    http2: Arc<Multiplex>,
}

/// One reading of an endpoint, for `/state.json`.
#[derive(Clone, Debug)]
pub struct EndpointStatus {
    /// Whether it can take requests.
    pub state: EndpointState,
    /// Idle HTTP/1 connections.
    pub idle_http1: usize,
    /// Whether the HTTP/2 connection is open.
    pub http2_open: bool,
    /// Connections made so far.
    pub connected: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// The last failed attempt.
    pub last_error: Option<ConnectError>,
}

impl Endpoint {
    /// An endpoint that begins to connect at once, if that is what readiness takes (`ReadyWhen`), and
    /// reports to `readiness`. Its work runs on the context's runtime.
    pub fn new(info: Arc<EndpointInfo>, context: Arc<Context>, readiness: Readiness) -> Self {
        let runtime = context.runtime.clone();
        let reach = Arc::new(Reach::new(context.localize(info), context, readiness));
        let core = Arc::new(Core {
            origin: Pool::new(reach.clone()),
            absolute: Pool::new(reach.clone()),
            http2: Multiplex::new(reach.clone()),
            reach,
        });
        let task = runtime.spawn(keep_ready(core.clone())).abort_handle();
        Self { owner: Arc::new(Owner { core, task }) }
    }

    /// How it is reached: as discovered, or changed for an endpoint on our own address.
    pub fn info(&self) -> &Arc<EndpointInfo> {
        &self.owner.core.reach.info
    }

    /// Sends the request that stands in this place and waits for the response's head, without a time limit. The
    /// request's version says what its client speaks; the response comes back in it. The target may be in origin
    /// form (with `Host`) or absolute; `http::AbsoluteForm` among the extensions keeps it absolute on HTTP/1. For
    /// an upgrade or CONNECT the response carries hyper's `OnUpgrade`.
    ///
    /// Afterwards the place holds nothing of use, unless the error says that the request is back in it.
    ///
    /// Dropping the future gives the request up: an HTTP/2 stream is reset, an HTTP/1 connection closed.
    ///
    /// # Errors
    /// No connection, or no valid response on it.
    pub async fn send(&self, request: &mut Request<Body>) -> Result<Response<Body>, SendError> {
        match head::wire(request, self.info().hint) {
            wire @ (Wire::Http2 | Wire::Carried) => self.owner.core.send_http2(request, wire).await,
            wire @ (Wire::Http1 | Wire::Http1Absolute | Wire::Http1Once) => {
                self.owner.core.send_http1(request, wire).await
            }
        }
    }

    /// Whether a request goes as a stream of the HTTP/2 connection, where it may be refused after it was sent.
    pub fn may_refuse<B>(&self, request: &Request<B>) -> bool {
        matches!(head::wire(request, self.info().hint), Wire::Http2 | Wire::Carried)
    }

    /// Opens a fresh stream for bytes. Dropping the future gives the attempt up.
    pub async fn open(&self) -> Result<Stream, ConnectError> {
        tunnel::open(&self.owner.core.reach).await
    }

    /// Reads everything, for people.
    pub fn status(&self) -> EndpointStatus {
        let core = &self.owner.core;
        EndpointStatus {
            state: core.reach.readiness.state(),
            idle_http1: core.origin.idle_count() + core.absolute.idle_count(),
            http2_open: core.http2.current().is_some(),
            connected: core.reach.counts.connected.load(Relaxed),
            failed: core.reach.counts.failed.load(Relaxed),
            last_error: core.reach.last_error(),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&self.info().addr).finish()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.task.abort();
        self.core.origin.close();
        self.core.absolute.close();
        self.core.http2.close();
    }
}

impl Core {
    /// Takes the request out of its place.
    async fn send_http1(&self, request: &mut Request<Body>, wire: Wire) -> Result<Response<Body>, SendError> {
        let sent = Sent { wire, version: request.version(), method: request.method().clone() };
        let original = head::prepare(request, wire, &self.reach.info);
        let pool = if wire == Wire::Http1Absolute { &self.absolute } else { &self.origin };
        let mut pooled = if wire == Wire::Http1Once { None } else { pool.checkout() };
        loop {
            let mut connection = match pooled.take() {
                Some(connection) => connection,
                // Boxed, as most requests find a connection: a handshake's state is large.
                None => match Box::pin(self.connect_http1(pool, wire)).await {
                    Ok(connection) => connection,
                    Err(error) => return Err(unsent(SendFailure::Connect(error), request, original)),
                },
            };
            // The connection may close while we send. An idempotent request without a body can be repeated
            // then; keeping its head is the price.
            let (leaving, kept) =
                if sent.method.is_idempotent() { leave(request) } else { (take(request), Kept::No) };
            let mut error = match connection.sender.try_send_request(leaving).await {
                Ok(response) => return Ok(self.received_http1(response, &sent, connection, pool)),
                Err(error) => error,
            };
            let Some(back) = error.take_message() else {
                return Err(with_spare(SendError::classify(error.into_error()), (request, kept), original));
            };
            *request = back;
            // Not sent at all; a fresh connection is next, and only one.
            if !connection.reused {
                let (addr, detail) = (self.reach.info.addr, "before it took a request".into());
                let closed = ConnectError::Closed { addr, detail };
                return Err(unsent(SendFailure::Connect(closed), request, original));
            }
        }
    }

    async fn connect_http1(&self, pool: &Arc<Pool>, wire: Wire) -> Result<Connection, ConnectError> {
        match wire {
            Wire::Http1Once => pool.establish().await,
            _ => pool.connect().await,
        }
    }

    fn received_http1(
        &self,
        response: Response<Incoming>,
        sent: &Sent,
        connection: Connection,
        pool: &Arc<Pool>,
    ) -> Response<Body> {
        let (mut head, incoming) = response.into_parts();
        head::receive(&mut head, sent.wire, sent.version);
        let body = Body::incoming(incoming);
        if head::is_tunnel(&sent.method, head.status) || sent.wire == Wire::Http1Once {
            return Response::from_parts(head, body); // the connection ends with this exchange
        }
        let body = match http_body::Body::is_end_stream(&body) {
            true => {
                pool.checkin(connection);
                body
            }
            false => Checkin::attach(body, connection, pool),
        };
        Response::from_parts(head, body)
    }

    /// Takes the request out of its place.
    async fn send_http2(&self, request: &mut Request<Body>, wire: Wire) -> Result<Response<Body>, SendError> {
        let version = request.version();
        let original = head::prepare(request, wire, &self.reach.info);
        let mut gone_before = false;
        loop {
            let live = match self.http2.connection().await {
                Ok(live) => live,
                Err(error) => return Err(unsent(SendFailure::Connect(error), request, original)),
            };
            let mut sender = live.sender.clone();
            let (leaving, kept) = leave(request);
            let leaving = leaving.map(|body| body.within(&live.outbox));
            let mut error = match sender.try_send_request(leaving).await {
                Ok(response) => {
                    let (mut head, incoming) = response.into_parts();
                    head::receive(&mut head, wire, version);
                    return Ok(Response::from_parts(head, Body::incoming(incoming)));
                }
                Err(error) => error,
            };
            let back = error.take_message();
            let error = error.into_error();
            let Some(back) = back else {
                return Err(with_spare(SendError::classify(error), (request, kept), original));
            };
            *request = back.map(Body::without_outbox);
            // Closed, or told to go away, before it took the request: once more on a new connection.
            if std::mem::replace(&mut gone_before, true) {
                return Err(unsent(SendFailure::Lost(error), request, original));
            }
            self.http2.retire(&live);
        }
    }

    /// Makes the connection that proves the endpoint.
    async fn prove(&self) -> Result<(), ConnectError> {
        match (self.reach.context.ready_when, self.reach.info.hint) {
            (ReadyWhen::Proven, ProtocolHint::Http2) => self.http2.connection().await.map(drop),
            (ReadyWhen::Proven, _) => self.origin.establish().await.map(|c| self.origin.checkin(c)),
            (ReadyWhen::NotFailing | ReadyWhen::Always, _) => Ok(()),
        }
    }

    /// Whether readiness hangs on the HTTP/2 connection.
    fn lives_on_http2(&self) -> bool {
        self.reach.context.ready_when == ReadyWhen::Proven && self.reach.info.hint == ProtocolHint::Http2
    }

    fn why(&self, end: End) -> ConnectError {
        match (end, self.reach.last_error()) {
            (End::Failed, Some(error)) => error,
            (End::Failed, None) | (End::Lost, _) => {
                ConnectError::Closed { addr: self.reach.info.addr, detail: self.http2.how_it_ended() }
            }
        }
    }

    /// Both pools at once: each call begins the other's wait anew.
    fn sweep(&self) {
        self.origin.sweep();
        self.absolute.sweep();
    }

    /// Closes idle connections until an attempt to connect fails or the proving connection is lost.
    async fn attend(&self) -> End {
        loop {
            if self.lives_on_http2() && self.http2.current().is_none() {
                return End::Lost;
            }
            tokio::select! {
                () = self.reach.suspect.notified() => return End::Failed,
                () = self.http2.ended.notified(), if self.lives_on_http2() => {}
                () = self.origin.sweep_due() => self.sweep(),
                () = self.absolute.sweep_due() => self.sweep(),
            }
        }
    }
}

/// What is needed of a request once it has been sent.
struct Sent {
    wire: Wire,
    version: Version,
    method: Method,
}

/// Why an endpoint must be proven again.
enum End {
    Failed,
    Lost,
}

/// Whether a copy of a request was left in its place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    Yes,
    No,
}

/// Takes a request out of its place, and leaves a copy there if it has no body. Extensions go with the original:
/// they belong to the attempt.
fn leave(place: &mut Request<Body>) -> (Request<Body>, Kept) {
    if !http_body::Body::is_end_stream(place.body()) {
        return (take(place), Kept::No);
    }
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = place.method().clone();
    *copy.uri_mut() = place.uri().clone();
    *copy.version_mut() = place.version();
    *copy.headers_mut() = place.headers().clone();
    if let Some(absolute) = place.extensions().get::<head::AbsoluteForm>() {
        copy.extensions_mut().insert(*absolute);
    }
    (replace(place, copy), Kept::Yes)
}

/// The error of a request that was not sent and is back in its place.
fn unsent(failure: SendFailure, request: &mut Request<Body>, original: Original) -> SendError {
    head::restore(request, original);
    SendError::unsent(failure)
}

/// Marks an error of a request whose copy may be sent: one that the endpoint refused, or an idempotent one whose
/// connection was lost before any answer (RFC 9110 §9.2.2).
fn with_spare(
    mut error: SendError,
    (request, kept): (&mut Request<Body>, Kept),
    original: Original,
) -> SendError {
    if kept == Kept::Yes {
        let harmless = request.method().is_idempotent() && matches!(error.failure, SendFailure::Lost(_));
        if error.unprocessed || harmless {
            head::restore(request, original);
            error.unprocessed = true;
            error.request = Whereabouts::Back;
        }
    }
    error
}

/// The endpoint's task: proves, reports, attends, and begins again.
async fn keep_ready(core: Arc<Core>) {
    let reach = &core.reach;
    let proves = reach.context.ready_when == ReadyWhen::Proven;
    let mut failures = 0u32;
    loop {
        // Boxed, like the waits below: most of an endpoint's life is `attend`.
        let error = match Box::pin(core.prove()).await {
            Err(error) => error,
            Ok(()) => {
                forget(&reach.suspect); // attempts that failed before this one
                reach.readiness.set(EndpointState::Ready);
                let since = Instant::now();
                let end = core.attend().await;
                if since.elapsed() >= STABLE {
                    failures = 0;
                    if proves {
                        if matches!(end, End::Lost) {
                            reach.readiness.set(EndpointState::Connecting);
                        }
                        continue; // it was good for a while: tried again without a wait
                    }
                }
                core.why(end)
            }
        };
        let failure = Failure { code: error.code(), detail: error.to_string() };
        reach.readiness.set(EndpointState::Failed(Arc::new(failure)));
        let wait = reach.context.backoff.wait(failures, fastrand::f64());
        failures = failures.saturating_add(1);
        Box::pin(tokio::time::sleep(wait)).await;
        core.sweep();
    }
}

/// Takes back a wake-up that nobody has waited for.
fn forget(notify: &Notify) {
    pin!(notify.notified()).enable();
}
