//! Who may speak to a workload: servers, authorizations, authentications, rate limits. Pure.
//!
//! Called by `kinds.rs`. The rules are those of the peer's schemas and of its admission (control-plane.md §1H, §2); what
//! depends on other objects is left to the index. `render/policies.rs` writes the same kinds.

use crate::node::{At, Fields, Problem, Value, cut};
use crate::scalars::{bounded, label, object_name, port, port_name};
use ipnet::IpNet;
use std::net::IpAddr;
use std::num::NonZeroU16;
use weft_model::authorization::NetworkMatch;
use weft_model::identity::Id;
use weft_model::name::DnsName;
use weft_model::object::{Kind, Metadata};
use weft_model::policy::DefaultPolicy;
use weft_model::server::{
    AccountRef, AuthenticationRef, AuthorizationPolicy, Client, Expression, MeshTlsAuthentication,
    NetworkAuthentication, Operator, PolicyTarget, RateLimitPolicy, Selector, Server, ServerAuthorization,
    ServerProtocol, Servers, Subject, Workloads,
};
use weft_model::service::TargetPort;

/// The group of the kinds that are read here.
const GROUP: &str = "policy.linkerd.io";

pub(crate) fn server(f: &Fields<'_>, meta: Metadata) -> Result<Server, Problem> {
    f.ignore(&["status"]);
    f.required("spec", |at| {
        at.fields(|f| {
            let pods = f.optional("podSelector", selector)?;
            let external = f.optional("externalWorkloadSelector", selector)?;
            let workloads = match (pods, external) {
                (Some(pods), None) => Workloads::Pods(pods),
                (None, Some(external)) => Workloads::External(external),
                _ => return Err(at.problem("needs one of podSelector and externalWorkloadSelector")),
            };
            let port = f.required("port", port_or_name)?;
            let protocol = f.optional("proxyProtocol", |at| {
                let text = at.text()?;
                let known = ServerProtocol::ALL.iter().find(|(_, name)| *name == text);
                known.map(|(protocol, _)| *protocol).ok_or_else(|| {
                    let names: Vec<_> = ServerProtocol::ALL.iter().map(|(_, name)| *name).collect();
                    at.problem(format!("`{}` is none of {}", cut(text), names.join(", ")))
                })
            })?;
            let access = f.optional("accessPolicy", |at| {
                let text = at.text()?;
                DefaultPolicy::parse(text).ok_or_else(|| {
                    let names: Vec<_> = DefaultPolicy::ALL.iter().map(|policy| policy.name()).collect();
                    at.problem(format!("`{}` is none of {}", cut(text), names.join(", ")))
                })
            })?;
            let (protocol, access) = (protocol.unwrap_or_default(), access.unwrap_or(DefaultPolicy::Deny));
            Ok(Server { meta, workloads, port, protocol, access })
        })
    })
}

/// A port by number or by name; a number may be given as text.
fn port_or_name(at: At<'_>) -> Result<TargetPort, Problem> {
    match &at.node.value {
        Value::Text(text) => match text.parse::<NonZeroU16>() {
            Ok(number) => Ok(TargetPort::Number(number)),
            Err(_) if text.is_empty() => Err(at.problem("is empty")),
            Err(_) => port_name(at).map(TargetPort::Name),
        },
        _ => port(at).map(TargetPort::Number),
    }
}

fn selector(at: At<'_>) -> Result<Selector, Problem> {
    at.fields(|f| {
        let labels = f.optional("matchLabels", |at| at.entries(label))?.unwrap_or_default();
        let expressions = f.optional("matchExpressions", |at| bounded(at, at.items(expression)?))?;
        Ok(Selector { labels, expressions: expressions.unwrap_or_default() })
    })
}

fn expression(at: At<'_>) -> Result<Expression, Problem> {
    at.fields(|f| {
        let key = f.required("key", |at| at.text().map(str::to_owned))?;
        let values = f.optional("values", |at| bounded(at, at.items(|at| label("value", at))?))?;
        let operator = f.required("operator", |at| at.text().map(str::to_owned))?;
        let operator = match (operator.as_str(), values.unwrap_or_default()) {
            ("In", values) if !values.is_empty() => Operator::In(values),
            ("NotIn", values) if !values.is_empty() => Operator::NotIn(values),
            ("Exists", values) if values.is_empty() => Operator::Exists,
            ("DoesNotExist", values) if values.is_empty() => Operator::DoesNotExist,
            ("In" | "NotIn", _) => return Err(at.problem("needs values")),
            ("Exists" | "DoesNotExist", _) => return Err(at.problem("takes no values")),
            (other, _) => {
                return Err(at.problem(format!("`{}` is not In, NotIn, Exists or DoesNotExist", cut(other))));
            }
        };
        Ok(Expression { key, operator })
    })
}

