//! Verdicts: what became of each object, for logs, `/state.json` and the `check` command.
//!
//! Kubernetes writes this into an object's status; here it is computed whenever somebody asks. Nothing
//! depends on it. [`settle`] is the one rule that decides: of two manifests of the same object the one
//! that was there first stays. Servers and authorizations are judged in `verdict/policies.rs`, routes in
//! `verdict/routes.rs`.

mod policies;
mod routes;

use crate::annotations::{
    DEFAULT_INBOUND_POLICY, OPAQUE_PORTS, PortList, REQUIRE_IDENTITY_PORTS, SKIP_INBOUND_PORTS,
    failure_accrual, grpc_retry, http_retry, load, min_ready, timeouts,
};
use crate::index::Index;
use crate::kept::as_route;
use crate::policies::is_known_app_protocol;
use crate::probes::{self, PROBES};
use crate::scope::Scope;
use std::collections::BTreeMap;
use weft_model::object::{Key, Kind, Metadata, Object, Origin};
use weft_model::policy::DefaultPolicy;
use weft_model::service::{
    Addressing, EndpointSlice, Service, ServiceName, ServiceProfile, TargetKind, Transport,
};
use weft_model::workload::ExternalWorkload;

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which object.
    pub key: Key,
    /// Where it was read.
    pub origin: Origin,
    /// Whether it is in force.
    pub state: State,
    /// What is wrong with parts of it, or worth knowing; at most [`NOTE_LIMIT`].
    pub notes: Vec<String>,
    /// What it does here and would not do under Linkerd's control plane, or the other way round; at most
    /// [`NOTE_LIMIT`].
    pub differs: Vec<String>,
}

/// Notes kept per object.
pub const NOTE_LIMIT: usize = 20;

/// Whether an object is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is.
    Accepted,
    /// Another object claims the same thing and wins.
    Conflicted {
        /// The winner.
        with: Key,
        /// What both claim.
        about: String,
    },
    /// It refers to something that is not there, and has no effect before that comes.
    Dangling {
        /// What is missing.
        missing: String,
    },
    /// It cannot be in force as it is written.
    Refused {
        /// Why.
        why: String,
    },
}

impl State {
    /// In a word.
    pub fn as_str(&self) -> &'static str {
        match self {
            State::Accepted => "accepted",
            State::Conflicted { .. } => "conflicted",
            State::Dangling { .. } => "dangling",
            State::Refused { .. } => "refused",
        }
    }

    /// Why it is not in force, if it is not.
    pub fn why(&self) -> Option<String> {
        match self {
            State::Accepted => None,
            State::Conflicted { with, about } => Some(format!("{about}, with {with}")),
            State::Dangling { missing } => Some(format!("{missing} is missing")),
            State::Refused { why } => Some(why.clone()),
        }
    }
}

/// Verdicts about all objects, ordered by namespace and kind. Costs time in all objects: for people,
/// not for the path of a change.
pub fn verdicts(index: &Index) -> Vec<Verdict> {
    let mut all = Vec::new();
    for (_, scope) in index.scopes() {
        all.extend(
            scope.namespace.iter().map(|n| verdict(Kind::Namespace, &n.meta, State::Accepted, vec![])),
        );
        all.extend(scope.services.values().map(|s| of_service(index, scope, s)));
        all.extend(scope.slices.values().map(|s| of_slice(scope, s)));
        all.extend(scope.workloads.values().map(|w| of_workload(index, &w.object)));
        all.extend(scope.profiles.values().map(|p| of_profile(index, p)));
        all.extend(scope.kept.objects().filter_map(|object| of_policy(index, scope, object)));
    }
    all
}

/// The verdict on a server, authorization, route or the like.
fn of_policy(index: &Index, scope: &Scope, object: &Object) -> Option<Verdict> {
    let opinion = match object {
        Object::Server(server) => policies::server(index, scope, server),
        Object::ServerAuthorization(authorization) => policies::server_authorization(scope, authorization),
        Object::AuthorizationPolicy(policy) => policies::authorization_policy(index, scope, policy),
        Object::MeshTlsAuthentication(authentication) => policies::mesh_tls(authentication),
        Object::NetworkAuthentication(_) | Object::ReferenceGrant(_) => Opinion::default(),
        Object::RateLimitPolicy(limit) => policies::rate_limit(scope, limit),
        Object::EgressNetwork(network) => routes::egress_network(index, network),
        object => routes::route(index, scope, object.kind(), as_route(object)?),
    };
    let mut verdict = verdict(object.kind(), object.meta(), opinion.state, opinion.notes);
    verdict.differs = opinion.differs;
    verdict.differs.truncate(NOTE_LIMIT);
    Some(verdict)
}

