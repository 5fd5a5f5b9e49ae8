//! Applications: HTTP in both versions with programmable answers, and raw bytes.
//!
//! A test starts one beside a proxy and asks it afterwards what it received. It knows nothing of meshes.

use crate::within;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use weft_net::body::{Body, Reset};
use weft_net::drain;
use weft_net::stream::Stream;
use weft_net::web::{self, Limits};

/// A running application. Dropped, it is killed with its connections.
pub struct Application {
    /// Where it listens.
    pub addr: SocketAddr,
    seen: Arc<Mutex<Vec<Request<()>>>>,
    tasks: JoinSet<()>,
}

impl Application {
    /// Serves HTTP/1.1 and HTTP/2 with prior knowledge.
    pub async fn http<F, R>(answer: F) -> Self
    where
        F: Fn(Request<Body>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let seen = Arc::<Mutex<Vec<Request<()>>>>::default();
        let noted = seen.clone();
        let answer = move |request: Request<Body>| {
            let mut head = Request::new(());
            *head.method_mut() = request.method().clone();
            *head.uri_mut() = request.uri().clone();
            *head.version_mut() = request.version();
            *head.headers_mut() = request.headers().clone();
            noted.lock().unwrap().push(head);
            answer(request)
        };
        let mut application = Self::tcp(move |tcp| {
            let answer = answer.clone();
            async move {
                let (_trigger, drain) = drain::channel();
                // The client may break off at any time.
                let _ = web::serve(Stream::tcp(tcp), &Limits::default(), answer, &drain).await;
            }
        })
        .await;
        application.seen = seen;
        application
    }

    /// Serves connections of bytes.
    pub async fn tcp<F, R>(serve: F) -> Self
    where
        F: Fn(TcpStream) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                connections.spawn(serve(tcp));
            }
        });
        Self { addr, seen: Arc::default(), tasks }
    }

    /// Answers every request with 200, its own body and its own trailers.
    pub async fn echo() -> Self {
        Self::http(|request| async move {
            let (head, body) = request.into_parts();
            let mut response = Response::new(body);
            if let Some(kind) = head.headers.get("content-type") {
                response.headers_mut().insert("content-type", kind.clone());
            }
            response
        })
        .await
    }

    /// Answers every request with 200 and a text.
    pub async fn saying(text: &'static str) -> Self {
        Self::http(move |_| async move { Response::new(Body::from(text)) }).await
    }

    /// The heads of the requests that arrived.
    pub fn seen(&self) -> Vec<Request<()>> {
        self.seen.lock().unwrap().clone()
    }

    /// Kills it; its port is free when this returns.
    pub async fn kill(mut self) {
        self.tasks.shutdown().await;
    }
}

/// The time that an application takes to answer, where its slowness is what a test is about.
pub async fn takes(how_long: Duration) {
    tokio::time::sleep(how_long).await;
}

/// A body of given parts that ends with trailers.
pub fn with_trailers(parts: &[&'static str], trailers: &[(&'static str, &'static str)]) -> Body {
    let mut end = HeaderMap::new();
    for (name, value) in trailers {
        end.insert(*name, value.parse().unwrap());
    }
    let data = parts.iter().map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes()))));
    let frames: Vec<Result<Frame<Bytes>, Reset>> = data.chain([Ok(Frame::trailers(end))]).collect();
    Body::boxed(StreamBody::new(stream::iter(frames)))
}

/// A body that begins and, once notified, is reset with an HTTP/2 code.
pub fn reset_after(part: &'static str, code: h2::Reason, when: Arc<Notify>) -> Body {
    let begin = stream::iter([Ok(Frame::data(Bytes::from_static(part.as_bytes())))]);
    let end = stream::once(async move {
        when.notified().await;
        Err(Reset::from(code))
    });
    Body::boxed(StreamBody::new(Box::pin(begin.chain(end))))
}

/// A body that gives what is sent to it, piece by piece, and ends with the sender.
pub fn piecewise() -> (tokio::sync::mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let frames = stream::unfold(receiver, |mut receiver| async {
        let bytes = receiver.recv().await?;
        Some((Ok::<_, Reset>(Frame::data(bytes)), receiver))
    });
    (sender, Body::boxed(StreamBody::new(frames)))
}

/// Reads a body with its trailers; an error tells the HTTP/2 code of a reset, if it was one.
pub async fn read(body: Body) -> Result<(Bytes, Option<HeaderMap>), Option<h2::Reason>> {
    let collected = within("the end of a body", body.collect()).await.map_err(|error| error.reset())?;
    let trailers = collected.trailers().cloned();
    Ok((collected.to_bytes(), trailers))
}
