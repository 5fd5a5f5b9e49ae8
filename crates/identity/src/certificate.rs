//! Reads what the mesh needs from a certificate: its names and when it is valid. Pure.
//!
//! Called by `verify` in every handshake, and by `store`, `anchors` and `authority`. It trusts nothing: the
//! bytes come from a peer and their signature is checked elsewhere. It never decides whether a certificate
//! is acceptable, except that names which cannot be identities make the whole certificate malformed.

use std::time::{Duration, SystemTime};
use weft_model::identity::Id;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

/// Names a certificate may carry. Ours have one; the limit only bounds the work a peer can cause.
pub const MAX_NAMES: usize = 32;

/// What a certificate says about its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// DNS and URI SANs in their order. Other kinds (IP, e-mail) name nobody in the mesh and are left out.
    pub names: Vec<Id>,
    /// When it is valid.
    pub validity: Validity,
}

/// What an operator wants to know of an anchor or issuer, whose names do not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// The subject as text; at most 200 characters.
    pub subject: String,
    /// When it is valid.
    pub validity: Validity,
}

/// The time during which a certificate is valid, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub not_before: SystemTime,
    /// Last moment, to the second.
    pub not_after: SystemTime,
}

/// Why bytes are not a certificate of the mesh. The sender's fault; a retry with the same bytes is useless.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not DER of an X.509 certificate, or followed by other bytes.
    #[error("not an X.509 certificate")]
    Encoding,
    /// The SAN extension is unreadable or present twice.
    #[error("its subject alternative names are unreadable")]
    Names,
    /// A DNS or URI SAN that cannot be an identity: NUL bytes, wildcards, addresses, relative URIs.
    #[error("it carries the name `{0}`, which cannot be an identity")]
    OddName(String),
    /// More names than [`MAX_NAMES`].
    #[error("it carries more than {MAX_NAMES} names")]
    TooManyNames,
}

impl Certificate {
    /// Reads a DER certificate.
    pub fn parse(der: &[u8]) -> Result<Self, Malformed> {
        let certificate = parse(der)?;
        Ok(Self { names: names(&certificate)?, validity: validity(&certificate) })
    }

    /// The identity of the holder: the first DNS or URI SAN.
    pub fn id(&self) -> Option<&Id> {
        self.names.first()
    }
}

impl Outline {
    /// Reads a DER certificate.
    pub fn parse(der: &[u8]) -> Result<Self, Malformed> {
        let certificate = parse(der)?;
        let subject = certificate.subject.to_string().chars().take(200).collect();
        Ok(Self { subject, validity: validity(&certificate) })
    }
}

impl Validity {
    /// Whether `now` lies within.
    pub fn contains(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Time left at `now`; zero once expired.
    pub fn remaining(&self, now: SystemTime) -> Duration {
        self.not_after.duration_since(now).unwrap_or_default()
    }
}

/// A DNS or URI general name as an identity; `None` for the other kinds.
pub(crate) fn identity(name: &GeneralName<'_>) -> Result<Option<Id>, Malformed> {
    let odd = |text: &str| Malformed::OddName(text.escape_default().take(100).collect());
    match name {
        // A name that ends in a dot is never written in a SAN (RFC 5280 §4.2.1.6), and two spellings of one
        // identity would be one too many.
        GeneralName::DNSName(text) if !text.ends_with('.') => {
            text.parse().map(|name| Some(Id::Dns(name))).map_err(|_| odd(text))
        }
        GeneralName::DNSName(text) => Err(odd(text)),
        GeneralName::URI(text) => match text.parse() {
            Ok(id @ Id::Uri(_)) => Ok(Some(id)),
            Ok(Id::Dns(_)) | Err(_) => Err(odd(text)),
        },
        GeneralName::Invalid(..) => Err(Malformed::Names),
        _ => Ok(None),
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Malformed> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| Malformed::Encoding)?;
    if rest.is_empty() { Ok(certificate) } else { Err(Malformed::Encoding) }
}

fn validity(certificate: &X509Certificate<'_>) -> Validity {
    let validity = certificate.validity();
    Validity { not_before: moment(&validity.not_before), not_after: moment(&validity.not_after) }
}

fn names(certificate: &X509Certificate<'_>) -> Result<Vec<Id>, Malformed> {
    let Some(extension) = certificate.subject_alternative_name().map_err(|_| Malformed::Names)? else {
        return Ok(Vec::new());
    };
    let general = &extension.value.general_names;
    if general.len() > MAX_NAMES {
        return Err(Malformed::TooManyNames);
    }
    general.iter().filter_map(|name| identity(name).transpose()).collect()
}

fn moment(time: &ASN1Time) -> SystemTime {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds >= 0 { SystemTime::UNIX_EPOCH + distance } else { SystemTime::UNIX_EPOCH - distance }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, CustomExtension, KeyPair, SanType};

