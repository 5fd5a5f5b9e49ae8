//! The endpoints of a service's port, as one asker sees them (§1A).
//!
//! A service's endpoints are the workloads that its selector picks and the addresses of its slices.
//! Only `resolve.rs` and `profiles.rs` call this.

use crate::annotations::{GATEWAY_IDENTITY, MIRROR_CLUSTER, REMOTE_SERVICE};
use crate::answer::{EndpointSet, MAX_ENDPOINTS, Refusal, RefusalKind, ViewKey};
use crate::config::{Families, Http2Upgrade};
use crate::entry::WorkloadEntry;
use crate::index::Index;
use crate::scope::Scope;
use crate::workloads::{locality, weight};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use weft_model::destination::{EndpointInfo, ProtocolHint};
use weft_model::identity::{Id, TlsTarget};
use weft_model::route::Labels;
use weft_model::service::{
    Addressing, EndpointSlice, Service, ServiceName, SliceEndpoint, TargetKind, TargetPort, TrafficPolicy,
    Transport,
};

/// One address of one endpoint, before it is known whether the asker gets it.
pub(crate) struct Candidate<'a> {
    pub(crate) ip: IpAddr,
    pub(crate) port: NonZeroU16,
    behind: Behind<'a>,
    hostname: Option<&'a str>,
    node: Option<&'a str>,
    hints: &'a [String],
}

/// What is behind an address.
#[derive(Clone, Copy)]
enum Behind<'a> {
    Workload(&'a WorkloadEntry),
    /// A pod, of which only what the slice says is known.
    Pod(&'a str, &'a SliceEndpoint),
    /// Nothing that has a name: a gateway of another mesh, or a plain address.
    Address(&'a EndpointSlice),
}

impl Candidate<'_> {
    /// What has several addresses has the same key.
    fn owner(&self) -> Option<(u8, &str)> {
        match self.behind {
            Behind::Workload(w) => Some((0, &w.object.meta.name)),
            Behind::Pod(name, _) => Some((1, name)),
            Behind::Address(_) => None,
        }
    }

    fn rank(&self) -> u8 {
        match self.behind {
            Behind::Workload(_) => 0,
            Behind::Pod(..) => 1,
            Behind::Address(_) => 2,
        }
    }
}

impl Index {
    /// The endpoints of a view of that kind.
    pub(crate) fn endpoints(&self, key: &ViewKey) -> Result<EndpointSet, Refusal> {
        let ViewKey::Endpoints { service: name, port, instance, zone, node } = key else {
            return Err(Refusal::new(RefusalKind::InvalidArgument, "not a view of endpoints"));
        };
        let (scope, service) = self.existing(name)?;
        if let Addressing::External(target) = &service.addressing {
            let problem = format!("service {name} stands for `{target}` and has no endpoints of its own");
            return Err(Refusal::new(RefusalKind::InvalidArgument, problem));
        }
        let mut candidates = self.candidates(scope, service, *port);
        if let Some(instance) = instance {
            candidates.retain(|c| c.hostname == Some(instance));
        }
        if service.traffic == TrafficPolicy::Local {
            candidates.retain(|c| !node.is_empty() && c.node == Some(node));
        }
        obey_hints(&mut candidates, zone);
        choose_families(&mut candidates, self.config().families);
        let mut endpoints: Vec<EndpointInfo> =
            candidates.iter().map(|c| self.seen_from(c, service, *port, zone)).collect();
        endpoints.sort_by_key(|e| e.addr);
        let left_out = endpoints.len().saturating_sub(MAX_ENDPOINTS);
        endpoints.truncate(MAX_ENDPOINTS);
        Ok(EndpointSet { labels: set_labels(service), endpoints: endpoints.into(), left_out })
    }

    /// A service that is there, and its namespace.
    pub(crate) fn existing(&self, name: &ServiceName) -> Result<(&Scope, &Service), Refusal> {
        let found = self.scope(&name.namespace).and_then(|s| Some((s, s.services.get(&name.name)?)));
        match found {
            Some((scope, service)) => Ok((scope, service)),
            None => Err(Refusal::new(RefusalKind::NotFound, format!("service {name} does not exist"))),
        }
    }

