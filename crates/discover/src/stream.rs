//! One watch on the control plane, kept alive through its failures.
//!
//! A daemon asks, publishes each answer, and asks again when the stream ends: Disconnected → Waiting →
//! Streaming → Backoff (data-plane facts, section 2.1). The last good answer stays in force meanwhile.
//! It ends when the control plane refuses for good, or when nobody listens any more: then the call is
//! cancelled. `lookup.rs` starts daemons and decides what is asked. It never blocks who listens.

use crate::error::DiscoverError;
use crate::watched::{News, Publisher, Watcher};
use futures_util::{Stream, StreamExt};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime;
use tokio::time::{Instant, timeout_at};
use weft_model::route::Backoff;
use weft_wire::services::{Code, Status};

/// A stream that has answered well this long earns an immediate new request when it ends. One that
/// dies sooner was most likely ended by a fault that is still there, and asking in a circle would
/// load a sick control plane. A guess: long against a round trip, short against any real stream.
const SETTLED: Duration = Duration::from_secs(1);

/// The answers of one call.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A call being made.
pub type Opening<T> = Pin<Box<dyn Future<Output = Result<Answers<T>, Status>> + Send>>;

/// Makes a call.
pub type Open<T> = Box<dyn FnMut() -> Opening<T> + Send>;

/// Time limits of one call (`CONTROL_STREAM_*`); `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// From the request to the first answer; `idle` where unset. Exceeding it is a failure.
    pub initial: Option<Duration>,
    /// Between answers. Exceeding it ends the call cleanly, so that it is made anew.
    pub idle: Option<Duration>,
    /// Of the whole call. Ends it cleanly.
    pub lifetime: Option<Duration>,
}

/// How a daemon deals with failures.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Waits between failed requests.
    pub backoff: Backoff,
    /// Limits of each call.
    pub limits: Limits,
    /// Codes that end the watch.
    pub finals: &'static [Code],
}

/// What a watch knows.
#[derive(Debug, PartialEq)]
pub enum Latest<T> {
    /// Nothing yet.
    Awaited,
    /// The last good answer.
    Known(Arc<T>),
    /// The control plane refused for good before it ever answered.
    Refused(Arc<Status>),
}

impl<T> Clone for Latest<T> {
    fn clone(&self) -> Self {
        match self {
            Latest::Awaited => Latest::Awaited,
            Latest::Known(value) => Latest::Known(value.clone()),
            Latest::Refused(status) => Latest::Refused(status.clone()),
        }
    }
}

/// Where a daemon is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// About to ask.
    Disconnected,
    /// Asked, no answer yet.
    Waiting,
    /// Answers come.
    Streaming,
    /// The last request failed; waiting before the next.
    Backoff,
    /// Refused for good.
    Ended,
}

impl Phase {
    /// Its name in `/state.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Disconnected => "disconnected",
            Phase::Waiting => "waiting",
            Phase::Streaming => "streaming",
            Phase::Backoff => "backoff",
            Phase::Ended => "ended",
        }
    }
}

/// How a watch is doing, for `/state.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// Where its daemon is.
    pub phase: Phase,
    /// Since when.
    pub since: Instant,
    /// Calls made so far.
    pub requests: u64,
    /// Answers received so far.
    pub answers: u64,
    /// When the last answer came.
    pub last_answer: Option<Instant>,
    /// How the last failed call failed.
    pub last_error: Option<Status>,
}

impl Progress {
    /// Age of the last answer.
    pub fn age(&self) -> Option<Duration> {
        self.last_answer.map(|at| at.elapsed())
    }
}

/// The latest answer of one watch. Clones listen to the same daemon, which ends with the last one.
pub struct Watch<T> {
    latest: Watcher<Latest<T>>,
    progress: Log,
}

impl<T> Clone for Watch<T> {
    fn clone(&self) -> Self {
        Self { latest: self.latest.clone(), progress: self.progress.clone() }
    }
}

impl<T> fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.progress().fmt(f)
    }
}

impl<T: PartialEq + Send + Sync + 'static> Watch<T> {
    /// Starts a daemon on `runtime`. With `initial`, that is the latest answer until one comes.
    pub fn spawn(open: Open<T>, rules: Arc<Rules>, initial: Option<T>, runtime: &runtime::Handle) -> Self {
        let initial = initial.map_or(Latest::Awaited, |value| Latest::Known(Arc::new(value)));
        let (publish, watch) = Watch::new(initial);
        let daemon = Daemon { open, rules, progress: publish.progress.clone(), sink: publish.clone() };
        runtime.spawn(daemon.run_while_watched(publish.latest));
        watch
    }
}

