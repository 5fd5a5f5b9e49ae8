//! A program with its sidecar: `weft run`.
//!
//! The sidecar listens on the workload's own address, the program on loopback. The workload's manifest
//! names the ports that the sidecar listens on, and the service finds them by name. Manifests are written
//! once the sidecar is ready. At the end they are removed first, the program ends next, and the sidecar last.

use crate::commands::mesh;
use crate::supervise::{Group, Launch, Leash, Process, Variables, describe, exit_code};
use rustix::process::Signal;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::IsTerminal;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroU16;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::signal::unix::{Signal as Caught, SignalKind, signal};
use weft_identity::authority::{Authority, Lifetimes};
use weft_identity::join::JoinFile;
use weft_identity::token::{Grant, TokenKey, Uses};
use weft_model::identity::{Id, MeshNames};
use weft_model::name::DnsName;
use weft_model::object::{Key, Kind, Metadata, Object};
use weft_model::service::{Addressing, Service, ServicePort, TargetPort, TrafficPolicy, Transport};
use weft_model::workload::{ExternalWorkload, WorkloadPort};
use weft_net::prefixed::Bounds;
use weft_net::web;
use weft_resources::{Writer, directory};

/// The label by which a service that we write selects its workloads.
const LABEL: &str = "weft/service";
/// The name of the port that leads to the program.
const PORT: &str = "app";
/// The service's port beside the program's own number.
const HTTP: u16 = 80;
/// Longest wait for the sidecar to get its identity.
const READY: Duration = Duration::from_secs(30);
const ASK: Duration = Duration::from_millis(50);
const PAGE: Bounds = Bounds { bytes: 64 * 1024, time: Duration::from_secs(2) };
/// How long a control plane may take until it has a directory.
const BEGUN: Duration = Duration::from_secs(3);
/// How long a program may take until it listens, before that is remarked.
const LISTENS: Duration = Duration::from_secs(10);
/// How long peers are given to hear that a workload is gone: the control plane waits 200 ms for a quiet moment before
/// it reads the manifests, and tells at once.
const HEARD: Duration = Duration::from_millis(500);

/// What is to be run, and as what.
pub(crate) struct Order {
    pub(crate) executable: PathBuf,
    pub(crate) now: SystemTime,
    pub(crate) temporary: PathBuf,
    pub(crate) service: String,
    pub(crate) namespace: String,
    pub(crate) name: Option<String>,
    pub(crate) port: u16,
    pub(crate) manifests: PathBuf,
    pub(crate) address: Option<IpAddr>,
    pub(crate) join: Option<PathBuf>,
    pub(crate) state: PathBuf,
    pub(crate) control_address: String,
    pub(crate) mesh: MeshNames,
    pub(crate) grace: Duration,
    pub(crate) program: Vec<OsString>,
}

/// Why a program cannot be run, told to whoever typed the command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The system refused something.
    #[error("{what}: {error}")]
    Io { what: String, error: std::io::Error },
    /// The order cannot be carried out as given.
    #[error("{0}")]
    Wrong(String),
    /// The sidecar did not come up, or went away.
    #[error("the sidecar {0}; its log is above")]
    Sidecar(String),
}

