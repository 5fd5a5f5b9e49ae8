//! One accepted connection: where it leads, who is at its other end, what it speaks, and then hyper's loop
//! calling `forward`, or `opaque`.
//!
//! `listen` comes here for each connection, with the address it was meant for. Nothing here looks at a
//! request. Every wait is bounded by a timeout of the settings.

use crate::arrival::Detection;
use crate::authz::LastAllowed;
use crate::client::Client;
use crate::detect::{self, Detected};
use crate::forward::forward;
use crate::limits::Limit;
use crate::opaque;
use crate::overdue::{self, Overdue};
use crate::oversize;
use crate::pace;
use crate::received::LastName;
use crate::reply::{self, Carried, Form, Grpc};
use crate::target::{Aim, Leads};
use crate::via::{Closing, Shared, Via};
use http::{Method, Request, Response, StatusCode};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use weft_discover::destination::{Held, NoPlan};
use weft_discover::plan::Protocol;
use weft_identity::store::Accept;
use weft_model::address::Addr;
use weft_model::destination::Windows;
use weft_model::identity::{NoTls, Peer};
use weft_model::reason::{Code, Hop, Phase, Reason};
use weft_net::aside;
use weft_net::body::{Body, Reset};
use weft_net::drain::Drain;
use weft_net::frames::Rates;
use weft_net::guard::{self, GuardedStream};
use weft_net::head::Offence;
use weft_net::metered::{self, MeteredStream};
use weft_net::outbox::Outbox;
use weft_net::prefixed::{self, Bounds, Outcome};
use weft_net::stall::{self, Stallable, Stalled};
use weft_net::stream::Stream;
use weft_settings::Direction;

/// A connection that was accepted.
pub(crate) struct Incoming {
    pub(crate) stream: Stream,
    pub(crate) client: SocketAddr,
}

/// HTTP versions that hyper serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Http {
    One,
    Two,
}

/// A connection of the application, meant for `held`; in ingress mode its requests may be meant for others.
pub(crate) async fn outbound(
    shared: Arc<Shared>,
    incoming: Incoming,
    (held, ingress): (Held, Option<Arc<Leads>>),
) {
    let Incoming { stream, client } = incoming;
    let reports = shared.clone();
    let via = |aim| Via::new(shared.clone(), Hop::Outbound, client, Peer::Plain(NoTls::Loopback), aim);
    let detect_timeout = shared.settings.outbound.detect_timeout;
    // What an ingress gets is looked at first, since requests are looked up one by one (§3.10).
    let protocol = match &ingress {
        Some(_) => Protocol::Detect(detect_timeout),
        None => protocol(&shared, &held, detect_timeout).await,
    };
    if let Some(plan) = held.plan_now() {
        shared.arrivals.protocol(&plan);
    }
    let outcome = match protocol {
        Protocol::Http1 => return http(via(Aim::One(held)), stream, Http::One).await,
        Protocol::Http2 => return http(via(Aim::One(held)), stream, Http::Two).await,
        Protocol::Opaque => {
            return opaque::relay(via(Aim::One(held.clone())).into(), held, stream, None).await;
        }
        Protocol::Detect(limit) | Protocol::Tls(limit) => {
            let began = Instant::now();
            let looked = look(stream, limit, &shared.drains.outbound).await;
            seen(&shared, (Hop::Outbound, &held), looked, began)
        }
    };
    match outcome {
        Ok((Look::Http(version), stream)) if !matches!(protocol, Protocol::Tls(_)) => {
            http(via(Aim::of(held, ingress)), stream, version).await;
        }
        Ok((look, stream)) => {
            let sni = look.sni();
            opaque::relay(via(Aim::One(held.clone())).into(), held, stream, sni).await;
        }
        Err(error) => closed_early(&reports, Hop::Outbound, client, &error),
    }
}

/// A client of the forward proxy: each request names where it leads, CONNECT opens a tunnel there.
pub(crate) async fn forward_proxy(shared: Arc<Shared>, incoming: Incoming, aim: Aim) {
    let Incoming { stream, client } = incoming;
    let via = Via::new(shared, Hop::Outbound, client, Peer::Plain(NoTls::Loopback), aim);
    http(via, stream, Http::One).await;
}

