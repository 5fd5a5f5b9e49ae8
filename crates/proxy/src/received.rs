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
        Some(self.of(authority, || match Addr::from_authority(authority, HTTP_PORT) {
            Ok(Addr::Name(name)) => names.name(name),
            _ => None,
        }))
    }

    /// The last name if it is this one, else this one from now on.
    fn of(&self, authority: &str, find: impl FnOnce() -> Option<HeldName>) -> Guard<Option<Arc<Name>>> {
        let last = self.0.load();
        if last.as_ref().is_some_and(|last| *last.authority == *authority) {
            return last;
        }
        // Given as made: another stream may already have stored its own.
        let made = Some(Arc::new(Name { authority: authority.into(), held: find() }));
        self.0.store(made.clone());
        Guard::from_inner(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_given_its_own_name_whatever_others_of_its_connection_bear() {
        let last = LastName::default();
        std::thread::scope(|scope| {
            for own in ["a.example", "b.example", "c.example"] {
                let last = &last;
                scope.spawn(move || {
                    for _ in 0..50_000 {
                        let given = last.of(own, || None);
                        assert_eq!(given.as_ref().map(|name| &*name.authority), Some(own));
                    }
                });
            }
        });
    }
}
