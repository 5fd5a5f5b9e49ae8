//! Where a connection leads: to one destination, to whatever each request names (forward proxy, ingress), or through the
//! gateway.

use crate::client::Client;
use crate::reply::Refusal;
use http::{HeaderValue, Request};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use weft_discover::destination::{Destinations, Held, NoPlan};
use weft_discover::plan::Plan;
use weft_model::address::{Addr, NameAddr};
use weft_model::reason::{Code, Phase};
use weft_net::body::Body;
use weft_net::socket::arrives_at;
use weft_telemetry::Counter;

/// Port of an `http` authority that names none.
pub(crate) const HTTP_PORT: NonZeroU16 = NonZeroU16::new(80).unwrap();

/// Where a connection leads.
pub(crate) enum Aim {
    /// To this destination or port.
    One(Held),
    /// To what each request names.
    Each(Each),
    /// To what a request names in a header, else to this destination (ingress mode, §3.10).
    Ingress(Each, Held),
    /// To the name that a meshed peer asked for, past the policy of the inbound port (§4.6).
    Gateway(Gateway),
}

/// Where a connection to the gateway leads.
pub(crate) struct Gateway {
    /// The inbound port itself, whose policy says who may pass.
    pub(crate) door: Held,
    pub(crate) name: NameAddr,
    /// Nothing, where the name is not one that the gateway serves.
    pub(crate) beyond: Option<Held>,
}

/// What leading every request of a connection by itself takes, on the forward proxy's listener and in ingress mode.
pub(crate) struct Leads {
    pub(crate) destinations: Destinations,
    pub(crate) own: OwnAddresses,
    /// Most destinations held at a time.
    pub(crate) limit: usize,
    /// Counts destinations let go because of the limit.
    pub(crate) beyond: Counter,
}

/// The destinations that one client connection names, so that they stay in the cache while it lives.
pub(crate) struct Each {
    leads: Arc<Leads>,
    held: Mutex<Vec<(Addr, Held)>>,
}

/// Addresses that the forward proxy must not lead to.
#[derive(Clone, Debug)]
pub(crate) struct OwnAddresses(pub(crate) Arc<[SocketAddr]>);

impl OwnAddresses {
    /// Whether leading there would come back to this proxy, or reach what only the host itself may:
    /// link-local addresses, among them the cloud's metadata services.
    pub(crate) fn forbid(&self, addr: &Addr) -> bool {
        let Addr::Socket(socket) = addr else { return false };
        let ip = socket.ip().to_canonical();
        let link_local = match ip {
            std::net::IpAddr::V4(ip) => ip.is_link_local() || ip.is_unspecified() || ip.is_broadcast(),
            std::net::IpAddr::V6(ip) => {
                ip.is_unicast_link_local() || ip.is_unspecified() || ip.segments()[..2] == [0xfd00, 0x0ec2]
            }
        };
        link_local || self.lead_home(*socket)
    }

    /// Whether a connection to this address would come back to this proxy.
    pub(crate) fn lead_home(&self, addr: SocketAddr) -> bool {
        self.0.iter().any(|own| arrives_at(addr, *own))
    }
}

impl Each {
    /// Leads to what requests name.
    pub(crate) fn new(leads: Arc<Leads>) -> Self {
        Self { leads, held: Mutex::default() }
    }

    /// The destination of an address that a client named.
    pub(crate) fn destination(&self, client: &Client, addr: Addr) -> Result<Held, Refusal> {
        if self.leads.own.forbid(&addr) {
            let reason = client.reason(Code::ForbiddenTarget, Phase::Discovery);
            return Err(reason.detail(format!("{addr} may not be reached through the forward proxy")).into());
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = held.iter().find(|(known, _)| *known == addr) {
            return Ok(found.clone());
        }
        let found = self
            .leads
            .destinations
            .outbound(&addr)
            .map_err(|full| client.reason(Code::Overloaded, Phase::Discovery).detail(full.to_string()))?;
        if held.len() >= self.leads.limit {
            self.leads.beyond.inc();
            held.remove(0);
        }
        held.push((addr, found.clone()));
        Ok(found)
    }
}

impl Aim {
    /// Where a connection leads that was meant for `held`, where an ingress's requests may be meant for others.
    pub(crate) fn of(held: Held, ingress: Option<Arc<Leads>>) -> Self {
        match ingress {
            Some(leads) => Aim::Ingress(Each::new(leads), held),
            None => Aim::One(held),
        }
    }

