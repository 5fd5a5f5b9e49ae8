//! Endpoints: `destination.Update` and the `WeightedAddr` that profiles and forwards hold (§2.2).
//!
//! An address that cannot be read is skipped; an identity that cannot be read leaves the endpoint
//! plaintext, as the peer does. Pure.

use super::{Warnings, duration};
use linkerd2_proxy_api::destination as api;
use linkerd2_proxy_api::net;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use weft_model::destination::{
    EndpointInfo, EndpointUpdate, Http2Params, KeepAlive, Locality, ProtocolHint, Windows,
};
use weft_model::identity::{Id, TlsTarget};
use weft_model::route::Labels;

/// Labels kept of one map. The control plane sends about ten.
pub(crate) const MAX_LABELS: usize = 32;

/// Bytes of labels that one message may unfold into, because a set's labels are copied into each of its
/// addresses: 10,000 addresses with 1 KiB each need 10 MiB.
pub(crate) const MAX_LABEL_BYTES: usize = 64 * 1024 * 1024;

/// Reads an update; `None` if nothing of it is usable.
pub(super) fn update(message: api::Update, warnings: &mut Warnings) -> Option<EndpointUpdate> {
    use api::update::Update::*;
    match message.update {
        Some(Add(set)) => {
            let mut labels = LabelMerge::new(set.metric_labels, warnings);
            let read = |a| endpoint_with(a, &mut labels, warnings);
            let endpoints: Vec<_> = set.addrs.into_iter().filter_map(read).collect();
            (!endpoints.is_empty()).then_some(EndpointUpdate::Add(endpoints))
        }
        Some(Remove(set)) => {
            let addrs: Vec<_> =
                set.addrs.into_iter().filter_map(|a| read_or_warn(Some(a), warnings)).collect();
            (!addrs.is_empty()).then_some(EndpointUpdate::Remove(addrs))
        }
        Some(NoEndpoints(none)) => Some(EndpointUpdate::NoEndpoints { exists: none.exists }),
        None => {
            warnings.add("an endpoint update of an unknown kind is ignored");
            None
        }
    }
}

/// Reads a lone endpoint; `None` if its address is unusable.
pub(super) fn endpoint(message: api::WeightedAddr, warnings: &mut Warnings) -> Option<EndpointInfo> {
    endpoint_with(message, &mut LabelMerge::new(HashMap::new(), warnings), warnings)
}

/// Reads a socket address; the port is cut to 16 bits as the peer does, and must not be 0.
pub(super) fn socket_addr(addr: Option<net::TcpAddress>) -> Option<SocketAddr> {
    let addr = addr?;
    let port = (addr.port & 0xffff) as u16;
    (port != 0).then_some(SocketAddr::new(ip(addr.ip?)?, port))
}

/// Reads an IP address.
pub(super) fn ip(ip: net::IpAddress) -> Option<IpAddr> {
    use net::ip_address::Ip::*;
    Some(match ip.ip? {
        Ipv4(bits) => IpAddr::V4(Ipv4Addr::from_bits(bits)),
        Ipv6(v6) => IpAddr::V6(v6.into()),
    })
}

fn read_or_warn(addr: Option<net::TcpAddress>, warnings: &mut Warnings) -> Option<SocketAddr> {
    let read = socket_addr(addr);
    if read.is_none() {
        warnings.add("an endpoint without a usable address is skipped");
    }
    read
}

fn endpoint_with(
    message: api::WeightedAddr,
    labels: &mut LabelMerge,
    warnings: &mut Warnings,
) -> Option<EndpointInfo> {
    let addr = read_or_warn(message.addr, warnings)?;
    let hint = message.protocol_hint.unwrap_or_default();
    let locality = locality(&message.metric_labels);
    Some(EndpointInfo {
        addr,
        weight: message.weight,
        labels: labels.merge(message.metric_labels, warnings),
        tls: message.tls_identity.and_then(|id| tls(addr, id, warnings)),
        hint: match hint.protocol {
            Some(api::protocol_hint::Protocol::H2(_)) => ProtocolHint::Http2,
            Some(api::protocol_hint::Protocol::Opaque(_)) => ProtocolHint::Opaque,
            None => ProtocolHint::Unknown,
        },
        transport_port: hint
            .opaque_transport
            .and_then(|t| u16::try_from(t.inbound_port).ok())
            .and_then(NonZeroU16::new),
        authority_override: message.authority_override.and_then(|o| authority(o.authority_override)),
        http2: message.http2.map(|h| http2(addr, h, warnings)),
        locality,
    })
}

