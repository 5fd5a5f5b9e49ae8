//! Which route of a service profile an admitted inbound request is counted under (§4.5).
//!
//! `forward` asks for each request that a policy admitted. The requests of one connection mostly bear one name, whose
//! profile is remembered; a request whose name has none costs a comparison. Waits only for the first answer about a
//! name, and then for half a second at most. Never refuses anything.

use crate::headers::{self, Meshes};
use crate::target::HTTP_PORT;
use arc_swap::{ArcSwapOption, Guard};
use http::Request;
use std::sync::Arc;
use weft_decide::matching::{self, RequestView};
use weft_discover::plan::Upstream;
use weft_discover::received::{HeldName, Received, ReceivedRoute};
use weft_model::address::Addr;
use weft_net::body::Body;
use weft_route::metrics::Exchange;

/// What an admitted request is counted under.
#[derive(Clone)]
pub(crate) struct Counted {
    /// The series of this client's exchanges with the application.
    pub(crate) exchange: Arc<Exchange>,
    /// The route of its name's profile.
    pub(crate) route: Option<Arc<ReceivedRoute>>,
}

/// The series of what is sent to an endpoint.
pub(crate) fn exchange_of<'s>(counted: &'s Option<Counted>, endpoint: &'s Upstream) -> Option<&'s Exchange> {
    counted.as_ref().map(|c| &*c.exchange).or(endpoint.metrics.as_ref())
}

/// The name that a connection's last request bore, and its profile.
#[derive(Default)]
pub(crate) struct LastName(ArcSwapOption<Name>);

struct Name {
    authority: Box<str>,
    held: Option<HeldName>,
}

/// The route of its name's profile that a request meets; `last` is its connection's.
pub(crate) async fn route(
    names: &Received,
    last: &LastName,
    meshes: Meshes,
    request: &mut Request<Body>,
) -> Option<Arc<ReceivedRoute>> {
    let awaited = {
        let name = last.named(names, meshes, request)?;
        let held = name.as_ref()?.held.as_ref()?;
        let found = held.route(&RequestView::of(request));
        if found.is_some() || !held.is_awaited() {
            return found;
        }
        held.clone()
    };
    Box::pin(awaited.answered()).await;
    awaited.route(&RequestView::of(request))
}

impl LastName {
    /// What a request is for: what its sender's proxy took it for, else its authority.
    fn named(
        &self,
        names: &Received,
        meshes: Meshes,
        request: &Request<Body>,
    ) -> Option<Guard<Option<Arc<Name>>>> {
        let canonical = match meshes {
            Meshes::Some => request.headers().get(headers::DST_CANONICAL),
            Meshes::None => None,
        };
        let canonical = canonical.and_then(|value| value.to_str().ok());
        let authority = canonical.or_else(|| matching::authority(request.uri(), request.headers()))?;
        let last = self.0.load();
        if last.as_ref().is_some_and(|last| *last.authority == *authority) {
            return Some(last);
        }
        let held = match Addr::from_authority(authority, HTTP_PORT) {
            Ok(Addr::Name(name)) => names.name(name),
            _ => None,
        };
        // Given as made: another stream may already have stored its own.
        let made = Some(Arc::new(Name { authority: authority.into(), held }));
        self.0.store(made.clone());
        Some(Guard::from_inner(made))
    }
}
