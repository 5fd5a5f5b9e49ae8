//! The load generator: closed loops, one per connection, each sending its next request when the last is
//! answered.
//!
//! Used by `measure` for windows and by `check` for single requests. Knows nothing of what it is aimed at.
//! Every answer is checked; a wrong one ends its connection and is reported, so that no wrong answer is ever
//! counted as a fast one.

mod http1;
mod http2;
mod idle;
mod tcp;

pub(crate) use http1::{ask, ask_status};
pub(crate) use idle::Held;
pub(crate) use tcp::send_summed;

use crate::statistics::Histogram;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};

/// What the requests are addressed to, whoever carries them.
pub(crate) const AUTHORITY: &str = "web.default.svc.cluster.local";
/// Who the load says it is.
pub(crate) const AGENT: &str = "weft-bench";

/// The last answers of a window may take this long; whoever takes longer hangs.
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    Http1,
    /// With so many requests in flight on each connection.
    Http2 {
        streams: usize,
    },
    /// Opaque bytes, as fast as they are taken.
    Tcp,
}

/// The phases of a load; it begins with 0, the warm-up.
const RECORD: u8 = 1;
const STOP: u8 = 2;

/// What the connections share.
#[derive(Default)]
struct Shared {
    phase: AtomicU8,
    done: AtomicU64,
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.phase.load(Relaxed) == STOP
    }

    fn done(&self, histogram: &mut Histogram, latency: Duration) {
        self.done.fetch_add(1, Relaxed);
        if self.phase.load(Relaxed) == RECORD {
            histogram.record(latency.as_nanos() as u64);
        }
    }
}

/// A load under way. Dropped, it breaks off.
pub(crate) struct Load {
    shared: Arc<Shared>,
    _awake: Awake,
    connections: JoinSet<Result<Histogram, String>>,
}

/// What a load has to show when it is over.
pub(crate) struct Outcome {
    /// Requests answered, or blocks of opaque bytes sent; warm-up included.
    pub(crate) done: u64,
    /// Latencies between `record` and `finish`.
    pub(crate) latencies: Histogram,
    /// What went wrong, one line for each connection that it broke.
    pub(crate) errors: Vec<String>,
}

impl Load {
    /// Begins to send.
    pub(crate) fn start(traffic: Traffic, target: SocketAddr, connections: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let mut set = JoinSet::new();
        for _ in 0..connections {
            let shared = shared.clone();
            match traffic {
                Traffic::Http1 => set.spawn(async move { http1::run(target, &shared).await }),
                Traffic::Http2 { streams } => {
                    set.spawn(async move { http2::run(target, streams, &shared).await })
                }
                Traffic::Tcp => set.spawn(async move { tcp::run(target, &shared).await }),
            };
        }
        Self { shared, _awake: Awake::keep(), connections: set }
    }

    /// The warm-up is over: latencies count from now on.
    pub(crate) fn record(&self) {
        self.shared.phase.store(RECORD, Relaxed);
    }

    /// Requests answered so far.
    pub(crate) fn done(&self) -> u64 {
        self.shared.done.load(Relaxed)
    }

    /// Lets the requests under way be answered and ends.
    pub(crate) async fn finish(mut self) -> Outcome {
        self.shared.phase.store(STOP, Relaxed);
        let mut outcome = Outcome { done: 0, latencies: Histogram::new(), errors: Vec::new() };
        let all = async {
            while let Some(ended) = self.connections.join_next().await {
                match ended {
                    Ok(Ok(histogram)) => outcome.latencies.merge(&histogram),
                    Ok(Err(error)) => outcome.errors.push(error),
                    Err(error) => outcome.errors.push(error.to_string()),
                }
            }
        };
        if tokio::time::timeout(LAST_ANSWER, all).await.is_err() {
            outcome.errors.push(format!("no answer within {LAST_ANSWER:?}"));
        }
        outcome.done = self.shared.done.load(Relaxed);
        outcome
    }
}

/// Keeps this thread, generator and application alike, from ever sleeping. A proxy would otherwise pay for waking
/// it, by an interrupt from processor to processor that can cost more than half a request, and the slower the
/// proxy, the more often the load sleeps: what is measured would depend on its own outcome.
struct Awake(AbortHandle);

impl Awake {
    fn keep() -> Self {
        let spin = async {
            loop {
                tokio::task::yield_now().await;
            }
        };
        Self(tokio::spawn(spin).abort_handle())
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn connect(target: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(target).await.map_err(|error| format!("connect to {target}: {error}"))?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    Ok(stream)
}
