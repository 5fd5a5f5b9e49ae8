//! What a proxy is told: every setting, once, and the typed [`Settings`] that the rest obeys.
//!
//! [`SETTINGS`] names each setting with its grammar, unit, default, documentation and, for limits, what
//! happens beyond them. [`Values::resolve`] picks a text for each from flags, environment, configuration
//! file and join file; [`Settings::from_values`] turns the texts into types. Called by the binary once at
//! start and by the documentation generator. Reads neither the environment nor any file itself.

mod build;
pub mod file;
pub mod grammar;
mod table;
pub mod values;
pub mod workers;

pub use grammar::Kind;
pub use table::{Beyond, LIMIT_METRIC, NOT_OBEYED, Origin, SETTINGS, Setting};
pub use values::{Inputs, SettingError, Source, Value, Values, Warning};

use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;
use weft_model::address::{Addr, NameAddr};
use weft_model::destination::{Http2Params, KeepAlive, Windows};
use weft_model::identity::Id;
use weft_model::name::{DnsName, Suffixes};
use weft_model::policy::DefaultPolicy;
use weft_model::reason::Hop;
use weft_model::route::{Backoff, Queue};
use weft_net::socket::SocketOptions;
use weft_telemetry::log::Format;

/// Everything a proxy is told, typed and checked. Plain data; it never changes while the process runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens for redirected connections, and for its operator.
    pub listeners: Listeners,
    /// The forward-proxy listener, if there is one.
    pub forward_proxy: Option<ForwardProxy>,
    /// Explicit outbound listeners, each for one destination.
    pub upstreams: Vec<Upstream>,
    /// Explicit inbound listeners, each for one port of the application.
    pub inbound_binds: Vec<InboundBind>,
    /// Obeyed towards the application.
    pub inbound: Direction,
    /// Obeyed away from the application.
    pub outbound: Direction,
    /// Whose requests it carries.
    pub mode: Mode,
    /// Whether synthesized outbound responses say why.
    pub informational_headers: InformationalHeaders,
    /// Who may use an inbound port when the control plane has not said.
    pub inbound_policy: InboundDefaults,
    /// How destinations are looked up.
    pub discovery: Discovery,
    /// The control plane.
    pub control: Control,
    /// Who this proxy is.
    pub identity: Identity,
    /// How it ends.
    pub shutdown: Shutdown,
    /// What it logs.
    pub log: Log,
    /// What it measures.
    pub metrics: Metrics,
    /// Bounds that belong to neither direction alone.
    pub limits: Limits,
    /// Bounds on the number of worker threads.
    pub cores: Cores,
}

impl Settings {
    /// The settings of one direction.
    pub fn direction(&self, hop: Hop) -> &Direction {
        match hop {
            Hop::Inbound => &self.inbound,
            Hop::Outbound => &self.outbound,
        }
    }
}

/// The listeners that every proxy has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listeners {
    /// Outbound: one, or one per address family. Never empty.
    pub outbound: Vec<SocketAddr>,
    /// Inbound; its port is also where meshed peers connect with a transport header.
    pub inbound: SocketAddr,
    /// `/live`, `/ready`, `/metrics` and the rest.
    pub admin: SocketAddr,
}

/// A listener that speaks the forward-proxy forms of HTTP (absolute form and CONNECT).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardProxy {
    /// Where it listens. A loopback address unless remote clients are allowed.
    pub listen: SocketAddr,
    /// Who may use it.
    pub clients: ForwardClients,
}

/// Who may use the forward-proxy listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardClients {
    /// Connections from this host.
    Local,
    /// Everybody who can reach it.
    Remote,
}

/// An outbound listener for one destination: `127.0.0.1:9001=books.default.svc.cluster.local:80`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Where the application connects.
    pub listen: SocketAddr,
    /// What it means by that.
    pub dst: NameAddr,
}

/// An inbound listener for one port of the application: `10.0.0.7:8080=127.0.0.1:8080`. What arrives is
/// served as if it had been redirected on its way to `listen`'s port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundBind {
    /// Where clients connect; its port is the one that policies name.
    pub listen: SocketAddr,
    /// Where the application listens.
    pub app: SocketAddr,
}

