use crate::world::*;
use rcgen::string::Ia5String;
use rcgen::{
    Attribute, BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
    PublicKeyData, SanType, SignatureAlgorithm, SigningKey,
};
use weft_identity::authority::{AuthorityError, Class};
use weft_identity::csr::{BadCsr, MAX_CSR};
use x509_parser::prelude::{FromDer, X509Certificate};

const WEB: &str = "web.default";

fn params(sans: Vec<SanType>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = sans;
    params
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

fn request(params: &CertificateParams) -> Vec<u8> {
    params.serialize_request(&key()).unwrap().der().to_vec()
}

/// What the authority says to this request for `identity`.
#[track_caller]
fn check(identity: &str, csr: &[u8], expected: Result<(), (Class, &str)>) {
    let outcome = authority(&Clock::new()).check(&id(identity), csr);
    match (outcome, expected) {
        (Ok(checked), Ok(())) => assert_eq!(checked.id(), &id(identity)),
        (Err(error), Err((class, part))) => {
            assert_eq!(error.class(), class, "{error}");
            assert!(error.to_string().contains(part), "{error}");
        }
        (outcome, expected) => panic!("{outcome:?} instead of {expected:?}"),
    }
}

const REFUSED: Class = Class::FailedPrecondition;
const UNREADABLE: Class = Class::InvalidArgument;

#[test]
fn a_request_for_one_dns_or_uri_name_passes() {
    check(WEB, &request(&params(vec![dns(WEB)])), Ok(()));
    check(WEB, &request(&params(vec![dns("Web.Default")])), Ok(()));
    let uri = SanType::URI("spiffe://mesh/vm".try_into().unwrap());
    check("spiffe://mesh/vm", &request(&params(vec![uri])), Ok(()));
    let mut named = params(vec![dns(WEB)]);
    named.distinguished_name.push(DnType::CommonName, WEB);
    check(WEB, &request(&named), Ok(()));
}

#[test]
fn names_other_than_the_one_asked_for_are_refused() {
    check(WEB, &request(&params(vec![dns("db.default")])), Err((REFUSED, "for `db.default`, not for")));
    check(WEB, &request(&params(vec![])), Err((REFUSED, "it has 0")));
    check(WEB, &request(&params(vec![dns(WEB), dns("db.default")])), Err((REFUSED, "it has 2")));
    check(WEB, &request(&params(vec![dns(WEB), dns(WEB)])), Err((REFUSED, "it has 2")));
    let mail = SanType::Rfc822Name(Ia5String::try_from("a@b").unwrap());
    check(WEB, &request(&params(vec![mail.clone()])), Err((REFUSED, "another kind")));
    check(WEB, &request(&params(vec![dns(WEB), mail])), Err((REFUSED, "it has 2")));
    let ip = SanType::IpAddress("10.0.0.1".parse().unwrap());
    check(WEB, &request(&params(vec![ip])), Err((REFUSED, "another kind")));
    check(WEB, &request(&params(vec![dns("web.default\0")])), Err((REFUSED, "cannot be an identity")));
    check(WEB, &request(&params(vec![dns("*.default")])), Err((REFUSED, "cannot be an identity")));
    let uri = SanType::URI(format!("spiffe://{WEB}").try_into().unwrap());
    check(WEB, &request(&params(vec![uri])), Err((REFUSED, "not for")));
}

#[test]
fn a_subject_that_says_something_else_is_refused() {
    let mut other = params(vec![dns(WEB)]);
    other.distinguished_name.push(DnType::CommonName, "db.default");
    check(WEB, &request(&other), Err((REFUSED, "for `db.default`")));
    let mut more = params(vec![dns(WEB)]);
    more.distinguished_name.push(DnType::CommonName, WEB);
    more.distinguished_name.push(DnType::OrganizationName, WEB);
    check(WEB, &request(&more), Err((REFUSED, "not for")));
}

#[test]
fn a_second_list_of_extensions_hides_nothing() {
    // SET { SEQUENCE { SEQUENCE { 2.5.29.17, OCTET STRING { SEQUENCE { [2] "evil" } } } } }
    let values = b"\x31\x13\x30\x11\x30\x0f\x06\x03\x55\x1d\x11\x04\x08\x30\x06\x82\x04evil".to_vec();
    let second = Attribute { oid: &[1, 2, 840, 113549, 1, 9, 14], values };
    let csr = params(vec![dns(WEB)]).serialize_request_with_attributes(&key(), vec![second]).unwrap();
    check(WEB, csr.der(), Err((REFUSED, "it has 2")));
}

#[test]
fn a_request_to_become_an_authority_is_refused() {
    let mut ca = params(vec![dns(WEB)]);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    check(WEB, &request(&ca), Err((REFUSED, "right to issue")));
}

#[test]
fn keys_other_than_p256_are_refused() {
    for algorithm in [&PKCS_RSA_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let csr = params(vec![dns(WEB)]).serialize_request(&key).unwrap();
        check(WEB, csr.der(), Err((REFUSED, "not ECDSA P-256")));
    }
}

/// Claims one key and signs with another.
struct Thief {
    claimed: KeyPair,
    own: KeyPair,
}

impl PublicKeyData for Thief {
    fn der_bytes(&self) -> &[u8] {
        self.claimed.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for Thief {
    fn sign(&self, msg: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.own.sign(msg)
    }
}

#[test]
fn a_request_not_signed_by_its_own_key_is_refused() {
    let thief = Thief { claimed: key(), own: key() };
    let csr = params(vec![dns(WEB)]).serialize_request(&thief).unwrap();
    check(WEB, csr.der(), Err((REFUSED, "not signed by its own key")));

    let mut changed = request(&params(vec![dns("web.defau1t")]));
    let at = changed.windows(11).position(|bytes| bytes == b"web.defau1t").unwrap();
    changed[at..at + 11].copy_from_slice(b"web.default");
    check(WEB, &changed, Err((REFUSED, "not signed by its own key")));
}

#[test]
fn unreadable_requests_are_invalid_arguments() {
    let good = request(&params(vec![dns(WEB)]));
    check(WEB, &[], Err((UNREADABLE, "unreadable")));
    check(WEB, b"-----BEGIN CERTIFICATE REQUEST-----", Err((UNREADABLE, "unreadable")));
    check(WEB, &[&good[..], &[0]].concat(), Err((UNREADABLE, "unreadable")));
    check(WEB, &vec![0x30; MAX_CSR + 1], Err((UNREADABLE, "too large")));
    let ca = authority(&Clock::new());
    for cut in 0..good.len() {
        let refused = ca.check(&id(WEB), &good[..cut]).unwrap_err();
        assert!(matches!(refused, AuthorityError::Request(BadCsr::Unreadable(_))), "{cut}: {refused}");
    }
}

#[test]
fn no_flipped_bit_gets_past_the_check_with_another_meaning() {
    let good = request(&params(vec![dns(WEB)]));
    let ca = authority(&Clock::new());
    let meant = ca.check(&id(WEB), &good).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        // The frame around what is signed may be read leniently; then the meaning is still the signed one.
        if let Ok(checked) = ca.check(&id(WEB), &bad) {
            assert_eq!(checked, meant, "byte {at}");
        }
    }
}

#[test]
fn nothing_but_key_and_name_gets_from_the_request_into_the_leaf() {
    let clock = Clock::new();
    let ca = authority(&clock);
    let mut greedy = params(vec![dns(WEB)]);
    greedy.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    greedy.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    let key = key();
    let csr = greedy.serialize_request(&key).unwrap();
    let issued = ca.issue(&ca.check(&id(WEB), csr.der()).unwrap()).unwrap();
    let (_, leaf) = X509Certificate::from_der(&issued.leaf).unwrap();
    assert_eq!(&*leaf.public_key().subject_public_key.data, key.public_key_raw());
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.key_encipherment());
    assert!(!usage.key_cert_sign() && !usage.crl_sign());
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.code_signing && !extended.any);
    assert!(!leaf.is_ca());
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.len(), 1);
    assert_eq!(issued.intermediates, Vec::<Vec<u8>>::new());
}
