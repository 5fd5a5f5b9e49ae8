//! What the mesh says about itself: metrics in Prometheus' text form, and the log.
//!
//! Each crate that has something to count owns one metrics struct, built from a `Registry` that is
//! handed in at construction; nothing here is global but tracing's own subscriber. Called by every
//! crate that works at run time. Never opens a connection and never reads the environment.

pub mod flood;
pub mod limits;
pub mod log;
pub mod metrics;
pub mod process;
pub mod registry;
pub mod text;

pub use metrics::{Counter, Family, Float, Gauge, Histogram, Limits, Split};
pub use registry::Registry;
pub use text::{LabelWriter, Labels, Written};
