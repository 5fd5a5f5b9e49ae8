//! The certificate authority of a control plane: checks requests and issues leaves.
//!
//! Created at first start in a state directory and restored from then on, or loaded from files that something
//! else maintains. `serve/certificates.rs` calls it for each Certify, the control plane for its own leaves, and
//! `testkit` for whole meshes in memory. It does not ask who the requester is: the caller proves that (join
//! token, current certificate) between [`Authority::check`] and [`Authority::issue`].

use crate::anchors::{Anchors, BadAnchors};
use crate::certificate::{Malformed, Outline, Validity};
use crate::csr::{self, BadCsr, Checked};
use crate::private::{self, Created, FileError, Readers};
use crate::verify::{Refusal, Usage, check_chain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use weft_model::identity::Id;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// The file in the state directory: private key and certificate in one, so that they always belong together.
pub const FILE: &str = "authority.pem";

/// How long an authority of our own lives. Long, because its end is the end of the mesh unless an operator
/// rotates it, and its expiry is exported and warned about.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What an authority puts into leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// How long a leaf is valid, cut to the issuer's own end.
    pub leaf: Duration,
    /// How far apart clocks may be: added at both ends.
    pub skew: Duration,
}

impl Default for Lifetimes {
    /// 24 hours and 20 seconds, as the peer's.
    fn default() -> Self {
        Self { leaf: Duration::from_secs(24 * 3600), skew: Duration::from_secs(20) }
    }
}

/// PEM files of an authority that something else maintains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerFiles {
    /// The issuing certificate first, then intermediates up to an anchor.
    pub certificates: PathBuf,
    /// Its private key; the group may read it, others may not.
    pub key: PathBuf,
    /// The trust anchors, of which the issuer needs one.
    pub anchors: PathBuf,
}

/// A leaf as `Certify` answers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The leaf, DER.
    pub leaf: Vec<u8>,
    /// What lies between the leaf and the anchors, DER, nearest first.
    pub intermediates: Vec<Vec<u8>>,
    /// When the leaf is valid.
    pub validity: Validity,
}

/// One certificate whose end an operator should see coming.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// What it is.
    pub role: Role,
    /// Its subject.
    pub subject: String,
    /// Its last moment.
    pub not_after: SystemTime,
}

/// What a certificate of the authority is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A root that the mesh trusts.
    Anchor,
    /// What signs leaves, or lies between it and an anchor.
    Issuer,
}

/// How an answer to `Certify` fails, as a gRPC status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The request cannot be read. Not worth a repetition.
    InvalidArgument,
    /// The request can be read, but must not be granted.
    FailedPrecondition,
    /// The authority cannot issue at present. Worth a repetition.
    Unavailable,
    /// Our own mistake.
    Internal,
}

