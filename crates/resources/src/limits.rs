//! The bounds of this crate, for docs/limits.md. Obeyed where their constants stand.

use crate::kinds::ANNOTATION_LIMIT;
use crate::node::WARNING_LIMIT;
use crate::profile::ROUTE_LIMIT;
use crate::routes::RULE_LIMIT;
use crate::scalars::LIST_LIMIT;
use crate::{parse, report, scan, shelf};
use weft_model::limit::{Bound, Limit};

/// Every one of them.
pub fn limits() -> Vec<Limit> {
    let errors = "`manifest_errors{file}`";
    let left = "What is beyond, by file name, is left out and named.";
    let rejected = "The document is rejected and named; its last good version stays in force.";
    let unread = "The file is not read and named; what it held last stays in force.";
    let count = |of, bound: usize, beyond| Limit::fixed(of, Bound::Count(bound as u64), beyond, errors);
    let bytes = |of, bound: usize, beyond| Limit::fixed(of, Bound::Bytes(bound as u64), beyond, errors);
    let findings = |of, bound: usize| {
        let beyond = "Further ones are not told, and where they are counted, only counted.";
        Limit::fixed(of, Bound::Count(bound as u64), beyond, "none; they are about errors already")
    };
    vec![
        count("files of a directory of manifests", scan::FILE_LIMIT, left),
        bytes("all files of a directory together", scan::TOTAL_LIMIT as usize, unread),
        count("depth of directories", scan::DEPTH_LIMIT, left),
        bytes("a file", parse::TEXT_LIMIT, unread),
        count("documents and list items of a file", parse::DOCUMENT_LIMIT, left),
        count("nesting of lists and maps in a document", parse::DEPTH_LIMIT, rejected),
        count("values of a document, aliases expanded", parse::NODE_LIMIT, rejected),
        count("values that YAML aliases of a document stand for", parse::ALIAS_LIMIT, rejected),
        bytes("texts of a document, aliases expanded", parse::SCALAR_LIMIT, rejected),
        count("objects in force", shelf::OBJECT_LIMIT, left),
        count(
            "endpoints of slices, routes of profiles, matches and backends of routes in force",
            shelf::ENTRY_LIMIT,
            left,
        ),
        count(
            "any list of one object: addresses, ports, endpoints, matches, identities, networks",
            LIST_LIMIT,
            rejected,
        ),
        count("routes of one profile", ROUTE_LIMIT, rejected),
        count("rules of one route", RULE_LIMIT, rejected),
        bytes("annotations of one object", ANNOTATION_LIMIT, rejected),
        findings("findings of one file", parse::FINDING_LIMIT),
        findings("warnings of one document", WARNING_LIMIT),
        findings("findings shown; files told apart in metrics", report::LIST_LIMIT),
        Limit::fixed(
            "kinds without effect that are told apart",
            Bound::Count(parse::KIND_LIMIT as u64),
            "Further ones count as `(others)`.",
            "`manifest_documents_ignored{kind}`",
        ),
    ]
}
