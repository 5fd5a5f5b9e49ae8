//! The gateway: what meshed peers of elsewhere ask this proxy to carry on to a destination by its name (§4.6).
//!
//! `forward` comes here with each request and `opaque` with each connection of bytes that the policy of the inbound port itself has
//! admitted, and both go on with the destination's own plan. What has been here before is turned back, and so is what leads to a
//! name that is not served.

use crate::reply::Refusal;
use crate::target::{Gateway, awaited};
use crate::via::Via;
use http::header::{FORWARDED, HOST};
use http::{HeaderMap, HeaderValue, Request, Version};
use std::sync::Arc;
use weft_decide::matching::authority;
use weft_discover::plan::Plan;
use weft_model::reason::{Code, Phase, Reason};
use weft_net::body::Body;

/// Says whether a connection of bytes that the door has let in may go on, and how.
pub(crate) async fn connection(via: &Via, gateway: &Gateway) -> Result<Arc<Plan>, Refusal> {
    turned_back(via)?;
    plan(via, gateway).await
}

/// Says whether a request that the door has let in may go on, and how; notes in it that it was here.
pub(crate) async fn request(
    via: &Via,
    gateway: &Gateway,
    request: &mut Request<Body>,
) -> Result<Arc<Plan>, Refusal> {
    turned_back(via)?;
    let own = via.shared.store.local_id().to_string();
    if passed(request.headers(), &own) {
        return Err(again(via, format!("its `forwarded` header names {own}")).into());
    }
    let plan = plan(via, gateway).await?;
    let host = authority(request.uri(), request.headers()).map(str::to_owned);
    let host = host.unwrap_or_else(|| gateway.name.to_string());
    let bad = |_| via.client.reason(Code::BadRequest, Phase::Head).detail("its host is no header value");
    let (by, client) = (quoted(&own), quoted(&via.client.who()));
    let text = format!("by={by};for={client};host={};proto=https", quoted(&host));
    request.headers_mut().append(FORWARDED, HeaderValue::try_from(text).map_err(bad)?);
    if request.version() != Version::HTTP_2 {
        request.headers_mut().insert(HOST, HeaderValue::try_from(host).map_err(bad)?);
    }
    Ok(plan)
}

/// Nobody goes through the gateway who is the gateway.
fn turned_back(via: &Via) -> Result<(), Reason> {
    match via.client.peer.id() == Some(via.shared.store.local_id()) {
        true => Err(again(via, "the client is this proxy itself".to_owned())),
        false => Ok(()),
    }
}

async fn plan(via: &Via, gateway: &Gateway) -> Result<Arc<Plan>, Refusal> {
    let unserved = |why: &str| {
        let reason = via.client.reason(Code::GatewayDomain, Phase::Discovery);
        Refusal::from(reason.detail(format!("{}: {why}", gateway.name)))
    };
    let beyond = gateway.beyond.as_ref().ok_or_else(|| unserved("not in INBOUND_GATEWAY_SUFFIXES"))?;
    match beyond.plan_now() {
        Some(plan) => Ok(plan),
        None => awaited(&via.client, beyond, via.patience()).await.map_err(|refusal| {
            match refusal.reason().code {
                Code::DiscoveryRefused => unserved("the control plane does not know it"),
                _ => refusal,
            }
        }),
    }
}

fn again(via: &Via, detail: String) -> Reason {
    via.client.reason(Code::LoopDetected, Phase::Route).detail(detail)
}

/// A value of the `forwarded` header (RFC 7239 §4): what is no token is quoted.
fn quoted(value: &str) -> String {
    match value.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)) {
        true => value.to_owned(),
        false => format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

/// Whether a proxy of this identity carried a request on before.
fn passed(headers: &HeaderMap, own: &str) -> bool {
    let values = headers.get_all(FORWARDED).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split([',', ';'])).any(|pair| match pair.trim().split_once('=') {
        Some((name, by)) => name.eq_ignore_ascii_case("by") && by.trim_matches('"').eq_ignore_ascii_case(own),
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_carried_a_request_on_is_found_however_it_is_written() {
        for (value, found) in [
            ("by=gate.mesh", true),
            ("for=a;By=\"GATE.mesh\" ;host=\"x:80\"", true),
            ("for=a, for=b;by=gate.mesh", true),
            ("for=gate.mesh", false),
            ("by=gate.mesh.other", false),
            ("by", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(FORWARDED, HeaderValue::from_static(value))]);
            assert_eq!(passed(&headers, "gate.mesh"), found, "{value}");
        }
    }

    #[test]
    fn what_is_no_token_is_quoted() {
        assert_eq!(quoted("web.shop"), "web.shop");
        assert_eq!(quoted("spiffe://mesh/web"), "\"spiffe://mesh/web\"");
        assert_eq!(quoted("a\"b\\c"), "\"a\\\"b\\\\c\"");
    }
}
