//! Rule 2: who may name which library, and what pure files may not do.
//!
//! Naming is what ties a file to a library; a crate that merely passes a value on does not need the name.
//! Tests at a file's foot are free to use what they like, unless it is protobuf.

use super::source::{Source, Word};
use super::tree::Tree;
use crate::finding::Finding;

/// Libraries, and the paths (by their beginning) that may name them.
struct Walled {
    libraries: &'static [&'static str],
    allowed: &'static [&'static str],
    reason: &'static str,
}

/// Fakes and stories play both sides of every wire; the control plane's tests read it with the stock client.
const BESIDE: &[&str] = &[
    "crates/serve/tests/",
    "crates/control/tests/",
    "crates/control/examples/",
    "crates/testkit/",
    "crates/scenarios/",
    "bench/",
    "fuzz/",
];

const WALLED: &[Walled] = &[
    Walled {
        libraries: &["linkerd2_proxy_api", "prost", "prost_types", "tonic_prost"],
        allowed: &["crates/wire/"],
        reason: "protobuf stays inside `wire`; use its services, which speak model types",
    },
    Walled {
        libraries: &["tonic"],
        allowed: &["crates/wire/", "crates/serve/", "crates/discover/"],
        reason: "gRPC is known to `wire` and to the two crates that carry its services",
    },
    Walled {
        libraries: &["hickory_resolver", "hickory_proto"],
        allowed: &["crates/names/"],
        reason: "only `names` knows the resolver",
    },
    Walled {
        libraries: &[
            "rustls",
            "webpki",
            "rcgen",
            "x509_parser",
            "jsonwebtoken",
            "aws_lc_rs",
            "rustls_pki_types",
        ],
        allowed: &["crates/identity/"],
        reason: "certificates, keys and tokens stay inside `identity`",
    },
    Walled {
        libraries: &["tokio_rustls"],
        // The stream enum holds a TLS stream; it does not configure one.
        allowed: &["crates/identity/", "crates/net/src/stream.rs"],
        reason: "TLS is configured in `identity` and carried by `net::stream`",
    },
    Walled {
        libraries: &["hyper", "hyper_util", "h2"],
        allowed: &[
            "crates/connect/",
            "crates/discover/src/channel",
            "crates/net/src/body.rs",
            "crates/net/src/web",
            "crates/proxy/src/serve",
            // An upgraded connection is hyper's until both sides have switched; then it is bytes.
            "crates/proxy/src/tunnel.rs",
        ],
        reason: "only the files that own an HTTP connection know the engine; the others use `net::body` and `net::web`",
    },
    Walled {
        libraries: &["notify"],
        allowed: &["crates/resources/"],
        reason: "only `resources` knows a source of manifests",
    },
    Walled {
        libraries: &["serde_saphyr"],
        // The proxy's own configuration file is YAML too.
        allowed: &["crates/resources/", "crates/settings/src/file.rs"],
        reason: "YAML is read where manifests and the configuration file are read",
    },
    Walled { libraries: &["socket2"], allowed: &["crates/net/"], reason: "sockets are opened in `net`" },
    Walled {
        libraries: &["tracing_subscriber"],
        allowed: &["crates/telemetry/"],
        reason: "the log is set up in `telemetry`",
    },
    Walled {
        libraries: &["clap", "mimalloc"],
        allowed: &["crates/weft/", "xtask/"],
        reason: "the command line belongs to the binary",
    },
];

/// Pure: no async, clock, randomness, socket or file. A name without `.rs` stands for a folder or for
/// `name.rs` with its folder.
const PURE: &[&str] = &[
    "crates/model/src/",
    "crates/decide/src/",
    "crates/index/src/",
    "crates/explain/src/",
    "crates/proxy/src/detect",
    "crates/route/src/limit",
    "crates/route/src/requested",
    "crates/route/src/retry",
    "crates/balance/src/pick",
    "crates/balance/src/load",
    "crates/balance/src/health",
    "crates/balance/src/locality",
    "crates/identity/src/certificate",
    "crates/net/src/head",
    "crates/capture/src/ruleset",
    "crates/resources/src/parse",
    "crates/wire/src/decode",
    "crates/wire/src/encode",
];

/// What a pure file may not name.
const IMPURE: &[&str] = &[
    "tokio",
    "hyper",
    "hyper_util",
    "tonic",
    "tower",
    "futures_util",
    "fastrand",
    "rand",
    "tracing",
    "async",
    "await",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
];

/// Calls that a pure file may not make: type and function.
const IMPURE_CALLS: &[(&str, &str)] = &[
    ("Instant", "now"),
    ("SystemTime", "now"),
    ("std", "fs"),
    ("std", "env"),
    ("std", "thread"),
    ("std", "process"),
];

/// Who may read the environment: the binary, and what is not part of the product.
const ENVIRONMENT: &[&str] = &["crates/weft/src/main.rs", "crates/weft/build.rs", "xtask/", "bench/"];

pub(super) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    for file in &tree.files {
        let pure = PURE.iter().any(|path| is_below(&file.path, path));
        let beside = BESIDE.iter().any(|path| file.path.starts_with(path));
        for word in file.words() {
            if pure && !file.is_test(word.at) {
                impure(file, word, findings);
            }
            if !beside {
                walled(file, word, findings);
                environment(file, word, findings);
            }
        }
    }
}

