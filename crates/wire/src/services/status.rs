//! How a call ended, in gRPC's terms; the only form in which tonic's status leaves this crate.

use std::fmt;

macro_rules! codes {
    ($($variant:ident = $number:literal, $name:literal, $doc:literal;)*) => {
        /// A gRPC status code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $doc] $variant,)*
        }

        impl Code {
            /// Its number on the wire, 0–16.
            pub const fn number(self) -> u8 {
                match self { $(Code::$variant => $number,)* }
            }

            /// Its name in gRPC's spelling.
            pub const fn name(self) -> &'static str {
                match self { $(Code::$variant => $name,)* }
            }

            fn from_tonic(code: tonic::Code) -> Self {
                match code { $(tonic::Code::$variant => Code::$variant,)* }
            }

            fn to_tonic(self) -> tonic::Code {
                match self { $(Code::$variant => tonic::Code::$variant,)* }
            }
        }
    };
}

codes! {
    Ok = 0, "OK", "Success.";
    Cancelled = 1, "CANCELLED", "The caller gave up.";
    Unknown = 2, "UNKNOWN", "No other code applies; also a broken connection.";
    InvalidArgument = 3, "INVALID_ARGUMENT", "The request is wrong; repeating it never helps.";
    DeadlineExceeded = 4, "DEADLINE_EXCEEDED", "It took too long.";
    NotFound = 5, "NOT_FOUND", "What was asked for does not exist.";
    AlreadyExists = 6, "ALREADY_EXISTS", "What should be made exists.";
    PermissionDenied = 7, "PERMISSION_DENIED", "The caller may not do this.";
    ResourceExhausted = 8, "RESOURCE_EXHAUSTED", "A limit is reached.";
    FailedPrecondition = 9, "FAILED_PRECONDITION", "The system's state forbids it.";
    Aborted = 10, "ABORTED", "A conflict.";
    OutOfRange = 11, "OUT_OF_RANGE", "Past the valid range.";
    Unimplemented = 12, "UNIMPLEMENTED", "The server does not know the method.";
    Internal = 13, "INTERNAL", "An invariant is broken, or a message unreadable.";
    Unavailable = 14, "UNAVAILABLE", "Not now; repeating it may help.";
    DataLoss = 15, "DATA_LOSS", "Data is lost.";
    Unauthenticated = 16, "UNAUTHENTICATED", "The caller did not prove who it is.";
}

/// How a call ended other than well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Status {
    /// The code.
    pub code: Code,
    /// For people.
    pub message: String,
}

impl Status {
    /// A status.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The code in the head of a response: there only if the call was refused, for what is answered says it in its
    /// trailers.
    pub fn of_head(headers: &http::HeaderMap) -> Option<Code> {
        let number = headers.get("grpc-status")?;
        Some(Code::from_tonic(tonic::Code::from_bytes(number.as_bytes())))
    }

    /// This status as a whole response, for calls refused before they reach a service.
    pub fn into_response(self) -> http::Response<super::Body> {
        tonic::Status::from(self).into_http()
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<tonic::Status> for Status {
    fn from(status: tonic::Status) -> Self {
        let message = match std::error::Error::source(&status) {
            Some(source) => format!("{}: {source}", status.message()),
            None => status.message().to_owned(),
        };
        Self::new(Code::from_tonic(status.code()), message.chars().take(500).collect::<String>())
    }
}

impl From<Status> for tonic::Status {
    fn from(status: Status) -> Self {
        tonic::Status::new(status.code.to_tonic(), status.message)
    }
}
