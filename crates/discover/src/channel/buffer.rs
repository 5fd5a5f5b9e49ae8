//! The waiting room of a channel: so many calls may wait, and so long.
//!
//! Only the wait for a replica is limited. A watch answers for hours, so the call itself is not.

use super::ChannelError;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Semaphore;
use tower::ServiceExt;
use tower_service::Service;
use weft_wire::services::BoxError;

/// Holds calls back until the service below is ready. Itself always ready: where there is no room, the
/// call fails, so that callers never queue outside the room.
#[derive(Clone)]
pub(super) struct Buffer<S> {
    inner: S,
    room: Arc<Semaphore>,
    capacity: usize,
    limit: Duration,
}

impl<S> Buffer<S> {
    pub(super) fn new(inner: S, capacity: usize, limit: Duration) -> Self {
        let capacity = capacity.min(Semaphore::MAX_PERMITS);
        Self { inner, room: Arc::new(Semaphore::new(capacity)), capacity, limit }
    }
}

impl<S, R> Service<R> for Buffer<S>
where
    S: Service<R, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
    R: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        let place = self.room.clone().try_acquire_owned();
        let (mut inner, capacity, limit) = (self.inner.clone(), self.capacity, self.limit);
        Box::pin(async move {
            let place = place.map_err(|_| ChannelError::Full(capacity))?;
            let ready = tokio::time::timeout(limit, inner.ready()).await;
            drop(place);
            ready.map_err(|_| ChannelError::NotDispatched(limit))??.call(request).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;
    use tower_test::{assert_request_eq, mock};

    const LIMIT: Duration = Duration::from_secs(30);

    fn pair(capacity: usize) -> (Buffer<mock::Mock<u32, u32>>, mock::Handle<u32, u32>) {
        let (service, mut handle) = mock::pair();
        handle.allow(0);
        (Buffer::new(service, capacity, LIMIT), handle)
    }

    #[tokio::test(start_paused = true)]
    async fn calls_wait_for_the_service_and_then_as_long_as_they_like() {
        let (mut buffer, mut handle) = pair(1);
        let call = tokio::spawn(buffer.call(1));
        tokio::task::yield_now().await;
        tokio::time::advance(LIMIT / 2).await;
        handle.allow(1);
        let (request, answer) = handle.next_request().await.unwrap();
        assert_eq!(request, 1);
        tokio::time::advance(LIMIT * 100).await;
        answer.send_response(2);
        assert_eq!(call.await.unwrap().unwrap(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_not_dispatched_in_time_fails_and_leaves_its_place() {
        let (mut buffer, mut handle) = pair(1);
        let begun = Instant::now();
        let error = buffer.call(1).await.unwrap_err();
        assert_eq!(begun.elapsed(), LIMIT);
        assert!(matches!(error.downcast_ref(), Some(ChannelError::NotDispatched(LIMIT))));
        handle.allow(1);
        let call = tokio::spawn(buffer.call(2));
        assert_request_eq!(handle, 2).send_response(3);
        assert_eq!(call.await.unwrap().unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_capacity_calls_fail_at_once_and_given_up_ones_make_room() {
        let (mut buffer, mut handle) = pair(2);
        let first = buffer.call(1);
        let second = buffer.call(2);
        let error = buffer.clone().call(3).await.unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(ChannelError::Full(2))));
        drop(first);
        let fourth = tokio::spawn(buffer.call(4));
        handle.allow(1);
        assert_request_eq!(handle, 4).send_response(5);
        assert_eq!(fourth.await.unwrap().unwrap(), 5);
        drop(second);
    }
}
