//! Who may use a port or route (§4.4): the first authorization that admits the client decides.

use std::net::IpAddr;
use weft_model::identity::{Id, Peer};
use weft_model::policy::{Authentication, Authorization};

/// The first authorization that admits a client, if any does.
pub fn admit<'a>(
    authorizations: impl IntoIterator<Item = &'a Authorization>,
    client: IpAddr,
    peer: &Peer,
) -> Option<&'a Authorization> {
    authorizations.into_iter().find(|a| in_networks(a, client) && is_authenticated(&a.authentication, peer))
}

pub(crate) fn in_networks(authorization: &Authorization, client: IpAddr) -> bool {
    authorization.networks.iter().any(|n| n.contains(client))
}

pub(crate) fn is_authenticated(wanted: &Authentication, peer: &Peer) -> bool {
    match wanted {
        Authentication::Unauthenticated => true,
        Authentication::TlsUnauthenticated => matches!(peer, Peer::Tls(_)),
        Authentication::TlsAuthenticated { ids, suffixes } => peer.id().is_some_and(|id| {
            ids.iter().any(|wanted| is_or_holds(wanted, id))
                || suffixes.iter().any(|suffix| match id {
                    Id::Dns(name) => suffix.contains(name),
                    // The empty suffix means "any identity", SPIFFE ones included; the peer admits
                    // only DNS names here, which shuts SPIFFE workloads out of `all-authenticated`.
                    Id::Uri(_) => suffix.0.is_empty(),
                })
        }),
    }
}

/// Whether an identity is the one that is wanted. A SPIFFE id that ends in `/*` stands for all below it: no id can have a `*`
/// of its own, and to a proxy that does not know this it is an id that nobody has.
fn is_or_holds(wanted: &Id, id: &Id) -> bool {
    wanted == id
        || matches!((below(wanted), id), (Some(start), Id::Uri(uri)) if uri.len() > start.len() && uri.starts_with(start))
}

/// The start of the URIs that an identity with `/*` at its end stands for.
pub(crate) fn below(id: &Id) -> Option<&str> {
    match id {
        Id::Uri(uri) => uri.strip_suffix('*').filter(|start| start.ends_with('/')),
        Id::Dns(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::identity::NoTls;
    use weft_model::policy::{DefaultPolicy, Suffix};

    fn peer(id: &str) -> Peer {
        Peer::Tls(id.parse().ok())
    }

    fn check(policy: DefaultPolicy, client: &str, peer: &Peer, expected: bool) {
        let cluster = ["10.0.0.0/8".parse().unwrap()];
        let authorizations = policy.authorizations(&cluster);
        let admitted = admit(&authorizations, client.parse().unwrap(), peer).is_some();
        assert_eq!(admitted, expected, "{policy:?} {client} {peer:?}");
    }

    #[test]
    fn default_policies_admit_whom_they_name() {
        use DefaultPolicy::*;
        let plain = Peer::Plain(NoTls::NotFromRemote);
        for (policy, plain_in, plain_out, meshed_in, meshed_out) in [
            (Deny, false, false, false, false),
            (AllAuthenticated, false, false, true, true),
            (AllUnauthenticated, true, true, true, true),
            (ClusterAuthenticated, false, false, true, false),
            (ClusterUnauthenticated, true, false, true, false),
            (Audit, true, true, true, true),
        ] {
            check(policy, "10.0.0.1", &plain, plain_in);
            check(policy, "1.1.1.1", &plain, plain_out);
            for id in ["web.default", "spiffe://mesh/web"] {
                check(policy, "10.0.0.1", &peer(id), meshed_in);
                check(policy, "1.1.1.1", &peer(id), meshed_out);
            }
            check(policy, "10.0.0.1", &Peer::Tls(None), plain_in);
        }
    }

    #[test]
    fn identities_match_exactly_or_by_suffix() {
        let wanted = Authentication::TlsAuthenticated {
            ids: ["a.x", "spiffe://m/a", "spiffe://m/team/*"].map(|id| id.parse().unwrap()).into(),
            suffixes: vec![Suffix("shop".into())],
        };
        for (id, admitted) in [
            ("a.x", true),
            ("b.x", false),
            ("w.shop", true),
            ("shop", false),
            ("spiffe://m/a", true),
            ("spiffe://m/b", false),
            ("spiffe://m/team/web", true),
            ("spiffe://m/team/a/web", true),
            ("spiffe://m/team", false),
            ("spiffe://m/team/", false),
            ("spiffe://m/teams/web", false),
            ("spiffe://n/team/web", false),
        ] {
            assert_eq!(is_authenticated(&wanted, &peer(id)), admitted, "{id}");
        }
        assert!(is_authenticated(&Authentication::TlsUnauthenticated, &Peer::Tls(None)));
        assert!(!is_authenticated(&Authentication::TlsUnauthenticated, &Peer::Passthrough(None)));
    }
}
