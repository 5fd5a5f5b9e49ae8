//! What passed over one connection, counted where it is read and written.
//!
//! A `Stream` that was given a [`Transfer`] adds to it; whoever made it reads it at any time and hears of the
//! connection's end. The relay adds what it moves inside the kernel. Counting costs a load and a store: a
//! connection is read and written by one task at a time, so no locked instruction is needed. It knows no metric.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Bytes of one connection so far, as its user sees them: inside TLS, and with what was read again.
pub struct Transfer {
    read: AtomicU64,
    written: AtomicU64,
    /// The system's number of the first failure, or 0.
    error: AtomicI32,
    since: Instant,
    ended: Option<Ended>,
}

/// Hears of a connection's end.
type Ended = Box<dyn FnOnce(&Transfer) + Send + Sync>;

impl Transfer {
    /// Begins at zero. `ended` is called once, when the last holder lets go.
    pub fn new(ended: impl FnOnce(&Transfer) + Send + Sync + 'static) -> Self {
        Self {
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            error: AtomicI32::new(0),
            since: Instant::now(),
            ended: Some(Box::new(ended)),
        }
    }

    /// Bytes that were read from it.
    pub fn read(&self) -> u64 {
        self.read.load(Relaxed)
    }

    /// Bytes that were written to it.
    pub fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// How long it has been open.
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// The name of the first failure as errno(3) has it, `OTHER` for one that is not told apart, empty if there
    /// was none: a closed set.
    pub fn error(&self) -> &'static str {
        use rustix::io::Errno;
        let raw = self.error.load(Relaxed);
        let named = [
            (Errno::PIPE, "EPIPE"),
            (Errno::CONNRESET, "ECONNRESET"),
            (Errno::CONNABORTED, "ECONNABORTED"),
            (Errno::TIMEDOUT, "ETIMEDOUT"),
            (Errno::NOTCONN, "ENOTCONN"),
            (Errno::HOSTUNREACH, "EHOSTUNREACH"),
            (Errno::NETUNREACH, "ENETUNREACH"),
            (Errno::NETDOWN, "ENETDOWN"),
        ];
        match named.iter().find(|(errno, _)| errno.raw_os_error() == raw) {
            Some((_, name)) => name,
            None if raw == 0 => "",
            None => "OTHER",
        }
    }

    pub(crate) fn add_read(&self, bytes: usize) {
        self.read.store(self.read.load(Relaxed).wrapping_add(bytes as u64), Relaxed);
    }

    pub(crate) fn add_written(&self, bytes: usize) {
        self.written.store(self.written.load(Relaxed).wrapping_add(bytes as u64), Relaxed);
    }

    /// Notes why the connection failed, if nothing is noted yet. Errors that are not the system's are not noted.
    #[cold]
    pub(crate) fn failed(&self, error: &io::Error) {
        if let Some(raw) = error.raw_os_error()
            && self.error.load(Relaxed) == 0
        {
            self.error.store(raw, Relaxed);
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if let Some(ended) = self.ended.take() {
            ended(self);
        }
    }
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer").field("read", &self.read()).field("written", &self.written()).finish()
    }
}
