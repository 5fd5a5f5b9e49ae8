//! A control plane in this process, its directories, and clients of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};
use tonic::body::Body as GrpcBody;
use weft_control::{Control, Options};
use weft_identity::authority::{Authority, Lifetimes};
use weft_identity::store::{LocalName, Store};
use weft_identity::token::{Grant, Token, TokenKey, Uses};
use weft_index::Config;
use weft_model::identity::{Id, TlsTarget};
use weft_net::body::Body;
use weft_net::prefixed::Bounds;
use weft_net::socket::{self, SocketOptions};
use weft_net::stream::Stream;
use weft_net::web::{self, Http2Client, Http2ClientOptions, WebError};
use weft_serve::StreamLimits;

/// The control plane's name, where it speaks TLS.
pub(crate) const NAME: &str = "weft-control.linkerd.serviceaccount.identity.linkerd.cluster.local";

/// What the generated clients run on.
pub(crate) type Channel =
    tower::util::BoxCloneSyncService<http::Request<GrpcBody>, http::Response<Body>, WebError>;

/// Longest wait for anything that must happen: far beyond what a busy machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A directory of this test's own, removed at the end.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("weft-control-{}-{number}", std::process::id()));
        std::fs::create_dir_all(path.join("manifests")).unwrap();
        Self(path)
    }

    pub(crate) fn manifests(&self) -> PathBuf {
        self.0.join("manifests")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    /// Puts a manifest in its place at once.
    pub(crate) fn put(&self, name: &str, text: &str) {
        let partial = self.manifests().join(".partial");
        std::fs::write(&partial, text).unwrap();
        std::fs::rename(partial, self.manifests().join(name)).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.manifests().join(name)).unwrap();
    }

    /// Options of a control plane on these directories, in plaintext on loopback.
    pub(crate) fn options(&self) -> Options {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        Options {
            manifests: vec![self.manifests()],
            state: self.state(),
            listen: any,
            names: Vec::new(),
            admin: any,
            config: Config::default(),
            issuer: None,
            issuance_lifetime: Duration::from_secs(24 * 3600),
            connections: 4096,
            connections_per_source: 4096,
            streams: StreamLimits::default(),
        }
    }

    /// The same with TLS.
    pub(crate) fn tls_options(&self) -> Options {
        Options { names: vec![NAME.parse().unwrap()], ..self.options() }
    }

    /// A join token, made as `weft token` makes it.
    pub(crate) fn token(&self, id: &str, lifetime: Duration, uses: Uses) -> Token {
        let grant = Grant { identity: id.parse().unwrap(), lifetime, uses, networks: vec![] };
        TokenKey::open(&self.state()).unwrap().sign(&grant, SystemTime::now()).unwrap()
    }

    /// The authority of the control plane on these directories.
    pub(crate) fn authority(&self) -> Authority {
        Authority::open_now(&self.state(), "root.linkerd.cluster.local", Lifetimes::default()).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) async fn start(options: Options) -> Control {
    weft_control::start(options, None).await.unwrap()
}

/// A plaintext channel.
pub(crate) async fn plaintext(addr: SocketAddr) -> Channel {
    let socket = socket::connect(addr, &SocketOptions::default()).await.unwrap();
    channel(Http2Client::open(Stream::tcp(socket), &Http2ClientOptions::default()).await.unwrap())
}

/// A TLS channel as the owner of a store.
pub(crate) async fn tls(addr: SocketAddr, store: &Store) -> Channel {
    let socket = socket::connect(addr, &SocketOptions::default()).await.unwrap();
    let target = TlsTarget { id: NAME.parse().unwrap(), server_name: NAME.parse().unwrap() };
    let connected = store.connect(Stream::tcp(socket), &target, &[]).await.unwrap();
    channel(Http2Client::open(connected.stream, &Http2ClientOptions::default()).await.unwrap())
}

fn channel(client: Http2Client) -> Channel {
    Channel::new(tower::service_fn(move |request: http::Request<GrpcBody>| {
        let mut client = client.clone();
        async move {
            client.ready().await?;
            client.send(request.map(Body::boxed)).await
        }
    }))
}

pub(crate) fn origin() -> http::Uri {
    http::Uri::from_static("http://control.mesh")
}

pub(crate) fn local_name(name: &str) -> LocalName {
    let id: Id = name.parse().unwrap();
    let server_name = if let Id::Dns(name) = &id { name.clone() } else { "uri.mesh".parse().unwrap() };
    LocalName { id, server_name }
}

/// Somebody who knows the mesh but has no certificate.
pub(crate) fn stranger(authority: &Authority, id: &str) -> Store {
    Store::new(local_name(id), (*authority.anchors()).clone())
}

/// Somebody with a certificate of the mesh.
pub(crate) fn member(authority: &Authority, id: &str) -> Store {
    let store = stranger(authority, id);
    let (issued, key) = authority.issue_own(&id.parse().unwrap()).unwrap();
    store.install([vec![issued.leaf], issued.intermediates].concat(), key).unwrap();
    store
}

/// What the admin server says.
pub(crate) async fn admin(control: &Control, path: &str) -> String {
    let bounds = Bounds { time: PATIENCE, bytes: 16 << 20 };
    let fetched = web::fetch(control.admin, path, bounds).await.unwrap();
    String::from_utf8(fetched.body.to_vec()).unwrap()
}

/// What the admin server says to a POST.
pub(crate) async fn admin_post(control: &Control, path: &str) -> String {
    let socket = socket::connect(control.admin, &SocketOptions::default()).await.unwrap();
    let request = http::Request::post(path).header("host", "admin").body(Body::empty()).unwrap();
    let response = web::request(Stream::tcp(socket), request).await.unwrap();
    String::from_utf8(web::read_all(response.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap()
}

/// Where golden files are.
pub(crate) fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}
