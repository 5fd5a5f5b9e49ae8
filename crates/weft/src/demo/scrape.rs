//! Reads what `/metrics` says. Pure; `shop` fetches, `table` and `checks` add up.
//!
//! Understands the text format as far as it is used here: names, labels with escapes, numbers. Lines that
//! are something else are passed over.

use std::collections::BTreeMap;

/// One series and its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

impl Sample {
    /// A label's value, empty if it is not there.
    pub(crate) fn label(&self, key: &str) -> &str {
        self.labels.get(key).map_or("", String::as_str)
    }

    /// The value as a count.
    pub(crate) fn count(&self) -> u64 {
        // Counters are whole, not negative, and far below 2^53.
        self.value as u64
    }
}

/// Everything that one page says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Page(Vec<Sample>);

impl Page {
    /// Reads a page.
    pub(crate) fn parse(text: &str) -> Self {
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
    }

    /// The series of one family, or of one part of a histogram.
    pub(crate) fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| sample.name == name)
    }

    /// The sum over the series of a family whose labels have these values.
    pub(crate) fn sum(&self, name: &str, wanted: &[(&str, &str)]) -> u64 {
        let fits = |sample: &&Sample| wanted.iter().all(|(key, value)| sample.label(key) == *value);
        self.of(name).filter(fits).map(Sample::count).sum()
    }
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// The labels, and what follows their closing brace.
fn labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (key, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.insert(key.to_owned(), value);
        rest = after.get(end + 1..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_read_with_their_labels() {
        let page = Page::parse(concat!(
            "# HELP request_total Requests.\n",
            "request_total{dst=\"a,b}\",quote=\"\\\"\\\\\\n\",tls=\"true\"} 3\n",
            "request_total{tls=\"true\"} 4\n",
            "request_total{tls=\"no\"} 5\n",
            "up 1\n",
            "half{a=\"b\" 1\n",
            "# EOF\n",
        ));
        assert_eq!(page.sum("request_total", &[("tls", "true")]), 7);
        assert_eq!(page.sum("request_total", &[]), 12);
        assert_eq!(page.sum("up", &[]), 1);
        assert_eq!(page.of("half").count(), 0);
        let first = page.of("request_total").next().unwrap();
        assert_eq!((first.label("dst"), first.label("quote"), first.label("none")), ("a,b}", "\"\\\n", ""));
    }
}
