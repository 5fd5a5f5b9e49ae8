//! The workload's ports: which application answers on each, and under which policy.
//!
//! Made by `run`, asked for each connection that is meant for the workload. It accepts nothing and forwards nothing.

use crate::target::Gateway;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use weft_discover::destination::{Destinations, Held, Keep, Port};
use weft_model::address::{Addr, NameAddr};
use weft_model::name::Suffixes;

/// The workload's ports: which application answers on each.
pub(crate) struct Ports {
    pub(crate) destinations: Destinations,
    pub(crate) inbound_port: u16,
    pub(crate) binds: Vec<(u16, SocketAddr)>,
    pub(crate) permanent: BTreeSet<NonZeroU16>,
    pub(crate) ips: BTreeSet<IpAddr>,
    /// Names that meshed peers may ask to be carried on to.
    pub(crate) gateway: Suffixes,
}

impl Ports {
    /// Asks for the policies of the explicit ports from the start, so that no connection meets the default one.
    pub(crate) fn watch_binds(&self) {
        // What a full cache has no room for is told to whoever connects.
        self.binds.iter().for_each(|(port, app)| drop(self.held(*port, *app)));
    }

    pub(crate) fn held(&self, port: u16, app: SocketAddr) -> Option<Held> {
        let bound = self.binds.iter().any(|(p, _)| *p == port);
        let keep = if bound || NonZeroU16::new(port).is_some_and(|p| self.permanent.contains(&p)) {
            Keep::Forever
        } else {
            Keep::WhileUsed
        };
        self.destinations.inbound(&Port { port, app }, keep).ok()
    }

    /// The application behind a port that a meshed peer named: an explicit bind's, else the same port on the
    /// address that the peer connected to. `None`: the cache is full.
    pub(crate) fn named(&self, port: u16, local: IpAddr) -> Option<Held> {
        let bound = self.binds.iter().find(|(p, _)| *p == port).map(|(_, app)| *app);
        self.held(port, bound.unwrap_or(SocketAddr::new(local, port)))
    }

    /// Where a meshed peer leads that connected to this address and named `name`. `None`: a cache is full.
    pub(crate) fn beyond(&self, name: NameAddr, local: IpAddr) -> Option<Gateway> {
        let door = self.held(self.inbound_port, SocketAddr::new(local, self.inbound_port))?;
        let beyond = match self.gateway.contain(&name.name) {
            true => Some(self.destinations.outbound(&Addr::Name(name.clone())).ok()?),
            false => None,
        };
        Some(Gateway { door, name, beyond })
    }
}
