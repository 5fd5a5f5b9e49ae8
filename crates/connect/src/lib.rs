//! Reaching one endpoint: connections, the HTTP versions spoken on them, and tunnels.
//!
//! An `Endpoint` keeps HTTP/1 connections in a pool and one HTTP/2 connection, over plain TCP or mutual
//! TLS, reports to its backend whether it can take requests, and says of every failed request whether it
//! may be sent again. Called by `proxy` through `balance`. It never chooses among endpoints and never
//! repeats a request that may have been processed.

pub mod context;
mod dial;
pub mod endpoint;
pub mod error;
pub mod http;
pub mod limits;
mod multiplex;
mod pool;
pub mod transport;
mod tunnel;

pub use context::{Connect, Context, Loopback, PoolLimits, ReadyWhen, Tcp};
pub use endpoint::{Endpoint, EndpointStatus};
pub use error::{ConnectError, SendError, SendFailure, Whereabouts};
