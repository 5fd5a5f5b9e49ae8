//! Mutual TLS and the transport header.

use crate::world::*;
use http::Version;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use weft_balance::EndpointState;
use weft_connect::ReadyWhen;
use weft_identity::authority::{Authority, Lifetimes};
use weft_identity::store::{Accept, LocalName, Store};
use weft_model::destination::{EndpointInfo, ProtocolHint};
use weft_model::identity::{Id, TlsTarget};
use weft_model::reason::Code;
use weft_net::stream::Stream;
use weft_wire::header::{ALPN, Header, Progress, Session};

fn store(authority: &Authority, identity: &str) -> Store {
    let name = LocalName { id: identity.parse().unwrap(), server_name: identity.parse().unwrap() };
    let store = Store::new(name, (*authority.anchors()).clone());
    let (issued, key) = authority.issue_own(store.local_id()).unwrap();
    store.install([vec![issued.leaf], issued.intermediates].concat(), key).unwrap();
    store
}

fn authority() -> Authority {
    let directory =
        std::env::temp_dir().join(format!("weft-connect-{}-{:x}", std::process::id(), fastrand::u64(..)));
    let authority = Authority::open_now(&directory, "root.test", Lifetimes::default()).unwrap();
    std::fs::remove_dir_all(directory).unwrap();
    authority
}

#[derive(Clone, Debug, PartialEq)]
struct Seen {
    client: Option<Id>,
    header: Option<Header>,
}

/// A meshed server: TLS, the header if agreed on, then HTTP/2 or an echo.
fn server(store: Store, alpn: &'static [&'static [u8]]) -> (Arc<Net>, Arc<Mutex<Vec<Seen>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = seen.clone();
    let net = Net::new(move |_, io: DuplexStream| {
        let (store, record) = (store.clone(), record.clone());
        async move {
            let accept = Accept { alpn, timeout: Duration::from_secs(5) };
            let Ok(accepted) = store.accept(Stream::memory(io), accept).await else { return };
            let mut stream = accepted.stream;
            let mut header = None;
            if accepted.alpn.as_deref() == Some(ALPN) {
                header = Some(read_header(&mut stream).await);
            }
            record.lock().unwrap().push(Seen { client: accepted.client, header: header.clone() });
            if header.is_some_and(|header| header.session.is_none()) {
                let mut four = [0; 4];
                stream.read_exact(&mut four).await.unwrap();
                stream.write_all(&four).await.unwrap();
                return;
            }
            let service = hyper::service::service_fn(|request| describe(0, request));
            let builder = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
            let _ = builder.serve_connection(hyper_util::rt::TokioIo::new(stream), service).await;
        }
    });
    (net, seen)
}

async fn read_header(stream: &mut Stream) -> Header {
    let mut bytes = Vec::new();
    loop {
        match Header::decode(&bytes).unwrap() {
            Progress::Done { header, .. } => return header,
            Progress::NeedMore(_) => bytes.push(stream.read_u8().await.unwrap()),
        }
    }
}

fn meshed(identity: &str) -> EndpointInfo {
    let mut info = info(ProtocolHint::Http2);
    info.tls = Some(TlsTarget { id: identity.parse().unwrap(), server_name: "web.test".parse().unwrap() });
    info.transport_port = std::num::NonZeroU16::new(4143);
    info
}

#[tokio::test]
async fn a_meshed_endpoint_is_told_port_and_protocol_inside_mutual_tls() {
    let authority = authority();
    let (net, seen) = server(store(&authority, "web.test"), &[ALPN]);
    let mut context = context(&net);
    context.identity = Some(store(&authority, "caller.test"));
    let world = World::ready(context.clone(), meshed("web.test")).await;
    let response = world.endpoint.send(&mut get(Version::HTTP_11)).await.unwrap();
    assert_eq!(text(response).await, "#0 HTTP/2.0 http://web/path [HTTP/1.1]");

    context.ready_when = ReadyWhen::NotFailing;
    let world = World::ready(context, meshed("web.test")).await;
    let mut stream = world.endpoint.open().await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    let mut four = [0; 4];
    stream.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"ping");

    let of = |session| Seen {
        client: Some("caller.test".parse().unwrap()),
        header: Some(Header { port: 8080.try_into().unwrap(), name: None, session }),
    };
    assert_eq!(*seen.lock().unwrap(), [of(Some(Session::Http2)), of(None)]);
}

#[tokio::test]
async fn without_the_agreed_protocol_no_header_is_said() {
    let authority = authority();
    let (net, seen) = server(store(&authority, "web.test"), &[]);
    let mut context = context(&net);
    context.identity = Some(store(&authority, "caller.test"));
    let world = World::ready(context, meshed("web.test")).await;
    world.endpoint.send(&mut get(Version::HTTP_2)).await.unwrap();
    assert_eq!(seen.lock().unwrap()[0].header, None);
}

#[tokio::test]
async fn an_endpoint_that_is_not_who_it_should_be_is_never_ready() {
    let authority = authority();
    let ours = store(&authority, "caller.test");
    let foreign = self::authority();
    for (server_store, identity, expected) in [
        (store(&authority, "web.test"), Some(&ours), None),
        (store(&authority, "web.test"), None, Some(Code::TlsFailed)),
        (store(&foreign, "web.test"), Some(&ours), Some(Code::TlsUntrusted)),
    ] {
        let (net, _) = server(server_store, &[ALPN]);
        let mut context = context(&net);
        context.identity = identity.cloned();
        check(World::new(context, meshed("web.test")), expected).await;
    }
    let (net, _) = server(store(&authority, "web.test"), &[ALPN]);
    let mut context = context(&net);
    context.identity = Some(ours);
    check(World::new(context, meshed("other.test")), Some(Code::TlsWrongIdentity)).await;
}

/// Waits until the endpoint has made up its mind.
async fn check(world: World, expected: Option<Code>) {
    loop {
        match world.state() {
            EndpointState::Connecting => tokio::task::yield_now().await,
            EndpointState::Ready => return assert_eq!(expected, None),
            EndpointState::Failed(failure) => return assert_eq!(Some(failure.code), expected, "{failure}"),
        }
    }
}
