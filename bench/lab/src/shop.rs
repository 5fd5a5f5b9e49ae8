//! Simulated endpoints: a number of places where work is done, a queue before them, and what can be wrong with an endpoint.
//!
//! They know no balancer and no clock: `play` tells them the time, in seconds since the beginning, and when a work is done.

use crate::scenario::{Group, Spread};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// One endpoint.
#[derive(Debug)]
pub(crate) struct Simulated {
    pub(crate) addr: SocketAddr,
    pub(crate) group: Arc<Group>,
    /// Its number in the scenario.
    pub(crate) number: usize,
}

/// What is going on at an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Work {
    busy: usize,
    waiting: VecDeque<usize>,
    /// Of the last answers: how many requests there were when its own came, and the seconds that it took.
    served: VecDeque<(usize, f64)>,
}

/// What an endpoint says of itself when it is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probed {
    pub(crate) in_flight: usize,
    /// Seconds that answers took lately when there was as much to do; 0 before the first.
    pub(crate) latency: f64,
}

/// Answers that an endpoint remembers, and of how many it tells the median.
const SERVED: usize = 64;
const MEDIAN_OF: usize = 15;

impl Work {
    /// A request comes; true if a place is free for it, otherwise it waits.
    pub(crate) fn comes(&mut self, request: usize, places: usize) -> bool {
        let free = self.busy < places;
        match free {
            true => self.busy += 1,
            false => self.waiting.push_back(request),
        }
        free
    }

    /// Requests that are there.
    pub(crate) fn in_flight(&self) -> usize {
        self.busy + self.waiting.len()
    }

    /// A request has been answered, for which `in_flight` there were when it came.
    pub(crate) fn served(&mut self, in_flight: usize, seconds: f64) {
        self.served.push_back((in_flight, seconds));
        if self.served.len() > SERVED {
            self.served.pop_front();
        }
    }

    /// What it says of itself.
    pub(crate) fn probed(&self) -> Probed {
        let in_flight = self.in_flight();
        let mut near: Vec<_> =
            self.served.iter().map(|(then, took)| (then.abs_diff(in_flight), *took)).collect();
        near.sort_by_key(|(apart, _)| *apart);
        near.truncate(MEDIAN_OF);
        near.sort_by(|a, b| a.1.total_cmp(&b.1));
        Probed { in_flight, latency: near.get(near.len() / 2).map_or(0.0, |(_, took)| *took) }
    }

    /// A place becomes free; gives the next who waits and whom `is_there`, and who takes the place at once.
    pub(crate) fn leaves(&mut self, is_there: impl Fn(usize) -> bool) -> Option<usize> {
        let next = std::iter::from_fn(|| self.waiting.pop_front()).find(|request| is_there(*request));
        self.busy -= usize::from(next.is_none());
        next
    }
}

/// All endpoints of a scenario's groups.
pub(crate) fn all(groups: &[Group]) -> Vec<Arc<Simulated>> {
    let groups = groups.iter().map(|group| Arc::new(group.clone()));
    let each = groups.flat_map(|group| vec![group.clone(); usize::from(group.count)]);
    each.zip(0_u32..)
        .map(|(group, number)| {
            let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + number);
            Arc::new(Simulated { addr: SocketAddr::from((ip, 80)), group, number: number as usize })
        })
        .collect()
}

impl Simulated {
    /// Whether it is there at this time.
    pub(crate) fn is_there(&self, at: f64) -> bool {
        self.group.from.is_none_or(|from| at >= from) && self.group.until.is_none_or(|until| at < until)
    }

    /// When a work that begins `at` this time is done, given a uniform draw in `0..1`.
    pub(crate) fn done(&self, at: f64, draw: f64) -> f64 {
        let group = &*self.group;
        let draw = draw.max(1e-9);
        let spread = match group.spread {
            Spread::Even => 0.5 + draw,
            Spread::Exponential => -draw.ln(),
            // Its mean is three times its least.
            Spread::Heavy => (draw.powf(-1.0 / 1.5) / 3.0).min(100.0),
        };
        let cold = group.cold.map_or(1.0, |(factor, seconds)| {
            let age = at - group.from.unwrap_or_default();
            1.0 + (factor - 1.0) * (1.0 - age / seconds).clamp(0.0, 1.0)
        });
        let done = at + group.mean_ms / 1000.0 * spread * cold;
        match group.stalled {
            Some((from, until)) if done >= from && at < until => done.max(until),
            _ => done,
        }
    }
}
