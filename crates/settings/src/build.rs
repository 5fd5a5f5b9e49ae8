//! Texts to types: [`Settings::from_values`].
//!
//! Called by the binary once the texts are resolved. Each text was checked against its grammar already;
//! what is checked here is how settings go together. Collects every mistake before it gives up.

use super::*;
use crate::grammar::{self as read};
use std::str::FromStr;
use weft_model::duration;

impl Settings {
    /// Makes types of the texts in force and checks how they go together.
    ///
    /// # Errors
    /// All mistakes at once, each naming its setting and what would be accepted.
    pub fn from_values(values: &Values) -> Result<Settings, Vec<SettingError>> {
        Self::read(&mut Reader::new(values))
    }

    fn read(r: &mut Reader<'_>) -> Result<Settings, Vec<SettingError>> {
        let listeners = listeners(r);
        let forward_proxy = forward_proxy(r);
        let upstreams = r.list("UPSTREAM", read::upstreams);
        let inbound_binds = r.list("INBOUND", read::inbound_binds);
        let control = control(r);
        let identity = identity(r);
        let (inbound, outbound) = (direction(r, Towards::Application), direction(r, Towards::Endpoints));
        let inbound_policy = inbound_policy(r, listeners.admin.port());
        let discovery = discovery(r);
        let (shutdown, log) = (shutdown(r), log(r));
        let (metrics, limits, cores) = (metrics(r), limits(r), cores(r));
        let mode = r.choice("INGRESS_MODE", Mode::Sidecar, Mode::Ingress);
        let headers_off = "OUTBOUND_DISABLE_INFORMATIONAL_HEADERS";
        let informational_headers = match r.with(headers_off, read::switch) {
            // Who asks an ingress is a stranger.
            None if mode == Mode::Ingress => InformationalHeaders::Suppressed,
            Some(true) => InformationalHeaders::Suppressed,
            Some(false) | None => InformationalHeaders::Sent,
        };
        addresses_differ(r, (&listeners, forward_proxy.as_ref()), (&upstreams, &inbound_binds));
        let (Some(control), Some(identity), true) = (control, identity, r.errors.is_empty()) else {
            return Err(std::mem::take(&mut r.errors));
        };
        Ok(Settings {
            listeners,
            forward_proxy,
            upstreams,
            inbound_binds,
            inbound,
            outbound,
            mode,
            informational_headers,
            inbound_policy,
            discovery,
            control,
            identity,
            shutdown,
            log,
            metrics,
            limits,
            cores,
        })
    }
}

