//! Egress networks: what becomes of traffic that leaves the mesh (§1F.8).
//!
//! Used by `policies.rs` for addresses that belong to nobody here, and by `verdict.rs`. The peer counts hosts to find the
//! smallest network, keeps deleted ones as backends and obeys networks that it has not accepted; none of that here.

use crate::annotations::{OPAQUE_PORTS, PortList};
use crate::attach::Class;
use crate::index::Index;
use crate::kept::Parent;
use crate::order::exact_first;
use crate::policies::Tuning;
use crate::routes::{Ground, forward};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use weft_model::attach::{EgressNetwork, EgressTraffic};
use weft_model::meta::{Meta, Resource};
use weft_model::policy::{HttpRoutes, OutboundPolicy, OutboundProtocol, TcpRoute};
use weft_model::route::{
    Distribution, Filter, HttpMatch, PathMatch, RequestMatch, Route, RouteBackend, Rule,
};
use weft_model::service::ServiceName;

impl Index {
    /// The egress network that a client of a namespace meets at an address: its own namespace's, if that has any at all, else
    /// the mesh's; of several the smallest, then the oldest. `None` if no network in force holds the address.
    pub(crate) fn egress_network_at(&self, ip: IpAddr, namespace: &str) -> Option<&Arc<EgressNetwork>> {
        let of = |namespace: &str| {
            let scope = self.scope(namespace)?;
            scope.kept.egress_networks().next()?;
            Some(scope)
        };
        let scope = of(namespace).or_else(|| of(&self.config().egress_namespace))?;
        let holding = scope.kept.egress_networks().filter_map(|network| {
            let prefix = self.smallest_block(network, ip)?;
            Some((u8::MAX - prefix, network))
        });
        holding.min_by(|(a, x), (b, y)| (a, x.meta.seniority()).cmp(&(b, y.meta.seniority()))).map(|(_, n)| n)
    }

    /// Prefix length of the smallest block of an accepted network that holds an address.
    fn smallest_block(&self, network: &EgressNetwork, ip: IpAddr) -> Option<u8> {
        match &network.networks {
            None => {
                let ours = self.config().cluster_networks.iter().any(|net| net.contains(&ip));
                (!ours).then_some(0)
            }
            Some(_) if self.overlap(network).is_some() => None,
            Some(blocks) => blocks.iter().filter(|b| b.contains(ip)).map(|b| b.net.prefix_len()).max(),
        }
    }

    /// A block of an egress network that reaches into the cluster's networks; such a network is not in force.
    pub(crate) fn overlap(&self, network: &EgressNetwork) -> Option<(IpNet, IpNet)> {
        network.networks.iter().flatten().find_map(|block| {
            let ours = self.config().cluster_networks.iter().find(|ours| {
                let meet = ours.contains(&block.net) || block.net.contains(*ours);
                let left_out = block.except.iter().any(|hole| hole.contains(*ours));
                meet && !left_out
            })?;
            Some((block.net, *ours))
        })
    }

