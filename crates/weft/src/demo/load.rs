//! The load generator: sends along every route through its sidecar, and keeps counts of its own.
//!
//! Requests are paced and bounded: each route has a few workers, and a worker has one request under way.
//! The counts here are made without help of the mesh, so that they can testify about it.

use super::app::{INJECTED, Speaks};
use super::layout::{ROUTES, Route};
use super::quantile::Latencies;
use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use http_body_util::BodyExt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use weft_net::body::Body;
use weft_net::stream::Stream;
use weft_net::web::{Http2Client, Http2ClientOptions};

/// Workers a route: the most requests of it under way. Enough for its rate while one replica is slow.
const WORKERS: u32 = 8;

/// Longest wait for an answer. Nothing in the shop takes that long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Failures kept one by one; beyond, they are only counted.
const KEPT: usize = 1000;

/// Most bytes of an answer's head or of one line.
const LONGEST: u64 = 16 * 1024;

/// How a request ended, as its sender saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// As it should.
    Good,
    /// The program failed on purpose.
    Injected,
    /// The connection to the endpoint was lost: the mesh said so, or the answer broke off after its head, when nobody can say
    /// anything any more.
    Lost,
    /// Anything else.
    Bad(String),
}

/// A failure that nobody injected.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) route: usize,
    pub(crate) at: Instant,
    pub(crate) outcome: Outcome,
}

/// What the generator counted, a route.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count {
    pub(crate) sent: u64,
    pub(crate) done: u64,
    pub(crate) good: u64,
    pub(crate) injected: u64,
    pub(crate) lost: u64,
    pub(crate) bad: u64,
    pub(crate) latencies: Latencies,
}

/// Everything that the generator counted.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub(crate) routes: Vec<Count>,
    pub(crate) failures: Vec<Failure>,
}

impl Tally {
    /// Requests to a service: how many were sent, how many are over.
    pub(crate) fn of(&self, service: usize) -> (u64, u64) {
        let of = ROUTES.iter().zip(&self.routes).filter(|(route, _)| route.service == service);
        of.fold((0, 0), |(sent, done), (_, count)| (sent + count.sent, done + count.done))
    }
}

/// A running generator.
pub(crate) struct Load {
    tally: Arc<Mutex<Tally>>,
    stop: watch::Sender<bool>,
    workers: JoinSet<()>,
    runtime: Option<Runtime>,
}

