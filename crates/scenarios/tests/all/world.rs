//! The usual cast: an application behind its proxy, and a client's proxy in front.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpSocket;
use weft_model::destination::EndpointInfo;
use weft_model::meta::Meta;
use weft_model::policy::{
    DefaultPolicy, HttpRoutes, InboundPolicy, InboundProtocol, InboundRoutes, OutboundProtocol,
};
use weft_model::route::{Distribution, Route, Rule};
use weft_testkit::application::Application;
use weft_testkit::mesh::{Mesh, Running};
use weft_testkit::plane::Said;
use weft_testkit::policy::{detect, http_route, policy, route, routes, to};
use weft_testkit::until;

/// The service that everybody calls.
pub(crate) const WEB: &str = "web.default.svc.cluster.local:80";

/// A meshed service and a meshed client.
pub(crate) struct Pair {
    pub(crate) mesh: Mesh,
    pub(crate) app: Application,
    pub(crate) server: Running,
    pub(crate) client: Running,
}

impl Pair {
    /// Two proxies between the test and an application, with mutual TLS between them.
    pub(crate) async fn around(app: Application) -> Self {
        Self::with(app, &[], &[]).await
    }

    /// The same with settings of the server's and of the client's proxy.
    pub(crate) async fn with(app: Application, server: &[(&str, &str)], client: &[(&str, &str)]) -> Self {
        let mesh = Mesh::new();
        let server = proxy_of(&mesh, "web", &app, server).await;
        mesh.facts.endpoints(WEB, Said::Told(vec![server.meshed("web")]));
        let client = proxy_to(&mesh, "client", client).await;
        Self { mesh, app, server, client }
    }
}

/// The proxy of an application.
pub(crate) async fn proxy_of(
    mesh: &Mesh,
    name: &str,
    app: &Application,
    settings: &[(&str, &str)],
) -> Running {
    let bind = format!("127.0.0.1:0={}", app.addr);
    mesh.proxy(name, &[&[("INBOUND", bind.as_str())], settings].concat()).await
}

/// A proxy that leads to the service.
pub(crate) async fn proxy_to(mesh: &Mesh, name: &str, settings: &[(&str, &str)]) -> Running {
    let upstream = format!("127.0.0.1:0={WEB}");
    mesh.proxy(name, &[&[("UPSTREAM", upstream.as_str())], settings].concat()).await
}

/// One proxy in front of applications without any.
pub(crate) async fn plain(apps: &[&Application], settings: &[(&str, &str)]) -> (Mesh, Running) {
    let mesh = Mesh::new();
    tell(&mesh, apps);
    let client = proxy_to(&mesh, "client", settings).await;
    (mesh, client)
}

/// Makes these applications the service's endpoints, in plaintext.
pub(crate) fn tell(mesh: &Mesh, apps: &[&Application]) {
    let endpoints = apps.iter().map(|app| EndpointInfo::plain(app.addr)).collect();
    mesh.facts.endpoints(WEB, Said::Told(endpoints));
}

/// A policy that says the same of both versions of HTTP.
pub(crate) fn same(http: HttpRoutes) -> OutboundProtocol {
    detect(http.clone(), http, to(WEB))
}

/// A route called `it` of one rule.
pub(crate) fn only(rule: Rule) -> Route {
    let mut route = route(http_route("it"), Vec::new(), Distribution::Empty);
    route.rules = vec![rule];
    route
}

/// A client's proxy whose one rule for the service, where the application is, is this.
pub(crate) async fn ruled(rule: Rule, app: &Application) -> (Mesh, Running) {
    routed(vec![only(rule)], app).await
}

/// The same with these routes.
pub(crate) async fn routed(list: Vec<Route>, app: &Application) -> (Mesh, Running) {
    let (mesh, proxy) = plain(&[app], &[]).await;
    mesh.facts.outbound(WEB, Said::Told(policy(same(routes(list)))));
    (mesh, proxy)
}

/// The proxy of the application, which has these routes for all who come.
pub(crate) async fn guarded(list: Vec<Route>, app: &Application) -> (Mesh, Running) {
    let http = InboundRoutes { routes: list.into(), rate_limit: None };
    speaking(InboundProtocol::Detect { timeout: Duration::from_secs(10), http }, app).await
}

/// The proxy of the application, which speaks this with all who come.
pub(crate) async fn speaking(protocol: InboundProtocol, app: &Application) -> (Mesh, Running) {
    let mesh = Mesh::new();
    let server = proxy_of(&mesh, "web", app, &[]).await;
    let told = InboundPolicy {
        meta: Meta::default_named("told"),
        protocol,
        authorizations: DefaultPolicy::AllUnauthenticated.authorizations(&[]),
    };
    mesh.facts.inbound(server.bind().port(), Said::Told(told));
    until("the policy is in force", async || {
        server.state().await["inbound"].to_string().contains("\"told\"")
    })
    .await;
    (mesh, server)
}

/// One application behind a client's proxy, and one behind its own, where the same routes hold: to both, there is what keeps
/// them alive, and where to ask.
pub(crate) async fn either_side(list: Vec<Route>, app: &Application) -> [(Mesh, Running, SocketAddr); 2] {
    let mut inbound = list.clone();
    for rule in inbound.iter_mut().flat_map(|route| &mut route.rules) {
        rule.backends = Distribution::Application;
    }
    let (mesh, client) = routed(list, app).await;
    let (other, server) = guarded(inbound, app).await;
    let (outbound, inbound) = (client.upstream(), server.bind());
    [(mesh, client, outbound), (other, server, inbound)]
}

/// Relays connections to `to` as if they came from another host.
pub(crate) async fn elsewhere(to: SocketAddr) -> Application {
    Application::tcp(move |mut tcp| async move {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let _ = tcp.set_nodelay(true);
        if let Ok(mut server) = socket.connect(to).await {
            let _ = server.set_nodelay(true);
            let _ = tokio::io::copy_bidirectional(&mut tcp, &mut server).await;
        }
    })
    .await
}
