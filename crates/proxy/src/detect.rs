//! Which protocol a connection speaks, told by its first bytes.
//!
//! [`detect`] is asked again with all bytes so far until it can say, so that a request line, a preface or
//! a ClientHello may arrive in any pieces. `serve` reads ahead with it, within the detect timeout and
//! [`LIMIT`] bytes. Pure, and never panics: what it reads comes from anybody. It does not validate: hyper
//! and rustls do, and refuse what only looked like their protocol.

/// Most bytes worth reading ahead. With so many, [`detect`] always decides.
pub const LIMIT: usize = 16 * 1024;

/// Longest method that counts as one; the longest registered is UPDATEREDIRECTREF, 17.
const MAX_METHOD: usize = 24;

/// A target longer than this is not waited for: after so much of a request line it is one.
const MAX_TARGET: usize = 8 * 1024;

/// How an HTTP/2 connection begins (RFC 9113 §3.4). Its first line decides, as for the peer.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PREFACE_LINE: usize = 14;

/// What the first bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detected {
    /// An HTTP/1 request line.
    Http1,
    /// The HTTP/2 preface.
    Http2,
    /// A whole ClientHello.
    Tls(ClientHello),
    /// None of these.
    Opaque,
    /// Could still become one. When no more comes (end, or time), it is opaque.
    NeedMore,
}

/// What a ClientHello asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name, in lower case; `None` if absent or not a name.
    pub sni: Option<String>,
    /// The application protocols offered, in the client's order.
    pub alpn: Vec<Vec<u8>>,
}

/// Judges all bytes of a connection so far.
pub fn detect(bytes: &[u8]) -> Detected {
    match bytes.first() {
        None => Detected::NeedMore,
        Some(&HANDSHAKE) => tls(bytes),
        Some(_) => http(bytes),
    }
}

/// METHOD SP target SP HTTP/1.x, or the preface, which only looks like it.
fn http(bytes: &[u8]) -> Detected {
    let preface = &PREFACE[..PREFACE_LINE];
    if bytes.starts_with(preface) {
        return Detected::Http2;
    }
    if preface.starts_with(bytes) {
        return Detected::NeedMore;
    }
    // Empty lines before a request line are passed over (RFC 9112 §2.2); the guard bounds them.
    let empty = bytes.iter().take(4).take_while(|b| matches!(b, b'\r' | b'\n')).count();
    let bytes = bytes.get(empty..).unwrap_or_default();
    let method = bytes.iter().take(MAX_METHOD + 1).take_while(|b| is_token(**b)).count();
    let Some((separator, rest)) = bytes.get(method..).and_then(<[u8]>::split_first) else {
        return if method > MAX_METHOD { Detected::Opaque } else { Detected::NeedMore };
    };
    if method == 0 || method > MAX_METHOD || *separator != b' ' {
        return Detected::Opaque;
    }
    let target = rest.iter().take_while(|b| is_target(**b)).count();
    match rest.get(target..).and_then(<[u8]>::split_first) {
        None if target > MAX_TARGET => Detected::Http1,
        None => Detected::NeedMore,
        Some((b' ', version)) if target > 0 => self::version(version),
        Some(_) => Detected::Opaque,
    }
}

