//! The figures as text: tables in Markdown, and a plot beside the page that shows them.
//!
//! Called when everything is played. It also says where ours is not the best, since that is what the laboratory is for.

use crate::play::{Played, Seen};
use crate::policy::Kind;
use crate::scenario::Scenario;
use crate::shop;
use std::fmt::Write as _;
use std::path::Path;

const BEGIN: &str = "<!-- laboratory: begin -->";
const END: &str = "<!-- laboratory: end -->";

/// How much worse than the best ours may be.
const TOLERANCE: f64 = 1.05;

/// Differences of error rates below this are chance: a few requests of ten thousands.
const CHANCE: f64 = 0.000_5;

/// Tables of all scenarios.
pub(crate) fn tables(all: &[Played]) -> String {
    let mut out = String::new();
    for played in all {
        let scenario = &played.scenario;
        let _ = writeln!(out, "### {}\n\n{}\n", scenario.name, scenario.about.trim());
        let odd = if played.odd.is_empty() { "" } else { " share of the odd |" };
        let _ = writeln!(
            out,
            "| policy | p50 ms | p99 ms | p99.9 ms | errors % | least / most at one endpoint % |{odd}"
        );
        let _ = writeln!(out, "|---|---|---|---|---|---|{}", if odd.is_empty() { "" } else { "---|" });
        for (kind, seen) in &played.seen {
            out.push_str(&row(played, *kind, seen));
        }
        for verdict in beaten(played) {
            let _ = writeln!(out, "\n{verdict} {}", scenario.exception);
        }
        out.push('\n');
    }
    out
}

fn row(played: &Played, kind: Kind, seen: &Seen) -> String {
    let bold = if kind == Kind::Weft { "**" } else { "" };
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|q| figure(seen.quantile(q)));
    let share = |count: Option<&u64>| *count.unwrap_or(&0) as f64 / seen.requests.max(1) as f64 * 100.0;
    let (least, most) = (share(seen.shares.iter().min()), share(seen.shares.iter().max()));
    let odd = match played.odd.is_empty() {
        true => String::new(),
        false => format!(" {:.1} % |", played.odd_share(seen) * 100.0),
    };
    let errors = seen.error_rate() * 100.0;
    let name = kind.name();
    format!("| {bold}{name}{bold} | {p50} | {p99} | {p999} | {errors:.2} | {least:.1} / {most:.1} |{odd}\n")
}

fn figure(millis: f64) -> String {
    if millis < 100.0 { format!("{millis:.1}") } else { format!("{millis:.0}") }
}

/// Where ours is beaten by more than the tolerance, in a sentence each.
pub(crate) fn beaten(played: &Played) -> Vec<String> {
    let Some((_, ours)) = played.seen.iter().find(|(kind, _)| *kind == Kind::Weft) else { return Vec::new() };
    let best = |of: fn(&Seen) -> f64| played.seen.iter().map(|(_, seen)| of(seen)).fold(f64::MAX, f64::min);
    let (p99, errors) = (|seen: &Seen| seen.quantile(0.99), Seen::error_rate as fn(&Seen) -> f64);
    let mut verdicts = Vec::new();
    if p99(ours) > best(p99) * TOLERANCE {
        let (ours, best) = (p99(ours), best(p99));
        verdicts.push(format!("Ours loses on p99: {ours:.1} ms, the best has {best:.1} ms."));
    }
    if errors(ours) > best(errors) * TOLERANCE + CHANCE {
        let (ours, best) = (errors(ours) * 100.0, best(errors) * 100.0);
        verdicts.push(format!("Ours loses on errors: {ours:.2} %, the best has {best:.2} %."));
    }
    verdicts
}

/// The most by which a policy's p99 is above the best of a scenario, in which one, and its highest error rate above the best.
pub(crate) fn at_worst(all: &[Played], kind: Kind) -> (f64, &str, f64) {
    let mut worst = (1.0, "", 0.0_f64);
    for played in all {
        let Some((_, own)) = played.seen.iter().find(|(k, _)| *k == kind) else { continue };
        let best =
            |of: fn(&Seen) -> f64| played.seen.iter().map(|(_, seen)| of(seen)).fold(f64::MAX, f64::min);
        let ratio = own.quantile(0.99) / best(|seen| seen.quantile(0.99));
        if ratio > worst.0 {
            (worst.0, worst.1) = (ratio, &played.scenario.name);
        }
        worst.2 = worst.2.max(own.error_rate() - best(Seen::error_rate));
    }
    worst
}

