//! Which text is in force for each setting, and where it comes from.
//!
//! [`Values::resolve`] is called once by the binary with everything it found; `build` reads the result,
//! `--print-config` and `/state.json` show it. Pure: maps in, values or a list of all mistakes out. A
//! mistake is told with the setting's name, the source of the text and what would have been accepted; a
//! secret text is never repeated.

use crate::table::{NOT_OBEYED, Origin, SETTINGS, Setting};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write};

const OUR_PREFIX: &str = "WEFT_";
const PEER_PREFIX: &str = "LINKERD2_PROXY_";

/// Everything a process was told, strongest first. Names in each are as their source spells them.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Flags without their dashes, in order; only repeatable ones may occur twice.
    pub flags: &'a [(String, String)],
    /// The environment; variables without one of the two prefixes are ignored.
    pub env: &'a BTreeMap<OsString, OsString>,
    /// The configuration file, see [`crate::file::parse`].
    pub file: &'a [(String, String)],
    /// What a join file says, by setting name.
    pub join: &'a [(&'static str, String)],
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A flag of the command line.
    Flag,
    /// The environment variable of this name.
    Variable(String),
    /// The configuration file.
    File,
    /// The join file.
    JoinFile,
    /// Worked out from another setting.
    Derived(&'static str),
    /// Nobody set it.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag => f.write_str("flag"),
            Source::Variable(name) => write!(f, "variable {name}"),
            Source::File => f.write_str("configuration file"),
            Source::JoinFile => f.write_str("join file"),
            Source::Derived(from) => write!(f, "derived from {from}"),
            Source::Default => f.write_str("default"),
        }
    }
}

/// A mistake in what the process was told: always the operator's fault, never worth a retry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// There is no such setting.
    #[error("{name}: there is no such setting ({source_text}){}", nearest_text(.nearest))]
    Unknown {
        /// As it was spelled.
        name: String,
        /// Where it was found.
        source_text: String,
        /// A setting with a similar name, in the same spelling.
        nearest: Option<String>,
    },
    /// The text does not follow the setting's grammar.
    #[error("{name}: {text} is not accepted ({source_text}); expected {accepted}")]
    Refused {
        /// The setting.
        name: &'static str,
        /// The text in back quotes, or that it is secret.
        text: String,
        /// Where it was found.
        source_text: String,
        /// What would have been accepted.
        accepted: String,
    },
    /// Two spellings of one setting in one source.
    #[error("{name}: given more than once ({source_text}); expected one value")]
    Twice {
        /// The setting.
        name: &'static str,
        /// Where it was found.
        source_text: String,
    },
    /// A required setting is not set.
    #[error("{name}: not set; expected {accepted}{why}")]
    Missing {
        /// The setting.
        name: &'static str,
        /// What would be accepted.
        accepted: String,
        /// When it is required, or empty.
        why: &'static str,
    },
    /// The value is well-formed but does not go with others.
    #[error("{name}: {problem} ({source_text}); expected {accepted}")]
    Conflict {
        /// The setting.
        name: &'static str,
        /// What is wrong.
        problem: String,
        /// Where it was found.
        source_text: String,
        /// What would be accepted.
        accepted: String,
    },
}

impl SettingError {
    /// The setting's name as it was spelled.
    pub fn name(&self) -> &str {
        match self {
            SettingError::Unknown { name, .. } => name,
            SettingError::Refused { name, .. }
            | SettingError::Twice { name, .. }
            | SettingError::Missing { name, .. }
            | SettingError::Conflict { name, .. } => name,
        }
    }
}

fn nearest_text(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|n| format!("; did you mean {n}?")).unwrap_or_default()
}

/// Something the operator should know that does not stop the start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// A `LINKERD2_PROXY_*` variable that is unknown.
    #[error("{name} is ignored: there is no such setting{}", nearest_text(.nearest))]
    Unknown {
        /// The variable.
        name: String,
        /// A variable with a similar name.
        nearest: Option<String>,
    },
    /// A setting of the peer that has no effect.
    #[error("{name} is ignored: {why}")]
    NotObeyed {
        /// The variable.
        name: String,
        /// What is missing.
        why: &'static str,
    },
}