/// What one direction obeys.
#[derive(Clone, Debug, PartialEq)]
pub struct Direction {
    /// Longest look at the first bytes of a connection, TLS handshake included.
    pub detect_timeout: Duration,
    /// Limit of TCP connect and TLS handshake together.
    pub connect_timeout: Duration,
    /// Waits between connection attempts to an endpoint.
    pub connect_backoff: Backoff,
    /// Options of accepted connections and their listener.
    pub accept: SocketOptions,
    /// Options of connections made.
    pub connect: SocketOptions,
    /// How long a pooled HTTP/1 connection may stay unused.
    pub pool_idle_timeout: Duration,
    /// HTTP/1 connections kept per endpoint.
    pub pool_max_idle: usize,
    /// HTTP requests served at a time; more are refused at once.
    pub max_in_flight: usize,
    /// The waiting room of each HTTP backend.
    pub queue: Queue,
    /// How long an unused discovery answer is kept.
    pub discovery_idle_timeout: Duration,
    /// HTTP/1 towards clients.
    pub http1_server: Http1Server,
    /// HTTP/2 towards clients.
    pub http2_server: Http2Server,
    /// HTTP/2 towards endpoints, where discovery says nothing else.
    pub http2_client: Http2Params,
    /// How long a body of declared length may bring next to nothing; zero is no limit.
    pub request_body_timeout: Duration,
    /// How long a receiver may take nothing that waits for it; zero is no limit.
    pub stall_timeout: Duration,
    /// Connections served at a time per listener; beyond it the listener pauses.
    pub max_connections: usize,
    /// Connections served at a time per client address; more are closed at once.
    pub max_connections_per_source: usize,
    /// Bytes read ahead or waiting to be written per connection.
    pub max_buffered_bytes: usize,
}

/// HTTP/1 server parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http1Server {
    /// From the first byte of a request head to its last.
    pub header_read_timeout: Duration,
    /// How long a kept-alive connection may wait for its next request.
    pub idle_timeout: Duration,
    /// Bytes of a request head; more is answered 431.
    pub max_header_bytes: usize,
    /// Headers of a request; more is answered 431.
    pub max_headers: usize,
}

/// HTTP/2 server parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Server {
    /// Flow control windows.
    pub windows: Windows,
    /// PINGs to clients, if any.
    pub keep_alive: Option<KeepAlive>,
    /// Streams a client may have open on one connection.
    pub max_concurrent_streams: u32,
    /// Largest frame; `None` is the protocol's 16 KiB.
    pub max_frame_size: Option<u32>,
    /// Bytes of a request's header list.
    pub max_header_list_size: u32,
    /// Streams that the client reset before they were accepted; more ends the connection.
    pub max_pending_accept_reset_streams: usize,
    /// Streams reset by us because of the client's errors; more ends the connection.
    pub max_local_error_reset_streams: usize,
    /// Bytes buffered for sending per stream.
    pub max_send_buf_size: usize,
    /// RST_STREAM frames a second from one connection; more ends it.
    pub max_resets_per_second: u32,
    /// PING and SETTINGS frames a second from one connection; more ends it.
    pub max_pings_per_second: u32,
}

/// What holds on inbound ports until the control plane has spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundDefaults {
    /// The policy.
    pub policy: DefaultPolicy,
    /// The networks that `cluster-*` policies mean.
    pub cluster_networks: Vec<IpNet>,
    /// Ports whose policy is watched from the start and never dropped.
    pub ports: BTreeSet<NonZeroU16>,
    /// Ports that are opaque until the control plane says otherwise.
    pub opaque_ports: BTreeSet<NonZeroU16>,
    /// Names to which this proxy carries on what meshed peers ask for.
    pub gateway: Suffixes,
    /// Addresses this proxy serves; empty means all.
    pub ips: BTreeSet<IpAddr>,
}

/// How destinations are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// Names that may have a profile or policy.
    pub profile_suffixes: Suffixes,
    /// Addresses that may have a profile or policy.
    pub profile_networks: Vec<IpNet>,
    /// How long a request waits for the first answer about its destination.
    pub first_answer_timeout: Duration,
    /// Sent with every destination request, so that the control plane knows who asks.
    pub context_token: String,
    /// Sent with every policy request.
    pub policy_workload: String,
}

