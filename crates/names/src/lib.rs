//! Names to addresses: the one crate that names hickory.
//!
//! `discover/channel.rs` resolves the control plane with it. A [`Resolver`] asks for SRV records
//! first and for plain addresses when they do not serve, and says for how long the answer holds. The
//! records come through the [`Records`] trait, so that tests inject answers. It never keeps an
//! answer, never asks again by itself and never resolves what applications send to.

pub mod limits;
mod records;
mod resolver;

pub use records::{Addresses, Fetch, NoRecords, Records, Service, Services, System};
pub use resolver::{Answer, Counts, MIN_TTL, ResolveError, Resolver, TtlBounds};