pub(crate) fn server_authorization(f: &Fields<'_>, meta: Metadata) -> Result<ServerAuthorization, Problem> {
    f.ignore(&["status"]);
    f.required("spec", |at| {
        at.fields(|f| {
            let servers = f.required("server", |at| {
                at.fields(|f| {
                    let named = f.optional("name", |at| at.text().map(str::to_owned))?;
                    match (named, f.optional("selector", selector)?) {
                        (Some(name), None) => Ok(Servers::Named(name)),
                        (None, Some(selector)) => Ok(Servers::Selected(selector)),
                        _ => Err(at.problem("needs one of name and selector")),
                    }
                })
            })?;
            let (networks, client) = f.required("client", client)?;
            Ok(ServerAuthorization { meta, servers, networks, client })
        })
    })
}

fn client(at: At<'_>) -> Result<(Vec<NetworkMatch>, Client), Problem> {
    at.fields(|f| {
        let networks = f.optional("networks", networks)?.unwrap_or_default();
        let unauthenticated = f.optional("unauthenticated", |at| at.boolean())?.unwrap_or(false);
        let mesh = f.optional("meshTLS", mesh_tls)?;
        match (unauthenticated, mesh) {
            (true, None) => Ok((networks, Client::Unauthenticated)),
            (false, Some(client)) => Ok((networks, client)),
            (true, Some(_)) => Err(at.problem("has both `unauthenticated: true` and meshTLS")),
            (false, None) => Err(at.problem("needs `unauthenticated: true` or meshTLS")),
        }
    })
}

fn mesh_tls(at: At<'_>) -> Result<Client, Problem> {
    at.fields(|f| {
        let unauthenticated = f.optional("unauthenticatedTLS", |at| at.boolean())?.unwrap_or(false);
        let identities = f.optional("identities", |at| bounded(at, at.items(identity)?))?.unwrap_or_default();
        let accounts =
            f.optional("serviceAccounts", |at| bounded(at, at.items(account)?))?.unwrap_or_default();
        match (unauthenticated, identities.is_empty(), accounts.is_empty()) {
            (true, true, true) => Ok(Client::TlsUnauthenticated),
            (false, false, true) => Ok(Client::Authenticated(identities)),
            (false, true, false) => {
                Ok(Client::Authenticated(accounts.into_iter().map(Subject::Account).collect()))
            }
            _ => Err(
                at.problem("needs exactly one of `unauthenticatedTLS: true`, identities and serviceAccounts")
            ),
        }
    })
}

/// A service account as `{name, namespace?}`.
fn account(at: At<'_>) -> Result<AccountRef, Problem> {
    at.fields(|f| {
        let name = f.required("name", object_name)?;
        Ok(AccountRef { namespace: f.optional("namespace", object_name)?, name })
    })
}

/// `*`, `*.suffix`, a DNS name, or a SPIFFE id, which may end in `/*`.
fn identity(at: At<'_>) -> Result<Subject, Problem> {
    let text = at.text()?;
    let wrong = || {
        at.problem(format!(
            "`{}` is no identity: neither `*`, `*.suffix`, a DNS name, nor a SPIFFE id such as spiffe://mesh/web or \
             spiffe://mesh/shop/*",
            cut(text)
        ))
    };
    if text == "*" {
        return Ok(Subject::Anybody);
    }
    if let Some(suffix) = text.strip_prefix("*.") {
        let name: DnsName = suffix.parse().map_err(|_| wrong())?;
        return Ok(Subject::Within(name.as_str().to_owned()));
    }
    match text.parse::<Id>() {
        Ok(Id::Uri(uri)) if !is_spiffe(&uri) => Err(wrong()),
        Ok(id) => Ok(Subject::Id(id)),
        Err(_) => Err(wrong()),
    }
}

/// A SPIFFE id: a trust domain and a path of segments; the last one may be `*`.
fn is_spiffe(uri: &str) -> bool {
    let Some(rest) = uri.strip_prefix("spiffe://") else { return false };
    let (domain, path) = rest.split_once('/').unwrap_or((rest, "x"));
    let path = path.strip_suffix("/*").unwrap_or(if path == "*" { "x" } else { path });
    let segment = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    segment(domain) && path.split('/').all(|part| segment(part) && part != "." && part != "..")
}

