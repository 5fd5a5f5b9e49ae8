//! The first certificate, renewals, and who may be asked before there is one.

use crate::plane::{Facts, Plane, discover, open};
use std::sync::Arc;
use std::time::Duration;
use weft_discover::certify::Issuer;
use weft_discover::channel::{ClientCertificate, Security};
use weft_identity::authority::{Authority, Lifetimes};
use weft_identity::renew::{Certify, CertifyError, CertifyRequest, Credential, Limits, Proof, Renewal};
use weft_identity::store::{LocalName, Store};
use weft_model::identity::{Id, TlsTarget};

const PROXY: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";
const PLANE: &str = "control.linkerd.serviceaccount.identity.linkerd.cluster.local";

/// A directory that goes with the test.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weft-discover-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn store(name: &str, authority: &Authority) -> Store {
    let name = LocalName { id: name.parse().unwrap(), server_name: name.parse().unwrap() };
    Store::new(name, (*authority.anchors()).clone())
}

fn own(name: &str, authority: &Authority) -> Store {
    let store = store(name, authority);
    let (issued, key) = authority.issue_own(store.local_id()).unwrap();
    store.install([vec![issued.leaf], issued.intermediates].concat(), key).unwrap();
    store
}

fn security(store: &Store, server: &str, certificate: ClientCertificate) -> Security {
    let server = TlsTarget { id: server.parse().unwrap(), server_name: server.parse().unwrap() };
    Security::Tls { store: store.clone(), server, certificate }
}

#[tokio::test]
async fn nobody_is_asked_but_the_issuer_before_the_first_certificate_and_then_by_name() {
    let scratch = Scratch::new("first");
    let authority = Arc::new(Authority::open_now(&scratch.0, "root", Lifetimes::default()).unwrap());
    let facts = Facts::new(Some(authority.clone()));
    facts.set("web.shop.svc.cluster.local:80", &[1]);
    let plane = Plane::start(([127, 0, 0, 1], 0).into(), &facts, Some(own(PLANE, &authority)));
    let at = plane.at;
    let proxy = store(PROXY, &authority);

    let (channel, replicas) = open(at, security(&proxy, PLANE, ClientCertificate::Required));
    let discover = discover(channel);
    let live = discover.endpoints(&"web.shop.svc.cluster.local:80".parse().unwrap()).unwrap();
    live.first().await.unwrap_err();
    assert_eq!(replicas.snapshot().ready, 0);
    assert!(facts.asked.lock().unwrap().is_empty());

    let token = scratch.0.join("token");
    std::fs::write(&token, "secret").unwrap();
    let sender = proxy.clone();
    let issuer =
        Arc::new(Issuer::new(move || open(at, security(&sender, PLANE, ClientCertificate::IfAny)).0));
    let credential = Credential::TokenFile(token);
    let (renewal, _) = Renewal::new(proxy.clone(), issuer, credential, Limits::default());
    let renewing = tokio::spawn(renewal.run());
    proxy.wait_ready().await;
    while live.first().await.is_err() {}
    let asked = facts.asked.lock().unwrap().clone();
    assert_eq!(asked[0], (format!("certify {PROXY}"), None), "the first certificate is asked for by nobody");
    assert!(asked[1..].iter().all(|(_, by)| by.as_deref() == Some(PROXY)), "{asked:?}");
    renewing.abort();
}

#[tokio::test]
async fn a_renewal_is_proven_by_the_current_certificate_and_a_refusal_says_why() {
    let scratch = Scratch::new("renewal");
    let authority = Arc::new(Authority::open_now(&scratch.0, "root", Lifetimes::default()).unwrap());
    let facts = Facts::new(Some(authority.clone()));
    let plane = Plane::start(([127, 0, 0, 1], 0).into(), &facts, Some(own(PLANE, &authority)));
    let at = plane.at;
    let identity: Id = PROXY.parse().unwrap();
    let ask = |store: Store, server: &'static str| {
        let issuer = Issuer::new(move || open(at, security(&store, server, ClientCertificate::IfAny)).0);
        let request =
            CertifyRequest { identity: identity.clone(), proof: Proof::CurrentCertificate, csr: vec![1] };
        async move { tokio::time::timeout(Duration::from_millis(500), issuer.certify(request)).await }
    };
    // A request that cannot be read is refused after the proof was accepted, and before it otherwise.
    let Ok(Err(CertifyError::Refused(why))) = ask(own(PROXY, &authority), PLANE).await else { panic!() };
    assert!(why.contains("unreadable"), "{why}");
    let Ok(Err(CertifyError::Refused(why))) = ask(store(PROXY, &authority), PLANE).await else { panic!() };
    assert!(why.contains("not proven"), "{why}");
    // A server with another name is not told anything: the attempt ends at the caller's bound.
    let asked = facts.asked.lock().unwrap().len();
    assert!(ask(own(PROXY, &authority), PROXY).await.is_err());
    assert_eq!(facts.asked.lock().unwrap().len(), asked);
}
