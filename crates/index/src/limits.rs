//! The bounds of this crate, for docs/limits.md. Obeyed where their constants stand.

use crate::answer::MAX_ENDPOINTS;
use crate::ask::TOKEN_LIMIT;
use crate::verdict::NOTE_LIMIT;
use weft_model::limit::{Bound, Limit};

/// Every one of them.
pub fn limits() -> Vec<Limit> {
    vec![
        Limit::fixed(
            "endpoints of one service",
            Bound::Count(MAX_ENDPOINTS as u64),
            "The first ones by address are told, the others left out.",
            "`control_plane_endpoints_left_out`",
        ),
        Limit::fixed(
            "context token of a question",
            Bound::Bytes(TOKEN_LIMIT as u64),
            "It counts as empty: the asker is nobody in particular.",
            "none; logged at level debug",
        ),
        Limit::fixed(
            "notes about one object",
            Bound::Count(NOTE_LIMIT as u64),
            "Further ones are not told.",
            "none; they are about mistakes already",
        ),
    ]
}
