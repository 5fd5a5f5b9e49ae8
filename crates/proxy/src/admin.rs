//! The operator's listener: liveness, readiness, metrics, state, log level, shutdown (§6.1).
//!
//! Runs on the control runtime, so that it answers while the data path is saturated. Whatever changes
//! something, or shows more than numbers, is for local clients only. It never carries traffic.

use crate::authz;
use crate::limits::Limit;
use crate::state;
use crate::via::Shared;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, watch};
use weft_discover::destination::Destinations;
use weft_identity::renew;
use weft_model::identity::{NoTls, Peer};
use weft_model::reason::Hop;
use weft_net::body::Body;
use weft_net::socket::AcceptError;
use weft_net::stream::Stream;
use weft_net::web;
use weft_settings::ShutdownEndpoint;
use weft_telemetry::Registry;
use weft_telemetry::log::LogLevel;
use weft_telemetry::registry::Scrape;

/// Longest log filter that is accepted, bytes.
const MAX_FILTER: usize = 4096;

/// What the operator's listener shows and changes.
pub(crate) struct Admin {
    pub(crate) shared: Arc<Shared>,
    pub(crate) destinations: Destinations,
    pub(crate) registry: Registry,
    pub(crate) identity: watch::Receiver<renew::State>,
    pub(crate) log: Option<LogLevel>,
    pub(crate) shown_settings: serde_json::Value,
    pub(crate) stop: Arc<Notify>,
}

/// Whether a client may do more than look at numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Local,
    Remote,
}

/// Serves until the process ends. It goes on during the drain, so that the drain can be watched.
pub(crate) async fn run(admin: Arc<Admin>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(admin.shared.settings.limits.admin_connections));
    // Admin connections must not hold the drain up, so they get one that nobody waits for.
    let (_never, own) = weft_net::drain::channel();
    let transport = admin.shared.transports.of(labels(listener.local_addr().ok()));
    loop {
        let (tcp, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => match AcceptError::of(&error) {
                AcceptError::Connection => continue,
                AcceptError::Exhausted => {
                    tokio::time::sleep(admin.shared.settings.limits.accept_pause).await;
                    continue;
                }
                AcceptError::Listener => return tracing::error!(%error, "the admin listener broke"),
            },
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            admin.shared.reports.limits.reached(Limit::AdminConnections, Hop::Inbound);
            tracing::warn!(%client, "too many admin connections");
            continue;
        };
        let (admin, own, transport) = (admin.clone(), own.clone(), transport.clone());
        tokio::spawn(async move {
            let answer = move |request| {
                let admin = admin.clone();
                async move { admin.answer(request, client).await }
            };
            if let Err(error) =
                web::serve(transport.open(Stream::tcp(tcp)), &web::Limits::default(), answer, &own).await
            {
                tracing::debug!(%error, %client, "an admin connection ended with an error");
            }
            drop(place);
        });
    }
}

/// The admin server's connections count as inbound ones to its own port (§5.1).
fn labels(target: Option<SocketAddr>) -> Vec<(String, String)> {
    let mut labels = vec![("direction".into(), "inbound".into()), ("peer".into(), "src".into())];
    labels.extend(authz::target(target));
    authz::tls(&mut labels, &Peer::Plain(NoTls::NotFromRemote));
    labels
}

impl Admin {
    async fn answer(&self, request: Request<Body>, client: SocketAddr) -> Response<Body> {
        let who = if client.ip().to_canonical().is_loopback() { Client::Local } else { Client::Remote };
        let method = request.method().clone();
        match (request.uri().path(), who) {
            ("/live", _) => text(StatusCode::OK, "live\n"),
            ("/ready", _) => self.ready(),
            ("/metrics", _) => self.metrics(request.headers()),
            ("/proxy-log-level" | "/shutdown" | "/state.json", Client::Remote) => {
                text(StatusCode::FORBIDDEN, "only for clients on this host\n")
            }
            ("/state.json", _) => match method {
                Method::GET => json(&state::state(&self.seen())),
                _ => not_allowed("GET"),
            },
            ("/proxy-log-level", _) => self.log_level(&method, request).await,
            ("/shutdown", _) => self.shutdown(&method),
            _ => text(StatusCode::NOT_FOUND, "there is nothing here\n"),
        }
    }

    fn seen(&self) -> state::Seen<'_> {
        state::Seen {
            shared: &self.shared,
            destinations: &self.destinations,
            identity: self.identity.borrow().clone(),
            settings: &self.shown_settings,
        }
    }

    fn ready(&self) -> Response<Body> {
        match self.identity.borrow().waiting() {
            None => text(StatusCode::OK, "ready\n"),
            Some(waiting) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{waiting}\n")),
        }
    }

    fn metrics(&self, headers: &HeaderMap) -> Response<Body> {
        let zip =
            headers.get_all(ACCEPT_ENCODING).iter().any(|v| v.to_str().is_ok_and(|v| v.contains("gzip")));
        let mut response = text(StatusCode::OK, "");
        // Made as it is sent: with thousands of destinations it is tens of megabytes long.
        let scrape = self.registry.scrape();
        if zip {
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            *response.body_mut() = Body::parts(Zipped::new(scrape));
        } else {
            *response.body_mut() = Body::parts(scrape);
        }
        response
    }

    async fn log_level(&self, method: &Method, request: Request<Body>) -> Response<Body> {
        let Some(log) = &self.log else { return text(StatusCode::NOT_FOUND, "the log is off\n") };
        match *method {
            Method::GET => text(StatusCode::OK, format!("{}\n", log.current())),
            Method::PUT => {
                let Ok(body) = web::read_all(request.into_body(), MAX_FILTER).await else {
                    return text(StatusCode::BAD_REQUEST, "the filter is longer than 4096 bytes\n");
                };
                match log.set(String::from_utf8_lossy(&body).trim()) {
                    Ok(()) => text(StatusCode::NO_CONTENT, ""),
                    Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
                }
            }
            _ => not_allowed("GET, PUT"),
        }
    }

    fn shutdown(&self, method: &Method) -> Response<Body> {
        match (self.shared.settings.shutdown.endpoint, method) {
            (ShutdownEndpoint::Off, _) => {
                text(StatusCode::NOT_FOUND, "turned off; see SHUTDOWN_ENDPOINT_ENABLED\n")
            }
            (ShutdownEndpoint::On, &Method::POST) => {
                self.stop.notify_one();
                text(StatusCode::OK, "shutdown\n")
            }
            (ShutdownEndpoint::On, _) => not_allowed("POST"),
        }
    }
}

/// A scrape, compressed.
struct Zipped {
    scrape: Scrape,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl Zipped {
    fn new(scrape: Scrape) -> Self {
        Self { scrape, encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) }
    }
}

impl Iterator for Zipped {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let encoder = self.encoder.as_mut()?;
        for part in &mut self.scrape {
            // Writing to a vector cannot fail.
            let _ = encoder.write_all(part.as_bytes());
            if !encoder.get_ref().is_empty() {
                return Some(std::mem::take(encoder.get_mut()).into());
            }
        }
        self.encoder.take()?.finish().ok().map(Bytes::from)
    }
}

fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Body::from(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn json(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{value:#}\n")));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn not_allowed(allow: &'static str) -> Response<Body> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("allowed: {allow}\n"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}
