//! The policies of one namespace: servers, authorizations, routes, egress networks, grants, with the relations between them.
//!
//! Kept by `scope.rs`; read by whoever works out inbound and outbound policies. Relations name objects that need not be
//! there: they hold what a manifest says, not what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_model::attach::{EgressNetwork, ParentKind, ReferenceGrant, RouteResource};
use weft_model::object::{Kind, Metadata, Object};
use weft_model::server::{
    AuthenticationRef, AuthorizationPolicy, MeshTlsAuthentication, NetworkAuthentication, PolicyTarget,
    RateLimitPolicy, Server, ServerAuthorization, Servers,
};
use weft_model::service::ServiceName;

/// A service or an egress network that routes attach to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Parent {
    /// `Service` or `EgressNetwork`.
    pub(crate) kind: ParentKind,
    /// Which one.
    pub(crate) name: ServiceName,
}

impl Parent {
    pub(crate) fn service(name: &ServiceName) -> Self {
        Self { kind: ParentKind::Service, name: name.clone() }
    }

    pub(crate) fn egress(name: &ServiceName) -> Self {
        Self { kind: ParentKind::EgressNetwork, name: name.clone() }
    }
}

/// What one object says about another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Relation {
    /// An authorization policy is about this.
    About(PolicyTarget),
    /// A server authorization names this server, or selects servers.
    Authorizes(Option<String>),
    /// A route attaches to this server.
    AttachesTo(String),
    /// A rate limit is for this server.
    Limits(String),
    /// An authorization policy requires this authentication.
    Requires(Kind, ServiceName),
}

/// The policies of one namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    objects: BTreeMap<Kind, BTreeMap<String, Object>>,
    related: BTreeMap<Relation, BTreeSet<(Kind, String)>>,
}

/// Defines the look-ups of kinds: all of them, in the order of names.
macro_rules! all_of {
    ($($name:ident: $variant:ident($noun:ty),)*) => {
        $(pub(crate) fn $name(&self) -> impl Iterator<Item = &Arc<$noun>> {
            self.of(Kind::$variant).filter_map(|object| match object {
                Object::$variant(object) => Some(object),
                _ => None,
            })
        })*
    };
}

/// Defines the look-ups by name.
macro_rules! one_of {
    ($($name:ident: $variant:ident($noun:ty),)*) => {
        $(pub(crate) fn $name(&self, name: &str) -> Option<&Arc<$noun>> {
            match self.get(Kind::$variant, name)? {
                Object::$variant(object) => Some(object),
                _ => None,
            }
        })*
    };
}

impl Kept {
    pub(crate) fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Sets or removes an object; gives the former one.
    pub(crate) fn put(&mut self, kind: Kind, name: &str, new: Option<Object>) -> Option<Object> {
        let of_kind = self.objects.entry(kind).or_default();
        let old = match &new {
            Some(object) => of_kind.insert(name.to_owned(), object.clone()),
            None => of_kind.remove(name),
        };
        if of_kind.is_empty() {
            self.objects.remove(&kind);
        }
        for relation in old.as_ref().map(relations).unwrap_or_default() {
            if let Some(names) = self.related.get_mut(&relation) {
                names.remove(&(kind, name.to_owned()));
                if names.is_empty() {
                    self.related.remove(&relation);
                }
            }
        }
        for relation in new.as_ref().map(relations).unwrap_or_default() {
            self.related.entry(relation).or_default().insert((kind, name.to_owned()));
        }
        old
    }

