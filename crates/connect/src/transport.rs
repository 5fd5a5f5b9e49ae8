//! Counts of connections and their bytes, under the peer's names: the `tcp_*` families (§5.1).
//!
//! `dial` counts the connections that it makes, `proxy` those that it accepts, each under the label set of its
//! [`Transport`], which is found once a connection. A connection counts by itself; its numbers are added to the
//! shared series when it ends and when somebody asks for a scrape, so that no two connections write to one place.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use weft_model::destination::EndpointInfo;
use weft_model::identity::NoTls;
use weft_net::stream::Stream;
use weft_net::transfer::Transfer;
use weft_telemetry::{Counter, Family, Gauge, Histogram, Registry, Split, Written};

/// Label pairs.
pub type Pairs = Vec<(String, String)>;

/// Buckets of connections' durations, milliseconds: from a probe to a stream that lasts a day.
const DURATION_MS: &[f64] = &[1.0, 10.0, 100.0, 1e3, 1e4, 6e4, 6e5, 3.6e6, 8.64e7];

/// The labels of a connection (§5.1). Which a series has depends on direction and side.
macro_rules! keys {
    ($($more:literal),*) => {
        &[
            "direction", "peer", "target_addr", "target_ip", "target_port", "tls", "no_tls_reason", "client_id",
            "server_id", "sni", "srv_group", "srv_kind", "srv_name", "srv_port", "dst_*" $(, $more)*
        ]
    };
}
const KEYS: &[&str] = keys!();
const CLOSE_KEYS: &[&str] = keys!("errno");

/// Label sets remembered, as many as a family has series by default. Beyond it one is made anew for each connection,
/// into the same series, and its bytes are added when the connection ends.
const REMEMBERED: usize = 2_000;

/// The families, and the label sets in use. Clones share them.
#[derive(Clone)]
pub struct Transports(Arc<Inner>);

struct Inner {
    families: Families,
    known: Mutex<HashMap<Written, Arc<Transport>>>,
}

#[derive(Clone)]
struct Families {
    opened: Family<Counter>,
    open: Family<Gauge>,
    closed: Family<Counter>,
    read: Family<Counter>,
    written: Family<Counter>,
    duration: Family<Histogram>,
}

impl Transports {
    /// Registers the families. Once a registry: a second set would not be brought up to date by scrapes.
    pub fn new(registry: &Registry) -> Self {
        let inner = Arc::new_cyclic(|weak: &Weak<Inner>| {
            let weak = weak.clone();
            registry.before_scrape(move || {
                if let Some(inner) = weak.upgrade() {
                    inner.add_up();
                }
            });
            Inner { families: Families::new(registry), known: Mutex::default() }
        });
        Self(inner)
    }

    /// The label sets with open connections, for `/state.json`; those beyond the remembered ones are left out.
    pub fn snapshot(&self) -> Vec<Row> {
        let transports: Vec<_> = self.0.lock().values().cloned().collect();
        let row = |transport: &Arc<Transport>| {
            transport.add_up();
            Row {
                labels: transport.labels.pairs(),
                open: transport.open.value(),
                read: transport.read.value(),
                written: transport.written.value(),
            }
        };
        let mut rows: Vec<_> = transports.iter().map(row).filter(|row| row.open > 0).collect();
        rows.sort_by(|a, b| a.labels.cmp(&b.labels));
        rows
    }

    /// The counts of one label set.
    pub fn of(&self, labels: Pairs) -> Arc<Transport> {
        let labels = Written::new(&labels[..]);
        let mut known = self.0.lock();
        if let Some(transport) = known.get(&labels) {
            transport.used.store(true, Relaxed);
            return transport.clone();
        }
        let transport = Arc::new(Transport::new(&self.0.families, labels.clone()));
        if known.len() >= REMEMBERED {
            known.retain(|_, transport| Arc::strong_count(transport) > 1);
        }
        if known.len() < REMEMBERED {
            known.insert(labels, transport.clone());
        }
        transport
    }
}

/// One label set's numbers, for people.
#[derive(Clone, Debug)]
pub struct Row {
    /// What tells its connections apart.
    pub labels: Pairs,
    /// Connections open now.
    pub open: i64,
    /// Bytes read from all of them so far.
    pub read: u64,
    /// Bytes written to them.
    pub written: u64,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, HashMap<Written, Arc<Transport>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the series up to date, and forgets label sets that nobody used since the last time.
    fn add_up(&self) {
        let transports: Vec<_> = self.lock().values().cloned().collect();
        for transport in &transports {
            transport.add_up();
        }
        drop(transports);
        self.lock()
            .retain(|_, transport| Arc::strong_count(transport) > 1 || transport.used.swap(false, Relaxed));
    }
}

