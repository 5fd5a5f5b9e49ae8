//! Which route and rule a request matches (§3.4): host first, then path, headers, query and method,
//! the most specific match winning, the first listed on ties.
//!
//! Compiled once per policy by `route::Table`; evaluated once per request. Never allocates while
//! evaluating a request without query matches.

use crate::places::{Paths, Place, Places};
use http::header::HOST;
use http::{HeaderMap, Method, Request, Uri};
use regex::Regex;
use std::cell::LazyCell;
use weft_model::route::{
    Condition, GrpcMatch, HeaderMatch, HeaderValueMatch, HostMatch, HttpMatch, PathMatch, Pattern,
    QueryMatch, QueryValueMatch, RequestMatch, Route,
};

/// The parts of a request that matching looks at.
#[derive(Clone, Copy)]
pub struct RequestView<'a> {
    /// Method.
    pub method: &'a Method,
    /// Target; its path and query count.
    pub uri: &'a Uri,
    /// Headers.
    pub headers: &'a HeaderMap,
}

impl<'a> RequestView<'a> {
    /// A view of a request, whatever its body.
    pub fn of<B>(request: &'a Request<B>) -> Self {
        Self { method: request.method(), uri: request.uri(), headers: request.headers() }
    }

    /// The host that the request is for, without its port: its target's, else its `Host`.
    pub(crate) fn host(&self) -> Option<&'a str> {
        let authority = authority(self.uri, self.headers)?;
        let end = authority.rfind(':').filter(|_| !authority.ends_with(']')).unwrap_or(authority.len());
        authority.get(..end)
    }
}

/// The authority that a request is for: its target's, else its `Host`.
pub fn authority<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => headers.get(HOST)?.to_str().ok().filter(|h| !h.is_empty()),
    }
}

/// A regular expression does not compile, or would need too much memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the expression `{pattern}` cannot be used: {problem}")]
pub struct InvalidPattern {
    /// The expression.
    pub pattern: String,
    /// The engine's complaint.
    pub problem: String,
}

/// A compiled expression uses at most this much memory; a guess that leaves room for long
/// alternations of paths, to be settled by the first honest pattern that is refused.
const PATTERN_BYTES: usize = 1 << 20;

/// Compiles an expression so that it must cover the whole text.
pub fn compile(pattern: &Pattern) -> Result<Regex, InvalidPattern> {
    let anchored = format!("^(?:{})$", pattern.0.trim());
    regex::RegexBuilder::new(&anchored)
        .size_limit(PATTERN_BYTES)
        .build()
        .map_err(|e| InvalidPattern { pattern: pattern.0.clone(), problem: e.to_string() })
}

/// Routes ready to be matched.
#[derive(Debug)]
pub struct Matcher {
    pub(crate) routes: Vec<CompiledRoute>,
    /// Where there are many matches: which of them a path can meet.
    places: Option<Places>,
    needed: Needed,
}

/// A route's hosts and its rules' matches, compiled.
#[derive(Debug)]
pub(crate) struct CompiledRoute {
    pub(crate) hosts: Vec<HostMatch>,
    pub(crate) rules: Vec<Vec<CompiledMatch>>,
}

#[derive(Debug)]
pub(crate) enum CompiledMatch {
    Http {
        path: CompiledPath,
        headers: Vec<CompiledHeader>,
        query: Vec<CompiledQuery>,
        method: Option<Method>,
    },
    Grpc {
        service: Option<String>,
        method: Option<String>,
        headers: Vec<CompiledHeader>,
    },
}

#[derive(Debug)]
pub(crate) enum CompiledPath {
    Exact(String),
    Prefix(String),
    Regex(Regex),
}

#[derive(Debug)]
pub(crate) struct CompiledHeader {
    pub(crate) name: http::HeaderName,
    value: CompiledValue,
}

#[derive(Debug)]
enum CompiledValue {
    Exact(Vec<u8>),
    Regex(Regex),
}

#[derive(Debug)]
pub(crate) struct CompiledQuery {
    pub(crate) name: String,
    value: QueryValue,
}

#[derive(Debug)]
enum QueryValue {
    Exact(String),
    Regex(Regex),
}

/// Which rule won, and how much of the path its prefix covers (for prefix rewrites).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matched {
    /// Index of the route.
    pub route: usize,
    /// Index of the rule in the route.
    pub rule: usize,
    /// Bytes of the path that a prefix match covered.
    pub prefix: Option<usize>,
}

