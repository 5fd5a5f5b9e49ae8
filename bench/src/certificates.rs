//! Certificates of the contenders that bring no authority of their own: one anchor, two leaves, ECDSA P-256.

use crate::failure::Failure;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose};
use rcgen::{IsCa, Issuer, KeyPair, KeyUsagePurpose};
use std::path::{Path, PathBuf};

/// The names of the two ends.
pub(crate) const OUTBOUND: &str = "outbound.bench.test";
pub(crate) const INBOUND: &str = "inbound.bench.test";

/// Where the files lie.
pub(crate) struct Certificates {
    dir: PathBuf,
}

impl Certificates {
    /// Makes all of them in `dir`.
    pub(crate) fn create(dir: &Path) -> Result<Self, Failure> {
        let made = make(dir);
        made.map_err(|error| Failure::Machine(format!("certificates: {error}")))?;
        Ok(Self { dir: dir.to_owned() })
    }

    pub(crate) fn anchor(&self) -> PathBuf {
        self.dir.join("anchor.pem")
    }

    /// The certificate of `name`.
    pub(crate) fn certificate(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.crt"))
    }

    /// The key of `name`.
    pub(crate) fn key(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.key"))
    }

    /// Both in one file, as HAProxy wants them.
    pub(crate) fn both(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.pem"))
    }
}

fn make(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name = named("bench");
    let key = KeyPair::generate()?;
    std::fs::write(dir.join("anchor.pem"), params.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(params, key);
    for name in [OUTBOUND, INBOUND] {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        // OpenSSL takes a leaf that is called like its issuer for its own issuer.
        params.distinguished_name = named(name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?.pem();
        std::fs::write(dir.join(format!("{name}.crt")), &certificate)?;
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem())?;
        std::fs::write(dir.join(format!("{name}.pem")), certificate + &key.serialize_pem())?;
    }
    Ok(())
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}
