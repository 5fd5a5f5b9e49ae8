//! Destinations in use: each keeps its plan up to date for as long as somebody holds it.
//!
//! `proxy` looks a destination up for each connection (or, on the forward proxy, each request) and reads
//! its plan for each request. Profile and policy are watched together; a plan is compiled only when both
//! have answered, and again whenever one of them changes. The last good plan stays in force.

use crate::cache::{Cache, CacheFull, Handle};
use crate::compile::Compiler;
use crate::lookup::{Discover, Live};
use crate::plan::Plan;
use crate::settings::Settings;
use crate::stream::{Latest, Log};
use crate::watched::{News, Publisher, Watcher};
use arc_swap::ArcSwapOption;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime;
use tokio::task::AbortHandle;
use weft_model::address::Addr;
use weft_model::policy::OutboundPolicy;
use weft_model::profile::Profile;
use weft_wire::services::Code;

/// The destinations of one proxy, outbound and inbound.
#[derive(Clone)]
pub struct Destinations {
    shared: Arc<Shared>,
}

struct Shared {
    lookup: Discover,
    outbound: Compiler,
    inbound: Compiler,
    out_cache: Cache<Addr, Destination>,
    in_cache: Cache<Port, Destination>,
    runtime: runtime::Handle,
}

/// A port of the workload and where its application listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Port {
    /// The port that clients mean.
    pub port: u16,
    /// Where the application listens.
    pub app: SocketAddr,
}

/// A destination held in the cache. Clones hold it too.
#[derive(Clone)]
pub struct Held {
    addr: Addr,
    destination: Kept,
}

#[derive(Clone)]
enum Kept {
    Out(Handle<Addr, Destination>),
    In(Handle<Port, Destination>),
}

/// One destination: its plan and the task that keeps it up to date.
pub struct Destination {
    state: Arc<State>,
    since: Instant,
    task: AbortHandle,
    asked: Asked,
}

/// What was asked for a destination, and of whom; read only when no answer came in time.
struct Asked {
    lookup: Discover,
    calls: Vec<Log>,
}

impl Asked {
    /// The last error of a call that has no answer yet, or why nobody can be asked at present.
    fn last_error(&self) -> Option<String> {
        let failed = self.calls.iter().find_map(Log::unanswered);
        failed.map(|status| status.to_string()).or_else(|| self.lookup.trouble())
    }
}

struct State {
    plan: ArcSwapOption<Plan>,
    changes: Publisher<Progress>,
}

impl Default for State {
    fn default() -> Self {
        Self { plan: ArcSwapOption::empty(), changes: Publisher::new(Progress::Awaited) }
    }
}

/// How far a destination is.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Progress {
    /// No answer yet.
    #[default]
    Awaited,
    /// There is a plan, the nth.
    Planned(u64),
    /// The control plane refused for good.
    Refused(String),
}

/// There is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlan {
    /// The control plane has not answered in time; the lookup goes on, so trying later is sensible.
    #[error("no answer in time")]
    TimedOut {
        /// How the last call failed, or why none could be made; `None` where the control plane just says nothing.
        last_error: Option<String>,
    },
    /// The control plane refused for good.
    #[error("{message}")]
    Refused {
        /// What it said.
        message: String,
    },
}

impl Destinations {
    /// Destinations, of both directions, that were let go to make room for others.
    pub fn displaced(&self) -> u64 {
        self.shared.out_cache.counts().displaced + self.shared.in_cache.counts().displaced
    }

    /// Destinations that are kept for a while after their last use.
    pub fn new(lookup: Discover, compilers: (Compiler, Compiler), runtime: &runtime::Handle) -> Self {
        let (outbound, inbound) = compilers;
        let settings = lookup.settings();
        let (out_limits, in_limits) = (settings.outbound_cache(), settings.inbound_cache());
        let asked = lookup.clone();
        let out_cache = Cache::weighed(out_limits, move |addr| asked.settings().weight(addr), runtime);
        let in_cache = Cache::weighed(in_limits, |_| Settings::PORT_WEIGHT, runtime);
        Self {
            shared: Arc::new(Shared {
                lookup,
                outbound,
                inbound,
                out_cache,
                in_cache,
                runtime: runtime.clone(),
            }),
        }
    }

