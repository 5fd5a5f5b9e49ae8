//! Puts a proxy together and runs it: identity, control plane, destinations, listeners, admin, drain.
//!
//! The binary and the tests call `start` with settings and two runtimes: one for the data path, one for
//! what must go on when the data path is saturated. Nothing accepts traffic before there is a certificate.

use crate::admin::{self, Admin};
use crate::admit::Admission;
use crate::arrival::Arrivals;
use crate::authz::Authz;
use crate::direct::direct;
use crate::gauges;
use crate::limits::Limit;
use crate::listen::{AcceptMetrics, Accepted, Bounds, Listener, Role};
use crate::ports::Ports;
use crate::report::Reports;
use crate::serve;
use crate::target::{Aim, Each, Leads, OwnAddresses};
use crate::via::{Drains, Shared};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use weft_connect::transport::{Counting, Transports};
use weft_connect::{Context, Loopback, PoolLimits, ReadyWhen, Tcp};
use weft_discover::balancers::Balancers;
use weft_discover::certify::Issuer;
use weft_discover::channel::{
    self, ChannelSettings, ClientCertificate, Controller as Which, Replicas, Security,
};
use weft_discover::compile::{Compiler, Feed};
use weft_discover::destination::{Destinations, Held};
use weft_discover::lookup::Discover;
use weft_discover::received::Received;
use weft_discover::source::Controllers;
use weft_identity::anchors::Anchors;
use weft_identity::keys::{Given, Keys};
use weft_identity::renew::{Credential, Limits as RenewLimits, Renewal};
use weft_identity::store::{LocalName, Store};
use weft_model::address::Addr;
use weft_model::identity::{Id, TlsTarget};
use weft_model::reason::{Code, Hop, Phase, Reason};
use weft_model::route::RetryBudget;
use weft_names::{Resolver, TtlBounds};
use weft_net::drain::{self, Trigger};
use weft_net::original::original_dst;
use weft_route::metrics::Metrics;
use weft_route::retry::Budget;
use weft_settings::{Controller, Direction, IdentitySource, Mode, Settings};
use weft_telemetry::log::LogLevel;
use weft_telemetry::{Limits, Registry};
use weft_wire::services::Channel;

/// What a proxy is given.
pub struct World {
    /// What it is told.
    pub settings: Settings,
    /// The same for people, with sources and without secrets.
    pub shown_settings: serde_json::Value,
    /// The running log, if its level may be changed.
    pub log: Option<LogLevel>,
    /// Where requests are served.
    pub data: Handle,
    /// Where everything else runs.
    pub control: Handle,
}

/// Why a proxy does not start. Always the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("{0}")]
    Listen(#[from] std::io::Error),
    /// The identity cannot be set up.
    #[error("identity: {0}")]
    Identity(String),
    /// A controller's address or name cannot be used.
    #[error("control plane: {0}")]
    Control(String),
}

/// A running proxy.
pub struct Proxy {
    /// Where it listens for redirected traffic of the application.
    pub outbound: Vec<SocketAddr>,
    /// Where it listens for meshed peers and redirected traffic to the workload.
    pub inbound: SocketAddr,
    /// Where its operator asks.
    pub admin: SocketAddr,
    /// The forward proxy.
    pub forward_proxy: Option<SocketAddr>,
    /// The explicit upstreams, in the order of the settings.
    pub upstreams: Vec<SocketAddr>,
    /// The explicit ports of the workload, in the order of the settings.
    pub binds: Vec<SocketAddr>,
    /// What it counts and measures.
    pub registry: Registry,
    drained: tokio::sync::watch::Receiver<bool>,
    stop: Arc<tokio::sync::Notify>,
}

impl Proxy {
    /// Begins the drain, as SIGTERM does.
    pub fn stop(&self) {
        self.stop.notify_one();
    }

