//! Settings that exist once for each direction. The macro spells a direction's name into them, so that
//! the two tables cannot drift apart; where their defaults differ, they are its arguments.

use super::{ANY, FRAME, SOME, SOME_U32, Setting, U32, WINDOW, setting};
use crate::grammar::Kind;

/// Settings under `$dir` that have the same shape inbound and outbound.
macro_rules! shared {
    ($dir:literal, $towards:literal, connect $connect:literal, backoff $backoff:literal,
     failfast $failfast:literal, idle $idle:literal, per_source $per_source:literal) => {
        [
            setting(
                concat!($dir, "_DETECT_TIMEOUT"),
                Kind::Duration,
                "Longest look at the first bytes of a connection to tell its protocol.",
            )
            .or("10s")
            .danger("Protocols in which the server speaks first wait this long unless their port is opaque."),
            setting(
                concat!($dir, "_CONNECT_TIMEOUT"),
                Kind::Duration,
                concat!("Limit of TCP connect and TLS handshake together, ", $towards, "."),
            )
            .or($connect),
            setting(
                concat!($dir, "_CONNECT_EXP_BACKOFF_MIN"),
                Kind::Duration,
                "First wait between connection attempts. If any of MIN, MAX and JITTER is set, MIN and MAX \
                 must be.",
            )
            .or("100ms"),
            setting(
                concat!($dir, "_CONNECT_EXP_BACKOFF_MAX"),
                Kind::Duration,
                "Longest wait between connection attempts.",
            )
            .or($backoff),
            setting(
                concat!($dir, "_CONNECT_EXP_BACKOFF_JITTER"),
                Kind::Fraction(0.0, 100.0),
                "Share of a wait added at random; 0 if only MIN and MAX are set.",
            )
            .or("0.1"),
            setting(
                concat!($dir, "_ACCEPT_KEEPALIVE"),
                Kind::Duration,
                "Idle time before TCP keepalive probes on accepted connections; not set, the system's.",
            ),
            setting(
                concat!($dir, "_CONNECT_KEEPALIVE"),
                Kind::Duration,
                "Idle time before TCP keepalive probes on connections made; not set, the system's.",
            ),
            setting(
                concat!($dir, "_ACCEPT_USER_TIMEOUT"),
                Kind::Duration,
                "Longest time that sent data may stay unacknowledged on accepted connections (TCP_USER_TIMEOUT).",
            ),
            setting(
                concat!($dir, "_CONNECT_USER_TIMEOUT"),
                Kind::Duration,
                "Longest time that sent data may stay unacknowledged on connections made (TCP_USER_TIMEOUT).",
            ),
            setting(
                concat!($dir, "_TCP_LISTEN_BACKLOG"),
                SOME_U32,
                "Connections the kernel queues before they are accepted; not set, 1024.",
            )
            .unit("connections"),
            setting(
                concat!($dir, "_HTTP1_CONNECTION_POOL_IDLE_TIMEOUT"),
                Kind::Duration,
                "How long a pooled HTTP/1 connection may stay unused.",
            )
            .or("3s"),
            setting(
                concat!($dir, "_MAX_IN_FLIGHT"),
                SOME,
                "HTTP requests served at a time.",
            )
            .or("100000")
            .unit("requests")
            .beyond("The request is answered 503 at once."),
            setting(
                concat!($dir, "_HTTP_QUEUE_CAPACITY"),
                SOME,
                "HTTP requests that may wait for a backend without a ready endpoint.",
            )
            .or("10000")
            .unit("requests")
            .beyond("The request is answered 503 at once."),
            setting(
                concat!($dir, "_HTTP_FAILFAST_TIMEOUT"),
                Kind::Duration,
                "How long an HTTP backend may have no ready endpoint before its requests fail at once.",
            )
            .or($failfast),
            setting(
                concat!($dir, "_DISCOVERY_IDLE_TIMEOUT"),
                Kind::Duration,
                "How long an unused discovery answer is kept.",
            )
            .or($idle),
            setting(
                concat!($dir, "_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL"),
                Kind::Switch,
                "`true` grows HTTP/2 server windows by measurement and wins over fixed sizes.",
            ),
            setting(
                concat!($dir, "_SERVER_HTTP2_INITIAL_STREAM_WINDOW_SIZE"),
                WINDOW,
                "HTTP/2 server window of a stream; 65535 unless the connection's is set too.",
            )
            .unit("bytes"),
            setting(
                concat!($dir, "_SERVER_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE"),
                WINDOW,
                "HTTP/2 server window of a connection; 1048576 unless the stream's is set too.",
            )
            .unit("bytes"),
            setting(
                concat!($dir, "_SERVER_HTTP2_KEEP_ALIVE_INTERVAL"),
                Kind::Duration,
                "Time between PINGs to HTTP/2 clients; only together with the timeout.",
            ),
            setting(
                concat!($dir, "_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT"),
                Kind::Duration,
                "Wait for the answer to a PING before the connection counts as dead.",
            ),
            setting(
                concat!($dir, "_SERVER_HTTP2_MAX_CONCURRENT_STREAMS"),
                SOME_U32,
                "Streams a client may have open on one connection. (The peer has no limit.)",
            )
            .or("200")
            .unit("streams")
            .beyond("The client is told the limit; a stream beyond it is refused (REFUSED_STREAM).")
            .shown_by("none; the HTTP/2 engine answers by itself"),
            setting(
                concat!($dir, "_SERVER_HTTP2_MAX_FRAME_SIZE"),
                FRAME,
                "Largest HTTP/2 frame taken; not set, the protocol's 16 KiB.",
            )
            .unit("bytes"),
            setting(
                concat!($dir, "_SERVER_HTTP2_MAX_HEADER_LIST_SIZE"),
                SOME_U32,
                "Bytes of a request's header list over HTTP/2. (The peer takes 16 KiB.)",
            )
            .or("131072")
            .unit("bytes")
            .beyond("The request is answered 431."),
            setting(
                concat!($dir, "_SERVER_HTTP2_MAX_PENDING_ACCEPT_RESET_STREAMS"),
                ANY,
                "Streams that a client may have reset before they were accepted (rapid reset).",
            )
            .or("20")
            .unit("streams")
            .beyond("The connection ends with GOAWAY (ENHANCE_YOUR_CALM).")
            .shown_by("weft_reasons_total{code=\"http2-flood\"}"),
            setting(
                concat!($dir, "_SERVER_HTTP2_MAX_SEND_BUF_SIZE"),
                SOME_U32,
                "Response bytes buffered per HTTP/2 stream.",
            )
            .or("409600")
            .unit("bytes")
            .beyond("The response's source is read no further until the client has taken some.")
            .shown_by("none; ordinary flow control"),
            setting(
                concat!($dir, "_MAX_CONNECTIONS"),
                SOME,
                "Connections served at a time by one listener.",
            )
            .ours()
            .or("16384")
            .unit("connections")
            .beyond("The listener pauses; new connections wait in the kernel's backlog."),
            setting(
                concat!($dir, "_MAX_CONNECTIONS_PER_SOURCE"),
                SOME,
                "Connections served at a time from one client address.",
            )
            .ours()
            .or($per_source)
            .unit("connections")
            .danger("Clients behind one translated address share it.")
            .beyond("The new connection is closed at once."),
            setting(
                concat!($dir, "_HTTP1_HEADER_READ_TIMEOUT"),
                Kind::Duration,
                "Longest time from the first byte of a request head to its last.",
            )
            .ours()
            .or("10s")
            .beyond("The request is answered 408 and the connection closed."),
            setting(
                concat!($dir, "_HTTP1_IDLE_TIMEOUT"),
                Kind::Duration,
                "How long a kept-alive HTTP/1 connection may wait for its next request. Half a second after its last one it \
                 rests: it gives its buffers back until it is used again. Over TLS it does not, is looked at once in this \
                 time, and ends after one to two of them.",
            )
            .ours()
            .or("10m")
            .beyond("The connection is closed."),
            setting(
                concat!($dir, "_REQUEST_BODY_TIMEOUT"),
                Kind::Duration,
                "How long a request's body of declared length may be awaited without 1 KiB of it coming. Time in which \
                 nobody takes it does not count, and neither do bodies without a length, such as gRPC streams. 0 turns \
                 it off.",
            )
            .ours()
            .or("1m")
            .danger("Clients that pause within an upload for longer are broken off.")
            .beyond("The request is answered 408 with `slow-client`, and broken off towards its endpoint."),
            setting(
                concat!($dir, "_STALL_TIMEOUT"),
                Kind::Duration,
                "How long a receiver may take nothing of a message that waits for it: a shut window of an HTTP/2 stream, \
                 or a full socket of an HTTP/1 connection, which ends after one to two of these times. A stream with \
                 nothing to send has no limit. 0 turns it off.",
            )
            .ours()
            .or("5m")
            .danger("A download that a person pauses for longer is broken off.")
            .beyond("The stream is reset, the HTTP/1 connection closed."),
            setting(
                concat!($dir, "_HTTP1_MAX_HEADER_BYTES"),
                Kind::Number(8192, 16 << 20),
                "Bytes of a request head over HTTP/1.",
            )
            .ours()
            .or("131072")
            .unit("bytes")
            .beyond("The request is answered 431 (414 for an endless first line)."),
            setting(
                concat!($dir, "_HTTP1_MAX_HEADERS"),
                Kind::Number(1, 10_000),
                "Header fields of a request over HTTP/1.",
            )
            .ours()
            .or("100")
            .unit("fields")
            .beyond("The request is answered 431."),
            setting(
                concat!($dir, "_MAX_BUFFERED_BYTES"),
                Kind::Number(8192, 1 << 30),
                "Bytes of one HTTP/1 connection read ahead, or waiting to be written, each; at least 16 KiB more than a \
                 request head may have.",
            )
            .ours()
            .or("147456")
            .unit("bytes")
            .beyond("The other side is read no further until some are gone.")
            .shown_by("none; ordinary flow control"),
        ]
    };
}

