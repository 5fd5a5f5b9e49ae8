//! Local rate limits: how many requests a second a port takes, in all and from each identity (§4.4, §1E.6).
//!
//! `proxy/forward.rs` asks for each request, after authorization and filters; `discover` makes one per policy and hands it on when
//! the policy changes but its limit does not. Pure: times come from the caller. Each rate is a generic cell rate algorithm: one
//! number that says when its last admitted request would have been due at an even pace, and may lie a second ahead.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use weft_model::identity::Id;
use weft_model::limit::{Bound, Limit};
use weft_model::policy::RateLimit;

const SECOND: u64 = 1_000_000_000;

/// Identities of one port that are counted apart at a time; the others share one rate. Each takes some 100 bytes, and only
/// those that sent something within the last second need a place.
const IDENTITIES: usize = 10_000;

/// Parts of the table of identities, each with a lock of its own.
const PARTS: usize = 16;

/// One rate. Its burst is what it grants in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate {
    per_second: u32,
    /// Nanoseconds between two requests at an even pace.
    pace: u64,
}

impl Rate {
    fn new(per_second: u32) -> Self {
        let per_second = per_second.max(1);
        Self { per_second, pace: SECOND / u64::from(per_second) }
    }

    /// When the next request is due after one at `now` is admitted; `None` if it is not.
    fn admit(self, due: u64, now: u64) -> Option<u64> {
        let next = due.max(now) + self.pace;
        (next - now <= SECOND).then_some(next)
    }
}

/// The state of one port's rate limit.
#[derive(Debug)]
pub struct Limiter {
    of: Arc<RateLimit>,
    epoch: Instant,
    total: Option<(Rate, AtomicU64)>,
    identity: Option<Rate>,
    overrides: HashMap<Id, Rate>,
    hasher: RandomState,
    /// When the next request of each identity is due. Those of clients without one share the place of `None`.
    due: [Mutex<HashMap<Option<Id>, u64>>; PARTS],
    /// The same for identities that found no place.
    crowd: Mutex<u64>,
}

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// Whose requests are too many.
    pub scope: Scope,
    /// Requests a second that are allowed.
    pub per_second: u32,
}

/// Whose requests are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everybody's.
    Total,
    /// One identity's.
    Identity,
}

impl Scope {
    /// The value of the peer's label `ratelimit_scope`.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Total => "total",
            Scope::Identity => "identity",
        }
    }
}

impl Limiter {
    /// A limit of which nothing is used up. Of several overrides for one identity the first counts.
    pub fn new(of: Arc<RateLimit>, now: Instant) -> Self {
        let mut overrides = HashMap::new();
        for (rate, ids) in &of.overrides {
            for id in ids {
                overrides.entry(id.clone()).or_insert(Rate::new(*rate));
            }
        }
        Self {
            total: of.total.map(|rate| (Rate::new(rate), AtomicU64::new(0))),
            identity: of.identity.map(Rate::new),
            overrides,
            of,
            epoch: now,
            hasher: RandomState::new(),
            due: Default::default(),
            crowd: Mutex::new(0),
        }
    }

    /// What it was made of.
    pub fn policy(&self) -> &Arc<RateLimit> {
        &self.of
    }

    /// Takes one request of a client into account, or says why it is too much. A request that its own identity may not send
    /// uses up nothing of what all have together, which the peer does not prevent.
    pub fn admit(&self, client: Option<&Id>, now: Instant) -> Result<(), Exceeded> {
        // A second is added so that an hour-long idle start is no special case of subtraction.
        let nanos = now.saturating_duration_since(self.epoch).as_nanos();
        let now = u64::try_from(nanos).unwrap_or(u64::MAX / 2).saturating_add(SECOND);
        if let Some((rate, due)) = &self.total
            && rate.admit(due.load(Relaxed), now).is_none()
        {
            return Err(Exceeded { scope: Scope::Total, per_second: rate.per_second });
        }
        self.admit_identity(client, now)?;
        let Some((rate, due)) = &self.total else { return Ok(()) };
        match due.fetch_update(Relaxed, Relaxed, |due| rate.admit(due, now)) {
            Ok(_) => Ok(()),
            Err(_) => Err(Exceeded { scope: Scope::Total, per_second: rate.per_second }),
        }
    }

    fn admit_identity(&self, client: Option<&Id>, now: u64) -> Result<(), Exceeded> {
        let own = client.and_then(|id| self.overrides.get(id)).copied();
        let Some(rate) = own.or(self.identity) else { return Ok(()) };
        let part = self.hasher.hash_one(client) as usize % PARTS;
        let Some(part) = self.due.get(part) else { return Ok(()) };
        let mut places = part.lock().unwrap_or_else(PoisonError::into_inner);
        let client = client.cloned();
        let exceeded = Exceeded { scope: Scope::Identity, per_second: rate.per_second };
        if let Some(due) = places.get_mut(&client) {
            *due = rate.admit(*due, now).ok_or(exceeded)?;
            return Ok(());
        }
        if places.len() >= IDENTITIES / PARTS {
            // Whose next request is due already has used up nothing.
            places.retain(|_, due| *due > now);
        }
        if places.len() >= IDENTITIES / PARTS {
            drop(places);
            let mut due = self.crowd.lock().unwrap_or_else(PoisonError::into_inner);
            *due = rate.admit(*due, now).ok_or(exceeded)?;
            return Ok(());
        }
        places.insert(client, rate.admit(0, now).unwrap_or(now));
        Ok(())
    }
}