    /// Resolves when everything has ended, at the grace period at the latest.
    pub async fn drained(&mut self) {
        // An error means that the proxy's own task is gone, and everything with it.
        let _ = self.drained.wait_for(|done| *done).await;
    }
}

/// Starts a proxy. Its listeners are bound on return; they accept once there is a certificate.
///
/// # Errors
/// An address cannot be bound, or identity or control plane cannot be set up.
pub async fn start(world: World) -> Result<Proxy, StartError> {
    let World { settings, shown_settings, log, data, control } = world;
    let settings = Arc::new(settings);
    let listeners = Listeners::bind(&settings, &data)?;
    let registry = Registry::with_limits(Limits {
        series: settings.metrics.max_series,
        retain_idle: settings.metrics.retain_idle,
    });
    let (triggers, drains) = Triggers::new();
    let store = store(&settings)?;
    let accept_metrics = AcceptMetrics::new(&registry);
    let transports = Transports::new(&registry);

    let link = |which, controller| opener(&settings, (which, controller), &store, &registry, &control);
    let (destination, its_replicas) = link(Which::Destination, &settings.control.destination)?();
    let (policy, policys_replicas) = link(Which::Policy, &settings.control.policy)?();
    let (context, workload) = (&settings.discovery.context_token, &settings.discovery.policy_workload);
    let source =
        Controllers::new(destination, policy, context, workload).telling_of([its_replicas, policys_replicas]);
    let discover = Discover::new(discover_settings(&settings), Arc::new(source), &control);
    let own = listeners.addresses()?;
    let destinations = destinations(&settings, &store, (&registry, &transports), (&own, discover), &data);

    let (renewal, identity) = renewal(&settings, &store, link(Which::Identity, &settings.control.identity)?)?;
    control.spawn(renewal.run());
    gauges::certificates(&registry, identity.clone());

    let received = Received::new(destinations.lookup().clone(), Metrics::new(&registry, Hop::Inbound), &data);
    let shared = Arc::new(shared(&settings, &store, (&registry, transports), (drains, received)));
    gauges::displaced(&registry, &shared, &destinations);
    let stop = Arc::new(tokio::sync::Notify::new());
    let admin = Admin {
        shared: shared.clone(),
        destinations: destinations.clone(),
        registry: registry.clone(),
        identity,
        log,
        shown_settings,
        stop: stop.clone(),
    };
    weft_telemetry::process::register(&registry, crate::build());
    let admin_addr = listeners.admin.local_addr()?;

    let (done, drained) = tokio::sync::watch::channel(false);
    let proxy = listeners.proxy(admin_addr, &registry, (drained, stop.clone()))?;
    let accepting = Accepting {
        shared,
        destinations,
        metrics: accept_metrics,
        own,
        outbound: listeners.outbound,
        inbound: listeners.inbound,
        forward_proxy: listeners.forward_proxy,
        upstreams: listeners.upstreams,
        binds: listeners.binds,
    };
    control.spawn(admin::run(Arc::new(admin), listeners.admin));
    let grace = settings.shutdown.grace;
    data.clone().spawn(async move {
        let accept = tokio::spawn(accepting.run(store));
        stop.notified().await;
        triggers.drain_within(grace).await;
        accept.abort();
        done.send_replace(true);
    });
    Ok(proxy)
}

/// What all connections share.
fn shared(
    settings: &Arc<Settings>,
    store: &Store,
    (registry, transports): (&Registry, Transports),
    (drains, received): (Drains, Received),
) -> Shared {
    Shared {
        settings: settings.clone(),
        store: store.clone(),
        reports: Reports::new(registry),
        authz: Authz::new(registry),
        arrivals: Arrivals::new(registry),
        transports,
        unprocessed: Budget::new(&RetryBudget::default(), Instant::now()),
        inbound: Admission::new(settings.inbound.max_in_flight),
        outbound: Admission::new(settings.outbound.max_in_flight),
        drains,
        received: Some(received).filter(|received| !received.is_idle()),
        at_rest: Default::default(),
    }
}

