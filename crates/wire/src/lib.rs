//! Linkerd's proxy API on the wire: the only crate that knows protobuf.
//!
//! `decode` turns messages into the nouns of `model` and may refuse them; `encode` turns nouns into
//! messages and cannot fail; `services` carries both over gRPC, for `discover` on the proxy's side and
//! for `serve` on the control plane's; `header` is the transport header between two proxies.
//! No message type and no tonic type but the body leaves this crate.

pub mod decode;
pub mod encode;
mod error;
pub mod header;
pub mod limits;
pub mod services;

pub use error::WireError;
