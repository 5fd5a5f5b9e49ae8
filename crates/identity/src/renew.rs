//! Keeps a certificate fresh: asks for one at start, and for the next long before it ends.
//!
//! The proxy runs one [`Renewal`] against the control plane's Certify (`discover/certify.rs` implements
//! [`Certify`]); the control plane runs one per own name against its own authority. The key never
//! leaves the process. A failure never takes a certificate away: the one in force stays until a better
//! one is there, even expired, because then the peers' refusals say what is wrong.

use crate::authority::Authority;
use crate::certificate::Validity;
use crate::join::JoinFile;
use crate::keys::Keys;
use crate::private::FileError;
use crate::store::{IdentityError, Store};
use crate::token::{MAX_TOKEN, Token};
use std::future::ready;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use weft_model::identity::Id;

/// Wait after a first failure; doubled with each further one.
const FIRST_RETRY: Duration = Duration::from_millis(200);

/// Longest sleep without a look at the wall clock: a machine that was suspended notices within this time that
/// its certificate aged meanwhile.
const LOOK: Duration = Duration::from_secs(60);

/// Asks somebody for a certificate.
pub trait Certify: Send + Sync {
    /// One attempt. The caller bounds its time and repeats it; dropping the future gives it up.
    fn certify(&self, request: CertifyRequest) -> Certified<'_>;
}

/// The future of one attempt.
pub type Certified<'a> = Pin<Box<dyn Future<Output = Result<CertifyResponse, CertifyError>> + Send + 'a>>;

/// What to ask for.
#[derive(Clone, Debug)]
pub struct CertifyRequest {
    /// Who we are.
    pub identity: Id,
    /// How to prove it.
    pub proof: Proof,
    /// PKCS#10 request, DER.
    pub csr: Vec<u8>,
}

/// How a request is proven.
#[derive(Clone, Debug)]
pub enum Proof {
    /// By a bearer token in the message.
    Token(Token),
    /// By the certificate in force: the message's token stays empty, and the connection must be one on which our
    /// certificate was offered, so not one that was opened before we had any.
    CurrentCertificate,
    /// Not at all: we ask ourselves.
    InProcess,
}

/// What was issued.
#[derive(Clone, Debug)]
pub struct CertifyResponse {
    /// The leaf, DER.
    pub leaf: Vec<u8>,
    /// The certificates between the leaf and the anchors, DER.
    pub intermediates: Vec<Vec<u8>>,
    /// Until when the issuer says it is valid.
    pub valid_until: SystemTime,
}

/// Why nothing was issued. Every failure is repeated, since what is refused today may be granted tomorrow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertifyError {
    /// Nobody answered. The network's or the control plane's fault.
    #[error("the control plane cannot be reached: {0}")]
    Unreachable(String),
    /// The control plane said no. Ours or its operator's; the text is its message.
    #[error("the control plane refuses a certificate: {0}")]
    Refused(String),
}

/// Where the proof comes from.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A file with a bearer token, read anew for each attempt because something else renews it.
    TokenFile(PathBuf),
    /// A join file: its token until we have a certificate, and from then on the certificate in force. Should that
    /// be refused, token and certificate are tried in turn.
    JoinFile(PathBuf),
    /// None is needed: the authority is our own.
    OwnAuthority,
}

/// When to renew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Shortest wait before a renewal, and longest between attempts while there is no valid certificate.
    pub min_refresh: Duration,
    /// Longest wait of all.
    pub max_refresh: Duration,
    /// Bound on one attempt.
    pub attempt: Duration,
}

impl Default for Limits {
    /// The peer's 10 seconds and 24 hours; 10 seconds an attempt, after which the channel is as good as dead.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { min_refresh: seconds(10), max_refresh: seconds(24 * 3600), attempt: seconds(10) }
    }
}

impl Limits {
    /// How long to wait after a success: 70 % of the remaining lifetime, within the limits.
    pub fn after_success(&self, remaining: Duration) -> Duration {
        self.clamp(remaining.mul_f64(0.7))
    }

