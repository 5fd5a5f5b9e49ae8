//! Services as manifests describe them: names with ports, the endpoints and profiles behind them.
//!
//! Validated by `resources` before they get here; `index` computes answers from them.

use crate::metadata::Metadata;
use crate::name::DnsName;
use crate::profile::ProfileRoute;
use crate::route::RetryBudget;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;

/// Which service is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A namespace; its annotations are defaults for what lives in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Metadata.
    pub meta: Metadata,
}

/// A service: a name and perhaps virtual addresses, ports, and which workloads stand behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Metadata.
    pub meta: Metadata,
    /// How it is addressed.
    pub addressing: Addressing,
    /// Labels that a workload of the same namespace needs to stand behind it; empty selects none.
    pub selector: BTreeMap<String, String>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Which endpoints callers may use.
    pub traffic: TrafficPolicy,
}

impl Service {
    /// Which service this is.
    pub fn name(&self) -> ServiceName {
        ServiceName { namespace: self.meta.namespace.clone(), name: self.meta.name.clone() }
    }

    /// The TCP port of this number, if it is declared.
    pub fn port(&self, port: NonZeroU16) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.port == port && p.transport == Transport::Tcp)
    }

    /// Its virtual addresses; none if it is headless, external, or has not been given one yet.
    pub fn virtual_ips(&self) -> &[IpAddr] {
        match &self.addressing {
            Addressing::Virtual(ips) => ips,
            Addressing::Headless | Addressing::External(_) => &[],
        }
    }
}

/// How a service is addressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// By virtual addresses (cluster IPs), at most one of each family; empty until one is allocated.
    Virtual(Vec<IpAddr>),
    /// By its endpoints' own addresses.
    Headless,
    /// It stands for another DNS name.
    External(String),
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; may be empty where the service has one port.
    pub name: String,
    /// Its number.
    pub port: NonZeroU16,
    /// The port of the workloads behind it.
    pub target: TargetPort,
    /// Its transport protocol.
    pub transport: Transport,
    /// What it speaks (`appProtocol`), if it says so.
    pub app_protocol: Option<String>,
}

/// The port of a workload that a service's port leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// By number.
    Number(NonZeroU16),
    /// By the name that the workload gives it.
    Name(String),
}

/// Transport protocols of ports. Only TCP is meshed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// UDP or SCTP.
    Other,
}

/// Which endpoints of a service callers may use (`internalTrafficPolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// All of them.
    #[default]
    Cluster,
    /// Only those on the caller's own host.
    Local,
}

/// Endpoints of a service, given one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Metadata.
    pub meta: Metadata,
    /// Name of the service, in the same namespace; empty if the slice names none.
    pub service: String,
    /// The endpoints.
    pub endpoints: Vec<SliceEndpoint>,
    /// Ports of every endpoint; `None` means that none are given, and such a slice has no effect.
    pub ports: Option<Vec<SlicePort>>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Whether it takes traffic; unknown counts as yes.
    pub ready: Option<bool>,
    /// Its host name within a headless service.
    pub hostname: Option<String>,
    /// What stands behind it.
    pub target: Option<TargetRef>,
    /// The host it runs on.
    pub node: Option<String>,
    /// Its zone.
    pub zone: Option<String>,
    /// Zones whose callers should use it (topology hints).
    pub hints: Vec<String>,
}

/// What stands behind an endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRef {
    /// Its kind.
    pub kind: TargetKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Kinds of things behind an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// A pod.
    Pod,
    /// An external workload.
    ExternalWorkload,
    /// Something else.
    Other,
}

/// A port of a slice's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The name of the service's port that it belongs to; may be empty.
    pub name: String,
    /// Its number, if it has one.
    pub port: Option<NonZeroU16>,
    /// Its transport protocol.
    pub transport: Transport,
}

/// Routes, retries and splits of a service (`ServiceProfile`). Its name is the service's full name.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceProfile {
    /// Metadata.
    pub meta: Metadata,
    /// Routes, in order.
    pub routes: Vec<ProfileRoute>,
    /// The retry budget, if it sets one.
    pub retry_budget: Option<RetryBudget>,
    /// Where requests go instead of to the service itself.
    pub overrides: Vec<ProfileOverride>,
}

/// One leg of a service profile's traffic split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileOverride {
    /// The service.
    pub host: DnsName,
    /// Its port; the asked one if none.
    pub port: Option<NonZeroU16>,
    /// Share relative to the others, 10000 for a weight of 1; may be 0.
    pub weight: u32,
}
