//! The registry of a process's families, and the scrape that shows them.
//!
//! The assembling crates make one `Registry` and hand it to whoever counts; the admin servers send its `Scrape`. A
//! scrape comes in parts, because thousands of destinations make it many megabytes long, and is never held whole.

use crate::metrics::{Counter, Description, Family, Float, Gauge, Histogram, Limits};
use crate::text::{Exposition, Kind, More, Rest};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

enum Member {
    Counter(Family<Counter>),
    Gauge(Family<Gauge>),
    Float(Family<Float>),
    Histogram(Family<Histogram>),
    Collector(Box<dyn Fn() -> Rest + Send + Sync>),
}

impl Member {
    fn begin(&self, now: Instant) -> Rest {
        match self {
            Member::Counter(family) => family.begin(now),
            Member::Gauge(family) => family.begin(now),
            Member::Float(family) => family.begin(now),
            Member::Histogram(family) => family.begin(now),
            Member::Collector(begin) => begin(),
        }
    }

    fn describe(&self) -> Option<Description> {
        match self {
            Member::Counter(family) => Some(family.describe()),
            Member::Gauge(family) => Some(family.describe()),
            Member::Float(family) => Some(family.describe()),
            Member::Histogram(family) => Some(family.describe()),
            Member::Collector(_) => None,
        }
    }

    /// Name and refusals, of a family.
    fn refusals(&self) -> Option<(&str, u64)> {
        match self {
            Member::Counter(family) => family.refusals(),
            Member::Gauge(family) => family.refusals(),
            Member::Float(family) => family.refusals(),
            Member::Histogram(family) => family.refusals(),
            Member::Collector(_) => None,
        }
    }
}

/// All families of one process, in the order in which they were asked for. Clones share them.
#[derive(Clone, Default)]
pub struct Registry(Arc<Shared>);

/// Brings numbers up to date.
type Update = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Shared {
    limits: Limits,
    updates: Mutex<Vec<Update>>,
    members: Mutex<Vec<(Box<str>, Arc<Member>)>>,
}

impl Registry {
    /// An empty registry with the default limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty registry.
    pub fn with_limits(limits: Limits) -> Self {
        Self(Arc::new(Shared { limits, ..Shared::default() }))
    }

    /// A family of counters; its name should end in `_total`. Asking twice for one name gives the same
    /// family, as inbound and outbound share some.
    ///
    /// # Panics
    /// When the name is malformed or belongs to a family of another kind: a mistake in the program,
    /// met at construction. The same holds for the other kinds.
    pub fn counters(&self, name: &str, help: &str) -> Family<Counter> {
        let create = |limits| Member::Counter(Family::new(name, help, Kind::Counter, (&[], limits)));
        match &*self.member(name, create) {
            Member::Counter(family) => family.clone(),
            _ => clash(name),
        }
    }

    /// A family of gauges of whole numbers.
    pub fn gauges(&self, name: &str, help: &str) -> Family<Gauge> {
        let create = |limits| Member::Gauge(Family::new(name, help, Kind::Gauge, (&[], limits)));
        match &*self.member(name, create) {
            Member::Gauge(family) => family.clone(),
            _ => clash(name),
        }
    }

    /// A family of gauges of fractional numbers, such as timestamps.
    pub fn floats(&self, name: &str, help: &str) -> Family<Float> {
        let create = |limits| Member::Float(Family::new(name, help, Kind::Gauge, (&[], limits)));
        match &*self.member(name, create) {
            Member::Float(family) => family.clone(),
            _ => clash(name),
        }
    }

    /// A family of histograms with these upper bounds, rising; the one without bound is added.
    pub fn histograms(&self, name: &str, help: &str, bounds: &'static [f64]) -> Family<Histogram> {
        assert!(bounds.is_sorted(), "the buckets of {name} do not rise");
        let create = |limits| Member::Histogram(Family::new(name, help, Kind::Histogram, (bounds, limits)));
        match &*self.member(name, create) {
            Member::Histogram(family) => family.clone(),
            _ => clash(name),
        }
    }

    /// Calls `collect` at each scrape, for a few numbers that are cheaper to look up than to keep. `name` only
    /// tells it from others: a second one of the same name is ignored.
    pub fn collector(&self, name: &str, collect: impl Fn(&mut Exposition) + Send + Sync + 'static) {
        let collect = Arc::new(collect);
        let begin = move || {
            let collect = collect.clone();
            Box::new(move |out: &mut Exposition| {
                collect(out);
                More::No
            }) as Rest
        };
        self.long_collector(name, begin);
    }

    /// As `collector`, for many lines: `begin` starts writing them.
    pub fn long_collector(&self, name: &str, begin: impl Fn() -> Rest + Send + Sync + 'static) {
        self.member(name, |_| Member::Collector(Box::new(begin)));
    }

