//! Weft: the release binary, with a control plane that reads manifests, and one proxy or two that joined the
//! mesh with join files. Nothing is left out of the path: discovery, routing, balancing, metrics, reasons.

use super::{Inner, Running, Site, installed};
use crate::case::{Case, Contender};
use crate::failure::Failure;
use crate::load::AUTHORITY;
use crate::process::{Process, free_address};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

/// The workload's own address: peers reach it there, and the inbound proxy listens there. Two pairs may run at a time.
fn workload(contender: Contender) -> IpAddr {
    IpAddr::from([127, 77, 66, if contender == Contender::Plain { 3 } else { 2 }])
}

/// The port of an inbound proxy that control planes tell about workloads outside of clusters.
const INBOUND_PORT: u16 = 4143;

pub(super) async fn start(contender: Contender, case: Case, site: &Site<'_>) -> Result<Running, Failure> {
    let binary = installed(&site.programs.weft, Contender::Weft)?;
    let app = site.target(case);
    let mut manifests = manifests(case, app, workload(contender));
    if contender == Contender::Weft {
        manifests.push_str(&policy(case));
    }
    let (control, address) = control(case, site, &manifests).await?;
    let entry = free_address()?;
    let mut outbound = proxy_command(binary, site, "client", address)?;
    outbound.arg("--upstream").arg(format!("{entry}={AUTHORITY}:80"));
    outbound.arg("--inbound-listen-addr").arg(free_address()?.to_string());
    let others = vec![control];
    let mut proxies = Vec::new();
    let mut inner = None;
    if case.is_pair() {
        let tls = SocketAddr::new(workload(contender), INBOUND_PORT);
        // The workload's address as unmeshed clients would use it, and how the proxy finds the application.
        let bypass = SocketAddr::new(tls.ip(), app.port());
        let mut inbound = proxy_command(binary, site, "web", address)?;
        inbound.arg("--inbound").arg(format!("{bypass}={app}"));
        inbound.arg("--inbound-listen-addr").arg(tls.to_string());
        proxies.push(started("inbound", site, &mut inbound).await?);
        inner = Some(Inner {
            tls,
            server_name: identity("web"),
            alpn: "transport.l5d.io/v1",
            preamble: transport_header(app.port()),
            bypass: Some(bypass),
        });
    }
    proxies.insert(0, started("outbound", site, &mut outbound).await?);
    Ok(Running { contender, entry, proxies, _others: others, inner })
}

fn identity(account: &str) -> String {
    format!("{account}.default.serviceaccount.identity.linkerd.cluster.local")
}

