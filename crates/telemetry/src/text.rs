//! Prometheus' text format: labels and lines, escaped.
//!
//! `metrics` and `process` write through this; whoever has labels implements `Labels`. Label values
//! may come from strangers (a server name, an authority), so they are escaped and cut; keys may come
//! from the control plane, so their alphabet is enforced. Never decides which series exist.

use std::borrow::Borrow;
use std::fmt::{self, Display, Write as _};
use std::sync::Arc;

/// Longest label value, in bytes; the rest is cut. A SPIFFE id may have 2,048 bytes by its standard,
/// but real ones stay far below; the bound exists so that a stranger cannot make a scrape huge.
pub const MAX_VALUE_BYTES: usize = 512;

/// A set of labels. The same set must always write the same pairs in the same order, because the
/// written text is the series' key.
pub trait Labels {
    /// Writes the pairs.
    fn write(&self, out: &mut LabelWriter<'_>);

    /// The pairs as text, shared where they are kept as text.
    fn written(&self) -> Arc<str> {
        let mut text = String::new();
        self.write(&mut LabelWriter::new(&mut text));
        text.into()
    }
}

/// No labels.
impl Labels for () {
    fn write(&self, _: &mut LabelWriter<'_>) {}
}

impl<T: Labels + ?Sized> Labels for &T {
    fn write(&self, out: &mut LabelWriter<'_>) {
        (**self).write(out);
    }

    fn written(&self) -> Arc<str> {
        (**self).written()
    }
}

/// The pairs of the first, then those of the second.
impl<A: Labels, B: Labels> Labels for (A, B) {
    fn write(&self, out: &mut LabelWriter<'_>) {
        self.0.write(out);
        self.1.write(out);
    }
}

/// Pairs of key and value, in order.
impl<K: AsRef<str>, V: AsRef<str>> Labels for [(K, V)] {
    fn write(&self, out: &mut LabelWriter<'_>) {
        for (key, value) in self {
            out.pair(key.as_ref(), value.as_ref());
        }
    }
}

/// Pairs of key and value, in order.
impl<K: AsRef<str>, V: AsRef<str>, const N: usize> Labels for [(K, V); N] {
    fn write(&self, out: &mut LabelWriter<'_>) {
        self.as_slice().write(out);
    }
}

/// Pairs written once, for who keeps labels: a fraction of the size of the pairs, and one text for all families.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Written(Arc<str>);

impl Written {
    /// Writes the pairs.
    pub fn new(labels: &(impl Labels + ?Sized)) -> Self {
        Self(labels.written())
    }

    /// The pairs, for people. A value that was cut stays so.
    pub fn pairs(&self) -> Vec<(String, String)> {
        pairs(&self.0).map(|(key, value)| (key.to_owned(), unescaped(value))).collect()
    }
}

/// A set is found by its text.
impl Borrow<str> for Written {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The keys in what a `LabelWriter` wrote, each with its value as written.
pub fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (key, value) = rest.split_once("=\"")?;
        let mut escaped = false;
        let end = value.find(|c| match c {
            '"' if !escaped => true,
            c => {
                escaped = c == '\\' && !escaped;
                false
            }
        })?;
        let (value, after) = value.split_at(end);
        rest = after.get(1..)?.trim_start_matches(',');
        Some((key, value))
    })
}

fn unescaped(value: &str) -> String {
    let mut chars = value.chars();
    let mut text = String::new();
    while let Some(c) = chars.next() {
        text.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some(c) => c,
                None => break,
            },
            c => c,
        });
    }
    text
}

/// The pairs as they are; those of a set written before it must not be among them.
impl Labels for Written {
    fn write(&self, out: &mut LabelWriter<'_>) {
        if !out.text.is_empty() && !self.0.is_empty() {
            out.text.push(',');
        }
        out.text.push_str(&self.0);
    }

    fn written(&self) -> Arc<str> {
        self.0.clone()
    }
}

/// Receives label pairs.
#[derive(Debug)]
pub struct LabelWriter<'a> {
    text: &'a mut String,
}

impl<'a> LabelWriter<'a> {
    /// Appends to `text`, which holds earlier pairs or nothing.
    pub fn new(text: &'a mut String) -> Self {
        Self { text }
    }

    /// Writes one pair. A key written before is skipped: the first value counts, since a repeated
    /// label would make the whole scrape invalid.
    pub fn pair(&mut self, key: &str, value: &str) {
        self.display(key, value);
    }

