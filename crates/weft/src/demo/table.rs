//! The table: what the sidecars measured, and beside it what the load generator counted. Pure.
//!
//! Rows are made from two snapshots (what happened between them), or from one (since the start).

use super::layout::{REPLICAS, ROUTES, SERVICES};
use super::load::Tally;
use super::quantile::Latencies;
use super::received::Received;
use super::scrape::Page;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Everything that was known at one moment.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub(crate) at: Instant,
    /// The page of the load's sidecar.
    pub(crate) sender: Page,
    /// What each replica received.
    pub(crate) received: Vec<Received>,
    /// Under which address callers know each replica.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) tally: Tally,
}

impl Snapshot {
    /// Requests that a replica answered, as the load's sidecar saw it. Bytes have no answers.
    pub(crate) fn answered(&self, replica: usize) -> u64 {
        let Some(address) = self.addresses.get(replica) else { return 0 };
        let wanted = [("direction", "outbound"), ("target_addr", &address.to_string()), ("error", "")];
        self.sender.sum("response_total", &wanted)
    }

    /// Requests that were sent to a replica.
    pub(crate) fn sent(&self, replica: usize) -> u64 {
        let Some(address) = self.addresses.get(replica) else { return 0 };
        let wanted = [("direction", "outbound"), ("target_addr", &address.to_string())];
        self.sender.sum("request_total", &wanted)
    }

    /// A replica's share of its service's requests, and what would be fair.
    pub(crate) fn share(&self, replica: usize) -> (f64, f64) {
        let service = REPLICAS.get(replica).map(|r| r.service);
        let of = || REPLICAS.iter().zip(&self.received).filter(|(r, _)| Some(r.service) == service);
        let all: u64 = of().map(|(_, received)| received.all).sum();
        let own = self.received.get(replica).map_or(0, |received| received.all);
        (own as f64 / all.max(1) as f64, 1.0 / of().count().max(1) as f64)
    }

    /// What a service's replicas received.
    fn service(&self, service: usize) -> Received {
        let of = REPLICAS.iter().zip(&self.received).filter(|(r, _)| r.service == service);
        of.fold(Received::default(), |sum, (_, received)| sum.plus(*received))
    }
}

/// What the sidecars measured of one route.
pub(crate) struct Measured {
    pub(crate) requests: u64,
    pub(crate) good: u64,
    pub(crate) latencies: Latencies,
}

/// Reads one route's measurements. Bytes have no routes: their connections are counted where they arrive.
pub(crate) fn measured(snapshot: &Snapshot, index: usize) -> Measured {
    let route = &ROUTES[index];
    let mut latencies = Latencies::default();
    if route.name.is_empty() {
        let requests = snapshot.service(route.service).all;
        return Measured { requests, good: requests, latencies };
    }
    let authority = route.service().authority();
    let wanted = [("direction", "outbound"), ("dst", authority.as_str()), ("rt_route", route.name)];
    let success = [wanted[0], wanted[1], wanted[2], ("classification", "success")];
    let buckets = snapshot.sender.of("route_response_latency_ms_bucket");
    latencies.add(buckets.filter(|s| wanted.iter().all(|(key, value)| s.label(key) == *value)));
    Measured {
        requests: snapshot.sender.sum("route_response_total", &wanted),
        good: snapshot.sender.sum("route_response_total", &success),
        latencies,
    }
}

/// Width of the bar that shows a replica's share.
const BAR: usize = 20;

/// The table of what happened after `before`, or since `start`.
pub(crate) fn render(before: Option<&Snapshot>, now: &Snapshot, start: Instant) -> String {
    let began = before.map_or(start, |before| before.at);
    let span = now.at.saturating_duration_since(began).max(Duration::from_millis(1));
    let mut text = format!(
        "{:<9}{:<9}{:>7}{:>9}{:>8}{:>8}{:>8}{:>8}   |{:>9}{:>8}{:>8}\n",
        "service", "route", "rps", "success", "p50", "p95", "p99", "mTLS", "load: n", "p99", "failed"
    );
    for index in 0..ROUTES.len() {
        push_row(&mut text, (before, now), index, span);
    }
    text.push('\n');
    for (index, replica) in REPLICAS.iter().enumerate() {
        let (share, _) = now.share(index);
        let filled = ((share * BAR as f64).round() as usize).min(BAR);
        let bar = format!("{}{}", "#".repeat(filled), ".".repeat(BAR - filled));
        let quirk = match (replica.takes_ms, replica.fails_every) {
            (_, every) if every > 0 => format!("   fails once in {every}"),
            (millis, _) if millis >= 100 => format!("   slow: {millis} ms"),
            _ => String::new(),
        };
        let received = now.received.get(index).map_or(0, |received| received.all);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:<11}{bar} {:>5.1} %{received:>8}{quirk}", replica.name, share * 100.0);
    }
    text
}

