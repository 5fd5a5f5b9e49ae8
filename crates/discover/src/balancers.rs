//! The peer's balancer families (§5.2, §5.4), written from what `balance` counts.
//!
//! `compile` lists the backends of the data path here, `channel` those of the control plane; the registry asks
//! for the text at each scrape. It holds nothing alive and counts nothing itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use weft_balance::metrics::{Counts, LATENCY_BOUNDS, Metrics};
use weft_telemetry::text::{Exposition, Kind, More, Rest};
use weft_telemetry::{LabelWriter, Labels, Registry};

/// Rows that one scrape shows at most; further ones are left out. As many as a family has series by default.
const ROWS: usize = 2_000;

/// Balancers by family and labels. Clones share them.
#[derive(Clone, Default)]
pub struct Balancers(Arc<Mutex<BTreeMap<Row, Balancer>>>);

/// Family prefix and labels, as text.
type Row = (&'static str, Box<str>);

struct Balancer {
    metrics: Weak<Metrics>,
    /// How long it has no ready endpoint before it fails fast.
    patience: Duration,
}

impl Balancers {
    /// Lists nothing yet; `name` tells it from others in the registry.
    pub fn new(registry: &Registry, name: &str) -> Self {
        let this = Self::default();
        let rows = this.clone();
        registry.long_collector(name, move || rows.begin());
        this
    }

    /// Shows a balancer for as long as it lives, in the families that begin with `prefix`. A balancer may be shown
    /// under several label sets; of two under one label set the later is shown.
    pub fn show(&self, prefix: &'static str, labels: &[(String, String)], of: (&Arc<Metrics>, Duration)) {
        let mut text = String::new();
        labels.write(&mut LabelWriter::new(&mut text));
        let (metrics, patience) = of;
        let mut rows = self.lock();
        if rows.len() >= ROWS {
            rows.retain(|_, balancer| balancer.metrics.strong_count() > 0);
        }
        if rows.len() < ROWS {
            rows.insert((prefix, text.into()), Balancer { metrics: Arc::downgrade(metrics), patience });
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Row, Balancer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the families of each prefix, row by row.
    fn begin(&self) -> Rest {
        let mut by_prefix = BTreeMap::<_, Vec<(Box<str>, Counts, Duration)>>::new();
        self.lock().retain(|(prefix, labels), balancer| {
            let Some(metrics) = balancer.metrics.upgrade() else { return false };
            let row = (labels.clone(), metrics.snapshot(), balancer.patience);
            by_prefix.entry(*prefix).or_default().push(row);
            true
        });
        let mut prefixes = by_prefix.into_iter();
        let mut page: Option<Page> = None;
        Box::new(move |out| {
            loop {
                if page.as_mut().is_some_and(|page| page.write(out) == More::Yes) {
                    return More::Yes;
                }
                let Some((prefix, rows)) = prefixes.next() else { return More::No };
                page = Some(Page { prefix, rows, family: 0, row: 0 });
            }
        })
    }
}

/// The families of one prefix, and how far they are written.
struct Page {
    prefix: &'static str,
    rows: Vec<(Box<str>, Counts, Duration)>,
    family: usize,
    row: usize,
}

impl Page {
    fn write(&mut self, out: &mut Exposition) -> More {
        while let Some(Shown { name, help, kind, lines }) = FAMILIES.get(self.family) {
            let name = format!("{}_{name}", self.prefix);
            if self.row == 0 {
                out.family(&name, help, *kind);
            }
            for (labels, counts, patience) in self.rows.get(self.row..).unwrap_or_default() {
                for (extra, value) in lines(counts, *patience) {
                    let (suffix, labels) = extra.beside(labels);
                    out.line(&format!("{name}{suffix}"), &labels, value);
                }
                self.row += 1;
                if out.is_full() {
                    return More::Yes;
                }
            }
            (self.family, self.row) = (self.family + 1, 0);
        }
        More::No
    }
}
/// What a line has besides the family's name and the balancer's own labels.
enum Extra {
    Nothing,
    /// A label before them.
    Label(&'static str),
    /// The upper bound of a bucket.
    Bucket(String),
    /// A part of a histogram that is no bucket.
    Suffix(&'static str),
}

impl Extra {
    /// What follows the family's name, and all labels.
    fn beside(&self, labels: &str) -> (&'static str, String) {
        match self {
            Extra::Nothing => ("", labels.to_owned()),
            Extra::Label(label) => ("", joined(label, labels)),
            Extra::Bucket(bound) => ("_bucket", joined(labels, &format!("le=\"{bound}\""))),
            Extra::Suffix(suffix) => (suffix, labels.to_owned()),
        }
    }
}

/// One family, and the lines of it that one balancer has.
struct Shown {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    lines: fn(&Counts, Duration) -> Vec<(Extra, f64)>,
}

macro_rules! shown {
    ($($kind:ident $name:literal $help:literal $lines:expr;)*) => {
        &[$(Shown { name: $name, help: $help, kind: Kind::$kind, lines: $lines }),*]
    };
}

/// Every family, without its prefix.
const FAMILIES: &[Shown] = shown! {
    Gauge "endpoints" "Endpoints, by whether they take requests." |c, _| vec![
        (Extra::Label("endpoint_state=\"ready\""), c.endpoints_ready as f64),
        (Extra::Label("endpoint_state=\"pending\""), c.endpoints_pending as f64),
    ];
    Gauge "p2c_endpoints" "Endpoints known to the balancer."
        |c, _| one((c.endpoints_ready + c.endpoints_pending) as f64);
    Counter "p2c_updates_total" "Changes of the endpoint set." |c, _| vec![
        (Extra::Label("op=\"Reset\""), c.updates_reset as f64),
        (Extra::Label("op=\"Add\""), c.updates_add as f64),
        (Extra::Label("op=\"Remove\""), c.updates_remove as f64),
    ];
    Gauge "queue_length" "Requests that wait for an endpoint." |c, _| one(c.queue_length as f64);
    Counter "queue_requests_total" "Requests that asked for an endpoint." |c, _| one(c.queue_requests as f64);
    Histogram "queue_latency_seconds" "How long requests waited for an endpoint." |c, _| latency(c);
    Counter "queue_gate_open_total" "Times that failing fast ended." |c, _| one(c.gate_opened as f64);
    Counter "queue_gate_shut_total" "Times that failing fast began." |c, _| one(c.gate_shut as f64);
    Gauge "queue_gate_open_time_seconds" "When failing fast last ended, Unix time."
        |c, _| one(c.gate_opened_at.as_secs_f64());
    Gauge "queue_gate_shut_time_seconds" "When failing fast last began, Unix time."
        |c, _| one(c.gate_shut_at.as_secs_f64());
    Gauge "queue_gate_timeout_seconds" "How long there may be no ready endpoint before requests fail fast."
        |_, patience| one(patience.as_secs_f64());
    Counter "ejections_total" "Endpoints taken out by their breaker." |c, _| one(c.ejections as f64);
};

fn one(value: f64) -> Vec<(Extra, f64)> {
    vec![(Extra::Nothing, value)]
}

fn latency(counts: &Counts) -> Vec<(Extra, f64)> {
    let bounds = LATENCY_BOUNDS.iter().map(|b| b.to_string()).chain(["+Inf".to_owned()]);
    let (mut lines, mut total) = (Vec::new(), 0);
    for (bound, count) in bounds.zip(counts.queue_latency) {
        total += count;
        lines.push((Extra::Bucket(bound), total as f64));
    }
    lines.push((Extra::Suffix("_sum"), counts.queue_latency_sum.as_secs_f64()));
    lines.push((Extra::Suffix("_count"), total as f64));
    lines
}

fn joined(first: &str, second: &str) -> String {
    let comma = if first.is_empty() || second.is_empty() { "" } else { "," };
    format!("{first}{comma}{second}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_balancer_is_shown_under_the_peers_names_until_it_is_gone() {
        let registry = Registry::new();
        let balancers = Balancers::new(&registry, "balancers");
        let metrics = Arc::new(Metrics::default());
        let labels = [("addr".to_owned(), "policy.mesh:8090".to_owned())];
        balancers.show("control_policy_balancer", &labels, (&metrics, Duration::from_secs(3)));
        let page = registry.render();
        for line in [
            "control_policy_balancer_endpoints{endpoint_state=\"ready\",addr=\"policy.mesh:8090\"} 0",
            "control_policy_balancer_p2c_updates_total{op=\"Reset\",addr=\"policy.mesh:8090\"} 0",
            "control_policy_balancer_queue_latency_seconds_bucket{addr=\"policy.mesh:8090\",le=\"0.0005\"} 0",
            "control_policy_balancer_queue_gate_timeout_seconds{addr=\"policy.mesh:8090\"} 3",
        ] {
            assert!(page.contains(line), "{line}\n{page}");
        }
        drop(metrics);
        assert_eq!(registry.render(), "");
    }

    #[test]
    fn beyond_the_bound_rows_of_the_dead_make_room_and_others_are_left_out() {
        let balancers = Balancers::default();
        let (dead, alive) = (Arc::new(Metrics::default()), Arc::new(Metrics::default()));
        let show = |n: usize, metrics: &Arc<Metrics>| {
            let labels = [("n".to_owned(), n.to_string())];
            balancers.show("x", &labels, (metrics, Duration::ZERO));
        };
        for n in 0..ROWS {
            show(n, if n == 0 { &dead } else { &alive });
        }
        show(ROWS, &alive);
        assert_eq!(balancers.lock().len(), ROWS);
        assert!(!balancers.lock().contains_key(&("x", format!("n=\"{ROWS}\"").into())));
        drop(dead);
        show(ROWS, &alive);
        assert!(balancers.lock().contains_key(&("x", format!("n=\"{ROWS}\"").into())));
    }
}