/// The end of both directions.
struct Triggers {
    inbound: Trigger,
    outbound: Trigger,
}

impl Triggers {
    fn new() -> (Self, Drains) {
        let ((inbound, inbound_drain), (outbound, outbound_drain)) = (drain::channel(), drain::channel());
        (Self { inbound, outbound }, Drains { inbound: inbound_drain, outbound: outbound_drain })
    }

    /// Drains, but not beyond the grace period: first what comes to the application, and only then what it calls
    /// itself, because it may need others to finish what it was asked.
    async fn drain_within(self, grace: Duration) {
        let open = self.inbound.guards() + self.outbound.guards();
        tracing::info!(open, grace = ?grace, "draining");
        let both = async {
            self.inbound.drain().await;
            self.outbound.drain().await;
        };
        match tokio::time::timeout(grace, both).await {
            Ok(()) => tracing::info!("drained"),
            Err(_) => tracing::warn!("the grace period passed with connections open"),
        }
    }
}

/// Everything bound and not yet accepting.
struct Listeners {
    outbound: Vec<Listener>,
    inbound: Listener,
    forward_proxy: Option<Listener>,
    upstreams: Vec<(Listener, Addr)>,
    binds: Vec<(Listener, SocketAddr)>,
    admin: tokio::net::TcpListener,
}

impl Listeners {
    fn bind(settings: &Settings, data: &Handle) -> Result<Self, StartError> {
        // Sockets belong to the runtime that accepts on them.
        let bind = |addr, role: Role| {
            let _entered = data.enter();
            let direction = settings.direction(role.hop());
            let bounds = Bounds {
                total: direction.max_connections,
                per_source: direction.max_connections_per_source,
                pause: settings.limits.accept_pause,
            };
            Listener::bind(addr, role, direction.accept, bounds)
        };
        let admin =
            weft_net::socket::listen(settings.listeners.admin, &settings.inbound.accept).map_err(|e| {
                std::io::Error::new(
                    e.kind(),
                    format!("cannot listen on {} (admin): {e}", settings.listeners.admin),
                )
            })?;
        let upstream =
            |u: &weft_settings::Upstream| Ok((bind(u.listen, Role::Upstream)?, Addr::Name(u.dst.clone())));
        let bound = |b: &weft_settings::InboundBind| Ok((bind(b.listen, Role::Bind)?, b.app));
        Ok(Self {
            outbound: settings
                .listeners
                .outbound
                .iter()
                .map(|a| bind(*a, Role::Outbound))
                .collect::<Result<_, _>>()?,
            inbound: bind(settings.listeners.inbound, Role::Inbound)?,
            forward_proxy: settings
                .forward_proxy
                .as_ref()
                .map(|f| bind(f.listen, Role::ForwardProxy))
                .transpose()?,
            upstreams: settings.upstreams.iter().map(upstream).collect::<Result<_, std::io::Error>>()?,
            binds: settings.inbound_binds.iter().map(bound).collect::<Result<_, std::io::Error>>()?,
            admin,
        })
    }

    /// The running proxy's addresses.
    fn proxy(
        &self,
        admin: SocketAddr,
        registry: &Registry,
        (drained, stop): (watch::Receiver<bool>, Arc<tokio::sync::Notify>),
    ) -> std::io::Result<Proxy> {
        Ok(Proxy {
            outbound: self.outbound.iter().map(Listener::local_addr).collect::<Result<_, _>>()?,
            inbound: self.inbound.local_addr()?,
            admin,
            forward_proxy: self.forward_proxy.as_ref().map(Listener::local_addr).transpose()?,
            upstreams: self.upstreams.iter().map(|(l, _)| l.local_addr()).collect::<Result<_, _>>()?,
            binds: self.binds.iter().map(|(l, _)| l.local_addr()).collect::<Result<_, _>>()?,
            registry: registry.clone(),
            drained,
            stop,
        })
    }

