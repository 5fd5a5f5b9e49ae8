//! Matching against a naive reference: random routes and requests, the winner found by comparing everything with everything.

use fastrand::Rng;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use weft_decide::matching::{Matcher, RequestView};
use weft_model::meta::Meta;
use weft_model::route::{
    Distribution, GrpcMatch, HeaderMatch, HeaderValueMatch, HostMatch, HttpMatch, PathMatch, Pattern,
    QueryMatch, QueryValueMatch, RequestMatch, Route, Rule, Timeouts,
};

const PATHS: [&str; 10] =
    ["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/svc.A/Get", "/svc.A/Set", "/svc.B/Get", "//a"];

fn one<T: Clone>(rng: &mut Rng, list: &[T]) -> T {
    list[rng.usize(..list.len())].clone()
}

fn header(rng: &mut Rng) -> HeaderMatch {
    let value = match rng.bool() {
        true => HeaderValueMatch::Exact(one(rng, &["1", "2"]).as_bytes().to_vec()),
        false => HeaderValueMatch::Regex(Pattern(one(rng, &["[12]", "1|.*"]).into())),
    };
    HeaderMatch { name: HeaderName::from_static(one(rng, &["x-a", "x-b"])), value }
}

fn wanted(rng: &mut Rng) -> RequestMatch {
    let some = |rng: &mut Rng| rng.u8(..3) == 0;
    if rng.u8(..4) == 0 {
        let service = some(rng).then(|| one(rng, &["svc.A", "svc.B"]).to_owned());
        let method = some(rng).then(|| one(rng, &["Get", "Set"]).to_owned());
        let headers = if some(rng) { vec![header(rng)] } else { vec![] };
        return RequestMatch::Grpc(GrpcMatch { service, method, headers });
    }
    let path = match rng.u8(..4) {
        0 => None,
        1 => Some(PathMatch::Exact(one(rng, &PATHS).into())),
        2 => Some(PathMatch::Prefix(one(rng, &PATHS).into())),
        _ => Some(PathMatch::Regex(Pattern(one(rng, &["/a.*", "/.", ".*/b"]).into()))),
    };
    let query = some(rng).then(|| QueryMatch { name: "q".into(), value: QueryValueMatch::Exact("1".into()) });
    let headers = (0..rng.usize(..3)).map(|_| header(rng)).collect();
    let method = some(rng).then(|| one(rng, &[Method::GET, Method::POST]));
    RequestMatch::Http(HttpMatch { path, headers, query: query.into_iter().collect(), method })
}

fn routes(rng: &mut Rng) -> Vec<Route> {
    let host = |rng: &mut Rng| match rng.bool() {
        true => HostMatch::Exact(one(rng, &["web.x", "Web.X", "api.x"]).into()),
        false => HostMatch::Suffix { reversed_labels: vec!["x".into()] },
    };
    let rule = |rng: &mut Rng| Rule {
        matches: (0..rng.usize(..4)).map(|_| wanted(rng)).collect(),
        filters: vec![],
        backends: Distribution::Empty,
        timeouts: Timeouts::default(),
        retry: None,
        allow_request_headers: false,
    };
    (0..rng.usize(..8))
        .map(|_| Route {
            meta: Meta::default_named("r"),
            hosts: (0..rng.usize(..3)).map(|_| host(rng)).collect(),
            rules: (0..rng.usize(..4)).map(|_| rule(rng)).collect(),
            authorizations: vec![],
        })
        .collect()
}

/// The segments of a path; empty ones at its end do not count.
fn segments(path: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = path.split('/').skip(1).collect();
    while parts.last() == Some(&"") {
        parts.pop();
    }
    parts
}

/// How well a host fits: exact before suffix, then the longer. `None`: not at all.
fn host_rank(hosts: &[HostMatch], host: &str) -> Option<(u8, usize)> {
    if hosts.is_empty() {
        return Some((0, 0));
    }
    let rank = |wanted: &HostMatch| match wanted {
        HostMatch::Exact(wanted) => (wanted.to_lowercase() == host).then_some((2, wanted.len())),
        HostMatch::Suffix { .. } => host.ends_with(".x").then_some((1, 2)),
    };
    hosts.iter().filter_map(rank).max()
}

fn covers(pattern: &str, text: &str) -> bool {
    regex::Regex::new(&format!("^(?:{pattern})$")).unwrap().is_match(text)
}

