//! The grammars of values (§1.1): what a text means, and how to say what would have been accepted.
//!
//! Each function reads one grammar and is the only place that does; `Kind` names the grammar of a
//! setting, for checking and for documentation. Called by `values` (check everything) and `build` (make
//! types). Pure.

use crate::{InboundBind, Upstream};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;
use weft_model::address::Addr;
use weft_model::duration;
use weft_model::identity::Id;
use weft_model::name::DnsName;

/// The grammar of a setting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A whole number and a unit.
    Duration,
    /// The same; the empty text means "not set".
    OptionalDuration,
    /// `true` or `false`.
    Switch,
    /// A decimal integer in a range, both ends included.
    Number(u64, u64),
    /// A decimal fraction in a range, both ends included.
    Fraction(f64, f64),
    /// `IP:port`.
    Socket,
    /// One or two of `IP:port`.
    Sockets,
    /// `IP:port` or `name:port`.
    Addr,
    /// A set of ports.
    Ports,
    /// DNS suffixes.
    Suffixes,
    /// CIDR networks.
    Networks,
    /// IP addresses.
    Ips,
    /// A DNS name.
    Name,
    /// A workload identity.
    Identity,
    /// A path of the file system.
    Path,
    /// Any text.
    Text,
    /// PEM text.
    Pem,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// `namespace/name`.
    Workload,
    /// `IP:port=name:port`, several.
    Upstreams,
    /// `IP:port=IP:port`, several.
    InboundBinds,
}

impl Kind {
    /// Whether `text` follows the grammar.
    pub fn accepts(self, text: &str) -> bool {
        match self {
            Kind::Duration => duration::parse(text).is_some(),
            Kind::OptionalDuration => optional_duration(text).is_some(),
            Kind::Switch => switch(text).is_some(),
            Kind::Number(min, max) => number(text, min, max).is_some(),
            Kind::Fraction(min, max) => fraction(text, min, max).is_some(),
            Kind::Socket => socket(text).is_some(),
            Kind::Sockets => sockets(text).is_some(),
            Kind::Addr => text.parse::<Addr>().is_ok(),
            Kind::Ports => ports(text).is_some(),
            Kind::Suffixes | Kind::Text => true,
            Kind::Networks => networks(text).is_some(),
            Kind::Ips => ips(text).is_some(),
            Kind::Name => text.parse::<DnsName>().is_ok(),
            Kind::Identity => identity(text).is_some(),
            Kind::Path => !text.is_empty(),
            Kind::Pem => text.contains("-----BEGIN "),
            Kind::OneOf(words) => one_of(text, words).is_some(),
            Kind::Workload => workload(text).is_some(),
            Kind::Upstreams => upstreams(text).is_some(),
            Kind::InboundBinds => inbound_binds(text).is_some(),
        }
    }

    /// What would have been accepted, as the end of a sentence.
    pub fn accepted(self) -> String {
        match self {
            Kind::Duration => "a whole number and one of ms, s, m, h, d, such as `10s`; or 0".into(),
            Kind::OptionalDuration => {
                "a whole number and one of ms, s, m, h, d, such as `10s`; or nothing for no limit".into()
            }
            Kind::Switch => "`true` or `false`".into(),
            Kind::Number(min, max) if max >= u64::from(u32::MAX) => format!("a whole number from {min} on"),
            Kind::Number(min, max) => format!("a whole number from {min} to {max}"),
            Kind::Fraction(min, max) => format!("a number from {min} to {max}, such as `0.5`"),
            Kind::Socket => "`IP:port`, such as `127.0.0.1:4140` or `[::1]:4140`".into(),
            Kind::Sockets => "one or two of `IP:port`, separated by a comma".into(),
            Kind::Addr => "`IP:port` or `name:port`".into(),
            Kind::Ports => "ports and ranges separated by commas, such as `25,8000-8099`".into(),
            Kind::Suffixes => "DNS suffixes separated by commas; `.` stands for every name".into(),
            Kind::Networks => "networks separated by commas, such as `10.0.0.0/8,fd00::/8`".into(),
            Kind::Ips => "IP addresses separated by commas, without blanks".into(),
            Kind::Name => "a DNS name".into(),
            Kind::Identity => "a DNS name without trailing dot, or a URI such as `spiffe://mesh/web`".into(),
            Kind::Path => "a path".into(),
            Kind::Text => "any text".into(),
            Kind::Pem => "certificates in PEM, the text and not a path".into(),
            Kind::OneOf(words) => {
                let quoted: Vec<_> =
                    words.iter().filter(|w| !w.is_empty()).map(|w| format!("`{w}`")).collect();
                quoted.join(", ")
            }
            Kind::Workload => "`namespace/name`, such as `default/web-1`".into(),
            Kind::Upstreams => {
                "`IP:port=name:port`, such as `127.0.0.1:9001=books.default.svc.cluster.local:80`".into()
            }
            Kind::InboundBinds => "`IP:port=IP:port`, such as `10.0.0.7:8080=127.0.0.1:8080`".into(),
        }
    }

