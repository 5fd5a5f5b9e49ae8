//! `weft control`: the control plane.
//!
//! Turns arguments into `weft_control::Options`, starts the log and one runtime, and waits for the control
//! plane to end by itself.

use super::{Environment, fail, mesh, policy, refuse};
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use weft_control::{Options, StreamLimits};
use weft_identity::authority::IssuerFiles;
use weft_model::name::DnsName;
use weft_telemetry::log::{self, Format, Sink};

pub(crate) const ABOUT: &str = "Run the control plane: serve proxies from a directory of manifests";

pub(crate) fn arguments(command: clap::Command) -> clap::Command {
    let command = command
        .arg(
            Arg::new("manifests")
                .long("manifests")
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf))
                .action(ArgAction::Append)
                .required(true)
                .help("Directory of manifests, watched for changes; repeatable"),
        )
        .arg(address("listen", mesh::LISTEN).help("Where proxies reach every service of the control plane"))
        .arg(address("admin", "127.0.0.1:9990").help("Where /live, /ready and /metrics are served"))
        .arg(Arg::new("name").long("name").value_name("NAME").action(ArgAction::Append).help(
            "Identity that proxies expect of the control plane; repeatable, the first goes into join \
                       files [default: weft-control's in the control namespace]",
        ))
        .arg(
            Arg::new("plaintext")
                .long("plaintext")
                .action(ArgAction::SetTrue)
                .conflicts_with("name")
                .help("Speak without TLS; only on a loopback address. Everybody on this host is believed"),
        );
    mesh::arguments(limit_arguments(issuer_arguments(policy::arguments(own_arguments(command)))))
}

/// The files of an external authority: all three or none.
const ISSUER_FILES: [&str; 3] = ["issuer-cert", "issuer-key", "trust-anchors"];

fn issuer_arguments(command: clap::Command) -> clap::Command {
    let help = [
        "PEM file of an issuing certificate that something else maintains, with its intermediates; looked at \
         every 10 s [default: an authority of our own in the state directory]",
        "PEM file of its private key",
        "PEM file of the trust anchors that it leads to",
    ];
    ISSUER_FILES.into_iter().zip(help).fold(command, |command, (name, help)| {
        let others = ISSUER_FILES.into_iter().filter(|other| *other != name);
        command.arg(
            Arg::new(name)
                .long(name)
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .requires_all(others)
                .help(help),
        )
    })
}

/// What docs/limits.md says can be set: the flag, its default, and of what it is a limit.
fn limits() -> [(&'static str, usize, &'static str); 4] {
    let (edge, streams) = weft_control::limits();
    [
        ("max-connections", edge.connections, "Connections of proxies at once"),
        ("max-connections-per-source", edge.per_source, "Connections at once from one address"),
        ("max-streams", streams.total, "Streams of all proxies at once"),
        ("max-streams-per-proxy", streams.per_proxy, "Streams at once of one identity at one address"),
    ]
}

fn limit_arguments(command: clap::Command) -> clap::Command {
    limits().into_iter().fold(command, |command, (name, default, help)| {
        command.arg(
            Arg::new(name)
                .long(name)
                .value_name("NUMBER")
                .value_parser(value_parser!(u32).range(1..))
                .help(format!("{help} [default: {default}]")),
        )
    })
}

fn issuer(matches: &ArgMatches) -> Option<IssuerFiles> {
    let file = |name: &str| matches.get_one::<PathBuf>(name).cloned();
    let [certificates, key, anchors] = ISSUER_FILES.map(file);
    Some(IssuerFiles { certificates: certificates?, key: key?, anchors: anchors? })
}

fn own_arguments(command: clap::Command) -> clap::Command {
    command
        .arg(
            Arg::new("issuance-lifetime")
                .long("issuance-lifetime")
                .value_name("TIME")
                .default_value("24h")
                .value_parser(mesh::parse_duration)
                .help("How long issued certificates live"),
        )
        .arg(
            Arg::new("log")
                .long("log")
                .value_name("FILTER")
                .help(format!("Filter of the log, also WEFT_LOG [default: {}]", log::DEFAULT_FILTER)),
        )
        .arg(
            Arg::new("log-format")
                .long("log-format")
                .value_name("FORMAT")
                .value_parser(["plain", "json"])
                .help("Shape of log lines, also WEFT_LOG_FORMAT [default: plain]"),
        )
}

fn address(name: &'static str, default: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("IP:PORT").value_parser(mesh::parse_socket).default_value(default)
}

