//! Tests of the index through its public face: manifests' nouns in, answers out.

mod endpoints;
mod inbound;
mod judged;
mod outbound;
mod profiles;
mod scale;
mod simulation;
mod verdicts;
mod world;
