//! `weft run`: a program of the user's with a sidecar beside it.
//!
//! Starts both, announces the workload in the manifests once the sidecar is ready, takes it back before the
//! sidecar drains, forwards signals and passes the program's exit status on. `beside` knows addresses and
//! manifests, `supervise` the processes.

use super::{Environment, fail, mesh, refuse};
use crate::beside::{self, Order};
use clap::{Arg, ArgMatches, value_parser};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use weft_model::name::DnsName;

pub(crate) const ABOUT: &str = "Run a program with a sidecar beside it, as a workload of the mesh";

/// How long threads that still compute are waited for at the end.
const LAST_WAIT: Duration = Duration::from_millis(50);

pub(crate) fn arguments(command: clap::Command) -> clap::Command {
    let text = |name: &'static str, value: &'static str| Arg::new(name).long(name).value_name(value);
    let command = command
        .arg(text("service", "NAME").required(true).help("The service that the program is an instance of"))
        .arg(
            text("port", "PORT")
                .required(true)
                .value_parser(value_parser!(u16).range(1..))
                .help("Where the program listens, on 127.0.0.1; it is told as PORT, too"),
        )
        .arg(
            text("manifests", "DIR")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("The control plane's directory of manifests"),
        )
        .arg(text("namespace", "NAME").default_value("default").help("The service's namespace"))
        .arg(text("name", "NAME").help("The workload's name [default: service and address]"))
        .arg(
            text("address", "IP")
                .value_parser(value_parser!(IpAddr))
                .help("The address peers reach it at [default: that of this host's route to others]"),
        )
        .arg(
            text("join", "FILE")
                .value_parser(value_parser!(PathBuf))
                .help("A join file of `weft token` [default: one made from --state-dir]"),
        )
        .arg(
            text("control-address", "HOST:PORT")
                .default_value(mesh::LISTEN)
                .help("Where the control plane is reached, without a join file"),
        )
        .arg(
            text("grace", "TIME")
                .default_value("30s")
                .value_parser(mesh::parse_duration)
                .help("Longest wait for the program to end, and longest drain of the sidecar after it"),
        )
        .arg(
            Arg::new("program")
                .value_name("PROGRAM")
                .required(true)
                .num_args(1..)
                .last(true)
                .value_parser(value_parser!(OsString))
                .help("The program and its arguments"),
        );
    mesh::arguments(command)
}

pub(crate) fn run(matches: &ArgMatches, environment: &Environment) -> ExitCode {
    let order = match order(matches, environment) {
        Ok(order) => order,
        Err(mistake) => return refuse([mistake]),
    };
    // On the main thread, because children are bound to the thread that starts them.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(format_args!("cannot start: {error}")),
    };
    let outcome = runtime.block_on(beside::run(order));
    runtime.shutdown_timeout(LAST_WAIT);
    outcome.unwrap_or_else(fail)
}

fn order(matches: &ArgMatches, environment: &Environment) -> Result<Order, String> {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let label = |name: &'static str, text: String| match text.parse::<DnsName>() {
        Ok(_) if !text.contains('.') => Ok(text),
        _ => Err(format!("--{name}: `{text}`; expected a name of letters, digits and hyphens")),
    };
    let executable = environment.executable.as_ref();
    Ok(Order {
        executable: executable
            .map_err(|error| format!("cannot find this program's own file: {error}"))?
            .clone(),
        now: environment.now,
        temporary: environment.text("TMPDIR").unwrap_or("/tmp").into(),
        service: label("service", text("service").unwrap_or_default())?,
        namespace: label("namespace", text("namespace").unwrap_or_default())?,
        name: text("name").map(|name| label("name", name)).transpose()?,
        port: matches.get_one::<u16>("port").copied().unwrap_or_default(),
        manifests: matches.get_one::<PathBuf>("manifests").cloned().unwrap_or_default(),
        address: matches.get_one::<IpAddr>("address").copied(),
        join: matches.get_one::<PathBuf>("join").cloned(),
        state: mesh::state(matches),
        control_address: text("control-address").unwrap_or_default(),
        mesh: mesh::names(matches)?,
        grace: matches.get_one::<Duration>("grace").copied().unwrap_or_default(),
        program: matches.get_many::<OsString>("program").into_iter().flatten().cloned().collect(),
    })
}
