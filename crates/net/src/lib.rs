//! Streams and sockets: everything between the operating system and the protocols.
//!
//! One byte stream ([`stream::Stream`]) in its shapes, the sockets it comes from, the bytes read ahead
//! of a decision, the inspection of HTTP/1 heads, the one body type, draining, relaying, and the one
//! small HTTP server and client loop of the control paths. Called by every crate that touches a
//! connection. Decides nothing about destinations, identities or policies.

pub mod aside;
pub mod body;
pub mod drain;
pub mod frames;
pub mod guard;
pub mod head;
pub mod limits;
pub mod metered;
pub mod original;
pub mod outbox;
pub mod prefixed;
pub mod refused;
pub mod socket;
pub mod splice;
pub mod stall;
pub mod stream;
pub mod transfer;
pub mod web;
