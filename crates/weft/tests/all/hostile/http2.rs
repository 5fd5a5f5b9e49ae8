//! HTTP/2 clients that make the proxy work or remember more than they pay for.

use crate::hostile::frames::*;
use crate::hostile::world::{Answers, World, until};
use std::io::Write;
use std::time::Duration;

const FLOODS: &str = "weft_reasons_total{direction=\"inbound\",code=\"http2-flood\",phase=\"head\"}";

/// Sends an attack; the proxy must close with ENHANCE_YOUR_CALM, count it, stay small and serve others.
#[track_caller]
fn is_a_flood(world: &World, name: &str, attack: &[u8]) {
    let before = world.metric(FLOODS);
    let mut stream = world.connect();
    let said = goaway(&mut stream, &[opening(&[]), attack.to_vec()].concat());
    // The last word may be lost where the client still sends: its kernel throws away what it had received.
    assert!(said.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{name}: {said:?}");
    until(name, || world.metric(FLOODS) == before + 1);
    world.is_small();
    world.serves();
}

fn get(id: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, id, &request("GET", &[]))
}

fn ids() -> impl Iterator<Item = u32> {
    (0..).map(|n| 2 * n + 1)
}

/// Two bounds hold resets: of streams that were not accepted yet, and of all in a second. Each suffices alone.
#[test]
fn resets_as_fast_as_can_be_end_with_enhance_your_calm() {
    let unaccepted = "--inbound-server-http2-max-pending-accept-reset-streams";
    for (flags, by_rate) in [
        (vec![], None),
        (vec!["--http2-max-resets-per-second", "1000000"], Some(0)),
        (vec![unaccepted, "1000000"], Some(1)),
    ] {
        let world = World::new(Answers::Short, &flags);
        let reset = |id| frame(RST_STREAM, 0, id, &8u32.to_be_bytes());
        let rapid: Vec<u8> = ids().take(4000).flat_map(|id| [get(id), reset(id)].concat()).collect();
        is_a_flood(&world, &format!("rapid reset with {flags:?}"), &rapid);
        let reached = world.reached("http2-max-resets-per-second");
        assert!(by_rate.is_none_or(|times| times == reached), "{flags:?}: {reached}");
    }
}

#[test]
fn pings_and_settings_without_end_end_with_enhance_your_calm() {
    let world = World::new(Answers::Short, &[]);
    let pings = frame(PING, 0, 0, &[0; 8]).repeat(12_000);
    is_a_flood(&world, "PING flood", &pings);

    let settings = frame(SETTINGS, 0, 0, &[]).repeat(12_000);
    is_a_flood(&world, "SETTINGS flood", &settings);
    assert_eq!(world.reached("http2-max-pings-per-second"), 2);
}

#[test]
fn a_header_list_in_pieces_without_end_ends_with_enhance_your_calm() {
    let world = World::new(Answers::Short, &[]);
    let mut block = frame(HEADERS, 0, 1, &request("GET", &[]));
    block.extend(frame(CONTINUATION, 0, 1, &[]).repeat(5_000));
    is_a_flood(&world, "CONTINUATION flood", &block);
}

/// Bounded by h2 itself.
#[test]
fn data_frames_that_carry_nothing_end_with_enhance_your_calm() {
    let world = World::new(Answers::Short, &[]);
    let mut empty = frame(HEADERS, END_HEADERS, 1, &request("POST", &[]));
    empty.extend(frame(DATA, 0, 1, &[]).repeat(20_000));
    is_a_flood(&world, "empty DATA flood", &empty);
}

/// MadeYouReset: each stream is broken by its client such that we reset it.
#[test]
fn resets_that_a_client_has_us_make_end_with_enhance_your_calm() {
    let world = World::new(Answers::Short, &[]);
    let open = |id| frame(HEADERS, END_HEADERS, id, &request("POST", &[("content-length", "1")]));
    let made: Vec<u8> =
        ids().take(4000).flat_map(|id| [open(id), frame(DATA, 0, id, b"abc")].concat()).collect();
    is_a_flood(&world, "MadeYouReset", &made);

    // The same by a window beyond its bound, which h2 answers in another place.
    let beyond = |id| frame(WINDOW_UPDATE, 0, id, &0x7fff_ffff_u32.to_be_bytes());
    let made: Vec<u8> = ids().take(4000).flat_map(|id| [open(id), beyond(id)].concat()).collect();
    let mut stream = world.connect();
    let _ = stream.write_all(&[opening(&[]), made].concat());
    world.is_small();
    world.serves();
}

