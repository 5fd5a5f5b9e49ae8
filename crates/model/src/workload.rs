//! Workloads: instances of applications, and who asks the control plane on behalf of one.

use crate::identity::Id;
use crate::metadata::Metadata;
use crate::name::DnsName;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;

/// Who asks, as the context token and the policy workload say it; empty fields are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Asker {
    /// Its namespace.
    pub namespace: String,
    /// Its workload name.
    pub workload: String,
    /// The host it runs on.
    pub node: String,
}

/// Which workload is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One instance of an application that is not a pod: a process on a host, with a proxy beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalWorkload {
    /// Metadata.
    pub meta: Metadata,
    /// The identity that its proxy proves.
    pub identity: Id,
    /// What its proxy answers to as TLS server name.
    pub server_name: DnsName,
    /// Its addresses, at most one of each family.
    pub ips: Vec<IpAddr>,
    /// Its TCP ports.
    pub ports: Vec<WorkloadPort>,
    /// Whether it takes traffic (the `Ready` condition); unsaid counts as yes.
    pub ready: Option<bool>,
    /// What it is an instance of, if it says so.
    pub owner: Option<Owner>,
}

impl ExternalWorkload {
    /// The label that names a workload's zone.
    pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
    /// The label that names the host a workload runs on.
    pub const HOST_LABEL: &str = "kubernetes.io/hostname";

    /// Which workload this is.
    pub fn name(&self) -> WorkloadName {
        WorkloadName { namespace: self.meta.namespace.clone(), name: self.meta.name.clone() }
    }

    /// Its zone, if a label names one.
    pub fn zone(&self) -> Option<&str> {
        self.meta.labels.get(Self::ZONE_LABEL).map(String::as_str).filter(|z| !z.is_empty())
    }

    /// Its host, if a label names one.
    pub fn host(&self) -> Option<&str> {
        self.meta.labels.get(Self::HOST_LABEL).map(String::as_str).filter(|h| !h.is_empty())
    }

    /// Whether it takes traffic.
    pub fn is_ready(&self) -> bool {
        self.ready.unwrap_or(true)
    }
}

/// A TCP port of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadPort {
    /// Its name; may be empty.
    pub name: String,
    /// Its number.
    pub port: NonZeroU16,
}

/// What a workload is an instance of, such as a deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}
