//! A keyed cache whose entries leave some time after their last user did.
//!
//! `lookup.rs` keeps its streams in it, and the plan's builder its plans. Users of one key share one
//! entry through handles. The timer starts when the last handle is dropped and starts anew at each
//! such drop; permanent entries never leave. An entry may count for several. Beyond its bound the cache
//! gives up the entries that have been idle longest, and refuses new keys when none is idle. It never
//! drops an entry that is in use.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long idle entries stay, and how many entries there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Time without a handle after which an entry goes.
    pub idle: Duration,
    /// Most entries, permanent ones included, each counted as often as it weighs. One that weighs more
    /// than this has the cache for itself.
    pub capacity: usize,
}

/// How many entries one key counts for.
type Weigh<K> = Box<dyn Fn(&K) -> usize + Send + Sync>;

/// Every entry is in use and the cache is at its bound: the mesh is overloaded. Safe to retry once
/// something else is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all {capacity} entries of the cache are in use")]
pub struct CacheFull {
    /// The bound.
    pub capacity: usize,
}

/// What happened in a cache so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Entries now.
    pub entries: usize,
    /// Of these, without a handle.
    pub idle: usize,
    /// Entries that left because they were idle long enough.
    pub expired: u64,
    /// Idle entries that left early to make room.
    pub displaced: u64,
    /// Keys refused because nothing was idle.
    pub refused: u64,
}

/// The cache. Cheap to clone; clones share the entries.
pub struct Cache<K, V> {
    shared: Arc<Shared<K, V>>,
}

/// Keeps one entry in the cache for as long as it or a clone of it lives.
pub struct Handle<K: Clone + Eq + Hash, V> {
    slot: Arc<Slot<K, V>>,
    shared: Arc<Shared<K, V>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stay {
    WhileUsed,
    Forever,
}

struct Slot<K, V> {
    key: K,
    value: V,
    /// Only raised from 0 under the lock, so whoever holds the lock and reads 0 may evict.
    handles: AtomicUsize,
}

struct Shared<K, V> {
    limits: CacheLimits,
    weigh: Weigh<K>,
    state: Mutex<State<K, V>>,
    /// Wakes the sweeper: the first entry became idle, or the cache is gone.
    wake: Arc<Notify>,
}

struct Entry<K, V> {
    slot: Arc<Slot<K, V>>,
    stay: Stay,
    weight: usize,
    /// Its place in `State::idle`.
    idle: Option<u64>,
}

struct State<K, V> {
    entries: HashMap<K, Entry<K, V>>,
    /// What they weigh together.
    weight: usize,
    /// Idle entries in the order in which they became so, which is also the order in which they go:
    /// all wait equally long.
    idle: BTreeMap<u64, (Instant, Arc<Slot<K, V>>)>,
    next: u64,
    counts: CacheCounts,
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static, V: Send + Sync + 'static> Cache<K, V> {
    /// An empty cache whose sweeper runs on `runtime` until the cache and its handles are gone.
    pub fn new(limits: CacheLimits, runtime: &runtime::Handle) -> Self {
        Self::weighed(limits, |_| 1, runtime)
    }

    /// As `new`, where a key counts for as many entries as `weigh` says; always the same for one key.
    pub fn weighed(
        limits: CacheLimits,
        weigh: impl Fn(&K) -> usize + Send + Sync + 'static,
        runtime: &runtime::Handle,
    ) -> Self {
        let wake = Arc::new(Notify::new());
        let state = State {
            entries: HashMap::new(),
            weight: 0,
            idle: BTreeMap::new(),
            next: 0,
            counts: CacheCounts::default(),
        };
        let weigh = Box::new(weigh);
        let shared = Arc::new(Shared { limits, weigh, state: Mutex::new(state), wake: wake.clone() });
        runtime.spawn(sweep(Arc::downgrade(&shared), wake));
        Self { shared }
    }

    /// The entry of `key`, made by `make` if there is none. `make` runs under the cache's lock: it
    /// must be quick and must not use the cache. At the bound, the entries idle longest make room.
    pub fn lookup(&self, key: &K, make: impl FnOnce(&K) -> V) -> Result<Handle<K, V>, CacheFull> {
        self.enter(key, Stay::WhileUsed, make)
    }

