//! Objects back to manifests, in the newest version of their schema. Pure.
//!
//! Used by `write.rs` for the files that `weft run` puts beside the user's, and by `state.rs` for the
//! last good snapshot. What it writes, `parse.rs` reads back as the same object.

mod policies;
mod routes;

use crate::kinds::SERVICE_NAME_LABEL;
use crate::values::timestamp;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use weft_model::object::{Metadata, Object};
use weft_model::profile::{ProfileRoute, ResponseClass, ResponseCondition};
use weft_model::route::Condition;
use weft_model::service::{
    Addressing, EndpointSlice, Service, ServiceProfile, SliceEndpoint, TargetKind, TargetPort, TrafficPolicy,
    Transport,
};
use weft_model::workload::ExternalWorkload;

/// An object as a manifest.
pub fn manifest(object: &Object) -> Value {
    let (version, rest) = match object {
        Object::Namespace(_) => ("v1", json!({})),
        Object::Service(o) => ("v1", json!({"spec": service(o)})),
        Object::EndpointSlice(o) => ("discovery.k8s.io/v1", slice(o)),
        Object::ExternalWorkload(o) => ("workload.linkerd.io/v1beta1", workload(o)),
        Object::ServiceProfile(o) => ("linkerd.io/v1alpha2", json!({"spec": profile(o)})),
        Object::Server(o) => ("policy.linkerd.io/v1beta3", json!({"spec": policies::server(o)})),
        Object::ServerAuthorization(o) => {
            ("policy.linkerd.io/v1beta1", json!({"spec": policies::server_authorization(o)}))
        }
        Object::AuthorizationPolicy(o) => {
            ("policy.linkerd.io/v1alpha1", json!({"spec": policies::authorization_policy(o)}))
        }
        Object::MeshTlsAuthentication(o) => {
            ("policy.linkerd.io/v1alpha1", json!({"spec": policies::mesh_tls_authentication(o)}))
        }
        Object::NetworkAuthentication(o) => {
            ("policy.linkerd.io/v1alpha1", json!({"spec": policies::network_authentication(o)}))
        }
        Object::RateLimitPolicy(o) => {
            ("policy.linkerd.io/v1alpha1", json!({"spec": policies::rate_limit(o)}))
        }
        Object::HttpRoute(o) => ("gateway.networking.k8s.io/v1", json!({"spec": routes::route(o)})),
        Object::PolicyHttpRoute(o) => ("policy.linkerd.io/v1beta3", json!({"spec": routes::route(o)})),
        Object::GrpcRoute(o) => ("gateway.networking.k8s.io/v1", json!({"spec": routes::route(o)})),
        Object::TlsRoute(o) => ("gateway.networking.k8s.io/v1alpha2", json!({"spec": routes::route(o)})),
        Object::TcpRoute(o) => ("gateway.networking.k8s.io/v1alpha2", json!({"spec": routes::route(o)})),
        Object::EgressNetwork(o) => {
            ("policy.linkerd.io/v1alpha1", json!({"spec": routes::egress_network(o)}))
        }
        Object::ReferenceGrant(o) => {
            ("gateway.networking.k8s.io/v1beta1", json!({"spec": routes::reference_grant(o)}))
        }
    };
    let mut manifest = Map::new();
    manifest.insert("apiVersion".into(), version.into());
    manifest.insert("kind".into(), object.kind().name().into());
    let mut meta = metadata(object.meta());
    if let Object::ExternalWorkload(workload) = object
        && let Some(owner) = &workload.owner
    {
        meta.insert("ownerReferences".into(), json!([{"kind": owner.kind, "name": owner.name}]));
    }
    manifest.insert("metadata".into(), Value::Object(meta));
    if let Value::Object(rest) = rest {
        manifest.extend(rest);
    }
    Value::Object(manifest)
}