impl Families {
    fn new(registry: &Registry) -> Self {
        Self {
            opened: registry.counters("tcp_open_total", "Connections opened.").labels(KEYS),
            open: registry.gauges("tcp_open_connections", "Connections open now.").labels(KEYS),
            closed: registry.counters("tcp_close_total", "Connections closed.").labels(CLOSE_KEYS),
            read: registry
                .counters("tcp_read_bytes_total", "Bytes read from connections, inside TLS.")
                .labels(KEYS),
            written: registry
                .counters("tcp_write_bytes_total", "Bytes written to connections, inside TLS.")
                .labels(KEYS),
            duration: registry
                .histograms(
                    "tcp_connection_duration_ms",
                    "How long connections that closed were open.",
                    DURATION_MS,
                )
                .labels(KEYS),
        }
    }
}

/// The counts of connections that share one label set.
pub struct Transport {
    opened: Counter,
    open: Gauge,
    read: Counter,
    written: Counter,
    duration: Histogram,
    closed: Split<Counter>,
    close_family: Family<Counter>,
    labels: Written,
    live: Mutex<Live>,
    /// Whether it was asked for since the last scrape.
    used: AtomicBool,
}

/// The open connections, with what of theirs has been added to the series.
#[derive(Default)]
struct Live {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
}

struct Slot {
    transfer: Weak<Transfer>,
    read: u64,
    written: u64,
}

impl Transport {
    fn new(families: &Families, labels: Written) -> Self {
        Self {
            opened: families.opened.series(&labels),
            open: families.open.series(&labels),
            read: families.read.series(&labels),
            written: families.written.series(&labels),
            duration: families.duration.series(&labels),
            closed: Split::default(),
            close_family: families.closed.clone(),
            labels,
            live: Mutex::default(),
            used: AtomicBool::new(true),
        }
    }

    /// Counts a connection from now on until its stream is dropped. One that is counted already stays as it is.
    pub fn open(self: &Arc<Self>, stream: Stream) -> Stream {
        if stream.transfer().is_some() {
            return stream;
        }
        self.opened.inc();
        self.open.inc();
        let mut live = self.lock();
        let index = live.free.pop().unwrap_or_else(|| {
            live.slots.push(None);
            live.slots.len() - 1
        });
        let this = self.clone();
        let transfer = Arc::new(Transfer::new(move |transfer| this.ended(index, transfer)));
        if let Some(slot) = live.slots.get_mut(index) {
            *slot = Some(Slot { transfer: Arc::downgrade(&transfer), read: 0, written: 0 });
        }
        drop(live);
        stream.counted(transfer)
    }

    fn ended(&self, index: usize, transfer: &Transfer) {
        let mut live = self.lock();
        if let Some(mut slot) = live.slots.get_mut(index).and_then(Option::take) {
            self.add(&mut slot, transfer);
            live.free.push(index);
        }
        if live.free.len() == live.slots.len() {
            *live = Live::default(); // gives the memory of a crowd back
        }
        drop(live);
        self.open.dec();
        self.duration.observe_millis(transfer.age());
        let error = transfer.error();
        let resolve = || self.close_family.series(&(&self.labels, [("errno", error)]));
        self.closed.with(error.as_ptr() as usize as u64, resolve, Counter::inc);
    }

    /// Adds what its open connections have counted since the last time.
    fn add_up(&self) {
        let mut held = Vec::new();
        for slot in self.lock().slots.iter_mut().flatten() {
            // One that is ending adds the rest itself.
            if let Some(transfer) = slot.transfer.upgrade() {
                self.add(slot, &transfer);
                held.push(transfer);
            }
        }
        // Outside the lock: the last holder of a connection that ended meanwhile takes it again.
        drop(held);
    }

