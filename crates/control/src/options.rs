//! What a control plane is told. The command line fills it; nothing here reads the environment.

use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;
use weft_identity::authority::IssuerFiles;
use weft_index::config::ZoneWeights;
use weft_model::identity::MeshNames;
use weft_model::name::DnsName;
use weft_model::policy::DefaultPolicy;
use weft_serve::StreamLimits;

/// What a control plane is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Directories of manifests. Not empty.
    pub manifests: Vec<PathBuf>,
    /// Where the authority, the token key and everything else that outlives a restart is kept.
    pub state: PathBuf,
    /// Where all services of the control plane are offered.
    pub listen: SocketAddr,
    /// The identities it proves over TLS, the first of which join files name. Empty: it speaks plaintext,
    /// and `listen` is a loopback address.
    pub names: Vec<DnsName>,
    /// Where the admin server listens.
    pub admin: SocketAddr,
    /// The names that identities and services are built from.
    pub mesh: MeshNames,
    /// What the `cluster-*` policies admit.
    pub cluster_networks: Vec<IpNet>,
    /// The policy of ports that no manifest speaks of.
    pub default_policy: DefaultPolicy,
    /// Ports that are opaque unless a manifest says otherwise.
    pub opaque_ports: BTreeSet<NonZeroU16>,
    /// How endpoints in the asker's own zone are weighted.
    pub zone_weights: ZoneWeights,
    /// An authority that something else maintains, whose files are read again when they change; `None`: one of
    /// our own, in the state directory.
    pub issuer: Option<IssuerFiles>,
    /// How long issued certificates live.
    pub issuance_lifetime: Duration,
    /// Connections at once.
    pub connections: usize,
    /// Of these, from one address.
    pub connections_per_source: usize,
    /// Streams at once.
    pub streams: StreamLimits,
}