/// The locality stands in a label of the address itself; the set's labels do not count.
fn locality(labels: &HashMap<String, String>) -> Locality {
    match labels.get("zone_locality") {
        Some(v) if v.eq_ignore_ascii_case("local") => Locality::Local,
        Some(v) if v.eq_ignore_ascii_case("remote") => Locality::Remote,
        _ => Locality::Unknown,
    }
}

fn authority(text: String) -> Option<String> {
    text.parse::<http::uri::Authority>().is_ok().then_some(text)
}

/// The identity an endpoint must prove. The SNI defaults to a DNS identity, and must be given with a
/// URI identity.
fn tls(addr: SocketAddr, message: api::TlsIdentity, warnings: &mut Warnings) -> Option<TlsTarget> {
    use api::tls_identity::Strategy::*;
    let mut refuse = |why: &str| {
        warnings.add(format!("endpoint {addr} is reached without TLS because {why}"));
        None
    };
    let (id, default_name) = match message.strategy {
        Some(DnsLikeIdentity(dns)) => match dns.name.parse::<weft_model::name::DnsName>() {
            Ok(name) => (Id::Dns(name.clone()), Some(name)),
            Err(e) => return refuse(&format!("its identity is invalid: {e}")),
        },
        Some(UriLikeIdentity(uri)) => match uri.uri.parse::<Id>() {
            Ok(id @ Id::Uri(_)) => (id, None),
            _ => return refuse("its identity is not an absolute URI"),
        },
        None => return refuse("its identity is of an unknown kind"),
    };
    let server_name = match message.server_name {
        Some(name) => match name.name.parse() {
            Ok(name) => name,
            Err(e) => return refuse(&format!("its server name is invalid: {e}")),
        },
        None => match default_name {
            Some(name) => name,
            None => return refuse("its URI identity comes without a server name"),
        },
    };
    Some(TlsTarget { id, server_name })
}

fn http2(addr: SocketAddr, message: api::Http2ClientParams, warnings: &mut Warnings) -> Http2Params {
    let nonzero = |n: u32| (n != 0).then_some(n);
    let windows = message.flow_control.and_then(|f| {
        if f.adaptive_flow_control {
            return Some(Windows::Adaptive);
        }
        let (connection, stream) = (f.initial_connection_window_size, f.initial_stream_window_size);
        (connection != 0 && stream != 0).then_some(Windows::Fixed { stream, connection })
    });
    let keep_alive = message.keep_alive.and_then(|k| {
        let interval = duration(k.interval?, "keep_alive.interval");
        let timeout = duration(k.timeout?, "keep_alive.timeout");
        match (interval, timeout) {
            (Ok(interval), Ok(timeout)) => Some(KeepAlive { interval, timeout, while_idle: k.while_idle }),
            _ => {
                warnings.add(format!("HTTP/2 keepalive of endpoint {addr} is ignored: bad duration"));
                None
            }
        }
    });
    let internals = message.internals.unwrap_or_default();
    Http2Params {
        windows,
        keep_alive,
        max_concurrent_reset_streams: nonzero(internals.max_concurrent_reset_streams),
        max_frame_size: nonzero(internals.max_frame_size),
        max_send_buf_size: nonzero(internals.max_send_buf_size),
    }
}

/// Reads a label map, bounded.
pub(super) fn label_map(
    labels: HashMap<String, String>,
    warnings: &mut Warnings,
) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<_, _> = labels.into_iter().collect();
    if labels.len() > MAX_LABELS {
        warnings.add(format!("only {MAX_LABELS} of {} labels are kept", labels.len()));
        labels = labels.into_iter().take(MAX_LABELS).collect();
    }
    labels
}

/// Lays the labels of addresses over those of their set, shared where an address has none of its own.
struct LabelMerge {
    set: Labels,
    set_bytes: usize,
    budget: usize,
}

impl LabelMerge {
    fn new(set: HashMap<String, String>, warnings: &mut Warnings) -> Self {
        let set = label_map(set, warnings);
        let set_bytes = set.iter().map(|(k, v)| k.len() + v.len() + 64).sum();
        Self { set: Arc::new(set), set_bytes, budget: MAX_LABEL_BYTES }
    }

