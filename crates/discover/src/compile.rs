//! Turns what the control plane says about a destination into a plan (§3.2).
//!
//! Called by `destination` for each new answer. A backend that an earlier plan already had is taken
//! over with its endpoints and connections. Never asks the control plane anything: endpoints are fed by
//! the `Feed` it was given.

use crate::balancers::Balancers;
use crate::plan::{
    Backend, Backends, Choice, Meshed, Plan, Protocol, Rule, RuleBackend, Table, TcpRefusal, TcpRule,
    Upstream,
};
use std::any::Any;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use weft_balance::backend::{Change, Params};
use weft_connect::transport::endpoint_labels;
use weft_connect::{Context, Endpoint, ReadyWhen};
use weft_decide::matching::{CompiledCondition, Matcher};
use weft_decide::permission::{List, Permission};
use weft_model::address::{Addr, NameAddr};
use weft_model::destination::EndpointInfo;
use weft_model::meta::{Meta, Resource};
use weft_model::policy::{
    FailureAccrual, HttpRoutes, InboundPolicy, InboundProtocol, InboundRoutes, OutboundPolicy,
    OutboundProtocol, TcpRoute,
};
use weft_model::profile::Profile;
use weft_model::reason::Hop;
use weft_model::route::{
    Backend as PolicyBackend, Dispatch, Distribution, Filter, LoadParams, Queue, Route, RouteBackend,
};
use weft_route::limit::Limiter;
use weft_route::metrics::{Metrics, Pairs, push_meta};
use weft_route::requested::Limits;
use weft_route::retry::{Budget, Retry};

/// Starts feeding a backend with the endpoints of a name, until what it returns is dropped.
pub type Feed = Arc<dyn Fn(&NameAddr, Backend) -> Box<dyn Any + Send + Sync> + Send + Sync>;

/// Compiles plans of one direction.
pub struct Compiler {
    connect: Arc<Context>,
    connect_bytes: Arc<Context>,
    metrics: Metrics,
    queue: Queue,
    feed: Feed,
    /// Longest look at a connection's first bytes, where the policy does not say.
    detect_timeout: Duration,
    /// The backends in use.
    live: Mutex<Lives>,
    /// Where those that balance over a name are shown.
    balancers: Option<Balancers>,
}

/// What makes two backends the same, in words.
struct Key(String);

/// The backends in use, by what makes them the same.
struct Lives {
    /// Their keys' two hashes, under keys of the process's own: the words are longer than all else that is kept here,
    /// and nobody can bring about that two differ and 128 unknown bits agree.
    backends: HashMap<[u64; 2], Weak<Live>>,
    hashers: [RandomState; 2],
    /// How many there may be before those no longer in use are looked for. Twice as many as the last time, so that
    /// many destinations do not cost a look at all of them each.
    crowd: usize,
}

impl Default for Lives {
    fn default() -> Self {
        Self { backends: HashMap::new(), hashers: [RandomState::new(), RandomState::new()], crowd: CROWD }
    }
}

/// Below so many backends nobody looks for unused ones.
const CROWD: usize = 64;

impl Lives {
    fn key(&self, key: &Key) -> [u64; 2] {
        self.hashers.each_ref().map(|hasher| hasher.hash_one(&key.0))
    }

    fn insert(&mut self, key: [u64; 2], live: &Arc<Live>) {
        if self.backends.len() >= self.crowd {
            self.backends.retain(|_, weak| weak.strong_count() > 0);
            self.backends.shrink_to_fit();
            self.crowd = CROWD.max(2 * self.backends.len());
        }
        self.backends.insert(key, Arc::downgrade(live));
    }
}

/// How a backend behaves, apart from where it leads.
#[derive(Clone, Copy, Debug)]
struct Nature {
    queue: Queue,
    breaker: Option<FailureAccrual>,
    min_ready: u32,
    carries: Carries,
}

/// A backend in use and what feeds it.
struct Live {
    backend: Backend,
    _source: Box<dyn Any + Send + Sync>,
}

/// What the rules of one route table have in common.
struct Common<'a> {
    parent: &'a Meta,
    breaker: Option<FailureAccrual>,
    min_ready: u32,
    carries: Carries,
}

