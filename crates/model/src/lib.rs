//! The nouns that both planes share: names, identities, destinations, policies and reasons.
//!
//! Everything here is plain data. It performs no I/O, knows no clock, no runtime, no protobuf and no
//! manifest format: `wire` turns it into messages and back, `index` computes it from manifests, and
//! the data path runs on it. Called by every other crate; calls none of them.

pub mod address;
pub mod attach;
pub mod authorization;
pub mod destination;
pub mod duration;
pub mod identity;
pub mod kind;
pub mod limit;
pub mod meta;
pub mod metadata;
pub mod name;
pub mod object;
pub mod policy;
pub mod profile;
pub mod reason;
pub mod route;
pub mod server;
pub mod service;
pub mod workload;
