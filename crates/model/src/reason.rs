//! Why the mesh itself answered: a closed, versioned catalogue.
//!
//! Every response that the mesh makes, and every connection that it closes on its own account,
//! carries one of these codes: in the `weft-reason` header, as a metric label, and on one log line.
//! `proxy/reply.rs` turns errors into reasons; `cargo xtask docs` turns the catalogue into
//! docs/reasons.md. A code is never reused for another meaning; a new one raises `VERSION`.

use std::fmt;
use std::fmt::Write as _;
use std::time::Duration;

/// Version of the catalogue, raised with every new or changed code.
pub const VERSION: u32 = 2;

/// One row of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The stable code.
    pub code: &'static str,
    /// HTTP status of the answer, where the cause itself does not bring one.
    pub status: u16,
    /// gRPC code of the answer.
    pub grpc: u8,
    /// Whether the client's connection is closed after the answer, as the peer does.
    pub closes: bool,
    /// What happened.
    pub cause: &'static str,
    /// What a person can do.
    pub remedy: &'static str,
}

macro_rules! catalogue {
    ($($variant:ident, $code:literal, $status:literal, $grpc:literal, $closes:literal, $cause:literal, $remedy:literal;)*) => {
        /// A stable cause. The text form is the code in the header, in metrics and in logs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $(#[doc = $cause] $variant,)*
        }

        impl Code {
            /// Every code, in the catalogue's order.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// This code's row.
            pub const fn entry(self) -> &'static Entry {
                match self {
                    $(Code::$variant => &Entry {
                        code: $code, status: $status, grpc: $grpc, closes: $closes, cause: $cause, remedy: $remedy,
                    },)*
                }
            }
        }
    };
}