    /// Every ready address behind a port of a service, each once; what is known best comes first.
    pub(crate) fn candidates<'a>(
        &self,
        scope: &'a Scope,
        service: &'a Service,
        port: NonZeroU16,
    ) -> Vec<Candidate<'a>> {
        let headless = service.addressing == Addressing::Headless;
        let mut found = Vec::new();
        for workload in scope.selected(service).filter(|w| w.object.is_ready()) {
            let Some(port) = target_of(workload, service, port) else { continue };
            for ip in &workload.object.ips {
                found.push(Candidate {
                    ip: *ip,
                    port,
                    behind: Behind::Workload(workload),
                    hostname: headless.then_some(&workload.object.meta.name),
                    node: workload.object.host(),
                    hints: &[],
                });
            }
        }
        for slice in scope.slices_of(&service.meta.name) {
            let Some(port) = slice_port(slice, service, port) else { continue };
            for endpoint in slice.endpoints.iter().filter(|e| e.ready.unwrap_or(true)) {
                let Some(behind) = behind(scope, service, slice, endpoint) else { continue };
                for ip in &endpoint.ips {
                    found.push(Candidate {
                        ip: *ip,
                        port,
                        behind,
                        hostname: endpoint.hostname.as_deref(),
                        node: endpoint.node.as_deref(),
                        hints: &endpoint.hints,
                    });
                }
            }
        }
        found.sort_by_key(|c| (c.ip, c.port, c.rank()));
        found.dedup_by_key(|c| (c.ip, c.port));
        found
    }

    pub(crate) fn seen_from(
        &self,
        c: &Candidate<'_>,
        service: &Service,
        asked: NonZeroU16,
        zone: &str,
    ) -> EndpointInfo {
        match c.behind {
            Behind::Workload(workload) => self.endpoint_at(workload, c.ip, c.port, zone),
            Behind::Pod(name, endpoint) => {
                let locality = locality(zone, endpoint.zone.as_deref());
                let mut labels = BTreeMap::from([("pod".to_owned(), name.to_owned())]);
                labels.insert("zone".to_owned(), endpoint.zone.clone().unwrap_or_default());
                EndpointInfo {
                    weight: weight(self.config(), locality),
                    labels: Arc::new(labels),
                    locality,
                    ..EndpointInfo::plain(SocketAddr::new(c.ip, c.port.get()))
                }
            }
            Behind::Address(slice) => self.gateway(c, slice, service, asked),
        }
    }

    /// An address with nothing behind it that has a name (§1A.6, first kind).
    fn gateway(
        &self,
        c: &Candidate<'_>,
        slice: &EndpointSlice,
        service: &Service,
        asked: NonZeroU16,
    ) -> EndpointInfo {
        let annotation = |key: &str| {
            slice
                .meta
                .annotations
                .get(key)
                .or_else(|| service.meta.annotations.get(key))
                .filter(|v| !v.is_empty())
        };
        let mut info = EndpointInfo::plain(SocketAddr::new(c.ip, c.port.get()));
        info.authority_override = annotation(REMOTE_SERVICE).map(|name| format!("{name}:{asked}"));
        let Some(Ok(Id::Dns(name))) = annotation(GATEWAY_IDENTITY).map(|id| id.parse::<Id>()) else {
            return info;
        };
        info.tls = Some(TlsTarget { id: Id::Dns(name.clone()), server_name: name });
        info.http2 = self.config().http2;
        if self.config().upgrade == Http2Upgrade::Offered {
            info.hint = ProtocolHint::Http2;
        }
        info
    }
}

/// Labels of all endpoints of a service (§1A.3).
fn set_labels(service: &Service) -> Labels {
    let mut labels = BTreeMap::from([
        ("namespace".to_owned(), service.meta.namespace.clone()),
        ("service".to_owned(), service.meta.name.clone()),
    ]);
    if let Some(cluster) = service.meta.labels.get(MIRROR_CLUSTER) {
        labels.insert("target_cluster".to_owned(), cluster.clone());
        let remote = service.meta.annotations.get(REMOTE_SERVICE).and_then(|name| {
            let mut parts = name.split('.');
            Some((parts.next()?, parts.next()?))
        });
        if let Some((name, namespace)) = remote {
            labels.insert("target_service".to_owned(), name.to_owned());
            labels.insert("target_service_namespace".to_owned(), namespace.to_owned());
        }
    }
    Arc::new(labels)
}

