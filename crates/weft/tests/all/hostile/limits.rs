//! Bounds on heads and connections, driven past.

use crate::hostile::world::{Answers, World, until};
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
