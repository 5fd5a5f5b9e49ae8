//! Endpoints over in-memory connections, in paused time, against servers of hyper, h2 and by hand.

mod http1;
mod http2;
mod readiness;
mod secured;
mod world;
