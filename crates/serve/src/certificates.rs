//! The certificate authority's service: `Certify` (§1I.1).
//!
//! The one method that a caller without certificate may call. It proves itself by a join token or, to renew, by
//! the certificate in force; `identity` checks request and token and signs. Nothing here touches a key.

use crate::metrics::Metrics;
use crate::quota::{Allowance, Quota};
use futures_util::future::BoxFuture;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;
use weft_identity::authority::{Authority, Class};
use weft_identity::token::{Presented, Validator};
use weft_model::identity::Id;
use weft_wire::services::{self, Caller, CertifyRequest, CertifyResponse, Code, Status};

/// Source addresses told apart.
pub(crate) const MAX_SOURCES: usize = 4096;

/// Calls of one address: many proxies may stand behind one, and a whole mesh may start at once. Signing takes
/// well under a millisecond, so one address can use up a tenth of a core at most.
pub const PER_SOURCE: Allowance = Allowance { calls: 1_000, period: Duration::from_secs(10) };

/// Tells the time by which tokens are judged.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Answers `Certify`.
pub struct Certificates(Arc<Parts>);

struct Parts {
    authority: Arc<Authority>,
    tokens: Option<Validator>,
    clock: Clock,
    metrics: Metrics,
    sources: Quota<IpAddr>,
}

impl Certificates {
    /// The service, ready for a router. Without `tokens` only renewals are possible.
    pub fn new(
        authority: Arc<Authority>,
        tokens: Option<Validator>,
        clock: Clock,
        metrics: Metrics,
    ) -> Arc<Self> {
        let sources = Quota::new(PER_SOURCE, MAX_SOURCES);
        Arc::new(Self(Arc::new(Parts { authority, tokens, clock, metrics, sources })))
    }
}

impl services::Certificates for Certificates {
    fn certify(
        &self,
        caller: Caller,
        request: CertifyRequest,
    ) -> BoxFuture<'static, Result<CertifyResponse, Status>> {
        let parts = self.0.clone();
        Box::pin(async move {
            let outcome = parts.certify(&caller, &request).await;
            match &outcome {
                Ok(_) => {
                    parts.metrics.certified("issued");
                    tracing::info!(identity = %request.identity, peer = ?caller.addr, "certificate issued");
                }
                Err(status) => {
                    parts.metrics.certified(status.code.name());
                    let identity: String = request.identity.chars().take(253).collect();
                    tracing::warn!(identity, peer = ?caller.addr, %status, "certificate refused");
                }
            }
            outcome
        })
    }
}

impl Parts {
    async fn certify(&self, caller: &Caller, request: &CertifyRequest) -> Result<CertifyResponse, Status> {
        let source = caller.addr.map(|addr| addr.ip().to_canonical());
        if source.is_some_and(|ip| !self.sources.admit(ip, Instant::now())) {
            self.metrics.limit_reached("certify-per-source");
            return Err(Status::new(Code::ResourceExhausted, "too many Certify calls from this address"));
        }
        let identity: Id = request
            .identity
            .parse()
            .map_err(|e: weft_model::name::InvalidName| Status::new(Code::InvalidArgument, e.to_string()))?;
        let checked = self.authority.check(&identity, &request.csr);
        let checked = checked.map_err(|e| Status::new(code(e.class()), e.to_string()))?;
        self.prove(caller, request, &identity).await?;
        let issued = self.authority.issue(&checked);
        let issued = issued.map_err(|e| Status::new(code(e.class()), e.to_string()))?;
        Ok(CertifyResponse {
            leaf: issued.leaf,
            intermediates: issued.intermediates,
            valid_until: issued.validity.not_after,
        })
    }

    /// Checks that the caller is `identity`. A token that is shown counts alone, so that a wrong one is named.
    async fn prove(&self, caller: &Caller, request: &CertifyRequest, identity: &Id) -> Result<(), Status> {
        if request.token.is_empty() {
            return match &caller.id {
                Some(id) if id == identity => Ok(()),
                Some(id) => {
                    let problem = format!("the certificate shown is `{id}`'s, not `{identity}`'s");
                    Err(Status::new(Code::FailedPrecondition, problem))
                }
                None => {
                    Err(Status::new(Code::InvalidArgument, "neither a token nor a certificate was shown"))
                }
            };
        }
        let Some(tokens) = &self.tokens else {
            return Err(Status::new(Code::FailedPrecondition, "this control plane accepts no tokens"));
        };
        let peer = caller.addr.map(|addr| addr.ip());
        let presented = Presented { identity, peer, now: (self.clock)() };
        match tokens.redeem(&request.token, &presented).await {
            Ok(_) => Ok(()),
            Err(refusal) => Err(Status::new(code(refusal.class()), refusal.to_string())),
        }
    }
}

fn code(class: Class) -> Code {
    match class {
        Class::InvalidArgument => Code::InvalidArgument,
        Class::FailedPrecondition => Code::FailedPrecondition,
        Class::Unavailable => Code::Unavailable,
        Class::Internal => Code::Internal,
    }
}
