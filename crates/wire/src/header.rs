//! The transport header: what a proxy says first inside TLS to another proxy's inbound port (§3.7).
//!
//! `connect` encodes it, `proxy` decodes it from bytes as they arrive. Pure and incremental: it reads
//! no socket and holds no state between calls.

use crate::WireError;
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use std::num::NonZeroU16;
use weft_model::name::DnsName;

/// The ALPN protocol under which a header is expected.
pub const ALPN: &[u8] = b"transport.l5d.io/v1";

/// What stands before the length.
const PREFACE: &[u8] = b"transport.l5d.io/v1\r\n\r\n";

/// Bytes before the message: preface and a big-endian length.
const PREFIX: usize = PREFACE.len() + 4;

/// Longest message, bytes; the peer's limit.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// What the connection is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The port it is meant for, or the port of `name`.
    pub port: NonZeroU16,
    /// Set when a gateway should carry it on to this name.
    pub name: Option<DnsName>,
    /// The HTTP version that follows; `None` means bytes.
    pub session: Option<Session>,
}

/// The HTTP version that follows a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Session {
    /// HTTP/1.x.
    Http1,
    /// HTTP/2 by prior knowledge.
    Http2,
}

/// What a decoder knows after looking at the bytes so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Fewer bytes than the header has: at least this many in all are needed.
    NeedMore(usize),
    /// The header is complete.
    Done {
        /// The header.
        header: Header,
        /// How many of the bytes belong to it; what follows is the connection's payload.
        consumed: usize,
    },
}

#[derive(Clone, PartialEq, prost::Message)]
struct HeaderMessage {
    #[prost(int32, tag = "1")]
    port: i32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, optional, tag = "3")]
    session_protocol: Option<SessionMessage>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct SessionMessage {
    #[prost(oneof = "SessionKind", tags = "1, 2")]
    kind: Option<SessionKind>,
}

