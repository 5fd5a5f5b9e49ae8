//! The bodies of the fuzz targets over their corpora and a fixed walk around them.

#[path = "../../../../fuzz/bodies/detect.rs"]
mod detect;
#[allow(dead_code, unreachable_pub)] // the proxy makes more of it
#[path = "../../src/detect.rs"]
mod detection;
#[path = "../../../../fuzz/bodies/head.rs"]
mod head;
#[path = "../../../../fuzz/bodies/header.rs"]
mod header;
#[path = "../../../../fuzz/bodies/mutate.rs"]
mod mutate;

const MUTANTS: usize = 50_000;

#[test]
fn detection_stays_with_its_decisions() {
    mutate::over("detect", MUTANTS, detect::run);
}

#[test]
fn the_inspector_of_heads_does_not_care_how_bytes_are_cut() {
    mutate::over("head", MUTANTS, head::run);
}

#[test]
fn transport_headers_mean_one_thing() {
    mutate::over("header", MUTANTS, header::run);
}
