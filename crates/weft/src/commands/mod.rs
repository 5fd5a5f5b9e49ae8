//! What all commands have in common: their shape in the table, their world, and how they end.
//!
//! Called by `main` alone. Knows no command in particular.

pub(crate) mod check;
pub(crate) mod control;
pub(crate) mod demo;
pub(crate) mod diff;
pub(crate) mod explain;
pub(crate) mod leash;
pub(crate) mod manifests;
pub(crate) mod mesh;
pub(crate) mod policy;
pub(crate) mod proxy;
pub(crate) mod run;
pub(crate) mod token;
pub(crate) mod version;
pub(crate) mod why;

use clap::ArgMatches;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

/// Exit status of a process that was told something it cannot obey (`EX_USAGE`); the peer's, too.
pub(crate) const BAD_USAGE: u8 = 64;

/// One line of the table of commands.
pub(crate) struct Command {
    /// What the user types.
    pub(crate) name: &'static str,
    /// One sentence for the list of commands.
    pub(crate) about: &'static str,
    /// Adds its arguments.
    pub(crate) arguments: fn(clap::Command) -> clap::Command,
    /// Does it.
    pub(crate) run: fn(&ArgMatches, &Environment) -> ExitCode,
}

/// The world a command starts in.
pub(crate) struct Environment {
    /// The environment variables.
    pub(crate) variables: BTreeMap<OsString, OsString>,
    /// The time of the start.
    pub(crate) now: SystemTime,
    /// The file of this program, for commands that start it again.
    pub(crate) executable: std::io::Result<PathBuf>,
}

impl Environment {
    /// The text of a variable, if it is set and is text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.variables.get(OsStr::new(name))?.to_str()
    }
}

/// Reads the arguments and runs the command they name. Mistakes in them end with [`BAD_USAGE`].
pub(crate) fn run(
    commands: &[Command],
    arguments: impl Iterator<Item = OsString>,
    environment: &Environment,
) -> ExitCode {
    let matches = match parser(commands).try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(answer) => {
            // Help and version are answers, too; where nobody reads them there is nothing to do.
            let _ = answer.print();
            return if answer.use_stderr() { ExitCode::from(BAD_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let chosen = matches.subcommand().and_then(|(name, matches)| {
        commands.iter().find(|command| command.name == name).map(|command| (command, matches))
    });
    match chosen {
        Some((command, matches)) => (command.run)(matches, environment),
        None => ExitCode::from(BAD_USAGE),
    }
}

fn parser(commands: &[Command]) -> clap::Command {
    let root = clap::Command::new("weft")
        .about("A service mesh: a proxy beside each workload, and a control plane that directs them")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true);
    commands
        .iter()
        .fold(root, |root, c| root.subcommand((c.arguments)(clap::Command::new(c.name).about(c.about))))
}

/// Tells each mistake on a line of its own and gives [`BAD_USAGE`].
pub(crate) fn refuse(mistakes: impl IntoIterator<Item = impl Display>) -> ExitCode {
    for mistake in mistakes {
        eprintln!("weft: {mistake}");
    }
    ExitCode::from(BAD_USAGE)
}

/// Tells why a command failed for another reason than its arguments.
pub(crate) fn fail(why: impl Display) -> ExitCode {
    eprintln!("weft: {why}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_of_commands_is_a_sound_command_line() {
        super::parser(crate::COMMANDS).debug_assert();
    }
}