/// How specific a match is; larger wins. Compared field by field in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    host_exact: u8,
    host_len: usize,
    first: usize,
    second: usize,
    third: usize,
    method: u8,
}

impl Matcher {
    /// Compiles the routes' hosts and matches.
    pub fn new(routes: &[Route]) -> Result<Self, InvalidPattern> {
        let mut compiled = Vec::with_capacity(routes.len());
        for route in routes {
            let mut rules = Vec::with_capacity(route.rules.len());
            for rule in &route.rules {
                rules.push(rule.matches.iter().map(compile_match).collect::<Result<Vec<_>, _>>()?);
            }
            compiled.push(CompiledRoute { hosts: route.hosts.clone(), rules });
        }
        let mut needed = Needed::default();
        let places = Places::of(placed(&compiled, &mut needed));
        Ok(Self { routes: compiled, places, needed })
    }

    /// The best rule for the request, if any matches.
    pub fn find(&self, request: &RequestView<'_>) -> Option<Matched> {
        match &self.places {
            // A gRPC path may begin with several slashes.
            Some(places) if !request.uri.path().starts_with("//") => self.find_among(places, request),
            _ => self.find_in_all(request),
        }
    }

    fn find_in_all(&self, request: &RequestView<'_>) -> Option<Matched> {
        let mut best: Option<(Rank, Matched)> = None;
        let host = LazyCell::new(|| request.host()); // few policies look at it
        for (route, compiled) in self.routes.iter().enumerate() {
            let Some((host_exact, host_len)) = rank_host(&compiled.hosts, || *host) else { continue };
            for (rule, matches) in compiled.rules.iter().enumerate() {
                let Some((mut rank, prefix)) = best_match(matches, request) else { continue };
                (rank.host_exact, rank.host_len) = (host_exact, host_len);
                if best.as_ref().is_none_or(|(b, _)| rank > *b) {
                    best = Some((rank, Matched { route, rule, prefix }));
                }
            }
        }
        best.map(|(_, matched)| matched)
    }

    /// The same, looking only at matches that the path can meet. Of equal ones the first listed wins here, too, in whatever
    /// order they are looked at.
    fn find_among(&self, places: &Places, request: &RequestView<'_>) -> Option<Matched> {
        let mut best: Option<(Rank, Place, Option<usize>)> = None;
        let host = LazyCell::new(|| request.host());
        let mut there = There::default();
        places.each(request.uri.path(), |place| {
            if !self.needed.is_met(place.needs, request.headers, &mut there) {
                return;
            }
            let Some(route) = self.routes.get(place.route as usize) else { return };
            let Some(matches) = route.rules.get(place.rule as usize) else { return };
            let found = match matches.get(place.of as usize) {
                Some(of) => rank_match(of, request),
                None => best_match(matches, request), // a rule without matches
            };
            let Some((mut rank, prefix)) = found else { return };
            let Some(of_host) = rank_host(&route.hosts, || *host) else { return };
            (rank.host_exact, rank.host_len) = of_host;
            let wins = |(other, at, _): &(Rank, Place, Option<usize>)| {
                rank > *other || (rank == *other && place < *at)
            };
            if best.as_ref().is_none_or(wins) {
                best = Some((rank, place, prefix));
            }
        });
        let (_, place, prefix) = best?;
        Some(Matched { route: place.route as usize, rule: place.rule as usize, prefix })
    }
}

/// Names of headers that matches want, each of which is looked for once in a request however many want it.
#[derive(Debug, Default)]
struct Needed(Vec<http::HeaderName>);

/// What is known of a request: a bit for each of the names that was looked for, and for each that is there.
#[derive(Default)]
struct There {
    looked: u64,
    found: u64,
}

impl Needed {
    /// More names than this are not told apart: their matches are compared in full.
    const MOST: usize = u64::BITS as usize;

    /// The number of the first header that a match wants; 0 for none.
    fn number(&mut self, of: &CompiledMatch) -> u8 {
        let (CompiledMatch::Http { headers, .. } | CompiledMatch::Grpc { headers, .. }) = of;
        let Some(first) = headers.first() else { return 0 };
        let known = self.0.iter().position(|name| *name == first.name);
        let at = known.unwrap_or_else(|| {
            if self.0.len() < Self::MOST {
                self.0.push(first.name.clone());
            }
            self.0.len() - 1
        });
        let held = self.0.get(at).is_some_and(|name| *name == first.name);
        if held { u8::try_from(at + 1).unwrap_or(0) } else { 0 }
    }