#[rustfmt::skip]
catalogue! {
    DiscoveryTimeout, "discovery-timeout", 503, 14, false,
        "The control plane gave no first answer about the destination within the discovery timeout.",
        "Check that the proxy reaches the control plane (`control_*` metrics, `/state.json`); the lookup goes on, so a later request may succeed.";
    DiscoveryRefused, "discovery-refused", 500, 13, true,
        "The control plane finally refused to answer for this destination.",
        "The detail holds its message. Usually the name is outside the mesh's domain or the port is invalid.";
    NoSuchService, "no-such-service", 503, 14, true,
        "The control plane knows no service of this name.",
        "Check name, namespace and port; apply the missing Service manifest.";
    NoEndpoints, "no-endpoints", 503, 14, true,
        "The service exists but has no endpoints.",
        "Start a workload that its selector matches, or check that the workload reports Ready.";
    AllUnready, "all-unready", 503, 14, true,
        "Endpoints are known, but none could be connected to.",
        "`/state.json` shows for each endpoint why its last connection failed.";
    AllEjected, "all-ejected", 503, 14, true,
        "Endpoints are known, but circuit breakers leave alone every one that could be connected to.",
        "The evidence says what one of them failed with last; mend it, or keep some in use with `weft/min-ready-endpoints`.";
    QueueFull, "queue-full", 503, 14, true,
        "More requests wait for an endpoint than the backend's queue holds.",
        "Add endpoints, or shed load earlier; the queue's size is a setting.";
    Overloaded, "overloaded", 503, 14, true,
        "The proxy already has as many requests in flight as it may.",
        "Raise `*_MAX_IN_FLIGHT`, or add replicas of the caller.";
    ConnectRefused, "connect-refused", 502, 14, true,
        "The endpoint refused the connection.",
        "Nothing listens on that address and port; start the application or correct the port.";
    ConnectTimeout, "connect-timeout", 504, 4, true,
        "The endpoint did not complete the connection in time.",
        "Check the network path and a firewall that drops silently; the limit is the connect timeout.";
    ConnectFailed, "connect-failed", 502, 14, true,
        "The connection to the endpoint failed with another I/O error.",
        "The detail names the error of the operating system.";
    TlsUntrusted, "tls-untrusted", 502, 14, true,
        "The endpoint's certificate does not lead to our trust anchors.",
        "Both sides must share a trust anchor; the endpoint may belong to another mesh.";
    TlsWrongIdentity, "tls-wrong-identity", 502, 14, true,
        "The endpoint proved another identity than discovery announced.",
        "Its address may have been taken over by another workload; check the detail's two names.";
    TlsExpired, "tls-expired", 502, 14, true,
        "The endpoint's certificate is expired or not yet valid.",
        "Its proxy fails to renew, or a clock is wrong.";
    TlsFailed, "tls-failed", 502, 14, true,
        "The TLS handshake failed.",
        "The endpoint may not be meshed although it is announced so; the detail names the alert.";
    ConnectionLost, "connection-lost", 502, 14, true,
        "The connection broke after the request had been sent, so it may have been processed.",
        "The endpoint died or closed; the request is not repeated unless a retry policy allows it.";
    ProtocolError, "protocol-error", 502, 14, true,
        "The endpoint's answer was not valid HTTP.",
        "Check that the port speaks the protocol it is declared with.";
    StreamReset, "stream-reset", 502, 14, true,
        "The endpoint reset the stream of an HTTP/1 request carried over HTTP/2.",
        "The detail holds the HTTP/2 error code.";
    RequestTimeout, "request-timeout", 504, 4, false,
        "The route's request timeout passed.",
        "Raise the timeout, or find what is slow: the evidence says how long was spent waiting for an endpoint.";
    ResponseTimeout, "response-timeout", 504, 4, false,
        "The response did not end within the route's response timeout.",
        "Raise the timeout, or find why the endpoint is slow.";
    HeadersTimeout, "headers-timeout", 504, 4, false,
        "No response headers within the per-try timeout.",
        "Raise the per-try timeout, or find why the endpoint is slow.";
    IdleTimeout, "idle-timeout", 504, 4, false,
        "Neither body moved for the route's idle timeout.",
        "Raise the idle timeout, or send keepalives on the stream.";
    ProfileTimeout, "profile-timeout", 504, 4, true,
        "No response headers within the profile route's timeout, over all attempts.",
        "Raise the route's timeout in the ServiceProfile.";
    NoRoute, "no-route", 404, 5, false,
        "No route of the destination's policy matches the request.",
        "Add a route, or correct host, path, method or headers.";
    GatewayDomain, "gateway-domain", 404, 5, false,
        "This gateway does not carry anything on to the name that a meshed peer asked for.",
        "`INBOUND_GATEWAY_SUFFIXES` says which names it serves; the control plane must know the name, too.";
    NoDispatcher, "no-dispatcher", 502, 14, true,
        "The chosen backend leads nowhere.",
        "The control plane sent a backend without a kind; check the route's backendRefs.";
    NoBackend, "no-backend", 503, 14, true,
        "The route has no backend that could be used.",
        "Add backendRefs with a weight above 0.";
    InvalidPolicy, "invalid-policy", 500, 13, true,
        "The policy in force could not be understood, so requests fail closed.",
        "The detail says what is wrong; correct the resource.";
    Forbidden, "forbidden", 403, 7, false,
        "The policy forbids this destination.",
        "Usually the port is not declared by the service.";
    InjectedFailure, "injected-failure", 503, 14, false,
        "A failure-injection filter answered.",
        "Remove the filter from the route when the experiment is over.";
    Redirected, "redirected", 301, 5, false,
        "A redirect filter answered.",
        "Nothing to do.";
    Unauthorized, "unauthorized", 403, 7, false,
        "No authorization of the port admits this client.",
        "The evidence names the policy; add an authorization for the client's identity or network.";
    RateLimited, "rate-limited", 429, 8, false,
        "The port's local rate limit is used up.",
        "Slow down, or raise the limit in the HTTPLocalRateLimitPolicy.";
    LoopDetected, "loop-detected", 508, 10, true,
        "The request would come back to the proxy that handles it.",
        "The destination resolves to the proxy itself; correct the address.";
    IdentityRequired, "identity-required", 502, 14, true,
        "`l5d-require-id` names another identity than the endpoint's.",
        "Correct the header, or the endpoint.";
    ForbiddenTarget, "forbidden-target", 403, 7, true,
        "The forward proxy does not lead to this address: the proxy itself, link-local or metadata.",
        "Address the service by name.";
    BadRequest, "bad-request", 400, 3, true,
        "The request was malformed.",
        "The detail names the offence; correct the client.";
    AmbiguousFraming, "ambiguous-framing", 400, 3, true,
        "The request's framing can be read in two ways (request smuggling).",
        "The client, or something before it, sends both Content-Length and Transfer-Encoding or a variant of it.";
    UriTooLong, "uri-too-long", 414, 3, true,
        "The request target is longer than allowed.",
        "Shorten it; the limit is in docs/limits.md.";
    HeadersTooLarge, "headers-too-large", 431, 8, true,
        "The request head is larger than allowed.",
        "Send fewer or smaller headers; the limit is in docs/limits.md.";
    HeaderReadTimeout, "header-read-timeout", 408, 4, true,
        "The request head did not arrive in time.",
        "The client is too slow; the limit is in docs/limits.md.";
    Http2Flood, "http2-flood", 503, 8, true,
        "The HTTP/2 client exceeded a limit on resets, PINGs, SETTINGS or empty frames.",
        "The connection was closed with ENHANCE_YOUR_CALM; correct the client.";
    ConnectionLimit, "connection-limit", 503, 8, true,
        "Too many connections, in all or from this source.",
        "Raise the limit, or find out why the client opens so many.";
    DetectTimeout, "detect-timeout", 408, 4, true,
        "The client sent too little to tell its protocol in time.",
        "Mark the port opaque if its server speaks first.";
    TransportHeader, "transport-header", 502, 3, true,
        "A connection to the inbound port carried no valid transport header or no mesh identity.",
        "Only meshed proxies may use the inbound port.";
    AuthorizationRevoked, "authorization-revoked", 403, 7, true,
        "A policy change no longer admits this connection.",
        "Add an authorization if it should be admitted.";
    Retried, "retried", 503, 14, false,
        "What an attempt came to was not passed on, and the request was tried again; nobody is answered with this.",
        "Nothing to do for the request; the detail says what came of the attempt at that endpoint.";
    Draining, "draining", 503, 14, true,
        "The proxy is shutting down.",
        "Repeat the request; it will reach another replica.";
    ClientGone, "client-gone", 499, 1, true,
        "The client went away before the answer.",
        "Nothing to do here; the client may have timed out.";
    SlowClient, "slow-client", 408, 4, false,
        "The client sent nothing, or next to nothing, of a request's body, or took nothing of an answer, for too long.",
        "The client or its network is too slow, or it does not read; the limits are in docs/limits.md.";
    Internal, "internal", 500, 13, true,
        "The proxy met a state that should not exist.",
        "Report it with the log line.";
}

