//! A control plane that says what a test wants it to, and can hang, be killed and be started again.
//!
//! [`Facts`] outlive the process that tells them; [`Plane`] is such a process. It certifies everybody,
//! speaks plaintext, and runs the real services of `wire` over real connections.

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use weft_identity::authority::Authority;
use weft_model::destination::{EndpointInfo, EndpointUpdate};
use weft_model::policy::{InboundPolicy, OutboundPolicy};
use weft_model::profile::Profile;
use weft_model::route::Labels;
use weft_net::socket::{self, SocketOptions};
use weft_wire::encode;
use weft_wire::services::{
    Answer, Answers, Caller, Certificates, CertifyRequest, CertifyResponse, Code, DestinationQuery,
    Destinations, Policies, PortQuery, Router, Status, Target, TrafficQuery,
};

/// That there is no such thing.
pub const NOT_FOUND: Code = Code::NotFound;

/// The code of what may pass by itself.
pub const UNAVAILABLE: Code = Code::Unavailable;

/// What the control plane says when it is asked.
#[derive(Clone, Debug)]
pub enum Said<T> {
    /// Nothing, for as long as this is so.
    Silence,
    /// That the call fails.
    Refused(Code),
    /// This.
    Told(T),
    /// Bytes that are no message of the API.
    Nonsense,
}

/// Calls open at a time: a proxy at the bound of its discovery entries has three for each.
const STREAMS: u32 = 100_000;

type Book<T> = Mutex<HashMap<String, watch::Sender<Said<T>>>>;

/// What a control plane knows and hears. Changes reach everybody who listens.
pub struct Facts {
    authority: Arc<Authority>,
    endpoints: Book<Vec<EndpointInfo>>,
    profiles: Book<Profile>,
    outbound: Book<OutboundPolicy>,
    inbound: Book<InboundPolicy>,
    asked: Mutex<Vec<String>>,
}

impl Facts {
    /// Knows nothing yet: names do not exist, profiles are empty, there are no policies.
    pub fn new(authority: Arc<Authority>) -> Self {
        Self {
            authority,
            endpoints: Book::default(),
            profiles: Book::default(),
            outbound: Book::default(),
            inbound: Book::default(),
            asked: Mutex::default(),
        }
    }

    /// Who signs the certificates of this mesh.
    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Says where a name (`host:port`) is.
    pub fn endpoints(&self, name: &str, said: Said<Vec<EndpointInfo>>) {
        entry(&self.endpoints, name, Said::Refused(Code::InvalidArgument)).send_replace(said);
    }

    /// Says the profile of a name or address.
    pub fn profile(&self, name: &str, said: Said<Profile>) {
        entry(&self.profiles, name, Said::Told(Profile::default())).send_replace(said);
    }

    /// Says the policy of a destination.
    pub fn outbound(&self, name: &str, said: Said<OutboundPolicy>) {
        entry(&self.outbound, name, Said::Refused(Code::NotFound)).send_replace(said);
    }

    /// Says the policy of a port of everybody's.
    pub fn inbound(&self, port: u16, said: Said<InboundPolicy>) {
        entry(&self.inbound, &port.to_string(), Said::Refused(Code::NotFound)).send_replace(said);
    }

    /// How often a question that begins so was asked: `endpoints NAME`, `profile NAME`, `outbound NAME`,
    /// `inbound PORT`, `certify ID`.
    pub fn asked(&self, question: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| asked.starts_with(question)).count()
    }

    fn note(&self, question: String) {
        self.asked.lock().unwrap().push(question);
    }
}

fn entry<T>(book: &Book<T>, key: &str, first: Said<T>) -> watch::Sender<Said<T>> {
    book.lock().unwrap().entry(key.to_owned()).or_insert_with(|| watch::channel(first).0).clone()
}