/// A connection to a port of the workload, meant for `held`.
pub(crate) async fn inbound(shared: Arc<Shared>, incoming: Incoming, held: Held) {
    let Incoming { stream, client } = incoming;
    let settings = shared.settings.clone();
    let reports = shared.clone();
    let via = |peer, aim| Via::new(shared.clone(), Hop::Inbound, client, peer, aim);
    let protocol = protocol(&shared, &held, settings.inbound.detect_timeout).await;
    if protocol == Protocol::Opaque {
        let via = via(Peer::Plain(NoTls::PortSkipped), Aim::One(held.clone()));
        return opaque::relay(via.into(), held, stream, None).await;
    }
    let began = Instant::now();
    let looked = look(stream, settings.inbound.detect_timeout, &reports.drains.inbound).await;
    let (found, stream) = match seen(&reports, (Hop::Inbound, &held), looked, began) {
        Ok((Look::Silent, _)) => {
            let reason = Reason::new(Code::DetectTimeout, Hop::Inbound, Phase::Accept);
            return reports.reports.connection(&reason, client);
        }
        Ok(found) => found,
        Err(error) => return closed_early(&reports, Hop::Inbound, client, &error),
    };
    match found {
        Look::Tls(sni) if is_own_name(&reports, sni.as_deref()) => {
            let accept = Accept { alpn: &[], timeout: settings.inbound.detect_timeout };
            let accepted = match Box::pin(reports.store.accept(stream, accept)).await {
                Ok(accepted) => accepted,
                Err(error) => return refused_handshake(&reports, client, &error),
            };
            let via = via(Peer::Tls(accepted.client), Aim::One(held.clone()));
            Box::pin(decrypted(via, held, accepted.stream, protocol)).await;
        }
        Look::Tls(sni) => {
            let name = sni.as_deref().and_then(|s| s.parse().ok());
            let via = via(Peer::Passthrough(name), Aim::One(held.clone()));
            opaque::relay(via.into(), held, stream, sni).await;
        }
        found => {
            let via = via(Peer::Plain(NoTls::NotFromRemote), Aim::One(held.clone()));
            spoken(via, held, stream, (protocol, found)).await;
        }
    }
}

/// What a terminated connection turned out to speak inside.
async fn decrypted(via: Via, held: Held, stream: Stream, protocol: Protocol) {
    // A meshed peer may speak HTTP/2 even to a port declared HTTP/1, so what is inside is looked at.
    let limit = match protocol {
        Protocol::Detect(limit) => limit,
        _ => via.shared.settings.inbound.detect_timeout,
    };
    if protocol == Protocol::Http2 {
        return http(via, stream, Http::Two).await;
    }
    let began = Instant::now();
    let looked = look(stream, limit, &via.shared.drains.inbound).await;
    match seen(&via.shared, (Hop::Inbound, &held), looked, began) {
        Ok((found, stream)) => spoken(via, held, stream, (protocol, found)).await,
        Err(error) => closed_early(&via.shared, Hop::Inbound, via.client.addr, &error),
    }
}

/// Serves what was found under what the policy says.
async fn spoken(via: Via, held: Held, stream: Stream, (protocol, found): (Protocol, Look)) {
    match (protocol, found) {
        (Protocol::Http2, _) => http(via, stream, Http::Two).await,
        (Protocol::Tls(_), found) => opaque::relay(via.into(), held, stream, found.sni()).await,
        (_, Look::Http(version)) => http(via, stream, version).await,
        (Protocol::Http1, Look::Silent) => http(via, stream, Http::One).await,
        (_, found) => opaque::relay(via.into(), held, stream, found.sni()).await,
    }
}

/// What the first bytes turned out to be.
#[derive(Debug)]
pub(crate) enum Look {
    Http(Http),
    Tls(Option<String>),
    Bytes,
    /// Nothing came in time.
    Silent,
}

impl Look {
    fn sni(self) -> Option<String> {
        match self {
            Look::Tls(sni) => sni,
            _ => None,
        }
    }
}

