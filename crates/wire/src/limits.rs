//! The bounds of this crate, for docs/limits.md. Obeyed where their constants stand.

use crate::decode::MAX_WARNINGS;
use crate::decode::endpoint::{MAX_LABEL_BYTES, MAX_LABELS};
use crate::decode::outbound::MAX_QUEUE;
use crate::decode::route::{MAX_PATTERN, MAX_PROGRAM};
use crate::encode::MAX_SET_BYTES;
use crate::header::MAX_MESSAGE;
use crate::services::{MAX_MESSAGE_BYTES, MAX_PARTS, MAX_REQUEST_BYTES};
use weft_model::limit::{Bound, Limit};

/// What a proxy takes from a control plane, and from other proxies.
pub fn reading() -> Vec<Limit> {
    let failed = "`control_response_total`";
    let again = "The stream fails and is opened again; the last answer stays in force.";
    let logged = "none; the first of a stream is logged";
    let bytes =
        |of, bound: usize, beyond, metric| Limit::fixed(of, Bound::Bytes(bound as u64), beyond, metric);
    let count = |of, bound: u64, beyond, metric| Limit::fixed(of, Bound::Count(bound), beyond, metric);
    vec![
        bytes("a control-plane message", MAX_MESSAGE_BYTES, again, failed),
        count("messages that one endpoint set comes in", MAX_PARTS.into(), again, failed),
        count("labels of an endpoint", MAX_LABELS as u64, "Further ones are left out.", logged),
        bytes(
            "labels that one message unfolds into",
            MAX_LABEL_BYTES,
            "Further endpoints have none.",
            logged,
        ),
        bytes("an expression of a policy", MAX_PATTERN, "What holds it is invalid, and refuses.", logged),
        bytes("the program of an expression", MAX_PROGRAM, "What holds it is invalid, and refuses.", logged),
        count("queue that a policy asks for", MAX_QUEUE as u64, "It is cut to the limit.", "none; cut"),
        count("warnings about one message", MAX_WARNINGS as u64, "Further ones are only counted.", logged),
        bytes(
            "a transport header",
            MAX_MESSAGE,
            "The connection is closed.",
            "`weft_reasons_total{code=\"transport-header\"}`",
        ),
    ]
}

/// What a control plane takes and sends.
pub fn serving() -> Vec<Limit> {
    vec![
        Limit::fixed(
            "a request",
            Bound::Bytes(MAX_REQUEST_BYTES as u64),
            "The call is refused with OUT_OF_RANGE.",
            "request-bytes",
        ),
        Limit::fixed(
            "a message of an endpoint set",
            Bound::Bytes(MAX_SET_BYTES as u64),
            "The set is split, and the parts follow each other at once.",
            "none; expected",
        ),
        Limit::fixed(
            "any other message",
            Bound::Bytes(MAX_MESSAGE_BYTES as u64),
            "It is sent, and foreign proxies refuse it.",
            "none; logged",
        ),
    ]
}
