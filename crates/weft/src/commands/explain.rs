//! `weft explain`: what a reason means, and what to do about it.
//!
//! For people with a `weft-reason` header, a metric's `code` label or a log line before them. Prints the catalogue's
//! row; knows nothing that is not in `model::reason`.

use super::{BAD_USAGE, Environment};
use clap::{Arg, ArgMatches};
use std::fmt::Write as _;
use std::process::ExitCode;
use weft_model::reason::{Code, Hop, Phase, grpc_name};

pub(crate) const ABOUT: &str = "Tell what a reason means, and what to do about it";

pub(crate) fn arguments(command: clap::Command) -> clap::Command {
    command.arg(Arg::new("reason").value_name("REASON").help(
        "A code such as `no-endpoints`, or a whole `weft-reason` header; without one, all codes are listed",
    ))
}

pub(crate) fn run(matches: &ArgMatches, _: &Environment) -> ExitCode {
    match matches.get_one::<String>("reason") {
        None => print!("{}", list()),
        Some(text) => match explain(text) {
            Ok(told) => print!("{told}"),
            Err(error) => {
                eprintln!("weft: {error}");
                return ExitCode::from(BAD_USAGE);
            }
        },
    }
    ExitCode::SUCCESS
}

/// Every code with what happened, a line each.
fn list() -> String {
    let widest = Code::ALL.iter().map(|code| code.as_str().len()).max().unwrap_or_default();
    Code::ALL.iter().map(|code| format!("{:widest$}  {}\n", code.as_str(), code.entry().cause)).collect()
}

/// The text about a code, or about a header that begins with one.
fn explain(text: &str) -> Result<String, String> {
    let text = text.trim().strip_prefix("weft-reason:").unwrap_or(text.trim()).trim();
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let code = Code::parse(name).ok_or_else(|| unknown(name))?;
    let entry = code.entry();
    let connection = if entry.closes { "closed" } else { "kept" };
    let mut told = format!(
        "{name}: HTTP {}, gRPC {}, the client's connection is {connection}\n\nWhat happened: {}\nWhat to do:    {}\n",
        entry.status,
        grpc_name(entry.grpc.into()),
        entry.cause,
        entry.remedy
    );
    let fields: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
    let about = |(key, value): &(&str, &str)| match *key {
        "hop" => Hop::ALL.iter().find(|hop| hop.as_str() == *value).map(|hop| hop.about()),
        "phase" => Phase::ALL.iter().find(|phase| phase.as_str() == *value).map(|phase| phase.about()),
        "known" => Some("endpoints that discovery had announced"),
        "ready" => Some("of these, ready"),
        "waited" => Some("spent waiting for an endpoint"),
        "age" => Some("since discovery last said something"),
        "endpoint" => Some("the endpoint concerned"),
        "policy" => Some("the policy or route concerned"),
        _ => None,
    };
    if !fields.is_empty() {
        told.push('\n');
    }
    for field in &fields {
        let (key, value) = field;
        let about = about(field).map(|about| format!(": {about}")).unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = writeln!(told, "{key} {value}{about}");
    }
    Ok(told)
}

fn unknown(name: &str) -> String {
    let parts: Vec<_> = name.split('-').filter(|part| part.len() > 2).collect();
    let alike = |code: &&Code| parts.iter().any(|part| code.as_str().contains(part));
    let alike: Vec<_> = Code::ALL.iter().filter(alike).map(|code| code.as_str()).collect();
    match alike.as_slice() {
        [] => format!("`{name}` is no reason's code; `weft explain` lists them all"),
        alike => format!("`{name}` is no reason's code; similar ones: {}", alike.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_told_with_cause_and_remedy() {
        let told = explain("no-endpoints").unwrap();
        let entry = Code::NoEndpoints.entry();
        assert!(
            told.starts_with("no-endpoints: HTTP 503, gRPC UNAVAILABLE, the client's connection is closed\n")
        );
        assert!(told.contains(entry.cause) && told.ends_with(&format!("{}\n", entry.remedy)), "{told}");
    }

    #[test]
    fn a_whole_header_is_told_field_by_field() {
        let told =
            explain("weft-reason: queue-full; hop=outbound; phase=queue; known=3; ready=0; waited=5ms")
                .unwrap();
        for line in [
            "hop outbound: the caller's proxy says so",
            "phase queue: waiting in a backend's queue",
            "known 3: endpoints that discovery had announced",
            "waited 5ms: spent waiting for an endpoint",
        ] {
            assert!(told.lines().any(|l| l == line), "{line}\n{told}");
        }
        assert!(
            explain("forbidden; hop=inbound; phase=route")
                .unwrap()
                .contains("the called workload's proxy says so")
        );
    }

    #[test]
    fn unknown_codes_are_refused_with_similar_ones() {
        assert_eq!(
            explain("no-endpoint").unwrap_err(),
            "`no-endpoint` is no reason's code; similar ones: no-endpoints"
        );
        assert!(explain("zzz").unwrap_err().ends_with("lists them all"));
        assert_eq!(list().lines().count(), Code::ALL.len());
    }
}