/// How each policy does where it does worst.
fn summary(all: &[Played]) -> String {
    let mut out = String::from(
        "### Where each does worst\n\n\
         | policy | p99 above the best at most | in | errors above the best at most, points |\n|---|---|---|---|\n",
    );
    for kind in Kind::ALL {
        let bold = if kind == Kind::Weft { "**" } else { "" };
        let (ratio, scenario, errors) = at_worst(all, kind);
        let (above, errors) = ((ratio - 1.0) * 100.0, errors * 100.0);
        let _ = writeln!(out, "| {bold}{}{bold} | {above:.0} % | {scenario} | {errors:.2} |", kind.name());
    }
    out.push('\n');
    out
}

/// How far simulated and real figures may be apart.
const APART: f64 = 0.15;

/// Shares and error rates that differ less than this, in points, agree whatever their ratio is.
const POINTS: f64 = 0.005;

/// Simulated and real figures side by side, and whether they agree.
pub(crate) fn agreement(scenario: &Scenario, simulated: &Seen, real: &Seen) -> (String, bool) {
    let endpoints = shop::all(&scenario.groups);
    let odd = |seen: &Seen| {
        let of = endpoints.iter().zip(&seen.shares).filter(|(endpoint, _)| endpoint.group.odd);
        of.map(|(_, share)| *share).sum::<u64>() as f64 / seen.requests.max(1) as f64
    };
    let mut rows: Vec<(&str, f64, f64, f64)> = Vec::new();
    for (name, q) in [("p50 ms", 0.5), ("p90 ms", 0.9), ("p99 ms", 0.99)] {
        rows.push((name, simulated.quantile(q), real.quantile(q), 0.0));
    }
    rows.push(("errors %", simulated.error_rate() * 100.0, real.error_rate() * 100.0, POINTS * 100.0));
    rows.push(("share of the odd %", odd(simulated) * 100.0, odd(real) * 100.0, POINTS * 100.0));
    let mut out = format!("| {} | simulated | real | apart |\n|---|---|---|---|\n", scenario.name);
    let mut agree = true;
    for (name, simulated, real, points) in rows {
        let apart = (simulated - real).abs();
        agree &= apart <= (simulated * APART).max(points);
        let percent = if simulated > 0.0 { apart / simulated * 100.0 } else { 0.0 };
        let _ = writeln!(out, "| {name} | {simulated:.2} | {real:.2} | {percent:.1} % |");
    }
    (out, agree)
}

/// Puts the tables into a page, between its marks, and the plot `balancing.svg` beside it.
pub(crate) fn publish(page: &Path, all: &[Played]) -> Result<(), String> {
    let wrong = |error: std::io::Error| format!("{}: {error}", page.display());
    let text = std::fs::read_to_string(page).map_err(wrong)?;
    let figures = format!("![p99 of every policy](balancing.svg)\n\n{}{}", summary(all), tables(all));
    let text = replace(&text, &figures)
        .ok_or_else(|| format!("{} has no line `{BEGIN}` followed by `{END}`", page.display()))?;
    std::fs::write(page, text).map_err(wrong)?;
    std::fs::write(page.with_file_name("balancing.svg"), plot(all)).map_err(wrong)
}

fn replace(text: &str, figures: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{}\n{END}{after}", figures.trim_end()))
}

const WIDTH: f64 = 760.0;
const LABELS: f64 = 190.0;
/// Room for the figures behind the longest bar.
const FIGURES: f64 = 170.0;
const BAR: f64 = 14.0;
const STEP: f64 = 19.0;

