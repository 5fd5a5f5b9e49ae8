//! A proxy as the gateway into another cluster: what it carries on to a name, for whom, and what it turns back (§4.6).

use crate::errors::{answers, row};
use crate::world::{WEB, elsewhere, proxy_of, proxy_to};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_model::destination::{EndpointInfo, ProtocolHint};
use weft_model::identity::TlsTarget;
use weft_model::meta::Meta;
use weft_model::policy::{DefaultPolicy, InboundPolicy, InboundProtocol, InboundRoutes};
use weft_testkit::application::Application;
use weft_testkit::client::{Raw, get};
use weft_testkit::mesh::{Alpn, Mesh, Running, identity};
use weft_testkit::plane::Said;
use weft_testkit::until;

/// What clients call `web` is this there.
const EAST: &str = "web.east.svc.cluster.local:80";

/// A client's proxy, a gateway, and an application behind its own proxy.
struct Clusters {
    mesh: Mesh,
    app: Application,
    gate: Running,
    client: Running,
    /// The gateway's inbound port, reached from another host: every policy of a control plane admits the own one.
    from_elsewhere: Application,
    _server: Running,
}

async fn clusters(app: Application) -> Clusters {
    let mesh = Mesh::new();
    let server = proxy_of(&mesh, "web", &app, &[]).await;
    mesh.facts.endpoints(EAST, Said::Told(vec![server.meshed("web")]));
    let gate = proxy_to(&mesh, "gate", &[("INBOUND_GATEWAY_SUFFIXES", "east.svc.cluster.local.")]).await;
    let client = proxy_to(&mesh, "client", &[]).await;
    let from_elsewhere = elsewhere(gate.proxy.inbound).await;
    let clusters = Clusters { mesh, app, gate, client, from_elsewhere, _server: server };
    clusters.lead_to(EAST, ProtocolHint::Http2);
    clusters
}

impl Clusters {
    /// The gateway as an endpoint for what is this there.
    fn endpoint(&self, name: &str, hint: ProtocolHint) -> EndpointInfo {
        let id = identity("gate");
        EndpointInfo {
            tls: Some(TlsTarget { id: id.parse().unwrap(), server_name: id.parse().unwrap() }),
            hint,
            authority_override: Some(name.into()),
            ..EndpointInfo::plain(self.from_elsewhere.addr)
        }
    }

    fn lead_to(&self, name: &str, hint: ProtocolHint) {
        self.mesh.facts.endpoints(WEB, Said::Told(vec![self.endpoint(name, hint)]));
    }

    /// What the gateway answers a workload of this name, and whether the connection stays.
    async fn asked_by(&self, name: &str, headers: &str) -> (String, bool) {
        let (inbound, endpoint) = (self.gate.proxy.inbound, self.endpoint(EAST, ProtocolHint::Http2));
        let mut stream = self.mesh.secured(name, inbound, &endpoint, Alpn::TransportHeader).await;
        let request = format!("GET / HTTP/1.1\r\nhost: web\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        let answer = String::from_utf8(answer).unwrap();
        let stays = !answer.contains("connection: close");
        if !stays {
            assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap_or(0), 0, "{answer}");
        }
        (answer, stays)
    }
}

#[tokio::test]
async fn requests_go_on_to_the_name_that_they_were_sent_for() {
    let clusters = clusters(Application::saying("east").await).await;
    let answer = get(clusters.client.upstream(), "/").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "east"), "{answer:?}");
    let seen = clusters.app.seen();
    let header = |name: &str| seen[0].headers()[name].to_str().unwrap();
    let (gate, client) = (identity("gate"), identity("client"));
    let forwarded = format!("by={gate};for={client};host=\"{EAST}\";proto=https");
    assert_eq!((header("forwarded"), header("host")), (forwarded.as_str(), EAST));
    assert_eq!(header("l5d-client-id"), gate, "who came through the gateway is the gateway's");
    let counted = clusters.gate.metric("inbound_http_authz_allow_total", &[]).await;
    assert_eq!(counted, 1.0, "its own port's policy let it through");
}

