//! Endpoints as `WeightedAddr`, and the three kinds of `destination.Update`. Pure.

use super::{duration, encoded};
use bytes::Bytes;
use linkerd2_proxy_api::destination as api;
use prost::Message;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use weft_model::destination::{EndpointInfo, Http2Params, Locality, ProtocolHint, Windows};
use weft_model::identity::{Id, TlsTarget};
use weft_model::route::Labels;

/// Room left for the message around the addresses: tags, lengths.
const ENVELOPE: usize = 64;

pub(super) fn add(addrs: impl Iterator<Item = api::WeightedAddr>, set_labels: &Labels) -> api::Update {
    let set = api::WeightedAddrSet { addrs: addrs.collect(), metric_labels: super::labels(set_labels) };
    api::Update { update: Some(api::update::Update::Add(set)) }
}

pub(super) fn remove(addrs: &[SocketAddr]) -> api::Update {
    let addrs = addrs.iter().map(|a| (*a).into()).collect();
    api::Update { update: Some(api::update::Update::Remove(api::AddrSet { addrs })) }
}

pub(super) fn no_endpoints(exists: bool) -> api::Update {
    api::Update { update: Some(api::update::Update::NoEndpoints(api::NoEndpoints { exists })) }
}

pub(super) fn split<'a>(
    endpoints: impl IntoIterator<Item = &'a EndpointInfo>,
    set_labels: &Labels,
    max_bytes: usize,
) -> Vec<Bytes> {
    let envelope = add(std::iter::empty(), set_labels).encoded_len() + ENVELOPE;
    let (mut messages, mut part, mut size) = (Vec::new(), Vec::new(), envelope);
    for info in endpoints {
        let addr = endpoint(info, set_labels);
        let length = addr.encoded_len();
        let length = 1 + prost::length_delimiter_len(length) + length;
        if size + length > max_bytes && !part.is_empty() {
            messages.push(encoded(&add(std::mem::take(&mut part).into_iter(), set_labels)));
            size = envelope;
        }
        size += length;
        part.push(addr);
    }
    if !part.is_empty() {
        messages.push(encoded(&add(part.into_iter(), set_labels)));
    }
    messages
}

/// Writes one endpoint, leaving out labels that the set already says.
pub(super) fn endpoint(info: &EndpointInfo, set_labels: &Labels) -> api::WeightedAddr {
    api::WeightedAddr {
        addr: Some(info.addr.into()),
        weight: info.weight,
        metric_labels: own_labels(info, set_labels),
        tls_identity: info.tls.as_ref().map(tls),
        protocol_hint: hint(info),
        authority_override: info
            .authority_override
            .clone()
            .map(|authority_override| api::AuthorityOverride { authority_override }),
        http2: info.http2.as_ref().map(http2),
        resource_ref: None,
    }
}

fn own_labels(info: &EndpointInfo, set_labels: &Labels) -> HashMap<String, String> {
    let shared = Arc::ptr_eq(&info.labels, set_labels);
    let own = info.labels.iter().filter(|(k, v)| !shared && set_labels.get(*k) != Some(v));
    let mut labels: HashMap<_, _> = own.map(|(k, v)| (k.clone(), v.clone())).collect();
    // The locality is read from the address's own labels only.
    let locality = match info.locality {
        Locality::Local => "local",
        Locality::Remote => "remote",
        Locality::Unknown => return labels,
    };
    labels.insert("zone_locality".into(), locality.into());
    labels
}

fn tls(target: &TlsTarget) -> api::TlsIdentity {
    use api::tls_identity::{DnsLikeIdentity, Strategy, UriLikeIdentity};
    let strategy = match &target.id {
        Id::Dns(name) => Strategy::DnsLikeIdentity(DnsLikeIdentity { name: name.to_string() }),
        Id::Uri(uri) => Strategy::UriLikeIdentity(UriLikeIdentity { uri: uri.to_string() }),
    };
    let server_name = DnsLikeIdentity { name: target.server_name.to_string() };
    api::TlsIdentity { server_name: Some(server_name), strategy: Some(strategy) }
}

fn hint(info: &EndpointInfo) -> Option<api::ProtocolHint> {
    use api::protocol_hint::{H2, Opaque, OpaqueTransport, Protocol};
    let protocol = match info.hint {
        ProtocolHint::Unknown => None,
        ProtocolHint::Http2 => Some(Protocol::H2(H2 {})),
        ProtocolHint::Opaque => Some(Protocol::Opaque(Opaque {})),
    };
    let opaque_transport =
        info.transport_port.map(|port| OpaqueTransport { inbound_port: port.get().into() });
    (protocol.is_some() || opaque_transport.is_some())
        .then_some(api::ProtocolHint { opaque_transport, protocol })
}

fn http2(params: &Http2Params) -> api::Http2ClientParams {
    use api::http2_client_params::{FlowControl, Internals, KeepAlive};
    let flow_control = params.windows.map(|windows| match windows {
        Windows::Adaptive => FlowControl { adaptive_flow_control: true, ..Default::default() },
        Windows::Fixed { stream, connection } => FlowControl {
            initial_connection_window_size: connection,
            initial_stream_window_size: stream,
            adaptive_flow_control: false,
        },
    });
    let keep_alive = params.keep_alive.map(|k| KeepAlive {
        interval: Some(duration(k.interval)),
        timeout: Some(duration(k.timeout)),
        while_idle: k.while_idle,
    });
    let internals = Internals {
        max_concurrent_reset_streams: params.max_concurrent_reset_streams.unwrap_or(0),
        max_frame_size: params.max_frame_size.unwrap_or(0),
        max_send_buf_size: params.max_send_buf_size.unwrap_or(0),
    };
    let internals = (internals != Internals::default()).then_some(internals);
    api::Http2ClientParams { flow_control, keep_alive, internals }
}
