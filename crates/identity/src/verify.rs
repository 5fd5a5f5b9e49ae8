//! Checks certificates: a chain to the trust anchors, and a name equal to the identity that was expected.
//!
//! The verifiers here are what rustls calls in a handshake; `store` and `authority` use the same checks before
//! they install or hand out a certificate. The names checked are identities and have nothing to do with the
//! SNI, which is why rustls' own verifier does not serve. Revocation is by short lifetimes only.

use crate::anchors::Anchors;
use crate::certificate::{Certificate, Malformed};
use crate::tls;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use weft_model::identity::Id;

/// Why a certificate is refused. Its holder's fault, or that of its issuer or of a clock; another connection
/// to the same peer meets the same refusal until its certificate changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No valid chain leads to a trust anchor, or the chain may not be used for this purpose.
    #[error("the certificate does not lead to our trust anchors: {0}")]
    Untrusted(String),
    /// Trusted, but somebody else.
    #[error("expected the identity `{wanted}`, the certificate names {}", Names(.got))]
    WrongIdentity {
        /// Who was expected.
        wanted: Id,
        /// Who it is.
        got: Vec<Id>,
    },
    /// Trusted perhaps, but without any name.
    #[error("the certificate names no identity")]
    Nameless,
    /// The leaf, or a certificate on the way, has expired.
    #[error("a certificate of the chain expired {} ago", Rough(.now, .not_after))]
    Expired {
        /// Time of the check, by our clock.
        now: UnixTime,
        /// When it expired.
        not_after: UnixTime,
    },
    /// The leaf, or a certificate on the way, is not valid yet.
    #[error("a certificate of the chain becomes valid only in {}", Rough(.not_before, .now))]
    NotYetValid {
        /// Time of the check, by our clock.
        now: UnixTime,
        /// When it becomes valid.
        not_before: UnixTime,
    },
    /// Not a certificate that the mesh could use.
    #[error("the certificate is malformed: {0}")]
    Malformed(#[from] Malformed),
}

struct Names<'a>(&'a [Id]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, rest)) = self.0.split_first() else { return f.write_str("nobody") };
        write!(f, "`{first}`")?;
        // Three say enough, and the text ends up in logs.
        rest.iter().take(2).try_for_each(|id| write!(f, ", `{id}`"))?;
        if rest.len() > 2 { write!(f, " and {} more", rest.len() - 2) } else { Ok(()) }
    }
}

struct Rough<'a>(&'a UnixTime, &'a UnixTime);

impl fmt::Display for Rough<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let apart = Duration::from_secs(self.0.as_secs().saturating_sub(self.1.as_secs()));
        write!(f, "{apart:?}")
    }
}

/// What a certificate is to be used for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Usage {
    Server,
    Client,
}

/// Checks that `leaf` leads to `anchors` through `intermediates` at `now`, and reads it.
pub(crate) fn check_chain(
    anchors: &Anchors,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    usage: Usage,
) -> Result<Certificate, Refusal> {
    let usage = match usage {
        Usage::Server => webpki::KeyUsage::server_auth(),
        Usage::Client => webpki::KeyUsage::client_auth(),
    };
    let entity = webpki::EndEntityCert::try_from(leaf).map_err(refusal)?;
    entity
        .verify_for_usage(tls::signatures().all, anchors.trusted(), intermediates, now, usage, None, None)
        .map_err(refusal)?;
    Ok(Certificate::parse(leaf)?)
}

/// Checks that one of the names is the one wanted.
pub(crate) fn check_identity(certificate: &Certificate, wanted: &Id) -> Result<(), Refusal> {
    if certificate.names.contains(wanted) {
        return Ok(());
    }
    Err(Refusal::WrongIdentity { wanted: wanted.clone(), got: certificate.names.clone() })
}

fn refusal(error: webpki::Error) -> Refusal {
    match error {
        webpki::Error::CertExpired { time: now, not_after } => Refusal::Expired { now, not_after },
        webpki::Error::CertNotValidYet { time: now, not_before } => Refusal::NotYetValid { now, not_before },
        webpki::Error::BadDer | webpki::Error::BadDerTime | webpki::Error::TrailingData(_) => {
            Refusal::Malformed(Malformed::Encoding)
        }
        // Two meshes may give their roots the same name, so a wrong signature means a foreign issuer, too.
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            Refusal::Untrusted(NO_ISSUER.into())
        }
        other => Refusal::Untrusted(format!("{other:?}")),
    }
}

const NO_ISSUER: &str = "none of them issued it";

/// The error for rustls: it chooses the alert that the other side gets.
impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        let error = match refusal {
            Refusal::Expired { now, not_after } => CertificateError::ExpiredContext { time: now, not_after },
            Refusal::NotYetValid { now, not_before } => {
                CertificateError::NotValidYetContext { time: now, not_before }
            }
            Refusal::Untrusted(ref why) if why == NO_ISSUER => CertificateError::UnknownIssuer,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        };
        rustls::Error::InvalidCertificate(error)
    }
}

impl Refusal {
    /// Gets back the refusal from an error that one of our verifiers raised.
    pub(crate) fn of(error: &rustls::Error) -> Option<Self> {
        let rustls::Error::InvalidCertificate(error) = error else { return None };
        match error {
            CertificateError::ExpiredContext { time, not_after } => {
                Some(Refusal::Expired { now: *time, not_after: *not_after })
            }
            CertificateError::NotValidYetContext { time, not_before } => {
                Some(Refusal::NotYetValid { now: *time, not_before: *not_before })
            }
            CertificateError::UnknownIssuer => Some(Refusal::Untrusted(NO_ISSUER.into())),
            CertificateError::Other(OtherError(other)) => other.downcast_ref::<Refusal>().cloned(),
            _ => None,
        }
    }
}

/// What both verifiers' traits demand of signatures, in the same words.
macro_rules! only_tls13_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _cert: &CertificateDer<'_>,
            _dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(no_tls12())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls13_signature(message, cert, dss, tls::signatures())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            tls::signatures().supported_schemes()
        }
    };
}

/// Accepts a server that proves to be `wanted`.
#[derive(Debug)]
pub(crate) struct ServerIs {
    pub(crate) anchors: Arc<Anchors>,
    pub(crate) wanted: Id,
}

impl ServerCertVerifier for ServerIs {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _sni: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = check_chain(&self.anchors, end_entity, intermediates, now, Usage::Server)?;
        check_identity(&certificate, &self.wanted)?;
        Ok(ServerCertVerified::assertion())
    }

    only_tls13_signatures!();
}

/// Accepts clients without a certificate and those whose certificate leads to the anchors and names somebody.
#[derive(Debug)]
pub(crate) struct AnyClient {
    pub(crate) anchors: Arc<Anchors>,
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[] // every client of the mesh has at most one certificate to choose from
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let certificate = check_chain(&self.anchors, end_entity, intermediates, now, Usage::Client)?;
        if certificate.id().is_none() {
            return Err(Refusal::Nameless.into());
        }
        Ok(ClientCertVerified::assertion())
    }

    only_tls13_signatures!();
}

fn no_tls12() -> rustls::Error {
    rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled)
}
