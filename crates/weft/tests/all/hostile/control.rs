//! Hostile proxies and hostile manifests against a real `weft control`: each limit is driven past its bound, at its
//! default where that takes seconds, while an honest proxy is served and the memory stays below its ceiling.

use crate::hostile::world::{PATIENCE, own, pause, until};
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;
use tokio::net::TcpSocket;
use weft_identity::authority::{Authority, Lifetimes};
use weft_identity::store::{LocalName, Store};
use weft_model::identity::{Id, TlsTarget};
use weft_net::body::Body;
use weft_net::stream::Stream;
use weft_net::web::{Http2Client, Http2ClientOptions};

/// The ceiling of the control plane's resident memory.
const CEILING: u64 = 256 << 20;

const NAME: &str = "weft-control.linkerd.serviceaccount.identity.linkerd.cluster.local";
const WEB: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";
const EVIL: &str = "evil.shop.serviceaccount.identity.linkerd.cluster.local";

/// A service without endpoints, which every world has.
const SERVICE: &str =
    "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {ports: [{port: 80}]}}\n";

/// A control plane and its directory; both are gone at the end of the test.
struct World {
    ip: Ipv4Addr,
    control: Child,
    directory: PathBuf,
}

impl World {
    /// Starts it with further flags, on these manifests beside the service, and waits until it listens.
    fn new(flags: &[&str], manifests: &[(&str, &str)]) -> Self {
        static COUNT: AtomicU8 = AtomicU8::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let [high, low] = u16::try_from(std::process::id() % 60_000 + 1_000).unwrap().to_be_bytes();
        let ip = Ipv4Addr::new(127, high, low, 100 + number);
        let directory = std::env::temp_dir().join(format!("weft-control-{}-{number}", std::process::id()));
        fs::create_dir_all(directory.join("manifests")).unwrap();
        for (name, text) in [("service.yaml", SERVICE)].iter().chain(manifests) {
            fs::write(directory.join("manifests").join(name), text).unwrap();
        }
        let (listen, admin) = (SocketAddr::from((ip, 8086)), SocketAddr::from((ip, 9990)));
        let control = Command::new(env!("CARGO_BIN_EXE_weft"))
            .arg("control")
            .args(["--manifests", directory.join("manifests").to_str().unwrap()])
            .args(["--state-dir", directory.join("state").to_str().unwrap()])
            .args(["--listen", &listen.to_string(), "--admin", &admin.to_string(), "--log", "off"])
            .args(flags)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let world = Self { ip, control, directory };
        // It listens at once and answers when the manifests are read, which takes a debug build a while.
        for _ in 0..20 {
            if world.page("/ready").is_some() {
                return world;
            }
        }
        panic!("the control plane does not answer");
    }

    fn listen(&self) -> SocketAddr {
        (self.ip, 8086).into()
    }

    /// A store with a certificate of this mesh.
    fn member(&self, id: &str) -> Store {
        let name = "root.linkerd.cluster.local";
        let authority =
            Authority::open_now(&self.directory.join("state"), name, Lifetimes::default()).unwrap();
        let id: Id = id.parse().unwrap();
        let Id::Dns(server_name) = id.clone() else { panic!("{id}") };
        let local = LocalName { id: id.clone(), server_name };
        let store = Store::new(local, (*authority.anchors()).clone());
        let (issued, key) = authority.issue_own(&id).unwrap();
        store.install([vec![issued.leaf], issued.intermediates].concat(), key).unwrap();
        store
    }

