//! The life of a connection that is relayed as bytes: permission, rule, backend, endpoint, relay.
//!
//! `serve` comes here when a policy says opaque or TLS, or when the first bytes are no HTTP. A change of
//! policy that no longer admits the client cuts the connection (§4.1).

use crate::arrival::Towards;
use crate::authz::Admission;
use crate::gateway;
use crate::permit;
use crate::target::Aim;
use crate::via::Via;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;
use weft_discover::destination::Held;
use weft_discover::plan::{Plan, TcpRefusal, TcpRule};
use weft_model::reason::{Code, Hop, Phase, Reason};
use weft_net::splice;
use weft_net::stream::Stream;

/// Endpoints tried for a connection before its client is told; each has its own connect timeout.
pub(crate) const TRIES: usize = 3;

/// Relays one connection to its end. `sni`: what the client's TLS named, where it was looked at. Boxed, so that a
/// connection that turns out to be HTTP holds none of this.
pub(crate) fn relay(
    via: Arc<Via>,
    held: Held,
    client: Stream,
    sni: Option<String>,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let client = via.counted(client);
    Box::pin(async move {
        if let Err(reason) = run(&via, &held, client, sni.as_deref()).await {
            via.shared.reports.connection(&reason, via.client.addr);
        }
    })
}

async fn run(via: &Arc<Via>, held: &Held, client: Stream, sni: Option<&str>) -> Result<(), Reason> {
    let asked = match held.plan_now() {
        Some(plan) => plan,
        None => crate::target::awaited(&via.client, held, via.patience())
            .await
            .map_err(|refusal| refusal.reason().clone())?,
    };
    permit::connected(via, &asked)?;
    let plan = match &via.aim {
        Aim::Gateway(gateway) => {
            gateway::connection(via, gateway).await.map_err(|refusal| refusal.reason().clone())?
        }
        _ => asked.clone(),
    };
    let rule = plan.tcp_rule(sni).ok_or_else(|| {
        via.client
            .reason(Code::NoRoute, Phase::Route)
            .detail(format!("no route for the server name {}", sni.unwrap_or("none")))
    })?;
    let towards = match (sni, via.client.hop) {
        (_, Hop::Inbound) => None,
        (Some(name), Hop::Outbound) => Some(Towards::Name(name)),
        (None, Hop::Outbound) => Some(Towards::Address(via.aim.addr())),
    };
    let counted = towards.map(|to| via.shared.arrivals.relayed(&plan, &rule.route, to));
    let outcome = obey(via, (held, &asked, rule), client).await;
    if let Some(counted) = counted {
        counted.ended(outcome.as_ref().err().map(|reason| reason.code));
    }
    outcome
}

/// Does what the rule says, as long as those who were asked first admit the client.
async fn obey(
    via: &Arc<Via>,
    (held, asked, rule): (&Held, &Plan, &TcpRule),
    client: Stream,
) -> Result<(), Reason> {
    match &rule.refusal {
        Some(TcpRefusal::Forbidden) => return Err(via.client.reason(Code::Forbidden, Phase::Route)),
        Some(TcpRefusal::Invalid(why)) => {
            return Err(via.client.reason(Code::InvalidPolicy, Phase::Route).detail(why.clone()));
        }
        None => {}
    }
    let (server, _pending) = connect(via, rule).await?;
    let _guard = via.shared.drains.of(via.client.hop).guard();
    let counters = splice::Counters::default();
    tokio::select! {
        outcome = splice::relay(client, server, &counters) => {
            tracing::debug!(?outcome, "a relayed connection ended");
            Ok(())
        }
        reason = revoked(via, held, asked) => Err(reason),
    }
}

/// Resolves once a later plan no longer admits the client.
async fn revoked(via: &Via, held: &Held, first: &Plan) -> Reason {
    if first.permission.is_none() {
        return std::future::pending().await;
    }
    let mut changes = held.changes();
    loop {
        if changes.changed().await.is_none() {
            return std::future::pending().await;
        }
        let Some(plan) = held.plan_now() else { continue };
        let Some(permission) = &plan.permission else { continue };
        if permit::admitted(via, permission).is_none() {
            via.shared.authz.tcp(via.asked(), &plan, Admission::Terminated);
            return via.client.reason(Code::AuthorizationRevoked, Phase::Response);
        }
    }
}

/// A connection to one of the rule's endpoints. One that refuses is counted against it, and another is
/// tried, since nothing has been sent yet.
async fn connect(
    via: &Via,
    rule: &TcpRule,
) -> Result<(Stream, weft_balance::backend::Pending<weft_discover::plan::Upstream>), Reason> {
    let mut last = None;
    for _ in 0..TRIES {
        let now = Instant::now();
        let backend = choose(rule, now).ok_or_else(|| via.client.reason(Code::NoBackend, Phase::Route))?;
        let balancer =
            backend.backend.as_ref().ok_or_else(|| via.client.reason(Code::NoDispatcher, Phase::Route))?;
        let picked = balancer.ready(None).await.map_err(|unavailable| Reason {
            code: unavailable.code(),
            hop: via.client.hop,
            phase: unavailable.phase,
            evidence: Box::new(unavailable.evidence()),
        })?;
        match picked.endpoint().endpoint.open().await {
            Ok(stream) => {
                let mut pending = picked.into_pending();
                pending.first_frame(Instant::now());
                return Ok((stream, pending));
            }
            Err(error) => {
                let mut reason = via.client.reason(error.code(), Phase::Connect).detail(error.to_string());
                reason.evidence.endpoint = Some(picked.info().addr.to_string());
                picked.into_pending().fail(Instant::now(), None);
                last = Some(reason);
            }
        }
    }
    Err(last.unwrap_or_else(|| via.client.reason(Code::Internal, Phase::Connect)))
}

fn choose(rule: &TcpRule, now: Instant) -> Option<&weft_discover::plan::RuleBackend> {
    weft_route::table::choose(&rule.backends, now, fastrand::f64())
}
