//! One control plane, one proxy, and an application that notes what it is sent.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Longest wait for anything that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The ceiling of the proxy's resident memory.
const CEILING: u64 = 64 << 20;

/// How the application answers.
#[derive(Clone, Copy)]
pub(crate) enum Answers {
    /// 200 and `ok`, on a kept-alive connection.
    Short,
    /// 200 and 64 MiB.
    Long,
}

/// Processes and directories of one test; all are gone at its end.
pub(crate) struct World {
    /// Where clients connect.
    pub(crate) door: SocketAddr,
    admin: SocketAddr,
    proxy: Child,
    control: Child,
    directory: PathBuf,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl World {
    /// Starts everything with further flags of the proxy, and waits until it serves.
    pub(crate) fn new(answers: Answers, flags: &[&str]) -> Self {
        Self::within(answers, flags, None)
    }

    /// The same for a proxy that may have so many open files.
    pub(crate) fn within(answers: Answers, flags: &[&str], files: Option<u32>) -> Self {
        static COUNT: AtomicU8 = AtomicU8::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let [high, low] = u16::try_from(std::process::id() % 60_000 + 1_000).unwrap().to_be_bytes();
        let ip = Ipv4Addr::new(127, high, low, number);
        let at = |port| SocketAddr::from((ip, port));
        let directory = std::env::temp_dir().join(format!("weft-hostile-{}-{number}", std::process::id()));
        fs::create_dir_all(directory.join("manifests")).unwrap();
        let received = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let app = application(at(0), answers, received.clone());

        let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        let (manifests, state, join) = (path("manifests"), path("state"), path("join"));
        let (listen, control_admin) = (at(8086).to_string(), at(8087).to_string());
        let control = Command::new(env!("CARGO_BIN_EXE_weft"))
            .args(["control", "--manifests", &manifests, "--state-dir", &state])
            .args(["--listen", &listen, "--admin", &control_admin])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        until("the control plane listens", || TcpStream::connect(at(8086)).is_ok());
        let token = Command::new(env!("CARGO_BIN_EXE_weft"))
            .args(["token", "--state-dir", &state, "--identity", "web.default", "--out", &join])
            .args(["--control-address", &listen])
            .output()
            .unwrap();
        assert!(token.status.success(), "{}", String::from_utf8_lossy(&token.stderr));
        let bind = format!("{}={app}", at(8080));
        let [outbound, inbound, admin, forward] = [4140, 4143, 4191, 4150].map(|port| at(port).to_string());
        let arguments = [
            ["--join-file", &join],
            ["--policy-workload", "default:web"],
            ["--outbound-listen-addr", &outbound],
            ["--inbound-listen-addr", &inbound],
            ["--admin-listen-addr", &admin],
            ["--inbound", &bind],
            ["--forward-proxy-listen-addr", &forward],
        ]
        .concat();
        let proxy = match files {
            None => Command::new(env!("CARGO_BIN_EXE_weft"))
                .arg("proxy")
                .args(arguments)
                .args(flags)
                .stdout(Stdio::null())
                .spawn()
                .unwrap(),
            Some(files) => Command::new("sh")
                .args(["-c", &format!("ulimit -n {files}; exec \"$0\" proxy \"$@\"")])
                .arg(env!("CARGO_BIN_EXE_weft"))
                .args(arguments)
                .args(flags)
                .stdout(Stdio::null())
                .spawn()
                .unwrap(),
        };
        let world = Self { door: at(8080), admin: at(4191), proxy, control, directory, received };
        until("the proxy is ready", || {
            world.ask_admin("/ready").is_some_and(|page| page.starts_with("HTTP/1.1 200"))
        });
        world
    }

    /// A new connection; reads on it end after a while.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.door).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends the bytes on a new connection and reads to its end.
    pub(crate) fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // A refusal may close the connection while we still write.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Proves that an honest client is served now.
    #[track_caller]
    pub(crate) fn serves(&self) {
        let answer = self.exchange(b"GET /honest HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200"), "an honest client got: {answer:?}");
    }

    /// The same where the application's answers are long: their beginning must come.
    #[track_caller]
    pub(crate) fn serves_long(&self) {
        let mut stream = self.connect();
        stream.write_all(b"GET /honest HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").unwrap();
        let mut bytes = vec![0; 1 << 20];
        stream.read_exact(&mut bytes).unwrap();
        assert!(bytes.starts_with(b"HTTP/1.1 200"));
    }

    /// Everything that the application received, except from honest clients; once by connection.
    pub(crate) fn received(&self) -> Vec<u8> {
        let received = self.received.lock().unwrap();
        received.iter().filter(|bytes| !bytes.starts_with(b"GET /honest ")).flatten().copied().collect()
    }

    /// Where applications that honour HTTP_PROXY connect.
    pub(crate) fn forward_proxy(&self) -> SocketAddr {
        SocketAddr::new(self.door.ip(), 4150)
    }

    /// The value of a series of the proxy, 0 if there is none.
    pub(crate) fn metric(&self, series: &str) -> u64 {
        self.try_metric(series).unwrap()
    }

