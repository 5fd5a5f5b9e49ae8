//! Counts what connections turned out to be and which route relayed them, under the peer's names (§5.2, §5.3).
//!
//! `serve` and `opaque` call it once or twice a connection. Labels name resources of the control plane, ports and
//! verified identities; the families' own bound does the rest.

use crate::authz;
use std::net::SocketAddr;
use std::time::Duration;
use weft_discover::plan::{Plan, Protocol};
use weft_model::meta::Meta;
use weft_model::reason::{Code, Hop};
use weft_route::metrics::{Pairs, push_meta};
use weft_telemetry::{Counter, Family, Histogram, Registry};
use weft_wire::header::{Header, Session};

/// Buckets of the time that detection takes, seconds (§5.2).
const DETECT_SECONDS: &[f64] = &[0.001, 0.1];

macro_rules! parent {
    ($($first:literal),*; $($last:literal),*) => {
        &[
            $($first,)* "parent_group", "parent_kind", "parent_namespace", "parent_name", "parent_port",
            "parent_section_name" $(, $last)*
        ]
    };
}
const PARENT: &[&str] = parent!(;);
const RESULT_PARENT: &[&str] = parent!("result";);
const PROTOCOL_PARENT: &[&str] = parent!("protocol";);
const RELAYED: &[&str] = parent!(;
    "route_group", "route_kind", "route_namespace", "route_name", "target_ip", "target_port", "hostname", "error");

/// What the first bytes of a connection told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detection {
    Http1,
    Http2,
    NotHttp,
    ReadTimeout,
    Error,
}

impl Detection {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http/1",
            Self::Http2 => "http/2",
            Self::NotHttp => "not_http",
            Self::ReadTimeout => "read_timeout",
            Self::Error => "error",
        }
    }
}

/// The families.
pub(crate) struct Arrivals {
    inbound: DetectFamilies,
    outbound: DetectFamilies,
    protocols: Family<Counter>,
    headers: Family<Counter>,
    tcp: RouteFamilies,
    tls: RouteFamilies,
}

struct DetectFamilies {
    duration: Family<Histogram>,
    results: Family<Counter>,
}

impl DetectFamilies {
    fn new(registry: &Registry, direction: Hop) -> Self {
        let name = |n: &str| format!("{}_tcp_detect_http_{n}", direction.as_str());
        let help = "Time until a connection's first bytes told its protocol.";
        let duration = registry.histograms(&name("duration_seconds"), help, DETECT_SECONDS);
        let results =
            registry.counters(&name("results_total"), "Connections by what their first bytes told.");
        match direction {
            Hop::Inbound => Self {
                duration: duration.labels(&["srv_group", "srv_kind", "srv_name", "srv_port"]),
                results: results.labels(&["result", "srv_group", "srv_kind", "srv_name", "srv_port"]),
            },
            Hop::Outbound => {
                Self { duration: duration.labels(PARENT), results: results.labels(RESULT_PARENT) }
            }
        }
    }
}

struct RouteFamilies {
    opened: Family<Counter>,
    closed: Family<Counter>,
}

impl RouteFamilies {
    fn new(registry: &Registry, protocol: &str) -> Self {
        let name = |n: &str| format!("outbound_{protocol}_route_{n}");
        Self {
            opened: registry
                .counters(&name("open_total"), "Connections relayed as bytes, by route.")
                .labels(RELAYED),
            closed: registry
                .counters(&name("close_total"), "Relayed connections that ended, by route.")
                .labels(RELAYED),
        }
    }
}

impl Arrivals {
    /// Registers the families.
    pub(crate) fn new(registry: &Registry) -> Self {
        Self {
            inbound: DetectFamilies::new(registry, Hop::Inbound),
            outbound: DetectFamilies::new(registry, Hop::Outbound),
            protocols: registry
                .counters(
                    "outbound_tcp_protocol_connections_total",
                    "Connections of the application by the protocol that their policy names.",
                )
                .labels(PROTOCOL_PARENT),
            headers: registry
                .counters(
                    "inbound_tcp_transport_header_connections_total",
                    "Connections of meshed peers by what their transport header says.",
                )
                .labels(&["session_protocol", "target_port", "target_name", "client_id"]),
            tcp: RouteFamilies::new(registry, "tcp"),
            tls: RouteFamilies::new(registry, "tls"),
        }
    }

