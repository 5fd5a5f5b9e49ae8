//! Counts and logs why the mesh itself answered or closed: one metric and one log line a failure.
//!
//! `weft_reasons_total` has a closed label set: direction, code, phase. The log line says the same with
//! method, authority, path and peer; a flood of equal ones is thinned. Never decides anything.

use crate::client::Client;
use crate::limits::{Limit, Limits};
use http::{HeaderValue, Method, Uri};
use std::net::SocketAddr;
use std::time::Instant;
use weft_model::reason::{Code, Hop, Reason};
use weft_telemetry::flood::{Flood, Verdict};
use weft_telemetry::{Counter, Family, Registry};

/// What a request was, for its log line.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) host: Option<HeaderValue>,
}

impl Subject {
    fn authority(&self) -> &str {
        let host = || self.host.as_ref().and_then(|host| host.to_str().ok());
        self.uri.authority().map(|authority| authority.as_str()).or_else(host).unwrap_or_default()
    }
}

/// The counters and the log of refusals.
pub(crate) struct Reports {
    reasons: Family<Counter>,
    /// How often each limit was reached.
    pub(crate) limits: Limits,
    outbound_http: Family<Counter>,
    inbound_http: Family<Counter>,
    outbound_tcp: Family<Counter>,
    inbound_tcp: Family<Counter>,
    flood: Flood,
}

impl Reports {
    /// Registers the families.
    pub(crate) fn new(registry: &Registry) -> Self {
        let errors = |name: &str| {
            let family = registry.counters(name, "Errors met by the proxy, by the peer's names.");
            family.labels(&["error"])
        };
        Self {
            reasons: registry
                .counters("weft_reasons_total", "Answers and closes by the mesh itself (docs/reasons.md).")
                .labels(&["direction", "code", "phase"]),
            limits: Limits::new(registry),
            outbound_http: errors("outbound_http_errors_total"),
            inbound_http: errors("inbound_http_errors_total"),
            outbound_tcp: errors("outbound_tcp_errors_total"),
            inbound_tcp: errors("inbound_tcp_errors_total"),
            flood: Flood::default(),
        }
    }

    /// A request was refused.
    pub(crate) fn request(&self, reason: &Reason, subject: &Subject, client: &Client) {
        self.count(reason);
        let family = if reason.hop == Hop::Inbound { &self.inbound_http } else { &self.outbound_http };
        // Denials have families of their own, as in the peer.
        if !matches!(
            reason.code,
            Code::Unauthorized | Code::NoRoute | Code::Redirected | Code::InjectedFailure | Code::RateLimited
        ) {
            family.series(&[("error", peer_error(reason.code))]).inc();
        }
        if let Some(suppressed) = self.admit(reason) {
            tracing::info!(
                reason = %reason, method = %subject.method, authority = subject.authority(), path = subject.uri.path(),
                client = %client.addr, peer = client.who(), suppressed, "the mesh answered a request"
            );
        }
    }

    /// A request is tried again instead of being answered with what came of it.
    pub(crate) fn again(&self, reason: &Reason, subject: &Subject, client: &Client) {
        self.count(reason);
        if let Some(suppressed) = self.admit(reason) {
            tracing::info!(
                reason = %reason, method = %subject.method, authority = subject.authority(), path = subject.uri.path(),
                client = %client.addr, peer = client.who(), suppressed, "the mesh tried a request again"
            );
        }
    }

    /// A connection was refused or cut.
    pub(crate) fn connection(&self, reason: &Reason, client: SocketAddr) {
        self.count(reason);
        let family = if reason.hop == Hop::Inbound { &self.inbound_tcp } else { &self.outbound_tcp };
        family.series(&[("error", peer_error(reason.code))]).inc();
        if let Some(suppressed) = self.admit(reason) {
            tracing::info!(reason = %reason, %client, suppressed, "the mesh closed a connection");
        }
    }

    /// A request was refused by the engine, which answered it without asking.
    pub(crate) fn unanswered(&self, reason: &Reason, client: SocketAddr) {
        self.count(reason);
        let family = if reason.hop == Hop::Inbound { &self.inbound_http } else { &self.outbound_http };
        family.series(&[("error", peer_error(reason.code))]).inc();
        if let Some(suppressed) = self.admit(reason) {
            tracing::info!(reason = %reason, %client, suppressed, "a request was refused before the mesh saw it");
        }
    }

    fn count(&self, reason: &Reason) {
        let labels = [
            ("direction", reason.hop.as_str()),
            ("code", reason.code.as_str()),
            ("phase", reason.phase.as_str()),
        ];
        self.reasons.series(&labels).inc();
        if let Some(limit) = Limit::of(reason) {
            self.limits.reached(limit, reason.hop);
        }
    }

    fn admit(&self, reason: &Reason) -> Option<u64> {
        match self.flood.admit((reason.code, reason.hop, reason.phase.as_str()), Instant::now()) {
            Verdict::Write { suppressed } => Some(suppressed),
            Verdict::Suppress => None,
        }
    }
}

/// The peer's name of an error (§5.1).
fn peer_error(code: Code) -> &'static str {
    match code {
        Code::Overloaded | Code::QueueFull | Code::NoBackend => "loadshed",
        Code::NoEndpoints | Code::NoSuchService | Code::AllUnready | Code::AllEjected => "failfast",
        Code::IdentityRequired => "identity required",
        Code::RequestTimeout
        | Code::ResponseTimeout
        | Code::HeadersTimeout
        | Code::ProfileTimeout
        | Code::IdleTimeout => "response timeout",
        Code::DetectTimeout => "tls detection timeout",
        Code::LoopDetected => "gateway loop",
        Code::GatewayDomain => "gateway domain invalid",
        Code::ConnectRefused | Code::ConnectTimeout | Code::ConnectFailed | Code::ConnectionLost => "i/o",
        _ => "unexpected",
    }
}
