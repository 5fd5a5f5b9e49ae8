//! Authorizations made ready to be asked for each request: the answer of [`admit`], without looking at all of them.
//!
//! Compiled once per policy by `discover`, asked by the proxy for requests and connections. A few authorizations are asked one
//! after the other; many are found by what a client can show: its identity, the suffixes and prefixes of it, its address.

use crate::authorize::{admit, below, in_networks};
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use weft_model::authorization::{Authentication, Authorization};
use weft_model::identity::{Id, Peer};

/// Up to so many, asking one after the other is faster than looking them up. A guess: a look-up hashes an identity and some
/// networks, which costs about as much as comparing these.
const FEW: usize = 16;

/// Authorizations, the first of which that admits a client decides. Lists are asked in their order; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Permission {
    lists: Vec<Arc<List>>,
}

/// Authorizations that belong together, shared by every rule that they are for.
#[derive(Debug)]
pub struct List {
    all: Box<[Authorization]>,
    index: Option<Index>,
}

impl List {
    /// Compiles authorizations. Costs time and memory in all of them.
    pub fn new(all: &[Authorization]) -> Self {
        Self { all: all.into(), index: (all.len() > FEW).then(|| Index::new(all)) }
    }

    fn admit(&self, client: IpAddr, peer: &Peer) -> Option<&Authorization> {
        match &self.index {
            None => admit(self.all.iter(), client, peer),
            Some(index) => self.all.get(index.first(&self.all, client.to_canonical(), peer)?),
        }
    }
}

impl Permission {
    /// What these lists permit, asked in this order; empty ones are left out. Nothing permits nobody.
    pub fn of(lists: impl IntoIterator<Item = Arc<List>>) -> Self {
        Self { lists: lists.into_iter().filter(|list| !list.all.is_empty()).collect() }
    }

    /// The first authorization that admits a client, if any does.
    pub fn admit(&self, client: IpAddr, peer: &Peer) -> Option<&Authorization> {
        self.lists.iter().find_map(|list| list.admit(client, peer))
    }

    /// Every authorization, in the order in which they are asked.
    pub fn iter(&self) -> impl Iterator<Item = &Authorization> {
        self.lists.iter().flat_map(|list| list.all.iter())
    }
}

/// Authorizations by what a client must show.
#[derive(Debug, Default)]
struct Index {
    anybody: Places,
    over_tls: Places,
    with_identity: Places,
    ids: HashMap<Id, Places>,
    /// By the start of a URI, which ends with a slash.
    below: HashMap<Box<str>, Places>,
    /// By the end of a DNS name.
    within: HashMap<Box<str>, Places>,
}

impl Index {
    fn new(all: &[Authorization]) -> Self {
        let mut index = Self::default();
        for (place, one) in all.iter().enumerate() {
            match &one.authentication {
                Authentication::Unauthenticated => index.anybody.add(place, one),
                Authentication::TlsUnauthenticated => index.over_tls.add(place, one),
                Authentication::TlsAuthenticated { ids, suffixes } => {
                    for id in ids {
                        match below(id) {
                            Some(prefix) => index.below.entry(prefix.into()).or_default().add(place, one),
                            None => index.ids.entry(id.clone()).or_default().add(place, one),
                        }
                    }
                    for suffix in suffixes {
                        match suffix.0.as_str() {
                            "" => index.with_identity.add(place, one),
                            suffix => index.within.entry(suffix.into()).or_default().add(place, one),
                        }
                    }
                }
            }
        }
        index
    }

    /// The place of the first authorization that admits a client.
    fn first(&self, all: &[Authorization], client: IpAddr, peer: &Peer) -> Option<usize> {
        let mut first = self.anybody.first(all, client);
        let mut or = |places: Option<&Places>| {
            let found = places.and_then(|places| places.first(all, client));
            first = first.into_iter().chain(found).min();
        };
        if let Peer::Tls(_) = peer {
            or(Some(&self.over_tls));
        }
        let Some(id) = peer.id() else { return first };
        or(Some(&self.with_identity));
        or(self.ids.get(id));
        match id {
            Id::Dns(name) if !self.within.is_empty() => {
                let mut rest = name.as_str();
                while let Some((_, suffix)) = rest.split_once('.') {
                    or(self.within.get(suffix));
                    rest = suffix;
                }
            }
            Id::Uri(uri) if !self.below.is_empty() => {
                // What ends with the slash is not below it.
                let ends = uri.match_indices('/').map(|(at, _)| at + 1).filter(|end| *end < uri.len());
                ends.for_each(|end| or(uri.get(..end).and_then(|start| self.below.get(start))));
            }
            _ => {}
        }
        first
    }
}

