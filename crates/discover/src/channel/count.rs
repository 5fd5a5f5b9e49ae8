//! Counts calls to controllers, as the peer's `control_*` families have them (data-plane facts, 5.1
//! and 5.4).

use super::body::{Observe, Observed, Outcome};
use super::tls::Security;
use crate::balancers::Balancers;
use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;
use tower_service::Service;
use weft_model::address::Addr;
use weft_names::Counts;
use weft_telemetry::metrics::LATENCY_MS;
use weft_telemetry::{Counter, Family, Histogram, Registry};
use weft_wire::services::{Body, BoxError};

/// Which controller a channel leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Controller {
    /// `Destination`.
    Destination,
    /// `OutboundPolicies` and `InboundServerPolicies`.
    Policy,
    /// `Identity`.
    Identity,
}

impl Controller {
    /// Its name in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Controller::Destination => "destination",
            Controller::Policy => "policy",
            Controller::Identity => "identity",
        }
    }

    /// What its balancer's families begin with.
    fn balancer(self) -> &'static str {
        match self {
            Controller::Destination => "control_destination_balancer",
            Controller::Policy => "control_policy_balancer",
            Controller::Identity => "control_identity_balancer",
        }
    }
}

const ANSWER_KEYS: &[&str] =
    &["addr", "tls", "no_tls_reason", "server_id", "status_code", "classification", "grpc_status", "error"];

/// What one channel counts.
#[derive(Clone)]
pub struct Metrics {
    controller: Controller,
    requests: Family<Counter>,
    responses: Family<Counter>,
    latency: Family<Histogram>,
    resolutions: Family<Counter>,
    balancers: Balancers,
}

impl Metrics {
    /// The families, shared by all controllers.
    pub fn new(registry: &Registry, controller: Controller) -> Self {
        Self {
            controller,
            requests: registry
                .counters("control_request_total", "Calls made to the control plane.")
                .labels(&["addr", "tls", "no_tls_reason", "server_id"]),
            responses: registry
                .counters("control_response_total", "Calls to the control plane that ended.")
                .labels(ANSWER_KEYS),
            latency: registry
                .histograms(
                    "control_response_latency_ms",
                    "Time from a call to the control plane to the first frame of its answer.",
                    LATENCY_MS,
                )
                .labels(&["addr", "tls", "no_tls_reason", "server_id", "status_code"]),
            resolutions: registry
                .counters("control_dns_resolutions_total", "Lookups of the control plane's names.")
                .labels(&["client", "record_type", "result"]),
            balancers: Balancers::new(registry, controller.balancer()),
        }
    }

    /// Shows the balancer over a controller's replicas for as long as it lives.
    pub(super) fn balancer(&self, addr: &Addr, metrics: &Arc<weft_balance::Metrics>, patience: Duration) {
        let labels = [("addr".to_owned(), addr.to_string())];
        self.balancers.show(self.controller.balancer(), &labels, (metrics, patience));
    }

    /// The series of one channel.
    pub(super) fn calls(&self, addr: &Addr, security: &Security) -> Arc<Calls> {
        let mut labels = vec![("addr", addr.to_string())];
        match security {
            Security::Plain => {
                labels.push(("tls", "no_identity".into()));
                labels.push(("no_tls_reason", "loopback".into()));
            }
            Security::Tls { server, .. } => {
                labels.push(("tls", "true".into()));
                labels.push(("server_id", server.id.to_string()));
            }
        }
        let requests = self.requests.series(pairs(&labels).as_slice());
        let (responses, latency) = (self.responses.clone(), self.latency.clone());
        Arc::new(Calls { labels, requests, responses, latency })
    }

    pub(super) fn resolutions(&self) -> Resolutions {
        let client = self.controller.as_str();
        let series = |record_type, result| {
            self.resolutions.series(&[("client", client), ("record_type", record_type), ("result", result)])
        };
        Resolutions {
            srv_ok: series("SRV", "ok"),
            srv_not_found: series("SRV", "not_found"),
            address_ok: series("A/AAAA", "ok"),
            address_not_found: series("A/AAAA", "not_found"),
        }
    }
}

