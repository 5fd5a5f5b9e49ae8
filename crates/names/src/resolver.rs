//! SRV first, then plain addresses, with TTLs clamped (data-plane facts, section 2.1).
//!
//! The name behind a headless service answers SRV with targets such as `10-1-2-3.name`: the first
//! label is the address. Any trouble on that way, an unreadable target included, falls back to A and
//! AAAA with the configured port. Called by whoever keeps a control-plane name resolved.

use crate::records::{NoRecords, Records, Services, System};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use weft_model::address::NameAddr;

/// Least time between two lookups, whatever the records say: a TTL of 0 must not spin.
pub const MIN_TTL: Duration = Duration::from_secs(5);

/// Most addresses kept of one answer; a control plane has a handful of replicas.
pub(crate) const MAX_ADDRESSES: usize = 1_000;

/// Bounds of positive and negative TTLs (`DNS_MIN_TTL`, `DNS_MAX_TTL`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TtlBounds {
    /// Shorter TTLs are raised to this.
    pub min: Option<Duration>,
    /// Longer TTLs are cut to this.
    pub max: Option<Duration>,
}

impl TtlBounds {
    /// The TTL within the bounds, never below [`MIN_TTL`]. The upper bound wins over the lower one.
    pub fn clamp(&self, ttl: Duration) -> Duration {
        let raised = ttl.max(self.min.unwrap_or_default());
        raised.min(self.max.unwrap_or(Duration::MAX)).max(MIN_TTL)
    }
}

/// Where a name leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// At least one address and at most 1,000, sorted, without doubles.
    pub addrs: Vec<SocketAddr>,
    /// How long the answer holds, clamped; `None` for names that never change.
    pub ttl: Option<Duration>,
}

/// A name leads nowhere. The last good answer stays usable; asking again is safe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot resolve `{name}`: {problem}")]
pub struct ResolveError {
    /// The name asked for.
    pub name: NameAddr,
    /// What went wrong with its addresses.
    pub problem: String,
    /// When the servers said to ask again, clamped; without it the caller backs off.
    pub retry_in: Option<Duration>,
}

/// Lookups made so far, for `control_dns_resolutions_total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// SRV lookups that served.
    pub srv_ok: u64,
    /// SRV lookups that did not.
    pub srv_not_found: u64,
    /// A/AAAA lookups that served.
    pub address_ok: u64,
    /// A/AAAA lookups that did not.
    pub address_not_found: u64,
}

/// Resolves names. Cheap to clone; clones share the counts.
#[derive(Clone)]
pub struct Resolver {
    records: Arc<dyn Records>,
    bounds: TtlBounds,
    counts: Arc<[AtomicU64; 4]>,
}

impl Resolver {
    /// A resolver over the given records.
    pub fn new(records: impl Records, bounds: TtlBounds) -> Self {
        Self { records: Arc::new(records), bounds, counts: Arc::default() }
    }

    /// A resolver over the system's name servers.
    pub fn system(bounds: TtlBounds) -> Self {
        Self::new(System::from_config(), bounds)
    }

    /// A resolver over the same records with counts of its own, for another client.
    #[must_use]
    pub fn with_own_counts(&self) -> Self {
        Self { counts: Arc::default(), ..self.clone() }
    }

    /// Finds the addresses of `dst`. `localhost` is 127.0.0.1 and asks nobody. Takes as long as the
    /// name servers' own timeouts; dropping the future ends the lookup.
    pub async fn resolve(&self, dst: &NameAddr) -> Result<Answer, ResolveError> {
        let name = dst.name.as_str();
        if name == "localhost" {
            let addr = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), dst.port.get());
            return Ok(Answer { addrs: vec![addr], ttl: None });
        }
        let by_service = self.records.services(name).await.and_then(read_services);
        self.count(0, by_service.is_ok());
        let (addrs, ttl) = match by_service {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%name, %error, "no usable SRV records, asking for addresses");
                let by_address = self.by_address(dst).await;
                self.count(2, by_address.is_ok());
                by_address?
            }
        };
        Ok(Answer { addrs: tidy(addrs), ttl: Some(self.bounds.clamp(ttl)) })
    }

    /// Lookups made through this resolver and its clones.
    pub fn counts(&self) -> Counts {
        let [srv_ok, srv_not_found, address_ok, address_not_found] =
            std::array::from_fn(|i| self.counts[i].load(Ordering::Relaxed));
        Counts { srv_ok, srv_not_found, address_ok, address_not_found }
    }

    async fn by_address(&self, dst: &NameAddr) -> Result<(Vec<SocketAddr>, Duration), ResolveError> {
        let fail = |problem, retry_in| ResolveError { name: dst.clone(), problem, retry_in };
        let found = self.records.addresses(dst.name.as_str()).await.map_err(|error: NoRecords| {
            fail(error.problem, error.negative_ttl.map(|ttl| self.bounds.clamp(ttl)))
        })?;
        if found.ips.is_empty() {
            return Err(fail("the answer holds no address".into(), None));
        }
        let addrs = found.ips.into_iter().map(|ip| SocketAddr::new(ip, dst.port.get()));
        Ok((addrs.collect(), found.ttl))
    }

    fn count(&self, kind: usize, ok: bool) {
        self.counts[kind + usize::from(!ok)].fetch_add(1, Ordering::Relaxed);
    }
}