    /// Every address that traffic must not come back to.
    fn addresses(&self) -> Result<OwnAddresses, StartError> {
        let listeners = self.outbound.iter().chain([&self.inbound]).chain(&self.forward_proxy);
        let explicit = self.upstreams.iter().map(|(l, _)| l).chain(self.binds.iter().map(|(l, _)| l));
        let mut all = listeners.chain(explicit).map(Listener::local_addr).collect::<Result<Vec<_>, _>>()?;
        all.push(self.admin.local_addr()?);
        Ok(OwnAddresses(all.into()))
    }
}

fn store(settings: &Settings) -> Result<Store, StartError> {
    let anchors =
        Anchors::from_pem(&settings.identity.anchors_pem).map_err(|e| StartError::Identity(e.to_string()))?;
    let name =
        LocalName { id: settings.identity.id.clone(), server_name: settings.identity.server_name.clone() };
    Ok(Store::new(name, anchors))
}

/// Opens channels to one controller.
type Opener = Box<dyn Fn() -> (Channel, Replicas) + Send + Sync>;

/// Prepares the channel to a controller. Each call of what it returns opens a new one.
fn opener(
    settings: &Settings,
    (which, controller): (Which, &Controller),
    store: &Store,
    registry: &Registry,
    control: &Handle,
) -> Result<Opener, StartError> {
    let wrong = |problem: String| StartError::Control(format!("{problem} ({})", controller.addr));
    let mut link = ChannelSettings::new(controller.addr.clone()).map_err(|e| wrong(e.to_string()))?;
    link.keep_alive = settings.control.channel.keep_alive;
    link.buffer = settings.control.channel.queue_capacity;
    link.dispatch_timeout = settings.control.channel.dispatch_timeout;
    // The identity controller issues the first certificate, so it cannot ask for one.
    let certificate = match which {
        Which::Identity => ClientCertificate::IfAny,
        _ => ClientCertificate::Required,
    };
    let security = match &controller.name {
        None => Security::Plain,
        Some(Id::Uri(uri)) => {
            return Err(wrong(format!("a controller's name must be a DNS name, not {uri}")));
        }
        Some(id @ Id::Dns(name)) => {
            let server = TlsTarget { id: id.clone(), server_name: name.clone() };
            Security::Tls { store: store.clone(), server, certificate }
        }
    };
    let bounds = TtlBounds { min: settings.control.dns_min_ttl, max: settings.control.dns_max_ttl };
    let (resolver, metrics) = (Resolver::system(bounds), channel::Metrics::new(registry, which));
    let control = control.clone();
    Ok(Box::new(move || {
        channel::open(&link, security.clone(), resolver.with_own_counts(), &metrics, &control)
    }))
}

fn renewal(
    settings: &Settings,
    store: &Store,
    open: Opener,
) -> Result<(Renewal, tokio::sync::watch::Receiver<weft_identity::renew::State>), StartError> {
    let limits = RenewLimits {
        min_refresh: settings.identity.min_refresh,
        max_refresh: settings.identity.max_refresh,
        ..RenewLimits::default()
    };
    let (credential, keys) = match &settings.identity.source {
        IdentitySource::JoinFile(path) => (Credential::JoinFile(path.clone()), Keys::Own),
        IdentitySource::Files { dir, token } => {
            let given =
                Given::read(dir, store.local_id()).map_err(|e| StartError::Identity(e.to_string()))?;
            (Credential::TokenFile(token.clone()), Keys::Given(given))
        }
    };
    let issuer = Arc::new(Issuer::new(move || open().0));
    let (renewal, state) = Renewal::new(store.clone(), issuer, credential, limits);
    Ok((renewal.with_keys(keys), state))
}