    /// The policy of an address in an egress network, for a client of a namespace.
    pub(crate) fn egress_policy(
        &self,
        network: &EgressNetwork,
        addr: SocketAddr,
        namespace: &str,
    ) -> Option<OutboundPolicy> {
        let port = NonZeroU16::new(addr.port())?;
        let name = ServiceName { namespace: network.meta.namespace.clone(), name: network.meta.name.clone() };
        let meta = egress_meta(&name, port);
        let tuning = Tuning::of(&network.meta.annotations);
        let ground = Ground {
            parent: meta.clone(),
            default: forward(meta.clone(), addr),
            // A single address is not balanced.
            load: Default::default(),
            timeouts: tuning.timeouts,
            http_retry: tuning.http_retry,
            grpc_retry: tuning.grpc_retry,
            egress: Some((name.clone(), addr)),
        };
        let opaque = match network.meta.annotations.get(OPAQUE_PORTS) {
            Some(text) => PortList::parse(text).0.contains(addr.port(), std::iter::empty()),
            None => self.config().default_opaque_ports.contains(addr.port(), std::iter::empty()),
        };
        let classes: &[Class] = match opaque {
            true => &[Class::Tcp],
            false => &[Class::Grpc, Class::Http, Class::Tls, Class::Tcp],
        };
        let attached = self.attached(&Parent::egress(&name), port, namespace, classes);
        let last = Last { traffic: network.traffic, ground: &ground };
        let http = |class, attached: &[_]| {
            let mut routes = exact_first(self.requests(&ground, class, attached));
            routes.push(last.requests(class));
            HttpRoutes { routes: routes.into(), breaker: tuning.breaker, min_ready: tuning.min_ready }
        };
        let tcp = |class, attached: &[_]| {
            let mut routes = self.connections(&ground, class, attached);
            routes.push(last.connections(class));
            routes
        };
        let protocol = match attached {
            Some((Class::Grpc, routes)) => OutboundProtocol::Grpc(http(Class::Grpc, &routes)),
            Some((Class::Tls, routes)) => OutboundProtocol::Tls(tcp(Class::Tls, &routes)),
            // Of connections without server names the first route takes all.
            Some((Class::Tcp, routes)) => {
                OutboundProtocol::Opaque(self.connections(&ground, Class::Tcp, &routes))
            }
            None if opaque => OutboundProtocol::Opaque(tcp(Class::Tcp, &[])),
            None | Some((Class::Http, _)) => {
                let routes = attached.map(|(_, routes)| routes).unwrap_or_default();
                let http = http(Class::Http, &routes);
                OutboundProtocol::Detect {
                    timeout: self.config().detect_timeout,
                    http1: http.clone(),
                    http2: http,
                    opaque: tcp(Class::Tcp, &[]),
                }
            }
        };
        Some(OutboundPolicy { meta, protocol })
    }
}

/// The last route of an egress network's policy: what becomes of traffic that no other route describes.
struct Last<'a> {
    traffic: EgressTraffic,
    ground: &'a Ground,
}

impl Last<'_> {
    fn meta(&self, of: &str) -> Meta {
        let fate = match self.traffic {
            EgressTraffic::Allow => "allow",
            EgressTraffic::Deny => "deny",
        };
        Meta::default_named(&format!("{of}-egress-{fate}"))
    }

    fn backends(&self) -> Distribution {
        match self.traffic {
            EgressTraffic::Allow => Distribution::FirstAvailable(vec![RouteBackend {
                backend: Arc::new(self.ground.default.clone()),
                filters: Vec::new(),
            }]),
            EgressTraffic::Deny => Distribution::Empty,
        }
    }

    fn requests(&self, class: Class) -> Route {
        let everything = HttpMatch { path: Some(PathMatch::Prefix("/".into())), ..HttpMatch::default() };
        let rule = Rule {
            matches: if class == Class::Grpc { Vec::new() } else { vec![RequestMatch::Http(everything)] },
            filters: if self.traffic == EgressTraffic::Deny { vec![Filter::Forbidden] } else { Vec::new() },
            backends: self.backends(),
            timeouts: self.ground.timeouts,
            retry: match class {
                Class::Grpc => self.ground.grpc_retry.clone(),
                _ => self.ground.http_retry.clone(),
            },
            allow_request_headers: false,
        };
        Route {
            meta: self.meta(if class == Class::Grpc { "grpc" } else { "http" }),
            hosts: Vec::new(),
            rules: vec![rule],
            authorizations: Vec::new(),
        }
    }

    fn connections(&self, class: Class) -> TcpRoute {
        let denied = self.traffic == EgressTraffic::Deny;
        TcpRoute {
            meta: self.meta(if class == Class::Tls { "tls" } else { "tcp" }),
            snis: Vec::new(),
            filters: if denied { vec![Filter::Forbidden] } else { Vec::new() },
            backends: self.backends(),
        }
    }
}

/// The resource that an egress network's port is.
fn egress_meta(name: &ServiceName, port: NonZeroU16) -> Meta {
    Meta::Resource(Arc::new(Resource {
        group: "policy.linkerd.io".into(),
        kind: "EgressNetwork".into(),
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        section: String::new(),
        port: Some(port.get()),
    }))
}
