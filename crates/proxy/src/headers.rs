//! Which headers pass a proxy and which do not. Pure.
//!
//! Called by `forward` on every request and response. Two rules: hop-by-hop headers end here
//! (RFC 9110 §7.6.1), and the mesh's own headers are believed only from the mesh. What the
//! HTTP versions write differently is `connect`'s business.

use http::header::{CONNECTION, HeaderName, HeaderValue, UPGRADE};
use http::{HeaderMap, Method, Version};
use weft_connect::http as connect;
use weft_model::identity::Id;

/// Identity of the client, set by the inbound proxy.
pub(crate) const CLIENT_ID: HeaderName = HeaderName::from_static("l5d-client-id");
/// The peer's one-line error of a synthesized response.
pub(crate) const PROXY_ERROR: HeaderName = HeaderName::from_static("l5d-proxy-error");
/// `close`: the client's connection is closed after this response.
pub(crate) const PROXY_CONNECTION: HeaderName = HeaderName::from_static("l5d-proxy-connection");
/// Original version of a request carried over HTTP/2.
pub(crate) const ORIG_PROTO: HeaderName = HeaderName::from_static("l5d-orig-proto");
/// Identity that the endpoint must have.
pub(crate) const REQUIRE_ID: HeaderName = HeaderName::from_static("l5d-require-id");
/// Where a request is to go, in ingress mode.
pub(crate) const DST_OVERRIDE: HeaderName = HeaderName::from_static("l5d-dst-override");
/// The service that a request was meant for.
pub(crate) const DST_CANONICAL: HeaderName = HeaderName::from_static("l5d-dst-canonical");
/// Why the mesh answered.
pub(crate) const REASON: HeaderName = HeaderName::from_static("weft-reason");

/// Whether a message had headers of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meshes {
    Some,
    None,
}

/// Removes what only the mesh may say from something an application or an unmeshed peer sent.
pub(crate) fn remove_claims(headers: &mut HeaderMap) -> Meshes {
    // One look at each name costs less than looking each of these up; most messages have none.
    if !headers.keys().any(|name| name.as_str().starts_with("l5d-") || name == REASON) {
        return Meshes::None;
    }
    for name in [&CLIENT_ID, &PROXY_ERROR, &PROXY_CONNECTION, &REASON] {
        headers.remove(name);
    }
    Meshes::Some
}

/// Says who the client is, replacing whatever it claimed.
pub(crate) fn set_client_id(headers: &mut HeaderMap, id: Option<&Id>) {
    match id.and_then(|id| HeaderValue::from_str(id.as_str()).ok()) {
        Some(value) => drop(headers.insert(CLIENT_ID, value)),
        None => drop(headers.remove(CLIENT_ID)),
    }
}

/// What an HTTP/1 request asks to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    /// Nothing: an ordinary exchange.
    None,
    /// Another protocol, by `Upgrade`.
    Upgrade,
    /// A tunnel, by CONNECT.
    Connect,
}

/// Removes hop-by-hop headers from a request and tells whether it asks for another protocol. An
/// upgrade keeps the two headers that carry it; `Upgrade: h2c` is refused by being removed, so that the
/// request goes on as HTTP/1.1.
pub(crate) fn end_request_hop(method: &Method, version: Version, headers: &mut HeaderMap) -> Switch {
    if version == Version::HTTP_2 {
        return if method == Method::CONNECT { Switch::Connect } else { Switch::None };
    }
    let upgrade = connect::is_upgrade(version, headers).then(|| headers.get(UPGRADE).cloned()).flatten();
    connect::strip_hop_by_hop(headers);
    match upgrade {
        Some(protocol) => {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, protocol);
            Switch::Upgrade
        }
        None if method == Method::CONNECT => Switch::Connect,
        None => Switch::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn check(
        request: &[(&'static str, &'static str)],
        switch: Switch,
        left: &[(&'static str, &'static str)],
    ) {
        let mut headers = map(request);
        assert_eq!(end_request_hop(&Method::GET, Version::HTTP_11, &mut headers), switch, "{request:?}");
        assert_eq!(headers, map(left), "{request:?}");
    }

    #[test]
    fn hop_by_hop_headers_end_here() {
        check(&[("connection", "close, x-a"), ("x-a", "1"), ("x-b", "2")], Switch::None, &[("x-b", "2")]);
        check(
            &[("keep-alive", "5"), ("proxy-connection", "x"), ("te", "trailers")],
            Switch::None,
            &[("te", "trailers")],
        );
        check(&[("connection", "host"), ("host", "a")], Switch::None, &[("host", "a")]);
    }

    #[test]
    fn upgrades_keep_their_two_headers_but_h2c_is_refused() {
        let kept = [("connection", "upgrade"), ("upgrade", "websocket")];
        check(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")], Switch::Upgrade, &kept);
        check(&[("upgrade", "websocket")], Switch::None, &[]);
        check(
            &[("connection", "upgrade, http2-settings"), ("upgrade", "h2c"), ("http2-settings", "x")],
            Switch::None,
            &[],
        );
    }

    #[test]
    fn claims_of_applications_are_not_believed() {
        let mut headers =
            map(&[("l5d-client-id", "x"), ("weft-reason", "y"), ("l5d-proxy-error", "z"), ("a", "b")]);
        remove_claims(&mut headers);
        assert_eq!(headers, map(&[("a", "b")]));
        set_client_id(&mut headers, "web.default".parse().ok().as_ref());
        assert_eq!(headers.get("l5d-client-id").unwrap(), "web.default");
    }
}
