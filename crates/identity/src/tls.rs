//! The one place where TLS parameters are chosen: provider, versions, suites, key exchange, resumption.
//!
//! Called by `store` for every configuration, by `verify` for the signature algorithms and by `certificate`
//! checks of other files. The provider is passed on explicitly and never installed for the process, so that
//! no library picks another one unseen. The feature `fips` changes this file alone.

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ServerConfig, SupportedCipherSuite};
use std::sync::{Arc, LazyLock};

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: SUITES.to_vec(),
        kx_groups: KEY_EXCHANGE.to_vec(),
        ..aws_lc_rs::default_provider()
    })
});

/// Cheapest suite on current CPUs first; CHACHA20 for those without AES instructions.
#[cfg(not(feature = "fips"))]
const SUITES: &[SupportedCipherSuite] = &[
    aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
    aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
    aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
];
#[cfg(feature = "fips")]
const SUITES: &[SupportedCipherSuite] =
    &[aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384, aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];

/// The post-quantum hybrid first: what is recorded today must stay secret later.
#[cfg(not(feature = "fips"))]
const KEY_EXCHANGE: &[&dyn SupportedKxGroup] = &[
    aws_lc_rs::kx_group::X25519MLKEM768,
    aws_lc_rs::kx_group::X25519,
    aws_lc_rs::kx_group::SECP256R1,
    aws_lc_rs::kx_group::SECP384R1,
];
#[cfg(feature = "fips")]
const KEY_EXCHANGE: &[&dyn SupportedKxGroup] =
    &[aws_lc_rs::kx_group::SECP256R1, aws_lc_rs::kx_group::SECP384R1];

const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// Our provider always supports TLS 1.3; a test builds both configurations.
const HAS_TLS13: &str = "the provider has TLS 1.3 suites and key exchange";

/// The cryptography of the whole process.
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    &PROVIDER
}

/// The cryptography of the process in words, as the peer's `rustls_info` has it: suites, key exchange, random
/// numbers, key provider, whether it is FIPS.
pub fn describe() -> [(&'static str, String); 5] {
    let list = |names: Vec<String>| names.join(",");
    let provider = provider();
    [
        ("tls_suites", list(provider.cipher_suites.iter().map(|s| format!("{:?}", s.suite())).collect())),
        ("tls_kx_groups", list(provider.kx_groups.iter().map(|g| format!("{:?}", g.name())).collect())),
        ("tls_rand", "aws-lc-rs".to_owned()),
        ("tls_key_provider", "aws-lc-rs".to_owned()),
        ("tls_fips", provider.fips().to_string()),
    ]
}

/// The signature algorithms accepted in certificates and handshakes.
pub(crate) fn signatures() -> &'static WebPkiSupportedAlgorithms {
    &PROVIDER.signature_verification_algorithms
}

/// A client: no ALPN yet, no resumption. A resumed session repeats neither the check of the server's
/// certificate nor that of ours, so it would outlive the expiry and the revocation by rotation that the
/// mesh relies on; and connections between proxies live long, so little would be saved.
pub(crate) fn client(
    clock: Arc<dyn TimeProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
    certificate: Arc<dyn ResolvesClientCert>,
) -> ClientConfig {
    let mut config = ClientConfig::builder_with_details(provider().clone(), clock)
        .with_protocol_versions(VERSIONS)
        .expect(HAS_TLS13)
        .dangerous() // rustls' word for "not the web's rules": names here are independent of the SNI
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(certificate);
    config.resumption = Resumption::disabled();
    config
}

/// A server: no ALPN yet, no session tickets, no stored sessions, no early data.
pub(crate) fn server(
    clock: Arc<dyn TimeProvider>,
    verifier: Arc<dyn ClientCertVerifier>,
    certificate: Arc<dyn ResolvesServerCert>,
) -> ServerConfig {
    let mut config = ServerConfig::builder_with_details(provider().clone(), clock)
        .with_protocol_versions(VERSIONS)
        .expect(HAS_TLS13)
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config
}
