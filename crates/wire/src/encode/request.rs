//! Requests of the proxy API and the authority's answer. Pure.

use super::encoded;
use crate::services::{CertifyRequest, CertifyResponse, DestinationQuery, PortQuery, Target, TrafficQuery};
use bytes::Bytes;
use linkerd2_proxy_api as api;

pub(crate) fn destination(query: &DestinationQuery) -> Bytes {
    encoded(&api::destination::GetDestination {
        scheme: String::new(),
        path: query.path.clone(),
        context_token: query.context.clone(),
    })
}

pub(crate) fn traffic(query: &TrafficQuery) -> Bytes {
    use api::outbound::traffic_spec;
    let target = match &query.target {
        Target::Addr(addr) => traffic_spec::Target::Addr((*addr).into()),
        Target::Authority(authority) => traffic_spec::Target::Authority(authority.clone()),
    };
    let source_workload = query.workload.clone();
    encoded(&api::outbound::TrafficSpec { source_workload, target: Some(target) })
}

pub(crate) fn port(query: &PortQuery) -> Bytes {
    let (workload, port) = (query.workload.clone(), query.port.get().into());
    encoded(&api::inbound::PortSpec { workload, port })
}

pub(crate) fn certify(request: &CertifyRequest) -> Bytes {
    encoded(&api::identity::CertifyRequest {
        identity: request.identity.clone(),
        token: request.token.clone(),
        certificate_signing_request: request.csr.clone(),
    })
}

pub(crate) fn certified(response: &CertifyResponse) -> Bytes {
    encoded(&api::identity::CertifyResponse {
        leaf_certificate: response.leaf.clone(),
        intermediate_certificates: response.intermediates.clone(),
        valid_until: Some(response.valid_until.into()),
    })
}