/// The text in force for one setting.
#[derive(Clone, Debug)]
pub struct Value {
    /// The setting.
    pub setting: &'static Setting,
    /// The text; `None` is "not set".
    pub text: Option<String>,
    /// Where it comes from.
    pub source: Source,
}

impl Value {
    /// The text as it may be shown: hidden if secret, shortened if long, empty if not set.
    pub fn shown(&self) -> Cow<'_, str> {
        match &self.text {
            None => "".into(),
            Some(_) if self.setting.secret => "(hidden)".into(),
            Some(text) if text.len() > 200 || text.contains('\n') => {
                let first: String = text.lines().next().unwrap_or_default().chars().take(60).collect();
                format!("{first}… ({} bytes)", text.len()).into()
            }
            Some(text) => text.into(),
        }
    }
}

/// The texts in force, in the order of [`SETTINGS`].
#[derive(Clone, Debug)]
pub struct Values {
    values: Vec<Value>,
    warnings: Vec<Warning>,
}

impl Values {
    /// Picks for each setting the text of its strongest source and checks it.
    ///
    /// # Errors
    /// All mistakes at once: unknown flags, `WEFT_*` variables and names in the file, and texts that do
    /// not follow their setting's grammar.
    pub fn resolve(inputs: &Inputs<'_>) -> Result<Values, Vec<SettingError>> {
        let mut errors = Vec::new();
        let mut warnings = Vec::new();
        unknown_names(inputs, &mut errors, &mut warnings);
        let mut values = Vec::with_capacity(SETTINGS.len());
        for setting in SETTINGS {
            match find(setting, inputs) {
                Ok(value) => {
                    errors.extend(check(&value));
                    values.push(value);
                }
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        derive(&mut values);
        Ok(Values { values, warnings })
    }

    /// The text of one setting before all are resolved: for those that say where to look for the rest.
    pub fn peek(name: &str, inputs: &Inputs<'_>) -> Option<String> {
        let setting = SETTINGS.iter().find(|s| s.name == name)?;
        find(setting, inputs).ok()?.text
    }

    /// What the operator should know.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Every value, in the order of [`SETTINGS`].
    pub fn iter(&self) -> impl Iterator<Item = &Value> {
        self.values.iter()
    }

    /// The value of a setting by its name.
    pub fn find(&self, name: &str) -> Option<&Value> {
        self.values.iter().find(|v| v.setting.name == name)
    }

    /// A table of every setting with its value and source, secrets hidden, ending in a newline.
    pub fn to_table(&self) -> String {
        let width = |of: fn(&Value) -> usize| self.values.iter().map(of).max().unwrap_or_default();
        let name_width = width(|v| v.setting.name.len());
        let value_width = width(|v| v.shown().chars().count()).min(48);
        let mut table = String::new();
        for value in &self.values {
            // Writing to a string cannot fail.
            let _ = writeln!(
                table,
                "{:name_width$}  {:value_width$}  {}",
                value.setting.name,
                value.shown(),
                value.source
            );
        }
        table
    }

    /// An object of every setting by name: `{"value": text or null, "source": text}`, secrets hidden.
    pub fn to_json(&self) -> serde_json::Value {
        let entry = |value: &Value| {
            let shown = value.text.as_ref().map(|_| value.shown().into_owned());
            let json = serde_json::json!({ "value": shown, "source": value.source.to_string() });
            (value.setting.name.to_owned(), json)
        };
        serde_json::Value::Object(self.values.iter().map(entry).collect())
    }
}

/// The strongest source's text for `setting`.
fn find(setting: &'static Setting, inputs: &Inputs<'_>) -> Result<Value, SettingError> {
    let found = |text: String, source| Ok(Value { setting, text: Some(text), source });
    let flag = setting.flag();
    if let Some(text) = pick(setting, inputs.flags, |name| name == flag, &Source::Flag)? {
        return found(text, Source::Flag);
    }
    for name in setting.variables() {
        if let Some(text) = inputs.env.get(OsStr::new(&name)) {
            let source = Source::Variable(name);
            return match text.to_str() {
                Some(text) => found(text.to_owned(), source),
                None => Err(refused(setting, "a text that is not UTF-8".into(), &source)),
            };
        }
    }
    if let Some(text) = pick(setting, inputs.file, |name| canonical(name) == setting.name, &Source::File)? {
        return found(text, Source::File);
    }
    if let Some((_, text)) = inputs.join.iter().find(|(name, _)| *name == setting.name) {
        return found(text.clone(), Source::JoinFile);
    }
    Ok(Value { setting, text: setting.default.map(str::to_owned), source: Source::Default })
}

/// The texts that `is_it` finds, joined by commas where the setting may be repeated.
fn pick(
    setting: &Setting,
    given: &[(String, String)],
    is_it: impl Fn(&str) -> bool,
    source: &Source,
) -> Result<Option<String>, SettingError> {
    let texts: Vec<&str> = given.iter().filter(|(n, _)| is_it(n)).map(|(_, text)| text.as_str()).collect();
    if texts.len() > 1 && !setting.kind.is_repeatable() {
        return Err(SettingError::Twice { name: setting.name, source_text: source.to_string() });
    }
    Ok((!texts.is_empty()).then(|| texts.join(",")))
}

/// A name of the configuration file in the table's spelling.
fn canonical(name: &str) -> String {
    name.trim().to_ascii_uppercase().replace('-', "_")
}

fn check(value: &Value) -> Option<SettingError> {
    let text = value.text.as_ref()?;
    (!value.setting.kind.accepts(text)).then(|| refused(value.setting, quoted(value), &value.source))
}

fn quoted(value: &Value) -> String {
    if value.setting.secret { "the (hidden) text".into() } else { format!("`{}`", value.shown()) }
}

fn refused(setting: &'static Setting, text: String, source: &Source) -> SettingError {
    SettingError::Refused {
        name: setting.name,
        text,
        source_text: source.to_string(),
        accepted: setting.kind.accepted(),
    }
}

/// Names that no setting has: an error where the name is certainly meant for us, else a warning.
fn unknown_names(inputs: &Inputs<'_>, errors: &mut Vec<SettingError>, warnings: &mut Vec<Warning>) {
    for (name, _) in inputs.flags {
        if !SETTINGS.iter().any(|s| s.flag() == *name) {
            let nearest = nearest(&canonical(name), SETTINGS).map(|s| format!("--{}", s.flag()));
            errors.push(SettingError::Unknown {
                name: format!("--{name}"),
                source_text: Source::Flag.to_string(),
                nearest,
            });
        }
    }
    for (name, _) in inputs.file {
        if !SETTINGS.iter().any(|s| s.name == canonical(name)) {
            let nearest = nearest(&canonical(name), SETTINGS).map(|s| s.flag());
            let source_text = Source::File.to_string();
            errors.push(SettingError::Unknown { name: name.clone(), source_text, nearest });
        }
    }
    for variable in inputs.env.keys() {
        let variable = variable.to_string_lossy();
        if let Some(name) = variable.strip_prefix(OUR_PREFIX) {
            if !SETTINGS.iter().any(|s| s.name == name) {
                errors.push(SettingError::Unknown {
                    name: variable.to_string(),
                    source_text: "environment".into(),
                    nearest: nearest(name, SETTINGS).map(|s| format!("{OUR_PREFIX}{}", s.name)),
                });
            }
        } else if let Some(name) = variable.strip_prefix(PEER_PREFIX) {
            warnings.extend(unknown_to_us(&variable, name));
        }
    }
}

fn unknown_to_us(variable: &str, name: &str) -> Option<Warning> {
    if SETTINGS.iter().any(|s| s.name == name && s.origin == Origin::Peer) {
        return None;
    }
    if let Some((_, why)) = NOT_OBEYED.iter().find(|(n, _)| *n == name) {
        return Some(Warning::NotObeyed { name: variable.to_owned(), why });
    }
    let nearest = nearest(name, SETTINGS).map(|s| match s.origin {
        Origin::Peer => format!("{PEER_PREFIX}{}", s.name),
        Origin::Weft => format!("{OUR_PREFIX}{}", s.name),
    });
    Some(Warning::Unknown { name: variable.to_owned(), nearest })
}

/// The setting whose name takes the fewest edits to become `name`, if those are few for its length.
fn nearest(name: &str, settings: &'static [Setting]) -> Option<&'static Setting> {
    let allowed = (name.len() / 4).clamp(1, 8);
    let close = settings.iter().map(|s| (edits(name, s.name), s)).min_by_key(|(edits, _)| *edits)?;
    (close.0 <= allowed).then_some(close.1)
}

/// Levenshtein distance in bytes. Names longer than 100 bytes are far from everything.
fn edits(a: &str, b: &str) -> usize {
    if a.len() > 100 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (y, up) in b.bytes().zip(row.iter().skip(1)) {
            left = (diagonal + usize::from(x != y)).min(up + 1).min(left + 1);
            diagonal = *up;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// Fills what follows from other settings.
fn derive(values: &mut [Value]) {
    let text_of = |values: &[Value], name: &str| {
        values.iter().find(|v| v.setting.name == name).and_then(|v| v.text.clone())
    };
    let Some(workload) = text_of(values, "WORKLOAD") else { return };
    let Some((namespace, name)) = crate::grammar::workload(&workload) else { return };
    let node = text_of(values, "NODE_NAME");
    let mut context = serde_json::json!({ "ns": namespace, "pod": name });
    if let (Some(node), Some(object)) = (node, context.as_object_mut()) {
        object.insert("nodeName".into(), node.into());
    }
    let policy = serde_json::json!({ "ns": namespace, "external_workload": name });
    for (setting, json) in [("DESTINATION_CONTEXT", context), ("POLICY_WORKLOAD", policy)] {
        let unset = values.iter_mut().find(|v| v.setting.name == setting && v.text.is_none());
        if let Some(value) = unset {
            value.text = Some(json.to_string());
            value.source = Source::Derived("WORKLOAD");
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn strings(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(n, t)| ((*n).to_owned(), (*t).to_owned())).collect()
    }

    fn resolve(
        flags: &[(&str, &str)],
        env: &[(&str, &str)],
        file: &[(&str, &str)],
        join: &[(&'static str, &str)],
    ) -> Result<Values, Vec<SettingError>> {
        let env = env.iter().map(|(n, t)| (n.into(), t.into())).collect();
        let join: Vec<_> = join.iter().map(|(n, t)| (*n, (*t).to_owned())).collect();
        let (flags, file) = (strings(flags), strings(file));
        Values::resolve(&Inputs { flags: &flags, env: &env, file: &file, join: &join })
    }

    /// Values of an environment alone.
    pub(crate) fn values(env: &[(&str, &str)]) -> Result<Values, Vec<SettingError>> {
        resolve(&[], env, &[], &[])
    }

    fn in_force(values: &Values, name: &str) -> (String, String) {
        let value = values.find(name).unwrap();
        (value.text.clone().unwrap_or_default(), value.source.to_string())
    }

    #[track_caller]
    fn mistakes(found: Result<Values, Vec<SettingError>>, expected: &[&str]) {
        let texts: Vec<_> = found.unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(texts, expected);
    }

    #[test]
    fn the_strongest_source_wins() {
        let name = "INBOUND_DETECT_TIMEOUT";
        let flag = ("inbound-detect-timeout", "1s");
        let ours = ("WEFT_INBOUND_DETECT_TIMEOUT", "2s");
        let peers = ("LINKERD2_PROXY_INBOUND_DETECT_TIMEOUT", "3s");
        let file = ("inbound-detect-timeout", "4s");
        let join = ("INBOUND_DETECT_TIMEOUT", "5s");
        let check = |values: Result<Values, Vec<SettingError>>, text: &str, source: &str| {
            assert_eq!(in_force(&values.unwrap(), name), (text.into(), source.into()));
        };
        check(resolve(&[flag], &[ours, peers], &[file], &[join]), "1s", "flag");
        check(resolve(&[], &[ours, peers], &[file], &[join]), "2s", "variable WEFT_INBOUND_DETECT_TIMEOUT");
        check(
            resolve(&[], &[peers], &[file], &[join]),
            "3s",
            "variable LINKERD2_PROXY_INBOUND_DETECT_TIMEOUT",
        );
        check(resolve(&[], &[], &[file], &[join]), "4s", "configuration file");
        check(resolve(&[], &[], &[("INBOUND_DETECT_TIMEOUT", "4s")], &[join]), "4s", "configuration file");
        check(resolve(&[], &[], &[], &[join]), "5s", "join file");
        check(resolve(&[], &[], &[], &[]), "10s", "default");
    }

    #[test]
    fn every_mistake_is_told_with_setting_source_and_accepted_form() {
        let found = resolve(
            &[("admin-listen-addr", "here"), ("no-such-flag-at-all", "1")],
            &[
                ("WEFT_INBOUND_DETECT_TIMOUT", "1s"),
                ("LINKERD2_PROXY_OUTBOUND_MAX_IN_FLIGHT", "-1"),
                ("HOME", "/"),
            ],
            &[("shutdown-grace-perid", "1s"), ("INBOUND_PORTS", "9-1")],
            &[],
        );
        mistakes(
            found,
            &[
                "--no-such-flag-at-all: there is no such setting (flag)",
                "shutdown-grace-perid: there is no such setting (configuration file); did you mean \
                 shutdown-grace-period?",
                "WEFT_INBOUND_DETECT_TIMOUT: there is no such setting (environment); did you mean \
                 WEFT_INBOUND_DETECT_TIMEOUT?",
                "ADMIN_LISTEN_ADDR: `here` is not accepted (flag); expected `IP:port`, such as \
                 `127.0.0.1:4140` or `[::1]:4140`",
                "INBOUND_PORTS: `9-1` is not accepted (configuration file); expected ports and ranges \
                 separated by commas, such as `25,8000-8099`",
                "OUTBOUND_MAX_IN_FLIGHT: `-1` is not accepted (variable \
                 LINKERD2_PROXY_OUTBOUND_MAX_IN_FLIGHT); expected a whole number from 1 on",
            ],
        );
    }

    #[test]
    fn a_bad_value_of_any_setting_is_named_with_what_is_accepted() {
        for setting in SETTINGS {
            let bad = "\u{1}not a value\u{1}";
            if setting.kind.accepts(bad) {
                continue;
            }
            let errors = values(&[(&format!("WEFT_{}", setting.name), bad)]).unwrap_err();
            assert_eq!(errors.len(), 1);
            let text = errors[0].to_string();
            assert!(text.starts_with(&format!("{}: ", setting.name)), "{text}");
            assert!(text.contains(&format!("(variable WEFT_{})", setting.name)), "{text}");
            assert!(text.ends_with(&format!("expected {}", setting.kind.accepted())), "{text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn text_that_is_not_utf8_is_refused() {
        use std::os::unix::ffi::OsStringExt;
        let env = BTreeMap::from([("WEFT_LOG".into(), OsString::from_vec(vec![0xff]))]);
        let found = Values::resolve(&Inputs { flags: &[], env: &env, file: &[], join: &[] });
        mistakes(
            found,
            &["LOG: a text that is not UTF-8 is not accepted (variable WEFT_LOG); expected any text"],
        );
    }

    #[test]
    fn unknown_variables_of_the_peer_only_warn() {
        let values = values(&[
            ("LINKERD2_PROXY_INBOUND_LISTEN_ADR", "x"),
            ("LINKERD2_PROXY_SOMETHING_NEW_ALTOGETHER", "x"),
            ("LINKERD2_PROXY_TAP_SVC_NAME", "x"),
            ("LINKERD2_PROXY_JOIN_FILE", "x"),
        ])
        .unwrap();
        let warnings: Vec<_> = values.warnings().iter().map(ToString::to_string).collect();
        assert_eq!(
            warnings,
            [
                "LINKERD2_PROXY_INBOUND_LISTEN_ADR is ignored: there is no such setting; did you mean \
                 LINKERD2_PROXY_INBOUND_LISTEN_ADDR?",
                "LINKERD2_PROXY_JOIN_FILE is ignored: there is no such setting; did you mean WEFT_JOIN_FILE?",
                "LINKERD2_PROXY_SOMETHING_NEW_ALTOGETHER is ignored: there is no such setting",
                "LINKERD2_PROXY_TAP_SVC_NAME is ignored: there is no tap server",
            ]
        );
    }

    #[test]
    fn only_repeatable_flags_may_be_given_twice() {
        let pairs = [("upstream", "127.0.0.1:1=a.b:1"), ("upstream", "127.0.0.1:2=c.d:2")];
        let values = resolve(&pairs, &[], &[], &[]).unwrap();
        assert_eq!(in_force(&values, "UPSTREAM").0, "127.0.0.1:1=a.b:1,127.0.0.1:2=c.d:2");
        let twice = resolve(&[], &[], &[("log", "info"), ("LOG", "warn")], &[]);
        mistakes(twice, &["LOG: given more than once (configuration file); expected one value"]);
    }

    #[test]
    fn a_workload_fills_what_the_control_plane_is_told() {
        let values = values(&[("WEFT_WORKLOAD", "shop/web-1"), ("WEFT_NODE_NAME", "n\"1")]).unwrap();
        assert_eq!(
            in_force(&values, "DESTINATION_CONTEXT"),
            (r#"{"nodeName":"n\"1","ns":"shop","pod":"web-1"}"#.into(), "derived from WORKLOAD".into())
        );
        let explicit = [("WEFT_WORKLOAD", "shop/web-1"), ("WEFT_POLICY_WORKLOAD", "x")];
        let values = super::tests::values(&explicit).unwrap();
        assert_eq!(in_force(&values, "POLICY_WORKLOAD").0, "x");
    }

    #[test]
    fn secrets_are_hidden_and_long_texts_shortened() {
        let pem = format!("-----BEGIN CERTIFICATE-----\n{}", "A".repeat(500));
        let env = [("WEFT_DESTINATION_CONTEXT", "hunter2"), ("WEFT_IDENTITY_TRUST_ANCHORS", &pem)];
        let values = values(&env).unwrap();
        for text in [values.to_table(), values.to_json().to_string()] {
            assert!(!text.contains("hunter2") && !text.contains("AAAA"), "{text}");
            assert!(text.contains("-----BEGIN CERTIFICATE-----… (528 bytes)"), "{text}");
        }
        let json = values.to_json();
        assert_eq!(json["DESTINATION_CONTEXT"]["value"], "(hidden)");
        assert_eq!(json["DESTINATION_CONTEXT"]["source"], "variable WEFT_DESTINATION_CONTEXT");
        assert_eq!(json["CORES_MAX"], serde_json::json!({ "value": null, "source": "default" }));
        assert_eq!(values.to_table().lines().count(), SETTINGS.len());
    }

    #[test]
    fn names_a_few_edits_away_are_near() {
        let near = |name| nearest(name, SETTINGS).map(|s| s.name);
        assert_eq!(near("SHUTDOWN_GRACE_PERIO"), Some("SHUTDOWN_GRACE_PERIOD"));
        assert_eq!(near("LGO"), None);
        assert_eq!(near("LOGS"), Some("LOG"));
        assert_eq!(near(&"X".repeat(1000)), None);
        assert_eq!((edits("kitten", "sitting"), edits("", "ab"), edits("ab", "")), (3, 2, 2));
    }
}
