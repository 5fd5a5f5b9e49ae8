//! Manifest text, YAML or JSON, to objects and findings. Pure.
//!
//! Each document of a text stands alone: a bad one is named with line and field, the others count.
//! Called by `directory.rs` for files and by `state.rs` for the last good snapshot. It knows no files;
//! the name it is given is only repeated.

use crate::kinds::{self, Read};
use crate::node::{Node, Value, Warnings, cut};
use crate::report::Finding;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_model::object::{Key, Object};

/// Largest text that is read, bytes (§8.3).
pub const TEXT_LIMIT: usize = 4 << 20;
/// Deepest nesting of lists and maps. No known kind comes near.
pub(crate) const DEPTH_LIMIT: usize = 40;
/// Most values of one text, aliases expanded; some 20,000 objects.
pub(crate) const NODE_LIMIT: usize = 1_000_000;
/// Most values that aliases may stand for in one text.
pub(crate) const ALIAS_LIMIT: usize = 100_000;
/// Most bytes of text values, aliases expanded.
pub(crate) const SCALAR_LIMIT: usize = 16 << 20;
/// Most documents and list items of one text.
pub(crate) const DOCUMENT_LIMIT: usize = 100_000;

/// Most findings of each sort that are kept of one text; nobody mends more at a time.
pub(crate) const FINDING_LIMIT: usize = 1000;

/// Most kinds without effect that are told apart.
pub(crate) const KIND_LIMIT: usize = 50;
/// What the others count under.
pub(crate) const OTHER_KINDS: &str = "(others)";

/// What a text holds.
#[derive(Debug, Default)]
pub struct Parsed {
    /// Its objects, in order.
    pub objects: Vec<Object>,
    /// Documents that are not objects but should be.
    pub rejected: Vec<Finding>,
    /// What has no effect or looks like a mistake.
    pub warnings: Vec<Finding>,
    /// Which objects the rejected documents were meant to be, as far as that could be read.
    pub broken: BTreeSet<Key>,
    /// Whether some rejected document could not even be told to be an object.
    pub unreadable: bool,
    /// Documents of kinds that have no effect here, by `apiVersion/kind`.
    pub ignored: BTreeMap<String, usize>,
}

/// Reads a text. `file` is the name that findings and objects carry. Never fails as a whole: what is
/// wrong is in the result.
pub fn parse(file: &Arc<str>, text: &str) -> Parsed {
    let mut reader = Reader { file, parsed: Parsed::default(), documents: 0 };
    if text.len() > TEXT_LIMIT {
        reader.reject(0, format!("it has {} bytes; the limit is {TEXT_LIMIT}", text.len()));
        return reader.parsed;
    }
    for (offset, document) in documents(text) {
        match serde_saphyr::from_str_with_options::<Node>(document, options()) {
            Ok(mut node) => {
                node.shift(offset);
                reader.document(&node);
            }
            Err(error) => {
                let line = error.location().map_or(1, |l| l.line());
                let message = first_line(&error.without_snippet().to_string());
                reader.reject(offset + u32::try_from(line).unwrap_or(u32::MAX), message);
            }
        }
    }
    reader.parsed
}

/// Reads objects from a tree that was not YAML, such as the last good snapshot.
pub(crate) fn parse_tree(file: &Arc<str>, node: &Node) -> Parsed {
    let mut reader = Reader { file, parsed: Parsed::default(), documents: 0 };
    reader.document(node);
    reader.parsed
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_LIMIT,
            flow_nesting_limit: DEPTH_LIMIT,
            max_nodes: NODE_LIMIT,
            max_events: 3 * NODE_LIMIT,
            max_total_scalar_bytes: SCALAR_LIMIT,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: ALIAS_LIMIT,
        },
        with_snippet: false,
    }
}

/// What the YAML reader says, without the place: it counts lines from the document, findings from the file.
fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    cut(line.split(" at line ").next().unwrap_or(line))
}

