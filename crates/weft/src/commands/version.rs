//! `weft version`: which build this is.

use super::Environment;
use clap::ArgMatches;
use std::process::ExitCode;

pub(crate) const ABOUT: &str = "Say which version this is";

pub(crate) fn arguments(command: clap::Command) -> clap::Command {
    command
}

pub(crate) fn run(_: &ArgMatches, _: &Environment) -> ExitCode {
    println!("weft {}", env!("CARGO_PKG_VERSION"));
    ExitCode::SUCCESS
}
