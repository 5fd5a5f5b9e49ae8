//! Hands `layout.ld` to the linker of an optimised build for Linux: the functions that a proxy runs, to be put
//! beside each other. Nothing but memory and time depends on it, and `WEFT_WITHOUT_LAYOUT=1` leaves it out where a
//! linker cannot read it.

use std::env::var;
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=layout.ld");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=WEFT_WITHOUT_LAYOUT");
    let is = |name: &str, expected: &str| var(name).is_ok_and(|value| value == expected);
    // LLD and GNU ld read such scripts, a linker that somebody chose might not.
    let chosen = var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("-fuse-ld"));
    let unwanted = var("WEFT_WITHOUT_LAYOUT").is_ok();
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_OS", "linux") && !chosen && !unwanted {
        let dir = var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo::rustc-link-arg-bin=weft=-T{}", Path::new(&dir).join("layout.ld").display());
    }
}
