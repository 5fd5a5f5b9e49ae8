//! Counters, gauges and histograms in families.
//!
//! Every crate's metrics struct asks the `Registry` for its families once, resolves the series of a
//! route or an endpoint when that is built, and keeps the handle: updating one is an atomic addition,
//! without a lock, a look-up or an allocation. A family has a bounded number of series, because labels
//! may come from strangers. Never global.

use crate::text::{Exposition, Kind, Labels, More, Rest, pairs};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Buckets of the `*_latency_ms` families, in milliseconds; the peer's, so that its dashboards work.
pub const LATENCY_MS: &[f64] = &[
    1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 100.0, 200.0, 300.0, 400.0, 500.0, 1000.0, 2000.0,
    3000.0, 4000.0, 5000.0, 10000.0, 20000.0, 30000.0, 40000.0, 50000.0,
];

/// How long a full family waits between two searches for series that may go.
const PURGE_INTERVAL: Duration = Duration::from_secs(1);

/// Bounds of a registry.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most series a family; whoever asks for one more gets the shared one labelled `overflow="true"`.
    pub series: usize,
    /// How long a series stays after its last handle was dropped.
    pub retain_idle: Duration,
}

impl Default for Limits {
    /// 2,000 series (a guess: far above an ordinary mesh's, and still a scrape of a few megabytes);
    /// 10 minutes, the peer's default.
    fn default() -> Self {
        Self { series: 2_000, retain_idle: Duration::from_secs(600) }
    }
}

/// A number that only rises. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`; wraps at 2⁶⁴.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The number now.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A whole number that rises and falls. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicI64>);

impl Gauge {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Takes one away.
    pub fn dec(&self) {
        self.add(-1);
    }

    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Replaces the number.
    pub fn set(&self, n: i64) {
        self.0.store(n, Relaxed);
    }

    /// The number now.
    pub fn value(&self) -> i64 {
        self.0.load(Relaxed)
    }

    /// Adds one for as long as the returned guard lives.
    pub fn track(&self) -> Tracked {
        self.inc();
        Tracked(self.clone())
    }
}

/// One unit of a gauge, given back on drop.
#[derive(Debug)]
pub struct Tracked(Gauge);

impl Drop for Tracked {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A gauge of a fractional number. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Float(Arc<AtomicU64>);

impl Float {
    /// Replaces the number.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }

    /// The number now.
    pub fn value(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }
}

/// Counts observations in fixed buckets. Clones share them.
#[derive(Clone)]
pub struct Histogram(Arc<Buckets>);

struct Buckets {
    bounds: &'static [f64],
    /// One a bound and one for what lies above the last; not cumulative.
    counts: Box<[AtomicU64]>,
    /// An f64's bits.
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Buckets { bounds, counts, sum: AtomicU64::new(0) }))
    }

    /// Counts one observation, in the family's unit. A NaN is not counted.
    pub fn observe(&self, value: f64) {
        if value.is_nan() {
            return;
        }
        let at = self.0.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.0.counts.get(at) {
            count.fetch_add(1, Relaxed);
        }
        self.add(value);
    }

    /// Counts observations that were sorted elsewhere: how many fell into each bucket, the last being what lies above
    /// the bounds, and their sum.
    pub fn observe_sorted(&self, counts: &[u32], sum: f64) {
        if counts.iter().all(|count| *count == 0) || sum.is_nan() {
            return;
        }
        for (bucket, count) in self.0.counts.iter().zip(counts).filter(|(_, count)| **count > 0) {
            bucket.fetch_add(u64::from(*count), Relaxed);
        }
        self.add(sum);
    }

    fn add(&self, value: f64) {
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // The closure never declines, so this cannot fail.
        let _ = self.0.sum.fetch_update(Relaxed, Relaxed, add);
    }

    /// Counts a duration, in seconds.
    pub fn observe_seconds(&self, value: Duration) {
        self.observe(value.as_secs_f64());
    }

    /// Counts a duration, in milliseconds.
    pub fn observe_millis(&self, value: Duration) {
        self.observe(value.as_secs_f64() * 1e3);
    }

    /// How many observations were counted.
    pub fn count(&self) -> u64 {
        self.0.counts.iter().map(|c| c.load(Relaxed)).sum()
    }

    /// Their sum.
    pub fn sum(&self) -> f64 {
        f64::from_bits(self.0.sum.load(Relaxed))
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram").field("count", &self.count()).field("sum", &self.sum()).finish()
    }
}

