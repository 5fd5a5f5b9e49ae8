//! Draining: one signal to many connections, and the wait until they are done.
//!
//! [`channel`] gives the one [`Trigger`], held by whoever decides that the process stops, and a [`Drain`]
//! that every listener and connection clones. A connection holds a [`Guard`] while it must not be cut,
//! and winds down when it is signaled. Nothing here knows a grace period: the trigger's owner puts a
//! time limit around the wait.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, watch};

/// A trigger that was not pulled, and a drain that was not signaled.
pub fn channel() -> (Trigger, Drain) {
    let (send, signal) = watch::channel(false);
    let guards = Arc::new(Guards::default());
    (Trigger { send, guards: guards.clone() }, Drain { signal, guards })
}

/// Signals all drains. Dropped without being pulled, it signals nobody, ever.
#[derive(Debug)]
pub struct Trigger {
    send: watch::Sender<bool>,
    guards: Arc<Guards>,
}

impl Trigger {
    /// Signals every [`Drain`] and waits until no [`Guard`] is left, however long that takes. When the
    /// future is dropped half-way the drains stay signaled.
    pub async fn drain(self) {
        self.send.send_replace(true);
        loop {
            let changed = self.guards.last_gone.notified();
            if self.guards.count.load(Ordering::Acquire) == 0 {
                return;
            }
            changed.await;
        }
    }

    /// How many guards are held now.
    pub fn guards(&self) -> usize {
        self.guards.count.load(Ordering::Acquire)
    }
}

/// Hears of the drain and hands out guards. Holding one delays nothing.
#[derive(Clone, Debug)]
pub struct Drain {
    signal: watch::Receiver<bool>,
    guards: Arc<Guards>,
}

impl Drain {
    /// Resolves once the trigger was pulled; at once, if it was before. Owns what it needs.
    pub fn signaled(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let mut signal = self.signal.clone();
        async move {
            if signal.wait_for(|signaled| *signaled).await.is_err() {
                std::future::pending::<()>().await; // the trigger is gone and can no longer be pulled
            }
        }
    }

    /// Whether the trigger was pulled.
    pub fn is_signaled(&self) -> bool {
        *self.signal.borrow()
    }

    /// Delays the end of the drain until the guard is dropped.
    pub fn guard(&self) -> Guard {
        self.guards.count.fetch_add(1, Ordering::AcqRel);
        Guard { guards: self.guards.clone() }
    }
}

/// Something that must not be cut short.
#[derive(Debug)]
pub struct Guard {
    guards: Arc<Guards>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.guards.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.guards.last_gone.notify_waiters();
        }
    }
}

#[derive(Debug, Default)]
struct Guards {
    count: AtomicUsize,
    last_gone: Notify,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn draining_signals_everybody_and_waits_for_the_guards() {
        let (trigger, drain) = channel();
        let guard = drain.guard();
        let listener = tokio::spawn(drain.signaled());
        assert!(!drain.is_signaled());
        let draining = tokio::spawn(trigger.drain());
        listener.await.unwrap();
        assert!(drain.is_signaled());
        drain.signaled().await;
        assert!(!draining.is_finished());
        drop(guard);
        timeout(LONG, draining).await.expect("nothing is guarded").unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn handles_without_a_guard_delay_nothing() {
        let (trigger, _drain) = channel();
        timeout(LONG, trigger.drain()).await.expect("nothing is guarded");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_trigger_signals_nobody() {
        let (trigger, drain) = channel();
        drop(trigger);
        timeout(LONG, drain.signaled()).await.expect_err("it can never be signaled");
    }
}
