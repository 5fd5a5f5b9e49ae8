//! The bounds of this crate, for docs/limits.md. Obeyed where their constants stand.

use crate::certificates::{MAX_SOURCES, PER_SOURCE};
use crate::content::MAX_STEPS;
use crate::destinations::MAX_PATH;
use crate::follow::{PACE, StreamLimits};
use crate::policies::MAX_AUTHORITY;
use crate::quota::Allowance;
use crate::server::Limits;
use crate::views::HISTORY;
use weft_model::limit::{Bound, Limit};

/// Every one of them, with its default where it can be set.
pub fn limits() -> Vec<Limit> {
    let edge = Limits::default();
    [connections(&edge), calls(&edge), streams(&edge)].concat()
}

const fn count(bound: usize) -> Bound {
    Bound::Count(bound as u64)
}

fn connections(edge: &Limits) -> Vec<Limit> {
    let closed = "The new connection is closed at once; proxies come again with backoff.";
    let ended = "The connection is closed.";
    let of = |of, bound: usize, limit| Limit::fixed(of, count(bound), closed, limit);
    let time = |of, bound, limit| Limit::fixed(of, Bound::Time(bound), ended, limit);
    vec![
        of("connections", edge.connections, "connections").set_by("--max-connections"),
        of("connections of one address", edge.per_source, "connections-per-source")
            .set_by("--max-connections-per-source"),
        of("connections without a certificate", edge.unidentified, "connections-unidentified"),
        time("life of a connection without a certificate", edge.unidentified_time, "none; expected"),
        time("life of a connection", edge.connection_time, "none; expected"),
        of("TLS handshakes under way", edge.handshakes, "handshakes"),
        of("TLS handshakes under way of one address", edge.handshakes_per_source, "handshakes-per-source"),
        time("length of a TLS handshake", edge.handshake_time, "handshake-time"),
    ]
}

const EXHAUSTED: &str = "The call is refused with RESOURCE_EXHAUSTED; proxies come again with backoff.";

fn calls(edge: &Limits) -> Vec<Limit> {
    let rate = |of, allowance: Allowance, limit| {
        Limit::fixed(of, Bound::Rate(allowance.calls.into(), allowance.period), EXHAUSTED, limit)
    };
    let invalid = "The call is refused with INVALID_ARGUMENT.";
    let refused = "`control_plane_calls_refused_total{code}`";
    let bytes =
        |of, bound: usize, beyond, metric| Limit::fixed(of, Bound::Bytes(bound as u64), beyond, metric);
    vec![
        rate("Certify calls of one connection", edge.certify, "certify-per-connection"),
        rate("Certify calls of one address", PER_SOURCE, "certify-per-source"),
        Limit::fixed(
            "addresses told apart for that",
            count(MAX_SOURCES),
            "Further ones share one allowance.",
            "none; see the row above",
        ),
        Limit::fixed(
            "time from a call's head to its answer's",
            Bound::Time(edge.answer_time),
            "The call fails with UNAVAILABLE.",
            "answer-time",
        ),
        bytes(
            "head of a call",
            edge.web.http2.header_list as usize,
            "The call is answered 431.",
            "none; the HTTP/2 engine answers by itself",
        ),
        bytes("path of a question", MAX_PATH, invalid, refused),
        bytes("authority of a question", MAX_AUTHORITY, invalid, refused),
    ]
}

fn streams(edge: &Limits) -> Vec<Limit> {
    let streams = StreamLimits::default();
    let merged = "none; what is sent is the newest state";
    let of = Limit::fixed;
    vec![
        of("streams", count(streams.total), EXHAUSTED, "streams").set_by("--max-streams"),
        of(
            "streams of one proxy (identity and address)",
            count(streams.per_proxy),
            EXHAUSTED,
            "streams-per-proxy",
        )
        .set_by("--max-streams-per-proxy"),
        of(
            "HTTP/2 streams of one connection",
            Bound::Count(edge.web.http2.streams.into()),
            "The proxy's call waits until another one ends.",
            "none; ordinary flow control",
        ),
        of(
            "what waits for one slow reader",
            Bound::Bytes(edge.web.http2.send_buffer as u64),
            "No more is written; the newest state follows when there is room.",
            "`control_plane_oldest_unsent_change_seconds`",
        ),
        of("pace of differences on one stream: one in", Bound::Time(PACE), "They are merged.", merged),
        of(
            "differences of one version kept encoded",
            count(MAX_STEPS),
            "Each stream beyond computes its own.",
            merged,
        ),
        of(
            "times of changes remembered of one answer",
            count(HISTORY),
            "The lag shown is that of the oldest remembered.",
            merged,
        ),
    ]
}
