//! The control plane's own leaves: one for each name under which proxies reach it.
//!
//! `control` issues them at start from its own authority and keeps them fresh; the edge terminates TLS with them.

use std::sync::Arc;
use weft_identity::authority::Authority;
use weft_identity::renew::{Credential, Limits, RenewError, Renewal};
use weft_identity::store::{LocalName, Store};

/// Own names and the loops that renew their leaves.
pub struct OwnNames {
    stores: Vec<Store>,
    renewals: Vec<Renewal>,
}

impl OwnNames {
    /// Issues a leaf for each store from our own authority.
    ///
    /// # Errors
    /// When the authority cannot issue now; the operator's fault.
    pub fn issue(authority: &Arc<Authority>, stores: Vec<Store>) -> Result<Self, RenewError> {
        let mut renewals = Vec::with_capacity(stores.len());
        for store in &stores {
            let refused = |e: &dyn std::fmt::Display| {
                RenewError::Certify(weft_identity::renew::CertifyError::Refused(e.to_string()))
            };
            let (issued, key) = authority.issue_own(store.local_id()).map_err(|e| refused(&e))?;
            let mut chain = vec![issued.leaf];
            chain.extend(issued.intermediates);
            store.install(chain, key)?;
            let certify = authority.clone();
            let (renewal, _state) =
                Renewal::new(store.clone(), certify, Credential::OwnAuthority, Limits::default());
            renewals.push(renewal);
        }
        Ok(Self { stores, renewals })
    }

    /// A store for a name under the authority's anchors.
    pub fn store(authority: &Authority, name: LocalName) -> Store {
        Store::new(name, (*authority.anchors()).clone())
    }

    /// The stores, for the edge.
    pub fn stores(&self) -> Vec<Store> {
        self.stores.clone()
    }

    /// Renews for ever. Dropping the future stops renewing and leaves the leaves in force.
    pub async fn keep_fresh(self) {
        futures_util::future::join_all(self.renewals.into_iter().map(Renewal::run)).await;
    }
}
