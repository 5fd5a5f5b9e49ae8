//! The demo: a control plane and a small shop of processes, a load, a live table, and checks.
//!
//! `weft demo` comes here. Either a person watches and presses keys, or a script does everything once and
//! every claim is checked at the end. However it ends, no process and no file is left.

pub(crate) mod app;
pub(crate) mod checks;
mod layout;
mod load;
mod quantile;
mod received;
mod scrape;
mod screen;
mod shop;
mod table;

use checks::{Check, Evidence, Incident};
use layout::{REPLICAS, Split, cast};
use load::Load;
use screen::Screen;
use shop::Shop;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};
use table::Snapshot;
use tokio::signal::unix::{SignalKind, signal};

/// How often the table is renewed.
const RENEWAL: Duration = Duration::from_secs(1);

/// How long after a SIGKILL its end counts as known everywhere.
const KNOWN: Duration = Duration::from_millis(500);

/// How long the first requests' waits for discovery and connections may be visible to the load alone.
const WARM_UP: Duration = Duration::from_millis(900);

/// Lines of what happened that are shown under the table.
const SHOWN: usize = 6;

/// The two splits of the web that `m` moves between.
const SPLITS: [Split; 2] = [&[("v1", 90), ("v2", 10)], &[("v1", 50), ("v2", 50)]];

/// What is to be shown.
pub(crate) struct Options {
    /// This program's own file.
    pub(crate) executable: PathBuf,
    /// Where temporary files go.
    pub(crate) temporary: PathBuf,
    /// The time of the start.
    pub(crate) now: SystemTime,
    /// Run by itself for so long; none: until somebody quits.
    pub(crate) lasting: Option<Duration>,
    /// What is sabotaged.
    pub(crate) sabotage: Option<Check>,
    /// Whether keys are read, if there is a terminal.
    pub(crate) keys: bool,
}

/// Why a demo could not be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// The system refused something. A retry may help.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Keys, tokens or names could not be made. Our fault.
    #[error("identity: {0}")]
    Identity(String),
    /// A process did not come up.
    #[error("{what} {how}; it said last:\n  {said}")]
    Start { what: String, how: String, said: String },
    /// Every network that was tried is in use.
    #[error(
        "found no free network in 127.0.0.0/8; does something listen on all addresses, ports 4143 or 8080?"
    )]
    NoNetwork,
}

/// Something that happens to the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Terminate,
    Kill,
    BringBack(usize),
    Split,
    Control,
    Quit,
}

/// The script of a demo that runs by itself: when, as a share of its time in percent, happens what.
const SCRIPT: &[(u32, Act)] = &[
    (15, Act::Terminate),
    (30, Act::BringBack(cast::TERMINATED)),
    (42, Act::Kill),
    (56, Act::BringBack(cast::KILLED)),
    (62, Act::Split),
    (70, Act::Control),
    (84, Act::Control),
    (100, Act::Quit),
];

/// Shows the demo.
pub(crate) async fn run(options: Options) -> Result<ExitCode, DemoError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        shown = show(&options) => shown,
        // Dropping the show kills every process of it.
        _ = terminate.recv() => Ok(ExitCode::from(143)),
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
        _ = hangup.recv() => Ok(ExitCode::from(129)),
    }
}

async fn show(options: &Options) -> Result<ExitCode, DemoError> {
    println!("starting a control plane and {} replicas, each with its sidecar ...", REPLICAS.len());
    let shop = Shop::open(options).await?;
    println!("{} processes are ready", shop.processes());
    let mut stage = Stage::new(shop, options)?;
    stage.play(options).await?;
    stage.load.stop().await;
    let end = stage.settled().await;
    stage.screen.leave();
    println!("\nthe whole demo, as the sidecars measured it:\n\n{}", table::render(None, &end, stage.start));
    for line in &stage.told {
        println!("{line}");
    }
    let code = match options.lasting {
        Some(_) => verdicts(&Evidence {
            warm: stage.warm.as_ref(),
            end: &end,
            terminated: &stage.terminated,
            killed: &stage.killed,
        }),
        None => ExitCode::SUCCESS,
    };
    stage.shop.close().await;
    Ok(code)
}

fn verdicts(evidence: &Evidence<'_>) -> ExitCode {
    println!();
    let verdicts = checks::judge(evidence);
    verdicts.iter().for_each(|verdict| println!("{}", verdict.line()));
    let failed: Vec<&str> = verdicts.iter().filter(|v| v.outcome.is_err()).map(|v| v.check.name()).collect();
    if failed.is_empty() {
        println!("\nevery check holds");
        return ExitCode::SUCCESS;
    }
    println!("\nfailed: {}", failed.join(", "));
    ExitCode::FAILURE
}

/// A demo under way.
struct Stage {
    shop: Shop,
    load: Load,
    screen: Screen,
    start: Instant,
    before: Option<Snapshot>,
    /// What was known when the first requests, which wait for discovery and connections, were over.
    warm: Option<Snapshot>,
    terminated: Incident,
    killed: Incident,
    split: usize,
    /// What happened.
    told: VecDeque<String>,
}

impl Stage {
    fn new(shop: Shop, options: &Options) -> Result<Self, DemoError> {
        let keys = options.keys && options.lasting.is_none();
        Ok(Self {
            load: Load::start(&shop.upstreams())?,
            shop,
            screen: Screen::open(keys),
            start: Instant::now(),
            before: None,
            terminated: Incident::default(),
            killed: Incident::default(),
            split: 0,
            told: VecDeque::new(),
            warm: None,
        })
    }

