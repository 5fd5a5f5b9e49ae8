//! A mesh: one authority, one control plane, and the proxies of a test.
//!
//! A test builds one, starts proxies in it, and drops it. Everything is on loopback and ends with it.

use crate::plane::{Facts, Manner, Plane};
use crate::{PATIENCE, until};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use weft_identity::anchors::Anchors;
use weft_identity::authority::{Authority, Lifetimes};
use weft_identity::store::{LocalName, Store};
use weft_model::address::NameAddr;
use weft_model::destination::{EndpointInfo, ProtocolHint};
use weft_model::identity::{Id, TlsTarget};
use weft_net::prefixed::Bounds;
use weft_net::socket::{self, SocketOptions};
use weft_net::stream::Stream;
use weft_net::web::{self, Fetched};
use weft_proxy::{Proxy, World};
use weft_settings::{Inputs, Settings, Values};
use weft_wire::header::{self, Header, Session};

/// Short limits, for tests in real time; yet not so short that a machine busy with other tests reaches them.
const SHORT: &[(&str, &str)] = &[
    ("OUTBOUND_LISTEN_ADDR", "127.0.0.1:0"),
    ("INBOUND_LISTEN_ADDR", "127.0.0.1:0"),
    ("ADMIN_LISTEN_ADDR", "127.0.0.1:0"),
    ("DESTINATION_CONTEXT", "ns:default"),
    ("POLICY_WORKLOAD", "default:test"),
    ("DISCOVERY_TIMEOUT", "2s"),
    ("CONTROL_EXP_BACKOFF_MIN", "5ms"),
    ("CONTROL_EXP_BACKOFF_MAX", "40ms"),
    ("CONTROL_KEEP_ALIVE_INTERVAL", "100ms"),
    ("CONTROL_KEEP_ALIVE_TIMEOUT", "100ms"),
    ("OUTBOUND_CONNECT_EXP_BACKOFF_MIN", "5ms"),
    ("OUTBOUND_CONNECT_EXP_BACKOFF_MAX", "40ms"),
    ("OUTBOUND_CONNECT_TIMEOUT", "5s"),
    ("INBOUND_CONNECT_TIMEOUT", "5s"),
    ("OUTBOUND_HTTP_FAILFAST_TIMEOUT", "1s"),
];

/// The identity of a workload.
pub fn identity(name: &str) -> String {
    format!("{name}.default.serviceaccount.identity.linkerd.cluster.local")
}

/// One authority, what its control plane says, and where that is.
pub struct Mesh {
    /// What the control plane knows.
    pub facts: Arc<Facts>,
    /// The control plane, unless it is dead.
    pub plane: Option<Plane>,
    frozen: Vec<Plane>,
    at: SocketAddr,
    anchors: String,
    scratch: Scratch,
}

