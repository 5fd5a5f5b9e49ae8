//! Upgraded connections: after 101, or 2xx to CONNECT, bytes go both ways until both sides are done.
//!
//! `forward` starts a tunnel when it passes such an answer on. The process' drain waits for tunnels.

use crate::headers::Switch;
use crate::passage::Passage;
use crate::via::Via;
use http::StatusCode;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use weft_net::body::Body;
use weft_net::splice;

/// Whether an answer turns its connection into a tunnel.
pub(crate) fn switched(asked: Switch, status: StatusCode) -> bool {
    match asked {
        Switch::None => false,
        Switch::Upgrade => status == StatusCode::SWITCHING_PROTOCOLS,
        Switch::Connect => status.is_success(),
    }
}

/// One side of a tunnel to be: a connection that is about to switch.
pub(crate) struct Side(OnUpgrade);

/// Takes the connection under a request or response, to be had once it has switched.
pub(crate) fn side<M: Upgradable>(message: &mut M) -> Side {
    Side(message.on_upgrade())
}

/// A message whose connection can switch.
pub(crate) trait Upgradable {
    fn on_upgrade(&mut self) -> OnUpgrade;
}

impl Upgradable for http::Request<Body> {
    fn on_upgrade(&mut self) -> OnUpgrade {
        hyper::upgrade::on(self)
    }
}

impl Upgradable for http::Response<Body> {
    fn on_upgrade(&mut self) -> OnUpgrade {
        hyper::upgrade::on(self)
    }
}

/// Relays between the two sides once both have switched. The exchange's `passage` ends with the tunnel.
pub(crate) fn start(via: &Arc<Via>, client: Option<Side>, server: Side, mut passage: Passage) {
    let Some(client) = client else { return };
    let guard = via.shared.drains.of(via.client.hop).guard();
    tokio::spawn(async move {
        let (client, server) = match tokio::try_join!(client.0, server.0) {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!(%error, "an upgraded connection was lost before its tunnel began");
                return;
            }
        };
        let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
        let outcome = splice::relay_io(&mut client, &mut server).await;
        passage.settle_tunnel(&outcome);
        drop(guard);
    });
}