/// Why nothing was issued, or why an authority does not start.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The requester's fault.
    #[error(transparent)]
    Request(#[from] BadCsr),
    /// The issuer does not lead to the anchors, or not any more. The operator's; the text says what to renew.
    #[error("the issuer cannot be used: {0}")]
    Issuer(#[from] Refusal),
    /// The issuing certificate or its key is unsuitable. The operator's.
    #[error("{path}: {problem}", path = .path.display())]
    Unsuitable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file of the authority cannot be read or written, or is readable by others. The operator's.
    #[error(transparent)]
    File(#[from] FileError),
    /// The anchors are unusable. The operator's.
    #[error(transparent)]
    Anchors(#[from] BadAnchors),
    /// The clock, the random source or the encoder failed. Ours.
    #[error("issuing failed: {0}")]
    Internal(String),
}

impl AuthorityError {
    /// The gRPC status of the answer (the peer lets a broken issuer surface as `Unknown`; it is `Unavailable`).
    pub fn class(&self) -> Class {
        match self {
            AuthorityError::Request(BadCsr::Unreadable(_)) => Class::InvalidArgument,
            AuthorityError::Request(_) => Class::FailedPrecondition,
            AuthorityError::Issuer(_)
            | AuthorityError::Unsuitable { .. }
            | AuthorityError::File(_)
            | AuthorityError::Anchors(_) => Class::Unavailable,
            AuthorityError::Internal(_) => Class::Internal,
        }
    }
}

impl From<rcgen::Error> for AuthorityError {
    fn from(error: rcgen::Error) -> Self {
        AuthorityError::Internal(error.to_string())
    }
}

/// Issues certificates. Shared behind an `Arc`; every method may run at the same time as any other.
pub struct Authority {
    loaded: RwLock<Arc<Loaded>>,
    files: Option<IssuerFiles>,
    lifetimes: Lifetimes,
    clock: Arc<dyn TimeProvider>,
}

/// An issuer that has been checked.
struct Loaded {
    issuer: Issuer<'static, KeyPair>,
    anchors: Arc<Anchors>,
    /// Sent along with each leaf: the issuer's chain without the anchors.
    intermediates: Vec<CertificateDer<'static>>,
    expiries: Vec<Expiry>,
    /// No leaf outlives the first of its issuers.
    not_after: SystemTime,
}

impl Authority {
    /// Restores the authority of a state directory, or creates one named `common_name` if there is none. An
    /// existing file is never overwritten, also when it is unreadable. Blocks on the disk.
    pub fn open(
        directory: &Path,
        common_name: &str,
        lifetimes: Lifetimes,
        clock: Arc<dyn TimeProvider>,
    ) -> Result<Self, AuthorityError> {
        let path = directory.join(FILE);
        let text = match private::read(&path, Readers::Owner) {
            Ok(text) => text,
            Err(error) if error.is_missing() => {
                private::directory(directory)?;
                let now = moment(clock.as_ref())?;
                match private::create(&path, &root(common_name, now, lifetimes.skew)?)? {
                    Created::New => tracing::info!(path = %path.display(), "created a certificate authority"),
                    Created::AlreadyThere => {} // another process was faster, and its authority is the one
                }
                private::read(&path, Readers::Owner)?
            }
            Err(error) => return Err(error.into()),
        };
        Self::from_root(&path, &text, lifetimes, clock)
    }

    /// [`Authority::open`] by the system's clock.
    pub fn open_now(
        directory: &Path,
        common_name: &str,
        lifetimes: Lifetimes,
    ) -> Result<Self, AuthorityError> {
        Self::open(directory, common_name, lifetimes, Arc::new(DefaultTimeProvider))
    }

    /// An authority that lives in memory only, for tests and demonstrations.
    pub fn in_memory(lifetimes: Lifetimes, clock: Arc<dyn TimeProvider>) -> Result<Self, AuthorityError> {
        let text = root("root.in-memory", moment(clock.as_ref())?, lifetimes.skew)?;
        Self::from_root(Path::new("(memory)"), &text, lifetimes, clock)
    }

    /// Loads an authority that something else maintains. Blocks on the disk.
    pub fn load(
        files: IssuerFiles,
        lifetimes: Lifetimes,
        clock: Arc<dyn TimeProvider>,
    ) -> Result<Self, AuthorityError> {
        let loaded = Loaded::read(&files, seconds(clock.as_ref())?)?;
        Ok(Self { loaded: RwLock::new(Arc::new(loaded)), files: Some(files), lifetimes, clock })
    }

    /// [`Authority::load`] by the system's clock.
    pub fn load_now(files: IssuerFiles, lifetimes: Lifetimes) -> Result<Self, AuthorityError> {
        Self::load(files, lifetimes, Arc::new(DefaultTimeProvider))
    }

    fn from_root(
        path: &Path,
        text: &str,
        lifetimes: Lifetimes,
        clock: Arc<dyn TimeProvider>,
    ) -> Result<Self, AuthorityError> {
        let chain = certificates(path, text)?;
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes())
            .map_err(|_| unsuitable(path, "no private key in it"))?;
        let anchors = Anchors::from_pem(&certificate_part(text))?;
        let loaded = Loaded::new(path, chain, key, anchors, seconds(clock.as_ref())?)?;
        Ok(Self { loaded: RwLock::new(Arc::new(loaded)), files: None, lifetimes, clock })
    }

    /// Reads the files of [`Authority::load`] again. After an error the issuer before stays in use. Does nothing
    /// for an authority of our own, whose file never changes. Blocks on the disk.
    pub fn reload(&self) -> Result<(), AuthorityError> {
        let Some(files) = &self.files else { return Ok(()) };
        let loaded = Loaded::read(files, seconds(self.clock.as_ref())?)?;
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
        Ok(())
    }

    /// The anchors that its certificates lead to.
    pub fn anchors(&self) -> Arc<Anchors> {
        self.loaded().anchors.clone()
    }

    /// When anchors and issuers end.
    pub fn expiries(&self) -> Vec<Expiry> {
        self.loaded().expiries.clone()
    }

    /// Checks a request (§1I.1): readable, one name equal to `identity`, an ECDSA P-256 key that signed it.
    pub fn check(&self, identity: &Id, csr: &[u8]) -> Result<Checked, AuthorityError> {
        self.loaded().check_alive(moment(self.clock.as_ref())?)?;
        Ok(csr::check(identity, csr)?)
    }

    /// Signs a leaf for a request whose sender has proven who it is.
    pub fn issue(&self, checked: &Checked) -> Result<Issued, AuthorityError> {
        self.sign(checked.id(), checked)
    }

    /// Issues a leaf with a new key, for a name of the control plane itself. Returns the key as PKCS#8.
    pub fn issue_own(&self, identity: &Id) -> Result<(Issued, Vec<u8>), AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok((self.sign(identity, &key)?, key.serialize_der()))
    }

    fn sign(&self, identity: &Id, key: &impl PublicKeyData) -> Result<Issued, AuthorityError> {
        let loaded = self.loaded();
        let now = moment(self.clock.as_ref())?;
        loaded.check_alive(now)?;
        let Lifetimes { leaf, skew } = self.lifetimes;
        let validity = Validity {
            not_before: now.checked_sub(skew).unwrap_or(now),
            not_after: now.checked_add(leaf.saturating_add(skew)).unwrap_or(now).min(loaded.not_after),
        };
        let leaf = leaf_params(identity, validity)?.signed_by(key, &loaded.issuer)?;
        // What a peer would refuse is not handed out: an issuer that does not lead to the anchors shows here.
        for usage in [Usage::Server, Usage::Client] {
            let now = seconds(self.clock.as_ref())?;
            check_chain(&loaded.anchors, leaf.der(), &loaded.intermediates, now, usage)?;
        }
        let intermediates = loaded.intermediates.iter().map(|der| der.to_vec()).collect();
        Ok(Issued { leaf: leaf.der().to_vec(), intermediates, validity })
    }

    fn loaded(&self) -> Arc<Loaded> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("expiries", &self.expiries()).finish_non_exhaustive()
    }
}

