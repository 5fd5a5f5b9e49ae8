//! A small control plane that can be killed and started again on the same port.

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use weft_discover::channel::{self, ChannelSettings, Controller, Metrics, Replicas, Security};
use weft_discover::lookup::Discover;
use weft_discover::settings::Settings;
use weft_discover::source::Controllers;
use weft_identity::authority::Authority;
use weft_identity::store::{Accept, Store};
use weft_model::destination::{EndpointInfo, EndpointUpdate};
use weft_model::meta::Meta;
use weft_model::policy::{DefaultPolicy, InboundPolicy, InboundProtocol, OutboundPolicy, OutboundProtocol};
use weft_model::profile::Profile;
use weft_model::route::{Backoff, Labels};
use weft_names::{Resolver, TtlBounds};
use weft_net::socket::{self, SocketOptions};
use weft_net::stream::Stream;
use weft_telemetry::Registry;
use weft_wire::encode;
use weft_wire::services::{
    Answers, Caller, Certificates, CertifyRequest, CertifyResponse, Channel, Code, DestinationQuery,
    Destinations, Policies, PortQuery, Router, Status, Target, TrafficQuery,
};

/// What was asked, and the identity of who asked.
type Asked = (String, Option<String>);

/// What a control plane knows and hears; it outlives the process.
#[derive(Clone)]
pub(crate) struct Facts {
    /// Ports of the endpoints of each name; changes are sent to everybody who listens.
    endpoints: Arc<Mutex<HashMap<String, watch::Sender<Vec<u16>>>>>,
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
    pub(crate) authority: Option<Arc<Authority>>,
}

impl Facts {
    pub(crate) fn new(authority: Option<Arc<Authority>>) -> Self {
        Self { endpoints: Arc::default(), asked: Arc::default(), authority }
    }

    pub(crate) fn set(&self, name: &str, ports: &[u16]) {
        self.ports_of(name).send_replace(ports.to_vec());
    }

    fn ports_of(&self, name: &str) -> watch::Sender<Vec<u16>> {
        self.endpoints.lock().unwrap().entry(name.to_owned()).or_default().clone()
    }

    fn note(&self, caller: &Caller, what: String) {
        self.asked.lock().unwrap().push((what, caller.id.as_ref().map(ToString::to_string)));
    }
}

fn once(message: bytes::Bytes) -> Answers {
    Answers::new(futures_util::stream::iter([Ok(message.into())]).chain(futures_util::stream::pending()))
}

impl Destinations for Facts {
    fn endpoints(
        &self,
        caller: Caller,
        query: DestinationQuery,
    ) -> BoxFuture<'static, Result<Answers, Status>> {
        self.note(&caller, format!("endpoints {} for {}", query.path, query.context));
        let ports = self.ports_of(&query.path).subscribe();
        let answers = futures_util::stream::unfold(
            (ports, None),
            |(mut ports, before): (watch::Receiver<Vec<u16>>, Option<Vec<u16>>)| async move {
                if before.is_some() {
                    ports.changed().await.ok()?;
                }
                let now = ports.borrow_and_update().clone();
                let infos: Vec<_> = now.iter().map(|port| EndpointInfo::plain(addr(*port))).collect();
                let gone = before.into_iter().flatten().filter(|port| !now.contains(port));
                let gone: Vec<_> = gone.map(addr).collect();
                let update = match (gone.is_empty(), now.is_empty()) {
                    (_, true) => EndpointUpdate::NoEndpoints { exists: true },
                    (false, _) => EndpointUpdate::Remove(gone),
                    (true, _) => EndpointUpdate::Add(infos),
                };
                let message = encode::endpoint_update(&update, &Labels::default());
                Some((Ok(message.into()), (ports, Some(now))))
            },
        );
        Box::pin(async { Ok(Answers::new(answers)) })
    }

    fn profile(
        &self,
        caller: Caller,
        query: DestinationQuery,
    ) -> BoxFuture<'static, Result<Answers, Status>> {
        self.note(&caller, format!("profile {}", query.path));
        let profile = Profile { opaque: true, ..Profile::default() };
        Box::pin(async move { Ok(once(encode::profile(&profile))) })
    }
}