/// Places of authorizations, by the networks of each: the length of the network's prefix and its address.
#[derive(Debug, Default)]
struct Places {
    by_network: HashMap<IpNet, Vec<u32>>,
    /// The lengths of prefixes that there are.
    lengths: Vec<u8>,
}

impl Places {
    fn add(&mut self, place: usize, one: &Authorization) {
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        for network in &one.networks {
            let places = self.by_network.entry(network.net.trunc()).or_default();
            if places.last() != Some(&place) {
                places.push(place);
            }
            let length = network.net.prefix_len();
            if !self.lengths.contains(&length) {
                self.lengths.push(length);
            }
        }
    }

    /// The first of these that is open to an address.
    fn first(&self, all: &[Authorization], client: IpAddr) -> Option<usize> {
        let networks = self.lengths.iter().filter_map(|length| IpNet::new(client, *length).ok());
        let open = networks.filter_map(|net| {
            let places = self.by_network.get(&net.trunc())?.iter().map(|place| *place as usize);
            // A network may have holes.
            places.into_iter().find(|place| all.get(*place).is_some_and(|one| in_networks(one, client)))
        });
        open.min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::identity::NoTls;
    use weft_model::meta::Meta;
    use weft_model::policy::{NetworkMatch, Suffix};

    fn one_of<T: Clone>(rng: &mut fastrand::Rng, list: &[T]) -> T {
        list[rng.usize(..list.len())].clone()
    }

    const IDS: [&str; 8] = [
        "web.shop",
        "api.shop",
        "web.office",
        "shop",
        "spiffe://mesh/shop/web",
        "spiffe://mesh/shop",
        "spiffe://mesh/shopping/web",
        "spiffe://other/shop/web",
    ];

    fn random(rng: &mut fastrand::Rng, name: usize) -> Authorization {
        let nets = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "0.0.0.0/0", "fd00::/8", "::/0"];
        let networks = (0..rng.usize(1..3)).map(|_| {
            let net: IpNet = one_of(rng, &nets).parse().unwrap();
            let except = if rng.u8(..4) == 0 { vec!["10.1.2.0/24".parse().unwrap()] } else { vec![] };
            NetworkMatch { net, except }
        });
        let networks = networks.collect();
        let authentication = match rng.u8(..8) {
            0 => Authentication::Unauthenticated,
            1 => Authentication::TlsUnauthenticated,
            _ => {
                let wanted = [&IDS[..], &["spiffe://mesh/shop/*", "spiffe://mesh/*"]].concat();
                let ids = (0..rng.usize(..3)).map(|_| one_of(rng, &wanted).parse().unwrap()).collect();
                let suffixes =
                    (0..rng.usize(..2)).map(|_| Suffix(one_of(rng, &["", "shop", "office"]).into()));
                Authentication::TlsAuthenticated { ids, suffixes: suffixes.collect() }
            }
        };
        Authorization { meta: Meta::default_named(&name.to_string()), networks, authentication }
    }

    #[test]
    fn compiled_authorizations_answer_as_asking_each_in_turn_does() {
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut list = |count: usize| (0..count).map(|n| random(&mut rng, n)).collect::<Vec<_>>();
            let (own, server) = (list(seed as usize % 3), list(seed as usize % 60));
            let permission = Permission::of([Arc::new(List::new(&own)), Arc::new(List::new(&server))]);
            let all: Vec<_> = own.iter().chain(&server).collect();
            assert_eq!(permission.iter().collect::<Vec<_>>(), all);
            for _ in 0..60 {
                let peer = match rng.u8(..6) {
                    0 => Peer::Plain(NoTls::NotFromRemote),
                    1 => Peer::Tls(None),
                    _ => Peer::Tls(one_of(&mut rng, &IDS).parse().ok()),
                };
                let ips = [
                    "10.1.2.3",
                    "10.1.3.4",
                    "10.9.9.9",
                    "192.0.2.1",
                    "fd00::1",
                    "2001:db8::1",
                    "::ffff:10.1.2.3",
                ];
                let client: IpAddr = one_of(&mut rng, &ips).parse().unwrap();
                let expected = admit(all.iter().copied(), client, &peer);
                let found = permission.admit(client, &peer);
                assert_eq!(found, expected, "seed {seed}: {client} {peer:?}");
            }
        }
    }
}
