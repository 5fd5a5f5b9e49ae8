use crate::world::*;
use rcgen::KeyPair;
use rustls::{CipherSuite, HandshakeKind, NamedGroup};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_identity::anchors::Anchors;
use weft_identity::store::{Accept, Store, TlsError, accept_any};
use weft_identity::verify::Refusal;
use weft_model::identity::TlsTarget;
use weft_model::reason::Code;
use weft_net::stream::Stream;

const TRANSPORT_ALPN: &[u8] = b"transport.l5d.io/v1";

async fn plain(client: &Store, server: &Store) -> Result<Option<String>, TlsError> {
    let (connected, accepted) = shake(client, server, &target(server), (PLAIN, &[])).await;
    connected?;
    Ok(accepted?.client.map(|id| id.to_string()))
}

#[tokio::test]
async fn both_sides_learn_who_the_other_is() {
    let clock = Clock::new();
    let ca = authority(&clock);
    let (client, server) = (store("client.ns", &ca, &clock), store("server.ns", &ca, &clock));
    let (connected, accepted) = shake(&client, &server, &target(&server), (PLAIN, &[])).await;
    let (mut near, accepted) = (connected.unwrap().stream, accepted.unwrap());
    assert_eq!(accepted.client, Some(id("client.ns")));
    assert_eq!((accepted.alpn, accepted.server_name.as_str()), (None, "server.ns.sni"));
    let mut far = accepted.stream;
    near.write_all(b"hello").await.unwrap();
    near.shutdown().await.unwrap();
    let mut text = String::new();
    far.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello");
}

