//! What HTTP messages look like on the wire to an endpoint: which version, which form of target, which
//! headers.
//!
//! Pure functions on heads, called by `endpoint` for requests and by `proxy/serve.rs` where a carried
//! HTTP/1 message arrives. They never look at bodies. Sources: RFC 9110 §7.6.1 (hop-by-hop), RFC 9112
//! §3.2 (targets), RFC 9113 §8.3, and the peer's way of carrying HTTP/1 over HTTP/2 (§3.7 of the
//! reference: "orig-proto").

use ::http::header::{CONNECTION, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use ::http::uri::{self, Authority, PathAndQuery, Scheme};
use ::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, response,
};
use weft_model::destination::{EndpointInfo, ProtocolHint};

/// The version that an HTTP/1 message had before it was carried over HTTP/2.
pub const ORIG_PROTO: HeaderName = HeaderName::from_static("l5d-orig-proto");

/// The canonical destination, which an authority override makes untrue.
const DST_CANONICAL: HeaderName = HeaderName::from_static("l5d-dst-canonical");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

const ABSOLUTE: &str = "; absolute-form";

/// A request's mark (an extension) that its client wrote the target in absolute form, as to a proxy. It
/// is passed on in that form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbsoluteForm;

/// How a request goes to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// On a pooled HTTP/1 connection, the target in origin form.
    Http1,
    /// On a pooled HTTP/1 connection of those for targets in absolute form.
    Http1Absolute,
    /// On an HTTP/1 connection of its own.
    Http1Once,
    /// As a stream of the HTTP/2 connection.
    Http2,
    /// As a stream of the HTTP/2 connection that carries an HTTP/1 message.
    Carried,
}

/// Chooses how a request goes to an endpoint of that hint. HTTP/1 upgrades and CONNECT get an HTTP/1
/// connection of their own, as do HTTP/1.0 requests and those without a host.
pub fn wire<B>(request: &Request<B>, hint: ProtocolHint) -> Wire {
    let version = request.version();
    if version >= Version::HTTP_2 {
        return Wire::Http2;
    }
    if request.method() == Method::CONNECT || is_upgrade(version, request.headers()) {
        return Wire::Http1Once;
    }
    if hint == ProtocolHint::Http2 {
        return Wire::Carried;
    }
    let hostless = request.uri().authority().is_none() && !request.headers().contains_key(HOST);
    match (version == Version::HTTP_11 && !hostless, is_absolute(request)) {
        (false, _) => Wire::Http1Once,
        (true, false) => Wire::Http1,
        (true, true) => Wire::Http1Absolute,
    }
}

fn is_absolute<B>(request: &Request<B>) -> bool {
    request.extensions().get::<AbsoluteForm>().is_some()
}

/// Whether an HTTP/1.1 message asks for, or agrees to, another protocol than HTTP/2 on its connection.
pub fn is_upgrade(version: Version, headers: &HeaderMap) -> bool {
    version == Version::HTTP_11
        && headers.get(UPGRADE).is_some_and(|to| !to.as_bytes().eq_ignore_ascii_case(b"h2c"))
        && tokens(headers).any(|token| token.eq_ignore_ascii_case("upgrade"))
}

/// Whether this response turns the connection into a tunnel.
pub fn is_tunnel(method: &Method, status: StatusCode) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS || method == Method::CONNECT && status.is_success()
}

/// Removes what concerns one connection alone: the headers named in `Connection` and the customary ones.
/// `TE` and `Transfer-Encoding` stay. To be called where a message comes in, before headers are added
/// that its sender must not be able to name; not for upgrades.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let found = hop_by_hop(headers);
    if found.contains(&CONNECTION) && names_headers(headers) {
        let named: Vec<HeaderName> = tokens(headers)
            .filter_map(|token| token.parse().ok())
            .filter(|name| *name != TE && *name != TRANSFER_ENCODING && *name != HOST)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    found.remove(headers);
}

/// The customary hop-by-hop headers.
static HOP_BY_HOP: [HeaderName; 5] = [CONNECTION, UPGRADE, PROXY_CONNECTION, KEEP_ALIVE, HTTP2_SETTINGS];

/// Those of them that a message has, one bit for each.
#[derive(Clone, Copy)]
struct HopByHop(u8);

