//! The usual cast: an application behind its proxy, and a client's proxy in front.

use weft_model::destination::EndpointInfo;
use weft_testkit::application::Application;
use weft_testkit::mesh::{Mesh, Running};
use weft_testkit::plane::Said;

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
