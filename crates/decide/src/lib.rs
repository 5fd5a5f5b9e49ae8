//! What a request meets, step by step, as pure functions: which rule matches, who is permitted, what
//! filters do, how a response counts.
//!
//! Used by `route` in the data path and by everything that explains a decision afterwards, so both
//! always agree. No I/O, no clock, no randomness: time and draws come in as arguments.

pub mod authorize;
pub mod classify;
pub mod explain;
pub mod filter;
pub mod matching;
pub mod permission;
mod places;
