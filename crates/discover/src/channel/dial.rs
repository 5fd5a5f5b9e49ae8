//! The lowest layer: a TCP connection with keepalive.

use super::ChannelError;
use futures_util::future::BoxFuture;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use tower_service::Service;
use weft_net::socket::{self, SocketOptions};
use weft_net::stream::Stream;
use weft_wire::services::BoxError;

/// Connects to an address. Always ready.
#[derive(Clone)]
pub(super) struct Dial {
    options: SocketOptions,
}

impl Dial {
    pub(super) fn new(options: SocketOptions) -> Self {
        Self { options }
    }
}

impl Service<SocketAddr> for Dial {
    type Response = Stream;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Stream, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, addr: SocketAddr) -> Self::Future {
        let options = self.options;
        Box::pin(async move {
            let tcp = socket::connect(addr, &options).await.map_err(ChannelError::Connect)?;
            Ok(Stream::tcp(tcp))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn an_address_is_connected_to_or_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut dial = Dial::new(SocketOptions::default());
        assert_eq!(dial.call(addr).await.unwrap().peer_addr(), Some(addr));
        drop(listener);
        let failure = super::super::error::failure(&dial.call(addr).await.unwrap_err());
        assert_eq!(failure.code, weft_model::reason::Code::ConnectRefused);
    }
}
