//! The front of discovery: one shared, kept-alive lookup for each destination.
//!
//! `destination.rs` asks here what the control plane says about an address and runs on the answers. Lookups of
//! the same thing share one call, which ends with its last user. Nothing here
//! waits for the control plane but the `first` methods, and those only for a bounded time.

use crate::cache::{Cache, CacheCounts, Handle};
use crate::endpoints::{Endpoints, Known, Listener, Subscription};
use crate::error::DiscoverError;
use crate::settings::Settings;
use crate::source::{FINAL, FINAL_OUTBOUND, Source};
use crate::stream::{Latest, Log, Progress, Rules, Watch};
use std::fmt;
use std::hash::Hash;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime;
use weft_model::address::{Addr, NameAddr};
use weft_model::policy::{InboundPolicy, OutboundPolicy};
use weft_model::profile::Profile;
use weft_wire::services::Code;

/// The lookups of one proxy. Cheap to clone.
#[derive(Clone)]
pub struct Discover {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    source: Arc<dyn Source>,
    rules: Arc<Rules>,
    /// Of outbound policies, where more codes are final.
    outbound_rules: Arc<Rules>,
    runtime: runtime::Handle,
    endpoints: Cache<NameAddr, Endpoints>,
    profiles: Cache<Addr, Watch<Profile>>,
    outbound: Cache<Addr, Watch<OutboundPolicy>>,
    inbound: Cache<NonZeroU16, Watch<InboundPolicy>>,
}

/// An answer that stays up to date for as long as it is held.
pub struct Live<K: Clone + Eq + Hash, T> {
    held: Handle<K, Watch<T>>,
    watch: Watch<T>,
    within: Duration,
}

/// The profile of an address.
pub type LiveProfile = Live<Addr, Profile>;
/// The policy of a destination.
pub type LiveOutbound = Live<Addr, OutboundPolicy>;
/// The policy of a port of our own; it always has a value.
pub type LiveInbound = Live<NonZeroU16, InboundPolicy>;

/// The endpoints of a name, followed for as long as this is held.
#[derive(Clone)]
pub struct LiveEndpoints {
    held: Handle<NameAddr, Endpoints>,
    within: Duration,
}

/// Keeps a listener fed until it is dropped.
pub struct Feed {
    // Fields drop in this order: the listener hears nothing of the end.
    _subscription: Subscription,
    endpoints: LiveEndpoints,
}

/// How one lookup is doing, for `/state.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What was asked.
    pub method: Method,
    /// About what.
    pub about: String,
    /// How the call is doing.
    pub progress: Progress,
    /// The endpoints, where they were asked for and are known.
    pub known: Option<Known>,
}

/// A method of the control plane that is kept open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// `Destination.Get`.
    Endpoints,
    /// `Destination.GetProfile`.
    Profile,
    /// `OutboundPolicies.Watch`.
    OutboundPolicy,
    /// `InboundServerPolicies.WatchPort`.
    InboundPolicy,
}

impl Method {
    /// Every method.
    pub const ALL: [Method; 4] =
        [Method::Endpoints, Method::Profile, Method::OutboundPolicy, Method::InboundPolicy];

    /// Its name in `/state.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Endpoints => "Destination.Get",
            Method::Profile => "Destination.GetProfile",
            Method::OutboundPolicy => "OutboundPolicies.Watch",
            Method::InboundPolicy => "InboundServerPolicies.WatchPort",
        }
    }
}

impl Discover {
    /// Asks `source`; everything that keeps lookups alive runs on `runtime`. The ports that are to be
    /// watched from the start are asked for at once.
    pub fn new(settings: Settings, source: Arc<dyn Source>, runtime: &runtime::Handle) -> Self {
        let (backoff, limits) = (settings.backoff, settings.limits);
        let inner = Arc::new(Inner {
            source,
            rules: Arc::new(Rules { backoff, limits, finals: FINAL }),
            outbound_rules: Arc::new(Rules { backoff, limits, finals: FINAL_OUTBOUND }),
            runtime: runtime.clone(),
            endpoints: Cache::new(settings.lookups(), runtime),
            profiles: Cache::new(settings.lookups(), runtime),
            outbound: Cache::new(settings.lookups(), runtime),
            inbound: Cache::new(settings.lookups(), runtime),
            settings,
        });
        let discover = Self { inner };
        for port in discover.inner.settings.inbound.ports.iter() {
            if discover.inner.inbound.permanent(&port, |port| discover.watch_port(*port)).is_err() {
                tracing::warn!(%port, "too many ports to watch all from the start");
                break;
            }
        }
        discover
    }