    /// The destination of an outbound connection or request.
    ///
    /// # Errors
    /// The cache is full of destinations in use.
    pub fn outbound(&self, addr: &Addr) -> Result<Held, CacheFull> {
        let destination = self.shared.out_cache.lookup(addr, |addr| self.spawn_outbound(addr))?;
        Ok(Held { addr: addr.clone(), destination: Kept::Out(destination) })
    }

    /// A port of the workload; `keep`: for the life of the process.
    ///
    /// # Errors
    /// The cache is full of ports in use.
    pub fn inbound(&self, port: &Port, keep: Keep) -> Result<Held, CacheFull> {
        let make = |port: &Port| self.spawn_inbound(port);
        let destination = match keep {
            Keep::WhileUsed => self.shared.in_cache.lookup(port, make),
            Keep::Forever => self.shared.in_cache.permanent(port, make),
        }?;
        Ok(Held {
            addr: Addr::Socket(SocketAddr::new(port.app.ip(), port.port)),
            destination: Kept::In(destination),
        })
    }

    /// Visits every outbound destination.
    pub fn each_outbound(&self, mut visit: impl FnMut(&Addr, &Destination)) {
        self.shared.out_cache.visit(|addr, destination| visit(addr, destination));
    }

    /// Visits every inbound port.
    pub fn each_inbound(&self, mut visit: impl FnMut(&Port, &Destination)) {
        self.shared.in_cache.visit(|port, destination| visit(port, destination));
    }

    /// What is known by asking the control plane, for `/state.json`.
    pub fn lookup(&self) -> &Discover {
        &self.shared.lookup
    }

    fn spawn_outbound(&self, addr: &Addr) -> Destination {
        let shared = Arc::downgrade(&self.shared);
        let (profile, policy) = (self.shared.lookup.profile(addr), self.shared.lookup.outbound_policy(addr));
        let state = Arc::new(State::default());
        let logs = [profile.as_ref().ok().map(logged), policy.as_ref().ok().map(logged)];
        let asked = Asked {
            lookup: self.shared.lookup.clone(),
            calls: logs.into_iter().flatten().flatten().collect(),
        };
        let mut sources = match (profile, policy) {
            (Ok(profile), Ok(policy)) => Some((Source { live: profile }, Source { live: policy })),
            (Err(full), _) | (_, Err(full)) => {
                state.refuse(full.to_string());
                None
            }
        };
        let (addr, kept) = (addr.clone(), state.clone());
        let task = self.shared.runtime.spawn(async move {
            // Used where they were captured: there are thousands of these tasks, and a copy would count.
            let Some((profile, policy)) = &mut sources else { return };
            loop {
                match (profile.current(), policy.current()) {
                    (_, Current::Refused(message)) => kept.refuse(message),
                    (Current::Awaited, _) | (_, Current::Awaited) => {}
                    (profile, policy) => {
                        let Some(shared) = shared.upgrade() else { return };
                        let (profile, policy) = (profile.known(), policy.known());
                        kept.put(shared.outbound.outbound(&addr, profile.as_deref(), policy.as_deref()));
                    }
                }
                tokio::select! {
                    () = profile.changed() => {}
                    () = policy.changed() => {}
                }
            }
        });
        Destination { state, since: Instant::now(), task: task.abort_handle(), asked }
    }

    fn spawn_inbound(&self, port: &Port) -> Destination {
        let shared = Arc::downgrade(&self.shared);
        let state = Arc::new(State::default());
        let (port, kept) = (port.clone(), state.clone());
        let number = NonZeroU16::new(port.port).unwrap_or(NonZeroU16::MIN);
        let policy = self.shared.lookup.inbound_policy(number);
        // The default policy is in force from the start, so the first plan is there at once.
        let first = match policy.as_ref().map(Live::latest) {
            Ok(Latest::Known(policy)) => policy,
            _ => Arc::new(self.shared.lookup.settings().inbound.policy_of(number)),
        };
        {
            let _entered = self.shared.runtime.enter();
            kept.put(self.shared.inbound.inbound(port.app, port.port, &first, None));
        }
        let task = self.shared.runtime.spawn(async move {
            let Ok(mut policy) = policy else { return };
            while let Some(latest) = policy.changed().await {
                let Some(shared) = shared.upgrade() else { return };
                if let Latest::Known(policy) = latest {
                    let previous = kept.plan.load().as_ref().and_then(|plan| plan.limit.clone());
                    kept.put(shared.inbound.inbound(port.app, port.port, &policy, previous.as_ref()));
                }
            }
        });
        let asked = Asked { lookup: self.shared.lookup.clone(), calls: Vec::new() };
        Destination { state, since: Instant::now(), task: task.abort_handle(), asked }
    }
}