/// A map of the fields that are there.
fn fields<const N: usize>(given: [(&str, Option<Value>); N]) -> Map<String, Value> {
    given.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

fn texts(map: &BTreeMap<String, String>) -> Option<Value> {
    (!map.is_empty()).then(|| json!(map))
}

fn metadata(meta: &Metadata) -> Map<String, Value> {
    fields([
        ("name", Some(json!(meta.name))),
        ("namespace", (!meta.namespace.is_empty()).then(|| json!(meta.namespace))),
        ("labels", texts(&meta.labels)),
        ("annotations", texts(&meta.annotations)),
        ("creationTimestamp", meta.created.map(|c| json!(timestamp(c.0)))),
    ])
}

fn transport(transport: Transport) -> Value {
    match transport {
        Transport::Tcp => json!("TCP"),
        Transport::Other => json!("UDP"),
    }
}

fn service(service: &Service) -> Map<String, Value> {
    let ports = service.ports.iter().map(|p| {
        fields([
            ("name", (!p.name.is_empty()).then(|| json!(p.name))),
            ("port", Some(json!(p.port))),
            (
                "targetPort",
                Some(match &p.target {
                    TargetPort::Number(number) => json!(number),
                    TargetPort::Name(name) => json!(name),
                }),
            ),
            ("protocol", Some(transport(p.transport))),
            ("appProtocol", p.app_protocol.as_ref().map(|a| json!(a))),
        ])
    });
    let mut spec = fields([
        ("selector", texts(&service.selector)),
        ("ports", Some(ports.map(Value::Object).collect())),
        ("internalTrafficPolicy", (service.traffic == TrafficPolicy::Local).then(|| json!("Local"))),
    ]);
    match &service.addressing {
        Addressing::Headless => drop(spec.insert("clusterIP".into(), json!("None"))),
        Addressing::External(name) => {
            spec.insert("type".into(), json!("ExternalName"));
            spec.insert("externalName".into(), json!(name));
        }
        Addressing::Virtual(ips) => {
            if let Some(first) = ips.first() {
                spec.insert("clusterIP".into(), json!(first));
                spec.insert("clusterIPs".into(), json!(ips));
            }
        }
    }
    spec
}

fn slice(slice: &EndpointSlice) -> Value {
    let endpoints: Vec<Value> = slice.endpoints.iter().map(|e| Value::Object(endpoint(e))).collect();
    let ports = slice.ports.as_ref().map(|ports| {
        let ports = ports.iter().map(|p| {
            fields([
                ("name", (!p.name.is_empty()).then(|| json!(p.name))),
                ("port", p.port.map(|n| json!(n))),
                ("protocol", Some(transport(p.transport))),
            ])
        });
        ports.map(Value::Object).collect::<Value>()
    });
    debug_assert!(slice.service.is_empty() || slice.meta.labels.contains_key(SERVICE_NAME_LABEL));
    let v6 = slice.endpoints.iter().flat_map(|e| &e.ips).any(|ip| ip.is_ipv6());
    Value::Object(fields([
        ("addressType", Some(json!(if v6 { "IPv6" } else { "IPv4" }))),
        ("endpoints", Some(json!(endpoints))),
        ("ports", ports),
    ]))
}

fn endpoint(endpoint: &SliceEndpoint) -> Map<String, Value> {
    let target = endpoint.target.as_ref().map(|t| {
        let kind = match t.kind {
            TargetKind::Pod => Some("Pod"),
            TargetKind::ExternalWorkload => Some("ExternalWorkload"),
            TargetKind::Other => None,
        };
        Value::Object(fields([
            ("kind", kind.map(|k| json!(k))),
            ("namespace", Some(json!(t.namespace))),
            ("name", Some(json!(t.name))),
        ]))
    });
    let hints: Vec<Value> = endpoint.hints.iter().map(|zone| json!({"name": zone})).collect();
    fields([
        ("addresses", Some(json!(endpoint.ips))),
        ("conditions", endpoint.ready.map(|ready| json!({"ready": ready}))),
        ("hostname", endpoint.hostname.as_ref().map(|h| json!(h))),
        ("targetRef", target),
        ("nodeName", endpoint.node.as_ref().map(|n| json!(n))),
        ("zone", endpoint.zone.as_ref().map(|z| json!(z))),
        ("hints", (!hints.is_empty()).then(|| json!({"forZones": hints}))),
    ])
}

fn workload(workload: &ExternalWorkload) -> Value {
    let ips: Vec<Value> = workload.ips.iter().map(|ip| json!({"ip": ip})).collect();
    let ports = workload.ports.iter().map(|p| {
        fields([("name", (!p.name.is_empty()).then(|| json!(p.name))), ("port", Some(json!(p.port)))])
    });
    let spec = json!({
        "meshTLS": {"identity": workload.identity.as_str(), "serverName": workload.server_name.as_str()},
        "workloadIPs": ips,
        "ports": ports.map(Value::Object).collect::<Value>(),
    });
    let status = workload.ready.map(|ready| {
        let status = if ready { "True" } else { "False" };
        json!({"conditions": [{"type": "Ready", "status": status}]})
    });
    Value::Object(fields([("spec", Some(spec)), ("status", status)]))
}

fn profile(profile: &ServiceProfile) -> Map<String, Value> {
    let routes: Vec<Value> = profile.routes.iter().map(|r| Value::Object(route(r))).collect();
    let budget = profile.retry_budget.map(|b| {
        json!({
            "retryRatio": b.ratio,
            "minRetriesPerSecond": b.min_per_second,
            "ttl": go_duration(b.ttl),
        })
    });
    let legs: Vec<Value> = profile
        .overrides
        .iter()
        .map(|leg| {
            let authority = match leg.port {
                Some(port) => format!("{}:{port}", leg.host),
                None => leg.host.to_string(),
            };
            json!({"authority": authority, "weight": format!("{}m", leg.weight / 10)})
        })
        .collect();
    fields([
        ("routes", (!routes.is_empty()).then(|| json!(routes))),
        ("retryBudget", budget),
        ("dstOverrides", (!legs.is_empty()).then(|| json!(legs))),
    ])
}

fn route(route: &ProfileRoute) -> Map<String, Value> {
    let classes: Vec<Value> = route.classes.iter().map(class).collect();
    fields([
        ("name", Some(json!(route.labels.get("route").map(String::as_str).unwrap_or_default()))),
        ("condition", Some(condition(&route.condition))),
        ("responseClasses", (!classes.is_empty()).then(|| json!(classes))),
        ("isRetryable", route.retryable.then_some(Value::Bool(true))),
        ("timeout", route.timeout.map(|t| json!(go_duration(t)))),
    ])
}

fn class(class: &ResponseClass) -> Value {
    json!({"condition": response_condition(&class.condition), "isFailure": class.is_failure})
}

fn condition(given: &Condition) -> Value {
    match given {
        Condition::All(parts) => json!({"all": parts.iter().map(condition).collect::<Vec<_>>()}),
        Condition::Any(parts) => json!({"any": parts.iter().map(condition).collect::<Vec<_>>()}),
        Condition::Not(part) => json!({"not": condition(part)}),
        Condition::Path(pattern) => json!({"pathRegex": pattern.0}),
        Condition::Method(method) => json!({"method": method.as_str()}),
    }
}

fn response_condition(given: &ResponseCondition) -> Value {
    match given {
        ResponseCondition::All(parts) => {
            json!({"all": parts.iter().map(response_condition).collect::<Vec<_>>()})
        }
        ResponseCondition::Any(parts) => {
            json!({"any": parts.iter().map(response_condition).collect::<Vec<_>>()})
        }
        ResponseCondition::Not(part) => json!({"not": response_condition(part)}),
        ResponseCondition::Status(range) => json!({"status": {"min": range.min, "max": range.max}}),
    }
}

/// A duration as Go reads it, exact.
fn go_duration(duration: Duration) -> String {
    format!("{}ns", duration.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::parse;
    use std::sync::Arc;

    fn check(text: &str) {
        let file: Arc<str> = "test.yaml".into();
        let read = parse(&file, text);
        assert_eq!((read.rejected, read.warnings), (vec![], vec![]), "{text}");
        for object in read.objects {
            let written = serde_saphyr::to_string(&manifest(&object)).unwrap();
            let mut again = parse(&file, &written);
            assert_eq!((again.rejected.len(), again.warnings.len()), (0, 0), "{written}");
            let mut again = again.objects.remove(0);
            again.meta_mut().origin = object.meta().origin.clone();
            assert_eq!(again, object, "{written}");
        }
    }

    #[test]
    fn what_is_written_is_read_back_the_same() {
        check(
            r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, annotations: {config.linkerd.io/opaque-ports: "80", note: "yes", other: "1e3"}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {a: "true", b: "123"}, creationTimestamp: "2024-01-02T03:04:05Z"}
spec:
  clusterIP: 240.0.0.1
  clusterIPs: [240.0.0.1, "fd00::1"]
  selector: {app: web}
  internalTrafficPolicy: Local
  ports:
  - {name: http, port: 80, targetPort: http, appProtocol: http}
  - {name: dns, port: 53, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: head}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: away}
spec: {type: ExternalName, externalName: example.org}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
endpoints:
- addresses: [10.0.0.1]
  conditions: {ready: false}
  hostname: db-0
  nodeName: n1
  zone: a
  hints: {forZones: [{name: a}, {name: b}]}
  targetRef: {kind: ExternalWorkload, name: db-1, namespace: shop}
- addresses: [10.0.0.2]
ports: [{name: sql, port: 5432, protocol: TCP}, {name: any}]
---
apiVersion: workload.linkerd.io/v1beta1
kind: ExternalWorkload
metadata: {name: db-1, namespace: shop, ownerReferences: [{kind: Deployment, name: db}]}
spec:
  meshTLS: {identity: "spiffe://mesh/db", serverName: db.shop}
  workloadIPs: [{ip: 10.0.0.1}, {ip: "fd00::7"}]
  ports: [{name: sql, port: 5432}]
status: {conditions: [{type: Ready, status: "False"}]}
---
apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata: {name: web.shop.svc.cluster.local, namespace: shop}
spec:
  retryBudget: {retryRatio: 0.25, minRetriesPerSecond: 5, ttl: 15s}
  dstOverrides: [{authority: "a.shop.svc.cluster.local:8080", weight: 1}, {authority: b.shop.svc.cluster.local, weight: 500m}]
  routes:
  - name: GET /books/{id}
    condition: {method: GET, pathRegex: "/books/[^/]*"}
    isRetryable: true
    timeout: 300ms
    responseClasses:
    - {condition: {status: {min: 500}}, isFailure: true}
    - {condition: {any: [{status: {min: 400, max: 404}}, {not: {status: {max: 200}}}]}, isFailure: false}
  - name: other
    condition: {not: {any: [{method: POST}, {all: [{pathRegex: /x}]}]}}
"#,
        );
    }

    #[test]
    fn policies_are_read_back_the_same() {
        check(
            r#"
apiVersion: policy.linkerd.io/v1beta1
kind: Server
metadata: {name: web-http, namespace: shop}
spec:
  externalWorkloadSelector: {matchLabels: {app: web}, matchExpressions: [{key: tier, operator: In, values: [a, b]}, {key: old, operator: DoesNotExist}]}
  port: http
  proxyProtocol: gRPC
---
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: all, namespace: shop}
spec: {podSelector: {}, port: 8080, accessPolicy: audit}
---
apiVersion: policy.linkerd.io/v1beta1
kind: ServerAuthorization
metadata: {name: a, namespace: shop}
spec:
  server: {selector: {matchExpressions: [{key: tier, operator: NotIn, values: [c]}, {key: app, operator: Exists}]}}
  client: {networks: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}], meshTLS: {identities: ["*", "*.shop.serviceaccount", "a.b", "spiffe://mesh/shop/*"]}}
