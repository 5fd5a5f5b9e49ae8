//! Puts a report into the page that shows it, between two marks, and its plot beside the page.

use crate::failure::Failure;
use crate::plot;
use crate::report::Report;
use std::path::Path;

const BEGIN: &str = "<!-- figures: begin -->";
const END: &str = "<!-- figures: end -->";

/// Rewrites `page` and `performance.svg` beside it.
///
/// # Errors
/// The figures are not fit for it, or the page lacks the marks; then nothing is written.
pub(crate) fn publish(report: &Report, page: &Path) -> Result<(), Failure> {
    if let Some(why) = report.unfit() {
        return Err(Failure::Usage(format!("not published: {why}")));
    }
    let name = page.display().to_string();
    let text = std::fs::read_to_string(page).map_err(Failure::io(name.clone()))?;
    let figures = format!("![Processor time of the proxies](performance.svg)\n\n{}", report.markdown());
    let text = replace(&text, &figures)
        .ok_or_else(|| Failure::Usage(format!("{name} has no line `{BEGIN}` followed by `{END}`")))?;
    std::fs::write(page, text).map_err(Failure::io(name))?;
    let plot = page.with_file_name("performance.svg");
    std::fs::write(&plot, plot::draw(&report.results)).map_err(Failure::io(plot.display().to_string()))
}

/// `text` with what stands between the marks replaced.
fn replace(text: &str, figures: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{}\n{END}{after}", figures.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let page = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let once = replace(&page, "new\n").unwrap();
        assert_eq!(once, format!("before\n{BEGIN}\nnew\n{END}\nafter\n"));
        assert_eq!(replace(&once, "new\n").unwrap(), once);
        assert_eq!(replace("no marks", "new"), None);
        assert_eq!(replace(&format!("{END}{BEGIN}"), "new"), None);
    }
}
