//! Asynchronous probing as published for Prequal (NSDI 2024): clients ask endpoints how they are, and choose by the answers.
//!
//! A rival, tried here before any of it would enter the data path. It knows nothing of what became of its requests: only what
//! endpoints say of themselves. What the paper names without saying how (an aversion to endpoints that fail) is not here.

use crate::shop::{Probed, Simulated};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Probes kept.
const POOL: usize = 16;

/// Age at which one is no longer believed.
const AGE: Duration = Duration::from_secs(1);

/// Probes sent for each request.
const SENT: usize = 3;

/// Requests in flight above this quantile of what was heard lately make an endpoint hot.
const HOT: f64 = 0.84;

/// Answers whose requests in flight are remembered for that quantile.
const REMEMBERED: usize = 128;

/// One client's view of the endpoints.
#[derive(Default)]
pub(crate) struct Probing {
    endpoints: Vec<Arc<Simulated>>,
    pool: VecDeque<Kept>,
    flights: VecDeque<usize>,
    /// Whether the next one taken out is the worst, and not the oldest.
    worst_next: bool,
}

/// A probe's answer.
struct Kept {
    endpoint: Arc<Simulated>,
    said: Probed,
    at: Instant,
    uses: usize,
}

impl Probing {
    /// Says which endpoints there are, and no others.
    pub(crate) fn announce(&mut self, endpoints: &[Arc<Simulated>]) {
        self.endpoints = endpoints.to_vec();
        self.pool.retain(|kept| endpoints.iter().any(|endpoint| endpoint.number == kept.endpoint.number));
    }

    /// Takes an endpoint by what is known, then asks a few for the next time.
    pub(crate) fn take(
        &mut self,
        rng: &mut fastrand::Rng,
        now: Instant,
        ask: &dyn Fn(&Simulated) -> Probed,
    ) -> Option<Arc<Simulated>> {
        self.pool.retain(|kept| now.saturating_duration_since(kept.at) < AGE);
        let taken = match self.best() {
            Some(best) => self.used(best),
            None => rng.choice(&self.endpoints)?.clone(),
        };
        self.drop_one();
        for endpoint in rng.choose_multiple(&self.endpoints, SENT) {
            let said = ask(endpoint);
            self.flights.push_back(said.in_flight);
            self.pool.push_back(Kept { endpoint: endpoint.clone(), said, at: now, uses: 0 });
        }
        while self.pool.len() > POOL {
            self.pool.pop_front();
        }
        while self.flights.len() > REMEMBERED {
            self.flights.pop_front();
        }
        Some(taken)
    }

    /// The cold one that is fastest, or the hot one that has the least to do. Fewer than two probes say nothing.
    fn best(&self) -> Option<usize> {
        if self.pool.len() < 2 {
            return None;
        }
        let limit = self.hot();
        let order = |a: &usize, b: &usize| {
            let (a, b) = (&self.pool[*a].said, &self.pool[*b].said);
            let heat = (a.in_flight > limit).cmp(&(b.in_flight > limit));
            heat.then_with(|| match a.in_flight > limit {
                true => a.in_flight.cmp(&b.in_flight),
                false => a.latency.total_cmp(&b.latency),
            })
        };
        (0..self.pool.len()).min_by(order)
    }

    fn hot(&self) -> usize {
        let mut flights: Vec<_> = self.flights.iter().copied().collect();
        flights.sort_unstable();
        flights.get(((flights.len().saturating_sub(1)) as f64 * HOT) as usize).copied().unwrap_or_default()
    }

    /// Uses a probe: what is sent there now is in flight there, and an answer wears out.
    fn used(&mut self, index: usize) -> Arc<Simulated> {
        let endpoint = self.pool[index].endpoint.clone();
        for kept in self.pool.iter_mut().filter(|kept| kept.endpoint.number == endpoint.number) {
            kept.said.in_flight += 1;
        }
        self.pool[index].uses += 1;
        if self.pool[index].uses >= self.most_uses() {
            self.pool.remove(index);
        }
        endpoint
    }

    /// How often an answer may be used, so that the pool neither starves nor grows stale (§4.2 of the paper, δ = 1, one removed a
    /// request).
    fn most_uses(&self) -> usize {
        let fresh = (1.0 - POOL as f64 / self.endpoints.len().max(1) as f64) * SENT as f64 - 1.0;
        if fresh > 0.0 { (2.0 / fresh).max(1.0).ceil() as usize } else { usize::MAX }
    }

    /// Takes out the oldest and the worst by turns.
    fn drop_one(&mut self) {
        self.worst_next = !self.worst_next;
        if self.worst_next {
            self.pool.pop_front();
            return;
        }
        let limit = self.hot();
        let key = |kept: &Kept| match kept.said.in_flight > limit {
            true => (1, kept.said.in_flight as f64),
            false => (0, kept.said.latency),
        };
        let order = |a: &usize, b: &usize| {
            let (a, b) = (key(&self.pool[*a]), key(&self.pool[*b]));
            a.0.cmp(&b.0).then_with(|| a.1.total_cmp(&b.1))
        };
        if let Some(worst) = (0..self.pool.len()).max_by(order) {
            self.pool.remove(worst);
        }
    }
}
