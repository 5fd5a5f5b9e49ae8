//! What a demo that runs by itself must prove. Pure: looks at the counts of both sides and at what was done
//! to the shop meanwhile, and says of each claim whether it held.

use super::app::Speaks;
use super::layout::{REPLICAS, ROUTES, SERVICES, cast};
use super::load::{Failure, Outcome};
use super::quantile;
use super::table::{self, Snapshot};
use std::time::{Duration, Instant};

/// A claim that is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// Every request was carried over mutual TLS, as the receiving proxy verified it.
    Plaintext,
    /// Each proxy proved who it was announced to be.
    Identity,
    /// The slow replica got visibly less than its fair share.
    Balance,
    /// No request failed but those that were meant to.
    Lost,
    /// The mesh and the load generator counted the same.
    Counts,
    /// SIGTERM of a replica loses nothing.
    Sigterm,
    /// SIGKILL of a replica loses only what was being processed there.
    Sigkill,
}

impl Check {
    /// All, in the order in which they are told.
    pub(crate) const ALL: [Check; 7] = [
        Check::Plaintext,
        Check::Identity,
        Check::Balance,
        Check::Lost,
        Check::Counts,
        Check::Sigterm,
        Check::Sigkill,
    ];

    /// Those that `--break` sabotages.
    pub(crate) const BREAKABLE: [Check; 4] = [Check::Plaintext, Check::Identity, Check::Balance, Check::Lost];

    /// As an argument.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Check::Plaintext => "plaintext",
            Check::Identity => "identity",
            Check::Balance => "balance",
            Check::Lost => "lost",
            Check::Counts => "counts",
            Check::Sigterm => "sigterm",
            Check::Sigkill => "sigkill",
        }
    }

    /// Reads that argument.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|check| check.name() == text)
    }

    fn claim(self) -> &'static str {
        match self {
            Check::Plaintext => "every request was meshed, as the receiving proxy verified it",
            Check::Identity => "every proxy proved who it was announced to be",
            Check::Balance => "the slow replica was avoided",
            Check::Lost => "no request failed but those that were meant to",
            Check::Counts => "the mesh and the load generator agree",
            Check::Sigterm => "a replica ended by SIGTERM lost nothing",
            Check::Sigkill => "a replica ended by SIGKILL lost only what it was processing",
        }
    }
}

/// What was done to a replica.
#[derive(Clone, Debug, Default)]
pub(crate) struct Incident {
    /// From when until when it was down.
    pub(crate) from: Option<Instant>,
    pub(crate) until: Option<Instant>,
    /// Requests to its service that were under way when it went down.
    pub(crate) under_way: u64,
    /// Requests that were sent to it once its end was known.
    pub(crate) sent_late: u64,
}

/// How long after a replica's end failures are its own, if it does not come back before.
const AFTERMATH: Duration = Duration::from_secs(2);

impl Incident {
    fn covers(&self, failure: &Failure, replica: usize) -> bool {
        let is_there =
            ROUTES.get(failure.route).map(|r| r.service) == REPLICAS.get(replica).map(|r| r.service);
        let Some(from) = self.from else { return false };
        is_there && failure.at >= from && failure.at <= self.until.unwrap_or(from + AFTERMATH)
    }
}

/// Everything that is looked at.
pub(crate) struct Evidence<'a> {
    /// From when on latencies are compared: before, only the load waits for discovery and connections.
    pub(crate) warm: Option<&'a Snapshot>,
    pub(crate) end: &'a Snapshot,
    pub(crate) terminated: &'a Incident,
    pub(crate) killed: &'a Incident,
}

/// Requests to a replica whose processes ended that its last page may not have counted any more.
const UNREAD: u64 = 25;

/// A claim, and why it did not hold if it did not.
pub(crate) struct Verdict {
    pub(crate) check: Check,
    pub(crate) outcome: Result<String, String>,
}

impl Verdict {
    /// One line.
    pub(crate) fn line(&self) -> String {
        match &self.outcome {
            Ok(how) => format!("ok      {:<9} {}: {how}", self.check.name(), self.check.claim()),
            Err(why) => {
                format!("FAILED  {:<9} not true that {}: {why}", self.check.name(), self.check.claim())
            }
        }
    }
}

/// Judges every claim.
pub(crate) fn judge(evidence: &Evidence<'_>) -> Vec<Verdict> {
    let outcome = |check| match check {
        Check::Plaintext => meshed(evidence),
        Check::Identity => identities(evidence),
        Check::Balance => balance(evidence),
        Check::Lost => losses(evidence),
        Check::Counts => counts(evidence),
        Check::Sigterm => sigterm(evidence),
        Check::Sigkill => sigkill(evidence),
    };
    Check::ALL.into_iter().map(|check| Verdict { check, outcome: outcome(check) }).collect()
}

