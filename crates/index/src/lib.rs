//! From manifests to what proxies ask: endpoints, profiles and policies, computed without I/O.
//!
//! `resources` feeds [`Index::apply`] with batches of changes; `serve` asks [`Index::view`] which view
//! answers a question and [`Index::resolve`] what it says, and recomputes the views that
//! [`Touched`] names. Everything here is pure: no clock, runtime, randomness, file or socket. It knows
//! neither protobuf nor manifest text.

pub mod annotations;
pub mod answer;
pub mod ask;
mod attach;
pub mod config;
mod egress;
mod entry;
mod inbound;
mod index;
mod kept;
pub mod limits;
mod order;
mod permits;
mod policies;
mod probes;
mod profiles;
pub mod resolve;
mod routes;
mod scope;
mod services;
mod survey;
mod touched;
pub mod verdict;
mod workloads;

pub use annotations::PortList;
pub use ask::{OutboundTarget, Question};
pub use config::Config;
pub use index::Index;
pub use resolve::{Answer, EndpointSet, ProfileTarget, Refusal, RefusalKind, ViewKey, diff};
pub use survey::OutboundPort;
pub use touched::Touched;
