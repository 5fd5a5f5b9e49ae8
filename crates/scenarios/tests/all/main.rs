//! Stories of the whole mesh: real proxies and a fake control plane in one process, on loopback sockets.

mod admin;
mod breakers;
mod churn;
mod control;
mod drain;
mod errors;
mod exchange;
mod filters;
mod forward_proxy;
mod http1;
mod inbound;
mod matching;
mod metrics;
mod metrics_document;
mod overrides;
mod permits;
mod policies;
mod profiles;
mod reasons;
mod retries;
mod stalls;
mod tcp;
mod timeouts;
mod traffic;
mod unnoticed;
mod world;
