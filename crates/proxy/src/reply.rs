//! What the client gets when the mesh itself answers (§3.9, §4.5): status or gRPC code, the peer's
//! header and ours, and whether the connection closes.
//!
//! `forward` and `serve` hand their reasons here; every error of every crate below has to become a
//! `Reason` first, and each reason has a status in the catalogue. Never logs and never counts: that is
//! `report`'s business.

use crate::headers;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION};
use http::{HeaderMap, Response, StatusCode, Uri, Version};
use weft_model::reason::{Code, Reason};
use weft_model::route::InjectedAnswer;
use weft_net::body::Body;

/// Why a request got no answer from its endpoint.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Something failed or is not allowed.
    Reason(Reason),
    /// A filter redirects.
    Redirect(Reason, StatusCode, Uri),
    /// A filter injects a failure.
    Injected(Reason, InjectedAnswer),
}

impl Refusal {
    /// The reason in it.
    pub(crate) fn reason(&self) -> &Reason {
        match self {
            Refusal::Reason(r) | Refusal::Redirect(r, ..) | Refusal::Injected(r, _) => r,
        }
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Refusal::Reason(reason)
    }
}

/// What the answer may tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Openness {
    /// The proxy's own application, or a peer with a verified identity: everything.
    Evidence,
    /// Anybody else: status and code.
    CodeOnly,
    /// Informational headers are turned off.
    Silent,
}

/// What the answer must look like for this client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    /// Version the client speaks to us.
    pub(crate) version: Version,
    /// Whether it is an HTTP/1 request carried over HTTP/2, on which `connection: close` must not stand.
    pub(crate) carried: Carried,
    /// Whether the request is gRPC.
    pub(crate) grpc: Grpc,
    /// What may be told.
    pub(crate) openness: Openness,
}

/// Whether an HTTP/1 request is carried over HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carried {
    /// It is.
    Yes,
    /// It is not.
    No,
}

impl Carried {
    /// Looks at a request's head.
    pub(crate) fn of(version: Version, headers: &HeaderMap) -> Self {
        let marked = version == Version::HTTP_2 && headers.contains_key(headers::ORIG_PROTO);
        if marked { Carried::Yes } else { Carried::No }
    }
}

/// Whether a request is gRPC: HTTP/2 with its content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grpc {
    /// It is.
    Yes,
    /// It is not.
    No,
}

impl Grpc {
    /// Looks at a request's head.
    pub(crate) fn of(version: Version, headers: &HeaderMap) -> Self {
        if version == Version::HTTP_2 && weft_decide::classify::is_grpc(headers) {
            Grpc::Yes
        } else {
            Grpc::No
        }
    }
}

/// Builds the answer. Its body is empty.
pub(crate) fn answer(refusal: &Refusal, form: Form) -> Response<Body> {
    let reason = refusal.reason();
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    if form.openness != Openness::Silent {
        tell(headers, reason, form.openness);
    }
    let closes = reason.code.entry().closes;
    if closes && form.openness != Openness::Silent && form.version != Version::HTTP_11 {
        headers.insert(headers::PROXY_CONNECTION, HeaderValue::from_static("close"));
    }
    if closes && form.version == Version::HTTP_11 && form.carried == Carried::No {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Refusal::Redirect(_, _, to) = refusal
        && let Ok(to) = HeaderValue::from_str(&to.to_string())
    {
        headers.insert(LOCATION, to);
    }
    let status = match (form.grpc, refusal) {
        (Grpc::Yes, refusal) => {
            let code = match refusal {
                Refusal::Injected(_, InjectedAnswer::Grpc(code)) => *code,
                Refusal::Injected(_, InjectedAnswer::Http(_)) => 9,
                _ => reason.grpc().into(),
            };
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from(code));
            if form.openness != Openness::Silent
                && let Ok(message) = HeaderValue::from_str(reason.code.as_str())
            {
                headers.insert("grpc-message", message);
            }
            StatusCode::OK
        }
        (Grpc::No, Refusal::Redirect(_, status, _)) => *status,
        (Grpc::No, Refusal::Injected(_, InjectedAnswer::Http(status))) => *status,
        (Grpc::No, Refusal::Injected(_, InjectedAnswer::Grpc(code))) => {
            headers.insert("grpc-status", HeaderValue::from(*code));
            StatusCode::OK
        }
        (Grpc::No, Refusal::Reason(reason)) => {
            StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
        }
    };
    *response.status_mut() = status;
    response
}