fn meshed(evidence: &Evidence<'_>) -> Result<String, String> {
    let mut verified = 0;
    for (index, (replica, received)) in REPLICAS.iter().zip(&evidence.end.received).enumerate() {
        if received.verified < received.all {
            let plain = received.all - received.verified;
            return Err(format!("{} received {plain} of {} without mutual TLS", replica.name, received.all));
        }
        // A program that was reached around its sidecar is missing in the receiver's counts.
        let answered = evidence.end.answered(index);
        let unread = if [cast::TERMINATED, cast::KILLED].contains(&index) { UNREAD } else { 0 };
        if answered > received.verified + unread {
            return Err(format!(
                "{} answered {answered} but its sidecar verified {}",
                replica.name, received.verified
            ));
        }
        // Two series of the receiver, counted in different places, must tell the same of its clients.
        if replica.service().speaks != Speaks::Lines && received.passed_on + unread < received.verified {
            let (verified, passed_on) = (received.verified, received.passed_on);
            return Err(format!("{} admitted {verified} and passed {passed_on} on", replica.name));
        }
        verified += received.verified;
    }
    Ok(format!("{verified} of {verified}"))
}

fn identities(evidence: &Evidence<'_>) -> Result<String, String> {
    for (replica, received) in REPLICAS.iter().zip(&evidence.end.received) {
        if received.foreign > 0 {
            return Err(format!("{} received {} from somebody else", replica.name, received.foreign));
        }
        if received.verified == 0 {
            return Err(format!("{} received nothing: callers do not accept its proof", replica.name));
        }
    }
    Ok(format!("{} servers and their client", REPLICAS.len()))
}

fn balance(evidence: &Evidence<'_>) -> Result<String, String> {
    let (share, fair) = evidence.end.share(cast::SLOW);
    let name = REPLICAS[cast::SLOW].name;
    let told = format!("{name} got {:.1} % where {:.1} % would be fair", share * 100.0, fair * 100.0);
    if share < fair / 2.0 { Ok(told) } else { Err(told) }
}

fn losses(evidence: &Evidence<'_>) -> Result<String, String> {
    let meant = |f: &&Failure| f.outcome == Outcome::Lost && evidence.killed.covers(f, cast::KILLED);
    let tally = &evidence.end.tally;
    if let Some(failure) = tally.failures.iter().find(|failure| !meant(failure)) {
        let route = &ROUTES[failure.route];
        return Err(format!("{} {}: {}", route.service().name, route.name, told(&failure.outcome)));
    }
    let injected: u64 = tally.routes.iter().map(|count| count.injected).sum();
    Ok(format!("{injected} injected, {} at the SIGKILL", tally.failures.len()))
}

fn told(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Lost => "connection-lost, though nobody was killed".to_owned(),
        Outcome::Bad(why) => why.clone(),
        Outcome::Good | Outcome::Injected => "not a failure".to_owned(),
    }
}

fn counts(evidence: &Evidence<'_>) -> Result<String, String> {
    let mut all = 0;
    for (index, (route, count)) in ROUTES.iter().zip(&evidence.end.tally.routes).enumerate() {
        let row = table::measured(evidence.end, index);
        let name = format!("{} {}", SERVICES[route.service].name, route.name);
        if row.requests != count.done {
            return Err(format!("{name}: the sidecar counted {}, the load {}", row.requests, count.done));
        }
        let (mut sidecar, mut load) = (row.latencies, count.latencies.clone());
        if let Some(warm) = evidence.warm {
            sidecar = sidecar.since(&table::measured(warm, index).latencies);
            load = load.since(&warm.tally.routes[index].latencies);
        }
        if !route.name.is_empty() && !quantile::agree(&sidecar, &load, 0.99) {
            let p99 = |l: &quantile::Latencies| l.quantile(0.99).unwrap_or(0.0);
            let (sidecar, load) = (p99(&sidecar), p99(&load));
            return Err(format!("{name}: p99 is {sidecar:.0} ms to the sidecar, {load:.0} ms to the load"));
        }
        all += count.done;
    }
    Ok(format!("{all} requests exactly, each p99 within a bucket"))
}

fn sigterm(evidence: &Evidence<'_>) -> Result<String, String> {
    let name = REPLICAS[cast::TERMINATED].name;
    if evidence.terminated.from.is_none() {
        return Err(format!("{name} was not ended"));
    }
    let failures = &evidence.end.tally.failures;
    match failures.iter().filter(|f| evidence.terminated.covers(f, cast::TERMINATED)).count() {
        0 => Ok(format!("{name}, {} requests under way", evidence.terminated.under_way)),
        lost => Err(format!("{name} lost {lost}")),
    }
}

fn sigkill(evidence: &Evidence<'_>) -> Result<String, String> {
    let (name, killed) = (REPLICAS[cast::KILLED].name, evidence.killed);
    if killed.from.is_none() {
        return Err(format!("{name} was not ended"));
    }
    let of = |f: &&Failure| killed.covers(f, cast::KILLED);
    let failures: Vec<&Failure> = evidence.end.tally.failures.iter().filter(of).collect();
    if let Some(other) = failures.iter().find(|f| f.outcome != Outcome::Lost) {
        return Err(format!("{name}: a failure of another kind: {}", told(&other.outcome)));
    }
    if failures.len() as u64 > killed.under_way {
        return Err(format!("{} were lost, {} were under way", failures.len(), killed.under_way));
    }
    if killed.sent_late > 0 {
        return Err(format!("{} were sent to {name} after its end was known", killed.sent_late));
    }
    let under_way = killed.under_way;
    Ok(format!("{name}, {} of {under_way} under way to its service, reason connection-lost", failures.len()))
}
