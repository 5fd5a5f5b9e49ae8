//! Inspection of the request side of an HTTP/1 connection, byte by byte and before hyper sees it.
//!
//! hyper reads some requests that others read differently: it drops Content-Length beside
//! Transfer-Encoding, takes bare line feeds and lenient chunk lines. Between two parsers that disagree a
//! second request can be smuggled. The [`Inspector`] follows the framing of a whole keep-alive connection
//! (RFC 9112 §2, §5, §6, §7.1) and refuses whatever can be read in two ways. Bodies are skipped by count,
//! a head's bytes are looked at once, and nothing is allocated. Pure: `guard` does the reading and makes
//! hyper answer. It does not judge methods, targets, hosts or what else has one meaning only.

pub use offence::{Offence, Refused};

use runs::{TOKEN, is_control, plain_run, token_run, visible_run};

mod offence;
mod runs;

/// Longest request target. hyper's own bound: it answers 414 beyond it, so a smaller one could not be told.
pub const MAX_TARGET: usize = u16::MAX as usize - 1;

/// Most bytes of a trailer section. hyper's own bound.
pub(crate) const MAX_TRAILERS: usize = 16 * 1024;

/// Most bytes of the extensions of one chunk. Signatures in use take under 100.
pub(crate) const MAX_EXTENSION: u32 = 256;

/// Most bytes of the extensions of all chunks of one body, so that they cannot outweigh it. hyper's own bound.
pub(crate) const MAX_EXTENSIONS: u32 = 16 * 1024;

/// Most empty lines before a request line. RFC 9112 §2.2 wants at least one to be passed over.
pub(crate) const MAX_EMPTY_LINES: u8 = 2;

/// Bounds on a request's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of request line and headers together.
    pub head: usize,
    /// Most header lines, and most trailer lines. More than hyper's own bound (100, unless
    /// `max_headers` is set there) is not reached.
    pub headers: usize,
}

impl Default for Limits {
    /// 128 KiB, the bound of HTTP/2 here as well, and 100 lines: hyper parses up to 100 without
    /// allocating, and HAProxy, Envoy and the peer stop at the same number.
    fn default() -> Self {
        Self { head: 128 * 1024, headers: 100 }
    }
}

/// Where in a message an offence lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before the head's last byte: the request was not dispatched yet. In the request line, something
    /// has to follow before header lines can.
    RequestLine,
    /// Among the header lines; see `RequestLine`.
    Head,
    /// In a chunked body or its trailers: the request may be under way.
    Body,
}

/// Why a connection may stop being HTTP/1 after this request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handover {
    /// It asks for an upgrade, granted by 101.
    Upgrade,
    /// It asks for a tunnel, granted by any 2xx.
    Connect,
}

/// What the inspector says about the bytes it was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// How many of the bytes are fine. All of them, unless the verdict is another.
    pub passed: usize,
    /// Where among these bytes the head ended whose body is being read.
    pub head_end: Option<usize>,
    /// What follows from byte `passed` on.
    pub verdict: Verdict,
}

/// Whether the connection can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It can.
    Fine,
    /// The next bytes' meaning depends on the answer to the request that just ended: see
    /// [`Inspector::resume`].
    Handover(Handover),
    /// It cannot: the byte at `passed` must not be seen by anybody.
    Offence(Offence, Place),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a request line.
    Start,
    StartLf,
    Method,
    Target,
    /// So many bytes of `HTTP/1.x` were seen.
    Version(u8),
    LineLf,
    FieldStart,
    Name,
    Value,
    Length(Part),
    Encoding(Part),
    FieldLf,
    EndLf,
    /// A body of known length; `left` says how much is to come.
    Fixed,
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Handover(Handover),
    Broken(Offence, Place),
}

/// Where in a header value we are that may be surrounded by blanks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Before,
    Inside,
    After,
}

/// What is known of the message being read. Cleared between messages.
#[derive(Clone, Copy, Debug, Default)]
struct Message {
    /// Bytes of the head, or of the trailers, so far.
    size: usize,
    /// Bytes of the target so far.
    target: usize,
    lines: usize,
    empty_lines: u8,
    /// Bytes of the method that agree with `CONNECT`, and whether they still do.
    method: u8,
    is_connect: bool,
    is_http11: bool,
    has_host: bool,
    wants_upgrade: bool,
    is_chunked: bool,
    in_trailers: bool,
    length: Option<u64>,
    /// The number being read: a length or a chunk size.
    number: u64,
    /// Its digits, or the bytes of `chunked` seen.
    digits: u8,
    extension: u32,
    extensions: u32,
}

/// The longest name that means something here: `transfer-encoding`.
const NAME: usize = 17;

/// Follows one connection from its first byte.
#[derive(Clone, Debug)]
pub struct Inspector {
    limits: Limits,
    state: State,
    message: Message,
    /// Body or chunk bytes still to skip.
    left: u64,
    /// The header's name in lower case, as far as it fits.
    name: [u8; NAME],
    /// The name's length; above `NAME` when it does not fit.
    name_len: u8,
}