impl Policies for Facts {
    fn outbound(&self, caller: Caller, query: TrafficQuery) -> BoxFuture<'static, Result<Answers, Status>> {
        let target = match query.target {
            Target::Addr(addr) => addr.to_string(),
            Target::Authority(name) => name,
        };
        self.note(&caller, format!("outbound {target} for {}", query.workload));
        if target.starts_with("192.0.2.") {
            return Box::pin(async { Err(Status::new(Code::NotFound, "nobody's")) });
        }
        let protocol = OutboundProtocol::Opaque(Vec::new());
        let policy = OutboundPolicy { meta: Meta::default_named("told"), protocol };
        Box::pin(async move { Ok(once(encode::outbound_policy(&policy))) })
    }

    fn inbound(&self, caller: Caller, query: PortQuery) -> BoxFuture<'static, Result<Answers, Status>> {
        self.note(&caller, format!("inbound {}", query.port));
        let policy = InboundPolicy {
            meta: Meta::default_named("deny"),
            protocol: InboundProtocol::Opaque,
            authorizations: DefaultPolicy::Deny.authorizations(&[]),
        };
        Box::pin(async move { Ok(once(encode::inbound_policy(&policy))) })
    }
}

impl Certificates for Facts {
    fn certify(
        &self,
        caller: Caller,
        request: CertifyRequest,
    ) -> BoxFuture<'static, Result<CertifyResponse, Status>> {
        self.note(&caller, format!("certify {}", request.identity));
        let proven = request.token == b"secret"
            || caller.id.as_ref().is_some_and(|id| id.as_str() == request.identity);
        let authority = self.authority.clone();
        Box::pin(async move {
            let refuse = |text: String| Status::new(Code::FailedPrecondition, text);
            let authority = authority.filter(|_| proven).ok_or_else(|| refuse("not proven".into()))?;
            let identity = request.identity.parse().map_err(|_| refuse("no identity".into()))?;
            let checked = authority.check(&identity, &request.csr).map_err(|e| refuse(e.to_string()))?;
            let issued = authority.issue(&checked).map_err(|e| refuse(e.to_string()))?;
            Ok(CertifyResponse {
                leaf: issued.leaf,
                intermediates: issued.intermediates,
                valid_until: issued.validity.not_after,
            })
        })
    }
}

pub(crate) fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

/// A running control plane.
pub(crate) struct Plane {
    pub(crate) at: SocketAddr,
    tasks: JoinSet<()>,
}

impl Plane {
    /// Starts at an address; port 0 takes a free one. With a store, under TLS.
    pub(crate) fn start(at: SocketAddr, facts: &Facts, store: Option<Store>) -> Self {
        let listener = socket::listen(at, &SocketOptions::default()).unwrap();
        let at = listener.local_addr().unwrap();
        let facts = Arc::new(facts.clone());
        let router = Router::new()
            .with_destinations(facts.clone())
            .with_policies(facts.clone())
            .with_certificates(facts);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, router, store));
        Self { at, tasks }
    }

    /// Kills it: connections break, and the port is free when this returns.
    pub(crate) async fn kill(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn accept(listener: TcpListener, router: Router, store: Option<Store>) {
    let mut connections = JoinSet::new();
    loop {
        let (tcp, peer) = listener.accept().await.unwrap();
        let (router, store) = (router.clone(), store.clone());
        connections.spawn(async move {
            let mut caller = Caller { id: None, addr: Some(peer) };
            let mut stream = Stream::tcp(tcp);
            if let Some(store) = store {
                let how = Accept { alpn: &[], timeout: Duration::from_secs(5) };
                let Ok(accepted) = store.accept(stream, how).await else { return };
                (stream, caller.id) = (accepted.stream, accepted.client);
            }
            let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
                let router = router.clone();
                request.extensions_mut().insert(caller.clone());
                async move { Ok::<_, std::convert::Infallible>(router.call(request).await) }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Waits that suit a test in real time.
pub(crate) const BACKOFF: Backoff =
    Backoff { min: Duration::from_millis(5), max: Duration::from_millis(40), jitter: 0.1 };

/// A channel to a control plane.
pub(crate) fn open(at: SocketAddr, security: Security) -> (Channel, Replicas) {
    let mut settings = ChannelSettings::new(at.to_string().parse().unwrap()).unwrap();
    settings.backoff = BACKOFF;
    settings.keep_alive.interval = Duration::from_millis(100);
    settings.keep_alive.timeout = Duration::from_millis(100);
    let metrics = Metrics::new(&Registry::new(), Controller::Destination);
    let resolver = Resolver::system(TtlBounds::default());
    channel::open(&settings, security, resolver, &metrics, &tokio::runtime::Handle::current())
}

/// Discovery over one channel.
pub(crate) fn discover(channel: Channel) -> Discover {
    let settings = Settings {
        backoff: BACKOFF,
        first_answer: Duration::from_secs(1),
        networks: vec!["10.0.0.0/8".parse().unwrap()],
        ..Settings::default()
    };
    let source = Controllers::new(channel.clone(), channel, "ns:shop", "shop:web-1");
    Discover::new(settings, Arc::new(source), &tokio::runtime::Handle::current())
}
