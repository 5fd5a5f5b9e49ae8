//! Connections that the kernel redirects to the proxy, in network namespaces of their own: what a workload's
//! traffic looks like where it is captured. Needs root, `ip`, `nft` and `setpriv`; says so where they are missing.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");

/// Longest wait for a process to come up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who the application runs as; its connections are redirected, the proxy's own are not.
const APPLICATION: &str = "61234";

/// What arrives for the workload, and what its application dials, goes to the proxy.
const RULES: &str = "
table inet weft {
  chain arriving {
    type nat hook prerouting priority dstnat;
    tcp dport { 8080, 8081 } redirect to :4143
  }
  chain leaving {
    type nat hook output priority -100;
    meta skuid 61234 tcp dport { 9000, 9001 } redirect to :4140
  }
}
";

/// Two hosts with a wire between them; the first is the workload's. All is gone at the end of the test.
struct Net {
    hosts: [String; 2],
    children: Vec<Child>,
    directory: PathBuf,
}

impl Drop for Net {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for host in &self.hosts {
            let _ = Command::new("ip").args(["netns", "del", host]).output();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Why the test cannot run here.
fn missing() -> Option<String> {
    let root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
    if !root {
        return Some("only root may make network namespaces".into());
    }
    let absent = ["ip", "nft", "setpriv", "bash"]
        .into_iter()
        .find(|tool| Command::new(tool).arg("-V").output().is_err());
    absent.map(|tool| format!("there is no `{tool}` here"))
}

#[track_caller]
fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Net {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let id = format!("{}{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let hosts = ["workload", "other"].map(|host| format!("weft-{host}-{id}"));
        let directory = std::env::temp_dir().join(format!("weft-redirected-{id}"));
        fs::create_dir_all(directory.join("manifests")).unwrap();
        let net = Self { hosts, children: Vec::new(), directory };
        let wires = [format!("wefta{id}"), format!("weftb{id}")];
        for host in &net.hosts {
            ip(&format!("netns add {host}"));
            ip(&format!("-n {host} link set lo up"));
        }
        ip(&format!("link add {} type veth peer name {}", wires[0], wires[1]));
        for (number, (host, wire)) in net.hosts.iter().zip(&wires).enumerate() {
            ip(&format!("link set {wire} netns {host}"));
            ip(&format!("-n {host} address add 10.77.0.{}/24 dev {wire}", number + 1));
            ip(&format!("-n {host} address add fd77::{}/64 dev {wire} nodad", number + 1));
            ip(&format!("-n {host} link set {wire} up"));
        }
        net
    }

    fn command(&self, host: usize, program: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.hosts[host]]).args(program);
        command
    }