    fn merge(&mut self, own: HashMap<String, String>, warnings: &mut Warnings) -> Labels {
        if own.is_empty() {
            return self.set.clone();
        }
        let own = label_map(own, warnings);
        match self.budget.checked_sub(self.set_bytes) {
            Some(rest) => {
                self.budget = rest;
                let mut merged = (*self.set).clone();
                merged.extend(own);
                Arc::new(merged)
            }
            None => {
                warnings.add("an endpoint goes without its set's labels: the message has too many");
                Arc::new(own)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::with_warnings;
    use super::*;
    use api::tls_identity::{DnsLikeIdentity, Strategy, UriLikeIdentity};

    fn addr(ip: &str, port: u32) -> Option<net::TcpAddress> {
        let ip: IpAddr = ip.parse().unwrap();
        Some(net::TcpAddress { ip: Some(ip.into()), port })
    }

    fn at(port: u32) -> api::WeightedAddr {
        api::WeightedAddr { addr: addr("10.0.0.1", port), ..Default::default() }
    }

    fn check(message: api::WeightedAddr, expected: Option<EndpointInfo>, warning: &str) {
        let decoded = with_warnings(|w| endpoint(message, w));
        assert_eq!(decoded.value, expected);
        match warning {
            "" => assert_eq!(decoded.warnings, Vec::<String>::new()),
            w => assert!(decoded.warnings.join("\n").contains(w), "{:?} lacks {w}", decoded.warnings),
        }
    }

    fn plain() -> EndpointInfo {
        EndpointInfo { weight: 0, ..EndpointInfo::plain("10.0.0.1:80".parse().unwrap()) }
    }

    fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn unusable_addresses_are_skipped() {
        check(at(80), Some(plain()), "");
        check(at(65536 + 80), Some(plain()), "");
        check(at(0), None, "without a usable address");
        check(api::WeightedAddr::default(), None, "without a usable address");
        let empty_ip = net::TcpAddress { ip: Some(net::IpAddress { ip: None }), port: 80 };
        check(api::WeightedAddr { addr: Some(empty_ip), ..at(80) }, None, "without a usable address");
        let set = api::WeightedAddrSet { addrs: vec![at(0)], ..Default::default() };
        let update_message = api::Update { update: Some(api::update::Update::Add(set)) };
        assert_eq!(with_warnings(|w| update(update_message, w)).value, None);
        assert_eq!(with_warnings(|w| update(api::Update { update: None }, w)).value, None);
    }

    #[test]
    fn ipv6_addresses_are_read() {
        let message = api::WeightedAddr { addr: addr("2001:db8::1", 443), ..at(80) };
        let expected = EndpointInfo { addr: "[2001:db8::1]:443".parse().unwrap(), ..plain() };
        check(message, Some(expected), "");
    }

    #[test]
    fn labels_of_the_address_win_over_those_of_the_set() {
        let own = api::WeightedAddr {
            metric_labels: labels(&[("a", "own"), ("zone_locality", "LOCAL")]),
            ..at(80)
        };
        let set = api::WeightedAddrSet {
            addrs: vec![own, at(81)],
            metric_labels: labels(&[("a", "set"), ("b", "set"), ("zone_locality", "remote")]),
        };
        let message = api::Update { update: Some(api::update::Update::Add(set)) };
        let Some(EndpointUpdate::Add(endpoints)) = with_warnings(|w| update(message, w)).value else {
            panic!()
        };
        let pairs: Vec<_> = endpoints[0].labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(pairs, ["a=own", "b=set", "zone_locality=LOCAL"]);
        assert_eq!(endpoints[0].locality, Locality::Local);
        assert_eq!(endpoints[1].labels["a"], "set");
        assert_eq!(endpoints[1].locality, Locality::Unknown, "the set's label does not count");
    }

    #[test]
    fn label_sets_are_bounded() {
        let many: HashMap<_, _> = (0..100).map(|n| (format!("k{n}"), "v".into())).collect();
        let decoded = with_warnings(|w| endpoint(api::WeightedAddr { metric_labels: many, ..at(80) }, w));
        assert_eq!(decoded.value.unwrap().labels.len(), MAX_LABELS);
        assert!(decoded.warnings[0].contains("32 of 100"));
    }

    #[test]
    fn identities_are_validated_and_bad_ones_mean_plaintext() {
        let dns = |name: &str| Some(Strategy::DnsLikeIdentity(DnsLikeIdentity { name: name.into() }));
        let uri = |uri: &str| Some(Strategy::UriLikeIdentity(UriLikeIdentity { uri: uri.into() }));
        let with = |strategy, sni: Option<&str>| {
            let server_name = sni.map(|name| DnsLikeIdentity { name: name.into() });
            api::WeightedAddr { tls_identity: Some(api::TlsIdentity { server_name, strategy }), ..at(80) }
        };
        let tls = |id: &str, sni: &str| {
            let tls = Some(TlsTarget { id: id.parse().unwrap(), server_name: sni.parse().unwrap() });
            Some(EndpointInfo { tls, ..plain() })
        };
        check(with(dns("web.x"), None), tls("web.x", "web.x"), "");
        check(with(dns("web.x"), Some("sni.x")), tls("web.x", "sni.x"), "");
        check(with(uri("spiffe://m/web"), Some("sni.x")), tls("spiffe://m/web", "sni.x"), "");
        check(with(uri("spiffe://m/web"), None), Some(plain()), "without a server name");
        check(with(uri("not a uri"), Some("sni.x")), Some(plain()), "not an absolute URI");
        check(with(uri("dns.name"), Some("sni.x")), Some(plain()), "not an absolute URI");
        check(with(dns("a b"), None), Some(plain()), "identity is invalid");
        check(with(dns("web.x"), Some("a b")), Some(plain()), "server name is invalid");
        check(with(None, Some("sni.x")), Some(plain()), "unknown kind");
    }

    #[test]
    fn hints_overrides_and_http2_parameters_are_read() {
        use api::http2_client_params::{FlowControl, Internals, KeepAlive as Ka};
        use api::protocol_hint::{H2, OpaqueTransport, Protocol};
        let hint = |port| api::ProtocolHint {
            opaque_transport: Some(OpaqueTransport { inbound_port: port }),
            protocol: Some(Protocol::H2(H2 {})),
        };
        let h2 = |port: Option<u16>| EndpointInfo {
            hint: ProtocolHint::Http2,
            transport_port: port.and_then(NonZeroU16::new),
            ..plain()
        };
        for (port, expected) in [(4143, Some(4143)), (0, None), (65536, None)] {
            check(api::WeightedAddr { protocol_hint: Some(hint(port)), ..at(80) }, Some(h2(expected)), "");
        }
        for (text, kept) in [("web.x:80", true), ("a b", false), ("", false)] {
            let authority_override = Some(api::AuthorityOverride { authority_override: text.into() });
            let expected = EndpointInfo { authority_override: kept.then(|| text.into()), ..plain() };
            check(api::WeightedAddr { authority_override, ..at(80) }, Some(expected), "");
        }
        let flow = |connection, stream, adaptive| {
            Some(FlowControl {
                initial_connection_window_size: connection,
                initial_stream_window_size: stream,
                adaptive_flow_control: adaptive,
            })
        };
        let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let alive = |interval, timeout| Some(Ka { interval, timeout, while_idle: true });
        let fixed = Some(Windows::Fixed { stream: 2, connection: 1 });
        let pings = KeepAlive {
            interval: std::time::Duration::from_secs(10),
            timeout: std::time::Duration::from_secs(3),
            while_idle: true,
        };
        for (flow_control, keep_alive, windows, expected, warning) in [
            (flow(1, 2, false), alive(seconds(10), seconds(3)), fixed, Some(pings), ""),
            (flow(1, 2, true), alive(seconds(10), None), Some(Windows::Adaptive), None, ""),
            (flow(0, 2, false), alive(seconds(-1), seconds(3)), None, None, "bad duration"),
        ] {
            let internals = Internals { max_frame_size: 16384, ..Default::default() };
            let http2 = Some(api::Http2ClientParams { flow_control, keep_alive, internals: Some(internals) });
            let params = Http2Params {
                windows,
                keep_alive: expected,
                max_frame_size: Some(16384),
                ..Default::default()
            };
            let expected = EndpointInfo { http2: Some(params), ..plain() };
            check(api::WeightedAddr { http2, ..at(80) }, Some(expected), warning);
        }
    }
}
