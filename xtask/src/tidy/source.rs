//! One source file, prepared for line-and-word checks.
//!
//! Comments and the insides of strings are blanked without moving anything, and the parts that exist
//! only for tests are found. Every rule starts from here.

use std::ops::Range;

/// A source file.
pub(super) struct Source {
    /// Path from the repository's root, with `/`.
    pub(super) path: String,
    /// The text as it is.
    pub(super) text: String,
    /// The text with comments and string contents blanked; same length, same lines.
    pub(super) code: String,
    /// Whether the whole file exists only for tests.
    pub(super) only_tests: bool,
    tests: Vec<Range<usize>>,
    lines: Vec<usize>,
}

/// A word of the code: an identifier or keyword.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word<'a> {
    /// Where it starts.
    pub(super) at: usize,
    /// The word.
    pub(super) text: &'a str,
}

impl Source {
    /// Prepares a text.
    pub(super) fn new(path: &str, text: String) -> Self {
        let code = blank(&text);
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let tests = test_ranges(&code);
        let only_tests =
            path.contains("/tests/") || path.ends_with("/tests.rs") || path.ends_with("_tests.rs");
        Self { path: path.to_owned(), text, code, only_tests, tests, lines }
    }

    /// The crate's folder name, such as `net`, or `xtask`.
    pub(super) fn krate(&self) -> &str {
        let mut parts = self.path.split('/');
        match (parts.next(), parts.next()) {
            (Some("crates"), Some(name)) => name,
            (first, _) => first.unwrap_or(""),
        }
    }

    /// The line of a place in the text, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at)
    }

    /// Whether a place belongs to the tests.
    pub(super) fn is_test(&self, at: usize) -> bool {
        self.only_tests || self.tests.iter().any(|range| range.contains(&at))
    }

    /// How many lines do not belong to the tests.
    pub(super) fn product_lines(&self) -> usize {
        let total = self.text.lines().count();
        if self.only_tests {
            return 0;
        }
        let tests = self.tests.iter().map(|range| self.line(range.end - 1) - self.line(range.start) + 1);
        total.saturating_sub(tests.sum())
    }

    /// All words in order.
    pub(super) fn words(&self) -> impl Iterator<Item = Word<'_>> {
        words(&self.code)
    }

    /// What follows a word, without blanks.
    pub(super) fn after(&self, word: Word<'_>) -> &str {
        self.code[word.at + word.text.len()..].trim_start()
    }

    /// What stands before a word, without blanks.
    pub(super) fn before(&self, word: Word<'_>) -> &str {
        self.code[..word.at].trim_end()
    }
}

fn words(code: &str) -> impl Iterator<Item = Word<'_>> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = code.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() && !is_word(bytes[at]) {
            at += 1;
        }
        let start = at;
        while at < bytes.len() && is_word(bytes[at]) {
            at += 1;
        }
        (start < at).then(|| Word { at: start, text: &code[start..at] })
    })
}

/// The place behind the bracket that closes the one at `open`.
pub(super) fn closing(code: &str, open: usize) -> usize {
    let bytes = code.as_bytes();
    let mut depth = 0usize;
    for (at, byte) in bytes.iter().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    bytes.len()
}

