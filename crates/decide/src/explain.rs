//! Why nothing matched, and why nobody was admitted: which rule or authorization came nearest, and what it wanted.
//!
//! Asked by the proxy for the evidence of a refusal, and by `index` for the command that explains a decision before it is made.
//! It decides nothing itself: it looks at the same compiled matches and the same authorizations as `matching` and
//! `authorize`, and may take time in all of them.

use crate::authorize::{in_networks, is_authenticated};
use crate::matching::{
    CompiledMatch, Matcher, RequestView, match_header, match_path, match_query, rank_host,
};
use http::Method;
use std::fmt;
use std::net::IpAddr;
use weft_model::authorization::{Authentication, Authorization};
use weft_model::identity::Peer;

/// What a rule wanted that the request does not have. Later ones came nearer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Miss {
    /// There are no routes at all.
    NoRoutes,
    /// Another host.
    Host,
    /// Another path, or for gRPC another service or method.
    Path,
    /// Another method.
    Method,
    /// This header, or another value of it.
    Header(String),
    /// This query parameter, or another value of it.
    Query(String),
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Miss::NoRoutes => f.write_str("there are no routes"),
            Miss::Host => f.write_str("no route is for this host"),
            Miss::Path => f.write_str("no rule is for this path"),
            Miss::Method => f.write_str("no rule for this path is for this method"),
            Miss::Header(name) => write!(f, "the header {name} is missing or has another value"),
            Miss::Query(name) => write!(f, "the query parameter {name} is missing or has another value"),
        }
    }
}

/// The rule that came nearest to a request that no rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// Index of the route and of the rule in it; `None` if there are no routes.
    pub rule: Option<(usize, usize)>,
    /// What it wanted.
    pub wanted: Miss,
}

/// Which rule came nearest; the first of those that came equally near. Meaningful where [`Matcher::find`] found none.
pub fn near_miss(matcher: &Matcher, request: &RequestView<'_>) -> NearMiss {
    let mut nearest = NearMiss { rule: None, wanted: Miss::NoRoutes };
    for (number, route) in matcher.routes.iter().enumerate() {
        let host = rank_host(&route.hosts, || request.host()).is_some();
        for (rule, matches) in route.rules.iter().enumerate() {
            let missed = |of: &CompiledMatch| if host { missed(of, request) } else { Some(Miss::Host) };
            let Some(wanted) = matches.iter().filter_map(missed).max() else { continue };
            if nearest.rule.is_none() || wanted > nearest.wanted {
                nearest = NearMiss { rule: Some((number, rule)), wanted };
            }
        }
    }
    nearest
}

/// The first thing that a match wants and the request does not have.
fn missed(of: &CompiledMatch, request: &RequestView<'_>) -> Option<Miss> {
    let headers = match of {
        CompiledMatch::Http { path, headers, method, .. } => {
            if match_path(path, request.uri.path()).is_none() {
                return Some(Miss::Path);
            }
            if method.as_ref().is_some_and(|method| method != request.method) {
                return Some(Miss::Method);
            }
            headers
        }
        CompiledMatch::Grpc { service, method, headers } => {
            let mut segments = request.uri.path().trim_start_matches('/').splitn(3, '/');
            let fits = |wanted: &Option<String>, got: Option<&str>| match (wanted, got) {
                (_, None) => false,
                (None, Some(_)) => true,
                (Some(wanted), Some(got)) => wanted == got,
            };
            if !fits(service, segments.next()) || !fits(method, segments.next()) {
                return Some(Miss::Path);
            }
            if request.method != Method::POST {
                return Some(Miss::Method);
            }
            headers
        }
    };
    if let Some(header) = headers.iter().find(|header| !match_header(header, request.headers)) {
        return Some(Miss::Header(header.name.to_string()));
    }
    let CompiledMatch::Http { query, .. } = of else { return None };
    let missing = query.iter().find(|wanted| !match_query(wanted, request.uri))?;
    Some(Miss::Query(missing.name.clone()))
}

/// The clauses of an authorization that a client does not meet. Earlier ones came nearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Clause {
    /// Its address is in none of the networks.
    Network,
    /// Its identity is none of those that are named.
    Identity,
    /// It speaks TLS of the mesh, but shows no identity.
    NoIdentity,
    /// It does not speak TLS of the mesh.
    NoTls,
    /// Neither its address nor what it proves.
    NetworkAndIdentity,
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Clause::Network => "the client's address is in none of its networks",
            Clause::Identity => "the client's identity is not one of its",
            Clause::NoIdentity => "the client shows no identity",
            Clause::NoTls => "the client does not speak TLS of the mesh",
            Clause::NetworkAndIdentity => "neither the client's address nor what it proves fits",
        })
    }
}

