//! Outbound policies: how a destination is spoken to (§1F).
//!
//! Only `resolve.rs` and `why.rs` call this. The routes that attach to a service are found in `attach.rs` and made in
//! `routes.rs`; a service without any has the default ones of this page.

use crate::annotations::{Annotations, failure_accrual, grpc_retry, http_retry, load, min_ready, timeouts};
use crate::answer::{Refusal, RefusalKind};
use crate::attach::Class;
use crate::config::RequestHeaders;
use crate::index::Index;
use crate::kept::Parent;
use crate::order::exact_first;
use crate::profiles::service_host;
use crate::routes::{Ground, forward, service_meta};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use weft_model::address::NameAddr;
use weft_model::meta::Meta;
use weft_model::policy::{FailureAccrual, HttpRoutes, OutboundPolicy, OutboundProtocol, TcpRoute};
use weft_model::route::{
    Distribution, Filter, HttpMatch, LoadParams, PathMatch, RequestMatch, RetryPolicy, Route, RouteBackend,
    Rule, Timeouts,
};
use weft_model::service::ServiceName;

/// What a service's `appProtocol` and annotations make of its port (§1F.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Detect,
    Http1,
    Http2,
    Opaque,
}

impl Speaks {
    /// The kinds of routes that can shape what is spoken.
    pub(crate) fn classes(self) -> &'static [Class] {
        match self {
            Speaks::Detect => &[Class::Grpc, Class::Http, Class::Tls, Class::Tcp],
            Speaks::Http1 => &[Class::Http],
            Speaks::Http2 => &[Class::Grpc, Class::Http],
            Speaks::Opaque => &[Class::Tcp],
        }
    }
}

impl Index {
    /// The policy of an original destination address (§1F.1).
    pub(crate) fn outbound_by_address(
        &self,
        addr: SocketAddr,
        namespace: &str,
    ) -> Result<OutboundPolicy, Refusal> {
        let not_found = || Refusal::new(RefusalKind::NotFound, format!("{addr} belongs to no service"));
        let port = NonZeroU16::new(addr.port()).ok_or_else(not_found)?;
        if let Some(service) = self.service_at(addr.ip()) {
            return Ok(match service.port(port) {
                Some(_) => self.service_policy(&service.name(), port, namespace),
                None => undefined_port(&service.name(), port),
            });
        }
        // The peer looks only at the networks. A workload may be outside of them; forwarding to its
        // address as if it were a stranger would lose its identity, its profile has it.
        if !self.workloads_at(addr.ip()).is_empty() {
            return Err(not_found());
        }
        if let Some(network) = self.egress_network_at(addr.ip(), namespace) {
            return self.egress_policy(network, addr, namespace).ok_or_else(not_found);
        }
        match self.config().cluster_networks.iter().any(|net| net.contains(&addr.ip())) {
            true => Err(not_found()),
            false => Ok(self.egress_fallback(addr)),
        }
    }

    /// The policy of a service's port by name; a service that does not exist has a default one.
    pub(crate) fn outbound_by_service(
        &self,
        name: &ServiceName,
        port: NonZeroU16,
        namespace: &str,
    ) -> OutboundPolicy {
        self.service_policy(name, port, namespace)
    }

