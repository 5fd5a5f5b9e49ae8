//! The kinds of manifests: from a document to an object, with the rules that Kubernetes' schemas and
//! admission would apply, and older versions brought up to date. Pure.
//!
//! Called by `parse.rs` for each document. `render.rs` writes the same kinds; service profiles are in `profile.rs`,
//! servers and authorizations in `policies.rs`, routes in `routes.rs`.

use crate::node::{At, Fields, Node, Problem, Value, Warnings, cut, read};
use crate::policies;
use crate::profile;
use crate::routes;
use crate::scalars::{address, bounded, is_label, is_subdomain, label, port, port_name, transport};
use crate::values::seconds_since_epoch;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use weft_model::object::{Created, Key, Kind, Metadata, Object, Origin};
use weft_model::service::{
    Addressing, EndpointSlice, Namespace, Service, ServicePort, SliceEndpoint, SlicePort, TargetKind,
    TargetPort, TargetRef, TrafficPolicy, Transport,
};
use weft_model::workload::{ExternalWorkload, Owner, WorkloadPort};

/// The label by which a slice names its service.
pub(crate) const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Most bytes of the annotations of one object: Kubernetes' own limit.
pub(crate) const ANNOTATION_LIMIT: usize = 256 << 10;

/// What became of a document.
pub(crate) enum Read {
    /// An object.
    Object(Object),
    /// A kind that is not known, as `apiVersion/kind`.
    Unknown(String),
    /// A known kind that breaks a rule, and which object it was meant to be.
    Rejected(Problem, Option<Key>),
}

/// Reads one document.
pub(crate) fn read_object(node: &Node, file: &Arc<str>, warnings: &Warnings) -> Read {
    let head = read(node, &Warnings::default(), |f| {
        let version = f.required("apiVersion", |at| at.text().map(str::to_owned))?;
        let kind = f.required("kind", |at| at.text().map(str::to_owned))?;
        Ok((version, kind))
    });
    let (version, name) = match head {
        Ok(head) => head,
        Err(problem) => return Read::Rejected(problem, None),
    };
    let (group, number) = version.rsplit_once('/').unwrap_or(("", &version));
    let Some(kind) = Kind::ALL.iter().copied().find(|k| k.name() == name && k.group() == group) else {
        return Read::Unknown(format!("{}/{}", cut(&version), cut(&name)));
    };
    if !versions(kind).contains(&number) {
        let problem = Problem {
            line: node.field("apiVersion").map_or(node.line, |n| n.line),
            field: "apiVersion".into(),
            message: format!(
                "`{}` is not a known version of {name}; known: {:?}",
                cut(&version),
                versions(kind)
            ),
        };
        return Read::Rejected(problem, intended(kind, node));
    }
    let origin = Origin { file: file.clone(), line: node.line };
    let object = read(node, warnings, |f| {
        f.ignore(&["apiVersion", "kind"]);
        let meta = f.required("metadata", |at| metadata(at, kind, &origin))?;
        object(f, meta, kind, number)
    });
    match object {
        Ok(object) => Read::Object(object),
        Err(problem) => Read::Rejected(problem, intended(kind, node)),
    }
}

/// Reads what an object of a kind holds beside its metadata.
fn object(f: &Fields<'_>, meta: Metadata, kind: Kind, version: &str) -> Result<Object, Problem> {
    match kind {
        Kind::Namespace => {
            f.ignore(&["spec", "status"]);
            Ok(Object::Namespace(Arc::new(Namespace { meta })))
        }
        Kind::Service => service(f, meta).map(Arc::new).map(Object::Service),
        Kind::EndpointSlice => slice(f, meta).map(Arc::new).map(Object::EndpointSlice),
        Kind::ExternalWorkload => workload(f, meta, version).map(Arc::new).map(Object::ExternalWorkload),
        Kind::ServiceProfile => profile::service_profile(f, meta).map(Arc::new).map(Object::ServiceProfile),
        Kind::Server => policies::server(f, meta).map(Arc::new).map(Object::Server),
        Kind::ServerAuthorization => {
            policies::server_authorization(f, meta).map(Arc::new).map(Object::ServerAuthorization)
        }
        Kind::AuthorizationPolicy => {
            policies::authorization_policy(f, meta).map(Arc::new).map(Object::AuthorizationPolicy)
        }
        Kind::MeshTlsAuthentication => {
            policies::mesh_tls_authentication(f, meta).map(Arc::new).map(Object::MeshTlsAuthentication)
        }
        Kind::NetworkAuthentication => {
            policies::network_authentication(f, meta).map(Arc::new).map(Object::NetworkAuthentication)
        }
        Kind::RateLimitPolicy => policies::rate_limit(f, meta).map(Arc::new).map(Object::RateLimitPolicy),
        Kind::HttpRoute => routes::route(f, meta, kind).map(Arc::new).map(Object::HttpRoute),
        Kind::PolicyHttpRoute => routes::route(f, meta, kind).map(Arc::new).map(Object::PolicyHttpRoute),
        Kind::GrpcRoute => routes::route(f, meta, kind).map(Arc::new).map(Object::GrpcRoute),
        Kind::TlsRoute => routes::route(f, meta, kind).map(Arc::new).map(Object::TlsRoute),
        Kind::TcpRoute => routes::route(f, meta, kind).map(Arc::new).map(Object::TcpRoute),
        Kind::EgressNetwork => routes::egress_network(f, meta).map(Arc::new).map(Object::EgressNetwork),
        Kind::ReferenceGrant => routes::reference_grant(f, meta).map(Arc::new).map(Object::ReferenceGrant),
    }
}

