//! Where a route, backend or authorization comes from, and the labels it is counted under: what metrics
//! and reasons name.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Labels for metrics, ordered by key, shared.
pub type Labels = Arc<BTreeMap<String, String>>;

/// The origin of a piece of policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Meta {
    /// Built in, known by a name such as `all-unauthenticated`, `http` or `endpoint`.
    Default(Arc<str>),
    /// A resource. Unlike the peer's, two resources that differ only in namespace, section or port
    /// are two resources.
    Resource(Arc<Resource>),
}

/// A reference to a Kubernetes-shaped resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    /// API group, such as `core` or `policy.linkerd.io`.
    pub group: String,
    /// Kind, such as `Service`.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Section within it, empty if none.
    pub section: String,
    /// Port of it, if one is meant.
    pub port: Option<u16>,
}

impl Meta {
    /// A built-in origin.
    pub fn default_named(name: &str) -> Self {
        Meta::Default(name.into())
    }

    /// The API group, empty for built-in ones.
    pub fn group(&self) -> &str {
        match self {
            Meta::Default(_) => "",
            Meta::Resource(r) => &r.group,
        }
    }

    /// The kind, `default` for built-in ones.
    pub fn kind(&self) -> &str {
        match self {
            Meta::Default(_) => "default",
            Meta::Resource(r) => &r.kind,
        }
    }

    /// The name.
    pub fn name(&self) -> &str {
        match self {
            Meta::Default(name) => name,
            Meta::Resource(r) => &r.name,
        }
    }

    /// The namespace, empty for built-in ones.
    pub fn namespace(&self) -> &str {
        match self {
            Meta::Default(_) => "",
            Meta::Resource(r) => &r.namespace,
        }
    }

    /// The section, empty if none.
    pub fn section(&self) -> &str {
        match self {
            Meta::Default(_) => "",
            Meta::Resource(r) => &r.section,
        }
    }

    /// The port, if the resource is meant for one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Meta::Default(_) => None,
            Meta::Resource(r) => r.port,
        }
    }
}
