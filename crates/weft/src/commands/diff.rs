//! `weft diff`: what a change of manifests would do to routes, backends, limits and permissions.
//!
//! Reads two directories and compares what proxies would be told of each. For people before they apply a change, and for CI:
//! like diff(1) it exits with 0 if nothing differs, and with 1 if something does. Changes nothing.

use super::{Environment, manifests, mesh, policy, refuse};
use clap::{Arg, ArgMatches, value_parser};
use std::path::PathBuf;
use std::process::ExitCode;
use weft_explain::difference::{Difference, differences};
use weft_index::Config;

pub(crate) const ABOUT: &str =
    "List what a change of manifests would do: routes, backends and permissions that change";

/// Exit status of trouble, as diff(1) has it; 1 says that something differs.
const TROUBLE: u8 = 2;

pub(crate) fn arguments(command: clap::Command) -> clap::Command {
    let directory = |name: &'static str, help: &'static str| {
        Arg::new(name).value_name("DIR").value_parser(value_parser!(PathBuf)).required(true).help(help)
    };
    let command = command
        .arg(directory("old", "Directory of the manifests that are in force"))
        .arg(directory("new", "Directory of the manifests that are to be"));
    mesh::naming(policy::arguments(command))
}

pub(crate) fn run(matches: &ArgMatches, _: &Environment) -> ExitCode {
    let config = match policy::config(matches) {
        Ok(config) => config,
        Err(mistakes) => return refuse(mistakes),
    };
    let directory = |name: &str| matches.get_one::<PathBuf>(name).cloned().unwrap_or_default();
    match compared(&directory("old"), &directory("new"), &config) {
        Ok(found) => {
            print!("{}", text(&found));
            if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("weft: {error}");
            ExitCode::from(TROUBLE)
        }
    }
}

fn compared(old: &PathBuf, new: &PathBuf, config: &Config) -> Result<Vec<Difference>, String> {
    let old = manifests::index([old].into_iter(), config.clone())?;
    let new = manifests::index([new].into_iter(), config.clone())?;
    Ok(differences(&old, &new))
}

fn text(found: &[Difference]) -> String {
    let mut text = String::new();
    for difference in found {
        for about in &difference.about {
            text.push_str(&format!("{about}\n"));
        }
        difference.gone.iter().for_each(|line| text.push_str(&format!("  - {line}\n")));
        difference.new.iter().for_each(|line| text.push_str(&format!("  + {line}\n")));
        text.push('\n');
    }
    if found.is_empty() {
        text.push_str("no route, backend, limit or permission changes\n");
    }
    text
}