/// Versions that are read, the newest last (§2).
fn versions(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Namespace | Kind::Service => &["v1"],
        Kind::EndpointSlice => &["v1beta1", "v1"],
        Kind::ExternalWorkload => &["v1alpha1", "v1beta1"],
        Kind::ServiceProfile => &["v1alpha1", "v1alpha2"],
        Kind::Server => &["v1alpha1", "v1beta1", "v1beta2", "v1beta3"],
        Kind::ServerAuthorization => &["v1alpha1", "v1beta1"],
        Kind::AuthorizationPolicy
        | Kind::MeshTlsAuthentication
        | Kind::NetworkAuthentication
        | Kind::RateLimitPolicy
        | Kind::EgressNetwork => &["v1alpha1"],
        Kind::PolicyHttpRoute => &["v1alpha1", "v1beta1", "v1beta2", "v1beta3"],
        Kind::HttpRoute => &["v1alpha2", "v1beta1", "v1"],
        Kind::GrpcRoute => &["v1alpha2", "v1"],
        Kind::TlsRoute => &["v1alpha2", "v1alpha3", "v1"],
        Kind::TcpRoute => &["v1alpha2"],
        Kind::ReferenceGrant => &["v1alpha2", "v1beta1", "v1"],
    }
}

/// Which object a broken document was meant to be.
fn intended(kind: Kind, node: &Node) -> Option<Key> {
    let meta = node.field("metadata")?;
    let text = |key: &str| meta.field(key).and_then(Node::text);
    let name = text("name").filter(|n| is_subdomain(n))?.to_owned();
    let namespace = match kind {
        Kind::Namespace => String::new(),
        _ => text("namespace").filter(|n| !n.is_empty()).unwrap_or("default").to_owned(),
    };
    is_label_or_empty(&namespace).then_some(Key { kind, namespace, name })
}

fn is_label_or_empty(text: &str) -> bool {
    text.is_empty() || is_label(text)
}

fn metadata(at: At<'_>, kind: Kind, origin: &Origin) -> Result<Metadata, Problem> {
    at.fields(|f| {
        f.ignore(&[
            "uid",
            "resourceVersion",
            "managedFields",
            "generation",
            "selfLink",
            "ownerReferences",
            "finalizers",
            "generateName",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ]);
        let name = f.required("name", |at| {
            let name = at.text()?;
            let sound = match kind {
                Kind::Service | Kind::Namespace => is_label(name),
                _ => is_subdomain(name),
            };
            if !sound {
                return Err(at.problem(format!(
                    "`{}` is not a name: lower-case letters, digits and inner hyphens, 63 at most",
                    cut(name)
                )));
            }
            Ok(name.to_owned())
        })?;
        let namespace = f.optional("namespace", |at| {
            let name = at.text()?;
            match is_label_or_empty(name) {
                true => Ok(name.to_owned()),
                false => Err(at.problem(format!("`{}` is not the name of a namespace", cut(name)))),
            }
        })?;
        let namespace = match kind {
            Kind::Namespace => String::new(),
            _ => namespace.filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into()),
        };
        let labels = f.optional("labels", |at| at.entries(label))?.unwrap_or_default();
        let annotations = f.optional("annotations", annotations)?.unwrap_or_default();
        let created = f.optional("creationTimestamp", |at| {
            let text = at.text()?;
            let seconds = seconds_since_epoch(text);
            seconds
                .map(Created)
                .ok_or_else(|| at.problem(format!("`{}` is not a time (RFC 3339)", cut(text))))
        })?;
        Ok(Metadata { namespace, name, labels, annotations, created, origin: origin.clone() })
    })
}

