//! The tests of this crate that need more than one of its files, as one binary.

mod authorities;
mod handshakes;
mod installs;
mod renewals;
mod requests;
mod tokens;
mod world;