fn push_row(text: &mut String, (before, now): (Option<&Snapshot>, &Snapshot), index: usize, span: Duration) {
    let route = &ROUTES[index];
    let mut row = measured(now, index);
    let mut received = now.service(route.service);
    if let Some(before) = before {
        let earlier = measured(before, index);
        row.requests = row.requests.saturating_sub(earlier.requests);
        row.good = row.good.saturating_sub(earlier.good);
        row.latencies = row.latencies.since(&earlier.latencies);
        let earlier = before.service(route.service);
        received.all = received.all.saturating_sub(earlier.all);
        received.verified = received.verified.saturating_sub(earlier.verified);
    }
    let count = now.tally.routes.get(index).cloned().unwrap_or_default();
    let millis = |latencies: &Latencies, quantile| match latencies.quantile(quantile) {
        Some(millis) => format!("{millis:.0} ms"),
        None => "-".to_owned(),
    };
    let _ = writeln!(
        text,
        "{:<9}{:<9}{:>7.1}{:>9}{:>8}{:>8}{:>8}{:>8}   |{:>9}{:>8}{:>8}",
        SERVICES[route.service].name,
        if route.name.is_empty() { "(bytes)" } else { route.name },
        row.requests as f64 / span.as_secs_f64(),
        percent(row.good, row.requests),
        millis(&row.latencies, 0.5),
        millis(&row.latencies, 0.95),
        millis(&row.latencies, 0.99),
        percent(received.verified, received.all),
        count.done,
        millis(&count.latencies, 0.99),
        count.lost + count.bad,
    );
}

/// A share for people. What is not all is never rounded up to 100.
fn percent(part: u64, whole: u64) -> String {
    match (part, whole) {
        (_, 0) => "-".to_owned(),
        (part, whole) if part == whole => "100 %".to_owned(),
        (part, whole) => format!("{:.1} %", (part as f64 / whole as f64 * 1000.0).floor() / 10.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::load::Count;

    #[test]
    fn shares_are_never_rounded_up_to_all() {
        let check = |part, whole, expected: &str| assert_eq!(percent(part, whole), expected);
        check(0, 0, "-");
        check(0, 3, "0.0 %");
        check(2, 3, "66.6 %");
        check(99_999, 100_000, "99.9 %");
        check(7, 7, "100 %");
    }

    #[test]
    fn a_row_tells_what_the_sidecars_measured_and_what_the_load_counted() {
        let labels = "direction=\"outbound\",dst=\"books.shop.svc.cluster.local:80\",rt_route=\"list\"";
        let page = format!(
            "route_response_total{{{labels},classification=\"success\"}} 30\n\
             route_response_total{{{labels},classification=\"failure\"}} 10\n\
             route_response_latency_ms_bucket{{{labels},le=\"20\"}} 0\n\
             route_response_latency_ms_bucket{{{labels},le=\"30\"}} 40\n"
        );
        let mut routes = vec![Count::default(); ROUTES.len()];
        routes[2].done = 40;
        let start = Instant::now();
        let now = Snapshot {
            at: start + Duration::from_secs(4),
            sender: Page::parse(&page),
            received: vec![Received { all: 8, verified: 8, ..Received::default() }; REPLICAS.len()],
            addresses: vec![([127, 0, 0, 1], 1).into(); REPLICAS.len()],
            tally: Tally { routes, failures: Vec::new() },
        };
        let text = render(None, &now, start);
        let row = text.lines().find(|line| line.starts_with("books    list")).unwrap();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words[2..6], ["10.0", "75.0", "%", "25"], "{row}");
        assert!(row.contains("100 %   |       40"), "{row}");
        assert_eq!(now.share(0), (0.5, 0.5));
    }
}
