//! The serving half over real connections, read by the stock generated client.

mod certificates;
mod destinations;
mod edge;
mod load;
mod policies;
mod world;