pub(crate) fn run(matches: &ArgMatches, environment: &Environment) -> ExitCode {
    let options = match options(matches) {
        Ok(options) => options,
        Err(mistakes) => return refuse(mistakes),
    };
    let filter = matches.get_one::<String>("log").map(String::as_str);
    let filter = filter.or_else(|| environment.text("WEFT_LOG")).unwrap_or(log::DEFAULT_FILTER);
    let format = matches.get_one::<String>("log-format").map(String::as_str);
    let format = format.or_else(|| environment.text("WEFT_LOG_FORMAT")).unwrap_or("plain");
    let Some(format) = Format::parse(format) else {
        return refuse([format!("WEFT_LOG_FORMAT: `{format}` is not accepted; expected `plain`, `json`")]);
    };
    let log = match log::start(filter, format, Sink::Stdout) {
        Ok(log) => log,
        Err(error) => return fail(error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(format_args!("cannot start threads: {error}")),
    };
    let ended = runtime.block_on(weft_control::run(options, log));
    // A look at the manifests may be under way; it changes nothing, so nobody waits for it.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error),
    }
}

/// The options, or every mistake in them.
fn options(matches: &ArgMatches) -> Result<Options, Vec<String>> {
    let mut mistakes = Vec::new();
    let config = policy::config(matches).unwrap_or_else(|wrong| {
        mistakes = wrong;
        Default::default()
    });
    let names = names(matches, &config.mesh, &mut mistakes);
    let address = |name: &str| matches.get_one::<SocketAddr>(name).copied();
    let (Some(listen), Some(admin)) = (address("listen"), address("admin")) else { return Err(mistakes) };
    if names.is_empty() && !listen.ip().to_canonical().is_loopback() {
        mistakes.push(format!(
            "--plaintext: {listen} is reachable from other hosts; expected a loopback address"
        ));
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let [connections, connections_per_source, total, per_proxy] = limits()
        .map(|(name, default, _)| matches.get_one::<u32>(name).map_or(default, |number| *number as usize));
    Ok(Options {
        manifests: matches.get_many::<PathBuf>("manifests").into_iter().flatten().cloned().collect(),
        state: mesh::state(matches),
        listen,
        names,
        admin,
        config,
        issuer: issuer(matches),
        issuance_lifetime: matches.get_one::<Duration>("issuance-lifetime").copied().unwrap_or_default(),
        connections,
        connections_per_source,
        streams: StreamLimits { total, per_proxy },
    })
}

/// The names that the control plane proves; none with `--plaintext`.
fn names(
    matches: &ArgMatches,
    mesh: &weft_model::identity::MeshNames,
    mistakes: &mut Vec<String>,
) -> Vec<DnsName> {
    if matches.get_flag("plaintext") {
        return Vec::new();
    }
    let Some(given) = matches.get_many::<String>("name") else {
        return mesh::control_name(mesh).map(|name| vec![name]).unwrap_or_else(|mistake| {
            mistakes.push(mistake);
            Vec::new()
        });
    };
    let mut names = Vec::new();
    for text in given {
        match text.parse() {
            Ok(name) => names.push(name),
            Err(error) => mistakes.push(format!("--name: {error}; expected a DNS name")),
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Options, Vec<String>> {
        let all = ["control", "--manifests", "m"].iter().chain(flags);
        let matches = arguments(clap::Command::new("control")).try_get_matches_from(all).unwrap();
        options(&matches)
    }

    #[test]
    fn the_defaults_speak_tls_to_this_host() {
        let options = parse(&[]).unwrap();
        assert_eq!(options.listen.to_string(), "127.0.0.1:8086");
        let name = "weft-control.linkerd.serviceaccount.identity.linkerd.cluster.local";
        assert_eq!(options.names.iter().map(DnsName::as_str).collect::<Vec<_>>(), [name]);
        assert_eq!(options.issuance_lifetime, Duration::from_secs(24 * 3600));
        assert_eq!(options.config, weft_index::Config::default());
    }

    #[test]
    fn mistakes_are_told_all_at_once() {
        let mistakes = parse(&["--cluster-networks", "x", "--name", "a b"]).unwrap_err();
        assert_eq!(mistakes.len(), 2, "{mistakes:?}");
    }

    #[test]
    fn an_external_issuer_is_three_files() {
        assert_eq!(parse(&[]).unwrap().issuer, None);
        let flags = ["--issuer-cert", "c", "--issuer-key", "k", "--trust-anchors", "a"];
        let files = parse(&flags).unwrap().issuer.unwrap();
        assert_eq!((files.certificates, files.key, files.anchors), ("c".into(), "k".into(), "a".into()));
        let two = ["control", "--manifests", "m", "--issuer-cert", "c", "--issuer-key", "k"];
        assert!(arguments(clap::Command::new("control")).try_get_matches_from(two).is_err());
    }

    #[test]
    fn plaintext_is_for_this_host_only() {
        assert!(parse(&["--plaintext"]).unwrap().names.is_empty());
        let mistakes = parse(&["--plaintext", "--listen", "10.0.0.1:8086"]).unwrap_err();
        assert!(mistakes[0].contains("loopback"), "{mistakes:?}");
    }
}
