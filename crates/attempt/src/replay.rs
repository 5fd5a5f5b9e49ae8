//! Keeps a request so that it can be sent again: its head, and its body while it is small enough.
//!
//! `forward` asks for a copy only when an attempt failed in a way that may be repeated. Bounded by the
//! rule's limit; beyond it the recording is thrown away and the request goes on unrepeatable. A body that has
//! not ended yet comes back from a failed attempt, so that what was recorded can be sent again and the rest
//! after it.

use crate::ahead::Ahead;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri, Version};
use http_body::{Body as _, Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use weft_connect::http::AbsoluteForm;
use weft_net::body::{Body, BodyError};

/// A request that may have to be sent again.
pub struct Spare {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    absolute: Option<AbsoluteForm>,
    body: SpareBody,
}

enum SpareBody {
    Empty,
    Recorded(Arc<Recording>),
}

#[derive(Default)]
struct Recording {
    tape: Mutex<Tape>,
    /// The recorder was dropped.
    over: Notify,
}

#[derive(Default)]
struct Tape {
    frames: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    bytes: usize,
    limit: usize,
    state: State,
    /// What the attempt left of the body.
    rest: Option<Body>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Recording,
    /// The attempt is over, and the body is not.
    Interrupted,
    Complete,
    /// The body broke off or outgrew the limit.
    Lost,
}

impl Spare {
    /// Copies the head. A body is recorded up to `limit` bytes as it is sent; with a limit of 0 only
    /// requests without a body can be kept. `None`: the request cannot be repeated.
    pub fn keep(request: &mut Request<Body>, limit: usize) -> Option<Box<Self>> {
        let empty = request.body().is_end_stream();
        let too_long = request.body().size_hint().lower() > limit as u64;
        if !empty && (limit == 0 || too_long) {
            return None;
        }
        let body = if empty {
            SpareBody::Empty
        } else {
            let tape = Mutex::new(Tape { limit, ..Tape::default() });
            let recording = Arc::new(Recording { tape, over: Notify::new() });
            let body = std::mem::replace(request.body_mut(), Body::empty());
            *request.body_mut() = Body::boxed(Recorder { body, recording: recording.clone() });
            SpareBody::Recorded(recording)
        };
        Some(Box::new(Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: request.headers().clone(),
            absolute: request.extensions().get().copied(),
            body,
        }))
    }

    /// The request once more; `None` while its body is not completely recorded.
    pub fn again(&self) -> Option<Request<Body>> {
        let body = match &self.body {
            SpareBody::Empty => Body::empty(),
            SpareBody::Recorded(recording) => recording.lock().played(&[State::Complete])?,
        };
        Some(self.with(body))
    }

    /// The request once more after an attempt that certainly was not processed: what the attempt took of the
    /// body, and then what it left. Waits until the attempt lets go of the body, until `deadline` and for a
    /// second at most. To be asked once.
    pub async fn again_from_start(&self, deadline: Option<Instant>) -> Option<Request<Body>> {
        let SpareBody::Recorded(recording) = &self.body else { return self.again() };
        let patience = Instant::now() + RETURN;
        let until = deadline.map_or(patience, |deadline| deadline.min(patience));
        let over = async {
            loop {
                let notified = recording.over.notified();
                if recording.lock().state != State::Recording {
                    return;
                }
                notified.await;
            }
        };
        tokio::time::timeout_at(until.into(), over).await.ok()?;
        let body = recording.lock().played(&[State::Complete, State::Interrupted])?;
        Some(self.with(body))
    }

    fn with(&self, body: Body) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers.clone();
        if let Some(absolute) = self.absolute {
            request.extensions_mut().insert(absolute);
        }
        request
    }
}

/// How long a failed attempt may take to let go of a request's body. It does so as soon as it learns of its
/// failure, which another task may tell it.
const RETURN: Duration = Duration::from_secs(1);

impl Recording {
    fn lock(&self) -> MutexGuard<'_, Tape> {
        self.tape.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tape {
    /// The body from its start, if it is in one of these states.
    fn played(&mut self, states: &[State]) -> Option<Body> {
        states.contains(&self.state).then(|| {
            let data = self.frames.iter().cloned().map(Frame::data);
            let frames = data.chain(self.trailers.clone().map(Frame::trailers)).map(Ok).collect();
            Body::boxed(Ahead { frames, rest: self.rest.take().unwrap_or_default() })
        })
    }
}

/// Passes a body on and records it.
struct Recorder {
    body: Body,
    recording: Arc<Recording>,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let mut tape = self.recording.lock();
        if tape.state == State::Recording {
            tape.state = State::Interrupted;
            tape.rest = Some(std::mem::replace(&mut self.body, Body::empty()));
        }
        drop(tape);
        self.recording.over.notify_one();
    }
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
        let recording = &self.recording;
        let mut tape = recording.lock();
        match &frame {
            // Nobody can ask for it any more.
            Some(Ok(_)) if Arc::strong_count(recording) == 1 => {
                tape.state = State::Lost;
                tape.frames = Vec::new();
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full};

    fn request(body: &'static str) -> Request<Body> {
        let body = if body.is_empty() { Body::empty() } else { Body::boxed(Full::new(Bytes::from(body))) };
        Request::post("http://web/x").header("a", "b").body(body).unwrap()
    }

    async fn check(body: &'static str, limit: usize, expected: Option<&str>) {
        let mut sent = request(body);
        let spare = Spare::keep(&mut sent, limit);
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

    /// A body that comes in parts.
    struct Parts(tokio::sync::mpsc::Receiver<Bytes>);

    impl http_body::Body for Parts {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            self.0.poll_recv(cx).map(|part| part.map(|part| Ok(Frame::data(part))))
        }
    }

    #[tokio::test]
    async fn an_attempt_that_took_part_of_a_body_gives_all_of_it_back() {
        let (sender, body) = tokio::sync::mpsc::channel(4);
        for part in ["one", "two"] {
            sender.send(Bytes::from(part)).await.unwrap();
        }
        let mut sent = Request::post("/").body(Body::boxed(Parts(body))).unwrap();
        let spare = Spare::keep(&mut sent, 100);
        let mut body = sent.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
        drop(body);
        let mut sent = spare.unwrap().again_from_start(None).await.unwrap();
        // And once more, in the middle of what is repeated.
        let spare = Spare::keep(&mut sent, 100);
        drop(sent);
        let again = spare.unwrap().again_from_start(None).await.unwrap();
        let end = async {
            sender.send(Bytes::from("three")).await.unwrap();
            drop(sender);
        };
        let (all, ()) = tokio::join!(again.into_body().collect(), end);
        assert_eq!(all.unwrap().to_bytes(), "onetwothree");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_not_given_back_is_not_waited_for_long() {
        let (_sender, body) = tokio::sync::mpsc::channel(4);
        let mut sent = Request::post("/").body(Body::boxed(Parts(body))).unwrap();
        let spare = Spare::keep(&mut sent, 100);
        assert!(spare.unwrap().again_from_start(None).await.is_none());
        drop(sent);
    }

    #[tokio::test]
    async fn bodies_up_to_the_limit_are_repeated() {
        check("", 0, Some("")).await;
        check("abc", 3, Some("abc")).await;
        check("abc", 2, None).await;
        check("abc", 0, None).await;
    }
}
