//! Clients that take their time: with a request's head, between requests, with taking the answer.

use crate::hostile::world::{Answers, World, until};
use std::io::{Read, Write};
use std::net::TcpStream;

const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\nhost: web\r\n\r\n";

fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn answer(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\nok") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        bytes.extend(byte);
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_head_that_does_not_end_in_time_is_answered_408() {
    let world = World::new(Answers::Short, &["--inbound-http1-header-read-timeout", "300ms"]);
    let mut streams: Vec<TcpStream> = (0..200).map(|_| world.connect()).collect();
    for stream in &mut streams {
        stream.write_all(b"GET /a HTTP/1.1\r\nx: ").unwrap();
    }
    world.serves();
    world.is_small();
    for mut stream in streams {
        assert!(rest(&mut stream).starts_with("HTTP/1.1 408"));
    }
    until("all are counted", || world.reached("inbound-http1-header-read-timeout") == 200);
    assert!(world.received().is_empty());
}

#[test]
fn a_later_head_is_timed_too_but_not_the_time_between_requests() {
    let flags = ["--inbound-http1-header-read-timeout", "200ms", "--inbound-http1-idle-timeout", "1s"];
    let world = World::new(Answers::Short, &flags);
    let (mut slow, mut idle) = (world.connect(), world.connect());
    for stream in [&mut slow, &mut idle] {
        stream.write_all(REQUEST).unwrap();
        assert!(answer(stream).contains(" 200 "));
    }
    slow.write_all(b"GET /b HTTP/1.1\r\n").unwrap();
    assert!(rest(&mut slow).starts_with("HTTP/1.1 408"));
    // Longer than a head may take, and still welcome.
    idle.write_all(REQUEST).unwrap();
    assert!(answer(&mut idle).contains(" 200 "));
    assert_eq!(rest(&mut idle), "", "closed without a word once idle");
    until("it is counted", || world.reached("inbound-http1-idle-timeout") == 1);
    assert_eq!(world.reached("inbound-http1-header-read-timeout"), 1);
}

#[test]
fn readers_that_take_nothing_queue_nothing() {
    let world = World::new(Answers::Long, &[]);
    world.serves_long();
    let before = world.settled();
    let streams: Vec<TcpStream> = (0..64)
        .map(|_| {
            let mut stream = world.connect();
            stream.write_all(REQUEST).unwrap();
            stream
        })
        .collect();
    until("all are being answered", || world.received().len() >= 64 * REQUEST.len());
    world.serves_long();
    let each = world.settled().saturating_sub(before) / 64;
    println!("a reader takes {} KiB", each >> 10);
    // 144 KiB wait to be written, passed by at most one piece; one more piece is handed over, and one read ahead. A
    // piece is what the connection to the application reads at once, up to 132 KiB. The answers have 64 MiB.
    assert!(each < (144 + 3 * 132 + 20) << 10, "a reader takes {} KiB", each >> 10);
    world.is_small();
    drop(streams);
}

#[test]
fn an_upload_that_stops_is_answered_408_and_one_without_a_length_is_not() {
    let world = World::new(Answers::Short, &["--inbound-request-body-timeout", "300ms"]);
    let (mut stopped, mut streaming) = (world.connect(), world.connect());
    stopped.write_all(b"POST /a HTTP/1.1\r\nhost: web\r\ncontent-length: 100000\r\n\r\nabc").unwrap();
    streaming
        .write_all(b"POST /a HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        .unwrap();
    let answer = rest(&mut stopped);
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("weft-reason: slow-client"), "{answer}");
    until("it is counted", || world.reached("inbound-request-body-timeout") == 1);
    streaming.write_all(b"0\r\n\r\n").unwrap();
    assert!(self::answer(&mut streaming).contains(" 200 "));
    world.serves();
}

#[test]
fn an_http1_client_that_takes_nothing_is_closed() {
    let world = World::new(Answers::Long, &["--inbound-stall-timeout", "300ms"]);
    let mut stream = world.connect();
    stream.write_all(REQUEST).unwrap();
    until("it is counted", || world.reached("inbound-stall-timeout") == 1);
    assert!(rest(&mut stream).len() < 64 << 20, "the answer broke off");
    world.serves_long();
}
