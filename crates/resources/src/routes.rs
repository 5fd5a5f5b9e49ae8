//! Routes of the Gateway API and of the peer, egress networks and reference grants. Pure.
//!
//! Called by `kinds.rs`. The rules are those of their schemas and of the peer's admission (control-plane.md §1H, §2.7); what
//! depends on other objects is left to the index. A filter that nobody here can run is kept as one that refuses, so that no
//! request passes as if it were not there. `render/routes.rs` writes the same kinds.

use crate::matches::{self, header_name};
use crate::node::{At, Fields, Node, Problem, Value, cut};
use crate::policies::networks;
use crate::scalars::{bounded, object_name, port};
use crate::values::go_duration;
use http::{HeaderName, HeaderValue, StatusCode};
use std::num::NonZeroU16;
use std::time::Duration;
use weft_index::annotations::{grpc_retry, http_retry, timeouts};
use weft_model::attach::{
    BackendKind, BackendRef, EgressNetwork, EgressTraffic, ParentKind, ParentRef, ReferenceGrant,
    RouteResource, RouteRule,
};
use weft_model::object::{Kind, Metadata};
use weft_model::route::{Filter, HeaderChange, HostMatch, PathRewrite, Redirect};

/// Most rules of a route. The Gateway API allows 16.
pub(crate) const RULE_LIMIT: usize = 1000;

const GATEWAY: &str = "gateway.networking.k8s.io";
const POLICY: &str = "policy.linkerd.io";

pub(crate) fn route(f: &Fields<'_>, meta: Metadata, kind: Kind) -> Result<RouteResource, Problem> {
    f.ignore(&["status"]);
    f.required("metadata", |at| annotations(at, &meta, kind))?;
    f.required("spec", |at| {
        at.fields(|f| {
            f.ignore(&["useDefaultGateways"]);
            let parents = f.optional("parentRefs", |at| bounded(at, at.items(parent)?))?.unwrap_or_default();
            let hosts = f.optional("hostnames", |at| bounded(at, at.items(host)?))?.unwrap_or_default();
            let rules = match f.optional("rules", |at| rules(at, kind))? {
                Some(rules) => rules,
                // The Gateway API's default: one rule that matches everything.
                None if is_http(kind) || kind == Kind::GrpcRoute => vec![RouteRule::default()],
                None => return Err(at.problem("needs rules")),
            };
            if !is_http(kind) && kind != Kind::GrpcRoute && rules.len() != 1 {
                return Err(at.problem(format!(
                    "has {} rules; a {} has exactly one",
                    rules.len(),
                    kind.name()
                )));
            }
            Ok(RouteResource { meta, parents, hosts, rules })
        })
    })
}

fn is_http(kind: Kind) -> bool {
    matches!(kind, Kind::HttpRoute | Kind::PolicyHttpRoute)
}

/// What the peer's admission refuses of a route's annotations.
fn annotations(at: At<'_>, meta: &Metadata, kind: Kind) -> Result<(), Problem> {
    let given = &meta.annotations;
    let wrong = match kind {
        Kind::GrpcRoute => timeouts(given).err().or_else(|| grpc_retry(given).err()),
        Kind::HttpRoute | Kind::PolicyHttpRoute => timeouts(given).err().or_else(|| http_retry(given).err()),
        _ => None,
    };
    match wrong {
        None => Ok(()),
        Some(wrong) => {
            let line = at.node.field("annotations").map_or(at.node.line, |node| node.line);
            Err(Problem { line, field: "metadata.annotations".into(), message: wrong })
        }
    }
}

fn text(f: &Fields<'_>, key: &str) -> Result<Option<String>, Problem> {
    f.optional(key, |at| at.text().map(str::to_owned))
}

