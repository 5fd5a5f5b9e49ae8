//! What every manifest object carries: names, labels and annotations, its age, and where it was read.
//!
//! Sources fill it in; `index` selects and sorts by it; messages about a bad object point with it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Where an object was read, for people. Two objects that differ only in this are equal in effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The file, or another name of the source.
    pub file: Arc<str>,
    /// The line on which the object's document starts, from 1; 0 if there are no lines.
    pub line: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// When an object was created, in seconds since 1970. Orders objects that compete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Created(pub i64);

/// What every object carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Its namespace, empty for a `Namespace`.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// When it was created, if that is known.
    pub created: Option<Created>,
    /// Where it was read.
    pub origin: Origin,
}

impl Metadata {
    /// Sorts competing objects: the oldest first, dated before undated, then by namespace and name.
    pub fn seniority(&self) -> (bool, Option<Created>, &str, &str) {
        (self.created.is_none(), self.created, &self.namespace, &self.name)
    }
}
