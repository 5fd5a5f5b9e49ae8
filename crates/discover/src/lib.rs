//! The proxy's talk with the control plane.
//!
//! `channel` reaches it, `stream` keeps one watch alive through its failures, `cache` shares and
//! forgets them, `lookup` is the front that plans are built from, and `certify` asks for the
//! proxy's certificate. Called by `proxy`; knows policies as nouns of `model` and never as messages.

pub mod balancers;
pub mod cache;
pub mod certify;
pub mod channel;
pub mod compile;
pub mod destination;
pub mod endpoints;
pub mod error;
pub mod limits;
pub mod lookup;
pub mod plan;
pub mod received;
pub mod settings;
pub mod source;
pub mod stream;
pub mod watched;