fn discover_settings(settings: &Settings) -> weft_discover::settings::Settings {
    use weft_discover::settings::{InboundDefaults, PortSet, Settings as Discovery};
    use weft_discover::stream::Limits;
    let port_set =
        |ports: &std::collections::BTreeSet<NonZeroU16>| ports.iter().copied().collect::<PortSet>();
    let streams = settings.control.stream_limits(&settings.control.policy);
    Discovery {
        first_answer: settings.discovery.first_answer_timeout,
        outbound_idle: settings.outbound.discovery_idle_timeout,
        inbound_idle: settings.inbound.discovery_idle_timeout,
        capacity: settings.limits.discovery_entries,
        suffixes: settings.discovery.profile_suffixes.clone(),
        networks: settings.discovery.profile_networks.clone(),
        limits: Limits { initial: streams.initial, idle: streams.idle, lifetime: streams.lifetime },
        backoff: settings.control.channel.backoff,
        inbound: InboundDefaults {
            policy: settings.inbound_policy.policy,
            cluster_networks: settings.inbound_policy.cluster_networks.clone(),
            detect_timeout: settings.inbound.detect_timeout,
            ports: port_set(&settings.inbound_policy.ports),
            opaque: port_set(&settings.inbound_policy.opaque_ports),
        },
    }
}

fn destinations(
    settings: &Settings,
    store: &Store,
    (registry, transports): (&Registry, &Transports),
    (own, discover): (&OwnAddresses, Discover),
    data: &Handle,
) -> Destinations {
    // A loopback endpoint is a mistake only where traffic is captured; explicit listeners mean what they say.
    let explicit = !settings.upstreams.is_empty()
        || !settings.inbound_binds.is_empty()
        || settings.forward_proxy.is_some();
    let loopback = if explicit { Loopback::Allowed } else { Loopback::Refused };
    let context = |direction: &Direction, base: Context| Context {
        connector: Arc::new(Tcp(direction.connect)),
        connect_timeout: direction.connect_timeout,
        backoff: direction.connect_backoff,
        pool: PoolLimits { max_idle: direction.pool_max_idle, idle_timeout: direction.pool_idle_timeout },
        http2: direction.http2_client,
        own_listeners: own.0.to_vec(),
        local_ips: settings.inbound_policy.ips.iter().copied().collect::<Vec<IpAddr>>(),
        ..base
    };
    let outbound = context(
        &settings.outbound,
        Context {
            identity: Some(store.clone()),
            loopback,
            counting: Counting::Endpoints(transports.clone()),
            ..Context::new(data.clone())
        },
    );
    let inbound = context(
        &settings.inbound,
        Context {
            ready_when: ReadyWhen::Always,
            loopback: Loopback::Allowed,
            counting: Counting::Application(transports.clone()),
            ..Context::new(data.clone())
        },
    );
    let feed: Feed = {
        let discover = discover.clone();
        Arc::new(move |dst, backend| match discover.endpoints(dst) {
            Ok(endpoints) => Box::new(endpoints.feed(Arc::new(backend))),
            Err(error) => {
                tracing::warn!(%dst, %error, "its endpoints are not followed");
                Box::new(())
            }
        })
    };
    let none: Feed = Arc::new(|_, _| Box::new(()));
    let compiler = |direction: &Direction, context, hop, feed| {
        Compiler::new(
            Arc::new(context),
            Metrics::new(registry, hop),
            direction.queue,
            direction.detect_timeout,
            feed,
        )
    };
    let balancers = Balancers::new(registry, "outbound_balancer");
    let compilers = (
        compiler(&settings.outbound, outbound, Hop::Outbound, feed).shown_in(balancers),
        compiler(&settings.inbound, inbound, Hop::Inbound, none),
    );
    Destinations::new(discover, compilers, data)
}

/// Everything that accepts traffic.
struct Accepting {
    shared: Arc<Shared>,
    destinations: Destinations,
    metrics: AcceptMetrics,
    own: OwnAddresses,
    outbound: Vec<Listener>,
    inbound: Listener,
    forward_proxy: Option<Listener>,
    upstreams: Vec<(Listener, Addr)>,
    binds: Vec<(Listener, SocketAddr)>,
}

