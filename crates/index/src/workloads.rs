//! Workloads: each as an endpoint that others reach.
//!
//! Used by `services.rs` and `profiles.rs`; `inbound.rs` asks which ports are opaque.

use crate::config::{Config, Http2Upgrade, TransportMode, ZoneWeights};
use crate::entry::WorkloadEntry;
use crate::index::Index;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use weft_model::destination::{EndpointInfo, Locality, ProtocolHint};
use weft_model::identity::TlsTarget;

/// The weight of one share.
pub(crate) const WEIGHT: u32 = 10_000;
/// The inbound port of a workload's proxy unless its port list says otherwise (§0.1).
const PROXY_PORT: NonZeroU16 = NonZeroU16::MIN.saturating_add(4142);
/// The name under which a workload declares its proxy's inbound port (§1A.6).
const PROXY_PORT_NAME: &str = "linkerd-proxy";

/// How far an endpoint's zone is from the asker's.
pub(crate) fn locality(asker: &str, endpoint: Option<&str>) -> Locality {
    match endpoint {
        None | Some("") => Locality::Unknown,
        _ if asker.is_empty() => Locality::Unknown,
        Some(zone) if zone == asker => Locality::Local,
        Some(_) => Locality::Remote,
    }
}

/// The weight of an endpoint at this distance.
pub(crate) fn weight(config: &Config, locality: Locality) -> u32 {
    match (config.zone_weights, locality) {
        (ZoneWeights::LocalTenfold, Locality::Local) => WEIGHT * 10,
        _ => WEIGHT,
    }
}

impl Index {
    /// Whether a port of a workload is opaque: by its own annotation, else its namespace's, else the
    /// default list.
    pub(crate) fn is_opaque_at(&self, workload: &WorkloadEntry, port: NonZeroU16) -> bool {
        let inherited = || self.opaque_default(&workload.object.meta.namespace);
        workload.listed(workload.ports.opaque.as_ref().unwrap_or_else(inherited), port)
    }

    /// Whether a port of a workload does not go through its proxy.
    fn is_skipped_at(&self, workload: &WorkloadEntry, port: NonZeroU16) -> bool {
        let of_namespace =
            || self.scope(&workload.object.meta.namespace).and_then(|s| s.ports.skipped.as_ref());
        let list = workload.ports.skipped.as_ref().or_else(of_namespace);
        list.is_some_and(|list| workload.listed(list, port))
    }

    /// A workload's port as an endpoint, seen from a zone (empty if unknown) (§1A.6).
    pub(crate) fn endpoint_at(
        &self,
        workload: &WorkloadEntry,
        ip: IpAddr,
        port: NonZeroU16,
        zone: &str,
    ) -> EndpointInfo {
        let config = self.config();
        let locality = locality(zone, workload.object.zone());
        let mut info = EndpointInfo {
            weight: weight(config, locality),
            labels: workload.labels(locality),
            locality,
            ..EndpointInfo::plain(SocketAddr::new(ip, port.get()))
        };
        if self.is_skipped_at(workload, port) {
            return info;
        }
        let opaque = self.is_opaque_at(workload, port);
        info.tls = Some(TlsTarget {
            id: workload.object.identity.clone(),
            server_name: workload.object.server_name.clone(),
        });
        info.hint = match (opaque, config.upgrade) {
            (true, _) => ProtocolHint::Opaque,
            (false, Http2Upgrade::Offered) => ProtocolHint::Http2,
            (false, Http2Upgrade::Withheld) => ProtocolHint::Unknown,
        };
        info.http2 = config.http2;
        let proxy_port = workload.port_named(PROXY_PORT_NAME).unwrap_or(PROXY_PORT);
        if port != proxy_port && (opaque || config.transport == TransportMode::Header) {
            info.transport_port = Some(proxy_port);
        }
        info
    }
}
