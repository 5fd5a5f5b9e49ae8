//! The peer's balancer families (§5.2, §5.4), written from what `balance` counts.
//!
//! `compile` lists the backends of the data path here, `channel` those of the control plane; the registry asks
//! for the text at each scrape. It holds nothing alive and counts nothing itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use weft_balance::metrics::{Counts, LATENCY_BOUNDS, Metrics};
use weft_telemetry::text::{Exposition, Kind};
use weft_telemetry::{LabelWriter, Labels, Registry};

/// Rows that one scrape shows at most; further ones are left out. As many as a family has series by default.
const ROWS: usize = 2_000;

/// Balancers by family and labels. Clones share them.
#[derive(Clone, Default)]
pub struct Balancers(Arc<Mutex<BTreeMap<Row, Balancer>>>);

/// Family prefix and labels, as text.
type Row = (&'static str, String);

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
        registry.collector(name, move |out| rows.write(out));
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
            rows.insert((prefix, text), Balancer { metrics: Arc::downgrade(metrics), patience });
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Row, Balancer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, out: &mut Exposition) {
        let mut by_prefix = BTreeMap::<_, Vec<(String, Counts, Duration)>>::new();
        self.lock().retain(|(prefix, labels), balancer| {
            let Some(metrics) = balancer.metrics.upgrade() else { return false };
            let row = (labels.clone(), metrics.snapshot(), balancer.patience);
            by_prefix.entry(*prefix).or_default().push(row);
            true
        });
        for (prefix, rows) in by_prefix {
            Families { prefix, rows: &rows, out }.write();
        }
    }
}

/// One balancer's numbers and the labels that they have besides the balancer's own.
type Lines = Vec<(&'static str, f64)>;

struct Families<'a> {
    prefix: &'static str,
    rows: &'a [(String, Counts, Duration)],
    out: &'a mut Exposition,
}

impl Families<'_> {
    fn write(mut self) {
        self.family("endpoints", "Endpoints, by whether they take requests.", Kind::Gauge, |c, _| {
            let (ready, pending) = (c.endpoints_ready as f64, c.endpoints_pending as f64);
            vec![("endpoint_state=\"ready\"", ready), ("endpoint_state=\"pending\"", pending)]
        });
        let known = |c: &Counts| (c.endpoints_ready + c.endpoints_pending) as f64;
        self.one("p2c_endpoints", "Endpoints known to the balancer.", Kind::Gauge, known);
        self.family("p2c_updates_total", "Changes of the endpoint set.", Kind::Counter, |c, _| {
            vec![
                ("op=\"Reset\"", c.updates_reset as f64),
                ("op=\"Add\"", c.updates_add as f64),
                ("op=\"Remove\"", c.updates_remove as f64),
            ]
        });
        self.one("queue_length", "Requests that wait for an endpoint.", Kind::Gauge, |c| {
            c.queue_length as f64
        });
        let taken = |c: &Counts| c.queue_requests as f64;
        self.one("queue_requests_total", "Requests that asked for an endpoint.", Kind::Counter, taken);
        self.latency();
        let opened = |c: &Counts| c.gate_opened as f64;
        self.one("queue_gate_open_total", "Times that failing fast ended.", Kind::Counter, opened);
        let shut = |c: &Counts| c.gate_shut as f64;
        self.one("queue_gate_shut_total", "Times that failing fast began.", Kind::Counter, shut);
        let opened = |c: &Counts| c.gate_opened_at.as_secs_f64();
        self.one(
            "queue_gate_open_time_seconds",
            "When failing fast last ended, Unix time.",
            Kind::Gauge,
            opened,
        );
        let shut = |c: &Counts| c.gate_shut_at.as_secs_f64();
        self.one(
            "queue_gate_shut_time_seconds",
            "When failing fast last began, Unix time.",
            Kind::Gauge,
            shut,
        );
        let help = "How long there may be no ready endpoint before requests fail fast.";
        self.family("queue_gate_timeout_seconds", help, Kind::Gauge, |_, p| vec![("", p.as_secs_f64())]);
        self.one("ejections_total", "Endpoints taken out by their breaker.", Kind::Counter, |c| {
            c.ejections as f64
        });
    }

    fn one(&mut self, name: &str, help: &str, kind: Kind, value: impl Fn(&Counts) -> f64) {
        self.family(name, help, kind, |counts, _| vec![("", value(counts))]);
    }

    fn family(&mut self, name: &str, help: &str, kind: Kind, lines: impl Fn(&Counts, Duration) -> Lines) {
        let name = format!("{}_{name}", self.prefix);
        self.out.family(&name, help, kind);
        for (labels, counts, patience) in self.rows {
            for (extra, value) in lines(counts, *patience) {
                self.out.line(&name, &joined(extra, labels), value);
            }
        }
    }

    fn latency(&mut self) {
        let name = format!("{}_queue_latency_seconds", self.prefix);
        self.out.family(&name, "How long requests waited for an endpoint.", Kind::Histogram);
        for (labels, counts, _) in self.rows {
            let mut total = 0;
            let bounds = LATENCY_BOUNDS.iter().map(|b| b.to_string()).chain(["+Inf".to_owned()]);
            for (bound, count) in bounds.zip(counts.queue_latency) {
                total += count;
                self.out.line(&format!("{name}_bucket"), &joined(labels, &format!("le=\"{bound}\"")), total);
            }
            self.out.line(&format!("{name}_sum"), labels, counts.queue_latency_sum.as_secs_f64());
            self.out.line(&format!("{name}_count"), labels, total);
        }
    }
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
        assert!(!balancers.lock().contains_key(&("x", format!("n=\"{ROWS}\""))));
        drop(dead);
        show(ROWS, &alive);
        assert!(balancers.lock().contains_key(&("x", format!("n=\"{ROWS}\""))));
    }
}
