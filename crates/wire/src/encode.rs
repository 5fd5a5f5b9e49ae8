//! From the nouns of `model` to messages; this cannot fail.
//!
//! Called by `services` for requests and by `serve` for answers, which are encoded once and then shared
//! as bytes by every stream that hears of them. Pure. What a message cannot express is replaced by the
//! nearest thing that refuses, never by one that admits or sends more.

mod endpoint;
mod inbound;
mod outbound;
mod profile;
pub(crate) mod request;
mod route;

use bytes::Bytes;
use linkerd2_proxy_api as api;
use prost::Message;
use std::net::SocketAddr;
use std::time::Duration;
use weft_model::destination::{EndpointInfo, EndpointUpdate};
use weft_model::meta::Meta;
use weft_model::policy::{InboundPolicy, OutboundPolicy};
use weft_model::profile::Profile;
use weft_model::route::Labels;

/// Endpoint sets above this many bytes are split into several messages: clients with gRPC's default
/// limit of 4 MiB must be able to read each.
pub const MAX_SET_BYTES: usize = 3 * 1024 * 1024;

/// Longest span that a protobuf duration may have, 10,000 years.
const MAX_SPAN: Duration = Duration::from_secs(315_576_000_000);

/// Writes a `destination.Update`. `set_labels` are those that all endpoints of the name share; they are
/// sent once instead of with every endpoint that has them.
pub fn endpoint_update(update: &EndpointUpdate, set_labels: &Labels) -> Bytes {
    match update {
        EndpointUpdate::Add(endpoints) => {
            encoded(&endpoint::add(endpoints.iter().map(|e| endpoint::endpoint(e, set_labels)), set_labels))
        }
        EndpointUpdate::Remove(addrs) => remove(addrs),
        EndpointUpdate::NoEndpoints { exists: true } => empty(),
        EndpointUpdate::NoEndpoints { exists: false } => absent(),
    }
}

/// Writes endpoints as one or more `Add` messages of at most `max_bytes` each (one endpoint is never
/// split). No endpoints give no message.
pub fn endpoints<'a>(
    endpoints: impl IntoIterator<Item = &'a EndpointInfo>,
    set_labels: &Labels,
    max_bytes: usize,
) -> Vec<Bytes> {
    endpoint::split(endpoints, set_labels, max_bytes)
}

/// Writes a `Remove`.
pub fn remove(addrs: &[SocketAddr]) -> Bytes {
    encoded(&endpoint::remove(addrs))
}

/// Writes a `NoEndpoints` for a name that exists.
pub fn empty() -> Bytes {
    encoded(&endpoint::no_endpoints(true))
}

/// Writes a `NoEndpoints` for a name that does not exist.
pub fn absent() -> Bytes {
    encoded(&endpoint::no_endpoints(false))
}

/// Writes a `destination.DestinationProfile`.
pub fn profile(profile: &Profile) -> Bytes {
    encoded(&profile::profile(profile))
}

/// Writes an `outbound.OutboundPolicy`.
pub fn outbound_policy(policy: &OutboundPolicy) -> Bytes {
    encoded(&outbound::policy(policy))
}

/// Writes an `inbound.Server`.
pub fn inbound_policy(policy: &InboundPolicy) -> Bytes {
    encoded(&inbound::server(policy))
}

fn encoded(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// A duration, cut to what protobuf allows.
fn duration(span: Duration) -> prost_types::Duration {
    let span = span.min(MAX_SPAN);
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0),
    }
}

fn labels(labels: &Labels) -> std::collections::HashMap<String, String> {
    labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn meta(meta: &Meta) -> Option<api::meta::Metadata> {
    use api::meta::metadata::Kind;
    let kind = match meta {
        Meta::Default(name) => Kind::Default(name.to_string()),
        Meta::Resource(r) => Kind::Resource(api::meta::Resource {
            group: r.group.clone(),
            kind: r.kind.clone(),
            name: r.name.clone(),
            namespace: r.namespace.clone(),
            section: r.section.clone(),
            port: r.port.unwrap_or(0).into(),
        }),
    };
    Some(api::meta::Metadata { kind: Some(kind) })
}

#[cfg(test)]
#[path = "encode/tests.rs"]
mod tests;
