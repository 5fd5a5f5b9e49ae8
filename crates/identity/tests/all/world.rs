//! What the tests share: a clock to set, a CA that signs anything, stores, and handshakes in memory.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use weft_identity::anchors::Anchors;
use weft_identity::authority::{Authority, Lifetimes};
use weft_identity::store::{Accept, Accepted, Connected, LocalName, Store, TlsError};
use weft_model::identity::{Id, TlsTarget};
use weft_net::stream::Stream;

/// Where every clock starts: some day in 2026.
pub(crate) const START: u64 = 1_790_000_000;

pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// A clock that stands still unless it is set.
#[derive(Debug, Clone)]
pub(crate) struct Clock(Arc<AtomicU64>);

impl Clock {
    pub(crate) fn new() -> Self {
        Clock(Arc::new(AtomicU64::new(START)))
    }

    pub(crate) fn forward(&self, by: Duration) {
        self.0.fetch_add(by.as_secs(), Ordering::Relaxed);
    }

    pub(crate) fn back(&self, by: Duration) {
        self.0.fetch_sub(by.as_secs(), Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.0.load(Ordering::Relaxed))
    }

    pub(crate) fn provider(&self) -> Arc<dyn TimeProvider> {
        Arc::new(self.clone())
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
    }
}

pub(crate) fn authority(clock: &Clock) -> Authority {
    Authority::in_memory(Lifetimes::default(), clock.provider()).unwrap()
}

pub(crate) fn id(text: &str) -> Id {
    text.parse().unwrap()
}

/// A store with this identity, reached by the SNI `<label>.sni`, without a certificate.
pub(crate) fn bare(identity: &str, anchors: &Anchors, clock: &Clock) -> Store {
    let label = identity.rsplit('/').next().unwrap();
    let name = LocalName { id: id(identity), server_name: format!("{label}.sni").parse().unwrap() };
    Store::with_clock(name, anchors.clone(), clock.provider())
}

/// A store with a certificate of the authority, trusting that authority.
pub(crate) fn store(identity: &str, authority: &Authority, clock: &Clock) -> Store {
    let store = bare(identity, &authority.anchors(), clock);
    certify(&store, authority);
    store
}

pub(crate) fn certify(store: &Store, authority: &Authority) {
    let (issued, key) = authority.issue_own(store.local_id()).unwrap();
    let mut chain = vec![issued.leaf];
    chain.extend(issued.intermediates);
    store.install(chain, key).unwrap();
}

/// How to reach a store's owner.
pub(crate) fn target(store: &Store) -> TlsTarget {
    let LocalName { id, server_name } = store.local_name().clone();
    TlsTarget { id, server_name }
}

pub(crate) const PLAIN: Accept = Accept { alpn: &[], timeout: Duration::from_secs(5) };

pub(crate) const TRANSPORT: Accept =
    Accept { alpn: &[b"transport.l5d.io/v1"], timeout: Duration::from_secs(5) };

/// One handshake between two stores over memory.
pub(crate) async fn shake(
    client: &Store,
    server: &Store,
    to: &TlsTarget,
    (accept, ask): (Accept, &[&[u8]]),
) -> (Result<Connected, TlsError>, Result<Accepted, TlsError>) {
    let (near, far) = tokio::io::duplex(16 << 10);
    tokio::join!(client.connect(Stream::memory(near), to, ask), server.accept(Stream::memory(far), accept))
}

/// A CA that signs whatever it is asked to.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
    pub(crate) key_pem: String,
}

impl Ca {
    pub(crate) fn root(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = ca_params(name);
        let pem = params.self_signed(&key).unwrap().pem();
        Ca { key_pem: key.serialize_pem(), issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn intermediate(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Ca { key_pem: key.serialize_pem(), issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn anchors(&self) -> Anchors {
        Anchors::from_pem(&self.pem).unwrap()
    }

    /// A leaf of two days around the start.
    pub(crate) fn leaf(&self, sans: Vec<SanType>, key: &KeyPair) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = sans;
        let start = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(START);
        params.not_before = start - DAY;
        params.not_after = start + DAY;
        params.signed_by(key, &self.issuer).unwrap().der().to_vec()
    }
}

pub(crate) fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

pub(crate) fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// A directory of this test's own, removed at its end.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("weft-identity-{:016x}", fastrand::u64(..)));
        std::fs::create_dir(&path).unwrap();
        Directory(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        set_mode(&path, mode);
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
