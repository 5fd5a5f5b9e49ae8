//! The index: all objects, and what a change of one of them touches.
//!
//! Owned by `control`; changed only by [`Index::apply`], read by the resolving modules beside it. The
//! result of a set of changes does not depend on how they are cut into batches.

use crate::annotations::PortList;
use crate::config::Config;
use crate::entry::{PortLists, WorkloadEntry};
use crate::kept::{Parent, as_route};
use crate::scope::Scope;
use crate::touched::Touched;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use weft_model::attach::{BackendKind, ParentKind, RouteResource};
use weft_model::name::DnsName;
use weft_model::object::{Change, Key, Kind, Metadata, Object};
use weft_model::service::{EndpointSlice, Namespace, Service, ServiceName, ServiceProfile};
use weft_model::workload::{Asker, ExternalWorkload, WorkloadName};

/// All objects of the mesh, indexed. Cloning costs time in the number of objects; the objects are
/// shared.
#[derive(Clone, Debug)]
pub struct Index {
    config: Arc<Config>,
    scopes: BTreeMap<String, Scope>,
    services_at: BTreeMap<IpAddr, BTreeSet<ServiceName>>,
    workloads_at: BTreeMap<IpAddr, BTreeSet<WorkloadName>>,
    /// Routes by what they attach to.
    routes_of: BTreeMap<Parent, BTreeSet<Key>>,
    /// Routes by the services that they lead to.
    routes_to: BTreeMap<ServiceName, BTreeSet<Key>>,
}

impl Index {
    /// An index of nothing.
    pub fn new(config: Config) -> Self {
        Self {
            config: Arc::new(config),
            scopes: BTreeMap::new(),
            services_at: BTreeMap::new(),
            workloads_at: BTreeMap::new(),
            routes_of: BTreeMap::new(),
            routes_to: BTreeMap::new(),
        }
    }

    /// Its settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Applies changes in order and tells what they may have altered. Upserts of equal objects (also
    /// from another file or line) touch nothing. Costs time in the size of the batch and of the
    /// services it touches, not of the whole.
    pub fn apply(&mut self, batch: impl IntoIterator<Item = Change>) -> Touched {
        let mut touched = Touched::default();
        for change in batch {
            match change {
                Change::Upsert(object) => self.put(object.key(), Some(object), &mut touched),
                Change::Delete(key) => self.put(key, None, &mut touched),
            }
        }
        touched
    }

    /// Every object, ordered by key.
    pub fn objects(&self) -> impl Iterator<Item = Object> {
        let scopes = self.scopes.values();
        let of_each = move |list: fn(&Scope) -> Vec<Object>| scopes.clone().flat_map(list);
        of_each(|s| s.namespace.iter().cloned().map(Object::Namespace).collect())
            .chain(of_each(|s| s.services.values().cloned().map(Object::Service).collect()))
            .chain(of_each(|s| s.slices.values().cloned().map(Object::EndpointSlice).collect()))
            .chain(of_each(|s| {
                s.workloads.values().map(|w| Object::ExternalWorkload(w.object.clone())).collect()
            }))
            .chain(of_each(|s| s.profiles.values().cloned().map(Object::ServiceProfile).collect()))
            .chain(of_each(|s| s.kept.objects().cloned().collect()))
    }

    fn put(&mut self, key: Key, object: Option<Object>, touched: &mut Touched) {
        let scope_name = if key.kind == Kind::Namespace { &key.name } else { &key.namespace };
        if object.is_none() && !self.scopes.contains_key(scope_name) {
            return;
        }
        let scope_name = scope_name.clone();
        match (key.kind, object) {
            (Kind::Namespace, Some(Object::Namespace(o))) => {
                self.put_namespace(&scope_name, Some(o), touched)
            }
            (Kind::Namespace, _) => self.put_namespace(&scope_name, None, touched),
            (Kind::Service, Some(Object::Service(o))) => self.put_service(&key, Some(o), touched),
            (Kind::Service, _) => self.put_service(&key, None, touched),
            (Kind::EndpointSlice, Some(Object::EndpointSlice(o))) => self.put_slice(&key, Some(o), touched),
            (Kind::EndpointSlice, _) => self.put_slice(&key, None, touched),
            (Kind::ExternalWorkload, Some(Object::ExternalWorkload(o))) => {
                self.put_workload(&key, Some(o), touched)
            }
            (Kind::ExternalWorkload, _) => self.put_workload(&key, None, touched),
            (Kind::ServiceProfile, Some(Object::ServiceProfile(o))) => {
                self.put_profile(&key, Some(o), touched)
            }
            (Kind::ServiceProfile, _) => self.put_profile(&key, None, touched),
            (_, object) => self.put_policy(&key, object, touched),
        }
        if self.scopes.get(&scope_name).is_some_and(Scope::is_empty) {
            self.scopes.remove(&scope_name);
        }
    }

