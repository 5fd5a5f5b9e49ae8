//! The private keys that a workload asks certificates for: its own, made in memory, or one that it was given.
//!
//! `renew` asks for a key before each attempt. A key of our own is new every time and is never written; one from
//! files (`IDENTITY_DIR`) is read once at start and kept, as the peer does. Nothing here is sent anywhere but the
//! signing request.

use crate::csr::{self, MAX_CSR};
use crate::private::{FileError, Readers, read_bytes};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::pki_types::PrivatePkcs8KeyDer;
use std::path::Path;
use std::sync::Arc;
use weft_model::identity::Id;

/// A key and a request for a certificate, signed with it.
pub(crate) struct Pair {
    /// PKCS#8.
    pub(crate) key: Vec<u8>,
    /// PKCS#10.
    pub(crate) csr: Vec<u8>,
}

/// Where the keys of one identity come from.
#[derive(Clone)]
pub enum Keys {
    /// A new one for each certificate, made in memory.
    Own,
    /// One that something else made, and keeps.
    Given(Given),
}

/// A key and its request from files.
#[derive(Clone)]
pub struct Given(Arc<Pair>);

impl Given {
    /// Reads `key.p8` (PKCS#8, ECDSA P-256) and `csr.der` (PKCS#10) and checks that both are for `id` and belong
    /// together. Blocks on the disk.
    ///
    /// # Errors
    /// A file is missing, readable for others, or not what it should be: whoever made the directory.
    pub fn read(directory: &Path, id: &Id) -> Result<Self, FileError> {
        let (key_path, csr_path) = (directory.join("key.p8"), directory.join("csr.der"));
        let key = read_bytes(&key_path, Readers::Group)?;
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(key.as_slice()),
            &PKCS_ECDSA_P256_SHA256,
        );
        let pair = pair.map_err(|_| FileError::content(&key_path, "not a PKCS#8 key for ECDSA P-256"))?;
        let csr = read_bytes(&csr_path, Readers::Anybody)?;
        if csr.len() > MAX_CSR {
            return Err(FileError::content(&csr_path, "larger than any signing request"));
        }
        let checked = csr::check(id, &csr).map_err(|bad| FileError::content(&csr_path, bad.to_string()))?;
        if checked.point() != pair.public_key_raw() {
            return Err(FileError::content(&csr_path, "it was made with another key than that of key.p8"));
        }
        Ok(Self(Arc::new(Pair { key, csr })))
    }
}

impl Keys {
    /// The key for the next certificate of `id`, and a request for it.
    pub(crate) fn next(&self, id: &Id) -> Result<Arc<Pair>, rcgen::Error> {
        match self {
            Keys::Given(given) => Ok(given.0.clone()),
            Keys::Own => {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
                let csr = request(id, &key)?;
                Ok(Arc::new(Pair { key: key.serialize_der(), csr }))
            }
        }
    }
}

/// A PKCS#10 request for one name.
fn request(id: &Id, key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![match id {
        Id::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
        Id::Uri(uri) => SanType::URI(uri.as_ref().try_into()?),
    }];
    Ok(params.serialize_request(key)?.der().to_vec())
}
