//! The balancer seen from outside, in paused time and with seeded draws.

mod breaker;
mod changes;
mod defaults;
mod simulation;
mod waiting;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use weft_balance::{Backend, EndpointState, Failure, Params, Readiness};
use weft_model::destination::EndpointInfo;
use weft_model::reason::Code;

/// An endpoint whose readiness the test holds.
pub(crate) struct Fake {
    pub(crate) addr: SocketAddr,
    pub(crate) readiness: Readiness,
    dropped: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.dropped.lock().unwrap().push(self.addr);
    }
}

/// A backend of fakes and a record of which were built and dropped.
pub(crate) struct World {
    pub(crate) backend: Backend<Arc<Fake>>,
    built: Arc<Mutex<Vec<SocketAddr>>>,
    dropped: Arc<Mutex<Vec<SocketAddr>>>,
    fakes: Arc<Mutex<Vec<std::sync::Weak<Fake>>>>,
}

/// Whether fakes are ready as soon as they are built.
#[derive(Clone, Copy)]
pub(crate) enum Start {
    Ready,
    Connecting,
}

impl World {
    pub(crate) fn new(params: Params, start: Start) -> Self {
        let built = Arc::new(Mutex::new(Vec::new()));
        let dropped = Arc::new(Mutex::new(Vec::new()));
        let fakes = Arc::new(Mutex::new(Vec::new()));
        let (b, d, f) = (built.clone(), dropped.clone(), fakes.clone());
        let backend = Backend::new(params, move |info: Arc<EndpointInfo>, readiness: Readiness| {
            if matches!(start, Start::Ready) {
                readiness.set(EndpointState::Ready);
            }
            b.lock().unwrap().push(info.addr);
            let fake = Arc::new(Fake { addr: info.addr, readiness, dropped: d.clone() });
            f.lock().unwrap().push(Arc::downgrade(&fake));
            fake
        });
        Self { backend, built, dropped, fakes }
    }

    /// The newest living fake at an address.
    pub(crate) fn fake(&self, n: u16) -> Arc<Fake> {
        let fakes = self.fakes.lock().unwrap();
        fakes.iter().rev().filter_map(|f| f.upgrade()).find(|f| f.addr == addr(n)).expect("no such fake")
    }

    pub(crate) fn set(&self, n: u16, state: EndpointState) {
        self.fake(n).readiness.set(state);
    }

    pub(crate) fn built(&self) -> Vec<u16> {
        self.built.lock().unwrap().iter().map(|a| a.port()).collect()
    }

    pub(crate) fn dropped(&self) -> Vec<u16> {
        self.dropped.lock().unwrap().iter().map(|a| a.port()).collect()
    }

    /// No request is pending anywhere and nobody waits.
    pub(crate) fn assert_at_rest(&self) {
        let snapshot = self.backend.snapshot();
        assert_eq!(snapshot.waiting, 0);
        assert_eq!(self.backend.metrics().snapshot().queue_length, 0);
        for endpoint in snapshot.endpoints {
            assert_eq!(endpoint.pending, 0, "{}", endpoint.info.addr);
        }
    }
}

pub(crate) fn addr(n: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], n))
}

pub(crate) fn infos(ports: impl IntoIterator<Item = u16>) -> Vec<EndpointInfo> {
    ports.into_iter().map(|n| EndpointInfo::plain(addr(n))).collect()
}

pub(crate) fn failed(detail: &str) -> EndpointState {
    EndpointState::Failed(Arc::new(Failure { code: Code::ConnectRefused, detail: detail.into() }))
}

pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
