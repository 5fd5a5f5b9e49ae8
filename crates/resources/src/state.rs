//! What is remembered over a restart: the last good objects and the virtual addresses given out.
//!
//! One checksummed file in the state directory. `directory.rs` reads it at start and replaces it after
//! changes. A file that is damaged or of another format counts as absent.

use crate::hash;
use crate::node::Node;
use crate::parse::parse_tree;
use crate::render::manifest;
use crate::write::replace_file;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use weft_model::object::{Key, Object};
use weft_model::service::ServiceName;

/// The file's name.
const FILE: &str = "manifests.state";
/// The first word of the file, with the version of its format.
const MAGIC: &str = "weft-manifests-1";
/// Largest file that is read, bytes: 100,000 objects of 5 KiB.
const SIZE_LIMIT: u64 = 512 << 20;

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
        if head != header(body) {
            return Err(problem(&"it is damaged, or of another version"));
        }
        let body: Value = serde_json::from_str(body).map_err(|e| problem(&e))?;
        Ok(Some(remembered(body)))
    }

    /// Replaces the file. Blocks until it is on disk.
    pub(crate) fn save(&self, remembered: &Remembered) -> io::Result<()> {
        if let Some(directory) = self.path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let objects: Vec<Value> = remembered
            .objects
            .values()
            .map(|o| {
                let origin = &o.meta().origin;
                json!({"file": &*origin.file, "line": origin.line, "manifest": manifest(o)})
            })
            .collect();
        let addresses: Vec<Value> =
            remembered.addresses.iter().map(|(s, ip)| json!([s.namespace, s.name, ip])).collect();
        let body = json!({"objects": objects, "addresses": addresses}).to_string();
        replace_file(&self.path, format!("{}\n{body}", header(&body)).as_bytes(), 0o600)
    }
}

fn header(body: &str) -> String {
    format!("{MAGIC} {:016x}", hash::of(body.as_bytes()))
}

fn remembered(body: Value) -> Remembered {
    let mut found = Remembered::default();
    let list = |key: &str| body.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    for entry in list("objects") {
        let file: Arc<str> = entry.get("file").and_then(Value::as_str).unwrap_or_default().into();
        let tree = Node::from_json(entry.get("manifest").cloned().unwrap_or_default());
        let line = entry.get("line").and_then(Value::as_u64).and_then(|line| u32::try_from(line).ok());
        for mut object in parse_tree(&file, &tree).objects {
            object.meta_mut().origin.line = line.unwrap_or_default();
            found.objects.insert(object.key(), object);
        }
    }
    for entry in list("addresses") {
        let text = |index: usize| entry.get(index).and_then(Value::as_str);
        if let (Some(namespace), Some(name), Some(Ok(ip))) = (text(0), text(1), text(2).map(str::parse)) {
            found.addresses.insert(ServiceName { namespace: namespace.into(), name: name.into() }, ip);
        }
    }
    found
}