fn has(headers: &HeaderMap, wanted: &HeaderMatch) -> bool {
    headers.get_all(&wanted.name).iter().any(|value| match &wanted.value {
        HeaderValueMatch::Exact(bytes) => value.as_bytes() == &bytes[..],
        HeaderValueMatch::Regex(pattern) => covers(&pattern.0, value.to_str().unwrap()),
    })
}

/// How well a match fits (§3.4); larger is better. `None`: not at all.
fn rank(of: &RequestMatch, request: &RequestView<'_>) -> Option<(usize, usize, usize, u8)> {
    let path = request.uri.path();
    match of {
        RequestMatch::Http(HttpMatch { path: wanted, headers, query, method }) => {
            let length = match wanted {
                None => 1,
                Some(PathMatch::Exact(wanted)) => (wanted == path).then_some(path.len())?,
                Some(PathMatch::Prefix(wanted)) => {
                    let wanted_segments = segments(wanted);
                    let all: Vec<&str> = path.split('/').skip(1).collect();
                    all.starts_with(&wanted_segments).then(|| wanted.trim_end_matches('/').len().max(1))?
                }
                Some(PathMatch::Regex(pattern)) => covers(&pattern.0, path).then_some(path.len())?,
            };
            let fits = headers.iter().all(|h| has(request.headers, h))
                && query
                    .iter()
                    .all(|_| request.uri.query().is_some_and(|q| q.split('&').any(|p| p == "q=1")))
                && method.as_ref().is_none_or(|m| m == request.method);
            fits.then_some((length, headers.len(), query.len(), u8::from(method.is_some())))
        }
        RequestMatch::Grpc(GrpcMatch { service, method, headers }) => {
            let mut parts = path.trim_start_matches('/').split('/');
            let (got_service, got_method) = (parts.next()?, parts.next()?);
            let fits = request.method == Method::POST
                && service.as_ref().is_none_or(|s| s == got_service)
                && method.as_ref().is_none_or(|m| m == got_method)
                && headers.iter().all(|h| has(request.headers, h));
            let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
            fits.then(|| (length(service), length(method), headers.len(), 0))
        }
    }
}

/// The first of the best, by comparing everything.
fn naive(routes: &[Route], request: &RequestView<'_>, host: &str) -> Option<(usize, usize)> {
    let mut best = None;
    for (number, route) in routes.iter().enumerate() {
        let Some(of_host) = host_rank(&route.hosts, host) else { continue };
        for (at, rule) in route.rules.iter().enumerate() {
            let everything = rule.matches.is_empty().then_some((1, 0, 0, 0));
            let ranks = rule.matches.iter().filter_map(|of| rank(of, request)).chain(everything);
            let Some(of_rule) = ranks.max() else { continue };
            if best.is_none_or(|(other, _)| (of_host, of_rule) > other) {
                best = Some(((of_host, of_rule), (number, at)));
            }
        }
    }
    best.map(|(_, place)| place)
}

#[test]
fn the_winner_is_the_one_that_a_naive_matcher_finds() {
    let (mut found, mut none) = (0, 0);
    for seed in 0..500 {
        let mut rng = Rng::with_seed(seed);
        let routes = routes(&mut rng);
        let matcher = Matcher::new(&routes).unwrap();
        for _ in 0..20 {
            let host = one(&mut rng, &["web.x", "api.x", "other.y"]);
            let query = one(&mut rng, &["", "?q=1", "?q=2&q=1", "?p=1"]);
            let extra = one(&mut rng, &["", "/more", "/more//"]);
            let uri: Uri = format!("http://{host}{}{extra}{query}", one(&mut rng, &PATHS)).parse().unwrap();
            let mut headers = HeaderMap::new();
            for name in ["x-a", "x-b", "x-a"] {
                if rng.bool() {
                    headers.append(name, HeaderValue::from_static(one(&mut rng, &["1", "2", "3"])));
                }
            }
            let method = one(&mut rng, &[Method::GET, Method::POST]);
            let request = RequestView { method: &method, uri: &uri, headers: &headers };
            let expected = naive(&routes, &request, host);
            let got = matcher.find(&request).map(|m| (m.route, m.rule));
            assert_eq!(got, expected, "seed {seed}: {method} {uri} {headers:?}\n{routes:#?}");
            if got.is_some() { found += 1 } else { none += 1 }
        }
    }
    assert!(found > 2_000 && none > 500, "{found} found, {none} not: the sample is worth little");
}
