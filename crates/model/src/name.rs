//! DNS names as the mesh uses them: validated, lower case, cheap to clone.
//!
//! Made by settings, `wire` and `index` from untrusted text; a value of these types is always valid.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A DNS name in lower case without a trailing dot: 1–253 characters, labels of 1–63 letters,
/// digits, `-` or `_`, and a last label that is not all digits (so no IPv4 address passes).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DnsName(Arc<str>);

/// Why a text is not a DNS name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a DNS name: {problem}")]
pub struct InvalidName {
    /// The refused text, cut to 300 characters.
    pub text: String,
    /// Which rule it breaks.
    pub problem: &'static str,
}

impl DnsName {
    /// The name as text, lower case, without a trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this name equals `suffix` or ends in `.suffix`. The empty suffix and `.` match all.
    pub fn is_within(&self, suffix: &str) -> bool {
        let suffix = suffix.trim_matches('.');
        if suffix.is_empty() {
            return true;
        }
        match self.0.strip_suffix(suffix) {
            Some("") => true,
            Some(rest) => rest.ends_with('.'),
            None => false,
        }
    }
}

impl FromStr for DnsName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let fail = |problem| Err(InvalidName { text: text.chars().take(300).collect::<String>(), problem });
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return fail("it is empty");
        }
        if name.len() > 253 {
            return fail("it is longer than 253 characters");
        }
        for label in name.split('.') {
            if label.is_empty() {
                return fail("it has an empty label");
            }
            if label.len() > 63 {
                return fail("a label is longer than 63 characters");
            }
            if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
                return fail("a label has a character other than letters, digits, `-` and `_`");
            }
        }
        let last = name.rsplit('.').next().unwrap_or_default();
        if last.bytes().all(|b| b.is_ascii_digit()) {
            return fail("its last label is all digits");
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// DNS suffixes that a setting lists, such as `svc.cluster.local.`; `.` matches every name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suffixes(Vec<String>);

impl Suffixes {
    /// Reads a comma-separated list; blanks and empty items are skipped, case is folded.
    pub fn parse(list: &str) -> Self {
        let items = list.split(',').map(|s| s.trim().to_ascii_lowercase()).filter(|s| !s.is_empty());
        Self(items.collect())
    }

    /// Whether any suffix contains `name`.
    pub fn contain(&self, name: &DnsName) -> bool {
        self.0.iter().any(|s| name.is_within(s))
    }

    /// Whether the list is empty, which matches nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(text.parse::<DnsName>().ok().as_ref().map(DnsName::as_str), expected, "{text}");
    }

    #[test]
    fn names_are_validated_and_lowered() {
        check("Web.Default.svc.cluster.local.", Some("web.default.svc.cluster.local"));
        check("a_b.c-d", Some("a_b.c-d"));
        check("", None);
        check(".", None);
        check("a..b", None);
        check("10.1.2.3", None);
        check("a b", None);
        check(&"a".repeat(64), None);
        check(&["a"; 128].join("."), None);
    }

    #[test]
    fn suffixes_match_whole_labels() {
        let name: DnsName = "web.default.svc.cluster.local".parse().unwrap();
        assert!(name.is_within("svc.cluster.local."));
        assert!(name.is_within("."));
        assert!(name.is_within(""));
        assert!(name.is_within("web.default.svc.cluster.local"));
        assert!(!name.is_within("vc.cluster.local"));
        assert!(Suffixes::parse(" a.b , svc.cluster.local.,").contain(&name));
        assert!(!Suffixes::parse("").contain(&name));
    }
}
