//! A proxy driven past the bound of its discovery entries, against a control plane that knows every name: each
//! destination has a profile, a policy and a set of endpoints that are watched, which is as much as one can cost.

use crate::hostile::world::{PATIENCE, everywhere, own, until};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use weft_model::destination::EndpointInfo;
use weft_testkit::mesh::Mesh;
use weft_testkit::plane::Said;
use weft_testkit::policy;

/// How many fit into the default bound of 10,000: each counts for itself, its profile, its policy and its endpoints.
const BOUND: u32 = 2_500;
/// Destinations asked for.
const ASKED: u32 = BOUND + 200;
/// Asked for one after another, so that it is known which are the oldest.
const OLDEST: u32 = 300;
/// Clients at a time afterwards.
const CLIENTS: u32 = 4;
/// The ceiling of the proxy's own memory.
const CEILING: u64 = 64 << 20;

fn name(number: u32) -> String {
    format!("n{number}.default.svc.cluster.local:80")
}

/// An address of its own for every name.
fn endpoint(number: u32, port: u16) -> SocketAddr {
    let [_, high, middle, low] = number.to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, 210 + high, middle, low), port))
}

/// A mesh in which every name has a policy and one endpoint of its own.
fn mesh(port: u16) -> Mesh {
    let mesh = Mesh::new();
    for number in 0..ASKED {
        let name = name(number);
        let routes = policy::default_routes(policy::to(&name));
        let protocol = policy::detect(routes.clone(), routes, policy::to(&name));
        mesh.facts.outbound(&name, Said::Told(policy::policy(protocol)));
        mesh.facts.endpoints(&name, Said::Told(vec![EndpointInfo::plain(endpoint(number, port))]));
    }
    mesh
}

/// The proxy's process.
struct Proxy {
    child: Child,
    admin: SocketAddr,
    forward: SocketAddr,
}

impl Proxy {
    fn start(mesh: &Mesh) -> Self {
        let [high, low] = u16::try_from(std::process::id() % 60_000 + 1_000).unwrap().to_be_bytes();
        let at = |port: u16| SocketAddr::from((Ipv4Addr::new(127, high, low, 250), port));
        let [outbound, inbound, admin, forward] = [4140, 4143, 4191, 4150].map(|port| at(port).to_string());
        let environment = mesh.environment(
            "client",
            &[
                ("OUTBOUND_LISTEN_ADDR", &outbound),
                ("INBOUND_LISTEN_ADDR", &inbound),
                ("ADMIN_LISTEN_ADDR", &admin),
                ("FORWARD_PROXY_LISTEN_ADDR", &forward),
                ("MAX_DESTINATIONS_PER_CONNECTION", "10"),
                ("OUTBOUND_DISCOVERY_IDLE_TIMEOUT", "10m"),
                // Nothing here is about a control plane that hangs, and the machine is busy.
                ("CONTROL_KEEP_ALIVE_INTERVAL", "10s"),
                ("CONTROL_KEEP_ALIVE_TIMEOUT", "10s"),
                ("DISCOVERY_TIMEOUT", "10s"),
            ],
        );
        let child = Command::new(env!("CARGO_BIN_EXE_weft"))
            .arg("proxy")
            .envs(environment)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let proxy = Self { child, admin: at(4191), forward: at(4150) };
        until("the proxy is ready", || proxy.page("/ready").is_some_and(|page| page.contains(" 200 ")));
        proxy
    }

    fn page(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.admin).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        Some(page)
    }

    /// Asks for these names over one connection.
    fn ask(&self, numbers: impl Iterator<Item = u32>) {
        let mut stream = TcpStream::connect(self.forward).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        for number in numbers {
            let to = name(number);
            write!(stream, "GET http://{to}/ HTTP/1.1\r\nhost: {to}\r\n\r\n").unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\nok") {
                let mut bytes = [0; 1024];
                let read = stream.read(&mut bytes).unwrap_or(0);
                assert!(read > 0, "{to}: {}", String::from_utf8_lossy(&answer));
                answer.extend_from_slice(&bytes[..read]);
            }
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{to}: {}", String::from_utf8_lossy(&answer));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn destinations_that_are_watched_in_every_way_stay_within_the_ceiling_and_the_oldest_go() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _entered = runtime.enter();
    let mesh = mesh(everywhere());
    let proxy = Proxy::start(&mesh);
    let empty = own(proxy.child.id());
    proxy.ask(0..OLDEST);
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let proxy = &proxy;
            scope.spawn(move || proxy.ask((OLDEST..ASKED).filter(move |n| n % CLIENTS == client)));
        }
    });
    let full = own(proxy.child.id());
    let each = (full - empty) / u64::from(BOUND);
    println!("{} KiB empty, {} KiB full, {each} bytes a destination", empty >> 10, full >> 10);
    assert!(full < CEILING, "the proxy takes {} MiB", full >> 20);
    let page = proxy.page("/metrics").unwrap();
    let scraped = own(proxy.child.id());
    println!("{} KiB after a scrape of {} KiB", scraped >> 10, page.len() >> 10);
    assert!(scraped < CEILING, "a scrape makes the proxy take {} MiB", scraped >> 20);
    let displaced = format!("weft_limit_reached_total{{limit=\"discovery-max-entries\"}} {}", ASKED - BOUND);
    assert!(page.contains(&displaced), "{displaced} is missing");
    // Each page takes a while: it shows every destination.
    let known = |numbers: &[u32]| -> Vec<bool> {
        let state = proxy.page("/state.json").unwrap();
        let shows = |number| state.contains(&format!("\"destination\": \"{}\"", name(number)));
        numbers.iter().copied().map(shows).collect()
    };
    assert_eq!(known(&[0, ASKED - BOUND - 1, ASKED - BOUND, ASKED - 1]), [false, false, true, true]);
    proxy.ask([0].into_iter());
    assert_eq!(known(&[0, ASKED - BOUND]), [true, false], "what was forgotten is found anew");
}
