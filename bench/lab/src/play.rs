//! Plays a scenario with a policy: requests come, are given to endpoints, are answered or given up, in fake time.
//!
//! One request comes at the same time and is the same work with every policy. Events are taken in the order of their times; the
//! clock that the data path reads is set to the time of each. It judges nothing.

use crate::arrival::{self, Arrival};
use crate::policy::{Balancer, Kind, Taken};
use crate::scenario::Scenario;
use crate::shop::{self, Simulated, Work};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What clients saw, of all seeds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Of answers and of what was given up, in milliseconds, sorted.
    pub(crate) latencies: Vec<f64>,
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    /// Requests by endpoint.
    pub(crate) shares: Vec<u64>,
}

impl Seen {
    /// A quantile in milliseconds.
    pub(crate) fn quantile(&self, q: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get((last as f64 * q).round() as usize).copied().unwrap_or_default()
    }

    /// The share of the requests that failed.
    pub(crate) fn error_rate(&self) -> f64 {
        self.errors as f64 / self.requests.max(1) as f64
    }
}

/// A scenario, played with every policy.
#[derive(Clone, Debug)]
pub(crate) struct Played {
    pub(crate) scenario: Scenario,
    pub(crate) seen: Vec<(Kind, Seen)>,
    /// Endpoints whose share is the one to look at.
    pub(crate) odd: Vec<usize>,
}

impl Played {
    /// The share of the requests that the odd endpoints got.
    pub(crate) fn odd_share(&self, seen: &Seen) -> f64 {
        let odd: u64 = self.odd.iter().filter_map(|number| seen.shares.get(*number)).sum();
        odd as f64 / seen.requests.max(1) as f64
    }
}

/// Plays a scenario with every policy.
pub(crate) fn all(scenario: &Scenario) -> Played {
    let endpoints = shop::all(&scenario.groups);
    let odd = endpoints.iter().filter(|e| e.group.odd).map(|e| e.number).collect();
    let seen = Kind::ALL.map(|kind| (kind, of(scenario, kind)));
    Played { scenario: scenario.clone(), seen: seen.to_vec(), odd }
}

/// Plays a scenario with one policy.
pub(crate) fn of(scenario: &Scenario, kind: Kind) -> Seen {
    let mut seen = Seen::default();
    for seed in &scenario.seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let Ok(runtime) = runtime else { continue };
        let one = runtime.block_on(async { Game::new(scenario, kind, *seed).play().await });
        seen.latencies.extend(one.latencies);
        seen.requests += one.requests;
        seen.errors += one.errors;
        seen.shares.resize(one.shares.len(), 0);
        seen.shares.iter_mut().zip(one.shares).for_each(|(sum, share)| *sum += share);
    }
    seen.latencies.sort_by(f64::total_cmp);
    seen
}

/// What happens next. The numbers are those of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// Endpoints join or leave.
    Membership,
    /// A request comes.
    Arrival,
    /// It has come to its endpoint.
    There(usize),
    /// Its work is done.
    Done(usize),
    /// Its client has waited long enough.
    GivenUp(usize),
}

/// A request under way.
struct Request {
    came: f64,
    endpoint: Arc<Simulated>,
    taken: Taken,
    fails: bool,
    work: f64,
    has_place: bool,
    /// How many were there when it came, and when that was.
    there: Option<(usize, f64)>,
}

struct Game<'a> {
    scenario: &'a Scenario,
    endpoints: Vec<Arc<Simulated>>,
    work: Vec<Work>,
    clients: Vec<Balancer>,
    arrivals: Box<dyn Iterator<Item = Arrival>>,
    next: Option<Arrival>,
    /// What the policies draw.
    draws: fastrand::Rng,
    requests: Vec<Option<Request>>,
    /// Nanoseconds, and a number that keeps events of one time in order.
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    planned: u64,
    began: Instant,
    now: u64,
    seen: Seen,
}

impl<'a> Game<'a> {
    fn new(scenario: &'a Scenario, kind: Kind, seed: u64) -> Self {
        let endpoints = shop::all(&scenario.groups);
        let began = tokio::time::Instant::now().into_std();
        let clients = (0..scenario.clients).map(|_| Balancer::new(kind, &endpoints, began)).collect();
        let mut game = Self {
            scenario,
            work: endpoints.iter().map(|_| Work::default()).collect(),
            seen: Seen { shares: vec![0; endpoints.len()], ..Seen::default() },
            endpoints,
            clients,
            arrivals: Box::new(arrival::all(scenario, seed)),
            next: None,
            draws: fastrand::Rng::with_seed(seed ^ 0x5eed),
            requests: Vec::new(),
            events: BinaryHeap::new(),
            planned: 0,
            began,
            now: 0,
        };
        let changes = scenario.groups.iter().flat_map(|group| [group.from, group.until]).flatten();
        [0.0].into_iter().chain(changes).for_each(|at| game.plan(at, Event::Membership));
        game.expect();
        game
    }

