//! Hostile clients against a real `weft proxy`, byte by byte over plain sockets, and (`control`) hostile proxies and
//! manifests against a real `weft control`.
//!
//! Each test has a control plane, a proxy and an application of its own on a loopback address of its own, and
//! attacks only these, bounded in count and time. Whatever the attack, the proxy must stay below 64 MiB and an
//! honest client must be served meanwhile.

mod control;
mod entries;
mod frames;
mod http2;
mod limits;
mod slow;
mod smuggling;
pub(crate) mod world;