/// What a backend's endpoints are for. Servers of bytes may resent connections that are made to prove
/// readiness and never used, so theirs count as ready until an attempt fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carries {
    Http,
    Bytes,
    /// Bytes that are told apart by the server's name in TLS.
    Tls,
}

impl Compiler {
    /// A compiler whose backends connect in `connect`, queue as `queue` says and are fed by `feed`.
    pub fn new(
        connect: Arc<Context>,
        metrics: Metrics,
        queue: Queue,
        detect_timeout: Duration,
        feed: Feed,
    ) -> Self {
        let lazily = match connect.ready_when {
            ReadyWhen::Proven => ReadyWhen::NotFailing,
            other => other,
        };
        let connect_bytes = Arc::new(Context { ready_when: lazily, ..(*connect).clone() });
        Self {
            connect,
            connect_bytes,
            metrics,
            queue,
            feed,
            detect_timeout,
            live: Mutex::default(),
            balancers: None,
        }
    }

    /// Shows backends that balance over a name in the peer's families.
    #[must_use]
    pub fn shown_in(mut self, balancers: Balancers) -> Self {
        self.balancers = Some(balancers);
        self
    }

    /// The plan of an outbound destination. `policy: None`: the control plane has none for it.
    pub fn outbound(&self, addr: &Addr, profile: Option<&Profile>, policy: Option<&OutboundPolicy>) -> Plan {
        let mut plan = match policy {
            Some(policy) => self.of_policy(addr, policy, profile),
            None => self.synthesized(addr, profile),
        };
        if let Some(profile) = profile {
            self.overlay(&mut plan, profile);
        }
        plan
    }

    /// The plan of an inbound port whose application listens at `app`. What the rate limit of `previous` has counted
    /// stays, unless the limit itself is another one.
    pub fn inbound(
        &self,
        app: std::net::SocketAddr,
        port: u16,
        policy: &InboundPolicy,
        previous: Option<&Arc<Limiter>>,
    ) -> Plan {
        let parent = with_port(&policy.meta, port);
        let server = Arc::new(List::new(&policy.authorizations));
        let nothing = InboundRoutes::default();
        let (protocol, routes) = match &policy.protocol {
            InboundProtocol::Detect { timeout, http } => (Protocol::Detect(*timeout), http),
            InboundProtocol::Http1(http) => (Protocol::Http1, http),
            InboundProtocol::Http2(http) | InboundProtocol::Grpc(http) => (Protocol::Http2, http),
            InboundProtocol::Opaque => (Protocol::Opaque, &nothing),
            InboundProtocol::Tls => (Protocol::Tls(self.detect_timeout), &nothing),
        };
        let table = match protocol {
            Protocol::Opaque | Protocol::Tls(_) => Arc::new(Table::empty()),
            _ => Arc::new(self.inbound_table(app, &parent, routes, &server)),
        };
        let limit = routes.rate_limit.as_ref().map(|limit| match previous {
            Some(previous) if previous.policy() == limit => previous.clone(),
            _ => Arc::new(Limiter::new(limit.clone(), Instant::now())),
        });
        // Under an HTTP policy there is no permission for bytes (§4.1).
        let bytes_allowed = matches!(protocol, Protocol::Detect(_) | Protocol::Opaque | Protocol::Tls(_));
        let permission = if bytes_allowed { Permission::of([server]) } else { Permission::default() };
        let route = Meta::default_named("default");
        let backends = Backends::First([self.application(app, &parent, &route)].into());
        Plan {
            protocol,
            http1: table.clone(),
            http2: table,
            tcp: [TcpRule { route, snis: [].into(), refusal: None, backends }].into(),
            permission: Some(permission),
            limit,
            authority: Some(app.to_string()),
            since: Instant::now(),
            parent,
        }
    }