    fn issue(sans: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = sans;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn dns(name: &str) -> SanType {
        SanType::DnsName(name.try_into().unwrap())
    }

    fn uri(name: &str) -> SanType {
        SanType::URI(name.try_into().unwrap())
    }

    #[track_caller]
    fn check(sans: Vec<SanType>, expected: Result<&[&str], Malformed>) {
        let parsed = Certificate::parse(&issue(sans));
        let names = parsed.map(|c| c.names.iter().map(|id| id.as_str().to_owned()).collect::<Vec<_>>());
        assert_eq!(names, expected.map(|names| names.iter().map(|&n| n.to_owned()).collect()));
    }

    #[test]
    fn dns_and_uri_names_are_read_in_order_and_others_left_out() {
        check(vec![], Ok(&[]));
        check(vec![dns("Web.Default")], Ok(&["web.default"]));
        check(vec![uri("spiffe://mesh/web"), dns("web")], Ok(&["spiffe://mesh/web", "web"]));
        check(
            vec![
                SanType::IpAddress("10.0.0.1".parse().unwrap()),
                dns("web"),
                SanType::Rfc822Name("a@b".try_into().unwrap()),
            ],
            Ok(&["web"]),
        );
    }

    #[test]
    fn a_name_that_cannot_be_an_identity_spoils_the_certificate() {
        let odd = |text: &str| Err(Malformed::OddName(text.into()));
        check(vec![dns("web\0.evil")], odd("web\\u{0}.evil"));
        check(vec![dns("web"), dns("*.default")], odd("*.default"));
        check(vec![dns("10.0.0.1")], odd("10.0.0.1"));
        check(vec![dns("web.")], odd("web."));
        check(vec![dns("")], odd(""));
        check(vec![uri("web")], odd("web"));
        check(vec![uri("spiffe://mesh/a\0b")], odd("spiffe://mesh/a\\u{0}b"));
        check((0..33).map(|n| dns(&format!("n{n}"))).collect(), Err(Malformed::TooManyNames));
    }

    #[test]
    fn bytes_that_are_no_utf8_or_no_list_are_refused() {
        for content in [vec![0x30, 0x03, 0x82, 0x01, 0xff], vec![0x04, 0x00], vec![0x30, 0x05, 0x82]] {
            let mut params = CertificateParams::default();
            let san = CustomExtension::from_oid_content(&[2, 5, 29, 17], content);
            params.custom_extensions.push(san);
            let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
            assert!(Certificate::parse(&der).is_err());
        }
    }

    #[test]
    fn truncated_or_extended_certificates_are_refused() {
        let mut der = issue(vec![dns("web")]);
        for cut in 0..der.len() {
            assert!(Certificate::parse(&der[..cut]).is_err());
        }
        der.push(0);
        assert_eq!(Certificate::parse(&der), Err(Malformed::Encoding));
    }

    #[test]
    fn validity_includes_both_ends() {
        let at = |s| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        let validity = Validity { not_before: at(10), not_after: at(20) };
        assert!(!validity.contains(at(9)) && validity.contains(at(10)));
        assert!(validity.contains(at(20)) && !validity.contains(at(21)));
        assert_eq!(validity.remaining(at(12)), Duration::from_secs(8));
        assert_eq!(validity.remaining(at(30)), Duration::ZERO);
    }
}