    fn put_namespace(&mut self, name: &str, new: Option<Arc<Namespace>>, touched: &mut Touched) {
        let scope = self.scopes.entry(name.to_owned()).or_default();
        let old = std::mem::replace(&mut scope.namespace, new.clone());
        scope.ports = new.as_ref().map(|n| PortLists::read(&n.meta)).unwrap_or_default();
        let annotations =
            |n: &Option<Arc<Namespace>>| n.as_ref().map(|n| n.meta.annotations.clone()).unwrap_or_default();
        if annotations(&old) == annotations(&new) {
            return;
        }
        for service in scope.services.values() {
            touched.endpoints.insert(service.name());
            touch_service(service, touched);
        }
        for workload in scope.workloads.values() {
            touch_workload(&workload.object, touched);
        }
    }

    fn put_service(&mut self, key: &Key, new: Option<Arc<Service>>, touched: &mut Touched) {
        let scope = self.scopes.entry(key.namespace.clone()).or_default();
        let old = scope.put_service(&key.name, new.clone());
        let same = match (&old, &new) {
            (Some(a), Some(b)) => {
                same_meta(&a.meta, &b.meta)
                    && (&a.addressing, &a.selector, &a.ports, a.traffic)
                        == (&b.addressing, &b.selector, &b.ports, b.traffic)
            }
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        let name = ServiceName { namespace: key.namespace.clone(), name: key.name.clone() };
        if let Some(service) = &old {
            for ip in service.virtual_ips() {
                forget(&mut self.services_at, ip, &name);
            }
            touch_service(service, touched);
        }
        if let Some(service) = &new {
            for ip in service.virtual_ips() {
                self.services_at.entry(*ip).or_default().insert(name.clone());
            }
            touch_service(service, touched);
        }
        self.touch_routes_to(&name, touched);
        touched.services.insert(name.clone());
        touched.endpoints.insert(name);
    }

    fn put_slice(&mut self, key: &Key, new: Option<Arc<EndpointSlice>>, touched: &mut Touched) {
        let scope = self.scopes.entry(key.namespace.clone()).or_default();
        let old = scope.put_slice(&key.name, new.clone());
        let same = match (&old, &new) {
            (Some(a), Some(b)) => {
                same_meta(&a.meta, &b.meta)
                    && (&a.service, &a.endpoints, &a.ports) == (&b.service, &b.endpoints, &b.ports)
            }
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        for slice in old.iter().chain(&new) {
            if !slice.service.is_empty() {
                touched
                    .endpoints
                    .insert(ServiceName { namespace: key.namespace.clone(), name: slice.service.clone() });
            }
        }
    }

    fn put_workload(&mut self, key: &Key, new: Option<Arc<ExternalWorkload>>, touched: &mut Touched) {
        let scope = self.scopes.entry(key.namespace.clone()).or_default();
        let old = scope.put_workload(&key.name, new.clone().map(WorkloadEntry::new)).map(|w| w.object);
        let same = match (&old, &new) {
            (Some(a), Some(b)) => {
                same_meta(&a.meta, &b.meta)
                    && (&a.identity, &a.server_name, &a.ips, &a.ports, a.ready, &a.owner)
                        == (&b.identity, &b.server_name, &b.ips, &b.ports, b.ready, &b.owner)
            }
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        let name = WorkloadName { namespace: key.namespace.clone(), name: key.name.clone() };
        for ip in old.iter().flat_map(|w| &w.ips) {
            forget(&mut self.workloads_at, ip, &name);
        }
        for ip in new.iter().flat_map(|w| &w.ips) {
            self.workloads_at.entry(*ip).or_default().insert(name.clone());
        }
        let Some(scope) = self.scopes.get(&key.namespace) else { return };
        for workload in old.iter().chain(&new) {
            touch_workload(workload, touched);
            touched.endpoints.extend(scope.selectors_of(&workload.meta.labels).map(|s| s.name()));
        }
        for service in scope.services_pointing_at(&key.name) {
            touched
                .endpoints
                .insert(ServiceName { namespace: key.namespace.clone(), name: service.to_owned() });
        }
    }

    fn put_profile(&mut self, key: &Key, new: Option<Arc<ServiceProfile>>, touched: &mut Touched) {
        let scope = self.scopes.entry(key.namespace.clone()).or_default();
        let old = match &new {
            Some(profile) => scope.profiles.insert(key.name.clone(), profile.clone()),
            None => scope.profiles.remove(&key.name),
        };
        let same = match (&old, &new) {
            (Some(a), Some(b)) => {
                (&a.routes, a.retry_budget, &a.overrides) == (&b.routes, b.retry_budget, &b.overrides)
            }
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        if let Some(name) = self.profiled_service(&key.name) {
            if let Some(service) = self.service(&name) {
                let ips: Vec<IpAddr> = service.virtual_ips().to_vec();
                touched.addresses.extend(ips);
            }
            touched.services.insert(name);
        }
    }

    /// Sets or removes a server, authorization, route or the like.
    fn put_policy(&mut self, key: &Key, new: Option<Object>, touched: &mut Touched) {
        let scope = self.scopes.entry(key.namespace.clone()).or_default();
        let old = scope.kept.put(key.kind, &key.name, new.clone());
        if same_object(&old, &new) {
            return;
        }
        if let Some(route) = old.as_ref().and_then(as_route) {
            relate(&mut self.routes_of, key, parents_of(key, route), Relation::Ends);
            relate(&mut self.routes_to, key, backends_of(key, route), Relation::Ends);
        }
        if let Some(route) = new.as_ref().and_then(as_route) {
            relate(&mut self.routes_of, key, parents_of(key, route), Relation::Begins);
            relate(&mut self.routes_to, key, backends_of(key, route), Relation::Begins);
        }
        match key.kind {
            Kind::MeshTlsAuthentication | Kind::NetworkAuthentication => {
                let name = ServiceName { namespace: key.namespace.clone(), name: key.name.clone() };
                let requiring = self.scopes.iter().filter(|(_, scope)| scope.kept.requires(key.kind, &name));
                touched.inbound.extend(requiring.map(|(namespace, _)| namespace.clone()));
            }
            Kind::EgressNetwork => {
                self.touch_egress(&key.namespace, touched);
                let name = ServiceName { namespace: key.namespace.clone(), name: key.name.clone() };
                self.touch_parent(&Parent::egress(&name), touched);
            }
            Kind::ReferenceGrant => {
                let from = ServiceName { namespace: key.namespace.clone(), name: String::new() };
                let here: Vec<ServiceName> = self
                    .routes_to
                    .range(from..)
                    .map(|(service, _)| service)
                    .take_while(|service| service.namespace == key.namespace)
                    .cloned()
                    .collect();
                here.iter().for_each(|service| self.touch_routes_to(service, touched));
            }
            _ => {
                for route in old.iter().chain(&new).filter_map(as_route) {
                    parents_of(key, route).for_each(|parent| self.touch_parent(&parent, touched));
                }
                // Servers and authorizations; routes because they may attach to a server.
                touched.inbound.insert(key.namespace.clone());
            }
        }
    }

    /// Routes lead to a service that changed: what they attach to has another policy.
    fn touch_routes_to(&self, service: &ServiceName, touched: &mut Touched) {
        let routes = self.routes_to.get(service).into_iter().flatten();
        for key in routes {
            let route = self.scopes.get(&key.namespace).and_then(|s| s.kept.route(key.kind, &key.name));
            for parent in route.into_iter().flat_map(|route| parents_of(key, route)) {
                self.touch_parent(&parent, touched);
            }
        }
    }

    fn touch_parent(&self, parent: &Parent, touched: &mut Touched) {
        match parent.kind {
            ParentKind::Service => {
                touched.addresses.extend(self.service(&parent.name).iter().flat_map(|s| s.virtual_ips()));
                touched.services.insert(parent.name.clone());
            }
            _ => self.touch_egress(&parent.name.namespace, touched),
        }
    }

    fn touch_egress(&self, namespace: &str, touched: &mut Touched) {
        let everybody = namespace == self.config.egress_namespace;
        touched.egress.insert(if everybody { String::new() } else { namespace.to_owned() });
    }

    /// The routes that attach to something.
    pub(crate) fn routes_of(&self, parent: &Parent) -> impl Iterator<Item = &Key> {
        self.routes_of.get(parent).into_iter().flatten()
    }

    /// The service that a profile of this name is for.
    pub(crate) fn profiled_service(&self, profile: &str) -> Option<ServiceName> {
        let name: DnsName = profile.parse().ok()?;
        let host = crate::ask::service_host(&name, &self.config.mesh.cluster_domain)?;
        host.instance.is_none().then_some(host.service)
    }

    /// The objects of a namespace.
    pub(crate) fn scope(&self, namespace: &str) -> Option<&Scope> {
        self.scopes.get(namespace)
    }

    /// Every namespace that has objects.
    pub(crate) fn scopes(&self) -> impl Iterator<Item = (&String, &Scope)> {
        self.scopes.iter()
    }

    /// A service.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.scopes.get(&name.namespace)?.services.get(&name.name)
    }

    /// A workload.
    pub fn workload(&self, name: &WorkloadName) -> Option<&Arc<ExternalWorkload>> {
        self.workload_entry(name).map(|w| &w.object)
    }

    pub(crate) fn workload_entry(&self, name: &WorkloadName) -> Option<&WorkloadEntry> {
        self.scopes.get(&name.namespace)?.workloads.get(&name.name)
    }

    /// The service that owns a virtual address: of several that claim it, the oldest.
    pub fn service_at(&self, ip: IpAddr) -> Option<&Arc<Service>> {
        let claims = self.services_at.get(&ip)?.iter().filter_map(|name| self.service(name));
        claims.min_by(|a, b| a.meta.seniority().cmp(&b.meta.seniority()))
    }

    /// The workloads that have an address, the oldest first.
    pub(crate) fn workloads_at(&self, ip: IpAddr) -> Vec<&WorkloadEntry> {
        let names = self.workloads_at.get(&ip).into_iter().flatten();
        let mut found: Vec<_> = names.filter_map(|name| self.workload_entry(name)).collect();
        found.sort_by(|a, b| a.object.meta.seniority().cmp(&b.object.meta.seniority()));
        found
    }

    /// The zone an asker is in, empty if unknown.
    pub(crate) fn zone_of(&self, asker: &Asker) -> &str {
        self.asking(asker).and_then(|w| w.zone()).unwrap_or_default()
    }

    /// The host an asker is on: as it says, else as its workload's label says; empty if unknown.
    pub(crate) fn node_of<'a>(&'a self, asker: &'a Asker) -> &'a str {
        match asker.node.as_str() {
            "" => self.asking(asker).and_then(|w| w.host()).unwrap_or_default(),
            node => node,
        }
    }

    fn asking(&self, asker: &Asker) -> Option<&ExternalWorkload> {
        self.scopes.get(&asker.namespace)?.workloads.get(&asker.workload).map(|w| &*w.object)
    }

    /// An annotation of an object, or of its namespace if the object has none.
    pub(crate) fn inherited<'a>(&'a self, meta: &'a Metadata, key: &str) -> Option<&'a str> {
        let of_namespace = || self.scopes.get(&meta.namespace)?.namespace.as_ref()?.meta.annotations.get(key);
        meta.annotations.get(key).or_else(of_namespace).map(String::as_str)
    }

    /// The ports that are opaque by default for an object of a namespace that says nothing itself.
    pub(crate) fn opaque_default(&self, namespace: &str) -> &PortList {
        let of_namespace = self.scopes.get(namespace).and_then(|s| s.ports.opaque.as_ref());
        of_namespace.unwrap_or(&self.config.default_opaque_ports)
    }
}

/// Whether two versions of an object have the same effect, wherever they were read.
fn same_object(a: &Option<Object>, b: &Option<Object>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            let mut moved = b.clone();
            moved.meta_mut().origin = a.meta().origin.clone();
            *a == moved
        }
        _ => false,
    }
}

/// What a route attaches to outside of its own workloads.
fn parents_of(key: &Key, route: &RouteResource) -> impl Iterator<Item = Parent> {
    let shaping = |kind: &ParentKind| matches!(kind, ParentKind::Service | ParentKind::EgressNetwork);
    let parents = route.parents.iter().filter(move |parent| shaping(&parent.kind));
    parents.map(|parent| Parent { kind: parent.kind.clone(), name: parent.target(&key.namespace) })
}

/// The services that a route leads to.
fn backends_of(key: &Key, route: &RouteResource) -> impl Iterator<Item = ServiceName> {
    let backends = route.rules.iter().flat_map(|rule| &rule.backends);
    backends.filter(|b| b.kind == BackendKind::Service).map(|backend| backend.target(&key.namespace))
}

/// Whether a relation comes or goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Relation {
    Begins,
    Ends,
}