    /// The same while the admin server may not answer.
    pub(crate) fn try_metric(&self, series: &str) -> Option<u64> {
        let page = self.ask_admin("/metrics").filter(|page| page.contains("# TYPE"))?;
        let line = page.lines().find_map(|line| line.strip_prefix(series));
        Some(line.map_or(0, |value| value.trim().parse().unwrap()))
    }

    /// Files that the proxy has open.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.proxy.id())).unwrap().count()
    }

    /// Threads of the proxy that have this name.
    pub(crate) fn threads(&self, name: &str) -> usize {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.proxy.id())).unwrap();
        // One that ended meanwhile has no name.
        let named = |task: &fs::DirEntry| fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        tasks.filter(|task| named(task.as_ref().unwrap()).trim_end() == name).count()
    }

    /// How often a limit was reached.
    pub(crate) fn reached(&self, limit: &str) -> u64 {
        self.metric(&format!("weft_limit_reached_total{{limit=\"{limit}\"}}"))
    }

    /// What the admin server answers, head and body.
    pub(crate) fn admin(&self, method: &str, path: &str, body: &str) -> String {
        self.try_admin((method, path), body).unwrap()
    }

    fn ask_admin(&self, path: &str) -> Option<String> {
        self.try_admin(("GET", path), "")
    }

    fn try_admin(&self, (method, path): (&str, &str), body: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.admin).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        Some(page)
    }

    /// Proves that the proxy's memory is below its ceiling now.
    #[track_caller]
    pub(crate) fn is_small(&self) {
        let own = own(self.proxy.id());
        assert!(own < CEILING, "the proxy takes {} MiB", own >> 20);
    }

    /// The proxy's own memory, once it has stopped to change: nothing tells when buffers are as full as they get.
    pub(crate) fn settled(&self) -> u64 {
        let start = Instant::now();
        let mut before = own(self.proxy.id());
        loop {
            for _ in 0..15 {
                pause();
            }
            let now = own(self.proxy.id());
            if now.abs_diff(before) < 256 << 10 || start.elapsed() > PATIENCE {
                return now;
            }
            before = now;
        }
    }

    /// Connections open at the port, by the proxy's own gauge.
    pub(crate) fn open_connections(&self) -> u64 {
        self.metric("weft_accepted_connections{listener=\"bind\"}")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in [&mut self.proxy, &mut self.control] {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The resident memory of a process, without the pages of the executable, of which a debug build has many.
pub(crate) fn own(process: u32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{process}/statm")).unwrap();
    let field = |n| statm.split(' ').nth(n).unwrap().trim().parse::<u64>().unwrap() * 4096;
    field(1) - field(2)
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "in vain: {what}");
        pause();
    }
}

/// Lets other processes run. There is nothing to be notified by: they are not ours to instrument.
pub(crate) fn pause() {
    let (_keep, never) = std::sync::mpsc::sync_channel::<()>(1);
    let _ = never.recv_timeout(Duration::from_millis(20));
}

/// Serves HTTP/1 as naively as possible, noting every byte.
fn application(at: SocketAddr, answers: Answers, received: Arc<Mutex<Vec<Vec<u8>>>>) -> SocketAddr {
    let listener = TcpListener::bind(at).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let received = received.clone();
            thread::spawn(move || serve(stream, answers, &received));
        }
    });
    addr
}

fn serve(mut stream: TcpStream, answers: Answers, received: &Mutex<Vec<Vec<u8>>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut bytes = Vec::new();
        let (mut length, mut chunked) = (0, false);
        loop {
            let start = bytes.len();
            if reader.read_until(b'\n', &mut bytes).ok()? == 0 {
                return None;
            }
            let line = String::from_utf8_lossy(&bytes[start..]).to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            chunked |= line.starts_with("transfer-encoding:");
            if line == "\r\n" {
                break;
            }
        }
        let number = {
            let mut all = received.lock().unwrap();
            all.push(bytes);
            all.len() - 1
        };
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        while chunked {
            let start = body.len();
            reader.read_until(b'\n', &mut body).ok()?;
            let text = String::from_utf8_lossy(&body[start..]).trim().to_owned();
            let size = usize::from_str_radix(&text, 16).ok()?;
            let end = body.len();
            body.resize(end + size + 2, 0);
            reader.read_exact(&mut body[end..]).ok()?;
            chunked = size > 0;
        }
        received.lock().unwrap()[number].extend(body);
        match answers {
            Answers::Short => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").ok()?,
            Answers::Long => {
                write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 64 << 20).ok()?;
                let piece = vec![b'x'; 64 << 10];
                (0..1024).try_for_each(|_| stream.write_all(&piece)).ok()?;
            }
        }
    }
}

/// An application on every loopback address, whose connections are not worth keeping.
pub(crate) fn everywhere() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(1..) = stream.read(&mut bytes) {
                    let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
                    if stream.write_all(answer).is_err() {
                        break;
                    }
                }
            });
        }
    });
    port
}
