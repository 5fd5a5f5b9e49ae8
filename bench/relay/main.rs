//! `relay`: the least that a proxy built on hyper can do, the floor of the comparison.
//!
//! Accepts connections of one HTTP version and hands each request to one upstream of the same version:
//! HTTP/1 over kept-alive connections taken from a queue, HTTP/2 over one shared connection. No discovery,
//! routing, balancing, limits, retries, metrics, header changes or log. Started by `weft-bench`; of no use
//! otherwise.

use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response, server, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

/// The proxy's allocator too, so that the comparison is about the rest.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Kept-alive HTTP/1 connections; as many as requests were ever in flight at a time, which the load bounds.
type Idle = Rc<RefCell<VecDeque<http1::SendRequest<Incoming>>>>;

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [version, listen, upstream] = arguments.as_slice() else {
        return Err("usage: relay http1|http2 LISTEN UPSTREAM".into());
    };
    let (listen, upstream): (SocketAddr, SocketAddr) = (listen.parse()?, upstream.parse()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match version.as_str() {
        "http1" => LocalSet::new().block_on(&runtime, http1(listen, upstream)),
        "http2" => runtime.block_on(http2(listen, upstream)),
        other => Err(format!("`{other}` is no version; expected http1 or http2").into()),
    }
}

async fn accept(listener: &TcpListener) -> Result<TokioIo<TcpStream>, Error> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(stream))
}

async fn connect(upstream: SocketAddr) -> Result<TokioIo<TcpStream>, Error> {
    let stream = TcpStream::connect(upstream).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(stream))
}

async fn http1(listen: SocketAddr, upstream: SocketAddr) -> Result<(), Error> {
    let listener = TcpListener::bind(listen).await?;
    let idle = Idle::default();
    loop {
        let stream = accept(&listener).await?;
        let idle = idle.clone();
        let service = service_fn(move |request| forward_http1(request, upstream, idle.clone()));
        tokio::task::spawn_local(server::conn::http1::Builder::new().serve_connection(stream, service));
    }
}

async fn forward_http1(
    request: Request<Incoming>,
    upstream: SocketAddr,
    idle: Idle,
) -> Result<Response<Incoming>, Error> {
    let mut sender = match take(&idle) {
        Some(sender) => sender,
        None => {
            let (sender, connection) = http1::handshake(connect(upstream).await?).await?;
            tokio::task::spawn_local(connection);
            sender
        }
    };
    let response = sender.send_request(request).await?;
    // Its body may still be on the way; whether the connection is free is asked when it is taken.
    idle.borrow_mut().push_back(sender);
    Ok(response)
}

/// The connection that has waited longest, unless even that one is still busy.
fn take(idle: &Idle) -> Option<http1::SendRequest<Incoming>> {
    let mut idle = idle.borrow_mut();
    while idle.front().is_some_and(http1::SendRequest::is_closed) {
        idle.pop_front();
    }
    idle.front()?.is_ready().then(|| idle.pop_front())?
}

async fn http2(listen: SocketAddr, upstream: SocketAddr) -> Result<(), Error> {
    let listener = TcpListener::bind(listen).await?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), connect(upstream).await?).await?;
    tokio::spawn(connection);
    loop {
        let stream = accept(&listener).await?;
        let sender: http2::SendRequest<Incoming> = sender.clone();
        let service = service_fn(move |request| forward_http2(request, sender.clone()));
        let server = server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(server.serve_connection(stream, service));
    }
}

async fn forward_http2(
    request: Request<Incoming>,
    mut sender: http2::SendRequest<Incoming>,
) -> Result<Response<Incoming>, Error> {
    sender.send_request(request).await.map_err(Error::from)
}
