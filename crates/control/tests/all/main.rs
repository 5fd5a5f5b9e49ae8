//! The whole control plane over real connections: manifests on disk in, messages of the stock client out.

mod golden;
mod joining;
mod live;
mod text;
mod world;
