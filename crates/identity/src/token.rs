//! Join tokens: what a workload shows at its first Certify, before it has a certificate.
//!
//! An ordinary JWT (ES256) signed with a key that is not the authority's: who steals it can pose as a workload
//! that asks to join, but cannot sign certificates. `weft token` signs them, the control plane's Certify
//! redeems them, a join file carries them. A token is never printed, logged or shown in an error.

use crate::authority::Class;
use crate::private::{self, Created, FileError, Readers};
use crate::spent::{Spent, Unburnt};
use ipnet::IpNet;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use weft_model::identity::Id;

/// Whom our tokens are for; the peer's token volumes name the same audience.
pub const AUDIENCE: &str = "identity.l5d.io";

/// The file in the state directory that holds the signing key.
pub const FILE: &str = "token.pem";

/// Bytes of a token that are looked at.
pub const MAX_TOKEN: usize = 16 << 10;

/// Networks that one token may name.
pub const MAX_NETWORKS: usize = 64;

/// How far ahead of ours the signer's clock may be.
const SKEW: Duration = Duration::from_secs(60);

/// A bearer secret. Only [`Token::reveal`] shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Vec<u8>);

impl Token {
    /// The secret itself, to be sent or written to a file of mode 0600 and nowhere else.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Token {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// How often a token may be redeemed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uses {
    /// Until it expires.
    Unlimited,
    /// At one Certify; the attempt counts, even when the answer gets lost.
    Once,
}

/// What a new token is to say.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Who may join with it.
    pub identity: Id,
    /// For how long.
    pub lifetime: Duration,
    /// How often.
    pub uses: Uses,
    /// From where; empty: from anywhere. At most [`MAX_NETWORKS`].
    pub networks: Vec<IpNet>,
}

/// What a token was found to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Who may join with it.
    pub identity: Id,
    /// When it was signed.
    pub issued: SystemTime,
    /// From when on it is refused.
    pub expires: SystemTime,
    /// Its name in logs; not secret.
    pub id: String,
    /// How often it may be redeemed.
    pub uses: Uses,
    /// From where; empty: from anywhere.
    pub networks: Vec<IpNet>,
}

/// The circumstances in which a token is shown.
#[derive(Clone, Debug)]
pub struct Presented<'a> {
    /// The identity that Certify asks for.
    pub identity: &'a Id,
    /// Where the connection comes from; `None` is refused by tokens that name networks.
    pub peer: Option<IpAddr>,
    /// The time.
    pub now: SystemTime,
}

/// Why a token is refused. The bearer's fault except for [`TokenRefusal::Ledger`]; useless to repeat otherwise.
#[derive(Debug, thiserror::Error)]
pub enum TokenRefusal {
    /// Not a JWT of ours in form.
    #[error("the token is malformed: {0}")]
    Malformed(String),
    /// Signed, but not by this control plane's key.
    #[error("the token was not signed by this control plane")]
    ForeignKey,
    /// Meant for somebody else.
    #[error("the token is not for the audience `{AUDIENCE}`")]
    WrongAudience,
    /// Too old.
    #[error("the token expired {0:?} ago")]
    Expired(Duration),
    /// Signed in our future: a clock is wrong.
    #[error("the token was issued {0:?} in the future; compare the clocks")]
    NotYetIssued(Duration),
    /// Good for another identity than the one asked for.
    #[error("the token is for `{allowed}`, not for `{asked}`")]
    OtherIdentity {
        /// Whom the token allows.
        allowed: Id,
        /// Who was asked for.
        asked: Id,
    },
    /// Shown from elsewhere than it allows.
    #[error("the token may not be used from {}", .0.map_or("an unknown address".into(), |ip| ip.to_string()))]
    OutsideNetworks(Option<IpAddr>),
    /// A token for one use, used before.
    #[error("the token was for one use and has been used")]
    Spent,
    /// Whether it has been used cannot be told or noted. The control plane's fault; may be repeated.
    #[error("the token cannot be redeemed now: {0}")]
    Ledger(String),
}

