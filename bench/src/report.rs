//! The figures as text: tables in Markdown, and every window in CSV.
//!
//! Called when everything is measured. Leaves out what was not measured rather than guessing it.

use crate::case::{Case, Contender, GOALS, MEMORY_GOALS};
use crate::failure::Failure;
use crate::measure::{Memory, Plan, Window};
use crate::rounds::{Results, Stage};
use crate::{machine, plot};
use std::fmt::Write as _;
use std::path::Path;

/// Everything that a run found.
pub(crate) struct Report {
    pub(crate) results: Vec<Results>,
    pub(crate) memory: Vec<(Contender, Memory)>,
    versions: Vec<(&'static str, String)>,
    machine: Vec<(&'static str, String)>,
    plan: Plan,
    rounds: usize,
    quick: bool,
    noisy: bool,
    pinned: bool,
}

/// A figure that is not there.
const NONE: &str = "–";

impl Report {
    /// Nothing found yet.
    pub(crate) fn new(stage: &Stage<'_>) -> Self {
        Self {
            results: Vec::new(),
            memory: Vec::new(),
            versions: stage.programs.describe(),
            machine: machine::describe(),
            plan: stage.plan,
            rounds: stage.rounds,
            quick: stage.quick,
            noisy: stage.noisy,
            pinned: stage.seats.is_pinned(),
        }
    }

    /// Why these figures are not to be published, if so.
    pub(crate) fn unfit(&self) -> Option<String> {
        if self.quick {
            return Some("a quick run shows that everything works, not how fast it is".to_owned());
        }
        let short = self.results.iter().find(|results| results.steady_rounds() < self.rounds)?;
        Some(format!(
            "the machine was not quiet: {} of {} rounds of {} count",
            short.steady_rounds(),
            self.rounds,
            short.case.name()
        ))
    }

    /// Writes `table.md`, `plot.svg` and `windows.csv` into `dir`.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), Failure> {
        for (name, text) in [
            ("table.md", self.markdown()),
            ("plot.svg", plot::draw(&self.results)),
            ("windows.csv", self.csv()),
        ] {
            let path = dir.join(name);
            std::fs::write(&path, text).map_err(Failure::io(path.display().to_string()))?;
        }
        Ok(())
    }

    /// All tables.
    pub(crate) fn markdown(&self) -> String {
        let mut out = String::new();
        if let Some(why) = self.unfit() {
            let _ = writeln!(out, "> Not for publication: {why}.\n");
        }
        if !self.results.is_empty() {
            self.costs(&mut out);
            self.goals(&mut out);
        }
        if !self.memory.is_empty() {
            self.memories(&mut out);
        }
        if !self.results.is_empty() {
            self.details(&mut out);
        }
        self.conditions(&mut out);
        out
    }

    fn costs(&self, out: &mut String) {
        out.push_str(
            "### Processor time of the proxies\n\nMicroseconds per request; for opaque TCP per MiB.\n\n",
        );
        let titles: Vec<&str> = self.results.iter().map(|results| results.case.title()).collect();
        table_head(out, "", &titles);
        for contender in Contender::ALL.into_iter().filter(|contender| *contender != Contender::Direct) {
            let cells: Vec<String> = self
                .results
                .iter()
                .map(|results| number(results.median(contender, Window::cost), 1))
                .collect();
            if cells.iter().any(|cell| cell != NONE) {
                row(out, contender, &cells);
            }
        }
        out.push('\n');
    }

    fn goals(&self, out: &mut String) {
        let mut lines = String::new();
        for (case, to, goal) in GOALS {
            let results = self.results.iter().find(|results| results.case == *case);
            let Some(ratio) = results.and_then(|results| results.ratio(Contender::Weft, *to)) else {
                continue;
            };
            let _ = writeln!(
                lines,
                "| {} | {} | {:.2} ({:.2}–{:.2}) | {goal} | {} |",
                case.title(),
                to.name(),
                ratio.median,
                ratio.low,
                ratio.high,
                verdict(ratio.median, *goal)
            );
        }
        if lines.is_empty() {
            return;
        }
        out.push_str(
            "### Weft against others\n\nRatio of processor time in the same round: median over the rounds, and its \
             95 % interval (bootstrap).\n\n| case | against | ratio | at most | |\n|---|---|---|---|---|\n",
        );
        let _ = writeln!(out, "{lines}");
    }

    fn memories(&self, out: &mut String) {
        out.push_str("### Resident memory\n\n");
        table_head(
            out,
            "",
            &["idle, MiB", "per connection that has not spoken, KiB", "per connection used once, KiB"],
        );
        for (contender, memory) in &self.memory {
            let Memory { idle, silent, used } = *memory;
            let figures = [(idle, 1024.0), (silent, 1.0), (used, 1.0)];
            let cells = figures.iter().zip(MEMORY_GOALS).map(|((kib, unit), goal)| match contender {
                Contender::Weft => format!("{:.1} ({})", kib / unit, verdict(*kib, goal)),
                _ => format!("{:.1}", kib / unit),
            });
            row(out, *contender, &cells.collect::<Vec<_>>());
        }
        let [idle, silent, used] = MEMORY_GOALS;
        let _ = writeln!(
            out,
            "\nWeft is to stay within {} MiB, {silent} KiB and {used} KiB. Measured with {} connections.\n",
            idle / 1024.0,
            self.plan.idle
        );
    }

    fn details(&self, out: &mut String) {
        out.push_str(
            "### All figures\n\n`busy` is how much of its processor a contender used: who is not busy waits for the \
             load, and says nothing about how much it could carry.\n",
        );
        for results in &self.results {
            let case = results.case;
            let _ = writeln!(out, "\n**{}**, medians of {} rounds\n", case.title(), results.steady_rounds());
            let cost = format!("µs/{}", case.unit());
            let rate = format!("{}/s", if case == Case::Tcp { "MiB" } else { "requests" });
            let against = format!("× {}", case.reference().name());
            let titles = [&cost, &against, &rate, "p50, µs", "p99, µs", "busy", "resident, MiB"];
            table_head(out, "", &titles);
            for series in &results.series {
                row(out, series.contender, &cells(results, series.contender));
            }
            for series in results.series.iter() {
                if let Some(tls) = &series.tls {
                    let _ = writeln!(
                        out,
                        "\n{}: {tls}; plaintext and clients without a certificate are turned away.",
                        series.contender.name()
                    );
                }
            }
        }
        out.push('\n');
    }

    fn conditions(&self, out: &mut String) {
        out.push_str("### Conditions\n\n");
        for (name, text) in self.machine.iter().chain(&self.versions) {
            let _ = writeln!(out, "- {name}: {text}");
        }
        let Plan { warm_up, window, connections, streams, .. } = self.plan;
        let seats = if self.pinned {
            "proxies on one processor, everything else on another"
        } else {
            "one processor"
        };
        let _ = writeln!(
            out,
            "- load: {connections} connections, each with one request in flight ({streams} over HTTP/2), one worker, \
             {seats}\n- rounds: {}, alternating order, windows of {window:?} after {warm_up:?}",
            self.rounds
        );
        if self.noisy {
            let taken = self.results.iter().filter_map(Results::foreign).map(|share| format!("{share:.0} %"));
            let taken = taken.collect::<Vec<_>>().join(", ");
            let _ = writeln!(
                out,
                "- **not quiet**: every round was taken; in the median window others took {taken} of a processor \
                 (case by case)"
            );
        }
    }

    fn csv(&self) -> String {
        let mut out = "case,contender,round,counts,done,seconds,cpu_seconds,load_cpu_seconds,foreign_cpu_seconds,p50_us,p99_us,resident_kib\n"
            .to_owned();
        let text = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
        for results in &self.results {
            for series in &results.series {
                for (round, (w, steady)) in series.windows.iter().zip(&results.steady).enumerate() {
                    let _ = writeln!(
                        out,
                        "{},{},{},{steady},{},{},{},{},{},{},{},{}",
                        results.case.name(),
                        series.contender.name(),
                        round + 1,
                        w.done,
                        w.seconds,
                        text(w.cpu),
                        w.rest,
                        w.foreign,
                        text(w.p50_us),
                        text(w.p99_us),
                        w.resident_kib
                    );
                }
            }
        }
        out
    }
}

fn cells(results: &Results, contender: Contender) -> Vec<String> {
    let median = |of: &dyn Fn(&Window) -> Option<f64>| results.median(contender, of);
    let ratio = results.ratio(contender, results.case.reference());
    let percent =
        |share: Option<f64>| share.map_or(NONE.to_owned(), |share| format!("{:.0} %", share * 100.0));
    let resident = median(&|w| w.cpu.map(|_| w.resident_kib as f64 / 1024.0));
    vec![
        number(median(&Window::cost), 1),
        ratio.map_or(NONE.to_owned(), |ratio| format!("{:.2}", ratio.median)),
        number(median(&|w| Some(w.rate())), 0),
        number(median(&|w| w.p50_us), 0),
        number(median(&|w| w.p99_us), 0),
        percent(median(&|w| Some(w.cpu? / w.seconds))),
        number(resident, 1),
    ]
}

fn verdict(figure: f64, goal: f64) -> &'static str {
    if figure <= goal { "met" } else { "missed" }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or(NONE.to_owned(), |value| format!("{value:.digits$}"))
}