#[tokio::test]
async fn a_post_quantum_key_exchange_is_agreed_on_and_sessions_are_never_resumed() {
    let clock = Clock::new();
    let ca = authority(&clock);
    let (client, server) = (store("client.ns", &ca, &clock), store("server.ns", &ca, &clock));
    for _ in 0..2 {
        let (connected, accepted) = shake(&client, &server, &target(&server), (PLAIN, &[])).await;
        let (mut near, mut far) = (connected.unwrap().stream, accepted.unwrap().stream);
        far.write_all(b"x").await.unwrap(); // would bring session tickets along
        far.flush().await.unwrap();
        near.read_u8().await.unwrap();
        let session = near.tls_session().unwrap().get_ref().1;
        assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(session.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
        let suite = session.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
    }
}

#[tokio::test]
async fn uri_identities_work_at_both_ends_whatever_the_sni() {
    let clock = Clock::new();
    let ca = authority(&clock);
    let (client, server) = (store("spiffe://mesh/a", &ca, &clock), store("spiffe://mesh/b", &ca, &clock));
    assert_eq!(server.local_name().server_name.as_str(), "b.sni");
    assert_eq!(plain(&client, &server).await.unwrap().as_deref(), Some("spiffe://mesh/a"));
}

#[tokio::test]
async fn a_client_without_a_certificate_is_nobody() {
    let clock = Clock::new();
    let ca = authority(&clock);
    let client = bare("client.ns", &ca.anchors(), &clock);
    assert_eq!(plain(&client, &store("server.ns", &ca, &clock)).await.unwrap(), None);
}

#[tokio::test]
async fn a_server_of_another_identity_is_refused_though_its_sni_is_right() {
    let clock = Clock::new();
    let ca = authority(&clock);
    let (client, server) = (store("client.ns", &ca, &clock), store("server.ns", &ca, &clock));
    for wanted in ["other.ns", "server.ns.sni", "erver.ns", "x.server.ns", "spiffe://server.ns"] {
        let to = TlsTarget { id: id(wanted), ..target(&server) };
        let (connected, accepted) = shake(&client, &server, &to, (PLAIN, &[])).await;
        let error = connected.unwrap_err();
        assert_eq!(error.code(), Code::TlsWrongIdentity);
        assert_eq!(
            error.to_string(),
            format!("expected the identity `{wanted}`, the certificate names `server.ns`")
        );
        assert_eq!(accepted.unwrap_err().code(), Code::TlsFailed);
    }
}

#[tokio::test]
async fn a_server_of_another_mesh_is_refused() {
    let clock = Clock::new();
    let (ours, theirs) = (authority(&clock), authority(&clock));
    let client = store("client.ns", &ours, &clock);
    let error = plain(&client, &store("server.ns", &theirs, &clock)).await.unwrap_err();
    assert_eq!(error.code(), Code::TlsUntrusted);
}

#[tokio::test]
async fn a_client_of_another_mesh_is_refused_and_learns_it_at_its_first_read() {
    let clock = Clock::new();
    let (ours, theirs) = (authority(&clock), authority(&clock));
    let both = Anchors::from_pem(&[ours.anchors().to_pem(), theirs.anchors().to_pem()].concat()).unwrap();
    let client = bare("client.ns", &both, &clock);
    certify(&client, &theirs);
    let server = store("server.ns", &ours, &clock);
    let (connected, accepted) = shake(&client, &server, &target(&server), (PLAIN, &[])).await;
    assert_eq!(accepted.unwrap_err().code(), Code::TlsUntrusted);
    let alert = connected.unwrap().stream.read_u8().await.unwrap_err();
    assert!(alert.to_string().contains("UnknownCA"), "{alert}");
}

#[tokio::test]
async fn with_old_and_new_anchors_in_force_both_meshes_are_accepted() {
    let clock = Clock::new();
    let (old, new) = (authority(&clock), authority(&clock));
    let both = Anchors::from_pem(&[old.anchors().to_pem(), new.anchors().to_pem()].concat()).unwrap();
    let (client, server) = (bare("client.ns", &both, &clock), bare("server.ns", &both, &clock));
    certify(&client, &old);
    certify(&server, &new);
    assert_eq!(plain(&client, &server).await.unwrap().as_deref(), Some("client.ns"));
    server.replace_anchors(Anchors::from_pem(new.anchors().to_pem()).unwrap());
    assert_eq!(plain(&client, &server).await.unwrap_err().code(), Code::TlsUntrusted);
}

#[tokio::test]
async fn expired_and_not_yet_valid_certificates_are_refused_as_such_by_either_side() {
    let (issuing, later) = (Clock::new(), Clock::new());
    let ca = authority(&issuing);
    let server = store("server.ns", &ca, &issuing);
    let client = bare("client.ns", &ca.anchors(), &later);

    later.forward(DAY + Duration::from_secs(21));
    let error = plain(&client, &server).await.unwrap_err();
    assert!(matches!(error, TlsError::Refused(Refusal::Expired { .. })), "{error}");
    assert_eq!(error.to_string(), "a certificate of the chain expired 1s ago");
    assert_eq!(error.code(), Code::TlsExpired);

    later.back(DAY * 2);
    let error = plain(&client, &server).await.unwrap_err();
    assert!(matches!(error, TlsError::Refused(Refusal::NotYetValid { .. })), "{error}");
    assert_eq!(error.code(), Code::TlsExpired);

    // The skew allowance: twenty seconds behind the issuer's clock is still early enough.
    later.forward(DAY - Duration::from_secs(41));
    assert_eq!(plain(&client, &server).await.unwrap(), None);

    let strict = store("server.ns", &ca, &issuing);
    let stale = store("client.ns", &ca, &issuing);
    issuing.forward(DAY * 2);
    certify(&strict, &ca);
    let error = plain(&stale, &strict).await.unwrap_err();
    assert_eq!(error.code(), Code::TlsExpired);
}

#[tokio::test]
async fn odd_and_missing_names_are_refused_though_trusted() {
    let clock = Clock::new();
    let ca = Ca::root("lax");
    for (sans, code) in [
        (vec![dns("server.ns"), dns("*.ns")], Code::TlsFailed),
        (vec![dns("server.ns\0.evil")], Code::TlsFailed),
        (vec![], Code::TlsWrongIdentity),
        (vec![rcgen::SanType::IpAddress("127.0.0.1".parse().unwrap())], Code::TlsWrongIdentity),
        (vec![dns("first.ns"), dns("server.ns")], Code::Redirected), // a marker: accepted
    ] {
        let key = KeyPair::generate().unwrap();
        let leaf = ca.leaf(sans, &key);
        let outcome = raw_server(&ca, &clock, vec![leaf], &key).await;
        assert_eq!(outcome.map_or_else(|error| error.code(), |()| Code::Redirected), code);
    }
}

/// Connects to `server.ns` at a server with any certificate, which our own store would not install.
async fn raw_server(ca: &Ca, clock: &Clock, chain: Vec<Vec<u8>>, key: &KeyPair) -> Result<(), TlsError> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let client = bare("client.ns", &ca.anchors(), clock);
    let to = TlsTarget { id: id("server.ns"), server_name: "any.sni".parse().unwrap() };
    let (near, far) = tokio::io::duplex(16 << 10);
    let (connected, _) = tokio::join!(client.connect(Stream::memory(near), &to, &[]), acceptor.accept(far));
    connected.map(|_| ())
}