    /// Whether a flag of this grammar may be given several times, the texts being joined by commas.
    pub fn is_repeatable(self) -> bool {
        matches!(self, Kind::Upstreams | Kind::InboundBinds)
    }
}

/// A duration, or `Some(None)` for the empty text.
pub fn optional_duration(text: &str) -> Option<Option<Duration>> {
    if text.trim().is_empty() { Some(None) } else { duration::parse(text).map(Some) }
}

/// `true` or `false`, exactly.
pub fn switch(text: &str) -> Option<bool> {
    match text {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// A decimal integer in `min..=max`, without sign.
pub fn number(text: &str, min: u64, max: u64) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|n| (min..=max).contains(n))
}

/// A decimal fraction in `min..=max`.
pub fn fraction(text: &str, min: f64, max: f64) -> Option<f64> {
    text.parse().ok().filter(|f| (min..=max).contains(f))
}

/// `IP:port`; port 0 means one that the system chooses.
pub fn socket(text: &str) -> Option<SocketAddr> {
    text.parse().ok()
}

/// One or two sockets.
pub fn sockets(text: &str) -> Option<Vec<SocketAddr>> {
    let all: Vec<_> = text.split(',').map(|s| socket(s.trim())).collect::<Option<_>>()?;
    (1..=2).contains(&all.len()).then_some(all)
}

/// A set of ports: `N` and `lo-hi`, comma-separated, blanks and empty items ignored. Port 0 may be written,
/// as the peer has it, and is left out, for no connection has it.
pub fn ports(text: &str) -> Option<BTreeSet<NonZeroU16>> {
    let mut set = BTreeSet::new();
    for item in text.split(',').map(str::trim).filter(|s| !s.is_empty()) {
        let (low, high) = item.split_once('-').unwrap_or((item, item));
        let (low, high) = (port(low.trim())?, port(high.trim())?);
        if high < low {
            return None;
        }
        set.extend((low..=high).filter_map(NonZeroU16::new));
    }
    Some(set)
}

fn port(text: &str) -> Option<u16> {
    number(text, 0, u16::MAX.into()).and_then(|n| n.try_into().ok())
}

/// Networks; empty items are skipped, an address without `/len` is refused.
pub fn networks(text: &str) -> Option<Vec<IpNet>> {
    text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(|s| s.parse().ok()).collect()
}

/// Addresses; items are not trimmed and may not be empty. The empty text is the empty set.
pub fn ips(text: &str) -> Option<BTreeSet<IpAddr>> {
    if text.is_empty() {
        return Some(BTreeSet::new());
    }
    text.split(',').map(|s| s.parse().ok()).collect()
}

/// A DNS name without trailing dot, or an absolute URI.
pub fn identity(text: &str) -> Option<Id> {
    text.parse().ok().filter(|_| !text.ends_with('.'))
}

/// The word of `words` that `text` is in any case.
pub fn one_of(text: &str, words: &'static [&'static str]) -> Option<&'static str> {
    words.iter().copied().find(|w| w.eq_ignore_ascii_case(text))
}

/// `namespace/name`, both of characters that Kubernetes allows in names.
pub fn workload(text: &str) -> Option<(&str, &str)> {
    let valid = |s: &str| {
        (1..=253).contains(&s.len())
            && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
    };
    text.split_once('/').filter(|(namespace, name)| valid(namespace) && valid(name))
}

