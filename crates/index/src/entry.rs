//! What the index keeps of an object beside the object itself: its port lists, its labels as an endpoint.
//!
//! Worked out once when the object changes, shared by all answers. Kept by `scope.rs`, read by whoever
//! resolves.

use crate::annotations::{OPAQUE_PORTS, PortList, SKIP_INBOUND_PORTS};
use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::{Arc, OnceLock};
use weft_model::destination::Locality;
use weft_model::object::Metadata;
use weft_model::route::Labels;
use weft_model::workload::ExternalWorkload;

/// Annotations that objects inherit from their namespace (§8.5) and that are read once, not per answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct PortLists {
    /// `config.linkerd.io/opaque-ports`.
    pub(crate) opaque: Option<PortList>,
    /// `config.linkerd.io/skip-inbound-ports`.
    pub(crate) skipped: Option<PortList>,
}

impl PortLists {
    /// Reads the annotations of an object; parts that cannot be read are left to the verdict.
    pub(crate) fn read(meta: &Metadata) -> Self {
        let read = |key: &str| meta.annotations.get(key).map(|text| PortList::parse(text).0);
        Self { opaque: read(OPAQUE_PORTS), skipped: read(SKIP_INBOUND_PORTS) }
    }
}

/// A workload and what is worked out once for all its answers.
#[derive(Clone, Debug)]
pub(crate) struct WorkloadEntry {
    pub(crate) object: Arc<ExternalWorkload>,
    pub(crate) ports: PortLists,
    /// Labels without locality, and with it as local and as remote. Shared by all answers, so that
    /// comparing two answers compares pointers.
    labels: [OnceLock<Labels>; 3],
}

impl WorkloadEntry {
    pub(crate) fn new(object: Arc<ExternalWorkload>) -> Self {
        Self { ports: PortLists::read(&object.meta), labels: Default::default(), object }
    }

    /// Labels of this workload as an endpoint (§1A.6), for an asker at this distance.
    pub(crate) fn labels(&self, locality: Locality) -> Labels {
        let (slot, name) = match locality {
            Locality::Unknown => (&self.labels[0], None),
            Locality::Local => (&self.labels[1], Some("local")),
            Locality::Remote => (&self.labels[2], Some("remote")),
        };
        slot.get_or_init(|| {
            let mut labels =
                BTreeMap::from([("external_workload".to_owned(), self.object.meta.name.clone())]);
            if let Some(owner) = &self.object.owner {
                labels.insert(owner.kind.to_lowercase(), owner.name.clone());
            }
            if let Some(zone) = self.object.zone() {
                labels.insert("zone".to_owned(), zone.to_owned());
            }
            if let Some(name) = name {
                labels.insert("zone_locality".to_owned(), name.to_owned());
            }
            Arc::new(labels)
        })
        .clone()
    }

    /// The number of the port with this name.
    pub(crate) fn port_named(&self, name: &str) -> Option<NonZeroU16> {
        self.object.ports.iter().find(|p| p.name == name).map(|p| p.port)
    }

    /// Whether the workload declares this port.
    pub(crate) fn declares(&self, port: NonZeroU16) -> bool {
        self.object.ports.iter().any(|p| p.port == port)
    }

    fn names_of(&self, port: NonZeroU16) -> impl Iterator<Item = &str> {
        self.object.ports.iter().filter(move |p| p.port == port).map(|p| p.name.as_str())
    }

    pub(crate) fn listed(&self, list: &PortList, port: NonZeroU16) -> bool {
        list.contains(port.get(), self.names_of(port))
    }
}