/// Most messages have none, and one look at each name costs less than looking each of these up.
fn hop_by_hop(headers: &HeaderMap) -> HopByHop {
    let bit = |name: &HeaderName| HOP_BY_HOP.iter().position(|h| h == name).map_or(0, |index| 1 << index);
    HopByHop(headers.keys().fold(0, |found, name| found | bit(name)))
}

impl HopByHop {
    fn any(self) -> bool {
        self.0 != 0
    }

    fn contains(self, name: &HeaderName) -> bool {
        self.each().any(|found| found == name)
    }

    fn each(self) -> impl Iterator<Item = &'static HeaderName> {
        HOP_BY_HOP
            .iter()
            .enumerate()
            .filter(move |(index, _)| self.0 & (1 << index) != 0)
            .map(|(_, name)| name)
    }

    fn remove(self, headers: &mut HeaderMap) {
        for name in self.each() {
            headers.remove(name);
        }
    }
}

/// Whether `Connection` names other headers, which it rarely does.
fn names_headers(headers: &HeaderMap) -> bool {
    let usual = |value: &HeaderValue| {
        let value = value.as_bytes();
        value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
    };
    !headers.get_all(CONNECTION).iter().all(usual)
}

/// The tokens of all `Connection` headers.
fn tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

/// What `prepare` changed in a request, to undo it.
#[derive(Debug)]
pub struct Original {
    version: Version,
    carried: bool,
    target: Target,
}

/// What became of a request's target.
#[derive(Debug)]
enum Target {
    /// Nothing.
    Kept,
    /// Scheme and authority were taken out.
    Shortened(Option<Scheme>, Authority),
    /// Scheme and authority were added to an origin form.
    Completed,
    /// Target, `host` and `l5d-dst-canonical` were replaced; these were before.
    Replaced(Box<(Uri, Option<HeaderValue>, Option<HeaderValue>)>),
}

/// Gives a request's head the form that it has on the wire.
pub fn prepare<B>(request: &mut Request<B>, wire: Wire, info: &EndpointInfo) -> Original {
    let version = request.version();
    let overridden = info.authority_override.as_deref().and_then(|authority| authority.parse().ok());
    let replaced = overridden.map(|authority| replace_authority(request, authority));
    let changed = match wire {
        Wire::Http2 | Wire::Carried => {
            if wire == Wire::Carried {
                carry(request);
            }
            *request.version_mut() = Version::HTTP_2;
            complete_target(request, info)
        }
        Wire::Http1 | Wire::Http1Absolute | Wire::Http1Once => {
            let ordinary = request.method() != Method::CONNECT;
            let found = hop_by_hop(request.headers());
            if ordinary && found.any() && !is_upgrade(version, request.headers()) {
                found.remove(request.headers_mut());
            }
            if version > Version::HTTP_11 {
                *request.version_mut() = Version::HTTP_11;
            }
            if ordinary && !is_absolute(request) { to_origin_form(request) } else { Target::Kept }
        }
    };
    Original { version, carried: wire == Wire::Carried, target: replaced.unwrap_or(changed) }
}

/// Undoes `prepare` on a request that was not sent. Hop-by-hop headers stay away, and a `Host` that was
/// made from the target stays.
pub fn restore<B>(request: &mut Request<B>, original: Original) {
    *request.version_mut() = original.version;
    if original.carried {
        request.headers_mut().remove(ORIG_PROTO);
    }
    match original.target {
        Target::Kept => {}
        Target::Replaced(before) => {
            let (uri, host, canonical) = *before;
            *request.uri_mut() = uri;
            for (name, value) in [(HOST, host), (DST_CANONICAL, canonical)] {
                match value {
                    Some(value) => _ = request.headers_mut().insert(name, value),
                    None => _ = request.headers_mut().remove(name),
                }
            }
        }
        Target::Shortened(scheme, authority) => edit_target(request, |parts| {
            parts.scheme = Some(scheme.unwrap_or(Scheme::HTTP));
            parts.authority = Some(authority);
        }),
        Target::Completed => edit_target(request, |parts| {
            parts.scheme = None;
            parts.authority = None;
        }),
    }
}

fn edit_target<B>(request: &mut Request<B>, edit: impl FnOnce(&mut uri::Parts)) {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    edit(&mut parts);
    // Fails only for combinations that no caller makes; the root is the harmless answer.
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
}

