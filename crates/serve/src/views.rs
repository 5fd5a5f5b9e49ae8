//! The index, and every answer that some stream follows.
//!
//! `control` feeds changes to [`Views::apply`]; a stream subscribes to the view that answers its question. Only
//! views that somebody follows exist, and only those that a change touches are computed again. A stream sees the
//! newest answer and skips what it was too slow for, so nothing queues up anywhere.

use crate::content::Content;
use crate::metrics::Metrics;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use weft_index::{Answer, Index, Question, Refusal, Touched, ViewKey};
use weft_model::object::Change;
use weft_model::workload::{Asker, WorkloadName};
use weft_telemetry::text::Kind;

/// Times of changes remembered for one view. A client that lags by more is told to lag by this many.
pub(crate) const HISTORY: usize = 64;

/// The index and its views. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Views {
    shared: Arc<Shared>,
}

struct Shared {
    index: RwLock<Index>,
    /// Held while a batch is applied and what it touches is computed, so that batches do not overtake.
    applying: Mutex<()>,
    live: Mutex<HashMap<ViewKey, Arc<View>>>,
    askers: Mutex<HashMap<WorkloadName, watch::Sender<u64>>>,
    last_version: AtomicU64,
    last_subscriber: AtomicU64,
}

/// One answer that somebody follows.
struct View {
    key: ViewKey,
    current: watch::Sender<Current>,
    history: Mutex<VecDeque<(u64, Instant)>>,
    /// What each stream has sent. Changed only while `live` is locked.
    sent: Mutex<HashMap<u64, Arc<AtomicU64>>>,
}

/// The state of a view. Streams wake whenever it is touched, because their question may belong to another view
/// now, even if this one's answer is the same.
#[derive(Clone)]
struct Current {
    touched: u64,
    content: Arc<Content>,
}

