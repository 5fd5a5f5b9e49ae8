//! Why a request would go where it goes: one decision, step by step, from what the index holds.
//!
//! The `why` command and the control plane's admin listener ask. The route, the filters and the authorization are found by the
//! same functions of `decide` that the proxy calls, on the same policies that it is told, so both always agree; what only a
//! running proxy knows (readiness, load, breakers) is not looked at.

mod inbound;

use crate::describe;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};
use weft_decide::explain::near_miss;
use weft_decide::filter::{self, Outcome};
use weft_decide::matching::{CompiledCondition, Matcher, RequestView, form_decode};
use weft_index::Index;
use weft_index::answer::{Answer, ProfileTarget, Refusal, RefusalKind, ViewKey};
use weft_index::ask::{OutboundTarget, Question};
use weft_model::destination::EndpointInfo;
use weft_model::identity::{Id, NoTls, Peer};
use weft_model::name::DnsName;
use weft_model::object::{Key, Kind};
use weft_model::policy::{HttpRoutes, OutboundPolicy, OutboundProtocol, TcpRoute};
use weft_model::profile::Profile;
use weft_model::reason::Code;
use weft_model::route::{Backend, Dispatch, Distribution, Filter, InjectedAnswer, RouteBackend};
use weft_model::service::ServiceName;
use weft_model::workload::Asker;

/// A request that somebody might make.
#[derive(Clone, Debug, PartialEq)]
pub struct Hypothesis {
    /// The namespace of the caller.
    pub namespace: String,
    /// What the caller proves; `None`: it is not meshed.
    pub identity: Option<Id>,
    /// Its address; `None`: that of a workload with this identity, else one of the cluster.
    pub address: Option<IpAddr>,
    /// Where to: `name.namespace[:port]`, a longer name of a service, or `IP:port`.
    pub to: String,
    /// The method.
    pub method: Method,
    /// The path with its query, or a whole URI.
    pub uri: Uri,
    /// The headers.
    pub headers: HeaderMap,
}

/// Longest query that is read, bytes.
pub const QUERY_LIMIT: usize = 16 << 10;

impl Hypothesis {
    /// Reads the query of a URL: `namespace`, `to`, and where they are given `identity`, `address`, `method`, `uri`, and any
    /// number of `header`s as `name: value`.
    ///
    /// # Errors
    /// In words: what is missing or cannot be read.
    pub fn from_query(query: &str) -> Result<Self, String> {
        let (mut namespace, mut to, mut headers) = (None, None, HeaderMap::new());
        let (mut identity, mut address, mut method, mut uri) =
            (None, None, Method::GET, Uri::from_static("/"));
        if query.len() > QUERY_LIMIT {
            return Err(format!("the query is longer than {QUERY_LIMIT} bytes"));
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = form_decode(value);
            let wrong = || format!("{key}: `{value}` cannot be read");
            match key {
                "namespace" => namespace = Some(value),
                "to" => to = Some(value),
                "identity" => identity = Some(value.parse().map_err(|_| wrong())?),
                "address" => address = Some(value.parse().map_err(|_| wrong())?),
                "method" => method = value.parse().map_err(|_| wrong())?,
                "uri" => uri = value.parse().map_err(|_| wrong())?,
                "header" => {
                    let (name, value) = header(&value).ok_or_else(wrong)?;
                    headers.append(name, value);
                }
                _ => return Err(format!("`{key}` is not known")),
            }
        }
        let missing = |what: &str| format!("`{what}` is missing");
        let namespace = namespace.ok_or_else(|| missing("namespace"))?;
        let to = to.ok_or_else(|| missing("to"))?;
        Ok(Self { namespace, identity, address, to, method, uri, headers })
    }

    /// The query that [`Hypothesis::from_query`] reads back.
    pub fn to_query(&self) -> String {
        let mut query = String::new();
        let mut pair = |key: &str, value: &str| {
            if !query.is_empty() {
                query.push('&');
            }
            query.push_str(key);
            query.push('=');
            for byte in value.bytes() {
                match byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
                    true => query.push(char::from(byte)),
                    false => query.push_str(&format!("%{byte:02X}")),
                }
            }
        };
        pair("namespace", &self.namespace);
        pair("to", &self.to);
        if let Some(identity) = &self.identity {
            pair("identity", identity.as_str());
        }
        if let Some(address) = &self.address {
            pair("address", &address.to_string());
        }
        pair("method", self.method.as_str());
        pair("uri", &self.uri.to_string());
        for (name, value) in &self.headers {
            pair("header", &format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())));
        }
        query
    }
}

