//! `weft run` with real processes: a server and a client of one mesh, and what is left when they end.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");

/// What a program must not ask the mesh for.
const LOCAL: &str = "localhost,127.0.0.1,::1";

/// Longest wait for whatever a program is to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// A child that is killed when the test ends, however it ends.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(self.0.id().to_string()).status();
        assert!(sent.unwrap().success());
    }

    fn status(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < PATIENCE, "it does not end");
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    pub(crate) fn out(&mut self) -> Lines {
        Lines::of(self.0.stdout.take().unwrap())
    }

    fn err(&mut self) -> Lines {
        Lines::of(self.0.stderr.take().unwrap())
    }
}

/// What a program says, line by line, and never waited for without a bound.
pub(crate) struct Lines(Receiver<String>);

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = sync_channel(1024);
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self(receiver)
    }

    fn next(&self) -> String {
        self.0.recv_timeout(PATIENCE).expect("it should have said more")
    }

    /// Skips to the line that contains a text.
    pub(crate) fn until(&self, text: &str) -> String {
        let start = Instant::now();
        let mut seen = Vec::new();
        while let Ok(line) = self.0.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
            if line.contains(text) {
                return line;
            }
            seen.push(line);
        }
        panic!("no {text:?} in {seen:#?}");
    }

    /// Waits until nobody can say anything more.
    fn end(self) {
        let start = Instant::now();
        while self.0.recv_timeout(PATIENCE.saturating_sub(start.elapsed())).is_ok() {}
        assert!(start.elapsed() < PATIENCE, "somebody is still there");
    }
}

