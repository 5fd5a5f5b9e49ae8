//! What happens to a message's head at the border of the proxy: version, target, hop-by-hop headers, the
//! mesh's own headers, and how an HTTP/1 request is carried over HTTP/2 between proxies (§3.7, §4.3).
//!
//! `forward` calls `incoming` before anything else and `outgoing` last. Never looks at a body.

use crate::headers::{self, Meshes, Switch};
use crate::reply::{Carried, Form, Refusal};
use crate::target::Aim;
use crate::tunnel;
use crate::via::Via;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, RETRY_AFTER, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use std::time::{Duration, SystemTime};
use weft_connect::http::{self as connect, AbsoluteForm};
use weft_model::destination::EndpointInfo;
use weft_model::identity::Id;
use weft_model::reason::{Code, Hop, Phase};
use weft_net::body::Body;

/// What a request asks of the proxies themselves.
pub(crate) struct Wish {
    /// What it wants to become.
    pub(crate) switch: Switch,
    /// The client's side of that, once it is granted.
    pub(crate) upgrade: Option<tunnel::Side>,
    /// Whom the endpoint must be (`l5d-require-id`).
    pub(crate) require_id: Option<HeaderValue>,
    /// Where it is to go (`l5d-dst-override`), in ingress mode.
    pub(crate) named: Option<HeaderValue>,
    /// Whether it came with headers of the mesh.
    pub(crate) meshes: Meshes,
}

/// Takes a request in. Refuses targets that are malformed for their method (§3.7).
pub(crate) fn incoming(via: &Via, request: &mut Request<Body>) -> Result<Wish, Refusal> {
    shape_target(via, request);
    if via.client.hop == Hop::Inbound {
        connect::unwrap_carried(request);
    }
    check_target(request)
        .map_err(|problem| via.client.reason(Code::BadRequest, Phase::Head).detail(problem))?;
    let (method, version) = (request.method().clone(), request.version());
    let switch = headers::end_request_hop(&method, version, request.headers_mut());
    let upgrade = (switch != Switch::None).then(|| tunnel::side(request));
    let meshes = headers::remove_claims(request.headers_mut());
    let require_id = match meshes {
        Meshes::Some => request.headers_mut().remove(headers::REQUIRE_ID),
        Meshes::None => None,
    };
    let named = match (&via.aim, meshes) {
        (Aim::Ingress(..), Meshes::Some) => request.headers_mut().remove(headers::DST_OVERRIDE),
        _ => None,
    };
    if via.client.hop == Hop::Inbound {
        headers::set_client_id(request.headers_mut(), via.client.peer.id());
    }
    Ok(Wish { switch, upgrade, require_id, named, meshes })
}

/// An absolute target stays absolute on its way, except that a client of the forward proxy writes one only
/// because it talks to a proxy.
fn shape_target<B>(via: &Via, request: &mut Request<B>) {
    if request.version() == Version::HTTP_2 || request.uri().scheme().is_none() {
        return;
    }
    if !matches!(via.aim, Aim::Each(_)) {
        request.extensions_mut().insert(AbsoluteForm);
        return;
    }
    // Such a request's `Host` is the target's authority, whatever it says (RFC 9112 §3.2.2).
    if let Some(host) = request.uri().authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok()) {
        request.headers_mut().insert(HOST, host);
    }
}

/// CONNECT needs an authority as its target and HTTP/1.1; nothing else may have one.
fn check_target<B>(request: &Request<B>) -> Result<(), &'static str> {
    let uri = request.uri();
    let authority_form = uri.scheme().is_none() && uri.authority().is_some();
    match (request.method() == Method::CONNECT, request.version()) {
        (true, Version::HTTP_10 | Version::HTTP_09) => Err("CONNECT in HTTP/1.0"),
        (true, _) if uri.authority().is_none() => Err("CONNECT without an authority as its target"),
        (true, Version::HTTP_11) if !authority_form => Err("CONNECT with a target that is not an authority"),
        (false, Version::HTTP_11 | Version::HTTP_10) if authority_form => {
            Err("an authority as target without CONNECT")
        }
        _ => Ok(()),
    }
}

/// Gives a response the shape that its client needs.
pub(crate) fn outgoing(mut response: Response<Body>, form: Form, switch: Switch) -> Response<Body> {
    if switch == Switch::Connect {
        response.headers_mut().remove(CONTENT_LENGTH);
        response.headers_mut().remove(TRANSFER_ENCODING);
    }
    if form.version == Version::HTTP_2 {
        response = outgoing_answer(response, form.carried);
    } else {
        // The client is answered in its own version; hyper adapts the framing.
        *response.version_mut() = form.version;
    }
    response
}