    /// The entry of `key`, if there is one.
    pub fn known(&self, key: &K) -> Option<Handle<K, V>> {
        let slot = self.shared.lock().take_up(key, Stay::WhileUsed)?;
        Some(Handle { slot, shared: self.shared.clone() })
    }

    /// Like [`Cache::lookup`], and from now on the entry stays although nobody uses it.
    pub fn permanent(&self, key: &K, make: impl FnOnce(&K) -> V) -> Result<Handle<K, V>, CacheFull> {
        self.enter(key, Stay::Forever, make)
    }

    /// Shows every entry, in no particular order and without counting as use. `visit` runs under the
    /// lock: it must be quick and must not use the cache.
    pub fn visit(&self, mut visit: impl FnMut(&K, &V)) {
        let state = self.shared.lock();
        state.entries.iter().for_each(|(key, entry)| visit(key, &entry.slot.value));
    }

    /// What happened so far.
    pub fn counts(&self) -> CacheCounts {
        let state = self.shared.lock();
        CacheCounts { entries: state.entries.len(), idle: state.idle.len(), ..state.counts }
    }

    fn enter(&self, key: &K, stay: Stay, make: impl FnOnce(&K) -> V) -> Result<Handle<K, V>, CacheFull> {
        let mut displaced = Vec::new(); // dropped after the lock is released: dropping may end tasks
        let mut guard = self.shared.lock();
        let state = &mut *guard;
        let slot = match state.take_up(key, stay) {
            Some(slot) => slot,
            None => {
                let capacity = self.shared.limits.capacity;
                let weight = (self.shared.weigh)(key);
                while state.weight > 0 && state.weight.saturating_add(weight) > capacity {
                    let Some(slot) = state.displace() else {
                        state.counts.refused += 1;
                        drop(guard);
                        return Err(CacheFull { capacity });
                    };
                    displaced.push(slot);
                }
                state.weight += weight;
                let slot =
                    Arc::new(Slot { key: key.clone(), value: make(key), handles: AtomicUsize::new(1) });
                state.entries.insert(key.clone(), Entry { slot: slot.clone(), stay, weight, idle: None });
                slot
            }
        };
        drop(guard);
        drop(displaced);
        Ok(Handle { slot, shared: self.shared.clone() })
    }
}

impl<K: Clone + Eq + Hash, V> State<K, V> {
    /// Uses an entry that is there.
    fn take_up(&mut self, key: &K, stay: Stay) -> Option<Arc<Slot<K, V>>> {
        let entry = self.entries.get_mut(key)?;
        entry.slot.handles.fetch_add(1, Ordering::AcqRel);
        if stay == Stay::Forever {
            entry.stay = stay;
        }
        if let Some(place) = entry.idle.take() {
            self.idle.remove(&place);
        }
        Some(entry.slot.clone())
    }

    /// Gives up the entry that has been idle longest.
    fn displace(&mut self) -> Option<Arc<Slot<K, V>>> {
        let (_, (_, slot)) = self.idle.pop_first()?;
        self.remove(&slot.key);
        self.counts.displaced += 1;
        Some(slot)
    }

    fn remove(&mut self, key: &K) {
        if let Some(entry) = self.entries.remove(key) {
            self.weight -= entry.weight;
        }
    }

