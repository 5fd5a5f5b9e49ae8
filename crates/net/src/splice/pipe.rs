//! Pipes that bulk passes through inside the kernel.
//!
//! A relay's direction takes a [`Pipe`] while bulk flows and drops it when the flow pauses; an empty one is
//! then kept for the next. Their number is bounded, because each may hold a megabyte of kernel memory and
//! two descriptors: beyond it, and where the system gives none, relays copy.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Most pipes at once, kept ones included. Times the capacity this is the bound on the memory of all, and
/// below the 64 MiB of pipes that Linux gives an unprivileged user by default.
const MOST: usize = 48;

/// Most empty pipes that one thread keeps.
const KEPT: usize = 4;

/// Capacity asked for, the most that an unprivileged process gets. Measured per MiB relayed on loopback:
/// 400 µs with it, 520 µs with 256 or 64 KiB, 800 µs copying.
const CAPACITY: usize = 1024 * 1024;

static ALIVE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SPARE: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
}

/// A pipe and how much is in it.
pub(super) struct Pipe {
    /// Present until dropped.
    ends: Option<Ends>,
    held: usize,
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

impl Ends {
    fn new() -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // A smaller pipe works as well.
        let _ = rustix::pipe::fcntl_setpipe_size(&write, CAPACITY);
        Ok(Self { read, write })
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pipe {
    /// An empty pipe, kept or new; `None` when there are as many as may be, or the system gives none.
    pub(super) fn take() -> Option<Self> {
        let kept = SPARE.with_borrow_mut(Vec::pop);
        let ends = kept.or_else(|| {
            let counted =
                ALIVE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < MOST).then_some(n + 1));
            counted.ok()?;
            Ends::new().inspect_err(|_| _ = ALIVE.fetch_sub(1, Ordering::Relaxed)).ok()
        })?;
        Some(Self { ends: Some(ends), held: 0 })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Moves what `from` has into this empty pipe; 0 at its end. Pending means that `from` has nothing.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, from: &TcpStream) -> Poll<io::Result<usize>> {
        let Some(ends) = &self.ends else { return Poll::Ready(Ok(0)) };
        loop {
            ready!(from.poll_read_ready(cx))?;
            let moved = from.try_io(Interest::READABLE, || splice(from, &ends.write, CAPACITY));
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(n) => {
                    self.held = n;
                    return Poll::Ready(Ok(n));
                }
            }
        }
    }

    /// Moves what the pipe holds to `to`. Pending means that `to` takes nothing now.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        let Some(ends) = &self.ends else { return Poll::Ready(Ok(0)) };
        loop {
            ready!(to.poll_write_ready(cx))?;
            let moved = to.try_io(Interest::WRITABLE, || splice(&ends.read, to, self.held));
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(n) => {
                    self.held = self.held.saturating_sub(n);
                    return Poll::Ready(Ok(n));
                }
            }
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // With bytes in it, it is of no use to anybody else.
        if let Some(ends) = self.ends.take().filter(|_| self.held == 0) {
            SPARE.with_borrow_mut(|spare| {
                if spare.len() < KEPT {
                    spare.push(ends);
                }
            });
        }
    }
}

fn splice(from: impl std::os::fd::AsFd, to: impl std::os::fd::AsFd, most: usize) -> io::Result<usize> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    Ok(rustix::pipe::splice(from, None, to, None, most, flags)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn pipes_are_bounded_and_empty_ones_are_used_again() {
        let mut pipes: Vec<Pipe> = std::iter::from_fn(Pipe::take).take(MOST + 1).collect();
        assert!(pipes.len() <= MOST);
        let mut full = pipes.pop().unwrap();
        full.held = 1;
        drop((full, pipes));
        assert!(SPARE.with_borrow(Vec::len) <= KEPT);
        assert!(Pipe::take().is_some());
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn bytes_pass_from_socket_to_socket_through_a_pipe() {
        let ((mut left, from), (to, mut right)) = (pair().await, pair().await);
        // Not from the bounded number: other tests may hold them all.
        ALIVE.fetch_add(1, Ordering::Relaxed);
        let mut pipe = Pipe { ends: Some(Ends::new().unwrap()), held: 0 };
        assert!(poll_fn(|cx| Poll::Ready(pipe.poll_fill(cx, &from).is_pending())).await);
        left.write_all(b"bulk").await.unwrap();
        assert_eq!(poll_fn(|cx| pipe.poll_fill(cx, &from)).await.unwrap(), 4);
        assert!(!pipe.is_empty());
        assert_eq!(poll_fn(|cx| pipe.poll_drain(cx, &to)).await.unwrap(), 4);
        assert!(pipe.is_empty());
        let mut text = [0; 4];
        right.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"bulk");
        drop(left);
        assert_eq!(poll_fn(|cx| pipe.poll_fill(cx, &from)).await.unwrap(), 0);
    }
}
