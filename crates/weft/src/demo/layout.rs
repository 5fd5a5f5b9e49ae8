//! What the shop consists of: services, routes, replicas with their quirks, addresses, and the manifests
//! that say so. Plain data and text; `shop` brings it to life, `load` sends along the routes.

use super::app::Speaks;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use weft_model::identity::{Id, MeshNames};
use weft_model::name::DnsName;
use weft_model::object::Metadata;
use weft_model::workload::{ExternalWorkload, WorkloadPort};

/// The namespace of everything.
pub(crate) const NAMESPACE: &str = "shop";

/// Ports on each process's own address.
pub(crate) mod port {
    pub(crate) const CONTROL: u16 = 8086;
    pub(crate) const ADMIN: u16 = 4191;
    pub(crate) const INBOUND: u16 = 4143;
    pub(crate) const OUTBOUND: u16 = 4140;
    pub(crate) const PROGRAM: u16 = 9080;
    /// First of the load's upstream listeners, one a service.
    pub(crate) const UPSTREAM: u16 = 9001;
}

/// A network of our own in 127.0.0.0/8, so that well-known ports are free.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network(pub(crate) u8, pub(crate) u8);

impl Network {
    /// Hosts of the control plane and of the load generator; replicas follow.
    pub(crate) const CONTROL: u8 = 1;
    pub(crate) const LOAD: u8 = 2;

    /// A host's address.
    pub(crate) fn host(self, host: u8) -> IpAddr {
        Ipv4Addr::new(127, self.0, self.1, host).into()
    }

    /// A port on a host.
    pub(crate) fn at(self, host: u8, port: u16) -> SocketAddr {
        (self.host(host), port).into()
    }
}

/// A service that is asked.
pub(crate) struct Service {
    pub(crate) name: &'static str,
    /// Its port, and that of the workloads behind it.
    pub(crate) port: u16,
    pub(crate) target: u16,
    pub(crate) speaks: Speaks,
}

pub(crate) const SERVICES: &[Service] = &[
    Service { name: "web", port: 80, target: 8080, speaks: Speaks::Http },
    Service { name: "books", port: 80, target: 8080, speaks: Speaks::Http },
    Service { name: "reviews", port: 80, target: 8080, speaks: Speaks::Grpc },
    Service { name: "stock", port: 80, target: 8080, speaks: Speaks::Http },
    // A port that is opaque by default: its server speaks first.
    Service { name: "store", port: 4444, target: 4444, speaks: Speaks::Lines },
];

impl Service {
    /// Its full name.
    pub(crate) fn host(&self) -> String {
        format!("{}.{NAMESPACE}.svc.cluster.local", self.name)
    }

    /// What metrics call it.
    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.host(), self.port)
    }
}

/// A kind of request.
pub(crate) struct Route {
    /// Index of its service.
    pub(crate) service: usize,
    /// Its name in the profile; empty for bytes, which have no routes.
    pub(crate) name: &'static str,
    pub(crate) method: &'static str,
    /// The path, in which `{}` stands for a number.
    pub(crate) path: &'static str,
    pub(crate) per_second: u32,
}

pub(crate) const ROUTES: &[Route] = &[
    Route { service: 0, name: "home", method: "GET", path: "/", per_second: 40 },
    Route { service: 0, name: "cart", method: "POST", path: "/cart", per_second: 20 },
    Route { service: 1, name: "list", method: "GET", path: "/books", per_second: 40 },
    Route { service: 1, name: "book", method: "GET", path: "/books/{}", per_second: 60 },
    Route { service: 2, name: "List", method: "POST", path: "/shop.Reviews/List", per_second: 40 },
    Route { service: 3, name: "look", method: "GET", path: "/stock/{}", per_second: 30 },
    Route { service: 3, name: "reserve", method: "POST", path: "/stock/{}/reserve", per_second: 10 },
    Route { service: 4, name: "", method: "", path: "", per_second: 10 },
];

impl Route {
    /// Its service.
    pub(crate) fn service(&self) -> &'static Service {
        &SERVICES[self.service]
    }
}

/// One instance of a service.
pub(crate) struct Replica {
    pub(crate) name: &'static str,
    pub(crate) service: usize,
    /// Which version of the service it is.
    pub(crate) version: &'static str,
    pub(crate) takes_ms: u64,
    pub(crate) fails_every: u64,
}

pub(crate) const REPLICAS: &[Replica] = &[
    Replica { name: "web-1", service: 0, version: "v1", takes_ms: 8, fails_every: 0 },
    Replica { name: "web-2", service: 0, version: "v2", takes_ms: 8, fails_every: 0 },
    Replica { name: "books-1", service: 1, version: "v1", takes_ms: 25, fails_every: 0 },
    Replica { name: "books-2", service: 1, version: "v2", takes_ms: 25, fails_every: 0 },
    Replica { name: "books-3", service: 1, version: "v3", takes_ms: 400, fails_every: 0 },
    Replica { name: "reviews-1", service: 2, version: "v1", takes_ms: 12, fails_every: 0 },
    Replica { name: "reviews-2", service: 2, version: "v1", takes_ms: 12, fails_every: 0 },
    Replica { name: "stock-1", service: 3, version: "v1", takes_ms: 6, fails_every: 0 },
    Replica { name: "stock-2", service: 3, version: "v1", takes_ms: 6, fails_every: 20 },
    Replica { name: "store-1", service: 4, version: "v1", takes_ms: 3, fails_every: 0 },
];