/// Marks what goes back over HTTP/2 as the answer to a carried HTTP/1 request.
pub(crate) fn outgoing_answer(mut response: Response<Body>, carried: Carried) -> Response<Body> {
    if carried == Carried::Yes {
        connect::wrap_carried(&mut response);
    }
    response
}

/// Tells an HTTP/1.1 client that its connection ends with this answer.
pub(crate) fn announce_close(response: &mut Response<Body>, form: Form) {
    if form.version == Version::HTTP_11 && form.carried == Carried::No {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Whether a meshed server asks for the client's connection to be closed; the header ends here.
pub(crate) fn says_close(headers: &mut HeaderMap) -> bool {
    headers.remove(headers::PROXY_CONNECTION).is_some_and(|value| value == "close")
}

/// How long an answer that may be a failure asks to be left alone, by its head or its trailers: `grpc-retry-pushback-ms`, or
/// `Retry-After` in seconds or as a date.
pub(crate) fn retry_after(status: StatusCode, fields: &HeaderMap) -> Option<Duration> {
    asked_pause(status, fields, SystemTime::now)
}

fn asked_pause(
    status: StatusCode,
    headers: &HeaderMap,
    now: impl FnOnce() -> SystemTime,
) -> Option<Duration> {
    if let Some(millis) = headers.get(RETRY_PUSHBACK) {
        return millis.to_str().ok()?.parse().ok().map(Duration::from_millis);
    }
    let hinted = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let value = headers.get(RETRY_AFTER).filter(|_| hinted)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    Some(until.duration_since(now()).unwrap_or_default())
}

/// Whether a gRPC server wants no retry at all: a pushback that is no time (gRPC's retry design).
pub(crate) fn forbids_retries(headers: &HeaderMap) -> bool {
    headers.get(RETRY_PUSHBACK).is_some_and(|v| v.to_str().ok().and_then(|v| v.parse::<u64>().ok()).is_none())
}

const RETRY_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Checks `l5d-require-id` against the endpoint that was chosen.
pub(crate) fn required_identity(
    via: &Via,
    wanted: Option<&HeaderValue>,
    info: &EndpointInfo,
) -> Result<(), Refusal> {
    let Some(wanted) = wanted else { return Ok(()) };
    let wanted = wanted.to_str().ok().and_then(|text| text.parse::<Id>().ok());
    let got = info.tls.as_ref().map(|target| &target.id);
    if wanted.is_some() && wanted.as_ref() == got {
        return Ok(());
    }
    let named = |id: Option<&Id>| id.map_or("none".to_owned(), Id::to_string);
    let detail = format!("wanted {}, the endpoint has {}", named(wanted.as_ref()), named(got));
    Err(via.client.reason(Code::IdentityRequired, Phase::Connect).detail(detail).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, uri: &str, version: Version) -> Request<()> {
        Request::builder().method(method).uri(uri).version(version).body(()).unwrap()
    }

    fn check(method: &str, uri: &str, version: Version, well_formed: bool) {
        assert_eq!(
            check_target(&request(method, uri, version)).is_ok(),
            well_formed,
            "{method} {uri} {version:?}"
        );
    }

    #[test]
    fn a_pause_is_asked_for_in_milliseconds_seconds_or_as_a_date() {
        let now = || httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (status, name, value, expected) in [
            (503, "retry-after", "120", Some(120_000)),
            (429, "retry-after", " 1 ", Some(1000)),
            (503, "retry-after", "Sun, 06 Nov 1994 08:50:07 GMT", Some(30_000)),
            (503, "retry-after", "Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            (503, "retry-after", "soon", None),
            (503, "retry-after", "-1", None),
            (200, "retry-after", "120", None),
            (200, "grpc-retry-pushback-ms", "250", Some(250)),
            (200, "grpc-retry-pushback-ms", "-1", None),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let headers =
                [(name.parse::<HeaderName>().unwrap(), value.parse().unwrap())].into_iter().collect();
            let pause = asked_pause(status, &headers, now).map(|pause| pause.as_millis());
            assert_eq!(pause, expected, "{status} {name}: {value}");
        }
    }

    #[test]
    fn targets_must_fit_their_method() {
        check("CONNECT", "web:80", Version::HTTP_11, true);
        check("CONNECT", "http://web:80/x", Version::HTTP_11, false);
        check("CONNECT", "/x", Version::HTTP_11, false);
        check("CONNECT", "web:80", Version::HTTP_10, false);
        check("GET", "web:80", Version::HTTP_11, false);
        check("GET", "/x", Version::HTTP_11, true);
        check("GET", "http://web:80/x", Version::HTTP_11, true);
        check("GET", "*", Version::HTTP_11, true);
    }
}
