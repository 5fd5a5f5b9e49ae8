//! Who may do something: from which networks, and with which proof of identity.
//!
//! Routes and policies hold authorizations; `decide` asks them, `wire` carries them.

use crate::identity::Id;
use crate::meta::Meta;
use crate::name::DnsName;
use ipnet::IpNet;
use std::net::IpAddr;

/// Who may do something: a client in the networks that authenticates as told.
#[derive(Clone, Debug, PartialEq)]
pub struct Authorization {
    /// Where it comes from.
    pub meta: Meta,
    /// The client's address must be in one of these.
    pub networks: Vec<NetworkMatch>,
    /// What it must prove.
    pub authentication: Authentication,
}

/// A network with holes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkMatch {
    /// The network.
    pub net: IpNet,
    /// Not these parts of it.
    pub except: Vec<IpNet>,
}

impl NetworkMatch {
    /// Whether the address is in the network and in none of its holes.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.net.contains(&ip) && !self.except.iter().any(|hole| hole.contains(&ip))
    }

    /// Every address, of both families.
    pub fn everywhere() -> Vec<NetworkMatch> {
        ["0.0.0.0/0", "::/0"].iter().filter_map(|n| n.parse::<IpNet>().ok()).map(NetworkMatch::from).collect()
    }
}

impl From<IpNet> for NetworkMatch {
    fn from(net: IpNet) -> Self {
        Self { net, except: Vec::new() }
    }
}

/// What a client must prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// Nothing.
    Unauthenticated,
    /// TLS terminated by this proxy, with or without a client certificate.
    TlsUnauthenticated,
    /// One of these identities.
    TlsAuthenticated {
        /// Exactly one of these.
        ids: Vec<Id>,
        /// Or a name within one of these suffixes; an empty one admits every identity.
        suffixes: Vec<Suffix>,
    },
}

/// An identity suffix such as `default.serviceaccount.identity.linkerd.cluster.local`; empty = any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suffix(pub String);

impl Suffix {
    /// Whether a DNS identity has at least one more label before this suffix; the empty one matches
    /// every identity.
    pub fn contains(&self, name: &DnsName) -> bool {
        self.0.is_empty() || (name.as_str() != self.0 && name.is_within(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_holes_and_see_through_mapped_addresses() {
        let m =
            NetworkMatch { net: "10.0.0.0/8".parse().unwrap(), except: vec!["10.1.0.0/16".parse().unwrap()] };
        for (ip, inside) in
            [("10.0.0.1", true), ("10.1.2.3", false), ("11.0.0.1", false), ("::ffff:10.0.0.1", true)]
        {
            assert_eq!(m.contains(ip.parse().unwrap()), inside, "{ip}");
        }
    }

    #[test]
    fn suffixes_need_one_more_label() {
        let name: DnsName = "web.default.serviceaccount".parse().unwrap();
        for (suffix, inside) in [
            ("", true),
            ("default.serviceaccount", true),
            ("web.default.serviceaccount", false),
            ("x", false),
        ] {
            assert_eq!(Suffix(suffix.into()).contains(&name), inside, "{suffix}");
        }
    }
}
