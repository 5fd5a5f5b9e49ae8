//! Where something is: a name or an IP address, with a port.

use crate::name::{DnsName, InvalidName};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;

/// `name:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NameAddr {
    /// The host part.
    pub name: DnsName,
    /// The port, never 0.
    pub port: NonZeroU16,
}

/// An address as settings, requests and policies give it: an IP address or a name, with a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Addr {
    /// A concrete socket address.
    Socket(SocketAddr),
    /// A name still to be resolved.
    Name(NameAddr),
}

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddr {
    /// No `:port` at the end.
    #[error("`{0}` has no port; write `host:port`")]
    MissingPort(String),
    /// The port is not a number in 1–65535.
    #[error("`{0}` has a port outside 1–65535")]
    BadPort(String),
    /// The host is neither an IP address nor a name.
    #[error(transparent)]
    BadName(#[from] InvalidName),
}

impl Addr {
    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Addr::Socket(a) => a.port(),
            Addr::Name(n) => n.port.get(),
        }
    }

    /// Whether the address certainly stays on this host: a loopback IP, or the name `localhost`.
    pub fn is_loopback(&self) -> bool {
        match self {
            Addr::Socket(a) => a.ip().to_canonical().is_loopback(),
            Addr::Name(n) => n.name.as_str() == "localhost",
        }
    }

    /// Reads the authority of a request (`host[:port]`), with `default_port` where none is given.
    pub fn from_authority(text: &str, default_port: NonZeroU16) -> Result<Self, InvalidAddr> {
        match text.parse() {
            Err(InvalidAddr::MissingPort(_)) => {
                let host = text.trim_start_matches('[').trim_end_matches(']');
                match host.parse::<IpAddr>() {
                    Ok(ip) => Ok(Addr::Socket(SocketAddr::new(ip, default_port.get()))),
                    Err(_) => Ok(Addr::Name(NameAddr { name: text.parse()?, port: default_port })),
                }
            }
            other => other,
        }
    }
}

impl FromStr for Addr {
    type Err = InvalidAddr;

    fn from_str(text: &str) -> Result<Self, InvalidAddr> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return match socket.port() {
                0 => Err(InvalidAddr::BadPort(text.into())),
                _ => Ok(Addr::Socket(socket)),
            };
        }
        let (host, port) = text
            .rsplit_once(':')
            .filter(|(h, _)| !h.contains(':'))
            .ok_or(InvalidAddr::MissingPort(text.into()))?;
        let port = port.parse().map_err(|_| InvalidAddr::BadPort(text.into()))?;
        Ok(Addr::Name(NameAddr { name: host.parse()?, port }))
    }
}

impl FromStr for NameAddr {
    type Err = InvalidAddr;

    fn from_str(text: &str) -> Result<Self, InvalidAddr> {
        let (host, port) = text.rsplit_once(':').ok_or(InvalidAddr::MissingPort(text.into()))?;
        let port = port.parse().map_err(|_| InvalidAddr::BadPort(text.into()))?;
        Ok(NameAddr { name: host.parse()?, port })
    }
}

impl fmt::Display for NameAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Addr::Socket(a) => a.fmt(f),
            Addr::Name(n) => n.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(text.parse::<Addr>().ok().map(|a| a.to_string()).as_deref(), expected, "{text}");
    }

    #[test]
    fn addresses_need_a_host_and_a_port() {
        check("10.0.0.1:80", Some("10.0.0.1:80"));
        check("[::1]:80", Some("[::1]:80"));
        check("Web.shop:8080", Some("web.shop:8080"));
        check("web.shop", None);
        check("web.shop:0", None);
        check("10.0.0.1:0", None);
        check("::1", None);
        check("web.shop:70000", None);
    }

    #[test]
    fn authorities_may_leave_the_port_out() {
        let port = NonZeroU16::new(80).unwrap();
        for (text, expected) in
            [("web", "web:80"), ("web:81", "web:81"), ("[::1]", "[::1]:80"), ("10.0.0.1", "10.0.0.1:80")]
        {
            assert_eq!(Addr::from_authority(text, port).unwrap().to_string(), expected);
        }
        assert!(Addr::from_authority("a b", port).is_err());
    }
}