/// Reads values by name and keeps the mistakes.
struct Reader<'a> {
    values: &'a Values,
    errors: Vec<SettingError>,
    /// What was asked for, so that a test can tell whether each setting is obeyed by something.
    read: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    fn new(values: &'a Values) -> Self {
        Self { values, errors: Vec::new(), read: BTreeSet::new() }
    }

    fn value(&mut self, name: &str) -> Option<&'a Value> {
        self.read.insert(name.to_owned());
        self.values.find(name)
    }

    fn text(&mut self, name: &str) -> Option<&'a str> {
        self.value(name)?.text.as_deref()
    }

    /// Whether anybody set it.
    fn is_set(&mut self, name: &str) -> bool {
        self.value(name).is_some_and(|v| v.source != Source::Default)
    }

    fn with<T>(&mut self, name: &str, parse: impl FnOnce(&'a str) -> Option<T>) -> Option<T> {
        self.text(name).and_then(parse)
    }

    fn parsed<T: FromStr>(&mut self, name: &str) -> Option<T> {
        self.with(name, |text| text.parse().ok())
    }

    fn maybe_duration(&mut self, name: &str) -> Option<Duration> {
        self.with(name, duration::parse)
    }

    /// A duration that has a default.
    fn duration(&mut self, name: &str) -> Duration {
        self.maybe_duration(name).unwrap_or_default()
    }

    fn maybe_size(&mut self, name: &str) -> Option<usize> {
        self.with(name, |text| text.parse::<u64>().ok()).map(|n| n.try_into().unwrap_or(usize::MAX))
    }

    /// A number that has a default.
    fn size(&mut self, name: &str) -> usize {
        self.maybe_size(name).unwrap_or_default()
    }

    /// The same, of at most 32 bits.
    fn narrow(&mut self, name: &str) -> u32 {
        self.parsed(name).unwrap_or_default()
    }

    fn list<T>(&mut self, name: &str, parse: impl FnOnce(&'a str) -> Option<Vec<T>>) -> Vec<T> {
        self.with(name, parse).unwrap_or_default()
    }

    /// One of two, by a switch.
    fn choice<T>(&mut self, name: &str, off: T, on: T) -> T {
        if self.with(name, read::switch) == Some(true) { on } else { off }
    }

    fn path(&mut self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    fn missing(&mut self, name: &'static str, why: &'static str) {
        let accepted = self.value(name).map(|v| v.setting.kind.accepted()).unwrap_or_default();
        self.errors.push(SettingError::Missing { name, accepted, why });
    }

    fn conflict(&mut self, name: &str, problem: impl Into<String>, accepted: impl Into<String>) {
        let Some(value) = self.value(name) else { return };
        self.errors.push(SettingError::Conflict {
            name: value.setting.name,
            problem: problem.into(),
            source_text: value.source.to_string(),
            accepted: accepted.into(),
        });
    }
}

fn listeners(r: &mut Reader<'_>) -> Listeners {
    let unset = SocketAddr::from(([127, 0, 0, 1], 0));
    let single = r.parsed("OUTBOUND_LISTEN_ADDR").unwrap_or(unset);
    Listeners {
        outbound: r.with("OUTBOUND_LISTEN_ADDRS", read::sockets).unwrap_or_else(|| vec![single]),
        inbound: r.parsed("INBOUND_LISTEN_ADDR").unwrap_or(unset),
        admin: r.parsed("ADMIN_LISTEN_ADDR").unwrap_or(unset),
    }
}

fn forward_proxy(r: &mut Reader<'_>) -> Option<ForwardProxy> {
    let clients = r.choice("ALLOW_REMOTE_CLIENTS", ForwardClients::Local, ForwardClients::Remote);
    let listen: SocketAddr = r.parsed("FORWARD_PROXY_LISTEN_ADDR")?;
    if clients == ForwardClients::Local && !listen.ip().to_canonical().is_loopback() {
        let problem = format!("{listen} is reachable from other hosts");
        r.conflict(
            "FORWARD_PROXY_LISTEN_ADDR",
            problem,
            "a loopback address, or ALLOW_REMOTE_CLIENTS as well",
        );
    }
    Some(ForwardProxy { listen, clients })
}

/// Which direction's settings to read.
#[derive(Clone, Copy, PartialEq)]
enum Towards {
    Application,
    Endpoints,
}

fn direction(r: &mut Reader<'_>, towards: Towards) -> Direction {
    let dir = match towards {
        Towards::Application => "INBOUND",
        Towards::Endpoints => "OUTBOUND",
    };
    let of = |name: &str| format!("{dir}_{name}");
    let queue = Queue {
        capacity: r.size(&of("HTTP_QUEUE_CAPACITY")),
        failfast: r.duration(&of("HTTP_FAILFAST_TIMEOUT")),
    };
    let pool_max_idle = match towards {
        Towards::Application => r.size("MAX_IDLE_CONNS_PER_ENDPOINT"),
        Towards::Endpoints => r.size("OUTBOUND_MAX_IDLE_CONNS_PER_ENDPOINT"),
    };
    Direction {
        detect_timeout: r.duration(&of("DETECT_TIMEOUT")),
        connect_timeout: r.duration(&of("CONNECT_TIMEOUT")),
        connect_backoff: backoff(r, &of("CONNECT_EXP_BACKOFF")),
        accept: SocketOptions {
            keepalive: r.maybe_duration(&of("ACCEPT_KEEPALIVE")),
            user_timeout: r.maybe_duration(&of("ACCEPT_USER_TIMEOUT")),
            backlog: r.parsed(&of("TCP_LISTEN_BACKLOG")),
        },
        connect: SocketOptions {
            keepalive: r.maybe_duration(&of("CONNECT_KEEPALIVE")),
            user_timeout: r.maybe_duration(&of("CONNECT_USER_TIMEOUT")),
            backlog: None,
        },
        pool_idle_timeout: r.duration(&of("HTTP1_CONNECTION_POOL_IDLE_TIMEOUT")),
        pool_max_idle,
        max_in_flight: r.size(&of("MAX_IN_FLIGHT")),
        queue,
        discovery_idle_timeout: r.duration(&of("DISCOVERY_IDLE_TIMEOUT")),
        http1_server: Http1Server {
            header_read_timeout: r.duration(&of("HTTP1_HEADER_READ_TIMEOUT")),
            idle_timeout: r.duration(&of("HTTP1_IDLE_TIMEOUT")),
            max_header_bytes: r.size(&of("HTTP1_MAX_HEADER_BYTES")),
            max_headers: r.size(&of("HTTP1_MAX_HEADERS")),
        },
        http2_server: http2_server(r, dir),
        http2_client: http2_client(r),
        request_body_timeout: r.duration(&of("REQUEST_BODY_TIMEOUT")),
        stall_timeout: r.duration(&of("STALL_TIMEOUT")),
        max_connections: r.size(&of("MAX_CONNECTIONS")),
        max_connections_per_source: r.size(&of("MAX_CONNECTIONS_PER_SOURCE")),
        max_buffered_bytes: r.size(&of("MAX_BUFFERED_BYTES")),
    }
}

/// A backoff under `prefix`. If the operator set any part of it, MIN and MAX must be among them, and the
/// jitter is 0 unless set (§1.3).
fn backoff(r: &mut Reader<'_>, prefix: &str) -> Backoff {
    let [min, max, jitter] = ["MIN", "MAX", "JITTER"].map(|part| format!("{prefix}_{part}"));
    let (set_min, set_max, set_jitter) = (r.is_set(&min), r.is_set(&max), r.is_set(&jitter));
    let mut backoff = Backoff {
        min: r.duration(&min),
        max: r.duration(&max),
        jitter: r.with(&jitter, |text| read::fraction(text, 0.0, 100.0)).unwrap_or_default(),
    };
    if (set_min || set_max) && !set_jitter {
        backoff.jitter = 0.0;
    }
    if (set_min || set_max || set_jitter) && !(set_min && set_max) {
        let lacking = if set_min { &max } else { &min };
        r.conflict(
            lacking,
            "not set, while another part of the same backoff is",
            "both MIN and MAX, or neither",
        );
    } else if backoff.max < backoff.min || backoff.max.is_zero() {
        r.conflict(&max, "it is less than MIN or 0", format!("at least {min}, and more than 0"));
    }
    backoff
}

fn http2_server(r: &mut Reader<'_>, dir: &str) -> Http2Server {
    let of = |name: &str| format!("{dir}_SERVER_HTTP2_{name}");
    let fixed =
        (r.parsed(&of("INITIAL_STREAM_WINDOW_SIZE")), r.parsed(&of("INITIAL_CONNECTION_WINDOW_SIZE")));
    let windows = match fixed {
        _ if r.with(&of("ADAPTIVE_FLOW_CONTROL"), read::switch) == Some(true) => Windows::Adaptive,
        (Some(stream), Some(connection)) => Windows::Fixed { stream, connection },
        _ => Windows::Fixed { stream: 65_535, connection: 1_048_576 },
    };
    let pings = (
        r.maybe_duration(&of("KEEP_ALIVE_INTERVAL")).filter(|d| !d.is_zero()),
        r.maybe_duration(&of("KEEP_ALIVE_TIMEOUT")),
    );
    let keep_alive = match pings {
        (Some(interval), Some(timeout)) => Some(KeepAlive { interval, timeout, while_idle: false }),
        _ => None,
    };
    Http2Server {
        windows,
        keep_alive,
        max_concurrent_streams: r.narrow(&of("MAX_CONCURRENT_STREAMS")),
        max_frame_size: r.parsed(&of("MAX_FRAME_SIZE")),
        max_header_list_size: r.narrow(&of("MAX_HEADER_LIST_SIZE")),
        max_pending_accept_reset_streams: r.size(&of("MAX_PENDING_ACCEPT_RESET_STREAMS")),
        max_local_error_reset_streams: r.size("HTTP2_MAX_LOCAL_ERROR_RESET_STREAMS"),
        max_send_buf_size: r.size(&of("MAX_SEND_BUF_SIZE")),
        max_resets_per_second: r.narrow("HTTP2_MAX_RESETS_PER_SECOND"),
        max_pings_per_second: r.narrow("HTTP2_MAX_PINGS_PER_SECOND"),
    }
}

fn http2_client(r: &mut Reader<'_>) -> Http2Params {
    let windows = Windows::Fixed {
        stream: r.narrow("HTTP2_INITIAL_STREAM_WINDOW_SIZE"),
        connection: r.narrow("HTTP2_INITIAL_CONNECTION_WINDOW_SIZE"),
    };
    Http2Params { windows: Some(windows), ..Http2Params::default() }
}

fn inbound_policy(r: &mut Reader<'_>, admin_port: u16) -> InboundDefaults {
    let cluster_networks = r.list("POLICY_CLUSTER_NETWORKS", read::networks);
    let policy = r
        .with("INBOUND_DEFAULT_POLICY", |text| DefaultPolicy::parse(&text.to_ascii_lowercase()))
        .unwrap_or(DefaultPolicy::Deny);
    let everywhere =
        [DefaultPolicy::Deny, DefaultPolicy::AllAuthenticated, DefaultPolicy::AllUnauthenticated];
    if cluster_networks.is_empty() && !everywhere.contains(&policy) {
        let problem = format!("`{}` needs POLICY_CLUSTER_NETWORKS", policy.name());
        let accepted = "`deny`, `all-authenticated`, `all-unauthenticated`, or cluster networks as well";
        r.conflict("INBOUND_DEFAULT_POLICY", problem, accepted);
    }
    let mut ports = r.with("INBOUND_PORTS", read::ports).unwrap_or_default();
    ports.extend(NonZeroU16::new(admin_port));
    InboundDefaults {
        policy,
        cluster_networks,
        ports,
        opaque_ports: r.with("INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION", read::ports).unwrap_or_default(),
        gateway: Suffixes::parse(r.text("INBOUND_GATEWAY_SUFFIXES").unwrap_or_default()),
        ips: r.with("INBOUND_IPS", read::ips).unwrap_or_default(),
    }
}

fn discovery(r: &mut Reader<'_>) -> Discovery {
    let policy_workload = r.text("POLICY_WORKLOAD").unwrap_or_default().to_owned();
    if policy_workload.is_empty() {
        r.missing("POLICY_WORKLOAD", ", or WORKLOAD instead");
    }
    Discovery {
        profile_suffixes: Suffixes::parse(r.text("DESTINATION_PROFILE_SUFFIXES").unwrap_or_default()),
        profile_networks: r.list("DESTINATION_PROFILE_NETWORKS", read::networks),
        first_answer_timeout: r.duration("DISCOVERY_TIMEOUT"),
        context_token: r.text("DESTINATION_CONTEXT").unwrap_or_default().to_owned(),
        policy_workload,
    }
}

fn control(r: &mut Reader<'_>) -> Option<Control> {
    let destination = controller(r, "DESTINATION_SVC_ADDR", "DESTINATION_SVC_NAME");
    let policy = controller(r, "POLICY_SVC_ADDR", "POLICY_SVC_NAME");
    let identity = controller(r, "IDENTITY_SVC_ADDR", "IDENTITY_SVC_NAME");
    let streams = stream_limits(r);
    let channel = control_channel(r);
    let (dns_min_ttl, dns_max_ttl) = (r.maybe_duration("DNS_MIN_TTL"), r.maybe_duration("DNS_MAX_TTL"));
    if dns_min_ttl.zip(dns_max_ttl).is_some_and(|(min, max)| max < min) {
        r.conflict("DNS_MAX_TTL", "it is less than DNS_MIN_TTL", "at least DNS_MIN_TTL");
    }
    let (destination, policy, identity) = (destination?, policy?, identity?);
    Some(Control { destination, policy, identity, streams, channel, dns_min_ttl, dns_max_ttl })
}

fn controller(r: &mut Reader<'_>, addr_name: &'static str, id_name: &'static str) -> Option<Controller> {
    let id = r.with(id_name, read::identity);
    let Some(addr) = r.parsed::<Addr>(addr_name) else {
        r.missing(addr_name, ", or JOIN_FILE instead");
        return None;
    };
    if addr.is_loopback() && !r.is_set(id_name) {
        return Some(Controller { addr, name: None });
    }
    if id.is_none() {
        r.missing(id_name, ", because the controller is not on loopback");
    }
    Some(Controller { addr, name: id })
}

fn stream_limits(r: &mut Reader<'_>) -> StreamLimits {
    let names = ["CONTROL_STREAM_INITIAL_TIMEOUT", "CONTROL_STREAM_IDLE_TIMEOUT", "CONTROL_STREAM_LIFETIME"];
    let [initial, idle, lifetime] = names.map(|name| r.with(name, read::optional_duration).flatten());
    let exceeds = |a: Option<Duration>, b: Option<Duration>| a.zip(b).is_some_and(|(a, b)| a > b);
    if exceeds(initial, idle) || exceeds(initial, lifetime) {
        r.conflict(
            names[0],
            "it is longer than the idle timeout or the lifetime",
            "initial ≤ idle ≤ lifetime",
        );
    }
    if exceeds(idle, lifetime) {
        r.conflict(names[1], "it is longer than the lifetime", "initial ≤ idle ≤ lifetime");
    }
    StreamLimits { initial, idle, lifetime }
}

fn control_channel(r: &mut Reader<'_>) -> ControlChannel {
    ControlChannel {
        connect_timeout: r.duration("CONTROL_CONNECT_TIMEOUT"),
        keep_alive: KeepAlive {
            interval: r.duration("CONTROL_KEEP_ALIVE_INTERVAL"),
            timeout: r.duration("CONTROL_KEEP_ALIVE_TIMEOUT"),
            while_idle: true,
        },
        backoff: backoff(r, "CONTROL_EXP_BACKOFF"),
        queue_capacity: r.size("CONTROL_QUEUE_CAPACITY"),
        dispatch_timeout: r.duration("CONTROL_DISPATCH_TIMEOUT"),
        http2: http2_client(r),
    }
}

fn identity(r: &mut Reader<'_>) -> Option<Identity> {
    if r.text("IDENTITY_DISABLED").is_some_and(|text| !text.is_empty()) {
        r.conflict("IDENTITY_DISABLED", "identity cannot be turned off", "that it is not set");
    }
    let names = names(r);
    let source = identity_source(r);
    let anchors_pem = r.text("IDENTITY_TRUST_ANCHORS").map(str::to_owned);
    if anchors_pem.is_none() {
        r.missing("IDENTITY_TRUST_ANCHORS", ", or JOIN_FILE instead");
    }
    let (min_refresh, max_refresh) = (r.duration("IDENTITY_MIN_REFRESH"), r.duration("IDENTITY_MAX_REFRESH"));
    if max_refresh < min_refresh {
        r.conflict(
            "IDENTITY_MAX_REFRESH",
            "it is less than IDENTITY_MIN_REFRESH",
            "at least IDENTITY_MIN_REFRESH",
        );
    }
    let (id, server_name) = names?;
    Some(Identity { id, server_name, anchors_pem: anchors_pem?, source: source?, min_refresh, max_refresh })
}

fn names(r: &mut Reader<'_>) -> Option<(Id, DnsName)> {
    let both = r.parsed::<DnsName>("IDENTITY_LOCAL_NAME");
    let (id, name) = (r.with("IDENTITY_SERVER_ID", read::identity), r.parsed("IDENTITY_SERVER_NAME"));
    if let Some(name) = both {
        return Some((Id::Dns(name.clone()), name));
    }
    if id.is_none() {
        r.missing("IDENTITY_SERVER_ID", ", or IDENTITY_LOCAL_NAME or JOIN_FILE instead");
    }
    if name.is_none() {
        r.missing("IDENTITY_SERVER_NAME", ", or IDENTITY_LOCAL_NAME or JOIN_FILE instead");
    }
    let (id, name) = (id?, name?);
    if id != Id::Dns(name) {
        r.conflict(
            "IDENTITY_SERVER_ID",
            "it differs from IDENTITY_SERVER_NAME",
            "the same DNS name as there",
        );
        return None;
    }
    match id {
        Id::Dns(name) => Some((Id::Dns(name.clone()), name)),
        Id::Uri(_) => None,
    }
}

fn identity_source(r: &mut Reader<'_>) -> Option<IdentitySource> {
    let join = r.path("JOIN_FILE");
    match (r.path("IDENTITY_DIR"), r.path("IDENTITY_TOKEN_FILE"), join) {
        (Some(dir), Some(token), _) => Some(IdentitySource::Files { dir, token }),
        (None, None, Some(join)) => Some(IdentitySource::JoinFile(join)),
        (dir, token, _) => {
            if dir.is_none() {
                r.missing("IDENTITY_DIR", ", or JOIN_FILE instead");
            }
            if token.is_none() {
                r.missing("IDENTITY_TOKEN_FILE", ", or JOIN_FILE instead");
            }
            None
        }
    }
}

fn shutdown(r: &mut Reader<'_>) -> Shutdown {
    Shutdown {
        grace: r.duration("SHUTDOWN_GRACE_PERIOD"),
        endpoint: r.choice("SHUTDOWN_ENDPOINT_ENABLED", ShutdownEndpoint::Off, ShutdownEndpoint::On),
    }
}

fn log(r: &mut Reader<'_>) -> Log {
    Log {
        filter: r.text("LOG").unwrap_or_default().to_owned(),
        format: r.with("LOG_FORMAT", Format::parse).unwrap_or_default(),
    }
}

fn metrics(r: &mut Reader<'_>) -> Metrics {
    Metrics { retain_idle: r.duration("METRICS_RETAIN_IDLE"), max_series: r.size("METRICS_MAX_SERIES") }
}

fn limits(r: &mut Reader<'_>) -> Limits {
    Limits {
        discovery_entries: r.size("DISCOVERY_MAX_ENTRIES"),
        destinations_per_connection: r.size("MAX_DESTINATIONS_PER_CONNECTION"),
        retry_body_bytes: r.size("RETRY_MAX_BODY_BYTES"),
        admin_connections: r.size("ADMIN_MAX_CONNECTIONS"),
        accept_pause: r.duration("ACCEPT_PAUSE"),
    }
}

fn cores(r: &mut Reader<'_>) -> Cores {
    let older = r.maybe_size("CORES");
    Cores {
        min: r.maybe_size("CORES_MIN").or(older),
        max: r.maybe_size("CORES_MAX"),
        max_ratio: r.parsed("CORES_MAX_RATIO"),
    }
}

/// No two listeners share an address, and no explicit inbound listener leads back into this proxy.
fn addresses_differ(
    r: &mut Reader<'_>,
    (listeners, forward): (&Listeners, Option<&ForwardProxy>),
    (upstreams, binds): (&[Upstream], &[InboundBind]),
) {
    let outbound =
        if r.is_set("OUTBOUND_LISTEN_ADDRS") { "OUTBOUND_LISTEN_ADDRS" } else { "OUTBOUND_LISTEN_ADDR" };
    let mut own: Vec<(&str, SocketAddr)> = listeners.outbound.iter().map(|a| (outbound, *a)).collect();
    own.push(("INBOUND_LISTEN_ADDR", listeners.inbound));
    own.push(("ADMIN_LISTEN_ADDR", listeners.admin));
    own.extend(forward.map(|f| ("FORWARD_PROXY_LISTEN_ADDR", f.listen)));
    own.extend(upstreams.iter().map(|u| ("UPSTREAM", u.listen)));
    let elsewhere = own.clone();
    own.extend(binds.iter().map(|b| ("INBOUND", b.listen)));
    for (i, (name, addr)) in own.iter().enumerate() {
        let twice = own.iter().take(i).find(|(_, other)| other == addr && addr.port() != 0);
        if let Some((other, _)) = twice {
            r.conflict(name, format!("{addr} is also {other}'s address"), "an address of its own");
        }
    }
    for bind in binds {
        let app = bind.app;
        let mine = |(_, own): &&(&str, SocketAddr)| {
            own.port() == app.port() && (own.ip() == app.ip() || own.ip().is_unspecified())
        };
        if let Some((other, _)) = elsewhere.iter().find(mine) {
            r.conflict("INBOUND", format!("{app} is this proxy's own {other}"), "the application's address");
        } else if binds.iter().any(|b| b.listen == app) {
            r.conflict("INBOUND", format!("{app} leads back to this proxy"), "the application's address");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SETTINGS;
    use crate::values::tests::values;

    const PEM: &str = "-----BEGIN CERTIFICATE-----";

    /// What every proxy must be told, without a join file.
    const REQUIRED: &[(&str, &str)] = &[
        ("LINKERD2_PROXY_DESTINATION_SVC_ADDR", "dst.linkerd:8086"),
        ("LINKERD2_PROXY_DESTINATION_SVC_NAME", "dst.id"),
        ("LINKERD2_PROXY_POLICY_SVC_ADDR", "localhost.:8090"),
        ("LINKERD2_PROXY_POLICY_WORKLOAD", "default:web-1"),
        ("LINKERD2_PROXY_IDENTITY_SVC_ADDR", "127.0.0.1:8080"),
        ("LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS", PEM),
        ("LINKERD2_PROXY_IDENTITY_LOCAL_NAME", "web.default"),
        ("LINKERD2_PROXY_IDENTITY_DIR", "/id"),
        ("LINKERD2_PROXY_IDENTITY_TOKEN_FILE", "/token"),
    ];

    fn settings(more: &[(&str, &str)]) -> Result<Settings, Vec<SettingError>> {
        Settings::from_values(&values(&[REQUIRED, more].concat()).unwrap())
    }

    #[track_caller]
    fn refused(more: &[(&str, &str)], expected: &[&str]) {
        let errors = settings(more).unwrap_err();
        assert_eq!(errors.iter().map(SettingError::name).collect::<Vec<_>>(), expected, "{errors:?}");
        assert!(errors.iter().all(|e| e.to_string().contains("expected ")), "{errors:?}");
    }

    #[test]
    fn each_setting_is_read_by_something() {
        let values = values(REQUIRED).unwrap();
        let mut reader = Reader::new(&values);
        Settings::read(&mut reader).unwrap();
        let elsewhere = ["CONFIG", "WORKLOAD", "NODE_NAME"]; // by the binary, and by `derive`
        for setting in SETTINGS {
            let read = reader.read.contains(setting.name);
            assert!(read != elsewhere.contains(&setting.name), "{}", setting.name);
        }
        assert!(reader.read.iter().all(|name| SETTINGS.iter().any(|s| s.name == name)));
    }

    #[test]
    fn defaults_are_the_peers_where_nothing_is_said_otherwise() {
        let s = settings(&[]).unwrap();
        assert_eq!(s.listeners.outbound, ["127.0.0.1:4140".parse().unwrap()]);
        assert_eq!(s.listeners.inbound.to_string(), "0.0.0.0:4143");
        assert_eq!(s.inbound.connect_timeout, Duration::from_millis(300));
        assert_eq!(s.outbound.connect_timeout, Duration::from_secs(1));
        let jittered = |max| Backoff { min: Duration::from_millis(100), max, jitter: 0.1 };
        assert_eq!(s.inbound.connect_backoff, jittered(Duration::from_secs(10)));
        assert_eq!(s.outbound.connect_backoff, jittered(Duration::from_secs(60)));
        assert_eq!(s.inbound.queue.failfast, Duration::from_secs(1));
        assert_eq!(s.inbound.discovery_idle_timeout, Duration::from_secs(90));
        assert_eq!(s.inbound.http2_server.max_concurrent_streams, 200);
        assert_eq!(s.outbound.http2_server.max_header_list_size, 128 * 1024);
        assert_eq!(s.inbound.http2_server.windows, Windows::Fixed { stream: 65_535, connection: 1_048_576 });
        assert_eq!(s.discovery.first_answer_timeout, Duration::from_secs(3));
        assert_eq!(s.limits.discovery_entries, 10_000);
        assert_eq!(s.inbound_policy.policy, DefaultPolicy::AllUnauthenticated);
        assert_eq!(s.inbound_policy.ports, NonZeroU16::new(4191).into_iter().collect());
        assert_eq!(s.shutdown.grace, Duration::from_secs(120));
        assert_eq!((s.forward_proxy, s.cores), (None, Cores::default()));
    }

    #[test]
    fn what_is_required_is_asked_for_all_at_once() {
        let errors = Settings::from_values(&values(&[]).unwrap()).unwrap_err();
        let mut names: Vec<_> = errors.iter().map(SettingError::name).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "DESTINATION_SVC_ADDR",
                "IDENTITY_DIR",
                "IDENTITY_SERVER_ID",
                "IDENTITY_SERVER_NAME",
                "IDENTITY_SVC_ADDR",
                "IDENTITY_TOKEN_FILE",
                "IDENTITY_TRUST_ANCHORS",
                "POLICY_SVC_ADDR",
                "POLICY_WORKLOAD",
            ]
        );
    }

    #[test]
    fn controllers_off_this_host_must_be_named() {
        refused(&[("WEFT_POLICY_SVC_ADDR", "10.0.0.1:8090")], &["POLICY_SVC_NAME"]);
        let s = settings(&[("WEFT_CONTROL_STREAM_LIFETIME", "1h")]).unwrap();
        assert_eq!(s.control.policy.name, None);
        assert_eq!(s.control.destination.name, "dst.id".parse().ok());
        assert_eq!(s.control.stream_limits(&s.control.policy), StreamLimits::default());
        assert!(s.control.stream_limits(&s.control.destination).lifetime.is_some());
    }

    #[test]
    fn a_backoff_is_set_as_a_whole() {
        refused(&[("WEFT_INBOUND_CONNECT_EXP_BACKOFF_MIN", "1s")], &["INBOUND_CONNECT_EXP_BACKOFF_MAX"]);
        refused(&[("WEFT_INBOUND_CONNECT_EXP_BACKOFF_JITTER", "1")], &["INBOUND_CONNECT_EXP_BACKOFF_MIN"]);
        let both = |max| {
            [("WEFT_INBOUND_CONNECT_EXP_BACKOFF_MIN", "1s"), ("WEFT_INBOUND_CONNECT_EXP_BACKOFF_MAX", max)]
        };
        refused(&both("10ms"), &["INBOUND_CONNECT_EXP_BACKOFF_MAX"]);
        let s = settings(&both("2s")).unwrap();
        assert_eq!(s.inbound.connect_backoff.jitter, 0.0);
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        refused(&[("WEFT_INBOUND_DEFAULT_POLICY", "audit")], &["INBOUND_DEFAULT_POLICY"]);
        refused(&[("WEFT_IDENTITY_DISABLED", "true")], &["IDENTITY_DISABLED"]);
        refused(&[("WEFT_IDENTITY_MAX_REFRESH", "1s")], &["IDENTITY_MAX_REFRESH"]);
        refused(&[("WEFT_DNS_MIN_TTL", "2s"), ("WEFT_DNS_MAX_TTL", "1s")], &["DNS_MAX_TTL"]);
        refused(&[("WEFT_FORWARD_PROXY_LISTEN_ADDR", "0.0.0.0:3128")], &["FORWARD_PROXY_LISTEN_ADDR"]);
        refused(
            &[("WEFT_CONTROL_STREAM_INITIAL_TIMEOUT", "2s"), ("WEFT_CONTROL_STREAM_IDLE_TIMEOUT", "1s")],
            &["CONTROL_STREAM_INITIAL_TIMEOUT"],
        );
        refused(&[("WEFT_ADMIN_LISTEN_ADDR", "127.0.0.1:4140")], &["ADMIN_LISTEN_ADDR"]);
    }

    #[test]
    fn related_settings_go_together() {
        let s = settings(&[
            ("WEFT_INBOUND_DEFAULT_POLICY", "audit"),
            ("WEFT_POLICY_CLUSTER_NETWORKS", "10.0.0.0/8"),
            ("WEFT_FORWARD_PROXY_LISTEN_ADDR", "0.0.0.0:3128"),
            ("WEFT_ALLOW_REMOTE_CLIENTS", "true"),
            ("WEFT_OUTBOUND_LISTEN_ADDRS", "127.0.0.1:4140,[::1]:4140"),
            ("WEFT_OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", "1s"),
            ("WEFT_INBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL", "true"),
            ("LINKERD2_PROXY_CORES", "2"),
        ])
        .unwrap();
        assert_eq!(s.inbound_policy.policy, DefaultPolicy::Audit);
        assert_eq!(s.forward_proxy.unwrap().clients, ForwardClients::Remote);
        assert_eq!(s.listeners.outbound.len(), 2);
        assert_eq!(s.outbound.http2_server.keep_alive, None);
        assert_eq!(s.inbound.http2_server.windows, Windows::Adaptive);
        assert_eq!(s.cores.min, Some(2));
    }

    #[test]
    fn an_explicit_listener_does_not_lead_back_into_the_proxy() {
        refused(&[("WEFT_INBOUND", "0.0.0.0:80=127.0.0.1:4143")], &["INBOUND"]);
        refused(&[("WEFT_INBOUND", "0.0.0.0:80=127.0.0.1:4191")], &["INBOUND"]);
        refused(&[("WEFT_INBOUND", "127.0.0.1:80=127.0.0.1:80")], &["INBOUND"]);
        refused(&[("WEFT_UPSTREAM", "127.0.0.1:1=a.b:1,127.0.0.1:1=c.d:1")], &["UPSTREAM"]);
        assert!(settings(&[("WEFT_INBOUND", "0.0.0.0:8080=127.0.0.1:8080")]).is_ok());
    }

    #[test]
    fn the_identity_comes_from_files_or_from_a_join_file() {
        let s = settings(&[]).unwrap();
        assert!(matches!(s.identity.source, IdentitySource::Files { .. }));
        assert_eq!(s.identity.id, Id::Dns(s.identity.server_name));
        let join = [
            ("WEFT_JOIN_FILE", "/join"),
            ("WEFT_WORKLOAD", "shop/web-1"),
            ("WEFT_DESTINATION_SVC_ADDR", "localhost:1"),
            ("WEFT_POLICY_SVC_ADDR", "localhost:1"),
            ("WEFT_IDENTITY_SVC_ADDR", "localhost:1"),
            ("WEFT_IDENTITY_TRUST_ANCHORS", PEM),
            ("WEFT_IDENTITY_SERVER_ID", "web.shop"),
            ("WEFT_IDENTITY_SERVER_NAME", "web.shop"),
        ];
        let s = Settings::from_values(&values(&join).unwrap()).unwrap();
        assert_eq!(s.identity.source, IdentitySource::JoinFile("/join".into()));
        assert_eq!(s.discovery.policy_workload, r#"{"external_workload":"web-1","ns":"shop"}"#);
        let mut other = join;
        other[7].1 = "other.shop";
        let errors = Settings::from_values(&values(&other).unwrap()).unwrap_err();
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].name(), "IDENTITY_SERVER_ID");
    }
}