/// What a client asks for in its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// The protocol of transport headers.
    TransportHeader,
    /// Nothing.
    None,
}

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Mesh {
    /// A mesh with a control plane that knows nothing yet.
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("weft-testkit-{}-{number}", std::process::id());
        let scratch = Scratch(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&scratch.0).unwrap();
        std::fs::write(scratch.0.join("token"), "for the fake control plane").unwrap();
        let authority = Arc::new(Authority::open_now(&scratch.0, "root", Lifetimes::default()).unwrap());
        let anchors = authority.anchors().to_pem().to_owned();
        let facts = Arc::new(Facts::new(authority));
        let plane = Plane::start(([127, 0, 0, 1], 0).into(), &facts, Manner::Talks);
        Self { facts, at: plane.at, plane: Some(plane), frozen: Vec::new(), anchors, scratch }
    }

    /// A directory with the key and the signing request of a workload, as an orchestrator would make it.
    fn keys(&self, name: &str) -> String {
        let directory = self.scratch.0.join("keys").join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = rcgen::CertificateParams::new(vec![identity(name)]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let csr = params.serialize_request(&key).unwrap();
        std::fs::write(directory.join("csr.der"), csr.der()).unwrap();
        let mut file = std::fs::OpenOptions::new();
        file.write(true).create(true).truncate(true).mode(0o600);
        file.open(directory.join("key.p8")).unwrap().write_all(&key.serialize_der()).unwrap();
        directory.display().to_string()
    }

    /// Kills the control plane.
    pub async fn kill_plane(&mut self) {
        if let Some(plane) = self.plane.take() {
            plane.kill().await;
        }
    }

    /// Stops the control plane where it stands; its connections stay open until the mesh ends, also when it has a
    /// successor.
    pub async fn freeze_plane(&mut self) {
        let Some(plane) = self.plane.take() else { return };
        plane.freeze();
        let at = self.at;
        until("its port is free", async || socket::listen(at, &SocketOptions::default()).is_ok()).await;
        self.frozen.push(plane);
    }

    /// Starts the control plane again, or another one in its place.
    pub async fn start_plane(&mut self, manner: Manner) {
        self.kill_plane().await;
        self.plane = Some(Plane::start(self.at, &self.facts, manner));
    }

    /// A workload's connection to the port of `target`, or to the name that it is given, through `inbound`, another proxy's:
    /// in mutual TLS, with the transport header of an HTTP/1 session said, whether or not its protocol was asked for.
    pub async fn secured(
        &self,
        name: &str,
        inbound: SocketAddr,
        target: &EndpointInfo,
        alpn: Alpn,
    ) -> Stream {
        let name = identity(name).parse::<Id>().unwrap();
        let store = Store::new(
            LocalName { id: name.clone(), server_name: name.as_str().parse().unwrap() },
            Anchors::from_pem(&self.anchors).unwrap(),
        );
        let (issued, key) = self.facts.authority().issue_own(&name).unwrap();
        store.install([vec![issued.leaf], issued.intermediates].concat(), key).unwrap();
        let asked: &[&[u8]] = match alpn {
            Alpn::TransportHeader => &[header::ALPN],
            Alpn::None => &[],
        };
        let tcp = Stream::tcp(TcpStream::connect(inbound).await.unwrap());
        let mut stream = store.connect(tcp, target.tls.as_ref().unwrap(), asked).await.unwrap().stream;
        let named = target.authority_override.as_deref().map(|name| name.parse::<NameAddr>().unwrap());
        let port = named.as_ref().map_or_else(|| target.addr.port().try_into().unwrap(), |named| named.port);
        let header = Header { port, name: named.map(|n| n.name), session: Some(Session::Http1) };
        stream.write_all(&header.encode()).await.unwrap();
        stream.flush().await.unwrap();
        stream
    }

    /// Starts the proxy of a workload with settings of its own, and waits until it is ready.
    pub async fn proxy(&self, name: &str, settings: &[(&str, &str)]) -> Running {
        let proxy = self.unready_proxy(name, settings).await;
        until("the proxy is ready", async || proxy.page("/ready").await.status == 200).await;
        proxy
    }

    /// The environment that makes a process a proxy of this mesh, with settings of its own.
    pub fn environment(&self, name: &str, settings: &[(&str, &str)]) -> BTreeMap<OsString, OsString> {
        let (plane, scratch) = (self.at.to_string(), self.scratch.0.display().to_string());
        let identity = identity(name);
        let token = format!("{scratch}/token");
        let keys = self.keys(name);
        let own = [
            ("DESTINATION_SVC_ADDR", plane.as_str()),
            ("POLICY_SVC_ADDR", &plane),
            ("IDENTITY_SVC_ADDR", &plane),
            ("IDENTITY_LOCAL_NAME", &identity),
            ("IDENTITY_TRUST_ANCHORS", &self.anchors),
            ("IDENTITY_DIR", &keys),
            ("IDENTITY_TOKEN_FILE", &token),
        ];
        let all = SHORT.iter().chain(&own).chain(settings);
        all.map(|(name, text)| (format!("WEFT_{name}").into(), text.into())).collect()
    }

    /// The same without waiting.
    pub async fn unready_proxy(&self, name: &str, settings: &[(&str, &str)]) -> Running {
        self.unready_proxy_on(Handle::current(), name, settings).await
    }

    /// The same with its data path on a runtime of the test's.
    pub async fn unready_proxy_on(&self, data: Handle, name: &str, settings: &[(&str, &str)]) -> Running {
        let env = self.environment(name, settings);
        let values = Values::resolve(&Inputs { flags: &[], env: &env, file: &[], join: &[] }).unwrap();
        let settings = Settings::from_values(&values).unwrap();
        let world =
            World { settings, shown_settings: values.to_json(), log: None, data, control: Handle::current() };
        Running { proxy: weft_proxy::start(world).await.unwrap() }
    }
}

impl Default for Mesh {
    fn default() -> Self {
        Self::new()
    }
}

/// A running proxy, and what its operator sees.
pub struct Running {
    /// The proxy.
    pub proxy: Proxy,
}

impl Running {
    /// Where the first explicit upstream listens.
    pub fn upstream(&self) -> SocketAddr {
        self.proxy.upstreams[0]
    }

    /// Where the first port of the workload listens.
    pub fn bind(&self) -> SocketAddr {
        self.proxy.binds[0]
    }

    /// How other proxies are told to reach the first port of the workload: under mutual TLS, HTTP/1 carried
    /// over HTTP/2, the port named in a transport header.
    pub fn meshed(&self, name: &str) -> EndpointInfo {
        let id = identity(name);
        EndpointInfo {
            tls: Some(TlsTarget { id: id.parse().unwrap(), server_name: id.parse().unwrap() }),
            hint: ProtocolHint::Http2,
            transport_port: self.proxy.inbound.port().try_into().ok(),
            ..EndpointInfo::plain(self.bind())
        }
    }

    /// A page of the admin server.
    pub async fn page(&self, path: &str) -> Fetched {
        let bounds = Bounds { bytes: 16 << 20, time: PATIENCE };
        web::fetch(self.proxy.admin, path, bounds).await.unwrap()
    }

    /// `/state.json`.
    pub async fn state(&self) -> serde_json::Value {
        serde_json::from_slice(&self.page("/state.json").await.body).unwrap()
    }

    /// The sum of all series of a metric that carry these labels, each written `name="value"`.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let page = self.page("/metrics").await.body;
        let page = String::from_utf8_lossy(&page);
        let of_name = |line: &&str| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
        };
        page.lines()
            .filter(of_name)
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}
