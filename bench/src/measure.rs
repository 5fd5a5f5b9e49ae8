//! One window of one contender, and its memory: the load, both ends of the window, and what must hold of
//! what happened in between.

use crate::app::App;
use crate::case::{Case, Contender};
use crate::contender::{Running, Site, start};
use crate::failure::Failure;
use crate::load::{Held, Load, Outcome};
use crate::usage::{cpu_seconds, machine_seconds, own_seconds, resident_kib};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How a window is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
    pub(crate) connections: usize,
    pub(crate) streams: usize,
    /// Connections held open when memory is measured.
    pub(crate) idle: usize,
}

/// What one window showed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) seconds: f64,
    /// Requests, or MiB of opaque bytes.
    pub(crate) done: f64,
    /// Processor time of the proxies; `None` where there are none.
    pub(crate) cpu: Option<f64>,
    /// Processor time of the generator and the application.
    pub(crate) rest: f64,
    /// Processor time that anybody else on the machine took.
    pub(crate) foreign: f64,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) resident_kib: u64,
}

impl Window {
    /// Microseconds of processor time per request, or per MiB.
    pub(crate) fn cost(&self) -> Option<f64> {
        self.cpu.map(|cpu| cpu * 1e6 / self.done)
    }

    /// Requests, or MiB, a second.
    pub(crate) fn rate(&self) -> f64 {
        self.done / self.seconds
    }

    /// Whether the machine was busy with nothing else.
    pub(crate) fn is_undisturbed(&self) -> bool {
        self.foreign <= FOREIGN * self.seconds
    }
}

/// Everything that is read at both ends.
struct Reading {
    at: Instant,
    done: u64,
    cpu: f64,
    rest: f64,
    machine: f64,
}

/// What the application and the logs have counted.
struct Counted {
    http1: u64,
    http2: u64,
    connections: u64,
    log: u64,
}

/// The share of one processor that others may take. The kernel counts the whole machine's time by sampling,
/// so that a part of this is its error.
const FOREIGN: f64 = 0.1;

/// A line or two may be logged in a window; a line for each request cannot hide here.
const LOG_GROWTH: u64 = 4096;

/// Measures one window.
///
/// # Errors
/// An answer was wrong, or requests did not reach the application as the case demands.
pub(crate) async fn window(running: &Running, case: Case, plan: &Plan, app: &App) -> Result<Window, Failure> {
    let pids = running.pids();
    let before = Counted::read(running, app);
    let load = Load::start(case.traffic(plan.streams), running.entry, plan.connections);
    tokio::time::sleep(plan.warm_up).await;
    load.record();
    let first = Reading::take(&load, &pids, case, app)?;
    tokio::time::sleep(plan.window).await;
    let last = Reading::take(&load, &pids, case, app)?;
    let resident_kib = resident_kib(&pids).map_err(Failure::io(running.contender.name()))?;
    let outcome = load.finish().await;
    let after = Counted::read(running, app);
    let failed = |why| Failure::Check { who: running.contender.name(), case: case.name(), why };
    hold(&outcome, case, &before, &after).map_err(failed)?;
    let done = (last.done - first.done) as f64;
    let micros = |share| outcome.latencies.percentile(share).map(|nanos| nanos / 1000.0);
    let found = Window {
        seconds: (last.at - first.at).as_secs_f64(),
        done: if case == Case::Tcp { done / f64::from(1 << 20) } else { done },
        cpu: (!pids.is_empty()).then_some(last.cpu - first.cpu),
        rest: last.rest - first.rest,
        foreign: (last.machine - first.machine) - (last.cpu - first.cpu) - (last.rest - first.rest),
        p50_us: micros(0.5),
        p99_us: micros(0.99),
        resident_kib,
    };
    if done < 1.0 {
        return Err(failed("nothing was answered in a whole window".to_owned()));
    }
    Ok(found)
}

impl Reading {
    /// Reads everything at once, without letting the load go on in between.
    fn take(load: &Load, pids: &[u32], case: Case, app: &App) -> Result<Self, Failure> {
        let at = Instant::now();
        let done = if case == Case::Tcp { app.counts.bytes.load(Relaxed) } else { load.done() };
        let cpu = cpu_seconds(pids).map_err(Failure::io("processor time of the proxies"))?;
        let rest = own_seconds().map_err(Failure::io("processor time of the load"))?;
        let machine = machine_seconds().map_err(Failure::io("processor time of the machine"))?;
        Ok(Self { at, done, cpu, rest, machine })
    }
}

impl Counted {
    fn read(running: &Running, app: &App) -> Self {
        Self {
            http1: app.counts.http1.load(Relaxed),
            http2: app.counts.http2.load(Relaxed),
            connections: app.counts.connections.load(Relaxed),
            log: running.log_size(),
        }
    }
}

