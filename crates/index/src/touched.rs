//! What a batch of changes may have altered, so that only those views are computed again.
//!
//! Made by [`crate::Index::apply`]; names things, not views, because the index does not know which
//! views anybody holds. It may name too much, never too little.

use crate::answer::{ProfileTarget, ViewKey};
use std::collections::BTreeSet;
use std::net::IpAddr;
use weft_model::service::ServiceName;
use weft_model::workload::{Asker, WorkloadName};

/// What a batch of changes may have altered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Services whose endpoints may differ.
    pub endpoints: BTreeSet<ServiceName>,
    /// Services whose profile, policy or name may differ.
    pub services: BTreeSet<ServiceName>,
    /// Addresses whose owner, or what is known about it, may differ.
    pub addresses: BTreeSet<IpAddr>,
    /// Workloads whose inbound policy, zone or existence may differ.
    pub workloads: BTreeSet<WorkloadName>,
    /// Namespaces whose workloads' inbound policies may differ.
    pub inbound: BTreeSet<String>,
    /// Namespaces whose clients may meet other egress networks; the empty name stands for all of them.
    pub egress: BTreeSet<String>,
}

impl Touched {
    /// Whether nothing is touched.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
            && self.services.is_empty()
            && self.addresses.is_empty()
            && self.workloads.is_empty()
            && self.inbound.is_empty()
            && self.egress.is_empty()
    }

    /// Whether the answer of a view may differ now. A few look-ups.
    pub fn touches(&self, key: &ViewKey) -> bool {
        match key {
            ViewKey::Endpoints { service, .. } => self.endpoints.contains(service),
            ViewKey::Profile { target, .. } => match target {
                ProfileTarget::Address(addr) => self.addresses.contains(&addr.ip()),
                ProfileTarget::Service { service, .. } => self.services.contains(service),
                ProfileTarget::Instance { service, .. } => {
                    self.services.contains(service) || self.endpoints.contains(service)
                }
            },
            ViewKey::OutboundAddress { addr, namespace } => {
                self.addresses.contains(&addr.ip())
                    || (!self.egress.is_empty()
                        && (self.egress.contains("") || self.egress.contains(namespace)))
            }
            ViewKey::OutboundService { service, .. } => self.services.contains(service),
            ViewKey::Inbound { workload, .. } => {
                self.workloads.contains(workload) || self.inbound.contains(&workload.namespace)
            }
        }
    }

    /// Whether the asker's questions may belong to other views now, because its workload (and so
    /// perhaps its zone or host) changed. Ask [`crate::Index::view`] again.
    pub fn moves(&self, asker: &Asker) -> bool {
        !self.workloads.is_empty()
            && self
                .workloads
                .contains(&WorkloadName { namespace: asker.namespace.clone(), name: asker.workload.clone() })
    }

    /// Adds what another batch touched.
    pub fn merge(&mut self, other: Touched) {
        self.endpoints.extend(other.endpoints);
        self.services.extend(other.services);
        self.addresses.extend(other.addresses);
        self.workloads.extend(other.workloads);
        self.inbound.extend(other.inbound);
        self.egress.extend(other.egress);
    }
}
