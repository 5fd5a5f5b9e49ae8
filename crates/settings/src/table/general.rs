//! Settings of the process as a whole: listeners, logging, shutdown, threads and shared limits.

use super::{SOME, SOME_U32};
use super::{Setting, setting};
use crate::grammar::Kind;

pub(super) const LISTENERS: &[Setting] = &[
    setting("OUTBOUND_LISTEN_ADDR", Kind::Socket, "Listener for redirected connections of the application.")
        .or("127.0.0.1:4140"),
    setting(
        "OUTBOUND_LISTEN_ADDRS",
        Kind::Sockets,
        "The same for two address families; wins over OUTBOUND_LISTEN_ADDR.",
    ),
    setting(
        "INBOUND_LISTEN_ADDR",
        Kind::Socket,
        "Listener for redirected connections to the application. Meshed peers also connect to it directly \
         and name the real port in a transport header.",
    )
    .or("0.0.0.0:4143"),
    setting("ADMIN_LISTEN_ADDR", Kind::Socket, "Listener of the admin server.").or("127.0.0.1:4191").danger(
        "Whoever reaches it reads metrics and state; changes of the log level and /shutdown are for \
         loopback clients only.",
    ),
    setting(
        "UPSTREAM",
        Kind::Upstreams,
        "Listens on the first address and takes every connection there for one to the second. Repeatable.",
    )
    .ours(),
    setting(
        "INBOUND",
        Kind::InboundBinds,
        "Listens on the first address and serves what arrives as if it had been redirected there; the \
         application listens on the second. Repeatable.",
    )
    .ours(),
    setting(
        "FORWARD_PROXY_LISTEN_ADDR",
        Kind::Socket,
        "Listener for applications that honour HTTP_PROXY: absolute-form requests and CONNECT.",
    )
    .ours(),
    setting(
        "ALLOW_REMOTE_CLIENTS",
        Kind::Switch,
        "Lets the forward-proxy listener bind to an address other than loopback.",
    )
    .ours()
    .or("false")
    .danger("Whoever reaches the listener acts with this workload's identity."),
];

pub(super) const PROCESS: &[Setting] = &[
    setting(
        "CONFIG",
        Kind::Path,
        "A YAML file with one `name: value` a line, names as flags (`inbound-detect-timeout`) or as \
         variables without prefix. Weaker than every variable.",
    )
    .ours(),
    setting("SHUTDOWN_GRACE_PERIOD", Kind::Duration, "Longest drain before the process exits anyway.")
        .or("2m"),
    setting("SHUTDOWN_ENDPOINT_ENABLED", Kind::Switch, "Turns on POST /shutdown for loopback clients.")
        .or("false"),
    setting(
        "LOG",
        Kind::Text,
        "Filter of the log: levels, also per module. `off` removes logging. Directives for the module \
         `linkerd` are taken for `weft`.",
    )
    .or(weft_telemetry::log::DEFAULT_FILTER),
    setting("LOG_FORMAT", Kind::OneOf(&["plain", "json"]), "Shape of log lines.").or("plain"),
    setting("CORES", Kind::Number(1, 4096), "Older name of CORES_MIN, which wins over it."),
    setting("CORES_MIN", Kind::Number(1, 4096), "Least number of worker threads.").unit("threads"),
    setting(
        "CORES_MAX",
        Kind::Number(1, 4096),
        "Largest number of worker threads. Where neither this nor CORES_MAX_RATIO is set, the CPU quota of \
         the process's control group decides, rounded up; without a quota, the number of processors. (The \
         peer takes one.)",
    )
    .unit("threads"),
    setting(
        "CORES_MAX_RATIO",
        Kind::Fraction(0.000_001, 1.0),
        "Worker threads as a share of the available processors, rounded; CORES_MAX wins over it.",
    ),
    setting("METRICS_RETAIN_IDLE", Kind::Duration, "How long an unused series stays in the scrape.")
        .or("10m"),
    setting(
        "OUTBOUND_DISABLE_INFORMATIONAL_HEADERS",
        Kind::Switch,
        "Leaves `l5d-proxy-error`, `l5d-proxy-connection` and `grpc-message` out of synthesized outbound \
         responses. `false` unless INGRESS_MODE is on.",
    ),
    setting(
        "INGRESS_MODE",
        Kind::Switch,
        "For a proxy beside an ingress: a request goes to the `name` or `name:port` (80) that its header \
         `l5d-dst-override` names, without one to where its connection was meant to go. Whatever the ingress takes from \
         outside must not bring that header.",
    )
    .or("false"),
];

