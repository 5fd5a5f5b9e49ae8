//! What can be wrong with an HTTP/1 request: one variant a shape, each with its code and its words.
//!
//! `head` raises them; `guard` and the owner of the connection count and log them.

use weft_model::reason::Code;

/// What is wrong with a request. The client's fault, always; never repeatable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Offence {
    /// Content-Length and Transfer-Encoding in one head.
    LengthAndEncoding,
    /// Several Content-Length lines of different value.
    DifferingLengths,
    /// A Content-Length that is not one plain number below 2^63.
    BadLength,
    /// A Transfer-Encoding that is not exactly `chunked`.
    BadEncoding,
    /// More than one Transfer-Encoding line.
    RepeatedEncoding,
    /// Transfer-Encoding in an HTTP/1.0 request.
    EncodingInHttp10,
    /// A CONNECT request that announces a body.
    ConnectWithBody,
    /// A carriage return without a line feed.
    BareCr,
    /// A line feed without a carriage return.
    BareLf,
    /// A header line that begins with a blank (obsolete folding).
    FoldedLine,
    /// A blank in a header's name, or between it and the colon.
    SpaceBeforeColon,
    /// A chunk size that is empty, longer than 16 digits, or not hexadecimal.
    BadChunkSize,
    /// A chunk extension with control bytes, or too long.
    BadChunkExtension,
    /// Chunk data that is not followed by a line end.
    UnterminatedChunk,
    /// Content-Length, Transfer-Encoding or Host among the trailers.
    FramingInTrailers,
    /// More than one Host line.
    RepeatedHost,
    /// NUL or another control byte.
    ControlByte,
    /// A header name that is empty, has no colon, or holds a byte that no name may.
    BadHeaderName,
    /// A request line that is not `METHOD TARGET HTTP/1.x`.
    BadRequestLine,
    /// A target beyond [`MAX_TARGET`](super::MAX_TARGET).
    TargetTooLong,
    /// A head, or trailers, of too many bytes.
    HeadTooLarge,
    /// Too many header or trailer lines.
    TooManyHeaders,
}

impl Offence {
    /// The catalogue's code.
    pub const fn code(self) -> Code {
        match self {
            Self::RepeatedHost | Self::ControlByte | Self::BadHeaderName | Self::BadRequestLine => {
                Code::BadRequest
            }
            Self::TargetTooLong => Code::UriTooLong,
            Self::HeadTooLarge | Self::TooManyHeaders => Code::HeadersTooLarge,
            _ => Code::AmbiguousFraming,
        }
    }

    /// What a log line says.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LengthAndEncoding => "content-length and transfer-encoding in one request",
            Self::DifferingLengths => "differing content-lengths",
            Self::BadLength => "malformed content-length",
            Self::BadEncoding => "transfer-encoding other than chunked",
            Self::RepeatedEncoding => "repeated transfer-encoding",
            Self::EncodingInHttp10 => "transfer-encoding in HTTP/1.0",
            Self::ConnectWithBody => "CONNECT with a body",
            Self::BareCr => "bare carriage return",
            Self::BareLf => "bare line feed",
            Self::FoldedLine => "folded header line",
            Self::SpaceBeforeColon => "blank in or after a header name",
            Self::BadChunkSize => "malformed chunk size",
            Self::BadChunkExtension => "malformed chunk extension",
            Self::UnterminatedChunk => "chunk data without a line end",
            Self::FramingInTrailers => "framing header among the trailers",
            Self::RepeatedHost => "repeated host",
            Self::ControlByte => "control byte",
            Self::BadHeaderName => "malformed header name",
            Self::BadRequestLine => "malformed request line",
            Self::TargetTooLong => "request target too long",
            Self::HeadTooLarge => "request head too large",
            Self::TooManyHeaders => "too many headers",
        }
    }
}

/// The error that breaks a body when its connection is refused half-way, inside an `io::Error`.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("refused: {}", .0.as_str())]
pub struct Refused(pub Offence);

impl Refused {
    /// The catalogue's code.
    pub const fn code(&self) -> Code {
        self.0.code()
    }
}
