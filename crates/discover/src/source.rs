//! Who answers: the controllers over their channels, or a test.
//!
//! `lookup.rs` opens its streams here. This file knows which method answers what, which codes of it
//! are final (data-plane facts, section 2.1), and what the proxy says about itself. It never retries.

use crate::channel::Replicas;
use crate::stream::{Answers, Opening};
use futures_util::StreamExt;
use std::num::NonZeroU16;
use std::sync::Arc;
use weft_model::address::{Addr, NameAddr};
use weft_model::destination::EndpointUpdate;
use weft_model::policy::{InboundPolicy, OutboundPolicy};
use weft_model::profile::Profile;
use weft_wire::services::{
    Channel, Code, DestinationClient, DestinationQuery, PolicyClient, PortQuery, Status, Target,
    TrafficQuery, Updates,
};

/// Final codes of `Destination.Get`, `Destination.GetProfile` and `InboundServerPolicies.WatchPort`.
pub(crate) const FINAL: &[Code] = &[Code::InvalidArgument, Code::FailedPrecondition];

/// Final codes of `OutboundPolicies.Watch`. After the last two, a policy is made up from the profile
/// or the address alone.
pub(crate) const FINAL_OUTBOUND: &[Code] =
    &[Code::InvalidArgument, Code::FailedPrecondition, Code::NotFound, Code::Unimplemented];

/// Opens one call for each question. Calls may take as long as they like; dropping one cancels it.
pub trait Source: Send + Sync + 'static {
    /// The endpoints of a name.
    fn endpoints(&self, dst: &NameAddr) -> Opening<EndpointUpdate>;

    /// The profile of an address.
    fn profile(&self, addr: &Addr) -> Opening<Profile>;

    /// The policy of a destination.
    fn outbound_policy(&self, addr: &Addr) -> Opening<OutboundPolicy>;

    /// The policy of a port of our own.
    fn inbound_policy(&self, port: NonZeroU16) -> Opening<InboundPolicy>;

    /// Why nobody can be asked at present, if that is known: calls wait then, and have no error of their own.
    fn trouble(&self) -> Option<String> {
        None
    }
}

/// The destination and the policy controller.
pub struct Controllers {
    destination: DestinationClient,
    policy: PolicyClient,
    context: Arc<str>,
    workload: Arc<str>,
    replicas: Box<[Replicas]>,
}

impl Controllers {
    /// Asks over these channels. `context` (`DESTINATION_CONTEXT`) goes with every destination request,
    /// `workload` (`POLICY_WORKLOAD`) with every policy request; both are opaque to the proxy.
    pub fn new(destination: Channel, policy: Channel, context: &str, workload: &str) -> Self {
        Self {
            destination: DestinationClient::new(destination),
            policy: PolicyClient::new(policy),
            context: context.into(),
            workload: workload.into(),
            replicas: Box::new([]),
        }
    }

    /// Tells of these replicas' troubles while none of a controller is connected.
    #[must_use]
    pub fn telling_of(self, replicas: impl IntoIterator<Item = Replicas>) -> Self {
        Self { replicas: replicas.into_iter().collect(), ..self }
    }

    fn destination_query(&self, path: String) -> DestinationQuery {
        DestinationQuery { path, context: self.context.to_string() }
    }
}

impl Source for Controllers {
    fn endpoints(&self, dst: &NameAddr) -> Opening<EndpointUpdate> {
        let (client, query) = (self.destination.clone(), self.destination_query(dst.to_string()));
        Box::pin(async move {
            let opened = client.endpoints(&query).await.map(|updates| answers(updates, query.path));
            answered_by(opened, EndpointUpdate::NoEndpoints { exists: false })
        })
    }

    fn profile(&self, addr: &Addr) -> Opening<Profile> {
        let (client, query) = (self.destination.clone(), self.destination_query(addr.to_string()));
        let port = NonZeroU16::new(addr.port());
        Box::pin(async move {
            let port = port.ok_or_else(|| no_port(&query.path))?;
            let opened = client.profile(&query, port).await.map(|updates| answers(updates, query.path));
            answered_by(opened, Profile::default())
        })
    }

    fn outbound_policy(&self, addr: &Addr) -> Opening<OutboundPolicy> {
        let client = self.policy.clone();
        let (about, target) = match addr {
            Addr::Socket(socket) => (addr.to_string(), Target::Addr(*socket)),
            Addr::Name(name) => (addr.to_string(), Target::Authority(name.to_string())),
        };
        let query = TrafficQuery { workload: self.workload.to_string(), target };
        Box::pin(async move { client.outbound(&query).await.map(|updates| answers(updates, about)) })
    }

    fn inbound_policy(&self, port: NonZeroU16) -> Opening<InboundPolicy> {
        let client = self.policy.clone();
        let query = PortQuery { workload: self.workload.to_string(), port };
        let about = format!("port {port}");
        Box::pin(async move { client.inbound(&query).await.map(|updates| answers(updates, about)) })
    }

    fn trouble(&self) -> Option<String> {
        self.replicas.iter().find_map(Replicas::trouble)
    }
}

/// Takes NOT_FOUND for the answer that it is, so that requests to a name that does not exist are told so at
/// once instead of waiting; the call then counts as failed and is repeated.
fn answered_by<T: Send + 'static>(
    opened: Result<Answers<T>, Status>,
    nothing: T,
) -> Result<Answers<T>, Status> {
    match opened {
        Err(status) if status.code == Code::NotFound => {
            Ok(futures_util::stream::iter([Ok(nothing), Err(status)]).boxed())
        }
        other => other,
    }
}

fn no_port(path: &str) -> Status {
    Status::new(Code::InvalidArgument, format!("`{path}` has no port"))
}

/// Passes the answers on and logs what had to be left out of them. Only the first such answer of a
/// call is logged, because a set that changes often repeats its faults.
fn answers<T: Send + Unpin + 'static>(updates: Updates<T>, about: String) -> Answers<T> {
    let mut silent = false;
    let answers = updates.map(move |update| {
        let decoded = update?;
        if let (false, Some(first)) = (silent, decoded.warnings.first()) {
            silent = true;
            let more = decoded.warnings.len() - 1;
            tracing::warn!(%about, more, "part of a control plane's answer is ignored: {first}");
        }
        Ok(decoded.value)
    });
    answers.boxed()
}