fn annotations(at: At<'_>) -> Result<BTreeMap<String, String>, Problem> {
    let all = at.entries(|_, at| at.text().map(str::to_owned))?;
    let size: usize = all.iter().map(|(k, v)| k.len() + v.len()).sum();
    match size > ANNOTATION_LIMIT {
        true => Err(at.problem(format!("has {size} bytes; the limit is {ANNOTATION_LIMIT}"))),
        false => Ok(all),
    }
}

fn service(f: &Fields<'_>, meta: Metadata) -> Result<Service, Problem> {
    f.ignore(&["status"]);
    let spec = f.optional("spec", |at| {
        at.fields(|f| {
            f.ignore(&[
                "allocateLoadBalancerNodePorts",
                "externalIPs",
                "externalTrafficPolicy",
                "healthCheckNodePort",
                "ipFamilies",
                "ipFamilyPolicy",
                "loadBalancerClass",
                "loadBalancerIP",
                "loadBalancerSourceRanges",
                "publishNotReadyAddresses",
                "sessionAffinity",
                "sessionAffinityConfig",
                "topologyKeys",
                "trafficDistribution",
            ]);
            let addressing = addressing(f)?;
            let selector = f.optional("selector", |at| at.entries(label))?.unwrap_or_default();
            let ports = f.optional("ports", service_ports)?.unwrap_or_default();
            let traffic = f.optional("internalTrafficPolicy", |at| match at.text()? {
                "Cluster" => Ok(TrafficPolicy::Cluster),
                "Local" => Ok(TrafficPolicy::Local),
                other => Err(at.problem(format!("`{}` is neither Cluster nor Local", cut(other)))),
            })?;
            Ok((addressing, selector, ports, traffic.unwrap_or_default()))
        })
    })?;
    let (addressing, selector, ports, traffic) = spec.unwrap_or((
        Addressing::Virtual(Vec::new()),
        BTreeMap::new(),
        Vec::new(),
        TrafficPolicy::Cluster,
    ));
    Ok(Service { meta, addressing, selector, ports, traffic })
}

fn addressing(f: &Fields<'_>) -> Result<Addressing, Problem> {
    let external = f.optional("type", |at| match at.text()? {
        "ClusterIP" | "NodePort" | "LoadBalancer" => Ok(false),
        "ExternalName" => Ok(true),
        other => Err(at.problem(format!("`{}` is not a type of service", cut(other)))),
    })?;
    let given = |at: At<'_>| match at.text()? {
        "" => Ok(Some(None)),
        "None" => Ok(None),
        _ => address(at).map(|ip| Some(Some(ip))),
    };
    // `None` in place of an address makes a service headless.
    let first = f.optional("clusterIP", given)?;
    let list = f.optional("clusterIPs", |at| {
        let list = at.items(given)?;
        match list.len() > 2 {
            true => Err(at.problem("has more than two addresses")),
            false => Ok(list),
        }
    })?;
    let name = f.optional("externalName", |at| at.text().map(str::to_owned))?;
    if external == Some(true) {
        return match name {
            Some(name) => Ok(Addressing::External(name)),
            None => f.required("externalName", |_| Ok(Addressing::Headless)),
        };
    }
    let all = || list.iter().flatten().chain(&first);
    if all().any(Option::is_none) {
        return match all().all(Option::is_none) {
            true => Ok(Addressing::Headless),
            false => {
                Err(f.at.problem("clusterIP and clusterIPs disagree: one is None, the other an address"))
            }
        };
    }
    let mut ips: Vec<IpAddr> = Vec::new();
    for ip in first.iter().chain(list.iter().flatten()).filter_map(|ip| ip.flatten()) {
        match ips.iter().find(|other| other.is_ipv4() == ip.is_ipv4()) {
            None => ips.push(ip),
            Some(other) if *other == ip => {}
            Some(other) => {
                return Err(f.at.problem(format!("two cluster IPs of one family, {other} and {ip}")));
            }
        }
    }
    Ok(Addressing::Virtual(ips))
}

