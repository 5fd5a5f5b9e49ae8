//! The control plane's half of docs/limits.md, made from the constants that it obeys.
//!
//! Only for tests: they compare the document with what the crates say, and write it when `cargo xtask docs` asks for
//! it with `WEFT_UPDATE_DOCS`. The other half is written by a test of `proxy`.

use crate::admin::{CONNECTIONS, MAX_FILTER};
use crate::api::ITEMS;
use std::fmt::Write as _;
use std::path::Path;
use weft_model::limit::{Bound, Limit};

const TITLE: &str = "\n# Limits of the control plane\n";

const HEADER: &str = "
What has a flag is set with it (`weft control --help`); everything else is fixed. Where the metric is a limit's name, it
is `weft_limit_reached_total{limit=\"NAME\"}`, as in the proxy.
";

const COLUMNS: &str = "| bounds | bound | set by | beyond it | metric |\n|---|---|---|---|---|\n";

fn admin() -> Vec<Limit> {
    vec![
        Limit::fixed(
            "connections to the admin server",
            Bound::Count(CONNECTIONS as u64),
            "The new connection is closed at once.",
            "admin-connections",
        ),
        Limit::fixed(
            "log filter",
            Bound::Bytes(MAX_FILTER as u64),
            "It is refused with 400.",
            "none; told at once",
        ),
        Limit::fixed(
            "items of one answer below `/v1/`",
            Bound::Count(ITEMS as u64),
            "Further ones are counted in `left_off`.",
            "none; told at once",
        ),
        Limit::fixed(
            "query of `/v1/why`",
            Bound::Bytes(weft_explain::why::QUERY_LIMIT as u64),
            "It is refused with 400.",
            "none; told at once",
        ),
    ]
}

fn limits() -> String {
    let mut text = format!("{TITLE}{HEADER}");
    let parts = [
        ("Its edge", [weft_serve::limits::limits(), weft_wire::limits::serving(), admin()].concat()),
        ("Answers", weft_index::limits::limits()),
        ("Manifests", weft_resources::limits::limits()),
        ("Identity", [weft_identity::limits::limits(), weft_identity::limits::issuing()].concat()),
        ("Metrics", weft_telemetry::limits::limits()),
    ];
    for (title, limits) in parts {
        let _ = write!(text, "\n## {title}\n\n{COLUMNS}");
        for Limit { of, bound, setting, beyond, metric } in limits {
            let setting = setting.map_or_else(String::new, |flag| format!("`{flag}`"));
            let named = metric.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
            let metric = if named { format!("`{metric}`") } else { metric.to_owned() };
            let _ = writeln!(text, "| {of} | {bound} | {setting} | {beyond} | {metric} |");
        }
    }
    text
}

#[test]
fn the_document_of_limits_is_up_to_date() {
    let (path, expected) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/limits.md"), limits());
    let now = std::fs::read_to_string(&path).unwrap_or_default();
    let (others, ours) = now.split_at(now.find(TITLE).unwrap_or(now.len()));
    if std::env::var_os("WEFT_UPDATE_DOCS").is_some() {
        return std::fs::write(&path, format!("{others}{expected}")).unwrap();
    }
    assert!(ours == expected, "docs/limits.md is out of date; run `cargo xtask docs` and commit the result");
}
