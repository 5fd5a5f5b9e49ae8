//! The operator's view of the control plane: liveness, readiness, metrics, state, log level.
//!
//! State, log level and the confirmation of removals are for local clients only; what is below `/v1/` (`api.rs`) also for those
//! who prove an identity of this mesh over TLS. It never changes manifests or certificates.

use crate::api;
use crate::sources::Sources;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use weft_identity::authority::{Authority, Role};
use weft_identity::store::{Accept, Store, accept_any};
use weft_index::verdict;
use weft_model::identity::Id;
use weft_net::body::Body;
use weft_net::stream::Stream;
use weft_net::{drain, prefixed, web};
use weft_resources::report::{LIST_LIMIT, Report};
use weft_serve::metrics::Metrics;
use weft_serve::views::Views;
use weft_telemetry::Registry;
use weft_telemetry::log::LogLevel;
use weft_telemetry::text::{Exposition, Kind};

/// Admin connections at a time.
pub(crate) const CONNECTIONS: usize = 64;

/// Longest log filter that is accepted, bytes.
pub(crate) const MAX_FILTER: usize = 4096;

/// What the operator sees is made of this.
pub(crate) struct Seen {
    pub(crate) registry: Registry,
    pub(crate) metrics: Metrics,
    pub(crate) sources: Sources,
    pub(crate) authority: Arc<Authority>,
    /// Our own leaves.
    pub(crate) leaves: Vec<Store>,
    pub(crate) views: Views,
    pub(crate) log: Option<LogLevel>,
}

/// Answers the operator.
pub(crate) struct Admin(Seen);

/// Who asks.
#[derive(Clone)]
struct Client {
    addr: SocketAddr,
    /// What it proved over TLS.
    id: Option<Id>,
}

impl Client {
    fn is_local(&self) -> bool {
        self.addr.ip().to_canonical().is_loopback()
    }

    /// Whether it is on this host, or one of the mesh.
    fn is_known(&self) -> bool {
        self.is_local() || self.id.is_some()
    }
}

/// The first byte of a TLS connection.
const TLS_HANDSHAKE: u8 = 0x16;

/// Longest wait for a client's first byte, and for its handshake.
const ENTRY: Duration = Duration::from_secs(10);

impl Admin {
    /// Registers what is read at each scrape.
    pub(crate) fn new(seen: Seen) -> Self {
        let findings = seen.sources.clone();
        let (authority, leaves) = (seen.authority.clone(), seen.leaves.clone());
        seen.registry.collector("manifests", move |out| manifests(&findings, out));
        seen.registry.collector("certificates", move |out| certificates(&ends(&authority, &leaves), out));
        Self(seen)
    }

    /// Terminates TLS where a client speaks it; such a client may prove an identity of this mesh.
    async fn enter(&self, stream: Stream) -> Result<(Stream, Option<Id>), String> {
        let bounds = prefixed::Bounds { bytes: 1, time: ENTRY };
        let first = |bytes: &[u8]| bytes.first().map(|byte| *byte == TLS_HANDSHAKE);
        let (outcome, stream) = prefixed::read(stream, bounds, first).await.map_err(|e| e.to_string())?;
        if outcome != prefixed::Outcome::Decided(true) || self.0.leaves.is_empty() {
            return Ok((stream, None));
        }
        let accept = Accept { alpn: &[], timeout: ENTRY };
        let accepted = accept_any(&self.0.leaves, stream, accept).await.map_err(|e| e.to_string())?;
        Ok((accepted.stream, accepted.client))
    }

    async fn answer(&self, request: Request<Body>, client: Client) -> Response<Body> {
        let method = request.method().clone();
        match request.uri().path() {
            "/live" => text(StatusCode::OK, "live\n"),
            // The edge answers only once the directories have been looked at.
            "/ready" => match self.0.sources.waiting() {
                None => text(StatusCode::OK, "ready\n"),
                Some(problem) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
            },
            "/metrics" => {
                let mut response = text(StatusCode::OK, "");
                *response.body_mut() = Body::parts(self.0.registry.scrape());
                response
            }
            "/state.json" | "/proxy-log-level" | "/confirm-removals" if !client.is_local() => {
                text(StatusCode::FORBIDDEN, "only for clients on this host\n")
            }
            "/state.json" => json_text(StatusCode::OK, &self.state()),
            "/proxy-log-level" => self.log_level(&method, request).await,
            "/confirm-removals" if method == Method::POST => {
                tracing::warn!("removals that were held back are confirmed");
                self.0.sources.confirm_removals();
                text(StatusCode::ACCEPTED, "removals that are held back now will take effect\n")
            }
            "/confirm-removals" => not_allowed("POST"),
            path if path.starts_with("/v1/") && !client.is_known() => text(
                StatusCode::FORBIDDEN,
                "only for clients on this host or with an identity of this mesh\n",
            ),
            path if path.starts_with("/v1/") && method != Method::GET => not_allowed("GET"),
            path => match path.strip_prefix("/v1/") {
                Some(below) => {
                    let query = request.uri().query().unwrap_or_default();
                    match api::answer(&self.0.views, below, query) {
                        Some((status, answer)) => json_text(status, &answer),
                        None => text(StatusCode::NOT_FOUND, "there is nothing here\n"),
                    }
                }
                None => text(StatusCode::NOT_FOUND, "there is nothing here\n"),
            },
        }
    }