/// How a lookup is doing, without keeping it alive.
fn logged<T: Send + Sync + 'static>(live: &Option<Live<Addr, T>>) -> Option<Log> {
    live.as_ref().map(Live::log)
}

/// How long a port's policy is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Until it has been unused for the idle timeout.
    WhileUsed,
    /// For the life of the process.
    Forever,
}

impl State {
    fn put(&self, plan: Plan) {
        self.plan.store(Some(Arc::new(plan)));
        self.changes.change(|progress| {
            *progress = match progress {
                Progress::Planned(n) => Progress::Planned(*n + 1),
                _ => Progress::Planned(1),
            };
            News::Yes
        });
    }

    /// A refusal leaves a plan that is in force alone.
    fn refuse(&self, message: String) {
        if self.plan.load().is_none() {
            self.changes.change(|progress| {
                *progress = Progress::Refused(message);
                News::Yes
            });
        }
    }
}

impl Destination {
    /// The plan in force.
    pub fn plan(&self) -> Option<Arc<Plan>> {
        self.state.plan.load_full()
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Held {
    /// What was looked up.
    pub fn addr(&self) -> &Addr {
        &self.addr
    }

    /// The plan in force, if the control plane has answered.
    pub fn plan_now(&self) -> Option<Arc<Plan>> {
        self.destination().plan()
    }

    /// The plan, awaited until `within` after the destination was first looked up: later requests do not
    /// wait again for a control plane that does not answer.
    pub async fn plan(&self, within: Duration) -> Result<Arc<Plan>, NoPlan> {
        let destination = self.destination();
        let mut changes = destination.state.changes.watch();
        let timed_out = || NoPlan::TimedOut { last_error: destination.asked.last_error() };
        let decided = async {
            loop {
                if let Some(plan) = destination.plan() {
                    return Ok(plan);
                }
                if let Progress::Refused(message) = changes.take() {
                    return Err(NoPlan::Refused { message });
                }
                if changes.changed().await.is_none() {
                    return Err(timed_out());
                }
            }
        };
        let until = destination.since + within;
        tokio::time::timeout_at(until.into(), decided).await.unwrap_or_else(|_| Err(timed_out()))
    }

    /// Hears of every new plan.
    pub fn changes(&self) -> Watcher<Progress> {
        self.destination().state.changes.watch()
    }

    fn destination(&self) -> &Destination {
        match &self.destination {
            Kept::Out(handle) => handle,
            Kept::In(handle) => handle,
        }
    }
}

/// One of the two things a plan is compiled from.
struct Source<T> {
    live: Option<Live<Addr, T>>,
}

enum Current<T> {
    Awaited,
    Known(Arc<T>),
    /// The control plane has nothing to say about it, or was not asked.
    Nothing,
    /// It refused for good, and without it there is no plan.
    Refused(String),
}

impl<T> Current<T> {
    fn known(self) -> Option<Arc<T>> {
        match self {
            Current::Known(value) => Some(value),
            _ => None,
        }
    }
}

/// Whether a plan can be made without the answer when the control plane refuses it.
trait Optional {
    fn without(code: Code) -> bool;
}

impl Optional for Profile {
    /// A refused profile counts as none.
    fn without(_: Code) -> bool {
        true
    }
}

impl Optional for OutboundPolicy {
    /// A control plane without a policy for it: one is synthesized (§3.2). Other refusals fail.
    fn without(code: Code) -> bool {
        matches!(code, Code::NotFound | Code::Unimplemented)
    }
}

impl<T: Optional + Send + Sync + 'static> Source<T> {
    fn current(&self) -> Current<T> {
        match self.live.as_ref().map(Live::latest) {
            None => Current::Nothing,
            Some(Latest::Awaited) => Current::Awaited,
            Some(Latest::Known(value)) => Current::Known(value),
            Some(Latest::Refused(status)) if T::without(status.code) => Current::Nothing,
            Some(Latest::Refused(status)) => Current::Refused(status.to_string()),
        }
    }

    /// Resolves when there is something new; never, once there cannot be.
    async fn changed(&mut self) {
        if let Some(live) = &mut self.live
            && live.changed().await.is_some()
        {
            return;
        }
        std::future::pending().await
    }
}