impl Loaded {
    fn read(files: &IssuerFiles, now: UnixTime) -> Result<Self, AuthorityError> {
        let chain =
            certificates(&files.certificates, &private::read(&files.certificates, Readers::Anybody)?)?;
        let key = private::read(&files.key, Readers::Group)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|_| unsuitable(&files.key, "no private key in it"))?;
        let anchors = Anchors::from_pem(&private::read(&files.anchors, Readers::Anybody)?)?;
        Self::new(&files.certificates, chain, key, anchors, now)
    }

    fn new(
        path: &Path,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        anchors: Anchors,
        now: UnixTime,
    ) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)
            .map_err(|_| unsuitable(path, "its key is not ECDSA P-256"))?;
        let first = chain.first().ok_or_else(|| unsuitable(path, "no certificate in it"))?;
        check_issuer(path, first, &key)?;
        let mut expiries: Vec<_> = anchors
            .outlines()
            .iter()
            .map(|anchor| Expiry {
                role: Role::Anchor,
                subject: anchor.subject.clone(),
                not_after: anchor.validity.not_after,
            })
            .collect();
        let mut not_after = None::<SystemTime>;
        for der in &chain {
            let Outline { validity, subject } = Outline::parse(der).map_err(Refusal::from)?;
            not_after = Some(not_after.map_or(validity.not_after, |end| end.min(validity.not_after)));
            expiries.push(Expiry { role: Role::Issuer, subject, not_after: validity.not_after });
        }
        let issuer = Issuer::from_ca_cert_der(first, key)?;
        let intermediates = chain.iter().filter(|der| !anchors.contain(der)).cloned().collect();
        let not_after = not_after.ok_or_else(|| unsuitable(path, "no certificate in it"))?;
        let loaded = Self { issuer, anchors: Arc::new(anchors), intermediates, expiries, not_after };
        loaded.prove(now)?;
        Ok(loaded)
    }

    /// Signs a leaf that nobody gets, to learn whether peers would accept it.
    fn prove(&self, now: UnixTime) -> Result<(), AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        self.check_alive(moment)?;
        let validity = Validity { not_before: moment, not_after: self.not_after };
        let id = "probe.invalid".parse().map_err(|e| AuthorityError::Internal(format!("{e}")))?;
        let leaf = leaf_params(&id, validity)?.signed_by(&key, &self.issuer)?;
        check_chain(&self.anchors, leaf.der(), &self.intermediates, now, Usage::Server)?;
        Ok(())
    }

    fn check_alive(&self, now: SystemTime) -> Result<(), AuthorityError> {
        if now <= self.not_after {
            return Ok(());
        }
        let unix = |time| UnixTime::since_unix_epoch(since_epoch(time));
        Err(Refusal::Expired { now: unix(now), not_after: unix(self.not_after) }.into())
    }
}

