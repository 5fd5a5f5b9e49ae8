//! The one HTTP/2 connection to an endpoint.
//!
//! Requests clone its sender; whoever finds none makes one, in a task of its own, and all who come
//! meanwhile wait for that one attempt. A connection that says GOAWAY is retired at the first request it
//! gives back: streams on it go on, new ones get a new connection.

use crate::dial::Reach;
use crate::error::ConnectError;
use crate::pool::MAX_HEAD;
use arc_swap::{ArcSwap, ArcSwapOption};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::error::Error as _;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;
use weft_model::destination::{Http2Params, Windows};
use weft_net::body::Body;
use weft_net::outbox::Outbox;
use weft_net::stream::Stream;
use weft_wire::header::Session;

/// Streams that may be opened before the server's SETTINGS arrive (§9).
const INITIAL_STREAMS: usize = 100;

/// Bytes buffered per stream for sending (§9).
const SEND_BUFFER: usize = 1 << 20;

/// The HTTP/2 connection of one endpoint, as it comes and goes.
pub(crate) struct Multiplex {
    reach: Arc<Reach>,
    current: ArcSwapOption<Live>,
    /// Held by the one attempt under way; says when the last one failed.
    dialing: Mutex<Option<(Instant, ConnectError)>>,
    /// A connection has ended.
    pub(crate) ended: Notify,
    /// How the last one ended.
    ending: ArcSwap<String>,
    closed: AtomicBool,
}

/// An open HTTP/2 connection.
pub(crate) struct Live {
    pub(crate) sender: SendRequest<Body>,
    /// Request bytes that wait to be written.
    pub(crate) outbox: Outbox,
}

impl Multiplex {
    pub(crate) fn new(reach: Arc<Reach>) -> Arc<Self> {
        Arc::new(Self {
            reach,
            current: ArcSwapOption::empty(),
            dialing: Mutex::new(None),
            ended: Notify::new(),
            ending: ArcSwap::default(),
            closed: AtomicBool::new(false),
        })
    }

    /// The open connection, if there is one.
    pub(crate) fn current(&self) -> Option<Arc<Live>> {
        self.current.load_full().filter(|live| !live.sender.is_closed())
    }

    /// The open connection, or a new one.
    pub(crate) async fn connection(self: &Arc<Self>) -> Result<Arc<Live>, ConnectError> {
        match self.current() {
            Some(live) => Ok(live),
            None => Box::pin(self.connect()).await, // boxed: rare, and large
        }
    }

    /// Makes a connection unless there is one. If the caller goes away, the attempt goes on.
    async fn connect(self: &Arc<Self>) -> Result<Arc<Live>, ConnectError> {
        let asked = Instant::now();
        let this = self.clone();
        let attempt = self.reach.context.runtime.spawn(async move {
            let mut last = this.dialing.lock().await;
            if let Some(live) = this.current() {
                return Ok(live);
            }
            if let Some((at, error)) = last.as_ref().filter(|(at, _)| *at >= asked) {
                tracing::trace!(since = ?at.elapsed(), "sharing a failed attempt");
                return Err(error.clone());
            }
            let outcome = this.establish().await;
            *last = outcome.as_ref().err().map(|error| (Instant::now(), error.clone()));
            outcome
        });
        attempt.await.unwrap_or(Err(ConnectError::Removed))
    }

    async fn establish(self: &Arc<Self>) -> Result<Arc<Live>, ConnectError> {
        let stream = self.reach.stream(Some(Session::Http2)).await?;
        let addr = self.reach.info.addr;
        let runtime = &self.reach.context.runtime;
        let builder = builder(runtime, &self.reach.context.http2_for(&self.reach.info));
        let (sender, connection) = builder
            .handshake::<TokioIo<Stream>, Body>(TokioIo::new(stream))
            .await
            .map_err(|error| ConnectError::Closed { addr, detail: error.to_string().into() })?;
        let live = Arc::new(Live { sender, outbox: Outbox::default() });
        self.current.store(Some(live.clone()));
        if self.closed.load(Ordering::SeqCst) {
            // Removed while connecting. Looked at after the store: `close` may have come in between.
            self.current.store(None);
            return Err(ConnectError::Removed);
        }
        let (this, weak) = (self.clone(), Arc::downgrade(&live));
        runtime.spawn(async move {
            let how = connection.await.map_or_else(|error| full(&error), |()| "the server closed it".into());
            tracing::debug!(endpoint = %addr, %how, "HTTP/2 connection ended");
            this.ending.store(Arc::new(how));
            if let Some(live) = weak.upgrade() {
                this.retire(&live);
            }
            this.ended.notify_one();
        });
        Ok(live)
    }

    /// Takes a connection that gave a request back out of use; streams on it go on.
    pub(crate) fn retire(&self, live: &Arc<Live>) {
        self.current.rcu(|current| match current {
            Some(current) if Arc::ptr_eq(current, live) => None,
            current => current.clone(),
        });
    }

    /// How the last connection ended, for people.
    pub(crate) fn how_it_ended(&self) -> Arc<str> {
        self.ending.load().as_str().into()
    }

    /// Lets the connection go: it says GOAWAY and closes when its streams have ended.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.current.store(None);
    }
}

/// An error with its causes.
fn full(error: &hyper::Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn builder(runtime: &Handle, params: &Http2Params) -> Builder<Spawn> {
    let mut builder = Builder::new(Spawn(runtime.clone()));
    builder
        .timer(TokioTimer::new())
        .initial_max_send_streams(INITIAL_STREAMS)
        .max_header_list_size(MAX_HEAD as u32)
        .max_send_buf_size(params.max_send_buf_size.map_or(SEND_BUFFER, |n| n as usize));
    match params.windows {
        Some(Windows::Adaptive) => _ = builder.adaptive_window(true),
        Some(Windows::Fixed { stream, connection }) => {
            // RFC 9113 §6.9.1; h2 panics above
            let bounded = |size: u32| size.min(i32::MAX as u32);
            builder.initial_stream_window_size(bounded(stream));
            builder.initial_connection_window_size(bounded(connection));
        }
        None => {}
    }
    if let Some(keep_alive) = params.keep_alive {
        builder
            .keep_alive_interval(keep_alive.interval)
            .keep_alive_timeout(keep_alive.timeout)
            .keep_alive_while_idle(keep_alive.while_idle);
    }
    if let Some(size) = params.max_frame_size {
        builder.max_frame_size(size.clamp(1 << 14, (1 << 24) - 1)); // RFC 9113 §4.2; h2 panics outside
    }
    if let Some(count) = params.max_concurrent_reset_streams {
        builder.max_concurrent_reset_streams(count as usize);
    }
    builder
}

/// Spawns hyper's stream tasks on the data path's runtime, whoever connects.
#[derive(Clone)]
struct Spawn(Handle);

impl<F> hyper::rt::Executor<F> for Spawn
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
