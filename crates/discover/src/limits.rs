//! The bounds of this crate, for docs/limits.md. Obeyed where their constants stand.

use crate::endpoints::MAX_ENDPOINTS;
use crate::received::{NAMES, NEW_NAMES};
use weft_model::limit::{Bound, Limit};

/// Every one of them.
pub fn limits() -> Vec<Limit> {
    vec![
        Limit::fixed(
            "endpoints of one destination",
            Bound::Count(MAX_ENDPOINTS as u64),
            "Further ones are left out.",
            "none; logged",
        ),
        Limit::fixed(
            "names of inbound requests whose profiles are followed",
            Bound::Count(NAMES as u64),
            "The least recently used idle one goes; if all are in use, requests are counted without a route.",
            "none",
        ),
        Limit::fixed(
            "new ones among them in five seconds",
            Bound::Count(NEW_NAMES.into()),
            "Requests with further ones are counted without a route.",
            "none",
        ),
    ]
}
