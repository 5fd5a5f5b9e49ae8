//! Which bytes may stand where in a head, and how many of them follow each other.
//!
//! `head` spends most of its time here: the scans are written so that the compiler vectorises them.

/// Length of the leading run of bytes that may stand in a value and are no control bytes.
pub(super) fn plain_run(bytes: &[u8]) -> usize {
    run_of(bytes, is_control)
}

/// Length of the leading run of bytes that may stand in a target.
pub(super) fn visible_run(bytes: &[u8]) -> usize {
    run_of(bytes, |byte| !is_visible(byte))
}

/// Length of the leading run of bytes that may stand in a method or a name.
pub(super) fn token_run(bytes: &[u8]) -> usize {
    bytes.iter().position(|b| !TOKEN[usize::from(*b)]).unwrap_or(bytes.len())
}

/// Length of the run before the first byte that stops it. In pieces of 16, which the compiler turns into
/// vector instructions.
#[inline(always)]
fn run_of(bytes: &[u8], stops: impl Fn(u8) -> bool) -> usize {
    let mut n = 0;
    let (pieces, _) = bytes.as_chunks::<16>();
    for piece in pieces {
        if piece.iter().fold(0, |any, b| any | u8::from(stops(*b))) != 0 {
            break;
        }
        n += 16;
    }
    n + bytes[n..].iter().position(|b| stops(*b)).unwrap_or(bytes.len() - n)
}

// Without short cuts, for the sake of `run_of`.
pub(super) const fn is_control(byte: u8) -> bool {
    (byte < 0x20) | (byte == 0x7f)
}

const fn is_visible(byte: u8) -> bool {
    (byte > 0x20) & (byte != 0x7f)
}

/// The bytes of methods and header names (RFC 9110 §5.6.2).
pub(super) const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric()
            || matches!(
                byte as u8,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        byte += 1;
    }
    table
};
