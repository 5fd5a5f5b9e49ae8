//! A connection and what is watched beside it, in one task.
//!
//! A task that drives a connection wakes for every read and write, and would look each time at everything else
//! that could end the connection: a drain, timers, a slow client. [`race`] looks at those only when one of
//! them has asked for it, which costs a request one atomic load. `proxy/serve.rs` runs every connection with it.
//! It spawns nothing and drops neither future.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Runs `main` until it ends, which gives its output, or `side` does, which gives nothing. `main` goes first
/// whenever both could.
pub fn race<'a, M: Future>(
    main: Pin<&'a mut M>,
    side: Pin<&'a mut (dyn Future<Output = ()> + Send)>,
) -> Race<'a, M> {
    let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: Mutex::new(None) });
    Race { main, side, waker: bell.clone().into(), bell, task: None }
}

/// See [`race`].
#[must_use = "futures do nothing unless polled"]
pub struct Race<'a, M> {
    main: Pin<&'a mut M>,
    side: Pin<&'a mut (dyn Future<Output = ()> + Send)>,
    bell: Arc<Bell>,
    /// The bell, as `side` is given it.
    waker: Waker,
    /// The task that the bell wakes.
    task: Option<Waker>,
}

/// Rung by the side's wake-ups.
#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        if let Some(task) = &*self.task.lock().unwrap_or_else(PoisonError::into_inner) {
            task.wake_by_ref();
        }
    }
}

impl<M: Future> Future for Race<'_, M> {
    type Output = Option<M::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Poll::Ready(ended) = this.main.as_mut().poll(cx) {
            return Poll::Ready(Some(ended));
        }
        if this.task.as_ref().is_none_or(|task| !task.will_wake(cx.waker())) {
            this.task = Some(cx.waker().clone());
            this.bell.task.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&this.task);
        }
        // Loaded before it is swapped: the load alone costs no exclusive hold of the cache line.
        if this.bell.rung.load(Ordering::Acquire) && this.bell.rung.swap(false, Ordering::AcqRel) {
            return this.side.as_mut().poll(&mut Context::from_waker(&this.waker)).map(|()| None);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;
    use tokio::sync::Notify;

    #[tokio::test(start_paused = true)]
    async fn the_side_is_looked_at_only_when_it_asks() {
        let (looks, wakes, notify) = (AtomicUsize::new(0), AtomicUsize::new(0), Notify::new());
        let mut inner = pin!(notify.notified());
        let side = pin!(poll_fn(|cx| {
            looks.fetch_add(1, Ordering::Relaxed);
            inner.as_mut().poll(cx)
        }));
        let main = pin!(async {
            for _ in 0..100 {
                wakes.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
            notify.notify_waiters();
            std::future::pending::<()>().await;
        });
        assert_eq!(race(main, side).await, None);
        assert_eq!((looks.load(Ordering::Relaxed), wakes.load(Ordering::Relaxed)), (2, 100));
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_at_the_side_ends_the_race_and_spares_the_main() {
        let mut main = pin!(async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            7
        });
        let side = pin!(tokio::time::sleep(Duration::from_secs(1)));
        assert_eq!(race(main.as_mut(), side).await, None);
        let never = pin!(std::future::pending::<()>());
        assert_eq!(race(main, never).await, Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn the_main_goes_first() {
        let (main, side) = (pin!(std::future::ready(1)), pin!(std::future::ready(())));
        assert_eq!(race(main, side).await, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_race_that_moves_to_another_task_still_hears_its_side() {
        let notify = Arc::new(Notify::new());
        let (ring, (moved, receive)) = (notify.clone(), tokio::sync::oneshot::channel());
        let mut racing =
            Box::pin(async move { race(pin!(std::future::pending::<()>()), pin!(notify.notified())).await });
        assert!(futures_util::poll!(racing.as_mut()).is_pending());
        assert!(moved.send(racing).is_ok());
        let other = tokio::spawn(async move { receive.await.unwrap().await });
        tokio::task::yield_now().await;
        ring.notify_waiters();
        assert_eq!(other.await.unwrap(), None);
    }
}