/// Decides at the digit of the minor version: what follows is the HTTP engine's to judge.
fn version(bytes: &[u8]) -> Detected {
    const VERSION: &[u8] = b"HTTP/1.";
    match bytes.strip_prefix(VERSION).map(<[u8]>::first) {
        Some(Some(b'0'..=b'9')) => Detected::Http1,
        Some(None) => Detected::NeedMore,
        None if VERSION.starts_with(bytes) => Detected::NeedMore,
        Some(Some(_)) | None => Detected::Opaque,
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_target(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f
}

/// Content type of a handshake record (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;
/// Handshake type of a ClientHello (§4).
const CLIENT_HELLO: u8 = 1;
/// Most payload of a plaintext record (§5.1).
const MAX_RECORD: usize = 1 << 14;

/// A ClientHello in one or more records of one or more segments.
fn tls(bytes: &[u8]) -> Detected {
    // How much there is, without copying: this is asked anew for each segment.
    let mut available = 0;
    let mut header = [0; 4];
    let mut records = Records { bytes };
    for payload in records.by_ref() {
        for (slot, byte) in header.iter_mut().skip(available).zip(payload) {
            *slot = *byte;
        }
        available += payload.len();
    }
    let [kind, length @ ..] = header;
    let length = usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]);
    if available > 0 && kind != CLIENT_HELLO || available >= 4 && length + 4 > LIMIT {
        return Detected::Opaque;
    }
    if available < 4 || available - 4 < length {
        let hopeless = records.is_broken() || bytes.len() >= LIMIT;
        return if hopeless { Detected::Opaque } else { Detected::NeedMore };
    }
    let message: Vec<u8> = Records { bytes }.flatten().skip(4).take(length).copied().collect();
    hello(&message).map_or(Detected::Opaque, Detected::Tls)
}

/// The payloads of handshake records, the last as far as it has come.
struct Records<'a> {
    bytes: &'a [u8],
}

impl Records<'_> {
    /// Whether what comes next can be no handshake record.
    fn is_broken(&self) -> bool {
        let known = |at: usize, fits: &dyn Fn(u8) -> bool| self.bytes.get(at).is_none_or(|b| fits(*b));
        let length = |high: u8, low: u8| usize::from(high) << 8 | usize::from(low);
        let sized = match self.bytes {
            [_, _, _, high, low, ..] => (1..=MAX_RECORD).contains(&length(*high, *low)),
            _ => true,
        };
        // Major version 3 and a minor one up to TLS 1.3's; clients write 1 or 3 (§5.1).
        !(known(0, &|b| b == HANDSHAKE) && known(1, &|b| b == 3) && known(2, &|b| b <= 4) && sized)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let [_, _, _, high, low, rest @ ..] = self.bytes else { return None };
        if rest.is_empty() || self.is_broken() {
            return None;
        }
        let length = usize::from(*high) << 8 | usize::from(*low);
        let (payload, next) = rest.split_at(length.min(rest.len()));
        self.bytes = next;
        Some(payload)
    }
}

/// A reader of TLS structures: everything it gives lies within the message.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<usize> {
        self.take(1).map(|b| usize::from(b[0]))
    }

    fn u16(&mut self) -> Option<usize> {
        self.take(2).map(|b| usize::from(b[0]) << 8 | usize::from(b[1]))
    }

    fn vec8(&mut self) -> Option<&'a [u8]> {
        let n = self.u8()?;
        self.take(n)
    }

    fn vec16(&mut self) -> Option<&'a [u8]> {
        let n = self.u16()?;
        self.take(n)
    }
}

/// The body of a ClientHello (§4.1.2), or `None` if it is malformed.
fn hello(message: &[u8]) -> Option<ClientHello> {
    const SERVER_NAME: usize = 0;
    const ALPN: usize = 16;
    let mut reader = Reader(message);
    reader.take(2 + 32)?; // legacy version, random
    reader.vec8().filter(|session| session.len() <= 32)?;
    reader.vec16()?; // cipher suites
    reader.vec8()?; // compression methods
    let mut found = ClientHello::default();
    if reader.0.is_empty() {
        return Some(found); // before TLS 1.2 there may be no extensions
    }
    let mut extensions = Reader(reader.vec16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let body = extensions.vec16()?;
        match kind {
            SERVER_NAME => found.sni = server_name(body),
            ALPN => found.alpn = protocols(body)?,
            _ => {}
        }
    }
    Some(found)
}

