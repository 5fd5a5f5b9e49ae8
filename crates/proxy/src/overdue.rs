//! HTTP/1 clients that keep us waiting: within a request's head, or between two requests.
//!
//! `serve` waits here beside each HTTP/1 connection. A request whose head comes in one piece costs nothing: the
//! guard wakes this only when it has to wait within a head, and an idle connection is looked at once in an
//! idle timeout, so it is closed between one and two of them after its last byte. Never touches the stream.

use crate::settings::Http1Server;
use weft_net::guard::{Handle, SlowHead};

/// What the client let pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// The time for a head.
    Head(SlowHead),
    /// The time between requests, unless a request is under way.
    Request,
}

/// Waits until the client is overdue.
pub(crate) async fn overdue(guard: &Handle, http1: &Http1Server) -> Overdue {
    tokio::select! {
        head = slow(guard, http1) => Overdue::Head(head),
        () = silent(guard, http1) => Overdue::Request,
    }
}

async fn slow(guard: &Handle, http1: &Http1Server) -> SlowHead {
    let mut head = guard.slow_head().await;
    loop {
        tokio::time::sleep(http1.header_read_timeout).await;
        match guard.still_slow() {
            Some(still) if still == head => return head,
            Some(another) => head = another,
            None => head = guard.slow_head().await,
        }
    }
}

async fn silent(guard: &Handle, http1: &Http1Server) {
    let mut reads = guard.reads();
    loop {
        tokio::time::sleep(http1.idle_timeout).await;
        match guard.reads() {
            same if same == reads => return,
            now => reads = now,
        }
    }
}