/// A mesh in a directory, with its control plane.
pub(crate) struct Mesh {
    pub(crate) root: PathBuf,
    network: String,
    control: Option<Running>,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        drop(self.control.take());
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Waits until a program listens: `weft run` starts it, and says so, before it does.
fn await_listener(port: u16) {
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(start.elapsed() < PATIENCE, "nothing listens at {port}");
        std::thread::yield_now();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Mesh {
    fn start() -> Self {
        let mut mesh = Self::without_control();
        let mut control = Running(mesh.control().spawn().unwrap());
        control.out().until("the control plane serves");
        mesh.control = Some(control);
        mesh
    }

    pub(crate) fn without_control() -> Self {
        // Ports differ between tests that run at once, so that a network named after one is ours.
        let number = free_port();
        let root = std::env::temp_dir().join(format!("weft-beside-{}-{number}", std::process::id()));
        fs::create_dir_all(root.join("manifests")).unwrap();
        let network = format!("127.{}.{}", 100 + number / 256 % 100, number % 256);
        Self { root, network, control: None }
    }

    pub(crate) fn control(&self) -> Command {
        let mut command = Command::new(WEFT);
        command
            .args(["control", "--manifests"])
            .arg(self.root.join("manifests"))
            .arg("--state-dir")
            .arg(self.root.join("state"))
            .args(["--listen", &format!("{}.1:8086", self.network)])
            .args(["--admin", &format!("{}.1:9990", self.network)])
            .stdout(Stdio::piped());
        command
    }

    fn run(&self, service: &str, host: u8, port: u16, program: &[&str]) -> Command {
        self.run_against(&format!("{}.1:8086", self.network), (service, host, port), program)
    }

    /// The same with another control plane.
    fn run_against(
        &self,
        control: &str,
        (service, host, port): (&str, u8, u16),
        program: &[&str],
    ) -> Command {
        let mut command = Command::new(WEFT);
        command
            .args(["run", "--service", service, "--port", &port.to_string()])
            .args(["--address", &format!("{}.{host}", self.network)])
            .args(["--control-address", control, "--grace", "5s", "--manifests"])
            .arg(self.root.join("manifests"))
            .arg("--state-dir")
            .arg(self.root.join("state"))
            .arg("--")
            .args(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn manifests(&self) -> Vec<String> {
        let names = |path: &Path| {
            let entries = fs::read_dir(path).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        names(&self.root.join("manifests"))
    }
}

/// What a forward proxy answers for a URL, once the control plane has heard of the service: it reads manifests some
/// time after they are written.
fn get(proxy: &str, url: &str) -> String {
    let start = Instant::now();
    loop {
        let mut stream = TcpStream::connect(proxy).unwrap();
        write!(stream, "GET {url} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        if !answer.contains("no-such-service") || start.elapsed() > PATIENCE {
            return answer;
        }
    }
}

#[test]
fn a_program_joins_the_mesh_and_leaves_it_without_a_trace() {
    let mesh = Mesh::start();
    let port = free_port();
    let listen = format!("--listen=127.0.0.1:{port}");
    let server = || {
        let mut child = Running(
            mesh.run("web", 11, port, &[WEFT, "demo-app", "--speaks=http", &listen]).spawn().unwrap(),
        );
        let said = child.err();
        (child, said)
    };
    let (mut web, said) = server();
    said.until("leads into the mesh");
    await_listener(port);
    let workload =
        format!("weft-run-externalworkload_default_web-{}-11.yaml", mesh.network.replace('.', "-"));
    assert_eq!(mesh.manifests(), [workload.clone(), "weft-run-service_default_web.yaml".to_owned()]);

    // A client in the mesh: it only knows HTTP_PROXY.
    let script = "echo $HTTP_PROXY; echo $http_proxy $NO_PROXY $no_proxy; read line; exit 3";
    let mut client = Running(mesh.run("client", 12, free_port(), &["sh", "-c", script]).spawn().unwrap());
    let lines = client.out();
    let told = lines.next();
    assert_eq!(lines.next(), format!("{told} {LOCAL} {LOCAL}"));
    let proxy = told.strip_prefix("http://").unwrap();
    let answer = get(proxy, "http://web.default.svc.cluster.local/hello");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("/hello"), "{answer}");

    // A killed run leaves its manifest behind, but no process; the next run of that name clears it.
    web.signal("KILL");
    web.status();
    drop(web);
    assert!(mesh.manifests().contains(&workload));
    said.end(); // when program and sidecar have ended, too
    let (mut web, said) = server();
    said.until("leads into the mesh");
    await_listener(port);

    web.signal("TERM");
    assert_eq!(web.status(), Some(0));
    assert!(!mesh.manifests().iter().any(|name| name.contains("web")), "{:?}", mesh.manifests());

    client.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(client.status(), Some(3));
    assert_eq!(mesh.manifests(), Vec::<String>::new());
}

#[test]
fn a_program_that_is_told_to_end_has_its_sidecar_until_it_does() {
    let mesh = Mesh::start();
    let port = free_port();
    let server = [WEFT, "demo-app", "--speaks=http", &format!("--listen=127.0.0.1:{port}")];
    let mut web = Running(mesh.run("web", 11, port, &server).spawn().unwrap());
    web.err().until("leads into the mesh");
    await_listener(port);

    // A program that takes its time to end, and one signal more that it wants to hear of.
    let script = "trap 'echo reload' USR1; trap 'echo ending; read line; kill $!; exit 5' TERM
        echo $HTTP_PROXY; tail -f /dev/null & while :; do wait; done";
    let mut slow = Running(mesh.run("slow", 12, free_port(), &["sh", "-c", script]).spawn().unwrap());
    slow.err().until("leads into the mesh");
    let lines = slow.out();
    let told = lines.next();
    slow.signal("USR1");
    assert_eq!(lines.next(), "reload");
    slow.signal("TERM");
    assert_eq!(lines.next(), "ending");
    assert!(!mesh.manifests().iter().any(|name| name.contains("slow")), "{:?}", mesh.manifests());
    let proxy = told.strip_prefix("http://").unwrap();
    let answer = get(proxy, "http://web.default.svc.cluster.local/last-words");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("/last-words"), "{answer}");
    slow.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(slow.status(), Some(5));
    assert!(TcpStream::connect(proxy).is_err(), "the sidecar is gone, too");
}

#[test]
fn a_program_that_does_not_end_is_killed_after_the_grace_period() {
    let mesh = Mesh::start();
    let script = "trap '' TERM; exec tail -f /dev/null";
    let mut deaf = Running(mesh.run("deaf", 13, free_port(), &["sh", "-c", script]).spawn().unwrap());
    let said = deaf.err();
    said.until("leads into the mesh");
    deaf.signal("TERM");
    said.until("is killed");
    assert_eq!(deaf.status(), Some(128 + 9));
    assert_eq!(mesh.manifests(), Vec::<String>::new());
}

#[test]
fn a_service_of_the_users_is_joined_and_not_replaced() {
    let mesh = Mesh::start();
    let own = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: default},
        spec: {selector: {app: shop}, ports: [{port: 80, targetPort: app}]}}";
    fs::write(mesh.root.join("manifests/own.yaml"), own).unwrap();
    let port = free_port();
    // It listens wider than it should, which is remarked.
    let server = [WEFT, "demo-app", "--speaks=http", &format!("--listen=0.0.0.0:{port}")];
    let mut web = Running(mesh.run("web", 14, port, &server).spawn().unwrap());
    let said = web.err();
    said.until("leads into the mesh");
    said.until(&format!("warning: the program listens on 0.0.0.0:{port}"));
    let workload =
        format!("weft-run-externalworkload_default_web-{}-14.yaml", mesh.network.replace('.', "-"));
    assert_eq!(mesh.manifests(), ["own.yaml".to_owned(), workload.clone()]);
    let written = fs::read_to_string(mesh.root.join("manifests").join(workload)).unwrap();
    assert!(written.contains("app: shop"), "{written}");
    web.signal("TERM");
    web.status();
    assert_eq!(mesh.manifests(), ["own.yaml"]);
}

#[test]
fn what_a_killed_run_left_is_cleared_before_the_program_starts() {
    let mesh = Mesh::start();
    let left = format!("weft-run-externalworkload_default_web-{}-15.yaml", mesh.network.replace('.', "-"));
    fs::write(mesh.root.join("manifests").join(&left), "kind: ExternalWorkload").unwrap();
    // Nobody answers there, so this run never gets as far as writing a manifest of its own.
    let nobody = format!("{}.9:8086", mesh.network);
    let mut stuck = Running(mesh.run_against(&nobody, ("web", 15, free_port()), &["true"]).spawn().unwrap());
    let start = Instant::now();
    while mesh.manifests().contains(&left) {
        assert!(start.elapsed() < PATIENCE && stuck.0.try_wait().unwrap().is_none(), "{left} is still there");
        std::thread::yield_now();
    }
}

#[test]
fn a_program_may_be_started_in_the_same_breath_as_its_control_plane() {
    let mut mesh = Mesh::without_control();
    let mut client = Running(mesh.run("client", 16, free_port(), &["true"]).spawn().unwrap());
    assert!(client.0.try_wait().unwrap().is_none());
    mesh.control = Some(Running(mesh.control().spawn().unwrap()));
    assert_eq!(client.status(), Some(0));
}

#[test]
fn what_cannot_be_run_is_told_to_people() {
    let check = |arguments: &[&str], expected: &str| {
        let output = Command::new(WEFT).arg("run").args(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(expected), "{arguments:?}: {said}");
    };
    let base = ["--service", "web", "--port", "80", "--manifests"];
    let with = |rest: &[&'static str]| [&base[..], rest].concat();
    check(&with(&["/nowhere", "--", "true"]), "/nowhere is not a directory");
    check(&with(&["/tmp", "--address", "127.0.0.1", "--", "true"]), "expected another address");
    check(&with(&["/tmp", "--state-dir", "/nowhere", "--", "true"]), "start `weft control` first");
    check(&["--service", "web.shop", "--port", "80", "--manifests", "/tmp", "--", "true"], "letters, digits");
}
