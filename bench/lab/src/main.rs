//! The balance laboratory: policies against each other on simulated endpoints, seeded and in fake time.
//!
//! `weft-lab` plays every scenario of `scenarios/judge` with every policy and prints tables; `--publish FILE` puts them with a plot
//! into a document, `--set choose` plays those on which parameters are chosen, `--replay NAME` plays one of them on a real proxy as
//! well. Ours is the data path's own `Backend`, driven as the proxy drives it; nothing here is a second implementation of it.

mod arrival;
mod play;
mod policy;
mod probing;
mod replay;
mod report;
mod scenario;
mod shop;

use clap::{Arg, ArgMatches, Command, value_parser};
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let matches = Command::new("weft-lab")
        .about("Compare balancing policies on simulated endpoints")
        .arg(
            Arg::new("set")
                .long("set")
                .value_parser(["judge", "choose"])
                .default_value("judge")
                .help("Which scenarios: those of the table, or those on which parameters are chosen"),
        )
        .arg(Arg::new("only").long("only").value_name("NAME").help("Only the scenario of this file name"))
        .arg(
            Arg::new("replay")
                .long("replay")
                .value_name("NAME")
                .conflicts_with_all(["only", "publish"])
                .help("Play this scenario on a real proxy, too, in real time, and say whether both agree"),
        )
        .arg(
            Arg::new("publish")
                .long("publish")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Put tables and plot into this document, between its marks"),
        )
        .get_matches();
    match run(&matches) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("weft-lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(matches: &ArgMatches) -> Result<bool, String> {
    let text = |name: &str| matches.get_one::<String>(name);
    let mut scenarios = scenario::read(text("set").map_or("judge", String::as_str))?;
    if let Some(name) = text("only").or_else(|| text("replay")) {
        let names: Vec<_> = scenarios.iter().map(|(file, _)| file.clone()).collect();
        scenarios.retain(|(file, _)| file == name);
        if scenarios.is_empty() {
            return Err(format!("there is no scenario {name:?}, but {}", names.join(", ")));
        }
    }
    if text("replay").is_some() {
        return scenarios.into_iter().try_fold(true, |good, (_, scenario)| Ok(replay(scenario)? && good));
    }
    let played: Vec<_> = scenarios.iter().map(|(_, scenario)| play::all(scenario)).collect();
    print!("{}", report::tables(&played));
    if let Some(path) = matches.get_one::<PathBuf>("publish") {
        report::publish(path, &played)?;
    }
    Ok(true)
}

fn replay(mut scenario: scenario::Scenario) -> Result<bool, String> {
    replay::check(&scenario)?;
    scenario.seeds.truncate(1);
    let simulated = play::of(&scenario, policy::Kind::Weft);
    let runtime = tokio::runtime::Runtime::new().map_err(|e| e.to_string())?;
    let real = runtime.block_on(replay::of(&scenario)).map_err(|e| e.to_string())?;
    let (table, agree) = report::agreement(&scenario, &simulated, &real);
    print!("{table}");
    Ok(agree)
}