/// Looks at the first bytes until they tell the protocol. A client that has not said enough when the proxy drains
/// is left: what it meant to ask has not begun.
pub(crate) async fn look(stream: Stream, limit: Duration, drain: &Drain) -> std::io::Result<(Look, Stream)> {
    let bounds = Bounds { bytes: detect::LIMIT, time: limit };
    let decide = |bytes: &[u8]| Some(detect::detect(bytes)).filter(|d| *d != Detected::NeedMore);
    let (outcome, stream) = tokio::select! {
        biased;
        read = prefixed::read(stream, bounds, decide) => read?,
        () = drain.signaled() => return Err(std::io::ErrorKind::UnexpectedEof.into()),
    };
    let found = match outcome {
        Outcome::Decided(Detected::Http1) => Look::Http(Http::One),
        Outcome::Decided(Detected::Http2) => Look::Http(Http::Two),
        Outcome::Decided(Detected::Tls(hello)) => Look::Tls(hello.sni),
        Outcome::TimedOut if stream.prefix().is_empty() => Look::Silent,
        Outcome::Ended if stream.prefix().is_empty() => return Err(std::io::ErrorKind::UnexpectedEof.into()),
        Outcome::Decided(_) | Outcome::Ended | Outcome::Full | Outcome::TimedOut => Look::Bytes,
    };
    Ok((found, stream))
}

/// Counts what a look found, and gives it back. One that finds TLS for ourselves is not counted: what is inside will
/// be looked at. Beside `look` and by value: a connection that has not spoken holds whatever is borrowed or awaited
/// around it.
fn seen(
    shared: &Shared,
    (hop, held): (Hop, &Held),
    looked: std::io::Result<(Look, Stream)>,
    began: Instant,
) -> std::io::Result<(Look, Stream)> {
    let found = match &looked {
        Ok((Look::Http(Http::One), _)) => Detection::Http1,
        Ok((Look::Http(Http::Two), _)) => Detection::Http2,
        Ok((Look::Tls(sni), _)) if hop == Hop::Inbound && is_own_name(shared, sni.as_deref()) => {
            return looked;
        }
        Ok((Look::Tls(_) | Look::Bytes, _)) => Detection::NotHttp,
        Ok((Look::Silent, _)) => Detection::ReadTimeout,
        Err(_) => Detection::Error,
    };
    if let Some(plan) = held.plan_now() {
        let target = match held.addr() {
            Addr::Socket(socket) => Some(*socket),
            Addr::Name(_) => None,
        };
        shared.arrivals.detected((hop, &plan.parent, target), found, began.elapsed());
    }
    looked
}

/// The protocol of the plan, awaited as long as a first answer may take; without one the first bytes decide
/// and `forward` refuses with the reason.
async fn protocol(shared: &Shared, held: &Held, detect_timeout: Duration) -> Protocol {
    if let Some(plan) = held.plan_now() {
        return plan.protocol;
    }
    match held.plan(shared.settings.discovery.first_answer_timeout).await {
        Ok(plan) => plan.protocol,
        Err(NoPlan::TimedOut { .. } | NoPlan::Refused { .. }) => Protocol::Detect(detect_timeout),
    }
}

pub(crate) fn is_own_name(shared: &Shared, sni: Option<&str>) -> bool {
    sni.is_some_and(|sni| sni.eq_ignore_ascii_case(shared.store.local_name().server_name.as_str()))
}

fn closed_early(shared: &Shared, hop: Hop, client: SocketAddr, error: &std::io::Error) {
    // A client that connects and leaves, as health checks do, is nobody's failure.
    if error.kind() != std::io::ErrorKind::UnexpectedEof {
        let reason = Reason::new(Code::ClientGone, hop, Phase::Accept).detail(error.to_string());
        shared.reports.connection(&reason, client);
    }
}

fn refused_handshake(shared: &Shared, client: SocketAddr, error: &weft_identity::store::TlsError) {
    let reason = Reason::new(error.code(), Hop::Inbound, Phase::Accept).detail(error.to_string());
    shared.reports.connection(&reason, client);
}

/// Lets hyper read requests until the connection ends, is asked to close, or the proxy drains. Boxed, so that a
/// connection that has not spoken yet holds none of this.
pub(crate) fn http(via: Via, stream: Stream, version: Http) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let stream = via.counted(stream);
    match version {
        Http::One => Box::pin(http1(via, stream)),
        Http::Two => Box::pin(http2(via, stream)),
    }
}

/// Above the guard's own bound on a head, so that hyper never refuses what the guard let pass.
const HEAD_SLACK: usize = 16 * 1024;