    /// Why nobody can be asked at present, if that is so.
    pub fn trouble(&self) -> Option<String> {
        self.inner.source.trouble()
    }

    /// What it goes by.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// The endpoints of a name.
    pub fn endpoints(&self, dst: &NameAddr) -> Result<LiveEndpoints, DiscoverError> {
        let held = self.inner.endpoints.lookup(dst, |dst| {
            let (source, dst) = (self.inner.source.clone(), dst.clone());
            Endpoints::follow(
                Box::new(move || source.endpoints(&dst)),
                self.inner.rules.clone(),
                &self.inner.runtime,
            )
        })?;
        Ok(LiveEndpoints { held, within: self.inner.settings.first_answer })
    }

    /// The profile of an address; `None` if it is not one that profiles are asked for.
    pub fn profile(&self, addr: &Addr) -> Result<Option<LiveProfile>, DiscoverError> {
        if !self.inner.settings.has_profile(addr) {
            return Ok(None);
        }
        let held = self.inner.profiles.lookup(addr, |addr| {
            let (source, addr) = (self.inner.source.clone(), addr.clone());
            Watch::spawn(
                Box::new(move || source.profile(&addr)),
                self.inner.rules.clone(),
                None,
                &self.inner.runtime,
            )
        })?;
        Ok(Some(self.live(held)))
    }

    /// The policy of a destination; `None` if it is not one that policies are asked for. A refusal with
    /// NOT_FOUND or UNIMPLEMENTED means that the caller has to make one up ([`has_no_policy`]).
    pub fn outbound_policy(&self, addr: &Addr) -> Result<Option<LiveOutbound>, DiscoverError> {
        if !self.inner.settings.has_policy(addr) {
            return Ok(None);
        }
        let held = self.inner.outbound.lookup(addr, |addr| {
            let (source, addr) = (self.inner.source.clone(), addr.clone());
            let open = Box::new(move || source.outbound_policy(&addr));
            Watch::spawn(open, self.inner.outbound_rules.clone(), None, &self.inner.runtime)
        })?;
        Ok(Some(self.live(held)))
    }

    /// The policy of a port of our own: the default one at once, the control plane's as soon as it
    /// comes. It fails only when more ports are in use at once than the cache may hold.
    pub fn inbound_policy(&self, port: NonZeroU16) -> Result<LiveInbound, DiscoverError> {
        let held = self.inner.inbound.lookup(&port, |port| self.watch_port(*port))?;
        Ok(self.live(held))
    }

    /// How every lookup is doing, in the order of [`Method::ALL`], at most `capacity` of each.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        self.inner.endpoints.visit(|dst, endpoints| {
            let known = match endpoints.watch().latest() {
                Latest::Known(known) => Some(*known),
                _ => None,
            };
            let (about, progress) = (dst.to_string(), endpoints.progress());
            rows.push(Row { method: Method::Endpoints, about, progress, known });
        });
        let mut row = |method, about, progress| rows.push(Row { method, about, progress, known: None });
        self.inner.profiles.visit(|addr, w| row(Method::Profile, addr.to_string(), w.progress()));
        self.inner.outbound.visit(|addr, w| row(Method::OutboundPolicy, addr.to_string(), w.progress()));
        self.inner.inbound.visit(|port, w| row(Method::InboundPolicy, port.to_string(), w.progress()));
        rows
    }

    /// What happened in the cache of one method.
    pub fn counts(&self, method: Method) -> CacheCounts {
        match method {
            Method::Endpoints => self.inner.endpoints.counts(),
            Method::Profile => self.inner.profiles.counts(),
            Method::OutboundPolicy => self.inner.outbound.counts(),
            Method::InboundPolicy => self.inner.inbound.counts(),
        }
    }

    fn watch_port(&self, port: NonZeroU16) -> Watch<InboundPolicy> {
        let source = self.inner.source.clone();
        let default = self.inner.settings.inbound.policy_of(port);
        let open = Box::new(move || source.inbound_policy(port));
        Watch::spawn(open, self.inner.rules.clone(), Some(default), &self.inner.runtime)
    }

    fn live<K: Clone + Eq + Hash, T>(&self, held: Handle<K, Watch<T>>) -> Live<K, T> {
        let watch = Watch::clone(&held);
        Live { held, watch, within: self.inner.settings.first_answer }
    }
}

