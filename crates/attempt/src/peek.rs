//! Looks at the first frames of a gRPC call's answer for the trailers that tell how it ended.
//!
//! `forward` asks where the outcome decides whether the call is tried again. It waits for one frame, takes a second only if
//! that is there already, and puts both back: an answer that streams is held up by one message at most (§3.8).

use crate::ahead::Ahead;
use http::{HeaderMap, Response};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;
use weft_net::body::Body;

/// The trailers, if they are among the first two frames and come until `until`.
pub async fn trailers(response: &mut Response<Body>, until: Option<Instant>) -> Option<HeaderMap> {
    let body = response.body_mut();
    let first = match until {
        Some(until) => tokio::time::timeout_at(until.into(), body.frame()).await.ok()?,
        None => body.frame().await,
    };
    let mut frames = VecDeque::with_capacity(2);
    frames.extend(first);
    if frames.front().is_some_and(|frame| frame.as_ref().is_ok_and(Frame::is_data)) {
        // Whoever reads on is woken for itself.
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(Some(second)) = Pin::new(&mut *body).poll_frame(&mut cx) {
            frames.push_back(second);
        }
    }
    let trailers = frames.back().and_then(|frame| frame.as_ref().ok()?.trailers_ref().cloned());
    let rest = std::mem::replace(body, Body::empty());
    *body = Body::boxed(Ahead { frames, rest });
    trailers
}
