//! Short ways to write objects and questions down.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;
use weft_index::{Answer, Config, EndpointSet, Index, OutboundTarget, Question, Refusal, RefusalKind};
use weft_model::attach::{
    BackendKind, BackendRef, EgressNetwork, ParentKind, ParentRef, ReferenceGrant, RouteResource, RouteRule,
};
use weft_model::authorization::NetworkMatch;
use weft_model::object::{Change, Created, Kind, Metadata, Object, Origin};
use weft_model::policy::{DefaultPolicy, InboundPolicy, OutboundPolicy};
use weft_model::profile::Profile;
use weft_model::route::{HttpMatch, PathMatch, RequestMatch};
use weft_model::server::{
    AccountRef, AuthenticationRef, AuthorizationPolicy, MeshTlsAuthentication, NetworkAuthentication,
    PolicyTarget, RateLimitPolicy, Selector, Server, ServerAuthorization, ServerProtocol, Workloads,
};
use weft_model::service::{
    Addressing, EndpointSlice, Namespace, Service, ServicePort, ServiceProfile, SliceEndpoint, SlicePort,
    TargetKind, TargetPort, TargetRef, TrafficPolicy, Transport,
};
use weft_model::workload::{Asker, ExternalWorkload, WorkloadPort};

pub(crate) fn pairs(given: &[(&str, &str)]) -> BTreeMap<String, String> {
    given.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

pub(crate) fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

/// Metadata of `namespace/name`.
pub(crate) fn meta(path: &str) -> Metadata {
    let (namespace, name) = path.split_once('/').unwrap();
    Metadata {
        namespace: namespace.into(),
        name: name.into(),
        origin: Origin { file: "test.yaml".into(), line: 1 },
        ..Metadata::default()
    }
}

/// A service with a selector `app: NAME` and one port 80 → `http`.
pub(crate) fn service(path: &str, ip: &str) -> Service {
    let meta = meta(path);
    Service {
        selector: pairs(&[("app", &meta.name)]),
        addressing: match ip {
            "None" => Addressing::Headless,
            ip => Addressing::Virtual(ip.split(',').filter_map(|ip| ip.parse().ok()).collect()),
        },
        ports: vec![service_port("http", 80, "http")],
        traffic: TrafficPolicy::Cluster,
        meta,
    }
}

pub(crate) fn service_port(name: &str, number: u16, target: &str) -> ServicePort {
    ServicePort {
        name: name.into(),
        port: port(number),
        target: match target.parse() {
            Ok(number) => TargetPort::Number(number),
            Err(_) => TargetPort::Name(target.into()),
        },
        transport: Transport::Tcp,
        app_protocol: None,
    }
}

/// A workload with label `app` and ports `http` 8080 and `admin` 9990, identity by its app.
pub(crate) fn workload(path: &str, app: &str, ips: &str) -> ExternalWorkload {
    let mut meta = meta(path);
    meta.labels = pairs(&[("app", app)]);
    let identity = format!("{app}.{}.serviceaccount.identity.linkerd.cluster.local", meta.namespace);
    ExternalWorkload {
        meta,
        identity: identity.parse().unwrap(),
        server_name: identity.parse().unwrap(),
        ips: ips.split(',').map(|ip| ip.parse().unwrap()).collect(),
        ports: vec![
            WorkloadPort { name: "http".into(), port: port(8080) },
            WorkloadPort { name: "admin".into(), port: port(9990) },
        ],
        ready: None,
        owner: None,
    }
}

pub(crate) fn slice(path: &str, service: &str, endpoints: Vec<SliceEndpoint>) -> EndpointSlice {
    EndpointSlice {
        meta: meta(path),
        service: service.into(),
        endpoints,
        ports: Some(vec![SlicePort {
            name: "http".into(),
            port: Some(port(8080)),
            transport: Transport::Tcp,
        }]),
    }
}

pub(crate) fn endpoint(ip: &str) -> SliceEndpoint {
    SliceEndpoint { ips: vec![ip.parse().unwrap()], ..SliceEndpoint::default() }
}

pub(crate) fn target(kind: TargetKind, path: &str) -> Option<TargetRef> {
    let (namespace, name) = path.split_once('/').unwrap();
    Some(TargetRef { kind, namespace: namespace.into(), name: name.into() })
}

pub(crate) fn namespace(name: &str, annotations: &[(&str, &str)]) -> Namespace {
    Namespace { meta: Metadata { name: name.into(), annotations: pairs(annotations), ..Metadata::default() } }
}

pub(crate) fn created(at: i64) -> Option<Created> {
    Some(Created(at))
}

/// What can be put into a world.
pub(crate) trait Put {
    fn object(self) -> Object;
}
macro_rules! put {
    ($($noun:ident)*) => {
        $(impl Put for $noun {
            fn object(self) -> Object {
                Object::$noun(Arc::new(self))
            }
        })*
    };
}

put! {
    Service ExternalWorkload EndpointSlice Namespace ServiceProfile Server ServerAuthorization AuthorizationPolicy
    MeshTlsAuthentication NetworkAuthentication RateLimitPolicy EgressNetwork ReferenceGrant
}

impl Put for Object {
    fn object(self) -> Object {
        self
    }
}

/// A route of a kind.
pub(crate) fn routed(kind: Kind, route: RouteResource) -> Object {
    let route = Arc::new(route);
    match kind {
        Kind::HttpRoute => Object::HttpRoute(route),
        Kind::PolicyHttpRoute => Object::PolicyHttpRoute(route),
        Kind::GrpcRoute => Object::GrpcRoute(route),
        Kind::TlsRoute => Object::TlsRoute(route),
        Kind::TcpRoute => Object::TcpRoute(route),
        other => panic!("{other:?} is no route"),
    }
}

/// A reference to `namespace/name`, with or without a port.
pub(crate) fn parent(kind: ParentKind, path: &str, port: Option<u16>) -> ParentRef {
    let (namespace, name) = path.split_once('/').unwrap();
    ParentRef {
        kind,
        namespace: Some(namespace.into()),
        name: name.into(),
        section: None,
        port: port.and_then(NonZeroU16::new),
    }
}

/// A route with these parents and one rule per path prefix.
pub(crate) fn route(path: &str, parents: Vec<ParentRef>, prefixes: &[&str]) -> RouteResource {
    let rule = |prefix: &&str| {
        let of = HttpMatch { path: Some(PathMatch::Prefix((*prefix).into())), ..HttpMatch::default() };
        RouteRule { matches: vec![RequestMatch::Http(of)], ..RouteRule::default() }
    };
    RouteResource { meta: meta(path), parents, hosts: vec![], rules: prefixes.iter().map(rule).collect() }
}

/// A backend `namespace/name` on a port.
pub(crate) fn backend(path: &str, number: u16, weight: u32) -> BackendRef {
    let (namespace, name) = path.split_once('/').unwrap();
    BackendRef {
        kind: BackendKind::Service,
        namespace: Some(namespace.into()),
        name: name.into(),
        port: NonZeroU16::new(number),
        weight,
        filters: vec![],
    }
}

/// A server for external workloads with label `app`.
pub(crate) fn server(path: &str, app: &str, port: TargetPort) -> Server {
    let selector = Selector { labels: pairs(&[("app", app)]), expressions: vec![] };
    Server {
        meta: meta(path),
        workloads: Workloads::External(selector),
        port,
        protocol: ServerProtocol::Unknown,
        access: DefaultPolicy::Deny,
    }
}

/// A policy about a target that requires this.
pub(crate) fn policy(
    path: &str,
    target: PolicyTarget,
    required: Vec<AuthenticationRef>,
) -> AuthorizationPolicy {
    AuthorizationPolicy { meta: meta(path), target, required }
}

/// The service account of this name, in the namespace of whatever names it.
pub(crate) fn account(name: &str) -> AccountRef {
    AccountRef { namespace: None, name: name.into() }
}

/// Networks without holes.
pub(crate) fn nets(list: &[&str]) -> Vec<NetworkMatch> {
    list.iter().map(|net| NetworkMatch { net: net.parse().unwrap(), except: vec![] }).collect()
}

/// An index with short questions.
pub(crate) struct World {
    pub(crate) index: Index,
    pub(crate) asker: Asker,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(crate) fn with(config: Config) -> Self {
        let asker = Asker { namespace: "shop".into(), workload: "client".into(), node: String::new() };
        Self { index: Index::new(config), asker }
    }

    pub(crate) fn put(&mut self, object: impl Put) -> weft_index::Touched {
        self.index.apply([Change::Upsert(object.object())])
    }

    pub(crate) fn delete(&mut self, object: impl Put) -> weft_index::Touched {
        self.index.apply([Change::Delete(object.object().key())])
    }

    pub(crate) fn ask(&self, question: &Question) -> Result<Answer, Refusal> {
        match self.index.resolve(&self.index.view(question)?) {
            Answer::Refused(refusal) => Err(refusal),
            answer => Ok(answer),
        }
    }

    pub(crate) fn endpoints(&self, path: &str) -> Result<EndpointSet, Refusal> {
        let question = Question::Endpoints { path: path.into(), asker: self.asker.clone() };
        match self.ask(&question)? {
            Answer::Endpoints(set) => Ok(set),
            other => panic!("{other:?} is not a set of endpoints"),
        }
    }

    /// The addresses of a service's endpoints, in order.
    pub(crate) fn addrs(&self, path: &str) -> Vec<String> {
        self.endpoints(path).unwrap().endpoints.iter().map(|e| e.addr.to_string()).collect()
    }

    pub(crate) fn profile(&self, path: &str) -> Result<Profile, Refusal> {
        let question = Question::Profile { path: path.into(), asker: self.asker.clone() };
        match self.ask(&question)? {
            Answer::Profile(profile) => Ok(*profile),
            other => panic!("{other:?} is not a profile"),
        }
    }

    pub(crate) fn outbound(&self, target: &str) -> Result<OutboundPolicy, Refusal> {
        let target = match target.parse() {
            Ok(addr) => OutboundTarget::Address(addr),
            Err(_) => OutboundTarget::Authority(target.into()),
        };
        match self.ask(&Question::Outbound { target, asker: self.asker.clone() })? {
            Answer::Outbound(policy) => Ok(*policy),
            other => panic!("{other:?} is not an outbound policy"),
        }
    }

    pub(crate) fn inbound(&self, workload: &str, port: u32) -> Result<InboundPolicy, Refusal> {
        match self.ask(&Question::Inbound { workload: workload.into(), port })? {
            Answer::Inbound(policy) => Ok(*policy),
            other => panic!("{other:?} is not an inbound policy"),
        }
    }
}

pub(crate) fn kind<T>(result: Result<T, Refusal>) -> Option<RefusalKind> {
    result.err().map(|r| r.kind)
}
