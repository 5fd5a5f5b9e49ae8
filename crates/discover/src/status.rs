//! placeholder
use std::fmt;
/// gRPC code.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    InvalidArgument,
    FailedPrecondition,
    NotFound,
    Unimplemented,
    DeadlineExceeded,
    Unavailable,
    Unknown,
    Internal,
}
/// Status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// code
    pub code: Code,
    /// text
    pub message: String,
}
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.code, self.message)
    }
}