    /// A connection of a member, from the host with this last byte.
    async fn connect(&self, member: &Store, host: u8) -> Option<Http2Client> {
        let [a, b, c, _] = self.ip.octets();
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([a, b, c, host], 0))).unwrap();
        let tcp = socket.connect(self.listen()).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let target = TlsTarget { id: NAME.parse().unwrap(), server_name: NAME.parse().unwrap() };
        let connected = member.connect(Stream::tcp(tcp), &target, &[]).await.ok()?;
        let mut client = Http2Client::open(connected.stream, &Http2ClientOptions::default()).await.ok()?;
        client.ready().await.ok()?;
        Some(client)
    }

    /// Proves that an honest proxy is served now, from a host of its own.
    async fn serves(&self) {
        let mut client = self.connect(&self.member(WEB), 2).await.expect("an honest proxy gets in");
        let start = Instant::now();
        loop {
            let (status, _body) = get(&mut client, "web").await;
            match status {
                0 => return,
                // What is reported is in force a moment later.
                NOT_FOUND if start.elapsed() < PATIENCE => pause(),
                status => panic!("an honest proxy is answered with {status}"),
            }
        }
    }

    /// What the admin server says; `None` while it does not answer.
    fn page(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect((self.ip, 9990)).ok().or_else(|| {
            pause();
            None
        })?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        (!page.is_empty()).then_some(page)
    }

    fn metrics(&self) -> String {
        let page = self.page("/metrics").unwrap();
        assert!(page.contains("# TYPE"), "{page}");
        page
    }

    /// How often a limit was met.
    fn reached(&self, limit: &str) -> u64 {
        self.value(&format!("weft_limit_reached_total{{limit=\"{limit}\"}}"))
    }

    /// The value of a series, 0 if there is none.
    fn value(&self, series: &str) -> u64 {
        let page = self.metrics();
        let line = page.lines().find_map(|line| line.strip_prefix(series));
        line.map_or(0, |value| value.trim().parse().unwrap())
    }

    /// Proves that the memory is below its ceiling now.
    #[track_caller]
    fn is_small(&self) {
        let own = own(self.control.id());
        println!("the control plane takes {} MiB", own >> 20);
        assert!(own < CEILING, "the control plane takes {} MiB", own >> 20);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.control.kill();
        let _ = self.control.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Calls a method with a message; gives the status in the answer's head, 0 if the call is accepted.
async fn call(client: &mut Http2Client, method: &str, message: Vec<u8>) -> (u8, Body) {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let frame = [&[0][..], &length, &message].concat();
    let request = http::Request::post(format!("http://control.mesh/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::full(frame))
        .unwrap();
    client.ready().await.unwrap();
    let response = client.send(request).await.unwrap();
    let status = response.headers().get("grpc-status");
    (status.map_or(0, |status| status.to_str().unwrap().parse().unwrap()), response.into_body())
}

/// `Destination.Get` for a service of the namespace `shop`.
async fn get(client: &mut Http2Client, service: &str) -> (u8, Body) {
    let path = format!("{service}.shop.svc.cluster.local:80");
    let message = [&[0x12, u8::try_from(path.len()).unwrap()][..], path.as_bytes()].concat();
    call(client, "io.linkerd.proxy.destination.Destination/Get", message).await
}

const NOT_FOUND: u8 = 5;
const RESOURCE_EXHAUSTED: u8 = 8;
const OUT_OF_RANGE: u8 = 11;

#[tokio::test]
async fn one_proxy_takes_its_streams_and_no_more() {
    let world = World::new(&[], &[]);
    let evil = world.member(EVIL);
    let (mut accepted, mut refused, mut held) = (0, 0, Vec::new());
    'all: loop {
        let mut client = world.connect(&evil, 3).await.unwrap();
        for _ in 0..450 {
            let (status, body) = get(&mut client, "web").await;
            match status {
                0 => accepted += 1,
                status => {
                    assert_eq!(status, RESOURCE_EXHAUSTED);
                    refused += 1;
                }
            }
            held.push((body, client.clone()));
            if refused == 10 {
                break 'all;
            }
        }
    }
    assert_eq!((accepted, refused), (8_192, 10));
    assert_eq!(world.reached("streams-per-proxy"), 10);
    world.serves().await;
    world.is_small();
}

#[tokio::test]
async fn calls_beyond_their_bounds_are_refused_and_counted() {
    let world = World::new(&["--max-streams", "3"], &[]);
    let mut client = world.connect(&world.member(EVIL), 3).await.unwrap();
    let mut held = Vec::new();
    for expected in [0, 0, 0, RESOURCE_EXHAUSTED] {
        let (status, body) = get(&mut client, "web").await;
        assert_eq!(status, expected);
        held.push(body);
    }
    assert_eq!(world.reached("streams"), 1);
    drop(held);

    let large = vec![0; 70 << 10];
    let (status, _) = call(&mut client, "io.linkerd.proxy.destination.Destination/Get", large).await;
    assert_eq!((status, world.reached("request-bytes")), (OUT_OF_RANGE, 1));

    let mut codes = Vec::new();
    for _ in 0..20 {
        codes.push(call(&mut client, "io.linkerd.proxy.identity.Identity/Certify", vec![]).await.0);
    }
    assert_eq!(codes.iter().filter(|code| **code == RESOURCE_EXHAUSTED).count(), 4, "{codes:?}");
    assert_eq!(world.reached("certify-per-connection"), 4);
    until("streams are given back", || world.value("control_plane_streams{method=\"Get\"}") == 0);
    world.serves().await;
    world.is_small();
}

#[tokio::test]
async fn connections_beyond_their_bounds_are_closed_and_others_get_in() {
    let world = World::new(&["--max-connections-per-source", "1000"], &[]);
    let (evil, mut held) = (world.member(EVIL), Vec::new());
    for _ in 0..1_010 {
        held.extend(world.connect(&evil, 3).await);
    }
    assert_eq!(held.len(), 1_000);
    until("they are counted", || world.reached("connections-per-source") == 10);
    world.serves().await;
    world.is_small();
}

#[tokio::test]
async fn silent_connections_of_one_host_keep_no_honest_proxy_out() {
    let world = World::new(&[], &[]);
    let silent: Vec<TcpStream> = (0..600).map(|_| TcpStream::connect(world.listen()).unwrap()).collect();
    until("they are counted", || world.reached("handshakes-per-source") >= 80);
    world.serves().await;
    world.is_small();
    drop(silent);
}

#[test]
fn the_admin_server_has_so_many_connections() {
    let world = World::new(&[], &[]);
    let mut silent: Vec<TcpStream> = (0..70).map(|_| TcpStream::connect((world.ip, 9990)).unwrap()).collect();
    let mut beyond = silent.pop().unwrap();
    beyond.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(matches!(beyond.read(&mut [0]), Ok(0) | Err(_)), "closed at once");
    drop(silent);
    until("it is counted", || world.page("/metrics").is_some_and(|page| page.contains("admin-connections")));
}

/// A slice of a service with so many endpoints from the `first` address on.
fn slice(name: &str, service: &str, (first, count): (u32, u32)) -> String {
    let mut text = format!(
        "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, ports: [{{port: 80}}], \
         metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}, endpoints: ["
    );
    for n in first..first + count {
        let _ = write!(text, "{{addresses: [{}]}},", Ipv4Addr::from(0x0a00_0000 + n));
    }
    text + "]}\n"
}

#[tokio::test]
async fn a_service_of_too_many_endpoints_is_told_as_far_as_proxies_take_it() {
    // 100,001 endpoints of one service, and of another as many as are one too many in all.
    let large: String = (0..100).map(|n| slice(&format!("a{n}"), "large", (n * 1_000, 1_000))).collect();
    let large = large + &slice("a-one-more", "large", (100_000, 1));
    let other: String =
        (0..20).map(|n| slice(&format!("z{n}"), "other", (200_000 + n * 1_000, 1_000))).collect();
    let service = SERVICE.replace("web", "large");
    let manifests = [("a.yaml", large.as_str()), ("b.yaml", service.as_str()), ("z.yaml", other.as_str())];
    let world = World::new(&[], &manifests);
    world.is_small();
    assert_eq!(world.value("manifest_errors{file=\"z.yaml\"}"), 1, "one slice of the last file is left out");
    let state = world.page("/state.json").unwrap();
    assert!(state.contains("there are more than 120000 endpoints and routes"), "{state}");

    let mut client = world.connect(&world.member(EVIL), 3).await.unwrap();
    let (status, _body) = get(&mut client, "large").await;
    assert_eq!(status, 0);
    assert_eq!(world.value("control_plane_endpoints_left_out"), 1);
    world.serves().await;
    world.is_small();
}

#[tokio::test]
async fn manifests_beyond_their_bounds_are_named_and_the_rest_is_in_force() {
    let laughs = {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..10 {
            let list = vec![format!("*a{}", n - 1); 10].join(", ");
            let _ = writeln!(text, "a{n}: &a{n} [{list}]");
        }
        text
    };
    let deep = format!("a: {}{}", "[".repeat(100_000), "]".repeat(100_000));
    let large = format!("# {}\n", "x".repeat(4 << 20));
    let namespace = |n: usize| format!("--- {{apiVersion: v1, kind: Namespace, metadata: {{name: n{n}}}}}\n");
    let namespaces: String = (1..50_000).map(namespace).collect();
    let one_more = namespace(0);
    // Fifteen files of 4 MiB and more than 64 MiB in all; they are only text.
    let filler = format!("# {}\n", "x".repeat((4 << 20) - 10));
    let mut manifests = vec![
        ("laughs.yaml", laughs.as_str()),
        ("deep.yaml", deep.as_str()),
        ("large.yaml", large.as_str()),
        ("namespaces.yaml", namespaces.as_str()),
        ("one-more.yaml", one_more.as_str()),
    ];
    let names: Vec<String> = (0..17).map(|n| format!("zz{n:02}.yaml")).collect();
    manifests.extend(names.iter().map(|name| (name.as_str(), filler.as_str())));
    let world = World::new(&[], &manifests);
    for (file, errors) in
        [("laughs.yaml", 1), ("deep.yaml", 1), ("large.yaml", 1), ("service.yaml", 1), ("zz16.yaml", 1)]
    {
        assert_eq!(world.value(&format!("manifest_errors{{file=\"{file}\"}}")), errors, "{file}");
    }
    assert_eq!(world.value("manifest_errors{file=\"namespaces.yaml\"}"), 0);
    assert_eq!(world.value("manifest_objects"), 50_000);
    world.is_small();
    // The one object too many was the service, by its file's name.
    fs::remove_file(world.directory.join("manifests/one-more.yaml")).unwrap();
    until("the service is in force", || world.value("manifest_errors{file=\"service.yaml\"}") == 0);
    world.serves().await;
    world.is_small();
}
