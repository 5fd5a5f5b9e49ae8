//! The plot: processor time of every contender, one panel a case, as a small SVG written by hand.
//!
//! Bars are horizontal, from zero, with their figures behind them, so that nothing has to be read off an
//! axis; each panel has its own scale.

use crate::case::Contender;
use crate::measure::Window;
use crate::rounds::Results;
use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const LABELS: f64 = 110.0;
/// Room for the figure behind the longest bar.
const FIGURES: f64 = 110.0;
const BAR: f64 = 16.0;
const STEP: f64 = 22.0;
const HEADING: f64 = 34.0;

/// Draws all cases that have figures.
pub(crate) fn draw(results: &[Results]) -> String {
    let mut body = String::new();
    let mut top = 8.0;
    for results in results {
        top = panel(&mut body, results, top);
    }
    let height = top + 8.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"system-ui, sans-serif\" font-size=\"13\" role=\"img\">\n\
         <title>Processor time of the proxies</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    )
}

/// Draws one case below `top` and says where it ends.
fn panel(out: &mut String, results: &Results, top: f64) -> f64 {
    let bars: Vec<(Contender, f64)> = results
        .series
        .iter()
        .filter_map(|series| Some((series.contender, results.median(series.contender, Window::cost)?)))
        .collect();
    let longest = bars.iter().map(|(_, cost)| *cost).fold(0.0, f64::max);
    if longest <= 0.0 {
        return top;
    }
    let title = format!("{}: µs per {}", results.case.title(), results.case.unit());
    text(out, (8.0, top + 20.0), "font-weight=\"600\"", &title);
    let mut y = top + HEADING;
    for (contender, cost) in &bars {
        let length = cost / longest * (WIDTH - LABELS - FIGURES);
        let color = if *contender == Contender::Weft { "#c2410c" } else { "#94a3b8" };
        let middle = y + BAR - 3.5;
        text(out, (LABELS - 8.0, middle), "text-anchor=\"end\"", contender.name());
        let _ = writeln!(
            out,
            "<rect x=\"{LABELS}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{color}\"/>"
        );
        text(out, (LABELS + length + 6.0, middle), "", &format!("{cost:.1}"));
        y += STEP;
    }
    y + 10.0
}

fn text(out: &mut String, (x, y): (f64, f64), attributes: &str, content: &str) {
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"#0f172a\" {attributes}>{content}</text>");
}
