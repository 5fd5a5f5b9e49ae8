//! Who we are: our name, our current certificate and the anchors we trust, and the handshakes made with them.
//!
//! One [`Store`] per name. The proxy has one, filled by `renew`; the control plane has one for each name that
//! proxies expect. `proxy/serve.rs` accepts with it, `connect` and `discover` connect with it. A certificate is
//! swapped as a whole: handshakes begun later use the new one, sessions that exist live on. It never writes a
//! key anywhere and never decides whether a peer is authorized.

use crate::anchors::Anchors;
use crate::certificate::Validity;
use crate::handshake;
use crate::tls;
use crate::verify::{AnyClient, Refusal, ServerIs, Usage, check_chain, check_identity};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use weft_model::identity::{Id, TlsTarget};
use weft_model::name::DnsName;
use weft_net::stream::Stream;

pub use crate::handshake::{Accept, Accepted, Connected, TlsError, disown};

/// Certificates in a chain of ours; longer ones would not fit foreign peers' limits either.
pub const MAX_CHAIN: usize = 8;

/// Our own names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalName {
    /// The identity that our certificate must carry.
    pub id: Id,
    /// The SNI that peers send to reach us; independent of `id`.
    pub server_name: DnsName,
}

/// Our identity as TLS uses it. Cheap to clone; all clones share one certificate.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    name: LocalName,
    clock: Arc<dyn TimeProvider>,
    material: watch::Sender<Arc<Material>>,
}

/// Everything a handshake needs, swapped as one.
struct Material {
    anchors: Arc<Anchors>,
    own: Option<Own>,
    /// Template; each connection adds the identity that it expects.
    client: ClientConfig,
    server: Arc<ServerConfig>,
}

#[derive(Clone)]
struct Own {
    key: Arc<CertifiedKey>,
    validity: Validity,
}

/// Why a certificate was not installed; the one before stays in use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The issued certificate would be refused by our own peers. The issuer's fault, or a clock's; a new attempt
    /// may succeed.
    #[error("the certificate issued to us is not usable: {0}")]
    Refused(#[from] Refusal),
    /// No certificate at all, or more than [`MAX_CHAIN`]. The issuer's fault.
    #[error("a chain of {0} certificates was issued")]
    Chain(usize),
    /// The key is unreadable, not ECDSA P-256, or not the certificate's. Whoever supplies the key.
    #[error("the private key does not serve: {0}")]
    Key(String),
    /// The clock has no time. The machine's fault.
    #[error("the clock gives no time")]
    Clock,
}

impl Store {
    /// A store without a certificate, on the system's clock.
    pub fn new(name: LocalName, anchors: Anchors) -> Self {
        Self::with_clock(name, anchors, Arc::new(DefaultTimeProvider))
    }

    /// A store without a certificate, on a given clock.
    pub fn with_clock(name: LocalName, anchors: Anchors, clock: Arc<dyn TimeProvider>) -> Self {
        let material = Material::new(&name, &clock, Arc::new(anchors), None);
        Self { shared: Arc::new(Shared { name, clock, material: watch::Sender::new(Arc::new(material)) }) }
    }

    /// Our names.
    pub fn local_name(&self) -> &LocalName {
        &self.shared.name
    }

    /// Our identity.
    pub fn local_id(&self) -> &Id {
        &self.shared.name.id
    }

    /// The anchors in force.
    pub fn anchors(&self) -> Arc<Anchors> {
        self.material().anchors.clone()
    }