/// The bounds of this file, for docs/limits.md.
pub fn limits() -> Vec<Limit> {
    vec![Limit::fixed(
        "identities of one port that a rate limit counts apart",
        Bound::Count(IDENTITIES as u64),
        "Further ones that send within the same second share one rate.",
        "`inbound_http_local_ratelimit_total{ratelimit_scope=\"identity\"}`",
    )]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use weft_model::meta::Meta;

    fn limiter(total: Option<u32>, identity: Option<u32>, overrides: &[(u32, &str)]) -> (Limiter, Instant) {
        let meta = Meta::default_named("limit");
        let overrides = overrides.iter().map(|(rate, id)| (*rate, vec![id.parse().unwrap()])).collect();
        let now = Instant::now();
        (Limiter::new(Arc::new(RateLimit { meta, total, identity, overrides }), now), now)
    }

    /// How many of `count` requests at one moment are taken.
    fn taken(limiter: &Limiter, client: Option<&str>, count: u32, now: Instant) -> u32 {
        let id = client.map(|id| id.parse::<Id>().unwrap());
        (0..count).map(|_| u32::from(limiter.admit(id.as_ref(), now).is_ok())).sum()
    }

    #[test]
    fn a_rate_grants_a_second_of_it_at_once_and_then_its_pace() {
        let (limiter, start) = limiter(Some(10), None, &[]);
        let at = |millis: u64| start + Duration::from_millis(millis);
        assert_eq!(taken(&limiter, None, 20, at(0)), 10);
        assert_eq!(taken(&limiter, None, 5, at(99)), 0);
        assert_eq!(taken(&limiter, None, 5, at(100)), 1);
        assert_eq!(taken(&limiter, None, 5, at(350)), 2);
        assert_eq!(taken(&limiter, None, 50, at(60_000)), 10, "no more than a burst is saved");
        let over = limiter.admit(None, at(60_000)).unwrap_err();
        assert_eq!(over, Exceeded { scope: Scope::Total, per_second: 10 });
    }

    #[test]
    fn over_a_long_time_a_rate_is_kept() {
        for rate in [1, 3, 7, 1000] {
            let (limiter, start) = limiter(Some(rate), None, &[]);
            let mut rng = fastrand::Rng::with_seed(u64::from(rate));
            let (mut now, mut count) = (start, 0);
            while now < start + Duration::from_secs(20) {
                now += Duration::from_micros(rng.u64(..2_000_000 / u64::from(rate)) / 4);
                count += taken(&limiter, None, 1, now);
            }
            // Never more than the rate and one burst; somewhat less, because nobody asks exactly when a request is due.
            let (low, high) = (rate * 14, rate * 21);
            assert!((low..=high).contains(&count), "rate {rate}: {count} in 20 s");
        }
    }

    #[test]
    fn identities_are_counted_apart_and_those_without_together() {
        let (limiter, now) = limiter(None, Some(2), &[(5, "front.shop")]);
        assert_eq!(taken(&limiter, Some("a.shop"), 9, now), 2);
        assert_eq!(taken(&limiter, Some("b.shop"), 9, now), 2);
        assert_eq!(taken(&limiter, Some("front.shop"), 9, now), 5);
        assert_eq!((taken(&limiter, None, 1, now), taken(&limiter, None, 9, now)), (1, 1));
        let over = limiter.admit(None, now).unwrap_err();
        assert_eq!(over, Exceeded { scope: Scope::Identity, per_second: 2 });
    }

    #[test]
    fn an_override_limits_even_where_nobody_else_is_limited() {
        let (limiter, now) = limiter(None, None, &[(1, "front.shop"), (9, "front.shop")]);
        assert_eq!(taken(&limiter, Some("front.shop"), 9, now), 1);
        assert_eq!(taken(&limiter, Some("a.shop"), 9, now), 9);
    }

    #[test]
    fn what_an_identity_may_not_send_uses_up_nothing_of_the_others() {
        let (limiter, now) = limiter(Some(10), Some(2), &[]);
        assert_eq!(taken(&limiter, Some("greedy.shop"), 1000, now), 2);
        assert_eq!(taken(&limiter, Some("b.shop"), 9, now), 2);
        let others = (0..9).map(|n| taken(&limiter, Some(&format!("c{n}.shop")), 1, now)).sum::<u32>();
        assert_eq!(others, 6, "ten in all");
    }

    #[test]
    fn more_identities_than_there_are_places_share_one_rate() {
        let (limiter, start) = limiter(None, Some(1), &[]);
        let flood = |now: Instant| {
            (0..3 * IDENTITIES).map(|n| taken(&limiter, Some(&format!("n{n}.shop")), 1, now)).sum::<u32>()
                as usize
        };
        let count = flood(start);
        assert!((IDENTITIES - PARTS..=IDENTITIES + 1).contains(&count), "{count}");
        let places: usize = limiter.due.iter().map(|part| part.lock().unwrap().len()).sum();
        assert!(places <= IDENTITIES);
        let later = start + Duration::from_secs(2);
        assert_eq!(taken(&limiter, Some("new.shop"), 1, later), 1, "places are given back");
    }
}