/// What is found about an object, before it is told.
struct Opinion {
    state: State,
    notes: Vec<String>,
    differs: Vec<String>,
}

impl Default for Opinion {
    fn default() -> Self {
        Self { state: State::Accepted, notes: Vec::new(), differs: Vec::new() }
    }
}

impl Opinion {
    fn dangling(missing: String) -> Self {
        Self { state: State::Dangling { missing }, ..Self::default() }
    }
}

fn verdict(kind: Kind, meta: &Metadata, state: State, mut notes: Vec<String>) -> Verdict {
    notes.extend(port_lists(meta));
    if let Some(policy) = meta.annotations.get(DEFAULT_INBOUND_POLICY)
        && DefaultPolicy::parse(policy.trim()).is_none()
    {
        notes.push(format!("{DEFAULT_INBOUND_POLICY}: `{policy}` is no policy; nobody is admitted"));
    }
    let probes = meta.annotations.get(PROBES).map(|text| probes::parse(text).1).unwrap_or_default();
    notes.extend(probes.iter().map(|part| format!("{PROBES}: `{part}` is no probe such as `8080/healthz`")));
    notes.truncate(NOTE_LIMIT);
    let key = Key { kind, namespace: meta.namespace.clone(), name: meta.name.clone() };
    Verdict { key, origin: meta.origin.clone(), state, notes, differs: Vec::new() }
}

fn port_lists(meta: &Metadata) -> impl Iterator<Item = String> {
    let keys = [OPAQUE_PORTS, SKIP_INBOUND_PORTS, REQUIRE_IDENTITY_PORTS];
    let lists = keys.into_iter().filter_map(|key| Some((key, meta.annotations.get(key)?)));
    lists.flat_map(|(key, text)| {
        let bad = PortList::parse(text).1;
        bad.into_iter().map(move |part| format!("{key}: `{part}` is not a port, a range or a port name"))
    })
}

fn of_service(index: &Index, scope: &Scope, service: &Service) -> Verdict {
    let mut notes = Vec::new();
    let annotations = &service.meta.annotations;
    notes.extend(failure_accrual(annotations).err());
    notes.extend(min_ready(annotations).err());
    notes.extend(load(annotations).err());
    notes.extend(timeouts(annotations).err());
    notes.extend(http_retry(annotations).err());
    notes.extend(grpc_retry(annotations).err());
    for port in &service.ports {
        if port.transport == Transport::Other {
            notes.push(format!("port {} is not TCP; the mesh leaves it alone", port.port));
        }
        if let Some(app) = port.app_protocol.as_deref().filter(|app| !is_known_app_protocol(app)) {
            notes.push(format!(
                "port {}: appProtocol `{app}` makes the port opaque, without requests, retries or routes",
                port.port
            ));
        }
    }
    let external = matches!(service.addressing, Addressing::External(_));
    if !external && !service.selector.is_empty() && scope.selected(service).next().is_none() {
        notes.push("its selector picks no workload".into());
    }
    let rival = service.virtual_ips().iter().find_map(|ip| {
        let owner = index.service_at(*ip)?;
        (owner.name() != service.name()).then(|| (owner.clone(), *ip))
    });
    let state = match rival {
        Some((owner, ip)) => {
            State::Conflicted { with: Object::Service(owner).key(), about: format!("clusterIP {ip}") }
        }
        None => State::Accepted,
    };
    verdict(Kind::Service, &service.meta, state, notes)
}