#[tokio::test]
async fn alpn_is_agreed_on_only_where_both_name_it() {
    let clock = Clock::new();
    let ca = authority(&clock);
    let (client, server) = (store("client.ns", &ca, &clock), store("server.ns", &ca, &clock));
    let to = target(&server);
    type Case = (Accept, &'static [&'static [u8]], Option<Option<&'static [u8]>>);
    let cases: [Case; 5] = [
        (TRANSPORT, &[TRANSPORT_ALPN], Some(Some(TRANSPORT_ALPN))),
        (TRANSPORT, &[b"h2", TRANSPORT_ALPN], Some(Some(TRANSPORT_ALPN))),
        (TRANSPORT, &[], Some(None)),
        (PLAIN, &[TRANSPORT_ALPN], Some(None)),
        (TRANSPORT, &[b"h2"], None),
    ];
    for (accept, ask, expected) in cases {
        let (connected, accepted) = shake(&client, &server, &to, (accept, ask)).await;
        assert_eq!(connected.ok().map(|c| c.alpn), expected.map(|alpn| alpn.map(<[u8]>::to_vec)));
        assert_eq!(accepted.ok().map(|a| a.alpn), expected.map(|alpn| alpn.map(<[u8]>::to_vec)));
    }
}

#[tokio::test]
async fn nobody_is_accepted_before_a_certificate_is_there() {
    let clock = Clock::new();
    let ca = authority(&clock);
    let (client, server) = (store("client.ns", &ca, &clock), bare("server.ns", &ca.anchors(), &clock));
    let (connected, accepted) = shake(&client, &server, &target(&server), (PLAIN, &[])).await;
    assert!(matches!(accepted.unwrap_err(), TlsError::NotReady));
    assert_eq!(connected.unwrap_err().code(), Code::TlsFailed);

    let waiting = tokio::spawn({
        let server = server.clone();
        async move { server.wait_ready().await }
    });
    certify(&server, &ca);
    waiting.await.unwrap();
    assert!(server.is_ready());
    assert!(plain(&client, &server).await.is_ok());
}

#[tokio::test]
async fn only_the_own_server_name_is_terminated() {
    let clock = Clock::new();
    let ca = authority(&clock);
    let (client, server) = (store("client.ns", &ca, &clock), store("server.ns", &ca, &clock));
    let mut to = target(&server);
    to.server_name = "Server.NS.sni".parse().unwrap();
    assert!(shake(&client, &server, &to, (PLAIN, &[])).await.1.is_ok(), "case does not matter");
    to.server_name = "elsewhere.example".parse().unwrap();
    let (connected, accepted) = shake(&client, &server, &to, (PLAIN, &[])).await;
    assert_eq!(accepted.unwrap_err().code(), Code::TlsFailed);
    assert_eq!(connected.unwrap_err().code(), Code::TlsWrongIdentity, "it is not who was asked for");
}

