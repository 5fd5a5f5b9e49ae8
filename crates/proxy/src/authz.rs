//! Counts who was admitted and who was denied, under the peer's names (§5.1).
//!
//! `forward` and `opaque` call it after `decide::authorize` has spoken. Label sets are bounded by the
//! policy's own resources and by the family's bound on series.

use crate::client::Client;
use crate::target::Aim;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use weft_discover::plan::{Plan, Rule};
use weft_model::address::Addr;
use weft_model::identity::Peer;
use weft_model::meta::Meta;
use weft_model::policy::Authorization;
use weft_model::reason::Hop;
use weft_route::limit::Scope;
use weft_route::metrics::{Exchange, Metrics};
use weft_telemetry::{Counter, Family, Registry};

type Pairs = Vec<(String, String)>;

/// A decision's client and the address it wanted.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) client: &'a Client,
    pub(crate) target: Option<SocketAddr>,
    pub(crate) last: &'a LastAllowed,
}

/// The labels of a decision. One about a connection has no route, a denial no authorization.
const DECISION_KEYS: &[&str] = &[
    "target_addr",
    "target_ip",
    "target_port",
    "srv_group",
    "srv_kind",
    "srv_name",
    "srv_port",
    "route_group",
    "route_kind",
    "route_name",
    "authz_group",
    "authz_kind",
    "authz_name",
    "tls",
    "no_tls_reason",
    "client_id",
    "sni",
];

/// The labels of a request above a rate limit.
const LIMITED_KEYS: &[&str] = &[
    "target_addr",
    "target_ip",
    "target_port",
    "srv_group",
    "srv_kind",
    "srv_name",
    "srv_port",
    "ratelimit_group",
    "ratelimit_kind",
    "ratelimit_name",
    "ratelimit_scope",
    "tls",
    "no_tls_reason",
    "client_id",
    "sni",
];

/// The families of authorization.
pub(crate) struct Authz {
    http_allow: Family<Counter>,
    http_deny: Family<Counter>,
    http_not_found: Family<Counter>,
    tcp_allow: Family<Counter>,
    tcp_deny: Family<Counter>,
    tcp_terminate: Family<Counter>,
    rate_limited: Family<Counter>,
    exchanges: Metrics,
}

/// What became of a TCP connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Admission<'a> {
    /// Admitted by this authorization.
    Allowed(&'a Authorization),
    /// Refused from the start.
    Denied,
    /// Cut by a change of policy.
    Terminated,
}

impl Authz {
    /// Registers the families.
    pub(crate) fn new(registry: &Registry) -> Self {
        let family =
            |name: &str| registry.counters(name, "Decisions of inbound authorization.").labels(DECISION_KEYS);
        Self {
            http_allow: family("inbound_http_authz_allow_total"),
            http_deny: family("inbound_http_authz_deny_total"),
            http_not_found: registry
                .counters("inbound_http_route_not_found_total", "Inbound requests that no route matched.")
                .labels(DECISION_KEYS),
            tcp_allow: family("inbound_tcp_authz_allow_total"),
            tcp_deny: family("inbound_tcp_authz_deny_total"),
            tcp_terminate: family("inbound_tcp_authz_terminate_total"),
            rate_limited: registry
                .counters("inbound_http_local_ratelimit_total", "Inbound requests above a local rate limit.")
                .labels(LIMITED_KEYS),
            exchanges: Metrics::new(registry, Hop::Inbound),
        }
    }

    /// A request was admitted. Gives the series of its exchange with the application.
    pub(crate) fn http_allowed(
        &self,
        asked: Asked<'_>,
        plan: &Plan,
        rule: &Rule,
        by: &Authorization,
    ) -> Arc<Exchange> {
        let exchange = asked.last.inc([&plan.parent, &rule.route, &by.meta], || {
            let mut labels = server(asked.target, plan);
            reference(&mut labels, "route", &rule.route);
            reference(&mut labels, "authz", &by.meta);
            tls(&mut labels, &asked.client.peer);
            let counter = self.http_allow.series(&labels[..]);
            (counter, Arc::new(self.exchanges.endpoint(labels)))
        });
        if by.meta == Meta::default_named("audit") {
            tracing::info!(client = %asked.client.addr, peer = asked.client.who(), server = plan.parent.name(), "audited request");
        }
        exchange
    }

    /// A request was denied.
    pub(crate) fn http_denied(&self, asked: Asked<'_>, plan: &Plan, rule: &Rule) {
        let mut labels = server(asked.target, plan);
        reference(&mut labels, "route", &rule.route);
        tls(&mut labels, &asked.client.peer);
        self.http_deny.series(&labels[..]).inc();
    }

    /// No route of the port matched a request.
    pub(crate) fn http_not_found(&self, asked: Asked<'_>, plan: &Plan) {
        let mut labels = server(asked.target, plan);
        tls(&mut labels, &asked.client.peer);
        self.http_not_found.series(&labels[..]).inc();
    }

    /// A request was above a rate limit of this scope.
    pub(crate) fn rate_limited(&self, asked: Asked<'_>, plan: &Plan, (of, scope): (&Meta, Scope)) {
        let mut labels = server(asked.target, plan);
        reference(&mut labels, "ratelimit", of);
        labels.push(("ratelimit_scope".into(), scope.as_str().into()));
        tls(&mut labels, &asked.client.peer);
        self.rate_limited.series(&labels[..]).inc();
    }

