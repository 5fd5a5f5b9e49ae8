//! Weft's one binary: a table of commands.
//!
//! Only this file reads the environment, the arguments and the clock of the process; everything else is
//! handed what it needs. Each command is one file under `commands/`.

mod commands;
mod machine;

use commands::{Command, Environment, control, proxy, token, version};
use std::process::ExitCode;

/// Chosen by measurement (docs/performance.md). Its page size is found at run time, also on arm64.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Every command, in the order of the help text.
const COMMANDS: &[Command] = &[
    Command { name: "proxy", about: proxy::ABOUT, arguments: proxy::arguments, run: proxy::run },
    Command { name: "control", about: control::ABOUT, arguments: control::arguments, run: control::run },
    Command { name: "token", about: token::ABOUT, arguments: token::arguments, run: token::run },
    Command { name: "version", about: version::ABOUT, arguments: version::arguments, run: version::run },
];

fn main() -> ExitCode {
    let environment =
        Environment { variables: std::env::vars_os().collect(), now: std::time::SystemTime::now() };
    commands::run(COMMANDS, std::env::args_os(), &environment)
}