#[derive(Clone, Copy, PartialEq, prost::Oneof)]
enum SessionKind {
    #[prost(message, tag = "1")]
    Http1(Empty),
    #[prost(message, tag = "2")]
    Http2(Empty),
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Empty {}

impl Header {
    /// The header's bytes: preface, length, message. At most a few hundred bytes.
    pub fn encode(&self) -> Bytes {
        let kind = self.session.map(|s| match s {
            Session::Http1 => SessionKind::Http1(Empty {}),
            Session::Http2 => SessionKind::Http2(Empty {}),
        });
        let message = HeaderMessage {
            port: self.port.get().into(),
            name: self.name.as_ref().map(|n| n.as_str().to_owned()).unwrap_or_default(),
            session_protocol: kind.map(|kind| SessionMessage { kind: Some(kind) }),
        };
        let body = message.encode_to_vec();
        let mut out = BytesMut::with_capacity(PREFIX + body.len());
        out.put_slice(PREFACE);
        out.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX)); // a name has at most 253 characters
        out.put_slice(&body);
        out.freeze()
    }

    /// Looks at the bytes received so far. Refuses as soon as a byte is wrong, so a client of another
    /// protocol is not waited for.
    ///
    /// # Errors
    /// A wrong preface, a message above [`MAX_MESSAGE`] or not a header, a port outside 1–65535, or a
    /// name that is none: the client's fault.
    pub fn decode(bytes: &[u8]) -> Result<Progress, WireError> {
        let preface = bytes.len().min(PREFACE.len());
        if bytes.get(..preface) != PREFACE.get(..preface) {
            return Err(WireError::Header("it does not start with `transport.l5d.io/v1`"));
        }
        let Some(length) = bytes.get(PREFACE.len()..PREFIX).and_then(|b| b.try_into().ok()) else {
            return Ok(Progress::NeedMore(PREFIX));
        };
        let announced = u32::from_be_bytes(length);
        let length = announced as usize;
        if length > MAX_MESSAGE {
            return Err(WireError::HeaderTooLong { announced, limit: MAX_MESSAGE });
        }
        let Some(body) = bytes.get(PREFIX..PREFIX + length) else {
            return Ok(Progress::NeedMore(PREFIX + length));
        };
        let header = Self::from_message(body)?;
        Ok(Progress::Done { header, consumed: PREFIX + length })
    }

    fn from_message(body: &[u8]) -> Result<Self, WireError> {
        let message =
            HeaderMessage::decode(body).map_err(|_| WireError::Header("its message is not a header"))?;
        let port = u16::try_from(message.port).ok().and_then(NonZeroU16::new);
        let port = port.ok_or(WireError::Header("its port is outside 1-65535"))?;
        let name = match message.name.as_str() {
            "" => None,
            name => Some(name.parse().map_err(|_| WireError::Header("its name is not a DNS name"))?),
        };
        let session = message.session_protocol.and_then(|s| s.kind).map(|kind| match kind {
            SessionKind::Http1(_) => Session::Http1,
            SessionKind::Http2(_) => Session::Http2,
        });
        Ok(Self { port, name, session })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(port: u16, name: &str, session: Option<Session>) -> Header {
        let name = (!name.is_empty()).then(|| name.parse().unwrap());
        Header { port: NonZeroU16::new(port).unwrap(), name, session }
    }

    fn check(bytes: &[u8], expected: Result<Progress, WireError>) {
        assert_eq!(Header::decode(bytes), expected, "{bytes:?}");
    }

    #[test]
    fn the_layout_is_the_peers() {
        let bytes = header(4321, "", Some(Session::Http2)).encode();
        assert_eq!(&bytes[..], b"transport.l5d.io/v1\r\n\r\n\0\0\0\x07\x08\xe1\x21\x1a\x02\x12\x00");
        let bytes = header(80, "web.x", None).encode();
        assert_eq!(&bytes[..], b"transport.l5d.io/v1\r\n\r\n\0\0\0\x09\x08\x50\x12\x05web.x");
    }

    #[test]
    fn every_header_decodes_back_and_leaves_the_payload() {
        for header in [
            header(1, "", None),
            header(65535, "web.shop.svc.cluster.local", Some(Session::Http1)),
            header(8080, "", Some(Session::Http2)),
        ] {
            let mut bytes = header.encode().to_vec();
            let consumed = bytes.len();
            for cut in 0..consumed {
                let Ok(Progress::NeedMore(more)) = Header::decode(&bytes[..cut]) else { panic!("{cut}") };
                assert!(more > cut && more <= consumed, "{cut}");
            }
            bytes.extend_from_slice(b"payload");
            check(&bytes, Ok(Progress::Done { header, consumed }));
        }
    }

    #[test]
    fn other_protocols_are_refused_at_their_first_byte() {
        for bytes in [&b"G"[..], b"transport.l5d.io/v2", b"\x16\x03\x01", b"transport.l5d.io/v1\n"] {
            check(bytes, Err(WireError::Header("it does not start with `transport.l5d.io/v1`")));
        }
    }

    #[test]
    fn hostile_messages_are_refused() {
        let with = |length: u32, body: &[u8]| [PREFACE, &length.to_be_bytes()[..], body].concat();
        check(&with(65_537, b""), Err(WireError::HeaderTooLong { announced: 65_537, limit: MAX_MESSAGE }));
        check(
            &with(u32::MAX, b""),
            Err(WireError::HeaderTooLong { announced: u32::MAX, limit: MAX_MESSAGE }),
        );
        check(&with(0, b""), Err(WireError::Header("its port is outside 1-65535")));
        check(&with(4, b"\x08\x80\x80\x04"), Err(WireError::Header("its port is outside 1-65535")));
        check(&with(2, b"\xff\xff"), Err(WireError::Header("its message is not a header")));
        check(&with(6, b"\x08\x50\x12\x02a "), Err(WireError::Header("its name is not a DNS name")));
    }
}
