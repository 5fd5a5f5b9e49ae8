//! Clients of the proxy API over one channel. Used by `discover`.

use super::codec::BytesCodec;
use super::{
    Body, BoxError, CertifyRequest, CertifyResponse, Channel, DestinationQuery, MAX_MESSAGE_BYTES, MAX_PARTS,
    PARTS_HEADER, PortQuery, Status, TrafficQuery,
};
use crate::WireError;
use crate::decode::{self, Decoded};
use crate::encode;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::uri::PathAndQuery;
use std::num::NonZeroU16;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tonic::codec::DecodeBuf;
use weft_model::destination::EndpointUpdate;
use weft_model::policy::{InboundPolicy, OutboundPolicy};
use weft_model::profile::Profile;

/// Asks the destination service. Cheap to clone.
#[derive(Clone)]
pub struct DestinationClient(Calls);

/// Asks both policy services. Cheap to clone.
#[derive(Clone)]
pub struct PolicyClient(Calls);

/// Asks the certificate authority. Cheap to clone.
#[derive(Clone)]
pub struct IdentityClient(Calls);

impl DestinationClient {
    /// A client on a channel.
    pub fn new(channel: Channel) -> Self {
        Self(Calls::new(channel))
    }

    /// Follows the endpoints of a name (`Destination.Get`). Dropping the stream ends the call.
    ///
    /// # Errors
    /// The call's status; which codes are final is the caller's knowledge (§2.1).
    pub async fn endpoints(&self, query: &DestinationQuery) -> Result<Updates<EndpointUpdate>, Status> {
        let request = encode::request::destination(query);
        let read = |b: &mut DecodeBuf<'_>| decode::endpoint_update(b);
        let (inner, parts) = self.0.stream(super::DESTINATION_GET, request, read).await?;
        Ok(Updates::new(inner, (parts > 1).then_some(Join { parts, gathered: None, join: join_adds })))
    }

    /// Follows the profile of an address (`Destination.GetProfile`); `port` is the address's port.
    ///
    /// # Errors
    /// As [`Self::endpoints`].
    pub async fn profile(
        &self,
        query: &DestinationQuery,
        port: NonZeroU16,
    ) -> Result<Updates<Profile>, Status> {
        let request = encode::request::destination(query);
        let read = move |b: &mut DecodeBuf<'_>| decode::profile(b, port).map(some);
        let (inner, _) = self.0.stream(super::DESTINATION_GET_PROFILE, request, read).await?;
        Ok(Updates::new(inner, None))
    }
}

impl PolicyClient {
    /// A client on a channel.
    pub fn new(channel: Channel) -> Self {
        Self(Calls::new(channel))
    }

    /// Follows the policy of a destination (`OutboundPolicies.Watch`).
    ///
    /// # Errors
    /// As [`DestinationClient::endpoints`].
    pub async fn outbound(&self, query: &TrafficQuery) -> Result<Updates<OutboundPolicy>, Status> {
        let read = |b: &mut DecodeBuf<'_>| decode::outbound_policy(b).map(some);
        let (inner, _) = self.0.stream(super::OUTBOUND_WATCH, encode::request::traffic(query), read).await?;
        Ok(Updates::new(inner, None))
    }

    /// Follows the policy of an own port (`InboundServerPolicies.WatchPort`).
    ///
    /// # Errors
    /// As [`DestinationClient::endpoints`].
    pub async fn inbound(&self, query: &PortQuery) -> Result<Updates<InboundPolicy>, Status> {
        let read = |b: &mut DecodeBuf<'_>| decode::inbound_policy(b).map(some);
        let (inner, _) = self.0.stream(super::INBOUND_WATCH, encode::request::port(query), read).await?;
        Ok(Updates::new(inner, None))
    }
}

impl IdentityClient {
    /// A client on a channel.
    pub fn new(channel: Channel) -> Self {
        Self(Calls::new(channel))
    }

    /// Asks for a certificate (`Identity.Certify`).
    ///
    /// # Errors
    /// The authority's refusal, or INVALID_ARGUMENT when its answer lacks the leaf or its end.
    pub async fn certify(&self, request: &CertifyRequest) -> Result<CertifyResponse, Status> {
        let codec = BytesCodec::new(|b: &mut DecodeBuf<'_>| decode::request::certified(b));
        let mut grpc = self.0.ready().await?;
        let request = tonic::Request::new(encode::request::certify(request));
        let path = PathAndQuery::from_static(super::CERTIFY_PATH);
        Ok(grpc.unary(request, path, codec).await?.into_inner())
    }
}

fn some<T>(decoded: Decoded<T>) -> Decoded<Option<T>> {
    Decoded { value: Some(decoded.value), warnings: decoded.warnings }
}

/// The channel with an error type of its own: the compiler cannot prove that calls whose error is a bare
/// boxed trait object may move between threads.
#[derive(Clone)]
struct Transport(Channel);

impl tower_service::Service<http::Request<Body>> for Transport {
    type Response = http::Response<Body>;
    type Error = tonic::Status;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, tonic::Status>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), tonic::Status>> {
        self.0.poll_ready(cx).map_err(failed)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answering = self.0.call(request);
        Box::pin(async move { answering.await.map_err(failed) })
    }
}

/// A layer of the channel failed the call: there was no answer, so it may be repeated.
fn failed(error: BoxError) -> tonic::Status {
    tonic::Status::unavailable(error.to_string())
}