    /// Calls `update` before each scrape, for series whose numbers are kept elsewhere.
    pub fn before_scrape(&self, update: impl Fn() + Send + Sync + 'static) {
        self.0.updates.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(update));
    }

    /// Every family, used or not, in the order of registration; not what collectors write.
    pub fn describe(&self) -> Vec<Description> {
        self.lock().iter().filter_map(|(_, member)| member.describe()).collect()
    }

    /// A scrape. On its way, series that have been idle for too long are dropped.
    pub fn scrape(&self) -> Scrape {
        self.scrape_at(Instant::now())
    }

    fn scrape_at(&self, now: Instant) -> Scrape {
        let updates = self.0.updates.lock().unwrap_or_else(PoisonError::into_inner).clone();
        updates.iter().for_each(|update| update());
        let members: Vec<_> = self.lock().iter().map(|(_, member)| member.clone()).collect();
        Scrape { members, next: 0, current: None, now }
    }

    /// The text of a whole scrape, for who knows that it is short.
    pub fn render(&self) -> String {
        self.scrape().collect()
    }

    /// As `render`, with the time given.
    pub fn render_at(&self, now: Instant) -> String {
        self.scrape_at(now).collect()
    }

    fn member(&self, name: &str, create: impl FnOnce(Limits) -> Member) -> Arc<Member> {
        let well_formed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        assert!(!name.is_empty() && name.chars().all(well_formed), "malformed metric name {name:?}");
        let mut members = self.lock();
        if let Some((_, member)) = members.iter().find(|(known, _)| **known == *name) {
            return member.clone();
        }
        let member = Arc::new(create(self.0.limits));
        members.push((name.into(), member.clone()));
        member
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Box<str>, Arc<Member>)>> {
        self.0.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lock().iter().map(|(name, _)| name)).finish()
    }
}

/// The text of a scrape in parts, each of whole lines. What it has not come to yet is read when it comes to it.
pub struct Scrape {
    members: Vec<Arc<Member>>,
    /// The member that comes after the current one; one more than there are once the refusals are written.
    next: usize,
    current: Option<Rest>,
    now: Instant,
}

impl Iterator for Scrape {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut out = Exposition::default();
        while !out.is_full() {
            if let Some(rest) = &mut self.current {
                if rest(&mut out) == More::No {
                    self.current = None;
                }
                continue;
            }
            let at = self.next;
            self.next = at + 1;
            match self.members.get(at) {
                Some(member) => self.current = Some(member.begin(self.now)),
                None if at == self.members.len() => self.refusals(&mut out),
                None => {
                    self.next = at;
                    break;
                }
            }
        }
        Some(out.finish()).filter(|text| !text.is_empty())
    }
}

impl Scrape {
    fn refusals(&self, out: &mut Exposition) {
        let refusals: Vec<_> = self.members.iter().filter_map(|member| member.refusals()).collect();
        if !refusals.is_empty() {
            let name = "weft_metrics_series_refused_total";
            out.family(name, "Series asked for beyond a family's bound", Kind::Counter);
            for (family, refused) in refusals {
                out.line(name, &format!("family=\"{family}\""), refused);
            }
        }
    }
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrape").field("next", &self.next).field("members", &self.members.len()).finish()
    }
}

#[expect(clippy::panic, reason = "a mistake in the program, met at construction")]
fn clash(name: &str) -> ! {
    panic!("the metric {name} is registered with another kind")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_scrape_comes_in_parts_of_whole_lines() {
        let registry = Registry::new();
        let family = registry.histograms("x_seconds", "X.", &[1.0]);
        let _held: Vec<_> = (0..1000).map(|n| family.series(&[("n", n.to_string())])).collect();
        registry.long_collector("rows", || {
            let mut row = 0;
            Box::new(move |out| {
                while row < 2000 {
                    out.line("row", &format!("n=\"{row}\""), row);
                    row += 1;
                    if out.is_full() {
                        return More::Yes;
                    }
                }
                More::No
            })
        });
        registry.counters("last_total", "Last.").series(&()).inc();
        let parts: Vec<_> = registry.scrape().collect();
        assert!(parts.len() > 3 && parts.iter().all(|part| part.ends_with('\n') && part.len() < 34 << 10));
        let page = parts.concat();
        assert_eq!(page.lines().filter(|line| line.starts_with("x_seconds")).count(), 4000);
        assert_eq!(page.lines().filter(|line| line.starts_with("row")).count(), 2000);
        assert_eq!(page.matches("# TYPE x_seconds histogram").count(), 1);
        assert!(page.ends_with("last_total 1\n"), "{}", &page[page.len() - 100..]);
    }
}
