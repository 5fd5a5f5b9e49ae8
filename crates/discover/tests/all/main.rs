//! Discovery against a control plane of `wire`'s own services, on real loopback sockets in real time,
//! with limits of tens of milliseconds.

mod identity;
mod outage;
mod plane;