    /// A connection of the application was accepted.
    pub(crate) fn protocol(&self, plan: &Plan) {
        let protocol = match plan.protocol {
            Protocol::Detect(_) => "detect",
            Protocol::Http1 => "http/1",
            Protocol::Http2 => "http/2",
            Protocol::Opaque => "opaq",
            Protocol::Tls(_) => "tls",
        };
        let mut labels = vec![("protocol".to_owned(), protocol.to_owned())];
        push_meta(&mut labels, "parent", &plan.parent);
        self.protocols.series(&labels[..]).inc();
    }

    /// The first bytes were looked at, on a connection meant for `target`.
    pub(crate) fn detected(&self, at: (Hop, &Meta, Option<SocketAddr>), found: Detection, after: Duration) {
        let (hop, parent, target) = at;
        let mut labels = Pairs::new();
        let families = match hop {
            Hop::Outbound => {
                push_meta(&mut labels, "parent", parent);
                &self.outbound
            }
            Hop::Inbound => {
                authz::reference(&mut labels, "srv", parent);
                labels.push(("srv_port".into(), target.map(|a| a.port().to_string()).unwrap_or_default()));
                &self.inbound
            }
        };
        families.duration.series(&labels[..]).observe_seconds(after);
        labels.insert(0, ("result".into(), found.as_str().into()));
        families.results.series(&labels[..]).inc();
    }

    /// A meshed peer said what it wants.
    pub(crate) fn header(&self, header: &Header, client: &str) {
        let protocol = match header.session {
            Some(Session::Http1) => "http/1",
            Some(Session::Http2) => "http/2",
            None => "",
        };
        let name = header.name.as_ref().map(ToString::to_string).unwrap_or_default();
        self.headers
            .series(&[
                ("session_protocol", protocol),
                ("target_port", &header.port.to_string()),
                ("target_name", &name),
                ("client_id", client),
            ])
            .inc();
    }

    /// A connection of the application is relayed by a route. Tells its end when asked to.
    pub(crate) fn relayed(&self, plan: &Plan, route: &Meta, to: Towards<'_>) -> Relayed {
        let mut labels = Pairs::new();
        push_meta(&mut labels, "parent", &plan.parent);
        labels.push(("route_group".into(), route.group().to_owned()));
        labels.push(("route_kind".into(), route.kind().to_owned()));
        labels.push(("route_namespace".into(), route.namespace().to_owned()));
        labels.push(("route_name".into(), route.name().to_owned()));
        let families = match to {
            Towards::Address(addr) => {
                labels.push(("target_ip".into(), addr.map(|a| a.ip().to_string()).unwrap_or_default()));
                labels.push(("target_port".into(), addr.map(|a| a.port().to_string()).unwrap_or_default()));
                &self.tcp
            }
            Towards::Name(name) => {
                labels.push(("hostname".into(), name.to_owned()));
                &self.tls
            }
        };
        families.opened.series(&labels[..]).inc();
        Relayed { closed: families.closed.clone(), labels }
    }
}

/// Where a relayed connection leads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Towards<'a> {
    /// To an address, if it is known.
    Address(Option<SocketAddr>),
    /// To the name in the application's TLS.
    Name(&'a str),
}

/// A relayed connection whose end is still to be counted.
pub(crate) struct Relayed {
    closed: Family<Counter>,
    labels: Pairs,
}

impl Relayed {
    /// It ended; `why`, if the mesh ended it.
    pub(crate) fn ended(mut self, why: Option<Code>) {
        let error = match why {
            None => "",
            Some(Code::Forbidden) => "forbidden",
            Some(Code::NoBackend | Code::NoDispatcher) => "invalid_backend",
            Some(Code::InvalidPolicy) => "invalid_policy",
            Some(_) => "unexpected",
        };
        self.labels.push(("error".into(), error.into()));
        self.closed.series(&self.labels[..]).inc();
    }
}