#[tokio::test]
async fn names_that_a_gateway_does_not_serve_are_answered_by_the_table() {
    let clusters = clusters(Application::saying("east").await).await;
    clusters.lead_to("web.west.svc.cluster.local:80", ProtocolHint::Http2);
    answers(clusters.client.upstream(), row("gateway-domain", 404, "5", false)).await;
    assert!(clusters.app.seen().is_empty());
    assert_eq!(clusters.mesh.facts.asked("profile web.west"), 0, "nobody is asked about them");
}

#[tokio::test]
async fn what_was_here_before_is_a_loop() {
    let clusters = clusters(Application::saying("east").await).await;
    let (answer, _) = clusters.asked_by("peer", "forwarded: by=somebody.else;for=peer\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let again = format!("forwarded: for=peer;By=\"{}\"\r\n", identity("gate"));
    for (name, headers) in [("gate", ""), ("peer", again.as_str())] {
        let (answer, stays) = clusters.asked_by(name, headers).await;
        assert!(answer.starts_with("HTTP/1.1 508"), "{name}: {answer}");
        assert!(answer.contains("weft-reason: loop-detected"), "{name}: {answer}");
        assert!(!stays, "{name}");
    }
    assert_eq!(clusters.app.seen().len(), 1);
}

/// What is said of the gateway's inbound port: bytes, from these.
fn told(from: DefaultPolicy) -> Said<InboundPolicy> {
    Said::Told(InboundPolicy {
        meta: Meta::default_named("told"),
        protocol: InboundProtocol::Opaque,
        authorizations: from.authorizations(&[]),
    })
}

#[tokio::test]
async fn the_policy_of_the_inbound_port_says_who_may_pass_the_gateway() {
    let clusters = clusters(Application::saying("east").await).await;
    let (port, upstream) = (clusters.gate.proxy.inbound.port(), clusters.client.upstream());
    assert_eq!(get(upstream, "/").await.status, 200);
    let answer = async || get(upstream, "/").await;
    clusters.mesh.facts.inbound(port, told(DefaultPolicy::AllAuthenticated));
    // The policy is one of bytes, so that no request has a route.
    until("requests have no route", async || answer().await.status == 404).await;
    assert!(answer().await.header("weft-reason").starts_with("no-route"));
    let protocol =
        InboundProtocol::Detect { timeout: Duration::from_secs(1), http: InboundRoutes::default() };
    let nobody = InboundPolicy { meta: Meta::default_named("told"), protocol, authorizations: Vec::new() };
    clusters.mesh.facts.inbound(port, Said::Told(nobody));
    until("requests are refused", async || answer().await.status == 403).await;
    assert!(answer().await.header("weft-reason").starts_with("unauthorized"));
}

#[tokio::test]
async fn bytes_pass_the_gateway_as_long_as_they_may() {
    let app = Application::tcp(|mut tcp| async move {
        let (mut reader, mut writer) = tcp.split();
        let _ = writer.write_all(b"220 ").await;
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    });
    let clusters = clusters(app.await).await;
    clusters.lead_to(EAST, ProtocolHint::Opaque);
    let (facts, port) = (&clusters.mesh.facts, clusters.gate.proxy.inbound.port());
    facts.inbound(port, told(DefaultPolicy::AllAuthenticated));
    let mut raw = Raw::connect(clusters.client.upstream()).await;
    raw.send(b"\x00\x01\x02").await;
    assert_eq!(raw.bytes(7).await, b"220 \x00\x01\x02");
    facts.inbound(port, told(DefaultPolicy::Deny));
    assert_eq!(raw.rest().await, b"", "who is no longer admitted is cut off");
    let mut raw = Raw::connect(clusters.client.upstream()).await;
    raw.send(b"\x00\x01\x02").await;
    assert_eq!(raw.rest().await, b"");
    assert_eq!(clusters.gate.metric("inbound_tcp_authz_terminate_total", &[]).await, 1.0);
}
