//! The count of limits reached: `weft_limit_reached_total{limit}`, as docs/limits.md promises it.
//!
//! Whoever meets a limit names it here by its setting; most are counted by `report`, together with the reason.
//! A closed list, so that a setting without a count, or a count without a setting, fails a test.

use weft_model::reason::{Code, Hop, Phase, Reason};
use weft_net::frames::Flood;
use weft_net::head::Offence;
use weft_telemetry::{Counter, Family, Registry};

/// A bound whose reaching is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    MaxInFlight,
    HttpQueue,
    Connections,
    ConnectionsPerSource,
    HeaderReadTimeout,
    IdleTimeout,
    RequestBody,
    Stall,
    HeaderBytes,
    Headers,
    HeaderList,
    DiscoveryTimeout,
    DiscoveryEntries,
    DestinationsPerConnection,
    RetryBody,
    AdminConnections,
    Http2Resets,
    Http2Pings,
}

impl Limit {
    /// The settings' flags, inbound and outbound; equal for a bound of both.
    const fn flags(self) -> (&'static str, &'static str) {
        macro_rules! directed {
            ($name:literal) => {
                (concat!("inbound-", $name), concat!("outbound-", $name))
            };
        }
        match self {
            Self::MaxInFlight => directed!("max-in-flight"),
            Self::HttpQueue => directed!("http-queue-capacity"),
            Self::Connections => directed!("max-connections"),
            Self::ConnectionsPerSource => directed!("max-connections-per-source"),
            Self::HeaderReadTimeout => directed!("http1-header-read-timeout"),
            Self::IdleTimeout => directed!("http1-idle-timeout"),
            Self::RequestBody => directed!("request-body-timeout"),
            Self::Stall => directed!("stall-timeout"),
            Self::HeaderBytes => directed!("http1-max-header-bytes"),
            Self::Headers => directed!("http1-max-headers"),
            Self::HeaderList => directed!("server-http2-max-header-list-size"),
            Self::DiscoveryTimeout => ("discovery-timeout", "discovery-timeout"),
            Self::DiscoveryEntries => ("discovery-max-entries", "discovery-max-entries"),
            Self::DestinationsPerConnection => {
                ("max-destinations-per-connection", "max-destinations-per-connection")
            }
            Self::RetryBody => ("retry-max-body-bytes", "retry-max-body-bytes"),
            Self::AdminConnections => ("admin-max-connections", "admin-max-connections"),
            Self::Http2Resets => ("http2-max-resets-per-second", "http2-max-resets-per-second"),
            Self::Http2Pings => ("http2-max-pings-per-second", "http2-max-pings-per-second"),
        }
    }

    /// The limit behind a reason, where the reason alone tells it.
    pub(crate) fn of(reason: &Reason) -> Option<Self> {
        match (reason.code, reason.phase) {
            (Code::Overloaded, Phase::Head) => Some(Self::MaxInFlight),
            (Code::Overloaded, Phase::Discovery) => Some(Self::DiscoveryEntries),
            (Code::QueueFull, _) => Some(Self::HttpQueue),
            (Code::ConnectionLimit, _) => Some(Self::ConnectionsPerSource),
            (Code::HeaderReadTimeout, _) => Some(Self::HeaderReadTimeout),
            (Code::SlowClient, Phase::Response) => Some(Self::Stall),
            (Code::DiscoveryTimeout, _) => Some(Self::DiscoveryTimeout),
            _ => None,
        }
    }

    /// The limit that a head offended.
    pub(crate) fn of_head(offence: Offence) -> Option<Self> {
        match offence {
            Offence::HeadTooLarge | Offence::TargetTooLong => Some(Self::HeaderBytes),
            Offence::TooManyHeaders => Some(Self::Headers),
            _ => None,
        }
    }

    /// The limit that a flood went beyond.
    pub(crate) fn of_flood(flood: Flood) -> Self {
        match flood {
            Flood::Resets => Self::Http2Resets,
            Flood::Pings => Self::Http2Pings,
        }
    }
}

/// The family of counts.
#[derive(Clone, Debug)]
pub(crate) struct Limits(Family<Counter>);

impl Limits {
    /// Registers the family.
    pub(crate) fn new(registry: &Registry) -> Self {
        let help = "Times a limit was reached (docs/limits.md).";
        Self(registry.counters("weft_limit_reached_total", help).labels(&["limit"]))
    }

    /// Counts one.
    pub(crate) fn reached(&self, limit: Limit, hop: Hop) {
        self.counter(limit, hop).inc();
    }

    /// The count of one limit, for whoever counts where no `Limits` reaches.
    pub(crate) fn counter(&self, limit: Limit, hop: Hop) -> Counter {
        let (inbound, outbound) = limit.flags();
        self.0.series(&[("limit", if hop == Hop::Inbound { inbound } else { outbound })])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use weft_settings::SETTINGS;

    const ALL: [Limit; 18] = [
        Limit::MaxInFlight,
        Limit::HttpQueue,
        Limit::Connections,
        Limit::ConnectionsPerSource,
        Limit::HeaderReadTimeout,
        Limit::IdleTimeout,
        Limit::RequestBody,
        Limit::Stall,
        Limit::HeaderBytes,
        Limit::Headers,
        Limit::HeaderList,
        Limit::DiscoveryTimeout,
        Limit::DiscoveryEntries,
        Limit::DestinationsPerConnection,
        Limit::RetryBody,
        Limit::AdminConnections,
        Limit::Http2Resets,
        Limit::Http2Pings,
    ];

    #[test]
    fn every_promised_count_is_kept_and_no_other() {
        let promised: BTreeSet<String> = SETTINGS
            .iter()
            .filter(|s| s.beyond.is_some_and(|b| b.metric == "weft_limit_reached_total"))
            .map(|s| s.flag())
            .collect();
        let kept = ALL.iter().flat_map(|l| [l.flags().0.to_owned(), l.flags().1.to_owned()]).collect();
        assert_eq!(promised, kept);
    }
}