/// What a meshed peer sends first (`TransportHeader` of Linkerd's transport API): the port that it means, and
/// that HTTP/2 follows. Written by hand, because the proxies' own encoder is under test here.
fn transport_header(port: u16) -> Vec<u8> {
    let mut varint = Vec::new();
    let mut rest = port;
    while rest >= 0x80 {
        varint.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    varint.push(rest as u8);
    let message = [&[0x08], &varint[..], &[0x1a, 0x02, 0x12, 0x00]].concat(); // 1: port, 3: protocol {2: HTTP/2}
    let length = (message.len() as u32).to_be_bytes();
    [b"transport.l5d.io/v1\r\n\r\n", &length[..], &message[..]].concat()
}

/// Starts the control plane; where its services are.
async fn control(case: Case, site: &Site<'_>, manifests: &str) -> Result<(Process, SocketAddr), Failure> {
    let binary = installed(&site.programs.weft, Contender::Weft)?;
    let (dir, state) = (site.dir.join("manifests"), site.dir.join("state"));
    for dir in [&dir, &state] {
        std::fs::create_dir_all(dir).map_err(Failure::io(dir.display().to_string()))?;
    }
    site.write("manifests/web.yaml", manifests)?;
    let (listen, admin) = (free_address()?, free_address()?);
    // In a pair, who has no identity of this mesh is turned away, as with the others.
    let policy = if case.is_pair() { "all-authenticated" } else { "all-unauthenticated" };
    let mut command = Command::new(binary);
    command.arg("control").arg("--manifests").arg(&dir).arg("--state-dir").arg(&state);
    command.arg("--listen").arg(listen.to_string()).arg("--admin").arg(admin.to_string());
    command.arg("--default-policy").arg(policy);
    let mut process = site.other("control", &mut command)?;
    process.ready(admin, "/ready").await?;
    Ok((process, listen))
}

/// A proxy of one worker with a join file of its own.
fn proxy_command(
    binary: &Path,
    site: &Site<'_>,
    account: &str,
    control: SocketAddr,
) -> Result<Command, Failure> {
    let join = site.dir.join(format!("{account}.join"));
    let mut token = Command::new(binary);
    token.args([
        "token",
        "--identity",
        &format!("{account}.default"),
        "--control-address",
        &control.to_string(),
    ]);
    token.arg("--state-dir").arg(site.dir.join("state")).arg("--out").arg(&join);
    let output = token.output().map_err(Failure::io("weft token"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Failure::Start { who: "weft token".to_owned(), why });
    }
    let mut command = Command::new(binary);
    command.arg("proxy").arg("--join-file").arg(join).args(["--workload", &format!("default/{account}")]);
    command.args(["--cores-max", "1"]);
    command.arg("--outbound-listen-addr").arg(free_address()?.to_string());
    Ok(command)
}

/// Starts a proxy and waits until it is ready, identity included.
async fn started(name: &str, site: &Site<'_>, command: &mut Command) -> Result<Process, Failure> {
    let admin = free_address()?;
    command.arg("--admin-listen-addr").arg(admin.to_string());
    let mut process = site.proxy(name, command)?;
    process.ready(admin, "/ready").await?;
    Ok(process)
}

/// What a case is about beside the service.
fn policy(case: Case) -> String {
    let mut text = String::new();
    match case {
        Case::Routes => {
            // A mesh's usual mixture, with the one that the load meets at the end: paths that never match, and headers
            // that are looked for on every path.
            let matches = |number: usize| match number % 3 {
                0 => format!("path: {{type: Exact, value: /exact/{number}}}"),
                1 => format!("path: {{type: PathPrefix, value: /prefix/{number}}}"),
                _ => format!("headers: [{{name: x-tenant, value: \"{number}\"}}]"),
            };
            for number in 0..100 {
                let matches =
                    if number == 99 { "path: {type: PathPrefix, value: /}".into() } else { matches(number) };
                let _ = write!(
                    text,
                    "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: route-{number:02}, namespace: default}}
spec:
  parentRefs: [{{group: core, kind: Service, name: web, port: 80}}]
  rules: [{{matches: [{{{matches}}}], backendRefs: [{{name: web, port: 80}}]}}]
"
                );
            }
        }
        Case::Authorizations => {
            text.push_str(
                "---
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: web, namespace: default}
spec: {externalWorkloadSelector: {matchLabels: {app: web}}, port: http, proxyProtocol: unknown}
",
            );
            for number in 0..10_000 {
                let account = if number == 9_999 { "client".into() } else { format!("account-{number:04}") };
                let _ = write!(
                    text,
                    "---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: policy-{number:04}, namespace: default}}
spec:
  targetRef: {{group: policy.linkerd.io, kind: Server, name: web}}
  requiredAuthenticationRefs: [{{kind: ServiceAccount, name: {account}}}]
"
                );
            }
        }
        _ => {}
    }
    text
}

/// One service. In a pair its endpoint is a workload of the mesh, otherwise an address that is not of it.
fn manifests(case: Case, app: SocketAddr, workload: IpAddr) -> String {
    let (ip, port) = (app.ip(), app.port());
    let opaque =
        if case == Case::Tcp { ", annotations: {config.linkerd.io/opaque-ports: \"80\"}" } else { "" };
    if case.is_pair() {
        let identity = identity("web");
        return format!(
            "apiVersion: v1
kind: Service
metadata: {{name: web, namespace: default}}
spec:
  selector: {{app: web}}
  ports: [{{name: http, port: 80, targetPort: {port}}}]
---
apiVersion: workload.linkerd.io/v1beta1
kind: ExternalWorkload
metadata: {{name: web, namespace: default, labels: {{app: web}}}}
spec:
  meshTLS: {{identity: {identity}, serverName: {identity}}}
  workloadIPs: [{{ip: {workload}}}]
  ports: [{{name: http, port: {port}}}]
status: {{conditions: [{{type: Ready, status: \"True\"}}]}}
"
        );
    }
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: web, namespace: default{opaque}}}
spec:
  ports: [{{name: http, port: 80, targetPort: {port}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web, namespace: default, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
endpoints: [{{addresses: [{ip}]}}]
ports: [{{name: http, port: {port}, protocol: TCP}}]
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transport_header_names_port_and_protocol() {
        let check = |port, message: &[u8]| {
            let header = transport_header(port);
            let (_, rest) = header.split_at(23);
            assert_eq!(rest, [&[0, 0, 0, message.len() as u8], message].concat(), "{port}");
        };
        check(80, &[0x08, 80, 0x1a, 2, 0x12, 0]);
        check(4321, &[0x08, 0xe1, 0x21, 0x1a, 2, 0x12, 0]);
        check(65535, &[0x08, 0xff, 0xff, 0x03, 0x1a, 2, 0x12, 0]);
    }
}
