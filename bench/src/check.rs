//! Whether a contender does what the case asks, before it is measured: right answers from the application
//! itself, and in a pair nothing without mutual TLS.
//!
//! The load's own parsers are as small as their task; here a complete HTTP/2 client and a complete TLS client
//! look once at everything.

use crate::app::{App, BODY};
use crate::case::Case;
use crate::contender::{Inner, Running};
use crate::failure::Failure;
use crate::load::{AUTHORITY, ask, ask_status, send_summed};
use crate::usage::parse_destinations;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// Enough for connections to be kept alive or not.
const REQUESTS: usize = 50;
/// Opaque bytes that are compared.
const BYTES: usize = 8 << 20;
const ANSWER: Duration = Duration::from_secs(10);

/// Looks at everything; what a pair negotiates, in words, for the report.
///
/// # Errors
/// The first thing that is not as it must be.
pub(crate) async fn check(running: &Running, case: Case, app: &App) -> Result<Option<String>, Failure> {
    let failed = |why| Failure::Check { who: running.contender.name(), case: case.name(), why };
    let all = async {
        answers(running.entry, case, app).await?;
        match &running.inner {
            Some(inner) => mutual_tls(inner).await.map(Some),
            None => Ok(None),
        }
    };
    match tokio::time::timeout(ANSWER, all).await {
        Ok(outcome) => outcome.map_err(failed),
        Err(_) => Err(failed(format!("the checks did not end within {ANSWER:?}"))),
    }
}

async fn answers(entry: SocketAddr, case: Case, app: &App) -> Result<(), String> {
    let served = |app: &App| (app.counts.http1.load(Relaxed), app.counts.http2.load(Relaxed));
    let before = served(app);
    if case == Case::Tcp {
        return send_summed(entry, BYTES).await;
    }
    let stream = TcpStream::connect(entry).await.map_err(|error| error.to_string())?;
    if case.is_http2() {
        let mut client = http2_client(stream).await?;
        for _ in 0..REQUESTS {
            http2_ask(&mut client).await?;
        }
    } else {
        let mut stream = stream;
        for _ in 0..REQUESTS {
            ask(&mut stream).await?;
        }
    }
    let after = served(app);
    let expected = if case.is_http2() { (0, REQUESTS as u64) } else { (REQUESTS as u64, 0) };
    let found = (after.0 - before.0, after.1 - before.1);
    match found == expected {
        true => Ok(()),
        false => Err(format!(
            "{REQUESTS} requests reached the application as {} of HTTP/1 and {} of HTTP/2",
            found.0, found.1
        )),
    }
}

async fn http2_client<S>(stream: S) -> Result<h2::client::SendRequest<bytes::Bytes>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (client, connection) = h2::client::handshake(stream).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    Ok(client)
}

async fn http2_ask(client: &mut h2::client::SendRequest<bytes::Bytes>) -> Result<(), String> {
    let text = |error: h2::Error| error.to_string();
    let request = http::Request::get(format!("http://{AUTHORITY}/")).body(());
    let request = request.map_err(|error| error.to_string())?;
    std::future::poll_fn(|context| client.poll_ready(context)).await.map_err(text)?;
    let (response, _) = client.send_request(request, true).map_err(text)?;
    let response = response.await.map_err(text)?;
    if response.status() != http::StatusCode::OK {
        return Err(format!("answered {}", response.status()));
    }
    let (mut stream, mut body) = (response.into_body(), Vec::new());
    while let Some(chunk) = stream.data().await {
        let chunk = chunk.map_err(text)?;
        stream.flow_control().release_capacity(chunk.len()).map_err(text)?;
        body.extend_from_slice(&chunk);
    }
    if body == BODY { Ok(()) } else { Err(format!("another body, of {} bytes", body.len())) }
}

/// Looks where the requests went, then tries to get in without TLS, and with TLS but without a certificate.
async fn mutual_tls(inner: &Inner) -> Result<String, String> {
    let table = std::fs::read_to_string("/proc/net/tcp").map_err(|error| error.to_string())?;
    let destinations = parse_destinations(&table);
    if !destinations.contains(&inner.tls) {
        return Err(format!("nobody is connected to {}", inner.tls));
    }
    if let Some(bypass) = inner.bypass.filter(|bypass| destinations.contains(bypass)) {
        return Err(format!("{bypass} is used, where there is no TLS"));
    }
    if ask_status(inner.tls).await? == Some(200) {
        return Err(format!("{} serves plaintext, so the pair may not use TLS", inner.tls));
    }
    let stream = TcpStream::connect(inner.tls).await.map_err(|error| error.to_string())?;
    let name = ServerName::try_from(inner.server_name.clone()).map_err(|error| error.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(anonymous(inner.alpn)?));
    let stream = connector.connect(name, stream).await;
    let mut stream = stream.map_err(|error| format!("TLS as {}: {error}", inner.server_name))?;
    let (_, session) = stream.get_ref();
    let version = session.protocol_version().map(|version| format!("{version:?}"));
    let suite = session.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
    let (version, suite) = (version.unwrap_or_default(), suite.unwrap_or_default());
    if (version.as_str(), suite.as_str()) != ("TLSv1_3", "TLS13_AES_128_GCM_SHA256") {
        return Err(format!("negotiates {version} with {suite}"));
    }
    let answered = async {
        stream.write_all(&inner.preamble).await.map_err(|error| error.to_string())?;
        let mut client = http2_client(stream).await?;
        http2_ask(&mut client).await
    };
    if answered.await.is_ok() {
        return Err("serves clients without a certificate".to_owned());
    }
    Ok(format!("{version}, {suite}"))
}

/// A client that has no certificate and takes any: it looks, and trusts nobody with anything.
fn anonymous(alpn: &str) -> Result<ClientConfig, String> {
    let mut provider = aws_lc_rs::default_provider();
    let cheapest =
        |suite: &rustls::SupportedCipherSuite| *suite != aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.sort_by_key(cheapest);
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]);
    let mut config = builder
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
