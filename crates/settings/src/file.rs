//! The configuration file: one YAML map of names and values.
//!
//! Called by the binary with the text of the file that `CONFIG` names. Knows nothing of settings; names
//! and values are checked when they are resolved.

use serde::Deserialize;
use std::collections::BTreeMap;

/// Why a configuration file cannot be used: the operator's fault.
#[derive(Debug, thiserror::Error)]
#[error("not a map of names and values: {0}")]
pub struct FileError(String);

#[derive(Deserialize)]
#[serde(untagged)]
enum Item {
    Switch(bool),
    Integer(u64),
    Fraction(f64),
    Text(String),
    List(Vec<String>),
}

/// Reads the map, values as texts. The items of a list are joined by commas. Later `resolve` takes it.
///
/// # Errors
/// When the text is not YAML, or not a flat map of words, numbers, switches and lists of words.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, FileError> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Vec::new());
    }
    let map: BTreeMap<String, Item> =
        serde_saphyr::from_str(text).map_err(|error| FileError(error.to_string()))?;
    let text_of = |item| match item {
        Item::Switch(b) => b.to_string(),
        Item::Integer(n) => n.to_string(),
        Item::Fraction(f) => f.to_string(),
        Item::Text(t) => t,
        Item::List(items) => items.join(","),
    };
    Ok(map.into_iter().map(|(name, item)| (name, text_of(item))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&[(&str, &str)]>) {
        let got = parse(text).ok();
        let got: Option<Vec<_>> =
            got.as_ref().map(|v| v.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect());
        assert_eq!(got.as_deref(), expected, "{text}");
    }

    #[test]
    fn a_file_is_a_flat_map() {
        check("", Some(&[]));
        check("# nothing\n\n", Some(&[]));
        check(
            "inbound-detect-timeout: 5s\nCORES_MAX: 4\nshutdown-endpoint-enabled: true\ncores-max-ratio: 0.5\n",
            Some(&[
                ("CORES_MAX", "4"),
                ("cores-max-ratio", "0.5"),
                ("inbound-detect-timeout", "5s"),
                ("shutdown-endpoint-enabled", "true"),
            ]),
        );
        check(
            "upstream:\n- 127.0.0.1:1=a.b:1\n- 127.0.0.1:2=c.d:2\n",
            Some(&[("upstream", "127.0.0.1:1=a.b:1,127.0.0.1:2=c.d:2")]),
        );
        check("a:\n  b: c\n", None);
        check("- a\n", None);
        check("just text", None);
    }
}