fn at(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> RunError {
    let what = what.into();
    move |error| RunError::Io { what, error }
}

/// Runs the program until it ends, and gives its exit status.
pub(crate) async fn run(order: Order) -> Result<ExitCode, RunError> {
    let address = address(order.address)?;
    if !order.manifests.is_dir() {
        let path = order.manifests.display();
        return Err(RunError::Wrong(format!(
            "--manifests: {path} is not a directory; `weft control` reads it"
        )));
    }
    let scratch = Scratch::create(&order.temporary)?;
    if order.join.is_none() {
        begun(&order.state).await;
    }
    let (join, identity) = join(&order, &scratch)?;
    let name = order.name.clone().unwrap_or_else(|| workload_name(&order.service, address));
    let ports = Ports::choose(address).map_err(at(format!("{address} cannot be listened on")))?;
    let announcement = Announcement::new(&order, (&name, address), &ports, identity)?;
    // What a killed run of the same name left behind points nowhere.
    announcement.withdraw()?;
    let mut sidecar = start_sidecar(&order, &name, (address, &ports), &join)?;
    ready(address, &ports, &mut sidecar).await?;
    let mut signals = Signals::catch()?;
    let mut program = start_program(&order, &ports)?;
    announcement.publish()?;
    eprintln!(
        "weft: {} is {}.{}.svc.cluster.local:{} at {address}; HTTP_PROXY leads into the mesh",
        name, order.service, order.namespace, order.port
    );
    let ended = attend(order.port, &mut program, &mut sidecar, &mut signals).await?;
    if let Err(error) = announcement.withdraw() {
        // The program must end well all the same; the next run of this name clears what stays.
        eprintln!("weft: warning: peers may still be sent here: {error}");
    }
    match ended {
        Ended::Program(status) => {
            stop(&mut sidecar, order.grace).await;
            Ok(exit_code(status))
        }
        Ended::Sidecar(status) => {
            stop(&mut program, order.grace).await;
            Err(RunError::Sidecar(describe(status)))
        }
        Ended::Signal(arrived) => {
            // The program finishes what it has begun, for which it may need the mesh: the sidecar goes last.
            let status = wind_down(&mut program, arrived, &mut signals, order.grace).await?;
            stop(&mut sidecar, order.grace).await;
            Ok(exit_code(status))
        }
    }
}

/// What ended the run.
enum Ended {
    Program(ExitStatus),
    Sidecar(ExitStatus),
    Signal(Arrived),
}

async fn stop(process: &mut Process, grace: Duration) {
    // Somewhat longer than the sidecar's own limit, so that it ends by itself.
    if let Err(error) = process.stop(grace + Duration::from_secs(1)).await {
        eprintln!("weft: {error}");
    }
}

/// Waits for an end, and passes on the signals that mean none.
async fn attend(
    port: u16,
    program: &mut Process,
    sidecar: &mut Process,
    signals: &mut Signals,
) -> Result<Ended, RunError> {
    let remark = remark(port);
    let mut remark = std::pin::pin!(remark);
    let mut is_remarked = false;
    loop {
        tokio::select! {
            status = program.wait() => {
                return status.map(Ended::Program).map_err(at("waiting for the program"));
            }
            status = sidecar.wait() => {
                return status.map(Ended::Sidecar).map_err(at("waiting for the sidecar"));
            }
            () = remark.as_mut(), if !is_remarked => is_remarked = true,
            arrived = signals.next() => match arrived.signal {
                Signal::TERM | Signal::INT => return Ok(Ended::Signal(arrived)),
                _ => arrived.pass_on(program),
            },
        }
    }
}

/// Ends the program while the sidecar still serves it in both directions, and gives its status.
async fn wind_down(
    program: &mut Process,
    arrived: Arrived,
    signals: &mut Signals,
    grace: Duration,
) -> Result<ExitStatus, RunError> {
    let deadline = tokio::time::Instant::now() + grace;
    let ended = at("waiting for the program");
    // Programs that are told to end stop listening at once, so peers must have heard of it before.
    let is_told = arrived.origin == Origin::Terminal;
    if !is_told && let Ok(status) = tokio::time::timeout(HEARD.min(grace), program.wait()).await {
        return status.map_err(ended);
    }
    arrived.pass_on(program);
    loop {
        tokio::select! {
            status = program.wait() => return status.map_err(ended),
            // Whoever is impatient, or has more to say, says it to the program.
            more = signals.next() => more.pass_on(program),
            () = tokio::time::sleep_until(deadline) => {
                eprintln!("weft: the program is still there after {grace:?} and is killed");
                program.signal(Signal::KILL);
                return program.wait().await.map_err(ended);
            }
        }
    }
}

/// The signals that are meant for the program, caught from now on.
struct Signals {
    terminate: Caught,
    interrupt: Caught,
    hangup: Caught,
    user1: Caught,
    user2: Caught,
}

/// A signal that came.
#[derive(Clone, Copy, Debug)]
struct Arrived {
    signal: Signal,
    origin: Origin,
}

/// Where a signal comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// Somebody sent it to us alone.
    Process,
    /// Typed: the terminal has sent it to the program, too.
    Terminal,
}

impl Arrived {
    fn pass_on(self, program: &Process) {
        // Twice would mean "at once" to many.
        if self.origin == Origin::Process {
            program.signal(self.signal);
        }
    }
}