/// The addresses that SRV targets encode. One unreadable target spoils the answer, because a partial
/// one would hide replicas.
fn read_services(found: Services) -> Result<(Vec<SocketAddr>, Duration), NoRecords> {
    let fail = |problem| NoRecords { problem, negative_ttl: None };
    if found.records.is_empty() {
        return Err(fail("the answer holds no SRV record".into()));
    }
    let addrs = found.records.iter().map(|record| {
        encoded_ip(&record.target)
            .filter(|_| record.port != 0)
            .map(|ip| SocketAddr::new(ip, record.port))
            .ok_or_else(|| fail(format!("SRV target `{}` encodes no address", record.target)))
    });
    Ok((addrs.collect::<Result<_, _>>()?, found.ttl))
}

/// Reads `10-1-2-3.name` or `fd00--1.name`: `-` stands for `.` or `:`.
fn encoded_ip(target: &str) -> Option<IpAddr> {
    let label = target.split('.').next()?;
    let v4 = label.replace('-', ".").parse().ok().map(IpAddr::V4);
    v4.or_else(|| label.replace('-', ":").parse().ok().map(IpAddr::V6))
}

fn tidy(mut addrs: Vec<SocketAddr>) -> Vec<SocketAddr> {
    addrs.sort_unstable();
    addrs.dedup();
    addrs.truncate(MAX_ADDRESSES);
    addrs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Addresses, Fetch, Service};

    /// Answers with what it was told; `None` is a failure with a negative TTL of 30 s.
    struct Told {
        services: Option<Vec<(&'static str, u16)>>,
        ips: Option<Vec<&'static str>>,
        ttl: u64,
    }

    impl Told {
        fn none<T>() -> Result<T, NoRecords> {
            Err(NoRecords { problem: "no such name".into(), negative_ttl: Some(Duration::from_secs(30)) })
        }
    }

    impl Records for Told {
        fn services<'a>(&'a self, _: &'a str) -> Fetch<'a, Services> {
            Box::pin(async {
                let Some(list) = &self.services else { return Told::none() };
                let records = list.iter().map(|&(target, port)| Service { target: target.into(), port });
                Ok(Services { records: records.collect(), ttl: Duration::from_secs(self.ttl) })
            })
        }

        fn addresses<'a>(&'a self, _: &'a str) -> Fetch<'a, Addresses> {
            Box::pin(async {
                let Some(list) = &self.ips else { return Told::none() };
                let ips = list.iter().map(|ip| ip.parse().unwrap()).collect();
                Ok(Addresses { ips, ttl: Duration::from_secs(self.ttl) })
            })
        }
    }

    async fn check(told: Told, dst: &str, expected: Result<(&[&str], u64), u64>) -> Counts {
        let resolver = Resolver::new(told, TtlBounds::default());
        let found = resolver.resolve(&dst.parse().unwrap()).await;
        let found = found
            .map(|a| (a.addrs.iter().map(ToString::to_string).collect(), a.ttl.unwrap_or_default().as_secs()))
            .map_err(|e| e.retry_in.unwrap_or_default().as_secs());
        let expected = expected.map(|(list, ttl)| (list.iter().map(|s| (*s).to_owned()).collect(), ttl));
        assert_eq!(found, expected as Result<(Vec<String>, u64), u64>);
        resolver.counts()
    }

    #[tokio::test]
    async fn srv_targets_carry_addresses_and_ports() {
        let services = Some(vec![("10-1-2-4.web.", 9000), ("10-1-2-3.web.", 8086), ("fd00--7.web.", 8086)]);
        let told = Told { services, ips: None, ttl: 60 };
        let expected: &[&str] = &["10.1.2.3:8086", "10.1.2.4:9000", "[fd00::7]:8086"];
        let counts = check(told, "web:1", Ok((expected, 60))).await;
        assert_eq!(counts, Counts { srv_ok: 1, ..Counts::default() });
    }

    #[tokio::test]
    async fn any_trouble_with_srv_falls_back_to_addresses_with_the_configured_port() {
        for services in [None, Some(vec![]), Some(vec![("10-1-2-3.a.", 80), ("web.b.", 80)])] {
            let told = Told { services, ips: Some(vec!["10.0.0.2", "10.0.0.1", "10.0.0.2"]), ttl: 7 };
            let counts = check(told, "web:8086", Ok((&["10.0.0.1:8086", "10.0.0.2:8086"], 7))).await;
            assert_eq!(counts, Counts { srv_not_found: 1, address_ok: 1, ..Counts::default() });
        }
    }

    #[tokio::test]
    async fn failures_carry_the_negative_ttl() {
        let counts = check(Told { services: None, ips: None, ttl: 1 }, "web:80", Err(30)).await;
        assert_eq!(counts.address_not_found, 1);
        check(Told { services: None, ips: Some(vec![]), ttl: 1 }, "web:80", Err(0)).await;
    }

    #[tokio::test]
    async fn localhost_asks_nobody() {
        let counts =
            check(Told { services: None, ips: None, ttl: 1 }, "localhost.:80", Ok((&["127.0.0.1:80"], 0)))
                .await;
        assert_eq!(counts, Counts::default());
    }

    #[test]
    fn ttls_are_clamped_and_never_below_the_floor() {
        let s = Duration::from_secs;
        for (min, max, ttl, expected) in [
            (None, None, 0, 5),
            (None, None, 100, 100),
            (Some(10), None, 6, 10),
            (None, Some(60), 86_400, 60),
            (Some(90), Some(60), 70, 60),
            (None, Some(1), 70, 5),
        ] {
            let bounds = TtlBounds { min: min.map(s), max: max.map(s) };
            assert_eq!(bounds.clamp(s(ttl)), s(expected));
        }
    }
}