    /// Starts one of our own commands on a host.
    fn start(&mut self, host: usize, arguments: &[&str]) {
        let mut command = self.command(host, &[WEFT]);
        let child = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        self.children.push(child);
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).to_str().unwrap().to_owned()
    }

    /// Redirects what the rules say on the workload's host.
    fn redirect(&self) {
        let mut nft = self.command(0, &["nft", "-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        nft.stdin.take().unwrap().write_all(RULES.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success());
    }

    /// A control plane and a proxy on the workload's host.
    fn mesh(&mut self) {
        let (manifests, state, join) = (self.path("manifests"), self.path("state"), self.path("join"));
        let control = ["control", "--manifests", &manifests, "--state-dir", &state];
        let addresses = ["--listen", "127.0.0.1:8086", "--admin", "127.0.0.1:9990"];
        let mut command = self.command(0, &[WEFT]);
        let mut child = command.args(control).args(addresses).stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        self.children.push(child);
        let serves = said.lines().map_while(Result::ok).any(|line| line.contains("the control plane serves"));
        assert!(serves, "the control plane ended");
        let token = ["token", "--state-dir", &state, "--identity", "web.default", "--out", &join];
        let mut token = self.command(0, &[&[WEFT], &token[..]].concat());
        let told = token.args(["--control-address", "127.0.0.1:8086"]).output().unwrap();
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        let proxy = ["proxy", "--join-file", &join, "--policy-workload", "default:web"];
        let listeners = [
            ["--outbound-listen-addrs", "127.0.0.1:4140,[::1]:4140"],
            ["--inbound-listen-addr", "[::]:4143"],
            ["--admin-listen-addr", "127.0.0.1:4191"],
        ];
        self.start(0, &[&proxy[..], &listeners.concat()].concat());
        let began = Instant::now();
        while !self.page("/ready").contains("200 OK") {
            assert!(began.elapsed() < PATIENCE, "the proxy is not ready");
        }
    }

    /// Sends bytes to an address from a host, as a user, and reads to the end of the connection.
    fn exchange(&self, host: usize, user: &str, to: &str, sent: &str) -> Output {
        let script = "exec 3<>/dev/tcp/$0/$1; printf \"$2\" >&3; exec timeout 20 head -c 1000000 <&3";
        let (address, port) = to.rsplit_once(' ').unwrap();
        let user = ["setpriv", "--clear-groups", "--reuid", user];
        let shell = ["bash", "-c", script, address, port, sent];
        self.command(host, &[&user[..], &shell].concat()).output().unwrap()
    }

    fn page(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n");
        String::from_utf8_lossy(&self.exchange(0, "0", "127.0.0.1 4191", &request).stdout).into_owned()
    }

    /// Waits until something listens at an address of a host.
    fn listens(&self, host: usize, address: &str, port: usize) {
        let (began, port) = (Instant::now(), port.to_string());
        let connect = ["bash", "-c", "exec 3<>/dev/tcp/$0/$1", address, &port];
        while !self.command(host, &connect).output().unwrap().status.success() {
            assert!(began.elapsed() < PATIENCE, "nothing listens at {address} {port}");
        }
    }
}

#[test]
fn redirected_connections_of_both_families_lead_where_they_were_meant_to() {
    if let Some(why) = missing() {
        return println!("skipped: {why}");
    }
    let mut net = Net::new();
    let hosts = [["10.77.0.1", "fd77::1"], ["10.77.0.2", "fd77::2"]];
    // A web server and a store on each host and for each family.
    for (host, addresses) in hosts.iter().enumerate() {
        for address in addresses {
            for (port, speaks) in [(8080, "http"), (8081, "lines")] {
                let port = port + host * 920;
                let listen = match address.contains(':') {
                    true => format!("--listen=[{address}]:{port}"),
                    false => format!("--listen={address}:{port}"),
                };
                net.start(host, &["demo-app", &format!("--speaks={speaks}"), &listen]);
                net.listens(host, address, port);
            }
        }
    }
    net.mesh();
    net.redirect();

    let request =
        "POST /meant HTTP/1.1\\r\\nhost: web\\r\\nconnection: close\\r\\ncontent-length: 3\\r\\n\\r\\nabc";
    for ([here, there], (from, user)) in [(hosts[0], (1, "0")), (hosts[1], (0, APPLICATION))] {
        for address in [here, there] {
            let port = if from == 1 { 8080 } else { 9000 };
            let answer = net.exchange(from, user, &format!("{address} {port}"), request);
            let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
            assert!(answer.starts_with("HTTP/1.1 200"), "{address}: {answer:?}");
            assert!(answer.contains("\"/meant\"") && answer.contains("\"read\":3"), "{address}: {answer:?}");
        }
        // Bytes that are no HTTP. The store's answer comes when it has heard a line.
        for address in [here, there] {
            let port = if from == 1 { 8081 } else { 9001 };
            let to = format!("{address} {port}");
            let script = "exec 3<>/dev/tcp/$0/$1; echo hello >&3; head -n 2 <&3";
            let mut store =
                net.command(from, &["setpriv", "--clear-groups", "--reuid", user, "timeout", "20"]);
            let (address, port) = to.split_once(' ').unwrap();
            let said = store.args(["bash", "-c", script, address, port]).output().unwrap().stdout;
            assert_eq!(String::from_utf8_lossy(&said), "store ready\ngot hello\n", "{to}");
        }
    }

    // All of that went through the proxy, by the address that was dialled.
    let metrics = net.page("/metrics");
    let counted = |family: &str, labels: &[&str]| {
        let line = metrics.lines().find(|line| {
            line.starts_with(&format!("{family}{{")) && labels.iter().all(|label| line.contains(label))
        });
        assert!(line.is_some_and(|line| line.ends_with(" 1")), "{family} {labels:?}: {line:?}\n{metrics}");
    };
    for target in ["10.77.0.1:8080", "[fd77::1]:8080"] {
        counted("request_total", &["direction=\"inbound\"", &format!("target_addr=\"{target}\"")]);
    }
    for target in ["10.77.0.2:9000", "[fd77::2]:9000"] {
        counted("request_total", &["direction=\"outbound\"", &format!("target_addr=\"{target}\"")]);
    }
    for target in ["10.77.0.1:8081", "[fd77::1]:8081"] {
        counted("inbound_tcp_authz_allow_total", &[&format!("target_addr=\"{target}\"")]);
    }

    // Whoever dials the proxy itself comes neither through nor round in circles.
    let direct = net.exchange(1, "0", "10.77.0.1 4143", request);
    assert!(direct.stdout.is_empty(), "{direct:?}");
    let own = net.exchange(0, "0", "127.0.0.1 4140", request);
    assert!(own.stdout.is_empty(), "{own:?}");
}

#[test]
fn what_leaves_the_mesh_is_denied_or_allowed_by_its_egress_network() {
    if let Some(why) = missing() {
        return println!("skipped: {why}");
    }
    let mut net = Net::new();
    // Somewhere outside of what clusters use.
    for (number, host) in net.hosts.iter().enumerate() {
        let wires = Command::new("ip").args(["-n", host, "-o", "link"]).output().unwrap().stdout;
        let wires = String::from_utf8_lossy(&wires).into_owned();
        let wire = wires.split([' ', '@']).find(|word| word.starts_with("weft")).unwrap().to_owned();
        ip(&format!("-n {host} address add 203.0.113.{}/24 dev {wire}", number + 1));
    }
    for (port, speaks) in [(9000, "http"), (9001, "lines")] {
        net.start(1, &["demo-app", &format!("--speaks={speaks}"), &format!("--listen=203.0.113.2:{port}")]);
        net.listens(1, "203.0.113.2", port);
    }
    let put = |net: &Net, name: &str, text: &str| {
        let (partial, path) = (net.path("manifests/.partial"), net.path(&format!("manifests/{name}")));
        fs::write(&partial, text).unwrap();
        fs::rename(partial, path).unwrap();
    };
    let network = |policy: &str| {
        format!(
            "apiVersion: policy.linkerd.io/v1alpha1\nkind: EgressNetwork\n\
             metadata: {{name: out, namespace: default}}\nspec: {{trafficPolicy: {policy}}}\n"
        )
    };
    put(&net, "network.yaml", &network("Deny"));
    net.mesh();
    net.redirect();

    let ask = |net: &Net, path: &str| {
        let request =
            format!("GET {path} HTTP/1.1\\r\\nhost: out.example\\r\\nconnection: close\\r\\n\\r\\n");
        let answer = net.exchange(0, APPLICATION, "203.0.113.2 9000", &request).stdout;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let until = |net: &Net, path: &str, wanted: &str| {
        let began = Instant::now();
        loop {
            let answer = ask(net, path);
            if answer.contains(wanted) {
                return answer;
            }
            assert!(began.elapsed() < PATIENCE, "{path} is not answered with {wanted}: {answer}");
        }
    };
    let denied = until(&net, "/", "HTTP/1.1 403");
    assert!(denied.contains("weft-reason: forbidden; hop=outbound"), "{denied}");
    // Bytes are refused without a word.
    let bytes = net.exchange(0, APPLICATION, "203.0.113.2 9001", "hello, world and all who are in it\\n");
    assert!(bytes.stdout.is_empty(), "{bytes:?}");
    assert!(net.page("/metrics").contains("code=\"forbidden\""));
    // A route opens what it names, and no more.
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
        metadata: {name: open, namespace: default}\nspec:\n  \
        parentRefs: [{group: policy.linkerd.io, kind: EgressNetwork, name: out, port: 9000}]\n  \
        rules:\n  - matches: [{path: {type: PathPrefix, value: /open}}]\n    \
        backendRefs: [{group: policy.linkerd.io, kind: EgressNetwork, name: out, port: 9000}]\n";
    put(&net, "route.yaml", route);
    until(&net, "/open/door", "HTTP/1.1 200");
    until(&net, "/", "HTTP/1.1 403");
    put(&net, "network.yaml", &network("Allow"));
    until(&net, "/", "HTTP/1.1 200");
}
