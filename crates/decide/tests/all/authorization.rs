//! Authorization against a naive evaluator: random authorizations and clients, the first that admits found by the sentences of
//! the language, on texts, without anything that is compiled or shared.

use fastrand::Rng;
use std::net::IpAddr;
use std::sync::Arc;
use weft_decide::authorize::admit;
use weft_decide::permission::{List, Permission};
use weft_model::authorization::{Authentication, Authorization, NetworkMatch, Suffix};
use weft_model::identity::{NoTls, Peer};
use weft_model::meta::Meta;

const IDS: [&str; 9] = [
    "web.shop",
    "web.shop.mesh",
    "books.shop.mesh",
    "a.b.shop.mesh",
    "spiffe://mesh/shop/web",
    "spiffe://mesh/shop/books",
    "spiffe://mesh/shop/a/b",
    "spiffe://mesh/shops/web",
    "spiffe://other/shop/web",
];
const WANTED: [&str; 4] =
    ["spiffe://mesh/shop/*", "spiffe://mesh/*", "web.shop.mesh", "spiffe://mesh/shop/web"];
const SUFFIXES: [&str; 5] = ["", "mesh", "shop.mesh", "b.shop.mesh", "other"];
const NETWORKS: [&str; 7] =
    ["0.0.0.0/0", "::/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "fd00::/8", "fd00::1/128"];
const CLIENTS: [&str; 7] =
    ["10.1.2.3", "10.1.9.9", "10.9.9.9", "192.0.2.1", "fd00::1", "fd00::2", "::ffff:10.1.2.3"];

fn some<T: Copy>(rng: &mut Rng, list: &[T], most: usize) -> Vec<T> {
    (0..rng.usize(..=most)).map(|_| list[rng.usize(..list.len())]).collect()
}

/// An authorization in words: networks with their holes, and what is wanted: nothing, TLS, or an identity.
struct Words {
    networks: Vec<(&'static str, Vec<&'static str>)>,
    wanted: Option<Option<(Vec<&'static str>, Vec<&'static str>)>>,
}

impl Words {
    fn random(rng: &mut Rng) -> Self {
        let networks =
            some(rng, &NETWORKS, 3).into_iter().map(|net| (net, some(rng, &NETWORKS[2..], 1))).collect();
        let wanted = match rng.u8(..4) {
            0 if rng.u8(..8) == 0 => None,
            1 if rng.u8(..8) == 0 => Some(None),
            _ => Some(Some((some(rng, &[&IDS[..], &WANTED[..]].concat(), 3), some(rng, &SUFFIXES[1..], 1)))),
        };
        let any = rng.u8(..30) == 0;
        Self { networks, wanted: if any { Some(Some((vec![], vec![""]))) } else { wanted } }
    }

    fn compiled(&self, place: usize) -> Authorization {
        let networks = self.networks.iter().map(|(net, except)| NetworkMatch {
            net: net.parse().unwrap(),
            except: except.iter().map(|net| net.parse().unwrap()).collect(),
        });
        Authorization {
            meta: Meta::default_named(&place.to_string()),
            networks: networks.collect(),
            authentication: match &self.wanted {
                None => Authentication::Unauthenticated,
                Some(None) => Authentication::TlsUnauthenticated,
                Some(Some((ids, suffixes))) => Authentication::TlsAuthenticated {
                    ids: ids.iter().map(|id| id.parse().unwrap()).collect(),
                    suffixes: suffixes.iter().map(|text| Suffix((*text).into())).collect(),
                },
            },
        }
    }

    /// `identity`: none for a client in plaintext, an empty text for one in TLS without a certificate.
    fn admits(&self, client: &str, identity: Option<&str>) -> bool {
        let near = self
            .networks
            .iter()
            .any(|(net, holes)| is_in(client, net) && !holes.iter().any(|hole| is_in(client, hole)));
        near && match (&self.wanted, identity) {
            (None, _) => true,
            (Some(None), identity) => identity.is_some(),
            (Some(Some(_)), None | Some("")) => false,
            (Some(Some((ids, suffixes))), Some(id)) => {
                let by_name = ids.iter().any(|wanted| match wanted.strip_suffix('*') {
                    Some(start) => id.len() > start.len() && id.starts_with(start),
                    None => *wanted == id,
                });
                let by_suffix = suffixes.iter().any(|suffix| {
                    suffix.is_empty() || !id.contains('/') && id.ends_with(&format!(".{suffix}"))
                });
                by_name || by_suffix
            }
        }
    }
}

/// Compares addresses bit by bit.
fn is_in(client: &str, net: &str) -> bool {
    let bits = |ip: IpAddr| -> (bool, Vec<bool>) {
        let bytes = match ip.to_canonical() {
            IpAddr::V4(ip) => (true, ip.octets().to_vec()),
            IpAddr::V6(ip) => (false, ip.octets().to_vec()),
        };
        (bytes.0, bytes.1.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1)).collect())
    };
    let (address, length) = net.split_once('/').unwrap();
    let ((of, own), (family, network)) = (bits(client.parse().unwrap()), bits(address.parse().unwrap()));
    let length: usize = length.parse().unwrap();
    of == family && own[..length] == network[..length]
}

#[test]
fn the_first_that_admits_is_the_one_that_naive_evaluation_finds() {
    let mut rng = Rng::with_seed(11);
    let (mut admitted, mut denied) = (0, 0);
    for _ in 0..150 {
        // Few are asked one after the other, many are looked up; routes have lists of their own before the port's.
        let sizes = [rng.usize(..3), rng.usize(..60)];
        let words: Vec<Vec<Words>> =
            sizes.map(|size| (0..size).map(|_| Words::random(&mut rng)).collect()).into();
        let mut place = 0;
        let mut compile = |words: &Vec<Words>| -> Vec<Authorization> {
            words
                .iter()
                .map(|one| {
                    place += 1;
                    one.compiled(place - 1)
                })
                .collect()
        };
        let lists: Vec<Vec<Authorization>> = words.iter().map(&mut compile).collect();
        let permission = Permission::of(lists.iter().map(|list| Arc::new(List::new(list))));
        for client in CLIENTS {
            for identity in IDS.iter().map(|id| Some(*id)).chain([None, Some("")]) {
                let peer = match identity {
                    None => Peer::Plain(NoTls::NotFromRemote),
                    Some("") => Peer::Tls(None),
                    Some(id) => Peer::Tls(Some(id.parse().unwrap())),
                };
                let expected = words.iter().flatten().position(|one| one.admits(client, identity));
                let ip: IpAddr = client.parse().unwrap();
                let found =
                    |one: Option<&Authorization>| one.map(|one| one.meta.name().parse::<usize>().unwrap());
                assert_eq!(found(permission.admit(ip, &peer)), expected, "{client} {identity:?}");
                assert_eq!(
                    found(admit(lists.iter().flatten(), ip, &peer)),
                    expected,
                    "{client} {identity:?}"
                );
                if expected.is_some() { admitted += 1 } else { denied += 1 }
            }
        }
    }
    assert!(admitted > 1000 && denied > 1000, "{admitted} {denied}: both happen often");
}
