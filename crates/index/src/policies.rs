//! Outbound policies: how a destination is spoken to (§1F).
//!
//! Only `resolve.rs` calls this. Routes will attach where [`Index::service_policy`] builds the default
//! ones; until there are route resources, every service has the default routes.

use crate::annotations::{failure_accrual, http_retry, load, timeouts};
use crate::answer::{Refusal, RefusalKind};
use crate::config::RequestHeaders;
use crate::index::Index;
use crate::profiles::service_host;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;
use weft_model::address::NameAddr;
use weft_model::destination::EndpointInfo;
use weft_model::meta::{Meta, Resource};
use weft_model::policy::{FailureAccrual, HttpRoutes, OutboundPolicy, OutboundProtocol, TcpRoute};
use weft_model::route::{
    Backend, Dispatch, Distribution, Filter, HttpMatch, LoadParams, PathMatch, Queue, RequestMatch,
    RetryPolicy, Route, RouteBackend, Rule, Timeouts,
};
use weft_model::service::{Service, ServiceName};

/// The waiting room of every backend (§1F.4).
const QUEUE: Queue = Queue { capacity: 100, failfast: Duration::from_secs(3) };

/// What a service's `appProtocol` and annotations make of its port (§1F.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    Detect,
    Http1,
    Http2,
    Opaque,
}

impl Index {
    /// The policy of an original destination address (§1F.1).
    pub(crate) fn outbound_by_address(
        &self,
        addr: SocketAddr,
        _namespace: &str,
    ) -> Result<OutboundPolicy, Refusal> {
        let not_found = || Refusal::new(RefusalKind::NotFound, format!("{addr} belongs to no service"));
        let port = NonZeroU16::new(addr.port()).ok_or_else(not_found)?;
        if let Some(service) = self.service_at(addr.ip()) {
            return Ok(match service.port(port) {
                Some(_) => self.service_policy(Some(service), &service.name(), port),
                None => undefined_port(&service.name(), port),
            });
        }
        // The peer looks only at the networks. A workload may be outside of them; forwarding to its
        // address as if it were a stranger would lose its identity, its profile has it.
        let ours = self.config().cluster_networks.iter().any(|net| net.contains(&addr.ip()));
        match ours || !self.workloads_at(addr.ip()).is_empty() {
            true => Err(not_found()),
            false => Ok(self.egress_fallback(addr)),
        }
    }

    /// The policy of a service's port by name; a service that does not exist has a default one.
    pub(crate) fn outbound_by_service(
        &self,
        name: &ServiceName,
        port: NonZeroU16,
        _namespace: &str,
    ) -> OutboundPolicy {
        self.service_policy(self.service(name).map(Arc::as_ref), name, port)
    }

    fn service_policy(
        &self,
        service: Option<&Service>,
        name: &ServiceName,
        port: NonZeroU16,
    ) -> OutboundPolicy {
        let speaks = service.map_or_else(
            || match self.config().default_opaque_ports.contains(port.get(), std::iter::empty()) {
                true => Speaks::Opaque,
                false => Speaks::Detect,
            },
            |service| self.speaks(service, port),
        );
        let tuning = Tuning::of(service);
        let meta = service_meta(name, port);
        let load = if speaks == Speaks::Opaque { LoadParams::default() } else { tuning.load };
        let backends = Distribution::FirstAvailable(vec![RouteBackend {
            backend: Arc::new(self.service_backend(meta.clone(), name, port, load)),
            filters: Vec::new(),
        }]);
        let opaque = vec![TcpRoute {
            meta: Meta::default_named("opaq"),
            snis: Vec::new(),
            filters: Vec::new(),
            backends: backends.clone(),
        }];
        let http = HttpRoutes {
            routes: Arc::new([self.http_route("http", backends, tuning.timeouts, tuning.retry)]),
            breaker: tuning.breaker,
        };
        let protocol = match speaks {
            Speaks::Http1 => OutboundProtocol::Http1(http),
            Speaks::Http2 => OutboundProtocol::Http2(http),
            Speaks::Opaque => OutboundProtocol::Opaque(opaque),
            Speaks::Detect => OutboundProtocol::Detect {
                timeout: self.config().detect_timeout,
                http1: http.clone(),
                http2: http,
                opaque,
            },
        };
        OutboundPolicy { meta, protocol }
    }

