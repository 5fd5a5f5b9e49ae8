//! `Certify`: the first certificate by a token, the next by the one in force.

use crate::world::*;
use linkerd2_proxy_api::identity as api;
use linkerd2_proxy_api::identity::identity_client::IdentityClient;
use std::sync::{Arc, Mutex};
use tonic::Code;
use weft_identity::renew::{
    self, Certified, Certify, CertifyError, CertifyResponse, Credential, Proof, Renewal,
};
use weft_identity::store::Store;
use weft_identity::token::Uses;

/// Keeps the signing request that a renewal makes.
#[derive(Default)]
struct Catch(Mutex<Vec<u8>>);

impl Certify for Catch {
    fn certify(&self, request: renew::CertifyRequest) -> Certified<'_> {
        assert!(matches!(request.proof, Proof::InProcess));
        *self.0.lock().unwrap() = request.csr;
        Box::pin(async { Err::<CertifyResponse, _>(CertifyError::Unreachable("caught".into())) })
    }
}

/// A valid signing request of an identity.
async fn csr(world: &World, id: &str) -> Vec<u8> {
    let store = Store::new(local_name(id), (*world.authority.anchors()).clone());
    let catch = Arc::new(Catch::default());
    let (renewal, mut state) =
        Renewal::new(store, catch.clone(), Credential::OwnAuthority, renew::Limits::default());
    let running = tokio::spawn(renewal.run());
    state.wait_for(|s| s.failed > 0).await.unwrap();
    running.abort();
    catch.0.lock().unwrap().clone()
}

async fn certify(channel: Channel, request: api::CertifyRequest) -> Result<api::CertifyResponse, Code> {
    let mut client = IdentityClient::with_origin(channel, origin());
    client.certify(request).await.map(|r| r.into_inner()).map_err(|s| s.code())
}

#[tokio::test]
async fn a_stranger_joins_with_a_token_and_renews_with_the_certificate() {
    let world = World::start().await;
    let request = |token: Vec<u8>, csr: Vec<u8>| api::CertifyRequest {
        identity: WEB.into(),
        token,
        certificate_signing_request: csr,
    };
    let csr = csr(&world, WEB).await;
    let token = world.token(WEB, Uses::Once).reveal().to_vec();
    let stranger = || async { channel(world.connect(&world.anonymous()).await) };
    let response = certify(stranger().await, request(token.clone(), csr.clone())).await.unwrap();
    assert!(!response.leaf_certificate.is_empty() && response.valid_until.is_some());
    // Spent, missing, and another's.
    assert_eq!(certify(stranger().await, request(token, csr.clone())).await, Err(Code::FailedPrecondition));
    assert_eq!(certify(stranger().await, request(vec![], csr.clone())).await, Err(Code::InvalidArgument));
    let others = world.token("api.shop", Uses::Unlimited).reveal().to_vec();
    assert_eq!(certify(stranger().await, request(others, csr.clone())).await, Err(Code::FailedPrecondition));
    let garbage = b"not a token".to_vec();
    assert_eq!(certify(stranger().await, request(garbage, csr.clone())).await, Err(Code::InvalidArgument));
    // By certificate: one's own identity only.
    certify(world.channel().await, request(vec![], csr.clone())).await.unwrap();
    let other = channel(world.connect(&world.identity("api.shop")).await);
    assert_eq!(certify(other, request(vec![], csr)).await, Err(Code::FailedPrecondition));
    let text = world.registry.render();
    assert!(text.contains("control_plane_certificates_total{outcome=\"issued\"} 2"), "{text}");
    assert!(text.contains("control_plane_certificates_total{outcome=\"FAILED_PRECONDITION\"} 3"), "{text}");
}

#[tokio::test]
async fn malformed_requests_are_refused_before_a_token_is_spent() {
    let world = World::start().await;
    let token = world.token(WEB, Uses::Once).reveal().to_vec();
    let request = |identity: &str, csr: Vec<u8>| api::CertifyRequest {
        identity: identity.into(),
        token: token.clone(),
        certificate_signing_request: csr,
    };
    let good = csr(&world, WEB).await;
    for (identity, csr, expected) in [
        ("", good.clone(), Code::InvalidArgument),
        ("a b", good.clone(), Code::InvalidArgument),
        (WEB, vec![], Code::InvalidArgument),
        (WEB, b"garbage".to_vec(), Code::InvalidArgument),
        (NAME, good.clone(), Code::FailedPrecondition),
    ] {
        let stranger = channel(world.connect(&world.anonymous()).await);
        assert_eq!(certify(stranger, request(identity, csr)).await.err(), Some(expected), "{identity}");
    }
    let stranger = channel(world.connect(&world.anonymous()).await);
    certify(stranger, request(WEB, good)).await.unwrap();
}