impl Signals {
    fn catch() -> Result<Self, RunError> {
        let catch = |kind| signal(kind).map_err(at("signals"));
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hangup: catch(SignalKind::hangup())?,
            user1: catch(SignalKind::user_defined1())?,
            user2: catch(SignalKind::user_defined2())?,
        })
    }

    /// The next one. Cancel-safe.
    async fn next(&mut self) -> Arrived {
        let signal = tokio::select! {
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.hangup.recv() => Signal::HUP,
            _ = self.user1.recv() => Signal::USR1,
            _ = self.user2.recv() => Signal::USR2,
        };
        let is_typed = signal == Signal::INT && std::io::stdin().is_terminal();
        Arrived { signal, origin: if is_typed { Origin::Terminal } else { Origin::Process } }
    }
}

/// Says once what is wrong with where the program listens.
async fn remark(port: u16) {
    let deadline = tokio::time::Instant::now() + LISTENS;
    loop {
        match listening(port, &tables()) {
            Listening::Loopback => return,
            Listening::Wider(address) => {
                eprintln!(
                    "weft: warning: the program listens on {address}:{port}, beyond this host: whoever reaches \
                     it there bypasses the mesh; let it listen on 127.0.0.1"
                );
                return;
            }
            Listening::Nowhere if tokio::time::Instant::now() > deadline => {
                eprintln!(
                    "weft: warning: nothing listens on 127.0.0.1:{port} yet; requests are refused until the \
                     program does (is --port right?)"
                );
                return;
            }
            Listening::Nowhere => tokio::time::sleep(ASK).await,
        }
    }
}

/// Where a port is listened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listening {
    Nowhere,
    Loopback,
    Wider(IpAddr),
}

/// The kernel's tables of TCP sockets.
fn tables() -> String {
    ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default()).concat()
}

/// Reads where a port is listened on out of the kernel's tables, whose addresses are hexadecimal words in
/// the host's byte order.
fn listening(port: u16, tables: &str) -> Listening {
    let mut found = Listening::Nowhere;
    for line in tables.lines() {
        let mut fields = line.split_whitespace().skip(1);
        let (Some(local), Some(_), Some(state)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let Some((address, at)) = local.split_once(':') else { continue };
        if state != "0A" || u16::from_str_radix(at, 16) != Ok(port) {
            continue;
        }
        match kernel_address(address) {
            Some(address) if address.to_canonical().is_loopback() => found = Listening::Loopback,
            Some(address) => return Listening::Wider(address),
            None => {}
        }
    }
    found
}

fn kernel_address(text: &str) -> Option<IpAddr> {
    let words: Vec<[u8; 4]> = text
        .as_bytes()
        .chunks(8)
        .map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok().map(u32::to_ne_bytes))
        .collect::<Option<_>>()?;
    match words.as_slice() {
        [word] => Some(Ipv4Addr::from(*word).into()),
        [a, b, c, d] => {
            let bytes: [u8; 16] = [*a, *b, *c, *d].concat().try_into().ok()?;
            Some(IpAddr::from(bytes))
        }
        _ => None,
    }
}

/// The workload's address: the one given, or that of this host's route to others.
fn address(given: Option<IpAddr>) -> Result<IpAddr, RunError> {
    if let Some(address) = given {
        if address == IpAddr::V4(Ipv4Addr::LOCALHOST) {
            let why =
                "--address: 127.0.0.1 is where the program listens; expected another address of this host";
            return Err(RunError::Wrong(why.to_owned()));
        }
        return Ok(address);
    }
    // No packet is sent: the kernel only looks up which address it would send from (RFC 5737's test network).
    let found = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        Ok(socket.local_addr()?.ip())
    });
    found.ok().filter(|ip| !ip.is_loopback() && !ip.is_unspecified()).ok_or_else(|| {
        RunError::Wrong(
            "this host has no route to others; name the workload's address with --address".to_owned(),
        )
    })
}

fn workload_name(service: &str, address: IpAddr) -> String {
    format!("{service}-{}", address.to_string().replace(['.', ':'], "-"))
}

/// The sidecar's ports.
#[derive(Clone, Copy, Debug)]
struct Ports {
    inbound: u16,
    app: u16,
    outbound: u16,
    admin: u16,
    proxy: u16,
}

