//! What a route's rule looks for in a request: path, headers, query, method; or gRPC service and method. Pure.
//!
//! Called by `routes.rs`. Expressions are compiled once, so that one that proxies could not use is refused here.

use crate::node::{At, Problem, cut};
use crate::profile::pattern;
use crate::scalars::bounded;
use http::HeaderName;
use weft_model::route::{
    GrpcMatch, HeaderMatch, HeaderValueMatch, HttpMatch, PathMatch, Pattern, QueryMatch, QueryValueMatch,
    RequestMatch,
};

/// One match of an HTTP rule.
pub(crate) fn http(at: At<'_>) -> Result<RequestMatch, Problem> {
    at.fields(|f| {
        let method = f.optional("method", |at| {
            let text = at.text()?;
            let method = http::Method::from_bytes(text.as_bytes());
            method.map_err(|_| at.problem(format!("`{}` is no method", cut(text))))
        })?;
        Ok(RequestMatch::Http(HttpMatch {
            path: f.optional("path", path)?,
            headers: f.optional("headers", headers)?.unwrap_or_default(),
            query: f.optional("queryParams", |at| bounded(at, at.items(query)?))?.unwrap_or_default(),
            method,
        }))
    })
}

/// One match of a gRPC rule.
pub(crate) fn grpc(at: At<'_>) -> Result<RequestMatch, Problem> {
    at.fields(|f| {
        let (service, method) = f
            .optional("method", |at| {
                at.fields(|f| {
                    let of = f.optional("type", |at| at.text().map(str::to_owned))?;
                    if of.as_deref().is_some_and(|of| of != "Exact") {
                        return Err(at.problem("only the type Exact is supported; proxies know no other"));
                    }
                    let name = |at: At<'_>| match at.text()? {
                        text if text.contains('/') => Err(at.problem("must not contain `/`")),
                        text => Ok(text.to_owned()),
                    };
                    let (service, method) = (f.optional("service", name)?, f.optional("method", name)?);
                    match service.is_none() && method.is_none() {
                        true => Err(at.problem("needs service or method")),
                        false => Ok((service, method)),
                    }
                })
            })?
            .unwrap_or_default();
        let headers = f.optional("headers", headers)?.unwrap_or_default();
        Ok(RequestMatch::Grpc(GrpcMatch { service, method, headers }))
    })
}

fn path(at: At<'_>) -> Result<PathMatch, Problem> {
    at.fields(|f| {
        let of = f.optional("type", |at| at.text().map(str::to_owned))?;
        let absolute = |at: At<'_>| match at.text()? {
            text if text.starts_with('/') => Ok(text.to_owned()),
            text => Err(at.problem(format!("`{}` does not begin with `/`", cut(text)))),
        };
        let of = of.as_deref().unwrap_or("PathPrefix");
        match of {
            "Exact" => Ok(PathMatch::Exact(f.optional("value", absolute)?.unwrap_or_else(|| "/".into()))),
            "PathPrefix" => {
                Ok(PathMatch::Prefix(f.optional("value", absolute)?.unwrap_or_else(|| "/".into())))
            }
            "RegularExpression" => {
                let given = f.optional("value", pattern)?;
                Ok(PathMatch::Regex(given.unwrap_or_else(|| Pattern("/".into()))))
            }
            other => {
                Err(at.problem(format!("`{}` is not Exact, PathPrefix or RegularExpression", cut(other))))
            }
        }
    })
}

/// Headers that must be there. Of two with one name the first counts (Gateway API).
fn headers(at: At<'_>) -> Result<Vec<HeaderMatch>, Problem> {
    let list = at.items(|at| {
        at.fields(|f| {
            let name = f.required("name", header_name)?;
            let value = match is_exact(f.optional("type", |at| at.text().map(str::to_owned))?, at)? {
                true => {
                    HeaderValueMatch::Exact(f.required("value", |at| Ok(at.text()?.as_bytes().to_vec()))?)
                }
                false => HeaderValueMatch::Regex(f.required("value", pattern)?),
            };
            Ok(HeaderMatch { name, value })
        })
    })?;
    let mut kept: Vec<HeaderMatch> = Vec::new();
    for header in bounded(at, list)? {
        match kept.iter().any(|other| other.name == header.name) {
            true => at.warn(format!("{} is given twice; the first counts", header.name)),
            false => kept.push(header),
        }
    }
    Ok(kept)
}

fn query(at: At<'_>) -> Result<QueryMatch, Problem> {
    at.fields(|f| {
        let name = f.required("name", |at| match at.text()? {
            "" => Err(at.problem("is empty")),
            name => Ok(name.to_owned()),
        })?;
        let value = match is_exact(f.optional("type", |at| at.text().map(str::to_owned))?, at)? {
            true => QueryValueMatch::Exact(f.required("value", |at| at.text().map(str::to_owned))?),
            false => QueryValueMatch::Regex(f.required("value", pattern)?),
        };
        Ok(QueryMatch { name, value })
    })
}

fn is_exact(of: Option<String>, at: At<'_>) -> Result<bool, Problem> {
    match of.as_deref() {
        None | Some("Exact") => Ok(true),
        Some("RegularExpression") => Ok(false),
        Some(other) => Err(at.problem(format!("`{}` is neither Exact nor RegularExpression", cut(other)))),
    }
}

pub(crate) fn header_name(at: At<'_>) -> Result<HeaderName, Problem> {
    let text = at.text()?;
    text.parse().map_err(|_| at.problem(format!("`{}` is no header name", cut(text))))
}