/// What a gRPC call ends with that breaks off after its answer has begun.
pub(crate) fn last_words(reason: &Reason, openness: Openness) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(reason.grpc())));
    if openness != Openness::Silent {
        if let Ok(message) = HeaderValue::from_str(reason.code.as_str()) {
            trailers.insert("grpc-message", message);
        }
        tell(&mut trailers, reason, openness);
    }
    trailers
}

/// Writes `l5d-proxy-error` and `weft-reason`.
fn tell(headers: &mut HeaderMap, reason: &Reason, openness: Openness) {
    let (error, why) = match openness {
        Openness::Evidence => (long_error(reason), reason.to_header()),
        Openness::CodeOnly | Openness::Silent => (reason.code.as_str().to_owned(), reason.to_public_header()),
    };
    for (name, text) in [(headers::PROXY_ERROR, error), (headers::REASON, why)] {
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(name, value);
        }
    }
}

/// One line for `l5d-proxy-error`: the code, and the detail if there is one.
fn long_error(reason: &Reason) -> String {
    let detail = reason.evidence.detail.as_deref().unwrap_or_default();
    let visible: String = detail.chars().filter(|c| (' '..='~').contains(c)).take(200).collect();
    match visible.as_str() {
        "" => reason.code.as_str().to_owned(),
        detail => format!("{}: {detail}", reason.code),
    }
}

/// Whether a client's connection closes after this refusal.
pub(crate) fn closes(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Reason(r) if r.code.entry().closes && r.code != Code::Redirected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::reason::{Hop, Phase};

    fn form(version: Version, grpc: Grpc, openness: Openness) -> Form {
        Form { version, carried: Carried::No, grpc, openness }
    }

    fn refusal(code: Code, phase: Phase) -> Refusal {
        Reason::new(code, Hop::Outbound, phase).detail("why").into()
    }

    #[test]
    fn every_code_has_an_answer() {
        for code in Code::ALL {
            for grpc in [Grpc::No, Grpc::Yes] {
                let refusal = refusal(*code, Phase::Request);
                let response = answer(&refusal, form(Version::HTTP_2, grpc, Openness::Evidence));
                let expected = if grpc == Grpc::Yes { 200 } else { code.entry().status };
                assert_eq!(response.status().as_u16(), expected, "{code}");
                assert_eq!(response.headers().contains_key("grpc-status"), grpc == Grpc::Yes);
            }
        }
    }

    #[test]
    fn evidence_goes_only_to_those_who_may_see_it() {
        let refusal = refusal(Code::ConnectRefused, Phase::Connect);
        let shown = |openness| {
            let response = answer(&refusal, form(Version::HTTP_11, Grpc::No, openness));
            response.headers().get("weft-reason").map(|v| v.to_str().unwrap().to_owned())
        };
        assert!(shown(Openness::Evidence).unwrap().contains("why"));
        assert_eq!(shown(Openness::CodeOnly).unwrap(), "connect-refused; hop=outbound; phase=connect");
        assert_eq!(shown(Openness::Silent), None);
    }

    #[test]
    fn closing_is_said_in_the_clients_own_way() {
        let refusal = refusal(Code::AllUnready, Phase::Queue);
        let http1 = answer(&refusal, form(Version::HTTP_11, Grpc::No, Openness::Evidence));
        assert_eq!(
            (http1.status().as_u16(), http1.headers().get("connection").unwrap().as_bytes()),
            (504, &b"close"[..])
        );
        let http2 = answer(&refusal, form(Version::HTTP_2, Grpc::No, Openness::Evidence));
        assert!(!http2.headers().contains_key("connection"));
        assert_eq!(http2.headers().get("l5d-proxy-connection").unwrap(), "close");
    }
}
