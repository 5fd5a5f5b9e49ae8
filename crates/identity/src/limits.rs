//! The bounds of this crate, for docs/limits.md. Obeyed where their constants stand.

use crate::anchors::{MAX_ANCHORS, MAX_BUNDLE};
use crate::certificate::MAX_NAMES;
use crate::csr::MAX_CSR;
use crate::spent::MAX_SPENT;
use crate::store::MAX_CHAIN;
use crate::token::{MAX_NETWORKS, MAX_TOKEN};
use weft_model::limit::{Bound, Limit};

/// What holds wherever TLS is spoken.
pub fn limits() -> Vec<Limit> {
    let (start, refused) = ("The start fails and names it.", "The certificate is refused.");
    let failed = "`weft_reasons_total{code=\"tls-failed\"}`";
    let of = |of, bound: usize, beyond, metric| Limit::fixed(of, Bound::Count(bound as u64), beyond, metric);
    vec![
        of("trust anchors", MAX_ANCHORS, start, "none; it does not run"),
        Limit::fixed(
            "bundle of trust anchors",
            Bound::Bytes(MAX_BUNDLE as u64),
            start,
            "none; it does not run",
        ),
        of("certificates of our own chain", MAX_CHAIN, refused, "none; logged"),
        of("names of one certificate", MAX_NAMES, refused, failed),
    ]
}

/// What holds where certificates are issued.
pub fn issuing() -> Vec<Limit> {
    let metric = "`control_plane_certificates_total{outcome}`";
    let refused = "The call is refused with the reason.";
    vec![
        Limit::fixed("token", Bound::Bytes(MAX_TOKEN as u64), refused, metric),
        Limit::fixed("signing request", Bound::Bytes(MAX_CSR as u64), refused, metric),
        Limit::fixed(
            "networks of one token",
            Bound::Count(MAX_NETWORKS as u64),
            "The token is not made.",
            "none; told at once",
        ),
        Limit::fixed(
            "tokens for one use that are spent and not yet expired",
            Bound::Count(MAX_SPENT as u64),
            "Further ones are refused until some expire.",
            metric,
        ),
    ]
}
