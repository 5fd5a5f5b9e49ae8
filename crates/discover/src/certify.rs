//! Asks the identity controller for the proxy's certificate, on behalf of `identity::renew`.
//!
//! Each attempt has a channel of its own, because a renewal is proven by the certificate shown when the
//! connection was made: one opened before the first certificate would stay anonymous. Nothing here
//! retries; the renewal bounds and repeats attempts.

use std::fmt;
use weft_identity::renew::{Certified, Certify, CertifyError, CertifyRequest, CertifyResponse, Proof};
use weft_wire::services::{self, Channel, Code, IdentityClient, Status};

/// The identity controller.
pub struct Issuer {
    open: Box<dyn Fn() -> Channel + Send + Sync>,
}

impl Issuer {
    /// An issuer behind the channels that `open` makes, which should show our certificate if there is
    /// one and not wait for it. A channel is dropped when its attempt is over.
    pub fn new(open: impl Fn() -> Channel + Send + Sync + 'static) -> Self {
        Self { open: Box::new(open) }
    }
}

impl Certify for Issuer {
    fn certify(&self, request: CertifyRequest) -> Certified<'_> {
        let client = IdentityClient::new((self.open)());
        let token = match &request.proof {
            Proof::Token(token) => token.reveal().to_vec(),
            Proof::CurrentCertificate | Proof::InProcess => Vec::new(),
        };
        let request =
            services::CertifyRequest { identity: request.identity.to_string(), token, csr: request.csr };
        Box::pin(async move {
            let issued = client.certify(&request).await.map_err(refusal)?;
            let services::CertifyResponse { leaf, intermediates, valid_until } = issued;
            Ok(CertifyResponse { leaf, intermediates, valid_until })
        })
    }
}

/// Nobody there, or a no: decides what a person is told, not what is done.
fn refusal(status: Status) -> CertifyError {
    match status.code {
        Code::Unavailable | Code::Unknown | Code::DeadlineExceeded | Code::Cancelled => {
            CertifyError::Unreachable(status.to_string())
        }
        _ => CertifyError::Refused(status.to_string()),
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").finish_non_exhaustive()
    }
}