impl Load {
    /// Starts sending; `upstreams` are the sidecar's listeners, one a service. It has a thread of its own, so
    /// that reading metrics does not hold it up.
    pub(crate) fn start(upstreams: &[SocketAddr]) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let routes = vec![Count::default(); ROUTES.len()];
        let tally = Arc::new(Mutex::new(Tally { routes, failures: Vec::new() }));
        let (stop, stopped) = watch::channel(false);
        let mut workers = JoinSet::new();
        for (index, route) in ROUTES.iter().enumerate() {
            let Some(upstream) = upstreams.get(route.service).copied() else { continue };
            for number in 0..WORKERS {
                let worker = Worker {
                    route,
                    index,
                    upstream,
                    tally: tally.clone(),
                    lines: None,
                    http2: None,
                    number: u64::from(number),
                };
                workers.spawn_on(worker.run(stopped.clone()), runtime.handle());
            }
        }
        Ok(Self { tally, stop, workers, runtime: Some(runtime) })
    }

    /// What was counted so far.
    pub(crate) fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }

    /// Sends nothing more and waits for what is under way.
    pub(crate) async fn stop(&mut self) {
        self.stop.send_replace(true);
        while self.workers.join_next().await.is_some() {}
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Worker {
    route: &'static Route,
    index: usize,
    upstream: SocketAddr,
    tally: Arc<Mutex<Tally>>,
    lines: Option<BufReader<TcpStream>>,
    http2: Option<Http2Client>,
    number: u64,
}

impl Worker {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let interval = Duration::from_secs(1) * WORKERS / self.route.per_second.max(1);
        let offset = interval * u32::try_from(self.number).unwrap_or(0) / WORKERS;
        let mut next = tokio::time::Instant::now() + offset;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                _ = stopped.wait_for(|stop| *stop) => return,
            }
            self.once().await;
            // Who is late does not hurry: bursts would measure the generator.
            next = (next + interval).max(tokio::time::Instant::now());
        }
    }

    async fn once(&mut self) {
        self.number += u64::from(WORKERS);
        lock(&self.tally).routes[self.index].sent += 1;
        let began = Instant::now();
        let answered = tokio::time::timeout(PATIENCE, self.exchange()).await;
        let at = Instant::now();
        let (outcome, first) = match answered {
            Ok(Ok(Answered { outcome, first })) => (outcome, Some(first)),
            Ok(Err(error)) => (Outcome::Bad(error.to_string()), None),
            Err(_) => (Outcome::Bad(format!("no answer within {PATIENCE:?}")), None),
        };
        if !matches!(outcome, Outcome::Good | Outcome::Injected) {
            (self.lines, self.http2) = (None, None);
        }
        let mut tally = lock(&self.tally);
        let count = &mut tally.routes[self.index];
        count.done += 1;
        match &outcome {
            Outcome::Good => count.good += 1,
            Outcome::Injected => count.injected += 1,
            Outcome::Lost => count.lost += 1,
            Outcome::Bad(_) => count.bad += 1,
        }
        if let (Outcome::Good | Outcome::Injected, Some(first)) = (&outcome, first) {
            count.latencies.observe((first - began).as_secs_f64() * 1000.0);
        } else if tally.failures.len() < KEPT {
            tally.failures.push(Failure { route: self.index, at, outcome });
        }
    }

    async fn exchange(&mut self) -> io::Result<Answered> {
        match self.route.service().speaks {
            Speaks::Http => self.http1().await,
            Speaks::Grpc => self.grpc().await,
            Speaks::Lines => self.greeted().await,
        }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.upstream).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// One request on a kept connection, with a hand-written client: it owes nothing to the mesh's own.
    async fn http1(&mut self) -> io::Result<Answered> {
        let (method, host) = (self.route.method, self.route.service().host());
        let path = self.route.path.replace("{}", &self.number.to_string());
        let body = if method == "POST" { "one more, please" } else { "" };
        let length = body.len();
        let text =
            format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\n\r\n{body}");
        let mut stream = match self.lines.take() {
            Some(stream) => stream,
            None => BufReader::new(self.connect().await?),
        };
        stream.write_all(text.as_bytes()).await?;
        let head = read_head(&mut stream).await?;
        let first = Instant::now();
        match read_body(&mut stream, &head).await {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(Answered { outcome: Outcome::Lost, first });
            }
            read => read?,
        }
        if head.header("connection").is_none_or(|value| value != "close") {
            self.lines = Some(stream);
        }
        let outcome = judge(head.status == 200, head.header(INJECTED), head.header("weft-reason"));
        Ok(Answered {
            outcome: outcome.unwrap_or_else(|| Outcome::Bad(format!("status {}", head.status))),
            first,
        })
    }

    /// One unary call.
    async fn grpc(&mut self) -> io::Result<Answered> {
        let mut client = match self.http2.take() {
            Some(client) if !client.is_closed() => client,
            _ => {
                let stream = Stream::tcp(self.connect().await?);
                Http2Client::open(stream, &Http2ClientOptions::default()).await.map_err(io::Error::other)?
            }
        };
        let uri = format!("http://{}{}", self.route.service().host(), self.route.path);
        let request = Request::post(uri)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::full(grpc_message(&format!("book-{}", self.number))))
            .map_err(io::Error::other)?;
        client.ready().await.map_err(io::Error::other)?;
        let (head, mut body) = client.send(request).await.map_err(io::Error::other)?.into_parts();
        let mut first = None;
        let mut trailers = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(io::Error::other)?;
            first.get_or_insert_with(Instant::now);
            trailers = frame.into_trailers().ok().or(trailers);
        }
        let of = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let in_trailers = trailers.as_ref().and_then(|t| t.get("grpc-status")).and_then(|s| s.to_str().ok());
        let status = in_trailers.or_else(|| of("grpc-status"));
        let outcome = judge(status == Some("0"), of(INJECTED), of("weft-reason"))
            .unwrap_or_else(|| Outcome::Bad(format!("{}, gRPC status {status:?}", head.status)));
        self.http2 = Some(client);
        Ok(Answered { outcome, first: first.unwrap_or_else(Instant::now) })
    }

    /// A connection of bytes: the greeting, one question and its answer.
    async fn greeted(&mut self) -> io::Result<Answered> {
        let mut stream = BufReader::new(self.connect().await?);
        let greeting = read_line(&mut stream).await?;
        stream.write_all(format!("{}\n", self.number).as_bytes()).await?;
        let answer = read_line(&mut stream).await?;
        let first = Instant::now();
        let outcome = if greeting == "store ready" && answer == format!("got {}", self.number) {
            Outcome::Good
        } else {
            Outcome::Bad(format!("the store said {greeting:?} and {answer:?}"))
        };
        Ok(Answered { outcome, first })
    }
}

