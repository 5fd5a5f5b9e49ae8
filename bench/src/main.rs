//! `weft-bench`: one command that measures Weft beside HAProxy, nginx, Envoy and a bare hyper relay.
//!
//! `run` builds what it needs, starts every contender that it finds, each with one worker on a processor of
//! its own, sends the same load through all of them in alternating order, and writes a table (Markdown), a
//! plot (SVG) and every single figure (CSV). It prints no figure of a contender that answered wrongly. All
//! traffic stays on loopback and ends by itself. docs/performance.md tells how to repeat what stands there.

mod app;
mod case;
mod certificates;
mod check;
mod contender;
mod failure;
mod frame;
mod layout;
mod load;
mod machine;
mod measure;
mod plot;
mod process;
mod profile;
mod programs;
mod publish;
mod report;
mod rounds;
mod statistics;
mod usage;

use case::{Case, Contender};
use clap::Parser;
use contender::Site;
use failure::Failure;
use layout::Phase;
use load::Load;
use measure::Plan;
use process::Seats;
use programs::{Given, Programs};
use report::Report;
use rounds::Stage;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(name = "weft-bench", about = "Measure Weft beside other proxies")]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Measure, and write a table, a plot and all figures
    Run(Box<Run>),
    /// Say where the time of Weft's proxies goes, crate by crate (needs perf and addr2line)
    Profile(Profile),
    /// Write the order in which the linker puts the functions of a proxy (needs valgrind)
    Layout(Layout),
    /// Say which programs are found, and their versions
    Programs(Given),
}

#[derive(clap::Args)]
struct Profile {
    /// Under the load of which cases
    #[arg(long, value_enum, value_delimiter = ',', value_name = "CASE", default_values = ["http1", "http2"])]
    cases: Vec<Case>,
    /// Length of the sampling
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=120))]
    seconds: u64,
    /// Write the tables into this file as well
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    given: Given,
}

#[derive(clap::Args)]
struct Layout {
    /// The linker script that is written
    #[arg(long, value_name = "FILE", default_value = "crates/weft/layout.ld")]
    out: PathBuf,
    #[command(flatten)]
    given: Given,
}

#[derive(clap::Args)]
struct Run {
    /// A short look, to see that everything works: 3 rounds of 1 s; its figures are not to be published
    #[arg(long)]
    quick: bool,
    /// What to measure [default: everything]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "CASE")]
    cases: Vec<Case>,
    /// Rounds that count; odd, so that the median is one of them [default: 7]
    #[arg(long, value_name = "N", value_parser = parse_rounds)]
    rounds: Option<usize>,
    /// Length of a window, after a warm-up of a quarter of it [default: 5]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=120))]
    seconds: Option<u64>,
    /// Connections of the load
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = parse_count)]
    connections: usize,
    /// Requests in flight on each HTTP/2 connection
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_count)]
    streams: usize,
    /// Idle connections when memory is measured
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = parse_count)]
    idle: usize,
    /// Take every round on a machine that never becomes quiet, and say in the table how far from quiet it was
    #[arg(long)]
    noisy: bool,
    /// Where table, plot and figures are written
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
    /// Put the table between the marks of this file as well, and the plot beside it
    #[arg(long, value_name = "FILE", conflicts_with = "quick")]
    publish: Option<PathBuf>,
    /// Do not build `weft` and `relay` first
    #[arg(long)]
    no_build: bool,
    /// Keep the configurations and logs of the contenders, and say where
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    given: Given,
}

/// Connections of a profile's load, the default of `run`.
const LOAD: usize = 32;

fn parse_rounds(text: &str) -> Result<usize, String> {
    let rounds = text.parse().ok().filter(|rounds| (1..=99).contains(rounds) && rounds % 2 == 1);
    rounds.ok_or_else(|| "expected an odd number up to 99".to_owned())
}

