//! A directory of manifests as a source.
//!
//! It looks at the files at start, whenever the kernel reports a change, and every 30 s; what it finds
//! passes, step by step, through the shelf of last good files, the guard against mass disappearance,
//! and the allocation of what Kubernetes would fill in (creation times, virtual addresses), and leaves
//! as one batch of changes. `control` drives it as a [`Source`].

use crate::allocate::{Allocator, default_range};
use crate::hash;
use crate::report::{Finding, Report};
use crate::scan::{Depth, Scan, scan};
use crate::shelf::{Guard, Shelf, Watch, guard};
use crate::source::{Batch, NextBatch, Part, Source};
use crate::state::{Remembered, State};
use crate::write::Writer;
use ipnet::IpNet;
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecursiveMode, Watcher};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use weft_model::object::{Change, Created, Key, Object};
use weft_model::service::{Addressing, ServiceName};

/// How often to look for a root that cannot be read.
const MISSING_RETRY: Duration = Duration::from_secs(2);

/// How a directory is read.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The manifests' root.
    pub root: PathBuf,
    /// Where addresses, first-seen times and the last good objects are remembered; `None` forgets them
    /// at exit.
    pub state: Option<PathBuf>,
    /// Time between looks at every file, whatever the kernel reports (network and overlay mounts).
    pub rescan: Duration,
    /// How long it must be quiet after a change before the files are read.
    pub quiet: Duration,
    /// How long changes without a quiet moment may put off reading.
    pub longest: Duration,
    /// Least time between two writings of the state, except for new virtual addresses.
    pub save_every: Duration,
    /// Where virtual addresses come from.
    pub virtual_range: IpNet,
    /// When removals are held back.
    pub guard: Guard,
}

impl Settings {
    /// The documented defaults (§8.3).
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            state: None,
            rescan: Duration::from_secs(30),
            quiet: Duration::from_millis(200),
            longest: Duration::from_secs(2),
            save_every: Duration::from_secs(1),
            virtual_range: default_range(),
            guard: Guard::default(),
        }
    }
}

/// Lets others talk to a directory that is being driven.
#[derive(Clone, Debug)]
pub struct Handle {
    confirmed: Arc<AtomicBool>,
    changed: Arc<Notify>,
}

impl Handle {
    /// Confirms the removals that are held back now. What goes missing later is held back again.
    pub fn confirm_removals(&self) {
        self.confirmed.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// Has the files looked at soon.
    pub fn rescan(&self) {
        self.changed.notify_one();
    }
}

/// A directory of manifests.
pub struct Directory {
    settings: Settings,
    state: Option<State>,
    shelf: Shelf,
    in_force: BTreeMap<Key, Object>,
    fingerprint: Fingerprint,
    allocator: Allocator,
    /// Where the stream stands: the part that the next batch is, and its number.
    part: Part,
    revision: u64,
    /// Whether `in_force` is what was remembered, not what was read.
    restored: bool,
    due: Option<Depth>,
    next_rescan: Instant,
    /// A look that is under way, and a batch that is to be handed out.
    scanning: Option<JoinHandle<std::io::Result<Scan>>>,
    ready: Option<Batch>,
    save_due: Option<Instant>,
    saving: Option<JoinHandle<std::io::Result<()>>>,
    saved_at: Option<Instant>,
    watcher: Watching,
    handle: Handle,
    report: watch::Sender<Arc<Report>>,
    /// What is wrong with the directory itself, the watch on it or the state.
    troubles: BTreeMap<&'static str, String>,
}

impl Directory {
    /// Starts with what the state directory remembers; reads no manifests yet. Blocks shortly on
    /// reading the state.
    pub fn open(settings: Settings) -> Self {
        let state = settings.state.as_deref().map(State::new);
        let mut troubles = BTreeMap::new();
        let remembered = match state.as_ref().map(State::load) {
            Some(Ok(Some(remembered))) => remembered,
            Some(Err(problem)) => {
                troubles.insert("state", problem);
                Remembered::default()
            }
            Some(Ok(None)) | None => Remembered::default(),
        };
        let changed = Arc::new(Notify::new());
        Self {
            allocator: Allocator::new(settings.virtual_range, remembered.addresses),
            in_force: remembered.objects,
            fingerprint: Fingerprint::default(),
            restored: true,
            shelf: Shelf::default(),
            part: Part::Initial,
            revision: 0,
            due: Some(Depth::All),
            next_rescan: Instant::now() + settings.rescan,
            scanning: None,
            ready: None,
            save_due: None,
            saving: None,
            saved_at: None,
            watcher: Watching { changed: changed.clone(), watcher: None, watched: None },
            handle: Handle { confirmed: Arc::default(), changed },
            report: watch::Sender::new(Arc::default()),
            troubles,
            state,
            settings,
        }
    }

