//! Tests of what is told, through the crate's public face: manifests' nouns in, decisions and differences out.

mod why;
// The world that the index is tested in, of which these tests need a part.
#[allow(dead_code)]
#[path = "../../../index/tests/all/world.rs"]
mod world;