    /// Moves entries idle since before `since` into `gone`; says when the next one became idle.
    fn expire(&mut self, since: Instant, gone: &mut Vec<Arc<Slot<K, V>>>) -> Option<Instant> {
        while let Some(first) = self.idle.first_entry() {
            let idle_since = first.get().0;
            if idle_since > since {
                return Some(idle_since);
            }
            let (_, slot) = first.remove();
            self.remove(&slot.key);
            self.counts.expired += 1;
            gone.push(slot);
        }
        None
    }
}

impl<K: Clone + Eq + Hash, V> Shared<K, V> {
    fn lock(&self) -> MutexGuard<'_, State<K, V>> {
        // A panic in `make` leaves the state as it was before: going on is right.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last handle was dropped, unless somebody was faster.
    fn rest(&self, slot: &Arc<Slot<K, V>>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if slot.handles.load(Ordering::Acquire) != 0 {
            return;
        }
        let Some(entry) = state.entries.get_mut(&slot.key) else { return };
        if entry.stay == Stay::Forever || !Arc::ptr_eq(&entry.slot, slot) {
            return;
        }
        if let Some(place) = entry.idle.take() {
            state.idle.remove(&place);
        }
        let place = state.next;
        state.next += 1;
        entry.idle = Some(place);
        state.idle.insert(place, (Instant::now(), slot.clone()));
        if state.idle.len() == 1 {
            self.wake.notify_one();
        }
    }
}

/// Removes entries as their time comes.
async fn sweep<K: Clone + Eq + Hash, V>(shared: Weak<Shared<K, V>>, wake: Arc<Notify>) {
    loop {
        let next = {
            let Some(shared) = shared.upgrade() else { return };
            let mut gone = Vec::new();
            let now = Instant::now();
            let next = match now.checked_sub(shared.limits.idle) {
                Some(since) => shared.lock().expire(since, &mut gone),
                None => shared.lock().idle.values().next().map(|(since, _)| *since),
            };
            next.map(|since| since + shared.limits.idle)
        };
        match next {
            Some(at) => tokio::select! {
                () = tokio::time::sleep_until(at) => {}
                () = wake.notified() => {}
            },
            None => wake.notified().await,
        }
    }
}

impl<K, V> Drop for Shared<K, V> {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

impl<K, V> Clone for Cache<K, V> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<K: Clone + Eq + Hash, V> Handle<K, V> {
    /// The key of the entry.
    pub fn key(&self) -> &K {
        &self.slot.key
    }
}

impl<K: Clone + Eq + Hash, V> Deref for Handle<K, V> {
    type Target = V;

