//! What a backend asks of an endpoint: to say whether it can take requests.
//!
//! `Backend` hands a `Readiness` to whatever it builds for an endpoint; the endpoint's own task reports
//! through it. Reports are kept even if they come before the backend has taken the endpoint in, and are
//! ignored once it has let go of it. Nothing here polls or waits.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use weft_model::reason::Code;

/// Why an endpoint cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The cause.
    pub code: Code,
    /// For people.
    pub detail: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

/// Whether an endpoint can take requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum EndpointState {
    /// Not yet, or not any more; an attempt is under way.
    #[default]
    Connecting,
    /// Yes.
    Ready,
    /// No: the last attempt failed; another follows after a wait.
    Failed(Arc<Failure>),
}

/// An endpoint's line to its backend.
pub struct Readiness {
    cell: Arc<Cell>,
    watcher: Weak<dyn Watch>,
}

impl Readiness {
    pub(crate) fn new(cell: Arc<Cell>, watcher: Weak<dyn Watch>) -> Self {
        Self { cell, watcher }
    }

    /// A line that ends nowhere, for an endpoint used without a backend.
    pub fn unwatched() -> Self {
        struct Nobody;
        impl Watch for Nobody {
            fn changed(&self, _: &Cell) {}
        }
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        Self { cell: Arc::new(Cell::new(0, nowhere)), watcher: Weak::<Nobody>::new() }
    }

    /// Reports the state; in force for the next pick, and waiting requests are served at once. Cheap if
    /// nothing changed.
    pub fn set(&self, state: EndpointState) {
        {
            let mut current = self.cell.lock();
            if *current == state {
                return;
            }
            *current = state;
        }
        if let Some(watcher) = self.watcher.upgrade() {
            watcher.changed(&self.cell);
        }
    }

    /// What was last reported.
    pub fn state(&self) -> EndpointState {
        self.cell.state()
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Readiness").field(&self.cell.state()).finish()
    }
}

/// The last report of one endpoint. `id` tells it from earlier endpoints at the same address.
pub(crate) struct Cell {
    pub(crate) id: u64,
    pub(crate) addr: SocketAddr,
    state: Mutex<EndpointState>,
}

impl Cell {
    pub(crate) fn new(id: u64, addr: SocketAddr) -> Self {
        Self { id, addr, state: Mutex::default() }
    }

    pub(crate) fn state(&self) -> EndpointState {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, EndpointState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who listens to reports.
pub(crate) trait Watch: Send + Sync {
    fn changed(&self, cell: &Cell);
}

/// What may stand for an endpoint in a `Backend`: anything that threads can share.
pub trait Target: Send + Sync + 'static {}

impl<T: Send + Sync + 'static> Target for T {}
