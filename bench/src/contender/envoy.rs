//! Envoy: one hop of each kind, and a pair of two processes.
//!
//! Its own additions to requests (ids, time headers, the route's default timeout) are turned off, because
//! nobody else does them; its statistics stay on.

use super::{Inner, Running, Site, installed, single};
use crate::case::{Case, Contender};
use crate::certificates::{Certificates, INBOUND, OUTBOUND};
use crate::failure::Failure;
use crate::process::free_address;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

pub(super) async fn start(case: Case, site: &Site<'_>) -> Result<Running, Failure> {
    let (entry, app) = (free_address()?, site.target(case));
    let codec = if case.is_http2() { "HTTP2" } else { "HTTP1" };
    let filter = if case == Case::Tcp { opaque() } else { http(codec) };
    let version = if case.is_http2() { Some("http2_protocol_options") } else { None };
    let upstream = if case == Case::Tcp { String::new() } else { speaks(version) };
    if !case.is_pair() {
        let text = config(&Sides { listen: entry, filter, down: "", server: app, options: upstream, up: "" });
        let path = site.write("envoy.yaml", &text)?;
        return single(site, Contender::Envoy, entry, &mut command(site, &path)?).await;
    }
    let certificates = Certificates::create(&site.dir)?;
    let between = free_address()?;
    let (down, up) = (server_side(&certificates), client_side(&certificates));
    let inbound =
        Sides { listen: between, filter: http("HTTP2"), down: &down, server: app, options: upstream, up: "" };
    let outbound = Sides {
        listen: entry,
        filter,
        down: "",
        server: between,
        options: speaks(Some("http2_protocol_options")),
        up: &up,
    };
    let inner = site.write("inbound.yaml", &config(&inbound))?;
    let outer = site.write("outbound.yaml", &config(&outbound))?;
    let mut inbound = site.proxy("inbound", &mut command(site, &inner)?)?;
    inbound.listening(between).await?;
    let mut outbound = site.proxy("outbound", &mut command(site, &outer)?)?;
    outbound.listening(entry).await?;
    Ok(Running {
        contender: Contender::Envoy,
        entry,
        proxies: vec![outbound, inbound],
        _others: Vec::new(),
        inner: Some(Inner::ordinary(between, INBOUND)),
    })
}

fn command(site: &Site<'_>, config: &Path) -> Result<Command, Failure> {
    let mut command = Command::new(installed(&site.programs.envoy, Contender::Envoy)?);
    command.arg("-c").arg(config).args([
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "error",
    ]);
    Ok(command)
}

/// What the two sides of one Envoy are.
struct Sides<'a> {
    listen: SocketAddr,
    filter: String,
    /// The listener's TLS.
    down: &'a str,
    server: SocketAddr,
    options: String,
    /// The cluster's TLS.
    up: &'a str,
}

fn config(sides: &Sides<'_>) -> String {
    let Sides { listen, filter, down, server, options, up } = sides;
    let (ip, port) = (listen.ip(), listen.port());
    let (to_ip, to_port) = (server.ip(), server.port());
    format!(
        "static_resources:
  listeners:
  - name: entry
    address: {{socket_address: {{address: {ip}, port_value: {port}}}}}
    filter_chains:
    - filters:
{filter}{down}
  clusters:
  - name: app
    type: STATIC
    connect_timeout: 5s
{options}{up}    load_assignment:
      cluster_name: app
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: {to_ip}, port_value: {to_port}}}}}}}
"
    )
}

fn opaque() -> String {
    "      - name: envoy.filters.network.tcp_proxy
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: entry
          cluster: app
"
    .to_owned()
}

fn http(codec: &str) -> String {
    format!(
        "      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: entry
          codec_type: {codec}
          generate_request_id: false
          route_config:
            virtual_hosts:
            - name: all
              domains: ['*']
              routes: [{{match: {{prefix: /}}, route: {{cluster: app, timeout: 0s}}}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
              suppress_envoy_headers: true
"
    )
}

/// The version that a cluster speaks: HTTP/1 unless told otherwise.
fn speaks(options: Option<&str>) -> String {
    let options = options.unwrap_or("http_protocol_options");
    format!(
        "    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{{options}: {{}}}}
"
    )
}

fn tls(certificates: &Certificates, own: &str, peer: &str) -> String {
    let (anchor, certificate, key) =
        (certificates.anchor(), certificates.certificate(own), certificates.key(own));
    format!(
        "common_tls_context: {{alpn_protocols: [h2],
          tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}},
          tls_certificates: [{{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}],
          validation_context: {{trusted_ca: {{filename: {}}},
            match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: {peer}}}}}]}}}}",
        certificate.display(),
        key.display(),
        anchor.display()
    )
}

fn server_side(certificates: &Certificates) -> String {
    format!(
        "      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config: {{'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext,
          require_client_certificate: true, {}}}
",
        tls(certificates, INBOUND, OUTBOUND)
    )
}

fn client_side(certificates: &Certificates) -> String {
    format!(
        "    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config: {{'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext,
          sni: {INBOUND}, {}}}
",
        tls(certificates, OUTBOUND, INBOUND)
    )
}