fn service_ports(at: At<'_>) -> Result<Vec<ServicePort>, Problem> {
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    let count = match &at.node.value {
        Value::List(list) => list.len(),
        _ => 0,
    };
    let ports = at.items(|item| {
        item.fields(|f| {
            f.ignore(&["nodePort"]);
            let name = f.optional("name", port_name)?.unwrap_or_default();
            if name.is_empty() && count > 1 {
                return Err(item.problem("needs a name, because the service has several ports"));
            }
            if !names.insert(name.clone()) {
                return Err(item.problem(format!("another port is called `{name}` too")));
            }
            let number = f.required("port", port)?;
            let transport = transport(f)?;
            if !numbers.insert((number, transport == Transport::Tcp)) {
                return Err(item.problem(format!("port {number} is declared twice")));
            }
            let target = f.optional("targetPort", |at| match &at.node.value {
                Value::Text(text) => match text.parse() {
                    Ok(number) => Ok(TargetPort::Number(number)),
                    Err(_) => port_name(at).map(TargetPort::Name),
                },
                _ => port(at).map(TargetPort::Number),
            })?;
            let app_protocol = f.optional("appProtocol", |at| at.text().map(str::to_owned))?;
            Ok(ServicePort {
                name,
                port: number,
                target: target.unwrap_or(TargetPort::Number(number)),
                transport,
                app_protocol: app_protocol.filter(|p| !p.is_empty()),
            })
        })
    })?;
    bounded(at, ports)
}

fn slice(f: &Fields<'_>, meta: Metadata) -> Result<EndpointSlice, Problem> {
    let service = meta.labels.get(SERVICE_NAME_LABEL).cloned().unwrap_or_default();
    let fqdn = f.optional("addressType", |at| match at.text()? {
        "IPv4" | "IPv6" | "IP" => Ok(false),
        "FQDN" => {
            at.warn("names are not resolved; list addresses instead");
            Ok(true)
        }
        other => Err(at.problem(format!("`{}` is not IPv4, IPv6 or FQDN", cut(other)))),
    })?;
    let ports = f.optional("ports", |at| {
        let ports = at.items(|at| {
            at.fields(|f| {
                f.ignore(&["appProtocol"]);
                let name = f.optional("name", port_name)?.unwrap_or_default();
                Ok(SlicePort { name, port: f.optional("port", port)?, transport: transport(f)? })
            })
        })?;
        bounded(at, ports)
    })?;
    let namespace = meta.namespace.clone();
    let endpoints = f.optional("endpoints", |at| {
        let list = at.items(|at| slice_endpoint(at, &namespace, fqdn == Some(true)))?;
        bounded(at, list)
    })?;
    Ok(EndpointSlice { meta, service, endpoints: endpoints.unwrap_or_default(), ports })
}

fn slice_endpoint(at: At<'_>, namespace: &str, fqdn: bool) -> Result<SliceEndpoint, Problem> {
    at.fields(|f| {
        f.ignore(&["deprecatedTopology"]);
        let ips = match fqdn {
            true => f.required("addresses", |_| Ok(Vec::new()))?,
            false => f.required("addresses", |at| bounded(at, at.items(address)?))?,
        };
        let ready = f.optional("conditions", |at| {
            at.fields(|f| {
                f.ignore(&["serving", "terminating"]);
                f.optional("ready", |at| at.boolean())
            })
        })?;
        // The first version said zone and host in one map.
        let topology = f.optional("topology", |at| at.entries(label))?.unwrap_or_default();
        let from_topology = |key: &str| topology.get(key).cloned();
        let target = f.optional("targetRef", |at| {
            at.fields(|f| {
                f.ignore(&["apiVersion", "uid", "resourceVersion", "fieldPath"]);
                let kind = match f.optional("kind", |at| at.text().map(str::to_owned))?.as_deref() {
                    Some("Pod") => TargetKind::Pod,
                    Some("ExternalWorkload") => TargetKind::ExternalWorkload,
                    _ => TargetKind::Other,
                };
                let named = f.optional("namespace", |at| at.text().map(str::to_owned))?;
                let name = f.optional("name", |at| at.text().map(str::to_owned))?.unwrap_or_default();
                Ok(TargetRef { kind, namespace: named.unwrap_or_else(|| namespace.to_owned()), name })
            })
        })?;
        let hints = f.optional("hints", |at| {
            at.fields(|f| {
                f.ignore(&["forNodes"]);
                let zones = f.optional("forZones", |at| {
                    at.items(|at| at.fields(|f| f.required("name", |at| at.text().map(str::to_owned))))
                })?;
                Ok(zones.unwrap_or_default())
            })
        })?;
        let text = |key: &str| f.optional(key, |at| at.text().map(str::to_owned));
        Ok(SliceEndpoint {
            ips,
            ready: ready.flatten(),
            hostname: text("hostname")?,
            target,
            node: text("nodeName")?.or_else(|| from_topology(ExternalWorkload::HOST_LABEL)),
            zone: text("zone")?.or_else(|| from_topology(ExternalWorkload::ZONE_LABEL)),
            hints: hints.unwrap_or_default(),
        })
    })
}

