//! Counting the frames of the client's side of an HTTP/2 connection that cost us more than the client.
//!
//! h2 bounds what such frames make it *hold*; how many a client may send is bounded here: each RST_STREAM
//! throws work away, each PING and SETTINGS wants an answer. The [`Meter`] reads only frame headers (RFC 9113
//! §4.1), skips payloads by count and allocates nothing. Pure: `metered` does the reading and makes h2 say
//! goodbye. It validates nothing; h2 does.

use std::time::{Duration, Instant};

/// What a client sends before its first frame (RFC 9113 §3.4). Its bytes are counted, not compared.
const PREFACE: usize = 24;

/// The header of a frame: length, type, flags, stream.
pub(crate) const HEADER: usize = 9;

pub(crate) const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
/// The flag of a SETTINGS or PING that answers one of ours.
const ACK: u8 = 1;

/// Frames that a client may send within one second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// RST_STREAM.
    pub resets: u32,
    /// PING and SETTINGS together, without answers to ours.
    pub pings: u32,
}

/// What a client sent too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// RST_STREAM.
    Resets,
    /// PING and SETTINGS.
    Pings,
}

/// Gathers the header of a frame, which may come in pieces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Header {
    bytes: [u8; HEADER],
    seen: usize,
}

impl Header {
    /// The next frame's header, once it is complete, and what is behind it.
    pub(crate) fn next<'a>(&mut self, bytes: &'a [u8]) -> Option<([u8; HEADER], &'a [u8])> {
        if self.seen == 0
            && let Some((whole, behind)) = bytes.split_first_chunk()
        {
            return Some((*whole, behind));
        }
        let missing = self.bytes.get_mut(self.seen..)?;
        let count = missing.len().min(bytes.len());
        let (now, behind) = bytes.split_at_checked(count)?;
        missing.get_mut(..count)?.copy_from_slice(now);
        self.seen += count;
        if self.seen < HEADER {
            return None;
        }
        self.seen = 0;
        Some((self.bytes, behind))
    }
}

/// How long the payload behind a header is.
pub(crate) fn payload([a, b, c, ..]: [u8; HEADER]) -> usize {
    usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
}

/// Follows one connection from its first byte.
#[derive(Clone, Debug)]
pub struct Meter {
    rates: Rates,
    /// Bytes of the preface or of a payload still to skip.
    skip: usize,
    header: Header,
    /// The frame being skipped is one too many.
    beyond: Option<Flood>,
    /// Start of the second being counted.
    since: Option<Instant>,
    resets: u32,
    pings: u32,
}

impl Meter {
    /// At the beginning of a connection.
    pub fn new(rates: Rates) -> Self {
        let header = Header::default();
        Self { rates, skip: PREFACE, header, beyond: None, since: None, resets: 0, pings: 0 }
    }

    /// Looks at the connection's next bytes, read just now. `Some`: so many of them end with the first frame
    /// that was one too many; nothing behind it should be read. `now` is asked once at most.
    pub fn read(&mut self, bytes: &[u8], now: impl Fn() -> Instant) -> Option<(usize, Flood)> {
        let mut rest = bytes;
        let mut clock = None;
        loop {
            let skipped = self.skip.min(rest.len());
            self.skip -= skipped;
            rest = rest.get(skipped..).unwrap_or_default();
            if self.skip == 0
                && let Some(flood) = self.beyond
            {
                return Some((bytes.len() - rest.len(), flood));
            }
            let (header, behind) = self.header.next(rest)?;
            rest = behind;
            self.frame(header, || *clock.get_or_insert_with(&now));
        }
    }

    /// A header is complete.
    fn frame(&mut self, header: [u8; HEADER], now: impl FnOnce() -> Instant) {
        let [_, _, _, kind, flags, ..] = header;
        self.skip = payload(header);
        let counted = match kind {
            RST_STREAM => Flood::Resets,
            PING | SETTINGS if flags & ACK == 0 => Flood::Pings,
            _ => return,
        };
        let now = now();
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1)) {
            (self.since, self.resets, self.pings) = (Some(now), 0, 0);
        }
        let (count, most) = match counted {
            Flood::Resets => (&mut self.resets, self.rates.resets),
            Flood::Pings => (&mut self.pings, self.rates.pings),
        };
        *count = count.saturating_add(1);
        if *count > most {
            self.beyond = Some(counted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut bytes = vec![0, 0, u8::try_from(payload).unwrap(), kind, flags, 0, 0, 0, 1];
        bytes.resize(HEADER + payload, 0);
        bytes
    }

    /// Shows a connection piece by piece; the place of the flood, counted from the first byte.
    #[track_caller]
    fn check(frames: &[Vec<u8>], expected: Option<(usize, Flood)>) {
        let bytes = [vec![b'p'; PREFACE], frames.concat()].concat();
        let now = Instant::now();
        for piece in [1, 2, 7, 9, 64, bytes.len()] {
            let mut meter = Meter::new(Rates { resets: 2, pings: 3 });
            let mut at = 0;
            let found = bytes.chunks(piece).find_map(|chunk| {
                let found = meter.read(chunk, || now).map(|(n, flood)| (at + n, flood));
                at += chunk.len();
                found
            });
            assert_eq!(found, expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn frames_up_to_the_rate_pass_and_the_next_is_one_too_many() {
        let (reset, ping) = (frame(RST_STREAM, 0, 4), frame(PING, 0, 8));
        check(&[reset.clone(), reset.clone(), ping.clone(), ping.clone(), ping.clone()], None);
        let end = PREFACE + 3 * (HEADER + 4);
        check(&[reset.clone(), reset.clone(), reset.clone(), ping.clone()], Some((end, Flood::Resets)));
        let settings = frame(SETTINGS, 0, 0);
        let end = PREFACE + 2 * (HEADER + 8) + 2 * HEADER;
        check(&[ping.clone(), settings.clone(), ping, settings], Some((end, Flood::Pings)));
    }

    #[test]
    fn answers_and_other_frames_are_not_counted() {
        let data: Vec<_> = (0..50).map(|_| frame(0, 0, 100)).collect();
        check(&data, None);
        let answers: Vec<_> =
            (0..50).map(|n| frame(if n % 2 == 0 { PING } else { SETTINGS }, ACK, 0)).collect();
        check(&answers, None);
    }

    #[test]
    fn a_second_later_the_count_begins_anew() {
        let mut meter = Meter::new(Rates { resets: 2, pings: 3 });
        let start = Instant::now();
        let mut bytes = vec![b'p'; PREFACE];
        bytes.extend([frame(RST_STREAM, 0, 4), frame(RST_STREAM, 0, 4)].concat());
        assert_eq!(meter.read(&bytes, || start), None);
        let later = || start + Duration::from_secs(1);
        assert_eq!(meter.read(&[frame(RST_STREAM, 0, 4), frame(RST_STREAM, 0, 4)].concat(), later), None);
        assert_eq!(meter.read(&frame(RST_STREAM, 0, 4), later), Some((HEADER + 4, Flood::Resets)));
    }
}
