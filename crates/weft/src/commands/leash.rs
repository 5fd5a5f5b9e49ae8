//! `weft leash`: becomes another program that does not outlive whoever started it. Hidden.
//!
//! `supervise` starts every child through it: it asks the kernel for a signal at the parent's end, and
//! then replaces itself, so that no process more is running.

use super::{BAD_USAGE, Environment, fail};
use crate::supervise::Leash;
use clap::{Arg, ArgMatches};
use rustix::process::{getppid, set_parent_process_death_signal};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

pub(crate) const ABOUT: &str = "Run a program that ends with its parent";

/// What shells say of a program that they cannot start.
const NOT_FOUND: u8 = 127;

pub(crate) fn arguments(command: clap::Command) -> clap::Command {
    command
        .hide(true)
        .arg(Arg::new("signal").required(true))
        .arg(Arg::new("parent").required(true).value_parser(clap::value_parser!(i32)))
        .arg(
            Arg::new("program")
                .required(true)
                .num_args(1..)
                .last(true)
                .value_parser(clap::value_parser!(OsString)),
        )
}

pub(crate) fn run(matches: &ArgMatches, _: &Environment) -> ExitCode {
    let leash = matches.get_one::<String>("signal").and_then(|text| Leash::parse(text));
    let mut words = matches.get_many::<OsString>("program").into_iter().flatten();
    let (Some(leash), Some(program)) = (leash, words.next()) else { return ExitCode::from(BAD_USAGE) };
    if let Err(error) = set_parent_process_death_signal(Some(leash.signal())) {
        return fail(format_args!("cannot bind a process to its parent: {error}"));
    }
    // The parent may have ended before the kernel was asked.
    let parent = matches.get_one::<i32>("parent").copied();
    if getppid().map(|pid| pid.as_raw_pid()) != parent {
        return fail("the parent is gone");
    }
    let error = std::process::Command::new(program).args(words).exec();
    eprintln!("weft: cannot start {}: {error}", program.to_string_lossy());
    ExitCode::from(NOT_FOUND)
}
