//! A time limit on HTTP/2 streams whose receiver takes nothing although there is something to take.
//!
//! h2 asks a body for more only while its receiver's window is open. `serve` runs each stream's task
//! inside a [`Stallable`], and `Body` notes in every poll how far it came: a task whose body gave a frame, or is to
//! begin, and was not asked again waits for its receiver. One whose body has nothing to give waits for its source,
//! as an idle gRPC stream does for hours, and has no limit here. It knows no HTTP; its timer exists from the first
//! stall on.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// How far a body came in the poll under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    /// It gave a frame, or waits to be asked for its first.
    Offers,
    /// It has more to give, held back because nobody takes what went before: nothing is taken now.
    Held,
    /// It has nothing to give at the moment, or no more at all.
    Lacks,
}

/// What this thread polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Polled {
    /// No limited task.
    Other,
    /// A limited task, with the last note of a body.
    Limited(Option<Noted>),
}

thread_local! {
    static POLLED: Cell<Polled> = const { Cell::new(Polled::Other) };
}

/// Called by `Body`.
pub(crate) fn note(noted: Noted) {
    if POLLED.get() != Polled::Other {
        POLLED.set(Polled::Limited(Some(noted)));
    }
}

/// Says that a message with a body is about to be sent by the task that is polled now.
pub fn body_begins() {
    note(Noted::Offers);
}

pin_project_lite::pin_project! {
    /// The task of one stream. Ends without its inner task, which is dropped, once the receiver has taken nothing
    /// for the time limit; `stalled` is called then. Dropping a stream's task resets the stream.
    pub struct Stallable<F> {
        #[pin]
        task: F,
        limit: Duration,
        stalled: Stalled,
        timer: Option<Pin<Box<Sleep>>>,
        armed: bool,
    }
}

/// Hears of streams that ended so.
pub type Stalled = Arc<dyn Fn() + Send + Sync>;

impl<F> Stallable<F>
where
    F: Future<Output = ()>,
{
    /// Limits a task. A limit of zero is none.
    pub fn new(task: F, limit: Duration, stalled: Stalled) -> Self {
        Self { task, limit, stalled, timer: None, armed: false }
    }
}

impl<F> Future for Stallable<F>
where
    F: Future<Output = ()>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let outer = POLLED.replace(Polled::Limited(None));
        let polled = this.task.poll(cx);
        let Polled::Limited(noted) = POLLED.replace(outer) else { return polled };
        if polled.is_ready() || this.limit.is_zero() {
            return polled;
        }
        match noted {
            Some(Noted::Held) if *this.armed => {}
            Some(Noted::Offers | Noted::Held) => {
                // Each time anew: something was taken since.
                let end = Instant::now() + *this.limit;
                match &mut *this.timer {
                    Some(timer) => timer.as_mut().reset(end),
                    none => *none = Some(Box::pin(sleep_until(end))),
                }
                *this.armed = true;
            }
            Some(Noted::Lacks) => *this.armed = false,
            None => {} // woken for another reason
        }
        let over = match &mut *this.timer {
            Some(timer) if *this.armed => timer.as_mut().poll(cx).is_ready(),
            _ => false,
        };
        if !over {
            return Poll::Pending;
        }
        (this.stalled)();
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Body;
    use http_body_util::BodyExt;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::sync::Notify;

    const LIMIT: Duration = Duration::from_secs(60);

    /// Polls a body frame by frame, as often as `window` lets it.
    fn sender(body: Body, window: Arc<Notify>) -> (tokio::task::JoinHandle<()>, Arc<AtomicBool>) {
        let stalled = Arc::new(AtomicBool::new(false));
        let told = stalled.clone();
        let task = async move {
            body_begins();
            let mut body = body;
            loop {
                window.notified().await;
                if body.frame().await.is_none() {
                    return;
                }
            }
        };
        let task = Stallable::new(task, LIMIT, Arc::new(move || told.store(true, Ordering::Relaxed)));
        (tokio::spawn(task), stalled)
    }

    fn endless() -> Body {
        let frames = futures_util::stream::repeat_with(|| {
            Ok::<_, std::io::Error>(http_body::Frame::data(bytes::Bytes::from_static(b"x")))
        });
        Body::boxed(http_body_util::StreamBody::new(frames))
    }

    fn silent() -> Body {
        let frames =
            futures_util::stream::pending::<Result<http_body::Frame<bytes::Bytes>, std::io::Error>>();
        Body::boxed(http_body_util::StreamBody::new(frames))
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_that_never_opens_ends_the_stream() {
        let began = Instant::now();
        let (task, stalled) = sender(endless(), Arc::default());
        task.await.unwrap();
        assert!(stalled.load(Ordering::Relaxed));
        assert!(began.elapsed() >= LIMIT && began.elapsed() < LIMIT * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_that_opens_now_and_then_keeps_it() {
        let window = Arc::new(Notify::new());
        let (task, stalled) = sender(endless(), window.clone());
        for _ in 0..10 {
            tokio::time::advance(LIMIT - Duration::from_secs(1)).await;
            window.notify_one();
            tokio::task::yield_now().await;
        }
        assert!(!task.is_finished());
        task.await.unwrap();
        assert!(stalled.load(Ordering::Relaxed), "and then it never opened again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_with_nothing_to_send_has_no_limit() {
        let window = Arc::new(Notify::new());
        window.notify_one();
        let (task, stalled) = sender(silent(), window);
        tokio::time::timeout(LIMIT * 1000, task).await.unwrap_err();
        assert!(!stalled.load(Ordering::Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn being_held_back_again_and_again_is_no_progress() {
        let task = async {
            loop {
                note(Noted::Held);
                tokio::time::sleep(LIMIT / 4).await;
            }
        };
        let ended = tokio::time::timeout(LIMIT * 2, Stallable::new(task, LIMIT, Arc::new(|| {}))).await;
        assert!(ended.is_ok(), "it outlived its limit");
    }
}
