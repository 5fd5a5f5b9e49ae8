//! What all requests of one connection have in common: where it came from, who is at its other end, where
//! it leads, and what the whole proxy shares.
//!
//! `serve` makes one `Via` a connection; `forward` reads it for each request.

use crate::admit::Admission;
use crate::arrival::Arrivals;
use crate::authz::{self, Asked, Authz, LastAllowed};
use crate::client::Client;
use crate::received::LastName;
use crate::reply::Openness;
use crate::report::{Reports, Subject};
use crate::target::Aim;
use http::{Request, StatusCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use weft_connect::transport::Transports;
use weft_discover::received::Received;
use weft_identity::store::Store;
use weft_model::reason::{Hop, Reason};
use weft_net::drain::Drain;
use weft_net::guard::Handle;
use weft_net::stream::Stream;
use weft_route::retry::Budget;
use weft_settings::{InformationalHeaders, Settings};

/// What every connection of the proxy shares.
pub(crate) struct Shared {
    pub(crate) settings: Arc<Settings>,
    pub(crate) store: Store,
    pub(crate) reports: Reports,
    pub(crate) authz: Authz,
    pub(crate) arrivals: Arrivals,
    pub(crate) transports: Transports,
    /// The profiles of the names that inbound requests bear, unless none may have one.
    pub(crate) received: Option<Received>,
    /// Pays for sending requests again that were certainly not processed.
    pub(crate) unprocessed: Budget,
    pub(crate) inbound: Admission,
    pub(crate) outbound: Admission,
    /// HTTP/1 connections that hold no buffers, because nothing is under way on them.
    pub(crate) at_rest: AtomicUsize,
    pub(crate) drains: Drains,
}

/// The drains of both directions. Outbound goes on until inbound has ended: the application may need others to
/// finish what it was asked.
pub(crate) struct Drains {
    pub(crate) inbound: Drain,
    pub(crate) outbound: Drain,
}

impl Drains {
    /// The drain of one direction.
    pub(crate) fn of(&self, hop: Hop) -> &Drain {
        match hop {
            Hop::Inbound => &self.inbound,
            Hop::Outbound => &self.outbound,
        }
    }
}

/// One connection.
pub(crate) struct Via {
    pub(crate) shared: Arc<Shared>,
    pub(crate) client: Client,
    pub(crate) aim: Aim,
    /// The guard over an HTTP/1 connection's reads, told how upgrades were answered.
    pub(crate) guard: Option<Handle>,
    pub(crate) closing: Closing,
    pub(crate) allowed: LastAllowed,
    pub(crate) name: LastName,
    /// Exchanges under way on this connection.
    pub(crate) under_way: AtomicUsize,
    /// Whether the client sent a request's body too slowly.
    pub(crate) late: AtomicBool,
}

/// A request's place in the bound of its direction, and among those under way on its connection. Given back on
/// drop.
pub(crate) struct Admitted(Arc<Via>);

impl Admitted {
    /// Takes a place, or `None` if all of this direction are taken.
    pub(crate) fn of(via: &Arc<Via>) -> Option<Self> {
        via.admission().enter().then(|| {
            via.under_way.fetch_add(1, Ordering::Relaxed);
            Self(via.clone())
        })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
        self.0.admission().leave();
    }
}

/// Asks a connection to close after the responses under way.
#[derive(Default)]
pub(crate) struct Closing {
    asked: AtomicBool,
    notify: Notify,
}

impl Closing {
    /// Resolves when the connection should close.
    pub(crate) async fn asked(&self) {
        let notified = self.notify.notified();
        if !self.asked.load(Ordering::Acquire) {
            notified.await;
        }
    }
}

impl Via {
    /// The bound on requests in flight in this direction.
    pub(crate) fn admission(&self) -> &Admission {
        match self.client.hop {
            Hop::Inbound => &self.shared.inbound,
            Hop::Outbound => &self.shared.outbound,
        }
    }

    /// What synthesized answers may tell this client.
    pub(crate) fn openness(&self) -> Openness {
        let silent = self.shared.settings.informational_headers == InformationalHeaders::Suppressed;
        // Whoever reaches an outbound listener is the proxy's own application; but who uses the forward proxy from
        // elsewhere is not.
        let local = !matches!(self.aim, Aim::Each(_)) || self.client.addr.ip().to_canonical().is_loopback();
        match self.client.hop {
            Hop::Outbound if silent => Openness::Silent,
            Hop::Outbound if local => Openness::Evidence,
            Hop::Inbound if self.client.peer.id().is_some() => Openness::Evidence,
            Hop::Outbound | Hop::Inbound => Openness::CodeOnly,
        }
    }

    /// What a log line about a request says of it. Cheap: it shares the request's own bytes.
    pub(crate) fn subject<B>(&self, request: &Request<B>) -> Subject {
        Subject {
            method: request.method().clone(),
            uri: request.uri().clone(),
            host: request.headers().get(http::header::HOST).cloned(),
        }
    }

    /// Counts and logs why a request was refused.
    pub(crate) fn report(&self, reason: &Reason, subject: &Subject) {
        self.shared.reports.request(reason, subject, &self.client);
    }

    /// Whether what arrives is for the workload itself.
    pub(crate) fn ends_here(&self) -> bool {
        self.client.hop == Hop::Inbound && !matches!(self.aim, Aim::Gateway(_))
    }

    /// Closes the client's connection once the responses under way are done.
    pub(crate) fn close_after_this(&self) {
        self.closing.asked.store(true, Ordering::Release);
        self.closing.notify.notify_one();
    }

    /// How long a first answer about a destination is awaited.
    pub(crate) fn patience(&self) -> Duration {
        self.shared.settings.discovery.first_answer_timeout
    }

    /// Who asks for what, for the counters of authorization.
    pub(crate) fn asked(&self) -> Asked<'_> {
        Asked { client: &self.client, target: self.aim.addr(), last: &self.allowed }
    }

    /// Whether nothing is under way on this HTTP/1 connection, in either direction.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) == 0 && self.guard.as_ref().is_some_and(Handle::is_at_rest)
    }

    /// Counts the connection, under the peer's labels, from now on.
    pub(crate) fn counted(&self, stream: Stream) -> Stream {
        let mut labels = vec![
            ("direction".to_owned(), self.client.hop.as_str().to_owned()),
            ("peer".to_owned(), "src".to_owned()),
        ];
        labels.extend(authz::accepted(&self.client, &self.aim));
        self.shared.transports.of(labels).open(stream)
    }

    /// Tells the guard how a request was answered.
    pub(crate) fn answered(&self, status: StatusCode) {
        if let Some(guard) = &self.guard {
            guard.answered(status);
        }
    }
}
