//! What is remembered over a restart: the last good objects and the virtual addresses given out.
//!
//! One checksummed file in the state directory, an object or address a line. `directory.rs` reads it at start and replaces it after
//! changes. A file that is damaged or of another format counts as absent.

use crate::hash;
use crate::node::Node;
use crate::parse::parse_tree;
use crate::render::manifest;
use crate::write::replace_file;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use weft_model::object::{Key, Object};
use weft_model::service::ServiceName;

/// The file's name.
const FILE: &str = "manifests.state";
/// The first word of the file, with the version of its format.
const MAGIC: &str = "weft-manifests-2";
/// Largest file that is read, bytes: as much as all manifests may have, and as much again for what names the fields.
const SIZE_LIMIT: u64 = 2 * crate::scan::TOTAL_LIMIT;

/// What is remembered.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    pub(crate) objects: BTreeMap<Key, Object>,
    pub(crate) addresses: BTreeMap<ServiceName, IpAddr>,
}

/// The state directory.
#[derive(Clone, Debug)]
pub(crate) struct State {
    path: PathBuf,
}

impl State {
    pub(crate) fn new(directory: &Path) -> Self {
        Self { path: directory.join(FILE) }
    }

    /// Reads the file. `Ok(None)` if there is none; an error says why it cannot be used.
    pub(crate) fn load(&self) -> Result<Option<Remembered>, String> {
        let problem = |what: &dyn std::fmt::Display| format!("{}: {what}", self.path.display());
        let mut text = String::new();
        match std::fs::File::open(&self.path) {
            Ok(file) => {
                file.take(SIZE_LIMIT).read_to_string(&mut text).map_err(|e| problem(&e))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(problem(&error)),
        }
        let (head, body) = text.split_once('\n').ok_or_else(|| problem(&"it is cut short"))?;
        if head != header(body.as_bytes()) {
            return Err(problem(&"it is damaged, or of another version"));
        }
        remembered(body).map(Some).map_err(|e| problem(&e))
    }

    /// Replaces the file. Blocks until it is on disk.
    pub(crate) fn save(&self, remembered: &Remembered) -> io::Result<()> {
        if let Some(directory) = self.path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        // Line by line: the tree of all objects at once would be many times as large as they are.
        let mut text = header(b"");
        text.push('\n');
        let head = text.len();
        for object in remembered.objects.values() {
            let origin = &object.meta().origin;
            let line = json!({"file": &*origin.file, "line": origin.line, "manifest": manifest(object)});
            let _ = writeln!(text, "{line}");
        }
        for (service, ip) in &remembered.addresses {
            let _ = writeln!(text, "{}", json!({"address": [service.namespace, service.name, ip]}));
        }
        let checked = header(text.get(head..).unwrap_or_default().as_bytes());
        text.replace_range(..head.saturating_sub(1), &checked);
        replace_file(&self.path, text.as_bytes(), 0o600)
    }
}

/// The first line: always of the same length.
fn header(body: &[u8]) -> String {
    format!("{MAGIC} {:016x}", hash::of(body))
}

fn remembered(body: &str) -> Result<Remembered, serde_json::Error> {
    let mut found = Remembered::default();
    for line in body.lines() {
        let mut entry: Value = serde_json::from_str(line)?;
        if let Some(address) = entry.get("address") {
            let text = |index: usize| address.get(index).and_then(Value::as_str);
            if let (Some(namespace), Some(name), Some(Ok(ip))) = (text(0), text(1), text(2).map(str::parse)) {
                found.addresses.insert(ServiceName { namespace: namespace.into(), name: name.into() }, ip);
            }
            continue;
        }
        let file: Arc<str> = entry.get("file").and_then(Value::as_str).unwrap_or_default().into();
        let tree = Node::from_json(entry.get_mut("manifest").map(Value::take).unwrap_or_default());
        let line = entry.get("line").and_then(Value::as_u64).and_then(|line| u32::try_from(line).ok());
        for mut object in parse_tree(&file, &tree).objects {
            object.meta_mut().origin.line = line.unwrap_or_default();
            found.objects.insert(object.key(), object);
        }
    }
    Ok(found)
}
