//! What filters do to a request (§3.4): change headers, redirect, inject failures, refuse.
//!
//! The data path calls it for every filter of the rule and the backend that a request meets, `explain` for a request that
//! somebody might make. It sends nothing and draws nothing: the draw of an injected failure is an argument.

use crate::matching::authority;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, StatusCode, Uri};
use weft_model::route::{Filter, HeaderChange, InjectedAnswer, PathRewrite, Redirect};

/// What a filter decides.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// Go on.
    Pass,
    /// Answer with a redirect to this place.
    Redirect(StatusCode, Uri),
    /// Answer with an injected failure and its message.
    Inject(InjectedAnswer, String),
    /// The destination may not be used like this.
    Forbidden,
    /// The policy makes no sense; fail closed.
    Invalid(String),
}

/// Runs the request side of one filter. `prefix`: bytes of the path a prefix match covered. `draw`: a
/// uniform draw in `0.0..1.0` for injected failures.
pub fn on_request(
    filter: &Filter,
    uri: &Uri,
    headers: &mut HeaderMap,
    prefix: Option<usize>,
    draw: f64,
) -> Outcome {
    match filter {
        Filter::RequestHeaders(change) => {
            change_headers(change, headers);
            Outcome::Pass
        }
        Filter::ResponseHeaders(_) => Outcome::Pass,
        Filter::Redirect(redirect) => match location(redirect, (uri, headers), prefix) {
            Ok(None) => Outcome::Pass,
            Ok(Some(to)) => Outcome::Redirect(redirect.status.unwrap_or(StatusCode::MOVED_PERMANENTLY), to),
            Err(problem) => Outcome::Invalid(problem.into()),
        },
        Filter::InjectFailure(injection) => {
            let (numerator, denominator) = injection.ratio;
            if draw * f64::from(denominator) < f64::from(numerator) {
                Outcome::Inject(injection.answer.clone(), injection.message.clone())
            } else {
                Outcome::Pass
            }
        }
        Filter::Invalid { message } => Outcome::Invalid(message.clone()),
        Filter::Forbidden => Outcome::Forbidden,
    }
}

/// Runs the response side of one filter.
pub fn on_response(filter: &Filter, headers: &mut HeaderMap) {
    if let Filter::ResponseHeaders(change) = filter {
        change_headers(change, headers);
    }
}

/// Adds, then sets, then removes.
fn change_headers(change: &HeaderChange, headers: &mut HeaderMap) {
    for (name, value) in &change.add {
        headers.append(name, value.clone());
    }
    for (name, value) in &change.set {
        headers.insert(name, value.clone());
    }
    for name in &change.remove {
        headers.remove(name);
    }
}