    fn is_met(&self, number: u8, headers: &HeaderMap, there: &mut There) -> bool {
        let Some(name) = usize::from(number).checked_sub(1).and_then(|at| self.0.get(at)) else {
            return true;
        };
        let bit = 1 << (number - 1);
        if there.looked & bit == 0 {
            there.looked |= bit;
            if headers.contains_key(name) {
                there.found |= bit;
            }
        }
        there.found & bit != 0
    }
}

/// Every match with the paths that it can meet.
fn placed(routes: &[CompiledRoute], needed: &mut Needed) -> Vec<(Place, Paths)> {
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let mut all = Vec::new();
    for (route, compiled) in routes.iter().enumerate() {
        for (rule, matches) in compiled.rules.iter().enumerate() {
            let place = |of: usize, needs: u8| Place {
                route: number(route),
                rule: number(rule),
                of: number(of),
                needs,
            };
            if matches.is_empty() {
                all.push((place(0, 0), Paths::Any));
            }
            let each = matches.iter().enumerate();
            all.extend(each.map(|(of, one)| (place(of, needed.number(one)), paths(one))));
        }
    }
    all
}

fn paths(of: &CompiledMatch) -> Paths {
    match of {
        CompiledMatch::Http { path: CompiledPath::Exact(path), .. } => Paths::Exact(path.clone()),
        CompiledMatch::Http { path: CompiledPath::Prefix(prefix), .. } => Paths::Below(prefix.clone()),
        CompiledMatch::Http { path: CompiledPath::Regex(_), .. } => Paths::Any,
        CompiledMatch::Grpc { service: None, .. } => Paths::Any,
        CompiledMatch::Grpc { service: Some(service), method: None, .. } => {
            Paths::Below(format!("/{service}"))
        }
        CompiledMatch::Grpc { service: Some(service), method: Some(method), .. } => {
            Paths::Below(format!("/{service}/{method}"))
        }
    }
}

fn best_match(matches: &[CompiledMatch], request: &RequestView<'_>) -> Option<(Rank, Option<usize>)> {
    if matches.is_empty() {
        return Some((Rank { first: 1, ..Rank::default() }, Some(1)));
    }
    let mut best: Option<(Rank, Option<usize>)> = None;
    for candidate in matches {
        if let Some(found) = rank_match(candidate, request)
            && best.as_ref().is_none_or(|(rank, _)| found.0 > *rank)
        {
            best = Some(found);
        }
    }
    best
}

fn compile_match(of: &RequestMatch) -> Result<CompiledMatch, InvalidPattern> {
    Ok(match of {
        RequestMatch::Http(HttpMatch { path, headers, query, method }) => CompiledMatch::Http {
            path: match path {
                None => CompiledPath::Prefix(String::new()),
                Some(PathMatch::Exact(p)) => CompiledPath::Exact(p.clone()),
                Some(PathMatch::Prefix(p)) => CompiledPath::Prefix(p.trim_end_matches('/').to_owned()),
                Some(PathMatch::Regex(p)) => CompiledPath::Regex(compile(p)?),
            },
            headers: compile_headers(headers)?,
            query: query.iter().map(compile_query).collect::<Result<_, _>>()?,
            method: method.clone(),
        },
        RequestMatch::Grpc(GrpcMatch { service, method, headers }) => CompiledMatch::Grpc {
            service: service.clone().filter(|s| !s.is_empty()),
            method: method.clone().filter(|m| !m.is_empty()),
            headers: compile_headers(headers)?,
        },
    })
}

fn compile_headers(headers: &[HeaderMatch]) -> Result<Vec<CompiledHeader>, InvalidPattern> {
    let one = |h: &HeaderMatch| {
        let value = match &h.value {
            HeaderValueMatch::Exact(bytes) => CompiledValue::Exact(bytes.clone()),
            HeaderValueMatch::Regex(p) => CompiledValue::Regex(compile(p)?),
        };
        Ok(CompiledHeader { name: h.name.clone(), value })
    };
    headers.iter().map(one).collect()
}

fn compile_query(query: &QueryMatch) -> Result<CompiledQuery, InvalidPattern> {
    let value = match &query.value {
        QueryValueMatch::Exact(text) => QueryValue::Exact(text.clone()),
        QueryValueMatch::Regex(p) => QueryValue::Regex(compile(p)?),
    };
    Ok(CompiledQuery { name: query.name.clone(), value })
}

