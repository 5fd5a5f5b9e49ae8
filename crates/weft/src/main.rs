//! Weft's one binary: a table of commands.
//!
//! Only this file reads the environment, the arguments and the clock of the process; everything else is
//! handed what it needs. Each command is one file under `commands/`.

mod beside;
mod commands;
mod data_path;
mod demo;
mod machine;
mod supervise;

use commands::{
    Command, Environment, check, control, demo as demo_command, diff, explain, leash, proxy,
    run as run_command, token, version, why,
};
use std::process::ExitCode;

/// Chosen by measurement (docs/performance.md). Its page size is found at run time, also on arm64.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Every command, in the order of the help text.
const COMMANDS: &[Command] = &[
    Command { name: "proxy", about: proxy::ABOUT, arguments: proxy::arguments, run: proxy::run },
    Command { name: "control", about: control::ABOUT, arguments: control::arguments, run: control::run },
    Command { name: "check", about: check::ABOUT, arguments: check::arguments, run: check::run },
    Command { name: "why", about: why::ABOUT, arguments: why::arguments, run: why::run },
    Command { name: "diff", about: diff::ABOUT, arguments: diff::arguments, run: diff::run },
    Command { name: "explain", about: explain::ABOUT, arguments: explain::arguments, run: explain::run },
    Command { name: "token", about: token::ABOUT, arguments: token::arguments, run: token::run },
    Command {
        name: "run",
        about: run_command::ABOUT,
        arguments: run_command::arguments,
        run: run_command::run,
    },
    Command {
        name: "demo",
        about: demo_command::ABOUT,
        arguments: demo_command::arguments,
        run: demo_command::run,
    },
    Command {
        name: "demo-app",
        about: demo_command::APP_ABOUT,
        arguments: demo_command::app_arguments,
        run: demo_command::run_app,
    },
    Command { name: "leash", about: leash::ABOUT, arguments: leash::arguments, run: leash::run },
    Command { name: "version", about: version::ABOUT, arguments: version::arguments, run: version::run },
];

fn main() -> ExitCode {
    let environment = Environment {
        variables: std::env::vars_os().collect(),
        now: std::time::SystemTime::now(),
        executable: std::env::current_exe(),
    };
    commands::run(COMMANDS, std::env::args_os(), &environment)
}
