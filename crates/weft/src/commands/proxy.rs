//! `weft proxy`: the proxy beside a workload.
//!
//! Gathers what the process is told (flags, environment, configuration file, join file), has the settings
//! checked, and starts two runtimes: the data path with as many workers as the control group pays for, and
//! a single-threaded one, on the main thread, for what must go on when the data path is saturated.

use super::{BAD_USAGE, Environment, fail, refuse};
use crate::data_path::DataPath;
use crate::machine;
use clap::{Arg, ArgAction, ArgMatches};
use std::path::Path;
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use weft_identity::join::JoinFile;
use weft_proxy::World;
use weft_settings::{Inputs, Kind, SETTINGS, Setting, Settings, Values, file, workers};
use weft_telemetry::log::{self, LogLevel, Sink};

pub(crate) const ABOUT: &str = "Run the proxy beside a workload";

/// How long threads that still compute are waited for at the very end, after the drain.
const LAST_WAIT: Duration = Duration::from_millis(100);

/// The flags' names, because the command line wants texts that live for ever.
static FLAGS: LazyLock<Vec<String>> = LazyLock::new(|| SETTINGS.iter().map(Setting::flag).collect());

pub(crate) fn arguments(command: clap::Command) -> clap::Command {
    let command = command.arg(
        Arg::new("print-config")
            .long("print-config")
            .action(ArgAction::SetTrue)
            .help("Print every setting with its value and where it comes from, and end"),
    );
    SETTINGS
        .iter()
        .zip(FLAGS.iter())
        .fold(command, |command, (setting, flag)| command.arg(argument(setting, flag)))
}

fn argument(setting: &'static Setting, flag: &'static str) -> Arg {
    let default = setting.default.filter(|d| !d.is_empty()).map(|d| format!(" [default: {d}]"));
    let arg = Arg::new(setting.name)
        .long(flag)
        .value_name("VALUE")
        .help_heading(setting.section)
        .help(format!("{}{}", setting.doc, default.unwrap_or_default()));
    let arg = if setting.kind.is_repeatable() { arg.action(ArgAction::Append) } else { arg };
    match setting.kind {
        Kind::Switch => arg.num_args(0..=1).default_missing_value("true"),
        _ => arg,
    }
}

pub(crate) fn run(matches: &ArgMatches, environment: &Environment) -> ExitCode {
    let values = match gather(matches, environment) {
        Ok(values) => values,
        Err(mistakes) => return refuse_configuration(&mistakes),
    };
    let settings = Settings::from_values(&values)
        .map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect::<Vec<_>>());
    if matches.get_flag("print-config") {
        print!("{}", values.to_table());
        return match settings {
            Ok(_) => ExitCode::SUCCESS,
            Err(mistakes) => refuse_configuration(&mistakes),
        };
    }
    let settings = match settings {
        Ok(settings) => settings,
        Err(mistakes) => return refuse_configuration(&mistakes),
    };
    let log = match log::start(&settings.log.filter, settings.log.format, Sink::Stdout) {
        Ok(log) => log,
        Err(error) => return fail(error),
    };
    for warning in values.warnings() {
        tracing::warn!("{warning}");
    }
    start(settings, values, log)
}

fn refuse_configuration(mistakes: &[String]) -> ExitCode {
    refuse(mistakes);
    eprintln!("weft: invalid configuration; the proxy does not start");
    ExitCode::from(BAD_USAGE)
}

/// Reads everything the process is told, files included.
fn gather(matches: &ArgMatches, environment: &Environment) -> Result<Values, Vec<String>> {
    let flags = flags(matches);
    let mut inputs = Inputs { flags: &flags, env: &environment.variables, file: &[], join: &[] };
    let config = Values::peek("CONFIG", &inputs).map(|path| read_config(Path::new(&path))).transpose()?;
    inputs.file = config.as_deref().unwrap_or_default();
    let join = Values::peek("JOIN_FILE", &inputs).map(|path| read_join(Path::new(&path))).transpose()?;
    inputs.join = join.as_deref().unwrap_or_default();
    Values::resolve(&inputs).map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
}

fn flags(matches: &ArgMatches) -> Vec<(String, String)> {
    let of = |(setting, flag): (&'static Setting, &'static String)| {
        let texts = matches.get_many::<String>(setting.name).into_iter().flatten();
        texts.map(move |text| (flag.clone(), text.clone()))
    };
    SETTINGS.iter().zip(FLAGS.iter()).flat_map(of).collect()
}

fn read_config(path: &Path) -> Result<Vec<(String, String)>, Vec<String>> {
    let named = |error: &dyn std::fmt::Display| vec![format!("CONFIG: {}: {error}", path.display())];
    let text = std::fs::read_to_string(path).map_err(|error| named(&error))?;
    file::parse(&text).map_err(|error| named(&error))
}

/// What a join file says, as values of settings.
fn read_join(path: &Path) -> Result<Vec<(&'static str, String)>, Vec<String>> {
    let join = JoinFile::read(path).map_err(|error| vec![format!("JOIN_FILE: {error}")])?;
    let (address, name) = (join.control_address, join.control_name.to_string());
    let identity = join.identity.to_string();
    Ok(vec![
        ("DESTINATION_SVC_ADDR", address.clone()),
        ("DESTINATION_SVC_NAME", name.clone()),
        ("POLICY_SVC_ADDR", address.clone()),
        ("POLICY_SVC_NAME", name.clone()),
        ("IDENTITY_SVC_ADDR", address),
        ("IDENTITY_SVC_NAME", name),
        ("IDENTITY_TRUST_ANCHORS", join.trust_anchors),
        ("IDENTITY_SERVER_ID", identity.clone()),
        ("IDENTITY_SERVER_NAME", identity),
    ])
}

/// Builds the runtimes and runs the proxy until it has drained.
fn start(settings: Settings, values: Values, log: LogLevel) -> ExitCode {
    let workers = workers::count(&settings.cores, &machine::read());
    tracing::info!(workers, version = env!("CARGO_PKG_VERSION"), "starting");
    let data = DataPath::start(workers);
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (data, control) = match (data, control) {
        (Ok(data), Ok(control)) => (data, control),
        (Err(error), _) | (_, Err(error)) => return fail(format_args!("cannot start threads: {error}")),
    };
    let outcome = control.block_on(serve(settings, &values, log, (&data, &control)));
    data.end(LAST_WAIT);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error),
    }
}

/// Runs the proxy until a signal, or its admin listener, ends it and everything has drained.
async fn serve(
    settings: Settings,
    values: &Values,
    log: LogLevel,
    (data, control): (&DataPath, &Runtime),
) -> Result<(), Box<dyn std::error::Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let world = World {
        settings,
        shown_settings: values.to_json(),
        log: Some(log),
        data: data.handle().clone(),
        control: control.handle().clone(),
    };
    let mut proxy = weft_proxy::start(world).await?;
    tracing::info!(outbound = ?proxy.outbound, inbound = %proxy.inbound, admin = %proxy.admin, "listening");
    tokio::select! {
        _ = terminate.recv() => proxy.stop(),
        _ = interrupt.recv() => proxy.stop(),
        () = proxy.drained() => {}
    }
    proxy.drained().await;
    Ok(())
}
