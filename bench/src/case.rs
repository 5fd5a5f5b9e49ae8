//! What is measured, who takes part in it, and what Weft is to reach.
//!
//! Names, traffic and goals of the cases stand here once; the other files ask. Starts nothing and knows no
//! configuration: that is `contender`.

use crate::load::Traffic;

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Case {
    /// HTTP/1.1 through one proxy
    Http1,
    /// HTTP/2 through one proxy
    Http2,
    /// HTTP/1.1 through two proxies with mutual TLS and HTTP/2 between them
    PairHttp1,
    /// HTTP/2 through two proxies with mutual TLS and HTTP/2 between them
    PairHttp2,
    /// Opaque bytes through one proxy
    Tcp,
    /// HTTP/1.1 through one proxy with 100 routes, of which the last matches
    Routes,
    /// HTTP/1.1 through two proxies, the second with 10,000 authorizations, of which the last admits
    Authorizations,
    /// Resident memory: idle, and with idle connections
    Memory,
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contender {
    /// Nobody in between: what the machine and the generator do by themselves.
    Direct,
    Relay,
    Nginx,
    Haproxy,
    Envoy,
    Weft,
    /// Weft without the policy that a case is about.
    Plain,
}

impl Case {
    pub(crate) const ALL: [Self; 8] = [
        Self::Http1,
        Self::Http2,
        Self::PairHttp1,
        Self::PairHttp2,
        Self::Tcp,
        Self::Routes,
        Self::Authorizations,
        Self::Memory,
    ];

    /// As the command line and the raw figures call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::PairHttp1 => "pair-http1",
            Self::PairHttp2 => "pair-http2",
            Self::Tcp => "tcp",
            Self::Routes => "routes",
            Self::Authorizations => "authorizations",
            Self::Memory => "memory",
        }
    }

    /// As tables call it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1, one hop",
            Self::Http2 => "HTTP/2, one hop",
            Self::PairHttp1 => "HTTP/1, pair with mutual TLS",
            Self::PairHttp2 => "HTTP/2, pair with mutual TLS",
            Self::Tcp => "opaque TCP",
            Self::Routes => "HTTP/1, one hop, 100 routes",
            Self::Authorizations => "HTTP/1, pair with mutual TLS, 10,000 authorizations",
            Self::Memory => "resident memory",
        }
    }

    /// What costs are counted by.
    pub(crate) fn unit(self) -> &'static str {
        if self == Self::Tcp { "MiB" } else { "request" }
    }

    /// What is sent through it, with so many HTTP/2 streams on a connection.
    pub(crate) fn traffic(self, streams: usize) -> Traffic {
        match self {
            Self::Http1 | Self::PairHttp1 | Self::Routes | Self::Authorizations | Self::Memory => {
                Traffic::Http1
            }
            Self::Http2 | Self::PairHttp2 => Traffic::Http2 { streams },
            Self::Tcp => Traffic::Tcp,
        }
    }

    pub(crate) fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::PairHttp2)
    }

    pub(crate) fn is_pair(self) -> bool {
        matches!(self, Self::PairHttp1 | Self::PairHttp2 | Self::Authorizations)
    }

    /// Whether it measures what a policy costs, with Weft alone.
    pub(crate) fn is_policy(self) -> bool {
        matches!(self, Self::Routes | Self::Authorizations)
    }

    /// Whom the others are compared with.
    pub(crate) fn reference(self) -> Contender {
        match self {
            Self::Http1 | Self::Http2 | Self::Memory => Contender::Relay,
            Self::PairHttp1 | Self::PairHttp2 | Self::Tcp => Contender::Envoy,
            Self::Routes | Self::Authorizations => Contender::Plain,
        }
    }
}

impl Contender {
    pub(crate) const ALL: [Self; 7] =
        [Self::Direct, Self::Relay, Self::Nginx, Self::Haproxy, Self::Envoy, Self::Plain, Self::Weft];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "hyper relay",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Envoy => "Envoy",
            Self::Weft => "Weft",
            Self::Plain => "Weft, no policy",
        }
    }

    /// Whether it can do what the case asks. nginx 1.22 speaks no HTTP/2 to upstreams, and its module for
    /// opaque bytes is a package of its own; the relay knows neither TLS nor opaque bytes.
    pub(crate) fn can(self, case: Case) -> bool {
        match self {
            Self::Direct => case != Case::Memory,
            Self::Relay => matches!(case, Case::Http1 | Case::Http2 | Case::Memory),
            Self::Nginx => matches!(case, Case::Http1 | Case::Memory),
            Self::Haproxy | Self::Envoy => !case.is_policy(),
            Self::Weft => true,
            Self::Plain => case.is_policy(),
        }
    }
}

/// What Weft is to reach: a case, whom it is compared with, and at most which multiple of theirs.
pub(crate) const GOALS: &[(Case, Contender, f64)] = &[
    (Case::Http1, Contender::Haproxy, 1.25),
    (Case::Http1, Contender::Relay, 1.2),
    (Case::Http2, Contender::Relay, 1.25),
    (Case::PairHttp1, Contender::Envoy, 0.5),
    (Case::PairHttp2, Contender::Envoy, 0.6),
    (Case::Tcp, Contender::Envoy, 1.0),
    (Case::Routes, Contender::Plain, 1.1),
    (Case::Authorizations, Contender::Plain, 1.1),
];

/// The same for memory, in KiB: idle, for a connection that has not spoken, for one used once.
pub(crate) const MEMORY_GOALS: [f64; 3] = [12.0 * 1024.0, 2.0, 14.0];
