//! The control plane's serving half: answers proxies over gRPC, and its own TLS edge.
//!
//! [`views::Views`] keeps the index and every answer that somebody follows; [`destinations`], [`policies`] and
//! [`certificates`] are the services; [`server::Edge`] lets connections in. `control` assembles them and feeds
//! changes to the views. It knows no manifest source and no protobuf.

pub mod certificates;
mod claims;
mod content;
pub mod destinations;
mod follow;
pub mod limits;
pub mod metrics;
mod names;
pub mod policies;
mod quota;
pub mod server;
pub mod views;

pub use follow::{Service, StreamLimits};
pub use names::OwnNames;
pub use quota::Allowance;