/// A stream of what is said, through `messages`, which sees what was told before and what is told now.
fn tell<T: Clone + Send + Sync + 'static>(
    said: watch::Sender<Said<T>>,
    messages: impl Fn(Option<&T>, &T) -> Vec<Bytes> + Send + Sync + Copy + 'static,
) -> Answer {
    let mut said = said.subscribe();
    let now = said.borrow_and_update().clone();
    if let Said::Refused(code) = now {
        return Box::pin(async move { Err(Status::new(code, "so the test wants it")) });
    }
    let told = stream::unfold((said, None::<T>, Some(now)), move |(mut said, before, now)| async move {
        let now = match now {
            Some(now) => now,
            None => {
                said.changed().await.ok()?;
                said.borrow_and_update().clone()
            }
        };
        let (messages, before) = match now {
            Said::Silence => (Vec::new(), before),
            Said::Refused(code) => (vec![Err(Status::new(code, "so the test wants it"))], before),
            Said::Nonsense => (vec![Ok(Bytes::from_static(b"\xff\xff\xff\xff nonsense"))], before),
            Said::Told(value) => {
                let told = messages(before.as_ref(), &value);
                (told.into_iter().map(Ok).collect(), Some(value))
            }
        };
        Some((stream::iter(messages), (said, before, None)))
    });
    let told = told.flatten().map(|message: Result<Bytes, Status>| message.map(Into::into));
    Box::pin(async move { Ok(Answers::new(told)) })
}

/// The messages that lead from one set of endpoints to another.
#[expect(clippy::ptr_arg, reason = "the caller hands over a function of what is stored")]
fn change(before: Option<&Vec<EndpointInfo>>, now: &Vec<EndpointInfo>) -> Vec<Bytes> {
    if now.is_empty() {
        return vec![encode::empty()];
    }
    let before = before.map(Vec::as_slice).unwrap_or_default();
    let gone: Vec<_> =
        before.iter().map(|i| i.addr).filter(|addr| !now.iter().any(|i| i.addr == *addr)).collect();
    let new: Vec<_> = now.iter().filter(|info| !before.contains(info)).cloned().collect();
    let mut messages = Vec::new();
    if !new.is_empty() {
        messages.push(encode::endpoint_update(&EndpointUpdate::Add(new), &Labels::default()));
    }
    if !gone.is_empty() {
        messages.push(encode::remove(&gone));
    }
    messages
}

impl Destinations for Facts {
    fn endpoints(&self, _: Caller, query: DestinationQuery) -> Answer {
        self.note(format!("endpoints {} for {}", query.path, query.context));
        tell(entry(&self.endpoints, &query.path, Said::Refused(Code::InvalidArgument)), change)
    }

    fn profile(&self, _: Caller, query: DestinationQuery) -> Answer {
        self.note(format!("profile {}", query.path));
        let said = entry(&self.profiles, &query.path, Said::Told(Profile::default()));
        tell(said, |_, profile| vec![encode::profile(profile)])
    }
}

impl Policies for Facts {
    fn outbound(&self, _: Caller, query: TrafficQuery) -> Answer {
        let target = match query.target {
            Target::Addr(addr) => addr.to_string(),
            Target::Authority(name) => name,
        };
        self.note(format!("outbound {target}"));
        let said = entry(&self.outbound, &target, Said::Refused(Code::NotFound));
        tell(said, |_, policy| vec![encode::outbound_policy(policy)])
    }

    fn inbound(&self, _: Caller, query: PortQuery) -> Answer {
        self.note(format!("inbound {}", query.port));
        let said = entry(&self.inbound, &query.port.to_string(), Said::Refused(Code::NotFound));
        tell(said, |_, policy| vec![encode::inbound_policy(policy)])
    }
}

impl Certificates for Facts {
    fn certify(
        &self,
        _: Caller,
        request: CertifyRequest,
    ) -> Pin<Box<dyn Future<Output = Result<CertifyResponse, Status>> + Send>> {
        self.note(format!("certify {}", request.identity));
        let authority = self.authority.clone();
        Box::pin(async move {
            let refuse = |text: String| Status::new(Code::FailedPrecondition, text);
            let identity = request.identity.parse().map_err(|_| refuse("no identity".into()))?;
            let checked = authority.check(&identity, &request.csr).map_err(|e| refuse(e.to_string()))?;
            let issued = authority.issue(&checked).map_err(|e| refuse(e.to_string()))?;
            Ok(CertifyResponse {
                leaf: issued.leaf,
                intermediates: issued.intermediates,
                valid_until: issued.validity.not_after,
            })
        })
    }
}