/// Reads `name: value`.
pub fn header(text: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':')?;
    Some((name.trim().parse().ok()?, value.trim().parse().ok()?))
}

/// One step of a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What is decided: `destination`, `policy`, `route`, `filter`, `backend`, `endpoint`, `server`, `authorization`, `limit`.
    pub about: &'static str,
    /// How, and why.
    pub text: String,
}

/// A decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    /// The steps in their order.
    pub steps: Vec<Step>,
    /// What comes of it, in a sentence.
    pub outcome: String,
    /// The code of the reason with which the mesh itself would answer, if it would.
    pub reason: Option<&'static str>,
}

/// A decision in the making. A step that ends it gives its `End`.
pub(crate) struct Telling<'a> {
    pub(crate) index: &'a Index,
    pub(crate) steps: Vec<Step>,
    pub(crate) client: IpAddr,
    pub(crate) peer: Peer,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    asker: Asker,
}

/// What ends a decision early.
pub(crate) struct End {
    pub(crate) outcome: String,
    pub(crate) reason: Option<&'static str>,
}

impl End {
    /// The mesh itself answers.
    pub(crate) fn refused(code: Code) -> Self {
        let entry = code.entry();
        let outcome = format!("{} ({}): {}", entry.status, code.as_str(), entry.cause);
        Self { outcome, reason: Some(code.as_str()) }
    }

    fn answered(outcome: String) -> Self {
        Self { outcome, reason: None }
    }
}

/// What would become of a request.
///
/// # Errors
/// The destination is not something that can be asked for.
pub fn why(index: &Index, of: &Hypothesis) -> Result<Told, Refusal> {
    let target = target(&of.to)?;
    let mut telling = telling(index, of)?;
    let view = index.view(&Question::Outbound { target: target.clone(), asker: telling.asker.clone() })?;
    let ended = match index.resolve(&view) {
        Answer::Outbound(policy) => telling.outbound(&policy, &view),
        Answer::Refused(refusal) if refusal.kind == RefusalKind::NotFound => {
            telling.unowned(&target, refusal)
        }
        Answer::Refused(refusal) => return Err(refusal),
        _ => End::answered("nothing is known about it".into()),
    };
    Ok(Told { steps: telling.steps, outcome: ended.outcome, reason: ended.reason })
}

fn telling<'a>(index: &'a Index, of: &Hypothesis) -> Result<Telling<'a>, Refusal> {
    let own = of.identity.as_ref().and_then(|identity| index.workload_of(&of.namespace, identity));
    let asker = Asker {
        namespace: of.namespace.clone(),
        workload: own.map(|w| w.meta.name.clone()).unwrap_or_default(),
        node: String::new(),
    };
    let some = || index.config().cluster_networks.first().map(|net| net.addr());
    let assumed = own.and_then(|w| w.ips.first().copied()).or_else(some);
    let client = of.address.or(assumed).unwrap_or(IpAddr::from([10, 0, 0, 0]));
    let peer = match &of.identity {
        Some(id) => Peer::Tls(Some(id.clone())),
        None => Peer::Plain(NoTls::NotFromRemote),
    };
    let who = match &of.identity {
        Some(id) => format!("{id} at {client}"),
        None => format!("somebody without the mesh at {client}"),
    };
    let shown = if of.address.is_none() { ", an address that is assumed" } else { "" };
    let workload = own.map(|w| format!(", workload {}", w.name())).unwrap_or_default();
    let steps = vec![Step {
        about: "caller",
        text: format!("{who}{}{workload}", if own.is_some() { "" } else { shown }),
    }];
    let uri = absolute(&of.uri, &of.to).ok_or_else(|| {
        Refusal::new(RefusalKind::InvalidArgument, format!("`{}` is no path of a request", of.uri))
    })?;
    let (method, headers) = (of.method.clone(), of.headers.clone());
    Ok(Telling { index, steps, client, peer, method, uri, headers, asker })
}