/// What a family may consist of: `Counter`, `Gauge`, `Float` or `Histogram`.
pub trait Metric: Clone + Send + Sync + 'static {
    /// A new one at zero; only histograms have `bounds`.
    #[doc(hidden)]
    fn create(bounds: &'static [f64]) -> Self;
    /// Whether anybody but its family holds it.
    #[doc(hidden)]
    fn is_held(&self) -> bool;
    /// Writes its lines.
    #[doc(hidden)]
    fn write(&self, name: &str, labels: &str, out: &mut Exposition);
}

macro_rules! plain_metric {
    ($($type:ident)*) => {$(
        impl Metric for $type {
            fn create(_: &'static [f64]) -> Self {
                Self::default()
            }
            fn is_held(&self) -> bool {
                Arc::strong_count(&self.0) > 1
            }
            fn write(&self, name: &str, labels: &str, out: &mut Exposition) {
                out.line(name, labels, self.value());
            }
        }
    )*};
}

plain_metric!(Counter Gauge Float);

impl Metric for Histogram {
    fn create(bounds: &'static [f64]) -> Self {
        Self::new(bounds)
    }

    fn is_held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    fn write(&self, name: &str, labels: &str, out: &mut Exposition) {
        let (bucket, comma) = (format!("{name}_bucket"), if labels.is_empty() { "" } else { "," });
        let mut total = 0;
        let bounds = self.0.bounds.iter().map(|b| b.to_string()).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(&self.0.counts) {
            total += count.load(Relaxed);
            out.line(&bucket, &format!("{labels}{comma}le=\"{bound}\""), total);
        }
        out.line(&format!("{name}_sum"), labels, self.sum());
        // The same total as the last bucket's, even if another thread counts meanwhile.
        out.line(&format!("{name}_count"), labels, total);
    }
}

/// Series of one name that differ in their labels. Clones share them.
#[derive(Clone)]
pub struct Family<M>(Arc<Inner<M>>);

struct Inner<M> {
    name: Box<str>,
    help: Box<str>,
    kind: Kind,
    bounds: &'static [f64],
    limits: Limits,
    series: Mutex<Series<M>>,
    overflow: OnceLock<M>,
    /// How often a series was asked for and refused.
    refused: AtomicU64,
    /// The keys that its series may have, for documentation; `dst_*` stands for any with that beginning.
    keys: OnceLock<&'static [&'static str]>,
}

/// A family as its documentation tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// What it counts or measures.
    pub help: String,
    /// Its kind, as the scrape names it.
    pub kind: &'static str,
    /// The keys of its labels, `dst_*` for any with that beginning; `None` if nobody declared them.
    pub keys: Option<&'static [&'static str]>,
    /// Most series.
    pub bound: usize,
}

struct Series<M> {
    by_labels: BTreeMap<Arc<str>, Entry<M>>,
    purged: Option<Instant>,
}

struct Entry<M> {
    metric: M,
    /// Since when nobody is known to hold it.
    idle_since: Option<Instant>,
}

impl<M: Metric> Family<M> {
    pub(crate) fn new(name: &str, help: &str, kind: Kind, shape: (&'static [f64], Limits)) -> Self {
        let series = Mutex::new(Series { by_labels: BTreeMap::new(), purged: None });
        let (overflow, refused) = (OnceLock::new(), AtomicU64::new(0));
        let (name, help, (bounds, limits)) = (name.into(), help.into(), shape);
        let keys = OnceLock::new();
        Self(Arc::new(Inner { name, help, kind, bounds, limits, series, overflow, refused, keys }))
    }

    /// Declares the keys of its labels, all that any of its series may have; `dst_*` stands for any with that
    /// beginning. Documentation shows them; a debug build refuses others. The first declaration counts.
    #[must_use]
    pub fn labels(self, keys: &'static [&'static str]) -> Self {
        let _ = self.0.keys.set(keys);
        self
    }

