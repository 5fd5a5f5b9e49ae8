//! Golden files: what the stock client is told, against texts written by hand from the reference.
//!
//! A case is a directory with `manifests.yaml` and `transcript.txt`; further `*.yaml` are put in its place later.
//! Lines of a transcript: `> get PATH [TOKEN]`, `> profile PATH [TOKEN]`, `> outbound TARGET [WORKLOAD]`,
//! `> inbound WORKLOAD PORT` (and `outbound-once`, `inbound-once`) ask; `> put FILE` changes the manifests, and
//! `> with zone-weights`, first of all, starts the control plane with that option; `> hear N` tells what the stream of the Nth question says then. Each answer begins with `- ` and may take many
//! lines: a message as `text` writes it, `end`, or `error CODE`. Nothing more may have been said in the end.
//! `$name(a, b)` stands for a line of `glossary.txt` with `$1`, `$2` filled in.

use crate::text;
use crate::world::{Channel, PATIENCE, Scratch, golden, origin, plaintext, start};
use futures_util::FutureExt;
use linkerd2_proxy_api::destination::destination_client::DestinationClient;
use linkerd2_proxy_api::inbound::inbound_server_policies_client::InboundServerPoliciesClient;
use linkerd2_proxy_api::outbound::outbound_policies_client::OutboundPoliciesClient;
use linkerd2_proxy_api::{destination, inbound, outbound};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use tokio::time::timeout;
use tonic::{Response, Status, Streaming};
use weft_index::config::ZoneWeights;

/// An open stream of any method.
enum Open {
    Updates(Streaming<destination::Update>),
    Profiles(Streaming<destination::DestinationProfile>),
    Outbound(Streaming<outbound::OutboundPolicy>),
    Inbound(Streaming<inbound::Server>),
    /// Nothing more comes.
    Over,
}

impl Open {
    /// The next answer as text.
    async fn answer(&mut self) -> String {
        let (next, over) = match self {
            Self::Updates(stream) => told(stream.message().await),
            Self::Profiles(stream) => told(stream.message().await),
            Self::Outbound(stream) => told(stream.message().await),
            Self::Inbound(stream) => told(stream.message().await),
            Self::Over => ("nothing: it is over".to_owned(), true),
        };
        if over {
            *self = Self::Over;
        }
        next
    }
}

/// An answer as text, and whether it is the last.
fn told<M: std::fmt::Debug>(answer: Result<Option<M>, Status>) -> (String, bool) {
    match answer {
        Ok(Some(message)) => (text::of(&message), false),
        Ok(None) => ("end".to_owned(), true),
        Err(status) => (format!("error {:?}", status.code()), true),
    }
}

/// A stream, or the error that came instead, as a first answer.
fn opened<M>(
    result: Result<Response<Streaming<M>>, Status>,
    open: impl Fn(Streaming<M>) -> Open,
) -> (Open, Vec<String>) {
    match result {
        Ok(response) => (open(response.into_inner()), vec![]),
        Err(status) => (Open::Over, vec![format!("error {:?}", status.code())]),
    }
}

fn once<M: std::fmt::Debug>(result: Result<Response<M>, Status>) -> (Open, Vec<String>) {
    let answer = result.map(|response| Some(response.into_inner()));
    (Open::Over, vec![told(answer).0])
}

/// Asks one question.
async fn ask(channel: &Channel, words: &[&str]) -> (Open, Vec<String>) {
    let channel = channel.clone();
    let word = |n: usize| words.get(n).copied().unwrap_or_default().to_owned();
    let get = || destination::GetDestination { scheme: String::new(), path: word(1), context_token: word(2) };
    let traffic = || outbound::TrafficSpec {
        source_workload: if words.len() > 2 { word(2) } else { r#"{"ns":"shop","pod":"asker"}"#.into() },
        target: Some(match word(1).parse::<SocketAddr>() {
            Ok(addr) => outbound::traffic_spec::Target::Addr(addr.into()),
            Err(_) => outbound::traffic_spec::Target::Authority(word(1)),
        }),
    };
    let port = || inbound::PortSpec { workload: word(1), port: word(2).parse().unwrap() };
    let destinations = DestinationClient::with_origin(channel.clone(), origin());
    let outbounds = OutboundPoliciesClient::with_origin(channel.clone(), origin());
    let inbounds = InboundServerPoliciesClient::with_origin(channel, origin());
    let (mut destinations, mut outbounds, mut inbounds) = (destinations, outbounds, inbounds);
    match words[0] {
        "get" => opened(destinations.get(get()).await, Open::Updates),
        "profile" => opened(destinations.get_profile(get()).await, Open::Profiles),
        "outbound" => opened(outbounds.watch(traffic()).await, Open::Outbound),
        "outbound-once" => once(outbounds.get(traffic()).await),
        "inbound" => opened(inbounds.watch_port(port()).await, Open::Inbound),
        "inbound-once" => once(inbounds.get_port(port()).await),
        other => panic!("no such question: {other}"),
    }
}

/// A line with `> ` and the answers expected after it.
struct Step {
    line: String,
    answers: Vec<String>,
}

fn steps(transcript: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in transcript.lines().filter(|l| !l.trim_start().starts_with('#')) {
        if let Some(line) = line.strip_prefix("> ") {
            steps.push(Step { line: line.trim().to_owned(), answers: vec![] });
            continue;
        }
        let Some(step) = steps.last_mut() else { continue };
        match (line.strip_prefix("- "), step.answers.last_mut()) {
            (Some(first), _) => step.answers.push(first.to_owned()),
            (None, Some(answer)) => write!(answer, "\n{line}").unwrap(),
            (None, None) => assert!(line.trim().is_empty(), "neither question nor answer: {line}"),
        }
    }
    steps
}

/// The named parts of answers.
fn glossary() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(golden().join("glossary.txt")).unwrap();
    let mut terms: BTreeMap<String, String> = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
        match line.strip_prefix('$').and_then(|line| line.split_once(" = ")) {
            Some((term, body)) => {
                name = term.to_owned();
                terms.insert(name.clone(), body.to_owned());
            }
            None => write!(terms.get_mut(&name).unwrap(), " {}", line.trim()).unwrap(),
        }
    }
    terms
}