    fn service_policy(&self, name: &ServiceName, port: NonZeroU16, namespace: &str) -> OutboundPolicy {
        let speaks = self.speaks(name, port);
        let tuning = self.service(name).map(|s| Tuning::of(&s.meta.annotations)).unwrap_or_default();
        let (breaker, min_ready) = (tuning.breaker, tuning.min_ready);
        let attached = self.attached(&Parent::service(name), port, namespace, speaks.classes());
        let ground = self.service_ground(name, port, tuning);
        let http = |class, attached: &[_]| {
            let routes = exact_first(self.requests(&ground, class, attached));
            HttpRoutes { routes: routes.into(), breaker, min_ready }
        };
        let default =
            || HttpRoutes { routes: Arc::new([self.default_route("http", &ground)]), breaker, min_ready };
        let opaque = || vec![default_connections("opaq", &self.plain(&ground))];
        let timeout = self.config().detect_timeout;
        let protocol = match (speaks, attached) {
            (_, Some((Class::Grpc, routes))) => OutboundProtocol::Grpc(http(Class::Grpc, &routes)),
            (Speaks::Http1, Some((_, routes))) => OutboundProtocol::Http1(http(Class::Http, &routes)),
            (Speaks::Http2, Some((_, routes))) => OutboundProtocol::Http2(http(Class::Http, &routes)),
            (Speaks::Detect, Some((Class::Http, routes))) => {
                let http = http(Class::Http, &routes);
                OutboundProtocol::Detect { timeout, http1: http.clone(), http2: http, opaque: opaque() }
            }
            (_, Some((Class::Tls, routes))) => {
                OutboundProtocol::Tls(self.connections(&self.plain(&ground), Class::Tls, &routes))
            }
            (_, Some((_, routes))) => {
                OutboundProtocol::Opaque(self.connections(&self.plain(&ground), Class::Tcp, &routes))
            }
            (Speaks::Http1, None) => OutboundProtocol::Http1(default()),
            (Speaks::Http2, None) => OutboundProtocol::Http2(default()),
            (Speaks::Opaque, None) => OutboundProtocol::Opaque(opaque()),
            (Speaks::Detect, None) => {
                let (http, opaque) = (default(), vec![default_connections("opaq", &ground)]);
                OutboundProtocol::Detect { timeout, http1: http.clone(), http2: http, opaque }
            }
        };
        OutboundPolicy { meta: ground.parent, protocol }
    }

    /// What the routes of a service's port have in common.
    fn service_ground(&self, name: &ServiceName, port: NonZeroU16, tuning: Tuning) -> Ground {
        Ground {
            parent: service_meta(name, port),
            default: self.service_backend(name, port, tuning.load),
            load: tuning.load,
            timeouts: tuning.timeouts,
            http_retry: tuning.http_retry,
            grpc_retry: tuning.grpc_retry,
            egress: None,
        }
    }

    /// The same for what is only bytes: there are no failures to penalize.
    fn plain(&self, ground: &Ground) -> Ground {
        let mut default = ground.default.clone();
        if let weft_model::route::Dispatch::Balance { load, .. } = &mut default.dispatch {
            *load = LoadParams::default();
        }
        Ground {
            parent: ground.parent.clone(),
            default,
            load: LoadParams::default(),
            timeouts: ground.timeouts,
            http_retry: None,
            grpc_retry: None,
            egress: None,
        }
    }

    /// The protocol of a service's port. An `appProtocol` beats the opaque ports; one that is not
    /// known makes the port opaque, as in the peer, and is reported by the verdict.
    pub(crate) fn speaks(&self, name: &ServiceName, port: NonZeroU16) -> Speaks {
        let Some(service) = self.service(name) else {
            return match self.config().default_opaque_ports.contains(port.get(), std::iter::empty()) {
                true => Speaks::Opaque,
                false => Speaks::Detect,
            };
        };
        match service.port(port).and_then(|p| p.app_protocol.as_deref()) {
            Some("http") => Speaks::Http1,
            Some("kubernetes.io/h2c") => Speaks::Http2,
            Some(_) => Speaks::Opaque,
            None if self.is_service_opaque_at(service, port) => Speaks::Opaque,
            None => Speaks::Detect,
        }
    }

    /// The route of a policy without routes: everything, to the parent itself.
    fn default_route(&self, name: &str, ground: &Ground) -> Route {
        let everything = HttpMatch { path: Some(PathMatch::Prefix("/".into())), ..HttpMatch::default() };
        Route {
            meta: Meta::default_named(name),
            hosts: Vec::new(),
            rules: vec![Rule {
                matches: vec![RequestMatch::Http(everything)],
                filters: Vec::new(),
                backends: to_parent(ground),
                timeouts: ground.timeouts,
                retry: ground.http_retry.clone(),
                allow_request_headers: self.config().request_headers == RequestHeaders::Obeyed,
            }],
            authorizations: Vec::new(),
        }
    }