/// Between requests a connection rests without hyper and its buffers, which are most of its memory.
async fn http1(mut via: Via, stream: Stream) {
    let http1 = via.direction().http1_server;
    let limits = weft_net::head::Limits { head: http1.max_header_bytes, headers: http1.max_headers };
    let (mut stream, handle) = GuardedStream::new(stream, limits);
    via.guard = Some(handle.clone());
    let via = Arc::new(via);
    let _guard = via.shared.drains.of(via.client.hop).guard();
    while let Some(resting) = Box::pin(http1_awake(&via, stream, &handle)).await {
        stream = resting;
        if !wakes(&via, &stream, http1.idle_timeout).await {
            return;
        }
    }
}

/// Serves requests until the connection ends, or rests, which gives its stream back.
async fn http1_awake(via: &Arc<Via>, stream: GuardedStream, handle: &guard::Handle) -> Option<GuardedStream> {
    let direction = via.direction();
    let http1 = direction.http1_server;
    // Other streams cannot tell whether there is something to read without a buffer to read it into.
    let may_rest = stream.get_ref().tcp_ref().is_some();
    let quiet = if may_rest { overdue::REST.min(http1.idle_timeout) } else { http1.idle_timeout };
    let mut builder = http1::Builder::new();
    builder
        // Overdue heads are ours to watch: hyper's timer would also run between requests.
        .header_read_timeout(None)
        .half_close(true)
        .auto_date_header(false)
        .max_buf_size(direction.max_buffered_bytes.max(http1.max_header_bytes + HEAD_SLACK));
    // hyper parses so many on the stack, but allocates for every request once it is told a number.
    if http1.max_headers > weft_net::head::Limits::default().headers {
        builder.max_headers(http1.max_headers);
    }
    let service = service_fn(|request: Request<hyper::body::Incoming>| http1_answer(via, request));
    let mut connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut late = None;
    {
        let side = pin!(async {
            tokio::select! {
                () = to_be_closed(via) => {}
                overdue = overdue::overdue(via, handle, direction, quiet) => late = Some(overdue),
            }
        });
        if let Some(ended) = aside::race(Pin::new(&mut connection), side).await {
            http1_ended(via, ended, handle);
            return None;
        }
    }
    match late {
        Some(Overdue::Rest) if may_rest => {
            let parts = connection.into_parts()?;
            // At rest nothing was read ahead; if there is something, nobody could tell what it belongs to.
            return Some(parts.io.into_inner()).filter(|_| parts.read_buf.is_empty());
        }
        Some(Overdue::Rest) => {
            via.shared.reports.limits.reached(Limit::IdleTimeout, via.client.hop);
            Pin::new(&mut connection).graceful_shutdown();
        }
        Some(Overdue::Head(head)) => handle.give_up(head),
        Some(Overdue::Answer) => handle.give_up_writing(),
        None => Pin::new(&mut connection).graceful_shutdown(),
    }
    http1_ended(via, connection.await, handle);
    None
}

/// The answer to one request, in a box of its own: it ends with the exchange, where hyper would keep the space
/// for as long as the connection lasts.
fn http1_answer(
    via: &Arc<Via>,
    request: Request<hyper::body::Incoming>,
) -> Pin<Box<dyn Future<Output = Result<Response<Body>, Reset>> + Send>> {
    let request = request.map(|body| pace::paced(via, Body::incoming(body)));
    match &via.aim {
        Aim::Each(_) if request.method() == Method::CONNECT => {
            Box::pin(std::future::ready(Ok(connect(via, request))))
        }
        _ => forward(via.clone(), request),
    }
}

/// Waits for a resting connection's next byte or its end. False if it is to be closed instead.
async fn wakes(via: &Via, stream: &GuardedStream, idle_timeout: Duration) -> bool {
    let _counted = AtRest::enter(&via.shared);
    tokio::select! {
        readable = poll_fn(|cx| stream.poll_readable(cx)) => readable.is_ok(),
        () = to_be_closed(via) => false,
        () = tokio::time::sleep(idle_timeout.saturating_sub(overdue::REST)) => {
            via.shared.reports.limits.reached(Limit::IdleTimeout, via.client.hop);
            false
        }
    }
}

/// Counts a connection at rest for as long as it lives.
struct AtRest<'a>(&'a Shared);

