//! The one body type of requests and responses.
//!
//! A [`Body`] is nothing, bytes in hand, what hyper receives, or a boxed other body (gRPC, replay), and
//! may carry one [`Watch`] that sees its frames and its end: metrics, load and classification hang there.
//! Length and end are exact, so that hyper keeps `content-length` framing and ends streams without an
//! empty frame. Errors keep hyper's error as their source, so that an HTTP/2 reset is passed on with the
//! reason it came with. It never buffers: replay belongs to `route`.

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use weft_model::reason::{Code, Reason};

use crate::head::{Offence, Refused};
use crate::outbox::{FREE, Outbox, Outgoing};
use crate::stall::{self, Noted};

/// Any error, boxed.
pub type BoxError = Box<dyn StdError + Send + Sync>;

type BoxBody = Pin<Box<dyn http_body::Body<Data = Bytes, Error = BodyError> + Send>>;

/// The body of every request and response of the data path.
pub struct Body {
    kind: Kind,
    watch: Option<Box<dyn Watch>>,
}

enum Kind {
    Empty,
    Full(Bytes),
    Incoming(Incoming),
    Boxed(BoxBody),
    Outgoing(Box<Outgoing<Body>>),
}

/// Sees a body pass. Exactly one of `end` and `error` is called, as the last; a watch dropped without
/// either saw a body that somebody gave up.
pub trait Watch: Send {
    /// A frame was taken from the body, data or trailers.
    fn frame(&mut self, frame: &Frame<Bytes>);

    /// The body ended well. Called with its last frame, because nobody polls a body of known length
    /// beyond its end.
    fn end(&mut self, trailers: Option<&HeaderMap>);

    /// The body broke. It ends with these trailers instead of the error, if there are any.
    fn error(&mut self, error: &BodyError) -> Option<HeaderMap>;
}

