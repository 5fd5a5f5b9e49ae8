//! Numbers that are kept elsewhere and shown at each scrape: the certificate's times, and what a cache let go.
//!
//! `run` registers them once. Never changes what it shows.

use crate::limits::Limit;
use crate::via::Shared;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use weft_discover::destination::Destinations;
use weft_identity::renew::State;
use weft_identity::tls;
use weft_model::reason::Hop;
use weft_telemetry::Registry;

/// Shows destinations that were let go for others as a limit that was reached.
pub(crate) fn displaced(registry: &Registry, shared: &Shared, destinations: &Destinations) {
    let count = shared.reports.limits.counter(Limit::DiscoveryEntries, Hop::Outbound);
    let (destinations, shared_names) = (destinations.clone(), shared.received.clone());
    let seen = AtomicU64::new(0);
    registry.before_scrape(move || {
        let names = shared_names.as_ref().map_or(0, |names| names.counts().displaced);
        let now = destinations.displaced() + names;
        count.add(now.saturating_sub(seen.swap(now, Relaxed)));
    });
}

/// Shows the certificate's state in the peer's families (§5.4), and the cryptography behind it.
pub(crate) fn certificates(registry: &Registry, state: watch::Receiver<State>) {
    let when = |name: &str, help: &str| {
        let family = registry.floats(&format!("control_identity_cert_{name}_timestamp_seconds"), help);
        family.labels(&[]).series(&())
    };
    let expiration = when("expiration", "When the certificate in force ends, Unix time; 0 without one.");
    let refresh = when("refresh", "When the certificate in force was installed, Unix time; 0 without one.");
    let refreshes = registry
        .counters("control_identity_cert_refreshes_total", "Attempts to get a certificate.")
        .labels(&["result"]);
    let (ok, failed) = (refreshes.series(&[("result", "ok")]), refreshes.series(&[("result", "error")]));
    let cryptography = registry
        .gauges("rustls_info", "The cryptography of TLS.")
        .labels(RUSTLS_KEYS)
        .series(&tls::describe());
    let seconds = |time: Option<SystemTime>| {
        let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        since.map(|since| since.as_secs_f64()).unwrap_or_default()
    };
    registry.before_scrape(move || {
        let now = state.borrow().clone();
        expiration.set(seconds(now.validity.map(|v| v.not_after)));
        refresh.set(seconds(now.refreshed));
        ok.add(now.issued.saturating_sub(ok.value()));
        failed.add(now.failed.saturating_sub(failed.value()));
        cryptography.set(1);
    });
}

const RUSTLS_KEYS: &[&str] = &["tls_suites", "tls_kx_groups", "tls_rand", "tls_key_provider", "tls_fips"];
