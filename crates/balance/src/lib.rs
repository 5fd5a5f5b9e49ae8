//! Which endpoint a request goes to.
//!
//! A `Backend` knows the endpoints of one destination, draws among those that are ready (power of two
//! choices over peak EWMA), ejects those that fail, and lets requests wait, within bounds, while none
//! is ready. Called by `route` and `proxy`. It never connects: it is generic in its endpoint, which
//! reports its own readiness through `Readiness`.

pub mod backend;
pub mod endpoint;
pub mod health;
pub mod load;
pub mod metrics;
pub mod pick;
mod slot;
pub mod unavailable;
mod wait;

pub use backend::{Backend, Change, EndpointSnapshot, Params, Pending, Picked, Snapshot};
pub use endpoint::{EndpointState, Failure, Readiness, Target};
pub use health::Verdict;
pub use metrics::{Counts, Metrics};
pub use unavailable::{Cause, Unavailable};
