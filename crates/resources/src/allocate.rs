//! Virtual addresses for services that name none. Pure.
//!
//! A service gets the address that its name hashes to, or the next free one, and keeps it while it
//! lives: `state.rs` remembers it over restarts. Replicas that start from the same manifests assign
//! the same addresses (§8.9). Called by `directory.rs`.

use crate::hash;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use weft_model::service::ServiceName;

/// Where addresses come from unless set: a part of 240.0.0.0/4, which nobody routes.
pub fn default_range() -> IpNet {
    IpNet::from(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(240, 64, 0, 0), 12))
}

/// Most addresses of a range that are used, however wide it is.
const SLOT_LIMIT: u128 = 1 << 24;

/// Who has which virtual address.
#[derive(Clone, Debug)]
pub(crate) struct Allocator {
    range: IpNet,
    held: BTreeMap<ServiceName, IpAddr>,
}

impl Allocator {
    /// Starts with addresses given out before; those outside the range are forgotten.
    pub(crate) fn new(range: IpNet, held: BTreeMap<ServiceName, IpAddr>) -> Self {
        let range = range.trunc();
        let held = held.into_iter().filter(|(_, ip)| range.contains(ip)).collect();
        Self { range, held }
    }

    /// All addresses given out.
    pub(crate) fn held(&self) -> &BTreeMap<ServiceName, IpAddr> {
        &self.held
    }

    /// Gives an address to each of these services that has none, and takes back those of all others.
    /// `taken` are addresses that manifests give to services themselves. Returns the services for which
    /// none is left.
    pub(crate) fn assign(
        &mut self,
        wanted: &BTreeSet<ServiceName>,
        taken: &BTreeSet<IpAddr>,
    ) -> Vec<ServiceName> {
        self.held.retain(|name, _| wanted.contains(name));
        let mut used: BTreeSet<IpAddr> = self.held.values().chain(taken).copied().collect();
        let mut without = Vec::new();
        for name in wanted {
            if self.held.contains_key(name) {
                continue;
            }
            match self.free(name, &used) {
                Some(ip) => {
                    used.insert(ip);
                    self.held.insert(name.clone(), ip);
                }
                None => without.push(name.clone()),
            }
        }
        without
    }

    /// The first address that is free, starting where the name hashes to.
    fn free(&self, name: &ServiceName, used: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let slots = self.slots();
        if slots == 0 {
            return None;
        }
        let start = u128::from(hash::of(name.to_string().as_bytes())) % slots;
        // With `used.len()` addresses gone, one of that many plus one in a row is free, or none is.
        let tries = slots.min(used.len() as u128 + 1);
        (0..tries).map(|step| self.address((start + step) % slots)).find(|ip| !used.contains(ip))
    }

    /// How many addresses there are, the first and last of the range left out.
    fn slots(&self) -> u128 {
        let bits = u32::from(self.range.max_prefix_len() - self.range.prefix_len());
        (1u128.checked_shl(bits).unwrap_or(u128::MAX)).saturating_sub(2).min(SLOT_LIMIT)
    }

    fn address(&self, slot: u128) -> IpAddr {
        match self.range.network() {
            IpAddr::V4(ip) => {
                let number = u128::from(u32::from(ip)) + slot + 1;
                IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)))
            }
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) + slot + 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> BTreeSet<ServiceName> {
        list.iter().map(|n| ServiceName { namespace: "shop".into(), name: (*n).into() }).collect()
    }

    fn allocator(range: &str) -> Allocator {
        Allocator::new(range.parse().unwrap(), BTreeMap::new())
    }

    #[test]
    fn addresses_are_stable_and_the_same_everywhere() {
        let none = BTreeSet::new();
        let mut a = allocator("240.64.0.0/12");
        assert!(a.assign(&names(&["web", "db", "api"]), &none).is_empty());
        let first = a.held().clone();
        assert!(first.values().all(|ip| default_range().contains(ip)));
        a.assign(&names(&["web", "db", "api", "more"]), &none);
        assert!(first.iter().all(|(name, ip)| a.held()[name] == *ip));
        let mut b = allocator("240.64.0.0/12");
        b.assign(&names(&["web", "db", "api"]), &none);
        assert_eq!(*b.held(), first);
        // Another replica began with fewer services.
        let mut c = allocator("240.64.0.0/12");
        c.assign(&names(&["web"]), &none);
        c.assign(&names(&["web", "db", "api"]), &none);
        assert_eq!(*c.held(), first);
        let restored = Allocator::new("10.0.0.0/8".parse().unwrap(), first);
        assert!(restored.held().is_empty(), "addresses outside the range are not kept");
    }

    #[test]
    fn a_small_range_is_used_up_to_the_last_address_and_no_further() {
        let mut a = allocator("240.0.0.0/29");
        let taken: BTreeSet<IpAddr> = ["240.0.0.3".parse().unwrap()].into();
        let without = a.assign(&names(&["a", "b", "c", "d", "e", "f"]), &taken);
        let given: BTreeSet<IpAddr> = a.held().values().copied().collect();
        assert_eq!((given.len(), without.len()), (5, 1));
        assert!(given.is_disjoint(&taken));
        assert!(
            !given.contains(&"240.0.0.0".parse().unwrap()) && !given.contains(&"240.0.0.7".parse().unwrap())
        );
        // What is given back can be had again; what is kept does not move.
        let before = a.held().clone();
        let without = a.assign(&names(&["b", "c", "d", "e", "f"]), &taken);
        assert!(without.is_empty());
        assert!(before.iter().all(|(n, ip)| n.name == "a" || a.held()[n] == *ip));
    }

    #[test]
    fn tiny_and_wide_ranges_do_no_harm() {
        for (range, fits) in [("240.0.0.1/32", 0), ("240.0.0.0/31", 0), ("240.0.0.0/30", 2), ("fd00::/8", 3)]
        {
            let mut a = allocator(range);
            a.assign(&names(&["a", "b", "c"]), &BTreeSet::new());
            assert_eq!(a.held().len(), fits, "{range}");
        }
    }
}
