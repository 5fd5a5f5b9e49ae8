//! The bounds of this crate, for docs/limits.md. Obeyed where their constants stand.

use crate::endpoints::MAX_ENDPOINTS;
use weft_model::limit::{Bound, Limit};

/// Every one of them.
pub fn limits() -> Vec<Limit> {
    vec![Limit::fixed(
        "endpoints of one destination",
        Bound::Count(MAX_ENDPOINTS as u64),
        "Further ones are left out.",
        "none; logged",
    )]
}
