//! Settings of the talk with the control plane: discovery, policy, channels and identity.

use super::{Setting, setting};
use crate::grammar::Kind;

pub(super) const DISCOVERY: &[Setting] = &[
    setting(
        "WORKLOAD",
        Kind::Workload,
        "The workload that this proxy serves, as the control plane knows it. Fills DESTINATION_CONTEXT and \
         POLICY_WORKLOAD where they are not set.",
    )
    .ours(),
    setting(
        "NODE_NAME",
        Kind::Text,
        "The host it runs on, told with WORKLOAD, for traffic kept on one host.",
    )
    .ours(),
    setting("DESTINATION_CONTEXT", Kind::Text, "Sent with every destination request to say who asks.")
        .hidden(),
    setting(
        "POLICY_WORKLOAD",
        Kind::Text,
        "Sent with every policy request to say whose policies are wanted.",
    ),
    setting("DESTINATION_PROFILE_SUFFIXES", Kind::Suffixes, "Names that may have a profile or policy.")
        .or("svc.cluster.local."),
    setting(
        "DESTINATION_PROFILE_NETWORKS",
        Kind::Networks,
        "Addresses that may have a profile or policy. Empty means no look-ups by address.",
    )
    .or(""),
    setting(
        "DISCOVERY_TIMEOUT",
        Kind::Duration,
        "How long a request waits for the first answer about its destination.",
    )
    .ours()
    .or("3s")
    .beyond("The request is answered 503 with `discovery-timeout`; the look-up goes on."),
    setting(
        "POLICY_CLUSTER_NETWORKS",
        Kind::Networks,
        "The networks that `cluster-*` default policies mean.",
    )
    .or(""),
];

pub(super) const CHANNEL: &[Setting] = &[
    setting("DESTINATION_SVC_ADDR", Kind::Addr, "The destination controller. Required without a join file."),
    setting(
        "DESTINATION_SVC_NAME",
        Kind::Identity,
        "Its identity. Without one, which only a controller on loopback may lack, it is spoken to in plaintext. \
         (The peer speaks plaintext to loopback also with one.)",
    ),
    setting("POLICY_SVC_ADDR", Kind::Addr, "The policy controller. Required without a join file."),
    setting(
        "POLICY_SVC_NAME",
        Kind::Identity,
        "Its identity. Without one, which only a controller on loopback may lack, it is spoken to in plaintext. \
         (The peer speaks plaintext to loopback also with one.)",
    ),
    setting("IDENTITY_SVC_ADDR", Kind::Addr, "The identity controller. Required without a join file."),
    setting(
        "IDENTITY_SVC_NAME",
        Kind::Identity,
        "Its identity. Without one, which only a controller on loopback may lack, it is spoken to in plaintext. \
         (The peer speaks plaintext to loopback also with one.)",
    ),
    setting(
        "CONTROL_STREAM_INITIAL_TIMEOUT",
        Kind::OptionalDuration,
        "Longest wait for the first message of a watch. At most the idle timeout. Unused on loopback.",
    ),
    setting(
        "CONTROL_STREAM_IDLE_TIMEOUT",
        Kind::OptionalDuration,
        "Longest gap between messages of a watch. At most the lifetime. Unused on loopback.",
    ),
    setting(
        "CONTROL_STREAM_LIFETIME",
        Kind::OptionalDuration,
        "How long a watch may last before it is opened anew. Unused on loopback.",
    ),
    setting("CONTROL_CONNECT_TIMEOUT", Kind::Duration, "Limit of TCP connect and TLS handshake together.")
        .ours()
        .or("1s"),
    setting("CONTROL_KEEP_ALIVE_INTERVAL", Kind::Duration, "Time between PINGs to the control plane.")
        .ours()
        .or("10s"),
    setting(
        "CONTROL_KEEP_ALIVE_TIMEOUT",
        Kind::Duration,
        "Wait for the answer to a PING before the control plane counts as dead.",
    )
    .ours()
    .or("3s"),
    setting(
        "CONTROL_DISPATCH_TIMEOUT",
        Kind::Duration,
        "How long a request may wait for a control-plane channel.",
    )
    .ours()
    .or("30s"),
    setting("CONTROL_EXP_BACKOFF_MIN", Kind::Duration, "First wait between connection attempts.")
        .ours()
        .or("100ms"),
    setting("CONTROL_EXP_BACKOFF_MAX", Kind::Duration, "Longest wait between connection attempts.")
        .ours()
        .or("10s"),
    setting("CONTROL_EXP_BACKOFF_JITTER", Kind::Fraction(0.0, 100.0), "Share of a wait added at random.")
        .ours()
        .or("0.1"),
    setting("DNS_MIN_TTL", Kind::Duration, "Least time that a name of a controller is believed."),
    setting("DNS_MAX_TTL", Kind::Duration, "Longest time that a name of a controller is believed."),
];

pub(super) const IDENTITY: &[Setting] = &[
    setting(
        "JOIN_FILE",
        Kind::Path,
        "A join file written by `weft token`: it gives the control plane's address and name, the trust \
         anchors and this proxy's identity, where they are not set explicitly, and proves that identity \
         once.",
    )
    .ours()
    .danger("Whoever reads the file can take the identity; keep its mode 0600."),
    setting("IDENTITY_TRUST_ANCHORS", Kind::Pem, "Trust anchors. Required without a join file."),
    setting("IDENTITY_LOCAL_NAME", Kind::Name, "Sets both IDENTITY_SERVER_ID and IDENTITY_SERVER_NAME."),
    setting("IDENTITY_SERVER_ID", Kind::Identity, "This proxy's identity. Required without a join file."),
    setting(
        "IDENTITY_SERVER_NAME",
        Kind::Name,
        "The name peers reach it by over TLS; equal to the identity. Required without a join file.",
    ),
    setting(
        "IDENTITY_DIR",
        Kind::Path,
        "Directory with `key.p8` (PKCS#8, ECDSA P-256, not readable for others) and `csr.der`, read once at start. \
         Required without a join file.",
    ),
    setting(
        "IDENTITY_TOKEN_FILE",
        Kind::Path,
        "File with the bearer token, read again before each use. Required without a join file.",
    ),
    setting("IDENTITY_MIN_REFRESH", Kind::Duration, "Least wait before a certificate is renewed.").or("10s"),
    setting("IDENTITY_MAX_REFRESH", Kind::Duration, "Longest wait before a certificate is renewed.")
        .or("24h"),
    setting(
        "IDENTITY_DISABLED",
        Kind::Text,
        "Identity cannot be turned off: anything but the empty text is refused.",
    ),
];