fn parent(at: At<'_>) -> Result<ParentRef, Problem> {
    at.fields(|f| {
        let group = text(f, "group")?.unwrap_or_else(|| GATEWAY.to_owned());
        let kind = text(f, "kind")?.unwrap_or_else(|| "Gateway".to_owned());
        let kind = match (group.as_str(), kind.as_str()) {
            ("" | "core", "Service") => ParentKind::Service,
            (POLICY, "EgressNetwork") => ParentKind::EgressNetwork,
            (POLICY, "Server") => ParentKind::Server,
            (GATEWAY, "Service") => {
                at.warn("has no effect, because a Service is not of the Gateway API; write `group: core`");
                ParentKind::Other(format!("{group}/{kind}"))
            }
            (GATEWAY, "Server" | "EgressNetwork") => {
                at.warn(format!("has no effect, because the group is missing; write `group: {POLICY}`"));
                ParentKind::Other(format!("{group}/{kind}"))
            }
            _ => ParentKind::Other(format!("{}/{}", cut(&group), cut(&kind))),
        };
        let port = f.optional("port", port)?;
        if kind == ParentKind::EgressNetwork && port.is_none() {
            return Err(at.problem("needs a port, because an EgressNetwork has all of them"));
        }
        Ok(ParentRef {
            kind,
            namespace: f.optional("namespace", object_name)?,
            name: f.required("name", object_name)?,
            section: text(f, "sectionName")?.filter(|section| !section.is_empty()),
            port,
        })
    })
}

/// A host name, or `*.` and one.
fn host(at: At<'_>) -> Result<HostMatch, Problem> {
    let text = at.text()?.to_ascii_lowercase();
    let (wild, name) = match text.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, text.as_str()),
    };
    let sound = name.len() <= 253
        && name.parse::<std::net::IpAddr>().is_err()
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        });
    match (sound, wild) {
        (false, _) => {
            Err(at.problem(format!("`{}` is not a host name such as web.example or *.example", cut(&text))))
        }
        (true, false) => Ok(HostMatch::Exact(text)),
        (true, true) => {
            Ok(HostMatch::Suffix { reversed_labels: name.rsplit('.').map(str::to_owned).collect() })
        }
    }
}

fn rules(at: At<'_>, kind: Kind) -> Result<Vec<RouteRule>, Problem> {
    let rules = at.items(|at| {
        at.fields(|f| {
            f.ignore(&["name"]);
            let matches = f.optional("matches", |at| {
                let one = |at: At<'_>| match kind {
                    Kind::GrpcRoute => matches::grpc(at),
                    _ => matches::http(at),
                };
                bounded(at, at.items(one)?)
            })?;
            let filters = f.optional("filters", |at| bounded(at, at.items(|at| filter(at, kind))?))?;
            let backends = f.optional("backendRefs", |at| bounded(at, at.items(|at| backend(at, kind))?))?;
            let (request, backend) = f.optional("timeouts", limits)?.unwrap_or_default();
            Ok(RouteRule {
                matches: matches.unwrap_or_default(),
                filters: filters.unwrap_or_default(),
                backends: backends.unwrap_or_default(),
                request_timeout: request,
                backend_timeout: backend,
            })
        })
    })?;
    match rules.len() > RULE_LIMIT {
        true => Err(at.problem(format!("has {} rules; the limit is {RULE_LIMIT}", rules.len()))),
        false => Ok(rules),
    }
}

/// The limits of a rule; zero means none.
fn limits(at: At<'_>) -> Result<(Option<Duration>, Option<Duration>), Problem> {
    at.fields(|f| {
        let limit = |at: At<'_>| {
            let text = at.text()?;
            let limit = go_duration(text);
            limit.ok_or_else(|| at.problem(format!("`{}` is not a duration such as 500ms", cut(text))))
        };
        let request = f.optional("request", limit)?.filter(|limit| !limit.is_zero());
        let backend = f.optional("backendRequest", limit)?.filter(|limit| !limit.is_zero());
        match (request, backend) {
            (Some(request), Some(backend)) if backend > request => {
                Err(at.problem("backendRequest is longer than request, which would end it first"))
            }
            limits => Ok(limits),
        }
    })
}

