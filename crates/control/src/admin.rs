//! The operator's view of the control plane: liveness, readiness, metrics, state, log level.
//!
//! State, log level and the confirmation of removals are for local clients only. It never changes manifests or
//! certificates.

use crate::sources::Sources;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::UNIX_EPOCH;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use weft_identity::authority::{Authority, Role};
use weft_net::body::Body;
use weft_net::stream::Stream;
use weft_net::{drain, web};
use weft_resources::report::Report;
use weft_serve::views::Views;
use weft_telemetry::Registry;
use weft_telemetry::log::LogLevel;
use weft_telemetry::text::{Exposition, Kind};

/// Admin connections at a time.
const CONNECTIONS: usize = 64;

/// Longest log filter that is accepted, bytes.
const MAX_FILTER: usize = 4096;

/// What the operator sees.
pub(crate) struct Admin {
    registry: Registry,
    sources: Sources,
    authority: Arc<Authority>,
    views: Views,
    log: Option<LogLevel>,
}

impl Admin {
    /// Registers what is read at each scrape.
    pub(crate) fn new(
        registry: Registry,
        sources: Sources,
        authority: Arc<Authority>,
        views: Views,
        log: Option<LogLevel>,
    ) -> Self {
        let (findings, expiries) = (sources.clone(), authority.clone());
        registry.collector("manifests", move |out| manifests(&findings, out));
        registry.collector("certificates", move |out| certificates(&expiries, out));
        Self { registry, sources, authority, views, log }
    }

    async fn answer(&self, request: Request<Body>, client: SocketAddr) -> Response<Body> {
        let local = client.ip().to_canonical().is_loopback();
        let method = request.method().clone();
        match request.uri().path() {
            "/live" => text(StatusCode::OK, "live\n"),
            // The edge answers only once the directories have been looked at.
            "/ready" => match self.sources.waiting() {
                None => text(StatusCode::OK, "ready\n"),
                Some(problem) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
            },
            "/metrics" => text(StatusCode::OK, self.registry.render()),
            "/state.json" | "/proxy-log-level" | "/confirm-removals" if !local => {
                text(StatusCode::FORBIDDEN, "only for clients on this host\n")
            }
            "/state.json" => {
                let mut response = text(StatusCode::OK, format!("{:#}\n", self.state()));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response
            }
            "/proxy-log-level" => self.log_level(&method, request).await,
            "/confirm-removals" if method == Method::POST => {
                tracing::warn!("removals that were held back are confirmed");
                self.sources.confirm_removals();
                text(StatusCode::ACCEPTED, "removals that are held back now will take effect\n")
            }
            "/confirm-removals" => not_allowed("POST"),
            _ => text(StatusCode::NOT_FOUND, "there is nothing here\n"),
        }
    }

    fn state(&self) -> Value {
        let expiries = self.authority.expiries().into_iter().map(|e| {
            let at = e.not_after.duration_since(UNIX_EPOCH).map(|d| d.as_secs()).unwrap_or_default();
            json!({ "role": role(e.role), "subject": e.subject, "not_after": at })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "views": self.views.live(),
            "oldest_unsent_change_ms": self.views.oldest_unsent().as_millis() as u64,
            "certificates": expiries.collect::<Vec<_>>(),
            "manifests": self.sources.shown(),
            "waiting": self.sources.waiting(),
        })
    }

    async fn log_level(&self, method: &Method, request: Request<Body>) -> Response<Body> {
        let Some(log) = &self.log else { return text(StatusCode::NOT_FOUND, "the log is off\n") };
        match *method {
            Method::GET => text(StatusCode::OK, format!("{}\n", log.current())),
            Method::PUT => match web::read_all(request.into_body(), MAX_FILTER).await {
                Ok(body) => match log.set(String::from_utf8_lossy(&body).trim()) {
                    Ok(()) => text(StatusCode::NO_CONTENT, ""),
                    Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
                },
                Err(_) => text(StatusCode::BAD_REQUEST, "the filter is longer than 4096 bytes\n"),
            },
            _ => not_allowed("GET, PUT"),
        }
    }
}

fn not_allowed(allowed: &'static str) -> Response<Body> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("allowed: {allowed}\n"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// `manifest_errors` by file, and what is in force.
fn manifests(sources: &Sources, out: &mut Exposition) {
    let reports = sources.reports();
    out.family("manifest_errors", "Documents of a file that are not in force.", Kind::Gauge);
    for (file, errors) in reports.iter().flat_map(|report| &report.errors_by_file) {
        out.line("manifest_errors", &label("file", file), errors);
    }
    let sum = |count: fn(&Report) -> usize| reports.iter().map(|report| count(report)).sum::<usize>();
    out.single("manifest_objects", "Objects in force.", Kind::Gauge, sum(|r| r.objects));
    let held = sum(|r| r.held.as_ref().map_or(0, |hold| hold.missing));
    out.single("manifest_removals_held", "Removals that wait to be confirmed.", Kind::Gauge, held);
    let stale = sum(|r| usize::from(r.stale.is_some()));
    let help = "Directories whose manifests cannot be read, so that older ones are in force.";
    out.single("manifest_directories_stale", help, Kind::Gauge, stale);
}

fn certificates(authority: &Authority, out: &mut Exposition) {
    let name = "control_plane_certificate_expiration_timestamp_seconds";
    out.family(name, "Ends of the anchors and of the issuer.", Kind::Gauge);
    for expiry in authority.expiries() {
        let at = expiry.not_after.duration_since(UNIX_EPOCH).map(|d| d.as_secs()).unwrap_or_default();
        out.line(
            name,
            &format!("{},{}", label("role", role(expiry.role)), label("subject", &expiry.subject)),
            at,
        );
    }
}

/// One escaped pair.
fn label(key: &str, value: &str) -> String {
    let mut text = String::new();
    weft_telemetry::LabelWriter::new(&mut text).pair(key, value);
    text
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Anchor => "anchor",
        Role::Issuer => "issuer",
    }
}

/// Serves until the process ends.
pub(crate) async fn run(admin: Arc<Admin>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let (_never, undrained) = drain::channel();
    loop {
        let Ok((tcp, client)) = listener.accept().await else {
            // Out of descriptors: what waits in the queue would be refused again at once.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let (admin, undrained) = (admin.clone(), undrained.clone());
        tokio::spawn(async move {
            let answer = move |request| {
                let admin = admin.clone();
                async move { admin.answer(request, client).await }
            };
            if let Err(error) =
                web::serve(Stream::tcp(tcp), &web::Limits::default(), answer, &undrained).await
            {
                tracing::debug!(%error, %client, "an admin connection ended with an error");
            }
            drop(place);
        });
    }
}

fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Body::from(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}