pub(super) const INBOUND: &[Setting] = &[
    setting(
        "INBOUND_DEFAULT_POLICY",
        Kind::OneOf(&[
            "deny",
            "all-authenticated",
            "all-unauthenticated",
            "cluster-authenticated",
            "cluster-unauthenticated",
            "audit",
        ]),
        "Who may use a port about which the control plane has said nothing. The last three need \
         POLICY_CLUSTER_NETWORKS.",
    )
    .or("all-unauthenticated")
    .danger("The default admits everybody."),
    setting(
        "INBOUND_GATEWAY_SUFFIXES",
        Kind::Suffixes,
        "Names to which this proxy, as a gateway, carries on what meshed peers ask for; empty means none. Who may ask is \
         said by the policy of the inbound port itself.",
    )
    .or(""),
    setting("INBOUND_IPS", Kind::Ips, "Addresses served inbound; empty means all.").or(""),
    setting(
        "INBOUND_PORTS",
        Kind::Ports,
        "Ports whose policy is watched from the start and never dropped. The admin port is always added.",
    )
    .or(""),
    setting(
        "INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION",
        Kind::Ports,
        "Ports that are opaque until the control plane says otherwise.",
    )
    .or(""),
    setting("MAX_IDLE_CONNS_PER_ENDPOINT", ANY, "HTTP/1 connections to the application kept per port.")
        .or("10000")
        .unit("connections")
        .beyond("The connection is closed after its response.")
        .shown_by("none; expected"),
];

pub(super) const INBOUND_SHARED: &[Setting] = &shared!("INBOUND", "to the application",
    connect "300ms", backoff "10s", failfast "1s", idle "90s", per_source "4096");

pub(super) const OUTBOUND: &[Setting] = &[
    setting("OUTBOUND_MAX_IDLE_CONNS_PER_ENDPOINT", ANY, "HTTP/1 connections kept per endpoint.")
        .or("10000")
        .unit("connections")
        .beyond("The connection is closed after its response.")
        .shown_by("none; expected"),
    setting("HTTP2_INITIAL_STREAM_WINDOW_SIZE", U32, "HTTP/2 client window of a stream, all directions.")
        .or("65535")
        .unit("bytes"),
    setting(
        "HTTP2_INITIAL_CONNECTION_WINDOW_SIZE",
        U32,
        "HTTP/2 client window of a connection, all directions.",
    )
    .or("1048576")
    .unit("bytes"),
];

pub(super) const OUTBOUND_SHARED: &[Setting] = &shared!("OUTBOUND", "to an endpoint",
    connect "1s", backoff "60s", failfast "3s", idle "5s", per_source "16384");
