//! `weft run` with real processes: a server and a client of one mesh, and what is left when they end.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");

/// Longest wait for a program's first sign of life.
const PATIENCE: Duration = Duration::from_secs(20);

/// A child that is killed when the test ends, however it ends.
struct Running(Child);

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
        self.0.wait().unwrap().code()
    }
}

/// Reads lines until one contains a text, and gives that one.
fn read_until(lines: &mut impl BufRead, text: &str) -> String {
    let mut seen = String::new();
    loop {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).unwrap() > 0, "ended before {text:?}:\n{seen}");
        if line.contains(text) {
            return line;
        }
        seen.push_str(&line);
    }
}

/// A mesh in a directory, with its control plane.
struct Mesh {
    root: PathBuf,
    network: String,
    _control: Running,
}

impl Drop for Mesh {
    fn drop(&mut self) {
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
        let root = std::env::temp_dir().join(format!("weft-beside-{}", std::process::id()));
        fs::create_dir_all(root.join("manifests")).unwrap();
        // Ports differ between tests that run at once, so that a network named after one is ours.
        let number = free_port();
        let network = format!("127.{}.{}", 100 + number / 256 % 100, number % 256);
        let mut control = Command::new(WEFT)
            .args(["control", "--manifests"])
            .arg(root.join("manifests"))
            .arg("--state-dir")
            .arg(root.join("state"))
            .args(["--listen", &format!("{network}.1:8086"), "--admin", &format!("{network}.1:9990")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        read_until(&mut BufReader::new(control.stdout.take().unwrap()), "the control plane serves");
        Self { root, network, _control: Running(control) }
    }

    fn run(&self, service: &str, host: u8, port: u16, program: &[&str]) -> Command {
        let mut command = Command::new(WEFT);
        command
            .args(["run", "--service", service, "--port", &port.to_string()])
            .args(["--address", &format!("{}.{host}", self.network)])
            .args(["--control-address", &format!("{}.1:8086", self.network), "--grace", "5s", "--manifests"])
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

/// What a forward proxy answers for a URL.
fn get(proxy: &str, url: &str) -> String {
    let mut stream = TcpStream::connect(proxy).unwrap();
    write!(stream, "GET {url} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
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
        let said = BufReader::new(child.0.stderr.take().unwrap());
        (child, said)
    };
    let (mut web, mut said) = server();
    read_until(&mut said, "leads into the mesh");
    await_listener(port);
    let workload =
        format!("weft-run-externalworkload_default_web-{}-11.yaml", mesh.network.replace('.', "-"));
    assert_eq!(mesh.manifests(), [workload.clone(), "weft-run-service_default_web.yaml".to_owned()]);

    // A client in the mesh: it only knows HTTP_PROXY.
    let script = "echo $HTTP_PROXY; read line; exit 3";
    let mut client = Running(mesh.run("client", 12, free_port(), &["sh", "-c", script]).spawn().unwrap());
    let mut told = String::new();
    BufReader::new(client.0.stdout.take().unwrap()).read_line(&mut told).unwrap();
    let proxy = told.trim().strip_prefix("http://").unwrap();
    let answer = get(proxy, "http://web.default.svc.cluster.local/hello");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("/hello"), "{answer}");

    // A killed run leaves its manifest behind, but no process; the next run of that name clears it.
    web.signal("KILL");
    web.status();
    drop(web);
    assert!(mesh.manifests().contains(&workload));
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap(); // ends when program and sidecar have ended, too
    let (mut web, mut said) = server();
    read_until(&mut said, "leads into the mesh");
    await_listener(port);

    web.signal("TERM");
    assert_eq!(web.status(), Some(0));
    assert!(!mesh.manifests().iter().any(|name| name.contains("web")), "{:?}", mesh.manifests());

    client.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(client.status(), Some(3));
    assert_eq!(mesh.manifests(), Vec::<String>::new());
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
