//! The table of settings: each is defined here and nowhere else.
//!
//! Read by `values` (which texts to look for), `build` (which types to make of them), the command line
//! (flags and their help) and the generator of docs/settings.md and docs/limits.md. Names, grammars and
//! defaults of the peer's settings are those of §1; a default that differs says why.

use crate::grammar::Kind;

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its name after the prefix, such as `INBOUND_DETECT_TIMEOUT`.
    pub name: &'static str,
    /// What its value looks like.
    pub kind: Kind,
    /// Its value where nothing is set; `None` is "not set".
    pub default: Option<&'static str>,
    /// The unit of plain numbers, such as `bytes`; empty where the text carries it or nothing is counted.
    pub unit: &'static str,
    /// What it does, in sentences.
    pub doc: &'static str,
    /// What goes wrong with unwise values; empty if nothing does.
    pub danger: &'static str,
    /// Where its name comes from.
    pub origin: Origin,
    /// Whether its value is hidden wherever values are shown.
    pub secret: bool,
    /// For limits: what happens beyond it.
    pub beyond: Option<Beyond>,
    /// The heading it stands under in documentation.
    pub section: &'static str,
}

/// Where a setting's name comes from, hence which environment variables set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The peer has it: `LINKERD2_PROXY_*` and `WEFT_*`.
    Peer,
    /// Only we have it: `WEFT_*`.
    Weft,
}

/// What happens when a limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beyond {
    /// What the one who goes beyond it meets.
    pub what: &'static str,
    /// The metric family that shows it.
    pub metric: &'static str,
}

/// The family that counts how often each limit was reached; its label `limit` is the setting's flag.
pub const LIMIT_METRIC: &str = "weft_limit_reached_total";

impl Setting {
    /// The name of its flag without the dashes, such as `inbound-detect-timeout`.
    pub fn flag(&self) -> String {
        self.name.to_ascii_lowercase().replace('_', "-")
    }

    /// Its environment variables, the stronger first.
    pub fn variables(&self) -> Vec<String> {
        match self.origin {
            Origin::Peer => vec![format!("WEFT_{}", self.name), format!("LINKERD2_PROXY_{}", self.name)],
            Origin::Weft => vec![format!("WEFT_{}", self.name)],
        }
    }

    const fn or(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }

    const fn ours(mut self) -> Self {
        self.origin = Origin::Weft;
        self
    }

    const fn danger(mut self, danger: &'static str) -> Self {
        self.danger = danger;
        self
    }

    const fn hidden(mut self) -> Self {
        self.secret = true;
        self
    }

    const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    const fn beyond(mut self, what: &'static str) -> Self {
        self.beyond = Some(Beyond { what, metric: LIMIT_METRIC });
        self
    }

    const fn shown_by(mut self, metric: &'static str) -> Self {
        if let Some(beyond) = self.beyond {
            self.beyond = Some(Beyond { what: beyond.what, metric });
        }
        self
    }
}

const fn setting(name: &'static str, kind: Kind, doc: &'static str) -> Setting {
    Setting {
        name,
        kind,
        default: None,
        unit: "",
        doc,
        danger: "",
        origin: Origin::Peer,
        secret: false,
        beyond: None,
        section: "",
    }
}

const ANY: Kind = Kind::Number(0, u64::MAX);
const SOME: Kind = Kind::Number(1, u64::MAX);
const U32: Kind = Kind::Number(0, u32::MAX as u64);
const SOME_U32: Kind = Kind::Number(1, u32::MAX as u64);
const LAST_STREAM_WINDOW: u64 = (1 << 31) - 1; // RFC 9113 §6.9.1
const WINDOW: Kind = Kind::Number(0, LAST_STREAM_WINDOW);
const FRAME: Kind = Kind::Number(16_384, (1 << 24) - 1); // RFC 9113 §6.5.2

mod control;
mod direction;
mod general;

const PARTS: &[(&str, &[Setting])] = &[
    ("Listeners", general::LISTENERS),
    ("Inbound", direction::INBOUND),
    ("Inbound", direction::INBOUND_SHARED),
    ("Outbound", direction::OUTBOUND),
    ("Outbound", direction::OUTBOUND_SHARED),
    ("Discovery and policy", control::DISCOVERY),
    ("Control plane", control::CHANNEL),
    ("Identity", control::IDENTITY),
    ("Process", general::PROCESS),
    ("Limits", general::LIMITS),
];

const COUNT: usize = {
    let (mut part, mut count) = (0, 0);
    while part < PARTS.len() {
        count += PARTS[part].1.len();
        part += 1;
    }
    count
};

