//! The order of an answer's HTTP rules: what the Gateway API demands, said so that proxies come to the same choice.
//!
//! Proxies rank a match by how many characters of the path it covers, whatever its kind, and of equal ones take the first that
//! is listed. The Gateway API wants an exact path before a prefix of the same length, so exact matches that a prefix
//! precedes are moved to the front. What no order can express is told by [`contradictions`]. Pure; used by `policies.rs` and
//! `verdict.rs`.

use std::collections::BTreeSet;
use weft_model::route::{HttpMatch, PathMatch, RequestMatch, Route, Rule};

/// Moves exact matches before the prefixes of the same path that precede them.
pub(crate) fn exact_first(routes: Vec<Route>) -> Vec<Route> {
    let displaced = displaced(&routes);
    if displaced.is_empty() {
        return routes;
    }
    let moves = |m: &RequestMatch| match m {
        RequestMatch::Http(HttpMatch { path: Some(PathMatch::Exact(path)), .. }) => displaced.contains(path),
        _ => false,
    };
    let (mut front, mut rest) = (Vec::new(), Vec::new());
    for route in routes {
        let (mut first, mut others) = (Vec::new(), Vec::new());
        for rule in route.rules {
            let (moved, kept): (Vec<_>, Vec<_>) = rule.matches.iter().cloned().partition(moves);
            if moved.is_empty() {
                others.push(rule);
                continue;
            }
            if !kept.is_empty() {
                others.push(Rule { matches: kept, ..rule.clone() });
            }
            first.push(Rule { matches: moved, ..rule });
        }
        if !first.is_empty() {
            front.push(Route {
                meta: route.meta.clone(),
                hosts: route.hosts.clone(),
                rules: first,
                authorizations: route.authorizations.clone(),
            });
        }
        if !others.is_empty() {
            rest.push(Route { rules: others, ..route });
        }
    }
    front.append(&mut rest);
    front
}

/// The paths of exact matches that a prefix match of the same path precedes.
fn displaced(routes: &[Route]) -> BTreeSet<String> {
    let (mut prefixes, mut found) = (BTreeSet::<&str>::new(), BTreeSet::new());
    for rule in routes.iter().flat_map(|route| &route.rules) {
        for path in rule.matches.iter().filter_map(path) {
            match path {
                PathMatch::Prefix(prefix) => {
                    prefixes.insert(trimmed(prefix));
                }
                PathMatch::Exact(path) if prefixes.contains(trimmed(path)) => {
                    found.insert(path.clone());
                }
                _ => {}
            }
        }
    }
    found
}

fn path(of: &RequestMatch) -> Option<&PathMatch> {
    match of {
        RequestMatch::Http(HttpMatch { path, .. }) => path.as_ref(),
        RequestMatch::Grpc(_) => None,
    }
}

/// A path without the slashes at its end, which prefixes do not count.
fn trimmed(path: &str) -> &str {
    path.trim_end_matches('/')
}

/// Most rules that are compared with each other for contradictions; beyond, nothing is told.
const COMPARED: usize = 300;

/// A pair of matches for the same path that the Gateway API ranks one way and proxies another: it puts the method before
/// the numbers of headers and query parameters, they put it after. Gives the numbers of the two routes, the one that ought
/// to win first, and the path.
pub(crate) fn contradictions(routes: &[Route]) -> Vec<(usize, usize, String)> {
    let mut all = Vec::new();
    for (number, route) in routes.iter().enumerate() {
        for of in route.rules.iter().flat_map(|rule| &rule.matches) {
            if let RequestMatch::Http(http) = of {
                all.push((number, http));
            }
        }
    }
    all.truncate(COMPARED);
    let mut found = Vec::new();
    for (at, (winner, a)) in all.iter().enumerate() {
        for (other, b) in all.iter().skip(at + 1) {
            let (path_a, path_b) = (a.path.as_ref(), b.path.as_ref());
            let compatible = a.method.is_none() != b.method.is_none();
            if path_a != path_b || !compatible {
                continue;
            }
            let narrow = |m: &HttpMatch| (m.headers.len(), m.query.len());
            let (by_method, by_headers) = match a.method.is_some() {
                true => ((winner, a), (other, b)),
                false => ((other, b), (winner, a)),
            };
            if narrow(by_headers.1) > narrow(by_method.1) {
                found.push((*by_method.0, *by_headers.0, shown(path_a)));
            }
        }
    }
    found
}