impl TokenRefusal {
    /// The gRPC status of the answer.
    pub fn class(&self) -> Class {
        match self {
            TokenRefusal::Malformed(_) => Class::InvalidArgument,
            TokenRefusal::Ledger(_) => Class::Unavailable,
            _ => Class::FailedPrecondition,
        }
    }
}

/// The JWT's claims as they travel.
#[derive(Serialize, Deserialize)]
struct Wire {
    sub: String,
    aud: Audiences,
    iat: u64,
    exp: u64,
    jti: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cidr: Vec<IpNet>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    once: bool,
}

/// One audience or several (RFC 7519 §4.1.3).
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

impl Audiences {
    fn contain(&self, audience: &str) -> bool {
        match self {
            Audiences::One(one) => one == audience,
            Audiences::Many(many) => many.iter().any(|one| one == audience),
        }
    }
}

/// The key that signs join tokens, and checks them.
pub struct TokenKey {
    sign: EncodingKey,
    verify: DecodingKey,
}

impl TokenKey {
    /// Restores the key of a state directory, or creates it. An existing file is never overwritten. Blocks on the
    /// disk.
    pub fn open(directory: &Path) -> Result<Self, FileError> {
        let path = directory.join(FILE);
        let text = match private::read(&path, Readers::Owner) {
            Err(error) if error.is_missing() => {
                private::directory(directory)?;
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
                    .map_err(|error| FileError::content(&path, error.to_string()))?;
                if private::create(&path, &key.serialize_pem())? == Created::New {
                    tracing::info!(path = %path.display(), "created a key for join tokens");
                }
                private::read(&path, Readers::Owner)?
            }
            other => other?,
        };
        let der = PrivateKeyDer::from_pem_slice(text.as_bytes())
            .map_err(|_| FileError::content(&path, "no private key in it"))?;
        let pair = KeyPair::from_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)
            .map_err(|_| FileError::content(&path, "its key is not ECDSA P-256"))?;
        Ok(Self {
            sign: EncodingKey::from_ec_der(pair.serialized_der()),
            verify: DecodingKey::from_ec_der(pair.public_key_raw()),
        })
    }

    /// Signs a token.
    pub fn sign(&self, grant: &Grant, now: SystemTime) -> Result<Token, TokenRefusal> {
        let malformed = |problem: &str| TokenRefusal::Malformed(problem.into());
        if grant.networks.len() > MAX_NETWORKS {
            return Err(malformed("it names too many networks"));
        }
        let expires = now.checked_add(grant.lifetime).ok_or_else(|| malformed("it lives too long"))?;
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| malformed("no random numbers for its id"))?;
        let wire = Wire {
            sub: grant.identity.as_str().to_owned(),
            aud: Audiences::One(AUDIENCE.into()),
            iat: seconds(now),
            exp: seconds(expires),
            jti: format!("{:032x}", u128::from_be_bytes(id)),
            cidr: grant.networks.clone(),
            once: grant.uses == Uses::Once,
        };
        let text = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &wire, &self.sign)
            .map_err(|error| TokenRefusal::Malformed(error.to_string()))?;
        Ok(Token(text.into_bytes()))
    }

    /// Checks everything about a token except whether it has been used, and says what it allows.
    pub fn read(&self, token: &[u8], presented: &Presented<'_>) -> Result<Claims, TokenRefusal> {
        let claims = self.claims(token.trim_ascii())?;
        let Presented { identity, peer, now } = *presented;
        if let Ok(ago) = now.duration_since(claims.expires) {
            return Err(TokenRefusal::Expired(ago));
        }
        match claims.issued.duration_since(now) {
            Ok(ahead) if ahead > SKEW => return Err(TokenRefusal::NotYetIssued(ahead)),
            _ => {}
        }
        if claims.identity != *identity {
            let (allowed, asked) = (claims.identity, identity.clone());
            return Err(TokenRefusal::OtherIdentity { allowed, asked });
        }
        let inside = |ip: IpAddr| claims.networks.iter().any(|network| network.contains(&ip.to_canonical()));
        if !claims.networks.is_empty() && !peer.is_some_and(inside) {
            return Err(TokenRefusal::OutsideNetworks(peer));
        }
        Ok(claims)
    }

    fn claims(&self, token: &[u8]) -> Result<Claims, TokenRefusal> {
        let malformed = |problem: &str| TokenRefusal::Malformed(problem.into());
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err(malformed("it is empty or too large"));
        }
        // The library checks form, algorithm and signature; times and audience are checked here, so that each
        // refusal is named and the clock is ours.
        let mut rules = Validation::new(Algorithm::ES256);
        rules.required_spec_claims = HashSet::new();
        rules.validate_exp = false;
        rules.validate_nbf = false;
        rules.validate_aud = false;
        let wire = jsonwebtoken::decode::<Wire>(token, &self.verify, &rules).map_err(refusal)?.claims;
        if !wire.aud.contain(AUDIENCE) {
            return Err(TokenRefusal::WrongAudience);
        }
        let is_plain = wire.jti.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if wire.jti.is_empty() || wire.jti.len() > 64 || !is_plain {
            return Err(malformed("its id is missing or odd"));
        }
        Ok(Claims {
            identity: wire.sub.parse().map_err(|_| malformed("its subject is not an identity"))?,
            issued: moment(wire.iat).ok_or_else(|| malformed("its time is out of range"))?,
            expires: moment(wire.exp).ok_or_else(|| malformed("its expiry is out of range"))?,
            id: wire.jti,
            uses: if wire.once { Uses::Once } else { Uses::Unlimited },
            networks: wire.cidr,
        })
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(hidden)")
    }
}

