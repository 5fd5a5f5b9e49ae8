//! What the operator decides about discovery. `proxy/settings.rs` fills it; nothing here reads the
//! environment.

use crate::cache::CacheLimits;
use crate::stream::Limits;
use ipnet::IpNet;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::time::Duration;
use weft_model::address::Addr;
use weft_model::meta::Meta;
use weft_model::name::Suffixes;
use weft_model::policy::{DefaultPolicy, InboundPolicy, InboundProtocol, InboundRoutes};
use weft_model::route::Backoff;

/// Settings of discovery, in the peer's names without their prefix (data-plane facts, section 1).
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How long a request waits for the first answer about its destination. 3 s; the peer waits
    /// without limit.
    pub first_answer: Duration,
    /// `OUTBOUND_DISCOVERY_IDLE_TIMEOUT`, 5 s: how long unused destinations stay known.
    pub outbound_idle: Duration,
    /// `INBOUND_DISCOVERY_IDLE_TIMEOUT`, 90 s: the same for ports of our own.
    pub inbound_idle: Duration,
    /// Entries of each kind, 10,000; the one idle longest makes room.
    pub capacity: usize,
    /// `DESTINATION_PROFILE_SUFFIXES`, `svc.cluster.local.`: names that profiles and policies are asked
    /// for.
    pub suffixes: Suffixes,
    /// `DESTINATION_PROFILE_NETWORKS`, empty: addresses that profiles are asked for.
    pub networks: Vec<IpNet>,
    /// `CONTROL_STREAM_*`, unset: limits of each call. To be left unset for a controller on loopback.
    pub limits: Limits,
    /// Waits between failed calls: 100 ms–60 s, 0.1; 10 s at most for a controller on loopback.
    pub backoff: Backoff,
    /// The policies of our own ports until the control plane says otherwise.
    pub inbound: InboundDefaults,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            first_answer: Duration::from_secs(3),
            outbound_idle: Duration::from_secs(5),
            inbound_idle: Duration::from_secs(90),
            capacity: 10_000,
            suffixes: Suffixes::parse("svc.cluster.local."),
            networks: Vec::new(),
            limits: Limits::default(),
            backoff: crate::channel::backoff_for(crate::channel::Reach::Remote),
            inbound: InboundDefaults::default(),
        }
    }
}

impl Settings {
    /// Whether a profile is asked for: names by suffix, addresses by network.
    pub fn has_profile(&self, addr: &Addr) -> bool {
        match addr {
            Addr::Name(name) => self.suffixes.contain(&name.name),
            Addr::Socket(socket) => self.covers(socket.ip()),
        }
    }

    /// Whether a policy is asked for: names by suffix, addresses always.
    pub fn has_policy(&self, addr: &Addr) -> bool {
        match addr {
            Addr::Name(name) => self.suffixes.contain(&name.name),
            Addr::Socket(_) => true,
        }
    }

    /// How many entries of the bound an outbound destination counts for: itself, and what is asked about it. Names
    /// have endpoints.
    pub fn weight(&self, addr: &Addr) -> usize {
        let named = matches!(addr, Addr::Name(_));
        1 + [named, self.has_profile(addr), self.has_policy(addr)].into_iter().filter(|asked| *asked).count()
    }

    /// How many a port of our own counts for: itself and its policy.
    pub const PORT_WEIGHT: usize = 2;

    /// Bounds of the destinations.
    pub fn outbound_cache(&self) -> CacheLimits {
        CacheLimits { idle: self.outbound_idle, capacity: self.capacity }
    }

    /// Bounds of the ports of our own.
    pub fn inbound_cache(&self) -> CacheLimits {
        CacheLimits { idle: self.inbound_idle, capacity: self.capacity }
    }

    /// Bounds of what is asked, of each method. A lookup goes with the last destination that was made from it, and
    /// their cache is the one that keeps what is idle.
    pub fn lookups(&self) -> CacheLimits {
        CacheLimits { idle: Duration::ZERO, capacity: self.capacity }
    }

    fn covers(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.networks.iter().any(|network| network.contains(&ip))
    }
}

/// The policies of our own ports before the control plane has spoken.
#[derive(Clone, Debug, PartialEq)]
pub struct InboundDefaults {
    /// `INBOUND_DEFAULT_POLICY`, `all-unauthenticated`.
    pub policy: DefaultPolicy,
    /// `POLICY_CLUSTER_NETWORKS`, empty: what the `cluster-*` policies admit.
    pub cluster_networks: Vec<IpNet>,
    /// `INBOUND_DETECT_TIMEOUT`, 10 s.
    pub detect_timeout: Duration,
    /// `INBOUND_PORTS`, empty: watched from the start and for ever.
    pub ports: PortSet,
    /// `INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION`, empty: bytes only.
    pub opaque: PortSet,
}