/// `(exactness, length)` of the best host pattern; `None` if the host is not meant.
pub(crate) fn rank_host<'a>(
    patterns: &[HostMatch],
    host: impl FnOnce() -> Option<&'a str>,
) -> Option<(u8, usize)> {
    if patterns.is_empty() {
        return Some((0, 0));
    }
    let host = host()?;
    patterns.iter().filter_map(|p| rank_one_host(p, host)).max()
}

/// How well one host pattern fits a host (§3.4): exact without case, the host's trailing dot dropped
/// unless the pattern has one; a suffix needs at least one more label.
pub fn rank_one_host(pattern: &HostMatch, host: &str) -> Option<(u8, usize)> {
    match pattern {
        HostMatch::Exact(wanted) => {
            let host = if wanted.ends_with('.') { host } else { host.strip_suffix('.').unwrap_or(host) };
            host.eq_ignore_ascii_case(wanted).then_some((2, wanted.len()))
        }
        HostMatch::Suffix { reversed_labels } => {
            let mut labels = host.strip_suffix('.').unwrap_or(host).rsplit('.');
            let all =
                reversed_labels.iter().all(|w| labels.next().is_some_and(|l| l.eq_ignore_ascii_case(w)));
            let length = reversed_labels.iter().map(|l| l.len() + 1).sum();
            (all && labels.next().is_some()).then_some((1, length))
        }
    }
}

fn rank_match(of: &CompiledMatch, request: &RequestView<'_>) -> Option<(Rank, Option<usize>)> {
    match of {
        CompiledMatch::Http { path, headers, query, method } => {
            if method.as_ref().is_some_and(|m| m != request.method) {
                return None;
            }
            let (length, prefix) = match_path(path, request.uri.path())?;
            if !headers.iter().all(|h| match_header(h, request.headers)) || !match_queries(query, request.uri)
            {
                return None;
            }
            let rank = Rank {
                first: length,
                second: headers.len(),
                third: query.len(),
                method: u8::from(method.is_some()),
                ..Rank::default()
            };
            Some((rank, prefix))
        }
        CompiledMatch::Grpc { service, method, headers } => {
            if request.method != Method::POST {
                return None;
            }
            let mut segments = request.uri.path().trim_start_matches('/').splitn(3, '/');
            let (got_service, got_method) = (segments.next()?, segments.next()?);
            let fits = |wanted: &Option<String>, got: &str| wanted.as_ref().is_none_or(|w| w == got);
            if !fits(service, got_service) || !fits(method, got_method) {
                return None;
            }
            if !headers.iter().all(|h| match_header(h, request.headers)) {
                return None;
            }
            let length = |o: &Option<String>| o.as_ref().map_or(0, String::len);
            let rank = Rank {
                first: length(service),
                second: length(method),
                third: headers.len(),
                ..Rank::default()
            };
            Some((rank, None))
        }
    }
}

/// `(characters matched, bytes covered by a prefix)`.
pub(crate) fn match_path(of: &CompiledPath, path: &str) -> Option<(usize, Option<usize>)> {
    match of {
        CompiledPath::Exact(wanted) => (path == wanted).then_some((path.len(), None)),
        CompiledPath::Prefix(prefix) => {
            let rest = path.strip_prefix(prefix.as_str())?;
            let whole_segment = rest.is_empty() || rest.starts_with('/');
            whole_segment.then(|| (prefix.len().max(1), Some(prefix.len().max(1))))
        }
        CompiledPath::Regex(regex) => regex.is_match(path).then_some((path.len(), None)),
    }
}

pub(crate) fn match_header(of: &CompiledHeader, headers: &HeaderMap) -> bool {
    headers.get_all(&of.name).iter().any(|value| match &of.value {
        CompiledValue::Exact(bytes) => value.as_bytes() == bytes.as_slice(),
        CompiledValue::Regex(regex) => value.to_str().is_ok_and(|text| regex.is_match(text)),
    })
}

fn match_queries(wanted: &[CompiledQuery], uri: &Uri) -> bool {
    wanted.iter().all(|wanted| match_query(wanted, uri))
}

