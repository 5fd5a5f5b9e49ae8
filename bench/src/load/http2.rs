//! HTTP/2 of the load generator: preformatted frames, with prior knowledge.
//!
//! The first request puts its headers into the compression table and the others name them, as ordinary
//! clients do.

use super::{AGENT, AUTHORITY, Shared, connect};
use crate::app::BODY;
use crate::frame::{self, Frame};
use crate::statistics::Histogram;
use std::net::SocketAddr;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How much DATA the other side may send before it hears from us; raised again when half of it is used.
const WINDOW: u32 = 1 << 30;

/// One request under way.
struct Flight {
    stream: u32,
    begun: Instant,
    has_status: bool,
    body: usize,
}

/// The client's side of one connection.
struct Connection {
    next: u32,
    flights: Vec<Flight>,
    /// DATA received since the window was last raised.
    received: u32,
    out: Vec<u8>,
}

pub(super) async fn run(target: SocketAddr, streams: usize, shared: &Shared) -> Result<Histogram, String> {
    let mut stream = connect(target).await?;
    let mut histogram = Histogram::new();
    let mut buffer = Vec::with_capacity(16 * 1024);
    let mut connection = Connection::new();
    // The table is filled by the first request, so the others must not overtake it: they are sent in order.
    for _ in 0..streams {
        connection.send();
    }
    loop {
        stream.write_all(&connection.out).await.map_err(|error| format!("send: {error}"))?;
        connection.out.clear();
        let read = stream.read_buf(&mut buffer).await.map_err(|error| format!("receive: {error}"))?;
        if read == 0 {
            return Err("closed while requests were under way".to_owned());
        }
        let mut used = 0;
        while let Some((frame, length)) = Frame::read(&buffer[used..])? {
            used += length;
            let Some(begun) = connection.take(frame)? else { continue };
            shared.done(&mut histogram, begun.elapsed());
            if !shared.is_stopped() {
                connection.send();
            }
        }
        buffer.drain(..used);
        if connection.flights.is_empty() {
            return Ok(histogram);
        }
    }
}

impl Connection {
    fn new() -> Self {
        let mut out = frame::PREFACE.to_vec();
        frame::write_settings(&mut out, &[(0x2, 0), (0x4, 1 << 20)]); // no push; window of a stream
        frame::write(&mut out, (frame::WINDOW_UPDATE, 0), 0, &WINDOW.to_be_bytes());
        Self { next: 1, flights: Vec::new(), received: 0, out }
    }

    /// Appends the next request.
    fn send(&mut self) {
        let mut block = vec![0x82, 0x86, 0x84]; // RFC 7541, static table: GET, http, /
        if self.next == 1 {
            frame::write_literal(&mut block, &[0x41], AUTHORITY.as_bytes()); // static name 1, to be indexed
            frame::write_literal(&mut block, &[0x40 | 58], AGENT.as_bytes()); // user-agent
            frame::write_literal(&mut block, &[0x40 | 19], b"*/*"); // accept
        } else {
            block.extend_from_slice(&[0x80 | 64, 0x80 | 63, 0x80 | 62]); // the three, last added first
        }
        let flags = frame::END_STREAM | frame::END_HEADERS;
        frame::write(&mut self.out, (frame::HEADERS, flags), self.next, &block);
        self.flights.push(Flight { stream: self.next, begun: Instant::now(), has_status: false, body: 0 });
        self.next += 2;
    }

    /// Takes one frame; the time at which a request was sent if that completes its answer.
    fn take(&mut self, frame: Frame<'_>) -> Result<Option<Instant>, String> {
        match frame.kind {
            frame::SETTINGS if !frame.is_ack() => {
                frame::write(&mut self.out, (frame::SETTINGS, frame::ACK), 0, &[]);
            }
            frame::PING if !frame.is_ack() => {
                frame::write(&mut self.out, (frame::PING, frame::ACK), 0, frame.payload);
            }
            frame::GOAWAY | frame::RST_STREAM => {
                return Err(format!("a frame of type {} with {:x?}", frame.kind, frame.payload));
            }
            frame::HEADERS | frame::DATA => return self.answer(frame),
            _ => {}
        }
        Ok(None)
    }

    fn answer(&mut self, frame: Frame<'_>) -> Result<Option<Instant>, String> {
        let at = self.flights.iter().position(|flight| flight.stream == frame.stream);
        let Some(at) = at else { return Err(format!("an answer on stream {}", frame.stream)) };
        let flight = &mut self.flights[at];
        if frame.kind == frame::DATA {
            flight.body += frame.payload.len();
            self.received += frame.payload.len() as u32;
            if frame.payload.iter().any(|byte| *byte != BODY[0]) {
                return Err("another body".to_owned());
            }
        } else if !flight.has_status {
            if !frame.is_ok() {
                return Err(format!("answered with the header block {:x?}", frame.payload));
            }
            flight.has_status = true;
        }
        if self.received > WINDOW / 2 {
            frame::write(&mut self.out, (frame::WINDOW_UPDATE, 0), 0, &self.received.to_be_bytes());
            self.received = 0;
        }
        if !frame.ends_stream() {
            return Ok(None);
        }
        let flight = self.flights.swap_remove(at);
        match flight.has_status && flight.body == BODY.len() {
            true => Ok(Some(flight.begun)),
            false => Err(format!("a body of {} bytes", flight.body)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(stream: u32, flags: u8, payload: &[u8]) -> Frame<'_> {
        Frame { kind: frame::DATA, flags, stream, payload }
    }

    fn status(stream: u32, flags: u8, payload: &[u8]) -> Frame<'_> {
        Frame { kind: frame::HEADERS, flags: flags | frame::END_HEADERS, stream, payload }
    }

    #[test]
    fn an_answer_is_complete_with_its_status_and_its_whole_body() {
        let mut connection = Connection::new();
        connection.send();
        assert_eq!(connection.take(status(1, 0, &[0x88])), Ok(None));
        assert_eq!(connection.take(data(1, 0, &BODY[..100])), Ok(None));
        assert!(matches!(connection.take(data(1, frame::END_STREAM, &BODY[100..])), Ok(Some(_))));
        assert!(connection.flights.is_empty());
    }

    #[test]
    fn wrong_answers_are_errors() {
        let check = |frames: &[Frame<'_>]| {
            let mut connection = Connection::new();
            connection.send();
            let last = frames.iter().map(|frame| connection.take(*frame)).last().unwrap();
            assert!(last.is_err(), "{frames:?}");
        };
        let end = frame::END_STREAM;
        check(&[status(1, 0, &[0x8d])]);
        check(&[status(1, end, &[0x88])]);
        check(&[status(3, 0, &[0x88])]);
        check(&[status(1, 0, &[0x88]), data(1, end, b"x")]);
        check(&[status(1, 0, &[0x88]), data(1, end, &[b'y'; 128])]);
        check(&[Frame { kind: frame::RST_STREAM, flags: 0, stream: 1, payload: &[0; 4] }]);
    }

    #[test]
    fn later_requests_name_the_headers_of_the_first() {
        let mut connection = Connection::new();
        connection.out.clear();
        connection.send();
        let first = connection.out.len();
        connection.send();
        assert_eq!(connection.out.len() - first, frame::HEAD + 6);
    }
}
