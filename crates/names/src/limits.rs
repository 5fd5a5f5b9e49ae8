//! The bounds of this crate, for docs/limits.md. Obeyed where their constants stand.

use crate::resolver::MAX_ADDRESSES;
use weft_model::limit::{Bound, Limit};

/// Every one of them.
pub fn limits() -> Vec<Limit> {
    vec![Limit::fixed(
        "addresses of the control plane's name",
        Bound::Count(MAX_ADDRESSES as u64),
        "Further ones are left out.",
        "none; a mistake of the zone",
    )]
}