/// The counters of lookups.
#[derive(Clone, Default)]
pub(super) struct Resolutions {
    srv_ok: Counter,
    srv_not_found: Counter,
    address_ok: Counter,
    address_not_found: Counter,
}

impl Resolutions {
    /// Adds what came between two readings.
    pub(super) fn add(&self, before: Counts, after: Counts) {
        self.srv_ok.add(after.srv_ok.saturating_sub(before.srv_ok));
        self.srv_not_found.add(after.srv_not_found.saturating_sub(before.srv_not_found));
        self.address_ok.add(after.address_ok.saturating_sub(before.address_ok));
        self.address_not_found.add(after.address_not_found.saturating_sub(before.address_not_found));
    }
}

/// The series of one channel.
pub(super) struct Calls {
    labels: Vec<(&'static str, String)>,
    requests: Counter,
    responses: Family<Counter>,
    latency: Family<Histogram>,
}

fn pairs<'a>(labels: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    labels.iter().map(|(key, value)| (*key, value.as_str())).collect()
}

impl Calls {
    fn answered(&self, status: StatusCode, since: Instant) {
        let mut labels = pairs(&self.labels);
        labels.push(("status_code", status.as_str()));
        self.latency.series(labels.as_slice()).observe_millis(since.elapsed());
    }

    fn ended(&self, status: Option<StatusCode>, grpc: Option<&str>, ok: Class) {
        let mut labels = pairs(&self.labels);
        if let Some(status) = &status {
            labels.push(("status_code", status.as_str()));
        }
        let (classification, error) = match ok {
            Class::Success => ("success", ""),
            Class::Failure => ("failure", ""),
            Class::Broken => ("failure", "unclassified"),
        };
        labels.push(("classification", classification));
        labels.push(("grpc_status", grpc.unwrap_or_default()));
        labels.push(("error", error));
        self.responses.series(labels.as_slice()).inc();
    }
}

enum Class {
    Success,
    Failure,
    /// The connection failed the call.
    Broken,
}

/// The gRPC code in headers or trailers, if it is one: labels stay bounded whatever is sent.
fn grpc_status(headers: &HeaderMap) -> Option<&str> {
    let code = headers.get("grpc-status")?.to_str().ok()?;
    code.parse::<u8>().is_ok_and(|code| code <= 16).then_some(code)
}

/// Counts each call and its answer.
#[derive(Clone)]
pub(super) struct Count<S> {
    inner: S,
    calls: Arc<Calls>,
}

impl<S> Count<S> {
    pub(super) fn new(inner: S, calls: Arc<Calls>) -> Self {
        Self { inner, calls }
    }
}

impl<S> Service<http::Request<Body>> for Count<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<http::Response<Body>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (calls, since) = (self.calls.clone(), Instant::now());
        calls.requests.inc();
        let answering = self.inner.call(request);
        Box::pin(async move {
            match answering.await {
                Ok(response) => {
                    let status = response.status();
                    let early = grpc_status(response.headers()).map(str::to_owned);
                    let answer = Answer { calls, status, early, since, answered: false };
                    Ok(response.map(|body| Observed::wrap(body, answer)))
                }
                Err(error) => {
                    calls.ended(None, None, Class::Broken);
                    Err(error)
                }
            }
        })
    }
}

/// Hears of the answer's body.
struct Answer {
    calls: Arc<Calls>,
    status: StatusCode,
    /// A gRPC code in the response's headers: an answer without a message.
    early: Option<String>,
    since: Instant,
    answered: bool,
}

impl Observe for Answer {
    fn first_frame(&mut self) {
        self.answered = true;
        self.calls.answered(self.status, self.since);
    }