    /// How long to wait after the `failures`th failure in a row (from 1), with `remaining` lifetime left (zero
    /// without a certificate). Doubles from 200 ms to a tenth of what remains, within the limits, so that a
    /// reachable control plane is always found well before the end. `draw` in 0..1 spreads the herd over the
    /// upper half of each wait.
    pub fn after_failure(&self, failures: u32, remaining: Duration, draw: f64) -> Duration {
        let ceiling = self.clamp(remaining / 10);
        let doubled = FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(30));
        doubled.min(ceiling).mul_f64(0.5 + draw.clamp(0.0, 1.0) / 2.0)
    }

    fn clamp(&self, wait: Duration) -> Duration {
        wait.min(self.max_refresh).max(self.min_refresh)
    }
}

/// How it stands, for `/ready`, `/state.json` and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// When the certificate in force is valid; `None` before the first.
    pub validity: Option<Validity>,
    /// When the last certificate was installed.
    pub refreshed: Option<SystemTime>,
    /// Certificates installed since the start.
    pub issued: u64,
    /// Failed attempts since the start.
    pub failed: u64,
    /// Failed attempts since the last success.
    pub failed_in_a_row: u32,
    /// Why the last attempt failed; `None` after a success.
    pub last_error: Option<String>,
}

impl State {
    /// What `/ready` waits for; `None` once there is a certificate.
    pub fn waiting(&self) -> Option<String> {
        if self.validity.is_some() {
            return None;
        }
        Some(match &self.last_error {
            None => "waiting for identity: no answer yet".into(),
            Some(error) => format!("waiting for identity: last error: {error}"),
        })
    }
}