/// The place behind the `>` that closes the `<` at `open`.
pub(super) fn closing_angle(code: &str, open: usize) -> usize {
    let bytes = code.as_bytes();
    let mut depth = 0usize;
    for (at, byte) in bytes.iter().enumerate().skip(open) {
        match byte {
            b'<' => depth += 1,
            b'>' if at > 0 && bytes[at - 1] == b'-' => {}
            b'>' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    bytes.len()
}

/// Splits at commas that stand in no bracket.
pub(super) fn split_commas(code: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0i32);
    let bytes = code.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'(' | b'[' | b'{' | b'<' => depth += 1,
            b'>' if at > 0 && matches!(bytes[at - 1], b'-' | b'=') => {}
            b')' | b']' | b'}' | b'>' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(code[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(code[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

/// What each `#[cfg(test)]` applies to, attribute included.
fn test_ranges(code: &str) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for (start, mark) in code.match_indices("#[cfg(test)]") {
        if ranges.last().is_some_and(|range| range.contains(&start)) {
            continue;
        }
        let mut at = start + mark.len();
        // Further attributes may stand between.
        while code[at..].trim_start().starts_with("#[") {
            at += code[at..].find("#[").unwrap_or(0);
            at = closing(code, at + 1);
        }
        let end = match code[at..].find(['{', ';']).map(|offset| at + offset) {
            Some(open) if code.as_bytes()[open] == b'{' => closing(code, open),
            Some(semicolon) => semicolon + 1,
            None => code.len(),
        };
        ranges.push(start..end);
    }
    ranges
}

/// Blanks comments and string contents; keeps line breaks, quotes and every offset.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => line_end(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => block_comment_end(bytes, at),
            b'"' => {
                let end = string_end(bytes, at);
                wipe(&mut out[at + 1..(end - 1).max(at + 1)]);
                at = end;
                continue;
            }
            b'r' if at == 0 || !is_word(bytes[at - 1]) || matches!(bytes[at - 1], b'b' | b'c') => {
                match raw_string_end(bytes, at) {
                    Some((open, end)) => {
                        wipe(&mut out[open..end]);
                        at = end;
                    }
                    None => at += 1,
                }
                continue;
            }
            b'\'' => {
                if let Some(end) = char_end(text, at) {
                    wipe(&mut out[at + 1..end - 1]);
                    at = end;
                } else {
                    at += 1;
                }
                continue;
            }
            _ => {
                at += 1;
                continue;
            }
        };
        wipe(&mut out[at..end]);
        at = end;
    }
    // Only whole stretches between ASCII characters were replaced, so this is still UTF-8.
    String::from_utf8_lossy(&out).into_owned()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn wipe(bytes: &mut [u8]) {
    for byte in bytes.iter_mut().filter(|byte| **byte != b'\n') {
        *byte = b' ';
    }
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |offset| at + offset)
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if bytes[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// First byte of the content and the place behind the whole, of a raw string at `start`.
fn raw_string_end(bytes: &[u8], start: usize) -> Option<(usize, usize)> {
    let hashes = bytes[start + 1..].iter().take_while(|b| **b == b'#').count();
    let open = start + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let content = open + 1;
    let found = bytes[content..].windows(close.len()).position(|window| window == close);
    Some((content, found.map_or(bytes.len(), |offset| content + offset + close.len())))
}

/// The place behind a character literal at `at`; none for a lifetime.
fn char_end(text: &str, at: usize) -> Option<usize> {
    let rest = &text[at + 1..];
    let first = rest.chars().next()?;
    if first == '\\' {
        let close = rest[2..].find('\'')?;
        return Some(at + 1 + 2 + close + 1);
    }
    let behind = at + 1 + first.len_utf8();
    (text.as_bytes().get(behind) == Some(&b'\'')).then_some(behind + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let code = blank(text);
        assert_eq!(code, expected);
        assert_eq!(code.len(), text.len());
    }

    #[test]
    fn comments_and_strings_are_blanked_in_place() {
        check("a // b\nc", "a     \nc");
        check("a /* b /* c */ d */ e", "a                   e");
        check(r#"f("x\"y", 'z', 'a, '\'')"#, r#"f("    ", ' ', 'a, '  ')"#);
        check(r##"r#"a"b"# + br"c""##, r##"r#"      + br"  "##);
        check("var\"s\"", "var\" \"");
    }

    #[test]
    fn test_parts_are_found() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n";
        let source = Source::new("crates/x/src/lib.rs", text.to_owned());
        assert_eq!((source.krate(), source.product_lines()), ("x", 2));
        let is_test: Vec<_> =
            source.words().filter(|w| w.text == "fn").map(|w| source.is_test(w.at)).collect();
        assert_eq!(is_test, [false, true, false]);
        assert_eq!(
            source.words().filter(|w| w.text == "c").map(|w| source.line(w.at)).collect::<Vec<_>>(),
            [6]
        );
    }

    #[test]
    fn arguments_are_split_outside_brackets() {
        assert_eq!(
            split_commas("a: (u8, u8), f: fn(u8) -> u8, m: Map<K, V>,"),
            ["a: (u8, u8)", "f: fn(u8) -> u8", "m: Map<K, V>"]
        );
        assert_eq!(closing("x(a[b]{c}) d", 1), 10);
        assert_eq!(closing_angle("<F: Fn(u8) -> u8> x", 0), 17);
    }
}