impl<T: Send + Sync + 'static> Watch<T> {
    /// A watch without a daemon, and the end that publishes to it.
    pub(crate) fn new(initial: Latest<T>) -> (Publish<T>, Self) {
        let publisher = Publisher::new(initial);
        let (latest, progress) = (publisher.watch(), Log::default());
        (Publish { latest: Arc::new(publisher), progress: progress.clone() }, Self { latest, progress })
    }

    /// A watch that knows `value` and never anything else, for destinations that nobody is asked about.
    pub fn fixed(value: T) -> Self {
        Self::new(Latest::Known(Arc::new(value))).1
    }

    /// What is known now.
    pub fn latest(&self) -> Latest<T> {
        self.latest.get()
    }

    /// The answer, once there is one; waits for the first one at most as long as told. The daemon goes
    /// on whatever becomes of this future.
    pub async fn first(&self, within: Duration) -> Result<Arc<T>, DiscoverError> {
        let mut watcher = self.latest.clone();
        let decided = async {
            let mut latest = watcher.take();
            while let Latest::Awaited = latest {
                latest = watcher.changed().await?;
            }
            Some(latest)
        };
        match tokio::time::timeout(within, decided).await {
            Ok(Some(Latest::Known(value))) => Ok(value),
            Ok(Some(Latest::Refused(status))) => Err(DiscoverError::Refused(status)),
            // The daemon is gone without a decision only while the process shuts down.
            Ok(Some(Latest::Awaited) | None) | Err(_) => Err(DiscoverError::Timeout(within)),
        }
    }

    /// Waits for news since the last call on this handle and gives it; `None` when there will never be
    /// any more. Cancel safe: news not given is given by the next call.
    pub async fn changed(&mut self) -> Option<Latest<T>> {
        self.latest.changed().await
    }
}

impl<T> Watch<T> {
    /// How the daemon is doing.
    pub fn progress(&self) -> Progress {
        self.progress.lock().clone()
    }

    /// How the daemon is doing, for who must not keep it alive.
    pub(crate) fn log(&self) -> Log {
        self.progress.clone()
    }
}

/// The progress that the daemon writes and others read.
#[derive(Clone)]
pub(crate) struct Log(Arc<Mutex<Progress>>);

impl Default for Log {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Progress {
            phase: Phase::Disconnected,
            since: Instant::now(),
            requests: 0,
            answers: 0,
            last_answer: None,
            last_error: None,
        })))
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the last call failed, if none was ever answered.
    pub(crate) fn unanswered(&self) -> Option<Status> {
        let progress = self.lock();
        progress.last_error.clone().filter(|_| progress.answers == 0)
    }

    fn enter(&self, phase: Phase) {
        let mut progress = self.lock();
        progress.phase = phase;
        progress.since = Instant::now();
        progress.requests += u64::from(phase == Phase::Waiting);
    }

    fn answered(&self) {
        let mut progress = self.lock();
        let now = Instant::now();
        if progress.phase != Phase::Streaming {
            (progress.phase, progress.since) = (Phase::Streaming, now);
        }
        progress.answers += 1;
        progress.last_answer = Some(now);
    }
}

/// Where a daemon's answers go.
pub(crate) trait Sink<T>: Send {
    /// A call is open; its answers follow.
    fn opened(&mut self) {}

    /// The next answer.
    fn answer(&mut self, answer: T);

    /// Whether it holds answers back until no more are at hand.
    fn holds_back(&self) -> bool {
        false
    }

    /// No more answers are at hand.
    fn release(&mut self) {}

    /// The control plane refused for good.
    fn refused(&mut self, status: Status);
}

/// The publishing end of a watch. Clones publish to the same one.
pub(crate) struct Publish<T> {
    pub(crate) latest: Arc<Publisher<Latest<T>>>,
    pub(crate) progress: Log,
}

impl<T> Clone for Publish<T> {
    fn clone(&self) -> Self {
        Self { latest: self.latest.clone(), progress: self.progress.clone() }
    }
}