impl Code {
    /// The stable text.
    pub const fn as_str(self) -> &'static str {
        self.entry().code
    }

    /// Finds a code by its text.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|c| c.as_str() == text)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which proxy on the way speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hop {
    /// The caller's.
    Outbound,
    /// The called workload's.
    Inbound,
}

impl Hop {
    /// Both.
    pub const ALL: &'static [Hop] = &[Hop::Outbound, Hop::Inbound];

    /// Who speaks, for people.
    pub const fn about(self) -> &'static str {
        match self {
            Hop::Outbound => "the caller's proxy says so",
            Hop::Inbound => "the called workload's proxy says so",
        }
    }

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Hop::Outbound => "outbound",
            Hop::Inbound => "inbound",
        }
    }
}

/// How far the request had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Accepting the connection and finding out its protocol.
    Accept,
    /// Reading the request's head.
    Head,
    /// Waiting for the destination's first answer.
    Discovery,
    /// Choosing a rule, checking permission, running filters.
    Route,
    /// Refused at once, because a backend already fails fast.
    Shed,
    /// Waiting in a backend's queue.
    Queue,
    /// Connecting to the endpoint.
    Connect,
    /// Sending the request, waiting for the response's head.
    Request,
    /// Passing the response's body on.
    Response,
}

impl Phase {
    /// Every phase, in the order of a request.
    pub const ALL: &'static [Phase] = &[
        Phase::Accept,
        Phase::Head,
        Phase::Discovery,
        Phase::Route,
        Phase::Shed,
        Phase::Queue,
        Phase::Connect,
        Phase::Request,
        Phase::Response,
    ];

    /// What was being done, for people.
    pub const fn about(self) -> &'static str {
        match self {
            Phase::Accept => "accepting the connection and finding out its protocol",
            Phase::Head => "reading the request's head",
            Phase::Discovery => "waiting for the destination's first answer",
            Phase::Route => "choosing a rule, checking permission, running filters",
            Phase::Shed => "refused at once, because the backend already fails fast",
            Phase::Queue => "waiting in a backend's queue",
            Phase::Connect => "connecting to the endpoint",
            Phase::Request => "sending the request, waiting for the response's head",
            Phase::Response => "passing the response's body on",
        }
    }

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::Accept => "accept",
            Phase::Head => "head",
            Phase::Discovery => "discovery",
            Phase::Route => "route",
            Phase::Shed => "shed",
            Phase::Queue => "queue",
            Phase::Connect => "connect",
            Phase::Request => "request",
            Phase::Response => "response",
        }
    }
}

