//! The runtime that carries traffic, with as many workers as the control group pays for.
//!
//! Several workers share tasks and steal them from each other. One worker has nobody to share with: it runs
//! a scheduler that polls tasks strictly in the order in which they were woken. So when several connections
//! have something to read, all are read before any of the requests is routed, all requests are routed before
//! their upstream connection writes, and the code of one step stays in the processor's cache for all of them;
//! a work-stealing worker runs what was woken last first, and goes through all steps for one request after
//! the other. Called by `weft proxy`; knows nothing of what runs on it.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// What the threads that carry traffic are called in the lists of the operating system.
const NAME: &str = "data";

/// A running runtime for traffic; ended by [`DataPath::end`].
pub(crate) enum DataPath {
    /// A thread which polls tasks in the order of their waking, until told to end.
    Single { handle: Handle, end: oneshot::Sender<()>, ended: mpsc::Receiver<()> },
    /// Threads which share tasks.
    Shared(Runtime),
}

impl DataPath {
    /// Starts `workers` threads (at least one). Fails where the system gives no threads or no event queue.
    pub(crate) fn start(workers: usize) -> io::Result<Self> {
        if workers > 1 {
            let mut builder = Builder::new_multi_thread();
            return builder.worker_threads(workers).thread_name(NAME).enable_all().build().map(Self::Shared);
        }
        let runtime = Builder::new_current_thread().thread_name(NAME).enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, told) = oneshot::channel::<()>();
        let (over, ended) = mpsc::sync_channel(1);
        thread::Builder::new().name(NAME.to_owned()).spawn(move || {
            // An error says that the other side is gone, which is an end as well.
            let _ = runtime.block_on(told);
            runtime.shutdown_background();
            let _ = over.send(());
        })?;
        Ok(Self::Single { handle, end, ended })
    }

    pub(crate) fn handle(&self) -> &Handle {
        match self {
            Self::Single { handle, .. } => handle,
            Self::Shared(runtime) => runtime.handle(),
        }
    }

    /// Drops all tasks; waits for those that are computing at this moment, up to `wait`.
    pub(crate) fn end(self, wait: Duration) {
        match self {
            Self::Single { end, ended, .. } => {
                let _ = end.send(());
                let _ = ended.recv_timeout(wait);
            }
            Self::Shared(runtime) => runtime.shutdown_timeout(wait),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long enough for a thread to be scheduled on any machine.
    const WAIT: Duration = Duration::from_secs(10);

    fn order_of_three_tasks_that_a_task_wakes(workers: usize) -> Vec<usize> {
        let path = DataPath::start(workers).unwrap();
        let (tell, told) = mpsc::sync_channel(3);
        path.handle().spawn(async move {
            for number in 0..3 {
                let tell = tell.clone();
                tokio::spawn(async move { tell.send(number) });
            }
        });
        let order = (0..3).map(|_| told.recv_timeout(WAIT).unwrap()).collect();
        path.end(WAIT);
        order
    }

    #[test]
    fn one_worker_runs_tasks_in_the_order_in_which_they_were_woken() {
        assert_eq!(order_of_three_tasks_that_a_task_wakes(1), [0, 1, 2]);
    }

    #[test]
    fn several_workers_run_them_all() {
        let mut order = order_of_three_tasks_that_a_task_wakes(3);
        order.sort_unstable();
        assert_eq!(order, [0, 1, 2]);
    }

    #[test]
    fn the_end_drops_what_still_waits() {
        for workers in [1, 2] {
            let path = DataPath::start(workers).unwrap();
            let (held, dropped) = mpsc::sync_channel::<()>(1);
            path.handle().spawn(async move {
                let _held = held;
                std::future::pending::<()>().await;
            });
            path.end(WAIT);
            assert_eq!(dropped.recv_timeout(WAIT), Err(mpsc::RecvTimeoutError::Disconnected), "{workers}");
        }
    }
}