    /// The current time by the store's clock; `None` when that clock fails.
    pub fn now(&self) -> Option<SystemTime> {
        let now = self.shared.clock.current_time()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(now.as_secs()))
    }

    /// Whether a certificate is installed, expired or not.
    pub fn is_ready(&self) -> bool {
        self.material().own.is_some()
    }

    /// Waits until a certificate is installed.
    pub async fn wait_ready(&self) {
        // Fails only without a sender, and `self` holds it.
        let _ = self.shared.material.subscribe().wait_for(|material| material.own.is_some()).await;
    }

    /// When our certificate is valid.
    pub fn validity(&self) -> Option<Validity> {
        self.material().own.as_ref().map(|own| own.validity)
    }

    /// Whether a certificate is installed that peers would accept now.
    pub fn holds_valid(&self) -> bool {
        matches!((self.validity(), self.now()), (Some(validity), Some(now)) if validity.contains(now))
    }

    /// Checks a chain (leaf first, anchors left out) and its PKCS#8 key as a peer would, and puts them in force
    /// for handshakes begun from now on. After an error the certificate before stays in use.
    pub fn install(&self, chain_der: Vec<Vec<u8>>, key_pkcs8: Vec<u8>) -> Result<Validity, IdentityError> {
        let length = chain_der.len();
        let chain: Vec<_> = chain_der.into_iter().map(CertificateDer::from).collect();
        let (leaf, intermediates) = match chain.split_first() {
            Some(parts) if length <= MAX_CHAIN => parts,
            _ => return Err(IdentityError::Chain(length)),
        };
        let now = self.shared.clock.current_time().ok_or(IdentityError::Clock)?;
        let anchors = self.anchors();
        let certificate = check_chain(&anchors, leaf, intermediates, now, Usage::Server)?;
        check_chain(&anchors, leaf, intermediates, now, Usage::Client)?;
        check_identity(&certificate, self.local_id())?;
        let validity = certificate.validity;
        let own = Own { key: certified(chain, key_pkcs8)?, validity };
        self.replace(|material| (material.anchors.clone(), Some(own.clone())));
        Ok(validity)
    }

    /// Puts other anchors in force for handshakes begun from now on; our own certificate stays.
    pub fn replace_anchors(&self, anchors: Anchors) {
        let anchors = Arc::new(anchors);
        self.replace(|material| (anchors.clone(), material.own.clone()));
    }

    /// Terminates TLS on a connection whose client asks for our name. Any other name fails.
    ///
    /// A client certificate is optional and verified when shown. Dropping the future closes the connection.
    pub async fn accept(&self, stream: Stream, accept: Accept) -> Result<Accepted, TlsError> {
        let config = self.server(accept.alpn)?;
        handshake::accept(config, stream, self.shared.name.server_name.clone(), accept.timeout).await
    }

    /// Connects to a server that must prove to be `target.id`; our certificate is offered if there is one.
    ///
    /// `alpn` lists the protocols asked for, best first; with none, no ALPN is sent. The caller bounds the time.
    /// Dropping the future closes the connection.
    pub async fn connect(
        &self,
        stream: Stream,
        target: &TlsTarget,
        alpn: &[&[u8]],
    ) -> Result<Connected, TlsError> {
        let config = self.material().client(target.id.clone(), alpn);
        handshake::connect(config, stream, &target.server_name).await
    }

    fn server(&self, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
        let material = self.material();
        if material.own.is_none() {
            return Err(TlsError::NotReady);
        }
        if alpn.is_empty() {
            return Ok(material.server.clone());
        }
        let mut config = ServerConfig::clone(&material.server);
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }

    fn material(&self) -> Arc<Material> {
        self.shared.material.borrow().clone()
    }

    fn replace(&self, parts: impl Fn(&Material) -> (Arc<Anchors>, Option<Own>)) {
        let Shared { name, clock, material } = &*self.shared;
        material.send_modify(|current| {
            let (anchors, own) = parts(current);
            *current = Arc::new(Material::new(name, clock, anchors, own));
        });
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("name", &self.shared.name)
            .field("validity", &self.validity())
            .finish_non_exhaustive()
    }
}

/// Terminates TLS for whichever of several own names the client asks for. For servers with several identities,
/// where nobody has read the ClientHello before; a proxy calls [`Store::accept`].
pub async fn accept_any(stores: &[Store], stream: Stream, accept: Accept) -> Result<Accepted, TlsError> {
    let handshake = async {
        let start = handshake::start(stream).await?;
        let hello = start.client_hello();
        let asked = hello.server_name();
        let named = |store: &&Store| asked.is_some_and(|asked| store.shared.name.is_asked_for(asked));
        let Some(store) = stores.iter().find(named) else {
            let asked = asked.map(str::to_owned);
            handshake::disown(start.io).await;
            return Err(TlsError::UnknownName(asked));
        };
        let config = store.server(accept.alpn)?;
        handshake::finish(start, config, store.shared.name.server_name.clone()).await
    };
    handshake::within(accept.timeout, Box::pin(handshake)).await
}

impl LocalName {
    /// DNS names compare without regard to case.
    fn is_asked_for(&self, sni: &str) -> bool {
        sni.eq_ignore_ascii_case(self.server_name.as_str())
    }
}

impl Material {
    fn new(name: &LocalName, clock: &Arc<dyn TimeProvider>, anchors: Arc<Anchors>, own: Option<Own>) -> Self {
        let key = own.as_ref().map(|own| own.key.clone());
        let offered = Arc::new(Offered { name: name.clone(), key });
        let nobody = ServerIs { anchors: anchors.clone(), wanted: name.id.clone() };
        let client = tls::client(clock.clone(), Arc::new(nobody), offered.clone());
        let clients = Arc::new(AnyClient { anchors: anchors.clone() });
        let server = Arc::new(tls::server(clock.clone(), clients, offered));
        Self { anchors, own, client, server }
    }

    fn client(&self, wanted: Id, alpn: &[&[u8]]) -> ClientConfig {
        let mut config = self.client.clone();
        let verifier = ServerIs { anchors: self.anchors.clone(), wanted };
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config
    }
}

/// Shows our certificate where it may be shown.
#[derive(Debug)]
struct Offered {
    name: LocalName,
    key: Option<Arc<CertifiedKey>>,
}

impl ResolvesClientCert for Offered {
    fn resolve(&self, _roots: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.key.clone().filter(|_| schemes.contains(&SCHEME))
    }

    fn has_certs(&self) -> bool {
        self.key.is_some()
    }
}

impl ResolvesServerCert for Offered {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let ours = hello.server_name().is_some_and(|sni| self.name.is_asked_for(sni));
        self.key.clone().filter(|_| ours && hello.signature_schemes().contains(&SCHEME))
    }
}

/// What every certificate of the mesh signs with.
const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key_pkcs8: Vec<u8>,
) -> Result<Arc<CertifiedKey>, IdentityError> {
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key_pkcs8));
    let key = tls::provider()
        .key_provider
        .load_private_key(der)
        .map_err(|error| IdentityError::Key(error.to_string()))?;
    if key.choose_scheme(&[SCHEME]).is_none() {
        return Err(IdentityError::Key("it is not an ECDSA P-256 key".into()));
    }
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|_| IdentityError::Key("it is not the certificate's".into()))?;
    Ok(Arc::new(certified))
}