    /// The destination of a request, which may have named one in a header of ingress mode.
    pub(crate) fn held(
        &self,
        client: &Client,
        request: &Request<Body>,
        named: Option<&HeaderValue>,
    ) -> Result<Cow<'_, Held>, Refusal> {
        let bad = |detail: String| client.reason(Code::BadRequest, Phase::Head).detail(detail);
        let each = match (self, named) {
            (Aim::One(held) | Aim::Ingress(_, held), None) | (Aim::One(held), Some(_)) => {
                return Ok(Cow::Borrowed(held));
            }
            (Aim::Gateway(gateway), _) => return Ok(Cow::Borrowed(&gateway.door)),
            (Aim::Ingress(each, _), Some(named)) => {
                let name = named.to_str().map_err(|_| bad("l5d-dst-override is no text".into()))?;
                let addr = Addr::from_authority(name.trim(), HTTP_PORT)
                    .map_err(|e| bad(format!("l5d-dst-override: {e}")))?;
                return each.destination(client, addr).map(Cow::Owned);
            }
            (Aim::Each(each), _) => each,
        };
        let authority = weft_decide::matching::authority(request.uri(), request.headers());
        let authority = authority.ok_or_else(|| bad("the request names no host".into()))?;
        let addr = Addr::from_authority(authority, HTTP_PORT).map_err(|e| bad(e.to_string()))?;
        each.destination(client, addr).map(Cow::Owned)
    }

    /// The socket address, where the connection leads to one.
    pub(crate) fn addr(&self) -> Option<SocketAddr> {
        match self {
            Aim::One(held) | Aim::Ingress(_, held) | Aim::Gateway(Gateway { door: held, .. }) => {
                match held.addr() {
                    Addr::Socket(socket) => Some(*socket),
                    Addr::Name(_) => None,
                }
            }
            Aim::Each(_) => None,
        }
    }
}

/// Waits for the first answer about a destination, as long as the setting allows.
pub(crate) async fn awaited(client: &Client, held: &Held, limit: Duration) -> Result<Arc<Plan>, Refusal> {
    held.plan(limit).await.map_err(|none| match none {
        NoPlan::TimedOut { last_error } => {
            let reason = client.reason(Code::DiscoveryTimeout, Phase::Discovery);
            let why = last_error.map(|e| format!("; the last error was: {e}")).unwrap_or_default();
            reason.detail(format!("no answer about {} for {} ms{why}", held.addr(), limit.as_millis())).into()
        }
        NoPlan::Refused { message } => {
            client.reason(Code::DiscoveryRefused, Phase::Discovery).detail(message).into()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forward_proxy_leads_neither_to_itself_nor_to_metadata() {
        let own = OwnAddresses(["127.0.0.1:4140", "0.0.0.0:4143"].map(|a| a.parse().unwrap()).into());
        for (addr, forbidden) in [
            ("127.0.0.1:4140", true),
            ("127.0.0.1:4143", true),
            ("127.9.9.9:4143", true),
            ("127.9.9.9:4140", false),
            ("127.0.0.1:8080", false),
            ("169.254.169.254:80", true),
            ("[fe80::1]:80", true),
            ("[::ffff:169.254.169.254]:80", true),
            ("[fd00:ec2::254]:80", true),
            ("0.0.0.0:80", true),
            ("10.0.0.1:80", false),
            ("web.default:80", false),
        ] {
            assert_eq!(own.forbid(&addr.parse().unwrap()), forbidden, "{addr}");
        }
    }
}