    /// The protocol of a service's port. An `appProtocol` beats the opaque ports; one that is not
    /// known makes the port opaque, as in the peer, and is reported by the verdict.
    fn speaks(&self, service: &Service, port: NonZeroU16) -> Speaks {
        match service.port(port).and_then(|p| p.app_protocol.as_deref()) {
            Some("http") => Speaks::Http1,
            Some("kubernetes.io/h2c") => Speaks::Http2,
            Some(_) => Speaks::Opaque,
            None if self.is_service_opaque_at(service, port) => Speaks::Opaque,
            None => Speaks::Detect,
        }
    }

    fn http_route(
        &self,
        name: &str,
        backends: Distribution,
        timeouts: Timeouts,
        retry: Option<RetryPolicy>,
    ) -> Route {
        let everything = HttpMatch { path: Some(PathMatch::Prefix("/".into())), ..HttpMatch::default() };
        Route {
            meta: Meta::default_named(name),
            hosts: Vec::new(),
            rules: vec![Rule {
                matches: vec![RequestMatch::Http(everything)],
                filters: Vec::new(),
                backends,
                timeouts,
                retry,
                allow_request_headers: self.config().request_headers == RequestHeaders::Obeyed,
            }],
            authorizations: Vec::new(),
        }
    }

    /// A balanced backend of a service's port (§1F.4).
    fn service_backend(&self, meta: Meta, name: &ServiceName, port: NonZeroU16, load: LoadParams) -> Backend {
        let domain = self.config().mesh.cluster_domain.trim_matches('.');
        let host = match self.service(name) {
            Some(service) => service_host(service, domain),
            None => format!("{}.{}.svc.{domain}", name.name, name.namespace).parse().ok(),
        };
        let dispatch = match host {
            Some(host) => Dispatch::Balance { dst: NameAddr { name: host, port }, load },
            None => Dispatch::Missing,
        };
        Backend { meta, queue: QUEUE, dispatch }
    }

    /// The policy of an address outside the mesh: on to where it was going.
    fn egress_fallback(&self, addr: SocketAddr) -> OutboundPolicy {
        const NAME: &str = "egress-fallback";
        let meta = Meta::default_named(NAME);
        let forward = Backend {
            meta: meta.clone(),
            queue: QUEUE,
            dispatch: Dispatch::Forward(Box::new(EndpointInfo::plain(addr))),
        };
        let backends = Distribution::RandomAvailable(vec![(
            RouteBackend { backend: Arc::new(forward), filters: Vec::new() },
            1,
        )]);
        let http = HttpRoutes {
            routes: Arc::new([self.http_route(NAME, backends.clone(), Timeouts::default(), None)]),
            breaker: None,
        };
        let opaque = TcpRoute { meta: meta.clone(), snis: Vec::new(), filters: Vec::new(), backends };
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

/// What a service's annotations say about its traffic. What cannot be read is off.
#[derive(Default)]
struct Tuning {
    breaker: Option<FailureAccrual>,
    load: LoadParams,
    timeouts: Timeouts,
    retry: Option<RetryPolicy>,
}

impl Tuning {
    fn of(service: Option<&Service>) -> Self {
        let Some(service) = service else { return Self::default() };
        let annotations = &service.meta.annotations;
        Self {
            breaker: failure_accrual(annotations).unwrap_or_default(),
            load: load(annotations).unwrap_or_default(),
            timeouts: timeouts(annotations).unwrap_or_default(),
            retry: http_retry(annotations).unwrap_or_default(),
        }
    }
}

/// The resource that a service's port is.
fn service_meta(name: &ServiceName, port: NonZeroU16) -> Meta {
    Meta::Resource(Arc::new(Resource {
        group: "core".into(),
        kind: "Service".into(),
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        section: String::new(),
        port: Some(port.get()),
    }))
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
