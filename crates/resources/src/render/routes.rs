//! Routes, egress networks and reference grants back to manifests. Pure.
//!
//! Called by `render.rs`; `routes.rs` and `matches.rs` read what this writes.

use super::policies::networks;
use super::{fields, go_duration};
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};
use weft_model::attach::{
    BackendKind, BackendRef, EgressNetwork, EgressTraffic, ParentKind, ParentRef, ReferenceGrant,
    RouteResource, RouteRule,
};
use weft_model::route::{
    Filter, GrpcMatch, HeaderChange, HeaderMatch, HeaderValueMatch, HostMatch, HttpMatch, PathMatch,
    PathRewrite, QueryMatch, QueryValueMatch, Redirect, RequestMatch,
};

const POLICY: &str = "policy.linkerd.io";

/// A list of what there is; nothing if there is nothing.
fn list<T>(items: &[T], write: impl Fn(&T) -> Value) -> Option<Value> {
    (!items.is_empty()).then(|| items.iter().map(write).collect())
}

pub(super) fn route(from: &RouteResource) -> Map<String, Value> {
    fields([
        ("parentRefs", list(&from.parents, parent)),
        ("hostnames", list(&from.hosts, host)),
        ("rules", Some(from.rules.iter().map(rule).collect())),
    ])
}

fn parent(from: &ParentRef) -> Value {
    let (group, kind) = match &from.kind {
        ParentKind::Service => ("core", "Service"),
        ParentKind::EgressNetwork => (POLICY, "EgressNetwork"),
        ParentKind::Server => (POLICY, "Server"),
        ParentKind::Other(text) => text.rsplit_once('/').unwrap_or(("", text)),
    };
    Value::Object(fields([
        ("group", Some(json!(group))),
        ("kind", Some(json!(kind))),
        ("name", Some(json!(from.name))),
        ("namespace", from.namespace.as_ref().map(|namespace| json!(namespace))),
        ("sectionName", from.section.as_ref().map(|section| json!(section))),
        ("port", from.port.map(|port| json!(port))),
    ]))
}

fn host(from: &HostMatch) -> Value {
    match from {
        HostMatch::Exact(host) => json!(host),
        HostMatch::Suffix { reversed_labels } => {
            let labels: Vec<_> = reversed_labels.iter().rev().map(String::as_str).collect();
            json!(format!("*.{}", labels.join(".")))
        }
    }
}

fn rule(from: &RouteRule) -> Value {
    let timeouts = fields([
        ("request", from.request_timeout.map(|limit| json!(go_duration(limit)))),
        ("backendRequest", from.backend_timeout.map(|limit| json!(go_duration(limit)))),
    ]);
    Value::Object(fields([
        ("matches", list(&from.matches, request)),
        ("filters", list(&from.filters, filter)),
        ("backendRefs", list(&from.backends, backend)),
        ("timeouts", (!timeouts.is_empty()).then_some(Value::Object(timeouts))),
    ]))
}

fn backend(from: &BackendRef) -> Value {
    let (group, kind) = match &from.kind {
        BackendKind::Service => ("", "Service"),
        BackendKind::EgressNetwork => (POLICY, "EgressNetwork"),
        BackendKind::Other(text) => text.rsplit_once('/').unwrap_or(("", text)),
    };
    Value::Object(fields([
        ("group", Some(json!(group))),
        ("kind", Some(json!(kind))),
        ("name", Some(json!(from.name))),
        ("namespace", from.namespace.as_ref().map(|namespace| json!(namespace))),
        ("port", from.port.map(|port| json!(port))),
        ("weight", Some(json!(from.weight))),
        ("filters", list(&from.filters, filter)),
    ]))
}

