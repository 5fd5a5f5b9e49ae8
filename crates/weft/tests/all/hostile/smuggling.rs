//! Requests that two readers could cut differently: the application gets nothing, or exactly one request.
//!
//! Two layers refuse them, `net/head.rs` and then hyper. Without the first, both kinds of CL with TE, bare LFs, two hosts,
//! two TEs, `gzip, chunked` and a CL among the trailers reach the application; the others hyper refuses, too.

use crate::hostile::world::{Answers, World};

/// What becomes of a request.
enum Verdict {
    /// Answered 400 with the connection closed; the application got nothing.
    Refused,
    /// The application may have got the head of one request whose body then broke off; never a second one.
    Broken,
}
use Verdict::{Broken, Refused};

/// What a smuggler would have the application take for a request.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: web\r\n\r\n";

/// Name, head and body without the last empty line of the head, verdict. `SMUGGLED` follows each.
const SHAPES: &[(&str, &str, Verdict)] = &[
    (
        "CL then TE",
        "POST /a HTTP/1.1\r\nhost: web\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "TE then CL",
        "POST /a HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "CL 0 and TE",
        "POST /a HTTP/1.1\r\nhost: web\r\ncontent-length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "differing CLs",
        "POST /a HTTP/1.1\r\nhost: web\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
        Refused,
    ),
    ("a list of differing CLs", "POST /a HTTP/1.1\r\nhost: web\r\ncontent-length: 3, 4\r\n\r\nabc", Refused),
    ("CL with a sign", "POST /a HTTP/1.1\r\nhost: web\r\ncontent-length: +3\r\n\r\nabc", Refused),
    ("negative CL", "POST /a HTTP/1.1\r\nhost: web\r\ncontent-length: -3\r\n\r\nabc", Refused),
    ("hexadecimal CL", "POST /a HTTP/1.1\r\nhost: web\r\ncontent-length: 0x3\r\n\r\nabc", Refused),
    (
        "CL beyond 64 bits",
        "POST /a HTTP/1.1\r\nhost: web\r\ncontent-length: 18446744073709551619\r\n\r\nabc",
        Refused,
    ),
    ("empty CL", "POST /a HTTP/1.1\r\nhost: web\r\ncontent-length:\r\n\r\n", Refused),
    ("blank before the colon", "POST /a HTTP/1.1\r\nhost: web\r\ncontent-length : 3\r\n\r\nabc", Refused),
    ("bare LF in the request line", "GET /a HTTP/1.1\nhost: web\r\n\r\n", Refused),
    ("bare LF after a field", "GET /a HTTP/1.1\r\nhost: web\nx: y\r\n\r\n", Refused),
    ("bare LF at the head's end", "GET /a HTTP/1.1\r\nhost: web\r\n\n", Refused),
    ("bare CR in a value", "GET /a HTTP/1.1\r\nhost: web\r\nx: a\rb\r\n\r\n", Refused),
    ("bare CR hides a field", "POST /a HTTP/1.1\r\nhost: web\r\nx: a\rcontent-length: 40\r\n\r\n", Refused),
    ("obs-fold", "GET /a HTTP/1.1\r\nhost: web\r\nx: a\r\n b\r\n\r\n", Refused),
    (
        "obs-fold of TE",
        "POST /a HTTP/1.1\r\nhost: web\r\ntransfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    ("NUL in a value", "GET /a HTTP/1.1\r\nhost: web\r\nx: a\0b\r\n\r\n", Refused),
    ("two hosts", "GET /a HTTP/1.1\r\nhost: web\r\nhost: other\r\n\r\n", Refused),
    ("TE identity", "POST /a HTTP/1.1\r\nhost: web\r\ntransfer-encoding: identity\r\n\r\n", Refused),
    ("TE xchunked", "POST /a HTTP/1.1\r\nhost: web\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n", Refused),
    (
        "TE chunked, identity",
        "POST /a HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "TE gzip, chunked",
        "POST /a HTTP/1.1\r\nhost: web\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "two TEs",
        "POST /a HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "TE with a vertical tab",
        "POST /a HTTP/1.1\r\nhost: web\r\ntransfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "quoted TE",
        "POST /a HTTP/1.1\r\nhost: web\r\ntransfer-encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "HTTP/1.0 with TE",
        "POST /a HTTP/1.0\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "empty chunk size",
        "POST /a HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n\r\n\r\n",
        Broken,
    ),
    (
        "chunk size with 0x",
        "POST /a HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
        Broken,
    ),
    (
        "chunk size with a sign",
        "POST /a HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n",
        Broken,
    ),
    (
        "chunk size beyond 64 bits",
        "POST /a HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n",
        Broken,
    ),
    (
        "chunk size with bare LF",
        "POST /a HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
        Broken,
    ),
    (
        "chunk longer than its size",
        "POST /a HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        Broken,
    ),
    (
        "bare LF in a chunk extension",
        "POST /a HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n3;a\nb\r\nabc\r\n0\r\n\r\n",
        Broken,
    ),
    (
        "bare CR in a chunk extension",
        "POST /a HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n3;a\rb\r\nabc\r\n0\r\n\r\n",
        Broken,
    ),
    (
        "CL among the trailers",
        "POST /a HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n0\r\ncontent-length: 40\r\n\r\n",
        Broken,
    ),
];

#[test]
fn the_application_gets_nothing_or_one_request() {
    let world = World::new(Answers::Short, &[]);
    let mut wrong = Vec::new();
    for (name, bytes, verdict) in SHAPES {
        let before = world.received().len();
        let answer = world.exchange(format!("{bytes}{SMUGGLED}").as_bytes());
        let received = String::from_utf8_lossy(&world.received()[before..]).into_owned();
        let fine = match verdict {
            Refused => answer.starts_with("HTTP/1.1 400") && received.is_empty(),
            Broken => {
                !answer.contains(" 200 ")
                    && !received.contains("smuggled")
                    && received.matches("HTTP/1.1").count() <= 1
            }
        };
        if !fine || answer.matches("HTTP/1.1 ").count() > 1 {
            wrong.push(format!("{name}: answered {answer:?}, the application got {received:?}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    world.serves();
}

#[test]
fn what_is_unambiguous_arrives_normalised() {
    let world = World::new(Answers::Short, &[]);
    for (name, request, body) in [
        ("a length", "content-length: 3\r\n\r\nabc", "abc"),
        ("chunks", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n"),
        (
            "an extension",
            "transfer-encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
        ),
        ("equal lengths", "content-length: 3\r\ncontent-length: 3\r\n\r\nabc", "abc"),
        ("other case", "TRANSFER-ENCODING: Chunked\r\n\r\n03\r\nabc\r\n0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n"),
        ("hidden by connection", "connection: close, content-length\r\ncontent-length: 3\r\n\r\nabc", "abc"),
    ] {
        let before = world.received().len();
        let answer = world
            .exchange(format!("POST /a HTTP/1.1\r\nhost: web\r\nconnection: close\r\n{request}").as_bytes());
        let received = String::from_utf8_lossy(&world.received()[before..]).into_owned();
        let (head, got) = received.split_once("\r\n\r\n").unwrap_or_default();
        assert!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}");
        assert!(head.starts_with("POST /a HTTP/1.1\r\n"), "{name}: {received}");
        assert_eq!(got, body, "{name}: {received}");
        let framing = head.to_ascii_lowercase();
        let lines = framing
            .lines()
            .filter(|l| l.starts_with("content-length:") || l.starts_with("transfer-encoding:"));
        assert_eq!(lines.count(), 1, "{name}: {received}");
    }
}
