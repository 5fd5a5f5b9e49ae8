//! When requests come and what they are: the same with every policy, simulated or real.

use crate::scenario::Scenario;

/// A request to come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// Seconds since the beginning.
    pub(crate) at: f64,
    /// Which client sends it.
    pub(crate) client: usize,
    /// A uniform draw in `0..1`: it fails if its endpoint fails at least such a share.
    pub(crate) fails: f64,
    /// Another one: how much work it is.
    pub(crate) work: f64,
}

/// All requests of one seed in order. They come at random at the highest rate of all times, and at other times some of them do
/// not come.
pub(crate) fn all(scenario: &Scenario, seed: u64) -> impl Iterator<Item = Arrival> + use<> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (bursts, usual, end) = (scenario.bursts, scenario.rate, scenario.seconds);
    let clients = scenario.clients as usize;
    let highest = usual.max(bursts.map_or(0.0, |b| b.rate));
    let rate = move |at: f64| match bursts {
        Some(bursts) if at % bursts.every < bursts.seconds => bursts.rate,
        _ => usual,
    };
    let mut at = 0.0;
    std::iter::from_fn(move || {
        at += -rng.f64().max(1e-12).ln() / highest;
        let comes = rng.f64() * highest < rate(at);
        let arrival = Arrival { at, client: rng.usize(..clients), fails: rng.f64(), work: rng.f64() };
        (at < end).then_some(comes.then_some(arrival))
    })
    .flatten()
}
