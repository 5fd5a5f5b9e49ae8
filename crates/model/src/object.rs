//! What every manifest object has: a kind, a name, labels and annotations, and where it was read.
//!
//! A source of manifests (`resources`) makes these, `index` keeps them. An object is shared by
//! reference count, because the source, the index and views of it hold the same one.

pub use crate::kind::Kind;
pub use crate::metadata::{Created, Metadata, Origin};

use crate::attach::{EgressNetwork, ReferenceGrant, RouteResource};
use crate::server::{
    AuthorizationPolicy, MeshTlsAuthentication, NetworkAuthentication, RateLimitPolicy, Server,
    ServerAuthorization,
};
use crate::service::{EndpointSlice, Namespace, Service, ServiceProfile};
use crate::workload::ExternalWorkload;
use std::fmt;
use std::sync::Arc;

/// The one table of what an object of a kind holds.
macro_rules! objects {
    ($($(#[$doc:meta])* $variant:ident($noun:ty),)*) => {
        /// One object of any kind.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Object {
            $($(#[$doc])* $variant(Arc<$noun>),)*
        }

        impl Object {
            /// Its kind.
            pub fn kind(&self) -> Kind {
                match self {
                    $(Object::$variant(_) => Kind::$variant,)*
                }
            }

            /// Its metadata.
            pub fn meta(&self) -> &Metadata {
                match self {
                    $(Object::$variant(o) => &o.meta,)*
                }
            }

            /// Its metadata, to be changed; the object is copied if it is shared.
            pub fn meta_mut(&mut self) -> &mut Metadata {
                match self {
                    $(Object::$variant(o) => &mut Arc::make_mut(o).meta,)*
                }
            }
        }
    };
}

objects! {
    /// A namespace.
    Namespace(Namespace),
    /// A service.
    Service(Service),
    /// Endpoints of a service, given one by one.
    EndpointSlice(EndpointSlice),
    /// An instance of an application.
    ExternalWorkload(ExternalWorkload),
    /// Routes of a service, in the older language.
    ServiceProfile(ServiceProfile),
    /// A port of some workloads.
    Server(Server),
    /// Who may use servers.
    ServerAuthorization(ServerAuthorization),
    /// Who may use a server, a route or a namespace.
    AuthorizationPolicy(AuthorizationPolicy),
    /// Identities.
    MeshTlsAuthentication(MeshTlsAuthentication),
    /// Networks.
    NetworkAuthentication(NetworkAuthentication),
    /// How many requests a second a server takes.
    RateLimitPolicy(RateLimitPolicy),
    /// HTTP routes, in the Gateway API's group.
    HttpRoute(RouteResource),
    /// HTTP routes, in the peer's group.
    PolicyHttpRoute(RouteResource),
    /// gRPC routes.
    GrpcRoute(RouteResource),
    /// Routes of TLS connections.
    TlsRoute(RouteResource),
    /// Routes of connections.
    TcpRoute(RouteResource),
    /// Addresses outside of the mesh.
    EgressNetwork(EgressNetwork),
    /// Leave for routes of other namespaces.
    ReferenceGrant(ReferenceGrant),
}

/// What identifies an object: two objects with the same key are the same object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace, empty for a `Namespace`.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Key {
    /// `Kind namespace/name`; an `HTTPRoute` of the peer's group says so.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if self.kind == Kind::PolicyHttpRoute {
            write!(f, ".{}", self.kind.group())?;
        }
        match self.namespace.as_str() {
            "" => write!(f, " {}", self.name),
            namespace => write!(f, " {namespace}/{}", self.name),
        }
    }
}

impl Object {
    /// What identifies it.
    pub fn key(&self) -> Key {
        let meta = self.meta();
        Key { kind: self.kind(), namespace: meta.namespace.clone(), name: meta.name.clone() }
    }
}

/// One change of the set of objects.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The object exists, new or with this content instead of its former one.
    Upsert(Object),
    /// The object is gone.
    Delete(Key),
}
