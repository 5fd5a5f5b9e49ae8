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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Resolver, TtlBounds};
    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use hickory_resolver::proto::op::{Message, ResponseCode};
    use hickory_resolver::proto::rr::rdata::{A, SOA, SRV};
    use hickory_resolver::proto::rr::{Name, Record};
    use hickory_resolver::proto::serialize::binary::{BinDecodable, BinEncodable};
    use tokio::net::UdpSocket;

    /// A name server that knows SRV records of `srv.mesh.`, addresses of `plain.mesh.`, and that
    /// nothing else exists for 40 s.
    async fn serve(socket: UdpSocket) {
        let mut buffer = [0; 1500];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_bytes(&buffer[..length]).unwrap();
            let query = question.queries[0].clone();
            let name = query.name().clone();
            let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
            answer.add_query(query.clone());
            let target = Name::from_ascii("10-0-0-7.srv.mesh.").unwrap();
            match (name.to_ascii().as_str(), query.query_type()) {
                ("srv.mesh.", RecordType::SRV) => {
                    let srv = RData::SRV(SRV::new(0, 0, 8086, target));
                    answer.add_answers([Record::from_rdata(name, 33, srv)]);
                }
                ("plain.mesh.", RecordType::A) => {
                    answer.add_answers([Record::from_rdata(name, 44, RData::A(A::new(10, 0, 0, 8)))]);
                }
                _ => {
                    let zone = Name::from_ascii("mesh.").unwrap();
                    let soa = SOA::new(zone.clone(), zone.clone(), 1, 1, 1, 1, 40);
                    answer.add_authorities([Record::from_rdata(zone, 40, RData::SOA(soa))]);
                    if name.to_ascii() != "plain.mesh." {
                        answer.metadata.response_code = ResponseCode::NXDomain;
                    }
                }
            }
            socket.send_to(&answer.to_bytes().unwrap(), from).await.unwrap();
        }
    }

    #[tokio::test]
    async fn real_answers_are_read_with_their_ttls() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut connection = ConnectionConfig::udp();
        connection.port = socket.local_addr().unwrap().port();
        let server = NameServerConfig::new([127, 0, 0, 1].into(), true, vec![connection]);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.options_mut().cache_size = 0;
        let system = System(builder.build().map_err(|error| error.to_string()));
        let serving = tokio::spawn(serve(socket));

        let resolver = Resolver::new(system, TtlBounds::default());
        let secs = |secs| Some(Duration::from_secs(secs));
        for (name, addr, ttl) in [("srv.mesh:1", "10.0.0.7:8086", 33), ("plain.mesh:90", "10.0.0.8:90", 44)] {
            let answer = resolver.resolve(&name.parse().unwrap()).await.unwrap();
            assert_eq!((answer.addrs, answer.ttl), (vec![addr.parse().unwrap()], secs(ttl)));
        }
        let error = resolver.resolve(&"absent.mesh:1".parse().unwrap()).await.unwrap_err();
        assert_eq!(error.retry_in, secs(40), "{error}");
        serving.abort();
    }
}