    fn inbound_table(
        &self,
        app: std::net::SocketAddr,
        parent: &Meta,
        routes: &InboundRoutes,
        server: &Arc<List>,
    ) -> Table {
        let rule = |route: &Meta, own: &Arc<List>, filters: &[Filter]| Rule {
            route: route.clone(),
            permission: Some(Permission::of([own.clone(), server.clone()])),
            filters: filters.into(),
            backends: Backends::First([self.application(app, parent, route)].into()),
            limits: Limits::default(),
            allow_request_headers: false,
            profile_timeout: None,
            classes: [].into(),
            canonical: None,
            metrics: self.metrics.policy_route(parent, route),
        };
        if routes.routes.is_empty() {
            return Table::single(rule(&Meta::default_named("default"), &Arc::new(List::new(&[])), &[]));
        }
        let rules = routes.routes.iter().map(|route| {
            let own = Arc::new(List::new(&route.authorizations));
            route.rules.iter().map(|r| rule(&route.meta, &own, &r.filters)).collect::<Vec<_>>()
        });
        match Matcher::new(&routes.routes) {
            Ok(matcher) => Table::routes(matcher, rules.collect()),
            Err(invalid) => {
                let filter = Filter::Invalid { message: invalid.to_string() };
                let nobody = Arc::new(List::new(&[]));
                Table::single(rule(&Meta::default_named("invalid"), &nobody, &[filter]))
            }
        }
    }

    /// The application as the one backend of an inbound rule.
    fn application(&self, app: std::net::SocketAddr, parent: &Meta, route: &Meta) -> RuleBackend {
        let key = Key(format!("application {app}"));
        let nature = Nature { queue: self.queue, breaker: None, min_ready: 0, carries: Carries::Http };
        let live = self.backend(key, (Choice::Only, LoadParams::default()), nature, |backend, _| {
            backend.apply(Change::Reset(vec![EndpointInfo::plain(app)]));
            Box::new(())
        });
        RuleBackend {
            meta: parent.clone(),
            backend: Some(live.backend.clone()),
            source: Some(live),
            filters: [].into(),
            metrics: self.metrics.backend(parent, route, parent).into(),
        }
    }

    fn of_policy(&self, addr: &Addr, policy: &OutboundPolicy, profile: Option<&Profile>) -> Plan {
        let parent = policy.meta.clone();
        let empty = HttpRoutes::default();
        let (protocol, http1, http2, tcp): (_, _, _, &[TcpRoute]) = match &policy.protocol {
            // The timeout of the policy is obeyed; the peer parses and ignores it.
            OutboundProtocol::Detect { timeout, http1, http2, opaque } => {
                (Protocol::Detect(*timeout), http1, http2, opaque)
            }
            OutboundProtocol::Http1(http) => (Protocol::Http1, http, &empty, &[]),
            OutboundProtocol::Http2(http) | OutboundProtocol::Grpc(http) => {
                (Protocol::Http2, &empty, http, &[])
            }
            OutboundProtocol::Opaque(routes) => (Protocol::Opaque, &empty, &empty, routes),
            OutboundProtocol::Tls(routes) => (Protocol::Tls(self.detect_timeout), &empty, &empty, routes),
        };
        let carries = match protocol {
            Protocol::Tls(_) => Carries::Tls,
            Protocol::Opaque => Carries::Bytes,
            _ if profile.is_some_and(|p| p.opaque) => Carries::Bytes,
            // Apart from those of requests, which have breakers, and in series of their own.
            _ if http1.breaker.is_some() || http2.breaker.is_some() => Carries::Bytes,
            _ => Carries::Http,
        };
        let first = Arc::new(self.table(&parent, http1));
        let second = if Arc::ptr_eq(&http1.routes, &http2.routes)
            && (http1.breaker, http1.min_ready) == (http2.breaker, http2.min_ready)
        {
            first.clone()
        } else {
            Arc::new(self.table(&parent, http2))
        };
        Plan {
            protocol,
            http1: first,
            http2: second,
            tcp: tcp.iter().map(|route| self.tcp_rule(&parent, route, carries)).collect(),
            permission: None,
            limit: None,
            authority: Some(addr.to_string()),
            since: Instant::now(),
            parent,
        }
    }