/// The replicas that something happens to.
pub(crate) mod cast {
    /// The slow one.
    pub(crate) const SLOW: usize = 4;
    /// Ended by SIGTERM.
    pub(crate) const TERMINATED: usize = 2;
    /// Ended by SIGKILL.
    pub(crate) const KILLED: usize = 3;
    /// Proves another identity than the one announced, where that is the sabotage.
    pub(crate) const IMPOSTOR: usize = 8;
    /// Answers by half, where that is the sabotage.
    pub(crate) const BROKEN: usize = 0;
}

impl Replica {
    /// Its service.
    pub(crate) fn service(&self) -> &'static Service {
        &SERVICES[self.service]
    }

    /// Its host's number.
    pub(crate) fn host(index: usize) -> u8 {
        // The shop is far smaller than a /24.
        u8::try_from(index).unwrap_or(u8::MAX - 20) + 11
    }

    /// Its manifest. Every service account is named after its replica: each has its own identity.
    pub(crate) fn workload(index: usize, network: Network) -> Option<ExternalWorkload> {
        let replica = REPLICAS.get(index)?;
        let id = identity(replica.name)?;
        let port = |name: &str, port: u16| {
            NonZeroU16::new(port).map(|port| WorkloadPort { name: name.to_owned(), port })
        };
        let labels = [("app", replica.service().name), ("version", replica.version)];
        Some(ExternalWorkload {
            meta: Metadata {
                namespace: NAMESPACE.to_owned(),
                name: replica.name.to_owned(),
                labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
                ..Metadata::default()
            },
            server_name: id.as_str().parse::<DnsName>().ok()?,
            identity: id,
            ips: vec![network.host(Self::host(index))],
            ports: [port("app", replica.service().target), port("linkerd-proxy", port::INBOUND)]
                .into_iter()
                .collect::<Option<_>>()?,
            ready: None,
            owner: None,
        })
    }
}

/// A service account's identity in the shop.
pub(crate) fn identity(account: &str) -> Option<Id> {
    Id::service_account(account, NAMESPACE, &MeshNames::default()).ok()
}

/// A split of one service's traffic over its versions, in percent.
pub(crate) type Split = &'static [(&'static str, u32)];

/// The services, and one a version of those that are split.
pub(crate) fn services() -> String {
    let mut text = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n");
    for service in SERVICES {
        push_service(&mut text, service, service.name, None);
    }
    for replica in REPLICAS.iter().filter(|r| r.service < 2) {
        let name = format!("{}-{}", replica.service().name, replica.version);
        push_service(&mut text, replica.service(), &name, Some(replica.version));
    }
    text
}

fn push_service(text: &mut String, service: &Service, name: &str, version: Option<&str>) {
    let version = version.map(|v| format!(", version: {v}")).unwrap_or_default();
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\nspec:\n  \
         selector: {{app: {}{version}}}\n  ports: [{{name: app, port: {}, targetPort: {}}}]\n",
        service.name, service.port, service.target
    );
}

/// A service's profile: its routes and, if it is split, the shares.
pub(crate) fn profile(service: usize, split: Split) -> String {
    let of = &SERVICES[service];
    let mut text = format!(
        "apiVersion: linkerd.io/v1alpha2\nkind: ServiceProfile\nmetadata: {{name: {}, namespace: {NAMESPACE}}}\n\
         spec:\n  routes:\n",
        of.host()
    );
    for route in ROUTES.iter().filter(|route| route.service == service) {
        let pattern = route.path.replace('.', "\\.").replace("{}", "[0-9]+");
        let _ = write!(
            text,
            "  - name: {}\n    condition: {{method: {}, pathRegex: '{pattern}'}}\n",
            route.name, route.method
        );
    }
    if !split.is_empty() {
        text.push_str("  dstOverrides:\n");
    }
    for (version, percent) in split {
        let _ = writeln!(
            text,
            "  - {{authority: '{}-{version}.{NAMESPACE}.svc.cluster.local:{}', weight: {}m}}",
            of.name,
            of.port,
            percent * 10
        );
    }
    text
}

/// An endpoint without an identity, whom requests reach in plaintext: the sabotage of `plaintext`.
pub(crate) fn plaintext_endpoint(address: IpAddr) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: web-plain\n  \
         namespace: {NAMESPACE}\n  labels: {{kubernetes.io/service-name: web-v1}}\naddressType: IPv4\n\
         endpoints: [{{addresses: ['{address}']}}]\nports: [{{name: app, port: 8080}}]\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn every_manifest_of_the_shop_is_sound() {
        let check = |text: &str, objects: usize| {
            let file: Arc<str> = "demo.yaml".into();
            let read = weft_resources::parse::parse(&file, text);
            assert_eq!((read.rejected.len(), read.warnings.len()), (0, 0), "{text}\n{:?}", read.rejected);
            assert_eq!(read.objects.len(), objects, "{text}");
        };
        check(&services(), 1 + SERVICES.len() + 5);
        check(&profile(0, &[("v1", 90), ("v2", 10)]), 1);
        check(&profile(2, &[]), 1);
        check(&plaintext_endpoint([127, 1, 1, 1].into()), 1);
        for index in 0..REPLICAS.len() {
            assert!(Replica::workload(index, Network(9, 9)).is_some());
        }
    }
}