pub(crate) fn match_query(wanted: &CompiledQuery, uri: &Uri) -> bool {
    uri.query().unwrap_or_default().split('&').any(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        form_decode(name) == wanted.name
            && match &wanted.value {
                QueryValue::Exact(text) => form_decode(value) == *text,
                QueryValue::Regex(regex) => regex.is_match(&form_decode(value)),
            }
    })
}

/// Decodes `+` and `%XX` as forms do; bytes that are not UTF-8 become replacement characters.
pub fn form_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, tail) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(h), Some(l)) => {
                    bytes.push(h << 4 | l);
                    rest = after;
                }
                _ => bytes.push(b'%'),
            },
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

/// A service profile's condition, compiled.
#[derive(Debug)]
pub enum CompiledCondition {
    /// Every part.
    All(Vec<CompiledCondition>),
    /// Any part.
    Any(Vec<CompiledCondition>),
    /// Not the part.
    Not(Box<CompiledCondition>),
    /// The path.
    Path(Regex),
    /// The method.
    Method(Method),
}

impl CompiledCondition {
    /// Compiles a condition tree.
    pub fn new(condition: &Condition) -> Result<Self, InvalidPattern> {
        let list = |parts: &[Condition]| parts.iter().map(Self::new).collect::<Result<Vec<_>, _>>();
        Ok(match condition {
            Condition::All(parts) => Self::All(list(parts)?),
            Condition::Any(parts) => Self::Any(list(parts)?),
            Condition::Not(part) => Self::Not(Box::new(Self::new(part)?)),
            Condition::Path(pattern) => Self::Path(compile(pattern)?),
            Condition::Method(method) => Self::Method(method.clone()),
        })
    }

