//! Single values of manifests, and bounds of lists: labels, ports, addresses, names. Pure.
//!
//! Used by the readers of kinds. Each refuses what Kubernetes' schemas would refuse, and names the place.

use crate::node::{At, Fields, Problem, cut};
use std::net::IpAddr;
use std::num::NonZeroU16;
use weft_model::service::Transport;

/// Most addresses, ports or endpoints of one object. Kubernetes allows 1000 endpoints a slice.
pub(crate) const LIST_LIMIT: usize = 1000;

/// A DNS label of Kubernetes: 1–63 lower-case letters, digits and inner hyphens.
pub(crate) fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A DNS subdomain of Kubernetes: labels with dots, 253 characters at most.
pub(crate) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

pub(crate) fn label(key: &str, at: At<'_>) -> Result<String, Problem> {
    if key.is_empty() || key.len() > 317 {
        return Err(at.problem("the key must have 1–317 characters"));
    }
    let value = at.text()?;
    let sound = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if value.len() > 63 || !value.bytes().all(sound) {
        return Err(at.problem(format!(
            "`{}` is not a label value: letters, digits, `-`, `_` and `.`, 63 at most",
            cut(value)
        )));
    }
    Ok(value.to_owned())
}

/// A number in 1–65535.
pub(crate) fn port(at: At<'_>) -> Result<NonZeroU16, Problem> {
    let number = at.integer()?;
    let port = u16::try_from(number).ok().and_then(NonZeroU16::new);
    port.ok_or_else(|| at.problem(format!("{number} is not a port in 1–65535")))
}

pub(crate) fn address(at: At<'_>) -> Result<IpAddr, Problem> {
    let ip: IpAddr = at.parsed("an IP address")?;
    match ip.is_unspecified() || ip.is_multicast() {
        true => Err(at.problem(format!("{ip} is not the address of anything"))),
        false => Ok(ip.to_canonical()),
    }
}

pub(crate) fn bounded<T>(at: At<'_>, list: Vec<T>) -> Result<Vec<T>, Problem> {
    match list.len() > LIST_LIMIT {
        true => Err(at.problem(format!("has {} items; the limit is {LIST_LIMIT}", list.len()))),
        false => Ok(list),
    }
}

pub(crate) fn port_name(at: At<'_>) -> Result<String, Problem> {
    let name = at.text()?;
    match name.is_empty() || is_label(name) {
        true => Ok(name.to_owned()),
        false => Err(at.problem(format!("`{}` is not a port name", cut(name)))),
    }
}

pub(crate) fn transport(f: &Fields<'_>) -> Result<Transport, Problem> {
    let read = f.optional("protocol", |at| match at.text()? {
        "TCP" => Ok(Transport::Tcp),
        "UDP" | "SCTP" => Ok(Transport::Other),
        other => Err(at.problem(format!("`{}` is not TCP, UDP or SCTP", cut(other)))),
    })?;
    Ok(read.unwrap_or_default())
}

/// The name of another object.
pub(crate) fn object_name(at: At<'_>) -> Result<String, Problem> {
    match at.text()? {
        "" => Err(at.problem("is empty")),
        name if name.len() > 253 => Err(at.problem("is longer than 253 characters")),
        name => Ok(name.to_owned()),
    }
}