/// The port of a selected workload that a service's port leads to: one that the workload declares
/// (§1D), or the asked number itself where the service does not declare that (§1A.4).
fn target_of(workload: &WorkloadEntry, service: &Service, port: NonZeroU16) -> Option<NonZeroU16> {
    match service.port(port).map(|p| &p.target) {
        None => Some(port),
        Some(TargetPort::Number(target)) => Some(*target).filter(|t| workload.declares(*t)),
        Some(TargetPort::Name(name)) => workload.port_named(name),
    }
}

/// The port of a slice's endpoints that a service's port leads to.
fn slice_port(slice: &EndpointSlice, service: &Service, port: NonZeroU16) -> Option<NonZeroU16> {
    let ports = slice.ports.as_ref()?;
    match service.port(port) {
        None => Some(port),
        Some(declared) => ports
            .iter()
            .find(|p| p.transport == Transport::Tcp && p.name == declared.name)
            .and_then(|p| p.port),
    }
}

/// What is behind an endpoint of a slice; `None` if it is to be left out.
fn behind<'a>(
    scope: &'a Scope,
    service: &Service,
    slice: &'a EndpointSlice,
    endpoint: &'a SliceEndpoint,
) -> Option<Behind<'a>> {
    let Some(target) = &endpoint.target else { return Some(Behind::Address(slice)) };
    match target.kind {
        // The selector itself decides about workloads; a slice that somebody computed from it, as
        // `kubectl get` may have written it down, is out of date sooner or later.
        TargetKind::ExternalWorkload if !service.selector.is_empty() => None,
        TargetKind::ExternalWorkload if target.namespace != slice.meta.namespace => None,
        TargetKind::ExternalWorkload => scope.workloads.get(&target.name).map(Behind::Workload),
        TargetKind::Pod => Some(Behind::Pod(&target.name, endpoint)),
        TargetKind::Other => Some(Behind::Address(slice)),
    }
}

/// Keeps the endpoints meant for the asker's zone, if every endpoint says for which it is meant and
/// any is meant for this one (§1A.7).
fn obey_hints(candidates: &mut Vec<Candidate<'_>>, zone: &str) {
    let mine = |c: &Candidate<'_>| c.hints.iter().any(|hint| hint == zone);
    if candidates.iter().any(|c| c.hints.is_empty()) || !candidates.iter().any(mine) {
        return;
    }
    candidates.retain(mine);
}

/// Keeps the wanted address families (§1A.7).
fn choose_families(candidates: &mut Vec<Candidate<'_>>, families: Families) {
    match families {
        Families::Both => {}
        Families::V4 => candidates.retain(|c| c.ip.is_ipv4()),
        Families::PreferV6 => {
            let with_v6: BTreeSet<(u8, String)> = candidates
                .iter()
                .filter(|c| c.ip.is_ipv6())
                .filter_map(|c| c.owner().map(|(kind, name)| (kind, name.to_owned())))
                .collect();
            candidates.retain(|c| {
                let owner = c.owner().map(|(kind, name)| (kind, name.to_owned()));
                c.ip.is_ipv6() || owner.is_none_or(|o| !with_v6.contains(&o))
            });
        }
    }
}

/// The first candidate that has this host name.
pub(crate) fn instance<'a, 'c>(candidates: &'c [Candidate<'a>], hostname: &str) -> Option<&'c Candidate<'a>> {
    candidates.iter().find(|c| c.hostname == Some(hostname))
}

impl<'a> Candidate<'a> {
    /// The workload behind it, if it is one.
    pub(crate) fn workload(&self) -> Option<&'a WorkloadEntry> {
        match self.behind {
            Behind::Workload(workload) => Some(workload),
            _ => None,
        }
    }
}