/// What is meant by the place that somebody wants to reach.
fn target(to: &str) -> Result<OutboundTarget, Refusal> {
    if let Ok(addr) = to.parse::<SocketAddr>() {
        return Ok(OutboundTarget::Address(addr));
    }
    let (host, port) = to.rsplit_once(':').map_or((to, "80"), |(host, port)| (host, port));
    let authority = match host.split('.').count() {
        2 if host.parse::<DnsName>().is_ok() => format!("{host}.svc:{port}"),
        1 => {
            let problem = format!("`{to}` names no namespace; expected `name.namespace:port` or `IP:port`");
            return Err(Refusal::new(RefusalKind::InvalidArgument, problem));
        }
        _ => to.to_owned(),
    };
    Ok(OutboundTarget::Authority(authority))
}

/// The request's URI with the authority that is asked for, if it has none.
fn absolute(uri: &Uri, to: &str) -> Option<Uri> {
    if uri.authority().is_some() {
        return Some(uri.clone());
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Uri::builder().scheme("http").authority(to).path_and_query(path).build().ok()
}

impl Telling<'_> {
    pub(crate) fn tell(&mut self, about: &'static str, text: impl Into<String>) {
        self.steps.push(Step { about, text: text.into() });
    }

    pub(crate) fn request(&self) -> RequestView<'_> {
        RequestView { method: &self.method, uri: &self.uri, headers: &self.headers }
    }

    /// What a thing is called, with the place of its manifest.
    pub(crate) fn named(&self, kind: Kind, name: &ServiceName) -> String {
        let key = Key { kind, namespace: name.namespace.clone(), name: name.name.clone() };
        let place = self.index.place(&key).map(|place| format!(" ({place})")).unwrap_or_default();
        format!("{key}{place}")
    }

    /// An address that is no service's: perhaps a workload's own.
    fn unowned(&mut self, target: &OutboundTarget, refusal: Refusal) -> End {
        if let OutboundTarget::Address(addr) = target {
            let view = ViewKey::Profile {
                target: ProfileTarget::Address(*addr),
                namespace: self.asker.namespace.clone(),
            };
            if let Answer::Profile(profile) = self.index.resolve(&view)
                && let Some(endpoint) = &profile.endpoint
                && endpoint.tls.is_some()
            {
                self.tell("destination", format!("{addr} is a workload's own address; nothing is balanced"));
                return self.endpoint(endpoint);
            }
        }
        self.tell("destination", refusal.message);
        End::answered("it is forwarded to where it was going, without the mesh".into())
    }

    fn outbound(&mut self, policy: &OutboundPolicy, view: &ViewKey) -> End {
        let service = match view {
            ViewKey::OutboundService { service, .. } => Some(service.clone()),
            ViewKey::OutboundAddress { addr, .. } => self.index.service_at(addr.ip()).map(|s| s.name()),
            _ => None,
        };
        match &service {
            Some(name) if self.index.service(name).is_none() => {
                self.tell("destination", format!("Service {name} does not exist"));
                return End::refused(Code::NoSuchService);
            }
            Some(name) => {
                let port = port_of(view);
                let declared = port.parse().ok().is_some_and(|number| {
                    self.index.service(name).is_some_and(|service| service.port(number).is_some())
                });
                let remark = if declared { "" } else { ", which it does not declare" };
                let text = format!("{}, port {port}{remark}", self.named(Kind::Service, name));
                self.tell("destination", text);
                if let Some(end) = self.profiled(name, view) {
                    return end;
                }
            }
            None => self.tell("destination", describe::origin(&policy.meta)),
        }
        let speaks = describe::outbound_protocol(&policy.protocol);
        self.tell("policy", format!("{}: the port speaks {speaks}", describe::origin(&policy.meta)));
        match &policy.protocol {
            OutboundProtocol::Detect { http1: http, .. }
            | OutboundProtocol::Http1(http)
            | OutboundProtocol::Http2(http)
            | OutboundProtocol::Grpc(http) => self.routed(http),
            OutboundProtocol::Opaque(routes) => self.connected(routes.first()),
            OutboundProtocol::Tls(routes) => {
                let host = self.uri.host().unwrap_or_default().to_owned();
                let fits = |route: &&TcpRoute| {
                    route.snis.is_empty()
                        || route
                            .snis
                            .iter()
                            .any(|sni| weft_decide::matching::rank_one_host(sni, &host).is_some())
                };
                let best = routes.iter().filter(fits).max_by_key(|route| {
                    route.snis.iter().filter_map(|sni| weft_decide::matching::rank_one_host(sni, &host)).max()
                });
                self.connected(best)
            }
        }
    }

    /// A service profile with routes or a split wins over the whole policy.
    fn profiled(&mut self, service: &ServiceName, view: &ViewKey) -> Option<End> {
        let port = port_of(view).parse().ok()?;
        let target = ProfileTarget::Service { service: service.clone(), port };
        let Answer::Profile(profile) =
            self.index.resolve(&ViewKey::Profile { target, namespace: self.asker.namespace.clone() })
        else {
            return None;
        };
        if profile.routes.is_empty() && profile.overrides.is_empty() {
            return None;
        }
        let source = profile.source.as_ref().map(describe::origin).unwrap_or_default();
        self.tell("policy", format!("{source} has routes or a split, and wins over every other route"));
        self.profile_route(&profile);
        let legs: Vec<_> = match profile.overrides.as_slice() {
            [] => profile.logical.iter().map(|logical| (logical.clone(), 1)).collect(),
            legs => legs.iter().map(|leg| (leg.addr.clone(), leg.weight)).collect(),
        };
        let total: u64 = legs.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut end = End::refused(Code::NoEndpoints);
        for (addr, weight) in legs {
            let share = u64::from(weight) * 100 / total.max(1);
            self.tell("backend", format!("{addr} with {share}%"));
            end = self.balanced(&addr.to_string());
        }
        Some(end)
    }

    fn profile_route(&mut self, profile: &Profile) {
        let holds = |route: &&weft_model::profile::ProfileRoute| {
            CompiledCondition::new(&route.condition).is_ok_and(|condition| condition.holds(&self.request()))
        };
        let text = match profile.routes.iter().find(holds) {
            None => "no route of the profile matches; it is neither retried nor limited".to_owned(),
            Some(route) => {
                let name = route.labels.get("route").cloned().unwrap_or_default();
                let retried = if route.retryable { ", retried within the budget" } else { "" };
                let limit = route.timeout.map(|t| format!(", timeout {}", weft_model::duration::format(t)));
                format!("`{name}`{retried}{}", limit.unwrap_or_default())
            }
        };
        self.tell("route", text);
    }

    fn routed(&mut self, http: &HttpRoutes) -> End {
        let Ok(matcher) = Matcher::new(&http.routes) else { return End::refused(Code::InvalidPolicy) };
        let Some(found) = matcher.find(&self.request()) else {
            let near = near_miss(&matcher, &self.request());
            let nearest = near.rule.and_then(|(route, rule)| {
                let route = http.routes.get(route)?;
                let rule = route.rules.get(rule)?;
                Some(format!(
                    "; nearest is {} with {}",
                    describe::origin(&route.meta),
                    describe::matches(&rule.matches)
                ))
            });
            self.tell("route", format!("none: {}{}", near.wanted, nearest.unwrap_or_default()));
            return End::refused(Code::NoRoute);
        };
        let Some((route, rule)) =
            http.routes.get(found.route).and_then(|route| Some((route, route.rules.get(found.rule)?)))
        else {
            return End::refused(Code::NoRoute);
        };
        let hosts = match route.hosts.as_slice() {
            [] => String::new(),
            hosts => format!(" for {}", describe::hosts(hosts)),
        };
        let text = format!(
            "{}{hosts}, rule {}: {}",
            describe::origin(&route.meta),
            found.rule,
            describe::matches(&rule.matches)
        );
        self.tell("route", text);
        if let Some(limits) = describe::limits(&rule.timeouts, rule.retry.as_ref()) {
            self.tell("limit", limits);
        }
        if let Some(breaker) = &http.breaker {
            self.tell("limit", describe::breaker(breaker));
        }
        if let Some(end) = self.filtered(&rule.filters, found.prefix) {
            return end;
        }
        self.distributed(&rule.backends)
    }

    /// A connection that is not looked into.
    fn connected(&mut self, route: Option<&TcpRoute>) -> End {
        let Some(route) = route else {
            self.tell("route", "none is for this server name");
            return End::refused(Code::NoRoute);
        };
        self.tell(
            "route",
            format!(
                "{}: whole connections; method, path and headers do not matter",
                describe::origin(&route.meta)
            ),
        );
        match self.filtered(&route.filters, None) {
            Some(end) => end,
            None => self.distributed(&route.backends),
        }
    }

    /// Runs filters; one that answers ends the decision. Failures that are injected into a share of the requests do not.
    pub(crate) fn filtered(&mut self, filters: &[Filter], prefix: Option<usize>) -> Option<End> {
        for one in filters {
            self.tell("filter", describe::filter(one));
            let uri = self.uri.clone();
            let always = match one {
                Filter::InjectFailure(failure) => failure.ratio.0 >= failure.ratio.1,
                _ => true,
            };
            match filter::on_request(one, &uri, &mut self.headers, prefix, 0.0) {
                Outcome::Inject(answer, message) if always => {
                    let answer = match answer {
                        InjectedAnswer::Http(status) => status.as_u16().to_string(),
                        InjectedAnswer::Grpc(code) => format!("gRPC code {code}"),
                    };
                    return Some(End {
                        outcome: format!("{answer}, because a filter says so: {message}"),
                        reason: Some(Code::InjectedFailure.as_str()),
                    });
                }
                Outcome::Pass | Outcome::Inject(..) => {}
                Outcome::Redirect(status, to) => {
                    return Some(End::answered(format!("{} to {to}", status.as_u16())));
                }
                Outcome::Forbidden => return Some(End::refused(Code::Forbidden)),
                Outcome::Invalid(_) => return Some(End::refused(Code::InvalidPolicy)),
            }
        }
        None
    }

    fn distributed(&mut self, backends: &Distribution) -> End {
        let legs: Vec<&RouteBackend> = match backends {
            Distribution::Empty | Distribution::Application => Vec::new(),
            Distribution::FirstAvailable(list) => list.iter().collect(),
            Distribution::RandomAvailable(list) => list.iter().map(|(leg, _)| leg).collect(),
        };
        self.tell("backend", describe::distribution(backends));
        let several = legs.len() > 1;
        let (mut ends, headers) = (Vec::new(), self.headers.clone());
        for leg in legs {
            if several {
                self.tell("backend", format!("if {}:", describe::origin(&leg.backend.meta)));
            }
            // What one backend's filters change, the next one does not see.
            self.headers = headers.clone();
            let end = match self.filtered(&leg.filters, None) {
                Some(end) => end,
                None => self.backend(&leg.backend),
            };
            ends.push((describe::origin(&leg.backend.meta), end));
        }
        match ends.len() {
            0 => End::refused(Code::NoBackend),
            1 => ends.remove(0).1,
            _ => {
                let reason = ends.iter().find_map(|(_, end)| end.reason);
                let each: Vec<_> =
                    ends.iter().map(|(name, end)| format!("{name}: {}", end.outcome)).collect();
                End { outcome: each.join("; "), reason }
            }
        }
    }

    fn backend(&mut self, backend: &Backend) -> End {
        match &backend.dispatch {
            Dispatch::Balance { dst, .. } => self.balanced(&dst.to_string()),
            Dispatch::Forward(endpoint) => self.endpoint(endpoint),
            Dispatch::Missing => End::refused(Code::NoDispatcher),
        }
    }

    /// Every endpoint of a name; what becomes of the request is told of each sort of them.
    fn balanced(&mut self, path: &str) -> End {
        let question = Question::Endpoints { path: path.to_owned(), asker: self.asker.clone() };
        let set = match self.index.view(&question).map(|view| self.index.resolve(&view)) {
            Ok(Answer::Endpoints(set)) => set,
            _ => {
                self.tell("endpoint", format!("{path} is not known"));
                return End::refused(Code::NoSuchService);
            }
        };
        let Some(first) = set.endpoints.first() else {
            self.tell("endpoint", format!("{path} has none: no workload is ready that its selector picks"));
            return End::refused(Code::NoEndpoints);
        };
        self.tell("endpoint", format!("one of {} by load, such as {}", set.endpoints.len(), first.addr));
        self.arrive(&set.endpoints)
    }

    fn endpoint(&mut self, endpoint: &EndpointInfo) -> End {
        self.tell("endpoint", endpoint.addr.to_string());
        self.arrive(std::slice::from_ref(endpoint))
    }
}

fn port_of(view: &ViewKey) -> String {
    match view {
        ViewKey::OutboundService { port, .. } => port.to_string(),
        ViewKey::OutboundAddress { addr, .. } => addr.port().to_string(),
        _ => String::new(),
    }
}