    /// A connection was admitted, denied or cut.
    pub(crate) fn tcp(&self, asked: Asked<'_>, plan: &Plan, what: Admission<'_>) {
        let mut labels = server(asked.target, plan);
        let family = match what {
            Admission::Allowed(by) => {
                reference(&mut labels, "authz", &by.meta);
                &self.tcp_allow
            }
            Admission::Denied => &self.tcp_deny,
            Admission::Terminated => &self.tcp_terminate,
        };
        tls(&mut labels, &asked.client.peer);
        family.series(&labels[..]).inc();
    }
}

/// The series that a connection's last admitted request used: requests of one connection mostly meet the
/// same rule and authorization, and resolving the labels costs more than the request's own decision.
#[derive(Default)]
pub(crate) struct LastAllowed(Mutex<Option<Last>>);

/// Which server, route and authorization the series are for. Comparing costs little where they are the very same
/// ones; by their places in memory alone they could not be told from what a later plan has put there.
struct Last {
    key: [Meta; 3],
    admitted: Counter,
    exchange: Arc<Exchange>,
}

impl LastAllowed {
    fn inc(&self, key: [&Meta; 3], resolve: impl FnOnce() -> (Counter, Arc<Exchange>)) -> Arc<Exchange> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.as_ref().filter(|last| last.key.each_ref() == key) {
            last.admitted.inc();
            return last.exchange.clone();
        }
        let (admitted, exchange) = resolve();
        admitted.inc();
        *last = Some(Last { key: key.map(Meta::clone), admitted, exchange: exchange.clone() });
        exchange
    }
}

fn server(to: Option<SocketAddr>, plan: &Plan) -> Pairs {
    let mut labels = target(to);
    reference(&mut labels, "srv", &plan.parent);
    labels.push(("srv_port".into(), to.map(|a| a.port().to_string()).unwrap_or_default()));
    labels
}

/// What tells an accepted connection apart (§5.1): where it leads, how it is secured, and inbound the server that
/// governs the port.
pub(crate) fn accepted(client: &Client, aim: &Aim) -> Pairs {
    let plan = match aim {
        Aim::One(held) if client.hop == Hop::Inbound => held.plan_now(),
        Aim::Gateway(gateway) => gateway.door.plan_now(),
        _ => None,
    };
    let mut labels = match (&plan, aim) {
        (Some(plan), _) => server(aim.addr(), plan),
        (None, Aim::One(held) | Aim::Ingress(_, held)) => target_of(held.addr()),
        (None, Aim::Gateway(gateway)) => target_of(gateway.door.addr()),
        // Each of its requests leads somewhere else.
        (None, Aim::Each(_)) => Pairs::new(),
    };
    tls(&mut labels, &client.peer);
    labels
}

fn target_of(addr: &Addr) -> Pairs {
    match addr {
        Addr::Socket(socket) => target(Some(*socket)),
        Addr::Name(name) => vec![
            ("target_addr".into(), name.to_string()),
            ("target_ip".into(), String::new()),
            ("target_port".into(), name.port.to_string()),
        ],
    }
}

/// `target_addr`, `target_ip`, `target_port`.
pub(crate) fn target(to: Option<SocketAddr>) -> Pairs {
    let Some(addr) = to else { return Vec::new() };
    vec![
        ("target_addr".into(), addr.to_string()),
        ("target_ip".into(), addr.ip().to_string()),
        ("target_port".into(), addr.port().to_string()),
    ]
}

/// `PREFIX_group`, `_kind`, `_name`.
pub(crate) fn reference(labels: &mut Pairs, prefix: &str, meta: &Meta) {
    for (key, value) in [("group", meta.group()), ("kind", meta.kind()), ("name", meta.name())] {
        labels.push((format!("{prefix}_{key}"), value.to_owned()));
    }
}

/// The labels of a server's side of TLS.
pub(crate) fn tls(labels: &mut Pairs, peer: &Peer) {
    let mut push = |key: &str, value: String| labels.push((key.into(), value));
    match peer {
        Peer::Tls(id) => {
            push("tls", "true".into());
            push("client_id", id.as_ref().map(|id| id.to_string()).unwrap_or_default());
        }
        Peer::Passthrough(sni) => {
            push("tls", "opaque".into());
            push("sni", sni.as_ref().map(|s| s.to_string()).unwrap_or_default());
        }
        Peer::Plain(why) => {
            push("tls", "no_identity".into());
            push("no_tls_reason", why.as_str().into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn what_is_counted_follows_what_things_are_called_and_not_where_they_lie() {
        let registry = Registry::new();
        let (family, metrics) = (registry.counters("x_total", "x"), Metrics::new(&registry, Hop::Inbound));
        let (last, resolved) = (LastAllowed::default(), Cell::new(0));
        let count = |names: [&str; 3]| {
            let [server, route, authz] = names.map(Meta::default_named);
            last.inc([&server, &route, &authz], || {
                resolved.set(resolved.get() + 1);
                let labels: Pairs = names.iter().map(|n| (format!("dst_{n}"), (*n).to_owned())).collect();
                (family.series(&labels[..]), Arc::new(metrics.endpoint(labels)))
            });
            resolved.get()
        };
        // Each of these may lie where the one before lay.
        assert_eq!([count(["s", "r", "a"]), count(["s", "r", "a"])], [1, 1]);
        assert_eq!([count(["s", "r", "b"]), count(["s", "q", "b"]), count(["t", "q", "b"])], [2, 3, 4]);
    }
}
