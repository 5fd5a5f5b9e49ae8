//! The trust anchors: the roots that every certificate of the mesh must lead to.
//!
//! Made from PEM text by settings, join files and the authority; read by `verify` in every handshake. Several
//! anchors may be in force at once, which is how a root is rotated: add the new one, let every workload get a
//! certificate under it, remove the old one. Expiry of an anchor itself is reported but not enforced.

use crate::certificate::Outline;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, TrustAnchor};

/// Anchors in one bundle; more is a mistake, and each costs a comparison in every handshake.
pub const MAX_ANCHORS: usize = 64;

/// Bytes of a PEM bundle that are read.
pub const MAX_BUNDLE: usize = 1 << 20;

/// One or more trust anchors.
#[derive(Clone, Debug)]
pub struct Anchors {
    ders: Vec<CertificateDer<'static>>,
    trusted: Vec<TrustAnchor<'static>>,
    outlines: Vec<Outline>,
    pem: String,
    skipped: usize,
}

/// Why a text holds no usable trust anchors. The fault of whoever configured it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAnchors {
    /// Nothing usable in it.
    #[error("no usable certificate among the trust anchors ({skipped} were unusable)")]
    Empty {
        /// How many certificates could not be read.
        skipped: usize,
    },
    /// More than [`MAX_ANCHORS`] or [`MAX_BUNDLE`].
    #[error("more than {MAX_ANCHORS} trust anchors or {MAX_BUNDLE} bytes")]
    TooMany,
    /// A bundle of anchors is handed to everybody, so a private key in it would be, too.
    #[error("a private key lies among the trust anchors; remove it, and replace it: it may have been seen")]
    PrivateKey,
}

impl Anchors {
    /// Reads a PEM bundle. Certificates that cannot be read are skipped and counted, as the peer does.
    pub fn from_pem(text: &str) -> Result<Self, BadAnchors> {
        if text.len() > MAX_BUNDLE {
            return Err(BadAnchors::TooMany);
        }
        if text.contains("PRIVATE KEY-----") {
            return Err(BadAnchors::PrivateKey);
        }
        let mut anchors = Self {
            ders: Vec::new(),
            trusted: Vec::new(),
            outlines: Vec::new(),
            pem: String::new(),
            skipped: 0,
        };
        for block in blocks(text) {
            let added =
                CertificateDer::from_pem_slice(block.as_bytes()).ok().and_then(|der| anchors.add(der));
            match added {
                Some(()) => anchors.pem.push_str(&block),
                None => anchors.skipped += 1,
            }
            if anchors.ders.len() > MAX_ANCHORS {
                return Err(BadAnchors::TooMany);
            }
        }
        if anchors.ders.is_empty() {
            return Err(BadAnchors::Empty { skipped: anchors.skipped });
        }
        Ok(anchors)
    }

    fn add(&mut self, der: CertificateDer<'static>) -> Option<()> {
        let outline = Outline::parse(&der).ok()?;
        self.trusted.push(webpki::anchor_from_trusted_cert(&der).ok()?.to_owned());
        self.outlines.push(outline);
        self.ders.push(der);
        Some(())
    }

    /// The anchors as PEM, without anything else that the source text held.
    pub fn to_pem(&self) -> &str {
        &self.pem
    }

    /// Certificates of the source that could not be read.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// Subject and validity of each anchor, for metrics and warnings.
    pub fn outlines(&self) -> &[Outline] {
        &self.outlines
    }

    /// Whether this very certificate is an anchor.
    pub(crate) fn contain(&self, der: &[u8]) -> bool {
        self.ders.iter().any(|anchor| anchor.as_ref() == der)
    }

    pub(crate) fn trusted(&self) -> &[TrustAnchor<'static>] {
        &self.trusted
    }
}

/// The CERTIFICATE sections of a PEM text, each with its delimiting lines.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines().map(str::trim) {
        if line == "-----BEGIN CERTIFICATE-----" {
            block = Some(String::new());
        }
        if let Some(open) = &mut block {
            open.push_str(line);
            open.push('\n');
        }
        if line == "-----END CERTIFICATE-----" {
            blocks.extend(block.take());
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn pem() -> String {
        CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn several_anchors_are_read_and_unreadable_ones_skipped() {
        let (one, two) = (pem(), pem());
        let text = format!(
            "# ours\n{one}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n{}",
            two.replace('\n', "\r\n")
        );
        let anchors = Anchors::from_pem(&text).unwrap();
        assert_eq!((anchors.outlines().len(), anchors.skipped()), (2, 1));
        assert_eq!(anchors.to_pem(), format!("{one}{two}"));
    }

    #[test]
    fn a_bundle_without_a_usable_certificate_is_refused() {
        assert_eq!(Anchors::from_pem("").unwrap_err(), BadAnchors::Empty { skipped: 0 });
        let cut = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----";
        assert_eq!(Anchors::from_pem(cut).unwrap_err(), BadAnchors::Empty { skipped: 1 });
        assert_eq!(Anchors::from_pem(&pem().repeat(65)).unwrap_err(), BadAnchors::TooMany);
    }

    #[test]
    fn a_private_key_among_the_anchors_is_refused() {
        let key = KeyPair::generate().unwrap().serialize_pem();
        assert_eq!(Anchors::from_pem(&format!("{}{key}", pem())).unwrap_err(), BadAnchors::PrivateKey);
    }
}