/// Where a redirect leads; `None` if that is where the request already is, by its target or its `Host`.
fn location(
    redirect: &Redirect,
    (uri, headers): (&Uri, &HeaderMap),
    prefix: Option<usize>,
) -> Result<Option<Uri>, &'static str> {
    let scheme = match &redirect.scheme {
        Some(s) => s.parse::<Scheme>().map_err(|_| "the redirect's scheme is invalid")?,
        None => uri.scheme().cloned().unwrap_or(Scheme::HTTP),
    };
    let default_port = |scheme: &Scheme| if *scheme == Scheme::HTTPS { 443 } else { 80 };
    let current = authority(uri, headers).and_then(|text| text.parse::<Authority>().ok());
    let current = current.as_ref();
    let host = redirect.host.as_deref().or(current.map(Authority::host)).ok_or("the redirect has no host")?;
    let asked =
        |scheme: &Scheme| current.and_then(Authority::port_u16).filter(|port| *port != default_port(scheme));
    let port = match (redirect.port, &redirect.host) {
        (Some(port), Some(_)) => Some(port),
        (Some(port), None) => Some(port).filter(|port| *port != default_port(&scheme)),
        (None, _) => asked(&scheme),
    };
    let own = uri.scheme().unwrap_or(&Scheme::HTTP);
    let same_place = *own == scheme
        && current.is_some_and(|current| current.host().eq_ignore_ascii_case(host))
        && port.filter(|port| *port != default_port(own)) == asked(own);
    let place = match port {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let path = match &redirect.path {
        None => uri.path_and_query().map_or("/", PathAndQuery::as_str).to_owned(),
        Some(PathRewrite::Full(path)) if path.contains('?') => path.clone(),
        Some(PathRewrite::Full(path)) => format!("{path}{query}"),
        Some(PathRewrite::Prefix(new)) => {
            let covered = prefix.ok_or("a prefix rewrite needs a prefix match")?;
            let rest = uri.path().get(covered..).unwrap_or_default().trim_start_matches('/');
            let new = new.trim_end_matches('/');
            format!("{new}/{rest}{query}")
        }
    };
    let to = Uri::builder().scheme(scheme).authority(place).path_and_query(path).build();
    let to = to.map_err(|_| "the redirect's target is not a valid URI")?;
    Ok(Some(to).filter(|to| !same_place || to.path_and_query() != uri.path_and_query()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use weft_model::route::Injection;

    fn redirected(
        redirect: Redirect,
        uri: &str,
        prefix: Option<usize>,
    ) -> Result<Option<String>, &'static str> {
        location(&redirect, (&uri.parse().unwrap(), &HeaderMap::new()), prefix)
            .map(|to| to.map(|u| u.to_string()))
    }

    #[test]
    fn redirects_keep_what_they_do_not_name() {
        let base = Redirect::default();
        let host = Redirect { host: Some("b".into()), ..base.clone() };
        assert_eq!(redirected(host.clone(), "http://a:81/x?q", None), Ok(Some("http://b:81/x?q".into())));
        assert_eq!(redirected(host, "http://a:80/x", None), Ok(Some("http://b/x".into())));
        let port = Redirect { port: Some(80), ..base.clone() };
        assert_eq!(redirected(port, "http://a:81/x", None), Ok(Some("http://a/x".into())));
        let https = Redirect { scheme: Some("https".into()), ..base.clone() };
        assert_eq!(redirected(https, "http://a/x", None), Ok(Some("https://a/x".into())));
        let prefix = Redirect { path: Some(PathRewrite::Prefix("/n/".into())), ..base.clone() };
        assert_eq!(
            redirected(prefix.clone(), "http://a/old/x?q", Some(4)),
            Ok(Some("http://a/n/x?q".into()))
        );
        assert!(redirected(prefix, "http://a/old", None).is_err());
        assert_eq!(redirected(base, "http://a/x", None), Ok(None));
    }

    #[test]
    fn a_target_without_a_host_stands_for_its_host_header() {
        let host = |value: &str| HeaderMap::from_iter([(http::header::HOST, value.parse().unwrap())]);
        let there = |redirect: Redirect, value: &str| {
            let to = location(&redirect, (&Uri::from_static("/x?q"), &host(value)), None);
            to.map(|to| to.map(|to| to.to_string()))
        };
        let https = Redirect { scheme: Some("https".into()), ..Redirect::default() };
        assert_eq!(there(https.clone(), "a"), Ok(Some("https://a/x?q".into())));
        assert_eq!(there(https, "a:8443"), Ok(Some("https://a:8443/x?q".into())));
        for (value, port) in [("A", None), ("a:80", None), ("a", Some(80)), ("a:81", Some(81))] {
            let here = Redirect { host: Some("a".into()), port, ..Redirect::default() };
            assert_eq!(there(here, value), Ok(None), "{value} {port:?}");
        }
        let other = Redirect { host: Some("a".into()), port: Some(82), ..Redirect::default() };
        assert_eq!(there(other, "a:81"), Ok(Some("http://a:82/x?q".into())));
    }

    #[test]
    fn headers_are_added_then_set_then_removed() {
        let name = |n: &'static str| HeaderName::from_static(n);
        let value = |v: &'static str| HeaderValue::from_static(v);
        let change = HeaderChange {
            add: vec![(name("a"), value("2")), (name("b"), value("1"))],
            set: vec![(name("b"), value("3"))],
            remove: vec![name("c")],
        };
        let mut headers = HeaderMap::new();
        headers.insert("a", value("1"));
        headers.insert("c", value("1"));
        change_headers(&change, &mut headers);
        let all: Vec<_> = headers.get_all("a").iter().collect();
        assert_eq!((all.len(), headers.get("b"), headers.contains_key("c")), (2, Some(&value("3")), false));
    }

    #[test]
    fn injected_failures_obey_their_ratio() {
        let injection = Injection {
            answer: InjectedAnswer::Http(StatusCode::IM_A_TEAPOT),
            message: "m".into(),
            ratio: (1, 4),
        };
        let filter = Filter::InjectFailure(injection);
        for (draw, injected) in [(0.0, true), (0.24, true), (0.25, false), (0.9, false)] {
            let outcome = on_request(&filter, &Uri::from_static("/"), &mut HeaderMap::new(), None, draw);
            assert_eq!(outcome != Outcome::Pass, injected, "{draw}");
        }
    }
}