    async fn play(mut self) -> Seen {
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            if at > self.now {
                tokio::time::advance(Duration::from_nanos(at - self.now)).await;
                self.now = at;
            }
            match event {
                Event::Membership => self.announce(),
                Event::Arrival => self.arrives(),
                Event::There(request) => self.is_there(request),
                Event::Done(request) => self.ends(request, true),
                Event::GivenUp(request) => self.ends(request, false),
            }
        }
        self.seen
    }

    fn plan(&mut self, at: f64, event: Event) {
        self.planned += 1;
        let nanos = Duration::try_from_secs_f64(at).unwrap_or_default().as_nanos() as u64;
        self.events.push(Reverse((nanos.max(self.now), self.planned, event)));
    }

    fn seconds(&self) -> f64 {
        self.now as f64 * 1e-9
    }

    fn instant(&self) -> Instant {
        self.began + Duration::from_nanos(self.now)
    }

    fn announce(&mut self) {
        let (at, now) = (self.seconds(), self.instant());
        let there: Vec<_> = self.endpoints.iter().filter(|e| e.is_there(at)).cloned().collect();
        self.clients.iter_mut().for_each(|client| client.announce(&there, now));
    }

    fn arrives(&mut self) {
        let Some(arrival) = self.next.take() else { return };
        self.expect();
        self.comes(arrival);
    }

    /// Plans the next arrival.
    fn expect(&mut self) {
        self.next = self.arrivals.next();
        if let Some(arrival) = self.next {
            self.plan(arrival.at, Event::Arrival);
        }
    }

    fn comes(&mut self, arrival: Arrival) {
        let (at, now) = (self.seconds(), self.instant());
        let counts = at >= self.scenario.settle;
        self.seen.requests += u64::from(counts);
        let work = &self.work;
        let ask = |endpoint: &Simulated| work[endpoint.number].probed();
        let Some((endpoint, taken)) = self.clients[arrival.client].take(&mut self.draws, now, &ask) else {
            self.seen.errors += u64::from(counts);
            return;
        };
        self.seen.shares[endpoint.number] += u64::from(counts);
        let request = self.requests.len();
        self.plan(at + endpoint.group.away_ms.unwrap_or_default() / 1000.0, Event::There(request));
        self.plan(at + self.scenario.timeout_ms / 1000.0, Event::GivenUp(request));
        let fails = arrival.fails < endpoint.group.fails;
        self.requests.push(Some(Request {
            came: at,
            endpoint,
            taken,
            fails,
            work: arrival.work,
            has_place: false,
            there: None,
        }));
    }

    fn is_there(&mut self, number: usize) {
        let at = self.seconds();
        let Some(request) = self.requests[number].as_mut() else { return };
        request.there = Some((self.work[request.endpoint.number].in_flight(), at));
        let group = request.endpoint.group.clone();
        if request.fails {
            self.plan(at + group.fail_ms / 1000.0, Event::Done(number));
        } else if self.work[request.endpoint.number].comes(number, group.slots) {
            self.begins(number);
        }
    }

    fn begins(&mut self, number: usize) {
        let at = self.seconds();
        let Some(request) = self.requests[number].as_mut() else { return };
        request.has_place = true;
        let done = request.endpoint.done(at, request.work);
        self.plan(done, Event::Done(number));
    }

    fn ends(&mut self, number: usize, answered: bool) {
        let (at, now) = (self.seconds(), self.instant());
        let Some(request) = self.requests[number].take() else { return };
        let good = answered && !request.fails;
        request.taken.ended(good, now);
        if let Some((in_flight, since)) = request.there.filter(|_| answered) {
            self.work[request.endpoint.number].served(in_flight, at - since);
        }
        if request.came >= self.scenario.settle {
            self.seen.errors += u64::from(!good);
            // An error that comes at once is nothing to be glad of: it counts as an error, and not as fast.
            if good || !answered {
                self.seen.latencies.push((at - request.came) * 1000.0);
            }
        }
        if request.has_place {
            let requests = &self.requests;
            let next = self.work[request.endpoint.number].leaves(|n| requests[n].is_some());
            if let Some(next) = next {
                self.begins(next);
            }
        }
    }
}
