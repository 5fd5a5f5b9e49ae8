//! `weft token`: writes a join file, with which a workload proves who it is for the first time.
//!
//! Runs beside the control plane's state directory. The token goes into the file and nowhere else: not to
//! standard output, not into the log.

use super::{Environment, fail, mesh, refuse};
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use ipnet::IpNet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};
use weft_identity::authority::{Authority, Lifetimes};
use weft_identity::join::JoinFile;
use weft_identity::token::{Grant, TokenKey, Uses};
use weft_model::address::Addr;
use weft_model::identity::Id;
use weft_model::name::DnsName;

pub(crate) const ABOUT: &str = "Write a join file that lets a workload get its identity";

pub(crate) fn arguments(command: clap::Command) -> clap::Command {
    let command = command
        .arg(
            Arg::new("identity")
                .long("identity")
                .value_name("IDENTITY")
                .required(true)
                .help("Who the bearer becomes: `account.namespace`, or a full identity"),
        )
        .arg(
            Arg::new("out")
                .long("out")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .required(true)
                .help("The join file, written with mode 0600 in place of any other of that name"),
        )
        .arg(
            Arg::new("ttl")
                .long("ttl")
                .value_name("TIME")
                .default_value("24h")
                .value_parser(mesh::parse_duration)
                .help("How long the token may be used; certificates renew themselves afterwards"),
        )
        .arg(
            Arg::new("once")
                .long("once")
                .action(ArgAction::SetTrue)
                .help("The token is spent at its first use"),
        )
        .arg(
            Arg::new("cidr")
                .long("cidr")
                .value_name("NETWORK")
                .action(ArgAction::Append)
                .value_parser(|text: &str| {
                    text.parse::<IpNet>().map_err(|_| "expected a network such as `10.0.0.0/8`")
                })
                .help("Networks from which the token may be used; repeatable [default: from anywhere]"),
        )
        .arg(
            Arg::new("control-address")
                .long("control-address")
                .value_name("HOST:PORT")
                .default_value(mesh::LISTEN)
                .help("Where the bearer reaches the control plane"),
        )
        .arg(
            Arg::new("control-name")
                .long("control-name")
                .value_name("NAME")
                .help("The identity that the control plane proves [default: as of `weft control`]"),
        );
    mesh::arguments(command)
}

pub(crate) fn run(matches: &ArgMatches, environment: &Environment) -> ExitCode {
    let order = match Order::read(matches) {
        Ok(order) => order,
        Err(mistake) => return refuse([mistake]),
    };
    match order.carry_out(environment.now) {
        Ok(()) => {
            println!("wrote {}: lets its bearer become {}", order.out.display(), order.grant.identity);
            ExitCode::SUCCESS
        }
        Err(why) => fail(why),
    }
}

/// What is to be written, and where.
struct Order {
    state: PathBuf,
    out: PathBuf,
    grant: Grant,
    control_address: String,
    control_name: DnsName,
    /// What a new authority would be called.
    authority: String,
}

impl Order {
    fn read(matches: &ArgMatches) -> Result<Self, String> {
        let text = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
        let mesh = mesh::names(matches)?;
        let identity: Id =
            mesh::identity(&text("identity"), &mesh).map_err(|error| format!("--identity: {error}"))?;
        let control_address = text("control-address");
        control_address.parse::<Addr>().map_err(|error| format!("--control-address: {error}"))?;
        let control_name = match matches.get_one::<String>("control-name") {
            Some(name) => name.parse().map_err(|error| format!("--control-name: {error}"))?,
            None => mesh::control_name(&mesh)?,
        };
        let grant = Grant {
            identity,
            lifetime: matches.get_one::<Duration>("ttl").copied().unwrap_or_default(),
            uses: if matches.get_flag("once") { Uses::Once } else { Uses::Unlimited },
            networks: matches.get_many::<IpNet>("cidr").into_iter().flatten().copied().collect(),
        };
        Ok(Self {
            state: mesh::state(matches),
            out: matches.get_one::<PathBuf>("out").cloned().unwrap_or_default(),
            grant,
            control_address,
            control_name,
            authority: mesh::authority_name(&mesh),
        })
    }

    fn carry_out(&self, now: SystemTime) -> Result<(), String> {
        require_state(&self.state)?;
        let authority = Authority::open_now(&self.state, &self.authority, Lifetimes::default());
        let authority = authority.map_err(|error| error.to_string())?;
        let key = TokenKey::open(&self.state).map_err(|error| error.to_string())?;
        let token = key.sign(&self.grant, now).map_err(|error| error.to_string())?;
        let join = JoinFile {
            trust_anchors: authority.anchors().to_pem().to_owned(),
            control_address: self.control_address.clone(),
            control_name: self.control_name.clone(),
            identity: self.grant.identity.clone(),
            token,
        };
        join.write(&self.out).map_err(|error| error.to_string())
    }
}

/// A token of a state directory that no control plane uses would be worthless, so none is made up here.
fn require_state(state: &Path) -> Result<(), String> {
    if state.is_dir() {
        return Ok(());
    }
    Err(format!(
        "{} is not a directory; start `weft control` first, or name its state directory with --state-dir",
        state.display()
    ))
}
