//! Which routes attach to a service or an egress network, for whom, and which kind of them wins (§1F.2).
//!
//! Used by `policies.rs` and `egress.rs` for answers and by `verdict.rs` to say what became of a route. It reads the
//! relations that `index.rs` keeps, and looks at no backend.

use crate::index::Index;
use crate::kept::Parent;
use std::num::NonZeroU16;
use std::sync::Arc;
use weft_model::attach::RouteResource;
use weft_model::object::Kind;

/// What a kind of route routes. Of several on one port the first of these wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// gRPC requests.
    Grpc,
    /// HTTP requests.
    Http,
    /// TLS connections by server name.
    Tls,
    /// Connections.
    Tcp,
}

impl Class {
    /// What routes of this kind route; `None` if it is no kind of route.
    pub(crate) fn of(kind: Kind) -> Option<Class> {
        match kind {
            Kind::GrpcRoute => Some(Class::Grpc),
            Kind::HttpRoute | Kind::PolicyHttpRoute => Some(Class::Http),
            Kind::TlsRoute => Some(Class::Tls),
            Kind::TcpRoute => Some(Class::Tcp),
            _ => None,
        }
    }
}

/// A route that attaches to something, with its kind.
pub(crate) type Attached = (Kind, Arc<RouteResource>);

impl Index {
    /// The routes of one class that shape what a client of `namespace` sends to a port: the winning class among
    /// `classes`, the oldest route first. Routes of the client's own namespace (consumer routes) take the place of those of
    /// the parent's (producer routes), as the Gateway API has it; others' consumer routes are nobody else's concern.
    pub(crate) fn attached(
        &self,
        parent: &Parent,
        port: NonZeroU16,
        namespace: &str,
        classes: &[Class],
    ) -> Option<(Class, Vec<Attached>)> {
        let mut found: Vec<(Class, Attached)> = self
            .attached_at(parent, port)
            .filter_map(|attached| Some((Class::of(attached.0)?, attached)))
            .filter(|(class, (_, route))| {
                let home = &route.meta.namespace;
                classes.contains(class) && (*home == parent.name.namespace || home == namespace)
            })
            .collect();
        let is_consumer = |route: &RouteResource| route.meta.namespace != parent.name.namespace;
        if found.iter().any(|(_, (_, route))| is_consumer(route)) {
            found.retain(|(_, (_, route))| is_consumer(route));
        }
        let class = found.iter().map(|(class, _)| *class).min()?;
        let mut routes: Vec<Attached> =
            found.into_iter().filter(|(c, _)| *c == class).map(|(_, a)| a).collect();
        routes.sort_by(|a, b| (a.1.meta.seniority(), a.0).cmp(&(b.1.meta.seniority(), b.0)));
        Some((class, routes))
    }

    /// Every route that names a parent's port, or all of its ports.
    fn attached_at<'a>(
        &'a self,
        parent: &'a Parent,
        port: NonZeroU16,
    ) -> impl Iterator<Item = Attached> + 'a {
        self.routes_of(parent).filter_map(move |key| {
            let route = self.scope(&key.namespace)?.kept.route(key.kind, &key.name)?;
            let names = route.parents.iter().any(|to| {
                to.kind == parent.kind
                    && to.section.is_none()
                    && to.is_for(port)
                    && to.target(&key.namespace) == parent.name
            });
            names.then(|| (key.kind, route.clone()))
        })
    }
}