    /// As `pair`, for a value that can be displayed. An empty key is skipped.
    pub fn display(&mut self, key: &str, value: impl Display) {
        let start = self.text.len();
        if start > 0 {
            self.text.push(',');
        }
        push_key(self.text, key);
        self.text.push_str("=\"");
        let (before, new) = self.text.split_at(start);
        // A quote inside a value is always preceded by a backslash, so this cannot match in a value.
        let known = new.starts_with(',') && (before.contains(new) || before.starts_with(&new[1..]));
        if key.is_empty() || known {
            self.text.truncate(start);
            return;
        }
        // Writing to a string cannot fail; an error of the value's own Display leaves it cut short.
        let _ = write!(Escaped { text: self.text, left: MAX_VALUE_BYTES }, "{value}");
        self.text.push('"');
    }
}

/// Appends a key in the alphabet `[a-zA-Z_][a-zA-Z0-9_]*`; other characters become `_`.
fn push_key(text: &mut String, key: &str) {
    if key.starts_with(|c: char| c.is_ascii_digit()) {
        text.push('_');
    }
    text.extend(key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }));
}

struct Escaped<'a> {
    text: &'a mut String,
    left: usize,
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, value: &str) -> fmt::Result {
        for c in value.chars() {
            if c.len_utf8() > self.left {
                self.left = 0;
                break;
            }
            self.left -= c.len_utf8();
            match c {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                c => self.text.push(c),
            }
        }
        Ok(())
    }
}

/// The kinds of families that Prometheus tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts per bucket.
    Histogram,
}

impl Kind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// Whether there is more to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// The next call goes on.
    Yes,
    /// All is written.
    No,
}

/// Writes the rest of a family or collector, until the exposition is full or nothing is left.
pub type Rest = Box<dyn FnMut(&mut Exposition) -> More + Send>;

/// Bytes after which a part of a scrape is given out.
const PART: usize = 32 << 10;

/// Receives families and their lines; the text of a scrape, or a part of it.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// Begins a family: its HELP and TYPE lines. The lines that follow belong to it.
    pub fn family(&mut self, name: &str, help: &str, kind: Kind) {
        let _ = write!(self.text, "# HELP {name} ");
        for c in help.chars() {
            match c {
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                c => self.text.push(c),
            }
        }
        let _ = writeln!(self.text, "\n# TYPE {name} {}", kind.as_str());
    }

    /// Writes one line. `labels` is what a `LabelWriter` wrote.
    pub fn line(&mut self, name: &str, labels: &str, value: impl Display) {
        // Writing to a string cannot fail.
        let _ = match labels {
            "" => writeln!(self.text, "{name} {value}"),
            labels => writeln!(self.text, "{name}{{{labels}}} {value}"),
        };
    }

    /// A family of one line without labels.
    pub fn single(&mut self, name: &str, help: &str, kind: Kind, value: impl Display) {
        self.family(name, help, kind);
        self.line(name, "", value);
    }

    /// Whether it is time to give this part out. Nothing is lost if it grows a little more.
    pub fn is_full(&self) -> bool {
        self.text.len() >= PART
    }

    /// The finished text.
    pub fn finish(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(labels: impl Labels, expected: &str) {
        let mut text = String::new();
        labels.write(&mut LabelWriter::new(&mut text));
        assert_eq!(text, expected);
    }

    #[test]
    fn labels_are_written_in_order_and_escaped() {
        check((), "");
        check([("a", "1"), ("b", "2")], r#"a="1",b="2""#);
        check(([("a", "1")], [("b", "2")]), r#"a="1",b="2""#);
        check([("a", "x\"y\\z\nw")], r#"a="x\"y\\z\nw""#);
    }

    #[test]
    fn keys_keep_to_the_alphabet() {
        check(
            [("dst_app.kubernetes.io/name", "x"), ("1st", "y")],
            r#"dst_app_kubernetes_io_name="x",_1st="y""#,
        );
        check([("", "x"), ("a", "y")], r#"a="y""#);
    }

    #[test]
    fn a_repeated_key_is_written_once() {
        check([("a", "1"), ("a", "2"), ("b", "3"), ("b", "4")], r#"a="1",b="3""#);
        check([("x", r#",a="1"#), ("a", "2")], r#"x=",a=\"1",a="2""#);
        check([("ab", "1"), ("b", "2")], r#"ab="1",b="2""#);
    }

    #[test]
    fn what_was_written_can_be_read_back() {
        let labels = [("a", "x\"y\\z\nw,b=\"c"), ("b", ""), ("c", "1")];
        let read = Written::new(&labels).pairs();
        assert_eq!(read, labels.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(Written::new(&()).pairs(), []);
        let keys = pairs(r#"a="1\\",b="x=\"y,c=",d="""#).map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys, ["a", "b", "d"]);
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        let mut text = String::new();
        LabelWriter::new(&mut text).pair("a", &"é".repeat(MAX_VALUE_BYTES));
        assert_eq!(text.len(), MAX_VALUE_BYTES + r#"a="""#.len());
    }
}
