//! The operator's view of the control plane: liveness, readiness, metrics, state, log level.
//!
//! State and log level are for local clients only. It never changes manifests or certificates.

use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::UNIX_EPOCH;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
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

/// The latest report of each directory.
pub(crate) type Reports = Vec<watch::Receiver<Arc<Report>>>;

/// What the operator sees.
pub(crate) struct Admin {
    registry: Registry,
    reports: Reports,
    authority: Arc<Authority>,
    views: Views,
    log: Option<LogLevel>,
}

impl Admin {
    /// Registers what is read at each scrape.
    pub(crate) fn new(
        registry: Registry,
        reports: Reports,
        authority: Arc<Authority>,
        views: Views,
        log: Option<LogLevel>,
    ) -> Self {
        let (findings, expiries) = (reports.clone(), authority.clone());
        registry.collector("manifests", move |out| manifests(&findings, out));
        registry.collector("certificates", move |out| certificates(&expiries, out));
        Self { registry, reports, authority, views, log }
    }

    async fn answer(&self, request: Request<Body>, client: SocketAddr) -> Response<Body> {
        let local = client.ip().to_canonical().is_loopback();
        let method = request.method().clone();
        match request.uri().path() {
            "/live" => text(StatusCode::OK, "live\n"),
            // The edge listens only once the manifests have been read.
            "/ready" => text(StatusCode::OK, "ready\n"),
            "/metrics" => text(StatusCode::OK, self.registry.render()),
            "/state.json" | "/proxy-log-level" if !local => {
                text(StatusCode::FORBIDDEN, "only for clients on this host\n")
            }
            "/state.json" => {
                let mut response = text(StatusCode::OK, format!("{:#}\n", self.state()));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response
            }
            "/proxy-log-level" => self.log_level(&method, request).await,
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
            "manifests": self.reports.iter().map(|r| json!(**r.borrow())).collect::<Vec<_>>(),
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
            _ => {
                let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "allowed: GET, PUT\n");
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, PUT"));
                response
            }
        }
    }
}

/// `manifest_errors` by file, and what is in force.
fn manifests(reports: &Reports, out: &mut Exposition) {
    out.family("manifest_errors", "Documents of a file that are not in force.", Kind::Gauge);
    for report in reports {
        for (file, errors) in &report.borrow().errors_by_file {
            out.line("manifest_errors", &label("file", file), errors);
        }
    }
    let objects: usize = reports.iter().map(|r| r.borrow().objects).sum();
    out.single("manifest_objects", "Objects in force.", Kind::Gauge, objects);
    let held: usize = reports.iter().filter_map(|r| r.borrow().held.as_ref().map(|h| h.missing)).sum();
    out.single("manifest_removals_held", "Removals that wait to be confirmed.", Kind::Gauge, held);
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