impl<T> Publish<T> {
    /// A refusal is published unless there is a good answer, which stays in force.
    pub(crate) fn refuse(&self, status: Status) {
        self.latest.change(|latest| {
            if !matches!(latest, Latest::Awaited) {
                return News::No;
            }
            *latest = Latest::Refused(Arc::new(status));
            News::Yes
        });
    }
}

impl<T: PartialEq + Send + Sync> Sink<T> for Publish<T> {
    fn answer(&mut self, answer: T) {
        self.latest.change(|latest| {
            if matches!(latest, Latest::Known(value) if **value == answer) {
                return News::No;
            }
            *latest = Latest::Known(Arc::new(answer));
            News::Yes
        });
    }

    fn refused(&mut self, status: Status) {
        self.refuse(status);
    }
}

/// Asks, again and again.
pub(crate) struct Daemon<T, S> {
    pub(crate) open: Open<T>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) progress: Log,
    pub(crate) sink: S,
}

enum State<T> {
    Disconnected,
    Waiting { opening: Opening<T>, asked: Instant },
    Streaming { answers: Answers<T>, asked: Instant },
    Backoff,
}

/// How a call ended.
struct Ended {
    error: Option<Status>,
    answered: bool,
    asked: Instant,
}

impl<T: Send + 'static, S: Sink<T>> Daemon<T, S> {
    /// Runs until the control plane refuses for good, or nobody watches what is published; then the call under way
    /// is cancelled. There is one for each watch, so it is written to be small: an `async fn` would hold its arguments
    /// twice.
    pub(crate) fn run_while_watched(
        self,
        published: Arc<Publisher<impl Clone + Send + 'static>>,
    ) -> impl Future<Output = ()> + Send {
        let mut this = self;
        async move {
            tokio::select! {
                biased;
                () = published.abandoned() => {}
                () = this.run() => this.progress.enter(Phase::Ended),
            }
        }
    }

    async fn run(&mut self) {
        let mut state = State::Disconnected;
        let mut patience = Patience::default();
        loop {
            state = match state {
                State::Disconnected => {
                    self.progress.enter(Phase::Waiting);
                    State::Waiting { opening: (self.open)(), asked: Instant::now() }
                }
                State::Waiting { opening, asked } => {
                    // Boxed, as is every wait but the one for the next answer: a watch is at rest nearly always.
                    match Box::pin(open_within(opening, asked, self.rules.limits)).await {
                        Ok(answers) => State::Streaming { answers, asked },
                        Err(error) => {
                            let ended = Ended { error: Some(error), answered: false, asked };
                            let Some(state) = self.next(ended, &mut patience) else { return };
                            state
                        }
                    }
                }
                State::Streaming { answers, asked } => {
                    let ended = self.read(answers, asked).await;
                    let Some(state) = self.next(ended, &mut patience) else { return };
                    state
                }
                State::Backoff => {
                    self.progress.enter(Phase::Backoff);
                    let wait = self.rules.backoff.wait(patience.failures, fastrand::f64());
                    patience.failures = patience.failures.saturating_add(1);
                    Box::pin(tokio::time::sleep(wait)).await;
                    State::Disconnected
                }
            };
        }
    }

    /// What follows the end of a call: nothing after a final code, else another request, at once or
    /// after a wait.
    fn next(&mut self, ended: Ended, patience: &mut Patience) -> Option<State<T>> {
        if let Some(status) = &ended.error {
            self.progress.lock().last_error = Some(status.clone());
            if self.rules.finals.contains(&status.code) {
                tracing::debug!(%status, "the control plane refused, the watch ends");
                self.sink.refused(status.clone());
                return None;
            }
            tracing::debug!(%status, "a call to the control plane failed, it will be repeated");
        }
        Some(match patience.again(&ended) {
            Again::AtOnce => State::Disconnected,
            Again::Later => State::Backoff,
        })
    }

    async fn read(&mut self, mut answers: Answers<T>, asked: Instant) -> Ended {
        self.sink.opened();
        let Limits { initial, idle, lifetime } = self.rules.limits;
        let dies = lifetime.and_then(|limit| asked.checked_add(limit));
        let (mut answered, mut last) = (false, asked);
        let error = loop {
            let gap = if answered { idle } else { initial.or(idle) };
            let limit = [gap.and_then(|gap| last.checked_add(gap)), dies].into_iter().flatten().min();
            // By hand, so that no answer is part of the future that waits for it.
            let next = std::future::poll_fn(|cx| {
                let next = answers.poll_next_unpin(cx);
                if next.is_pending() && self.sink.holds_back() {
                    self.sink.release();
                }
                next
            });
            let next = match limit {
                Some(until) => Box::pin(timeout_at(until, next)).await,
                None => Ok(next.await),
            };
            match next {
                Ok(Some(Ok(answer))) => {
                    (answered, last) = (true, Instant::now());
                    self.progress.answered();
                    self.sink.answer(answer);
                }
                Ok(Some(Err(status))) => break Some(status),
                Ok(None) => break None,
                Err(_) if answered => break None,
                Err(_) => break Some(no_first_answer()),
            }
        };
        if self.sink.holds_back() {
            self.sink.release();
        }
        Ended { error, answered, asked }
    }
}

