//! Where DNS records come from: the system's name servers, or a test.
//!
//! Called by `resolver.rs`. Errors keep the negative TTL, which decides when to ask again; no answer
//! is cached here, because the caller obeys the TTLs itself.

use hickory_resolver::TokioResolver;
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{RData, RecordType};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

/// A lookup under way.
pub type Fetch<'a, T> = Pin<Box<dyn Future<Output = Result<T, NoRecords>> + Send + 'a>>;

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The host that serves, as text.
    pub target: String,
    /// Its port.
    pub port: u16,
}

/// SRV records with their least TTL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Services {
    /// The records; priorities and weights are not used, the balancer chooses by load.
    pub records: Vec<Service>,
    /// How long the records hold.
    pub ttl: Duration,
}

/// Addresses with their least TTL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The addresses, IPv4 first.
    pub ips: Vec<IpAddr>,
    /// How long the records hold.
    pub ttl: Duration,
}

/// A lookup brought nothing: the name's owner's fault where the servers said so, else the network's.
/// Asking again later is always safe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct NoRecords {
    /// What went wrong.
    pub problem: String,
    /// How long the servers said that there would be none.
    pub negative_ttl: Option<Duration>,
}

/// Asks for records. The name is in lower case without a trailing dot.
pub trait Records: Send + Sync + 'static {
    /// The SRV records of `name`.
    fn services<'a>(&'a self, name: &'a str) -> Fetch<'a, Services>;

    /// The A and AAAA records of `name`.
    fn addresses<'a>(&'a self, name: &'a str) -> Fetch<'a, Addresses>;
}

/// The system's name servers and hosts file (`/etc/resolv.conf`, `/etc/hosts`).
pub struct System(Result<TokioResolver, String>);

impl System {
    /// Reads the system's configuration. Where there is none, every lookup fails and says why.
    /// A name with a dot is asked as it stands before the search list is tried.
    pub fn from_config() -> Self {
        let resolver = TokioResolver::builder_tokio().and_then(|mut builder| {
            let options = builder.options_mut();
            options.cache_size = 0;
            options.ndots = 1;
            options.ip_strategy = hickory_resolver::config::LookupIpStrategy::Ipv4AndIpv6;
            builder.build()
        });
        Self(resolver.map_err(|error| format!("the system's DNS configuration is unusable: {error}")))
    }

    fn resolver(&self) -> Result<&TokioResolver, NoRecords> {
        self.0.as_ref().map_err(|problem| NoRecords { problem: problem.clone(), negative_ttl: None })
    }
}

impl Records for System {
    fn services<'a>(&'a self, name: &'a str) -> Fetch<'a, Services> {
        Box::pin(async move {
            let lookup = self.resolver()?.lookup(name, RecordType::SRV).await.map_err(no_records)?;
            let records = lookup.answers().iter().filter_map(|record| match &record.data {
                RData::SRV(srv) => Some(Service { target: srv.target.to_ascii(), port: srv.port }),
                _ => None,
            });
            Ok(Services { records: records.collect(), ttl: least_ttl(&lookup) })
        })
    }

    fn addresses<'a>(&'a self, name: &'a str) -> Fetch<'a, Addresses> {
        Box::pin(async move {
            let lookup = self.resolver()?.lookup_ip(name).await.map_err(no_records)?;
            Ok(Addresses { ips: lookup.iter().collect(), ttl: least_ttl(lookup.as_lookup()) })
        })
    }
}

fn least_ttl(lookup: &Lookup) -> Duration {
    let seconds = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or_default();
    Duration::from_secs(seconds.into())
}

fn no_records(error: NetError) -> NoRecords {
    let negative_ttl = match &error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => none.negative_ttl,
        _ => None,
    };
    NoRecords {
        problem: error.to_string(),
        negative_ttl: negative_ttl.map(|seconds| Duration::from_secs(seconds.into())),
    }
}