fn shown(path: Option<&PathMatch>) -> String {
    match path {
        None => "/".to_owned(),
        Some(PathMatch::Exact(path) | PathMatch::Prefix(path)) => path.clone(),
        Some(PathMatch::Regex(pattern)) => pattern.0.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::meta::Meta;
    use weft_model::route::{Distribution, HeaderMatch, HeaderValueMatch, Timeouts};

    /// `e/a` is exact /a, `p/a` prefix /a; `m` adds a method, `h` a header.
    fn one(text: &str) -> RequestMatch {
        let (marks, path) = text.split_once('/').unwrap();
        let path = format!("/{path}");
        let header = HeaderMatch {
            name: http::HeaderName::from_static("x"),
            value: HeaderValueMatch::Exact(b"1".to_vec()),
        };
        RequestMatch::Http(HttpMatch {
            path: Some(if marks.contains('e') { PathMatch::Exact(path) } else { PathMatch::Prefix(path) }),
            method: marks.contains('m').then_some(http::Method::GET),
            headers: if marks.contains('h') { vec![header] } else { vec![] },
            query: vec![],
        })
    }

    /// Routes by `;`, rules by `|`, matches by spaces.
    fn routes(text: &str) -> Vec<Route> {
        let rule = |text: &str| Rule {
            matches: text.split_whitespace().map(one).collect(),
            filters: vec![],
            backends: Distribution::Empty,
            timeouts: Timeouts::default(),
            retry: None,
            allow_request_headers: false,
        };
        let route = |(number, text): (usize, &str)| Route {
            meta: Meta::default_named(&number.to_string()),
            hosts: vec![],
            rules: text.split('|').map(rule).collect(),
            authorizations: vec![],
        };
        text.split(';').enumerate().map(route).collect()
    }

    fn written(routes: &[Route]) -> String {
        let of = |m: &RequestMatch| match path(m) {
            Some(PathMatch::Exact(path)) => format!("e{path}"),
            Some(PathMatch::Prefix(path)) => format!("p{path}"),
            _ => "?".into(),
        };
        let rule = |r: &Rule| r.matches.iter().map(of).collect::<Vec<_>>().join(" ");
        let route = |r: &Route| {
            format!("{}:{}", r.meta.name(), r.rules.iter().map(rule).collect::<Vec<_>>().join("|"))
        };
        routes.iter().map(route).collect::<Vec<_>>().join(";")
    }

    fn check(given: &str, expected: &str) {
        assert_eq!(written(&exact_first(routes(given))), expected, "{given}");
    }

    #[test]
    fn an_exact_path_comes_before_the_same_prefix() {
        check("p/a;e/a", "1:e/a;0:p/a");
        check("e/a;p/a", "0:e/a;1:p/a");
        check("p/b;e/a", "0:p/b;1:e/a");
        check("p/a/;e/a", "1:e/a;0:p/a/");
        check("p/a|e/a p/c", "0:e/a;0:p/a|p/c");
        // Exact ones keep their order among themselves.
        check("e/a|p/a;e/a", "0:e/a;1:e/a;0:p/a");
    }

    #[test]
    fn a_method_against_a_header_is_a_contradiction() {
        for (given, expected) in [
            ("pm/a;ph/a", vec![(0, 1, "/a".to_owned())]),
            ("ph/a;pm/a", vec![(1, 0, "/a".to_owned())]),
            ("pmh/a;ph/a", vec![]),
            ("pm/a;ph/b", vec![]),
            ("pm/a;p/a", vec![]),
        ] {
            assert_eq!(contradictions(&routes(given)), expected, "{given}");
        }
    }
}