/// `IP:port=name:port`, comma-separated.
pub fn upstreams(text: &str) -> Option<Vec<Upstream>> {
    pairs(text)
        .map(|pair| {
            let (listen, dst) = pair.split_once('=')?;
            Some(Upstream { listen: socket(listen.trim())?, dst: dst.trim().parse().ok()? })
        })
        .collect()
}

/// `IP:port=IP:port`, comma-separated.
pub fn inbound_binds(text: &str) -> Option<Vec<InboundBind>> {
    pairs(text)
        .map(|pair| {
            let (listen, app) = pair.split_once('=')?;
            let app = socket(app.trim()).filter(|a| a.port() != 0)?;
            Some(InboundBind { listen: socket(listen.trim())?, app })
        })
        .collect()
}

fn pairs(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|s| !s.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: Kind, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(kind.accepts(text), "{kind:?} refused `{text}`");
        }
        for text in bad {
            assert!(!kind.accepts(text), "{kind:?} accepted `{text}`");
        }
        assert!(!kind.accepted().is_empty());
    }

    #[test]
    fn times_and_numbers() {
        check(Kind::Duration, &["10ms", " 3s ", "0", "7d"], &["", "10", "1.5s", "1m30s", "-1s"]);
        check(Kind::OptionalDuration, &["", "10ms"], &["10", "x"]);
        check(Kind::Switch, &["true", "false"], &["TRUE", "1", "", "yes", " true"]);
        check(Kind::Number(1, 10), &["1", "10"], &["0", "11", "+1", "-1", "1.0", "", " 1", "0x1"]);
        check(Kind::Fraction(0.0, 100.0), &["0", "0.1", "100"], &["-0.1", "100.5", "NaN", "inf", ""]);
    }

    #[test]
    fn addresses() {
        check(Kind::Socket, &["127.0.0.1:0", "[::1]:80"], &["localhost:80", "127.0.0.1", "::1:80", ""]);
        check(Kind::Sockets, &["127.0.0.1:1", "127.0.0.1:1,[::1]:1"], &["", "1.1.1.1:1,1.1.1.1:2,1.1.1.1:3"]);
        check(Kind::Addr, &["127.0.0.1:1", "a.b:80", "localhost.:80"], &["a.b", "a.b:0", ":80", ""]);
        check(Kind::Name, &["a_b.c", "A.b."], &["", "10.0.0.1", "a..b"]);
        check(Kind::Identity, &["web.default", "spiffe://mesh/web"], &["web.default.", "", "a b"]);
        check(Kind::Workload, &["default/web-1"], &["web", "/web", "a/b/c", "A/b", "a/", "a/\"b"]);
    }

    #[test]
    fn lists() {
        check(Kind::Ports, &["", "25", "25, 80-82 ,,", "0-65535"], &["82-80", "65536", "a", "1-2-3", "+1"]);
        check(Kind::Networks, &["", "10.0.0.0/8, fd00::/8,,"], &["10.0.0.1", "10.0.0.0/33", "x"]);
        check(Kind::Ips, &["", "10.0.0.1,::1"], &["10.0.0.1, ::1", "10.0.0.1,", "x"]);
        check(Kind::Suffixes, &["", ".", "svc.cluster.local., x"], &[]);
        check(Kind::OneOf(&["deny", "audit"]), &["deny", "Audit"], &["", "allow"]);
    }

    #[test]
    fn pairs_of_addresses() {
        check(
            Kind::Upstreams,
            &["", "127.0.0.1:9001=books.shop:80", "127.0.0.1:1=a.b:1, [::1]:2=c.d:2"],
            &[
                "127.0.0.1:9001",
                "books.shop:80=127.0.0.1:9001",
                "127.0.0.1:9001=books",
                "127.0.0.1:1=10.0.0.1:80",
            ],
        );
        check(
            Kind::InboundBinds,
            &["", "0.0.0.0:8080=127.0.0.1:8080"],
            &["0.0.0.0:8080=web:8080", "8080=127.0.0.1:8080", "0.0.0.0:8080=127.0.0.1:0"],
        );
    }

    #[test]
    fn port_sets_hold_every_port_of_a_range() {
        let ports: Vec<_> = ports("80-82,25,81,0-1").unwrap().into_iter().map(NonZeroU16::get).collect();
        assert_eq!(ports, [1, 25, 80, 81, 82]);
    }
}
