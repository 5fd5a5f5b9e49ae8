//! stub

pub mod detect;
pub mod settings;