    pub(crate) fn describe(&self) -> Description {
        Description {
            name: self.0.name.to_string(),
            help: self.0.help.to_string(),
            kind: self.0.kind.as_str(),
            keys: self.0.keys.get().copied(),
            bound: self.0.limits.series,
        }
    }

    /// Whether the written labels have only declared keys.
    fn is_declared(&self, text: &str) -> bool {
        let Some(declared) = self.0.keys.get() else { return true };
        pairs(text).all(|(key, _)| {
            declared.iter().any(|d| match d.strip_suffix('*') {
                Some(beginning) => key.starts_with(beginning),
                None => *d == key,
            })
        })
    }

    /// The handle of one series, created at zero if it does not exist. Keep it for as long as the series is
    /// to be shown: one that nobody holds goes after the registry's idle time. Takes a lock and formats the
    /// labels: call it when a route or an endpoint is built, not per request. At the family's bound it
    /// gives the shared overflow series instead.
    pub fn series(&self, labels: &(impl Labels + ?Sized)) -> M {
        self.series_at(labels, Instant::now())
    }

    fn series_at(&self, labels: &(impl Labels + ?Sized), now: Instant) -> M {
        let text = labels.written();
        debug_assert!(self.is_declared(&text), "{} has undeclared labels: {text}", self.0.name);
        let mut series = self.lock();
        if let Some(entry) = series.by_labels.get_mut(&text) {
            entry.idle_since = None;
            return entry.metric.clone();
        }
        if series.by_labels.len() >= self.0.limits.series {
            if series.purged.is_none_or(|at| now.saturating_duration_since(at) >= PURGE_INTERVAL) {
                series.purge(now, self.0.limits.retain_idle);
            }
            if series.by_labels.len() >= self.0.limits.series {
                self.0.refused.fetch_add(1, Relaxed);
                return self.0.overflow.get_or_init(|| M::create(self.0.bounds)).clone();
            }
        }
        let metric = M::create(self.0.bounds);
        series.by_labels.insert(text, Entry { metric: metric.clone(), idle_since: None });
        metric
    }

    /// How many series there are, without the overflow series.
    pub fn len(&self) -> usize {
        self.lock().by_labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Series<M>> {
        self.0.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes its lines; drops series that have been idle for too long at the end.
    pub(crate) fn begin(&self, now: Instant) -> Rest {
        // The handles are copied so that nobody who resolves a series waits for the formatting.
        let mut series = self
            .lock()
            .by_labels
            .iter()
            .map(|(labels, entry)| (labels.clone(), entry.metric.clone()))
            .collect::<Vec<_>>()
            .into_iter();
        let (this, mut begun) = (self.clone(), false);
        Box::new(move |out| {
            let (name, overflow) = (&this.0.name, this.0.overflow.get());
            if !begun {
                if series.len() == 0 && overflow.is_none() {
                    return More::No;
                }
                begun = true;
                out.family(name, &this.0.help, this.0.kind);
            }
            for (labels, metric) in &mut series {
                metric.write(name, &labels, out);
                if out.is_full() {
                    return More::Yes;
                }
            }
            if let Some(metric) = overflow {
                metric.write(name, "overflow=\"true\"", out);
            }
            this.lock().purge(now, this.0.limits.retain_idle);
            More::No
        })
    }

    /// Its name, and how often a series was refused, if any was.
    pub(crate) fn refusals(&self) -> Option<(&str, u64)> {
        let refused = self.0.refused.load(Relaxed);
        (refused > 0).then_some((&*self.0.name, refused))
    }
}

impl<M> fmt::Debug for Family<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Family").field(&self.0.name).finish()
    }
}

impl<M: Metric> Series<M> {
    /// Removes what nobody has held for `retain`; notes what nobody holds since now.
    fn purge(&mut self, now: Instant, retain: Duration) {
        self.purged = Some(now);
        self.by_labels.retain(|_, entry| {
            if entry.metric.is_held() {
                entry.idle_since = None;
                return true;
            }
            let since = *entry.idle_since.get_or_insert(now);
            now.saturating_duration_since(since) < retain
        });
    }
}