    /// Lets others talk to it while it is driven.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Writes into the same directory.
    pub fn writer(&self) -> Writer {
        Writer::new(&self.settings.root)
    }

    async fn next_batch(&mut self) -> Batch {
        // Every step leaves its result in `self` before the next one is awaited, so that dropping this
        // future anywhere loses nothing and repeats nothing.
        loop {
            if self.scanning.is_none() && self.ready.is_none() {
                self.wait_until_due().await;
                self.watch();
                let depth = self.due.take().unwrap_or(Depth::All);
                let (root, known) = (self.settings.root.clone(), self.shelf.known());
                self.scanning = Some(tokio::task::spawn_blocking(move || scan(&root, &known, depth)));
                if depth == Depth::All {
                    self.next_rescan = Instant::now() + self.settings.rescan;
                }
            }
            if let Some(scanning) = &mut self.scanning {
                let found = scanning.await.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
                self.scanning = None;
                if found.is_err() {
                    // No kernel reports about a directory that is not there.
                    self.next_rescan = Instant::now() + self.settings.rescan.min(MISSING_RETRY);
                }
                self.ready = self.take_in(found);
            }
            self.save_if_due().await;
            self.publish();
            if let Some(batch) = self.ready.take() {
                return batch;
            }
        }
    }

    /// Waits until the files are to be looked at, and writes the state meanwhile.
    async fn wait_until_due(&mut self) {
        while self.due.is_none() {
            let save = self.save_due.unwrap_or(self.next_rescan);
            tokio::select! {
                () = self.handle.changed.notified() => {
                    // Noted before anything else is awaited, so that dropping this future loses nothing.
                    self.due = Some(Depth::Changed);
                    self.settle().await;
                }
                () = sleep_until(self.next_rescan) => self.due = Some(Depth::All),
                () = sleep_until(save), if self.save_due.is_some() && self.state.is_some() => {
                    self.save_if_due().await;
                    self.publish();
                }
            }
        }
    }

    /// Waits for a quiet moment, or until it has waited long enough.
    async fn settle(&self) {
        let last = Instant::now() + self.settings.longest;
        loop {
            let quiet = (Instant::now() + self.settings.quiet).min(last);
            let more = timeout_at(quiet, self.handle.changed.notified()).await;
            if more.is_err() || Instant::now() >= last {
                return;
            }
        }
    }

    fn watch(&mut self) {
        match self.watcher.follow(&self.settings.root) {
            Ok(()) => drop(self.troubles.remove("watch")),
            Err(error) => {
                let every = self.settings.rescan.as_secs();
                let problem = format!("changes are noticed only every {every} s: {error}");
                self.troubles.insert("watch", problem);
            }
        }
    }

    /// From what a look found to what changes.
    fn take_in(&mut self, found: std::io::Result<Scan>) -> Option<Batch> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut report = Report::default();
        let (rejected, warnings, objects) = match found {
            Ok(found) => {
                self.shelf.absorb(found);
                let wanted = self.shelf.wanted(&self.in_force);
                let mut objects = wanted.objects;
                let watch = if self.restored { Watch::Everything } else { Watch::Most };
                let confirmed = self.handle.confirmed.swap(false, Ordering::AcqRel);
                if !confirmed
                    && let Some((hold, kept)) = guard(&self.in_force, &objects, self.settings.guard, watch)
                {
                    tracing::warn!(missing = hold.missing, of = hold.of, "{}", hold.message);
                    objects.extend(kept.into_iter().map(|o| (o.key(), o)));
                    report.held = Some(hold);
                } else {
                    self.restored = false;
                }
                (wanted.rejected, wanted.warnings, objects)
            }
            Err(error) => {
                let root = self.settings.root.display();
                let why = format!("the manifests in {root} cannot be read: {error}");
                report.stale = Some(match (self.restored, self.in_force.is_empty()) {
                    (_, true) => why,
                    (true, false) => format!("{why}; what is in force is remembered from an earlier run"),
                    (false, false) => format!("{why}; what was read last stays in force"),
                });
                (Vec::new(), Vec::new(), self.in_force.clone())
            }
        };
        if report.stale.is_none() && report.held.is_some() && self.restored {
            report.stale =
                Some("the manifests are gone; what is in force is remembered from an earlier run".into());
        }
        let mut rejected = rejected;
        let objects = self.fill_in(objects, i64::try_from(now).unwrap_or(i64::MAX), &mut rejected);
        let changes = self.switch_to(objects);
        let batch = (!changes.is_empty() || self.part == Part::Initial).then(|| {
            self.revision += 1;
            Batch { changes, part: std::mem::replace(&mut self.part, Part::Changes), revision: self.revision }
        });
        report.objects = self.in_force.len();
        report.files = self.shelf.len();
        report.ignored = self.shelf.ignored();
        report.revision = self.revision;
        report.hash = self.fingerprint.to_string();
        let report = report.with_findings(rejected, warnings);
        self.report.send_if_modified(|held| {
            let differs = **held != report;
            *held = Arc::new(report);
            differs
        });
        batch
    }