/// `crates/x/src/head` covers `head.rs` and `head/…`, not `header.rs`.
fn is_below(path: &str, prefix: &str) -> bool {
    let Some(rest) = path.strip_prefix(prefix) else { return false };
    prefix.ends_with('/') || rest == ".rs" || rest.starts_with('/')
}

fn walled(file: &Source, word: Word<'_>, findings: &mut Vec<Finding>) {
    for Walled { libraries, allowed, reason } in WALLED {
        if !libraries.contains(&word.text) || !names_library(file, word) {
            continue;
        }
        let at_home = allowed.iter().any(|path| file.path.starts_with(path));
        // A test may speak protobuf only from outside `wire`, in the scenarios.
        let free_test = file.is_test(word.at) && libraries[0] != "linkerd2_proxy_api";
        if !at_home && !free_test {
            push(file, word, format!("`{}` is not named here: {reason}", word.text), findings);
        }
    }
}

/// Whether a word is the library and not something of ours with the same name.
fn names_library(file: &Source, word: Word<'_>) -> bool {
    let before = file.before(word);
    if before.ends_with(['.', '$', '\'']) || before.ends_with("::") && !before.ends_with(" ::") {
        return false;
    }
    let imported = before.ends_with("use") || before.ends_with("extern crate");
    file.after(word).starts_with("::") || imported
}

fn impure(file: &Source, word: Word<'_>, findings: &mut Vec<Finding>) {
    let call = IMPURE_CALLS.iter().any(|(holder, name)| {
        word.text == *name
            && file.before(word).strip_suffix("::").is_some_and(|before| ends_with_word(before, holder))
    });
    let library = IMPURE.contains(&word.text) && !is_field(file, word);
    if call || library {
        let message =
            format!("a pure file may not use `{}`: time, draws and data come in as arguments", word.text);
        push(file, word, message, findings);
    }
}

/// A field, method or path segment that only shares its name, other than `.await`.
fn is_field(file: &Source, word: Word<'_>) -> bool {
    word.text != "await"
        && (file.before(word).ends_with('.')
            || file.after(word).starts_with(':') && !file.after(word).starts_with("::"))
}

fn ends_with_word(text: &str, word: &str) -> bool {
    text.strip_suffix(word).is_some_and(|before| !before.ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

fn environment(file: &Source, word: Word<'_>, findings: &mut Vec<Finding>) {
    let reads = ["var", "var_os", "vars", "vars_os", "set_var", "remove_var"].contains(&word.text)
        && file.before(word).strip_suffix("::").is_some_and(|before| ends_with_word(before, "env"));
    if reads && !ENVIRONMENT.iter().any(|path| file.path.starts_with(path)) && !file.is_test(word.at) {
        let message = "only weft/main.rs reads the environment; take the value as an argument".to_owned();
        push(file, word, message, findings);
    }
}

fn push(file: &Source, word: Word<'_>, message: String, findings: &mut Vec<Finding>) {
    findings.push(Finding { path: file.path.clone(), line: file.line(word.at), rule: "libraries", message });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_file(path: &str, text: &str, expected: &[usize]) {
        let file = Source::new(path, text.to_owned());
        let tree = Tree { files: vec![file], manifests: Default::default() };
        let mut findings = Vec::new();
        check(&tree, &mut findings);
        let lines: Vec<_> = findings.iter().map(|finding| finding.line).collect();
        assert_eq!(lines, expected, "{findings:?}");
    }

    #[test]
    fn walled_libraries_are_found_outside_their_walls() {
        check_file("crates/net/src/web.rs", "use hyper::Request;\n", &[]);
        check_file(
            "crates/route/src/table.rs",
            "use hyper::Request;\nlet x = h2::Reason::CANCEL;\n",
            &[1, 2],
        );
        check_file(
            "crates/route/src/table.rs",
            "use crate::hyper::X; // hyper::\nlet h2 = self.h2; f(\"hyper::\");\n",
            &[],
        );
        check_file(
            "crates/proxy/src/reply.rs",
            "#[cfg(test)]\nmod tests { use hyper::A; use prost::B; }\n",
            &[2],
        );
        check_file("crates/scenarios/tests/all/main.rs", "use linkerd2_proxy_api::destination;\n", &[]);
    }

    #[test]
    fn pure_files_have_no_clock_runtime_or_randomness() {
        check_file(
            "crates/balance/src/pick.rs",
            "fn f(now: Instant) { x.rand }\nlet a = Instant::now();\n",
            &[2],
        );
        check_file(
            "crates/model/src/a/b.rs",
            "use std::fs;\nasync fn f() {}\nuse tokio::sync;\n",
            &[1, 2, 3],
        );
        check_file("crates/net/src/header.rs", "let a = Instant::now();\n", &[]);
        check_file(
            "crates/net/src/head.rs",
            "fn f() {}\n#[cfg(test)]\nmod tests { fn g() { Instant::now(); } }\n",
            &[],
        );
    }

    #[test]
    fn only_the_binary_reads_the_environment() {
        check_file("crates/weft/src/main.rs", "std::env::vars()", &[]);
        check_file("crates/settings/src/build.rs", "std::env::var(\"X\")", &[1]);
        check_file("crates/settings/src/build.rs", "env!(\"CARGO_PKG_VERSION\"); settings.var(1)", &[]);
    }
}