/// Puts an overriding authority in force. Gives what was there before.
fn replace_authority<B>(request: &mut Request<B>, authority: Authority) -> Target {
    let uri = request.uri().clone();
    let host = request.headers_mut().remove(HOST);
    let canonical = request.headers_mut().remove(DST_CANONICAL);
    edit_target(request, |parts| {
        parts.authority = Some(authority);
        if parts.path_and_query.is_some() || parts.scheme.is_some() {
            parts.scheme.get_or_insert(Scheme::HTTP);
            parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
        }
    });
    Target::Replaced(Box::new((uri, host, canonical)))
}

/// Marks an HTTP/1 request to be carried over HTTP/2.
fn carry<B>(request: &mut Request<B>) {
    let value = match (request.version() == Version::HTTP_10, is_absolute(request)) {
        (false, false) => "HTTP/1.1",
        (false, true) => "HTTP/1.1; absolute-form",
        (true, false) => "HTTP/1.0",
        (true, true) => "HTTP/1.0; absolute-form",
    };
    hop_by_hop(request.headers()).remove(request.headers_mut());
    request.headers_mut().remove(TRANSFER_ENCODING);
    request.headers_mut().insert(ORIG_PROTO, HeaderValue::from_static(value));
}

/// Gives an HTTP/2 request the scheme and authority that it cannot do without: its own, its `Host`, or
/// the endpoint's address.
fn complete_target<B>(request: &mut Request<B>, info: &EndpointInfo) -> Target {
    let uri = request.uri();
    if uri.authority().is_some() && (uri.scheme().is_some() || request.method() == Method::CONNECT) {
        return Target::Kept;
    }
    let host = request.headers().get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let host = host.or_else(|| info.addr.to_string().parse().ok());
    edit_target(request, |parts| {
        parts.authority = parts.authority.take().or(host);
        parts.scheme.get_or_insert(Scheme::HTTP);
        parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    });
    Target::Completed
}

/// Leaves path and query in the target; the authority goes into `Host` if that is missing.
fn to_origin_form<B>(request: &mut Request<B>) -> Target {
    let (mut scheme, mut authority) = (None, None);
    if request.uri().authority().is_some() {
        edit_target(request, |parts| {
            scheme = parts.scheme.take();
            authority = parts.authority.take();
            parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
        });
    }
    let Some(authority) = authority else { return Target::Kept };
    if !request.headers().contains_key(HOST) {
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        if let Ok(host) = HeaderValue::from_str(host) {
            request.headers_mut().insert(HOST, host);
        }
    }
    Target::Shortened(scheme, authority)
}

/// Gives a response from an endpoint the form it has for the client whose request had `version`. A
/// carried response gets its own version back.
pub fn receive(head: &mut response::Parts, wire: Wire, version: Version) {
    match wire {
        Wire::Http1 | Wire::Http1Absolute | Wire::Http1Once => {
            if head.status != StatusCode::SWITCHING_PROTOCOLS {
                strip_hop_by_hop(&mut head.headers);
            }
        }
        Wire::Http2 => {}
        Wire::Carried => {
            let carried = head.headers.remove(ORIG_PROTO);
            head.version = match carried.as_ref().map(HeaderValue::as_bytes) {
                Some(b"HTTP/1.1") => Version::HTTP_11,
                Some(b"HTTP/1.0") => Version::HTTP_10,
                _ => version,
            };
        }
    }
}

