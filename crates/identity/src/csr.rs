//! Checks a certificate signing request against the identity it is said to be for. Pure.
//!
//! Called by `authority` before anything is signed. Nothing of the request but its public key and its one name
//! is ever used: a request is hostile input, and whatever else it asks for (being a CA, other names, other
//! uses) is refused or left out.

use crate::certificate;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use weft_model::identity::Id;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256, OID_X509_COMMON_NAME,
};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

/// Bytes of a request that are looked at; ours has about 300.
pub const MAX_CSR: usize = 16 << 10;

/// A request that passed: what may be signed, and no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    id: Id,
    /// Uncompressed P-256 point.
    point: Vec<u8>,
}

/// Why a request is refused. The requester's fault; the same bytes are refused again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCsr {
    /// Empty, larger than [`MAX_CSR`], or not DER of a PKCS#10 request.
    #[error("the certificate signing request is unreadable: {0}")]
    Unreadable(&'static str),
    /// The key is not ECDSA P-256.
    #[error("the request's key is not ECDSA P-256")]
    KeyType,
    /// The request is not signed by the key it carries, so its sender may not have that key.
    #[error("the request is not signed by its own key")]
    Signature,
    /// It has no name, several names, or one of another kind than DNS and URI.
    #[error("the request must carry exactly one DNS or URI name: {0}")]
    Names(String),
    /// Its name or common name differs from the identity asked for.
    #[error("the request is for `{got}`, not for `{wanted}`")]
    OtherName {
        /// The identity asked for beside the request.
        wanted: Id,
        /// What the request says; at most 300 characters.
        got: String,
    },
    /// It asks to become a CA.
    #[error("the request asks for the right to issue certificates")]
    Authority,
}

impl Checked {
    /// The identity to be certified.
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// Its public key, an uncompressed point.
    pub(crate) fn point(&self) -> &[u8] {
        &self.point
    }
}

impl rcgen::PublicKeyData for Checked {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// Checks that `der` asks for `identity` and nothing else, and is signed by the key it carries.
pub fn check(identity: &Id, der: &[u8]) -> Result<Checked, BadCsr> {
    if der.is_empty() || der.len() > MAX_CSR {
        return Err(BadCsr::Unreadable("it is empty or too large"));
    }
    let (rest, request) =
        X509CertificationRequest::from_der(der).map_err(|_| BadCsr::Unreadable("not a PKCS#10 request"))?;
    if !rest.is_empty() || request.certification_request_info.version != X509Version::V1 {
        return Err(BadCsr::Unreadable("other bytes follow, or the version is unknown"));
    }
    let point = key(&request)?;
    check_signature(&request, &point)?;
    check_extensions(&request, identity)?;
    check_subject(&request, identity)?;
    Ok(Checked { id: identity.clone(), point })
}

fn key(request: &X509CertificationRequest<'_>) -> Result<Vec<u8>, BadCsr> {
    let key = &request.certification_request_info.subject_pki;
    let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
    let is_p256 = key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256);
    let point = &key.subject_public_key;
    // 4 marks an uncompressed point (SEC 1 §2.3.3): two coordinates of 32 bytes follow.
    let is_plain = point.unused_bits == 0 && point.data.len() == 65 && point.data.first() == Some(&4);
    if is_p256 && is_plain { Ok(point.data.to_vec()) } else { Err(BadCsr::KeyType) }
}

fn check_signature(request: &X509CertificationRequest<'_>, point: &[u8]) -> Result<(), BadCsr> {
    if request.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256 {
        return Err(BadCsr::Signature);
    }
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
        .verify(request.certification_request_info.raw, &request.signature_value.data)
        .map_err(|_| BadCsr::Signature)
}

fn check_extensions(request: &X509CertificationRequest<'_>, identity: &Id) -> Result<(), BadCsr> {
    let mut names = Vec::new();
    // All of them are looked at, since another reader might take another one than the first.
    for attribute in request.certification_request_info.attributes() {
        let ParsedCriAttribute::ExtensionRequest(asked) = attribute.parsed_attribute() else { continue };
        for extension in &asked.extensions {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(san) => names.extend(&san.general_names),
                ParsedExtension::BasicConstraints(basic) if basic.ca => return Err(BadCsr::Authority),
                ParsedExtension::ParseError { .. } => {
                    return Err(BadCsr::Unreadable("an extension is malformed"));
                }
                _ => {}
            }
        }
    }
    let [name] = names[..] else { return Err(BadCsr::Names(format!("it has {}", names.len()))) };
    match certificate::identity(name) {
        Ok(Some(id)) if id == *identity => Ok(()),
        Ok(Some(id)) => Err(BadCsr::OtherName { wanted: identity.clone(), got: shown(id.as_str()) }),
        Ok(None) => Err(BadCsr::Names("it is of another kind".into())),
        Err(problem) => Err(BadCsr::Names(problem.to_string())),
    }
}

/// The subject is empty, or a single common name equal to the identity.
fn check_subject(request: &X509CertificationRequest<'_>, identity: &Id) -> Result<(), BadCsr> {
    let mut common_names = 0;
    for attribute in request.certification_request_info.subject.iter_attributes() {
        let text = attribute.as_str().unwrap_or_default();
        let is_same = text.eq_ignore_ascii_case(identity.as_str());
        common_names += 1;
        if *attribute.attr_type() != OID_X509_COMMON_NAME || common_names > 1 || !is_same {
            return Err(BadCsr::OtherName { wanted: identity.clone(), got: shown(text) });
        }
    }
    Ok(())
}

fn shown(text: &str) -> String {
    text.escape_default().take(300).collect()
}