/// One byte a field, each standing for 4 KiB, on as many streams as may be, and nobody takes the answers: lists beyond
/// the limit are refused, what is within it is answered, and of 80 answers of 64 MiB not a byte is sent or stored.
#[test]
fn header_compression_and_a_closed_window_do_not_amplify() {
    let world = World::new(Answers::Long, &[]);
    let before = world.settled();
    let heads = || String::from_utf8(world.received()).unwrap().matches("GET /a ").count();
    let mut streams = Vec::new();
    for n in 1..=4 {
        let mut stream = world.connect();
        let zero_window = [0, 4, 0, 0, 0, 0];
        stream.write_all(&opening(&zero_window)).unwrap();
        // Forwarded as HTTP/1, which the application speaks.
        let carried = request("GET", &[("l5d-orig-proto", "HTTP/1.1")]);
        let mut first = carried.clone();
        // A literal with incremental indexing: name and a value of 4,000 bytes; 62 is its index afterwards.
        first.extend([0x40, 1, b'x', 0x7f]);
        first.extend([0xa1, 0x1e]); // 127 + 33 + 30 * 128 = 4,000
        first.extend(vec![b'v'; 4000]);
        let mut attack = frame(HEADERS, END_HEADERS | END_STREAM, 1, &first);
        for id in ids().skip(1).take(19) {
            let block = [carried.as_slice(), &[0xbe; 10]].concat(); // 40 KB, decoded
            attack.extend(frame(HEADERS, END_HEADERS | END_STREAM, id, &block));
        }
        stream.write_all(&attack).unwrap();
        until("all within the limit are being answered", || heads() == 20 * n);
        let mut attack = Vec::new();
        for id in ids().skip(20).take(180) {
            let block = [carried.as_slice(), &[0xbe; 10_000]].concat(); // 40 MB each, decoded
            attack.extend(frame(HEADERS, END_HEADERS | END_STREAM, id, &block));
        }
        // The proxy may close before it has read all.
        let _ = stream.write_all(&attack);
        streams.push(stream);
    }
    world.serves_long();
    let grown = world.settled().saturating_sub(before);
    println!("80 answers held back take {} KiB", grown >> 10);
    // What a connection to the application reads ahead, and a large head.
    assert!(grown < 80 * (256 << 10), "80 answers held back take {} MiB", grown >> 20);
    world.is_small();
    assert_eq!(heads(), 80, "no list beyond the limit got through");
    for stream in &mut streams {
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let (mut answered, mut bytes) = (0, 0);
        while let Some((kind, _, id, payload)) = read(stream) {
            // 0x88 is `:status: 200` (RFC 7541, appendix A).
            answered += usize::from(kind == HEADERS && id < 40 && payload.first() == Some(&0x88));
            bytes += if kind == DATA { payload.len() } else { 0 };
        }
        assert_eq!((answered, bytes), (20, 0), "heads, and bytes through a window that is shut");
    }
}

