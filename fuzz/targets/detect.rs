#![no_main]

#[path = "../bodies/detect.rs"]
mod body;
#[allow(dead_code, unreachable_pub)] // the proxy uses more of it
#[path = "../../crates/proxy/src/detect.rs"]
mod detection;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
