//! The policies: ours, which is the data path's, and its rivals, each a few lines as published.
//!
//! A policy takes an endpoint for a request and hears how the request ended. It neither sends nor waits.

use crate::probing::Probing;
use crate::shop::{Probed, Simulated};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use weft_balance::health::Verdict;
use weft_balance::load::{Estimate, Tick, load};
use weft_balance::pick::choose;
use weft_balance::{Backend, Change, EndpointState, Params, Pending, Readiness};
use weft_model::destination::{EndpointInfo, Locality};
use weft_model::route::LoadParams;

/// Which policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Each in turn.
    RoundRobin,
    /// Of two the one that owes fewer answers (Envoy's least request).
    LeastRequests,
    /// Of all the one that owes fewest (HAProxy's leastconn).
    Fewest,
    /// Of two the one with the lesser peak EWMA times what it owes, as published (Finagle, Linkerd).
    PeakEwma,
    /// By what endpoints say of themselves (Prequal).
    Probing,
    /// Ours.
    Weft,
}

impl Kind {
    pub(crate) const ALL: [Kind; 6] =
        [Kind::RoundRobin, Kind::LeastRequests, Kind::Fewest, Kind::PeakEwma, Kind::Probing, Kind::Weft];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::RoundRobin => "round robin",
            Kind::LeastRequests => "least requests (two choices)",
            Kind::Fewest => "least requests (all)",
            Kind::PeakEwma => "peak EWMA as published",
            Kind::Probing => "probing as published",
            Kind::Weft => "Weft",
        }
    }
}

/// One client's balancer.
pub(crate) enum Balancer {
    Ours(Backend<Option<Arc<Simulated>>>),
    Rival(Rival),
    Probing(Mutex<Probing>),
}

/// A rival's endpoints and what it knows of them.
pub(crate) struct Rival {
    kind: Kind,
    epoch: Instant,
    turn: Mutex<usize>,
    known: Mutex<Vec<Arc<Known>>>,
}

/// What a rival knows of an endpoint.
pub(crate) struct Known {
    endpoint: Arc<Simulated>,
    state: Mutex<(u32, Estimate)>,
}

/// A request under way.
pub(crate) enum Taken {
    Ours(Pending<Option<Arc<Simulated>>>),
    Rival(Arc<Known>, Instant, Instant),
    /// By somebody who does not care what becomes of it.
    Careless,
}

impl Balancer {
    /// A balancer that has heard of no endpoint yet, among `all` that there may be.
    pub(crate) fn new(kind: Kind, all: &[Arc<Simulated>], now: Instant) -> Self {
        match kind {
            Kind::Weft => {
                let by_addr: BTreeMap<_, _> = all.iter().map(|e| (e.addr, e.clone())).collect();
                let make = move |info: Arc<EndpointInfo>, readiness: Readiness| {
                    readiness.set(EndpointState::Ready);
                    by_addr.get(&info.addr).cloned()
                };
                Self::Ours(Backend::new(Params::default(), make))
            }
            Kind::Probing => Self::Probing(Mutex::default()),
            kind => Self::Rival(Rival { kind, epoch: now, turn: Mutex::new(0), known: Mutex::default() }),
        }
    }

    /// Says which endpoints there are, and no others.
    pub(crate) fn announce(&mut self, endpoints: &[Arc<Simulated>], now: Instant) {
        match self {
            Self::Ours(backend) => backend.apply(Change::Reset(endpoints.iter().map(info).collect())),
            Self::Rival(rival) => rival.announce(endpoints, now),
            Self::Probing(probing) => {
                probing.get_mut().unwrap_or_else(PoisonError::into_inner).announce(endpoints)
            }
        }
    }

    /// Takes an endpoint. `ask` asks one how it is.
    pub(crate) fn take(
        &self,
        rng: &mut fastrand::Rng,
        now: Instant,
        ask: &dyn Fn(&Simulated) -> Probed,
    ) -> Option<(Arc<Simulated>, Taken)> {
        match self {
            Self::Ours(backend) => {
                let picked = backend.pick(now, rng.u64(..)).ok()?;
                let endpoint = picked.endpoint().clone()?;
                Some((endpoint, Taken::Ours(picked.into_pending())))
            }
            Self::Rival(rival) => rival.take(rng, now),
            Self::Probing(probing) => {
                let mut probing = probing.lock().unwrap_or_else(PoisonError::into_inner);
                Some((probing.take(rng, now, ask)?, Taken::Careless))
            }
        }
    }
}

impl Taken {
    /// How the request ended. What was given up counts as failed, as a response timeout does in the proxy.
    pub(crate) fn ended(self, good: bool, now: Instant) {
        match self {
            Self::Ours(mut pending) => {
                match good {
                    true => pending.first_frame(now),
                    false => pending.fail(now, None),
                }
                pending.judge(if good { Verdict::Success } else { Verdict::Failure }, None, now);
            }
            Self::Careless => {}
            Self::Rival(known, started, epoch) => {
                let mut state = known.state.lock().unwrap_or_else(PoisonError::into_inner);
                let (tick, decay) = (Tick::new(epoch, now), LoadParams::default().decay);
                state.0 -= 1;
                if let Some(next) = state.1.sample(now - started, tick, decay) {
                    state.1 = next;
                }
            }
        }
    }
}

fn info(endpoint: &Arc<Simulated>) -> EndpointInfo {
    let locality = match endpoint.group.away_ms {
        Some(away) if away > 0.0 => Locality::Remote,
        Some(_) => Locality::Local,
        None => Locality::Unknown,
    };
    EndpointInfo { locality, ..EndpointInfo::plain(endpoint.addr) }
}

impl Rival {
    fn announce(&mut self, endpoints: &[Arc<Simulated>], now: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut old: BTreeMap<SocketAddr, Arc<Known>> =
            known.drain(..).map(|known| (known.endpoint.addr, known)).collect();
        let fresh = |endpoint: &Arc<Simulated>| {
            let estimate = Estimate::initial(&LoadParams::default(), Tick::new(self.epoch, now));
            Arc::new(Known { endpoint: endpoint.clone(), state: Mutex::new((0, estimate)) })
        };
        known.extend(endpoints.iter().map(|e| old.remove(&e.addr).unwrap_or_else(|| fresh(e))));
    }

    fn take(&self, rng: &mut fastrand::Rng, now: Instant) -> Option<(Arc<Simulated>, Taken)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let tick = Tick::new(self.epoch, now);
        let state = |i: usize| *known[i].state.lock().unwrap_or_else(PoisonError::into_inner);
        let owed = |i: usize| f64::from(state(i).0);
        let chosen = match self.kind {
            Kind::RoundRobin => {
                let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
                *turn += 1;
                (!known.is_empty()).then(|| *turn % known.len())
            }
            Kind::Fewest => {
                // Of those that owe equally few, each in turn.
                let start = rng.usize(..known.len().max(1));
                let order = (0..known.len()).map(|i| (start + i) % known.len());
                order.min_by(|a, b| owed(*a).total_cmp(&owed(*b)))
            }
            Kind::LeastRequests => choose(known.len(), rng.u64(..), owed),
            _ => {
                let decay = LoadParams::default().decay;
                choose(known.len(), rng.u64(..), |i| load(state(i).1.at(tick, decay), state(i).0))
            }
        }?;
        let taken = known.get(chosen)?.clone();
        taken.state.lock().unwrap_or_else(PoisonError::into_inner).0 += 1;
        Some((taken.endpoint.clone(), Taken::Rival(taken, now, self.epoch)))
    }
}