    fn deref(&self) -> &V {
        &self.slot.value
    }
}

impl<K: Clone + Eq + Hash, V> Clone for Handle<K, V> {
    fn clone(&self) -> Self {
        self.slot.handles.fetch_add(1, Ordering::AcqRel);
        Self { slot: self.slot.clone(), shared: self.shared.clone() }
    }
}

impl<K: Clone + Eq + Hash, V> Drop for Handle<K, V> {
    fn drop(&mut self) {
        if self.slot.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.rest(&self.slot);
        }
    }
}

impl<K: Clone + Eq + Hash + fmt::Debug, V> fmt::Debug for Handle<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.slot.key).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(5);

    /// A value that counts its drops.
    struct Counted(Arc<AtomicUsize>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn cache(capacity: usize) -> Cache<u32, u32> {
        Cache::new(CacheLimits { idle: IDLE, capacity }, &runtime::Handle::current())
    }

    fn keys(cache: &Cache<u32, u32>) -> Vec<u32> {
        let mut keys = Vec::new();
        cache.visit(|key, _| keys.push(*key));
        keys.sort_unstable();
        keys
    }

    async fn pass(time: Duration) {
        tokio::task::yield_now().await; // lets the sweeper set its timer
        tokio::time::advance(time).await;
        tokio::task::yield_now().await;
    }

    #[tokio::test(start_paused = true)]
    async fn users_of_one_key_share_one_entry() {
        let cache = cache(10);
        let first = cache.lookup(&1, |_| 7).unwrap();
        let second = cache.lookup(&1, |_| unreachable!()).unwrap();
        assert_eq!((*first, *second, *first.key()), (7, 7, 1));
        drop(first);
        pass(IDLE * 10).await;
        assert_eq!(keys(&cache), [1]);
        drop(second.clone());
        drop(second);
        pass(IDLE * 2).await;
        assert_eq!(keys(&cache), [0; 0]);
        assert_eq!(cache.counts(), CacheCounts { expired: 1, ..CacheCounts::default() });
    }

    #[tokio::test(start_paused = true)]
    async fn the_timer_starts_anew_at_each_last_drop() {
        let cache = cache(10);
        drop(cache.lookup(&1, |_| 0).unwrap());
        for _ in 0..5 {
            pass(IDLE * 3 / 4).await;
            drop(cache.lookup(&1, |_| unreachable!()).unwrap());
        }
        drop(cache.lookup(&2, |_| 0).unwrap());
        pass(IDLE - Duration::from_millis(2)).await;
        assert_eq!(keys(&cache), [1, 2]);
        pass(Duration::from_millis(4)).await;
        assert_eq!(keys(&cache), [0; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_entry_idle_longest_makes_room_and_used_ones_never_do() {
        let cache = cache(3);
        let used = cache.lookup(&1, |_| 0).unwrap();
        drop(cache.lookup(&2, |_| 0).unwrap());
        drop(cache.lookup(&3, |_| 0).unwrap());
        drop(cache.lookup(&2, |_| 0).unwrap());
        let fourth = cache.lookup(&4, |_| 0).unwrap();
        assert_eq!(keys(&cache), [1, 2, 4]);
        let second = cache.lookup(&2, |_| unreachable!()).unwrap();
        assert_eq!(cache.lookup(&5, |_| unreachable!()).unwrap_err(), CacheFull { capacity: 3 });
        assert_eq!(
            cache.counts(),
            CacheCounts { entries: 3, displaced: 1, refused: 1, ..Default::default() }
        );
        drop((used, second));
        drop(fourth);
        cache.lookup(&5, |_| 0).unwrap();
        assert_eq!(keys(&cache), [2, 4, 5], "the one dropped first goes first");
    }

    #[tokio::test(start_paused = true)]
    async fn a_heavy_entry_takes_the_room_of_several_and_one_too_heavy_is_alone() {
        let limits = CacheLimits { idle: IDLE, capacity: 4 };
        let cache: Cache<u32, u32> = Cache::weighed(limits, |key| *key as usize, &runtime::Handle::current());
        for light in [1, 2] {
            drop(cache.lookup(&light, |_| 0).unwrap());
        }
        let three = cache.lookup(&3, |_| 0).unwrap();
        assert_eq!((keys(&cache), cache.counts().displaced), (vec![3], 2));
        cache.lookup(&2, |_| unreachable!()).unwrap_err();
        let _one = cache.lookup(&1, |_| 0).unwrap();
        drop(three);
        pass(IDLE * 2).await;
        let _three = cache.lookup(&3, |_| 0).unwrap();
        assert_eq!(keys(&cache), [1, 3], "what left gives its weight back");
        let alone: Cache<u32, u32> = Cache::weighed(limits, |key| *key as usize, &runtime::Handle::current());
        let _nine = alone.lookup(&9, |_| 0).unwrap();
        alone.lookup(&1, |_| unreachable!()).unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn permanent_entries_stay() {
        let cache = cache(2);
        drop(cache.lookup(&1, |_| 0).unwrap());
        drop(cache.permanent(&1, |_| unreachable!()).unwrap());
        drop(cache.permanent(&2, |_| 0).unwrap());
        pass(IDLE * 10).await;
        assert_eq!(keys(&cache), [1, 2]);
        assert!(cache.lookup(&3, |_| 0).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn values_are_dropped_with_the_cache_and_its_sweeper_ends() {
        let drops = Arc::new(AtomicUsize::new(0));
        let runtime = runtime::Handle::current();
        let before = runtime.metrics().num_alive_tasks();
        let cache = Cache::new(CacheLimits { idle: IDLE, capacity: 10 }, &runtime);
        let held = cache.lookup(&1, |_| Counted(drops.clone())).unwrap();
        drop(cache.lookup(&2, |_| Counted(drops.clone())).unwrap());
        drop(cache);
        assert_eq!(drops.load(Ordering::Relaxed), 0);
        drop(held);
        pass(Duration::from_millis(1)).await;
        assert_eq!(drops.load(Ordering::Relaxed), 2);
        assert_eq!(runtime.metrics().num_alive_tasks(), before);
    }

    #[test]
    fn many_threads_leave_the_books_balanced() {
        let rt = runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
        let idle = Duration::from_micros(50);
        let cache = Cache::new(CacheLimits { idle, capacity: 8 }, rt.handle());
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let cache = &cache;
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed);
                    for _ in 0..5_000 {
                        let key = random.u32(0..12);
                        if let Ok(handle) = cache.lookup(&key, |key| key * 2) {
                            assert_eq!((*handle, *handle.key()), (key * 2, key));
                            drop(handle.clone());
                        }
                    }
                });
            }
        });
        let counts = cache.counts();
        assert_eq!(counts.entries, counts.idle, "nothing is held, so everything is idle: {counts:?}");
    }
}
