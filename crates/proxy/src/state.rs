//! `/state.json`: what the proxy knows and holds, for people and for `weft` itself.
//!
//! Read-only and bounded by the caches it shows. Secrets never reach it: settings come already masked.

use crate::via::Shared;
use serde_json::{Value, json};
use weft_balance::{EndpointState, backend::EndpointSnapshot};
use weft_discover::destination::Destination;
use weft_discover::destination::Destinations;
use weft_discover::plan::{Backend, Plan};
use weft_identity::renew;
use weft_model::reason;

/// What the page is made of.
pub(crate) struct Seen<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) destinations: &'a Destinations,
    pub(crate) identity: renew::State,
    pub(crate) settings: &'a Value,
}

/// Everything.
pub(crate) fn state(admin: &Seen<'_>) -> Value {
    let mut outbound = Vec::new();
    admin.destinations.each_outbound(|addr, destination| {
        outbound.push(json!({ "destination": addr.to_string(), "plan": of_destination(destination) }));
    });
    let mut inbound = Vec::new();
    admin.destinations.each_inbound(|port, destination| {
        inbound.push(json!({
            "port": port.port,
            "application": port.app.to_string(),
            "plan": of_destination(destination),
        }));
    });
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "reasons_version": reason::VERSION,
        "identity": identity(admin),
        "draining": admin.shared.drains.inbound.is_signaled(),
        "requests_in_flight": {
            "inbound": admin.shared.inbound.count(),
            "outbound": admin.shared.outbound.count(),
        },
        "connections_at_rest": admin.shared.at_rest.load(std::sync::atomic::Ordering::Relaxed),
        "connections": connections(admin),
        "lookups": lookups(admin),
        "outbound": outbound,
        "inbound": inbound,
        "settings": admin.settings,
    })
}

/// Open connections, by what tells them apart.
fn connections(admin: &Seen<'_>) -> Vec<Value> {
    let transports = admin.shared.transports.snapshot();
    let rows = transports.into_iter().map(|row| {
        let labels: serde_json::Map<_, _> = row.labels.into_iter().map(|(k, v)| (k, v.into())).collect();
        json!({ "of": labels, "open": row.open, "bytes_read": row.read, "bytes_written": row.written })
    });
    rows.collect()
}

fn identity(admin: &Seen<'_>) -> Value {
    let state = &admin.identity;
    let unix = |time: std::time::SystemTime| {
        time.duration_since(std::time::UNIX_EPOCH).map(|d| d.as_secs()).unwrap_or_default()
    };
    json!({
        "id": admin.shared.store.local_id().to_string(),
        "not_before": state.validity.map(|v| unix(v.not_before)),
        "not_after": state.validity.map(|v| unix(v.not_after)),
        "issued": state.issued,
        "failed": state.failed,
        "waiting": state.waiting(),
        "last_error": state.last_error,
    })
}

fn lookups(admin: &Seen<'_>) -> Vec<Value> {
    let rows = admin.destinations.lookup().rows();
    rows.into_iter()
        .map(|row| {
            json!({
                "method": row.method.as_str(),
                "about": row.about,
                "phase": row.progress.phase.as_str(),
                "answers": row.progress.answers,
                "requests": row.progress.requests,
                "age_seconds": row.progress.age().map(|a| a.as_secs()),
                "last_error": row.progress.last_error.as_ref().map(ToString::to_string),
                "endpoints": row.known.map(|k| k.endpoints),
            })
        })
        .collect()
}

fn of_destination(destination: &Destination) -> Value {
    match destination.plan() {
        Some(plan) => of_plan(&plan),
        None => Value::Null,
    }
}

fn of_plan(plan: &Plan) -> Value {
    let rules = plan.http1.rules().map(|rule| {
        let backends: Vec<_> =
            rule.each_backend().map(|b| of_backend(b.meta.name(), b.backend.as_ref())).collect();
        json!({ "route": rule.route.name(), "backends": backends })
    });
    let tcp = plan.tcp.iter().map(|rule| {
        let backends: Vec<_> = weft_route::table::each(&rule.backends)
            .map(|b| of_backend(b.meta.name(), b.backend.as_ref()))
            .collect();
        json!({ "route": rule.route.name(), "refused": rule.refusal.is_some(), "backends": backends })
    });
    json!({
        "parent": { "group": plan.parent.group(), "kind": plan.parent.kind(), "namespace": plan.parent.namespace(),
            "name": plan.parent.name(), "port": plan.parent.port() },
        "protocol": format!("{:?}", plan.protocol),
        "age_seconds": plan.since.elapsed().as_secs(),
        "http": rules.collect::<Vec<_>>(),
        "tcp": tcp.collect::<Vec<_>>(),
    })
}

fn of_backend(name: &str, backend: Option<&Backend>) -> Value {
    let Some(backend) = backend else { return json!({ "name": name, "dispatcher": false }) };
    let snapshot = backend.snapshot();
    json!({
        "name": name,
        "known": snapshot.known,
        "ready": snapshot.ready,
        "age_seconds": snapshot.age.map(|a| a.as_secs()),
        "exists": snapshot.exists,
        "failing_fast": !snapshot.open,
        "waiting": snapshot.waiting,
        "last_failure": snapshot.last_failure.map(|(addr, why)| format!("{addr}: {why}")),
        "endpoints": snapshot.endpoints.iter().map(of_endpoint).collect::<Vec<_>>(),
    })
}

fn of_endpoint(endpoint: &EndpointSnapshot) -> Value {
    let state = match &endpoint.state {
        EndpointState::Connecting => "connecting".to_owned(),
        EndpointState::Ready => "ready".to_owned(),
        EndpointState::Failed(why) => format!("failed: {why}"),
    };
    json!({
        "address": endpoint.info.addr.to_string(),
        "identity": endpoint.info.tls.as_ref().map(|t| t.id.to_string()),
        "state": state,
        "ejected": endpoint.ejected.map(|why| why.to_string()),
        "pending": endpoint.pending,
        "estimate_ms": endpoint.estimate.as_secs_f64() * 1e3,
        "labels": *endpoint.info.labels,
    })
}
