//! The endpoints of one name, followed once and passed on to everybody who balances over them.
//!
//! A daemon applies the updates of `Destination.Get` (data-plane facts, section 2.2): after each
//! reconnect the first add replaces the set, and a remove before it says nothing. Listeners get the
//! present set when they subscribe and every change afterwards, in order. `lookup.rs` makes one of
//! these for each name. It never connects to an endpoint.

use crate::error::DiscoverError;
use crate::stream::{Daemon, Latest, Open, Progress, Publish, Rules, Sink, Watch};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime;
use weft_balance::{Backend, Change, Target};
use weft_model::destination::{EndpointInfo, EndpointUpdate};
use weft_wire::services::Status;

/// Endpoints kept of one name, as many as a backend takes. Bounds what a broken control plane can make
/// us hold; the control plane is tested with 10,000.
pub(crate) const MAX_ENDPOINTS: usize = 100_000;

/// What is known about the endpoints of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// How many there are.
    pub endpoints: usize,
    /// Whether the service itself exists.
    pub exists: bool,
}

/// Who wants to hear of endpoints.
pub trait Listener: Send + Sync + 'static {
    /// Takes a change. The first one is always a reset or an empty set. Called under the lock of the
    /// endpoint set: it must be quick and must neither subscribe nor unsubscribe.
    fn apply(&self, change: Change);
}

impl<E: Target> Listener for Backend<E> {
    fn apply(&self, change: Change) {
        Backend::apply(self, change);
    }
}

/// The endpoints of one name. Dropping it ends the call to the control plane.
pub struct Endpoints {
    shared: Arc<Shared>,
    watch: Watch<Known>,
}