/// Whether a refusal means that the control plane has no policy for a destination, so that the caller
/// makes one up (data-plane facts, section 3.2), rather than that it refuses the destination.
pub fn has_no_policy(error: &DiscoverError) -> bool {
    let none = |code| matches!(code, Code::NotFound | Code::Unimplemented);
    matches!(error, DiscoverError::Refused(status) if none(status.code))
}

impl<K: Clone + Eq + Hash, T: Send + Sync + 'static> Live<K, T> {
    /// What was asked about.
    pub fn key(&self) -> &K {
        self.held.key()
    }

    /// The answer; waits for the first one for the configured time and then gives up, while the lookup
    /// goes on.
    pub async fn first(&self) -> Result<Arc<T>, DiscoverError> {
        self.watch.first(self.within).await
    }

    /// What is known now.
    pub fn latest(&self) -> Latest<T> {
        self.watch.latest()
    }

    /// How the lookup is doing, for who must not keep it alive.
    pub(crate) fn log(&self) -> Log {
        self.watch.log()
    }

    /// Waits for news since the last call and gives it; `None` when there will never be any more.
    /// Cancel safe.
    pub async fn changed(&mut self) -> Option<Latest<T>> {
        self.watch.changed().await
    }

    /// How the call to the control plane is doing.
    pub fn progress(&self) -> Progress {
        self.watch.progress()
    }
}

impl<K: Clone + Eq + Hash, T> Clone for Live<K, T> {
    fn clone(&self) -> Self {
        Self { held: self.held.clone(), watch: self.watch.clone(), within: self.within }
    }
}

impl LiveEndpoints {
    /// The name.
    pub fn key(&self) -> &NameAddr {
        self.held.key()
    }

    /// Feeds a listener, such as a `Backend`, with the present set and every change.
    pub fn feed(&self, listener: Arc<dyn Listener>) -> Feed {
        Feed { _subscription: self.held.subscribe(listener), endpoints: self.clone() }
    }

    /// What is known; waits for the first answer for the configured time.
    pub async fn first(&self) -> Result<Arc<Known>, DiscoverError> {
        self.held.first(self.within).await
    }

    /// The endpoints themselves.
    pub fn get(&self) -> &Endpoints {
        &self.held
    }
}

impl Feed {
    /// What the listener is fed from.
    pub fn endpoints(&self) -> &LiveEndpoints {
        &self.endpoints
    }
}

impl<K: Clone + Eq + Hash + fmt::Debug, T> fmt::Debug for Live<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Live").field(self.held.key()).field(&self.watch.progress()).finish()
    }
}

