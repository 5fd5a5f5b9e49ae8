//! The server's side: traits that `serve` implements, and the router from paths to them.
//!
//! The router decides by path alone; whether a caller may call at all is decided before it, and what it
//! may ask for behind it.

use super::codec::BytesCodec;
use super::message::{Frames, Message};
use super::{
    Body, BoxError, CertifyRequest, CertifyResponse, Code, DestinationQuery, MAX_PARTS, MAX_REQUEST_BYTES,
    PARTS_HEADER, PortQuery, Status, TrafficQuery,
};
use crate::WireError;
use crate::decode;
use crate::encode;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use http::HeaderValue;
use std::net::SocketAddr;
use std::sync::Arc;
use tonic::codec::{Codec, DecodeBuf};
use weft_model::identity::Id;

/// Who calls. The server's edge puts it into the request's extensions; absent, it is nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The identity that its certificate proved.
    pub id: Option<Id>,
    /// Where it connects from.
    pub addr: Option<SocketAddr>,
}

/// A stream of encoded messages.
pub struct Answers {
    /// In how many messages the first answer comes: 1 but for endpoint sets that were split.
    pub parts: u16,
    /// The messages. Dropped when the client is gone; polled only while the client has room for more.
    pub stream: BoxStream<'static, Result<Message, Status>>,
}

impl Answers {
    /// Answers whose first is one message.
    pub fn new(stream: impl futures_util::Stream<Item = Result<Message, Status>> + Send + 'static) -> Self {
        Self { parts: 1, stream: stream.boxed() }
    }
}

/// What a call that streams comes to.
pub type Answer = BoxFuture<'static, Result<Answers, Status>>;

/// The destination service.
pub trait Destinations: Send + Sync + 'static {
    /// Endpoints of a name, as messages of [`encode::endpoints`], [`encode::remove`],
    /// [`encode::empty`] and [`encode::absent`].
    fn endpoints(&self, caller: Caller, query: DestinationQuery) -> Answer;

    /// The profile of a name or address, as messages of [`encode::profile`].
    fn profile(&self, caller: Caller, query: DestinationQuery) -> Answer;
}

/// Both policy services. The unary methods are answered with the first message of the stream.
pub trait Policies: Send + Sync + 'static {
    /// The policy of a destination, as messages of [`encode::outbound_policy`].
    fn outbound(&self, caller: Caller, query: TrafficQuery) -> Answer;

    /// The policy of a workload's port, as messages of [`encode::inbound_policy`].
    fn inbound(&self, caller: Caller, query: PortQuery) -> Answer;
}

/// The certificate authority.
pub trait Certificates: Send + Sync + 'static {
    /// Certifies an identity, or says why not.
    fn certify(
        &self,
        caller: Caller,
        request: CertifyRequest,
    ) -> BoxFuture<'static, Result<CertifyResponse, Status>>;
}

/// Leads calls to the services that are there. Cheap to clone.
#[derive(Clone, Default)]
pub struct Router {
    destinations: Option<Arc<dyn Destinations>>,
    policies: Option<Arc<dyn Policies>>,
    certificates: Option<Arc<dyn Certificates>>,
}

impl Router {
    /// A router without services, which answers everything with UNIMPLEMENTED.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the destination service.
    #[must_use]
    pub fn with_destinations(mut self, service: Arc<dyn Destinations>) -> Self {
        self.destinations = Some(service);
        self
    }

    /// Adds the policy services.
    #[must_use]
    pub fn with_policies(mut self, service: Arc<dyn Policies>) -> Self {
        self.policies = Some(service);
        self
    }

    /// Adds the certificate authority.
    #[must_use]
    pub fn with_certificates(mut self, service: Arc<dyn Certificates>) -> Self {
        self.certificates = Some(service);
        self
    }

    /// Answers one call. The response's head is there when the service has accepted or refused; its body
    /// lives as long as the stream. A request above [`MAX_REQUEST_BYTES`] is refused with OUT_OF_RANGE,
    /// an unreadable one with INVALID_ARGUMENT or INTERNAL.
    pub async fn call<B>(&self, request: http::Request<B>) -> http::Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError> + Send,
    {
        use decode::request as read;
        let caller = request.extensions().get::<Caller>().cloned().unwrap_or_default();
        let path = request.uri().path().to_owned();
        let request = request.map(Body::new);
        match (path.as_str(), &self.destinations, &self.policies, &self.certificates) {
            (super::DESTINATION_GET, Some(service), ..) => {
                let service = service.clone();
                respond(request, |b| read::destination(b), move |q| service.endpoints(caller, q)).await
            }
            (super::DESTINATION_GET_PROFILE, Some(service), ..) => {
                let service = service.clone();
                respond(request, |b| read::destination(b), move |q| service.profile(caller, q)).await
            }
            (super::OUTBOUND_WATCH, _, Some(service), _) => {
                let service = service.clone();
                respond(request, |b| read::traffic(b), move |q| service.outbound(caller, q)).await
            }
            (super::INBOUND_WATCH, _, Some(service), _) => {
                let service = service.clone();
                respond(request, |b| read::port(b), move |q| service.inbound(caller, q)).await
            }
            (super::OUTBOUND_GET, _, Some(service), _) => {
                let service = service.clone();
                respond(request, |b| read::traffic(b), move |q| first(service.outbound(caller, q))).await
            }
            (super::INBOUND_GET, _, Some(service), _) => {
                let service = service.clone();
                respond(request, |b| read::port(b), move |q| first(service.inbound(caller, q))).await
            }
            (super::CERTIFY_PATH, _, _, Some(service)) => {
                let service = service.clone();
                respond(request, |b| read::certify(b), move |q| certify(service, caller, q)).await
            }
            _ => Status::new(Code::Unimplemented, format!("no method {path}")).into_response(),
        }
    }
}

async fn certify(
    service: Arc<dyn Certificates>,
    caller: Caller,
    request: CertifyRequest,
) -> Result<Answers, Status> {
    let response = service.certify(caller, request).await?;
    Ok(only(encode::request::certified(&response).into()))
}

/// Cuts a stream down to its first message, which answers the unary form of a method.
async fn first(answer: Answer) -> Result<Answers, Status> {
    match answer.await?.stream.next().await {
        Some(message) => Ok(only(message?)),
        None => Err(Status::new(Code::Unavailable, "the server is shutting down")),
    }
}

fn only(message: Message) -> Answers {
    Answers::new(futures_util::stream::iter([Ok(message)]))
}

/// Reads the one message of a request, lets it be handled, and makes a response of the outcome.
async fn respond<Q: Send + 'static>(
    request: http::Request<Body>,
    read: fn(&mut DecodeBuf<'_>) -> Result<Q, WireError>,
    handle: impl AsyncFnOnce(Q) -> Result<Answers, Status>,
) -> http::Response<Body> {
    let decoder = BytesCodec::new(read).decoder();
    let limit = Some(MAX_REQUEST_BYTES);
    let mut messages = tonic::Streaming::new_request(decoder, request.into_body(), None, limit);
    let query = match messages.message().await {
        Ok(Some(query)) => query,
        Ok(None) => return Status::new(Code::Internal, "the request has no message").into_response(),
        Err(status) => return Status::from(status).into_response(),
    };
    let Answers { parts, stream } = match handle(query).await {
        Ok(answers) => answers,
        Err(status) => return status.into_response(),
    };
    let mut response = http::Response::new(Body::new(Frames::new(stream)));
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if parts > 1 {
        headers.insert(PARTS_HEADER, parts.min(MAX_PARTS).into());
    }
    response
}