/// p99 of every policy, a panel a scenario with a scale of its own, the error rate behind each bar.
fn plot(all: &[Played]) -> String {
    let (mut body, mut y) = (String::new(), 8.0);
    for played in all {
        let longest = played.seen.iter().map(|(_, seen)| seen.quantile(0.99)).fold(1e-9, f64::max);
        text(&mut body, (8.0, y + 18.0), "font-weight=\"600\"", &played.scenario.name);
        y += 28.0;
        for (kind, seen) in &played.seen {
            let p99 = seen.quantile(0.99);
            let length = p99 / longest * (WIDTH - LABELS - FIGURES);
            let color = if *kind == Kind::Weft { "#c2410c" } else { "#94a3b8" };
            text(&mut body, (LABELS - 8.0, y + BAR - 3.0), "text-anchor=\"end\"", kind.name());
            let _ = writeln!(
                body,
                "<rect x=\"{LABELS}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{color}\"/>"
            );
            let told = format!("{} ms, {:.2} % errors", figure(p99), seen.error_rate() * 100.0);
            text(&mut body, (LABELS + length + 6.0, y + BAR - 3.0), "", &told);
            y += STEP;
        }
        y += 8.0;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" width=\"{WIDTH}\" height=\"{y}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" role=\"img\">\n<title>p99 of balancing policies</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    )
}

fn text(out: &mut String, (x, y): (f64, f64), attributes: &str, content: &str) {
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"#0f172a\" {attributes}>{content}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{play, scenario};

    /// The table in the documents is of more seeds; what one of them shows must hold as well.
    #[test]
    fn ours_is_the_best_or_nearly_so_in_every_scenario() {
        let scenarios = scenario::read("judge").unwrap();
        assert!(scenarios.len() >= 9);
        let mut all = Vec::new();
        for (file, mut scenario) in scenarios {
            scenario.seeds.truncate(1);
            let played = play::all(&scenario);
            let beaten = beaten(&played);
            assert!(beaten.is_empty() || !scenario.exception.is_empty(), "{file}: {beaten:?}");
            all.push(played);
        }
        // Where ours loses by more than the tolerance, every other loses by more elsewhere.
        let (ours, scenario, _) = at_worst(&all, Kind::Weft);
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Weft) {
            let (its, at, _) = at_worst(&all, kind);
            assert!(ours <= TOLERANCE || its > ours, "ours {ours} in {scenario}, {kind:?} {its} in {at}");
        }
        assert!(summary(&all).contains("| **Weft** |"));
    }

    #[test]
    fn what_is_beaten_is_said() {
        let (_, scenario) = scenario::read("choose").unwrap().remove(0);
        let seen = |latency: f64, errors| play::Seen {
            latencies: vec![latency; 100],
            requests: 1000,
            errors,
            shares: vec![500, 500],
        };
        let check = |ours, other, expected: &[&str]| {
            let seen = vec![(Kind::RoundRobin, other), (Kind::Weft, ours)];
            let played = Played { scenario: scenario.clone(), seen, odd: vec![1] };
            assert_eq!(beaten(&played), expected);
            assert!(expected.iter().all(|sentence| tables(std::slice::from_ref(&played)).contains(sentence)));
            assert!(plot(&[played]).contains("round robin"));
        };
        check(seen(10.0, 0), seen(10.0, 0), &[]);
        check(seen(10.4, 10), seen(10.0, 10), &[]);
        check(seen(10.6, 0), seen(10.0, 0), &["Ours loses on p99: 10.6 ms, the best has 10.0 ms."]);
        check(seen(10.0, 20), seen(12.0, 10), &["Ours loses on errors: 2.00 %, the best has 1.00 %."]);
    }

    #[test]
    fn simulated_and_real_agree_within_bounds() {
        let (_, scenario) = scenario::read("judge").unwrap().remove(0);
        let seen = |latency: f64, errors| play::Seen {
            latencies: vec![latency; 100],
            requests: 1000,
            errors,
            shares: vec![],
        };
        let check = |real, expected| assert_eq!(agreement(&scenario, &seen(10.0, 5), &real).1, expected);
        check(seen(11.4, 8), true);
        check(seen(8.6, 5), true);
        check(seen(11.6, 5), false);
        check(seen(10.0, 11), false);
    }

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let page = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        assert_eq!(replace(&page, "new\n"), Some(format!("before\n{BEGIN}\nnew\n{END}\nafter\n")));
        assert_eq!(replace("no marks", "new"), None);
    }
}