fn table_head(out: &mut String, first: &str, titles: &[&str]) {
    let _ = writeln!(out, "| {first} | {} |\n|---|{}", titles.join(" | "), "---:|".repeat(titles.len()));
}

fn row(out: &mut String, contender: Contender, cells: &[String]) {
    let name = match contender {
        Contender::Weft => "**Weft**".to_owned(),
        other => other.name().to_owned(),
    };
    let _ = writeln!(out, "| {name} | {} |", cells.join(" | "));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounds::Series;

    pub(crate) fn results() -> Results {
        let window = |cpu: f64, done: f64| Window {
            seconds: 2.0,
            done,
            cpu: Some(cpu),
            rest: 1.0,
            foreign: 0.0,
            p50_us: Some(100.0),
            p99_us: None,
            resident_kib: 2048,
        };
        let series = |contender, costs: [f64; 3]| Series {
            contender,
            windows: costs.iter().map(|cost| window(cost / 1e6 * 1000.0, 1000.0)).collect(),
            tls: None,
        };
        Results {
            case: Case::Http1,
            series: vec![
                series(Contender::Relay, [20.0, 10.0, 200.0]),
                series(Contender::Weft, [22.0, 12.0, 900.0]),
            ],
            steady: vec![true, true, false],
        }
    }

    #[test]
    fn figures_are_medians_of_the_rounds_that_count() {
        let results = results();
        let cost = results.median(Contender::Weft, Window::cost).unwrap();
        assert!((cost - 17.0).abs() < 1e-9, "{cost}");
        let ratio = results.ratio(Contender::Weft, Contender::Relay).unwrap();
        assert!((ratio.median - 1.15).abs() < 1e-9, "{ratio:?}");
        assert_eq!(results.ratio(Contender::Weft, Contender::Envoy), None);
        let cells = cells(&results, Contender::Weft);
        assert_eq!(cells, ["17.0", "1.15", "500", "100", NONE, "1 %", "2.0"]);
    }
}
