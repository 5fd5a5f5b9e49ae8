//! How workloads come by certificates, and who is refused with which code (§1I.1, §9 row 27).

use crate::world::*;
use linkerd2_proxy_api::destination::GetDestination;
use linkerd2_proxy_api::destination::destination_client::DestinationClient;
use linkerd2_proxy_api::identity::identity_client::IdentityClient;
use linkerd2_proxy_api::identity::{CertifyRequest, CertifyResponse};
use linkerd2_proxy_api::inbound::PortSpec;
use linkerd2_proxy_api::inbound::inbound_server_policies_client::InboundServerPoliciesClient;
use linkerd2_proxy_api::outbound::TrafficSpec;
use linkerd2_proxy_api::outbound::outbound_policies_client::OutboundPoliciesClient;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tonic::{Code, Status};
use weft_control::{Control, Options};
use weft_identity::authority::IssuerFiles;
use weft_identity::renew::{
    self, Certified, Certify, CertifyError, CertifyResponse as Signed, Credential, Renewal,
};
use weft_identity::token::{Grant, TokenKey, Uses};

const WEB: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";
const HOUR: Duration = Duration::from_secs(3600);

/// Keeps the signing request that a renewal makes.
#[derive(Default)]
struct Catch(Mutex<Vec<u8>>);

impl Certify for Catch {
    fn certify(&self, request: renew::CertifyRequest) -> Certified<'_> {
        *self.0.lock().unwrap() = request.csr;
        Box::pin(async { Err::<Signed, _>(CertifyError::Unreachable("caught".into())) })
    }
}

/// A valid signing request of an identity.
async fn csr(scratch: &Scratch, id: &str) -> Vec<u8> {
    let store = stranger(&scratch.authority(), id);
    let catch = Arc::new(Catch::default());
    let (renewal, mut state) =
        Renewal::new(store, catch.clone(), Credential::OwnAuthority, renew::Limits::default());
    let running = tokio::spawn(renewal.run());
    state.wait_for(|s| s.failed > 0).await.unwrap();
    running.abort();
    catch.0.lock().unwrap().clone()
}

/// Certifies as somebody without a certificate.
async fn join(
    scratch: &Scratch,
    control: &Control,
    request: CertifyRequest,
) -> Result<CertifyResponse, Status> {
    let channel = tls(control.listen, &stranger(&scratch.authority(), "nobody.mesh")).await;
    let mut client = IdentityClient::with_origin(channel, origin());
    client.certify(request).await.map(|response| response.into_inner())
}

fn request(identity: &str, token: &[u8], csr: &[u8]) -> CertifyRequest {
    let (token, certificate_signing_request) = (token.to_vec(), csr.to_vec());
    CertifyRequest { identity: identity.into(), token, certificate_signing_request }
}