fn workload(f: &Fields<'_>, meta: Metadata, version: &str) -> Result<ExternalWorkload, Problem> {
    let owner = f.required("metadata", owner)?;
    let (tls, most_ips) = if version == "v1alpha1" { ("meshTls", 1) } else { ("meshTLS", 2) };
    let (identity, server_name, ips, ports) = f.required("spec", |at| {
        at.fields(|f| {
            let (identity, server_name) = f.required(tls, |at| {
                at.fields(|f| {
                    let identity = f.required("identity", |at| {
                        at.parsed("an identity: a DNS name or a URI such as spiffe://mesh/name")
                    })?;
                    Ok((identity, f.required("serverName", |at| at.parsed("a DNS name"))?))
                })
            })?;
            let ips = f.optional("workloadIPs", |at| {
                let ips = at.items(|at| at.fields(|f| f.required("ip", address)))?;
                match ips.len() > most_ips {
                    true => Err(at.problem(format!("has {} addresses; the limit is {most_ips}", ips.len()))),
                    false => Ok(ips),
                }
            })?;
            let ports = f.optional("ports", workload_ports)?;
            Ok((identity, server_name, ips.unwrap_or_default(), ports.unwrap_or_default()))
        })
    })?;
    let ready = f.optional("status", |at| at.fields(readiness))?.flatten();
    Ok(ExternalWorkload { meta, identity, server_name, ips, ports, ready, owner })
}

/// The one owner of an object. Several make none, as in the peer.
fn owner(at: At<'_>) -> Result<Option<Owner>, Problem> {
    let Some(list) = at.node.field("ownerReferences") else { return Ok(None) };
    let Value::List(list) = &list.value else { return Ok(None) };
    let [one] = &list[..] else { return Ok(None) };
    let text = |key: &str| one.field(key).and_then(Node::text).filter(|t| is_subdomain(&t.to_lowercase()));
    Ok(text("kind").zip(text("name")).map(|(kind, name)| Owner { kind: kind.into(), name: name.into() }))
}

fn workload_ports(at: At<'_>) -> Result<Vec<WorkloadPort>, Problem> {
    let mut names = BTreeSet::new();
    let ports = at.items(|item| {
        item.fields(|f| {
            let name = f.optional("name", port_name)?.unwrap_or_default();
            if !name.is_empty() && !names.insert(name.clone()) {
                return Err(item.problem(format!("another port is called `{name}` too")));
            }
            let port = f.required("port", port)?;
            Ok((WorkloadPort { name, port }, transport(f)?))
        })
    })?;
    let ports = bounded(at, ports)?;
    Ok(ports.into_iter().filter(|(_, t)| *t == Transport::Tcp).map(|(port, _)| port).collect())
}

/// What the `Ready` condition says; nothing else of a status has an effect.
fn readiness(f: &Fields<'_>) -> Result<Option<bool>, Problem> {
    let conditions = f.optional("conditions", |at| {
        at.items(|at| {
            at.fields(|f| {
                f.ignore(&["lastProbeTime", "lastTransitionTime", "message", "reason", "observedGeneration"]);
                let kind = f.required("type", |at| at.text().map(str::to_owned))?;
                let status = f.required("status", |at| match at.text()? {
                    status @ ("True" | "False" | "Unknown") => Ok(status == "True"),
                    other => {
                        Err(at.problem(format!("`{}` is not \"True\", \"False\" or \"Unknown\"", cut(other))))
                    }
                })?;
                Ok((kind, status))
            })
        })
    })?;
    Ok(conditions.into_iter().flatten().find(|(kind, _)| kind == "Ready").map(|(_, status)| status))
}
