//! A control plane on a loopback port, and clients of it.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};
use tonic::body::Body as GrpcBody;
use weft_identity::authority::{Authority, Lifetimes};
use weft_identity::store::{LocalName, Store};
use weft_identity::token::{Grant, Token, Uses, Validator};
use weft_index::{Config, Index};
use weft_model::identity::{Id, TlsTarget};
use weft_model::metadata::Metadata;
use weft_model::object::{Change, Object};
use weft_model::service::{Addressing, Service as Shop, ServicePort, TargetPort, TrafficPolicy, Transport};
use weft_model::workload::{ExternalWorkload, WorkloadPort};
use weft_net::body::Body;
use weft_net::drain::{self, Drain, Trigger};
use weft_net::socket::{self, SocketOptions};
use weft_net::stream::Stream;
use weft_net::web::{Http2Client, Http2ClientOptions, WebError};
use weft_serve::certificates::Certificates;
use weft_serve::destinations::Destinations;
use weft_serve::metrics::Metrics;
use weft_serve::policies::Policies;
use weft_serve::server::{Edge, Limits};
use weft_serve::views::Views;
use weft_serve::{OwnNames, Service, StreamLimits};
use weft_telemetry::Registry;
use weft_wire::services::Router;

/// The control plane's name.
pub(crate) const NAME: &str = "linkerd-destination.linkerd.serviceaccount.identity.linkerd.cluster.local";
/// A caller's name.
pub(crate) const WEB: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";

/// What the generated clients run on.
pub(crate) type Channel =
    tower::util::BoxCloneSyncService<http::Request<GrpcBody>, http::Response<Body>, WebError>;

pub(crate) struct World {
    pub(crate) views: Views,
    pub(crate) address: SocketAddr,
    pub(crate) authority: Arc<Authority>,
    pub(crate) registry: Registry,
    pub(crate) trigger: Option<Trigger>,
    tokens: Validator,
    directory: PathBuf,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

pub(crate) enum Edges {
    Tls,
    Plaintext,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(Edges::Tls, Limits::default()).await
    }

    pub(crate) async fn with(edges: Edges, limits: Limits) -> Self {
        Self::limited(edges, limits, StreamLimits::default()).await
    }

    pub(crate) async fn limited(edges: Edges, limits: Limits, streams: StreamLimits) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("weft-serve-{}-{number}", std::process::id()));
        let clock = Arc::new(rustls::time_provider::DefaultTimeProvider);
        let authority = Arc::new(Authority::in_memory(Lifetimes::default(), clock).unwrap());
        let tokens = Validator::open(&directory).unwrap();
        let registry = Registry::new();
        let metrics = Metrics::new(&registry);
        let (trigger, drain) = drain::channel();
        let views = Views::new(Index::new(Config::default()));
        views.export(&metrics);
        let names = match edges {
            Edges::Tls => vec![OwnNames::store(&authority, local_name(NAME))],
            Edges::Plaintext => vec![],
        };
        let names = OwnNames::issue(&authority, names).unwrap();
        let service = Service::new(views.clone(), metrics.clone(), drain.clone(), streams);
        let now = Arc::new(SystemTime::now);
        let router = Router::new()
            .with_destinations(Destinations::new(service.clone()))
            .with_policies(Policies::new(service))
            .with_certificates(Certificates::new(
                authority.clone(),
                Some(tokens.clone()),
                now,
                metrics.clone(),
            ));
        let listener = socket::listen("127.0.0.1:0".parse().unwrap(), &SocketOptions::default()).unwrap();
        let address = listener.local_addr().unwrap();
        serve(names, router, limits, (metrics, drain), listener);
        Self { views, address, authority, registry, trigger: Some(trigger), tokens, directory }
    }

    pub(crate) fn put(&self, object: impl Put) {
        self.views.apply([Change::Upsert(object.object())]);
    }

    pub(crate) fn delete(&self, object: impl Put) {
        self.views.apply([Change::Delete(object.object().key())]);
    }

    /// A store with a certificate of this mesh.
    pub(crate) fn identity(&self, id: &str) -> Store {
        identity(&self.authority, id)
    }

    pub(crate) fn anonymous(&self) -> Store {
        Store::new(local_name("nobody.mesh"), (*self.authority.anchors()).clone())
    }

    pub(crate) fn token(&self, id: &str, uses: Uses) -> Token {
        let lifetime = Duration::from_secs(60);
        let grant = Grant { identity: id.parse().unwrap(), lifetime, uses, networks: vec![] };
        self.tokens.key().sign(&grant, SystemTime::now()).unwrap()
    }

    /// A connection with a client identity.
    pub(crate) async fn connect(&self, store: &Store) -> Http2Client {
        let socket = socket::connect(self.address, &SocketOptions::default()).await.unwrap();
        let target = TlsTarget { id: NAME.parse().unwrap(), server_name: NAME.parse().unwrap() };
        let connected = store.connect(Stream::tcp(socket), &target, &[]).await.unwrap();
        Http2Client::open(connected.stream, &Http2ClientOptions::default()).await.unwrap()
    }

    /// A channel of one connection, as the workload `shop/web`.
    pub(crate) async fn channel(&self) -> Channel {
        channel(self.connect(&self.identity(WEB)).await)
    }

    pub(crate) async fn plaintext(&self) -> Channel {
        let socket = socket::connect(self.address, &SocketOptions::default()).await.unwrap();
        channel(Http2Client::open(Stream::tcp(socket), &Http2ClientOptions::default()).await.unwrap())
    }
}

