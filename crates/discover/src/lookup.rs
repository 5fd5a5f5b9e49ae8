//! The front of discovery: one shared, kept-alive lookup for each destination.
//!
//! `plan.rs` asks here what the control plane says about an address and runs on the answers. Lookups of
//! the same thing share one call; an entry goes when it has been unused for the idle time. Nothing here
//! waits for the control plane but the `first` methods, and those only for a bounded time.

use crate::cache::{Cache, CacheCounts, Handle};
use crate::endpoints::{Endpoints, Known, Listener, Subscription};
use crate::error::DiscoverError;
use crate::settings::Settings;
use crate::source::{FINAL, FINAL_OUTBOUND, Source};
use crate::stream::{Latest, Progress, Rules, Watch};
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
        let inner = Arc::new(Inner {
            source,
            runtime: runtime.clone(),
            endpoints: Cache::new(settings.outbound_cache(), runtime),
            profiles: Cache::new(settings.outbound_cache(), runtime),
            outbound: Cache::new(settings.outbound_cache(), runtime),
            inbound: Cache::new(settings.inbound_cache(), runtime),
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
                self.rules(FINAL),
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
                self.rules(FINAL),
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
            Watch::spawn(open, self.rules(FINAL_OUTBOUND), None, &self.inner.runtime)
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

    fn rules(&self, finals: &'static [Code]) -> Rules {
        Rules { backoff: self.inner.settings.backoff, limits: self.inner.settings.limits, finals }
    }

    fn watch_port(&self, port: NonZeroU16) -> Watch<InboundPolicy> {
        let source = self.inner.source.clone();
        let default = self.inner.settings.inbound.policy_of(port);
        let open = Box::new(move || source.inbound_policy(port));
        Watch::spawn(open, self.rules(FINAL), Some(default), &self.inner.runtime)
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