impl Inspector {
    /// At the beginning of a connection.
    pub fn new(limits: Limits) -> Self {
        let message = Message::default();
        Self { limits, state: State::Start, message, left: 0, name: [0; NAME], name_len: 0 }
    }

    /// Looks at the connection's next bytes. The same connection cut into other pieces gets the same verdict
    /// at the same byte. After an offence everything is refused.
    pub fn inspect(&mut self, bytes: &[u8]) -> Inspection {
        let mut at = 0;
        let mut head_end = None;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match self.step(rest) {
                Ok(n) => at += n,
                Err(verdict) => return Inspection { passed: at, head_end, verdict },
            }
            match self.state {
                State::Start => head_end = None,
                State::Fixed | State::Size if self.message.size > 0 => {
                    self.message.size = 0;
                    head_end = Some(at);
                }
                _ => {}
            }
        }
        let verdict = match self.state {
            State::Handover(kind) => Verdict::Handover(kind),
            State::Broken(offence, place) => Verdict::Offence(offence, place),
            _ => Verdict::Fine,
        };
        Inspection { passed: at, head_end, verdict }
    }

    /// The answer refused the upgrade or tunnel: the next byte begins another request. Does nothing
    /// anywhere else.
    pub fn resume(&mut self) {
        if let State::Handover(_) = self.state {
            self.begin();
        }
    }

    /// Whether a head has begun and has not ended.
    pub fn is_within_head(&self) -> bool {
        match self.state {
            State::Start => self.message.size > 0,
            State::Fixed | State::Handover(_) | State::Broken(..) => false,
            _ => self.place() != Place::Body,
        }
    }

    /// Whether nothing of a next request was seen yet, and nothing is missing of the last.
    pub fn is_between_requests(&self) -> bool {
        self.state == State::Start && self.message.size == 0
    }

    fn begin(&mut self) {
        self.state = State::Start;
        self.message = Message::default();
    }

    /// Takes at least one byte, or refuses the first. `rest` is not empty.
    fn step(&mut self, rest: &[u8]) -> Result<usize, Verdict> {
        match self.state {
            State::Fixed | State::Data => return Ok(self.skip(rest.len())),
            State::Handover(kind) => return Err(Verdict::Handover(kind)),
            State::Broken(offence, place) => return Err(Verdict::Offence(offence, place)),
            _ => {}
        }
        let taken = self.run(rest);
        if taken > 0 {
            return Ok(taken);
        }
        let Some(byte) = rest.first() else { return Ok(0) };
        let outcome = self.within_bounds().and_then(|()| self.byte(*byte));
        match outcome {
            Ok(state) => self.state = state,
            Err(offence) => {
                let place = self.place();
                self.state = State::Broken(offence, place);
                return Err(Verdict::Offence(offence, place));
            }
        }
        Ok(1)
    }

    fn place(&self) -> Place {
        match self.state {
            State::Size | State::Extension | State::SizeLf | State::DataCr | State::DataLf => Place::Body,
            State::Start | State::StartLf | State::Method | State::Target | State::Version(_) => {
                Place::RequestLine
            }
            _ if self.message.in_trailers => Place::Body,
            _ => Place::Head,
        }
    }

    fn skip(&mut self, available: usize) -> usize {
        let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(available);
        self.left -= n as u64;
        if self.left == 0 {
            match self.state {
                State::Data => self.state = State::DataCr,
                _ => self.end(),
            }
        }
        n
    }

    /// The message is over.
    fn end(&mut self) {
        let Message { is_connect, wants_upgrade, is_http11, .. } = self.message;
        if is_connect {
            self.state = State::Handover(Handover::Connect);
        } else if wants_upgrade && is_http11 {
            self.state = State::Handover(Handover::Upgrade);
        } else {
            self.begin();
        }
    }

    /// How many more bytes the head or the trailers may have.
    fn allowance(&self) -> usize {
        let limit = if self.message.in_trailers { MAX_TRAILERS } else { self.limits.head };
        limit.saturating_sub(self.message.size)
    }

    /// Checks the size before a further byte of a head or of trailers. A line feed after its carriage return
    /// is let through, so that an oversized head never ends just where it is cut.
    fn within_bounds(&mut self) -> Result<(), Offence> {
        match self.state {
            State::Size | State::Extension | State::SizeLf | State::DataCr | State::DataLf => return Ok(()),
            State::StartLf | State::LineLf | State::FieldLf | State::EndLf => {}
            State::Target if self.message.target > MAX_TARGET => return Err(Offence::TargetTooLong),
            _ if self.allowance() == 0 => return Err(Offence::HeadTooLarge),
            _ => {}
        }
        self.message.size += 1;
        Ok(())
    }

    /// Takes the longest run of bytes that does not change the state, or a whole ordinary line.
    fn run(&mut self, rest: &[u8]) -> usize {
        match self.state {
            State::FieldStart => self.ordinary_field(rest).unwrap_or(0),
            State::Start => self.ordinary_request_line(rest).unwrap_or(0),
            State::Target => {
                // The byte beyond the longest target goes through, so that hyper sees the excess itself.
                let most = self.allowance().min((MAX_TARGET + 1).saturating_sub(self.message.target));
                let n = visible_run(&rest[..rest.len().min(most)]);
                self.message.target += n;
                self.message.size += n;
                n
            }
            State::Name => {
                let mut n = 0;
                for byte in rest.iter().take(self.allowance()).take_while(|b| TOKEN[usize::from(**b)]) {
                    if let Some(slot) = self.name.get_mut(usize::from(self.name_len)) {
                        *slot = byte.to_ascii_lowercase();
                    }
                    self.name_len = self.name_len.saturating_add(1).min(NAME as u8 + 1);
                    n += 1;
                }
                self.message.size += n;
                n
            }
            State::Value => {
                let n = plain_run(&rest[..rest.len().min(self.allowance())]);
                self.message.size += n;
                n
            }
            _ => 0,
        }
    }

    /// Takes a request line that lies whole in `rest`, has nothing wrong and fits. Byte by byte it would go the
    /// same way; this saves most of the time.
    fn ordinary_request_line(&mut self, rest: &[u8]) -> Option<usize> {
        let method = token_run(rest);
        let after_method = rest.get(method..)?.strip_prefix(b" ")?;
        let target = visible_run(after_method);
        let version = after_method.get(target..)?.strip_prefix(b" HTTP/1.")?;
        let [minor @ (b'0' | b'1'), b'\r', b'\n', ..] = version else { return None };
        let n = method + 1 + target + b" HTTP/1.x\r\n".len();
        if method == 0 || target == 0 || target > MAX_TARGET || n > self.allowance() {
            return None;
        }
        self.message.size += n;
        self.message.is_connect = &rest[..method] == b"CONNECT";
        self.message.is_http11 = *minor == b'1';
        self.state = State::FieldStart;
        Some(n)
    }

    /// Takes a header line that lies whole in `rest`, has nothing wrong, fits, and says nothing of framing.
    fn ordinary_field(&mut self, rest: &[u8]) -> Option<usize> {
        let name = token_run(rest);
        let value = rest.get(name..)?.strip_prefix(b":")?;
        let value_length = plain_run(value);
        let [b'\r', b'\n', ..] = value.get(value_length..)? else { return None };
        let n = name + 1 + value_length + 2;
        if name == 0 || self.message.lines >= self.limits.headers || n > self.allowance() {
            return None;
        }
        let is_host = match name {
            4 => rest[..4].eq_ignore_ascii_case(b"host"),
            7 if rest[..7].eq_ignore_ascii_case(b"upgrade") => return None,
            14 if rest[..14].eq_ignore_ascii_case(b"content-length") => return None,
            17 if rest[..17].eq_ignore_ascii_case(b"transfer-encoding") => return None,
            _ => false,
        };
        if is_host && (self.message.has_host || self.message.in_trailers) {
            return None;
        }
        self.message.has_host |= is_host;
        self.message.lines += 1;
        self.message.size += n;
        Some(n)
    }

    /// Takes one byte and gives the next state.
    fn byte(&mut self, byte: u8) -> Result<State, Offence> {
        match self.state {
            State::Start | State::StartLf | State::Method | State::Target | State::Version(_) => {
                self.request_line(byte)
            }
            State::LineLf | State::FieldLf if byte == b'\n' => Ok(State::FieldStart),
            State::LineLf | State::FieldLf | State::EndLf if byte != b'\n' => Err(Offence::BareCr),
            State::EndLf => self.end_of_section(),
            State::FieldStart => self.field_start(byte),
            State::Name => self.name_end(byte),
            State::Value => value_byte(byte),
            State::Length(part) => self.length_byte(part, byte),
            State::Encoding(part) => self.encoding_byte(part, byte),
            _ => self.chunk_line(byte),
        }
    }

    fn request_line(&mut self, byte: u8) -> Result<State, Offence> {
        const VERSION: &[u8; 7] = b"HTTP/1.";
        if byte == b'\n' && self.state != State::StartLf {
            return Err(Offence::BareLf);
        }
        match (self.state, byte) {
            (State::Start, b'\r') if self.message.empty_lines < MAX_EMPTY_LINES => Ok(State::StartLf),
            (State::StartLf, b'\n') => {
                self.message.empty_lines += 1;
                Ok(State::Start)
            }
            (State::StartLf, _) => Err(Offence::BareCr),
            (State::Start | State::Method, _) if TOKEN[usize::from(byte)] => {
                let agrees = b"CONNECT".get(usize::from(self.message.method)) == Some(&byte);
                self.message.is_connect = agrees && (self.message.is_connect || self.message.method == 0);
                self.message.method = self.message.method.saturating_add(1);
                Ok(State::Method)
            }
            (State::Method, b' ') => {
                self.message.is_connect &= self.message.method == 7;
                Ok(State::Target)
            }
            (State::Target, b' ') if self.message.target > 0 => Ok(State::Version(0)),
            (State::Version(7), b'0' | b'1') => {
                self.message.is_http11 = byte == b'1';
                Ok(State::Version(8))
            }
            (State::Version(8), b'\r') => Ok(State::LineLf),
            (State::Version(n), _) if VERSION.get(usize::from(n)) == Some(&byte) => Ok(State::Version(n + 1)),
            (_, b'\r') => Err(Offence::BadRequestLine),
            _ if is_control(byte) => Err(Offence::ControlByte),
            _ => Err(Offence::BadRequestLine),
        }
    }

    fn field_start(&mut self, byte: u8) -> Result<State, Offence> {
        match byte {
            b'\r' => Ok(State::EndLf),
            b' ' | b'\t' => Err(Offence::FoldedLine),
            _ if TOKEN[usize::from(byte)] => {
                if self.message.lines >= self.limits.headers {
                    return Err(Offence::TooManyHeaders);
                }
                self.message.lines += 1;
                self.name[0] = byte.to_ascii_lowercase();
                self.name_len = 1;
                Ok(State::Name)
            }
            _ => Err(bad_name_byte(byte)),
        }
    }

    /// The byte after a name: only a colon will do.
    fn name_end(&mut self, byte: u8) -> Result<State, Offence> {
        match byte {
            b':' => self.field(),
            b' ' | b'\t' => Err(Offence::SpaceBeforeColon),
            _ => Err(bad_name_byte(byte)),
        }
    }

    /// A name is complete: which value follows?
    fn field(&mut self) -> Result<State, Offence> {
        let message = &mut self.message;
        let name = self.name.get(..usize::from(self.name_len)).unwrap_or_default();
        let framing = matches!(name, b"content-length" | b"transfer-encoding" | b"host");
        if framing && message.in_trailers {
            return Err(Offence::FramingInTrailers);
        }
        message.number = 0;
        message.digits = 0;
        match name {
            b"content-length" => Ok(State::Length(Part::Before)),
            b"transfer-encoding" => Ok(State::Encoding(Part::Before)),
            b"host" if message.has_host => Err(Offence::RepeatedHost),
            b"host" => {
                message.has_host = true;
                Ok(State::Value)
            }
            b"upgrade" => {
                message.wants_upgrade |= !message.in_trailers;
                Ok(State::Value)
            }
            _ => Ok(State::Value),
        }
    }

    fn length_byte(&mut self, part: Part, byte: u8) -> Result<State, Offence> {
        let message = &mut self.message;
        match (part, byte) {
            (Part::Before, b' ' | b'\t') => Ok(State::Length(Part::Before)),
            (Part::Inside | Part::After, b' ' | b'\t') => Ok(State::Length(Part::After)),
            (Part::Before | Part::Inside, b'0'..=b'9') => {
                let number =
                    message.number.checked_mul(10).and_then(|n| n.checked_add(u64::from(byte - b'0')));
                message.number = number.filter(|n| *n < 1 << 63).ok_or(Offence::BadLength)?;
                Ok(State::Length(Part::Inside))
            }
            (Part::Inside | Part::After, b'\r') => {
                if message.length.is_some_and(|length| length != message.number) {
                    return Err(Offence::DifferingLengths);
                }
                message.length = Some(message.number);
                self.unambiguous().map(|()| State::FieldLf)
            }
            (_, b'\n') => Err(Offence::BareLf),
            _ => Err(Offence::BadLength),
        }
    }

    fn encoding_byte(&mut self, part: Part, byte: u8) -> Result<State, Offence> {
        const CHUNKED: &[u8; 7] = b"chunked";
        let message = &mut self.message;
        match (part, byte) {
            (Part::Before, b' ' | b'\t') => Ok(State::Encoding(Part::Before)),
            (Part::Inside | Part::After, b' ' | b'\t') => Ok(State::Encoding(Part::After)),
            (Part::Inside | Part::After, b'\r') if usize::from(message.digits) == CHUNKED.len() => {
                if message.is_chunked {
                    return Err(Offence::RepeatedEncoding);
                }
                if !message.is_http11 {
                    return Err(Offence::EncodingInHttp10);
                }
                message.is_chunked = true;
                self.unambiguous().map(|()| State::FieldLf)
            }
            (Part::Before | Part::Inside, _)
                if CHUNKED.get(usize::from(message.digits)) == Some(&byte.to_ascii_lowercase()) =>
            {
                message.digits += 1;
                Ok(State::Encoding(Part::Inside))
            }
            (_, b'\n') => Err(Offence::BareLf),
            _ => Err(Offence::BadEncoding),
        }
    }

    fn unambiguous(&self) -> Result<(), Offence> {
        let Message { is_chunked, length, is_connect, .. } = self.message;
        match length {
            Some(_) if is_chunked => Err(Offence::LengthAndEncoding),
            Some(1..) if is_connect => Err(Offence::ConnectWithBody),
            None if is_connect => Err(Offence::ConnectWithBody),
            _ => Ok(()),
        }
    }

    /// The empty line after a head or after trailers.
    fn end_of_section(&mut self) -> Result<State, Offence> {
        let message = &mut self.message;
        if message.is_chunked && !message.in_trailers {
            message.lines = 0;
            message.digits = 0;
            message.number = 0;
            return Ok(State::Size);
        }
        match message.length {
            Some(length @ 1..) => {
                self.left = length;
                Ok(State::Fixed)
            }
            _ => {
                self.end();
                Ok(self.state)
            }
        }
    }

    /// What stands around chunk data. A blank around the size is refused: nobody needs it, and readers
    /// differ about it.
    fn chunk_line(&mut self, byte: u8) -> Result<State, Offence> {
        let message = &mut self.message;
        match (self.state, byte) {
            (State::Size, b';') if message.digits > 0 => {
                message.extension = 0;
                Ok(State::Extension)
            }
            (State::Size, b'\r') if message.digits > 0 => Ok(State::SizeLf),
            (State::Size, _) => {
                let digit = char::from(byte).to_digit(16).filter(|_| message.digits < 16);
                message.number = message.number << 4 | u64::from(digit.ok_or(Offence::BadChunkSize)?);
                message.digits += 1;
                Ok(State::Size)
            }
            (State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Extension, _) => {
                message.extension += 1;
                message.extensions += 1;
                let too_long = message.extension > MAX_EXTENSION || message.extensions >= MAX_EXTENSIONS;
                if too_long || is_control(byte) && byte != b'\t' {
                    return Err(Offence::BadChunkExtension);
                }
                Ok(State::Extension)
            }
            (State::SizeLf, b'\n') => Ok(self.chunk_begins()),
            (State::SizeLf, _) if message.extension > 0 => Err(Offence::BadChunkExtension),
            (State::SizeLf, _) => Err(Offence::BadChunkSize),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => {
                message.number = 0;
                message.digits = 0;
                message.extension = 0;
                Ok(State::Size)
            }
            _ => Err(Offence::UnterminatedChunk),
        }
    }

    fn chunk_begins(&mut self) -> State {
        if self.message.number > 0 {
            self.left = self.message.number;
            return State::Data;
        }
        self.message.in_trailers = true;
        self.message.size = 0;
        self.message.length = None;
        State::FieldStart
    }
}