/// A list of networks, which must not be empty.
pub(crate) fn networks(at: At<'_>) -> Result<Vec<NetworkMatch>, Problem> {
    let list = bounded(at, at.items(network)?)?;
    match list.is_empty() {
        true => Err(at.problem("is empty; leave it out, or name a network")),
        false => Ok(list),
    }
}

fn network(at: At<'_>) -> Result<NetworkMatch, Problem> {
    at.fields(|f| {
        let net = f.required("cidr", cidr)?;
        let except = f.optional("except", |at| bounded(at, at.items(|at| hole(at, net))?))?;
        Ok(NetworkMatch { net, except: except.unwrap_or_default() })
    })
}

/// A part of a network that is not meant.
fn hole(at: At<'_>, net: IpNet) -> Result<IpNet, Problem> {
    let hole = cidr(at)?;
    match net.contains(&hole) && hole != net {
        true => Ok(hole),
        false => Err(at.problem(format!("{hole} is not a part of {net}"))),
    }
}

/// A network, or an address alone.
fn cidr(at: At<'_>) -> Result<IpNet, Problem> {
    let text = at.text()?;
    let parsed = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    match parsed {
        Ok(net) => Ok(net.trunc()),
        Err(_) => Err(at.problem(format!("`{}` is not a network such as 10.0.0.0/8", cut(text)))),
    }
}

/// A reference to another object: its group, kind, name and, where it is said, namespace.
struct Reference {
    group: String,
    kind: String,
    name: String,
    namespace: Option<String>,
}

fn reference(at: At<'_>) -> Result<Reference, Problem> {
    at.fields(|f| {
        let text = |key: &str| f.optional(key, |at| at.text().map(str::to_owned));
        Ok(Reference {
            group: text("group")?.unwrap_or_default(),
            kind: f.required("kind", object_name)?,
            name: f.required("name", object_name)?,
            namespace: f.optional("namespace", object_name)?,
        })
    })
}

impl Reference {
    /// Whether it is of a kind of this group; the core group has two spellings.
    fn is(&self, group: &str, kind: &str) -> bool {
        let core = group.is_empty() && self.group == "core";
        self.kind == kind && (self.group == group || core)
    }

    /// How a message shows its kind.
    fn shown(&self) -> String {
        match self.group.as_str() {
            "" => cut(&self.kind),
            group => format!("{}/{}", cut(group), cut(&self.kind)),
        }
    }
}

pub(crate) fn authorization_policy(f: &Fields<'_>, meta: Metadata) -> Result<AuthorizationPolicy, Problem> {
    f.ignore(&["status"]);
    f.required("spec", |at| {
        at.fields(|f| {
            let target = f.required("targetRef", |at| target(at, &meta.namespace))?;
            let required = f.required("requiredAuthenticationRefs", |at| {
                let refs = at.items(authentication)?;
                let count = |of: fn(&AuthenticationRef) -> bool| refs.iter().filter(|r| of(r)).count();
                let tls = count(|r| !matches!(r, AuthenticationRef::Network { .. }));
                if tls > 1 {
                    return Err(at.problem(
                        "names several identities; all of them would have to be proven at once. Put them into one \
                         MeshTLSAuthentication",
                    ));
                }
                if count(|r| matches!(r, AuthenticationRef::Network { .. })) > 1 {
                    return Err(at.problem("names several NetworkAuthentications; put the networks into one"));
                }
                Ok(refs)
            })?;
            Ok(AuthorizationPolicy { meta, target, required })
        })
    })
}

fn target(at: At<'_>, namespace: &str) -> Result<PolicyTarget, Problem> {
    let named = reference(at)?;
    if named.is("", "Namespace") {
        return match named.name == namespace {
            true => Ok(PolicyTarget::Namespace),
            false => Err(at.problem(format!("the namespace {} is not the policy's own", cut(&named.name)))),
        };
    }
    if named.namespace.as_deref().is_some_and(|ns| ns != namespace) {
        return Err(at.problem("the target must be in the policy's own namespace"));
    }
    if named.is(GROUP, "Server") {
        return Ok(PolicyTarget::Server(named.name));
    }
    let routes = [Kind::HttpRoute, Kind::PolicyHttpRoute, Kind::GrpcRoute];
    match routes.into_iter().find(|kind| named.is(kind.group(), kind.name())) {
        Some(kind) => Ok(PolicyTarget::Route(kind, named.name)),
        None => Err(at.problem(format!(
            "`{}` cannot be a target; it must be a Server, an HTTPRoute, a GRPCRoute or the Namespace",
            named.shown()
        ))),
    }
}