async fn open_within<T>(opening: Opening<T>, asked: Instant, limits: Limits) -> Result<Answers<T>, Status> {
    let limit = [limits.initial.or(limits.idle), limits.lifetime].into_iter().flatten().min();
    match limit.and_then(|limit| asked.checked_add(limit)) {
        Some(until) => timeout_at(until, opening).await.unwrap_or_else(|_| Err(no_first_answer())),
        None => opening.await,
    }
}

fn no_first_answer() -> Status {
    Status { code: Code::DeadlineExceeded, message: "no first answer within the stream's limit".into() }
}

/// Whether the next request follows at once.
#[derive(Default)]
struct Patience {
    /// Failures since the last settled stream.
    failures: u32,
    /// Whether the one immediate request was made since then.
    spent: bool,
}

enum Again {
    AtOnce,
    Later,
}

impl Patience {
    fn again(&mut self, ended: &Ended) -> Again {
        if ended.answered && ended.asked.elapsed() >= SETTLED {
            *self = Self::default();
        }
        if ended.answered && !self.spent {
            self.spent = true;
            return Again::AtOnce;
        }
        Again::Later
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::mpsc;

    const MS: Duration = Duration::from_millis(1);
    const RULES: Rules = Rules {
        backoff: Backoff { min: Duration::from_millis(100), max: Duration::from_secs(1), jitter: 0.0 },
        limits: Limits { initial: None, idle: None, lifetime: None },
        finals: &[Code::InvalidArgument, Code::NotFound],
    };

    fn status(code: Code) -> Status {
        Status { code, message: "told so".into() }
    }

    /// What a script does with one call.
    enum Reply {
        Fail(Code),
        /// Opens, says these, and stays open while the sender is kept.
        Say(Vec<u32>, Option<mpsc::Receiver<Result<u32, Status>>>),
    }

    /// A control plane that follows a script and notes when it was asked. Past the script's end it
    /// keeps callers waiting.
    #[derive(Clone, Default)]
    struct Server {
        script: Arc<Mutex<VecDeque<Reply>>>,
        asked: Arc<Mutex<Vec<Duration>>>,
        live: Arc<AtomicUsize>,
    }

    struct Live(Arc<AtomicUsize>);

    impl Drop for Live {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    impl Server {
        fn new(script: impl IntoIterator<Item = Reply>) -> Self {
            Self { script: Arc::new(Mutex::new(script.into_iter().collect())), ..Self::default() }
        }

        fn open(&self) -> Open<u32> {
            let (server, start) = (self.clone(), Instant::now());
            Box::new(move || {
                server.asked.lock().unwrap().push(start.elapsed());
                server.live.fetch_add(1, Ordering::Relaxed);
                let live = Live(server.live.clone());
                let reply = server.script.lock().unwrap().pop_front();
                Box::pin(async move {
                    let (said, more) = match reply {
                        None => std::future::pending().await,
                        Some(Reply::Fail(code)) => return Err(status(code)),
                        Some(Reply::Say(said, more)) => (said, more),
                    };
                    let more = futures_util::stream::unfold((more, live), |(mut more, live)| async move {
                        let next = more.as_mut()?.recv().await?;
                        Some((next, (more, live)))
                    });
                    let said = futures_util::stream::iter(said.into_iter().map(Ok));
                    Ok(said.chain(more).boxed() as Answers<u32>)
                })
            })
        }

        fn watch(&self, rules: Rules) -> Watch<u32> {
            Watch::spawn(self.open(), rules.into(), None, &runtime::Handle::current())
        }

        fn asked(&self) -> Vec<u128> {
            self.asked.lock().unwrap().iter().map(Duration::as_millis).collect()
        }

        fn live(&self) -> usize {
            self.live.load(Ordering::Relaxed)
        }
    }

    fn held(said: &[u32]) -> (Reply, mpsc::Sender<Result<u32, Status>>) {
        let (sender, receiver) = mpsc::channel(8);
        (Reply::Say(said.to_vec(), Some(receiver)), sender)
    }

    /// Lets paused time run, timer by timer, for as long as told.
    async fn run_for(time: Duration) {
        let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
    }

    fn known(watch: &Watch<u32>) -> Option<u32> {
        match watch.latest() {
            Latest::Known(value) => Some(*value),
            _ => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_ends_is_asked_for_again_at_once_and_its_answer_stays() {
        let (first, first_end) = held(&[1]);
        let (second, second_end) = held(&[2]);
        let server = Server::new([first, second, Reply::Fail(Code::Unavailable)]);
        let mut watch = server.watch(RULES);
        assert_eq!(watch.changed().await, Some(Latest::Known(Arc::new(1))));
        run_for(MS * 2000).await;
        drop(first_end);
        assert_eq!(watch.changed().await, Some(Latest::Known(Arc::new(2))));
        run_for(MS * 2000).await;
        second_end.send(Err(status(Code::Internal))).await.unwrap();
        run_for(MS * 150).await;
        assert_eq!(server.asked(), [0, 2000, 4000, 4100], "only a failed request brings the backoff");
        let progress = watch.progress();
        assert_eq!((known(&watch), progress.phase, progress.answers), (Some(2), Phase::Waiting, 2));
        assert_eq!(progress.requests, 4);
        assert_eq!(progress.last_error.unwrap().code, Code::Unavailable);
        assert_eq!(progress.last_answer.unwrap().elapsed(), MS * 2150);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_requests_back_off() {
        let server = Server::new((0..6).map(|_| Reply::Fail(Code::Unavailable)));
        let watch = server.watch(RULES);
        run_for(MS * 3550).await;
        assert_eq!(server.asked(), [0, 100, 300, 700, 1500, 2500, 3500]);
        assert_eq!(watch.latest(), Latest::Awaited);
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_die_at_once_are_not_asked_for_in_a_circle() {
        let silent = Server::new((0..3).map(|_| Reply::Say(vec![], None)));
        let watch = silent.watch(RULES);
        run_for(MS * 350).await;
        assert_eq!(silent.asked(), [0, 100, 300]);
        drop(watch);

        let curt = Server::new((0..4).map(|n| Reply::Say(vec![n], None)));
        let watch = curt.watch(RULES);
        run_for(MS * 750).await;
        assert_eq!(curt.asked(), [0, 0, 100, 300, 700]);
        assert_eq!(known(&watch), Some(3));
    }

    #[tokio::test(start_paused = true)]
    async fn final_codes_end_the_watch_and_other_codes_do_not() {
        let server = Server::new([Reply::Fail(Code::Unknown), Reply::Fail(Code::NotFound)]);
        let mut watch = server.watch(RULES);
        let refused = Latest::Refused(Arc::new(status(Code::NotFound)));
        assert_eq!(watch.changed().await, Some(refused));
        assert_eq!(watch.changed().await, None);
        assert_eq!(watch.first(MS).await, Err(DiscoverError::Refused(Arc::new(status(Code::NotFound)))));
        run_for(MS * 10_000).await;
        assert_eq!(server.asked(), [0, 100]);
        assert_eq!(watch.progress().phase, Phase::Ended);
    }

    #[tokio::test(start_paused = true)]
    async fn a_final_code_after_an_answer_leaves_the_answer_in_force() {
        let server = Server::new([Reply::Say(vec![5], None), Reply::Fail(Code::NotFound)]);
        let mut watch = server.watch(RULES);
        assert_eq!(watch.changed().await, Some(Latest::Known(Arc::new(5))));
        assert_eq!(watch.changed().await, None);
        assert_eq!((known(&watch), watch.progress().phase), (Some(5), Phase::Ended));
        assert_eq!(*watch.first(MS).await.unwrap(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn the_call_is_cancelled_when_the_last_listener_is_gone() {
        let (reply, sender) = held(&[1]);
        for server in [Server::new([reply]), Server::default()] {
            let watch = server.watch(RULES);
            let other = watch.clone();
            run_for(MS).await;
            drop(watch);
            run_for(MS).await;
            assert_eq!(server.live(), 1);
            drop(other);
            run_for(MS).await;
            assert_eq!(server.live(), 0);
        }
        assert!(sender.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_answer_is_awaited_for_a_time_and_the_lookup_goes_on() {
        let (reply, sender) = held(&[]);
        let server = Server::new([reply]);
        let watch = server.watch(RULES);
        let begun = Instant::now();
        assert_eq!(watch.first(MS * 3000).await, Err(DiscoverError::Timeout(MS * 3000)));
        assert_eq!(begun.elapsed(), MS * 3000);
        sender.send(Ok(4)).await.unwrap();
        assert_eq!(*watch.first(MS * 3000).await.unwrap(), 4);
        assert_eq!(server.asked(), [0]);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_obey_their_limits() {
        let limits = Limits { initial: Some(MS * 1000), idle: Some(MS * 3000), lifetime: Some(MS * 7000) };
        let (silent, _silent) = held(&[]);
        let (idle, _idle) = held(&[1]);
        let (busy, sender) = held(&[2]);
        let server = Server::new([silent, idle, busy]);
        let watch = server.watch(Rules { limits, ..RULES });
        run_for(MS * 1050).await;
        assert_eq!(watch.progress().last_error.unwrap().code, Code::DeadlineExceeded);
        run_for(MS * 4000).await;
        // Initial limit, backoff, then 3 s of silence after an answer.
        assert_eq!(server.asked(), [0, 1000 + 100, 1100 + 3000]);
        for n in 3..10 {
            sender.send(Ok(n)).await.unwrap();
            run_for(MS * 1000).await;
        }
        assert_eq!(server.asked().last(), Some(&(4100 + 7000)));
        assert_eq!(known(&watch), Some(9));

        let quiet = Server::default();
        let only_idle = Limits { idle: Some(MS * 500), ..Limits::default() };
        let _watch = quiet.watch(Rules { limits: only_idle, ..RULES });
        run_for(MS * 650).await;
        assert_eq!(quiet.asked(), [0, 600], "idle stands in for an unset initial limit");
    }

    #[tokio::test(start_paused = true)]
    async fn a_repeated_answer_is_no_news_and_an_initial_value_is_in_force_at_once() {
        let (reply, sender) = held(&[]);
        let server = Server::new([reply]);
        let open = server.open();
        let mut watch = Watch::spawn(open, RULES.into(), Some(7), &runtime::Handle::current());
        assert_eq!(*watch.first(MS).await.unwrap(), 7);
        sender.send(Ok(7)).await.unwrap();
        run_for(MS).await;
        assert!(tokio::time::timeout(MS, watch.changed()).await.is_err());
        sender.send(Ok(8)).await.unwrap();
        assert_eq!(watch.changed().await, Some(Latest::Known(Arc::new(8))));
    }

    /// Whatever the control plane does: the last answer is in force, calls never overlap, and no more
    /// are made than one at once and then with backoff.
    #[tokio::test(start_paused = true)]
    async fn a_flapping_control_plane_is_survived() {
        for seed in 0..50 {
            let mut random = fastrand::Rng::with_seed(seed);
            let server = Server::default();
            let watch = server.watch(RULES);
            let (mut said, mut ends) = (None, Vec::new());
            for n in 0..100 {
                let (reply, sender) = held(&[n]);
                let answers = random.u8(..4) != 0;
                server.script.lock().unwrap().push_back(match answers {
                    true => reply,
                    false => Reply::Fail(Code::Unavailable),
                });
                ends.push(sender);
                if random.bool() {
                    ends.clear();
                }
                run_for(MS * random.u32(0..500)).await;
                assert!(server.live() <= 1, "seed {seed}: calls overlap");
                said = known(&watch).or(said);
                assert!(said.is_none_or(|said| said <= n), "seed {seed}");
                assert_eq!(known(&watch), said, "seed {seed}: an answer was lost");
            }
            let asked = server.asked();
            let crowded = asked.windows(3).any(|three| three[2] - three[0] < 100);
            assert!(!crowded, "seed {seed}: asked in a circle: {asked:?}");
        }
    }
}
