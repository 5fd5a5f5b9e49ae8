//! Gives calls the controller's scheme and authority, which the clients leave to the channel.

use http::uri::{Authority, Scheme};
use std::task::{Context, Poll};
use tower_service::Service;
use weft_wire::services::Body;

/// Adds the origin to each request.
#[derive(Clone)]
pub(super) struct Origin<S> {
    inner: S,
    authority: Authority,
}

impl<S> Origin<S> {
    pub(super) fn new(inner: S, authority: Authority) -> Self {
        Self { inner, authority }
    }
}

impl<S: Service<http::Request<Body>>> Service<http::Request<Body>> for Origin<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> S::Future {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.authority.clone());
        parts.path_and_query.get_or_insert_with(|| http::uri::PathAndQuery::from_static("/"));
        // With scheme, authority and path present there is nothing left that could be wrong.
        *request.uri_mut() = http::Uri::from_parts(parts).unwrap_or_default();
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower_test::{assert_request_eq, mock};

    #[tokio::test]
    async fn requests_get_the_controllers_origin() {
        let authority: Authority = "dst.mesh:8086".parse().unwrap();
        let origin = |inner| Origin::new(MapUri(inner), authority.clone());
        let (mut service, mut handle) = mock::spawn_with(origin);
        handle.allow(0);
        assert!(service.poll_ready().is_pending());
        handle.allow(1);
        assert!(service.poll_ready().is_ready());
        let request = http::Request::get("/svc/Method").body(Body::empty()).unwrap();
        let response = service.call(request);
        assert_request_eq!(handle, "http://dst.mesh:8086/svc/Method".to_owned()).send_response(());
        response.await.unwrap();
    }

    /// Lets the mock compare: requests themselves cannot be.
    #[derive(Clone)]
    struct MapUri(mock::Mock<String, ()>);

    impl Service<http::Request<Body>> for MapUri {
        type Response = ();
        type Error = weft_wire::services::BoxError;
        type Future = <mock::Mock<String, ()> as Service<String>>::Future;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            self.0.poll_ready(cx)
        }

        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            self.0.call(request.uri().to_string())
        }
    }
}