/// An answer, and when it began to arrive.
struct Answered {
    outcome: Outcome,
    first: Instant,
}

/// What an answer means; `None`: it failed, and says neither that it was meant to nor why.
fn judge(good: bool, injected: Option<&str>, reason: Option<&str>) -> Option<Outcome> {
    match (good, injected, reason) {
        (true, _, _) => Some(Outcome::Good),
        (_, Some(_), _) => Some(Outcome::Injected),
        (_, _, Some(reason)) if reason.starts_with("connection-lost") => Some(Outcome::Lost),
        (_, _, Some(reason)) => Some(Outcome::Bad(reason.to_owned())),
        _ => None,
    }
}

/// A message with gRPC's frame header: a protobuf message whose first field is a text.
fn grpc_message(text: &str) -> Bytes {
    let mut message = BytesMut::new();
    let length = u8::try_from(text.len()).unwrap_or(0);
    message.put_u8(0);
    message.put_u32(u32::from(length) + 2);
    message.put_slice(&[0x0a, length]);
    message.put_slice(text.as_bytes());
    message.freeze()
}

/// An answer's head.
struct Head {
    status: u16,
    headers: Vec<(String, String)>,
}

impl Head {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

async fn read_line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    (&mut *stream).take(LONGEST).read_line(&mut line).await?;
    if !line.ends_with('\n') {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended within an answer"));
    }
    Ok(line.trim_end().to_owned())
}

async fn read_head(stream: &mut BufReader<TcpStream>) -> io::Result<Head> {
    let first = read_line(stream).await?;
    let status = first.split(' ').nth(1).and_then(|s| s.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("not a status line: {first:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(stream).await?;
        let Some((name, value)) = line.split_once(':') else { return Ok(Head { status, headers }) };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

async fn read_body(stream: &mut BufReader<TcpStream>, head: &Head) -> io::Result<()> {
    if let Some(length) = head.header("content-length") {
        let length = length.parse().map_err(io::Error::other)?;
        return skip(stream, length).await;
    }
    if head.header("transfer-encoding").is_none() {
        return Ok(());
    }
    loop {
        let size = u64::from_str_radix(&read_line(stream).await?, 16).map_err(io::Error::other)?;
        skip(stream, size).await?;
        read_line(stream).await?;
        if size == 0 {
            return Ok(());
        }
    }
}

async fn skip(stream: &mut BufReader<TcpStream>, length: u64) -> io::Result<()> {
    let read = tokio::io::copy(&mut (&mut *stream).take(length), &mut tokio::io::sink()).await?;
    if read == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged_by_what_they_say() {
        let check = |given: (bool, Option<&str>, Option<&str>), expected: Option<Outcome>| {
            assert_eq!(judge(given.0, given.1, given.2), expected, "{given:?}");
        };
        check((true, None, None), Some(Outcome::Good));
        check((false, Some("x"), None), Some(Outcome::Injected));
        check((false, None, Some("connection-lost; hop=outbound")), Some(Outcome::Lost));
        check((false, None, Some("all-unready")), Some(Outcome::Bad("all-unready".into())));
        check((false, None, None), None);
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_within_its_body_lost_its_connection() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", Some(Outcome::Lost)),
            ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfull", Some(Outcome::Good)),
            ("HTTP/1.1 200 OK\r\ncontent-le", None),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let upstream = listener.local_addr().unwrap();
            let server = async {
                let mut stream = BufReader::new(listener.accept().await.unwrap().0);
                while !read_line(&mut stream).await.unwrap().is_empty() {}
                stream.write_all(answer.as_bytes()).await.unwrap();
            };
            let tally = Arc::new(Mutex::new(Tally { routes: Vec::new(), failures: Vec::new() }));
            let (lines, http2) = (None, None);
            let mut worker = Worker { route: &ROUTES[0], index: 0, upstream, tally, lines, http2, number: 0 };
            let ((), answered) = tokio::join!(server, worker.http1());
            assert_eq!(answered.ok().map(|answered| answered.outcome), expected, "{answer}");
        }
    }
}
