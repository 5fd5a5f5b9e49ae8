//! What a control plane is told. The command line fills it; nothing here reads the environment.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use weft_identity::authority::IssuerFiles;
use weft_index::Config;
use weft_model::name::DnsName;
use weft_serve::StreamLimits;

/// What a control plane is told.
#[derive(Clone, Debug, PartialEq)]
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
    /// What the whole mesh agrees on: names, networks, defaults.
    pub config: Config,
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
