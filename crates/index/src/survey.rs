//! What can be asked about at all: every policy that some proxy may be told, and where things stand in the manifests.
//!
//! The crate `explain` asks, for people; nothing that a proxy waits for does.

use crate::answer::ViewKey;
use crate::index::Index;
use crate::kept::Parent;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use weft_model::attach::EgressNetwork;
use weft_model::identity::Id;
use weft_model::object::{Key, Kind};
use weft_model::policy::{InboundPolicy, OutboundPolicy};
use weft_model::service::{ServiceName, Transport};
use weft_model::workload::{ExternalWorkload, WorkloadName};

/// One port that is asked about for outbound traffic.
pub struct OutboundPort {
    /// The service.
    pub service: ServiceName,
    /// Its port.
    pub port: NonZeroU16,
    /// Where the clients are.
    pub namespace: String,
}

impl OutboundPort {
    /// The view that answers.
    pub fn view(&self) -> ViewKey {
        let Self { service, port, namespace } = self;
        ViewKey::OutboundService { service: service.clone(), port: *port, namespace: namespace.clone() }
    }
}

impl Index {
    /// Every TCP port of every service, for clients of its own namespace and of those with routes for it.
    pub fn outbound_ports(&self) -> Vec<OutboundPort> {
        let mut all = Vec::new();
        for service in self.scopes().flat_map(|(_, scope)| scope.services.values()) {
            let name = service.name();
            let parent = Parent::service(&name);
            let consumers = self.routes_of(&parent).map(|key| key.namespace.clone());
            let namespaces: BTreeSet<String> = consumers.chain([name.namespace.clone()]).collect();
            for port in service.ports.iter().filter(|port| port.transport == Transport::Tcp) {
                all.extend(namespaces.iter().map(|namespace| OutboundPort {
                    service: name.clone(),
                    port: port.port,
                    namespace: namespace.clone(),
                }));
            }
        }
        all
    }

    /// Every named port of every workload, with what holds there.
    pub fn inbound_ports(&self) -> impl Iterator<Item = (WorkloadName, NonZeroU16, InboundPolicy)> {
        let workloads = self.scopes().flat_map(|(_, scope)| scope.workloads.values());
        workloads.flat_map(move |workload| {
            let name = workload.object.name();
            workload.object.ports.iter().filter_map(move |port| {
                let policy = self.inbound(&name, port.port).ok()?;
                Some((name.clone(), port.port, policy))
            })
        })
    }

    /// Every egress network with its name.
    pub fn egress_networks(&self) -> impl Iterator<Item = (ServiceName, &EgressNetwork)> {
        self.scopes().flat_map(|(namespace, scope)| {
            scope.kept.egress_networks().map(move |network| {
                (ServiceName { namespace: namespace.clone(), name: network.meta.name.clone() }, &**network)
            })
        })
    }

    /// The ports for which an egress network has routes of their own.
    pub fn egress_ports(&self, name: &ServiceName) -> BTreeSet<NonZeroU16> {
        self.routes_of(&Parent::egress(name))
            .filter_map(|key| self.scope(&key.namespace)?.kept.route(key.kind, &key.name))
            .flat_map(|route| route.parents.iter().filter_map(|parent| parent.port))
            .collect()
    }

    /// What clients of the network's own namespace are told at an address in it; `None` if it is not in force.
    pub fn egress_at(&self, network: &EgressNetwork, addr: SocketAddr) -> Option<OutboundPolicy> {
        let policy = self.egress_policy(network, addr, &network.meta.namespace)?;
        self.overlap(network).is_none().then_some(policy)
    }

    /// The workload that is reached at an address, and what holds at that port.
    pub fn served_at(&self, ip: IpAddr, port: NonZeroU16) -> Option<(WorkloadName, Option<InboundPolicy>)> {
        let name = self.workload_behind(ip, port)?.object.name();
        let policy = self.inbound(&name, port).ok();
        Some((name, policy))
    }

    /// The first workload of a namespace that proves an identity.
    pub fn workload_of(&self, namespace: &str, identity: &Id) -> Option<&ExternalWorkload> {
        let mut own = self.scope(namespace)?.workloads.values().map(|workload| &*workload.object);
        own.find(|workload| workload.identity == *identity)
    }

    /// Where the manifest of an object stands.
    pub fn place(&self, key: &Key) -> Option<String> {
        let scope = self.scope(&key.namespace)?;
        let meta = match key.kind {
            Kind::Service => &scope.services.get(&key.name)?.meta,
            Kind::ExternalWorkload => &scope.workloads.get(&key.name)?.object.meta,
            Kind::ServiceProfile => &scope.profiles.get(&key.name)?.meta,
            kind => scope.kept.meta(kind, &key.name)?,
        };
        Some(meta.origin.to_string())
    }
}