    /// Fills in what Kubernetes would have: creation times, and virtual addresses.
    fn fill_in(
        &mut self,
        mut objects: BTreeMap<Key, Object>,
        now: i64,
        rejected: &mut Vec<Finding>,
    ) -> BTreeMap<Key, Object> {
        for (key, object) in &mut objects {
            if object.meta().created.is_none() {
                let first_seen = self.in_force.get(key).and_then(|o| o.meta().created);
                object.meta_mut().created = Some(first_seen.unwrap_or(Created(now)));
            }
        }
        let (mut lacking, mut taken) = (BTreeSet::new(), BTreeSet::<IpAddr>::new());
        for object in objects.values() {
            if let Object::Service(service) = object {
                match self.allocated_or_none(&service.name(), &service.addressing) {
                    true => drop(lacking.insert(service.name())),
                    false => taken.extend(service.virtual_ips()),
                }
            }
        }
        let before = self.allocator.held().clone();
        let without: BTreeSet<ServiceName> = self.allocator.assign(&lacking, &taken).into_iter().collect();
        if *self.allocator.held() != before {
            self.save_due = Some(Instant::now());
        }
        for object in objects.values_mut() {
            let Object::Service(service) = object else { continue };
            let name = service.name();
            if !lacking.contains(&name) {
                continue;
            }
            let ips: Vec<IpAddr> = self.allocator.held().get(&name).copied().into_iter().collect();
            if without.contains(&name) {
                let origin = &service.meta.origin;
                rejected.push(Finding {
                    file: origin.file.clone(),
                    line: origin.line,
                    object: format!("Service {name}"),
                    field: "spec.clusterIP".into(),
                    message: format!("no virtual address is left in {}", self.settings.virtual_range),
                });
            }
            if service.addressing != Addressing::Virtual(ips.clone()) {
                Arc::make_mut(service).addressing = Addressing::Virtual(ips);
            }
        }
        objects
    }

    /// Whether a service's address is ours to give: it has none, or the one that it was given.
    fn allocated_or_none(&self, name: &ServiceName, addressing: &Addressing) -> bool {
        match addressing {
            Addressing::Virtual(ips) => match ips[..] {
                [] => true,
                // Kept objects (held back, or restored) carry the address that they were given.
                [ip] => self.allocator.held().get(name) == Some(&ip),
                _ => false,
            },
            _ => false,
        }
    }

    /// Puts objects in force and gives the difference; for the first batch, everything.
    fn switch_to(&mut self, objects: BTreeMap<Key, Object>) -> Vec<Change> {
        let before = match self.part {
            Part::Initial => BTreeMap::new(),
            Part::Changes => std::mem::take(&mut self.in_force),
        };
        let gone = before.keys().filter(|key| !objects.contains_key(key)).cloned().map(Change::Delete);
        let new = objects.iter().filter(|(key, object)| before.get(key) != Some(object));
        let changes: Vec<Change> = gone.chain(new.map(|(_, o)| Change::Upsert(o.clone()))).collect();
        if !changes.is_empty() {
            let earliest = self.saved_at.map_or_else(Instant::now, |at| at + self.settings.save_every);
            self.save_due = Some(self.save_due.map_or(earliest, |due| due.min(earliest)));
        }
        for change in &changes {
            match change {
                Change::Delete(key) => self.fingerprint.remove(before.get(key)),
                Change::Upsert(object) => {
                    self.fingerprint.remove(before.get(&object.key()));
                    self.fingerprint.add(object);
                }
            }
        }
        self.in_force = objects;
        changes
    }

    async fn save_if_due(&mut self) {
        if self.saving.is_none()
            && self.save_due.is_some_and(|due| due <= Instant::now())
            && let Some(state) = self.state.clone()
        {
            self.save_due = None;
            let remembered =
                Remembered { objects: self.in_force.clone(), addresses: self.allocator.held().clone() };
            self.saving = Some(tokio::task::spawn_blocking(move || state.save(&remembered)));
        }
        let Some(saving) = &mut self.saving else { return };
        let saved = saving.await.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
        self.saving = None;
        self.saved_at = Some(Instant::now());
        match saved {
            Ok(()) => drop(self.troubles.remove("state")),
            Err(error) => {
                let problem = format!("the state cannot be written: {error}");
                tracing::warn!("{problem}");
                self.troubles.insert("state", problem);
            }
        }
    }

