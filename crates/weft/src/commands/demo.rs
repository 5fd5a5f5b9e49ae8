//! `weft demo`: a mesh of several processes, watched at work; and `weft demo-app`, one program of its shop.
//!
//! Turns arguments into `demo::Options` and starts one runtime on the main thread, from which every child
//! process is started, so that none outlives it.

use super::{Environment, fail, mesh, refuse};
use crate::demo::{self, Options, app, checks::Check};
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

pub(crate) const ABOUT: &str = "Show a mesh of several processes at work, and check what it claims";
pub(crate) const APP_ABOUT: &str = "One program of the demo's shop";

/// The least time in which the whole script of a demo that runs by itself fits.
const LEAST: Duration = Duration::from_secs(8);

/// How long threads that wait for the terminal are waited for at the end: not at all, in human terms.
const LAST_WAIT: Duration = Duration::from_millis(50);

pub(crate) fn arguments(command: clap::Command) -> clap::Command {
    command
        .arg(
            Arg::new("for").long("for").value_name("TIME").value_parser(mesh::parse_duration).help(
                "Run by itself for this long, print the final table, and fail unless every check holds",
            ),
        )
        .arg(
            Arg::new("break")
                .long("break")
                .value_name("CHECK")
                .value_parser(Check::BREAKABLE.map(Check::name))
                .requires("for")
                .help("Sabotage what one check looks at, which must then fail"),
        )
        .arg(
            Arg::new("no-keys")
                .long("no-keys")
                .action(ArgAction::SetTrue)
                .help("Leave the terminal's keyboard alone"),
        )
}

pub(crate) fn run(matches: &ArgMatches, environment: &Environment) -> ExitCode {
    let lasting = matches.get_one::<Duration>("for").copied();
    if lasting.is_some_and(|lasting| lasting < LEAST) {
        return refuse([format!("--for: at least {}s, so that everything happens once", LEAST.as_secs())]);
    }
    let executable = match &environment.executable {
        Ok(path) => path.clone(),
        Err(error) => return fail(format_args!("cannot find this program's own file: {error}")),
    };
    let temporary = environment.text("TMPDIR").unwrap_or("/tmp");
    let options = Options {
        executable,
        temporary: temporary.into(),
        now: environment.now,
        lasting,
        sabotage: matches.get_one::<String>("break").and_then(|name| Check::parse(name)),
        keys: !matches.get_flag("no-keys"),
    };
    on_main_thread(demo::run(options))
}

pub(crate) fn app_arguments(command: clap::Command) -> clap::Command {
    let number = |name: &'static str, default: &'static str| {
        Arg::new(name).long(name).value_parser(value_parser!(u64)).default_value(default)
    };
    command
        .hide(true)
        .arg(
            Arg::new("speaks")
                .long("speaks")
                .value_parser(app::Speaks::ALL.map(app::Speaks::name))
                .required(true),
        )
        .arg(Arg::new("listen").long("listen").value_parser(mesh::parse_socket).required(true))
        .arg(number("takes-ms", "0"))
        .arg(number("fails-every", "0"))
        .arg(number("breaks-off-at", "0"))
}

pub(crate) fn run_app(matches: &ArgMatches, _: &Environment) -> ExitCode {
    let number = |name: &str| matches.get_one::<u64>(name).copied().unwrap_or_default();
    let speaks = matches.get_one::<String>("speaks").and_then(|name| app::Speaks::parse(name));
    let (Some(speaks), Some(listen)) = (speaks, matches.get_one::<SocketAddr>("listen").copied()) else {
        return refuse(["demo-app: incomplete"]);
    };
    let nature = app::Nature {
        speaks,
        takes: Duration::from_millis(number("takes-ms")),
        fails_every: number("fails-every"),
        breaks_off_at: number("breaks-off-at"),
    };
    on_main_thread(async move { app::run(listen, nature).await.map(|()| ExitCode::SUCCESS) })
}

fn on_main_thread<E: std::fmt::Display>(work: impl Future<Output = Result<ExitCode, E>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(format_args!("cannot start: {error}")),
    };
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(LAST_WAIT);
    outcome.unwrap_or_else(fail)
}