/// The first host name of the list (RFC 6066 §3).
fn server_name(body: &[u8]) -> Option<String> {
    const HOST_NAME: usize = 0;
    let mut list = Reader(Reader(body).vec16()?);
    while !list.0.is_empty() {
        let kind = list.u8()?;
        let name = list.vec16()?;
        if kind == HOST_NAME {
            let name = std::str::from_utf8(name).ok()?;
            let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
            let valid = (1..=253).contains(&name.len()) && name.bytes().all(is_name);
            return valid.then(|| name.to_ascii_lowercase());
        }
    }
    None
}

/// The protocol names (RFC 7301 §3.1).
fn protocols(body: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut list = Reader(Reader(body).vec16()?);
    let mut found = Vec::new();
    while !list.0.is_empty() {
        found.push(list.vec8()?.to_vec());
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict, which no shorter prefix may contradict: each is either the same or `NeedMore`, and once
    /// decided it stays.
    fn check(bytes: &[u8], expected: &Detected) {
        assert_eq!(&detect(bytes), expected, "{}", bytes.escape_ascii());
        let mut decided = false;
        for n in 0..=bytes.len() {
            let so_far = detect(&bytes[..n]);
            decided |= so_far != Detected::NeedMore;
            let right = if decided { expected } else { &Detected::NeedMore };
            assert_eq!(&so_far, right, "after {n} of {}", bytes.escape_ascii());
        }
    }

    #[test]
    fn request_lines_are_http1_as_soon_as_the_version_is_seen() {
        for line in [
            "GET / HTTP/1.1",
            "GET / HTTP/1.0\r\n",
            "\r\nPOST /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\n",
            "CONNECT example.com:443 HTTP/1.1\r\n",
            "GET http://a.example/ HTTP/1.1\r\n",
            "UPDATEREDIRECTREF /x HTTP/1.1\r\n",
            "M-SEARCH * HTTP/1.1\r\n",
            "ABCDEFGHIJKLMNOPQRSTUVWX / HTTP/1.1",
            "PRI / HTTP/1.1\r\n",
            "GET /caf\u{e9} HTTP/1.1\r\n",
        ] {
            check(line.as_bytes(), &Detected::Http1);
        }
        let long = format!("GET /{}", "a".repeat(MAX_TARGET));
        assert_eq!(detect(long.as_bytes()), Detected::Http1);
    }

    #[test]
    fn unfinished_beginnings_wait() {
        for beginning in
            ["", "G", "GET", "GET ", "GET /", "GET / ", "GET / HTTP/1.", "\r\n", "PRI", "PRI * HTTP/2."]
        {
            check(beginning.as_bytes(), &Detected::NeedMore);
        }
    }

    #[test]
    fn the_preface_is_http2() {
        check(PREFACE, &Detected::Http2);
        check(b"PRI * HTTP/2.0", &Detected::Http2);
    }

    #[test]
    fn other_protocols_are_told_early() {
        for bytes in [
            &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
            b"\0\0\0\x12",
            b"*1\r\n$4\r\nPING\r\n",
            b"GET\r\n",
            b"GET  / HTTP/1.1\r\n",
            b"GET /\r\n",
            b"GET / x",
            b"GET / HTTP/2.0",
            b"GET / HTTP/1.x",
            b"EHLO client.example\r\n",
            b"GET /a\0b HTTP/1.1",
            b"ABCDEFGHIJKLMNOPQRSTUVWXY / HTTP/1.1",
            b" GET / HTTP/1.1",
            b"{\"a\":1}",
            b"\x80GET",
        ] {
            check(bytes, &Detected::Opaque);
        }
        assert_eq!(detect(b"ABCDEFGHIJKLMNOPQRSTUVWXY"), Detected::Opaque);
        assert_eq!(detect(b"SSH-2.0-OpenSSH_9.2\r"), Detected::Opaque);
    }

    fn vec8(bytes: &[u8]) -> Vec<u8> {
        [&[bytes.len() as u8], bytes].concat()
    }

    fn vec16(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
    }

    fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vec16(body)].concat()
    }

    fn sni(name: &str) -> Vec<u8> {
        extension(0, &vec16(&[&[0][..], &vec16(name.as_bytes())].concat()))
    }

    /// A ClientHello's handshake message.
    fn message(extensions: &[u8]) -> Vec<u8> {
        let suites = vec16(&[0x13, 1]);
        let body =
            [&[3, 3][..], &[7; 32], &vec8(&[9; 32]), &suites, &vec8(&[0]), &vec16(extensions)].concat();
        [&[CLIENT_HELLO, 0][..], &vec16(&body)].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(|part| [&[HANDSHAKE, 3, 1][..], &vec16(part)].concat()).collect()
    }

    #[test]
    fn a_client_hello_is_read_from_any_records_and_segments() {
        let alpn = extension(16, &vec16(&[vec8(b"h2"), vec8(b"http/1.1")].concat()));
        let message = message(&[extension(0x0a0a, b""), sni("Web.Default.Example"), alpn].concat());
        let expected = ClientHello {
            sni: Some("web.default.example".to_owned()),
            alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        for size in 1..=message.len() {
            check(&records(&message, size), &Detected::Tls(expected.clone()));
        }
        let more = [records(&message, 5), b"\x14\x03\x03\0\x01\x01".to_vec()].concat();
        assert_eq!(detect(&more), Detected::Tls(expected));
    }

    #[test]
    fn names_that_are_none_count_as_absent() {
        for name in ["", "a b", "caf\u{e9}", "a\0b", &"a".repeat(254)] {
            let expected = Detected::Tls(ClientHello::default());
            assert_eq!(detect(&records(&message(&sni(name)), 400)), expected, "{name:?}");
        }
        assert_eq!(detect(&records(&message(&[]), 400)), Detected::Tls(ClientHello::default()));
    }

    #[test]
    fn what_only_begins_like_tls_is_opaque() {
        for bytes in [
            &[22, 2][..],
            &[22, 3, 9],
            &[22, 3, 1, 0, 0],
            &[22, 3, 1, 0x40, 1],
            &[22, 3, 1, 0, 5, 2],
            &[22, 3, 1, 0, 5, 1, 0, 0x40, 0],
            &[22, 3, 1, 0, 4, 1, 0, 0, 0],
            &[22, 3, 1, 0, 2, 1, 0, 23],
        ] {
            check(bytes, &Detected::Opaque);
        }
    }

    #[test]
    fn a_client_hello_beyond_the_limit_is_not_waited_for() {
        let large = message(&extension(21, &[0; 20_000]));
        assert_eq!(detect(&records(&large, 1000)[..40]), Detected::Opaque);
        // Below the limit as a message, but not in records of one byte.
        let bloated = records(&message(&extension(21, &[0; 8000])), 1);
        assert_eq!(detect(&bloated[..LIMIT - 1]), Detected::NeedMore);
        assert_eq!(detect(&bloated[..LIMIT]), Detected::Opaque);
    }

    #[test]
    fn damaged_hellos_and_noise_never_panic_and_always_decide_at_the_limit() {
        let whole = records(&message(&[sni("a.example"), extension(16, &vec16(&vec8(b"h2")))].concat()), 60);
        for at in 0..whole.len() {
            for value in [0, 1, 2, 3, 22, 0x7f, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                let _ = detect(&damaged);
            }
        }
        let mut state = 1_u64;
        for round in 0..2000 {
            let noise: Vec<u8> = (0..40 + round % 50)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            let _ = detect(&noise);
            let _ = detect(&[b"\x16\x03\x01\x00", &noise[..]].concat());
        }
        for byte in 0..=255 {
            assert_ne!(detect(&[byte; LIMIT]), Detected::NeedMore, "{byte}");
            assert_ne!(detect(&[b"GET ", &[byte; LIMIT - 4][..]].concat()), Detected::NeedMore, "{byte}");
        }
    }
}