    /// Adds what is wrong with the directory itself to the report.
    fn publish(&self) {
        let troubles: Vec<Finding> = self
            .troubles
            .iter()
            .map(|(about, message)| Finding {
                file: format!("({about})").into(),
                line: 0,
                object: String::new(),
                field: String::new(),
                message: message.clone(),
            })
            .collect();
        self.report.send_if_modified(|report| {
            let own = |f: &Finding| f.line == 0 && f.file.starts_with('(');
            let held: Vec<&Finding> = report.warnings.iter().filter(|f| own(f)).collect();
            if held.iter().copied().eq(&troubles) {
                return false;
            }
            let report = Arc::make_mut(report);
            report.warnings.retain(|f| !own(f));
            report.warnings.extend(troubles);
            true
        });
    }
}

impl Source for Directory {
    fn next(&mut self) -> NextBatch<'_> {
        Box::pin(self.next_batch())
    }

    fn reports(&self) -> watch::Receiver<Arc<Report>> {
        self.report.subscribe()
    }
}

/// A hash of everything in force, the same wherever the same manifests are read: the sum of the hashes
/// of all objects, so that a change costs no more than the objects that it is about.
#[derive(Clone, Copy, Default)]
struct Fingerprint(u64);

impl Fingerprint {
    fn add(&mut self, object: &Object) {
        self.0 = self.0.wrapping_add(Self::of(object));
    }

    fn remove(&mut self, object: Option<&Object>) {
        self.0 = self.0.wrapping_sub(object.map_or(0, Self::of));
    }

    fn of(object: &Object) -> u64 {
        // Creation times may be this replica's own, so they are left out.
        let mut object = object.clone();
        object.meta_mut().created = None;
        hash::of(crate::render::manifest(&object).to_string().as_bytes())
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The kernel's reports about a directory.
struct Watching {
    changed: Arc<Notify>,
    watcher: Option<notify::RecommendedWatcher>,
    /// Which directory is watched, as device and inode: a new one of the same name is another.
    watched: Option<(u64, u64)>,
}

impl Watching {
    /// Watches the root, and anew if it is another directory than before.
    fn follow(&mut self, root: &Path) -> notify::Result<()> {
        let meta = std::fs::metadata(root)?;
        let identity = (meta.dev(), meta.ino());
        if self.watched == Some(identity) && self.watcher.is_some() {
            return Ok(());
        }
        self.watched = None;
        let changed = self.changed.clone();
        let tell = move |event: notify::Result<notify::Event>| {
            // Our own reading must not wake us; errors, such as a full queue, must.
            let is_reading = event.as_ref().is_ok_and(|e| match e.kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
                EventKind::Access(_) => true,
                _ => false,
            });
            if !is_reading {
                changed.notify_one();
            }
        };
        // Links may lead anywhere, also to `/`; directories inside the root are watched as themselves.
        let config = notify::Config::default().with_follow_symlinks(false);
        let mut watcher = notify::RecommendedWatcher::new(tell, config)?;
        watcher.watch(&root.canonicalize()?, RecursiveMode::Recursive)?;
        // A root that is itself a link is exchanged in the directory that holds the link.
        if std::fs::symlink_metadata(root)?.file_type().is_symlink()
            && let Some(parent) = root.parent()
        {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            watcher.watch(parent, RecursiveMode::NonRecursive)?;
        }
        self.watcher = Some(watcher);
        self.watched = Some(identity);
        Ok(())
    }
}

/// Reads a directory once, without state, watch or guard: for checks, and for those who want to know
/// what is there before they add to it. Blocks. The error means that the root cannot be listed.
pub fn read_once(root: &Path) -> std::io::Result<(BTreeMap<Key, Object>, Report)> {
    let mut shelf = Shelf::default();
    shelf.absorb(scan(root, &BTreeMap::new(), Depth::All)?);
    let wanted = shelf.wanted(&BTreeMap::new());
    let mut fingerprint = Fingerprint::default();
    wanted.objects.values().for_each(|object| fingerprint.add(object));
    let report = Report {
        objects: wanted.objects.len(),
        files: shelf.len(),
        ignored: shelf.ignored(),
        hash: fingerprint.to_string(),
        ..Report::default()
    };
    Ok((wanted.objects, report.with_findings(wanted.rejected, wanted.warnings)))
}