#[tokio::test]
async fn who_owns_no_name_that_is_asked_for_says_so() {
    let clock = Clock::new();
    let ca = authority(&clock);
    let client = store("client.ns", &ca, &clock);
    let names = [store("destination.l5d", &ca, &clock)];
    let (near, far) = tokio::io::duplex(16 << 10);
    let to = target(&store("elsewhere.ns", &ca, &clock));
    let (connected, accepted) = tokio::join!(
        client.connect(Stream::memory(near), &to, &[]),
        accept_any(&names, Stream::memory(far), PLAIN)
    );
    assert!(matches!(accepted.unwrap_err(), TlsError::UnknownName(Some(_))));
    assert_eq!(connected.unwrap_err().code(), Code::TlsWrongIdentity);
}

#[tokio::test]
async fn a_server_of_several_names_shows_the_certificate_of_the_one_asked_for() {
    let clock = Clock::new();
    let ca = authority(&clock);
    let client = store("client.ns", &ca, &clock);
    let names = [store("destination.l5d", &ca, &clock), store("identity.l5d", &ca, &clock)];
    for name in &names {
        let (near, far) = tokio::io::duplex(16 << 10);
        let to = target(name);
        let (connected, accepted) = tokio::join!(
            client.connect(Stream::memory(near), &to, &[]),
            accept_any(&names, Stream::memory(far), PLAIN)
        );
        connected.unwrap();
        let accepted = accepted.unwrap();
        assert_eq!(accepted.server_name, to.server_name);
        assert_eq!(accepted.client, Some(id("client.ns")));
    }
    let (near, far) = tokio::io::duplex(16 << 10);
    let to = TlsTarget { id: id("identity.l5d"), server_name: "policy.l5d.sni".parse().unwrap() };
    let (connected, accepted) = tokio::join!(
        client.connect(Stream::memory(near), &to, &[]),
        accept_any(&names, Stream::memory(far), PLAIN)
    );
    assert!(connected.is_err());
    let error = accepted.unwrap_err();
    assert_eq!(error.to_string(), "the TLS client asked for `policy.l5d.sni`, which is not ours");
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_given_up_after_the_timeout() {
    let clock = Clock::new();
    let ca = authority(&clock);
    let server = store("server.ns", &ca, &clock);
    for several in [false, true] {
        let (_near, far) = tokio::io::duplex(64);
        let begun = tokio::time::Instant::now();
        let outcome = match several {
            false => server.accept(Stream::memory(far), PLAIN).await,
            true => accept_any(std::slice::from_ref(&server), Stream::memory(far), PLAIN).await,
        };
        assert!(matches!(outcome.unwrap_err(), TlsError::Timeout(_)));
        assert_eq!(begun.elapsed(), PLAIN.timeout);
    }
}

#[tokio::test]
async fn bytes_that_are_not_tls_fail_at_once() {
    let clock = Clock::new();
    let ca = authority(&clock);
    let server = store("server.ns", &ca, &clock);
    let (mut near, far) = tokio::io::duplex(1024);
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let error = server.accept(Stream::memory(far), PLAIN).await.unwrap_err();
    assert!(matches!(error, TlsError::Handshake(_)), "{error}");

    let (near, far) = tokio::io::duplex(1024);
    drop(near);
    let error = server.accept(Stream::memory(far), PLAIN).await.unwrap_err();
    assert!(matches!(error, TlsError::Io(_)), "{error}");
}

#[tokio::test]
async fn a_hello_read_before_is_read_again_from_the_prefix() {
    let clock = Clock::new();
    let ca = authority(&clock);
    let (client, server) = (store("client.ns", &ca, &clock), store("server.ns", &ca, &clock));
    let (near, mut far) = tokio::io::duplex(16 << 10);
    let to = target(&server);
    let accepted = async {
        let mut hello = vec![0; 5];
        far.read_exact(&mut hello).await.unwrap();
        server.accept(Stream::memory(far).with_prefix(hello.into()), PLAIN).await
    };
    let (connected, accepted) = tokio::join!(client.connect(Stream::memory(near), &to, &[]), accepted);
    connected.unwrap();
    assert_eq!(accepted.unwrap().client, Some(id("client.ns")));
}