/// What must hold of every window.
fn hold(outcome: &Outcome, case: Case, before: &Counted, after: &Counted) -> Result<(), String> {
    if let Some(error) = outcome.errors.first() {
        return Err(format!("{} connections failed, the first: {error}", outcome.errors.len()));
    }
    if after.log - before.log > LOG_GROWTH {
        return Err(format!("{} bytes logged while others log nothing", after.log - before.log));
    }
    if case == Case::Tcp {
        return Ok(()); // each connection has compared its account
    }
    let (http1, http2) = (after.http1 - before.http1, after.http2 - before.http2);
    let expected = if case.is_http2() { (0, outcome.done) } else { (outcome.done, 0) };
    if (http1, http2) != expected {
        return Err(format!(
            "{} answers, but the application answered {http1} requests of HTTP/1 and {http2} of HTTP/2",
            outcome.done
        ));
    }
    let connections = after.connections - before.connections;
    if connections > outcome.done / 100 + 1000 {
        return Err(format!("{connections} connections to the application: they are not kept alive"));
    }
    Ok(())
}

/// Resident memory in KiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// After one request.
    pub(crate) idle: f64,
    /// For each connection that has not spoken.
    pub(crate) silent: f64,
    /// For each connection that has spoken once.
    pub(crate) used: f64,
}

/// Memory settles when freed pages have been given back and timers have run.
const SETTLE: Duration = Duration::from_millis(1500);

/// Measures the memory of fresh processes: once for silent connections, once for used ones.
///
/// # Errors
/// The contender does not start, does not answer, or closed one of the connections.
pub(crate) async fn memory(contender: Contender, site: &Site<'_>, plan: &Plan) -> Result<Memory, Failure> {
    let failed = |why| Failure::Check { who: contender.name(), case: Case::Memory.name(), why };
    let (running, idle) = fresh(contender, site).await?;
    let mut held = bounded(Held::silent(running.entry, plan.idle)).await.map_err(failed)?;
    let after = settled(&running).await?;
    bounded(held.are_open()).await.map_err(failed)?;
    drop((held, running));
    let each = |before: f64, after: f64| (after - before) / plan.idle as f64;
    let silent = each(idle, after);
    let (running, before) = fresh(contender, site).await?;
    let mut held = bounded(Held::used_once(running.entry, plan.idle)).await.map_err(failed)?;
    let after = settled(&running).await?;
    bounded(held.are_open()).await.map_err(failed)?;
    Ok(Memory { idle, silent, used: each(before, after) })
}

/// Resident memory once it has settled. A request has been answered before, so that what is set up once is
/// not counted for the connections.
async fn settled(running: &Running) -> Result<f64, Failure> {
    tokio::time::sleep(SETTLE).await;
    let kib = resident_kib(&running.pids()).map_err(Failure::io(running.contender.name()))?;
    Ok(kib as f64)
}

/// Starts fresh processes and lets them answer once.
async fn fresh(contender: Contender, site: &Site<'_>) -> Result<(Running, f64), Failure> {
    let running = start(contender, Case::Memory, site).await?;
    let asked = bounded(Held::used_once(running.entry, 1)).await;
    asked.map_err(|why| Failure::Check { who: contender.name(), case: Case::Memory.name(), why })?;
    let kib = settled(&running).await?;
    Ok((running, kib))
}

/// What takes longer than this hangs.
const STEP: Duration = Duration::from_secs(30);

async fn bounded<T>(step: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(STEP, step).await.unwrap_or_else(|_| Err(format!("no answers within {STEP:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Histogram;

    fn counted(http1: u64, http2: u64, connections: u64, log: u64) -> Counted {
        Counted { http1, http2, connections, log }
    }

    #[test]
    fn a_window_holds_only_if_the_application_answered_everything_itself() {
        let check = |case, errors: &[&str], after: Counted, expected: bool| {
            let errors = errors.iter().map(ToString::to_string).collect();
            let outcome = Outcome { done: 50_000, latencies: Histogram::new(), errors };
            let held = hold(&outcome, case, &counted(5, 5, 5, 5), &after);
            assert_eq!(held.is_ok(), expected, "{held:?}");
        };
        check(Case::Http1, &[], counted(50_005, 5, 37, 5), true);
        check(Case::Http2, &[], counted(5, 50_005, 6, 100), true);
        check(Case::Http1, &["closed"], counted(50_005, 5, 37, 5), false);
        check(Case::Http1, &[], counted(50_004, 5, 37, 5), false);
        check(Case::Http2, &[], counted(50_005, 5, 37, 5), false);
        check(Case::Http1, &[], counted(50_005, 5, 50_005, 5), false);
        check(Case::Http1, &[], counted(50_005, 5, 37, 5_000_000), false);
        check(Case::Tcp, &["1 sent, 2 received"], counted(5, 5, 5, 5), false);
        check(Case::Tcp, &[], counted(5, 5, 5, 5), true);
    }
}
