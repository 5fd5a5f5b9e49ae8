//! Decisions told to people: why a request would go where it goes, and what a change of manifests would do to that.
//!
//! The `why` and `diff` commands and the control plane's admin listener ask, and nothing that proxies wait for. Every answer is
//! made of what [`weft_index::Index`] tells proxies, judged by the functions of `decide` that they call. Pure: no clock,
//! runtime, randomness, file or socket.

mod describe;
pub mod difference;
pub mod why;