pub(super) const LIMITS: &[Setting] = &[
    setting(
        "DISCOVERY_MAX_ENTRIES",
        SOME,
        "Destinations, and what the control plane is asked about them, known at a time, per direction: a name of the \
         mesh counts four times, with its profile, its policy and its endpoints, another name twice, an address two or \
         three times, a port of our own twice.",
    )
    .ours()
    .or("10000")
    .unit("entries")
    .beyond("The least recently used idle entry goes; if all are in use, the request fails with 503."),
    setting(
        "MAX_DESTINATIONS_PER_CONNECTION",
        SOME,
        "Destinations that one client connection of the forward proxy keeps known.",
    )
    .ours()
    .or("1000")
    .unit("destinations")
    .beyond("The one first used is let go; if nobody else uses it, it is looked up anew next time."),
    setting("RETRY_MAX_BODY_BYTES", super::ANY, "Bytes of one request's body kept for a retry.")
        .ours()
        .or("65536")
        .unit("bytes")
        .beyond("The request is sent on and not retried any more."),
    setting("ADMIN_MAX_CONNECTIONS", SOME, "Connections of the admin server at a time.")
        .ours()
        .or("256")
        .unit("connections")
        .beyond("The new connection is closed at once."),
    setting(
        "ACCEPT_PAUSE",
        Kind::Duration,
        "Pause of a listener when accept fails because file descriptors or memory ran out.",
    )
    .ours()
    .or("100ms")
    .beyond("Connections wait in the kernel's backlog; the listener goes on when something is free.")
    .shown_by("weft_accept_pauses_total"),
    setting("METRICS_MAX_SERIES", SOME, "Series of one metric family.")
        .ours()
        .or("2000")
        .unit("series")
        .beyond("Further label sets share one series labelled `overflow=\"true\"`.")
        .shown_by("weft_metrics_series_refused_total"),
    setting("CONTROL_QUEUE_CAPACITY", SOME, "Requests that may wait for a control-plane channel.")
        .ours()
        .or("1000")
        .unit("requests")
        .beyond("The look-up fails and is tried again after a backoff.")
        .shown_by("control_response_total"),
    setting(
        "HTTP2_MAX_LOCAL_ERROR_RESET_STREAMS",
        SOME_U32,
        "Streams of one connection reset because of the client's errors.",
    )
    .ours()
    .or("1024")
    .unit("streams")
    .beyond("The connection ends with GOAWAY (ENHANCE_YOUR_CALM).")
    .shown_by("weft_reasons_total{code=\"http2-flood\"}"),
    setting(
        "HTTP2_MAX_RESETS_PER_SECOND",
        SOME_U32,
        "RST_STREAM frames a second from one connection. A meshed peer sends all its clients' requests over a \
         few connections, and each one cancelled is a reset.",
    )
        .ours()
        .or("1000")
        .unit("frames a second")
        .beyond("The connection ends with GOAWAY (ENHANCE_YOUR_CALM)."),
    setting(
        "HTTP2_MAX_PINGS_PER_SECOND",
        SOME_U32,
        "PING and SETTINGS frames a second from one connection. Some gRPC clients measure the path with a PING \
         for each burst of data.",
    )
        .ours()
        .or("10000")
        .unit("frames a second")
        .beyond("The connection ends with GOAWAY (ENHANCE_YOUR_CALM)."),
];
