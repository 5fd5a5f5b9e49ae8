//! A connection to the inbound port itself: only meshed proxies, and only with a transport header that says what they mean
//! (§4.2).
//!
//! `run` comes here for each. What the header means is a port of the workload, or a name that this proxy carries it on to as a
//! gateway (`gateway`); `serve` or `opaque` goes on with it. Nothing here looks at a request.

use crate::opaque;
use crate::ports::Ports;
use crate::serve::{Http, Incoming, Look, http, is_own_name, look};
use crate::target::Aim;
use crate::via::{Shared, Via};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use weft_discover::destination::Held;
use weft_identity::store::{Accept, Accepted, disown};
use weft_model::address::NameAddr;
use weft_model::identity::Peer;
use weft_model::reason::{Code, Hop, Phase, Reason};
use weft_net::prefixed::{self, Bounds, Outcome};
use weft_net::stream::Stream;
use weft_wire::header::{self, Header, Progress, Session};

/// Serves one, made to the address `local`.
pub(crate) async fn direct(shared: Arc<Shared>, incoming: Incoming, ports: Arc<Ports>, local: IpAddr) {
    let client = incoming.client;
    if let Err(reason) = served(&shared, incoming, ports, local).await {
        shared.reports.connection(&reason, client);
    }
}

async fn served(
    shared: &Arc<Shared>,
    incoming: Incoming,
    ports: Arc<Ports>,
    local: IpAddr,
) -> Result<(), Reason> {
    let client = incoming.client;
    let (header, peer, stream) = Box::pin(transport_header(shared, incoming)).await?;
    shared.arrivals.header(&header, &peer.id().map(ToString::to_string).unwrap_or_default());
    let (aim, held) = meant(&ports, &header, local)?;
    let via = Via::new(shared.clone(), Hop::Inbound, client, peer, aim);
    match header.session {
        Some(Session::Http1) => http(via, stream, Http::One).await,
        Some(Session::Http2) => http(via, stream, Http::Two).await,
        None => opaque::relay(via.into(), held, stream, None).await,
    }
    Ok(())
}

/// Where a header leads, and the port whose policy says who may go there.
fn meant(ports: &Ports, header: &Header, local: IpAddr) -> Result<(Aim, Held), Reason> {
    let refuse = |code, detail: String| Reason::new(code, Hop::Inbound, Phase::Accept).detail(detail);
    let full = || refuse(Code::Overloaded, "all discovery entries are in use".into());
    if let Some(name) = &header.name {
        let name = NameAddr { name: name.clone(), port: header.port };
        let gateway = ports.beyond(name, local).ok_or_else(full)?;
        let door = gateway.door.clone();
        return Ok((Aim::Gateway(gateway), door));
    }
    if header.port.get() == ports.inbound_port {
        return Err(refuse(Code::LoopDetected, format!("port {}", header.port)));
    }
    let held = ports.named(header.port.get(), local).ok_or_else(full)?;
    Ok((Aim::One(held.clone()), held))
}

async fn transport_header(shared: &Shared, incoming: Incoming) -> Result<(Header, Peer, Stream), Reason> {
    let refuse =
        |detail: &str| Reason::new(Code::TransportHeader, Hop::Inbound, Phase::Accept).detail(detail);
    let limit = shared.settings.inbound.detect_timeout;
    let look = look(incoming.stream, limit, &shared.drains.inbound);
    let (found, stream) = look.await.map_err(|e| refuse(&e.to_string()))?;
    match &found {
        Look::Tls(sni) if is_own_name(shared, sni.as_deref()) => {}
        Look::Silent => return Err(Reason::new(Code::DetectTimeout, Hop::Inbound, Phase::Accept)),
        Look::Tls(_) => {
            // Without this its client could not tell a wrong address from a broken proxy.
            disown(stream).await;
            return Err(refuse("TLS for a name that is not this proxy's"));
        }
        _ => return Err(refuse("not mesh TLS for this proxy")),
    }
    const ALPN: &[&[u8]] = &[header::ALPN];
    let accepted = shared.store.accept(stream, Accept { alpn: ALPN, timeout: limit }).await;
    let Accepted { stream, client, alpn, .. } =
        accepted.map_err(|e| Reason::new(e.code(), Hop::Inbound, Phase::Accept).detail(e.to_string()))?;
    let id = client.ok_or_else(|| refuse("no client certificate"))?;
    if alpn.as_deref() != Some(header::ALPN) {
        return Err(refuse("the transport protocol was not negotiated"));
    }
    let bounds = Bounds { bytes: header::MAX_MESSAGE + 64, time: limit };
    let decide = |bytes: &[u8]| match Header::decode(bytes) {
        Ok(Progress::NeedMore(_)) => None,
        Ok(Progress::Done { header, consumed }) => Some(Ok((header, consumed))),
        Err(error) => Some(Err(error.to_string())),
    };
    let (outcome, mut stream) =
        prefixed::read(stream, bounds, decide).await.map_err(|e| refuse(&e.to_string()))?;
    let Outcome::Decided(decided) = outcome else { return Err(refuse("no transport header")) };
    let (header, consumed) = decided.map_err(|e| refuse(&e))?;
    let mut skipped = vec![0; consumed];
    stream.read_exact(&mut skipped).await.map_err(|e| refuse(&e.to_string()))?;
    Ok((header, Peer::Tls(Some(id)), stream))
}