impl Views {
    /// Views of an index. The index may be empty or filled.
    pub fn new(index: Index) -> Self {
        let shared = Shared {
            index: RwLock::new(index),
            applying: Mutex::new(()),
            live: Mutex::new(HashMap::new()),
            askers: Mutex::new(HashMap::new()),
            last_version: AtomicU64::new(0),
            last_subscriber: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Applies a batch of changes as one, and wakes the streams whose answers it touches. Costs time in the size of
    /// the touched answers: run it where blocking for some milliseconds is allowed.
    pub fn apply(&self, batch: impl IntoIterator<Item = Change>) -> Touched {
        let shared = &*self.shared;
        let _in_order = lock(&shared.applying);
        let touched = shared.index.write().unwrap_or_else(PoisonError::into_inner).apply(batch);
        if touched.is_empty() {
            return touched;
        }
        let now = Instant::now();
        let of_interest: Vec<_> =
            lock(&shared.live).values().filter(|view| touched.touches(&view.key)).cloned().collect();
        self.read(|index| {
            for view in of_interest {
                view.update(index.resolve(&view.key), now, || shared.next_version());
            }
        });
        let askers = lock(&shared.askers);
        for sender in touched.workloads.iter().filter_map(|name| askers.get(name)) {
            sender.send_modify(|moves| *moves += 1);
        }
        touched
    }

    /// Reads the index. Changes wait meanwhile, so be quick, and do not call this from within.
    pub fn read<T>(&self, read: impl FnOnce(&Index) -> T) -> T {
        read(&self.shared.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many answers are followed.
    pub fn live(&self) -> usize {
        lock(&self.shared.live).len()
    }

    /// The age of the oldest change that some stream has not taken yet; zero if all have taken all.
    pub fn oldest_unsent(&self) -> Duration {
        let views: Vec<_> = lock(&self.shared.live).values().cloned().collect();
        let now = Instant::now();
        let ages = views.iter().filter_map(|view| {
            let slowest = lock(&view.sent).values().map(|sent| sent.load(Relaxed)).min()?;
            Some(now.saturating_duration_since(view.first_change_after(slowest)?))
        });
        ages.max().unwrap_or_default()
    }

    /// Endpoints that are left out of followed answers because they are beyond the limit.
    fn left_out(&self) -> usize {
        let views: Vec<_> = lock(&self.shared.live).values().cloned().collect();
        let of = |view: &Arc<View>| match &view.current.borrow().content.answer {
            Answer::Endpoints(set) => set.left_out,
            _ => 0,
        };
        views.iter().map(of).sum()
    }

    /// Exports the number of views, what is left out of them, and the age of the oldest unsent change.
    pub fn export(&self, metrics: &Metrics) {
        let views = self.clone();
        metrics.registry().collector("control_plane_views", move |out| {
            out.single("control_plane_views", "Answers that streams follow.", Kind::Gauge, views.live());
            out.single(
                "control_plane_endpoints_left_out",
                "Endpoints beyond the limit of one service, left out of what streams follow.",
                Kind::Gauge,
                views.left_out(),
            );
            out.single(
                "control_plane_oldest_unsent_change_seconds",
                "Age of the oldest change that some stream has not taken yet.",
                Kind::Gauge,
                views.oldest_unsent().as_secs_f64(),
            );
        });
    }

    /// Follows the view that answers a question now.
    pub(crate) fn subscribe(&self, question: &Question) -> Result<Subscription, Refusal> {
        self.read(|index| {
            let key = index.view(question)?;
            let shared = &*self.shared;
            let mut live = lock(&shared.live);
            // Computed under the lock: of many streams that come at once for a new view, one does the work.
            let view = live.entry(key).or_insert_with_key(|key| {
                let content = Content::new(shared.next_version(), index.resolve(key));
                Arc::new(View::new(key.clone(), Arc::new(content)))
            });
            let subscriber = shared.last_subscriber.fetch_add(1, Relaxed);
            let sent = Arc::new(AtomicU64::new(u64::MAX));
            lock(&view.sent).insert(subscriber, sent.clone());
            let current = view.current.subscribe();
            Ok(Subscription { views: self.clone(), view: view.clone(), current, sent, subscriber })
        })
    }

    /// Hears when an asker's own workload changes, which may move its questions to other views.
    pub(crate) fn moves_of(&self, asker: &Asker) -> Option<Moves> {
        if asker.workload.is_empty() {
            return None;
        }
        let name = WorkloadName { namespace: asker.namespace.clone(), name: asker.workload.clone() };
        let mut askers = lock(&self.shared.askers);
        let moves = askers.entry(name.clone()).or_insert_with(|| watch::Sender::new(0)).subscribe();
        Some(Moves { views: self.clone(), name, moves: Some(moves) })
    }
}

impl Shared {
    fn next_version(&self) -> u64 {
        self.last_version.fetch_add(1, Relaxed) + 1
    }
}

impl View {
    fn new(key: ViewKey, content: Arc<Content>) -> Self {
        let current = watch::Sender::new(Current { touched: 0, content });
        Self { key, current, history: Mutex::new(VecDeque::new()), sent: Mutex::new(HashMap::new()) }
    }

    fn update(&self, answer: Answer, now: Instant, next_version: impl FnOnce() -> u64) {
        let changed = self.current.borrow().content.answer != answer;
        let content = changed.then(|| Arc::new(Content::new(next_version(), answer)));
        if let Some(content) = &content {
            let mut history = lock(&self.history);
            if history.len() >= HISTORY {
                history.pop_front();
            }
            history.push_back((content.version, now));
        }
        self.current.send_modify(|current| {
            current.touched += 1;
            if let Some(content) = content {
                current.content = content;
            }
        });
    }

    /// When the first change came that a client at `version` has not been told.
    fn first_change_after(&self, version: u64) -> Option<Instant> {
        lock(&self.history).iter().find(|(changed, _)| *changed > version).map(|(_, at)| *at)
    }
}

/// One stream's hold on a view.
pub(crate) struct Subscription {
    views: Views,
    view: Arc<View>,
    current: watch::Receiver<Current>,
    sent: Arc<AtomicU64>,
    subscriber: u64,
}

impl Subscription {
    pub(crate) fn key(&self) -> &ViewKey {
        &self.view.key
    }

    /// Waits until the view is touched. Cancel-safe.
    pub(crate) async fn touched(&mut self) {
        if self.current.changed().await.is_err() {
            std::future::pending::<()>().await; // cannot be: the view holds the sender
        }
    }

    /// The newest content; what came before it is not heard of any more.
    pub(crate) fn newest(&mut self) -> Arc<Content> {
        self.current.borrow_and_update().content.clone()
    }

    /// When the first change came that a client at `version` has not been told.
    pub(crate) fn first_change_after(&self, version: u64) -> Option<Instant> {
        self.view.first_change_after(version)
    }

    /// Notes what the client has been told.
    pub(crate) fn note_sent(&self, version: u64) {
        self.sent.store(version, Relaxed);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut live = lock(&self.views.shared.live);
        let mut sent = lock(&self.view.sent);
        sent.remove(&self.subscriber);
        if sent.is_empty() {
            live.remove(&self.view.key);
        }
    }
}

/// Hears when one workload changes.
pub(crate) struct Moves {
    views: Views,
    name: WorkloadName,
    /// Always there but during the drop.
    moves: Option<watch::Receiver<u64>>,
}

impl Moves {
    /// Waits until the workload changes. Cancel-safe.
    pub(crate) async fn moved(&mut self) {
        let changed = match &mut self.moves {
            Some(moves) => moves.changed().await.is_ok(),
            None => false,
        };
        if !changed {
            std::future::pending::<()>().await; // cannot be: the sender stays while this exists
        }
    }
}

impl Drop for Moves {
    fn drop(&mut self) {
        let mut askers = lock(&self.views.shared.askers);
        self.moves = None;
        if askers.get(&self.name).is_some_and(|sender| sender.receiver_count() == 0) {
            askers.remove(&self.name);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
