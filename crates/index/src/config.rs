//! What the whole mesh agrees on and manifests do not say: names, networks and defaults.
//!
//! Made once by `control` from its settings and handed to [`crate::Index::new`].

use crate::annotations::PortList;
use ipnet::IpNet;
use std::time::Duration;
use weft_model::destination::{Http2Params, KeepAlive};
use weft_model::identity::MeshNames;
use weft_model::policy::DefaultPolicy;

/// Settings of the index. The defaults are the peer's (control-plane.md §0.2), except where noted.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Domains and the control plane's namespace.
    pub mesh: MeshNames,
    /// Networks whose addresses belong to the mesh: unknown addresses in them are not found instead of
    /// being forwarded. The default also has 240.0.0.0/4, from which services get virtual addresses.
    pub cluster_networks: Vec<IpNet>,
    /// Inbound policy of workloads that name none.
    pub default_policy: DefaultPolicy,
    /// Networks from which probes are let in whatever a port's policy says. The default is everywhere.
    pub probe_networks: Vec<IpNet>,
    /// Ports that are opaque unless an annotation says otherwise.
    pub default_opaque_ports: PortList,
    /// Longest look at the first bytes of a connection.
    pub detect_timeout: Duration,
    /// How proxies reach each other.
    pub transport: TransportMode,
    /// Whether meshed endpoints are offered HTTP/1 over HTTP/2.
    pub upgrade: Http2Upgrade,
    /// Address families of endpoints. The default keeps both; the peer's drops IPv6.
    pub families: Families,
    /// Weights of endpoints in the asker's zone.
    pub zone_weights: ZoneWeights,
    /// HTTP/2 parameters of connections to meshed endpoints.
    pub http2: Option<Http2Params>,
    /// Whether proxies obey `l5d-retry-*` and `l5d-timeout*` request headers.
    pub request_headers: RequestHeaders,
    /// Whether a route needs leave to lead to another namespace's service. The peer never asks for it.
    pub reference_grants: ReferenceGrants,
    /// The namespace whose egress networks are for clients of every namespace that has none.
    pub egress_namespace: String,
}

impl Default for Config {
    fn default() -> Self {
        let networks =
            ["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "240.0.0.0/4", "fd00::/8"];
        Self {
            mesh: MeshNames::default(),
            cluster_networks: networks.iter().filter_map(|n| n.parse().ok()).collect(),
            default_policy: DefaultPolicy::AllUnauthenticated,
            probe_networks: ["0.0.0.0/0", "::/0"].iter().filter_map(|n| n.parse().ok()).collect(),
            default_opaque_ports: PortList::parse("25,587,3306,4444,5432,6379,9300,11211").0,
            detect_timeout: Duration::from_secs(10),
            transport: TransportMode::Header,
            upgrade: Http2Upgrade::Offered,
            families: Families::Both,
            zone_weights: ZoneWeights::Even,
            http2: Some(Http2Params {
                keep_alive: Some(KeepAlive {
                    interval: Duration::from_secs(10),
                    timeout: Duration::from_secs(3),
                    while_idle: true,
                }),
                ..Http2Params::default()
            }),
            request_headers: RequestHeaders::Ignored,
            reference_grants: ReferenceGrants::Ignored,
            egress_namespace: "linkerd-egress".into(),
        }
    }
}

/// How a proxy reaches a meshed endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportMode {
    /// At its proxy's inbound port, with the real port in the transport header.
    Header,
    /// At its own port, except for opaque ports.
    Transparent,
}

/// Whether HTTP/1 to meshed endpoints is carried over HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http2Upgrade {
    /// Endpoints are announced as taking it.
    Offered,
    /// They are not.
    Withheld,
}

/// Which address families endpoints are announced with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// IPv4 only.
    V4,
    /// Both, but of a workload that has both only the IPv6 address: the peer's way with IPv6 on.
    PreferV6,
    /// Both.
    Both,
}

/// How endpoints in the asker's own zone are weighted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneWeights {
    /// Like all others.
    Even,
    /// Ten times the others.
    LocalTenfold,
}

/// Whether clients may override limits by request headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestHeaders {
    /// They may.
    Obeyed,
    /// They may not.
    Ignored,
}

/// Whether a route needs a `ReferenceGrant` to lead to a service of another namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceGrants {
    /// It does not, as in the peer.
    Ignored,
    /// It does, as the Gateway API has it.
    Required,
}