    /// A plan where the control plane has no policy: the profile's service or endpoint, else the original
    /// address in plaintext.
    fn synthesized(&self, addr: &Addr, profile: Option<&Profile>) -> Plan {
        let (name, dispatch) = match (profile, addr) {
            (Some(Profile { logical: Some(logical), .. }), _) => ("endpoint", balance(logical.clone())),
            (Some(Profile { endpoint: Some(endpoint), .. }), _) => {
                ("endpoint", Dispatch::Forward(endpoint.clone().into()))
            }
            (Some(_), Addr::Socket(socket)) => ("endpoint", forward(*socket)),
            (None, Addr::Socket(socket)) => ("fallback", forward(*socket)),
            (_, Addr::Name(name)) => ("fallback", balance(name.clone())),
        };
        let parent = Meta::default_named(name);
        let rule = self.rule_to(&parent, &dispatch);
        let table = Arc::new(Table::single(rule));
        Plan {
            protocol: Protocol::Detect(self.detect_timeout),
            http1: table.clone(),
            http2: table,
            tcp: [TcpRule {
                route: parent.clone(),
                snis: [].into(),
                refusal: None,
                backends: Backends::First([self.dispatch(&parent, &parent, &dispatch)].into()),
            }]
            .into(),
            permission: None,
            limit: None,
            authority: Some(addr.to_string()),
            since: Instant::now(),
            parent,
        }
    }

    /// What a profile changes about a plan: opaque wins over any policy; routes and overrides replace the
    /// whole HTTP policy, overrides the opaque one.
    fn overlay(&self, plan: &mut Plan, profile: &Profile) {
        if let Some(logical) = &profile.logical {
            if !profile.routes.is_empty() || !profile.overrides.is_empty() {
                let table = Arc::new(self.profile_table(&plan.parent, logical, profile));
                plan.http1 = table.clone();
                plan.http2 = table;
                plan.authority = Some(logical.to_string());
            }
            if !profile.overrides.is_empty() || (profile.opaque && plan.tcp.is_empty()) {
                let route = Meta::default_named("profile");
                let backends = self.profile_backends(&plan.parent, &route, logical, profile);
                plan.tcp = [TcpRule { route, snis: [].into(), refusal: None, backends }].into();
            }
        }
        if profile.opaque {
            plan.protocol = Protocol::Opaque;
        }
    }

    fn profile_table(&self, parent: &Meta, logical: &NameAddr, profile: &Profile) -> Table {
        let budget = profile.retry_budget.as_ref().map(|b| Arc::new(Budget::new(b, Instant::now())));
        let dst = logical.to_string();
        let rule = |labels: &[(String, String)]| {
            let route = Meta::default_named("profile");
            Rule {
                permission: None,
                filters: [].into(),
                backends: self.profile_backends(parent, &route, logical, profile),
                limits: Limits::default(),
                allow_request_headers: false,
                profile_timeout: None,
                classes: [].into(),
                canonical: dst.parse().ok(),
                metrics: self.metrics.profile_route(&dst, labels),
                route,
            }
        };
        let routes = profile.routes.iter().filter_map(|route| {
            let condition = CompiledCondition::new(&route.condition).ok()?;
            let labels: Pairs = route.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            let mut rule = rule(&labels);
            rule.classes = route.classes.clone().into();
            rule.profile_timeout = route.timeout;
            rule.limits.retry = budget.clone().filter(|_| route.retryable).map(Retry::Profile);
            Some((condition, rule))
        });
        Table::profile(routes.collect(), rule(&[]))
    }

    fn profile_backends(
        &self,
        parent: &Meta,
        route: &Meta,
        logical: &NameAddr,
        profile: &Profile,
    ) -> Backends {
        let to = |dst: &NameAddr| {
            let mut backend = self.dispatch(parent, route, &balance(dst.clone()));
            backend.meta = service_meta(dst);
            backend
        };
        match profile.overrides.as_slice() {
            [] => Backends::First([to(logical)].into()),
            overrides => Backends::Random(overrides.iter().map(|o| (to(&o.addr), o.weight)).collect()),
        }
    }

    fn table(&self, parent: &Meta, http: &HttpRoutes) -> Table {
        let common =
            Common { parent, breaker: http.breaker, min_ready: http.min_ready, carries: Carries::Http };
        let rules =
            |route: &Route| route.rules.iter().map(|r| self.rule(&common, route, r)).collect::<Vec<_>>();
        match Matcher::new(&http.routes) {
            Ok(matcher) => Table::routes(matcher, http.routes.iter().map(rules).collect()),
            Err(invalid) => {
                let mut rule = self.rule_to(parent, &Dispatch::Missing);
                rule.filters = [Filter::Invalid { message: invalid.to_string() }].into();
                Table::single(rule)
            }
        }
    }

