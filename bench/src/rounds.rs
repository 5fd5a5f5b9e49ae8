//! A case from start to end: all contenders started and checked, rounds in alternating order, and rounds in
//! which the machine was not quiet thrown away.

use crate::app::App;
use crate::case::{Case, Contender};
use crate::check::check;
use crate::contender::{Running, Site, is_present, start};
use crate::failure::Failure;
use crate::measure::{Memory, Plan, Window, memory, window};
use crate::process::Seats;
use crate::programs::Programs;
use crate::statistics::{Estimate, estimate, median, steady};
use std::path::{Path, PathBuf};

/// A round counts if the direct rate is as near to its median, because what moves it moves everybody, and if
/// nobody else used the machine in any of its windows.
const STEADY: f64 = 0.05;

/// What all cases share.
pub(crate) struct Stage<'a> {
    pub(crate) app: &'a App,
    pub(crate) programs: &'a Programs,
    pub(crate) seats: Seats,
    pub(crate) dir: &'a Path,
    pub(crate) plan: Plan,
    pub(crate) rounds: usize,
    /// A look that takes every round, quiet or not.
    pub(crate) quick: bool,
    /// Takes every round, too, for want of quiet ones.
    pub(crate) noisy: bool,
}

/// The windows of one contender, one for each round.
pub(crate) struct Series {
    pub(crate) contender: Contender,
    pub(crate) windows: Vec<Window>,
    /// What a pair negotiates.
    pub(crate) tls: Option<String>,
}

/// What a case gave.
pub(crate) struct Results {
    pub(crate) case: Case,
    pub(crate) series: Vec<Series>,
    /// Which rounds count.
    pub(crate) steady: Vec<bool>,
}

impl Stage<'_> {
    fn site(&self, contender: Contender, case: Case) -> Site<'_> {
        let name = format!("{}-{}", case.name(), contender.name().replace(' ', "-"));
        let dir: PathBuf = self.dir.join(name);
        Site { app: self.app, programs: self.programs, seats: self.seats, dir }
    }

    fn contenders(&self, case: Case) -> Vec<Contender> {
        let there = |contender: &Contender| contender.can(case) && is_present(*contender, self.programs);
        Contender::ALL.into_iter().filter(there).collect()
    }

    /// Measures a case that has windows.
    ///
    /// # Errors
    /// A contender does not start or fails a check.
    pub(crate) async fn run(&self, case: Case) -> Result<Results, Failure> {
        let mut contenders = Vec::new();
        let mut series = Vec::new();
        for contender in self.contenders(case) {
            let running = start(contender, case, &self.site(contender, case)).await?;
            let tls = check(&running, case, self.app).await?;
            contenders.push(running);
            series.push(Series { contender, windows: Vec::new(), tls });
        }
        // Unsteady rounds are repeated, but a machine that is never quiet must not keep us for ever.
        for round in 0..self.rounds * 2 {
            self.round(round, case, (&contenders, &mut series)).await?;
            let steady = self.steadiness(&series);
            let count = steady.iter().filter(|steady| **steady).count();
            eprintln!("{}: round {}, {count} of {} steady", case.name(), round + 1, self.rounds);
            if count >= self.rounds {
                break;
            }
        }
        let steady = self.steadiness(&series);
        Ok(Results { case, series, steady })
    }

    async fn round(
        &self,
        round: usize,
        case: Case,
        (contenders, series): (&[Running], &mut [Series]),
    ) -> Result<(), Failure> {
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let window = window(&contenders[index], case, &self.plan, self.app).await?;
            series[index].windows.push(window);
        }
        Ok(())
    }

    /// Measures memory, every contender three times, and takes the median.
    ///
    /// # Errors
    /// A contender does not start or does not keep its connections.
    pub(crate) async fn memory(&self) -> Result<Vec<(Contender, Memory)>, Failure> {
        let mut found = Vec::new();
        for contender in self.contenders(Case::Memory) {
            let mut samples = Vec::new();
            for _ in 0..self.rounds.min(3) {
                samples.push(memory(contender, &self.site(contender, Case::Memory), &self.plan).await?);
            }
            let middle = |of: fn(&Memory) -> f64| {
                median(&samples.iter().map(of).collect::<Vec<_>>()).unwrap_or_default()
            };
            let memory =
                Memory { idle: middle(|m| m.idle), silent: middle(|m| m.silent), used: middle(|m| m.used) };
            eprintln!("memory: {}", contender.name());
            found.push((contender, memory));
        }
        Ok(found)
    }

    /// Which rounds count so far.
    fn steadiness(&self, series: &[Series]) -> Vec<bool> {
        let direct = series.iter().find(|series| series.contender == Contender::Direct);
        let windows = direct.map(|direct| direct.windows.as_slice()).unwrap_or_default();
        let rates: Vec<f64> = windows.iter().map(Window::rate).collect();
        let quiet = |round: usize| {
            let mut windows = series.iter().filter_map(|series| series.windows.get(round));
            windows.all(Window::is_undisturbed)
        };
        let near = steady(&rates, STEADY);
        near.into_iter()
            .enumerate()
            .map(|(round, near)| self.quick || self.noisy || near && quiet(round))
            .collect()
    }
}

impl Results {
    /// The windows of a contender in the rounds that count.
    pub(crate) fn windows(&self, contender: Contender) -> Vec<Window> {
        let series = self.series.iter().find(|series| series.contender == contender);
        let windows = series.map(|series| series.windows.as_slice()).unwrap_or_default();
        windows.iter().zip(&self.steady).filter(|(_, steady)| **steady).map(|(window, _)| *window).collect()
    }

    /// The median of something over the rounds that count.
    pub(crate) fn median(&self, contender: Contender, of: impl Fn(&Window) -> Option<f64>) -> Option<f64> {
        median(&self.windows(contender).iter().filter_map(of).collect::<Vec<_>>())
    }

    /// The median, over the rounds, of the ratio of two costs in the same round.
    pub(crate) fn ratio(&self, contender: Contender, to: Contender) -> Option<Estimate> {
        let (ours, theirs) = (self.windows(contender), self.windows(to));
        let ratios: Vec<f64> =
            ours.iter().zip(&theirs).filter_map(|(a, b)| Some(a.cost()? / b.cost()?)).collect();
        let mut random = fastrand::Rng::with_seed(1); // the same figures give the same report
        estimate(&ratios, |n| random.usize(..n))
    }

    /// The share of a processor that others took in the median window, in percent.
    pub(crate) fn foreign(&self) -> Option<f64> {
        let windows = self.series.iter().flat_map(|series| &series.windows);
        median(&windows.map(|window| 100.0 * window.foreign / window.seconds).collect::<Vec<_>>())
    }

    pub(crate) fn steady_rounds(&self) -> usize {
        self.steady.iter().filter(|steady| **steady).count()
    }
}