static TABLE: [Setting; COUNT] = {
    let mut all = [setting("", Kind::Text, ""); COUNT];
    let (mut part, mut next) = (0, 0);
    while part < PARTS.len() {
        let (section, settings) = PARTS[part];
        let mut i = 0;
        while i < settings.len() {
            all[next] = settings[i];
            all[next].section = section;
            next += 1;
            i += 1;
        }
        part += 1;
    }
    all
};

/// Every setting, in the order of documentation, those of one section together.
pub static SETTINGS: &[Setting] = &TABLE;

/// Settings of the peer that are understood but have no effect here yet, or never had one. Whoever sets
/// one is warned. The second part says what is missing.
pub static NOT_OBEYED: &[(&str, &str)] = &[
    ("CONTROL_LISTEN_ADDR", "there is no tap server"),
    ("TAP_SVC_NAME", "there is no tap server"),
    ("OUTBOUND_TCP_QUEUE_CAPACITY", "the destination's policy says it, else OUTBOUND_HTTP_QUEUE_CAPACITY"),
    (
        "OUTBOUND_TCP_FAILFAST_TIMEOUT",
        "the destination's policy says it, else OUTBOUND_HTTP_FAILFAST_TIMEOUT",
    ),
    ("DESTINATION_PROFILE_INITIAL_TIMEOUT", "it is 500 ms, inbound, and DISCOVERY_TIMEOUT otherwise"),
    ("OUTBOUND_METRICS_HOSTNAME_LABELS", "route metrics do not tell hosts apart"),
    ("INBOUND_METRICS_AUTHORITY_LABELS", "inbound metrics do not tell authorities apart"),
    ("INBOUND_PORTS_REQUIRE_IDENTITY", "the peer does not read it either; use a policy"),
    ("INBOUND_PORTS_REQUIRE_TLS", "the peer does not read it either; use a policy"),
    ("TRACE_COLLECTOR_SVC_ADDR", "traces are not exported"),
    ("TRACE_COLLECTOR_SVC_NAME", "traces are not exported"),
    ("TRACE_SERVICE_NAME", "traces are not exported"),
    ("TRACE_ATTRIBUTES_PATH", "traces are not exported"),
    ("TRACE_EXTRA_ATTRIBUTES", "traces are not exported"),
    ("TRACE_PROTOCOL", "traces are not exported"),
    ("ACCESS_LOG", "there is no access log"),
    ("IDENTITY_SPIRE_WORKLOAD_API_ADDRESS", "certificates do not come from SPIRE"),
    ("IDENTITY_SPIRE_SOCKET", "certificates do not come from SPIRE"),
    ("LINKERD2_PROXY_IDENTITY_SPIRE_EXP_BACKOFF_MIN", "certificates do not come from SPIRE"),
    ("LINKERD2_PROXY_IDENTITY_SPIRE_EXP_BACKOFF_MAX", "certificates do not come from SPIRE"),
    ("LINKERD2_PROXY_IDENTITY_SPIRE_EXP_BACKOFF_JITTER", "certificates do not come from SPIRE"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_spelled_like_variables() {
        let names: HashSet<_> = SETTINGS.iter().map(|s| s.name).collect();
        assert_eq!(names.len(), SETTINGS.len());
        for s in SETTINGS {
            assert!(
                s.name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_'),
                "{}",
                s.name
            );
            assert!(NOT_OBEYED.iter().all(|(name, _)| *name != s.name), "{} is obeyed", s.name);
        }
    }

    #[test]
    fn defaults_follow_their_own_grammar_and_every_setting_is_explained() {
        for s in SETTINGS {
            assert!(s.default.is_none_or(|d| s.kind.accepts(d)), "{}: {:?}", s.name, s.default);
            assert!(s.doc.trim_end_matches(')').ends_with('.'), "{}", s.name);
            assert!(s.danger.is_empty() || s.danger.ends_with('.'), "{}", s.name);
            assert!(s.beyond.is_none_or(|b| b.what.ends_with('.')), "{}", s.name);
            assert!(!s.section.is_empty());
        }
    }

    #[test]
    fn flags_and_variables_are_derived() {
        let of = |name| SETTINGS.iter().find(|s| s.name == name).unwrap();
        let s = of("INBOUND_DETECT_TIMEOUT");
        assert_eq!(s.flag(), "inbound-detect-timeout");
        assert_eq!(s.variables(), ["WEFT_INBOUND_DETECT_TIMEOUT", "LINKERD2_PROXY_INBOUND_DETECT_TIMEOUT"]);
        assert_eq!(of("JOIN_FILE").variables(), ["WEFT_JOIN_FILE"]);
    }
}
