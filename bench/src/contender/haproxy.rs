//! HAProxy: one hop of each kind, and a pair of two processes.

use super::{Inner, Running, Site, installed, single};
use crate::case::{Case, Contender};
use crate::certificates::{Certificates, INBOUND, OUTBOUND};
use crate::failure::Failure;
use crate::process::free_address;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

pub(super) async fn start(case: Case, site: &Site<'_>) -> Result<Running, Failure> {
    let (entry, app) = (free_address()?, site.target(case));
    let plain = if case.is_http2() { " proto h2" } else { "" };
    if !case.is_pair() {
        let path = site.write("haproxy.cfg", &config(case, (entry, plain), (app, plain)))?;
        return single(site, Contender::Haproxy, entry, &mut command(site, &path)?).await;
    }
    let certificates = Certificates::create(&site.dir)?;
    let between = free_address()?;
    let anchor = certificates.anchor().display().to_string();
    let mutual = |name: &str| {
        let own = certificates.both(name).display().to_string();
        format!(" ssl crt {own} ca-file {anchor} verify required alpn h2 ssl-min-ver TLSv1.3")
    };
    let bind = mutual(INBOUND) + " ciphersuites TLS_AES_128_GCM_SHA256";
    let server = format!(
        "{} ciphersuites TLS_AES_128_GCM_SHA256 sni str({INBOUND}) verifyhost {INBOUND}",
        mutual(OUTBOUND)
    );
    let inner = site.write("inbound.cfg", &config(case, (between, &bind), (app, plain)))?;
    let outer = site.write("outbound.cfg", &config(case, (entry, plain), (between, &server)))?;
    let mut inbound = site.proxy("inbound", &mut command(site, &inner)?)?;
    inbound.listening(between).await?;
    let mut outbound = site.proxy("outbound", &mut command(site, &outer)?)?;
    outbound.listening(entry).await?;
    Ok(Running {
        contender: Contender::Haproxy,
        entry,
        proxies: vec![outbound, inbound],
        _others: Vec::new(),
        inner: Some(Inner::ordinary(between, INBOUND)),
    })
}

fn command(site: &Site<'_>, config: &Path) -> Result<Command, Failure> {
    let mut command = Command::new(installed(&site.programs.haproxy, Contender::Haproxy)?);
    command.arg("-db").arg("-f").arg(config);
    Ok(command)
}

fn config(case: Case, (bind, how): (SocketAddr, &str), (server, with): (SocketAddr, &str)) -> String {
    let mode = if case == Case::Tcp { "tcp" } else { "http" };
    let reuse = if case == Case::Tcp { "" } else { "  option http-keep-alive\n  http-reuse always\n" };
    format!(
        "global
  nbthread 1
  maxconn 8192
defaults
  mode {mode}
{reuse}  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 1h
  timeout http-request 1h
frontend entry
  bind {bind}{how}
  default_backend app
backend app
  server app {server}{with}
"
    )
}