/// The receiving side of `Wire::Carried`: turns an HTTP/2 request that carries an HTTP/1 message back
/// into that message. False if it carries none.
pub fn unwrap_carried<B>(request: &mut Request<B>) -> bool {
    if request.version() != Version::HTTP_2 {
        return false;
    }
    let Some(value) = request.headers_mut().remove(ORIG_PROTO) else { return false };
    let text = value.to_str().unwrap_or_default();
    let (proto, absolute) = match text.strip_suffix(ABSOLUTE) {
        Some(proto) => (proto, true),
        None => (text, false),
    };
    *request.version_mut() = match proto {
        "HTTP/1.0" => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    if absolute {
        request.extensions_mut().insert(AbsoluteForm);
    }
    true
}

/// The receiving side of `Wire::Carried`: makes an HTTP/1 response one that is carried over HTTP/2.
pub fn wrap_carried<B>(response: &mut Response<B>) {
    let value = match response.version() {
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    };
    strip_hop_by_hop(response.headers_mut());
    response.headers_mut().remove(TRANSFER_ENCODING);
    response.headers_mut().insert(ORIG_PROTO, HeaderValue::from_static(value));
    *response.version_mut() = Version::HTTP_2;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, target: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut builder = Request::builder().version(version).uri(target);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap()
    }

    fn info(hint: ProtocolHint) -> EndpointInfo {
        EndpointInfo { hint, ..EndpointInfo::plain("10.0.0.1:80".parse().unwrap()) }
    }

    fn chosen(request: Request<()>, hint: ProtocolHint, expected: Wire) {
        let shown = format!("{request:?} {hint:?}");
        assert_eq!(wire(&request, hint), expected, "{shown}");
    }

    #[test]
    fn the_wire_follows_version_hint_and_form() {
        use ProtocolHint::{Http2 as H2, Opaque, Unknown};
        let host = ("host", "web");
        let get = |version| request(version, "/", &[host]);
        for hint in [Unknown, Opaque] {
            chosen(get(Version::HTTP_11), hint, Wire::Http1);
            chosen(get(Version::HTTP_10), hint, Wire::Http1Once);
            chosen(request(Version::HTTP_11, "/", &[]), hint, Wire::Http1Once);
        }
        chosen(get(Version::HTTP_11), H2, Wire::Carried);
        chosen(get(Version::HTTP_10), H2, Wire::Carried);
        for hint in [Unknown, Opaque, H2] {
            chosen(request(Version::HTTP_2, "http://web/", &[]), hint, Wire::Http2);
            let upgrade = [host, ("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
            chosen(request(Version::HTTP_11, "/", &upgrade), hint, Wire::Http1Once);
            let mut connect = request(Version::HTTP_11, "web:80", &[host]);
            *connect.method_mut() = Method::CONNECT;
            chosen(connect, hint, Wire::Http1Once);
        }
        let h2c = [host, ("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c")];
        chosen(request(Version::HTTP_11, "/", &h2c), Unknown, Wire::Http1);
        let unasked = [host, ("upgrade", "websocket")];
        chosen(request(Version::HTTP_11, "/", &unasked), Unknown, Wire::Http1);
        let mut absolute = request(Version::HTTP_11, "http://web/", &[]);
        absolute.extensions_mut().insert(AbsoluteForm);
        chosen(absolute.clone(), Unknown, Wire::Http1Absolute);
        chosen(absolute, H2, Wire::Carried);
    }

    /// Prepares, expects target and headers (sorted), restores, expects what there was.
    fn check(request: Request<()>, wire: Wire, info: &EndpointInfo, expected: (&str, &[&str])) {
        let mut changed = request.clone();
        let original = prepare(&mut changed, wire, info);
        let mut headers: Vec<_> =
            changed.headers().iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        headers.sort();
        assert_eq!(
            (changed.uri().to_string().as_str(), headers),
            (expected.0, expected.1.iter().map(|s| s.to_string()).collect())
        );
        let http2 = matches!(wire, Wire::Http2 | Wire::Carried);
        assert_eq!(changed.version() == Version::HTTP_2, http2);
        restore(&mut changed, original);
        assert_eq!(changed.version(), request.version());
        assert_eq!(changed.uri(), request.uri());
        assert!(!changed.headers().contains_key(ORIG_PROTO));
    }

    #[test]
    fn http1_targets_are_in_origin_form_with_a_host() {
        let plain = info(ProtocolHint::Unknown);
        let http11 = |target, headers| request(Version::HTTP_11, target, headers);
        check(http11("/a?b", &[("host", "web")]), Wire::Http1, &plain, ("/a?b", &["host: web"]));
        check(http11("http://web:81/a", &[]), Wire::Http1, &plain, ("/a", &["host: web:81"]));
        check(http11("http://web/", &[("host", "other")]), Wire::Http1, &plain, ("/", &["host: other"]));
        check(http11("*", &[("host", "web")]), Wire::Http1, &plain, ("*", &["host: web"]));
        let mut absolute = http11("http://web/a", &[("host", "web")]);
        absolute.extensions_mut().insert(AbsoluteForm);
        check(absolute, Wire::Http1Absolute, &plain, ("http://web/a", &["host: web"]));
        let hops =
            [("host", "web"), ("keep-alive", "5"), ("te", "trailers"), ("transfer-encoding", "chunked")];
        check(
            http11("/", &hops),
            Wire::Http1,
            &plain,
            ("/", &["host: web", "te: trailers", "transfer-encoding: chunked"]),
        );
    }

    #[test]
    fn carried_requests_say_what_they_were() {
        let meshed = info(ProtocolHint::Http2);
        let headers = [("host", "web"), ("connection", "close"), ("transfer-encoding", "chunked")];
        let carried = ["host: web", "l5d-orig-proto: HTTP/1.1"];
        check(request(Version::HTTP_11, "/a", &headers), Wire::Carried, &meshed, ("http://web/a", &carried));
        let carried = ["l5d-orig-proto: HTTP/1.0"];
        let hostless = request(Version::HTTP_10, "/a", &[]);
        check(hostless, Wire::Carried, &meshed, ("http://10.0.0.1:80/a", &carried));
        let mut absolute = request(Version::HTTP_11, "http://web/a", &[("host", "web")]);
        absolute.extensions_mut().insert(AbsoluteForm);
        let carried = ["host: web", "l5d-orig-proto: HTTP/1.1; absolute-form"];
        check(absolute, Wire::Carried, &meshed, ("http://web/a", &carried));
        check(request(Version::HTTP_2, "https://web/a", &[]), Wire::Http2, &meshed, ("https://web/a", &[]));
    }

    #[test]
    fn an_authority_override_replaces_host_and_canonical_name() {
        let gateway = |hint| EndpointInfo { authority_override: Some("web.east:80".into()), ..info(hint) };
        let headers = [("host", "web"), ("l5d-dst-canonical", "web.svc:80"), ("x", "y")];
        let http11 = request(Version::HTTP_11, "/a", &headers);
        check(
            http11.clone(),
            Wire::Http1,
            &gateway(ProtocolHint::Unknown),
            ("/a", &["host: web.east:80", "x: y"]),
        );
        let carried = ["l5d-orig-proto: HTTP/1.1", "x: y"];
        check(http11, Wire::Carried, &gateway(ProtocolHint::Http2), ("http://web.east:80/a", &carried));
        let http2 = request(Version::HTTP_2, "https://web/a", &[]);
        check(http2, Wire::Http2, &gateway(ProtocolHint::Http2), ("https://web.east:80/a", &[]));
    }

    #[test]
    fn headers_named_in_connection_go_but_framing_and_host_stay() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-private, close, Host"),
            ("connection", "te,transfer-encoding"),
            ("x-private", "1"),
            ("keep-alive", "5"),
            ("proxy-connection", "close"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("host", "web"),
        ] {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["host", "te", "transfer-encoding"]);
    }

    #[test]
    fn a_carried_message_arrives_as_it_was() {
        for (version, absolute) in [
            (Version::HTTP_11, false),
            (Version::HTTP_10, false),
            (Version::HTTP_11, true),
            (Version::HTTP_10, true),
        ] {
            let mut request = request(version, "http://web/", &[("host", "web")]);
            if absolute {
                request.extensions_mut().insert(AbsoluteForm);
            }
            prepare(&mut request, Wire::Carried, &info(ProtocolHint::Http2));
            request.extensions_mut().clear();
            assert!(unwrap_carried(&mut request));
            assert_eq!(request.version(), version);
            assert_eq!(request.extensions().get::<AbsoluteForm>().is_some(), absolute);
            assert!(!unwrap_carried(&mut request));

            let mut response =
                Response::builder().version(version).header("connection", "close").body(()).unwrap();
            wrap_carried(&mut response);
            assert_eq!((response.version(), response.headers().len()), (Version::HTTP_2, 1));
            let (mut head, ()) = response.into_parts();
            receive(&mut head, Wire::Carried, Version::HTTP_11);
            assert_eq!((head.version, head.headers.len()), (version, 0));
        }
    }

    #[test]
    fn a_response_without_its_version_gets_the_requests() {
        let (mut head, ()) = Response::builder().version(Version::HTTP_2).body(()).unwrap().into_parts();
        receive(&mut head, Wire::Carried, Version::HTTP_10);
        assert_eq!(head.version, Version::HTTP_10);
    }
}