#[tokio::test]
async fn requests_are_refused_with_the_code_that_says_whether_to_come_again() {
    let scratch = Scratch::new();
    let control = start(scratch.tls_options()).await;
    let good = csr(&scratch, WEB).await;
    let token = scratch.token(WEB, HOUR, Uses::Unlimited);
    let (token, mut unsigned, mut forged) = (token.reveal(), good.clone(), token.reveal().to_vec());
    *unsigned.last_mut().unwrap() ^= 1;
    let middle = forged.len() - 20;
    forged[middle] = if forged[middle] == b'A' { b'B' } else { b'A' };
    let others = scratch.token("api.shop", HOUR, Uses::Unlimited);
    let foreign = TokenKey::open(&scratch.0.join("elsewhere")).unwrap();
    let grant = |lifetime, networks: &[&str]| Grant {
        identity: WEB.parse().unwrap(),
        lifetime,
        uses: Uses::Unlimited,
        networks: networks.iter().map(|n| n.parse().unwrap()).collect(),
    };
    let foreign = foreign.sign(&grant(HOUR, &[]), SystemTime::now()).unwrap();
    let key = TokenKey::open(&scratch.state()).unwrap();
    let expired = key.sign(&grant(Duration::from_secs(60), &[]), SystemTime::now() - HOUR).unwrap();
    let elsewhere = key.sign(&grant(HOUR, &["192.0.2.0/24"]), SystemTime::now()).unwrap();
    let here = key.sign(&grant(HOUR, &["127.0.0.0/8"]), SystemTime::now()).unwrap();
    let (bad, refused) = (Code::InvalidArgument, Code::FailedPrecondition);
    for (what, request, code, reason) in [
        ("no identity", request("", token, &good), bad, ""),
        ("no name", request("a b", token, &good), bad, ""),
        ("no token and no certificate", request(WEB, b"", &good), bad, "neither"),
        ("no request", request(WEB, token, b""), bad, ""),
        ("no DER", request(WEB, token, b"garbage"), bad, ""),
        ("a request of another", request("api.shop", others.reveal(), &good), refused, "api.shop"),
        // The peer does not look at the signature (§9 row 25).
        ("a request not signed by its key", request(WEB, token, &unsigned), refused, "own key"),
        ("no token", request(WEB, b"garbage", &good), bad, "malformed"),
        ("a token of another", request(WEB, others.reveal(), &good), refused, "api.shop"),
        ("a forged token", request(WEB, &forged, &good), refused, "not signed"),
        ("a token of another mesh", request(WEB, foreign.reveal(), &good), refused, "not signed"),
        ("an old token", request(WEB, expired.reveal(), &good), refused, "expired"),
        ("a token for elsewhere", request(WEB, elsewhere.reveal(), &good), refused, "127.0.0.1"),
    ] {
        let status = join(&scratch, &control, request).await.expect_err(what);
        assert_eq!(status.code(), code, "{what}: {}", status.message());
        assert!(status.message().contains(reason), "{what}: {}", status.message());
        assert!(!status.message().contains("garbage"), "tokens are not repeated");
    }
    join(&scratch, &control, request(WEB, token, &good)).await.unwrap();
    join(&scratch, &control, request(WEB, here.reveal(), &good)).await.unwrap();
    let metrics = admin(&control, "/metrics").await;
    for line in [
        r#"control_plane_certificates_total{outcome="issued"} 2"#,
        r#"control_plane_certificates_total{outcome="INVALID_ARGUMENT"} 6"#,
        r#"control_plane_certificates_total{outcome="FAILED_PRECONDITION"} 7"#,
        r#"control_plane_certificate_expiration_timestamp_seconds{role="anchor""#,
        r#"control_plane_certificate_expiration_timestamp_seconds{role="issuer""#,
        r#"control_plane_oldest_unsent_change_seconds 0"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    control.kill();
}

#[tokio::test]
async fn a_token_for_one_use_stays_spent_over_a_restart() {
    let scratch = Scratch::new();
    let control = start(scratch.tls_options()).await;
    let token = scratch.token(WEB, HOUR, Uses::Once);
    let request = request(WEB, token.reveal(), &csr(&scratch, WEB).await);
    let leaf = join(&scratch, &control, request.clone()).await.unwrap().leaf_certificate;
    assert!(join(&scratch, &control, request.clone()).await.is_err());
    let anchors = scratch.authority().anchors().to_pem().to_owned();
    control.kill();

    let control = start(scratch.tls_options()).await;
    let status = join(&scratch, &control, request.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("has been used"), "{}", status.message());
    assert_eq!(scratch.authority().anchors().to_pem(), anchors, "the authority outlives a restart");

    // The certificate needs no token to be renewed, and counts for its own name only.
    let web = tls(control.listen, &member(&scratch.authority(), WEB)).await;
    let renewal = CertifyRequest { token: vec![], ..request };
    let mut client = IdentityClient::with_origin(web, origin());
    let renewed = client.certify(renewal.clone()).await.unwrap().into_inner();
    assert_ne!(renewed.leaf_certificate, leaf);
    assert!(renewed.valid_until.unwrap().seconds > 0);
    let api = tls(control.listen, &member(&scratch.authority(), "api.shop")).await;
    let status = IdentityClient::with_origin(api, origin()).certify(renewal).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    control.kill();
}

#[tokio::test]
async fn without_a_certificate_only_certify_is_answered() {
    let scratch = Scratch::new();
    let control = start(scratch.tls_options()).await;
    let stranger = tls(control.listen, &stranger(&scratch.authority(), "nobody.mesh")).await;
    let mut destinations = DestinationClient::with_origin(stranger.clone(), origin());
    let mut outbound = OutboundPoliciesClient::with_origin(stranger.clone(), origin());
    let mut inbound = InboundServerPoliciesClient::with_origin(stranger.clone(), origin());
    let codes = [
        destinations.get(GetDestination::default()).await.map(drop),
        destinations.get_profile(GetDestination::default()).await.map(drop),
        outbound.get(TrafficSpec::default()).await.map(drop),
        outbound.watch(TrafficSpec::default()).await.map(drop),
        inbound.get_port(PortSpec::default()).await.map(drop),
        inbound.watch_port(PortSpec::default()).await.map(drop),
    ]
    .map(|answer| answer.unwrap_err().code());
    assert_eq!(codes, [Code::Unauthenticated; 6]);
    let mut identity = IdentityClient::with_origin(stranger, origin());
    let status = identity.certify(CertifyRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "it came as far as the checks");
    control.kill();
}

#[tokio::test]
async fn an_external_issuer_is_used_and_none_of_our_own_is_made() {
    let (scratch, other) = (Scratch::new(), Scratch::new());
    let authority = other.authority();
    let text = std::fs::read_to_string(other.state().join("authority.pem")).unwrap();
    let certificate = text.find("-----BEGIN CERTIFICATE-----").unwrap();
    let file = |name: &str| other.0.join(name);
    std::fs::write(file("issuer.pem"), &text[certificate..]).unwrap();
    let files = IssuerFiles {
        certificates: file("issuer.pem"),
        key: other.state().join("authority.pem"),
        anchors: file("issuer.pem"),
    };
    let control = start(Options { issuer: Some(files.clone()), ..scratch.tls_options() }).await;
    assert!(!scratch.state().join("authority.pem").exists());
    let channel = tls(control.listen, &member(&authority, WEB)).await;
    let token = scratch.token(WEB, HOUR, Uses::Once);
    let request = request(WEB, token.reveal(), &csr(&other, WEB).await);
    IdentityClient::with_origin(channel, origin()).certify(request).await.unwrap();
    control.kill();

    let files = IssuerFiles { key: file("nowhere"), ..files };
    let refused = weft_control::start(Options { issuer: Some(files), ..scratch.tls_options() }, None).await;
    let refused = refused.err().unwrap().to_string();
    assert!(refused.contains("nowhere") && refused.contains("No such file"), "{refused}");
}