fn of_slice(scope: &Scope, slice: &EndpointSlice) -> Verdict {
    let mut notes = Vec::new();
    for target in slice.endpoints.iter().filter_map(|e| e.target.as_ref()) {
        if notes.len() >= NOTE_LIMIT {
            break;
        }
        match target.kind {
            TargetKind::Pod => {
                notes.push(format!(
                    "pod {} is not known; its address is served without identity",
                    target.name
                ));
            }
            TargetKind::ExternalWorkload
                if target.namespace != slice.meta.namespace
                    || !scope.workloads.contains_key(&target.name) =>
            {
                notes
                    .push(format!("external workload {} is not there; its address is left out", target.name));
            }
            _ => {}
        }
    }
    if slice.ports.is_none() {
        notes.push("it has no ports, so its addresses are left out".into());
    }
    let missing = match slice.service.as_str() {
        "" => Some("the label kubernetes.io/service-name".to_owned()),
        name if !scope.services.contains_key(name) => {
            Some(format!("Service {}/{name}", slice.meta.namespace))
        }
        _ => None,
    };
    let state = missing.map_or(State::Accepted, |missing| State::Dangling { missing });
    verdict(Kind::EndpointSlice, &slice.meta, state, notes)
}

fn of_workload(index: &Index, workload: &ExternalWorkload) -> Verdict {
    let mut notes = Vec::new();
    if workload.ips.is_empty() {
        notes.push("it has no addresses, so nobody can reach it".into());
    }
    if workload.ports.is_empty() {
        notes.push("it declares no ports, so no service leads to it".into());
    }
    let rival = workload.ips.iter().find_map(|ip| {
        workload.ports.iter().find_map(|port| {
            let owner = &index.workload_behind(*ip, port.port)?.object;
            (owner.name() != workload.name()).then(|| (owner.clone(), *ip, port.port))
        })
    });
    let state = match rival {
        Some((owner, ip, port)) => State::Conflicted {
            with: Object::ExternalWorkload(owner).key(),
            about: format!("address {ip} with port {port}"),
        },
        None => State::Accepted,
    };
    verdict(Kind::ExternalWorkload, &workload.meta, state, notes)
}

fn of_profile(index: &Index, profile: &ServiceProfile) -> Verdict {
    let state = match index.profiled_service(&profile.meta.name) {
        None => State::Dangling {
            missing: format!(
                "a service name: it must be called `SERVICE.NAMESPACE.svc.{}`",
                index.config().mesh.cluster_domain
            ),
        },
        Some(service) if index.service(&service).is_none() => {
            State::Dangling { missing: format!("Service {service}") }
        }
        Some(_) => State::Accepted,
    };
    let notes = profile
        .overrides
        .iter()
        .filter_map(|leg| {
            let host = crate::ask::service_host(&leg.host, &index.config().mesh.cluster_domain)?;
            let name: ServiceName = host.service;
            index.service(&name).is_none().then(|| format!("dstOverrides: service {name} does not exist"))
        })
        .collect();
    verdict(Kind::ServiceProfile, &profile.meta, state, notes)
}

/// A manifest that lost against another one of the same object.
#[derive(Clone, Debug, PartialEq)]
pub struct Duplicate {
    /// The manifest that is not in force.
    pub rejected: Object,
    /// Where the one in force was read.
    pub kept: Origin,
}

/// Of several manifests of one object (same group, kind, namespace and name) keeps the one whose file
/// was already in force (`incumbent` names it by key), else the first by file name and line: an
/// order that does not depend on when files are read. Gives the kept objects and the losers; both
/// sides are to be reported.
pub fn settle(
    candidates: Vec<Object>,
    incumbent: impl Fn(&Key) -> Option<Origin>,
) -> (BTreeMap<Key, Object>, Vec<Duplicate>) {
    let (mut kept, mut duplicates): (BTreeMap<Key, Object>, Vec<Duplicate>) = (BTreeMap::new(), Vec::new());
    for object in candidates {
        let key = object.key();
        let Some(rival) = kept.get_mut(&key) else {
            kept.insert(key, object);
            continue;
        };
        let held = incumbent(&key);
        let rank = |o: &Object| {
            let origin = &o.meta().origin;
            let in_force = held.as_ref().is_some_and(|h| h.file == origin.file);
            (!in_force, origin.file.clone(), origin.line)
        };
        let loser = if rank(&object) < rank(rival) { std::mem::replace(rival, object) } else { object };
        duplicates.push(Duplicate { rejected: loser, kept: rival.meta().origin.clone() });
    }
    // A manifest that lost to a later loser was compared with what was in force at that moment.
    for duplicate in &mut duplicates {
        if let Some(winner) = kept.get(&duplicate.rejected.key()) {
            duplicate.kept = winner.meta().origin.clone();
        }
    }
    (kept, duplicates)
}
