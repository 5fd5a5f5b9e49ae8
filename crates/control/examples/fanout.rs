//! Measures how soon many streams hear of a change: `cargo run --release -p weft-control --example fanout`.
//!
//! A control plane of this process serves one service of 1,000 endpoints to 2,000 streams over mutual TLS (100 on a
//! connection); a new file adds one endpoint, thirty times, and each stream says when the message was
//! whole. The clients are here too, so that the processor time is that of both sides. Argument: number of streams.

use linkerd2_proxy_api::destination::destination_client::DestinationClient;
use linkerd2_proxy_api::destination::{GetDestination, Update, update};
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tonic::Streaming;
use weft_control::Options;
use weft_identity::authority::{Authority, Lifetimes};
use weft_identity::store::{LocalName, Store};
use weft_model::identity::{Id, TlsTarget};
use weft_net::body::Body;
use weft_net::socket::{self, SocketOptions};
use weft_net::stream::Stream;
use weft_net::web::{Http2Client, Http2ClientOptions, WebError};

const NAME: &str = "weft-control.linkerd.serviceaccount.identity.linkerd.cluster.local";
const PER_CONNECTION: usize = 100;
const ENDPOINTS: usize = 1_000;
const ROUNDS: usize = 30;

type Failure = Box<dyn Error + Send + Sync>;
type Channel =
    tower::util::BoxCloneSyncService<http::Request<tonic::body::Body>, http::Response<Body>, WebError>;

fn main() -> Result<(), Failure> {
    let streams = std::env::args().nth(1).map_or(Ok(2_000), |text| text.parse())?;
    let home = std::env::temp_dir().join(format!("weft-fanout-{}", std::process::id()));
    std::fs::create_dir_all(home.join("manifests"))?;
    // Two threads, as on the two cores that the promise is about.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let measured = runtime.block_on(measure(&home, streams));
    std::fs::remove_dir_all(&home)?;
    measured
}

async fn measure(home: &Path, count: usize) -> Result<(), Failure> {
    write_service(home)?;
    let control = weft_control::start(options(home)?, None).await?;
    let authority = Authority::open_now(&home.join("state"), "unused", Lifetimes::default())?;
    let mut streams = Vec::with_capacity(count);
    let opened = Instant::now();
    while streams.len() < count {
        let channel = connect(control.listen, &member(&authority)?).await?;
        for _ in 0..PER_CONNECTION.min(count - streams.len()) {
            streams.push(open(channel.clone()).await?);
        }
    }
    println!("{count} streams have {ENDPOINTS} endpoints each, after {:?}", opened.elapsed());
    let (cpu, began) = (processor_time(), Instant::now());
    let (mut heard, mut whole) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let mut waiting = JoinSet::new();
        for mut stream in streams.drain(..) {
            waiting.spawn(async move {
                let message = stream.message().await?.and_then(|m| m.update);
                match message {
                    Some(update::Update::Add(set)) if set.addrs.len() == 1 => Ok((Instant::now(), stream)),
                    other => Err(Failure::from(format!("heard {other:?}"))),
                }
            });
        }
        let changed = Instant::now();
        write_workload(home, ENDPOINTS + round)?;
        let mut times = Vec::with_capacity(count);
        while let Some(joined) = waiting.join_next().await {
            let (at, stream) = joined??;
            times.push(at.duration_since(changed));
            streams.push(stream);
        }
        times.sort();
        // The first one heard of it when the files had been quiet, read and indexed; what follows is the fan-out.
        let first = times.first().copied().unwrap_or_default();
        heard.extend(times.iter().map(|time| *time - first));
        whole.extend(times);
    }
    let (cpu, elapsed) = (processor_time().saturating_sub(cpu), began.elapsed());
    show("from the file's change to the stream", whole);
    show("from the first stream to the others", heard);
    let per_message = cpu.as_secs_f64() * 1e6 / (count * ROUNDS) as f64;
    println!(
        "processor time {cpu:.2?} in {elapsed:.2?}, {per_message:.1} µs a message, both sides and TLS included"
    );
    control.kill();
    Ok(())
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times.get(((times.len() - 1) as f64 * share) as usize).copied().unwrap_or_default();
    println!("{what}: p50 {:.1?}  p99 {:.1?}  max {:.1?}", at(0.5), at(0.99), at(1.0));
}

