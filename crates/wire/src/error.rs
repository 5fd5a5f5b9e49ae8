//! What can be wrong with bytes that claim to be a message of ours.

use weft_model::reason::Code;

/// Why a message or a transport header was refused. Always the sender's fault; the same bytes are
/// refused again, so repeating only helps once the sender has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes are not the protobuf message that they should be.
    #[error("not a valid {message} message: {why}")]
    Malformed {
        /// Which message was expected.
        message: &'static str,
        /// What protobuf says about it.
        why: String,
    },
    /// A field that the API requires is absent.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field has a value that means nothing.
    #[error("{field} is invalid: {why}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A connection that should start with a transport header starts with something else.
    #[error("the transport header is invalid: {0}")]
    Header(&'static str),
    /// A transport header announces more bytes than allowed.
    #[error("the transport header announces {announced} bytes, the limit is {limit}")]
    HeaderTooLong {
        /// What it announces.
        announced: u32,
        /// What is allowed.
        limit: usize,
    },
}

impl WireError {
    /// The reason that a request failing because of this error is answered with.
    pub fn code(&self) -> Code {
        match self {
            WireError::Malformed { .. } | WireError::Missing(_) | WireError::Invalid { .. } => {
                Code::InvalidPolicy
            }
            WireError::Header(_) | WireError::HeaderTooLong { .. } => Code::TransportHeader,
        }
    }

    /// A field with a meaningless value.
    pub(crate) fn invalid(field: &'static str, why: impl ToString) -> Self {
        WireError::Invalid { field, why: why.to_string().chars().take(300).collect() }
    }
}
