//! The bounds of this crate, for docs/limits.md. Obeyed where their constants stand.

use crate::pool::MAX_HEAD;
use weft_model::limit::{Bound, Limit};

/// Every one of them.
pub fn limits() -> Vec<Limit> {
    vec![Limit::fixed(
        "a response's head over HTTP/1",
        Bound::Bytes(MAX_HEAD as u64),
        "The request is answered 502.",
        "`weft_reasons_total{code=\"protocol-error\"}`",
    )]
}