    fn end(&mut self, outcome: Outcome<'_>) {
        if !self.answered {
            self.first_frame();
        }
        let (grpc, class) = match &outcome {
            Outcome::Failed => (None, Class::Broken),
            Outcome::Complete(Some(trailers)) => (grpc_status(trailers), Class::Failure),
            // Who listens no longer ends a watch without fault; the peer counts it so, too.
            Outcome::Complete(None) | Outcome::Dropped => (self.early.as_deref(), Class::Failure),
        };
        let class = match (class, grpc) {
            (Class::Broken, _) => Class::Broken,
            (_, Some("0")) => Class::Success,
            (_, Some(_)) => Class::Failure,
            (_, None) if self.status.is_server_error() => Class::Failure,
            (_, None) => Class::Success,
        };
        self.calls.ended(Some(self.status), grpc, class);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use tower::ServiceExt;
    use tower_test::mock;

    /// How a call ends.
    enum End {
        Trailers(&'static str),
        Header(&'static str),
        DroppedWithMore,
        Broken,
        Unanswered,
    }

    async fn check(end: End, status: u16, expected: &str) {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry, Controller::Policy);
        let calls = metrics.calls(&"policy.mesh:8090".parse().unwrap(), &Security::Plain);
        let (service, mut handle) = mock::pair::<http::Request<Body>, http::Response<Body>>();
        let count = Count::new(service, calls);
        let answering = tokio::spawn(count.oneshot(http::Request::new(Body::empty())));
        let (_, reply) = handle.next_request().await.unwrap();
        let mut response = http::Response::builder().status(status);
        let one = || http_body_util::Full::new(bytes::Bytes::from_static(b"x"));
        let body = match end {
            End::Trailers(code) => {
                let trailers = [(http::HeaderName::from_static("grpc-status"), code.parse().unwrap())];
                let trailers = HeaderMap::from_iter(trailers);
                Body::new(one().with_trailers(async { Some(Ok(trailers)) }))
            }
            End::Header(code) => {
                response = response.header("grpc-status", code);
                Body::empty()
            }
            End::DroppedWithMore => Body::new(one()),
            End::Broken => {
                let broken = futures_util::stream::iter([Err(std::io::Error::other("cut"))]);
                Body::new(http_body_util::StreamBody::new(broken))
            }
            End::Unanswered => {
                reply.send_error(std::io::Error::other("cut"));
                answering.await.unwrap().unwrap_err();
                return assert_counted(&registry, expected);
            }
        };
        let drop_early = matches!(end, End::DroppedWithMore);
        reply.send_response(response.body(body).unwrap());
        let response = answering.await.unwrap().unwrap();
        match drop_early {
            true => drop(response),
            false => drop(response.into_body().collect().await),
        }
        assert_counted(&registry, expected);
    }

    fn assert_counted(registry: &Registry, expected: &str) {
        let text = registry.render();
        let line = text.lines().find(|line| line.starts_with("control_response_total")).unwrap();
        assert!(line.ends_with(&format!("{expected}}} 1")), "{line}\nis not\n{expected}");
        assert!(text.contains("control_request_total"));
    }

    #[tokio::test]
    async fn calls_are_counted_by_how_they_ended() {
        let line = |status: &str, class: &str, grpc: &str, error: &str| {
            format!("{status}classification=\"{class}\",grpc_status=\"{grpc}\",error=\"{error}\"")
        };
        let ok = "status_code=\"200\",";
        check(End::Trailers("0"), 200, &line(ok, "success", "0", "")).await;
        check(End::Trailers("14"), 200, &line(ok, "failure", "14", "")).await;
        check(End::Trailers("99"), 200, &line(ok, "success", "", "")).await;
        check(End::Header("5"), 200, &line(ok, "failure", "5", "")).await;
        check(End::DroppedWithMore, 200, &line(ok, "success", "", "")).await;
        check(End::DroppedWithMore, 503, &line("status_code=\"503\",", "failure", "", "")).await;
        check(End::Broken, 200, &line(ok, "failure", "", "unclassified")).await;
        check(End::Unanswered, 0, &line("no_tls_reason=\"loopback\",", "failure", "", "unclassified")).await;
    }
}