impl<'a> AtRest<'a> {
    fn enter(shared: &'a Shared) -> Self {
        shared.at_rest.fetch_add(1, Relaxed);
        Self(shared)
    }
}

impl Drop for AtRest<'_> {
    fn drop(&mut self) {
        self.0.at_rest.fetch_sub(1, Relaxed);
    }
}

/// Resolves when the connection should end after what is under way.
async fn to_be_closed(via: &Via) {
    tokio::select! {
        () = via.shared.drains.of(via.client.hop).signaled() => {}
        () = via.closing.asked() => {}
    }
}

/// CONNECT on the forward proxy: its tunnel is served as a connection that the application made to the
/// address it names.
fn connect(via: &Arc<Via>, mut request: Request<Body>) -> Response<Body> {
    let subject = via.subject(&request);
    let held = match via.aim.held(&via.client, &request, None) {
        Ok(held) => held.into_owned(),
        Err(refusal) => {
            via.report(refusal.reason(), &subject);
            let form = Form {
                version: request.version(),
                carried: Carried::No,
                grpc: Grpc::No,
                openness: via.openness(),
            };
            let response = reply::answer(&refusal, form);
            via.answered(response.status());
            return response;
        }
    };
    let switched = hyper::upgrade::on(&mut request);
    let (shared, client) = (via.shared.clone(), via.client.addr);
    tokio::spawn(async move {
        let parts = switched.await.map(|upgraded| upgraded.downcast::<TokioIo<GuardedStream>>());
        if let Ok(Ok(parts)) = parts {
            let stream = parts.io.into_inner().into_inner().with_prefix(parts.read_buf);
            serve_tunnel(shared, Incoming { stream, client }, held).await;
        }
    });
    via.answered(StatusCode::OK);
    Response::new(Body::empty())
}

/// `outbound`, boxed: a tunnel may hold another connection to a forward proxy, and so on.
fn serve_tunnel(
    shared: Arc<Shared>,
    incoming: Incoming,
    held: Held,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(outbound(shared, incoming, (held, None)))
}

async fn http2(via: Via, stream: Stream) {
    let via = Arc::new(via);
    let direction = via.direction();
    let rates = Rates {
        resets: direction.http2_server.max_resets_per_second,
        pings: direction.http2_server.max_pings_per_second,
    };
    let (stream, meter) = MeteredStream::new(stream, rates);
    let service = service_fn({
        let (via, outbox) = (via.clone(), Outbox::default());
        move |request: Request<hyper::body::Incoming>| {
            let request = request.map(|body| pace::paced(&via, Body::incoming(body)));
            let (answering, outbox) = (forward(via.clone(), request), outbox.clone());
            async move {
                let answer = answering.await;
                stall::body_begins();
                answer.map(|answer| answer.map(|body| body.within(&outbox)))
            }
        }
    });
    let _guard = via.shared.drains.of(via.client.hop).guard();
    let mut connection =
        pin!(http2_builder(direction, Streams::of(&via)).serve_connection(TokioIo::new(stream), service));
    let beside = pin!(async {
        tokio::select! {
            () = to_be_closed(&via) => {}
            () = oversize::refused(&via, &meter) => {}
        }
    });
    let ended = match aside::race(connection.as_mut(), beside).await {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    oversize::report(&via, &meter);
    http2_ended(&via, ended, &meter);
}

/// Runs the streams of one HTTP/2 connection, each in a task that ends when its client takes nothing for too long.
#[derive(Clone)]
struct Streams {
    stalled: Stalled,
    limit: Duration,
}

impl Streams {
    fn of(via: &Arc<Via>) -> Self {
        let (limit, via) = (via.direction().stall_timeout, via.clone());
        let stalled = move || {
            let reason = via.client.reason(Code::SlowClient, Phase::Response);
            via.shared.reports.connection(&reason, via.client.addr);
        };
        Self { stalled: Arc::new(stalled), limit }
    }
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(Stallable::new(stream, self.limit, self.stalled.clone()));
    }
}

