//! Noticing, in the frames that go to an HTTP/2 client, where h2 answered by itself.
//!
//! To a header list beyond its limit h2 says 431 and tells nobody. Such an answer is a header block of a single
//! field that ends its stream, on a stream that had no answer before; what an application answers goes through
//! `serve`, which says so where an answer looks the same. Pure: `metered` shows it what is written. It reads frame
//! headers and the beginning of header blocks, skips all else by count and validates nothing.

use crate::frames::{HEADER, Header, RST_STREAM, payload};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What is looked at of a header block: enough for `:status: 431` behind two changes of the table's size (RFC 7541
/// §6.3).
const LOOK: usize = 16;

/// Answers under way that are remembered. As many streams as a connection may have by default; beyond, the oldest is
/// forgotten, whose trailers could then be taken for an answer if they held a single field.
const OPEN: usize = 256;

/// Follows what one connection's server writes, from its first byte.
#[derive(Debug, Default)]
pub struct Written {
    header: Header,
    /// Bytes of the payload still to come.
    left: usize,
    /// The beginning of an answer's header block.
    block: Option<Block>,
    /// Whether 431 was said in full, so that an index can stand for it.
    named: bool,
    /// Streams whose answer has begun and not ended.
    open: Vec<u32>,
    refusals: u32,
}

#[derive(Debug)]
struct Block {
    bytes: [u8; LOOK],
    length: usize,
    /// Whether it is all that its stream says.
    whole: bool,
}

impl Written {
    /// Looks at the next bytes. Gives how many answers of h2's own ended with them.
    pub fn write(&mut self, mut bytes: &[u8]) -> u32 {
        loop {
            let here = self.left.min(bytes.len());
            let (payload, rest) = bytes.split_at_checked(here).unwrap_or((bytes, &[]));
            self.left -= here;
            if let Some(block) = &mut self.block {
                let room = block.bytes.get_mut(block.length..).unwrap_or_default();
                room.iter_mut().zip(payload).for_each(|(slot, byte)| *slot = *byte);
                block.length += here.min(room.len());
                if self.left == 0 || block.length == LOOK {
                    self.judge();
                }
            }
            bytes = rest;
            let Some((header, behind)) = self.header.next(bytes) else {
                return std::mem::take(&mut self.refusals);
            };
            bytes = behind;
            self.frame(header);
        }
    }

    /// The beginning of a header block is there.
    fn judge(&mut self) {
        let Some(block) = self.block.take() else { return };
        let status = without_resizing(block.bytes.get(..block.length).unwrap_or_default());
        let said = SAID.iter().find_map(|said| status.strip_prefix(*said));
        self.named |= said.is_some();
        let alone = match (said, status) {
            (Some(rest), _) => rest.is_empty(),
            // 61 fields are in the static table; the dynamic one begins behind it.
            (None, [index] | [index @ 0xff, _]) => self.named && *index >= 0x80 + 62,
            _ => false,
        };
        self.refusals += u32::from(alone && block.whole);
    }

    fn frame(&mut self, header: [u8; HEADER]) {
        let [_, _, _, kind, flags, id @ ..] = header;
        self.left = payload(header);
        let ends = flags & END_STREAM != 0;
        if !matches!((kind, ends), (HEADERS, _) | (DATA, true) | (RST_STREAM, _)) {
            return;
        }
        let id = u32::from_be_bytes(id) & 0x7fff_ffff;
        let known = self.open.iter().position(|open| *open == id);
        match (kind, known) {
            (HEADERS, None) if !ends => {
                self.block = Some(Block { bytes: [0; LOOK], length: 0, whole: false });
                if self.open.len() == OPEN {
                    self.open.remove(0);
                }
                self.open.push(id);
            }
            (HEADERS, None) => {
                let whole = flags & END_HEADERS != 0 && self.left < LOOK;
                self.block = Some(Block { bytes: [0; LOOK], length: 0, whole });
            }
            (HEADERS, Some(_)) if !ends => {}
            (_, Some(at)) => drop(self.open.swap_remove(at)),
            (_, None) => {}
        }
    }
}

/// `:status: 431` in full (RFC 7541 §6.2): into the table, not into it, or never; with Huffman's code, or plain.
/// `:status` is the static table's eighth field.
const SAID: &[&[u8]] = &[
    b"\x48\x83\x69\x90\xff",
    b"\x08\x83\x69\x90\xff",
    b"\x18\x83\x69\x90\xff",
    b"\x48\x03431",
    b"\x08\x03431",
    b"\x18\x03431",
];

/// A header block behind the changes of the table's size that it begins with.
fn without_resizing(mut block: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = block
        && first & 0xe0 == 0x20
    {
        // The number goes on behind a full prefix, for as long as the high bit is set.
        let more = match first & 0x1f {
            0x1f => rest.iter().take_while(|byte| **byte & 0x80 != 0).count() + 1,
            _ => 0,
        };
        block = rest.get(more..).unwrap_or_default();
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &[u8] = SAID[0];

    fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags];
        bytes.extend(id.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn head(id: u32, flags: u8, block: &[u8]) -> Vec<u8> {
        frame(HEADERS, END_HEADERS | flags, id, block)
    }

    #[track_caller]
    fn check(frames: &[Vec<u8>], refusals: u32) {
        let bytes = frames.concat();
        for piece in [1, 2, 7, 9, 14, bytes.len()] {
            let mut written = Written::default();
            let found: u32 = bytes.chunks(piece).map(|chunk| written.write(chunk)).sum();
            assert_eq!(found, refusals, "in pieces of {piece}: {frames:x?}");
        }
    }

    #[test]
    fn a_431_alone_is_h2s_own_however_it_is_written() {
        check(&[frame(4, 0, 0, &[]), head(1, END_STREAM, FULL)], 1);
        check(
            &[head(1, END_STREAM, FULL), head(3, END_STREAM, &[0xbe]), frame(RST_STREAM, 0, 3, &[0; 4])],
            2,
        );
        check(&[head(1, END_STREAM, FULL), head(3, END_STREAM, &[0xff, 0x05])], 2);
        check(&[head(1, END_STREAM, &[&[0x20, 0x3f, 0xe1, 0x1f], FULL].concat())], 1);
        for said in SAID {
            check(&[head(1, END_STREAM, said)], 1);
        }
    }

    #[test]
    fn answers_of_applications_and_their_trailers_are_not() {
        let trailers = head(1, END_STREAM, &[0xbe]);
        let answer = [head(1, 0, FULL), frame(DATA, 0, 1, b"no"), trailers.clone()];
        check(&answer, 0);
        // With a field more, with a body, with another status, or before anybody said 431.
        check(&[head(1, END_STREAM, &[FULL, &[0x5c, 1, b'0']].concat())], 0);
        check(&[head(1, 0, FULL), frame(DATA, END_STREAM, 1, &[]), head(3, END_STREAM, &[0x88])], 0);
        check(&[head(1, END_STREAM, b"\x48\x03503"), head(3, END_STREAM, &[0xbe])], 0);
        // A stream that ended is forgotten.
        check(&[head(1, 0, FULL), frame(RST_STREAM, 0, 1, &[0; 4]), trailers], 1);
    }

    #[test]
    fn what_is_remembered_of_a_connection_is_bounded() {
        let mut written = Written::default();
        for id in (1..2_000_000).step_by(2) {
            assert_eq!(written.write(&head(id, 0, &[0x88])), 0);
        }
        assert!(written.open.len() <= OPEN && written.open.capacity() <= OPEN);
    }
}