/// What was known when the decision fell. Shown only to the proxy's own application and to verified
/// peers; others get the code alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Endpoints that discovery had announced.
    pub known: Option<usize>,
    /// Of these, ready.
    pub ready: Option<usize>,
    /// Time spent waiting for an endpoint.
    pub waited: Option<Duration>,
    /// How often the request was tried, if more than once.
    pub tries: Option<u32>,
    /// Age of the discovery answer in force.
    pub age: Option<Duration>,
    /// The endpoint concerned.
    pub endpoint: Option<String>,
    /// The policy or route concerned.
    pub policy: Option<String>,
    /// What else there is to say; at most 200 characters are shown.
    pub detail: Option<String>,
}

/// Why the mesh answered, for one request or connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The cause.
    pub code: Code,
    /// Who speaks.
    pub hop: Hop,
    /// How far the request had come.
    pub phase: Phase,
    /// What was known.
    pub evidence: Box<Evidence>,
}

impl Reason {
    /// A reason without evidence.
    pub fn new(code: Code, hop: Hop, phase: Phase) -> Self {
        Self { code, hop, phase, evidence: Box::default() }
    }

    /// Adds the free text.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.evidence.detail = Some(detail.into());
        self
    }

    /// The HTTP status of the answer. A request that waited in a queue until it failed fast gets 504,
    /// one that came later 503, as the peer does (§3.6).
    pub fn status(&self) -> u16 {
        match (self.phase, self.code) {
            (Phase::Queue, Code::NoEndpoints | Code::NoSuchService | Code::AllUnready | Code::AllEjected) => {
                504
            }
            _ => self.code.entry().status,
        }
    }

    /// The gRPC code of the answer.
    pub fn grpc(&self) -> u8 {
        if self.status() == 504 { 4 } else { self.code.entry().grpc }
    }

    /// The header's value for somebody who may see the evidence.
    pub fn to_header(&self) -> String {
        let mut text = self.to_public_header();
        let Evidence { known, ready, waited, tries, age, endpoint, policy, detail } = &*self.evidence;
        let numbers = [
            ("known", known.map(|n| n as u128)),
            ("ready", ready.map(|n| n as u128)),
            ("tries", tries.map(u128::from)),
        ];
        for (key, value) in numbers {
            if let Some(value) = value {
                let _ = write!(text, "; {key}={value}");
            }
        }
        for (key, value) in [("waited", waited), ("age", age)] {
            if let Some(value) = value {
                let _ = write!(text, "; {key}={}ms", value.as_millis());
            }
        }
        for (key, value) in [("endpoint", endpoint), ("policy", policy), ("detail", detail)] {
            if let Some(value) = value {
                let _ = write!(text, "; {key}=\"{}\"", quotable(value));
            }
        }
        text
    }

    /// The header's value for everybody else: code, hop and phase.
    pub fn to_public_header(&self) -> String {
        format!("{}; hop={}; phase={}", self.code, self.hop.as_str(), self.phase.as_str())
    }
}

/// At most 200 characters that may stand between quotes in a header value.
fn quotable(text: &str) -> String {
    let safe = |c: char| if c == '"' || c == '\\' || !(' '..='~').contains(&c) { '\'' } else { c };
    text.chars().take(200).map(safe).collect()
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_header())
    }
}

/// The name of a gRPC status code; what is none is `UNKNOWN`.
pub fn grpc_name(code: u16) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES.get(usize::from(code)).copied().unwrap_or("UNKNOWN")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_unique_and_parse_back() {
        let codes: HashSet<_> = Code::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(codes.len(), Code::ALL.len());
        for code in Code::ALL {
            assert_eq!(Code::parse(code.as_str()), Some(*code));
        }
    }

    #[test]
    fn evidence_cannot_break_out_of_the_header() {
        let reason =
            Reason::new(Code::ConnectFailed, Hop::Outbound, Phase::Connect).detail("a\"b\r\nx: y\u{e9}");
        assert_eq!(reason.to_header(), "connect-failed; hop=outbound; phase=connect; detail=\"a'b''x: y'\"");
        assert_eq!(reason.to_public_header(), "connect-failed; hop=outbound; phase=connect");
    }

    #[test]
    fn waiting_requests_get_504_and_later_ones_503() {
        let of = |phase| Reason::new(Code::NoEndpoints, Hop::Outbound, phase);
        assert_eq!((of(Phase::Queue).status(), of(Phase::Queue).grpc()), (504, 4));
        assert_eq!((of(Phase::Shed).status(), of(Phase::Shed).grpc()), (503, 14));
    }
}