/// Replaces terms from the last to the first, so that what stands in their brackets has no terms any more.
fn expand(text: &str, terms: &BTreeMap<String, String>) -> String {
    let mut text = text.to_owned();
    while let Some(start) = text.rfind('$') {
        let rest = &text[start + 1..];
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let mut body = terms.get(&rest[..end]).unwrap_or_else(|| panic!("no term ${}", &rest[..end])).clone();
        let mut consumed = end;
        if let Some(arguments) = rest[end..].strip_prefix('(') {
            let (arguments, _) = arguments.split_once(')').expect("a closing bracket");
            consumed += arguments.len() + 2;
            for (n, argument) in arguments.split(',').enumerate() {
                body = body.replace(&format!("${}", n + 1), argument.trim());
            }
        }
        text.replace_range(start..start + 1 + consumed, &body);
    }
    text
}

/// Plays a transcript and compares every answer.
async fn check(name: &str) {
    let case = golden().join(name);
    let read = |file: &str| std::fs::read_to_string(case.join(file)).unwrap();
    let scratch = Scratch::new();
    scratch.put("all.yaml", &read("manifests.yaml"));
    let (mut options, mut steps) = (scratch.options(), steps(&read("transcript.txt")));
    if steps[0].line == "with zone-weights" {
        options.config.zone_weights = ZoneWeights::LocalTenfold;
        steps.remove(0);
    }
    let control = start(options).await;
    let channel = plaintext(control.listen).await;
    let terms = glossary();
    let mut streams: Vec<Open> = Vec::new();
    let mut wrong = String::new();
    for Step { line, answers } in steps {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (mut heard, stream) = match words[0] {
            "put" => {
                scratch.put("all.yaml", &read(words[1]));
                continue;
            }
            "hear" => (vec![], words[1].parse::<usize>().unwrap() - 1),
            _ => {
                let (stream, first) = ask(&channel, &words).await;
                streams.push(stream);
                (first, streams.len() - 1)
            }
        };
        while heard.len() < answers.len() {
            match timeout(PATIENCE, streams[stream].answer()).await {
                Ok(answer) => heard.push(answer),
                Err(_) => heard.push("nothing for a long time".to_owned()),
            }
        }
        let expected: Vec<String> = answers.iter().map(|a| expand(a, &terms)).collect();
        for n in 0..expected.len().max(heard.len()) {
            let (want, got) = (expected.get(n), heard.get(n));
            if want.map(|t| text::tokens(t)) != got.map(|t| text::tokens(t)) {
                let difference = first_difference(want, got);
                let got = got.map_or("nothing", String::as_str);
                writeln!(wrong, "> {line}\n  answer {}: {difference}\n  heard: {got}", n + 1).unwrap();
            }
        }
    }
    for (n, stream) in streams.iter_mut().enumerate() {
        if let (false, Some(more)) = (matches!(stream, Open::Over), stream.answer().now_or_never()) {
            writeln!(wrong, "question {} is told more: {more}", n + 1).unwrap();
        }
    }
    control.kill();
    assert!(wrong.is_empty(), "{name}:\n{wrong}");
}

fn first_difference(want: Option<&String>, got: Option<&String>) -> String {
    let (want, got) = (want.map(|t| text::tokens(t)), got.map(|t| text::tokens(t)));
    let (want, got) = (want.unwrap_or_default(), got.unwrap_or_default());
    let at = want.iter().zip(&got).take_while(|(a, b)| a == b).count();
    let show = |tokens: &[String]| {
        tokens.iter().skip(at.saturating_sub(2)).take(8).cloned().collect::<Vec<_>>().join(" ")
    };
    format!("expected … {} …, heard … {} …", show(&want), show(&got))
}

/// Each case is a test of its own.
macro_rules! cases {
    ($($name:ident)*) => {
        $(#[tokio::test]
        async fn $name() {
            check(stringify!($name)).await;
        })*

        #[test]
        fn every_golden_directory_is_a_test() {
            let tests = [$(stringify!($name)),*];
            for entry in std::fs::read_dir(golden()).unwrap().flatten().filter(|e| e.path().is_dir()) {
                let name = entry.file_name();
                let name = Path::new(&name).display().to_string();
                assert!(tests.contains(&name.as_str()), "no test plays {name}");
            }
        }
    };
}

cases! {
    a_meshed_workload
    a_service_profile
    an_endpoint_without_the_mesh
    an_undeclared_port
    app_protocols
    connection_routes
    consumer_routes
    default_inbound_policies
    default_outbound_policies
    default_profiles
    egress
    egress_networks
    endpoint_profiles
    endpoints_that_change
    failure_accrual
    gateways_and_mirrors
    grpc_routes
    headless_instances
    http_routes
    inbound_routes
    inherited_inbound_policies
    opaque_endpoints
    opaque_inbound
    refused_destinations
    refused_ports
    servers
    skipped_ports
    timeouts_and_retries
    two_address_families
    whose_profile
    zone_weights
    zones
}