    fn rule(&self, common: &Common<'_>, route: &Route, rule: &weft_model::route::Rule) -> Rule {
        Rule {
            route: route.meta.clone(),
            permission: None,
            filters: rule.filters.clone().into(),
            backends: self.backends(common, &route.meta, &rule.backends),
            limits: Limits { timeouts: rule.timeouts, retry: rule.retry.clone().map(Retry::Policy) },
            allow_request_headers: rule.allow_request_headers,
            profile_timeout: None,
            classes: [].into(),
            canonical: None,
            metrics: self.metrics.policy_route(common.parent, &route.meta),
        }
    }

    /// A rule that leads to one place.
    fn rule_to(&self, parent: &Meta, dispatch: &Dispatch) -> Rule {
        Rule {
            route: parent.clone(),
            permission: None,
            filters: [].into(),
            backends: Backends::First([self.dispatch(parent, parent, dispatch)].into()),
            limits: Limits::default(),
            allow_request_headers: false,
            profile_timeout: None,
            classes: [].into(),
            canonical: None,
            metrics: self.metrics.policy_route(parent, parent),
        }
    }

    fn tcp_rule(&self, parent: &Meta, route: &TcpRoute, carries: Carries) -> TcpRule {
        let refusal = route.filters.first().map(|filter| match filter {
            Filter::Forbidden => TcpRefusal::Forbidden,
            Filter::Invalid { message } => TcpRefusal::Invalid(message.clone()),
            _ => TcpRefusal::Invalid("the filter does not apply to bytes".into()),
        });
        let common = Common { parent, breaker: None, min_ready: 0, carries };
        TcpRule {
            route: route.meta.clone(),
            snis: route.snis.clone().into(),
            refusal,
            backends: self.backends(&common, &route.meta, &route.backends),
        }
    }

    fn backends(&self, common: &Common<'_>, route: &Meta, distribution: &Distribution) -> Backends {
        match distribution {
            Distribution::Empty | Distribution::Application => Backends::First([].into()),
            Distribution::FirstAvailable(list) => {
                Backends::First(list.iter().map(|b| self.rule_backend(common, route, b)).collect())
            }
            Distribution::RandomAvailable(list) => Backends::Random(
                list.iter().map(|(b, w)| (self.rule_backend(common, route, b), *w)).collect(),
            ),
        }
    }

    fn rule_backend(&self, common: &Common<'_>, route: &Meta, backend: &RouteBackend) -> RuleBackend {
        let nature = Nature {
            queue: backend.backend.queue,
            breaker: common.breaker,
            min_ready: common.min_ready,
            carries: common.carries,
        };
        let live = self.live(&backend.backend.dispatch, nature);
        self.show(common.parent, &backend.backend, (live.as_ref(), nature));
        RuleBackend {
            meta: backend.backend.meta.clone(),
            backend: live.as_ref().map(|l| l.backend.clone()),
            source: live.map(|l| l as Arc<dyn Any + Send + Sync>),
            filters: backend.filters.clone().into(),
            metrics: self.metrics.backend(common.parent, route, &backend.backend.meta).into(),
        }
    }

    fn dispatch(&self, parent: &Meta, route: &Meta, dispatch: &Dispatch) -> RuleBackend {
        let nature = Nature { queue: self.queue, breaker: None, min_ready: 0, carries: Carries::Http };
        let live = self.live(dispatch, nature);
        if let Dispatch::Balance { dst, .. } = dispatch {
            self.show_name(parent, (dst, &service_meta(dst)), (live.as_ref(), nature));
        }
        RuleBackend {
            meta: parent.clone(),
            backend: live.as_ref().map(|l| l.backend.clone()),
            source: live.map(|l| l as Arc<dyn Any + Send + Sync>),
            filters: [].into(),
            metrics: self.metrics.backend(parent, route, parent).into(),
        }
    }

    /// Shows a policy's backend, if it balances over a name.
    fn show(&self, parent: &Meta, backend: &PolicyBackend, of: (Option<&Arc<Live>>, Nature)) {
        if let Dispatch::Balance { dst, .. } = &backend.dispatch {
            self.show_name(parent, (dst, &backend.meta), of);
        }
    }

