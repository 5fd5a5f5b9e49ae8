//! stub

pub mod settings;
