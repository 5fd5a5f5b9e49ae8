//! HTTP/1 connections to one endpoint, kept while idle.
//!
//! The connection used last is used first, so that surplus ones grow idle and are closed by the
//! endpoint's sweep. A connection comes back when its response has been read to the end; one whose
//! response was given up is closed. How a connection is driven (a task of its own) is known only here.

use crate::context::PoolLimits;
use crate::dial::Reach;
use crate::error::ConnectError;
use http::HeaderMap;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use weft_net::body::{Body, BodyError, Watch};
use weft_wire::header::Session;

/// Largest response head, the same on both HTTP versions.
pub(crate) const MAX_HEAD: usize = 128 * 1024;

/// Idle connections looked at before a new one is made: those on top may not have noticed yet that
/// their response is over.
const LOOKS: usize = 4;

/// The idle HTTP/1 connections of one endpoint.
pub(crate) struct Pool {
    reach: Arc<Reach>,
    limits: PoolLimits,
    /// `None` once the endpoint is gone.
    idle: Mutex<Option<Vec<Idle>>>,
    /// Whether the sweep waits to be woken by the next idle connection.
    sweep_parked: AtomicBool,
    pub(crate) wake_sweep: Notify,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// An open HTTP/1 connection.
pub(crate) struct Connection {
    pub(crate) sender: SendRequest<Body>,
    /// Whether it has carried a request or has been idle, so that the server may be closing it.
    pub(crate) reused: bool,
}

impl Pool {
    pub(crate) fn new(reach: Arc<Reach>) -> Arc<Self> {
        let limits = reach.context.pool;
        Arc::new(Self {
            reach,
            limits,
            idle: Mutex::new(Some(Vec::new())),
            sweep_parked: AtomicBool::new(false),
            wake_sweep: Notify::new(),
        })
    }

    /// The idle connection used last, if one is alive.
    pub(crate) fn checkout(&self) -> Option<Connection> {
        let mut guard = self.lock();
        let idle = guard.as_mut()?;
        let mut looks = 0;
        let mut index = idle.len();
        while index > 0 && looks < LOOKS {
            index -= 1;
            let candidate = idle.get(index)?;
            if candidate.connection.sender.is_closed() {
                idle.remove(index);
            } else if candidate.connection.sender.is_ready() {
                return Some(idle.remove(index).connection);
            } else {
                looks += 1;
            }
        }
        None
    }

    /// Takes a connection back.
    pub(crate) fn checkin(&self, mut connection: Connection) {
        if connection.sender.is_closed() {
            return;
        }
        connection.reused = true;
        {
            let mut guard = self.lock();
            let Some(idle) = guard.as_mut() else { return };
            if idle.len() >= self.limits.max_idle {
                return;
            }
            idle.push(Idle { connection, since: Instant::now() });
        }
        if self.sweep_parked.load(Ordering::Relaxed) && self.sweep_parked.swap(false, Ordering::AcqRel) {
            self.wake_sweep.notify_one();
        }
    }

    /// Opens a connection in a task of its own: if the caller goes away meanwhile, the connection goes
    /// to the pool.
    pub(crate) async fn connect(self: &Arc<Self>) -> Result<Connection, ConnectError> {
        let (sender, receiver) = oneshot::channel();
        let pool = self.clone();
        self.reach.context.runtime.spawn(async move {
            if let Err(Ok(unwanted)) = sender.send(pool.establish().await) {
                pool.checkin(unwanted);
            }
        });
        receiver.await.unwrap_or(Err(ConnectError::Removed))
    }

    /// Opens a connection.
    pub(crate) async fn establish(&self) -> Result<Connection, ConnectError> {
        let stream = self.reach.stream(Some(Session::Http1)).await?;
        let addr = self.reach.info.addr;
        let mut builder = Builder::new();
        // Little more than a head: what is read ahead of a client that takes nothing is remembered.
        builder.max_header_size(MAX_HEAD).max_buf_size(MAX_HEAD + 4096);
        let (sender, connection) = builder
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ConnectError::Closed { addr, detail: error.to_string().into() })?;
        self.reach.context.runtime.spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(endpoint = %addr, %error, "HTTP/1 connection ended");
            }
        });
        Ok(Connection { sender, reused: false })
    }

    /// Waits until there may be something to sweep. Parks while nothing is idle.
    pub(crate) async fn sweep_due(&self) {
        let period = self.limits.idle_timeout / 2;
        self.sweep_parked.store(true, Ordering::Release);
        if self.idle_count() == 0 {
            self.wake_sweep.notified().await;
        }
        self.sweep_parked.store(false, Ordering::Release);
        Box::pin(tokio::time::sleep(period.max(Duration::from_millis(1)))).await; // rare: nothing is idle for long
    }

    /// Closes connections that are closed by the other side or have been idle for too long.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let timeout = self.limits.idle_timeout;
        let mut swept = Vec::new();
        if let Some(idle) = self.lock().as_mut() {
            let keep = |i: &Idle| {
                !i.connection.sender.is_closed() && now.saturating_duration_since(i.since) < timeout
            };
            swept.extend(idle.extract_if(.., |i| !keep(i)));
            idle.shrink_to(2 * idle.len());
        }
        drop(swept); // outside the lock
    }

    /// Closes idle connections now and others as they come back.
    pub(crate) fn close(&self) {
        let idle = self.lock().take();
        drop(idle);
    }

    pub(crate) fn idle_count(&self) -> usize {
        self.lock().as_ref().map_or(0, Vec::len)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Brings a connection back when a response body has been read to its end.
pub(crate) struct Checkin {
    pool: Arc<Pool>,
    connection: Option<Connection>,
}

impl Checkin {
    /// Attaches a connection to the body that occupies it.
    pub(crate) fn attach(body: Body, connection: Connection, pool: &Arc<Pool>) -> Body {
        body.watched(Box::new(Checkin { pool: pool.clone(), connection: Some(connection) }))
    }
}

impl Watch for Checkin {
    fn frame(&mut self, _: &http_body::Frame<bytes::Bytes>) {}

    fn end(&mut self, _: Option<&HeaderMap>) {
        if let Some(connection) = self.connection.take() {
            self.pool.checkin(connection);
        }
    }

    fn error(&mut self, _: &BodyError) -> Option<HeaderMap> {
        self.connection = None;
        None
    }
}