impl Ports {
    /// Ports that are free now, the usual one for meshed peers if it is. All are held until all are chosen,
    /// so that none is chosen twice.
    fn choose(address: IpAddr) -> std::io::Result<Self> {
        let mut held = Vec::new();
        let mut free = |ip: IpAddr, usual: u16| {
            let listener = TcpListener::bind((ip, usual)).or_else(|_| TcpListener::bind((ip, 0)))?;
            let port = listener.local_addr()?.port();
            held.push(listener);
            Ok::<_, std::io::Error>(port)
        };
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Ok(Self {
            inbound: free(address, 4143)?,
            app: free(address, 0)?,
            outbound: free(loopback, 0)?,
            admin: free(loopback, 0)?,
            proxy: free(loopback, 0)?,
        })
    }
}

/// A directory for this run's secrets, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn create(parent: &Path) -> Result<Self, RunError> {
        let path = parent.join(format!("weft-run-{}", std::process::id()));
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(at(path.display().to_string()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It holds one expiring token, readable by its owner only.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Waits a moment for the directory of a control plane that was started by the line above in the same script.
async fn begun(state: &Path) {
    let deadline = tokio::time::Instant::now() + BEGUN;
    while !state.is_dir() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(ASK).await;
    }
}

/// The join file and whom it lets its bearer become.
fn join(order: &Order, scratch: &Scratch) -> Result<(PathBuf, Id), RunError> {
    if let Some(path) = &order.join {
        let join = JoinFile::read(path).map_err(|error| RunError::Wrong(format!("--join: {error}")))?;
        return Ok((path.clone(), join.identity));
    }
    let wrong = |error: &dyn std::fmt::Display| RunError::Wrong(error.to_string());
    if !order.state.is_dir() {
        return Err(RunError::Wrong(format!(
            "{} is not a directory: start `weft control` first and run where it keeps its state, name that with \
             --state-dir, or bring a join file of `weft token` with --join",
            order.state.display()
        )));
    }
    let name = mesh::authority_name(&order.mesh);
    let authority = Authority::open_now(&order.state, &name, Lifetimes::default()).map_err(|e| wrong(&e))?;
    let identity =
        Id::service_account(&order.service, &order.namespace, &order.mesh).map_err(|e| wrong(&e))?;
    let grant = Grant {
        identity: identity.clone(),
        lifetime: Duration::from_secs(3600),
        uses: Uses::Unlimited,
        networks: Vec::new(),
    };
    let key = TokenKey::open(&order.state).map_err(|e| wrong(&e))?;
    let join = JoinFile {
        trust_anchors: authority.anchors().to_pem().to_owned(),
        control_address: order.control_address.clone(),
        control_name: mesh::control_name(&order.mesh).map_err(|e| wrong(&e))?,
        identity: identity.clone(),
        token: key.sign(&grant, order.now).map_err(|e| wrong(&e))?,
    };
    let path = scratch.0.join("join");
    join.write(&path).map_err(|e| wrong(&e))?;
    Ok((path, identity))
}

/// The manifests of a workload, and of its service if nobody else describes it.
struct Announcement {
    writer: Writer,
    manifests: PathBuf,
    workload: ExternalWorkload,
    service: Service,
}

impl Announcement {
    fn new(
        order: &Order,
        (name, address): (&str, IpAddr),
        ports: &Ports,
        identity: Id,
    ) -> Result<Self, RunError> {
        let number = |port: u16| NonZeroU16::new(port).ok_or_else(|| RunError::Wrong("port 0".to_owned()));
        let port = |name: &str, port: u16| {
            Ok::<_, RunError>(WorkloadPort { name: name.to_owned(), port: number(port)? })
        };
        let Id::Dns(server_name) = &identity else {
            return Err(RunError::Wrong(format!(
                "--join: {identity} is not a DNS name, which peers would ask for"
            )));
        };
        let server_name: DnsName = server_name.clone();
        let existing = existing_selector(&order.manifests, &order.namespace, &order.service);
        let label = (LABEL.to_owned(), order.service.clone());
        let meta = |name: &str| Metadata {
            namespace: order.namespace.clone(),
            name: name.to_owned(),
            ..Metadata::default()
        };
        let mut workload = meta(name);
        workload.labels = existing.into_iter().flatten().chain([label.clone()]).collect();
        let service_port = |name: &str, port: u16| {
            Ok::<_, RunError>(ServicePort {
                name: name.to_owned(),
                port: number(port)?,
                target: TargetPort::Name(PORT.to_owned()),
                transport: Transport::Tcp,
                app_protocol: None,
            })
        };
        let mut service_ports = vec![service_port("http", HTTP)?];
        if order.port != HTTP {
            service_ports.push(service_port("own", order.port)?);
        }
        Ok(Self {
            writer: Writer::new(&order.manifests),
            manifests: order.manifests.clone(),
            workload: ExternalWorkload {
                meta: workload,
                identity,
                server_name,
                ips: vec![address],
                ports: vec![port(PORT, ports.app)?, port("linkerd-proxy", ports.inbound)?],
                ready: None,
                owner: None,
            },
            service: Service {
                meta: meta(&order.service),
                addressing: Addressing::Virtual(Vec::new()),
                selector: [label].into(),
                ports: service_ports,
                traffic: TrafficPolicy::Cluster,
            },
        })
    }

    fn publish(&self) -> Result<(), RunError> {
        let written = at(self.manifests.display().to_string());
        let ServiceFile { is_ours, is_there } = self.service_file();
        let publish = || {
            if !is_there || is_ours {
                self.writer.write_object(&Object::Service(Arc::new(self.service.clone())))?;
            }
            self.writer.write_object(&Object::ExternalWorkload(Arc::new(self.workload.clone())))
        };
        publish().map(|_| ()).map_err(written)
    }

    /// Removes the workload. The service stays as long as another workload that we wrote stands behind it.
    fn withdraw(&self) -> Result<(), RunError> {
        let removed = at(self.manifests.display().to_string());
        let key = Object::ExternalWorkload(Arc::new(self.workload.clone())).key();
        let withdraw = || {
            self.writer.remove_object(&key)?;
            if !self.has_others()? {
                self.writer.remove_object(&self.service_key())?;
            }
            Ok(())
        };
        withdraw().map_err(removed)
    }

    fn service_key(&self) -> Key {
        let Metadata { namespace, name, .. } = self.service.meta.clone();
        Key { kind: Kind::Service, namespace, name }
    }

    fn service_file(&self) -> ServiceFile {
        let is_ours = self.writer.path(&self.service_key()).exists();
        let is_there = directory::read_once(&self.manifests)
            .is_ok_and(|(objects, _)| objects.contains_key(&self.service_key()));
        ServiceFile { is_ours, is_there }
    }

    /// Whether another workload written by us stands behind the service.
    fn has_others(&self) -> std::io::Result<bool> {
        let (objects, _) = directory::read_once(&self.manifests)?;
        let is_other = |object: &Object| {
            let meta = object.meta();
            object.kind() == Kind::ExternalWorkload
                && meta.namespace == self.service.meta.namespace
                && meta.name != self.workload.meta.name
                && meta.labels.get(LABEL) == Some(&self.service.meta.name)
        };
        Ok(objects.values().any(is_other))
    }
}

/// What is known of a service's manifest.
struct ServiceFile {
    is_ours: bool,
    is_there: bool,
}

/// The labels that a service of somebody else's selects by.
fn existing_selector(
    manifests: &Path,
    namespace: &str,
    service: &str,
) -> Option<std::collections::BTreeMap<String, String>> {
    let (objects, _) = directory::read_once(manifests).ok()?;
    let key = Key { kind: Kind::Service, namespace: namespace.to_owned(), name: service.to_owned() };
    match objects.get(&key) {
        Some(Object::Service(service)) => Some(service.selector.clone()),
        _ => None,
    }
}

fn start_sidecar(
    order: &Order,
    name: &str,
    (address, ports): (IpAddr, &Ports),
    join: &Path,
) -> Result<Process, RunError> {
    let local = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string();
    let own = |port: u16| SocketAddr::from((address, port)).to_string();
    let flags: [(&str, OsString); 9] = [
        ("--join-file", join.into()),
        ("--inbound-listen-addr", own(ports.inbound).into()),
        ("--inbound", format!("{}={}", own(ports.app), local(order.port)).into()),
        ("--outbound-listen-addr", local(ports.outbound).into()),
        ("--admin-listen-addr", local(ports.admin).into()),
        ("--forward-proxy-listen-addr", local(ports.proxy).into()),
        ("--workload", format!("{}/{name}", order.namespace).into()),
        ("--shutdown-grace-period", format!("{}ms", order.grace.as_millis()).into()),
        ("--log", "warn".into()),
    ];
    let flags = flags.into_iter().flat_map(|(flag, value)| [OsString::from(flag), value]);
    let launch = Launch {
        weft: &order.executable,
        program: order.executable.clone().into(),
        arguments: [OsString::from("proxy")].into_iter().chain(flags).collect(),
        leash: Leash::Term,
        group: Group::Own,
        variables: Variables::Inherited,
        set: Vec::new(),
        output: None,
    };
    Process::start(launch).map_err(at("the sidecar cannot be started"))
}

fn start_program(order: &Order, ports: &Ports) -> Result<Process, RunError> {
    let proxy = OsString::from(format!("http://{}", SocketAddr::from((Ipv4Addr::LOCALHOST, ports.proxy))));
    let none = OsString::from("localhost,127.0.0.1,::1");
    let mut set = vec![("PORT".to_owned(), OsString::from(order.port.to_string()))];
    for (name, value) in [("HTTP_PROXY", &proxy), ("NO_PROXY", &none)] {
        // Programs differ in which of the two they read.
        set.push((name.to_owned(), value.clone()));
        set.push((name.to_ascii_lowercase(), value.clone()));
    }
    let (program, arguments) = order.program.split_first().map_or((OsStr::new(""), &[][..]), |(p, a)| (p, a));
    let launch = Launch {
        weft: &order.executable,
        program: program.to_owned(),
        arguments: arguments.to_vec(),
        leash: Leash::Term,
        group: Group::Ours,
        variables: Variables::Inherited,
        set,
        output: None,
    };
    Process::start(launch).map_err(at("the program cannot be started"))
}

/// Waits until the sidecar has its identity.
async fn ready(address: IpAddr, ports: &Ports, sidecar: &mut Process) -> Result<(), RunError> {
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, ports.admin));
    let deadline = tokio::time::Instant::now() + READY;
    loop {
        let answer = web::fetch(admin, "/ready", PAGE).await;
        if answer.as_ref().is_ok_and(|answer| answer.status.is_success()) {
            return Ok(());
        }
        if let Some(status) = sidecar.ended() {
            return Err(RunError::Sidecar(format!("for {address} {}", describe(status))));
        }
        if tokio::time::Instant::now() > deadline {
            let waits =
                answer.map(|a| String::from_utf8_lossy(&a.body).trim().to_owned()).unwrap_or_default();
            let text =
                format!("is not ready after {}s ({waits}); is the control plane running?", READY.as_secs());
            return Err(RunError::Sidecar(text));
        }
        tokio::time::sleep(ASK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_tell_who_listens_wider_than_loopback() {
        let loopback = "  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n";
        let wide = "  1: 00000000:1F91 00000000:0000 0A 0\n";
        let connected = "  2: 00000000:1F92 0100007F:9999 01 0\n";
        let six = "  3: 00000000000000000000000000000000:1F93 0:0 0A 0\n";
        let loopback_six = "  4: 00000000000000000000000001000000:1F94 0:0 0A 0\n";
        let tables =
            ["  sl  local_address rem_address st\n", loopback, wide, connected, six, loopback_six].concat();
        let check = |port: u16, expected: Listening| assert_eq!(listening(port, &tables), expected, "{port}");
        check(0x1f90, Listening::Loopback);
        check(0x1f91, Listening::Wider([0, 0, 0, 0].into()));
        check(0x1f92, Listening::Nowhere);
        check(0x1f93, Listening::Wider([0u16; 8].into()));
        check(0x1f94, Listening::Loopback);
        check(1, Listening::Nowhere);
    }

    #[test]
    fn a_workload_is_named_after_its_service_and_address() {
        assert_eq!(workload_name("web", [10, 0, 0, 7].into()), "web-10-0-0-7");
        assert!(address(Some([127, 0, 0, 1].into())).is_err());
        assert!(address(Some([127, 0, 0, 2].into())).is_ok());
    }
}
