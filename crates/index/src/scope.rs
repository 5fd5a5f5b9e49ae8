//! The objects of one namespace, with the look-ups that keep answers from scanning all of them.
//!
//! Kept by `index.rs`; read by everything that resolves. Every relation in here stays within the
//! namespace, as it does in Kubernetes.

use crate::entry::{PortLists, WorkloadEntry};
use crate::kept::Kept;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_model::service::{EndpointSlice, Namespace, Service, ServiceProfile, TargetKind};

/// Names of objects by the key and value of a label.
type ByLabel = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// The objects of one namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    pub(crate) namespace: Option<Arc<Namespace>>,
    pub(crate) ports: PortLists,
    pub(crate) services: BTreeMap<String, Arc<Service>>,
    pub(crate) workloads: BTreeMap<String, WorkloadEntry>,
    pub(crate) slices: BTreeMap<String, Arc<EndpointSlice>>,
    pub(crate) profiles: BTreeMap<String, Arc<ServiceProfile>>,
    /// Servers, authorizations, routes and the like.
    pub(crate) kept: Kept,
    /// Workloads by each of their labels.
    labelled: ByLabel,
    /// Services by the first pair of their selector.
    selecting: ByLabel,
    /// Slices by service.
    slices_of: BTreeMap<String, BTreeSet<String>>,
    /// Slices by the external workloads they point at.
    slices_at: BTreeMap<String, BTreeSet<String>>,
}

impl Scope {
    pub(crate) fn is_empty(&self) -> bool {
        self.namespace.is_none()
            && self.services.is_empty()
            && self.workloads.is_empty()
            && self.slices.is_empty()
            && self.profiles.is_empty()
            && self.kept.is_empty()
    }

    /// Sets or removes a service; gives the former one.
    pub(crate) fn put_service(&mut self, name: &str, new: Option<Arc<Service>>) -> Option<Arc<Service>> {
        let old = match &new {
            Some(service) => self.services.insert(name.to_owned(), service.clone()),
            None => self.services.remove(name),
        };
        if let Some((key, value)) = old.as_ref().and_then(|s| s.selector.first_key_value()) {
            forget(&mut self.selecting, key, value, name);
        }
        if let Some((key, value)) = new.as_ref().and_then(|s| s.selector.first_key_value()) {
            remember(&mut self.selecting, key, value, name);
        }
        old
    }

    /// Sets or removes a workload; gives the former one.
    pub(crate) fn put_workload(&mut self, name: &str, new: Option<WorkloadEntry>) -> Option<WorkloadEntry> {
        for (key, value) in new.iter().flat_map(|w| &w.object.meta.labels) {
            remember(&mut self.labelled, key, value, name);
        }
        let kept = new.as_ref().map(|w| w.object.clone());
        let old = match new {
            Some(workload) => self.workloads.insert(name.to_owned(), workload),
            None => self.workloads.remove(name),
        };
        for (key, value) in old.iter().flat_map(|w| &w.object.meta.labels) {
            if kept.as_ref().and_then(|w| w.meta.labels.get(key)) != Some(value) {
                forget(&mut self.labelled, key, value, name);
            }
        }
        old
    }

    /// Sets or removes a slice; gives the former one.
    pub(crate) fn put_slice(
        &mut self,
        name: &str,
        new: Option<Arc<EndpointSlice>>,
    ) -> Option<Arc<EndpointSlice>> {
        let old = match &new {
            Some(slice) => self.slices.insert(name.to_owned(), slice.clone()),
            None => self.slices.remove(name),
        };
        if let Some(slice) = &old {
            forget_one(&mut self.slices_of, &slice.service, name);
            for workload in workloads_of(slice) {
                forget_one(&mut self.slices_at, workload, name);
            }
        }
        if let Some(slice) = &new {
            self.slices_of.entry(slice.service.clone()).or_default().insert(name.to_owned());
            for workload in workloads_of(slice) {
                self.slices_at.entry(workload.to_owned()).or_default().insert(name.to_owned());
            }
        }
        old
    }

    /// The slices of a service, by name.
    pub(crate) fn slices_of(&self, service: &str) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices_of.get(service).into_iter().flatten().filter_map(|name| self.slices.get(name))
    }

    /// The services whose slices point at a workload.
    pub(crate) fn services_pointing_at(&self, workload: &str) -> impl Iterator<Item = &str> {
        let slices = self.slices_at.get(workload).into_iter().flatten();
        slices.filter_map(|name| self.slices.get(name)).map(|s| s.service.as_str()).filter(|s| !s.is_empty())
    }

    /// The workloads that a service selects, by name. Costs time in the fewest workloads that share one
    /// pair of its selector.
    pub(crate) fn selected<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a WorkloadEntry> {
        let sets =
            service.selector.iter().map(|(k, v)| self.labelled.get(k).and_then(|values| values.get(v)));
        let fewest = sets.min_by_key(|set| set.map_or(0, BTreeSet::len)).flatten();
        fewest
            .into_iter()
            .flatten()
            .filter_map(|name| self.workloads.get(name))
            .filter(|w| selects(&service.selector, &w.object.meta.labels))
    }

    /// The services that select a workload with these labels.
    pub(crate) fn selectors_of<'a>(
        &'a self,
        labels: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a Arc<Service>> {
        labels
            .iter()
            .filter_map(|(key, value)| self.selecting.get(key)?.get(value))
            .flatten()
            .filter_map(|name| self.services.get(name))
            .filter(|service| selects(&service.selector, labels))
    }
}

/// Whether a selector picks labels. An empty selector picks nothing.
pub(crate) fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn workloads_of(slice: &EndpointSlice) -> impl Iterator<Item = &str> {
    let targets = slice.endpoints.iter().filter_map(|e| e.target.as_ref());
    targets
        .filter(|t| t.kind == TargetKind::ExternalWorkload && t.namespace == slice.meta.namespace)
        .map(|t| t.name.as_str())
}

fn remember(index: &mut ByLabel, key: &str, value: &str, name: &str) {
    let values = match index.get_mut(key) {
        Some(values) => values,
        None => index.entry(key.to_owned()).or_default(),
    };
    match values.get_mut(value) {
        Some(names) => names.insert(name.to_owned()),
        None => values.entry(value.to_owned()).or_default().insert(name.to_owned()),
    };
}

fn forget(index: &mut ByLabel, key: &str, value: &str, name: &str) {
    let Some(values) = index.get_mut(key) else { return };
    forget_one(values, value, name);
    if values.is_empty() {
        index.remove(key);
    }
}

fn forget_one(index: &mut BTreeMap<String, BTreeSet<String>>, key: &str, name: &str) {
    let Some(names) = index.get_mut(key) else { return };
    names.remove(name);
    if names.is_empty() {
        index.remove(key);
    }
}