fn http2_builder(direction: &Direction, streams: Streams) -> http2::Builder<Streams> {
    let http2 = &direction.http2_server;
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(http2.max_concurrent_streams)
        .max_header_list_size(http2.max_header_list_size)
        .max_pending_accept_reset_streams(http2.max_pending_accept_reset_streams)
        .max_local_error_reset_streams(http2.max_local_error_reset_streams)
        .max_send_buf_size(http2.max_send_buf_size)
        .enable_connect_protocol();
    match http2.windows {
        Windows::Adaptive => builder.adaptive_window(true),
        Windows::Fixed { stream, connection } => {
            builder.initial_stream_window_size(stream).initial_connection_window_size(connection)
        }
    };
    if let Some(size) = http2.max_frame_size {
        builder.max_frame_size(size);
    }
    if let Some(keep_alive) = http2.keep_alive {
        builder.keep_alive_interval(keep_alive.interval).keep_alive_timeout(keep_alive.timeout);
    }
    builder
}

/// Counts what hyper refused by itself on an HTTP/1 connection.
fn http1_ended(via: &Via, ended: hyper::Result<()>, guard: &guard::Handle) {
    if let Some(offence) = guard.offence() {
        if let Some(limit) = Limit::of_head(offence) {
            via.shared.reports.limits.reached(limit, via.client.hop);
        }
        let reason = via.client.reason(offence.code(), Phase::Head).detail(refused_head(via, offence));
        return via.shared.reports.connection(&reason, via.client.addr);
    }
    if guard.gave_up_writing() {
        let reason = via.client.reason(Code::SlowClient, Phase::Response);
        return via.shared.reports.connection(&reason, via.client.addr);
    }
    if guard.gave_up() {
        let reason = via.client.reason(Code::HeaderReadTimeout, Phase::Head);
        return via.shared.reports.connection(&reason, via.client.addr);
    }
    let Err(error) = ended else { return };
    let code = match () {
        () if error.is_parse_too_large() => Code::HeadersTooLarge,
        () if error.is_parse() => Code::BadRequest,
        () => {
            return tracing::debug!(%error, client = %via.client.addr, "an HTTP/1 connection ended with an error");
        }
    };
    if code == Code::HeadersTooLarge {
        via.shared.reports.limits.reached(Limit::HeaderBytes, via.client.hop);
    }
    via.shared
        .reports
        .connection(&via.client.reason(code, Phase::Head).detail(error.to_string()), via.client.addr);
}

/// What was wrong with a head, with the limit where there is one.
fn refused_head(via: &Via, offence: Offence) -> String {
    let http1 = via.direction().http1_server;
    let (limit, unit) = match offence {
        Offence::HeadTooLarge => (http1.max_header_bytes, "bytes"),
        Offence::TooManyHeaders => (http1.max_headers, "fields"),
        Offence::TargetTooLong => (weft_net::head::MAX_TARGET, "bytes"),
        _ => return offence.as_str().to_owned(),
    };
    format!("{}: more than {limit} {unit}", offence.as_str())
}

/// Counts what h2 refused by itself on an HTTP/2 connection.
fn http2_ended(via: &Via, ended: hyper::Result<()>, meter: &metered::Handle) {
    if let Some(flood) = meter.flood() {
        let limit = Limit::of_flood(flood);
        via.shared.reports.limits.reached(limit, via.client.hop);
        let reason = via.client.reason(Code::Http2Flood, Phase::Head).detail(format!("{flood:?}"));
        return via.shared.reports.connection(&reason, via.client.addr);
    }
    let Err(error) = ended else { return };
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = next {
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            let ours = h2.is_library() || (h2.is_go_away() && !h2.is_remote());
            let code = match h2.reason() {
                Some(h2::Reason::ENHANCE_YOUR_CALM) if ours => Code::Http2Flood,
                Some(_) if ours => Code::BadRequest,
                _ => break,
            };
            let reason = via.client.reason(code, Phase::Head).detail(h2.to_string());
            return via.shared.reports.connection(&reason, via.client.addr);
        }
        next = cause.source();
    }
    tracing::debug!(%error, client = %via.client.addr, "an HTTP/2 connection ended with an error");
}

impl Via {
    pub(crate) fn new(shared: Arc<Shared>, hop: Hop, client: SocketAddr, peer: Peer, aim: Aim) -> Self {
        let (closing, allowed, name) = (Closing::default(), LastAllowed::default(), LastName::default());
        let client = Client { hop, addr: client, peer };
        let (under_way, late) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self { shared, client, aim, guard: None, closing, allowed, name, under_way, late }
    }

    fn direction(&self) -> &Direction {
        self.shared.settings.direction(self.client.hop)
    }
}
