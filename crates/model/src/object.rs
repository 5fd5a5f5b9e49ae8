//! What every manifest object has: a kind, a name, labels and annotations, and where it was read.
//!
//! A source of manifests (`resources`) makes these, `index` keeps them. An object is shared by
//! reference count, because the source, the index and views of it hold the same one.

pub use crate::metadata::{Created, Metadata, Origin};

use crate::service::{EndpointSlice, Namespace, Service, ServiceProfile};
use crate::workload::ExternalWorkload;
use std::fmt;
use std::sync::Arc;

/// The kinds of objects that are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1/Namespace`.
    Namespace,
    /// `v1/Service`.
    Service,
    /// `discovery.k8s.io/v1/EndpointSlice`.
    EndpointSlice,
    /// `workload.linkerd.io/ExternalWorkload`.
    ExternalWorkload,
    /// `linkerd.io/ServiceProfile`.
    ServiceProfile,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 5] =
        [Kind::Namespace, Kind::Service, Kind::EndpointSlice, Kind::ExternalWorkload, Kind::ServiceProfile];

    /// Its API group, empty for the core group.
    pub fn group(self) -> &'static str {
        match self {
            Kind::Namespace | Kind::Service => "",
            Kind::EndpointSlice => "discovery.k8s.io",
            Kind::ExternalWorkload => "workload.linkerd.io",
            Kind::ServiceProfile => "linkerd.io",
        }
    }

    /// Its name as manifests write it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Namespace => "Namespace",
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::ExternalWorkload => "ExternalWorkload",
            Kind::ServiceProfile => "ServiceProfile",
        }
    }
}

/// What identifies an object: two objects with the same key are the same object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace, empty for a `Namespace`.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind.name(), self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind.name(), self.name),
        }
    }
}

/// One object of any kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A namespace.
    Namespace(Arc<Namespace>),
    /// A service.
    Service(Arc<Service>),
    /// Endpoints of a service, given one by one.
    EndpointSlice(Arc<EndpointSlice>),
    /// An instance of an application.
    ExternalWorkload(Arc<ExternalWorkload>),
    /// Routes of a service.
    ServiceProfile(Arc<ServiceProfile>),
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Object::Namespace(_) => Kind::Namespace,
            Object::Service(_) => Kind::Service,
            Object::EndpointSlice(_) => Kind::EndpointSlice,
            Object::ExternalWorkload(_) => Kind::ExternalWorkload,
            Object::ServiceProfile(_) => Kind::ServiceProfile,
        }
    }

    /// Its metadata.
    pub fn meta(&self) -> &Metadata {
        match self {
            Object::Namespace(o) => &o.meta,
            Object::Service(o) => &o.meta,
            Object::EndpointSlice(o) => &o.meta,
            Object::ExternalWorkload(o) => &o.meta,
            Object::ServiceProfile(o) => &o.meta,
        }
    }

    /// Its metadata, to be changed; the object is copied if it is shared.
    pub fn meta_mut(&mut self) -> &mut Metadata {
        match self {
            Object::Namespace(o) => &mut Arc::make_mut(o).meta,
            Object::Service(o) => &mut Arc::make_mut(o).meta,
            Object::EndpointSlice(o) => &mut Arc::make_mut(o).meta,
            Object::ExternalWorkload(o) => &mut Arc::make_mut(o).meta,
            Object::ServiceProfile(o) => &mut Arc::make_mut(o).meta,
        }
    }

    /// What identifies it.
    pub fn key(&self) -> Key {
        let meta = self.meta();
        Key { kind: self.kind(), namespace: meta.namespace.clone(), name: meta.name.clone() }
    }
}

/// One change of the set of objects.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The object exists, new or with this content instead of its former one.
    Upsert(Object),
    /// The object is gone.
    Delete(Key),
}