impl fmt::Debug for LiveEndpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LiveEndpoints").field(self.held.key()).field(&*self.held).finish()
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Feed").field(self.endpoints.key()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{InboundDefaults, PortSet};
    use crate::stream::{Answers, Opening};
    use futures_util::StreamExt;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use weft_balance::Change;
    use weft_model::destination::{EndpointInfo, EndpointUpdate};
    use weft_model::meta::Meta;
    use weft_model::policy::{InboundProtocol, OutboundProtocol};
    use weft_wire::services::Status;

    const SECOND: Duration = Duration::from_secs(1);

    /// Answers each question once and keeps the call open; fails with `code` if one is set.
    #[derive(Default)]
    struct Oracle {
        asked: Mutex<Vec<String>>,
        open: Arc<AtomicUsize>,
        code: Mutex<Option<Code>>,
        silent: bool,
    }

    impl Oracle {
        fn answer<T: Send + 'static>(&self, question: String, answer: T) -> Opening<T> {
            self.asked.lock().unwrap().push(question);
            let (code, silent) = (*self.code.lock().unwrap(), self.silent);
            let open = Open::new(&self.open);
            Box::pin(async move {
                if let Some(code) = code {
                    return Err(Status::new(code, "no"));
                }
                let said = futures_util::stream::iter((!silent).then_some(Ok(answer)));
                let rest = futures_util::stream::once(async move {
                    std::future::pending::<()>().await;
                    drop(open);
                });
                Ok(said.chain(rest.filter_map(|()| async { None })).boxed() as Answers<T>)
            })
        }

        fn asked(&self) -> Vec<String> {
            std::mem::take(&mut self.asked.lock().unwrap())
        }

        fn open(&self) -> usize {
            self.open.load(Ordering::Relaxed)
        }
    }

    struct Open(Arc<AtomicUsize>);

    impl Open {
        fn new(count: &Arc<AtomicUsize>) -> Self {
            count.fetch_add(1, Ordering::Relaxed);
            Self(count.clone())
        }
    }

    impl Drop for Open {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    impl Source for Oracle {
        fn endpoints(&self, dst: &NameAddr) -> Opening<EndpointUpdate> {
            let info = EndpointInfo::plain(([10, 0, 0, 1], 8080).into());
            self.answer(format!("endpoints {dst}"), EndpointUpdate::Add(vec![info]))
        }

        fn profile(&self, addr: &Addr) -> Opening<Profile> {
            self.answer(format!("profile {addr}"), Profile { opaque: true, ..Profile::default() })
        }

        fn outbound_policy(&self, addr: &Addr) -> Opening<OutboundPolicy> {
            let protocol = OutboundProtocol::Opaque(Vec::new());
            let policy = OutboundPolicy { meta: Meta::default_named("told"), protocol };
            self.answer(format!("outbound {addr}"), policy)
        }

        fn inbound_policy(&self, port: NonZeroU16) -> Opening<InboundPolicy> {
            let (meta, protocol) = (Meta::default_named("told"), InboundProtocol::Opaque);
            let policy = InboundPolicy { meta, protocol, authorizations: Vec::new() };
            self.answer(format!("inbound {port}"), policy)
        }
    }

    fn discover(oracle: Oracle, settings: Settings) -> (Discover, Arc<Oracle>) {
        let oracle = Arc::new(oracle);
        (Discover::new(settings, oracle.clone(), &runtime::Handle::current()), oracle)
    }

    async fn run_for(time: Duration) {
        let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
    }

    fn port(port: u16) -> NonZeroU16 {
        NonZeroU16::new(port).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn users_of_one_destination_share_one_call_until_all_are_gone() {
        let (discover, oracle) = discover(Oracle::default(), Settings::default());
        let addr: Addr = "web.default.svc.cluster.local:80".parse().unwrap();
        let first = discover.outbound_policy(&addr).unwrap().unwrap();
        let second = discover.outbound_policy(&addr).unwrap().unwrap();
        let (a, b) = tokio::join!(first.first(), second.first());
        assert!(Arc::ptr_eq(&a.unwrap(), &b.unwrap()));
        drop(first);
        run_for(60 * SECOND).await;
        assert_eq!((oracle.asked().len(), oracle.open()), (1, 1));
        drop(second);
        run_for(SECOND / 100).await;
        assert_eq!((oracle.open(), discover.rows().len()), (0, 0));
        drop(discover.outbound_policy(&addr).unwrap());
        run_for(SECOND).await;
        assert_eq!((oracle.asked().len(), oracle.open()), (1, 0), "asked anew, and given up again");
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_the_settings_allow_is_asked() {
        let settings = Settings { networks: vec!["10.0.0.0/8".parse().unwrap()], ..Settings::default() };
        let (discover, oracle) = discover(Oracle::default(), settings);
        let mut held = Vec::new();
        for addr in ["web.default.svc.cluster.local:80", "example.com:80", "10.0.0.1:80", "192.0.2.1:80"] {
            let addr: Addr = addr.parse().unwrap();
            held.push((discover.profile(&addr).unwrap(), discover.outbound_policy(&addr).unwrap()));
        }
        run_for(SECOND).await;
        let mut asked = oracle.asked();
        asked.sort();
        assert_eq!(
            asked,
            [
                "outbound 10.0.0.1:80",
                "outbound 192.0.2.1:80",
                "outbound web.default.svc.cluster.local:80",
                "profile 10.0.0.1:80",
                "profile web.default.svc.cluster.local:80",
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_control_plane_costs_a_bounded_wait_and_the_lookup_goes_on() {
        let (discover, oracle) = discover(Oracle { silent: true, ..Oracle::default() }, Settings::default());
        let dst = "web.default.svc.cluster.local:80".parse().unwrap();
        let live = discover.endpoints(&dst).unwrap();
        let begun = tokio::time::Instant::now();
        let error = live.first().await.unwrap_err();
        assert_eq!((error.code().as_str(), begun.elapsed()), ("discovery-timeout", 3 * SECOND));
        assert_eq!(oracle.open(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_tell_no_policy_from_no_destination() {
        for (code, none) in
            [(Code::NotFound, true), (Code::Unimplemented, true), (Code::InvalidArgument, false)]
        {
            let oracle = Oracle { code: Mutex::new(Some(code)), ..Oracle::default() };
            let (discover, oracle) = discover(oracle, Settings::default());
            let live = discover.outbound_policy(&"10.0.0.1:80".parse().unwrap()).unwrap().unwrap();
            let error = live.first().await.unwrap_err();
            assert_eq!((has_no_policy(&error), error.code().as_str()), (none, "discovery-refused"));
            run_for(60 * SECOND).await;
            assert_eq!(oracle.asked().len(), 1, "{code} is final");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ports_start_with_the_default_policy_and_not_found_is_repeated() {
        let oracle = Oracle { code: Mutex::new(Some(Code::NotFound)), ..Oracle::default() };
        let (discover, oracle) = discover(oracle, Settings::default());
        let mut live = discover.inbound_policy(port(80)).unwrap();
        assert_eq!(live.first().await.unwrap().meta.name(), "all-unauthenticated");
        run_for(SECOND).await;
        assert!(oracle.asked().len() > 1);
        *oracle.code.lock().unwrap() = None;
        let Some(Latest::Known(policy)) = live.changed().await else { panic!() };
        assert_eq!(policy.meta.name(), "told");
    }

    #[tokio::test(start_paused = true)]
    async fn listed_ports_are_watched_from_the_start_and_for_ever() {
        let ports = PortSet::parse("80,8080-8081").unwrap();
        let inbound = InboundDefaults { ports, ..InboundDefaults::default() };
        let (discover, oracle) = discover(Oracle::default(), Settings { inbound, ..Settings::default() });
        run_for(SECOND).await;
        assert_eq!(oracle.asked(), ["inbound 80", "inbound 8080", "inbound 8081"]);
        drop(discover.inbound_policy(port(80)).unwrap());
        drop(discover.inbound_policy(port(81)).unwrap());
        run_for(200 * SECOND).await;
        assert_eq!((oracle.open(), oracle.asked().len()), (3, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_bound_holds_and_a_feed_keeps_its_endpoints() {
        #[derive(Default)]
        struct Ear(Mutex<Vec<Change>>);
        impl Listener for Ear {
            fn apply(&self, change: Change) {
                self.0.lock().unwrap().push(change);
            }
        }
        let (discover, oracle) = discover(Oracle::default(), Settings { capacity: 2, ..Settings::default() });
        let name = |n: u32| format!("s{n}.default.svc.cluster.local:80").parse::<NameAddr>().unwrap();
        let ear = Arc::new(Ear::default());
        let feed = discover.endpoints(&name(0)).unwrap().feed(ear.clone());
        for n in 1..50 {
            drop(discover.endpoints(&name(n)).unwrap());
            run_for(Duration::from_millis(1)).await;
        }
        assert_eq!(oracle.open(), 1);
        assert_eq!(discover.counts(Method::Endpoints).expired, 49);
        assert_eq!(ear.0.lock().unwrap().len(), 1);
        assert_eq!(feed.endpoints().first().await.unwrap().endpoints, 1);
        let _held = discover.endpoints(&name(1)).unwrap();
        assert_eq!(discover.endpoints(&name(2)).unwrap_err().code().as_str(), "overloaded");
        let row = discover.rows().into_iter().find(|row| row.about == name(0).to_string()).unwrap();
        assert_eq!((row.method, row.known), (Method::Endpoints, Some(Known { endpoints: 1, exists: true })));
        assert_eq!(row.progress.phase.as_str(), "streaming");
    }
}