fn value_byte(byte: u8) -> Result<State, Offence> {
    match byte {
        b'\t' => Ok(State::Value),
        b'\r' => Ok(State::FieldLf),
        b'\n' => Err(Offence::BareLf),
        _ if is_control(byte) => Err(Offence::ControlByte),
        _ => Ok(State::Value),
    }
}

fn bad_name_byte(byte: u8) -> Offence {
    match byte {
        b'\n' => Offence::BareLf,
        b'\r' => Offence::BadHeaderName,
        _ if is_control(byte) => Offence::ControlByte,
        _ => Offence::BadHeaderName,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the pieces one after the other; gives how many bytes passed, and the last verdict.
    fn feed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, limits: Limits) -> (usize, Verdict) {
        let mut inspector = Inspector::new(limits);
        let mut passed = 0;
        let mut verdict = Verdict::Fine;
        for piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
            let seen = inspector.inspect(piece);
            passed += seen.passed;
            verdict = seen.verdict;
            if seen.passed < piece.len() {
                break;
            }
        }
        (passed, verdict)
    }

    /// The verdict on the whole, which must be the same in any two pieces and byte by byte.
    fn inspect_with(input: &[u8], limits: Limits) -> (usize, Verdict) {
        let whole = feed([input], limits);
        for at in 0..=input.len().min(2000) {
            let (first, second) = input.split_at(at);
            assert_eq!(feed([first, second], limits), whole, "split at {at}: {}", input.escape_ascii());
        }
        assert_eq!(feed(input.chunks(1), limits), whole, "byte by byte: {}", input.escape_ascii());
        whole
    }

    fn inspect(input: &[u8]) -> (usize, Verdict) {
        inspect_with(input, Limits::default())
    }

    fn fine(input: &str) {
        assert_eq!(inspect(input.as_bytes()), (input.len(), Verdict::Fine), "{input:?}");
    }

    /// `input` up to `|` passes, what follows is refused.
    fn refused(input: &str, offence: Offence) {
        let at = input.find('|').expect("the offending byte is marked");
        let bytes = [&input.as_bytes()[..at], &input.as_bytes()[at + 1..]].concat();
        let (passed, verdict) = inspect(&bytes);
        let Verdict::Offence(found, _) = verdict else { panic!("{input:?}: {verdict:?}") };
        assert_eq!((found, passed), (offence, at), "{input:?}");
    }

    const POST: &str = "POST /a HTTP/1.1\r\nHost: x\r\n";

    fn headers_refused(headers: &str, offence: Offence) {
        refused(&format!("{POST}{headers}"), offence);
    }

    fn body_refused(body: &str, offence: Offence) {
        headers_refused(&format!("Transfer-Encoding: chunked\r\n\r\n{body}"), offence);
    }

    #[test]
    fn ordinary_connections_pass() {
        fine("GET / HTTP/1.1\r\nHost: x\r\nAccept: */*\r\nX-Empty:\r\nX-Latin: caf\u{e9}\t!\r\n\r\n");
        fine("GET / HTTP/1.0\r\n\r\n");
        fine("\r\nGET http://a.example/b?c=%20 HTTP/1.1\r\nhost: a.example\r\n\r\n");
        fine(&format!("{POST}Content-Length: 5\r\n\r\nhello{POST}content-length:\t5 \t\r\n\r\n\0\r\n\r\n"));
        fine(&format!("{POST}Content-Length: 3\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n"));
        fine(&format!("{POST}Content-Length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n"));
        let chunks = "5\r\nhello\r\n0A;name=\"v\" ;b\r\n0123456789\r\n000\r\n";
        fine(&format!("{POST}Transfer-Encoding: Chunked\r\n\r\n{chunks}\r\nGET / HTTP/1.1\r\n\r\n"));
        fine(&format!(
            "{POST}Transfer-Encoding: chunked\r\n\r\n{chunks}grpc-status: 0\r\nx: y\r\n\r\n{POST}\r\n"
        ));
    }

    #[test]
    fn two_framings_are_refused_in_either_order() {
        headers_refused(
            "Content-Length: 5\r\nTransfer-Encoding: chunked|\r\n\r\n",
            Offence::LengthAndEncoding,
        );
        headers_refused(
            "Transfer-Encoding: chunked\r\nContent-Length: 5|\r\n\r\n",
            Offence::LengthAndEncoding,
        );
        headers_refused(
            "Transfer-Encoding: chunked\r\nContent-Length: 0|\r\n\r\n",
            Offence::LengthAndEncoding,
        );
    }

    #[test]
    fn lengths_that_are_not_one_plain_number_are_refused() {
        headers_refused("Content-Length: 5\r\nContent-Length: 6|\r\n\r\n", Offence::DifferingLengths);
        for bad in [
            "|+5",
            "|-5",
            "5|, 6",
            "5|,5",
            "5 |6",
            "0|x5",
            "5|.0",
            "|\"5\"",
            "|",
            "|a",
            "922337203685477580|8",
            "1844674407370955161|6",
            "|\u{b}5",
        ] {
            headers_refused(&format!("Content-Length: {bad}\r\n\r\n"), Offence::BadLength);
        }
    }

    #[test]
    fn encodings_other_than_exactly_chunked_are_refused() {
        for bad in [
            "|gzip",
            "|gzip, chunked",
            "chunked|, identity",
            "chunked|, chunked",
            "|identity",
            "|\u{b}chunked",
            "|\"chunked\"",
            "chunked|;q=1",
            "chunke|",
            "chunked |x",
            "c|Xhunked",
            "|",
        ] {
            headers_refused(&format!("Transfer-Encoding: {bad}\r\n\r\n"), Offence::BadEncoding);
        }
        let twice = "Transfer-Encoding: chunked\r\ntransfer-encoding: chunked|\r\n\r\n";
        headers_refused(twice, Offence::RepeatedEncoding);
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked|\r\n\r\n";
        refused(old, Offence::EncodingInHttp10);
    }

    #[test]
    fn line_ends_other_than_crlf_are_refused() {
        refused("GET / HTTP/1.1|\nHost: x\n\n", Offence::BareLf);
        refused("GET /|\n", Offence::BareLf);
        refused("|\nGET / HTTP/1.1\r\n\r\n", Offence::BareLf);
        refused("\r|GET / HTTP/1.1\r\n\r\n", Offence::BareCr);
        refused("GET / HTTP/1.1\r|Host: x\r\n\r\n", Offence::BareCr);
        headers_refused("A: b|\nC: d\r\n\r\n", Offence::BareLf);
        headers_refused("A: b\r|C: d\r\n\r\n", Offence::BareCr);
        headers_refused("A: b\r|\r\n\r\n", Offence::BareCr);
        headers_refused("|\n", Offence::BareLf);
        headers_refused("\r|x", Offence::BareCr);
        headers_refused("A|\n", Offence::BareLf);
        headers_refused("Content-Length: 5|\n", Offence::BareLf);
        headers_refused("Transfer-Encoding: chunked|\n", Offence::BareLf);
        headers_refused("Transfer-Encoding: chunked\r|\r", Offence::BareCr);
    }

    #[test]
    fn malformed_header_lines_are_refused() {
        headers_refused("A: b\r\n| folded\r\n\r\n", Offence::FoldedLine);
        headers_refused("A: b\r\n|\tfolded\r\n\r\n", Offence::FoldedLine);
        refused("GET / HTTP/1.1\r\n| A: b\r\n\r\n", Offence::FoldedLine);
        headers_refused("Transfer-Encoding| : chunked\r\n\r\n", Offence::SpaceBeforeColon);
        headers_refused("A|\t: b\r\n\r\n", Offence::SpaceBeforeColon);
        headers_refused("A| B: c\r\n\r\n", Offence::SpaceBeforeColon);
        headers_refused("|: b\r\n\r\n", Offence::BadHeaderName);
        headers_refused("NoColon|\r\n\r\n", Offence::BadHeaderName);
        headers_refused("Caf|\u{e9}: b\r\n\r\n", Offence::BadHeaderName);
        headers_refused("A|\0: b\r\n\r\n", Offence::ControlByte);
        headers_refused("A: b|\0\r\n\r\n", Offence::ControlByte);
        headers_refused("A: 0123456789abcdef0123456789|\x1b\r\n\r\n", Offence::ControlByte);
        headers_refused("A: |\x7f\r\n\r\n", Offence::ControlByte);
        headers_refused("host|: y\r\n\r\n", Offence::RepeatedHost);
    }

    #[test]
    fn malformed_request_lines_are_refused() {
        for (input, offence) in [
            ("GET /|\r\n", Offence::BadRequestLine),
            ("GET / |\r\n", Offence::BadRequestLine),
            ("GET | / HTTP/1.1\r\n", Offence::BadRequestLine),
            ("GET / | HTTP/1.1\r\n", Offence::BadRequestLine),
            ("GET / HTTP/1.1| \r\n", Offence::BadRequestLine),
            ("GET / HTTP/1.|2\r\n", Offence::BadRequestLine),
            ("PRI * HTTP/|2.0\r\n", Offence::BadRequestLine),
            ("GET / |x HTTP/1.1\r\n", Offence::BadRequestLine),
            ("GET|\t/ HTTP/1.1\r\n", Offence::ControlByte),
            ("GET /|\0 HTTP/1.1\r\n", Offence::ControlByte),
            ("G|(T / HTTP/1.1\r\n", Offence::BadRequestLine),
            ("| GET / HTTP/1.1\r\n", Offence::BadRequestLine),
            ("\r\n\r\n|\r\nGET / HTTP/1.1\r\n", Offence::BadRequestLine),
        ] {
            refused(input, offence);
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for bad in [
            "|\r\n",
            "|;a\r\n",
            "|+5\r\n",
            "|-5\r\n",
            "0|x5\r\n",
            "|g\r\n",
            "5| \r\n",
            "| 5\r\n",
            "5|\nhello",
            "5\r|x",
        ] {
            body_refused(bad, Offence::BadChunkSize);
        }
        body_refused("0000000000000000|0\r\n", Offence::BadChunkSize);
        body_refused("5;a|\nhello", Offence::BadChunkExtension);
        body_refused("5;a\r|hello", Offence::BadChunkExtension);
        body_refused("5;a|\0\r\nhello", Offence::BadChunkExtension);
        body_refused(&format!("5;{}|a\r\nhello", "a".repeat(256)), Offence::BadChunkExtension);
        body_refused("5\r\nhello|0\r\n\r\n", Offence::UnterminatedChunk);
        body_refused("5\r\nhello|\n0\r\n\r\n", Offence::UnterminatedChunk);
        body_refused("5\r\nhello\r|0\r\n\r\n", Offence::UnterminatedChunk);
        body_refused("5\r\nhello\r\n0\r\nA: b|\n\r\n", Offence::BareLf);
        body_refused("5\r\nhello\r\n0\r\nContent-Length|: 5\r\n\r\n", Offence::FramingInTrailers);
        body_refused("0\r\nTransfer-Encoding|: chunked\r\n\r\n", Offence::FramingInTrailers);
        body_refused("0\r\n\r|X", Offence::BareCr);
    }

    #[test]
    fn extensions_may_not_outweigh_a_body() {
        let chunk = format!("1;{}\r\nx\r\n", "e".repeat(256));
        let body = chunk.repeat(70);
        let head = format!("{POST}Transfer-Encoding: chunked\r\n\r\n");
        let (passed, verdict) = feed([head.as_bytes(), body.as_bytes()], Limits::default());
        assert_eq!(verdict, Verdict::Offence(Offence::BadChunkExtension, Place::Body));
        assert!(passed < head.len() + 64 * chunk.len());
    }

    #[test]
    fn heads_beyond_the_limits_are_refused() {
        let limits = Limits { head: 100, headers: 3 };
        let large = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(100));
        assert_eq!(
            inspect_with(large.as_bytes(), limits),
            (100, Verdict::Offence(Offence::HeadTooLarge, Place::Head))
        );
        let many = b"GET / HTTP/1.1\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\n\r\n";
        assert_eq!(inspect_with(many, limits), (34, Verdict::Offence(Offence::TooManyHeaders, Place::Head)));
        let exact = b"GET / HTTP/1.1\r\nA: b\r\nA: b\r\nA: b\r\n\r\nGET / HTTP/1.1\r\n\r\n";
        assert_eq!(inspect_with(exact, limits), (exact.len(), Verdict::Fine));
    }

    #[test]
    fn the_longest_target_passes_and_a_longer_one_does_not() {
        let with = |n: usize| format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(n - 1));
        let longest = with(MAX_TARGET);
        assert_eq!(feed([longest.as_bytes()], Limits::default()), (longest.len(), Verdict::Fine));
        let longer = with(MAX_TARGET + 1);
        let refused = (4 + MAX_TARGET + 1, Verdict::Offence(Offence::TargetTooLong, Place::RequestLine));
        assert_eq!(feed([longer.as_bytes()], Limits::default()), refused);
        assert_eq!(feed(longer.as_bytes().chunks(7), Limits::default()), refused);
    }

    #[test]
    fn a_handover_stops_before_the_bytes_that_follow() {
        let upgrade = "GET /ws HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        let input = format!("{upgrade}\u{81}GET / HTTP/1.1\r\n");
        assert_eq!(inspect(input.as_bytes()), (upgrade.len(), Verdict::Handover(Handover::Upgrade)));
        let connect = "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n";
        let input = format!("{connect}\u{16}\u{3}");
        assert_eq!(inspect(input.as_bytes()), (connect.len(), Verdict::Handover(Handover::Connect)));
        let body = format!("{POST}Upgrade: h2c\r\nContent-Length: 2\r\n\r\nab");
        let input = format!("{body}PRI");
        assert_eq!(inspect(input.as_bytes()), (body.len(), Verdict::Handover(Handover::Upgrade)));
        fine("GET / HTTP/1.0\r\nUpgrade: x\r\n\r\nGET / HTTP/1.1\r\n\r\n");
        fine("CONNECTED a HTTP/1.1\r\n\r\nCONNEC a HTTP/1.1\r\n\r\nCONNECX a HTTP/1.1\r\n\r\n");
        refused("CONNECT a:1 HTTP/1.1\r\nContent-Length: 5|\r\n\r\n", Offence::ConnectWithBody);
        refused("CONNECT a:1 HTTP/1.1\r\nTransfer-Encoding: chunked|\r\n\r\n", Offence::ConnectWithBody);
    }

    #[test]
    fn a_refused_handover_resumes_with_the_next_request() {
        let mut inspector = Inspector::new(Limits::default());
        let upgrade = b"GET / HTTP/1.1\r\nUpgrade: x\r\n\r\n";
        assert_eq!(inspector.inspect(upgrade).verdict, Verdict::Handover(Handover::Upgrade));
        assert_eq!(inspector.inspect(b"G").passed, 0);
        inspector.resume();
        assert_eq!(inspector.inspect(b"GET / HTTP/1.1\r\n\r\n").verdict, Verdict::Fine);
    }

    #[test]
    fn the_end_of_the_head_whose_body_is_read_is_told() {
        let mut inspector = Inspector::new(Limits::default());
        let first = b"GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 3\r\n\r\na";
        assert_eq!(inspector.inspect(first).head_end, Some(first.len() - 1));
        assert_eq!(inspector.inspect(b"b").head_end, None);
        assert_eq!(inspector.inspect(b"cGET / HTTP/1.1\r\n\r\n").head_end, None);
    }

    #[test]
    fn arbitrary_bytes_are_judged_alike_in_any_pieces() {
        // Pieces of requests in a random order reach deep states that random bytes do not.
        const PARTS: &[&str] = &[
            "GET / HTTP/1.1\r\n",
            "POST /x HTTP/1.1\r\n",
            "\r\n",
            "\r",
            "\n",
            "Content-Length: 3\r\n",
            "abc",
            "Transfer-Encoding: chunked\r\n",
            "3\r\n",
            "0\r\n",
            "Host: a\r\n",
            "A: b\r\n",
            " ",
            "\0",
            ";x=y",
            ":",
        ];
        for seed in 0..3000_u64 {
            let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut input = Vec::new();
            for _ in 0..12 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let part = PARTS[(state % PARTS.len() as u64) as usize];
                input.extend_from_slice(part.as_bytes());
            }
            inspect_with(&input, Limits { head: 60, headers: 3 });
        }
    }
}
