//! The shop as processes: the control plane, each replica with its sidecar, and the load's sidecar.
//!
//! Everything that happens to it goes through here: starting, ending by one signal or another, coming back,
//! moving a split, stopping the control plane, reading metrics. Dropping it kills every process and removes
//! its directory.

use super::checks::Check;
use super::layout::{self, NAMESPACE, Network, REPLICAS, Replica, SERVICES, Split, cast, port};
use super::received::Received;
use super::scrape::Page;
use super::{DemoError, Options};
use crate::commands::mesh;
use crate::supervise::{Group, Launch, Leash, Process, Variables};
use rustix::process::Signal;
use std::ffi::OsString;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::task::JoinSet;
use weft_identity::authority::{Authority, Lifetimes};
use weft_identity::join::JoinFile;
use weft_identity::token::{Grant, TokenKey, Uses};
use weft_model::identity::MeshNames;
use weft_model::object::Object;
use weft_net::prefixed::Bounds;
use weft_net::web;
use weft_resources::Writer;

/// Longest wait for a process to be ready. Generous: an unoptimised build on a busy machine.
const READY: Duration = Duration::from_secs(30);
/// How often a process is asked whether it is ready.
const ASK: Duration = Duration::from_millis(50);
/// Longest drain of a sidecar, and what is added before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// Bounds of one look at a page.
const PAGE: Bounds = Bounds { bytes: 8 * 1024 * 1024, time: Duration::from_secs(3) };
/// How many networks are tried until one is free.
const NETWORKS: usize = 32;

/// A replica's processes; none while it is down.
#[derive(Default)]
struct Running {
    program: Option<Process>,
    sidecar: Option<Process>,
    page: Page,
    /// What earlier processes of it received.
    past: Received,
}

/// The running shop.
pub(crate) struct Shop {
    executable: PathBuf,
    sabotage: Option<Check>,
    network: Network,
    writer: Writer,
    control: Option<Process>,
    load: Option<Process>,
    replicas: Vec<Running>,
    /// What the load's sidecar said last.
    pub(crate) sender: Page,
    // Last, so that it is removed after the processes are gone.
    directory: Directory,
}

impl Shop {
    /// Prepares directory, keys and manifests, and starts everything.
    pub(crate) async fn open(options: &Options) -> Result<Self, DemoError> {
        let directory = Directory::create(&options.temporary)?;
        let network = free_network()?;
        let mut shop = Self {
            executable: options.executable.clone(),
            sabotage: options.sabotage,
            network,
            writer: Writer::new(directory.path("manifests")),
            control: None,
            load: None,
            replicas: REPLICAS.iter().map(|_| Running::default()).collect(),
            sender: Page::default(),
            directory,
        };
        shop.prepare(options.now)?;
        shop.start_control()?;
        shop.start_load()?;
        for index in 0..REPLICAS.len() {
            shop.start_replica(index)?;
            shop.announce(index)?;
        }
        shop.control_ready().await?;
        for index in 0..REPLICAS.len() {
            shop.replica_ready(index).await?;
        }
        let admin = shop.network.at(Network::LOAD, port::ADMIN);
        let log = shop.directory.path("load.log");
        ready(admin, shop.load.as_mut(), ("the load's sidecar", &log)).await?;
        Ok(shop)
    }

    /// Where the load's sidecar takes requests, one address a service.
    pub(crate) fn upstreams(&self) -> Vec<SocketAddr> {
        (port::UPSTREAM..).zip(SERVICES).map(|(port, _)| self.network.at(Network::LOAD, port)).collect()
    }

    /// The address under which callers know a replica.
    pub(crate) fn address(&self, index: usize) -> SocketAddr {
        let target = REPLICAS.get(index).map_or(0, |replica| replica.service().target);
        self.network.at(Replica::host(index), target)
    }

    /// How many processes are running.
    pub(crate) fn processes(&self) -> usize {
        let of = |running: &Running| running.program.iter().count() + running.sidecar.iter().count();
        self.replicas.iter().map(of).sum::<usize>() + self.control.iter().count() + self.load.iter().count()
    }