/// Handles of the series that differ in one small closed thing, such as the status of a response, so
/// that the request path resolves each only once. Finding one takes no lock. The first `SLOTS` keys
/// are remembered; later ones are resolved each time. Most have one key, so only one is kept in place.
#[derive(Debug)]
pub struct Split<M> {
    first: Slot<M>,
    others: OnceLock<Box<[Slot<M>; SLOTS - 1]>>,
}

type Slot<M> = OnceLock<(u64, M)>;

/// Eight statuses are more than a route shows in ordinary life.
const SLOTS: usize = 8;

impl<M> Default for Split<M> {
    fn default() -> Self {
        Self { first: OnceLock::new(), others: OnceLock::new() }
    }
}

impl<M: Metric> Split<M> {
    /// Applies `update` to the handle of `key`, which `resolve` gets from the family at first use.
    pub fn with(&self, key: u64, resolve: impl FnOnce() -> M, update: impl FnOnce(&M)) {
        let others = self.others.get().into_iter().flat_map(|others| others.iter());
        let slots = std::iter::once(&self.first).chain(others);
        let known = slots.map_while(OnceLock::get).find(|(known, _)| *known == key);
        if let Some((_, metric)) = known {
            return update(metric);
        }
        let metric = resolve();
        update(&metric);
        // Another thread may have filled a slot meanwhile, perhaps with the same key.
        let taken = |slot: &Slot<M>| slot.get_or_init(|| (key, metric.clone())).0 == key;
        if !taken(&self.first) {
            let others = self.others.get_or_init(|| Box::new([const { OnceLock::new() }; SLOTS - 1]));
            others.iter().any(taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;

    #[test]
    fn a_scrape_lists_families_in_order_of_registration_and_series_by_label() {
        let registry = Registry::new();
        let requests = registry.counters("request_total", "Requests.");
        let open = registry.gauges("open", "Open\nconnections \\ now");
        let empty = registry.counters("never_total", "Never used");
        requests.series(&[("code", "500")]).add(2);
        requests.series(&[("code", "200")]).inc();
        open.series(&()).add(-3);
        assert!(empty.is_empty());
        assert_eq!(
            registry.render(),
            "# HELP request_total Requests.\n# TYPE request_total counter\n\
             request_total{code=\"200\"} 1\nrequest_total{code=\"500\"} 2\n\
             # HELP open Open\\nconnections \\\\ now\n# TYPE open gauge\nopen -3\n"
        );
    }

    #[test]
    fn a_histogram_is_cumulative_and_includes_its_bounds() {
        let registry = Registry::new();
        let family = registry.histograms("d_seconds", "Time", &[0.05, 1.0]);
        let histogram = family.series(&[("a", "b")]);
        for value in [0.0, 0.05, 0.25, 1.0, 7.5, f64::NAN] {
            histogram.observe(value);
        }
        assert_eq!(
            registry.render(),
            "# HELP d_seconds Time\n# TYPE d_seconds histogram\n\
             d_seconds_bucket{a=\"b\",le=\"0.05\"} 2\nd_seconds_bucket{a=\"b\",le=\"1\"} 4\n\
             d_seconds_bucket{a=\"b\",le=\"+Inf\"} 5\nd_seconds_sum{a=\"b\"} 8.8\nd_seconds_count{a=\"b\"} 5\n"
        );
        histogram.observe_millis(Duration::from_millis(3));
        assert_eq!(histogram.count(), 6);
    }

    #[test]
    fn the_same_labels_and_the_same_name_give_the_same_series() {
        let registry = Registry::new();
        registry.counters("x_total", "").series(&[("a", "1")]).inc();
        registry.counters("x_total", "").series(&[("a", "1")]).inc();
        assert_eq!(registry.counters("x_total", "").series(&[("a", "1")]).value(), 2);
    }

    #[test]
    #[should_panic(expected = "another kind")]
    fn one_name_cannot_have_two_kinds() {
        let registry = Registry::new();
        registry.counters("x", "");
        registry.gauges("x", "");
    }

    #[test]
    fn families_are_described_with_the_keys_that_they_declare() {
        let registry = Registry::new();
        let _ = registry.counters("x_total", "X.").labels(&["a", "dst_*"]);
        registry.gauges("y", "Y.");
        let described = registry.describe();
        assert_eq!((described[0].name.as_str(), described[0].kind), ("x_total", "counter"));
        assert_eq!((described[0].keys, described[1].keys), (Some(&["a", "dst_*"][..]), None));
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "undeclared labels")]
    fn an_undeclared_key_is_refused() {
        let family = Registry::new().counters("x_total", "X.").labels(&["a", "dst_*"]);
        family.series(&[("a", "1"), ("dst_app", "2")]);
        family.series(&[("b", "1")]);
    }

    #[test]
    fn beyond_its_bound_a_family_counts_in_one_shared_series() {
        let registry = Registry::with_limits(Limits { series: 2, ..Limits::default() });
        let family = registry.counters("x_total", "X");
        for host in ["a", "b", "c", "d", "a"] {
            family.series(&[("host", host)]).inc();
        }
        let text = registry.render();
        assert!(
            text.contains("x_total{host=\"a\"} 2\nx_total{host=\"b\"} 1\nx_total{overflow=\"true\"} 2\n"),
            "{text}"
        );
        assert!(text.ends_with("weft_metrics_series_refused_total{family=\"x_total\"} 2\n"), "{text}");
    }

    #[test]
    fn an_idle_series_goes_after_its_time_and_a_held_one_stays() {
        let registry =
            Registry::with_limits(Limits { retain_idle: Duration::from_secs(10), ..Limits::default() });
        let family = registry.counters("x_total", "X");
        let start = Instant::now();
        let (held, dropped) = (family.series(&[("a", "held")]), family.series(&[("a", "dropped")]));
        dropped.inc();
        drop(dropped);
        assert!(registry.render_at(start).contains("dropped"));
        // Taken up again in time, it starts anew.
        drop(family.series_at(&[("a", "dropped")], start + Duration::from_secs(9)));
        for (seconds, present) in [(9, true), (18, true), (19, true), (20, false)] {
            let text = registry.render_at(start + Duration::from_secs(seconds));
            assert_eq!(text.contains("dropped"), present, "after {seconds} s:\n{text}");
        }
        assert_eq!(family.len(), 1);
        held.inc();
        assert!(registry.render().contains("x_total{a=\"held\"} 1"));
    }

    #[test]
    fn a_full_family_makes_room_once_idle_series_may_go() {
        let limits = Limits { series: 1, retain_idle: Duration::from_secs(10) };
        let family = Registry::with_limits(limits).counters("x_total", "X");
        let start = Instant::now();
        drop(family.series_at(&[("a", "1")], start));
        let refused = || family.0.refused.load(Relaxed);
        family.series_at(&[("a", "2")], start);
        assert_eq!(refused(), 1);
        family.series_at(&[("a", "2")], start + Duration::from_secs(11));
        assert_eq!(refused(), 1, "the idle series made room");
    }

    #[test]
    fn a_split_remembers_its_first_keys_and_serves_all() {
        let family = Registry::new().counters("x_total", "X");
        let split = Split::default();
        let mut resolved = 0;
        for status in (0..12u64).chain(0..12) {
            let resolve = || {
                resolved += 1;
                family.series(&[("status", status.to_string())])
            };
            split.with(status, resolve, Counter::inc);
        }
        assert_eq!(resolved, 12 + 4);
        for status in 0..12 {
            assert_eq!(family.series(&[("status", status.to_string())]).value(), 2);
        }
    }

    #[test]
    fn a_tracked_unit_is_given_back() {
        let gauge = Gauge::default();
        let (one, two) = (gauge.track(), gauge.track());
        assert_eq!(gauge.value(), 2);
        drop((one, two));
        assert_eq!(gauge.value(), 0);
    }
}
