//! Bounds on heads and connections, driven past.

use crate::hostile::frames::*;
use crate::hostile::world::{Answers, PATIENCE, World, everywhere, until};
use std::io::{Read, Write};
use std::net::TcpStream;

#[test]
fn oversized_heads_are_refused_and_counted() {
    let world = World::new(Answers::Short, &[]);
    let big = format!("GET /a HTTP/1.1\r\nhost: web\r\nx: {}\r\n\r\n", "v".repeat(200 << 10));
    assert!(world.exchange(big.as_bytes()).starts_with("HTTP/1.1 431"));
    let many = format!("GET /a HTTP/1.1\r\nhost: web\r\n{}\r\n", "x: y\r\n".repeat(250));
    assert!(world.exchange(many.as_bytes()).starts_with("HTTP/1.1 431"));
    let long = format!("GET /{} HTTP/1.1\r\nhost: web\r\n\r\n", "a".repeat(70 << 10));
    assert!(world.exchange(long.as_bytes()).starts_with("HTTP/1.1 414"));
    assert!(world.received().is_empty());
    until("they are counted", || world.reached("inbound-http1-max-header-bytes") == 2);
    until("they are counted", || world.reached("inbound-http1-max-headers") == 1);
    world.serves();
    world.is_small();
}

/// Opens connections that say nothing.
fn silent(world: &World, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| world.connect()).collect()
}

#[test]
fn a_source_has_so_many_connections_and_no_more() {
    let world = World::new(Answers::Short, &["--inbound-max-connections-per-source", "20"]);
    let held = silent(&world, 20);
    until("all are open", || world.open_connections() == 20);
    let mut beyond = world.connect();
    let mut nothing = [0];
    assert!(matches!(beyond.read(&mut nothing), Ok(0) | Err(_)), "closed at once");
    assert_eq!(world.reached("inbound-max-connections-per-source"), 1);
    drop(held);
    until("they are gone", || world.open_connections() == 0);
    world.serves();
}

#[test]
fn a_listener_at_its_bound_pauses_and_recovers() {
    let world = World::new(Answers::Short, &["--inbound-max-connections", "20"]);
    let held = silent(&world, 20);
    until("all are open", || world.open_connections() == 20);
    let mut waiting = world.connect();
    waiting.write_all(b"GET /honest HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").unwrap();
    until("it is counted", || world.reached("inbound-max-connections") == 1);
    drop(held);
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn a_proxy_without_descriptors_pauses_and_recovers() {
    let world = World::within(Answers::Short, &[], Some(64));
    let held = silent(&world, 100);
    until("it has no descriptor left", || world.descriptors() >= 64);
    // The admin server has none either, so what was counted is read afterwards.
    drop(held);
    until("the pause is counted", || {
        world.try_metric("weft_accept_pauses_total{listener=\"bind\"}").is_some_and(|pauses| pauses > 0)
    });
    world.serves();
    world.is_small();
}

#[test]
fn many_silent_connections_cost_little() {
    // In a debug build, whose tasks are several times as large as a release build's.
    let world = World::new(Answers::Short, &[]);
    let held = silent(&world, 1_500);
    until("all are open", || world.open_connections() == 1_500);
    world.serves();
    world.is_small();
    drop(held);
}

#[test]
fn a_header_list_beyond_128_kib_is_refused_over_http2_too() {
    let world = World::new(Answers::Short, &[]);
    let field: Vec<u8> = {
        // A literal without indexing: name `x`, a value of 16,000 bytes (RFC 7541 §5.1: 127 + 15,873).
        let mut bytes = vec![0, 1, b'x', 0x7f, 0x81, 0x7c];
        bytes.extend(vec![b'v'; 16_000]);
        bytes
    };
    let mut attack = frame(HEADERS, END_STREAM, 1, &request("GET", &[]));
    for n in 0..9 {
        attack.extend(frame(CONTINUATION, if n == 8 { END_HEADERS } else { 0 }, 1, &field));
    }
    let mut stream = world.connect();
    stream.write_all(&[opening(&[]), attack].concat()).unwrap();
    let head =
        std::iter::from_fn(|| read(&mut stream)).find(|f| [HEADERS, RST_STREAM, GOAWAY].contains(&f.0));
    let (kind, _, id, block) = head.unwrap();
    // `:status` with a literal value (RFC 7541, appendix A: index 8): 431.
    assert!((kind, id) == (HEADERS, 1) && block.starts_with(&[0x48]), "{kind} {block:?}");
    assert!(world.received().is_empty());
    world.is_small();
    world.serves();
}

#[test]
fn beyond_its_bound_discovery_forgets_what_was_least_recently_used() {
    // An address counts twice, with its policy: there is room for 500.
    let flags = ["--discovery-max-entries", "1000", "--outbound-discovery-idle-timeout", "10m"];
    let bounded = ["--max-destinations-per-connection", "100"];
    let world = World::new(Answers::Short, &[flags.as_slice(), bounded.as_slice()].concat());
    let port = everywhere();
    let mut stream = TcpStream::connect(world.forward_proxy()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut ask = |n: u16| {
        let [a, b] = n.to_be_bytes();
        let to = format!("127.200.{a}.{b}:{port}");
        let request = format!("GET http://{to}/ HTTP/1.1\r\nhost: {to}\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\nok") {
            let mut byte = [0];
            let read = stream.read_exact(&mut byte);
            assert!(read.is_ok(), "{to}: {}", String::from_utf8_lossy(&bytes));
            bytes.extend(byte);
        }
        assert!(bytes.starts_with(b"HTTP/1.1 200"), "{to}");
    };
    (1..=700).for_each(&mut ask);
    assert_eq!(world.reached("max-destinations-per-connection"), 600);
    assert_eq!(world.reached("discovery-max-entries"), 200);
    let known = |n: u16| {
        let [a, b] = n.to_be_bytes();
        world
            .admin("GET", "/state.json", "")
            .contains(&format!("\"destination\": \"127.200.{a}.{b}:{port}\""))
    };
    assert_eq!([1, 200, 201, 700].map(known), [false, false, true, true]);
    ask(1);
    assert!(known(1) && !known(201), "what was forgotten is found anew");
    world.is_small();
}