fn backend(at: At<'_>, kind: Kind) -> Result<BackendRef, Problem> {
    at.fields(|f| {
        let group = text(f, "group")?.unwrap_or_default();
        let named = text(f, "kind")?.unwrap_or_else(|| "Service".to_owned());
        let of = match (group.as_str(), named.as_str()) {
            ("" | "core", "Service") => BackendKind::Service,
            (POLICY, "EgressNetwork") => BackendKind::EgressNetwork,
            _ => BackendKind::Other(format!("{}/{}", cut(&group), cut(&named))),
        };
        let port: Option<NonZeroU16> = f.optional("port", port)?;
        if of == BackendKind::Service && port.is_none() {
            return Err(at.problem("needs a port"));
        }
        let weight = f.optional("weight", |at| {
            let number = at.integer()?;
            let weight = u32::try_from(number).ok().filter(|weight| *weight <= 1_000_000);
            weight.ok_or_else(|| at.problem(format!("{number} is not a weight in 0–1000000")))
        })?;
        let filters = match kind {
            Kind::TlsRoute | Kind::TcpRoute => None,
            _ => f.optional("filters", |at| bounded(at, at.items(|at| filter(at, kind))?))?,
        };
        Ok(BackendRef {
            kind: of,
            namespace: f.optional("namespace", object_name)?,
            name: f.required("name", object_name)?,
            port,
            weight: weight.unwrap_or(1),
            filters: filters.unwrap_or_default(),
        })
    })
}

fn filter(at: At<'_>, kind: Kind) -> Result<Filter, Problem> {
    at.fields(|f| {
        f.ignore(&["requestMirror", "urlRewrite", "extensionRef", "cors", "externalAuth"]);
        let of = f.required("type", |at| at.text().map(str::to_owned))?;
        let unused = |key: &str| match f.at.node.field(key) {
            Some(node) => Err(problem(node, &format!("is given, but the type is {}", cut(&of)))),
            None => Ok(()),
        };
        let filter = match of.as_str() {
            "RequestHeaderModifier" => {
                Filter::RequestHeaders(f.required("requestHeaderModifier", header_change)?)
            }
            "ResponseHeaderModifier" => {
                Filter::ResponseHeaders(f.required("responseHeaderModifier", header_change)?)
            }
            "RequestRedirect" if kind != Kind::GrpcRoute => {
                Filter::Redirect(f.required("requestRedirect", redirect)?)
            }
            other => {
                at.warn(format!(
                    "{} is not supported; requests that meet it are answered with 500",
                    cut(other)
                ));
                f.ignore(&["requestHeaderModifier", "responseHeaderModifier", "requestRedirect"]);
                return Ok(Filter::Invalid {
                    message: format!("the filter {} is not supported", cut(other)),
                });
            }
        };
        let own = |key: &str| key.eq_ignore_ascii_case(&of);
        for key in ["requestHeaderModifier", "responseHeaderModifier", "requestRedirect"] {
            if !own(key) {
                unused(key)?;
            }
        }
        Ok(filter)
    })
}

fn problem(node: &Node, message: &str) -> Problem {
    Problem { line: node.line, field: "filters".into(), message: message.into() }
}

fn header_change(at: At<'_>) -> Result<HeaderChange, Problem> {
    at.fields(|f| {
        let pairs = |at: At<'_>| bounded(at, at.items(header)?);
        let remove = |at: At<'_>| bounded(at, at.items(header_name)?);
        Ok(HeaderChange {
            add: f.optional("add", pairs)?.unwrap_or_default(),
            set: f.optional("set", pairs)?.unwrap_or_default(),
            remove: f.optional("remove", remove)?.unwrap_or_default(),
        })
    })
}

fn header(at: At<'_>) -> Result<(HeaderName, HeaderValue), Problem> {
    at.fields(|f| {
        let name = f.required("name", header_name)?;
        let value = f.required("value", |at| {
            let text = at.text()?;
            HeaderValue::from_str(text).map_err(|_| at.problem(format!("`{}` is no header value", cut(text))))
        })?;
        Ok((name, value))
    })
}

