//! HTTP/1 clients that keep us waiting: within a request's head, between two requests, or with taking an answer.
//!
//! `serve` waits here beside each HTTP/1 connection. A request whose head comes in one piece costs nothing: the
//! guard wakes this only when it has to wait within a head, and whether a connection rests is looked at now and
//! then. Never touches the stream.

use crate::via::Via;
use std::time::Duration;
use weft_net::guard::{Handle, SlowHead};
use weft_settings::{Direction, Http1Server};

/// What the client let pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// The time for a head.
    Head(SlowHead),
    /// A while in which it said nothing, and nothing was under way.
    Rest,
    /// The time for taking an answer.
    Answer,
}

/// A connection at rest for once to twice this long gives its buffers back. Long enough that a busy client does
/// not pay for new ones; short, as most connections of a large mesh rest.
pub(crate) const REST: Duration = Duration::from_millis(500);

/// Waits until the client is overdue, or was at rest for `quiet` to twice as long.
pub(crate) async fn overdue(via: &Via, guard: &Handle, direction: &Direction, quiet: Duration) -> Overdue {
    let http1 = &direction.http1_server;
    tokio::select! {
        () = guard.blocked_for(direction.stall_timeout), if !direction.stall_timeout.is_zero() => Overdue::Answer,
        head = slow(guard, http1) => Overdue::Head(head),
        () = resting(via, guard, quiet) => Overdue::Rest,
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

async fn resting(via: &Via, guard: &Handle, period: Duration) {
    let mut reads = guard.reads();
    loop {
        tokio::time::sleep(period).await;
        match guard.reads() {
            same if same == reads && via.is_at_rest() => return,
            now => reads = now,
        }
    }
}
