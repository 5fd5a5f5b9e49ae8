//! The data plane: takes all traffic in and out of a workload and carries it as the control plane says.
//!
//! `run` starts it. `listen`, `serve` and `forward` are the life of a request, read top to bottom;
//! everything else is a detail of one of them. Called by the binary and by tests. It never reads the
//! environment and never installs anything global.

mod admin;
mod admit;
mod arrival;
mod authz;
mod client;
pub mod detect;
mod direct;
#[cfg(test)]
mod document;
mod forward;
mod gateway;
mod gauges;
mod given_up;
mod headers;
mod heard;
mod limits;
mod listen;
mod opaque;
mod overdue;
mod oversize;
mod pace;
mod passage;
mod permit;
mod ports;
mod prepare;
mod received;
mod reply;
mod report;
mod run;
mod serve;
mod state;
mod target;
mod tunnel;
mod via;

pub use run::{Proxy, StartError, World, start};

/// What this build is, for `proxy_build_info`.
fn build() -> weft_telemetry::process::Build {
    weft_telemetry::process::Build {
        version: env!("CARGO_PKG_VERSION").into(),
        profile: if cfg!(debug_assertions) { "debug" } else { "release" }.into(),
        vendor: "weft".into(),
        ..Default::default()
    }
}