    fn state(&self) -> Value {
        let certificates = ends(&self.0.authority, &self.0.leaves)
            .into_iter()
            .map(|end| json!({ "role": end.role, "subject": end.subject, "not_after": end.at }));
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "views": self.0.views.live(),
            "oldest_unsent_change_ms": self.0.views.oldest_unsent().as_millis() as u64,
            "certificates": certificates.collect::<Vec<_>>(),
            "manifests": self.0.sources.shown(),
            "verdicts": verdicts(&self.0.views),
            "waiting": self.0.sources.waiting(),
        })
    }

    async fn log_level(&self, method: &Method, request: Request<Body>) -> Response<Body> {
        let Some(log) = &self.0.log else { return text(StatusCode::NOT_FOUND, "the log is off\n") };
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
    out.family("manifest_documents_ignored", "Documents of kinds that have no effect here.", Kind::Gauge);
    let mut ignored = BTreeMap::<&str, usize>::new();
    for (kind, count) in reports.iter().flat_map(|report| &report.ignored) {
        *ignored.entry(kind).or_default() += count;
    }
    for (kind, count) in ignored {
        out.line("manifest_documents_ignored", &label("kind", kind), count);
    }
    let sum = |count: fn(&Report) -> usize| reports.iter().map(|report| count(report)).sum::<usize>();
    out.single("manifest_objects", "Objects in force.", Kind::Gauge, sum(|r| r.objects));
    let held = sum(|r| r.held.as_ref().map_or(0, |hold| hold.missing));
    out.single("manifest_removals_held", "Removals that wait to be confirmed.", Kind::Gauge, held);
    let stale = sum(|r| usize::from(r.stale.is_some()));
    let help = "Directories whose manifests cannot be read, so that older ones are in force.";
    out.single("manifest_directories_stale", help, Kind::Gauge, stale);
}

/// Objects that were read well, but are not, or not wholly, in force as they are written; the first of them.
fn verdicts(views: &Views) -> Vec<Value> {
    let all = views.read(verdict::verdicts);
    all.iter().filter(|v| api::is_notable(v)).take(LIST_LIMIT).map(api::told).collect()
}

/// When a certificate of ours ends.
struct End {
    role: &'static str,
    subject: String,
    /// Seconds since 1970.
    at: u64,
}

/// The anchors', the issuer's, and our own leaves'.
fn ends(authority: &Authority, leaves: &[Store]) -> Vec<End> {
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map(|d| d.as_secs()).unwrap_or_default();
    let above = authority.expiries().into_iter().map(|expiry| {
        let role = match expiry.role {
            Role::Anchor => "anchor",
            Role::Issuer => "issuer",
        };
        End { role, subject: expiry.subject, at: seconds(expiry.not_after) }
    });
    let own = leaves.iter().filter_map(|store| {
        let at = seconds(store.validity()?.not_after);
        Some(End { role: "leaf", subject: store.local_id().to_string(), at })
    });
    above.chain(own).collect()
}

fn certificates(ends: &[End], out: &mut Exposition) {
    let name = "control_plane_certificate_expiration_timestamp_seconds";
    out.family(name, "Ends of the anchors, of the issuer and of our own leaves.", Kind::Gauge);
    for end in ends {
        out.line(name, &format!("{},{}", label("role", end.role), label("subject", &end.subject)), end.at);
    }
}

/// One escaped pair.
fn label(key: &str, value: &str) -> String {
    let mut text = String::new();
    weft_telemetry::LabelWriter::new(&mut text).pair(key, value);
    text
}

/// Serves until the process ends.
pub(crate) async fn run(admin: Arc<Admin>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let (_never, undrained) = drain::channel();
    loop {
        let Ok((tcp, client)) = listener.accept().await else {
            // Out of descriptors: what waits in the queue would be refused again at once.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            admin.0.metrics.limit_reached("admin-connections");
            continue;
        };
        let (admin, undrained) = (admin.clone(), undrained.clone());
        tokio::spawn(async move {
            match admin.enter(Stream::tcp(tcp)).await {
                Ok((stream, id)) => {
                    let client = Client { addr: client, id };
                    let answer = move |request| {
                        let (admin, client) = (admin.clone(), client.clone());
                        async move { admin.answer(request, client).await }
                    };
                    let served = web::serve(stream, &web::Limits::default(), answer, &undrained).await;
                    if let Err(error) = served {
                        tracing::debug!(%error, "an admin connection ended with an error");
                    }
                }
                Err(error) => tracing::debug!(%error, "an admin connection was refused"),
            }
            drop(place);
        });
    }
}

fn json_text(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = text(status, format!("{value:#}\n"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Body::from(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_known_by_its_host_or_its_identity() {
        let mesh = || "web.shop".parse::<Id>().ok();
        for (addr, id, local, known) in [
            ("127.0.0.1:1", None, true, true),
            ("[::ffff:127.0.0.1]:1", None, true, true),
            ("10.0.0.1:1", None, false, false),
            ("10.0.0.1:1", mesh(), false, true),
        ] {
            let client = Client { addr: addr.parse().unwrap(), id };
            assert_eq!((client.is_local(), client.is_known()), (local, known), "{addr}");
        }
    }
}