/// Keeps a listener subscribed until it is dropped. It does not keep the endpoints followed.
pub struct Subscription {
    shared: Weak<Shared>,
    id: u64,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None` until the first answer.
    set: Option<Set>,
    /// By their number. A few: the backends that lead to the name.
    listeners: Vec<(u64, Arc<dyn Listener>)>,
    next: u64,
}

#[derive(Default)]
struct Set {
    /// By address. A map would make room for eleven, and most names have fewer.
    #[expect(
        clippy::vec_box,
        reason = "one that comes in between moves the pointers of up to 100,000 others"
    )]
    endpoints: Vec<Box<EndpointInfo>>,
    exists: bool,
}

impl Endpoints {
    /// Starts following on `runtime`.
    pub(crate) fn follow(open: Open<EndpointUpdate>, rules: Arc<Rules>, runtime: &runtime::Handle) -> Self {
        let (publish, watch) = Watch::new(Latest::Awaited);
        let shared = Arc::<Shared>::default();
        let sink = Follower { shared: shared.clone(), publish: publish.clone(), fresh: true, reset: None };
        let progress = publish.progress.clone();
        let daemon = Daemon { open, rules, progress, sink };
        runtime.spawn(daemon.run_while_watched(publish.latest));
        Self { shared, watch }
    }

    /// Tells `listener` the present set, if there is one, and every change from now on.
    pub fn subscribe(&self, listener: Arc<dyn Listener>) -> Subscription {
        let mut state = self.shared.lock();
        if let Some(set) = &state.set {
            listener.apply(set.as_change());
        }
        let id = state.next;
        state.next += 1;
        state.listeners.push((id, listener));
        Subscription { shared: Arc::downgrade(&self.shared), id }
    }

    /// What is known, once anything is; waits for the first answer at most as long as told.
    pub async fn first(&self, within: Duration) -> Result<Arc<Known>, DiscoverError> {
        self.watch.first(within).await
    }

    /// What is known now, with news of every change in number.
    pub fn watch(&self) -> &Watch<Known> {
        &self.watch
    }

    /// How the call to the control plane is doing.
    pub fn progress(&self) -> Progress {
        self.watch.progress()
    }

    /// The present set, sorted by address; `None` before the first answer.
    pub fn list(&self) -> Option<Vec<EndpointInfo>> {
        self.shared.lock().set.as_ref().map(|set| set.endpoints.iter().map(|info| (**info).clone()).collect())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, change: Change) -> Known {
        let mut guard = self.lock();
        let state = &mut *guard;
        let set = state.set.get_or_insert_default();
        set.apply(&change);
        // Whoever listens since before the first answer gets a reset first, too.
        let known = Known { endpoints: set.endpoints.len(), exists: set.exists };
        for (_, listener) in &state.listeners {
            listener.apply(change.clone());
        }
        known
    }
}

impl Set {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Reset(infos) => {
                self.endpoints.clear();
                self.add(infos);
            }
            Change::Add(infos) => self.add(infos),
            Change::Remove(addrs) => {
                let gone: BTreeSet<_> = addrs.iter().collect();
                self.endpoints.retain(|info| !gone.contains(&info.addr));
            }
            Change::Empty { exists } => {
                self.endpoints.clear();
                self.exists = *exists;
            }
        }
    }

    fn add(&mut self, infos: &[EndpointInfo]) {
        self.exists = true;
        if self.endpoints.is_empty() {
            self.endpoints = infos.iter().cloned().map(Box::new).collect();
            self.endpoints.sort_by_key(|info| info.addr);
            // The sort keeps the order of equals, and the last of them counts.
            self.endpoints.dedup_by(|later, kept| {
                let same = later.addr == kept.addr;
                if same {
                    std::mem::swap(later, kept);
                }
                same
            });
            return self.endpoints.truncate(MAX_ENDPOINTS);
        }
        for info in infos {
            match self.endpoints.binary_search_by_key(&info.addr, |known| known.addr) {
                Ok(at) => {
                    if let Some(known) = self.endpoints.get_mut(at) {
                        **known = info.clone();
                    }
                }
                Err(at) if self.endpoints.len() < MAX_ENDPOINTS => {
                    self.endpoints.insert(at, Box::new(info.clone()));
                }
                Err(_) => {}
            }
        }
    }

    fn as_change(&self) -> Change {
        match self.endpoints.is_empty() {
            true => Change::Empty { exists: self.exists },
            false => Change::Reset(self.endpoints.iter().map(|info| (**info).clone()).collect()),
        }
    }
}

/// Turns updates into changes.
struct Follower {
    shared: Arc<Shared>,
    publish: Publish<Known>,
    /// Whether this call has not said anything that counts yet.
    fresh: bool,
    /// The new set, while parts of it may be at hand.
    reset: Option<Vec<EndpointInfo>>,
}

impl Follower {
    fn apply(&mut self, change: Change) {
        let known = self.shared.apply(change);
        self.publish.answer(known);
    }
}

impl Sink<EndpointUpdate> for Follower {
    fn opened(&mut self) {
        self.fresh = true;
    }

    fn answer(&mut self, update: EndpointUpdate) {
        match update {
            EndpointUpdate::Add(infos) if infos.is_empty() => {}
            EndpointUpdate::Remove(_) if self.fresh => {}
            EndpointUpdate::Add(infos) if self.fresh || self.reset.is_some() => {
                self.fresh = false;
                let reset = self.reset.get_or_insert_default();
                reset.extend(infos);
                if reset.len() > MAX_ENDPOINTS {
                    self.release();
                }
            }
            other => {
                self.fresh = false;
                self.release();
                self.apply(other.into());
            }
        }
    }

    /// A set too large for one message comes in several, one right after the other.
    fn holds_back(&self) -> bool {
        self.reset.is_some()
    }

    fn release(&mut self) {
        if let Some(infos) = self.reset.take() {
            self.apply(Change::Reset(infos));
        }
    }

    fn refused(&mut self, status: Status) {
        self.publish.refuse(status);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let removed = self.shared.upgrade().and_then(|shared| {
            let listeners = &mut shared.lock().listeners;
            let at = listeners.iter().position(|(id, _)| *id == self.id)?;
            Some(listeners.remove(at))
        });
        drop(removed); // after the lock
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoints").field(&self.watch.latest()).finish()
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Subscription").field(&self.id).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use EndpointUpdate::{Add, NoEndpoints, Remove};
    use futures_util::StreamExt;
    use std::net::SocketAddr;
    use tokio::sync::mpsc;
    use weft_model::route::Backoff;

    /// Applies what it hears and keeps a note of it.
    #[derive(Default)]
    struct Notes(Mutex<(Vec<String>, Set)>);

    impl Listener for Notes {
        fn apply(&self, change: Change) {
            let mut notes = self.0.lock().unwrap();
            notes.1.apply(&change);
            let ports = |infos: &[EndpointInfo]| infos.iter().map(|i| i.addr.port()).collect::<Vec<_>>();
            let note = match &change {
                Change::Reset(infos) => format!("reset {:?}", ports(infos)),
                Change::Add(infos) => format!("add {:?}", ports(infos)),
                Change::Remove(addrs) => {
                    format!("remove {:?}", addrs.iter().map(SocketAddr::port).collect::<Vec<_>>())
                }
                Change::Empty { exists } => format!("empty {exists}"),
            };
            notes.0.push(note);
        }
    }

    impl Notes {
        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().unwrap().0)
        }

        fn ports(&self) -> Vec<u16> {
            self.0.lock().unwrap().1.endpoints.iter().map(|info| info.addr.port()).collect()
        }
    }

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn infos(ports: &[u16]) -> Vec<EndpointInfo> {
        ports.iter().map(|port| EndpointInfo::plain(addr(*port))).collect()
    }

    type Calls = mpsc::Receiver<mpsc::Sender<EndpointUpdate>>;

    /// Follows a server whose calls come out of the receiver.
    fn follow() -> (Endpoints, Calls) {
        let (calls, server) = mpsc::channel(8);
        let open: Open<EndpointUpdate> = Box::new(move || {
            let calls = calls.clone();
            Box::pin(async move {
                let (sender, receiver) = mpsc::channel(64);
                calls
                    .send(sender)
                    .await
                    .map_err(|e| Status::new(weft_wire::services::Code::InvalidArgument, e.to_string()))?;
                let answers = futures_util::stream::unfold(receiver, |mut receiver| async move {
                    receiver.recv().await.map(|update| (Ok(update), receiver))
                });
                Ok(answers.boxed() as crate::stream::Answers<EndpointUpdate>)
            })
        });
        let backoff = Backoff { min: Duration::from_millis(1), max: Duration::from_millis(1), jitter: 0.0 };
        let rules = Rules { backoff, limits: Default::default(), finals: &[] };
        (Endpoints::follow(open, rules.into(), &runtime::Handle::current()), server)
    }

    async fn settle() {
        let _ = tokio::time::timeout(Duration::from_millis(10), std::future::pending::<()>()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn updates_reach_every_listener_and_late_ones_start_from_the_present_set() {
        let (endpoints, mut calls) = follow();
        let (early, late) = (Arc::new(Notes::default()), Arc::new(Notes::default()));
        let _early = endpoints.subscribe(early.clone());
        let call = calls.recv().await.unwrap();
        call.send(Remove(vec![addr(9)])).await.unwrap();
        call.send(Add(vec![])).await.unwrap();
        settle().await;
        assert_eq!(endpoints.watch().latest(), Latest::Awaited);
        call.send(Add(infos(&[1, 2]))).await.unwrap();
        let first = endpoints.first(Duration::from_secs(1)).await.unwrap();
        assert_eq!(*first, Known { endpoints: 2, exists: true });
        let subscription = endpoints.subscribe(late.clone());
        call.send(Add(infos(&[3]))).await.unwrap();
        call.send(Remove(vec![addr(1)])).await.unwrap();
        settle().await;
        assert_eq!(early.take(), ["reset [1, 2]", "add [3]", "remove [1]"]);
        assert_eq!(late.take(), ["reset [1, 2]", "add [3]", "remove [1]"]);
        drop(subscription);
        call.send(NoEndpoints { exists: false }).await.unwrap();
        settle().await;
        assert_eq!((early.take(), late.take()), (vec!["empty false".to_owned()], vec![]));
        assert_eq!(endpoints.list(), Some(vec![]));
        let latest = Notes::default();
        endpoints.subscribe(Arc::new(Notes::default()));
        let _ = endpoints.subscribe(Arc::new(latest));
        assert_eq!(endpoints.shared.lock().listeners.len(), 1, "dropped subscriptions are gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_control_plane_that_tells_endpoints_without_end_fills_no_memory() {
        let (endpoints, mut calls) = follow();
        let call = calls.recv().await.unwrap();
        let many = |from: u32| {
            let addr = |n: u32| SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + n), 80));
            (from..from + 10_000).map(|n| EndpointInfo::plain(addr(n))).collect::<Vec<_>>()
        };
        // At once, as a first set in parts, and then one by one.
        for part in 0..15 {
            call.send(Add(many(part * 10_000))).await.unwrap();
        }
        settle().await;
        assert_eq!(endpoints.list().unwrap().len(), MAX_ENDPOINTS);
        for part in 15..30 {
            call.send(Add(many(part * 10_000))).await.unwrap();
            settle().await;
        }
        assert_eq!(endpoints.list().unwrap().len(), MAX_ENDPOINTS);
        call.send(Remove(many(0).iter().map(|info| info.addr).collect())).await.unwrap();
        settle().await;
        assert_eq!(endpoints.list().unwrap().len(), MAX_ENDPOINTS - 10_000, "what goes makes room");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_reconnect_the_first_add_is_a_reset_and_a_remove_before_it_is_ignored() {
        let (endpoints, mut calls) = follow();
        let notes = Arc::new(Notes::default());
        let _subscription = endpoints.subscribe(notes.clone());
        let call = calls.recv().await.unwrap();
        call.send(Add(infos(&[1, 2]))).await.unwrap();
        settle().await;
        drop(call);
        let call = calls.recv().await.unwrap();
        settle().await;
        assert_eq!(notes.ports(), [1, 2], "the last good set stays in force");
        call.send(Remove(vec![addr(2)])).await.unwrap();
        settle().await;
        call.send(Add(infos(&[2, 3]))).await.unwrap();
        settle().await;
        call.send(Add(infos(&[4]))).await.unwrap();
        settle().await;
        assert_eq!(notes.take(), ["reset [1, 2]", "reset [2, 3]", "add [4]"]);
    }

    #[tokio::test(start_paused = true)]
    async fn adds_that_come_together_right_after_a_reconnect_are_one_reset() {
        let (endpoints, mut calls) = follow();
        let notes = Arc::new(Notes::default());
        let _subscription = endpoints.subscribe(notes.clone());
        let call = calls.recv().await.unwrap();
        for update in [Add(infos(&[1])), Add(infos(&[2])), Remove(vec![addr(1)]), Add(infos(&[3]))] {
            call.try_send(update).unwrap();
        }
        settle().await;
        assert_eq!(notes.take(), ["reset [1, 2]", "remove [1]", "add [3]"]);
        drop(call);
        let call = calls.recv().await.unwrap();
        call.try_send(Add(infos(&[5]))).unwrap();
        call.try_send(Add(infos(&[6]))).unwrap();
        drop(call);
        settle().await;
        assert_eq!(notes.take(), ["reset [5, 6]"], "a call that ends leaves nothing held back");
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_the_endpoints_ends_the_call() {
        let (endpoints, mut calls) = follow();
        let call = calls.recv().await.unwrap();
        let subscription = endpoints.subscribe(Arc::new(Notes::default()));
        drop(endpoints);
        settle().await;
        assert!(call.is_closed());
        drop(subscription);
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_is_sent_listeners_hold_the_same_set() {
        for seed in 0..30 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (endpoints, mut calls) = follow();
            let notes = Arc::new(Notes::default());
            let _subscription = endpoints.subscribe(notes.clone());
            let mut call = calls.recv().await.unwrap();
            let mut late = Vec::new();
            for _ in 0..60 {
                let ports: Vec<u16> = (0..random.usize(0..4)).map(|_| random.u16(1..9)).collect();
                let update = match random.u8(0..8) {
                    0 => NoEndpoints { exists: random.bool() },
                    1..4 => Remove(ports.iter().map(|port| addr(*port)).collect()),
                    _ => Add(infos(&ports)),
                };
                call.send(update).await.unwrap();
                match random.u8(0..10) {
                    0 => {
                        drop(call);
                        call = calls.recv().await.unwrap();
                    }
                    1 => {
                        let notes = Arc::new(Notes::default());
                        late.push((endpoints.subscribe(notes.clone()), notes));
                    }
                    2..5 => settle().await,
                    _ => {}
                }
            }
            settle().await;
            let list = endpoints.list().unwrap_or_default();
            let ports: Vec<u16> = list.iter().map(|info| info.addr.port()).collect();
            assert_eq!(notes.ports(), ports, "seed {seed}");
            assert!(late.iter().all(|(_, notes)| notes.ports() == ports), "seed {seed}");
        }
    }
}