fn authentication(at: At<'_>) -> Result<AuthenticationRef, Problem> {
    let named = reference(at)?;
    if named.is(GROUP, "MeshTLSAuthentication") {
        return Ok(AuthenticationRef::MeshTls { namespace: named.namespace, name: named.name });
    }
    if named.is(GROUP, "NetworkAuthentication") {
        return Ok(AuthenticationRef::Network { namespace: named.namespace, name: named.name });
    }
    if named.is("", "ServiceAccount") {
        return Ok(AuthenticationRef::Account(AccountRef { namespace: named.namespace, name: named.name }));
    }
    Err(at.problem(format!(
        "`{}` cannot be required; it must be a MeshTLSAuthentication, a NetworkAuthentication or a ServiceAccount",
        named.shown()
    )))
}

pub(crate) fn mesh_tls_authentication(
    f: &Fields<'_>,
    meta: Metadata,
) -> Result<MeshTlsAuthentication, Problem> {
    f.ignore(&["status"]);
    f.required("spec", |at| {
        at.fields(|f| {
            let identities = f.optional("identities", |at| bounded(at, at.items(identity)?))?;
            let refs = f.optional("identityRefs", |at| bounded(at, at.items(identity_ref)?))?;
            match (identities.unwrap_or_default(), refs.unwrap_or_default()) {
                (subjects, none) | (none, subjects) if none.is_empty() && !subjects.is_empty() => {
                    Ok(MeshTlsAuthentication { meta, subjects })
                }
                _ => Err(at.problem("needs one of identities and identityRefs, not empty")),
            }
        })
    })
}

fn identity_ref(at: At<'_>) -> Result<Subject, Problem> {
    let named = reference(at)?;
    if named.is("", "ServiceAccount") {
        return Ok(Subject::Account(AccountRef { namespace: named.namespace, name: named.name }));
    }
    if named.is("", "Namespace") {
        return match named.namespace {
            None => Ok(Subject::Namespace(named.name)),
            Some(_) => Err(at.problem("a Namespace is in no namespace; remove `namespace`")),
        };
    }
    Err(at
        .problem(format!("`{}` has no identity; it must be a ServiceAccount or a Namespace", named.shown())))
}

pub(crate) fn network_authentication(
    f: &Fields<'_>,
    meta: Metadata,
) -> Result<NetworkAuthentication, Problem> {
    f.ignore(&["status"]);
    f.required("spec", |at| {
        at.fields(|f| Ok(NetworkAuthentication { meta, networks: f.required("networks", networks)? }))
    })
}

pub(crate) fn rate_limit(f: &Fields<'_>, meta: Metadata) -> Result<RateLimitPolicy, Problem> {
    f.ignore(&["status"]);
    f.required("spec", |at| {
        at.fields(|f| {
            let server = f.required("targetRef", |at| {
                let named = reference(at)?;
                match named.is(GROUP, "Server") && named.namespace.as_ref().is_none_or(|ns| *ns == meta.namespace) {
                    true => Ok(named.name),
                    false => Err(at.problem(format!(
                        "`{}` cannot be a target; it must be a Server of {GROUP} in the policy's own namespace",
                        named.shown()
                    ))),
                }
            })?;
            let total = f.optional("total", |at| at.fields(rate))?;
            let within = |at: At<'_>, rate: u32| match total.is_some_and(|total| rate > total) {
                true => Err(at.problem("is more than total, which would never let it be reached")),
                false => Ok(rate),
            };
            let identity = f.optional("identity", |at| within(at, at.fields(rate)?))?;
            let overrides = f.optional("overrides", |at| {
                let list = at.items(|at| {
                    at.fields(|f| {
                        let rate = within(at, rate(f)?)?;
                        let clients = f.required("clientRefs", |at| bounded(at, at.items(limited_client)?))?;
                        Ok((rate, clients))
                    })
                })?;
                bounded(at, list)
            })?;
            let overrides = overrides.unwrap_or_default();
            Ok(RateLimitPolicy { meta, server, total, identity, overrides })
        })
    })
}

fn rate(f: &Fields<'_>) -> Result<u32, Problem> {
    f.required("requestsPerSecond", |at| {
        let number = at.integer()?;
        let rate = u32::try_from(number).ok().filter(|rate| *rate > 0);
        rate.ok_or_else(|| at.problem(format!("{number} is not in 1–{}", u32::MAX)))
    })
}

fn limited_client(at: At<'_>) -> Result<AccountRef, Problem> {
    let named = reference(at)?;
    match named.is("", "ServiceAccount") {
        true => Ok(AccountRef { namespace: named.namespace, name: named.name }),
        false => {
            Err(at.problem(format!("`{}` cannot be limited; it must be a ServiceAccount", named.shown())))
        }
    }
}
