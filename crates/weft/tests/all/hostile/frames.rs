//! HTTP/2 frames made and read by hand, so that they can be wrong (RFC 9113 §4, §6).

use std::io::{Read, Write};
use std::net::TcpStream;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// How a connection begins: preface and SETTINGS with this payload.
pub(crate) fn opening(settings: &[u8]) -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(SETTINGS, 0, 0, settings)].concat()
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block of literals without indexing (RFC 7541 §6.2.2).
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            bytes.push(u8::try_from(text.len()).unwrap());
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

/// An ordinary request's block, with more fields behind.
pub(crate) fn request(method: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let fields = [(":method", method), (":scheme", "http"), (":path", "/a"), (":authority", "web")];
    block(&[&fields, more].concat())
}

/// A frame that was read: kind, flags, stream, payload.
pub(crate) type Frame = (u8, u8, u32, Vec<u8>);

/// The next frame, or `None` at the end.
pub(crate) fn read(stream: &mut TcpStream) -> Option<Frame> {
    let mut header = [0; 9];
    stream.read_exact(&mut header).ok()?;
    let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).ok()?;
    let id = u32::from_be_bytes(header[5..].try_into().unwrap());
    Some((header[3], header[4], id, payload))
}

/// Writes while the proxy lets us, then reads to the end; the code of its GOAWAY, if it said one.
pub(crate) fn goaway(stream: &mut TcpStream, bytes: &[u8]) -> Option<u32> {
    let mut reading = stream.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        std::iter::from_fn(|| read(&mut reading))
            .filter(|f| f.0 == GOAWAY)
            .last()
            .map(|(.., payload)| u32::from_be_bytes(payload[4..8].try_into().unwrap()))
    });
    // A few at a time, as a flood comes; a closed connection ends it.
    for piece in bytes.chunks(16 << 10) {
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    reader.join().unwrap()
}
