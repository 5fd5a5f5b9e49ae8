//! Why there are no figures.

use std::io;

/// What stands between the command and its figures. Nothing is retried: the operator decides.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The machine's: a program, port or file that the measurement needs.
    #[error("{0}")]
    Machine(String),
    /// The machine's, as the system words it.
    #[error("{what}: {error}")]
    Io { what: String, error: io::Error },
    /// A contender's: it did not start.
    #[error("{who} does not start: {why}")]
    Start { who: String, why: String },
    /// A contender's: it answered wrongly, or did not do what the others do. Its figures would mean nothing.
    #[error("{who}, case {case}: {why}; no figures")]
    Check { who: &'static str, case: &'static str, why: String },
    /// The operator's.
    #[error("{0}")]
    Usage(String),
}

impl Failure {
    /// Words an error of the system.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io { what, error }
    }
}
