//! Replays a scenario on a real proxy: real servers that work as the simulated endpoints do, the data path between them and a
//! client, real sockets, real time. It shows whether the simulation tells the truth.
//!
//! The requests are those of the scenario's first seed. Several clients, zones and members that come and go are not
//! replayed.

use crate::arrival;
use crate::play::Seen;
use crate::scenario::{Group, Scenario};
use crate::shop::{self, Simulated};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use weft_model::destination::EndpointInfo;
use weft_testkit::mesh::Mesh;
use weft_testkit::plane::Said;

/// The service that the client calls.
const SERVICE: &str = "lab.default.svc.cluster.local:80";

/// Time for the proxy to start, before the scenario begins.
const SETTING_UP: Duration = Duration::from_secs(1);

/// How late a timer is on the average: it ends with the millisecond that follows.
const TIMER: f64 = 0.000_5;

/// Whether a scenario can be replayed.
pub(crate) fn check(scenario: &Scenario) -> Result<(), String> {
    let is_there = |group: &Group| group.from.is_none() && group.until.is_none() && group.away_ms.is_none();
    match scenario.clients == 1 && scenario.groups.iter().all(is_there) {
        true => Ok(()),
        false => {
            Err("only scenarios of one client, one zone and lasting endpoints can be replayed".to_owned())
        }
    }
}

/// Plays it. The endpoints and the proxy run in this process.
pub(crate) async fn of(scenario: &Scenario) -> io::Result<Seen> {
    let mesh = Mesh::new();
    let mut told = Vec::new();
    let began = Instant::now() + SETTING_UP;
    for endpoint in shop::all(&scenario.groups) {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        told.push(EndpointInfo::plain(listener.local_addr()?));
        let places = Arc::new(Semaphore::new(endpoint.group.slots));
        tokio::spawn(serve(listener, Arc::new(Server { endpoint, places, began })));
    }
    let endpoints = told.len();
    mesh.facts.endpoints(SERVICE, Said::Told(told));
    let upstream = format!("127.0.0.1:0={SERVICE}");
    let proxy = mesh.proxy("client", &[("UPSTREAM", upstream.as_str())]).await;
    let client = Arc::new(Client { proxy: proxy.upstream(), idle: Mutex::default() });
    let seed = scenario.seeds.first().copied().unwrap_or_default();
    let mut requests = JoinSet::new();
    for arrival in arrival::all(scenario, seed) {
        tokio::time::sleep_until(began + Duration::from_secs_f64(arrival.at)).await;
        let client = client.clone();
        let patience = Duration::from_secs_f64(scenario.timeout_ms / 1000.0);
        requests.spawn(async move {
            let came = Instant::now();
            let answered = tokio::time::timeout(patience, client.ask(arrival.fails, arrival.work)).await;
            let millis = came.elapsed().as_secs_f64() * 1000.0;
            (arrival.at, millis, answered.ok().map(Result::unwrap_or_default))
        });
    }
    let mut seen = Seen { shares: vec![0; endpoints], ..Seen::default() };
    while let Some(request) = requests.join_next().await {
        let (at, millis, answered) = request.map_err(io::Error::other)?;
        if at < scenario.settle {
            continue;
        }
        seen.requests += 1;
        let good = answered.is_some_and(|answer| answer.status == 200);
        seen.errors += u64::from(!good);
        if good || answered.is_none() {
            seen.latencies.push(millis);
        }
        if let Some(share) = answered.and_then(|answer| seen.shares.get_mut(answer.endpoint?)) {
            *share += 1;
        }
    }
    seen.latencies.sort_by(f64::total_cmp);
    Ok(seen)
}

/// A real server in the place of a simulated endpoint.
struct Server {
    endpoint: Arc<Simulated>,
    places: Arc<Semaphore>,
    began: Instant,
}

async fn serve(listener: TcpListener, server: Arc<Server>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connection(stream, server.clone()));
    }
}

async fn connection(stream: TcpStream, server: Arc<Server>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    while let Some(head) = read_head(&mut stream).await? {
        let draw = |name| head.header(name).and_then(|v| v.parse::<f64>().ok()).unwrap_or(0.5);
        let good = server.work(draw("lab-fails"), draw("lab-work")).await;
        let status = if good { "200 OK" } else { "500 Internal Server Error" };
        let number = server.endpoint.number;
        let answer = format!("HTTP/1.1 {status}\r\nlab-endpoint: {number}\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

impl Server {
    /// Works as the simulated endpoint does; false if the request fails.
    async fn work(&self, fails: f64, draw: f64) -> bool {
        let group = &self.endpoint.group;
        if fails < group.fails {
            pause(group.fail_ms / 1000.0).await;
            return false;
        }
        let Ok(_place) = self.places.acquire().await else { return false };
        let at = self.began.elapsed().as_secs_f64();
        pause(self.endpoint.done(at, draw) - at).await;
        true
    }
}

async fn pause(seconds: f64) {
    tokio::time::sleep(Duration::try_from_secs_f64(seconds - TIMER).unwrap_or_default()).await;
}

/// Connections to the proxy, used again.
struct Client {
    proxy: SocketAddr,
    idle: Mutex<Vec<BufReader<TcpStream>>>,
}

/// What an answer says.
#[derive(Clone, Copy, Debug, Default)]
struct Answer {
    status: u16,
    endpoint: Option<usize>,
}

impl Client {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<BufReader<TcpStream>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, fails: f64, work: f64) -> io::Result<Answer> {
        let idle = self.idle().pop();
        let mut stream = match idle {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.proxy).await?;
                stream.set_nodelay(true)?;
                BufReader::new(stream)
            }
        };
        let request =
            format!("GET / HTTP/1.1\r\nhost: lab\r\nlab-fails: {fails}\r\nlab-work: {work}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let head = read_head(&mut stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = head.first.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        if head.header("connection").is_none_or(|value| value != "close") {
            self.idle().push(stream);
        }
        Ok(Answer { status, endpoint: head.header("lab-endpoint").and_then(|number| number.parse().ok()) })
    }
}

/// The head of a message without a body.
struct Head {
    first: String,
    headers: Vec<(String, String)>,
}

impl Head {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Reads a head; `None` at the end of the connection.
async fn read_head(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Head>> {
    let mut head = Head { first: String::new(), headers: Vec::new() };
    if stream.read_line(&mut head.first).await? == 0 {
        return Ok(None);
    }
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some((name, value)) = line.split_once(':') else { return Ok(Some(head)) };
        head.headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
}
