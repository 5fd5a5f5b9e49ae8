//! The contenders, each started for one case with a configuration written for it.
//!
//! What they have in common, so that the comparison is fair: one worker, kept-alive connections to the
//! application, no access log, no limits on requests or time that the others do not have, request metrics
//! where they have any. In a pair: TLS 1.3 with AES-128-GCM, ECDSA P-256 certificates checked on both
//! sides, HTTP/2 between the two.

mod envoy;
mod haproxy;
mod nginx;
mod relay;
mod weft;

use crate::app::App;
use crate::case::{Case, Contender};
use crate::failure::Failure;
use crate::process::{Process, Seat, Seats};
use crate::programs::{Program, Programs};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What starting one of them needs.
pub(crate) struct Site<'a> {
    pub(crate) app: &'a App,
    pub(crate) programs: &'a Programs,
    pub(crate) seats: Seats,
    /// A directory of its own.
    pub(crate) dir: PathBuf,
}

/// A contender ready to be spoken to. Dropped, it ends.
pub(crate) struct Running {
    pub(crate) contender: Contender,
    /// Where clients connect.
    pub(crate) entry: SocketAddr,
    /// The proxies alone, whose cost is measured.
    pub(crate) proxies: Vec<Process>,
    /// What else they need; costs nothing here.
    pub(crate) _others: Vec<Process>,
    /// In a pair, the second proxy's side that faces the first.
    pub(crate) inner: Option<Inner>,
}

/// The way into a pair's second proxy, where its mutual TLS can be put to the test.
pub(crate) struct Inner {
    /// Expects mutual TLS.
    pub(crate) tls: SocketAddr,
    /// What a client asks for there.
    pub(crate) server_name: String,
    /// The protocol that a client offers there, and what it sends ahead of HTTP/2.
    pub(crate) alpn: &'static str,
    pub(crate) preamble: Vec<u8>,
    /// Another way in, without TLS, which the first proxy must not take.
    pub(crate) bypass: Option<SocketAddr>,
}

impl Inner {
    /// One that speaks HTTP/2 over TLS, as everybody knows it.
    fn ordinary(tls: SocketAddr, server_name: &str) -> Self {
        let server_name = server_name.to_owned();
        Self { tls, server_name, alpn: "h2", preamble: Vec::new(), bypass: None }
    }
}

impl Running {
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.proxies.iter().map(Process::pid).collect()
    }

    /// Bytes that the proxies wrote to their logs so far.
    pub(crate) fn log_size(&self) -> u64 {
        self.proxies.iter().map(Process::log_size).sum()
    }
}

/// Whether it is installed.
pub(crate) fn is_present(contender: Contender, programs: &Programs) -> bool {
    match contender {
        Contender::Direct | Contender::Relay => true,
        Contender::Nginx => programs.nginx.is_some(),
        Contender::Haproxy => programs.haproxy.is_some(),
        Contender::Envoy => programs.envoy.is_some(),
        Contender::Weft | Contender::Plain => programs.weft.is_some(),
    }
}

/// Starts one and waits until it listens.
///
/// # Errors
/// It does not start; the last lines of its log say why.
pub(crate) async fn start(contender: Contender, case: Case, site: &Site<'_>) -> Result<Running, Failure> {
    std::fs::create_dir_all(&site.dir).map_err(Failure::io(site.dir.display().to_string()))?;
    match contender {
        Contender::Direct => Ok(Running {
            contender,
            entry: site.target(case),
            proxies: Vec::new(),
            _others: Vec::new(),
            inner: None,
        }),
        Contender::Relay => relay::start(case, site).await,
        Contender::Nginx => nginx::start(site).await,
        Contender::Haproxy => haproxy::start(case, site).await,
        Contender::Envoy => envoy::start(case, site).await,
        Contender::Weft | Contender::Plain => weft::start(contender, case, site).await,
    }
}

impl Site<'_> {
    /// The side of the application that a case is about.
    fn target(&self, case: Case) -> SocketAddr {
        if case == Case::Tcp { self.app.sink } else { self.app.http }
    }

    /// Writes a configuration file and says where.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf, Failure> {
        let path = self.dir.join(name);
        std::fs::write(&path, text).map_err(Failure::io(path.display().to_string()))?;
        Ok(path)
    }

    /// Starts a proxy.
    fn proxy(&self, name: &str, command: &mut Command) -> Result<Process, Failure> {
        Process::start(name, command, &self.dir, (self.seats, Seat::Proxy))
    }

    /// Starts something that is no proxy.
    fn other(&self, name: &str, command: &mut Command) -> Result<Process, Failure> {
        Process::start(name, command, &self.dir, (self.seats, Seat::Rest))
    }
}

/// Starts one proxy and waits for its listener: the usual case of a single hop.
async fn single(
    site: &Site<'_>,
    contender: Contender,
    entry: SocketAddr,
    command: &mut Command,
) -> Result<Running, Failure> {
    let mut process = site.proxy(contender.name(), command)?;
    process.listening(entry).await?;
    Ok(Running { contender, entry, proxies: vec![process], _others: Vec::new(), inner: None })
}

pub(crate) fn installed(program: &Option<Program>, contender: Contender) -> Result<&Path, Failure> {
    let missing =
        || Failure::Start { who: contender.name().to_owned(), why: "it is not installed".to_owned() };
    Ok(&program.as_ref().ok_or_else(missing)?.path)
}