/// What a process at the control plane's address does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It tells its facts.
    Talks,
    /// It accepts connections and then says nothing, as a stopped process does.
    Hangs,
    /// It begins HTTP/2, and goes on with bytes that are no frames, in ever other ways.
    Babbles,
}

/// A running control plane. Dropped, it is killed at some later time; see [`Plane::kill`].
pub struct Plane {
    /// Where it listens.
    pub at: SocketAddr,
    tasks: JoinSet<()>,
    frozen: watch::Sender<bool>,
}

impl Plane {
    /// Starts one at an address; port 0 takes a free one.
    pub fn start(at: SocketAddr, facts: &Arc<Facts>, manner: Manner) -> Self {
        let listener = socket::listen(at, &SocketOptions::default()).unwrap();
        let at = listener.local_addr().unwrap();
        let router = Router::new()
            .with_destinations(facts.clone())
            .with_policies(facts.clone())
            .with_certificates(facts.clone());
        let (mut tasks, frozen) = (JoinSet::new(), watch::Sender::new(false));
        tasks.spawn(accept(listener, router, manner, frozen.subscribe()));
        Self { at, tasks, frozen }
    }

    /// Stops it where it stands, as SIGSTOP would: its connections stay open, and nothing more is said on them. Only the
    /// port is given up, soon, so that a successor can listen there.
    pub fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    /// Kills it: connections break, and the port is free when this returns.
    pub async fn kill(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn accept(listener: TcpListener, router: Router, manner: Manner, mut frozen: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let stopped = frozen.clone();
    loop {
        let (tcp, _) = tokio::select! {
            accepted = listener.accept() => accepted.unwrap(),
            () = async { drop(frozen.wait_for(|frozen| *frozen).await) } => break,
        };
        let (router, mut stopped) = (router.clone(), stopped.clone());
        let frozen = async move { drop(stopped.wait_for(|stopped| *stopped).await) };
        connections.spawn(async move {
            match manner {
                Manner::Talks => {}
                Manner::Hangs => {
                    let _open = tcp;
                    return std::future::pending().await;
                }
                Manner::Babbles => return babble(tcp).await,
            }
            let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
                let router = router.clone();
                async move { Ok::<_, std::convert::Infallible>(router.call(request).await) }
            });
            let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            server.max_concurrent_streams(STREAMS);
            let mut serving = std::pin::pin!(server.serve_connection(TokioIo::new(tcp), service));
            tokio::select! {
                // The client may leave at any time.
                _ = &mut serving => {}
                () = frozen => std::future::pending().await,
            }
        });
    }
    drop(listener);
    // Holds the connections.
    std::future::pending().await
}

/// Sends SETTINGS, so that the client counts itself connected, and then one of several kinds of nonsense.
async fn babble(mut tcp: TcpStream) {
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const NONSENSE: [&[u8]; 6] = [
        // Not HTTP/2 at all.
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        // A frame of 16 MiB.
        &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1],
        // Data on a stream that nobody opened.
        &[0, 0, 1, 0, 0, 0, 0, 0, 99, 7],
        // A header list that does not decode.
        &[0, 0, 2, 1, 5, 0, 0, 0, 1, 0xff, 0xff],
        // A window of more than there may be.
        &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff],
        // A SETTINGS frame of a length that none has.
        &[0, 0, 5, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5],
    ];
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let turn = TURN.fetch_add(1, Ordering::Relaxed);
    let nonsense = NONSENSE.into_iter().cycle().nth(turn % NONSENSE.len()).unwrap_or_default();
    // The client hangs up as soon as it has read it.
    for piece in [SETTINGS, nonsense] {
        let _ = tcp.write_all(piece).await;
    }
    let _ = tcp.read_to_end(&mut Vec::new()).await;
}