    /// Whether it holds.
    pub fn holds(&self, request: &RequestView<'_>) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|p| p.holds(request)),
            Self::Any(parts) => parts.iter().any(|p| p.holds(request)),
            Self::Not(part) => !part.holds(request),
            Self::Path(regex) => regex.is_match(request.uri.path()),
            Self::Method(method) => method == request.method,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use weft_model::meta::Meta;
    use weft_model::route::{Distribution, Rule, Timeouts};

    fn rule(matches: Vec<RequestMatch>) -> Rule {
        Rule {
            matches,
            filters: vec![],
            backends: Distribution::Empty,
            timeouts: Timeouts::default(),
            retry: None,
            allow_request_headers: false,
        }
    }

    fn route(hosts: Vec<HostMatch>, rules: Vec<Rule>) -> Route {
        Route { meta: Meta::default_named("r"), hosts, rules, authorizations: vec![] }
    }

    fn path(path: PathMatch) -> RequestMatch {
        RequestMatch::Http(HttpMatch { path: Some(path), ..HttpMatch::default() })
    }

    fn check(routes: &[Route], request: (&str, &str, Option<&str>), expected: Option<(usize, usize)>) {
        let (method, uri, host) = request;
        let mut headers = HeaderMap::new();
        headers.insert("x-user", HeaderValue::from_static("amy"));
        let (method, uri) = (method.parse().unwrap(), uri.parse().unwrap());
        if let Some(host) = host {
            headers.insert(HOST, HeaderValue::from_str(host).unwrap());
        }
        let view = RequestView { method: &method, uri: &uri, headers: &headers };
        let found = Matcher::new(routes).unwrap().find(&view).map(|m| (m.route, m.rule));
        assert_eq!(found, expected, "{request:?}");
    }

    #[test]
    fn prefixes_match_whole_segments_and_longer_ones_win() {
        let routes = [route(
            vec![],
            vec![
                rule(vec![path(PathMatch::Prefix("/".into()))]),
                rule(vec![path(PathMatch::Prefix("/api/".into()))]),
                rule(vec![path(PathMatch::Exact("/api/v1".into()))]),
            ],
        )];
        check(&routes, ("GET", "/x", None), Some((0, 0)));
        check(&routes, ("GET", "/api", None), Some((0, 1)));
        check(&routes, ("GET", "/api/v2", None), Some((0, 1)));
        check(&routes, ("GET", "/apis", None), Some((0, 0)));
        check(&routes, ("GET", "/api/v1?q=1", None), Some((0, 2)));
    }

    #[test]
    fn the_host_is_the_targets_or_the_headers_without_port() {
        for (uri, header, expected) in [
            ("http://a:80/x", "b", Some("a")),
            ("/x", "b:81", Some("b")),
            ("/x", "[::1]:81", Some("[::1]")),
            ("/x", "[::1]", Some("[::1]")),
            ("/x", "", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static(header));
            let uri = uri.parse().unwrap();
            let view = RequestView { method: &Method::GET, uri: &uri, headers: &headers };
            assert_eq!(view.host(), expected);
        }
    }

    #[test]
    fn hosts_rank_before_paths() {
        let routes = [
            route(vec![], vec![rule(vec![path(PathMatch::Exact("/a".into()))])]),
            route(
                vec![HostMatch::Suffix { reversed_labels: vec!["com".into(), "x".into()] }],
                vec![rule(vec![])],
            ),
            route(vec![HostMatch::Exact("a.x.com".into())], vec![rule(vec![])]),
        ];
        check(&routes, ("GET", "/a", None), Some((0, 0)));
        check(&routes, ("GET", "/a", Some("b.x.com")), Some((1, 0)));
        check(&routes, ("GET", "/a", Some("A.X.com.")), Some((2, 0)));
        check(&routes, ("GET", "/a", Some("x.com")), Some((0, 0)));
        check(&routes, ("GET", "/b", Some("x.com")), None);
    }

    #[test]
    fn headers_queries_and_methods_narrow_and_the_first_wins_ties() {
        let header = HeaderMatch {
            name: HeaderName::from_static("x-user"),
            value: HeaderValueMatch::Regex(Pattern("a.*".into())),
        };
        let query = QueryMatch { name: "a b".into(), value: QueryValueMatch::Exact("1&2".into()) };
        let http = |m: HttpMatch| RequestMatch::Http(m);
        let routes = [route(
            vec![],
            vec![
                rule(vec![]),
                rule(vec![http(HttpMatch { method: Some(Method::PUT), ..HttpMatch::default() })]),
                rule(vec![http(HttpMatch { query: vec![query], ..HttpMatch::default() })]),
                rule(vec![http(HttpMatch {
                    headers: vec![header],
                    method: Some(Method::POST),
                    ..HttpMatch::default()
                })]),
                rule(vec![]),
            ],
        )];
        check(&routes, ("GET", "/", None), Some((0, 0)));
        check(&routes, ("PUT", "/", None), Some((0, 1)));
        check(&routes, ("GET", "/?a+b=1%262", None), Some((0, 2)));
        check(&routes, ("POST", "/", None), Some((0, 3)));
    }

    #[test]
    fn a_regex_must_cover_the_whole_path() {
        let routes = [route(vec![], vec![rule(vec![path(PathMatch::Regex(Pattern("/a|/abc".into())))])])];
        check(&routes, ("GET", "/abc", None), Some((0, 0)));
        check(&routes, ("GET", "/ab", None), None);
        assert!(
            Matcher::new(&[route(vec![], vec![rule(vec![path(PathMatch::Regex(Pattern("(".into())))])])])
                .is_err()
        );
    }

    #[test]
    fn grpc_matches_by_service_and_method() {
        let grpc = |s: Option<&str>, m: Option<&str>| {
            let (service, method) = (s.map(str::to_owned), m.map(str::to_owned));
            rule(vec![RequestMatch::Grpc(GrpcMatch { service, method, headers: vec![] })])
        };
        let routes =
            [route(vec![], vec![grpc(None, None), grpc(Some("a.B"), None), grpc(Some("a.B"), Some("Get"))])];
        check(&routes, ("POST", "/a.B/Get", None), Some((0, 2)));
        check(&routes, ("POST", "/a.B/Put", None), Some((0, 1)));
        check(&routes, ("POST", "/c.D/Put", None), Some((0, 0)));
        check(&routes, ("GET", "/a.B/Get", None), None);
    }

    #[test]
    fn conditions_combine() {
        let condition = Condition::All(vec![
            Condition::Path(Pattern("/books/[0-9]+".into())),
            Condition::Not(Box::new(Condition::Method(Method::DELETE))),
            Condition::Any(vec![Condition::Method(Method::GET), Condition::Method(Method::DELETE)]),
        ]);
        let compiled = CompiledCondition::new(&condition).unwrap();
        for (method, path, holds) in
            [("GET", "/books/1", true), ("DELETE", "/books/1", false), ("GET", "/books/x", false)]
        {
            let (method, uri) = (method.parse().unwrap(), path.parse().unwrap());
            let view = RequestView { method: &method, uri: &uri, headers: &HeaderMap::new() };
            assert_eq!(compiled.holds(&view), holds);
        }
    }
}
