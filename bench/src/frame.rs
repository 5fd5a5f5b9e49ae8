//! The few HTTP/2 frames (RFC 9113) that the load generator and the application behind the proxies speak.
//!
//! Both ends are ours and preformatted, so that neither costs more than the proxies between them. What this
//! leaves out (full HPACK, padding) is covered once per contender by the check with a complete client. Pure.

/// What a client sends first.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length of a frame's header.
pub(crate) const HEAD: usize = 9;
/// No frame is larger unless we allow it, which we do not.
pub(crate) const LARGEST: usize = 16_384;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// One frame, read where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame at the beginning of `bytes` and its whole length; `None` if it has not arrived yet.
    ///
    /// # Errors
    /// It is larger than allowed.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, String> {
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else { return Ok(None) };
        let [l2, l1, l0, kind, flags, s3, s2, s1, s0] = *head;
        let length = u32::from_be_bytes([0, l2, l1, l0]) as usize;
        if length > LARGEST {
            return Err(format!("a frame of {length} bytes"));
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let stream = u32::from_be_bytes([s3 & 0x7f, s2, s1, s0]);
        Ok(Some((Self { kind, flags, stream, payload }, HEAD + length)))
    }

    pub(crate) fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    pub(crate) fn is_ack(&self) -> bool {
        self.flags & ACK != 0
    }

    /// The increment of a WINDOW_UPDATE frame.
    pub(crate) fn increment(&self) -> i64 {
        self.payload.first_chunk().map_or(0, |bytes| i64::from(u32::from_be_bytes(*bytes) & 0x7fff_ffff))
    }

    /// Whether a HEADERS frame says status 200. Knows the encodings that encoders use for it: the entry of
    /// the static table, or that entry's name with a literal value.
    pub(crate) fn is_ok(&self) -> bool {
        if self.flags & (PADDED | PRIORITY) != 0 {
            return false;
        }
        let mut block = self.payload;
        // RFC 7541 §6.3: the encoder may begin with the size of its table.
        while let Some((first, rest)) = block.split_first().filter(|(first, _)| *first & 0xe0 == 0x20) {
            let more =
                if first & 0x1f == 0x1f { rest.iter().take_while(|b| *b & 0x80 != 0).count() + 1 } else { 0 };
            block = rest.get(more..).unwrap_or_default();
        }
        block.first() == Some(&0x88) || block.get(1..).is_some_and(|value| value.starts_with(b"\x03200"))
    }
}

/// Appends one frame.
pub(crate) fn write(out: &mut Vec<u8>, (kind, flags): (u8, u8), stream: u32, payload: &[u8]) {
    let [_, l2, l1, l0] = (payload.len() as u32).to_be_bytes();
    out.extend_from_slice(&[l2, l1, l0, kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Appends a SETTINGS frame of these settings (RFC 9113 §6.5.1).
pub(crate) fn write_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    let payload: Vec<u8> = settings
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    write(out, (SETTINGS, 0), 0, &payload);
}

/// Appends a literal of HPACK without Huffman coding: how the name is given, its index, and the value,
/// which is shorter than 127 bytes.
pub(crate) fn write_literal(block: &mut Vec<u8>, first: &[u8], value: &[u8]) {
    block.extend_from_slice(first);
    block.push(value.len() as u8);
    block.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut out = Vec::new();
        write(&mut out, (HEADERS, END_STREAM | END_HEADERS), 7, b"abc");
        write_settings(&mut out, &[(4, 65_535)]);
        let (first, length) = Frame::read(&out).unwrap().unwrap();
        assert_eq!((first.kind, first.stream, first.payload, length), (HEADERS, 7, &b"abc"[..], 12));
        assert!(first.ends_stream());
        let (second, _) = Frame::read(&out[length..]).unwrap().unwrap();
        assert_eq!((second.kind, second.payload.len(), second.ends_stream()), (SETTINGS, 6, false));
    }

    #[test]
    fn half_a_frame_is_no_frame_yet_and_a_huge_one_never_will_be() {
        let mut out = Vec::new();
        write(&mut out, (DATA, 0), 1, b"abc");
        for cut in 0..out.len() {
            assert_eq!(Frame::read(&out[..cut]), Ok(None));
        }
        assert!(Frame::read(&[0xff, 0, 0, 0, 0, 0, 0, 0, 1]).is_err());
    }

    #[test]
    fn status_200_is_told_from_others() {
        let check = |payload: &[u8], expected| {
            let frame = Frame { kind: HEADERS, flags: END_HEADERS, stream: 1, payload };
            assert_eq!(frame.is_ok(), expected, "{payload:x?}");
        };
        check(&[0x88, 0x00], true);
        check(&[0x20, 0x88], true);
        check(&[0x3f, 0xe1, 0x1f, 0x88], true);
        check(b"\x08\x03200", true);
        check(b"\x48\x03200", true);
        check(b"\x08\x03503", false);
        check(&[0x8d], false);
        check(&[], false);
        check(&[0x3f], false);
    }
}
