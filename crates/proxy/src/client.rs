//! Who is at the other end of an accepted connection, and how a reason of ours addresses them.
//!
//! Made by `serve` once TLS is settled; part of every `Via`. Plain data.

use std::net::SocketAddr;
use weft_model::identity::Peer;
use weft_model::reason::{Code, Hop, Phase, Reason};

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
}