impl Accepting {
    /// Waits for the first certificate, then accepts on every listener until the proxy drains.
    async fn run(self, store: Store) {
        let ports = Arc::new(ports(&self));
        ports.watch_binds();
        let mut waiting = tokio::time::interval(Duration::from_secs(15));
        waiting.tick().await;
        loop {
            tokio::select! {
                () = store.wait_ready() => break,
                _ = waiting.tick() => tracing::warn!("waiting for a certificate; no traffic is accepted yet"),
            }
        }
        let limit = self.shared.settings.limits.destinations_per_connection;
        let beyond = self.shared.reports.limits.counter(Limit::DestinationsPerConnection, Hop::Outbound);
        let leads = Leads { destinations: self.destinations.clone(), own: self.own.clone(), limit, beyond };
        let leads = Arc::new(leads);
        let ingress = (self.shared.settings.mode == Mode::Ingress).then(|| leads.clone());
        for listener in self.outbound {
            let (shared, destinations) = (self.shared.clone(), self.destinations.clone());
            let own = (self.own.clone(), ingress.clone());
            tokio::spawn(listener.run(self.shared.clone(), self.metrics.clone(), move |accepted| {
                captured(shared.clone(), destinations.clone(), own.clone(), accepted)
            }));
        }
        for (listener, dst) in self.upstreams {
            let (shared, destinations) = (self.shared.clone(), self.destinations.clone());
            let ingress = ingress.clone();
            tokio::spawn(listener.run(self.shared.clone(), self.metrics.clone(), move |accepted| {
                let held = destinations.outbound(&dst).ok();
                outbound(shared.clone(), (held, ingress.clone()), accepted)
            }));
        }
        if let Some(listener) = self.forward_proxy {
            let shared = self.shared.clone();
            tokio::spawn(listener.run(self.shared.clone(), self.metrics.clone(), move |accepted| {
                serve::forward_proxy(shared.clone(), accepted.into(), Aim::Each(Each::new(leads.clone())))
            }));
        }
        for (listener, app) in self.binds {
            let port = listener.local_addr().map(|a| a.port()).unwrap_or_default();
            let (shared, ports) = (self.shared.clone(), ports.clone());
            tokio::spawn(listener.run(self.shared.clone(), self.metrics.clone(), move |accepted| {
                inbound(shared.clone(), ports.held(port, app), accepted)
            }));
        }
        let shared = self.shared.clone();
        let accept = self.inbound.run(self.shared, self.metrics, move |accepted| {
            meant_for(shared.clone(), ports.clone(), accepted)
        });
        accept.await;
    }
}

/// The workload's ports: which application answers on each.
fn ports(accepting: &Accepting) -> Ports {
    let port = |listener: &Listener| listener.local_addr().map(|a| a.port()).unwrap_or_default();
    Ports {
        destinations: accepting.destinations.clone(),
        inbound_port: port(&accepting.inbound),
        binds: accepting.binds.iter().map(|(listener, app)| (port(listener), *app)).collect(),
        permanent: accepting.shared.settings.inbound_policy.ports.clone(),
        ips: accepting.shared.settings.inbound_policy.ips.clone(),
        gateway: accepting.shared.settings.inbound_policy.gateway.clone(),
    }
}

/// A redirected connection of the application.
fn captured(
    shared: Arc<Shared>,
    destinations: Destinations,
    (own, ingress): (OwnAddresses, Option<Arc<Leads>>),
    accepted: Accepted,
) -> impl Future<Output = ()> + Send {
    // Found before the future begins, which waits for the client and should hold no more than it needs for that.
    let found = captured_for(&shared, (&destinations, &own), &accepted);
    async move {
        if let Some(held) = found {
            outbound(shared, (held, ingress), accepted).await;
        }
    }
}

