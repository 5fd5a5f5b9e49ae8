//! Manifest text as a tree that knows its lines, and a reader of its fields.
//!
//! `parse.rs` makes trees, `kinds.rs` reads objects from them. The reader names the field and line of
//! whatever it refuses, and remembers fields that nobody read. It holds no rules about any kind.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

/// A value and the line it starts on, from 1; 0 if there are no lines.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) line: u32,
    pub(crate) value: Value,
}

/// A value of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Value {
    /// What kind of value it is, for messages.
    fn describe(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

impl Node {
    /// Moves all lines down, for a part of a longer text.
    pub(crate) fn shift(&mut self, lines: u32) {
        self.line += lines;
        match &mut self.value {
            Value::List(list) => list.iter_mut().for_each(|n| n.shift(lines)),
            Value::Map(map) => map.iter_mut().for_each(|(_, n)| n.shift(lines)),
            _ => {}
        }
    }

    /// The value of a field, if this is a map that has it.
    pub(crate) fn field(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(map) => map.iter().find(|(k, _)| k == key).map(|(_, n)| n),
            _ => None,
        }
    }

    /// The text, if this is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A tree without lines.
    pub(crate) fn from_json(json: serde_json::Value) -> Self {
        let value = match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(b) => Value::Bool(b),
            serde_json::Value::Number(n) => match n.as_i64() {
                Some(n) => Value::Int(n),
                None => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(s) => Value::Text(s),
            serde_json::Value::Array(list) => Value::List(list.into_iter().map(Node::from_json).collect()),
            serde_json::Value::Object(map) => {
                Value::Map(map.into_iter().map(|(k, v)| (k, Node::from_json(v))).collect())
            }
        };
        Self { line: 0, value }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = serde_saphyr::Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { line: u32::try_from(spanned.referenced.line()).unwrap_or(u32::MAX), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Int(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(i64::try_from(v).map_or(Value::Float(v as f64), Value::Int))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Value::Float(v))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::Text(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::Text(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            fields.push((key, map.next_value()?));
        }
        Ok(Value::Map(fields))
    }
}

/// Something wrong with, or worth saying about, one place of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) line: u32,
    pub(crate) field: String,
    pub(crate) message: String,
}

/// Warnings collected while a document is read; at most [`WARNING_LIMIT`].
#[derive(Debug, Default)]
pub(crate) struct Warnings(RefCell<Vec<Problem>>);

/// Warnings kept per document: enough to mend it, not enough to flood a log.
pub(crate) const WARNING_LIMIT: usize = 20;

impl Warnings {
    pub(crate) fn push(&self, problem: Problem) {
        let mut list = self.0.borrow_mut();
        if list.len() < WARNING_LIMIT {
            list.push(problem);
        }
    }

    pub(crate) fn into_list(self) -> Vec<Problem> {
        self.0.into_inner()
    }
}

/// A node with the path that leads to it.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) node: &'a Node,
    path: &'a Path<'a>,
    warnings: &'a Warnings,
}

