//! A destination made ready to run: what `serve` and `forward` obey, swapped as a whole.
//!
//! Compiled by `compile` from what the control plane says, held by a `Destination` in the cache. A
//! request that started under one plan ends under it. Never changes in place.

use std::sync::Arc;
use std::time::{Duration, Instant};
use weft_connect::endpoint::Endpoint;
use weft_decide::matching::rank_one_host;
use weft_decide::permission::Permission;
use weft_model::meta::Meta;
use weft_model::route::HostMatch;
use weft_route::limit::Limiter;
use weft_route::metrics::Exchange;

/// What a data-path backend balances over: an endpoint with its metric handles.
#[derive(Debug)]
pub struct Upstream {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Its counters, resolved once; none for the application, whose series name the client as well.
    pub metrics: Option<Exchange>,
    /// Whether it proves an identity, so that what it says about itself is believed.
    pub meshed: Meshed,
    /// Whether there are others in its place.
    pub choice: Choice,
}

/// Whether an endpoint is one of several that a balancer chooses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It is the only place that its destination leads to.
    Only,
    /// It is one of those that a name stands for, now or later.
    Balanced,
}

/// Whether an endpoint is reached over mutual TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meshed {
    /// It is.
    Yes,
    /// It is not.
    No,
}

/// The balancer of the data path.
pub type Backend = weft_balance::Backend<Upstream>;
/// The table of rules of the data path.
pub type Table = weft_route::table::Table<Upstream>;
/// A rule of the data path.
pub type Rule = weft_route::table::Rule<Upstream>;
/// A backend under a rule of the data path.
pub type RuleBackend = weft_route::table::RuleBackend<Upstream>;
/// The backends of a rule of the data path.
pub type Backends = weft_route::table::Backends<Upstream>;

/// How to serve one destination.
#[derive(Debug)]
pub struct Plan {
    /// The resource it belongs to, for labels and reasons.
    pub parent: Meta,
    /// What the connection is taken to speak.
    pub protocol: Protocol,
    /// Rules for HTTP/1 requests.
    pub http1: Arc<Table>,
    /// Rules for HTTP/2 requests.
    pub http2: Arc<Table>,
    /// Rules for bytes and for TLS.
    pub tcp: Box<[TcpRule]>,
    /// Who may open a TCP connection (inbound); `None` asks nobody (outbound).
    pub permission: Option<Permission>,
    /// How many requests a second the port takes (inbound).
    pub limit: Option<Arc<Limiter>>,
    /// `host:port` for requests that name none.
    pub authority: Option<String>,
    /// When it was compiled.
    pub since: Instant,
}

/// What a connection is taken to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Look at the first bytes, this long at most.
    Detect(Duration),
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Bytes, not looked at.
    Opaque,
    /// TLS of the application, routed by its SNI, which is awaited this long.
    Tls(Duration),
}

/// A rule for connections that are relayed as bytes.
#[derive(Debug)]
pub struct TcpRule {
    /// The route it belongs to.
    pub route: Meta,
    /// Server names it is for; none means all.
    pub snis: Box<[HostMatch]>,
    /// Why the connection is refused, if it is.
    pub refusal: Option<TcpRefusal>,
    /// Where connections go.
    pub backends: Backends,
}

/// Why a policy refuses a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TcpRefusal {
    /// It forbids the destination.
    Forbidden,
    /// It makes no sense.
    Invalid(String),
}

impl Plan {
    /// The rule for a connection relayed as bytes: by SNI, exact over suffix, longer over shorter, first
    /// on ties.
    pub fn tcp_rule(&self, sni: Option<&str>) -> Option<&TcpRule> {
        let mut best: Option<((u8, usize), &TcpRule)> = None;
        for rule in &self.tcp {
            let rank = match (rule.snis.is_empty(), sni) {
                (true, _) => Some((0, 0)),
                (false, Some(sni)) => rule.snis.iter().filter_map(|s| rank_one_host(s, sni)).max(),
                (false, None) => None,
            };
            if let Some(rank) = rank
                && best.as_ref().is_none_or(|(b, _)| rank > *b)
            {
                best = Some((rank, rule));
            }
        }
        best.map(|(_, rule)| rule)
    }
}