/// The destination of a redirected connection, or nothing once it was refused; the inner nothing is a full cache.
fn captured_for(
    shared: &Shared,
    (destinations, own): (&Destinations, &OwnAddresses),
    accepted: &Accepted,
) -> Option<Option<Held>> {
    let refuse = |code, detail: String| {
        let reason = Reason::new(code, Hop::Outbound, Phase::Accept).detail(detail);
        shared.reports.connection(&reason, accepted.client);
        None
    };
    match original_dst(&accepted.tcp) {
        Ok(meant) if own.lead_home(meant) => {
            refuse(Code::LoopDetected, format!("it was meant for {meant}, the proxy itself"))
        }
        Ok(meant) => Some(destinations.outbound(&Addr::Socket(meant)).ok()),
        Err(error) => refuse(Code::BadRequest, format!("the connection was not redirected here: {error}")),
    }
}

async fn outbound(
    shared: Arc<Shared>,
    (held, ingress): (Option<Held>, Option<Arc<Leads>>),
    accepted: Accepted,
) {
    match held {
        Some(held) => serve::outbound(shared, accepted.into(), (held, ingress)).await,
        None => full(&shared, Hop::Outbound, accepted.client),
    }
}

async fn inbound(shared: Arc<Shared>, held: Option<Held>, accepted: Accepted) {
    match held {
        Some(held) => serve::inbound(shared, accepted.into(), held).await,
        None => full(&shared, Hop::Inbound, accepted.client),
    }
}

fn full(shared: &Shared, hop: Hop, client: SocketAddr) {
    let reason = Reason::new(Code::Overloaded, hop, Phase::Discovery);
    shared.reports.connection(&reason.detail("all discovery entries are in use"), client);
}

/// A connection to the inbound listener: redirected from a port of the workload, or made to the listener
/// itself by a meshed peer.
fn meant_for(shared: Arc<Shared>, ports: Arc<Ports>, accepted: Accepted) -> impl Future<Output = ()> + Send {
    // As in `captured`.
    let meant = meaning(&shared, &ports, &accepted);
    async move {
        match meant {
            Some(Meant::Direct(local)) => {
                direct(shared, accepted.into(), ports, local).await;
            }
            Some(Meant::Port(held)) => {
                drop(ports);
                inbound(shared, held, accepted).await;
            }
            None => {}
        }
    }
}

/// What a connection to the inbound listener is meant for.
enum Meant {
    /// The listener itself, at this address.
    Direct(IpAddr),
    /// A port of the workload; nothing if the cache is full.
    Port(Option<Held>),
}

fn meaning(shared: &Shared, ports: &Ports, accepted: &Accepted) -> Option<Meant> {
    let local = local_addr(&accepted.tcp).ok()?;
    let meant = original_dst(&accepted.tcp).unwrap_or(local);
    if !ports.ips.is_empty() && !ports.ips.contains(&meant.ip().to_canonical()) {
        let reason = Reason::new(Code::ForbiddenTarget, Hop::Inbound, Phase::Accept);
        shared.reports.connection(&reason.detail(format!("{} is not ours", meant.ip())), accepted.client);
        return None;
    }
    Some(match meant.port() == ports.inbound_port {
        true => Meant::Direct(local.ip()),
        false => Meant::Port(ports.held(meant.port(), meant)),
    })
}

fn local_addr(tcp: &TcpStream) -> std::io::Result<SocketAddr> {
    let addr = tcp.local_addr()?;
    Ok(SocketAddr::new(addr.ip().to_canonical(), addr.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three<A, B, C, F>(_: fn(A, B, C) -> F) -> usize {
        std::mem::size_of::<F>()
    }

    fn four<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
        std::mem::size_of::<F>()
    }

    #[test]
    fn a_connection_that_has_not_spoken_is_small() {
        // Its task holds one of these, and a connection may take 2 KiB in all.
        let sizes = [three(outbound), three(inbound), three(meant_for), four(captured)];
        assert!(sizes.iter().all(|size| *size <= 1664), "{sizes:?}");
    }
}
