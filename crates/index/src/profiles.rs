//! Destination profiles: what a service's or an address's owner says about it (§1B).
//!
//! Only `resolve.rs` calls this.

use crate::answer::{ProfileTarget, Refusal, RefusalKind};
use crate::entry::WorkloadEntry;
use crate::index::Index;
use crate::services;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use weft_model::address::NameAddr;
use weft_model::destination::EndpointInfo;
use weft_model::meta::{Meta, Resource};
use weft_model::name::DnsName;
use weft_model::profile::{Profile, WeightedDst};
use weft_model::route::RetryBudget;
use weft_model::service::{Service, ServiceName, ServiceProfile};

impl Index {
    /// The profile of a target, for an asker of a namespace.
    pub(crate) fn profile(&self, target: &ProfileTarget, namespace: &str) -> Result<Profile, Refusal> {
        match target {
            ProfileTarget::Address(addr) => Ok(self.address_profile(*addr, namespace)),
            ProfileTarget::Service { service, port } => {
                let (_, found) = self.existing(service)?;
                Ok(self.service_profile(found, *port, namespace))
            }
            ProfileTarget::Instance { service, instance, port } => {
                self.instance_profile(service, instance, *port)
            }
        }
    }

    fn address_profile(&self, addr: SocketAddr, namespace: &str) -> Profile {
        let Some(port) = NonZeroU16::new(addr.port()) else { return plain_profile(addr) };
        if let Some(service) = self.service_at(addr.ip()) {
            return self.service_profile(service, port, namespace);
        }
        if let Some(workload) = self.workload_behind(addr.ip(), port) {
            return self.endpoint_profile(workload, addr.ip(), port);
        }
        let opaque = self.config().default_opaque_ports.contains(addr.port(), std::iter::empty());
        Profile { opaque, ..plain_profile(addr) }
    }

    /// The workload that an address and declared port belong to; of several, the oldest.
    pub(crate) fn workload_behind(&self, ip: IpAddr, port: NonZeroU16) -> Option<&WorkloadEntry> {
        self.workloads_at(ip).into_iter().find(|w| w.declares(port))
    }

    /// What a workload's own port says about itself (§1B.3). Its readiness does not matter.
    fn endpoint_profile(&self, workload: &WorkloadEntry, ip: IpAddr, port: NonZeroU16) -> Profile {
        let endpoint = self.endpoint_at(workload, ip, port, "");
        Profile {
            opaque: self.is_opaque_at(workload, port),
            ..with_namespace(endpoint, &workload.object.meta.namespace)
        }
    }

    fn instance_profile(
        &self,
        name: &ServiceName,
        instance: &str,
        port: NonZeroU16,
    ) -> Result<Profile, Refusal> {
        let (scope, service) = self.existing(name)?;
        let candidates = self.candidates(scope, service, port);
        match services::instance(&candidates, instance) {
            Some(found) => Ok(match found.workload() {
                Some(workload) => self.endpoint_profile(workload, found.ip, found.port),
                None => with_namespace(self.seen_from(found, service, port, ""), &name.namespace),
            }),
            None => {
                let problem = format!("service {name} has no instance `{instance}`");
                Err(Refusal::new(RefusalKind::NotFound, problem))
            }
        }
    }

    /// The profile of a service's port (§1B.2); empty if the service does not declare the port.
    fn service_profile(&self, service: &Service, port: NonZeroU16, namespace: &str) -> Profile {
        let Some(host) = service_host(service, &self.config().mesh.cluster_domain) else {
            return Profile::default();
        };
        if service.port(port).is_none() {
            return Profile::default();
        }
        let given = [namespace, &service.meta.namespace]
            .into_iter()
            .find_map(|ns| self.scope(ns)?.profiles.get(host.as_str()));
        let parent = Resource {
            group: "core".into(),
            kind: "Service".into(),
            namespace: service.meta.namespace.clone(),
            name: service.meta.name.clone(),
            section: String::new(),
            port: Some(port.get()),
        };
        Profile {
            logical: Some(NameAddr { name: host, port }),
            routes: given.map(|p| p.routes.clone()).unwrap_or_default(),
            retry_budget: Some(given.and_then(|p| p.retry_budget).unwrap_or_default()),
            overrides: given.map(|p| overrides(p, port)).unwrap_or_default(),
            opaque: self.is_service_opaque_at(service, port),
            endpoint: None,
            parent: Some(Meta::Resource(Arc::new(parent))),
            source: Some(Meta::Resource(Arc::new(source(given.map(Arc::as_ref))))),
        }
    }

    /// Whether a port of a service is opaque: by its own annotation, else its namespace's, else the
    /// default list. The opaque ports of a service profile have no effect, as in the peer.
    pub(crate) fn is_service_opaque_at(&self, service: &Service, port: NonZeroU16) -> bool {
        use crate::annotations::{OPAQUE_PORTS, PortList};
        let names = || {
            service
                .ports
                .iter()
                .filter(move |p| p.port == port && !p.name.is_empty())
                .map(|p| p.name.as_str())
        };
        match service.meta.annotations.get(OPAQUE_PORTS) {
            Some(text) => PortList::parse(text).0.contains(port.get(), names()),
            None => self.opaque_default(&service.meta.namespace).contains(port.get(), names()),
        }
    }
}

/// The full name of a service; `None` for names that DNS does not allow, which nobody can ask for.
pub(crate) fn service_host(service: &Service, domain: &str) -> Option<DnsName> {
    let Service { meta, .. } = service;
    format!("{}.{}.svc.{}", meta.name, meta.namespace, domain.trim_matches('.')).parse().ok()
}

fn overrides(profile: &ServiceProfile, asked: NonZeroU16) -> Vec<WeightedDst> {
    let legs = profile.overrides.iter().filter(|leg| leg.weight > 0);
    legs.map(|leg| WeightedDst {
        addr: NameAddr { name: leg.host.clone(), port: leg.port.unwrap_or(asked) },
        weight: leg.weight,
    })
    .collect()
}

/// The resource that routes come from; its kind and name are blank where there is none (§1B.2).
fn source(profile: Option<&ServiceProfile>) -> Resource {
    let meta = profile.map(|p| &p.meta);
    Resource {
        group: "linkerd.io".into(),
        kind: meta.map(|_| "ServiceProfile".to_owned()).unwrap_or_default(),
        namespace: meta.map(|m| m.namespace.clone()).unwrap_or_default(),
        name: meta.map(|m| m.name.clone()).unwrap_or_default(),
        section: String::new(),
        port: None,
    }
}

/// What is said about an address that nobody here owns.
fn plain_profile(addr: SocketAddr) -> Profile {
    Profile { endpoint: Some(EndpointInfo::plain(addr)), ..Profile::default() }
}

/// The profile of one endpoint, whose labels get its namespace.
fn with_namespace(mut endpoint: EndpointInfo, namespace: &str) -> Profile {
    Arc::make_mut(&mut endpoint.labels).insert("namespace".to_owned(), namespace.to_owned());
    Profile { endpoint: Some(endpoint), retry_budget: Some(RetryBudget::default()), ..Profile::default() }
}