/// Why an attempt failed, or why renewing cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// No key or request could be made. Ours.
    #[error("no key or signing request could be made: {0}")]
    Key(String),
    /// The token cannot be read. Whoever provides it.
    #[error("{0}")]
    Credential(#[from] FileError),
    /// Nothing was issued.
    #[error("{0}")]
    Certify(#[from] CertifyError),
    /// No answer in time.
    #[error("the control plane did not answer within {0:?}")]
    Timeout(Duration),
    /// What was issued is unusable.
    #[error("{0}")]
    Install(#[from] IdentityError),
    /// The answer's own expiry has passed already. The issuer's fault, or a clock's.
    #[error("the certificate issued to us has expired already")]
    Expired,
}

/// The loop for one identity.
pub struct Renewal {
    store: Store,
    certify: Arc<dyn Certify>,
    credential: Credential,
    limits: Limits,
    keys: Keys,
    state: watch::Sender<State>,
}

impl Renewal {
    /// Prepares to renew the store's certificate, with keys of our own. Nothing is asked for before
    /// [`Renewal::run`].
    pub fn new(
        store: Store,
        certify: Arc<dyn Certify>,
        credential: Credential,
        limits: Limits,
    ) -> (Self, watch::Receiver<State>) {
        let (state, watching) = watch::channel(State::default());
        (Self { store, certify, credential, limits, keys: Keys::Own, state }, watching)
    }

    /// The same with other keys.
    #[must_use]
    pub fn with_keys(self, keys: Keys) -> Self {
        Self { keys, ..self }
    }

    /// Renews for ever. Dropping the future stops renewing and leaves the certificate in force.
    pub async fn run(self) {
        loop {
            let failures = self.state.borrow().failed_in_a_row;
            let wait = match self.attempt(failures).await {
                Ok(validity) => {
                    self.state.send_modify(|state| {
                        state.validity = Some(validity);
                        state.refreshed = Some(SystemTime::now());
                        state.issued += 1;
                        state.failed_in_a_row = 0;
                        state.last_error = None;
                    });
                    let remaining = self.remaining(validity);
                    let wait = self.limits.after_success(remaining);
                    tracing::info!(id = %self.store.local_id(), ?remaining, next = ?wait, "certificate issued");
                    wait
                }
                Err(error) => {
                    let failures = failures.saturating_add(1);
                    let remaining =
                        self.store.validity().map(|validity| self.remaining(validity)).unwrap_or_default();
                    let wait = self.limits.after_failure(failures, remaining, fastrand::f64());
                    tracing::warn!(id = %self.store.local_id(), %error, ?remaining, retry = ?wait, "no certificate");
                    self.state.send_modify(|state| {
                        state.failed += 1;
                        state.failed_in_a_row = failures;
                        state.last_error = Some(error.to_string().chars().take(500).collect());
                    });
                    wait
                }
            };
            self.rest(wait).await;
        }
    }

    async fn attempt(&self, failures: u32) -> Result<Validity, RenewError> {
        let proof = self.proof(failures).await?;
        let identity = self.store.local_id().clone();
        let pair = self.keys.next(&identity).map_err(|error| RenewError::Key(error.to_string()))?;
        let request = CertifyRequest { identity, proof, csr: pair.csr.clone() };
        let limit = self.limits.attempt;
        let response =
            timeout(limit, self.certify.certify(request)).await.map_err(|_| RenewError::Timeout(limit))??;
        if self.store.now().is_none_or(|now| response.valid_until <= now) {
            return Err(RenewError::Expired);
        }
        let mut chain = vec![response.leaf];
        chain.extend(response.intermediates);
        let validity = self.store.install(chain, pair.key.clone())?;
        Ok(Validity { not_after: validity.not_after.min(response.valid_until), ..validity })
    }

    async fn proof(&self, failures: u32) -> Result<Proof, RenewError> {
        match &self.credential {
            Credential::OwnAuthority => Ok(Proof::InProcess),
            Credential::TokenFile(path) => Ok(Proof::Token(token(path).await?)),
            // The token is kept back while the certificate serves, and it may well be spent or expired by now;
            // but if the certificate is refused, it is the only other thing we have.
            Credential::JoinFile(_) if self.store.holds_valid() && failures.is_multiple_of(2) => {
                Ok(Proof::CurrentCertificate)
            }
            Credential::JoinFile(path) => {
                let read = path.clone();
                let joined = tokio::task::spawn_blocking(move || JoinFile::read(&read)).await;
                let file = joined.map_err(|_| FileError::content(path, "reading it was stopped"))??;
                Ok(Proof::Token(file.token))
            }
        }
    }

    fn remaining(&self, validity: Validity) -> Duration {
        self.store.now().map(|now| validity.remaining(now)).unwrap_or_default()
    }

    /// Waits by the monotonic clock or by the wall clock, whichever is through first: the former stands still
    /// while a machine is suspended, the latter may be set back.
    async fn rest(&self, wait: Duration) {
        let end = Instant::now() + wait;
        let wall_end = self.store.now().and_then(|now| now.checked_add(wait));
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let passed = matches!((self.store.now(), wall_end), (Some(now), Some(end)) if now >= end);
            if left.is_zero() || passed {
                return;
            }
            sleep(left.min(LOOK)).await;
        }
    }
}

/// Our own authority asks nobody for proof.
impl Certify for Authority {
    fn certify(&self, request: CertifyRequest) -> Certified<'_> {
        let issued = self
            .check(&request.identity, &request.csr)
            .and_then(|checked| self.issue(&checked))
            .map(|issued| CertifyResponse {
                leaf: issued.leaf,
                intermediates: issued.intermediates,
                valid_until: issued.validity.not_after,
            })
            .map_err(|error| CertifyError::Refused(error.to_string()));
        Box::pin(ready(issued))
    }
}

/// A token file's bytes as they are. Its permissions are its provider's business: an orchestrator mounts it.
async fn token(path: &Path) -> Result<Token, FileError> {
    let failed = |error| FileError::Io { path: path.to_owned(), error };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MAX_TOKEN as u64 + 1).read_to_end(&mut bytes).await.map_err(failed)?;
    if bytes.is_empty() || bytes.len() > MAX_TOKEN {
        return Err(FileError::content(path, "the token is empty or too large"));
    }
    Ok(Token::from(bytes))
}