---
apiVersion: policy.linkerd.io/v1beta1
kind: ServerAuthorization
metadata: {name: b, namespace: shop}
spec: {server: {name: all}, client: {meshTLS: {serviceAccounts: [{name: web}, {name: api, namespace: office}]}}}
---
apiVersion: policy.linkerd.io/v1beta1
kind: ServerAuthorization
metadata: {name: c, namespace: shop}
spec: {server: {name: all}, client: {meshTLS: {unauthenticatedTLS: true}}}
---
apiVersion: policy.linkerd.io/v1beta1
kind: ServerAuthorization
metadata: {name: d, namespace: shop}
spec: {server: {name: all}, client: {unauthenticated: true}}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: a, namespace: shop}
spec:
  targetRef: {group: policy.linkerd.io, kind: Server, name: web-http}
  requiredAuthenticationRefs:
  - {group: policy.linkerd.io, kind: MeshTLSAuthentication, name: m}
  - {group: policy.linkerd.io, kind: NetworkAuthentication, name: nets, namespace: office}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: b, namespace: shop}
spec: {targetRef: {kind: Namespace, name: shop}, requiredAuthenticationRefs: [{kind: ServiceAccount, name: web}]}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: c, namespace: shop}
spec: {targetRef: {group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}, requiredAuthenticationRefs: []}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: MeshTLSAuthentication
metadata: {name: m, namespace: shop}
spec: {identityRefs: [{kind: ServiceAccount, name: web}, {kind: Namespace, name: office}]}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: MeshTLSAuthentication
metadata: {name: m2, namespace: shop}
spec: {identities: ["web.shop.serviceaccount.identity.linkerd.cluster.local"]}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: NetworkAuthentication
metadata: {name: nets, namespace: office}
spec: {networks: [{cidr: 192.168.0.0/16}, {cidr: "fd00::/8", except: ["fd00:1::/32"]}, {cidr: 10.0.0.7}]}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: HTTPLocalRateLimitPolicy
metadata: {name: l, namespace: shop}
spec:
  targetRef: {group: policy.linkerd.io, kind: Server, name: web-http}
  total: {requestsPerSecond: 100}
  identity: {requestsPerSecond: 20}
  overrides: [{requestsPerSecond: 50, clientRefs: [{kind: ServiceAccount, name: web, namespace: office}]}]