/// The authorization that came nearest to admitting a client that none admits, and the clause that fails; the first of those
/// that came equally near. `None` if there are no authorizations.
pub fn nearest<'a>(
    authorizations: impl IntoIterator<Item = &'a Authorization>,
    client: IpAddr,
    peer: &Peer,
) -> Option<(&'a Authorization, Clause)> {
    let failing = |of: &'a Authorization| {
        let network = in_networks(of, client);
        let clause = match (network, is_authenticated(&of.authentication, peer)) {
            (true, true) => return None,
            (false, true) => Clause::Network,
            (false, false) => Clause::NetworkAndIdentity,
            (true, false) => match (&of.authentication, peer) {
                (Authentication::TlsAuthenticated { .. }, Peer::Tls(Some(_))) => Clause::Identity,
                (Authentication::TlsAuthenticated { .. }, Peer::Tls(None)) => Clause::NoIdentity,
                _ => Clause::NoTls,
            },
        };
        Some((of, clause))
    };
    authorizations.into_iter().filter_map(failing).min_by_key(|(_, clause)| *clause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderName, Uri};
    use weft_model::identity::NoTls;
    use weft_model::meta::Meta;
    use weft_model::policy::{NetworkMatch, Suffix};
    use weft_model::route::{
        Distribution, GrpcMatch, HeaderMatch, HeaderValueMatch, HostMatch, HttpMatch, PathMatch, QueryMatch,
        QueryValueMatch, RequestMatch, Route, Rule, Timeouts,
    };

    fn routes() -> Vec<Route> {
        let http =
            |path: &str| HttpMatch { path: Some(PathMatch::Prefix(path.into())), ..HttpMatch::default() };
        let header =
            HeaderMatch { name: HeaderName::from_static("x"), value: HeaderValueMatch::Exact(b"1".to_vec()) };
        let query = QueryMatch { name: "q".into(), value: QueryValueMatch::Exact("1".into()) };
        let rule = |of: RequestMatch| Rule {
            matches: vec![of],
            filters: vec![],
            backends: Distribution::Empty,
            timeouts: Timeouts::default(),
            retry: None,
            allow_request_headers: false,
        };
        let matches = [
            HttpMatch { method: Some(Method::PUT), ..http("/a") },
            HttpMatch { headers: vec![header], ..http("/b") },
            HttpMatch { query: vec![query], ..http("/c") },
        ];
        let rules = matches.into_iter().map(|of| rule(RequestMatch::Http(of))).collect();
        let hosts = vec![HostMatch::Exact("web".into())];
        vec![Route { meta: Meta::default_named("r"), hosts, rules, authorizations: vec![] }]
    }

    fn check(routes: &[Route], method: Method, uri: &str, expected: NearMiss) {
        let (uri, headers): (Uri, _) = (uri.parse().unwrap(), HeaderMap::new());
        let request = RequestView { method: &method, uri: &uri, headers: &headers };
        let matcher = Matcher::new(routes).unwrap();
        assert_eq!(matcher.find(&request), None, "{uri}");
        assert_eq!(near_miss(&matcher, &request), expected, "{uri}");
    }

    #[test]
    fn the_rule_that_came_nearest_says_what_it_wanted() {
        let near = |rule: usize, wanted: Miss| NearMiss { rule: Some((0, rule)), wanted };
        let routes = routes();
        check(&[], Method::GET, "http://web/", NearMiss { rule: None, wanted: Miss::NoRoutes });
        check(&routes, Method::GET, "http://other/a", near(0, Miss::Host));
        check(&routes, Method::GET, "http://web/none", near(0, Miss::Path));
        check(&routes, Method::GET, "http://web/a", near(0, Miss::Method));
        check(&routes, Method::GET, "http://web/b", near(1, Miss::Header("x".into())));
        check(&routes, Method::GET, "http://web/c?q=2", near(2, Miss::Query("q".into())));
        let mut grpc = routes.clone();
        let of = GrpcMatch { service: Some("a.B".into()), ..GrpcMatch::default() };
        grpc[0].rules.truncate(1);
        grpc[0].rules[0].matches = vec![RequestMatch::Grpc(of)];
        check(&grpc, Method::POST, "http://web/a.C/D", near(0, Miss::Path));
        check(&grpc, Method::GET, "http://web/a.B/D", near(0, Miss::Method));
    }

    #[test]
    fn the_authorization_that_came_nearest_says_which_clause_fails() {
        let of = |name: &str, net: &str, authentication: Authentication| Authorization {
            meta: Meta::default_named(name),
            networks: vec![NetworkMatch::from(net.parse::<ipnet::IpNet>().unwrap())],
            authentication,
        };
        let identity = |name: &str| Authentication::TlsAuthenticated {
            ids: vec![name.parse().unwrap()],
            suffixes: vec![Suffix("shop".into())],
        };
        let all = [
            of("far", "192.168.0.0/16", identity("a.b")),
            of("near", "10.0.0.0/8", identity("a.b")),
            of("away", "192.168.0.0/16", Authentication::Unauthenticated),
        ];
        let tls = |id: &str| Peer::Tls(id.parse().ok());
        let plain = Peer::Plain(NoTls::NotFromRemote);
        for (count, client, peer, expected) in [
            (0, "10.0.0.1", &plain, None),
            (1, "10.0.0.1", &plain, Some(("far", Clause::NetworkAndIdentity))),
            (1, "10.0.0.1", &tls("a.b"), Some(("far", Clause::Network))),
            (2, "10.0.0.1", &tls("x.y"), Some(("near", Clause::Identity))),
            (2, "10.0.0.1", &Peer::Tls(None), Some(("near", Clause::NoIdentity))),
            (2, "10.0.0.1", &plain, Some(("near", Clause::NoTls))),
            (3, "10.0.0.1", &tls("x.y"), Some(("away", Clause::Network))),
        ] {
            let found = nearest(&all[..count], client.parse().unwrap(), peer);
            assert_eq!(
                found
                    .map(|(a, clause)| (a.meta.name().to_owned(), clause))
                    .as_ref()
                    .map(|(n, c)| (n.as_str(), *c)),
                expected
            );
        }
    }
}
