//! Who is at the other end of an accepted connection, and how a reason of ours addresses them.
//!
//! Made by `serve` once TLS is settled; part of every `Via`. Plain data.

use crate::reply::Openness;
use std::net::SocketAddr;
use weft_model::identity::Peer;
use weft_model::reason::{Code, Hop, Phase, Reason};
use weft_settings::InformationalHeaders;

/// The client of a connection.
#[derive(Debug)]
pub(crate) struct Client {
    /// Which side of the workload it is on: the application (outbound), or whoever calls it (inbound).
    pub(crate) hop: Hop,
    pub(crate) addr: SocketAddr,
    pub(crate) peer: Peer,
}

impl Client {
    /// A reason of this hop.
    pub(crate) fn reason(&self, code: Code, phase: Phase) -> Reason {
        Reason::new(code, self.hop, phase)
    }

    /// The client, for people.
    pub(crate) fn who(&self) -> String {
        match &self.peer {
            Peer::Tls(Some(id)) => id.to_string(),
            Peer::Tls(None) => "without a certificate".into(),
            Peer::Passthrough(_) | Peer::Plain(_) => "without mesh TLS".into(),
        }
    }

    /// What synthesized answers may tell it.
    pub(crate) fn openness(&self, headers: InformationalHeaders) -> Openness {
        match self.hop {
            Hop::Outbound if headers == InformationalHeaders::Suppressed => Openness::Silent,
            // Whoever reaches an outbound listener is the proxy's own application (but see `Via::openness`).
            Hop::Outbound => Openness::Evidence,
            Hop::Inbound if self.peer.id().is_some() => Openness::Evidence,
            Hop::Inbound => Openness::CodeOnly,
        }
    }
}