impl Default for InboundDefaults {
    fn default() -> Self {
        Self {
            policy: DefaultPolicy::AllUnauthenticated,
            cluster_networks: Vec::new(),
            detect_timeout: Duration::from_secs(10),
            ports: PortSet::default(),
            opaque: PortSet::default(),
        }
    }
}

impl InboundDefaults {
    /// The policy that `port` starts with.
    pub fn policy_of(&self, port: NonZeroU16) -> InboundPolicy {
        let protocol = match self.opaque.contains(port) {
            true => InboundProtocol::Opaque,
            false => InboundProtocol::Detect { timeout: self.detect_timeout, http: InboundRoutes::default() },
        };
        InboundPolicy {
            meta: Meta::default_named(self.policy.name()),
            protocol,
            authorizations: self.policy.authorizations(&self.cluster_networks),
        }
    }
}

/// A set of ports, as a list of ranges: `80,8080-8090`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet(Vec<RangeInclusive<u16>>);

impl PortSet {
    /// Reads a comma-separated list of `N` and `LOW-HIGH`. Blanks and empty items are ignored; `None`
    /// if an item is anything else, has the port 0, or ends before it begins.
    pub fn parse(list: &str) -> Option<Self> {
        let items = list.split(',').map(str::trim).filter(|item| !item.is_empty());
        let ranges = items.map(|item| {
            let (low, high) = item.split_once('-').unwrap_or((item, item));
            let (low, high) = (low.trim().parse::<NonZeroU16>().ok()?, high.trim().parse().ok()?);
            (low.get() <= high).then_some(low.get()..=high)
        });
        ranges.collect::<Option<Vec<_>>>().map(Self)
    }

    /// Whether the port is in the set.
    pub fn contains(&self, port: NonZeroU16) -> bool {
        self.0.iter().any(|range| range.contains(&port.get()))
    }

    /// Every port of the set once, rising.
    pub fn iter(&self) -> impl Iterator<Item = NonZeroU16> + '_ {
        (1..=u16::MAX).filter_map(NonZeroU16::new).filter(|port| self.contains(*port))
    }
}

impl FromIterator<NonZeroU16> for PortSet {
    fn from_iter<I: IntoIterator<Item = NonZeroU16>>(ports: I) -> Self {
        Self(ports.into_iter().map(|port| port.get()..=port.get()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_sets_are_lists_of_ranges() {
        fn check(list: &str, expected: Option<&[u16]>) {
            let ports = PortSet::parse(list).map(|set| set.iter().map(NonZeroU16::get).collect::<Vec<_>>());
            assert_eq!(ports.as_deref(), expected, "{list}");
        }
        check("", Some(&[]));
        check(" 80 ,,443", Some(&[80, 443]));
        check("8-10,9,65535", Some(&[8, 9, 10, 65535]));
        check("10-8", None);
        check("0", None);
        check("80-", None);
        check("70000", None);
        check("web", None);
    }

    #[test]
    fn only_listed_names_and_networks_have_profiles_and_every_address_a_policy() {
        let settings = Settings { networks: vec!["10.0.0.0/8".parse().unwrap()], ..Settings::default() };
        for (addr, profile, policy) in [
            ("web.default.svc.cluster.local:80", true, true),
            ("example.com:80", false, false),
            ("10.1.2.3:80", true, true),
            ("[::ffff:10.1.2.3]:80", true, true),
            ("192.0.2.1:80", false, true),
        ] {
            let addr: Addr = addr.parse().unwrap();
            assert_eq!(
                (settings.has_profile(&addr), settings.has_policy(&addr)),
                (profile, policy),
                "{addr}"
            );
        }
    }

    #[test]
    fn ports_start_with_the_default_policy_and_listed_ones_are_opaque() {
        let defaults =
            InboundDefaults { opaque: PortSet::parse("25").unwrap(), ..InboundDefaults::default() };
        let policy = defaults.policy_of(NonZeroU16::new(80).unwrap());
        assert_eq!((policy.meta.name(), policy.authorizations.len()), ("all-unauthenticated", 1));
        assert!(matches!(policy.protocol, InboundProtocol::Detect { .. }));
        assert_eq!(defaults.policy_of(NonZeroU16::new(25).unwrap()).protocol, InboundProtocol::Opaque);
    }
}