/// The way to a node, kept on the stack of the reader; made into text only for messages.
enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Reads the fields of a document.
pub(crate) fn read<T>(
    node: &Node,
    warnings: &Warnings,
    reader: impl FnOnce(&Fields<'_>) -> Result<T, Problem>,
) -> Result<T, Problem> {
    At { node, path: &Path::Root, warnings }.fields(reader)
}

impl At<'_> {
    /// A problem at this place.
    pub(crate) fn problem(&self, message: impl Into<String>) -> Problem {
        Problem { line: self.node.line, field: self.path.to_string(), message: message.into() }
    }

    /// Notes something that does not keep the document from being used.
    pub(crate) fn warn(&self, message: impl Into<String>) {
        self.warnings.push(self.problem(message));
    }

    fn mismatch(&self, wanted: &str) -> Problem {
        self.problem(format!("must be {wanted}, not {}", self.node.value.describe()))
    }

    /// The text here.
    pub(crate) fn text(&self) -> Result<&str, Problem> {
        match &self.node.value {
            Value::Text(text) => Ok(text),
            Value::Bool(_) | Value::Int(_) | Value::Float(_) => Err(self.mismatch("text (put it in quotes)")),
            _ => Err(self.mismatch("text")),
        }
    }

    /// The whole number here.
    pub(crate) fn integer(&self) -> Result<i64, Problem> {
        match &self.node.value {
            Value::Int(n) => Ok(*n),
            _ => Err(self.mismatch("a whole number")),
        }
    }

    /// The number here.
    pub(crate) fn number(&self) -> Result<f64, Problem> {
        match &self.node.value {
            Value::Int(n) => Ok(*n as f64),
            Value::Float(n) => Ok(*n),
            _ => Err(self.mismatch("a number")),
        }
    }

    /// The truth value here.
    pub(crate) fn boolean(&self) -> Result<bool, Problem> {
        match &self.node.value {
            Value::Bool(b) => Ok(*b),
            _ => Err(self.mismatch("true or false")),
        }
    }

    /// The text here, read as something else.
    pub(crate) fn parsed<T: std::str::FromStr>(&self, wanted: &str) -> Result<T, Problem> {
        let text = self.text()?;
        text.parse().map_err(|_| self.problem(format!("`{}` is not {wanted}", cut(text))))
    }

    /// Reads each item of the list here.
    pub(crate) fn items<T>(
        &self,
        mut reader: impl FnMut(At<'_>) -> Result<T, Problem>,
    ) -> Result<Vec<T>, Problem> {
        let Value::List(list) = &self.node.value else { return Err(self.mismatch("a list")) };
        let mut read = Vec::with_capacity(list.len());
        for (index, node) in list.iter().enumerate() {
            let path = Path::Item(self.path, index);
            read.push(reader(At { node, path: &path, warnings: self.warnings })?);
        }
        Ok(read)
    }

    /// Reads the map here whose keys are not known beforehand.
    pub(crate) fn entries<T>(
        &self,
        mut reader: impl FnMut(&str, At<'_>) -> Result<T, Problem>,
    ) -> Result<BTreeMap<String, T>, Problem> {
        let Value::Map(map) = &self.node.value else { return Err(self.mismatch("a map")) };
        let mut read = BTreeMap::new();
        for (key, node) in map {
            let path = Path::Field(self.path, key);
            read.insert(key.clone(), reader(key, At { node, path: &path, warnings: self.warnings })?);
        }
        Ok(read)
    }

    /// Reads the fields of the map here, and warns of those that the reader left alone.
    pub(crate) fn fields<T>(
        &self,
        reader: impl FnOnce(&Fields<'_>) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        let Value::Map(map) = &self.node.value else { return Err(self.mismatch("a map")) };
        let fields = Fields { at: *self, map, known: RefCell::new(vec![false; map.len()]) };
        let value = reader(&fields)?;
        let known = fields.known.into_inner();
        for ((key, node), _) in map.iter().zip(known).filter(|(_, known)| !known) {
            let path = Path::Field(self.path, key);
            At { node, path: &path, warnings: self.warnings }
                .warn("this field is not known and has no effect");
        }
        Ok(value)
    }
}

/// The fields of one map.
pub(crate) struct Fields<'a> {
    pub(crate) at: At<'a>,
    map: &'a [(String, Node)],
    known: RefCell<Vec<bool>>,
}

impl Fields<'_> {
    /// Reads a field if it is there and not null.
    pub(crate) fn optional<T>(
        &self,
        key: &str,
        reader: impl FnOnce(At<'_>) -> Result<T, Problem>,
    ) -> Result<Option<T>, Problem> {
        let Some(index) = self.map.iter().position(|(k, _)| k == key) else { return Ok(None) };
        if let Some(known) = self.known.borrow_mut().get_mut(index) {
            *known = true;
        }
        let Some((_, node)) = self.map.get(index).filter(|(_, n)| n.value != Value::Null) else {
            return Ok(None);
        };
        let path = Path::Field(self.at.path, key);
        reader(At { node, path: &path, warnings: self.at.warnings }).map(Some)
    }

    /// Reads a field that must be there.
    pub(crate) fn required<T>(
        &self,
        key: &str,
        reader: impl FnOnce(At<'_>) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        match self.optional(key, reader)? {
            Some(value) => Ok(value),
            None => Err(Problem {
                line: self.at.node.line,
                field: Path::Field(self.at.path, key).to_string(),
                message: "is missing".into(),
            }),
        }
    }

    /// Knows fields that have no effect here by design.
    pub(crate) fn ignore(&self, keys: &[&str]) {
        for (known, (key, _)) in self.known.borrow_mut().iter_mut().zip(self.map) {
            *known |= keys.contains(&key.as_str());
        }
    }
}

/// Text short enough for a message.
pub(crate) fn cut(text: &str) -> String {
    const LIMIT: usize = 80;
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