/// The load's connections, and twice as many at the proxies, must fit into the usual limit of descriptors.
fn parse_count(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=4000).contains(count));
    count.ok_or_else(|| "expected a number from 1 to 4000".to_owned())
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match (Arguments::parse().action, runtime) {
        (_, Err(error)) => Err(Failure::Io { what: "the runtime".to_owned(), error }),
        (Action::Programs(given), _) => list(&given),
        (Action::Profile(arguments), Ok(runtime)) => runtime.block_on(profile(&arguments)),
        (Action::Layout(arguments), Ok(runtime)) => runtime.block_on(layout(&arguments)),
        (Action::Run(arguments), Ok(runtime)) => runtime.block_on(run(&arguments)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("weft-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn list(given: &Given) -> Result<(), Failure> {
    for (name, version) in Programs::find(given)?.describe() {
        println!("{name:10} {version}");
    }
    Ok(())
}

async fn run(arguments: &Run) -> Result<(), Failure> {
    if cfg!(debug_assertions) && !arguments.quick {
        let usage =
            "this is a debug build, which measures nothing; use `cargo run --release -p weft-bench -- run`";
        return Err(Failure::Usage(usage.to_owned()));
    }
    if !arguments.no_build {
        build()?;
    }
    let programs = Programs::find(&arguments.given)?;
    for (name, version) in programs.describe() {
        println!("{name:10} {version}");
    }
    let seats = Seats::find();
    if !seats.is_pinned() {
        eprintln!("only one processor: proxies and load share it");
    }
    seats.settle()?;
    std::fs::create_dir_all(&arguments.out).map_err(Failure::io(arguments.out.display().to_string()))?;
    let workshop = Workshop::create(arguments.keep)?;
    let app = app::start().await.map_err(Failure::io("the application"))?;
    let stage = Stage {
        app: &app,
        programs: &programs,
        seats,
        dir: &workshop.dir,
        plan: plan(arguments),
        rounds: arguments.rounds.unwrap_or(if arguments.quick { 3 } else { 7 }),
        quick: arguments.quick,
        noisy: arguments.noisy,
    };
    // Ended from outside, the contenders must end too: they are killed where they are dropped.
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::io("signals"))?;
    let report = tokio::select! {
        report = measure(arguments, &stage) => report?,
        _ = terminate.recv() => return Err(Failure::Usage("terminated; no figures".to_owned())),
        _ = tokio::signal::ctrl_c() => return Err(Failure::Usage("interrupted; no figures".to_owned())),
    };
    report.write(&arguments.out)?;
    println!("\n{}", report.markdown());
    println!("written to {}", arguments.out.display());
    match &arguments.publish {
        Some(file) => publish::publish(&report, file),
        None => Ok(()),
    }
}

/// Samples Weft's proxies under the load of each case.
async fn profile(arguments: &Profile) -> Result<(), Failure> {
    let programs = Programs::find(&arguments.given)?;
    let seats = Seats::find();
    seats.settle()?;
    let workshop = Workshop::create(false)?;
    let app = app::start().await.map_err(Failure::io("the application"))?;
    let binary = contender::installed(&programs.weft, Contender::Weft)?.to_owned();
    let mut text = String::new();
    for case in &arguments.cases {
        let site = Site { app: &app, programs: &programs, seats, dir: workshop.dir.join(case.name()) };
        let running = contender::start(Contender::Weft, *case, &site).await?;
        check::check(&running, *case, &app).await?;
        let load = Load::start(case.traffic(1), running.entry, LOAD);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let window = Duration::from_secs(arguments.seconds);
        let profile = profile::sample(&running.pids(), &binary, window, &workshop.dir).await?;
        let outcome = load.finish().await;
        if let Some(error) = outcome.errors.first() {
            return Err(Failure::Machine(format!("{}: {error}", case.name())));
        }
        text.push_str(&format!(
            "### {}\n\n{:.1} % in our own code, {:.1} % in the kernel; {}\n",
            case.title(),
            profile.own(),
            profile.kernel(),
            profile.markdown()
        ));
    }
    println!("{text}");
    match &arguments.out {
        Some(file) => std::fs::write(file, text).map_err(Failure::io(file.display().to_string())),
        None => Ok(()),
    }
}

/// Sees which functions Weft's proxies run, from their start to the end of each case's load.
async fn layout(arguments: &Layout) -> Result<(), Failure> {
    let mut programs = Programs::find(&arguments.given)?;
    let seats = Seats::find();
    seats.settle()?;
    let workshop = Workshop::create(false)?;
    let app = app::start().await.map_err(Failure::io("the application"))?;
    let binary = contender::installed(&programs.weft, Contender::Weft)?.to_owned();
    if let Some(weft) = &mut programs.weft {
        weft.path = layout::watched(&binary, &workshop.dir)?;
    }
    let mut ran = layout::Ran::default();
    for case in Case::ALL.into_iter().filter(|case| *case != Case::Memory && !case.is_policy()) {
        let site = Site { app: &app, programs: &programs, seats, dir: workshop.dir.join(case.name()) };
        let running = contender::start(Contender::Weft, case, &site).await?;
        for pid in running.pids() {
            ran.take(pid, Phase::Start, &workshop.dir)?;
        }
        let load = Load::start(case.traffic(1), running.entry, layout::CONNECTIONS);
        tokio::time::sleep(layout::LOAD).await;
        let outcome = load.finish().await;
        if let Some(error) = outcome.errors.first() {
            return Err(Failure::Machine(format!("{}: {error}", case.name())));
        }
        for pid in running.pids() {
            ran.take(pid, Phase::Traffic, &workshop.dir)?;
        }
        println!("{}: {} {}s", case.title(), outcome.done, case.unit());
    }
    let script = ran.script(&binary)?;
    std::fs::write(&arguments.out, &script).map_err(Failure::io(arguments.out.display().to_string()))
}

fn plan(arguments: &Run) -> Plan {
    let seconds = arguments.seconds.unwrap_or(if arguments.quick { 1 } else { 5 });
    Plan {
        warm_up: Duration::from_millis(seconds * 250),
        window: Duration::from_secs(seconds),
        connections: arguments.connections,
        streams: arguments.streams,
        idle: arguments.idle,
    }
}

async fn measure(arguments: &Run, stage: &Stage<'_>) -> Result<Report, Failure> {
    let mut report = Report::new(stage);
    let wanted = |case: &Case| arguments.cases.is_empty() || arguments.cases.contains(case);
    for case in Case::ALL.into_iter().filter(wanted) {
        match case {
            Case::Memory => report.memory = stage.memory().await?,
            _ => report.results.push(stage.run(case).await?),
        }
    }
    Ok(report)
}

/// Builds the two programs of this repository, with the profile that this one was built with.
fn build() -> Result<(), Failure> {
    let here = std::env::current_exe().map_err(Failure::io("this program's own path"))?;
    let profile = here.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
    let profile = if profile == "debug" { "dev" } else { profile };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--profile", profile, "--package", "weft", "--package", "weft-bench", "--bins"]);
    let status =
        command.current_dir(env!("CARGO_MANIFEST_DIR")).status().map_err(Failure::io("cargo build"))?;
    match status.success() {
        true => Ok(()),
        false => Err(Failure::Machine("cargo build failed; --no-build takes what is there".to_owned())),
    }
}

/// A directory for configurations, keys and logs, gone at the end.
struct Workshop {
    dir: PathBuf,
    keep: bool,
}

impl Workshop {
    fn create(keep: bool) -> Result<Self, Failure> {
        use std::os::unix::fs::DirBuilderExt;
        let dir = std::env::temp_dir().join(format!("weft-bench-{}", std::process::id()));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&dir);
        made.map_err(Failure::io(dir.display().to_string()))?;
        Ok(Self { dir, keep })
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        if self.keep {
            eprintln!("configurations and logs: {}", self.dir.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}