    /// One row for each parent under which a backend is used, so that a query for a parent finds it.
    fn show_name(
        &self,
        parent: &Meta,
        (dst, backend): (&NameAddr, &Meta),
        (live, nature): (Option<&Arc<Live>>, Nature),
    ) {
        let (Some(balancers), Some(live)) = (&self.balancers, live) else { return };
        let mut labels = Pairs::new();
        if nature.carries != Carries::Tls {
            push_meta(&mut labels, "parent", parent);
            push_meta(&mut labels, "backend", backend);
        }
        let prefix = match nature.carries {
            Carries::Http => "outbound_http_balancer",
            Carries::Bytes => {
                labels.push(("logical".into(), dst.to_string()));
                labels.push(("concrete".into(), dst.to_string()));
                "outbound_tcp_balancer"
            }
            Carries::Tls => {
                labels.push(("concrete".into(), dst.to_string()));
                "outbound_tls_balancer"
            }
        };
        balancers.show(prefix, &labels, (live.backend.metrics(), nature.queue.failfast));
    }

    /// The backend a dispatch leads to, the one already in use if there is one.
    fn live(&self, dispatch: &Dispatch, nature: Nature) -> Option<Arc<Live>> {
        match dispatch {
            Dispatch::Missing => None,
            Dispatch::Forward(info) => {
                let key = Key(format!("forward {info:?} {nature:?}"));
                let info = (**info).clone();
                Some(self.backend(key, (Choice::Only, LoadParams::default()), nature, |backend, _| {
                    backend.apply(Change::Reset(vec![info]));
                    Box::new(())
                }))
            }
            Dispatch::Balance { dst, load } => {
                let key = Key(format!("{dst} {load:?} {nature:?}"));
                let of = (Choice::Balanced, *load);
                Some(self.backend(key, of, nature, |backend, feed| feed(dst, backend)))
            }
        }
    }

    fn backend(
        &self,
        key: Key,
        (choice, load): (Choice, LoadParams),
        nature: Nature,
        start: impl FnOnce(Backend, &Feed) -> Box<dyn Any + Send + Sync>,
    ) -> Arc<Live> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let key = live.key(&key);
        if let Some(found) = live.backends.get(&key).and_then(Weak::upgrade) {
            return found;
        }
        let params = Params {
            queue: nature.queue,
            load,
            breaker: nature.breaker,
            min_ready: nature.min_ready as usize,
            ..Params::default()
        };
        let connect = match nature.carries {
            Carries::Http => self.connect.clone(),
            Carries::Bytes | Carries::Tls => self.connect_bytes.clone(),
        };
        let metrics = self.metrics.clone();
        let backend = Backend::new(params, move |info, readiness| {
            let info = connect.localize(info);
            let labels = || endpoint_labels(&info, connect.no_tls(&info));
            Upstream {
                metrics: (metrics.direction() == Hop::Outbound).then(|| metrics.endpoint(labels())),
                meshed: if info.tls.is_some() { Meshed::Yes } else { Meshed::No },
                choice,
                endpoint: Endpoint::new(info, connect.clone(), readiness),
            }
        });
        let source = start(backend.clone(), &self.feed);
        let made = Arc::new(Live { backend, _source: source });
        live.insert(key, &made);
        made
    }
}

fn balance(dst: NameAddr) -> Dispatch {
    Dispatch::Balance { dst, load: LoadParams::default() }
}

fn forward(addr: std::net::SocketAddr) -> Dispatch {
    Dispatch::Forward(Box::new(EndpointInfo::plain(addr)))
}

/// A service's reference as its name tells it: `NAME.NS.svc…`, else unknown.
fn service_meta(dst: &NameAddr) -> Meta {
    let mut labels = dst.name.as_str().split('.');
    match (labels.next(), labels.next(), labels.next()) {
        (Some(name), Some(namespace), Some("svc")) => Meta::Resource(Arc::new(Resource {
            group: "core".into(),
            kind: "Service".into(),
            namespace: namespace.into(),
            name: name.into(),
            section: String::new(),
            port: Some(dst.port.get()),
        })),
        _ => Meta::default_named("unknown"),
    }
}

/// A server's reference with the port that it governs here.
fn with_port(meta: &Meta, port: u16) -> Meta {
    match meta {
        Meta::Default(_) => meta.clone(),
        Meta::Resource(r) => Meta::Resource(Arc::new(Resource { port: Some(port), ..(**r).clone() })),
    }
}
