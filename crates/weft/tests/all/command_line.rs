//! What the commands make of their arguments and variables, without starting anything that listens.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a finished command left behind.
struct Ended {
    status: Option<i32>,
    out: String,
    err: String,
}

/// Runs the binary with these arguments and only these variables.
fn weft(arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
    let output = Command::new(env!("CARGO_BIN_EXE_weft"))
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// A directory of this test's own, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weft-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn at(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What every proxy must be told.
const REQUIRED: &[(&str, &str)] = &[
    ("LINKERD2_PROXY_DESTINATION_SVC_ADDR", "localhost.:8086"),
    ("LINKERD2_PROXY_POLICY_SVC_ADDR", "localhost.:8086"),
    ("LINKERD2_PROXY_POLICY_WORKLOAD", "default:web"),
    ("LINKERD2_PROXY_IDENTITY_SVC_ADDR", "localhost.:8086"),
    ("LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS", "-----BEGIN CERTIFICATE-----"),
    ("LINKERD2_PROXY_IDENTITY_LOCAL_NAME", "web.default"),
    ("LINKERD2_PROXY_IDENTITY_DIR", "/nowhere"),
    ("LINKERD2_PROXY_IDENTITY_TOKEN_FILE", "/nowhere/token"),
];

#[track_caller]
fn refused(ended: &Ended, expected: &[&str]) {
    assert_eq!(ended.status, Some(64), "{}", ended.err);
    for text in expected {
        assert!(ended.err.contains(text), "no `{text}` in {}", ended.err);
    }
}

#[test]
fn a_bad_value_stops_the_start_with_64_and_names_setting_source_and_form() {
    let ended = weft(&["proxy", "--inbound-detect-timeout", "10"], REQUIRED);
    refused(&ended, &["INBOUND_DETECT_TIMEOUT: `10` is not accepted (flag)", "such as `10s`"]);
    let variables = [REQUIRED, &[("WEFT_INBOUND_DETECT_TIMEOUT", "soon"), ("WEFT_CORES_MAX", "0")]].concat();
    let ended = weft(&["proxy"], &variables);
    refused(&ended, &["variable WEFT_INBOUND_DETECT_TIMEOUT", "CORES_MAX: `0`"]);
}

#[test]
fn what_is_missing_stops_the_start_with_64() {
    refused(&weft(&["proxy"], &[]), &["DESTINATION_SVC_ADDR: not set", "IDENTITY_TRUST_ANCHORS: not set"]);
}

#[test]
fn an_unknown_name_of_ours_stops_the_start_and_one_of_the_peers_does_not() {
    let ours = [REQUIRED, &[("WEFT_INBOUND_LISTEN_ADR", "127.0.0.1:1")]].concat();
    refused(&weft(&["proxy"], &ours), &["did you mean WEFT_INBOUND_LISTEN_ADDR?"]);
    let peers = [REQUIRED, &[("LINKERD2_PROXY_INBOUND_LISTEN_ADR", "127.0.0.1:1")]].concat();
    let ended = weft(&["proxy", "--print-config"], &peers);
    assert_eq!(ended.status, Some(0), "{}", ended.err);
}

#[test]
fn unknown_flags_and_commands_end_with_64() {
    refused(&weft(&["proxy", "--inbound-detect-timout", "1s"], &[]), &["--inbound-detect-timout"]);
    refused(&weft(&["no-such-command"], &[]), &["no-such-command"]);
    refused(&weft(&["control"], &[]), &["--manifests"]);
}

#[test]
fn the_configuration_is_printed_with_sources_and_without_secrets() {
    let directory = Directory::new("print-config");
    let file = directory.at("weft.yaml");
    fs::write(&file, "inbound-detect-timeout: 5s\nOUTBOUND_DETECT_TIMEOUT: 6s\n").unwrap();
    let variables =
        [REQUIRED, &[("WEFT_DESTINATION_CONTEXT", "hunter2"), ("WEFT_OUTBOUND_DETECT_TIMEOUT", "7s")]]
            .concat();
    let ended = weft(&["proxy", "--print-config", "--config", &file, "--log", "debug"], &variables);
    assert_eq!(ended.status, Some(0), "{}", ended.err);
    let line = |name: &str| {
        let line = ended.out.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("INBOUND_DETECT_TIMEOUT"), "5s configuration file");
    assert_eq!(line("OUTBOUND_DETECT_TIMEOUT"), "7s variable WEFT_OUTBOUND_DETECT_TIMEOUT");
    assert_eq!(line("LOG"), "debug flag");
    assert_eq!(line("INBOUND_CONNECT_TIMEOUT"), "300ms default");
    assert_eq!(line("POLICY_WORKLOAD"), "default:web variable LINKERD2_PROXY_POLICY_WORKLOAD");
    assert!(!ended.out.contains("hunter2"));
}

#[test]
fn a_configuration_file_that_is_no_map_is_named() {
    let directory = Directory::new("bad-config");
    let file = directory.at("weft.yaml");
    fs::write(&file, "- a\n").unwrap();
    refused(&weft(&["proxy", "--config", &file], REQUIRED), &["CONFIG", &file]);
    refused(&weft(&["proxy", "--config", "/no/such/file"], REQUIRED), &["CONFIG: /no/such/file"]);
}

#[test]
fn a_join_file_gives_a_proxy_its_identity_and_its_control_plane() {
    let directory = Directory::new("join");
    let (state, join) = (directory.at("state"), directory.at("web.join"));
    let order = ["token", "--identity", "web.shop", "--once", "--state-dir", &state, "--out", &join];
    let ended = weft(&order, &[]);
    assert_eq!(ended.status, Some(1), "a token of no control plane was written");
    fs::create_dir(&state).unwrap();
    let ended = weft(&order, &[]);
    assert_eq!(ended.status, Some(0), "{}", ended.err);
    let written = fs::read_to_string(&join).unwrap();
    let token = written.split('"').find(|text| text.starts_with("eyJ")).unwrap();
    assert!(!ended.out.contains(token) && !ended.err.contains(token));
    assert_eq!(mode(Path::new(&join)), 0o600);

    let proxy = ["proxy", "--print-config", "--join-file", &join, "--workload", "shop/web-1"];
    let ended = weft(&proxy, &[]);
    assert_eq!(ended.status, Some(0), "{}", ended.err);
    for text in ["web.shop.serviceaccount.identity.linkerd.cluster.local", "127.0.0.1:8086", "join file"] {
        assert!(ended.out.contains(text), "no `{text}` in {}", ended.out);
    }
    assert!(!ended.out.contains(token));
}

#[test]
fn a_token_says_what_its_flags_said() {
    use weft_identity::token::{Presented, TokenKey, Uses};
    let directory = Directory::new("token-flags");
    let (state, join) = (directory.at("state"), directory.at("web.join"));
    fs::create_dir(&state).unwrap();
    let read = |flags: &[&str], identity: &str| {
        let order =
            [&["token", "--identity", "web.shop", "--state-dir", &state, "--out", &join], flags].concat();
        let ended = weft(&order, &[]);
        assert_eq!(ended.status, Some(0), "{}", ended.err);
        let token = weft_identity::join::JoinFile::read(Path::new(&join)).unwrap().token;
        let presented = Presented {
            identity: &identity.parse().unwrap(),
            peer: Some([10, 1, 2, 3].into()),
            now: std::time::SystemTime::now(),
        };
        let claims = TokenKey::open(Path::new(&state)).unwrap().read(token.reveal(), &presented).unwrap();
        let lifetime = claims.expires.duration_since(claims.issued).unwrap().as_secs();
        (claims.uses, lifetime, claims.networks.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let account = "web.shop.serviceaccount.identity.linkerd.cluster.local";
    assert_eq!(read(&[], account), (Uses::Unlimited, 24 * 3600, vec![]));
    let networks = ["10.1.0.0/16", "fd00::/8"];
    let flags = ["--once", "--ttl", "90m", "--cidr", networks[0], "--cidr", networks[1]];
    assert_eq!(read(&flags, account), (Uses::Once, 90 * 60, networks.map(str::to_owned).to_vec()));
}

#[test]
fn no_secret_is_taken_from_the_command_line_or_the_environment() {
    let ended = weft(&["proxy", "--help"], &[]);
    let flags = ended.out.split_whitespace().filter(|word| word.starts_with("--"));
    let secret: Vec<_> =
        flags.filter(|flag| flag.contains("token") && !flag.contains("token-file")).collect();
    assert!(secret.is_empty(), "{secret:?}");
    refused(&weft(&["proxy", "--identity-token", "hunter2"], &[]), &["--identity-token"]);
    let ended = weft(&["proxy"], &[&[("WEFT_IDENTITY_TOKEN", "hunter2")], REQUIRED].concat());
    refused(&ended, &["WEFT_IDENTITY_TOKEN"]);
    assert!(!ended.err.contains("hunter2"), "{}", ended.err);
}

#[test]
fn a_join_file_that_others_can_read_is_refused() {
    let directory = Directory::new("exposed");
    let join = directory.at("web.join");
    fs::write(&join, "{}").unwrap();
    fs::set_permissions(&join, fs::Permissions::from_mode(0o644)).unwrap();
    refused(&weft(&["proxy", "--join-file", &join], &[]), &["JOIN_FILE", "chmod 600"]);
}

#[test]
fn help_and_version_are_no_failures() {
    let ended = weft(&["proxy", "--help"], &[]);
    assert_eq!(ended.status, Some(0));
    assert!(ended.out.contains("--inbound-detect-timeout"));
    assert_eq!(weft(&["version"], &[]).out, format!("weft {}\n", env!("CARGO_PKG_VERSION")));
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}