/// What all clients do with their channel.
#[derive(Clone)]
struct Calls {
    grpc: tonic::client::Grpc<Transport>,
}

impl Calls {
    fn new(channel: Channel) -> Self {
        let grpc = tonic::client::Grpc::new(Transport(channel))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(super::MAX_REQUEST_BYTES);
        Self { grpc }
    }

    async fn ready(&self) -> Result<tonic::client::Grpc<Transport>, Status> {
        let mut grpc = self.grpc.clone();
        grpc.ready().await?;
        Ok(grpc)
    }

    /// Opens a stream of messages and learns in how many parts its first answer comes.
    async fn stream<T, F>(
        &self,
        path: &'static str,
        request: Bytes,
        read: F,
    ) -> Result<(tonic::Streaming<T>, u16), Status>
    where
        T: Send + Sync + 'static,
        F: Fn(&mut DecodeBuf<'_>) -> Result<T, WireError> + Clone + Send + 'static,
    {
        let mut grpc = self.ready().await?;
        let (request, path) = (tonic::Request::new(request), PathAndQuery::from_static(path));
        let response = grpc.server_streaming(request, path, BytesCodec::new(read)).await?;
        let parts = response.metadata().get(PARTS_HEADER).and_then(|v| v.to_str().ok()?.parse().ok());
        Ok((response.into_inner(), parts.unwrap_or(1).min(MAX_PARTS)))
    }
}

/// A stream of answers as nouns. Ends after the first error. Polling it is cancel-safe: nothing is lost
/// when a `next` is dropped.
pub struct Updates<T> {
    inner: tonic::Streaming<Decoded<Option<T>>>,
    join: Option<Join<T>>,
    /// What interrupted the joining and comes next.
    queued: Option<Box<Decoded<T>>>,
    /// Warnings of messages that changed nothing; they come with the next one.
    warnings: Vec<String>,
}

/// Joins the first messages of a stream into one.
struct Join<T> {
    /// How many messages are still to be joined.
    parts: u16,
    gathered: Option<Box<Decoded<T>>>,
    /// Joins two, or gives both back.
    join: JoinTwo<T>,
}

type JoinTwo<T> = fn(T, T) -> Result<T, Box<(T, T)>>;

fn join_adds(
    a: EndpointUpdate,
    b: EndpointUpdate,
) -> Result<EndpointUpdate, Box<(EndpointUpdate, EndpointUpdate)>> {
    match (a, b) {
        (EndpointUpdate::Add(mut first), EndpointUpdate::Add(more)) => {
            first.extend(more);
            Ok(EndpointUpdate::Add(first))
        }
        other => Err(Box::new(other)),
    }
}

impl<T> Updates<T> {
    fn new(inner: tonic::Streaming<Decoded<Option<T>>>, join: Option<Join<T>>) -> Self {
        Self { inner, join, queued: None, warnings: Vec::new() }
    }

    /// The next answer; `None` when the server ended the stream well.
    ///
    /// # Errors
    /// How the call ended otherwise. Parts of an incomplete first answer are discarded.
    pub async fn next(&mut self) -> Option<Result<Decoded<T>, Status>>
    where
        T: Unpin,
    {
        StreamExt::next(self).await
    }

    /// Takes a message; `Some` when there is something to hand out.
    fn accept(&mut self, message: Decoded<Option<T>>) -> Option<Decoded<T>> {
        let Decoded { value, mut warnings } = message;
        let Some(value) = value else {
            let room = 64usize.saturating_sub(self.warnings.len());
            self.warnings.extend(warnings.into_iter().take(room));
            return None;
        };
        if !self.warnings.is_empty() {
            warnings.splice(0..0, self.warnings.drain(..));
        }
        let message = Decoded { value, warnings };
        match self.join.take() {
            None => Some(message),
            Some(join) => self.gather(join, message),
        }
    }

    fn gather(&mut self, join: Join<T>, message: Decoded<T>) -> Option<Decoded<T>> {
        let Join { parts, gathered, join } = join;
        let gathered = match gathered.map(|gathered| *gathered) {
            None => message,
            Some(Decoded { value, mut warnings }) => match join(value, message.value) {
                Ok(value) => {
                    warnings.extend(message.warnings);
                    Decoded { value, warnings }
                }
                Err(both) => {
                    let (first, second) = *both;
                    self.queued = Some(Box::new(Decoded { value: second, warnings: message.warnings }));
                    return Some(Decoded { value: first, warnings });
                }
            },
        };
        match parts.saturating_sub(1) {
            0 => Some(gathered),
            parts => {
                self.join = Some(Join { parts, gathered: Some(Box::new(gathered)), join });
                None
            }
        }
    }
}

impl<T: Unpin> Stream for Updates<T> {
    type Item = Result<Decoded<T>, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(queued) = self.queued.take() {
            return Poll::Ready(Some(Ok(*queued)));
        }
        loop {
            match ready!(self.inner.poll_next_unpin(cx)) {
                Some(Ok(message)) => {
                    if let Some(message) = self.accept(message) {
                        return Poll::Ready(Some(Ok(message)));
                    }
                }
                Some(Err(status)) => return Poll::Ready(Some(Err(status.into()))),
                None => return Poll::Ready(None),
            }
        }
    }
}