/// Puts a service, and its first workloads, into one file.
fn write_service(home: &Path) -> Result<(), Failure> {
    let mut text = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n\
                    spec: {selector: {app: web}, ports: [{port: 80}]}\n"
        .to_owned();
    (0..ENDPOINTS).for_each(|n| text += &workload(n));
    Ok(std::fs::write(home.join("manifests/all.yaml"), text)?)
}

/// Puts one more workload into a file of its own, at once.
fn write_workload(home: &Path, n: usize) -> Result<(), Failure> {
    let partial = home.join("manifests/.partial");
    std::fs::write(&partial, workload(n))?;
    Ok(std::fs::rename(partial, home.join(format!("manifests/{n}.yaml")))?)
}

fn workload(n: usize) -> String {
    format!(
        "---\napiVersion: workload.linkerd.io/v1beta1\nkind: ExternalWorkload\n\
         metadata: {{name: web-deployment-7d4b9c6f5d-{n:05}, namespace: shop, labels: {{app: web}}}}\n\
         spec:\n  meshTLS: {{identity: web.shop.serviceaccount.identity.linkerd.cluster.local, \
         serverName: web.shop.serviceaccount.identity.linkerd.cluster.local}}\n  \
         workloadIPs: [{{ip: 10.1.{}.{}}}]\n  ports: [{{port: 80}}]\n",
        n / 250,
        n % 250 + 1
    )
}

fn options(home: &Path) -> Result<Options, Failure> {
    let any = "127.0.0.1:0".parse()?;
    Ok(Options {
        manifests: vec![home.join("manifests")],
        state: home.join("state"),
        listen: any,
        names: vec![NAME.parse()?],
        admin: any,
        config: weft_index::Config { default_opaque_ports: Default::default(), ..Default::default() },
        issuer: None,
        issuance_lifetime: Duration::from_secs(24 * 3600),
        connections: 4096,
        connections_per_source: 4096,
        streams: Default::default(),
    })
}

fn member(authority: &Authority) -> Result<Store, Failure> {
    let id: Id = "web.shop.serviceaccount.identity.linkerd.cluster.local".parse()?;
    let name = LocalName { id: id.clone(), server_name: "web.shop".parse()? };
    let store = Store::new(name, (*authority.anchors()).clone());
    let (issued, key) = authority.issue_own(&id)?;
    store.install([vec![issued.leaf], issued.intermediates].concat(), key)?;
    Ok(store)
}

async fn connect(addr: std::net::SocketAddr, store: &Store) -> Result<Channel, Failure> {
    let socket = socket::connect(addr, &SocketOptions::default()).await?;
    let target = TlsTarget { id: NAME.parse()?, server_name: NAME.parse()? };
    let connected = store.connect(Stream::tcp(socket), &target, &[]).await?;
    let client = Http2Client::open(connected.stream, &Http2ClientOptions::default()).await?;
    Ok(Channel::new(tower::service_fn(move |request: http::Request<tonic::body::Body>| {
        let mut client = client.clone();
        async move {
            client.ready().await?;
            client.send(request.map(Body::boxed)).await
        }
    })))
}

/// Opens a stream and reads its first answer.
async fn open(channel: Channel) -> Result<Streaming<Update>, Failure> {
    let mut client = DestinationClient::with_origin(channel, http::Uri::from_static("http://control.mesh"));
    let path = "web.shop.svc.cluster.local:80".to_owned();
    let mut stream = client.get(GetDestination { path, ..Default::default() }).await?.into_inner();
    match stream.message().await?.and_then(|message| message.update) {
        Some(update::Update::Add(set)) if set.addrs.len() == ENDPOINTS => Ok(stream),
        other => Err(format!("heard {other:?} first").into()),
    }
}

/// Processor time of this process so far, from `/proc`, in ticks of 10 ms.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}
