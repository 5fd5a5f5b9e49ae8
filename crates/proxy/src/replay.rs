//! Keeps a request so that it can be sent again: its head, and its body while it is small enough.
//!
//! `forward` asks for a copy only when an attempt failed in a way that may be repeated. Bounded by the
//! rule's limit; beyond it the recording is thrown away and the request goes on unrepeatable.

use bytes::Bytes;
use http::{Extensions, HeaderMap, Method, Request, Uri, Version};
use http_body::{Body as _, Frame, SizeHint};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use weft_net::body::{Body, BodyError};

/// A request that may have to be sent again.
pub(crate) struct Spare {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    body: SpareBody,
}

enum SpareBody {
    Empty,
    Recorded(Arc<Mutex<Tape>>),
}

#[derive(Default)]
struct Tape {
    frames: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    bytes: usize,
    limit: usize,
    state: State,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Recording,
    Complete,
    /// The body broke off or outgrew the limit.
    Lost,
}

impl Spare {
    /// Copies the head. A body is recorded up to `limit` bytes as it is sent; with a limit of 0 only
    /// requests without a body can be kept. `None`: the request cannot be repeated.
    pub(crate) fn keep(request: Request<Body>, limit: usize) -> (Request<Body>, Option<Self>) {
        let empty = request.body().is_end_stream();
        let too_long = request.body().size_hint().lower() > limit as u64;
        if !empty && (limit == 0 || too_long) {
            return (request, None);
        }
        let (parts, body) = request.into_parts();
        let (body, spare) = if empty {
            (body, SpareBody::Empty)
        } else {
            let tape = Arc::new(Mutex::new(Tape { limit, ..Tape::default() }));
            (Body::boxed(Recorder { body, tape: tape.clone() }), SpareBody::Recorded(tape))
        };
        let spare = Self {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            version: parts.version,
            headers: parts.headers.clone(),
            body: spare,
        };
        (Request::from_parts(parts, body), Some(spare))
    }

    /// The request once more; `None` while its body is not completely recorded.
    pub(crate) fn again(&self) -> Option<Request<Body>> {
        let body = match &self.body {
            SpareBody::Empty => Body::empty(),
            SpareBody::Recorded(tape) => {
                let tape = lock(tape);
                if tape.state != State::Complete {
                    return None;
                }
                Body::boxed(Played {
                    frames: tape.frames.iter().cloned().collect(),
                    trailers: tape.trailers.clone(),
                })
            }
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers.clone();
        *request.extensions_mut() = Extensions::new();
        Some(request)
    }
}

fn lock(tape: &Mutex<Tape>) -> MutexGuard<'_, Tape> {
    tape.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Passes a body on and records it.
struct Recorder {
    body: Body,
    tape: Arc<Mutex<Tape>>,
}

impl http_body::Body for Recorder {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let ended = self.body.is_end_stream();
        let mut tape = lock(&self.tape);
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    tape.bytes += data.len();
                    if tape.bytes > tape.limit {
                        tape.state = State::Lost;
                        tape.frames = Vec::new();
                    } else if tape.state == State::Recording {
                        tape.frames.push(data.clone());
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    tape.trailers = Some(trailers.clone());
                }
                if (ended || frame.is_trailers()) && tape.state == State::Recording {
                    tape.state = State::Complete;
                }
            }
            None if tape.state == State::Recording => tape.state = State::Complete,
            None => {}
            Some(Err(_)) => tape.state = State::Lost,
        }
        drop(tape);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A recorded body, sent again.
struct Played {
    frames: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
}

impl http_body::Body for Played {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let data = self.frames.pop_front().map(Frame::data);
        Poll::Ready(data.or_else(|| self.trailers.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.frames.iter().map(|f| f.len() as u64).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full};

    fn request(body: &'static str) -> Request<Body> {
        let body = if body.is_empty() { Body::empty() } else { Body::boxed(Full::new(Bytes::from(body))) };
        Request::post("http://web/x").header("a", "b").body(body).unwrap()
    }

    async fn check(body: &'static str, limit: usize, expected: Option<&str>) {
        let (sent, spare) = Spare::keep(request(body), limit);
        if let Some(spare) = &spare {
            assert_eq!(spare.again().is_some(), body.is_empty(), "an unsent body is not complete");
        }
        assert_eq!(sent.into_body().collect().await.unwrap().to_bytes(), body);
        let again = spare.and_then(|s| s.again());
        let again = match again {
            Some(request) => {
                assert_eq!((request.method().as_str(), request.headers().len()), ("POST", 1));
                Some(request.into_body().collect().await.unwrap().to_bytes())
            }
            None => None,
        };
        assert_eq!(again.as_deref(), expected.map(str::as_bytes), "{body}");
    }

    #[tokio::test]
    async fn bodies_up_to_the_limit_are_repeated() {
        check("", 0, Some("")).await;
        check("abc", 3, Some("abc")).await;
        check("abc", 2, None).await;
        check("abc", 0, None).await;
    }
}