#[test]
fn requests_that_no_http1_application_should_see_never_reach_it() {
    let world = World::new(Answers::Short, &[]);
    let with = |more: &[(&str, &str)]| frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("POST", more));
    let posts = |length, body: &[u8]| {
        let open = frame(HEADERS, END_HEADERS, 1, &request("POST", &[("content-length", length)]));
        [open, frame(DATA, END_STREAM, 1, body)].concat()
    };
    for (name, attack) in [
        ("connection", with(&[("connection", "close")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("upgrade", with(&[("upgrade", "websocket")])),
        ("keep-alive", with(&[("keep-alive", "1")])),
        ("proxy-connection", with(&[("proxy-connection", "close")])),
        ("te other than trailers", with(&[("te", "chunked")])),
        ("upper case", with(&[("Content-Length", "0")])),
        ("line feed in a value", with(&[("x", "a\r\ncontent-length: 40")])),
        ("line feed in a name", with(&[("x\r\ny", "a")])),
        ("blank in a name", with(&[("content-length ", "40")])),
        ("pseudo field behind", with(&[("x", "y"), (":path", "/b")])),
        ("a length without a body", with(&[("content-length", "40")])),
        ("differing lengths", with(&[("content-length", "0"), ("content-length", "40")])),
        ("a longer body", posts("1", b"abc")),
        ("a shorter body", posts("40", b"abc")),
    ] {
        let before = world.received().len();
        let mut stream = world.connect();
        stream.write_all(&[opening(&[]), attack].concat()).unwrap();
        let mut status = None;
        while let Some((kind, _, id, payload)) = read(&mut stream) {
            match kind {
                HEADERS if id == 1 => status = payload.first().copied(),
                RST_STREAM | GOAWAY => {}
                _ => continue,
            }
            break;
        }
        // 0x88 is `:status: 200` (RFC 7541, appendix A).
        assert_ne!(status, Some(0x88), "{name}");
        let received = String::from_utf8_lossy(&world.received()[before..]).into_owned();
        let requests = received.matches(" HTTP/1.1").count();
        let unfinished = name.ends_with("body") && requests <= 1;
        assert!(requests == 0 || unfinished, "{name}: the application got {received:?}");
    }
    world.serves();
}

#[test]
fn streams_beyond_the_limit_are_refused() {
    let world = World::new(Answers::Short, &["--inbound-server-http2-max-concurrent-streams", "10"]);
    let mut stream = world.connect();
    // Requests whose bodies never end.
    let open = ids().take(12).flat_map(|id| frame(HEADERS, END_HEADERS, id, &request("POST", &[])));
    stream.write_all(&[opening(&[]), open.collect()].concat()).unwrap();
    let refused =
        std::iter::from_fn(|| read(&mut stream)).find(|f| f.0 == RST_STREAM || f.0 == GOAWAY).unwrap();
    assert_eq!((refused.0, refused.3), (RST_STREAM, 7u32.to_be_bytes().to_vec()));
    until("the honest are served", || {
        world.exchange(b"GET /honest HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").contains(" 200 ")
    });
}

/// As many streams as may be, whose windows are opened as wide as can be once all are being answered, and nobody reads:
/// what waits for one connection is bounded, however many streams it has.
#[test]
fn wide_windows_and_a_client_that_does_not_read_fill_one_bound_and_not_one_a_stream() {
    let world = World::new(Answers::Long, &[]);
    let before = world.settled();
    let mut stream = world.connect();
    let window = |size: u32| [&[0, 4], size.to_be_bytes().as_slice()].concat();
    stream.write_all(&opening(&window(0))).unwrap();
    let heads = || String::from_utf8(world.received()).unwrap().matches("GET /a ").count();
    for n in 0..10 {
        // A few at a time: the application's backlog is short.
        let carried = request("GET", &[("l5d-orig-proto", "HTTP/1.1")]);
        let get = |id| frame(HEADERS, END_HEADERS | END_STREAM, id, &carried);
        let requests: Vec<u8> = ids().skip(20 * n).take(20).flat_map(get).collect();
        stream.write_all(&requests).unwrap();
        until("all are being answered", || heads() >= 20 * (n + 1));
    }
    let shut = world.settled();
    let wider = frame(WINDOW_UPDATE, 0, 0, &(0x7fff_ffff_u32 - 65_535).to_be_bytes());
    stream.write_all(&[wider, frame(SETTINGS, 0, 0, &window(0x7fff_ffff))].concat()).unwrap();
    world.serves_long();
    let open = world.settled();
    println!("200 streams take {} KiB, then {}", (shut - before) >> 10, open.saturating_sub(before) >> 10);
    // The bound itself is 1 MiB; the rest is a frame a stream and what its connection to the application reads ahead,
    // 16 KiB each at the beginning of a body, and up to 132 KiB once it has grown. Without it: 141 MiB.
    assert!(open < before + (40 << 20), "200 streams take {} MiB", (open - before) >> 20);
    world.is_small();
    world.serves_long();
    drop(stream);
}