fn serve(
    names: OwnNames,
    router: Router,
    limits: Limits,
    (metrics, drain): (Metrics, Drain),
    listener: tokio::net::TcpListener,
) {
    let edge = Edge::new(names.stores(), router, limits, metrics, drain);
    tokio::spawn(edge.listen(listener));
    tokio::spawn(names.keep_fresh());
}

pub(crate) fn local_name(name: &str) -> LocalName {
    let id: Id = name.parse().unwrap();
    let server_name = if let Id::Dns(name) = &id { name.clone() } else { "uri.mesh".parse().unwrap() };
    LocalName { id, server_name }
}

pub(crate) fn identity(authority: &Authority, id: &str) -> Store {
    let store = Store::new(local_name(id), (*authority.anchors()).clone());
    let (issued, key) = authority.issue_own(&id.parse().unwrap()).unwrap();
    store.install([vec![issued.leaf], issued.intermediates].concat(), key).unwrap();
    store
}

pub(crate) fn origin() -> http::Uri {
    http::Uri::from_static("http://control.mesh")
}

pub(crate) fn channel(client: Http2Client) -> Channel {
    Channel::new(tower::service_fn(move |request: http::Request<GrpcBody>| {
        let mut client = client.clone();
        async move {
            client.ready().await?;
            client.send(request.map(Body::boxed)).await
        }
    }))
}

pub(crate) trait Put {
    fn object(self) -> Object;
}

impl Put for Shop {
    fn object(self) -> Object {
        Object::Service(Arc::new(self))
    }
}

impl Put for ExternalWorkload {
    fn object(self) -> Object {
        Object::ExternalWorkload(Arc::new(self))
    }
}

fn meta(path: &str, app: &str) -> Metadata {
    let (namespace, name) = path.split_once('/').unwrap();
    let labels = [("app".to_owned(), app.to_owned())].into();
    Metadata { namespace: namespace.into(), name: name.into(), labels, ..Metadata::default() }
}

/// A service that selects workloads by its own name, port 80 → 8080.
pub(crate) fn service(path: &str, ip: &str) -> Shop {
    let meta = meta(path, "");
    Shop {
        selector: [("app".to_owned(), meta.name.clone())].into(),
        addressing: Addressing::Virtual(vec![ip.parse().unwrap()]),
        ports: vec![service_port(80)],
        traffic: TrafficPolicy::Cluster,
        meta,
    }
}

pub(crate) fn service_port(port: u16) -> ServicePort {
    ServicePort {
        name: format!("p{port}"),
        port: NonZeroU16::new(port).unwrap(),
        target: TargetPort::Number(NonZeroU16::new(8080).unwrap()),
        transport: Transport::Tcp,
        app_protocol: None,
    }
}

/// A workload of an app, with the app's identity in its namespace.
pub(crate) fn workload(path: &str, app: &str, ip: &str) -> ExternalWorkload {
    let meta = meta(path, app);
    let identity = format!("{app}.{}.serviceaccount.identity.linkerd.cluster.local", meta.namespace);
    ExternalWorkload {
        meta,
        identity: identity.parse().unwrap(),
        server_name: identity.parse().unwrap(),
        ips: vec![ip.parse().unwrap()],
        ports: vec![WorkloadPort { name: "http".into(), port: NonZeroU16::new(8080).unwrap() }],
        ready: None,
        owner: None,
    }
}