    fn add(&self, slot: &mut Slot, transfer: &Transfer) {
        let (read, written) = (transfer.read(), transfer.written());
        self.read.add(read.wrapping_sub(slot.read));
        self.written.add(written.wrapping_sub(slot.written));
        (slot.read, slot.written) = (read, written);
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the connections that one direction makes are counted.
#[derive(Clone, Default)]
pub enum Counting {
    /// Not at all.
    #[default]
    Not,
    /// Each endpoint under its own labels.
    Endpoints(Transports),
    /// All together, as connections to the application beside us, without an address (§5.1).
    Application(Transports),
}

impl Counting {
    pub(crate) fn transport(&self, info: &EndpointInfo, why: NoTls) -> Option<Arc<Transport>> {
        let labels = |direction: &str| {
            vec![("direction".to_owned(), direction.to_owned()), ("peer".to_owned(), "dst".to_owned())]
        };
        match self {
            Self::Not => None,
            Self::Endpoints(transports) => {
                let mut labels = labels("outbound");
                labels.extend(endpoint_labels(info, why));
                Some(transports.of(labels))
            }
            Self::Application(transports) => {
                let mut labels = labels("inbound");
                plain(&mut labels, NoTls::Loopback);
                Some(transports.of(labels))
            }
        }
    }
}

/// Labels of an endpoint's series (§5.1): target, TLS or why there is none, discovery labels.
pub fn endpoint_labels(info: &EndpointInfo, why: NoTls) -> Pairs {
    let mut labels: Pairs = vec![
        ("target_addr".into(), info.addr.to_string()),
        ("target_ip".into(), info.addr.ip().to_string()),
        ("target_port".into(), info.addr.port().to_string()),
    ];
    match &info.tls {
        Some(target) => {
            labels.push(("tls".into(), "true".into()));
            labels.push(("server_id".into(), target.id.to_string()));
        }
        None => plain(&mut labels, why),
    }
    labels.extend(info.labels.iter().map(|(key, value)| (format!("dst_{key}"), value.clone())));
    labels
}

fn plain(labels: &mut Pairs, why: NoTls) {
    labels.push(("tls".into(), "no_identity".into()));
    labels.push(("no_tls_reason".into(), why.as_str().into()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    fn labels(addr: &str) -> Pairs {
        vec![("target_addr".into(), addr.into())]
    }

    fn value(registry: &Registry, series: &str) -> Option<String> {
        let page = registry.render();
        page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned))
    }

    #[tokio::test]
    async fn open_connections_show_their_bytes_and_closed_ones_are_not_counted_twice() {
        let registry = Registry::new();
        let transports = Transports::new(&registry);
        let transport = transports.of(labels("a"));
        let (near, mut far) = duplex(64);
        let mut stream = transport.open(Stream::memory(near));
        stream.write_all(b"hello").await.unwrap();
        far.write_all(b"abc").await.unwrap();
        stream.read_exact(&mut [0; 3]).await.unwrap();
        let shows = |name: &str, expected: &str| {
            let series = format!("{name}{{target_addr=\"a\"}}");
            assert_eq!(value(&registry, &series).as_deref(), Some(expected), "{name}");
        };
        shows("tcp_write_bytes_total", "5");
        shows("tcp_read_bytes_total", "3");
        shows("tcp_open_connections", "1");
        stream.write_all(b"!").await.unwrap();
        drop(stream);
        shows("tcp_write_bytes_total", "6");
        shows("tcp_open_connections", "0");
        shows("tcp_open_total", "1");
        let closed = value(&registry, "tcp_close_total{target_addr=\"a\",errno=\"\"}");
        assert_eq!(closed.as_deref(), Some("1"));
        shows("tcp_connection_duration_ms_count", "1");
    }

    #[tokio::test]
    async fn a_counted_stream_is_not_counted_again() {
        let registry = Registry::new();
        let transports = Transports::new(&registry);
        let stream = transports.of(labels("a")).open(Stream::memory(duplex(1).0));
        let stream = transports.of(labels("b")).open(stream);
        assert_eq!(value(&registry, "tcp_open_total{target_addr=\"b\"}").as_deref(), Some("0"));
        drop(stream);
        assert_eq!(value(&registry, "tcp_open_connections{target_addr=\"a\"}").as_deref(), Some("0"));
    }

    #[tokio::test]
    async fn label_sets_beyond_those_remembered_are_counted_all_the_same() {
        let registry = Registry::with_limits(weft_telemetry::Limits { series: 10_000, ..Default::default() });
        let transports = Transports::new(&registry);
        let streams: Vec<_> = (0..REMEMBERED + 5)
            .map(|n| transports.of(labels(&n.to_string())).open(Stream::memory(duplex(1).0)))
            .collect();
        assert_eq!(transports.0.lock().len(), REMEMBERED);
        let last = format!("tcp_open_connections{{target_addr=\"{}\"}}", REMEMBERED + 4);
        assert_eq!(value(&registry, &last).as_deref(), Some("1"));
        drop(streams);
        assert_eq!(value(&registry, &last).as_deref(), Some("0"));
        value(&registry, "");
        value(&registry, "");
        assert!(transports.0.lock().is_empty(), "unused label sets are forgotten");
    }
}
