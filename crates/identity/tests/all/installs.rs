use crate::world::*;
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_identity::store::{IdentityError, Store};
use weft_identity::verify::Refusal;
use weft_net::stream::Stream;

/// The certificate that the other side showed.
fn shown(stream: &Stream) -> Vec<u8> {
    stream.tls_session().unwrap().get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

async fn pair(client: &Store, server: &Store) -> (Stream, Stream) {
    let (connected, accepted) = shake(client, server, &target(server), (PLAIN, &[])).await;
    (connected.unwrap().stream, accepted.unwrap().stream)
}

#[tokio::test]
async fn a_new_certificate_serves_new_handshakes_while_old_connections_live_on() {
    let clock = Clock::new();
    let ca = authority(&clock);
    let (client, server) = (store("client.ns", &ca, &clock), store("server.ns", &ca, &clock));
    let (mut near, mut far) = pair(&client, &server).await;
    let before = shown(&near);

    certify(&server, &ca);
    certify(&client, &ca);
    let (near2, far2) = pair(&client, &server).await;
    assert_ne!(shown(&near2), before);
    assert_ne!(shown(&far2), shown(&far));

    for n in 0..3_u8 {
        near.write_u8(n).await.unwrap();
        near.flush().await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), n);
    }
}

#[tokio::test]
async fn a_handshake_under_way_keeps_the_certificate_it_began_with() {
    let clock = Clock::new();
    let ca = authority(&clock);
    let (client, server) = (store("client.ns", &ca, &clock), store("server.ns", &ca, &clock));
    let (near, mut middle) = tokio::io::duplex(16 << 10);
    let (mut relay, far) = tokio::io::duplex(16 << 10);
    let to = target(&server);
    let relayed = async {
        let mut first = [0; 1];
        middle.read_exact(&mut first).await.unwrap(); // the client has begun
        certify(&client, &ca);
        certify(&server, &ca);
        relay.write_all(&first).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut middle, &mut relay).await;
    };
    let both = async {
        tokio::join!(
            client.connect(Stream::memory(near), &to, &[]),
            server.accept(Stream::memory(far), PLAIN)
        )
    };
    let (connected, accepted) = tokio::select! {
        outcome = both => outcome,
        () = relayed => unreachable!("the relay ends with the connections"),
    };
    connected.unwrap();
    assert_eq!(accepted.unwrap().client, Some(id("client.ns")));
}

#[tokio::test]
async fn what_peers_would_refuse_is_not_installed_and_the_old_certificate_stays() {
    let clock = Clock::new();
    let ca = authority(&clock);
    let server = store("server.ns", &ca, &clock);
    let before = server.validity();
    let key = || KeyPair::generate().unwrap().serialize_der();
    let (good, good_key) = ca.issue_own(server.local_id()).unwrap();
    let good = good.leaf;

    assert_eq!(server.install(vec![], key()), Err(IdentityError::Chain(0)));
    assert_eq!(server.install(vec![good.clone(); 9], key()), Err(IdentityError::Chain(9)));
    assert!(matches!(server.install(vec![good.clone()], key()), Err(IdentityError::Key(_))));
    assert!(matches!(server.install(vec![good.clone()], vec![1, 2, 3]), Err(IdentityError::Key(_))));
    let (other, other_key) = ca.issue_own(&id("other.ns")).unwrap();
    let refused = server.install(vec![other.leaf], other_key);
    assert!(matches!(refused, Err(IdentityError::Refused(Refusal::WrongIdentity { .. }))));
    let (foreign, foreign_key) = authority(&clock).issue_own(server.local_id()).unwrap();
    let refused = server.install(vec![foreign.leaf], foreign_key);
    assert!(matches!(refused, Err(IdentityError::Refused(Refusal::Untrusted(_)))));
    assert!(server.install(vec![good[..good.len() - 1].to_vec()], good_key.clone()).is_err());
    clock.forward(DAY * 2);
    let refused = server.install(vec![good], good_key);
    assert!(matches!(refused, Err(IdentityError::Refused(Refusal::Expired { .. }))));

    assert_eq!(server.validity(), before);
    assert!(server.is_ready() && !server.holds_valid());
}

#[tokio::test]
async fn a_key_that_foreign_peers_could_not_check_is_not_installed() {
    let clock = Clock::new();
    let ca = Ca::root("lax");
    let store = bare("server.ns", &ca.anchors(), &clock);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let leaf = ca.leaf(vec![dns("server.ns")], &key);
    let refused = store.install(vec![leaf], key.serialize_der());
    assert_eq!(refused, Err(IdentityError::Key("it is not an ECDSA P-256 key".into())));
}

#[test]
fn a_store_shows_its_names_but_nothing_secret() {
    let clock = Clock::new();
    let store = store("server.ns", &authority(&clock), &clock);
    let text = format!("{store:?}");
    assert!(text.contains("server.ns") && !text.contains("key"), "{text}");
}
