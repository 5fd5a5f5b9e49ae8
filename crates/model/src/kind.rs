//! The kinds of objects that are understood, with their names in manifests.
//!
//! Used by whoever names objects; what an object of a kind holds stands in `object`.

/// The one table of kinds: variant, API group, name in manifests.
macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident $group:literal $name:literal,)*) => {
        /// The kinds of objects that are understood.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $variant,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant,)*];

            /// Its API group, empty for the core group.
            pub fn group(self) -> &'static str {
                match self {
                    $(Kind::$variant => $group,)*
                }
            }

            /// Its name as manifests write it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Kind::$variant => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// A namespace.
    Namespace "" "Namespace",
    /// A service.
    Service "" "Service",
    /// Endpoints of a service, given one by one.
    EndpointSlice "discovery.k8s.io" "EndpointSlice",
    /// An instance of an application.
    ExternalWorkload "workload.linkerd.io" "ExternalWorkload",
    /// Routes of a service, in the older language.
    ServiceProfile "linkerd.io" "ServiceProfile",
    /// A port of some workloads.
    Server "policy.linkerd.io" "Server",
    /// Who may use servers.
    ServerAuthorization "policy.linkerd.io" "ServerAuthorization",
    /// Who may use a server, a route or a namespace.
    AuthorizationPolicy "policy.linkerd.io" "AuthorizationPolicy",
    /// Identities.
    MeshTlsAuthentication "policy.linkerd.io" "MeshTLSAuthentication",
    /// Networks.
    NetworkAuthentication "policy.linkerd.io" "NetworkAuthentication",
    /// How many requests a second a server takes.
    RateLimitPolicy "policy.linkerd.io" "HTTPLocalRateLimitPolicy",
    /// HTTP routes, in the Gateway API's group.
    HttpRoute "gateway.networking.k8s.io" "HTTPRoute",
    /// HTTP routes, in the peer's group.
    PolicyHttpRoute "policy.linkerd.io" "HTTPRoute",
    /// gRPC routes.
    GrpcRoute "gateway.networking.k8s.io" "GRPCRoute",
    /// Routes of TLS connections.
    TlsRoute "gateway.networking.k8s.io" "TLSRoute",
    /// Routes of connections.
    TcpRoute "gateway.networking.k8s.io" "TCPRoute",
    /// Addresses outside of the mesh.
    EgressNetwork "policy.linkerd.io" "EgressNetwork",
    /// Leave for routes of other namespaces.
    ReferenceGrant "gateway.networking.k8s.io" "ReferenceGrant",
}

impl Kind {
    /// The kinds of routes, in the order in which they win where several attach to one port.
    pub const ROUTES: [Kind; 5] =
        [Kind::GrpcRoute, Kind::HttpRoute, Kind::PolicyHttpRoute, Kind::TlsRoute, Kind::TcpRoute];

    /// Whether it is a kind of route.
    pub fn is_route(self) -> bool {
        Self::ROUTES.contains(&self)
    }
}