    /// Every object, by kind and name.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.values().flat_map(BTreeMap::values)
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        self.objects.get(&kind).into_iter().flat_map(BTreeMap::values)
    }

    fn get(&self, kind: Kind, name: &str) -> Option<&Object> {
        self.objects.get(&kind)?.get(name)
    }

    /// The metadata of an object.
    pub(crate) fn meta(&self, kind: Kind, name: &str) -> Option<&Metadata> {
        self.get(kind, name).map(Object::meta)
    }

    fn related(&self, relation: Relation) -> impl Iterator<Item = &Object> {
        let names = self.related.get(&relation).into_iter().flatten();
        names.filter_map(|(kind, name)| self.get(*kind, name))
    }

    all_of! {
        servers: Server(Server),
        egress_networks: EgressNetwork(EgressNetwork),
        grants: ReferenceGrant(ReferenceGrant),
    }

    one_of! {
        server: Server(Server),
        mesh_tls: MeshTlsAuthentication(MeshTlsAuthentication),
        network: NetworkAuthentication(NetworkAuthentication),
        egress_network: EgressNetwork(EgressNetwork),
    }

    /// A route.
    pub(crate) fn route(&self, kind: Kind, name: &str) -> Option<&Arc<RouteResource>> {
        as_route(self.get(kind, name)?)
    }

    /// The authorization policies about a target, by name.
    pub(crate) fn policies_about(
        &self,
        target: &PolicyTarget,
    ) -> impl Iterator<Item = &Arc<AuthorizationPolicy>> {
        self.related(Relation::About(target.clone())).filter_map(|object| match object {
            Object::AuthorizationPolicy(policy) => Some(policy),
            _ => None,
        })
    }

    /// The server authorizations for a server, by name.
    pub(crate) fn server_authorizations<'a>(
        &'a self,
        server: &'a Server,
    ) -> impl Iterator<Item = &'a Arc<ServerAuthorization>> {
        let named = self.related(Relation::Authorizes(Some(server.meta.name.clone())));
        let selecting = self.related(Relation::Authorizes(None));
        named
            .chain(selecting)
            .filter_map(|object| match object {
                Object::ServerAuthorization(authorization) => Some(authorization),
                _ => None,
            })
            .filter(|authorization| match &authorization.servers {
                Servers::Named(name) => *name == server.meta.name,
                Servers::Selected(selector) => selector.selects(&server.meta.labels),
            })
    }

    /// The routes that name a server as a parent, with their kinds.
    pub(crate) fn routes_at(&self, server: &str) -> impl Iterator<Item = (Kind, &Arc<RouteResource>)> {
        self.related(Relation::AttachesTo(server.to_owned()))
            .filter_map(|object| Some((object.kind(), as_route(object)?)))
    }

    /// The rate limits of a server.
    pub(crate) fn limits_of(&self, server: &str) -> impl Iterator<Item = &Arc<RateLimitPolicy>> {
        self.related(Relation::Limits(server.to_owned())).filter_map(|object| match object {
            Object::RateLimitPolicy(limit) => Some(limit),
            _ => None,
        })
    }

    /// Whether a policy here requires this authentication.
    pub(crate) fn requires(&self, kind: Kind, authentication: &ServiceName) -> bool {
        self.related.contains_key(&Relation::Requires(kind, authentication.clone()))
    }
}

/// An object as the route that it is.
pub(crate) fn as_route(object: &Object) -> Option<&Arc<RouteResource>> {
    match object {
        Object::HttpRoute(route)
        | Object::PolicyHttpRoute(route)
        | Object::GrpcRoute(route)
        | Object::TlsRoute(route)
        | Object::TcpRoute(route) => Some(route),
        _ => None,
    }
}

fn relations(object: &Object) -> Vec<Relation> {
    match object {
        Object::AuthorizationPolicy(policy) => {
            let named = |namespace: &Option<String>, name: &str| ServiceName {
                namespace: namespace.as_ref().unwrap_or(&policy.meta.namespace).clone(),
                name: name.to_owned(),
            };
            let required = policy.required.iter().filter_map(|required| match required {
                AuthenticationRef::MeshTls { namespace, name } => {
                    Some(Relation::Requires(Kind::MeshTlsAuthentication, named(namespace, name)))
                }
                AuthenticationRef::Network { namespace, name } => {
                    Some(Relation::Requires(Kind::NetworkAuthentication, named(namespace, name)))
                }
                AuthenticationRef::Account(_) => None,
            });
            required.chain([Relation::About(policy.target.clone())]).collect()
        }
        Object::ServerAuthorization(authorization) => {
            vec![Relation::Authorizes(match &authorization.servers {
                Servers::Named(name) => Some(name.clone()),
                Servers::Selected(_) => None,
            })]
        }
        Object::RateLimitPolicy(limit) => vec![Relation::Limits(limit.server.clone())],
        object => {
            let parents = as_route(object).into_iter().flat_map(|route| &route.parents);
            let servers = parents.filter(|parent| parent.kind == ParentKind::Server);
            servers.map(|parent| Relation::AttachesTo(parent.name.clone())).collect()
        }
    }
}
