//! Puts the control plane together: authority, manifests, views, services, edge, admin.
//!
//! `run` and the tests call [`start`]. Directories feed the views, the edge lets proxies in, the admin listener
//! shows both. It decides nothing about what proxies are told: that is `index`'s business.

use crate::admin::{self, Admin, Seen};
use crate::issuer;
use crate::sources;
use crate::{ControlError, Options};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use weft_identity::authority::{Authority, Lifetimes};
use weft_identity::store::LocalName;
use weft_identity::token::Validator;
use weft_index::Index;
use weft_model::identity::Id;
use weft_net::drain::{self, Trigger};
use weft_net::socket::{self, SocketOptions};
use weft_serve::certificates::Certificates;
use weft_serve::destinations::Destinations;
use weft_serve::metrics::Metrics;
use weft_serve::policies::Policies;
use weft_serve::server::{Edge, Limits};
use weft_serve::views::Views;
use weft_serve::{OwnNames, Service};
use weft_telemetry::Registry;
use weft_telemetry::log::LogLevel;
use weft_wire::services::Router;

/// How far apart clocks may be (§0.2).
const SKEW: Duration = Duration::from_secs(20);

/// A running control plane.
pub struct Control {
    /// Where proxies ask.
    pub listen: SocketAddr,
    /// Where its operator asks.
    pub admin: SocketAddr,
    trigger: Trigger,
    tasks: Vec<JoinHandle<()>>,
}

impl Control {
    /// Ends every stream, waits for answers under way for `grace` at most, and stops.
    pub async fn stop(self, grace: Duration) {
        tracing::info!("draining");
        if tokio::time::timeout(grace, self.trigger.drain()).await.is_err() {
            tracing::warn!("the grace period passed with connections open");
        }
        self.tasks.iter().for_each(JoinHandle::abort);
    }

    /// Stops at once, as a crash does: connections are cut. For tests.
    pub fn kill(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Starts a control plane on the current runtime. On return it listens and has read the manifests once.
///
/// # Errors
/// An address cannot be bound, or the authority cannot be opened.
pub async fn start(options: Options, log: Option<LogLevel>) -> Result<Control, ControlError> {
    if options.names.is_empty() && !options.listen.ip().to_canonical().is_loopback() {
        return Err(ControlError::Plaintext(options.listen));
    }
    let registry = Registry::new();
    let metrics = Metrics::new(&registry);
    weft_telemetry::process::register(&registry, Default::default());
    let (trigger, drain) = drain::channel();

    // Bound before anything else is touched: a second control plane by mistake must not get as far as the state.
    let (serving, listen) = bind(options.listen, "proxies")?;
    let (administering, admin_addr) = bind(options.admin, "the admin server")?;

    let authority = Arc::new(authority(&options)?);
    let tokens = Validator::open(&options.state).map_err(|e| ControlError::Identity(e.to_string()))?;
    let names =
        options.names.iter().map(|name| LocalName { id: Id::Dns(name.clone()), server_name: name.clone() });
    let stores = names.map(|name| OwnNames::store(&authority, name)).collect();
    let own = OwnNames::issue(&authority, stores).map_err(|e| ControlError::Identity(e.to_string()))?;

    let views = Views::new(Index::new(options.config.clone()));
    views.export(&metrics);
    let (sources, mut tasks) = sources::follow(&options, &views).await;

    let service = Service::new(views.clone(), metrics.clone(), drain.clone(), options.streams);
    let clock = Arc::new(SystemTime::now);
    let router = Router::new()
        .with_destinations(Destinations::new(service.clone()))
        .with_policies(Policies::new(service))
        .with_certificates(Certificates::new(authority.clone(), Some(tokens), clock, metrics.clone()));
    let limits = Limits {
        connections: options.connections,
        per_source: options.connections_per_source,
        ..Limits::default()
    };
    let edge = Edge::new(own.stores(), router, limits, metrics.clone(), drain);
    tracing::info!(%listen, admin = %admin_addr, names = ?options.names, "the control plane serves");

    let leaves = own.stores();
    if let Some(files) = options.issuer {
        tasks.push(tokio::spawn(issuer::follow(files, authority.clone(), own.stores())));
    }
    tasks.push(tokio::spawn(own.keep_fresh()));
    tasks.push(tokio::spawn(edge.listen(serving)));
    let admin = Arc::new(Admin::new(Seen { registry, metrics, sources, authority, leaves, views, log }));
    tasks.push(tokio::spawn(admin::run(admin, administering)));
    Ok(Control { listen, admin: admin_addr, trigger, tasks })
}

/// A bound listener and its address, which has a number also where any port was asked for.
fn bind(addr: SocketAddr, what: &'static str) -> Result<(TcpListener, SocketAddr), ControlError> {
    let bound = socket::listen(addr, &SocketOptions::default());
    let listener = bound.map_err(|source| ControlError::Listen { addr, what, source })?;
    let addr = listener.local_addr().unwrap_or(addr);
    Ok((listener, addr))
}

fn authority(options: &Options) -> Result<Authority, ControlError> {
    let lifetimes = Lifetimes { leaf: options.issuance_lifetime, skew: SKEW };
    let opened = match &options.issuer {
        Some(files) => Authority::load_now(files.clone(), lifetimes),
        None => {
            let mesh = &options.config.mesh;
            let name = format!("root.{}.{}", mesh.control_namespace, mesh.trust_domain);
            Authority::open_now(&options.state, &name, lifetimes)
        }
    };
    opened.map_err(|e| ControlError::Identity(e.to_string()))
}
