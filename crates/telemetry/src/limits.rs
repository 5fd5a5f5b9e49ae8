//! The bounds of this crate, for docs/limits.md. Obeyed where their constants stand.

use crate::text::MAX_VALUE_BYTES;
use weft_model::limit::{Bound, Limit};

/// Every one of them that is not a setting.
pub fn limits() -> Vec<Limit> {
    vec![Limit::fixed(
        "value of a label",
        Bound::Bytes(MAX_VALUE_BYTES as u64),
        "It is cut.",
        "none; it shows itself",
    )]
}