    /// What each replica received, all its processes together.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.replicas.iter().map(|running| running.past.plus(Received::of(&running.page))).collect()
    }

    /// Whether a replica is up.
    pub(crate) fn is_up(&self, index: usize) -> bool {
        self.replicas.get(index).is_some_and(|running| running.sidecar.is_some())
    }

    /// Whether the control plane is up.
    pub(crate) fn is_controlled(&self) -> bool {
        self.control.is_some()
    }

    /// Reads the metrics of every sidecar. One that does not answer keeps its last page.
    pub(crate) async fn scrape(&mut self) {
        let mut pages = JoinSet::new();
        let hosts = self.replicas.iter().enumerate().filter(|(_, r)| r.sidecar.is_some());
        for (index, host) in hosts.map(|(index, _)| (Some(index), Replica::host(index))) {
            let admin = self.network.at(host, port::ADMIN);
            pages.spawn(async move { (index, page(admin).await) });
        }
        let admin = self.network.at(Network::LOAD, port::ADMIN);
        pages.spawn(async move { (None, page(admin).await) });
        while let Some(Ok((index, page))) = pages.join_next().await {
            let Some(page) = page else { continue };
            match index.and_then(|index| self.replicas.get_mut(index)) {
                Some(running) => running.page = page,
                None => self.sender = page,
            }
        }
    }

    /// Ends a replica as an orderly host does: it is taken from the manifests, its sidecar gets SIGTERM and
    /// drains, then the program goes.
    pub(crate) async fn terminate(&mut self, index: usize) -> Result<(), DemoError> {
        let admin = self.network.at(Replica::host(index), port::ADMIN);
        if let Some(workload) = Replica::workload(index, self.network) {
            self.writer.remove_object(&Object::ExternalWorkload(Arc::new(workload)).key())?;
        }
        let Some(running) = self.replicas.get_mut(index) else { return Ok(()) };
        if let Some(mut sidecar) = running.sidecar.take() {
            sidecar.signal(Signal::TERM);
            // Its last counts are read while it drains.
            let deadline = tokio::time::Instant::now() + GRACE + GRACE;
            while sidecar.ended().is_none() && tokio::time::Instant::now() < deadline {
                if let Some(page) = page(admin).await {
                    running.page = page;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        if let Some(mut program) = running.program.take() {
            program.stop(GRACE).await?;
        }
        running.rest();
        Ok(())
    }

    /// Ends a replica as a power cut does. Nobody is told.
    pub(crate) async fn kill(&mut self, index: usize) -> Result<(), DemoError> {
        let Some(running) = self.replicas.get_mut(index) else { return Ok(()) };
        for mut process in running.sidecar.take().into_iter().chain(running.program.take()) {
            process.signal(Signal::KILL);
            process.wait().await?;
        }
        running.rest();
        Ok(())
    }

    /// Brings a replica back.
    pub(crate) async fn bring_back(&mut self, index: usize) -> Result<(), DemoError> {
        self.start_replica(index)?;
        self.replica_ready(index).await?;
        self.announce(index)
    }

    /// Moves a service's split.
    pub(crate) fn split(&self, service: usize, split: Split) -> Result<(), DemoError> {
        let name = SERVICES.get(service).map_or("none", |service| service.name);
        self.write(&format!("profile-{name}.yaml"), &layout::profile(service, split))
    }

    /// Ends the control plane.
    pub(crate) async fn stop_control(&mut self) -> Result<(), DemoError> {
        if let Some(mut control) = self.control.take() {
            control.stop(GRACE).await?;
        }
        Ok(())
    }

    /// Starts the control plane, with the state it had.
    pub(crate) fn start_control(&mut self) -> Result<(), DemoError> {
        let listen = self.network.at(Network::CONTROL, port::CONTROL).to_string();
        let admin = self.network.at(Network::CONTROL, port::ADMIN).to_string();
        let (manifests, state) = (self.directory.text("manifests"), self.directory.text("state"));
        let arguments = ["control", "--manifests", &manifests, "--state-dir", &state]
            .into_iter()
            .chain(["--listen", &listen, "--admin", &admin]);
        self.control = Some(self.launch("control", arguments.map(OsString::from).collect())?);
        Ok(())
    }

    /// Waits until the control plane serves.
    pub(crate) async fn control_ready(&mut self) -> Result<(), DemoError> {
        let admin = self.network.at(Network::CONTROL, port::ADMIN);
        let log = self.directory.path("control.log");
        ready(admin, self.control.as_mut(), ("the control plane", &log)).await
    }

    /// Ends everything, gently first.
    pub(crate) async fn close(mut self) {
        let running = self.replicas.drain(..).flat_map(|r| [r.sidecar, r.program]);
        let mut all: Vec<Process> =
            running.chain([self.load.take(), self.control.take()]).flatten().collect();
        all.iter().for_each(|process| process.signal(Signal::TERM));
        let deadline = tokio::time::Instant::now() + Duration::from_secs(3);
        for process in &mut all {
            // Who is late is killed when it is dropped.
            let _ = tokio::time::timeout_at(deadline, process.wait()).await;
        }
    }

    /// Writes manifests, keys and join files.
    fn prepare(&self, now: SystemTime) -> Result<(), DemoError> {
        fs::create_dir(self.directory.path("manifests"))?;
        fs::create_dir(self.directory.path("state"))?;
        self.write("services.yaml", &layout::services())?;
        for service in 0..SERVICES.len() - 1 {
            self.split(service, self.first_split(service))?;
        }
        if self.sabotage == Some(Check::Plaintext) {
            self.write("plain.yaml", &layout::plaintext_endpoint(self.network.host(Self::PLAIN)))?;
        }
        let names = MeshNames::default();
        let state = self.directory.path("state");
        let authority = Authority::open_now(&state, &mesh::authority_name(&names), Lifetimes::default());
        let authority = authority.map_err(|error| DemoError::Identity(error.to_string()))?;
        let key = TokenKey::open(&state).map_err(|error| DemoError::Identity(error.to_string()))?;
        for (index, name) in REPLICAS.iter().map(|replica| replica.name).chain(["load"]).enumerate() {
            let is_impostor = self.sabotage == Some(Check::Identity) && index == cast::IMPOSTOR;
            let account = if is_impostor { "impostor" } else { name };
            let wrong = |error: &dyn std::fmt::Display| DemoError::Identity(format!("{name}: {error}"));
            let identity = layout::identity(account).ok_or_else(|| wrong(&"not a name"))?;
            let lifetime = Duration::from_secs(24 * 3600);
            let grant =
                Grant { identity: identity.clone(), lifetime, uses: Uses::Unlimited, networks: vec![] };
            let join = JoinFile {
                trust_anchors: authority.anchors().to_pem().to_owned(),
                control_address: self.network.at(Network::CONTROL, port::CONTROL).to_string(),
                control_name: mesh::control_name(&names).map_err(|error| wrong(&error))?,
                identity,
                token: key.sign(&grant, now).map_err(|error| wrong(&error))?,
            };
            join.write(&self.directory.path(&format!("{name}.join"))).map_err(|error| wrong(&error))?;
        }
        Ok(())
    }

    /// The host of an endpoint that is spoken to in plaintext.
    const PLAIN: u8 = 200;

    /// The split that a service begins with.
    fn first_split(&self, service: usize) -> Split {
        match service {
            0 => super::SPLITS[0],
            // A split in fixed shares takes the choice from the balancer.
            1 if self.sabotage == Some(Check::Balance) => &[("v1", 33), ("v2", 33), ("v3", 33)],
            _ => &[],
        }
    }

    /// Writes a manifest, whole or not at all.
    fn write(&self, name: &str, text: &str) -> Result<(), DemoError> {
        let directory = self.directory.path("manifests");
        let hidden = directory.join(format!(".{name}.tmp"));
        fs::write(&hidden, text)?;
        Ok(fs::rename(hidden, directory.join(name))?)
    }

    fn announce(&self, index: usize) -> Result<(), DemoError> {
        if let Some(workload) = Replica::workload(index, self.network) {
            self.writer.write_object(&Object::ExternalWorkload(Arc::new(workload)))?;
        }
        Ok(())
    }

    fn start_load(&mut self) -> Result<(), DemoError> {
        let upstreams = self.upstreams();
        let more = upstreams.iter().zip(SERVICES).flat_map(|(listen, service)| {
            ["--upstream".to_owned(), format!("{listen}={}", service.authority())]
        });
        let arguments = self.sidecar(Network::LOAD, "load", more);
        self.load = Some(self.launch("load", arguments)?);
        Ok(())
    }

    fn start_replica(&mut self, index: usize) -> Result<(), DemoError> {
        let Some(replica) = REPLICAS.get(index) else { return Ok(()) };
        let host = Replica::host(index);
        let program = self.network.at(host, port::PROGRAM);
        let mut more = vec!["--inbound".to_owned(), format!("{}={program}", self.address(index))];
        if index == 0 && self.sabotage == Some(Check::Plaintext) {
            let plain = self.network.at(Self::PLAIN, replica.service().target);
            more.extend(["--inbound".to_owned(), format!("{plain}={program}")]);
        }
        let sidecar = self.launch(replica.name, self.sidecar(host, replica.name, more))?;
        let breaks_off_at = if self.sabotage == Some(Check::Lost) && index == cast::BROKEN { 20 } else { 0 };
        let arguments = [
            "demo-app".to_owned(),
            format!("--speaks={}", replica.service().speaks.name()),
            format!("--listen={program}"),
            format!("--takes-ms={}", replica.takes_ms),
            format!("--fails-every={}", replica.fails_every),
            format!("--breaks-off-at={breaks_off_at}"),
        ];
        let program = self.launch(
            &format!("{}-program", replica.name),
            arguments.into_iter().map(OsString::from).collect(),
        )?;
        if let Some(running) = self.replicas.get_mut(index) {
            (running.sidecar, running.program) = (Some(sidecar), Some(program));
        }
        Ok(())
    }

    async fn replica_ready(&mut self, index: usize) -> Result<(), DemoError> {
        let name = REPLICAS.get(index).map_or("none", |replica| replica.name);
        let admin = self.network.at(Replica::host(index), port::ADMIN);
        let log = self.directory.path(&format!("{name}.log"));
        let sidecar = self.replicas.get_mut(index).and_then(|running| running.sidecar.as_mut());
        ready(admin, sidecar, (&format!("{name}'s sidecar"), &log)).await
    }

    /// A sidecar's arguments.
    fn sidecar(&self, host: u8, name: &str, more: impl IntoIterator<Item = String>) -> Vec<OsString> {
        let at = |port| self.network.at(host, port).to_string();
        let join = self.directory.text(&format!("{name}.join"));
        let grace = format!("{}s", GRACE.as_secs());
        let mut arguments: Vec<String> = [
            ("--join-file", join),
            ("--inbound-listen-addr", at(port::INBOUND)),
            ("--outbound-listen-addr", at(port::OUTBOUND)),
            ("--admin-listen-addr", at(port::ADMIN)),
            ("--workload", format!("{NAMESPACE}/{name}")),
            ("--shutdown-grace-period", grace),
            ("--cores", "1".to_owned()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect();
        arguments.insert(0, "proxy".to_owned());
        arguments.extend(more);
        arguments.into_iter().map(OsString::from).collect()
    }

    fn launch(&self, name: &str, arguments: Vec<OsString>) -> Result<Process, DemoError> {
        let log = self.directory.path(&format!("{name}.log"));
        let launch = Launch {
            weft: &self.executable,
            program: self.executable.clone().into(),
            arguments,
            leash: Leash::Kill,
            group: Group::Own,
            variables: Variables::Fresh,
            set: Vec::new(),
            output: Some(&log),
        };
        Ok(Process::start(launch)?)
    }
}

impl Running {
    /// Its processes are gone: what they counted belongs to the past.
    fn rest(&mut self) {
        self.past = self.past.plus(Received::of(&std::mem::take(&mut self.page)));
    }
}

/// A directory that is removed with everything in it.
struct Directory(PathBuf);

impl Directory {
    fn create(parent: &Path) -> Result<Self, DemoError> {
        let path = parent.join(format!("weft-demo-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed is left in the temporary directory, where such things end.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A network in which every port that the shop needs is free right now.
fn free_network() -> Result<Network, DemoError> {
    let used = [port::CONTROL, port::ADMIN, port::INBOUND, port::PROGRAM, 8080, 4444];
    let hosts = || (Network::CONTROL..).take(2).chain((0..REPLICAS.len()).map(Replica::host));
    for _ in 0..NETWORKS {
        let network = Network(fastrand::u8(2..=254), fastrand::u8(..));
        let is_free = |host| used.iter().all(|port| TcpListener::bind(network.at(host, *port)).is_ok());
        if hosts().all(is_free) {
            return Ok(network);
        }
    }
    Err(DemoError::NoNetwork)
}

/// The page of metrics at an admin address, if it answers.
async fn page(admin: SocketAddr) -> Option<Page> {
    let fetched = web::fetch(admin, "/metrics", PAGE).await.ok()?;
    fetched.status.is_success().then(|| Page::parse(&String::from_utf8_lossy(&fetched.body)))
}

/// Waits until a process says that it is ready. Asking again and again is all there is: it has no other way
/// to tell.
async fn ready(
    admin: SocketAddr,
    process: Option<&mut Process>,
    (name, log): (&str, &Path),
) -> Result<(), DemoError> {
    let mut process = process;
    let deadline = tokio::time::Instant::now() + READY;
    loop {
        if web::fetch(admin, "/ready", PAGE).await.is_ok_and(|answer| answer.status.is_success()) {
            return Ok(());
        }
        let ended = process.as_mut().and_then(|process| process.ended());
        if ended.is_some() || tokio::time::Instant::now() > deadline {
            let how = ended.map_or_else(
                || format!("is not ready after {}s", READY.as_secs()),
                crate::supervise::describe,
            );
            let said = fs::read_to_string(log).unwrap_or_default();
            let last: Vec<&str> = said.lines().rev().take(5).collect();
            let said = last.into_iter().rev().collect::<Vec<_>>().join("\n  ");
            return Err(DemoError::Start { what: name.to_owned(), how, said });
        }
        tokio::time::sleep(ASK).await;
    }
}