fn refusal(error: jsonwebtoken::errors::Error) -> TokenRefusal {
    match error.kind() {
        ErrorKind::InvalidSignature => TokenRefusal::ForeignKey,
        ErrorKind::InvalidAlgorithm => TokenRefusal::Malformed("it is not signed with ES256".into()),
        // The library's other texts may quote the token's content.
        _ => TokenRefusal::Malformed("not a JSON web token with the claims of a join token".into()),
    }
}

/// Redeems tokens: checks them, and burns those for one use.
#[derive(Clone, Debug)]
pub struct Validator {
    key: Arc<TokenKey>,
    spent: Arc<Spent>,
}

impl Validator {
    /// Opens key and ledger of a state directory, creating what is missing. Several processes on one machine may
    /// share the directory. Blocks on the disk.
    pub fn open(directory: &Path) -> Result<Self, FileError> {
        let key = Arc::new(TokenKey::open(directory)?);
        Ok(Self { key, spent: Arc::new(Spent::of(directory)) })
    }

    /// The key, for signing.
    pub fn key(&self) -> &TokenKey {
        &self.key
    }

    /// Checks a token in its circumstances; one for a single use is burnt, durably, before this returns. If the
    /// future is dropped half-way, such a token may be burnt or not.
    pub async fn redeem(&self, token: &[u8], presented: &Presented<'_>) -> Result<Claims, TokenRefusal> {
        let claims = self.key.read(token, presented)?;
        if claims.uses == Uses::Unlimited {
            return Ok(claims);
        }
        let (spent, now) = (self.spent.clone(), presented.now);
        let burnt =
            tokio::task::spawn_blocking(move || spent.burn(&claims.id, claims.expires, now).map(|()| claims));
        match burnt.await {
            Ok(Ok(claims)) => Ok(claims),
            Ok(Err(Unburnt::Already)) => Err(TokenRefusal::Spent),
            Ok(Err(problem)) => Err(TokenRefusal::Ledger(problem.to_string())),
            Err(_) => Err(TokenRefusal::Ledger("the ledger's task was stopped".into())),
        }
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn moment(seconds: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}