    /// The name by which proxies ask for the endpoints of a service's port.
    pub(crate) fn dst_of(&self, name: &ServiceName, port: NonZeroU16) -> Option<NameAddr> {
        let domain = self.config().mesh.cluster_domain.trim_matches('.');
        let name = match self.service(name) {
            Some(service) => service_host(service, domain),
            None => format!("{}.{}.svc.{domain}", name.name, name.namespace).parse().ok(),
        };
        Some(NameAddr { name: name?, port })
    }

    /// The policy of an address outside the mesh: on to where it was going.
    fn egress_fallback(&self, addr: SocketAddr) -> OutboundPolicy {
        const NAME: &str = "egress-fallback";
        let meta = Meta::default_named(NAME);
        let ground = Ground {
            parent: meta.clone(),
            default: forward(meta.clone(), addr),
            load: LoadParams::default(),
            timeouts: Timeouts::default(),
            http_retry: None,
            grpc_retry: None,
            egress: None,
        };
        let weighted = |backends: &mut Distribution| {
            if let Distribution::FirstAvailable(list) = backends {
                *backends = Distribution::RandomAvailable(list.drain(..).map(|one| (one, 1)).collect());
            }
        };
        let (mut route, mut opaque) = (self.default_route(NAME, &ground), default_connections(NAME, &ground));
        route.rules.iter_mut().for_each(|rule| weighted(&mut rule.backends));
        weighted(&mut opaque.backends);
        let http = HttpRoutes { routes: Arc::new([route]), breaker: None, min_ready: 0 };
        OutboundPolicy {
            meta,
            protocol: OutboundProtocol::Detect {
                timeout: self.config().detect_timeout,
                http1: http.clone(),
                http2: http,
                opaque: vec![opaque],
            },
        }
    }
}

fn to_parent(ground: &Ground) -> Distribution {
    let backend = RouteBackend { backend: Arc::new(ground.default.clone()), filters: Vec::new() };
    Distribution::FirstAvailable(vec![backend])
}

fn default_connections(name: &str, ground: &Ground) -> TcpRoute {
    TcpRoute {
        meta: Meta::default_named(name),
        snis: Vec::new(),
        filters: Vec::new(),
        backends: to_parent(ground),
    }
}

/// What the annotations of a service or an egress network say about its traffic. What cannot be read is off.
#[derive(Default)]
pub(crate) struct Tuning {
    pub(crate) breaker: Option<FailureAccrual>,
    pub(crate) min_ready: u32,
    pub(crate) load: LoadParams,
    pub(crate) timeouts: Timeouts,
    pub(crate) http_retry: Option<RetryPolicy>,
    pub(crate) grpc_retry: Option<RetryPolicy>,
}

impl Tuning {
    pub(crate) fn of(annotations: &Annotations) -> Self {
        Self {
            breaker: failure_accrual(annotations).unwrap_or_default(),
            min_ready: min_ready(annotations).unwrap_or_default(),
            load: load(annotations).unwrap_or_default(),
            timeouts: timeouts(annotations).unwrap_or_default(),
            http_retry: http_retry(annotations).unwrap_or_default(),
            grpc_retry: grpc_retry(annotations).unwrap_or_default(),
        }
    }
}

/// The policy of a service's address on a port that the service does not declare: nothing passes.
fn undefined_port(name: &ServiceName, port: NonZeroU16) -> OutboundPolicy {
    OutboundPolicy {
        meta: service_meta(name, port),
        protocol: OutboundProtocol::Opaque(vec![TcpRoute {
            meta: Meta::default_named("undefined-port"),
            snis: Vec::new(),
            filters: vec![Filter::Forbidden],
            backends: Distribution::Empty,
        }]),
    }
}

/// Values of `appProtocol` that mean what they say; others make a port opaque.
pub(crate) fn is_known_app_protocol(text: &str) -> bool {
    matches!(text, "http" | "kubernetes.io/h2c" | "linkerd.io/opaque" | "linkerd.io/tcp")
}
