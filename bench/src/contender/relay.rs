//! The bare hyper relay of this crate.

use super::{Running, Site, single};
use crate::case::{Case, Contender};
use crate::failure::Failure;
use crate::process::free_address;
use std::process::Command;

pub(super) async fn start(case: Case, site: &Site<'_>) -> Result<Running, Failure> {
    let entry = free_address()?;
    let version = if case.is_http2() { "http2" } else { "http1" };
    let mut command = Command::new(&site.programs.relay.path);
    command.arg(version).arg(entry.to_string()).arg(site.target(case).to_string());
    single(site, Contender::Relay, entry, &mut command).await
}