/// The control plane's services and how they are talked to.
#[derive(Clone, Debug, PartialEq)]
pub struct Control {
    /// Endpoints and profiles.
    pub destination: Controller,
    /// Inbound and outbound policies.
    pub policy: Controller,
    /// Certificates.
    pub identity: Controller,
    /// Limits of watch streams; [`Control::stream_limits`] applies the exception for local controllers.
    pub streams: StreamLimits,
    /// Bounds of every control-plane channel.
    pub channel: ControlChannel,
    /// Clamp on how long names of controllers are believed.
    pub dns_min_ttl: Option<Duration>,
    /// As above.
    pub dns_max_ttl: Option<Duration>,
}

impl Control {
    /// The limits of watch streams to `controller`: none where it is on a loopback address (§1.4).
    pub fn stream_limits(&self, controller: &Controller) -> StreamLimits {
        if controller.addr.is_loopback() { StreamLimits::default() } else { self.streams }
    }
}

/// One service of the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// Where it is.
    pub addr: Addr,
    /// The identity it must prove; `None` (loopback only) means plaintext.
    pub name: Option<Id>,
}

/// Limits of watch streams; `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamLimits {
    /// Until the first message.
    pub initial: Option<Duration>,
    /// Between messages.
    pub idle: Option<Duration>,
    /// Of the whole stream.
    pub lifetime: Option<Duration>,
}

/// Bounds of a control-plane channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ControlChannel {
    /// Limit of TCP connect and TLS handshake together.
    pub connect_timeout: Duration,
    /// PINGs; an unanswered one ends the connection.
    pub keep_alive: KeepAlive,
    /// Waits between connection attempts.
    pub backoff: Backoff,
    /// Requests that may wait for the channel.
    pub queue_capacity: usize,
    /// How long one may wait.
    pub dispatch_timeout: Duration,
    /// HTTP/2 windows and sizes.
    pub http2: Http2Params,
}

/// Who this proxy is and where that is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its own identity.
    pub id: Id,
    /// The name peers reach it by over TLS.
    pub server_name: DnsName,
    /// Trust anchors, PEM. Not empty.
    pub anchors_pem: String,
    /// Where the first certificate comes from.
    pub source: IdentitySource,
    /// Least wait before a certificate is renewed.
    pub min_refresh: Duration,
    /// Longest wait before a certificate is renewed.
    pub max_refresh: Duration,
}

/// What proves this proxy's identity to the control plane for the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentitySource {
    /// A join file; the key is made in memory.
    JoinFile(PathBuf),
    /// A directory with `key.p8` and `csr.der`, and a file with a bearer token.
    Files {
        /// The directory.
        dir: PathBuf,
        /// The token, read again before each use.
        token: PathBuf,
    },
}

/// How the proxy ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// Longest drain.
    pub grace: Duration,
    /// Whether `POST /shutdown` works (for local clients).
    pub endpoint: ShutdownEndpoint,
}

/// Whether `POST /shutdown` works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownEndpoint {
    /// It is answered 404.
    Off,
    /// Local clients may use it.
    On,
}

/// What is logged and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A tracing filter, or `off`.
    pub filter: String,
    /// The shape of a line.
    pub format: Format,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// How long an unused series stays in the scrape.
    pub retain_idle: Duration,
    /// Series kept per family; more share one overflow series.
    pub max_series: usize,
}

/// Whose requests a proxy carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// An application's, by the addresses that it connects to.
    Sidecar,
    /// An ingress's, which names a destination in a header of each request.
    Ingress,
}

/// Whether synthesized outbound responses say why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InformationalHeaders {
    /// `l5d-proxy-error`, `l5d-proxy-connection` and `grpc-message` are left out.
    Suppressed,
    /// They are sent.
    Sent,
}

/// Bounds that belong to neither direction alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Destinations known at a time; the least recently used idle one goes.
    pub discovery_entries: usize,
    /// Destinations that one client connection may use.
    pub destinations_per_connection: usize,
    /// Bytes of one request kept for a retry.
    pub retry_body_bytes: usize,
    /// Connections to the admin server.
    pub admin_connections: usize,
    /// Pause of a listener when the process has no file descriptor left.
    pub accept_pause: Duration,
}

/// Bounds on the number of worker threads; see [`workers::count`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cores {
    /// At least so many.
    pub min: Option<usize>,
    /// At most so many.
    pub max: Option<usize>,
    /// Share of the available processors, in (0, 1].
    pub max_ratio: Option<f64>,
}