/// Checks that a certificate may issue others and belongs to `key`.
fn check_issuer(path: &Path, der: &CertificateDer<'_>, key: &KeyPair) -> Result<(), AuthorityError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| Refusal::from(Malformed::Encoding))?;
    if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Err(unsuitable(path, "the private key is not the first certificate's"));
    }
    if !certificate.is_ca() {
        return Err(unsuitable(path, "the first certificate is not a CA's"));
    }
    match certificate.key_usage() {
        Ok(Some(usage)) if !usage.value.key_cert_sign() => {
            Err(unsuitable(path, "the first certificate may not sign others"))
        }
        Ok(_) => Ok(()),
        Err(_) => Err(unsuitable(path, "the first certificate's key usage is unreadable")),
    }
}

/// A new root: key and certificate as PEM.
fn root(common_name: &str, now: SystemTime, skew: Duration) -> Result<String, AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = named(common_name);
    params.serial_number = Some(serial()?);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(now.checked_sub(skew).unwrap_or(now));
    params.not_after = epoch + since_epoch(now) + ROOT_LIFETIME;
    // Room for one intermediate, so that an operator may take the root offline later.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    Ok(format!("{}{}", key.serialize_pem(), certificate.pem()))
}

fn leaf_params(identity: &Id, validity: Validity) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![match identity {
        Id::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
        Id::Uri(uri) => SanType::URI(uri.as_ref().try_into()?),
    }];
    // A common name has at most 64 characters (X.520); it is for people, the SAN is what counts.
    params.distinguished_name =
        if identity.as_str().len() <= 64 { named(identity.as_str()) } else { DistinguishedName::new() };
    params.serial_number = Some(serial()?);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(validity.not_before);
    params.not_after = epoch + since_epoch(validity.not_after);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// 128 random bits, so that nobody can foresee what will be signed.
fn serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| AuthorityError::Internal("no random numbers".into()))?;
    Ok(SerialNumber::from_slice(&bytes))
}

fn certificates(path: &Path, text: &str) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let chain = chain.map_err(|_| unsuitable(path, "the PEM text is malformed"))?;
    if chain.is_empty() || chain.len() > crate::store::MAX_CHAIN {
        return Err(unsuitable(path, "no certificate in it, or too many"));
    }
    Ok(chain)
}

/// The text after the private key, which we write first.
fn certificate_part(text: &str) -> String {
    text.find("-----BEGIN CERTIFICATE-----").map(|at| text[at..].to_owned()).unwrap_or_default()
}

fn unsuitable(path: &Path, problem: &str) -> AuthorityError {
    AuthorityError::Unsuitable { path: path.to_owned(), problem: problem.into() }
}

fn seconds(clock: &dyn TimeProvider) -> Result<UnixTime, AuthorityError> {
    clock.current_time().ok_or_else(|| AuthorityError::Internal("the clock gives no time".into()))
}

fn moment(clock: &dyn TimeProvider) -> Result<SystemTime, AuthorityError> {
    let now = Duration::from_secs(seconds(clock)?.as_secs());
    SystemTime::UNIX_EPOCH
        .checked_add(now)
        .ok_or_else(|| AuthorityError::Internal("the clock's time is out of range".into()))
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
