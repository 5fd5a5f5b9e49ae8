//! Whether a request may pass: a route, an authorization, a place within the rate limit (§4.4).
//!
//! `forward` asks in this order, with the filters before the last, and `opaque` asks for connections. Each refusal is counted under
//! the peer's names and says what came nearest. It decides with `weft_decide` and `weft_route::limit`, and changes nothing else.

use crate::authz::Admission;
use crate::via::Via;
use std::sync::Arc;
use std::time::Instant;
use weft_decide::explain::nearest;
use weft_decide::matching::RequestView;
use weft_decide::permission::Permission;
use weft_discover::plan::{Plan, Rule, Table};
use weft_model::authorization::Authorization;
use weft_model::meta::Meta;
use weft_model::reason::{Code, Phase, Reason};
use weft_route::limit::{Exceeded, Scope};
use weft_route::metrics::Exchange;

/// Authorizations that are looked at for the one that came nearest to admitting a refused client. More would let whoever may
/// not pass choose how long the refusal takes.
const COMPARED: usize = 64;

/// No route is for a request: which came nearest, and what it wanted.
pub(crate) fn no_route(via: &Via, plan: &Plan, (table, request): (&Table, &RequestView<'_>)) -> Reason {
    if via.ends_here() {
        via.shared.authz.http_not_found(via.asked(), plan);
    }
    let mut reason = via.client.reason(Code::NoRoute, Phase::Route);
    reason.evidence.policy = Some(plan.parent.name().to_owned());
    match table.near_miss(request) {
        None => reason,
        Some((route, near)) => {
            let nearest = route.map(|route| format!("; nearest is {}", named(route))).unwrap_or_default();
            reason.detail(format!("{}{nearest}", near.wanted))
        }
    }
}

fn named(meta: &Meta) -> String {
    match meta {
        Meta::Default(name) => format!("default {name}"),
        Meta::Resource(resource) => format!("{} {}/{}", resource.kind, resource.namespace, resource.name),
    }
}

/// Asks whether the client may pass (inbound rules only), and gives the series that its exchange is counted in.
pub(crate) fn authorized(via: &Via, plan: &Plan, rule: &Rule) -> Result<Option<Arc<Exchange>>, Reason> {
    let Some(permission) = &rule.permission else { return Ok(None) };
    match permission.admit(via.client.addr.ip(), &via.client.peer) {
        Some(by) => Ok(Some(via.shared.authz.http_allowed(via.asked(), plan, rule, by))),
        None => {
            via.shared.authz.http_denied(via.asked(), plan, rule);
            Err(unauthorized(via, plan, permission, Phase::Route))
        }
    }
}

/// Asks whether the client may open a connection (inbound only).
pub(crate) fn connected(via: &Via, plan: &Plan) -> Result<(), Reason> {
    let Some(permission) = &plan.permission else { return Ok(()) };
    match admitted(via, permission) {
        Some(by) => {
            via.shared.authz.tcp(via.asked(), plan, Admission::Allowed(by));
            Ok(())
        }
        None => {
            via.shared.authz.tcp(via.asked(), plan, Admission::Denied);
            Err(unauthorized(via, plan, permission, Phase::Accept))
        }
    }
}

/// The authorization that admits the client, if any does.
pub(crate) fn admitted<'a>(via: &Via, permission: &'a Permission) -> Option<&'a Authorization> {
    permission.admit(via.client.addr.ip(), &via.client.peer)
}

/// Nobody admits the client: which authorization came nearest, and which of its clauses fails.
fn unauthorized(via: &Via, plan: &Plan, permission: &Permission, phase: Phase) -> Reason {
    let mut reason = via.client.reason(Code::Unauthorized, phase);
    reason.evidence.policy = Some(plan.parent.name().to_owned());
    let (who, from) = (via.client.who(), via.client.addr.ip());
    let near = nearest(permission.iter().take(COMPARED), from, &via.client.peer);
    let near = match near {
        None => "there is no authorization".to_owned(),
        Some((near, clause)) => format!("nearest is {}: {clause}", named(&near.meta)),
    };
    reason.detail(format!("client {who} at {from}; {near}"))
}

/// Takes the request into account of the port's rate limit, or refuses it.
pub(crate) fn within_limit(via: &Via, plan: &Plan) -> Result<(), Reason> {
    let Some(limit) = &plan.limit else { return Ok(()) };
    let Err(Exceeded { scope, per_second }) = limit.admit(via.client.peer.id(), Instant::now()) else {
        return Ok(());
    };
    let of = &limit.policy().meta;
    via.shared.authz.rate_limited(via.asked(), plan, (of, scope));
    let mut reason = via.client.reason(Code::RateLimited, Phase::Route);
    reason.evidence.policy = Some(of.name().to_owned());
    let whose = match scope {
        Scope::Total => "in all".to_owned(),
        Scope::Identity => format!("from {}", via.client.who()),
    };
    Err(reason.detail(format!("more than {per_second} requests a second {whose}")))
}
