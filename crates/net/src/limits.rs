//! The bounds of this crate, for docs/limits.md. Obeyed where their constants stand.

use crate::head::{MAX_EMPTY_LINES, MAX_EXTENSION, MAX_EXTENSIONS, MAX_TARGET, MAX_TRAILERS};
use crate::outbox::MAX_WAITING;
use crate::socket::BACKLOG;
use weft_model::limit::{Bound, Limit};

/// Every one of them.
pub fn limits() -> Vec<Limit> {
    let refused = "400, and the connection is closed.";
    let malformed = "`weft_reasons_total{code=\"bad-request\"}`";
    vec![
        Limit::fixed(
            "connections that wait to be accepted",
            Bound::Count(BACKLOG.into()),
            "The kernel lets clients try again.",
            "none; the kernel's",
        ),
        Limit::fixed(
            "a request target over HTTP/1",
            Bound::Bytes(MAX_TARGET as u64),
            "The request is answered 414.",
            "`weft_reasons_total{code=\"uri-too-long\"}`",
        ),
        Limit::fixed(
            "empty lines before a request",
            Bound::Count(MAX_EMPTY_LINES.into()),
            refused,
            malformed,
        ),
        Limit::fixed("extensions of one chunk", Bound::Bytes(MAX_EXTENSION.into()), refused, malformed),
        Limit::fixed(
            "extensions of all chunks of a body",
            Bound::Bytes(MAX_EXTENSIONS.into()),
            refused,
            malformed,
        ),
        Limit::fixed(
            "trailers over HTTP/1",
            Bound::Bytes(MAX_TRAILERS as u64),
            "The body breaks off and the connection is closed.",
            malformed,
        ),
        Limit::fixed(
            "HTTP/2 CONTINUATION frames of a header list",
            Bound::Told("a quarter more than hold the largest list"),
            "The connection ends with GOAWAY (ENHANCE_YOUR_CALM).",
            "`weft_reasons_total{code=\"http2-flood\"}`",
        ),
        Limit::fixed(
            "bytes of all bodies that wait for the peer of one HTTP/2 connection, beyond 16 KiB and a frame a stream",
            Bound::Bytes(MAX_WAITING as u64),
            "The bodies' sources are read no further until the peer has taken some.",
            "none; ordinary flow control",
        ),
        Limit::fixed(
            "HTTP/2 DATA frames that are empty or small",
            Bound::Told("the HTTP/2 engine's budget"),
            "The connection ends with GOAWAY (ENHANCE_YOUR_CALM).",
            "`weft_reasons_total{code=\"http2-flood\"}`",
        ),
    ]
}