fn request(from: &RequestMatch) -> Value {
    match from {
        RequestMatch::Http(HttpMatch { path, headers, query, method }) => {
            let path = path.as_ref().map(|path| match path {
                PathMatch::Exact(path) => json!({"type": "Exact", "value": path}),
                PathMatch::Prefix(path) => json!({"type": "PathPrefix", "value": path}),
                PathMatch::Regex(pattern) => json!({"type": "RegularExpression", "value": pattern.0}),
            });
            Value::Object(fields([
                ("path", path),
                ("headers", list(headers, header_match)),
                ("queryParams", list(query, query_match)),
                ("method", method.as_ref().map(|method| json!(method.as_str()))),
            ]))
        }
        RequestMatch::Grpc(GrpcMatch { service, method, headers }) => {
            let rpc = fields([
                ("service", service.as_ref().map(|service| json!(service))),
                ("method", method.as_ref().map(|method| json!(method))),
            ]);
            Value::Object(fields([
                ("method", (!rpc.is_empty()).then_some(Value::Object(rpc))),
                ("headers", list(headers, header_match)),
            ]))
        }
    }
}

fn header_match(from: &HeaderMatch) -> Value {
    let (of, value) = match &from.value {
        HeaderValueMatch::Exact(bytes) => ("Exact", String::from_utf8_lossy(bytes).into_owned()),
        HeaderValueMatch::Regex(pattern) => ("RegularExpression", pattern.0.clone()),
    };
    json!({"type": of, "name": from.name.as_str(), "value": value})
}

fn query_match(from: &QueryMatch) -> Value {
    let (of, value) = match &from.value {
        QueryValueMatch::Exact(text) => ("Exact", text),
        QueryValueMatch::Regex(pattern) => ("RegularExpression", &pattern.0),
    };
    json!({"type": of, "name": from.name, "value": value})
}

fn filter(from: &Filter) -> Value {
    match from {
        Filter::RequestHeaders(change) => {
            json!({"type": "RequestHeaderModifier", "requestHeaderModifier": header_change(change)})
        }
        Filter::ResponseHeaders(change) => {
            json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": header_change(change)})
        }
        Filter::Redirect(to) => json!({"type": "RequestRedirect", "requestRedirect": redirect(to)}),
        // The others have no manifest; this one says which filter it stands for.
        Filter::Invalid { message } => {
            let of =
                message.strip_prefix("the filter ").and_then(|rest| rest.strip_suffix(" is not supported"));
            json!({"type": of.unwrap_or("Unknown")})
        }
        Filter::InjectFailure(_) | Filter::Forbidden => json!({"type": "Unknown"}),
    }
}

fn header_change(from: &HeaderChange) -> Map<String, Value> {
    let pair = |(name, value): &(HeaderName, HeaderValue)| json!({"name": name.as_str(), "value": String::from_utf8_lossy(value.as_bytes())});
    fields([
        ("add", list(&from.add, pair)),
        ("set", list(&from.set, pair)),
        ("remove", list(&from.remove, |name| json!(name.as_str()))),
    ])
}

fn redirect(from: &Redirect) -> Map<String, Value> {
    let path = from.path.as_ref().map(|path| match path {
        PathRewrite::Full(path) => json!({"type": "ReplaceFullPath", "replaceFullPath": path}),
        PathRewrite::Prefix(prefix) => json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": prefix}),
    });
    fields([
        ("scheme", from.scheme.as_ref().map(|scheme| json!(scheme))),
        ("hostname", from.host.as_ref().map(|host| json!(host))),
        ("path", path),
        ("port", from.port.map(|port| json!(port))),
        ("statusCode", from.status.map(|status| json!(status.as_u16()))),
    ])
}

pub(super) fn egress_network(from: &EgressNetwork) -> Map<String, Value> {
    let traffic = match from.traffic {
        EgressTraffic::Allow => "Allow",
        EgressTraffic::Deny => "Deny",
    };
    fields([("trafficPolicy", Some(json!(traffic))), ("networks", from.networks.as_deref().map(networks))])
}

pub(super) fn reference_grant(grant: &ReferenceGrant) -> Value {
    let from = grant
        .from
        .iter()
        .map(|(kind, namespace)| json!({"group": kind.group(), "kind": kind.name(), "namespace": namespace}));
    let to = grant.to.iter().map(|name| {
        Value::Object(fields([
            ("group", Some(json!(""))),
            ("kind", Some(json!("Service"))),
            ("name", name.as_ref().map(|name| json!(name))),
        ]))
    });
    json!({"from": from.collect::<Vec<_>>(), "to": to.collect::<Vec<_>>()})
}