fn relate<T: Ord>(
    all: &mut BTreeMap<T, BTreeSet<Key>>,
    key: &Key,
    targets: impl Iterator<Item = T>,
    relation: Relation,
) {
    for target in targets {
        if relation == Relation::Begins {
            all.entry(target).or_default().insert(key.clone());
        } else if let Some(keys) = all.get_mut(&target) {
            keys.remove(key);
            if keys.is_empty() {
                all.remove(&target);
            }
        }
    }
}

/// Whether two versions of an object's metadata have the same effect.
fn same_meta(a: &Metadata, b: &Metadata) -> bool {
    (&a.labels, &a.annotations, a.created) == (&b.labels, &b.annotations, b.created)
}

fn touch_service(service: &Service, touched: &mut Touched) {
    touched.services.insert(service.name());
    touched.addresses.extend(service.virtual_ips());
}

fn touch_workload(workload: &ExternalWorkload, touched: &mut Touched) {
    touched.workloads.insert(workload.name());
    touched.addresses.extend(&workload.ips);
}

fn forget<T: Ord>(index: &mut BTreeMap<IpAddr, BTreeSet<T>>, ip: &IpAddr, name: &T) {
    let Some(names) = index.get_mut(ip) else { return };
    names.remove(name);
    if names.is_empty() {
        index.remove(ip);
    }
}
