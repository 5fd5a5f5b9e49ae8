//! `weft why`: where a request would go, and why, step by step.
//!
//! Asks manifests (`--manifests`) or a running control plane's admin listener (`--control`); both answer with the same code, which
//! evaluates routes and authorizations with the functions that proxies use. Sends no request of the kind that it explains.

use super::{BAD_USAGE, Environment, fail, manifests, mesh, policy, refuse};
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use http::{HeaderMap, Method, Uri};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use weft_explain::why::{self, Hypothesis, Told};
use weft_model::identity::{Id, MeshNames};
use weft_net::prefixed::Bounds;
use weft_net::web;

pub(crate) const ABOUT: &str = "Tell where a request would go and whether it would be admitted, and why";

/// How long a control plane may take, and how much it may say.
const BOUNDS: Bounds = Bounds { bytes: 4 << 20, time: Duration::from_secs(10) };

pub(crate) fn arguments(command: clap::Command) -> clap::Command {
    let text = |name: &'static str, value: &'static str| Arg::new(name).long(name).value_name(value);
    let command = command
        .arg(
            text("manifests", "DIR")
                .value_parser(value_parser!(PathBuf))
                .action(ArgAction::Append)
                .help("Directory of manifests; repeatable [default: ask the control plane]"),
        )
        .arg(
            text("control", "IP:PORT")
                .value_parser(mesh::parse_socket)
                .default_value("127.0.0.1:9990")
                .help("Admin listener of a running control plane"),
        )
        .arg(
            text("from", "ACCOUNT.NAMESPACE")
                .required(true)
                .help("The caller's service account and namespace"),
        )
        .arg(text("to", "NAME.NAMESPACE[:PORT]").required(true).help("The service, or an IP:PORT"))
        .arg(text("method", "METHOD").default_value("GET").help("The request's method"))
        .arg(text("path", "PATH").default_value("/").help("Its path with its query, or a whole URI"))
        .arg(text("header", "NAME: VALUE").action(ArgAction::Append).help("A header of it; repeatable"))
        .arg(
            text("identity", "ID")
                .conflicts_with("unmeshed")
                .help("What the caller proves [default: the identity of its service account]"),
        )
        .arg(
            Arg::new("unmeshed")
                .long("unmeshed")
                .action(ArgAction::SetTrue)
                .help("The caller has no proxy and proves nothing"),
        )
        .arg(
            text("address", "IP")
                .value_parser(value_parser!(IpAddr))
                .help("The caller's address [default: that of a workload with its identity]"),
        )
        .arg(
            text("output", "FORMAT")
                .value_parser(["text", "json"])
                .default_value("text")
                .help("Shape of the answer"),
        );
    mesh::naming(policy::arguments(command))
}

pub(crate) fn run(matches: &ArgMatches, _: &Environment) -> ExitCode {
    let config = match policy::config(matches) {
        Ok(config) => config,
        Err(mistakes) => return refuse(mistakes),
    };
    let hypothesis = match hypothesis(matches, &config.mesh) {
        Ok(hypothesis) => hypothesis,
        Err(mistake) => return refuse([mistake]),
    };
    let told = match matches.get_many::<PathBuf>("manifests") {
        Some(roots) => match manifests::index(roots, config) {
            Ok(index) => {
                why::why(&index, &hypothesis).map(|told| shape(&told)).map_err(|refusal| refusal.message)
            }
            Err(error) => return fail(error),
        },
        None => match matches.get_one::<SocketAddr>("control") {
            Some(control) => ask(*control, &hypothesis),
            None => return ExitCode::from(BAD_USAGE),
        },
    };
    match told {
        Ok(told) if matches.get_one::<String>("output").is_some_and(|o| o == "json") => println!("{told:#}"),
        Ok(told) => print!("{}", text(&told)),
        Err(error) => return fail(error),
    }
    ExitCode::SUCCESS
}

/// What the arguments describe, or what is wrong with them.
fn hypothesis(matches: &ArgMatches, mesh: &MeshNames) -> Result<Hypothesis, String> {
    let text = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
    let from = text("from");
    let parts: Vec<&str> = from.split('.').filter(|part| !part.is_empty()).collect();
    let [account, namespace] = parts[..] else {
        return Err(format!(
            "--from: `{from}`; expected a service account and its namespace, such as web.shop"
        ));
    };
    let own = || Id::service_account(account, namespace, mesh).map_err(|error| format!("--from: {error}"));
    let identity = match matches.get_one::<String>("identity") {
        _ if matches.get_flag("unmeshed") => None,
        Some(text) => Some(mesh::identity(text, mesh).map_err(|error| format!("--identity: {error}"))?),
        None => Some(own()?),
    };
    let method: Method = text("method").parse().map_err(|_| format!("--method: `{}`", text("method")))?;
    let uri: Uri = text("path").parse().map_err(|_| format!("--path: `{}` is no path", text("path")))?;
    let mut headers = HeaderMap::new();
    for text in matches.get_many::<String>("header").into_iter().flatten() {
        let (name, value) =
            why::header(text).ok_or_else(|| format!("--header: `{text}`; expected `name: value`"))?;
        headers.append(name, value);
    }
    let address = matches.get_one::<IpAddr>("address").copied();
    Ok(Hypothesis {
        namespace: namespace.to_owned(),
        identity,
        address,
        to: text("to"),
        method,
        uri,
        headers,
    })
}

/// Asks a running control plane.
fn ask(control: SocketAddr, hypothesis: &Hypothesis) -> Result<Value, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    let path = format!("/v1/why?{}", hypothesis.to_query());
    let fetched = runtime.block_on(web::fetch(control, &path, BOUNDS)).map_err(|error| {
        format!("the control plane at {control} does not answer: {error}; name another with --control, or --manifests")
    })?;
    let told: Value = serde_json::from_slice(&fetched.body)
        .map_err(|_| format!("{control} answers {}, and not as a control plane would", fetched.status))?;
    match told.get("error").and_then(Value::as_str) {
        Some(error) => Err(error.to_owned()),
        None => Ok(told),
    }
}

/// A decision as the control plane writes it.
fn shape(told: &Told) -> Value {
    serde_json::json!({ "items": told.steps, "outcome": told.outcome, "reason": told.reason })
}

fn text(told: &Value) -> String {
    let word =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let steps = told.get("items").and_then(Value::as_array).into_iter().flatten();
    let mut text: String =
        steps.map(|step| format!("{:<14} {}\n", word(step, "about"), word(step, "text"))).collect();
    text.push_str(&format!("\n→ {}\n", word(told, "outcome")));
    if let Some(code) = told.get("reason").and_then(Value::as_str) {
        text.push_str(&format!("  what to do about it: weft explain {code}\n"));
    }
    text
}
