//! Scenarios as data: files that anybody can add, read from `scenarios/SET/*.yaml`.
//!
//! Every time is in milliseconds or seconds as its name says. What a file leaves out has the default of its field. It plays
//! nothing.

use serde::Deserialize;
use std::path::Path;

/// One scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// A few words.
    pub(crate) name: String,
    /// What it shows, in a sentence.
    pub(crate) about: String,
    /// Each seed is a run of its own; figures are of all of them together.
    pub(crate) seeds: Vec<u64>,
    /// Balancers that know nothing of each other.
    #[serde(default = "one")]
    pub(crate) clients: u32,
    /// Requests a second, of all clients.
    pub(crate) rate: f64,
    /// How long it lasts.
    pub(crate) seconds: f64,
    /// The beginning that is not counted.
    #[serde(default)]
    pub(crate) settle: f64,
    /// How long clients wait for an answer; later it is an error.
    #[serde(default = "patience")]
    pub(crate) timeout_ms: f64,
    /// Times of more requests.
    pub(crate) bursts: Option<Bursts>,
    /// The endpoints.
    pub(crate) groups: Vec<Group>,
    /// Why ours may lose this one by more than 5 %, if it does.
    #[serde(default)]
    pub(crate) exception: String,
}

/// Regular times of more requests.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bursts {
    /// Seconds from one to the next.
    pub(crate) every: f64,
    /// How long each lasts.
    pub(crate) seconds: f64,
    /// Requests a second then.
    pub(crate) rate: f64,
}

/// Endpoints that are alike.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    /// How many.
    pub(crate) count: u16,
    /// Mean time of the work for a request.
    pub(crate) mean_ms: f64,
    /// How it is spread.
    #[serde(default)]
    pub(crate) spread: Spread,
    /// Requests that one endpoint works on at a time; others wait there.
    #[serde(default = "slots")]
    pub(crate) slots: usize,
    /// Share of the requests that fail.
    #[serde(default)]
    pub(crate) fails: f64,
    /// How fast they fail.
    #[serde(default = "one_ms")]
    pub(crate) fail_ms: f64,
    /// When the group joins and leaves; from beginning to end if not said.
    pub(crate) from: Option<f64>,
    pub(crate) until: Option<f64>,
    /// Seconds in which the group takes up work and finishes nothing.
    pub(crate) stalled: Option<(f64, f64)>,
    /// How much longer everything takes when it joins, fading over so many seconds.
    pub(crate) cold: Option<(f64, f64)>,
    /// Whether it is in another zone, and what the way there costs.
    pub(crate) away_ms: Option<f64>,
    /// Whether its share is the one to look at.
    #[serde(default)]
    pub(crate) odd: bool,
}

/// How the time of the work is spread around its mean.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Spread {
    /// Half to one and a half of it.
    #[default]
    Even,
    /// Memoryless.
    Exponential,
    /// Most are short and few very long (Pareto, 1.5).
    Heavy,
}

fn one() -> u32 {
    1
}

fn one_ms() -> f64 {
    1.0
}

fn slots() -> usize {
    16
}

fn patience() -> f64 {
    10_000.0
}

/// The scenarios of a set, by file name.
pub(crate) fn read(set: &str) -> Result<Vec<(String, Scenario)>, String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(set);
    let entries = std::fs::read_dir(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let wrong = |error: String| format!("{}: {error}", path.display());
            let text = std::fs::read_to_string(&path).map_err(|e| wrong(e.to_string()))?;
            let scenario = serde_saphyr::from_str(&text).map_err(|e| wrong(e.to_string()))?;
            Ok((path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), scenario))
        })
        .collect()
}