/// Cuts a text at its document markers; gives each document with the number of lines before it, and
/// leaves out those without content. A line that starts with `---` is a marker wherever it stands
/// (YAML 1.2.2 §9.1.2), so no document needs to be understood to find the next one.
fn documents(text: &str) -> impl Iterator<Item = (u32, &str)> {
    let mut found = Vec::new();
    let (mut start, mut start_line, mut position) = (0, 0u32, 0);
    for (number, line) in (0u32..).zip(text.split_inclusive('\n')) {
        let rest = line.strip_prefix("---");
        let is_marker = rest.is_some_and(|r| r.is_empty() || r.starts_with([' ', '\t', '\r', '\n']));
        if is_marker && position > start {
            found.push((start_line, &text[start..position]));
            (start, start_line) = (position, number);
        }
        position += line.len();
    }
    found.push((start_line, &text[start..]));
    found.into_iter().filter(|(_, document)| has_content(document))
}

fn has_content(document: &str) -> bool {
    let mut lines = document.trim_start_matches('\u{feff}').lines().map(str::trim);
    lines.any(|line| {
        let rest = line.strip_prefix("---").unwrap_or(line).trim();
        !(rest.is_empty() || rest.starts_with(['#', '%']) || rest == "...")
    })
}

fn keep(list: &mut Vec<Finding>, finding: Finding) {
    if list.len() < FINDING_LIMIT {
        list.push(finding);
    }
}

struct Reader<'a> {
    file: &'a Arc<str>,
    parsed: Parsed,
    documents: usize,
}

impl Reader<'_> {
    fn reject(&mut self, line: u32, message: String) {
        self.parsed.unreadable = true;
        keep(
            &mut self.parsed.rejected,
            Finding { file: self.file.clone(), line, object: String::new(), field: String::new(), message },
        );
    }

    /// One document: an object, or a list of objects.
    fn document(&mut self, node: &Node) {
        self.documents += 1;
        if self.documents > DOCUMENT_LIMIT {
            if self.documents == DOCUMENT_LIMIT + 1 {
                self.reject(node.line, format!("there are more than {DOCUMENT_LIMIT} documents"));
            }
            return;
        }
        let kind = node.field("kind").and_then(Node::text).unwrap_or_default();
        let items = node.field("items").filter(|_| kind == "List" || kind.ends_with("List"));
        match items.map(|items| &items.value) {
            Some(Value::List(items)) => items.iter().for_each(|item| self.document(item)),
            Some(Value::Null) => {}
            Some(_) => self.reject(node.line, "items: must be a list".into()),
            None if kind == "List" => {}
            None => self.object(node),
        }
    }

    /// Counts a document of a kind that has no effect; tells whether it is the first.
    fn ignored(&mut self, kind: &str) -> bool {
        let ignored = &mut self.parsed.ignored;
        let kind = if ignored.len() < KIND_LIMIT || ignored.contains_key(kind) { kind } else { OTHER_KINDS };
        let count = ignored.entry(kind.to_owned()).or_insert(0);
        *count += 1;
        *count == 1
    }

    fn object(&mut self, node: &Node) {
        let warnings = Warnings::default();
        let read = kinds::read_object(node, self.file, &warnings);
        let about = |key: &Option<Key>| key.as_ref().map(Key::to_string).unwrap_or_default();
        let file = self.file.clone();
        let finding = move |object: &str, p: crate::node::Problem| Finding {
            file: file.clone(),
            line: p.line,
            object: object.to_owned(),
            field: p.field,
            message: p.message,
        };
        let object = match read {
            Read::Object(object) => {
                let about = object.key().to_string();
                self.parsed.objects.push(object);
                about
            }
            Read::Unknown(kind) => {
                if self.ignored(&kind) {
                    let message = format!("objects of kind {} have no effect here", cut(&kind));
                    let problem = crate::node::Problem { line: node.line, field: "kind".into(), message };
                    keep(&mut self.parsed.warnings, finding("", problem));
                }
                return;
            }
            Read::Rejected(problem, key) => {
                let about = about(&key);
                keep(&mut self.parsed.rejected, finding(&about, problem));
                match key {
                    Some(key) => drop(self.parsed.broken.insert(key)),
                    None => self.parsed.unreadable = true,
                }
                about
            }
        };
        for problem in warnings.into_list() {
            keep(&mut self.parsed.warnings, finding(&object, problem));
        }
    }
}