/// An HTTP/2 stream error that is passed on with its own code, as the error of a service.
#[derive(Debug, thiserror::Error)]
#[error("the endpoint reset the stream: {0}")]
pub struct Reset(#[source] h2::Error);

impl From<h2::Reason> for Reset {
    fn from(reason: h2::Reason) -> Self {
        Self(reason.into())
    }
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection it came from failed, or reset its stream. The sender's fault; not repeatable by
    /// itself, as part of the message was passed on.
    #[error("the body broke off: {0}")]
    Http(#[source] hyper::Error),
    /// The mesh broke it off, for the given reason.
    #[error("the mesh broke the body off: {reason}")]
    Aborted {
        /// Why.
        reason: Box<Reason>,
        /// What the other side of an HTTP/2 stream is told.
        #[source]
        reset: h2::Error,
    },
    /// A body that is not hyper's failed.
    #[error("the body broke off: {0}")]
    Other(#[source] BoxError),
}

impl BodyError {
    /// An abort by the mesh itself. On HTTP/2 the stream is reset with CANCEL; on HTTP/1 the connection closes.
    pub fn aborted(reason: Reason) -> Self {
        Self::Aborted { reason: Box::new(reason), reset: h2::Reason::CANCEL.into() }
    }

    /// The code of the cause, taking the sender to be upstream. Whoever reads a request's body from a client
    /// reports `ClientGone` instead, save where the mesh itself aborted or refused (see
    /// [`refused`](Self::refused)).
    pub fn code(&self) -> Code {
        match self {
            Self::Aborted { reason, .. } => reason.code,
            Self::Http(error) if error.is_parse() => Code::ProtocolError,
            Self::Http(_) | Self::Other(_) => match (self.refused(), self.reset()) {
                (Some(offence), _) => offence.code(),
                (None, Some(_)) => Code::StreamReset,
                (None, None) => Code::ConnectionLost,
            },
        }
    }

    /// The offence for which the client's connection was refused within this body.
    pub fn refused(&self) -> Option<Offence> {
        self.find::<Refused>().map(|refused| refused.0)
    }

    /// The HTTP/2 reset at the bottom of this error, as received or as will be sent.
    pub fn reset(&self) -> Option<h2::Reason> {
        self.find::<h2::Error>().and_then(h2::Error::reason)
    }

    /// The nearest cause of a type, also inside `io::Error`, which hides what it holds from `source`.
    fn find<E: StdError + 'static>(&self) -> Option<&E> {
        let mut next: Option<&(dyn StdError + 'static)> = Some(self);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<E>() {
                return Some(found);
            }
            let held = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
            next = match held {
                Some(held) => Some(held),
                None => error.source(),
            };
        }
        None
    }

    /// Wraps any error without hiding one of these.
    pub fn from_any(error: impl Into<BoxError>) -> Self {
        let error = match error.into().downcast::<BodyError>() {
            Ok(own) => return *own,
            Err(error) => error,
        };
        match error.downcast::<hyper::Error>() {
            Ok(hyper) => Self::Http(*hyper),
            Err(error) => Self::Other(error),
        }
    }
}

impl Body {
    /// No body.
    pub const fn empty() -> Self {
        Self::of(Kind::Empty)
    }

    /// Bytes in hand, given as one frame.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::of(if bytes.is_empty() { Kind::Empty } else { Kind::Full(bytes) })
    }

    /// What hyper receives, without a box around it.
    pub fn incoming(incoming: Incoming) -> Self {
        Self::of(Kind::Incoming(incoming))
    }

    /// Any other body, boxed.
    pub fn boxed<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self::of(Kind::Boxed(Box::pin(Adapted { body })))
    }

    /// Bytes that are made as they are sent, a frame each. `parts` is asked on the thread that sends: each must be
    /// quick to make.
    pub fn parts(parts: impl Iterator<Item = impl Into<Bytes> + 'static> + Send + 'static) -> Self {
        Self::of(Kind::Boxed(Box::pin(Adapted { body: Parts(Box::new(parts.map(Into::into))) })))
    }

    /// Lets the rest of this body wait in an outbox, and in no other. Unchanged if it is known to be short.
    #[must_use]
    pub fn within(self, outbox: &Outbox) -> Self {
        let size = http_body::Body::size_hint(&self);
        if size.upper().is_some_and(|most| most <= FREE as u64) {
            return self;
        }
        Self::of(Kind::Outgoing(Box::new(Outgoing::new(self.without_outbox(), outbox))))
    }

    /// The body without the outbox that the rest of it was to wait in, for whoever sends it elsewhere.
    #[must_use]
    pub fn without_outbox(self) -> Self {
        match self {
            Self { kind: Kind::Outgoing(mut outgoing), watch: None } => std::mem::take(&mut outgoing.body),
            body => body,
        }
    }

    const fn of(kind: Kind) -> Self {
        Self { kind, watch: None }
    }

    /// Lets `watch` see the rest of this body, after watches attached before. A body that is over
    /// already tells it so at once.
    #[must_use]
    pub fn watched(mut self, mut watch: Box<dyn Watch>) -> Self {
        if http_body::Body::is_end_stream(&self) {
            watch.end(None);
            return self;
        }
        self.watch = Some(match self.watch.take() {
            Some(first) => Box::new(Both { first, second: watch }),
            None => watch,
        });
        self
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.kind = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Incoming(body) => http_body::Body::poll_frame(Pin::new(body), cx).map_err(BodyError::Http),
            Kind::Boxed(body) => body.as_mut().poll_frame(cx),
            Kind::Outgoing(outgoing) => outgoing.poll_frame(cx),
        }
    }

    #[cold]
    fn watch_failed(&mut self, error: BodyError) -> Result<Frame<Bytes>, BodyError> {
        let trailers = self.watch.take().and_then(|mut watch| watch.error(&error));
        match trailers {
            Some(trailers) => {
                self.kind = Kind::Empty;
                Ok(Frame::trailers(trailers))
            }
            None => Err(error),
        }
    }

    /// Tells the watch of a frame, and of the end if this was the last. The watch is dropped with it.
    fn watch_frame(&mut self, frame: &Frame<Bytes>) {
        let Some(watch) = &mut self.watch else { return };
        watch.frame(frame);
        let trailers = frame.trailers_ref();
        let over = trailers.is_some()
            || match &self.kind {
                Kind::Empty => true,
                Kind::Full(_) => false,
                Kind::Incoming(body) => http_body::Body::is_end_stream(body),
                Kind::Boxed(body) => body.is_end_stream(),
                Kind::Outgoing(outgoing) => http_body::Body::is_end_stream(&outgoing.body),
            };
        if over {
            watch.end(trailers);
            self.watch = None;
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = match this.poll_inner(cx) {
            Poll::Ready(polled) => polled,
            Poll::Pending => {
                // What is held back because nobody takes what went before waits for its receiver.
                let held_back = matches!(&this.kind, Kind::Outgoing(outgoing) if outgoing.held_back);
                stall::note(if held_back { Noted::Held } else { Noted::Lacks });
                return Poll::Pending;
            }
        };
        let more =
            matches!(&polled, Some(Ok(frame)) if frame.is_data()) && !http_body::Body::is_end_stream(this);
        stall::note(if more { Noted::Offers } else { Noted::Lacks });
        if this.watch.is_some() {
            match polled {
                Some(Ok(ref frame)) => this.watch_frame(frame),
                Some(Err(error)) => return Poll::Ready(Some(this.watch_failed(error))),
                None => {
                    if let Some(mut watch) = this.watch.take() {
                        watch.end(None);
                    }
                }
            }
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(_) => false,
            Kind::Incoming(body) => body.is_end_stream(),
            Kind::Boxed(body) => body.is_end_stream(),
            Kind::Outgoing(outgoing) => http_body::Body::is_end_stream(&outgoing.body),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Incoming(body) => body.size_hint(),
            Kind::Boxed(body) => body.size_hint(),
            Kind::Outgoing(outgoing) => http_body::Body::size_hint(&outgoing.body),
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<Incoming> for Body {
    fn from(incoming: Incoming) -> Self {
        Self::incoming(incoming)
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::full(bytes)
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::full(text)
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self::full(text)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Empty => "empty",
            Kind::Full(_) => "full",
            Kind::Incoming(_) => "incoming",
            Kind::Boxed(_) => "boxed",
            Kind::Outgoing(_) => "outgoing",
        };
        f.debug_struct("Body").field("kind", &kind).field("watched", &self.watch.is_some()).finish()
    }
}

/// Two watches of one body, told in the order in which they were attached.
struct Both {
    first: Box<dyn Watch>,
    second: Box<dyn Watch>,
}

impl Watch for Both {
    fn frame(&mut self, frame: &Frame<Bytes>) {
        self.first.frame(frame);
        self.second.frame(frame);
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) {
        self.first.end(trailers);
        self.second.end(trailers);
    }

    fn error(&mut self, error: &BodyError) -> Option<HeaderMap> {
        let (first, second) = (self.first.error(error), self.second.error(error));
        first.or(second)
    }
}

pin_project_lite::pin_project! {
    /// A foreign body with our error.
    struct Adapted<B> {
        #[pin]
        body: B,
    }
}

impl<B> http_body::Body for Adapted<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.project().body.poll_frame(cx).map_err(BodyError::from_any)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body that is made as it is sent.
struct Parts(Box<dyn Iterator<Item = Bytes> + Send>);

impl http_body::Body for Parts {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.next().map(|part| Ok(Frame::data(part))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body::Body as _;
    use http_body_util::{BodyExt, StreamBody};
    use std::sync::{Arc, Mutex};
    use weft_model::reason::{Hop, Phase};

    #[derive(Clone, Default)]
    struct Diary(Arc<Mutex<Vec<String>>>);

    impl Diary {
        fn lines(&self) -> Vec<String> {
            self.0.lock().unwrap().clone()
        }
        fn write(&self, line: impl Into<String>) {
            self.0.lock().unwrap().push(line.into());
        }
    }

    impl Watch for Diary {
        fn frame(&mut self, frame: &Frame<Bytes>) {
            self.write(match frame.data_ref() {
                Some(data) => format!("data {}", data.len()),
                None => "trailers".to_owned(),
            });
        }
        fn end(&mut self, trailers: Option<&HeaderMap>) {
            self.write(format!("end {}", trailers.map_or(0, HeaderMap::len)));
        }
        fn error(&mut self, error: &BodyError) -> Option<HeaderMap> {
            self.write(format!("error {}", error.code()));
            None
        }
    }

    fn frames(frames: Vec<Result<Frame<Bytes>, BodyError>>) -> Body {
        Body::boxed(StreamBody::new(futures_util::stream::iter(frames)))
    }

    #[tokio::test]
    async fn a_full_body_has_an_exact_length_and_ends_with_its_only_frame() {
        let diary = Diary::default();
        let mut body = Body::full("hello").watched(Box::new(diary.clone()));
        assert_eq!(body.size_hint().exact(), Some(5));
        assert!(!body.is_end_stream());
        assert!(body.frame().await.unwrap().unwrap().is_data());
        assert!(body.is_end_stream());
        assert_eq!(diary.lines(), ["data 5", "end 0"]);
        assert!(body.frame().await.is_none());
        assert_eq!(diary.lines().len(), 2);
    }

    #[tokio::test]
    async fn trailers_end_a_body() {
        let diary = Diary::default();
        let trailers = HeaderMap::from_iter([(http::header::ETAG, "x".parse().unwrap())]);
        let body = frames(vec![Ok(Frame::data(Bytes::from_static(b"ab"))), Ok(Frame::trailers(trailers))]);
        let body = body.watched(Box::new(diary.clone())).watched(Box::new(diary.clone()));
        body.collect().await.unwrap();
        assert_eq!(diary.lines(), ["data 2", "data 2", "trailers", "trailers", "end 1", "end 1"]);
    }

    #[tokio::test]
    async fn a_broken_body_tells_its_watch_and_keeps_the_reason() {
        let diary = Diary::default();
        let reason = Reason::new(Code::IdleTimeout, Hop::Outbound, Phase::Response);
        let body = frames(vec![Err(BodyError::aborted(reason))]).watched(Box::new(diary.clone()));
        let error = body.collect().await.unwrap_err();
        assert_eq!(error.code(), Code::IdleTimeout);
        assert_eq!(error.reset(), Some(h2::Reason::CANCEL));
        assert_eq!(diary.lines(), ["error idle-timeout"]);
    }

    #[test]
    fn an_empty_body_ends_its_watch_at_once() {
        let diary = Diary::default();
        let body = Body::full("").watched(Box::new(diary.clone()));
        assert!(body.is_end_stream());
        assert_eq!(diary.lines(), ["end 0"]);
    }

    #[test]
    fn a_reset_is_found_below_other_errors() {
        let error =
            BodyError::Other(BodyError::Other(h2::Error::from(h2::Reason::REFUSED_STREAM).into()).into());
        let error = BodyError::from_any(error);
        assert_eq!(error.reset(), Some(h2::Reason::REFUSED_STREAM));
        assert_eq!(error.code(), Code::StreamReset);
        assert_eq!(BodyError::from_any("torn").code(), Code::ConnectionLost);
        let refused = BodyError::from_any(std::io::Error::other(Refused(Offence::BadChunkSize)));
        assert_eq!(
            (refused.refused(), refused.code()),
            (Some(Offence::BadChunkSize), Code::AmbiguousFraming)
        );
    }

    #[test]
    fn a_body_is_small() {
        assert!(std::mem::size_of::<Body>() <= 64, "{}", std::mem::size_of::<Body>());
    }
}