    /// Renews the table and lets things happen until somebody, or the script, quits.
    async fn play(&mut self, options: &Options) -> Result<(), DemoError> {
        let mut renewal = tokio::time::interval(RENEWAL);
        renewal.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut script = options
            .lasting
            .map(|lasting| SCRIPT.iter().map(move |(percent, act)| (lasting * *percent / 100, *act)));
        let mut next = script.as_mut().and_then(Iterator::next);
        loop {
            let due = next.map(|(after, _)| tokio::time::Instant::from_std(self.start + after));
            let act = tokio::select! {
                _ = renewal.tick() => None,
                () = until(due) => {
                    let act = next.map(|(_, act)| act);
                    next = script.as_mut().and_then(Iterator::next);
                    act
                }
                key = self.screen.key() => key.and_then(|key| self.meant(key)),
            };
            match act {
                Some(Act::Quit) => return Ok(()),
                Some(act) => self.perform(act).await?,
                None => self.renew().await,
            }
        }
    }

    /// What a key asks for.
    fn meant(&self, key: u8) -> Option<Act> {
        let or_back =
            |act, replica| Some(if self.shop.is_up(replica) { act } else { Act::BringBack(replica) });
        match key {
            b'k' => or_back(Act::Terminate, cast::TERMINATED),
            b'K' => or_back(Act::Kill, cast::KILLED),
            b'm' => Some(Act::Split),
            b'c' => Some(Act::Control),
            b'q' | 3 => Some(Act::Quit),
            _ => None,
        }
    }

    async fn perform(&mut self, act: Act) -> Result<(), DemoError> {
        match act {
            Act::Terminate => self.terminate().await,
            Act::Kill => self.kill().await,
            Act::BringBack(replica) => self.bring_back(replica).await,
            Act::Split => {
                self.split = (self.split + 1) % SPLITS.len();
                let shares: Vec<String> = SPLITS[self.split]
                    .iter()
                    .map(|(version, share)| format!("{version} {share} %"))
                    .collect();
                self.tell(format!("web is split {}", shares.join(", ")));
                self.shop.split(0, SPLITS[self.split])
            }
            Act::Control if self.shop.is_controlled() => {
                self.tell("the control plane is stopped".to_owned());
                self.shop.stop_control().await
            }
            Act::Control => {
                self.tell("the control plane is back".to_owned());
                self.shop.start_control()?;
                self.shop.control_ready().await
            }
            Act::Quit => Ok(()),
        }
    }

    async fn terminate(&mut self) -> Result<(), DemoError> {
        let replica = &REPLICAS[cast::TERMINATED];
        let (sent, done) = self.load.tally().of(replica.service);
        let under_way = sent - done;
        self.tell(format!(
            "SIGTERM to {}, {under_way} requests under way to {}",
            replica.name,
            replica.service().name
        ));
        let from = Some(Instant::now());
        self.terminated = Incident { from, under_way, ..Incident::default() };
        self.shop.terminate(cast::TERMINATED).await
    }

    async fn kill(&mut self) -> Result<(), DemoError> {
        let replica = &REPLICAS[cast::KILLED];
        // Read just before: what it receives until its end is counted nowhere else.
        self.shop.scrape().await;
        let (_, done) = self.load.tally().of(replica.service);
        self.killed = Incident { from: Some(Instant::now()), ..Incident::default() };
        self.shop.kill(cast::KILLED).await?;
        let (sent, _) = self.load.tally().of(replica.service);
        self.killed.under_way = sent - done;
        tokio::time::sleep(KNOWN).await;
        self.shop.scrape().await;
        self.killed.sent_late = self.snapshot().sent(cast::KILLED);
        let lost: u64 = self.load.tally().routes.iter().map(|count| count.lost).sum();
        self.tell(format!(
            "SIGKILL to {}, {lost} requests being processed were lost (connection-lost)",
            replica.name
        ));
        Ok(())
    }

    async fn bring_back(&mut self, replica: usize) -> Result<(), DemoError> {
        let now = Some(Instant::now());
        if replica == cast::KILLED {
            self.shop.scrape().await;
            let sent = self.snapshot().sent(cast::KILLED);
            self.killed.sent_late = sent.saturating_sub(self.killed.sent_late);
            self.killed.until = now;
        } else {
            self.terminated.until = now;
        }
        self.tell(format!("{} comes back", REPLICAS[replica].name));
        self.shop.bring_back(replica).await
    }

    fn tell(&mut self, what: String) {
        let line = format!("{:>6.1} s  {what}", self.start.elapsed().as_secs_f64());
        self.screen.tell(&line);
        self.told.push_back(line);
        if self.told.len() > SHOWN + SHOWN {
            self.told.pop_front();
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            at: Instant::now(),
            sender: self.shop.sender.clone(),
            received: self.shop.received(),
            addresses: (0..REPLICAS.len()).map(|index| self.shop.address(index)).collect(),
            tally: self.load.tally(),
        }
    }

    async fn renew(&mut self) {
        self.shop.scrape().await;
        let now = self.snapshot();
        let text = table::render(self.before.as_ref(), &now, self.start);
        let told: Vec<&str> = self.told.iter().rev().take(SHOWN).rev().map(String::as_str).collect();
        self.screen.show(&text, &told, self.start.elapsed());
        if self.warm.is_none() && self.start.elapsed() >= WARM_UP {
            self.warm = Some(now.clone());
        }
        self.before = Some(now);
    }

    /// The counts once nothing is under way: a response's last frame reaches the load before the sidecar has
    /// counted it, so the page is read until both agree, and for a second at most.
    async fn settled(&mut self) -> Snapshot {
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            self.shop.scrape().await;
            let now = self.snapshot();
            let counts = now.tally.routes.iter().enumerate();
            let agree = counts.into_iter().all(|(index, c)| table::measured(&now, index).requests == c.done);
            if agree || Instant::now() > deadline {
                return now;
            }
        }
    }
}

/// Waits for a moment; for ever if there is none.
async fn until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