fn redirect(at: At<'_>) -> Result<Redirect, Problem> {
    at.fields(|f| {
        let scheme = f.optional("scheme", |at| match at.text()? {
            scheme @ ("http" | "https") => Ok(scheme.to_owned()),
            other => Err(at.problem(format!("`{}` is neither http nor https", cut(other)))),
        })?;
        let host = f.optional("hostname", |at| match host(at)? {
            HostMatch::Exact(host) => Ok(host),
            HostMatch::Suffix { .. } => Err(at.problem("must not begin with `*.`")),
        })?;
        let path = f.optional("path", |at| {
            at.fields(|f| {
                let absolute = |at: At<'_>| match at.text()? {
                    text if text.starts_with('/') || text.is_empty() => Ok(text.to_owned()),
                    text => Err(at.problem(format!("`{}` does not begin with `/`", cut(text)))),
                };
                let full = f.optional("replaceFullPath", absolute)?;
                let prefix = f.optional("replacePrefixMatch", absolute)?;
                match (text(f, "type")?.as_deref(), full, prefix) {
                    (Some("ReplaceFullPath"), Some(full), None) => Ok(PathRewrite::Full(full)),
                    (Some("ReplacePrefixMatch"), None, Some(prefix)) => Ok(PathRewrite::Prefix(prefix)),
                    _ => Err(at.problem(
                        "needs type ReplaceFullPath with replaceFullPath, or ReplacePrefixMatch with replacePrefixMatch",
                    )),
                }
            })
        })?;
        let port = f.optional("port", port)?.map(NonZeroU16::get);
        let status = f.optional("statusCode", |at| {
            let number = at.integer()?;
            let status = u16::try_from(number).ok().and_then(|n| StatusCode::from_u16(n).ok());
            let status = status.filter(StatusCode::is_redirection);
            status.ok_or_else(|| at.problem(format!("{number} is not the status of a redirect")))
        })?;
        Ok(Redirect { scheme, host, port, path, status })
    })
}

pub(crate) fn egress_network(f: &Fields<'_>, meta: Metadata) -> Result<EgressNetwork, Problem> {
    f.ignore(&["status"]);
    f.required("spec", |at| {
        at.fields(|f| {
            let traffic = f.required("trafficPolicy", |at| match at.text()? {
                "Allow" => Ok(EgressTraffic::Allow),
                "Deny" => Ok(EgressTraffic::Deny),
                other => Err(at.problem(format!("`{}` is neither Allow nor Deny", cut(other)))),
            })?;
            Ok(EgressNetwork { meta, traffic, networks: f.optional("networks", networks)? })
        })
    })
}

pub(crate) fn reference_grant(f: &Fields<'_>, meta: Metadata) -> Result<ReferenceGrant, Problem> {
    f.required("spec", |at| {
        at.fields(|f| {
            let from = f.required("from", |at| bounded(at, at.items(grantee)?))?;
            let to = f.required("to", |at| bounded(at, at.items(granted)?))?;
            let (from, to) = (from.into_iter().flatten(), to.into_iter().flatten());
            Ok(ReferenceGrant { meta, from: from.collect(), to: to.collect() })
        })
    })
}

/// Who may refer; `None` if it is no route of ours.
fn grantee(at: At<'_>) -> Result<Option<(Kind, String)>, Problem> {
    at.fields(|f| {
        let group = f.required("group", |at| at.text().map(str::to_owned))?;
        let name = f.required("kind", object_name)?;
        let namespace = f.required("namespace", object_name)?;
        let kind = Kind::ROUTES.into_iter().find(|kind| kind.group() == group && kind.name() == name);
        Ok(kind.map(|kind| (kind, namespace)))
    })
}

/// What may be referred to; `None` if it is no service.
fn granted(at: At<'_>) -> Result<Option<Option<String>>, Problem> {
    at.fields(|f| {
        let group = f.required("group", |at| match &at.node.value {
            Value::Text(text) => Ok(text.clone()),
            _ => Err(at.problem("must be text; the core group is \"\"")),
        })?;
        let kind = f.required("kind", object_name)?;
        let name = f.optional("name", object_name)?;
        Ok((matches!(group.as_str(), "" | "core") && kind == "Service").then_some(name))
    })
}
