//! Child processes: started on their processor with their output in a file, and ended with their owner.
//!
//! Used by `contender` for everything that it starts. Ends only what it started, by its handle, and never
//! waits without a limit. Reads no figure of them; that is `usage`'s business.

use crate::failure::Failure;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// A program that does not listen by then will not.
const START: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// Which processor something runs on. Proxies have one for themselves; everything else shares the other, so
/// that nobody's cost depends on how the scheduler moves them about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seat {
    Proxy,
    Rest,
}

/// The two processors, or none where there are fewer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seats {
    pinned: Option<(usize, usize)>,
}

impl Seats {
    /// Takes the first two processors that this process may use.
    pub(crate) fn find() -> Self {
        let allowed = rustix::thread::sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
        let mut processors = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
        Self { pinned: processors.next().zip(processors.next()) }
    }

    pub(crate) fn is_pinned(&self) -> bool {
        self.pinned.is_some()
    }

    /// Moves this thread, and the children it starts from now on, to a seat.
    fn take(&self, seat: Seat) -> Result<(), Failure> {
        let Some((proxy, rest)) = self.pinned else { return Ok(()) };
        let mut set = CpuSet::new();
        set.set(if seat == Seat::Proxy { proxy } else { rest });
        sched_setaffinity(None, &set).map_err(|error| Failure::io("pinning")(error.into()))
    }

    /// Moves the harness itself away from the proxies.
    pub(crate) fn settle(&self) -> Result<(), Failure> {
        self.take(Seat::Rest)
    }
}

/// A running child. Dropped, it is killed and waited for.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs in `dir/name.log`.
    pub(crate) fn start(
        name: &str,
        command: &mut Command,
        dir: &Path,
        (seats, seat): (Seats, Seat),
    ) -> Result<Self, Failure> {
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log).map_err(Failure::io(log.display().to_string()))?;
        let twin = file.try_clone().map_err(Failure::io(log.display().to_string()))?;
        command.stdin(Stdio::null()).stdout(file).stderr(twin).current_dir(dir);
        seats.take(seat)?;
        let child = command.spawn();
        seats.settle()?;
        let child = child.map_err(|error| Failure::Start { who: name.to_owned(), why: error.to_string() })?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Bytes written to its outputs so far: an access log would show here.
    pub(crate) fn log_size(&self) -> u64 {
        std::fs::metadata(&self.log).map_or(0, |metadata| metadata.len())
    }

    /// Waits until `address` accepts connections.
    pub(crate) async fn listening(&mut self, address: SocketAddr) -> Result<(), Failure> {
        let begun = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            self.still_running(begun, &format!("nothing listens on {address}"))?;
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Waits until `GET path` at `address` is answered 200.
    pub(crate) async fn ready(&mut self, address: SocketAddr, path: &str) -> Result<(), Failure> {
        let begun = Instant::now();
        while !http_get(address, path).await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            self.still_running(begun, &format!("{address}{path} is not answered 200"))?;
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    fn still_running(&mut self, begun: Instant, waiting: &str) -> Result<(), Failure> {
        let ended = self.child.try_wait().map_err(Failure::io(self.name.clone()))?;
        if ended.is_none() && begun.elapsed() < START {
            return Ok(());
        }
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(8)..].join("\n  ");
        let end = ended.map_or_else(String::new, |status| format!(", {status}"));
        Err(Failure::Start { who: self.name.clone(), why: format!("{waiting}{end}\n  {last}") })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The whole answer to one plain request, as text.
pub(crate) async fn http_get(address: SocketAddr, path: &str) -> io::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await??;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// An address on loopback that was free a moment ago.
pub(crate) fn free_address() -> Result<SocketAddr, Failure> {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    free.map_err(Failure::io("a free port"))
}
