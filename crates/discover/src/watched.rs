//! A value that one side replaces and others wait for news of.
//!
//! What tokio's watch channel does, in a quarter of its memory, which counts where thousands of destinations each have
//! several. `stream` publishes answers through it, `destination` its plans. It never keeps a value but the latest, and
//! never blocks longer than it takes to copy one.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

struct Cell<T> {
    state: Mutex<State<T>>,
    /// Told of each new value, of the publisher's end, and of the last watcher's.
    news: Notify,
}

struct State<T> {
    value: T,
    version: u64,
    watchers: usize,
    /// Nobody publishes any more.
    ended: bool,
}

impl<T> Cell<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // A panic while the lock is held is one of `change`, which leaves a whole value.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The side that replaces the value.
pub(crate) struct Publisher<T>(Arc<Cell<T>>);

/// A side that waits for news; a clone has seen as much as what it was cloned from.
pub struct Watcher<T> {
    cell: Arc<Cell<T>>,
    seen: u64,
}

/// Whether a value was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    Yes,
    No,
}

impl<T: Clone> Publisher<T> {
    pub(crate) fn new(value: T) -> Self {
        let state = State { value, version: 0, watchers: 0, ended: false };
        Self(Arc::new(Cell { state: Mutex::new(state), news: Notify::new() }))
    }

    /// Changes the value, and tells the watchers if `change` says that there is news.
    pub(crate) fn change(&self, change: impl FnOnce(&mut T) -> News) {
        let mut state = self.0.lock();
        if change(&mut state.value) == News::Yes {
            state.version += 1;
            drop(state);
            self.0.news.notify_waiters();
        }
    }

    /// A watcher that has seen the present value.
    pub(crate) fn watch(&self) -> Watcher<T> {
        let mut state = self.0.lock();
        state.watchers += 1;
        Watcher { cell: self.0.clone(), seen: state.version }
    }

    /// Resolves once nobody watches.
    pub(crate) async fn abandoned(&self) {
        let mut news = pin!(self.0.news.notified());
        loop {
            news.as_mut().enable(); // before looking, so that nothing is missed in between
            if self.0.lock().watchers == 0 {
                return;
            }
            news.as_mut().await;
            news.set(self.0.news.notified());
        }
    }
}

impl<T> Drop for Publisher<T> {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.news.notify_waiters();
    }
}

impl<T: Clone> Watcher<T> {
    /// The present value.
    pub fn get(&self) -> T {
        self.cell.lock().value.clone()
    }

    /// The present value, which counts as seen from now on.
    pub fn take(&mut self) -> T {
        let state = self.cell.lock();
        self.seen = state.version;
        state.value.clone()
    }

    /// Waits for a value that has not been seen, and takes it; `None` when there will never be one. Cancel safe.
    pub async fn changed(&mut self) -> Option<T> {
        let cell = self.cell.clone();
        let mut news = pin!(cell.news.notified());
        loop {
            news.as_mut().enable();
            {
                let state = cell.lock();
                if state.version != self.seen {
                    self.seen = state.version;
                    return Some(state.value.clone());
                }
                if state.ended {
                    return None;
                }
            }
            news.as_mut().await;
            news.set(cell.news.notified());
        }
    }
}

impl<T> Clone for Watcher<T> {
    fn clone(&self) -> Self {
        self.cell.lock().watchers += 1;
        Self { cell: self.cell.clone(), seen: self.seen }
    }
}

impl<T> Drop for Watcher<T> {
    fn drop(&mut self) {
        let mut state = self.cell.lock();
        state.watchers -= 1;
        if state.watchers == 0 {
            drop(state);
            self.cell.news.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    const MOMENT: Duration = Duration::from_millis(10);

    fn set(publisher: &Publisher<u32>, value: u32) {
        publisher.change(|old| {
            let news = if *old == value { News::No } else { News::Yes };
            *old = value;
            news
        });
    }

    #[tokio::test(start_paused = true)]
    async fn each_watcher_hears_of_the_latest_value_once_and_of_the_end() {
        let publisher = Publisher::new(0);
        let (mut early, mut idle) = (publisher.watch(), publisher.watch());
        assert!(timeout(MOMENT, early.changed()).await.is_err());
        set(&publisher, 1);
        let mut late = publisher.watch();
        assert!(timeout(MOMENT, late.changed()).await.is_err());
        assert_eq!((early.changed().await, late.get()), (Some(1), 1));
        set(&publisher, 1);
        assert!(timeout(MOMENT, early.changed()).await.is_err(), "nothing new");
        set(&publisher, 2);
        set(&publisher, 3);
        let mut twin = early.clone();
        assert_eq!((early.changed().await, twin.changed().await), (Some(3), Some(3)));
        assert_eq!((late.take(), late.cell.lock().watchers), (3, 4));
        assert!(timeout(MOMENT, late.changed()).await.is_err(), "taken is seen");
        let waits = tokio::spawn(async move { late.changed().await });
        tokio::task::yield_now().await;
        drop(publisher);
        assert_eq!((waits.await.unwrap(), early.changed().await), (None, None));
        assert_eq!((idle.changed().await, idle.changed().await), (Some(3), None), "news before the end");
    }

    #[tokio::test(start_paused = true)]
    async fn the_publisher_hears_when_nobody_watches_any_more() {
        let publisher = Publisher::new(0);
        publisher.abandoned().await;
        let (first, second) = (publisher.watch(), publisher.watch());
        drop(first);
        assert!(timeout(MOMENT, publisher.abandoned()).await.is_err());
        let third = second.clone();
        drop(second);
        assert!(timeout(MOMENT, publisher.abandoned()).await.is_err());
        tokio::join!(publisher.abandoned(), async { drop(third) });
    }

    #[test]
    fn nothing_is_missed_among_threads() {
        let publisher = Publisher::new(0);
        let mut watcher = publisher.watch();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let last = runtime.spawn(async move {
            let mut last = 0;
            while let Some(value) = watcher.changed().await {
                assert!(value > last, "{value} after {last}");
                last = value;
            }
            last
        });
        for value in 1..=10_000 {
            set(&publisher, value);
        }
        drop(publisher);
        assert_eq!(runtime.block_on(last).unwrap(), 10_000);
    }
}