"#,
        );
    }

    #[test]
    fn routes_are_read_back_the_same() {
        check(
            r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop, annotations: {retry.linkerd.io/http: 5xx}}
spec:
  parentRefs: [{group: core, kind: Service, name: web, port: 80}, {name: gw, sectionName: x}]
  hostnames: [Web.example, "*.example.org"]
  rules:
  - name: first
    matches:
    - path: {type: Exact, value: /a}
      headers: [{name: X-User, value: amy}, {name: x-b, type: RegularExpression, value: "b.*"}]
      queryParams: [{name: q, value: "1"}, {name: r, type: RegularExpression, value: "[0-9]+"}]
      method: PUT
    - path: {type: RegularExpression, value: "/b/.*"}
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x, value: "1"}], add: [{name: yy, value: "2"}], remove: [z]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [z]}}
    backendRefs:
    - {name: web, port: 80, weight: 9}
    - {group: "", kind: Service, name: api, namespace: office, port: 81, filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: a, value: b}]}}]}
    timeouts: {request: 10s, backendRequest: 1s}
  - filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: b.example, port: 8443, statusCode: 302, path: {type: ReplacePrefixMatch, replacePrefixMatch: /c}}}]
  - {}
---
apiVersion: policy.linkerd.io/v1beta3
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{group: policy.linkerd.io, kind: Server, name: web-http}]
  rules: [{matches: [{path: {value: /}}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: g, namespace: shop}
spec:
  parentRefs: [{group: core, kind: Service, name: web, namespace: office}]
  rules: [{matches: [{method: {service: a.B, method: C}, headers: [{name: x, value: z}]}, {method: {method: C}}], backendRefs: [{name: web, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TLSRoute
metadata: {name: t, namespace: shop}
spec:
  parentRefs: [{group: policy.linkerd.io, kind: EgressNetwork, name: all, port: 443}]
  hostnames: ["*.example.org"]
  rules: [{backendRefs: [{group: policy.linkerd.io, kind: EgressNetwork, name: all}]}]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: t, namespace: shop}
spec: {parentRefs: [{group: core, kind: Service, name: db}], rules: [{backendRefs: [{name: db, port: 5432}, {name: db2, port: 5432, weight: 0}]}]}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: EgressNetwork
metadata: {name: all, namespace: shop}
spec: {trafficPolicy: Deny, networks: [{cidr: 0.0.0.0/0, except: [10.0.0.0/8]}]}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: EgressNetwork
metadata: {name: any, namespace: shop}
spec: {trafficPolicy: Allow}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: g, namespace: office}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}, {group: x, kind: Yy, namespace: shop}]
  to: [{group: "", kind: Service}, {group: "", kind: Service, name: api}, {group: "", kind: Secret}]
"#,
        );
    }
}
