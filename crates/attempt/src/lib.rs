//! What one attempt of a request needs beside an endpoint: a copy for the next one, its time limits, a look at its outcome.
//!
//! `proxy/forward.rs` makes the attempts and decides what comes after each. Nothing here sends anything, and nothing knows
//! destinations or peers; what is kept of a request is bounded by its rule.

mod ahead;
pub mod peek;
pub mod replay;
pub mod timeout;
