//! Requests of the proxy API, as the control plane receives them. Their meaning (which workload, which
//! service) is the server's business; only their shape is read here. Pure.

use super::endpoint::socket_addr;
use super::parse;
use crate::WireError;
use crate::services::{CertifyRequest, CertifyResponse, DestinationQuery, PortQuery, Target, TrafficQuery};
use bytes::Buf;
use linkerd2_proxy_api as api;
use std::time::{Duration, SystemTime};

pub(crate) fn destination(bytes: &mut impl Buf) -> Result<DestinationQuery, WireError> {
    let message: api::destination::GetDestination = parse(bytes, "destination.GetDestination")?;
    Ok(DestinationQuery { path: message.path, context: message.context_token })
}

pub(crate) fn traffic(bytes: &mut impl Buf) -> Result<TrafficQuery, WireError> {
    use api::outbound::traffic_spec::Target::*;
    let message: api::outbound::TrafficSpec = parse(bytes, "outbound.TrafficSpec")?;
    let target = match message.target.ok_or(WireError::Missing("target"))? {
        Addr(addr) if addr.port > 65535 => return Err(WireError::invalid("target", "port above 65535")),
        Addr(addr) => {
            let addr = socket_addr(Some(addr));
            Target::Addr(addr.ok_or(WireError::invalid("target", "not an IP address and a port"))?)
        }
        Authority(authority) => Target::Authority(authority),
    };
    Ok(TrafficQuery { workload: message.source_workload, target })
}

pub(crate) fn port(bytes: &mut impl Buf) -> Result<PortQuery, WireError> {
    let message: api::inbound::PortSpec = parse(bytes, "inbound.PortSpec")?;
    let port = u16::try_from(message.port).ok().and_then(std::num::NonZeroU16::new);
    let port = port.ok_or(WireError::invalid("port", "it is outside 1-65535"))?;
    Ok(PortQuery { workload: message.workload, port })
}

pub(crate) fn certify(bytes: &mut impl Buf) -> Result<CertifyRequest, WireError> {
    let message: api::identity::CertifyRequest = parse(bytes, "identity.CertifyRequest")?;
    Ok(CertifyRequest {
        identity: message.identity,
        token: message.token,
        csr: message.certificate_signing_request,
    })
}

/// Reads the authority's answer; `valid_until` is required (§2.6).
pub(crate) fn certified(bytes: &mut impl Buf) -> Result<CertifyResponse, WireError> {
    let message: api::identity::CertifyResponse = parse(bytes, "identity.CertifyResponse")?;
    let valid_until = message.valid_until.ok_or(WireError::Missing("valid_until"))?;
    // Up to the year 9999, as protobuf has it; earlier than 1970 or later is no certificate's end.
    let seconds = u64::try_from(valid_until.seconds).ok().filter(|s| *s <= 253_402_300_799);
    let seconds = seconds.ok_or(WireError::invalid("valid_until", "it is out of range"))?;
    let valid_until = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    if message.leaf_certificate.is_empty() {
        return Err(WireError::Missing("leaf_certificate"));
    }
    Ok(CertifyResponse {
        leaf: message.leaf_certificate,
        intermediates: message.intermediate_certificates,
        valid_until,
    })
}
