//! Which rule a request meets, and how often it may be tried.
//!
//! A `Table` owns rules, a rule owns its backends. `discover` compiles tables from what the control
//! plane says; `proxy/forward.rs` reads them. This crate sends nothing and waits for nothing.

pub mod frames;
pub mod limit;
pub mod metrics;
pub mod requested;
pub mod retry;
pub mod table;
