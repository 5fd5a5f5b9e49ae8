//! Who a caller may say it is: its certificate bounds the namespace and workload that it names.
//!
//! `destinations` and `policies` ask before anything is looked up on a claim's behalf. Without a certificate
//! (a plaintext edge on loopback) nothing is bounded.

use weft_index::Index;
use weft_model::identity::Id;
use weft_model::workload::{Asker, WorkloadName};
use weft_wire::services::{Caller, Code, Status};

/// Checks a claim. An empty one is always allowed.
///
/// # Errors
/// PERMISSION_DENIED, which callers retry: manifests may change.
pub(crate) fn check(caller: &Caller, claim: &Asker, index: &Index) -> Result<(), Status> {
    let Some(id) = &caller.id else { return Ok(()) };
    if claim.namespace.is_empty() && claim.workload.is_empty() {
        return Ok(());
    }
    let name = WorkloadName { namespace: claim.namespace.clone(), name: claim.workload.clone() };
    let allowed = match index.workload(&name) {
        Some(workload) => workload.identity == *id,
        None => namespace_of(id) == Some(claim.namespace.as_str()),
    };
    if allowed {
        return Ok(());
    }
    let problem = match claim.workload.as_str() {
        "" => format!("`{id}` may not speak for namespace `{}`", claim.namespace),
        _ => format!("`{id}` may not speak for workload `{name}`"),
    };
    Err(Status::new(Code::PermissionDenied, problem))
}

/// The namespace that an identity itself names: a service account's, that of the short form
/// `name.namespace`, or that of a SPIFFE ID with a path `/ns/NAMESPACE/…`.
fn namespace_of(id: &Id) -> Option<&str> {
    if let Some((_, namespace)) = id.account_and_namespace() {
        return Some(namespace);
    }
    match id {
        Id::Dns(name) => {
            name.as_str().split_once('.').map(|(_, rest)| rest).filter(|rest| !rest.contains('.'))
        }
        Id::Uri(uri) => {
            let mut path = uri.split_once("://")?.1.split('/').skip(1);
            (path.next()? == "ns").then(|| path.next())?
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use weft_index::Config;
    use weft_model::metadata::Metadata;
    use weft_model::object::{Change, Object};
    use weft_model::workload::ExternalWorkload;

    fn index() -> Index {
        let mut index = Index::new(Config::default());
        let meta = Metadata { namespace: "shop".into(), name: "vm1".into(), ..Metadata::default() };
        let workload = ExternalWorkload {
            meta,
            identity: "spiffe://mesh/web".parse().unwrap(),
            server_name: "web.mesh".parse().unwrap(),
            ips: vec!["10.0.0.1".parse().unwrap()],
            ports: vec![],
            ready: None,
            owner: None,
        };
        index.apply([Change::Upsert(Object::ExternalWorkload(Arc::new(workload)))]);
        index
    }

    #[test]
    fn an_identity_bounds_what_may_be_claimed() {
        let account = "web.shop.serviceaccount.identity.linkerd.cluster.local";
        for (id, namespace, workload, allowed) in [
            ("", "shop", "vm1", true),
            (account, "", "", true),
            (account, "shop", "", true),
            (account, "shop", "pod-1", true),
            (account, "bank", "", false),
            (account, "bank", "pod-1", false),
            (account, "shop", "vm1", false),
            ("spiffe://mesh/web", "shop", "vm1", true),
            ("spiffe://mesh/web", "shop", "", false),
            ("spiffe://mesh/other", "shop", "vm1", false),
            ("spiffe://mesh/ns/shop/sa/web", "shop", "", true),
            ("spiffe://mesh/ns/shop/sa/web", "bank", "", false),
            ("spiffe://mesh", "shop", "", false),
            ("web.shop", "shop", "", true),
            ("web.shop", "web", "", false),
            ("web", "web", "", false),
            ("web.shop.x", "shop.x", "", false),
        ] {
            let caller = Caller { id: (!id.is_empty()).then(|| id.parse().unwrap()), addr: None };
            let claim = Asker { namespace: namespace.into(), workload: workload.into(), node: "n".into() };
            let outcome = check(&caller, &claim, &index());
            assert_eq!(outcome.is_ok(), allowed, "{id} {namespace}/{workload}");
            assert!(outcome.err().is_none_or(|s| s.code == Code::PermissionDenied));
        }
    }
}
