//! Our clients and the stock generated ones against the router, in one process.

use super::*;
use crate::encode;
use futures_util::future::BoxFuture;
use futures_util::stream;
use linkerd2_proxy_api as api;
use std::sync::Arc;
use std::time::Duration;
use weft_model::destination::{EndpointInfo, EndpointUpdate};
use weft_model::meta::Labels;

/// Answers what the query's path asks for.
struct Fake;

fn endpoint(n: u16) -> EndpointInfo {
    EndpointInfo::plain(SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 80)))
}

fn add(range: std::ops::Range<u16>) -> EndpointUpdate {
    EndpointUpdate::Add(range.map(endpoint).collect())
}

fn written(update: &EndpointUpdate) -> Message {
    encode::endpoint_update(update, &Labels::default()).into()
}

impl Destinations for Fake {
    fn endpoints(&self, caller: Caller, query: DestinationQuery) -> Answer {
        Box::pin(async move {
            let refused = Status::new(Code::NotFound, format!("no {} for {:?}", query.path, caller.id));
            let removal = EndpointUpdate::Remove(vec![endpoint(0).addr]);
            let (parts, messages) = match query.path.as_str() {
                "plain" => (1, vec![Ok(written(&add(0..2))), Ok(written(&removal))]),
                "split" => {
                    (3, [add(0..2), add(2..3), add(3..5), removal].iter().map(|u| Ok(written(u))).collect())
                }
                "interrupted" => {
                    (3, vec![Ok(written(&add(0..2))), Ok(written(&removal)), Ok(written(&add(2..3)))])
                }
                "broken" => {
                    (3, vec![Ok(written(&add(0..2))), Err(Status::new(Code::Unavailable, "restart"))])
                }
                "useless" => (1, vec![Ok(Message::new(b"")), Ok(written(&add(0..1)))]),
                "garbage" => (1, vec![Ok(Message::new(b"\xff\xff\xff"))]),
                _ => return Err(refused),
            };
            Ok(Answers { parts, stream: Box::pin(stream::iter(messages)) })
        })
    }

    fn profile(&self, _: Caller, query: DestinationQuery) -> Answer {
        let profile = weft_model::profile::Profile { opaque: query.context == "ctx", ..Default::default() };
        Box::pin(async move { Ok(Answers::new(stream::iter([Ok(encode::profile(&profile).into())]))) })
    }
}

impl Certificates for Fake {
    fn certify(
        &self,
        _: Caller,
        request: CertifyRequest,
    ) -> BoxFuture<'static, Result<CertifyResponse, Status>> {
        Box::pin(async move {
            match request.token.as_slice() {
                b"good" => Ok(CertifyResponse {
                    leaf: request.csr,
                    intermediates: vec![vec![1], vec![2]],
                    valid_until: SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000),
                }),
                _ => Err(Status::new(Code::FailedPrecondition, "bad token")),
            }
        })
    }
}

fn router() -> Router {
    Router::new().with_destinations(Arc::new(Fake)).with_certificates(Arc::new(Fake))
}

fn channel() -> Channel {
    let router = router();
    Channel::new(tower::service_fn(move |mut request: http::Request<Body>| {
        request.extensions_mut().insert(Caller { id: Some("web.shop".parse().unwrap()), addr: None });
        let router = router.clone();
        async move { Ok::<_, BoxError>(router.call(request).await) }
    }))
}

fn run<T>(future: impl Future<Output = T>) -> T {
    futures_util::FutureExt::now_or_never(future).expect("nothing here waits")
}

async fn updates(path: &str) -> (Vec<EndpointUpdate>, Option<Status>) {
    let query = DestinationQuery { path: path.into(), context: String::new() };
    let mut stream = DestinationClient::new(channel()).endpoints(&query).await.unwrap();
    let mut seen = Vec::new();
    loop {
        match stream.next().await {
            Some(Ok(update)) => seen.push(update.value),
            Some(Err(status)) => return (seen, Some(status)),
            None => return (seen, None),
        }
    }
}

#[test]
fn streams_give_updates_and_end() {
    let removal = EndpointUpdate::Remove(vec![endpoint(0).addr]);
    assert_eq!(run(updates("plain")), (vec![add(0..2), removal], None));
}

#[test]
fn a_split_snapshot_arrives_as_one_update() {
    let removal = EndpointUpdate::Remove(vec![endpoint(0).addr]);
    assert_eq!(run(updates("split")), (vec![add(0..5), removal.clone()], None));
    assert_eq!(run(updates("interrupted")), (vec![add(0..2), removal, add(2..3)], None));
}

#[test]
fn an_incomplete_snapshot_is_not_mistaken_for_the_whole() {
    let (seen, status) = run(updates("broken"));
    assert_eq!((seen, status.map(|s| s.code)), (vec![], Some(Code::Unavailable)));
}

#[test]
fn useless_messages_are_skipped_and_their_warnings_kept() {
    run(async {
        let query = DestinationQuery { path: "useless".into(), context: String::new() };
        let mut stream = DestinationClient::new(channel()).endpoints(&query).await.unwrap();
        let update = stream.next().await.unwrap().unwrap();
        assert_eq!(update.value, add(0..1));
        assert_eq!(update.warnings, ["an endpoint update of an unknown kind is ignored"]);
    });
}

#[test]
fn unreadable_messages_end_the_stream_with_a_code_that_is_retried() {
    let (seen, status) = run(updates("garbage"));
    assert_eq!((seen, status.map(|s| s.code)), (vec![], Some(Code::Internal)));
}

#[test]
fn refusals_keep_their_code_and_text_and_the_service_knows_its_caller() {
    run(async {
        let query = DestinationQuery { path: "other".into(), context: String::new() };
        let status = DestinationClient::new(channel()).endpoints(&query).await.err().unwrap();
        assert_eq!(status, Status::new(Code::NotFound, "no other for Some(web.shop)"));
    });
}

#[test]
fn profiles_and_certificates_are_served() {
    run(async {
        let query = DestinationQuery { path: "web.x:80".into(), context: "ctx".into() };
        let port = NonZeroU16::new(80).unwrap();
        let mut stream = DestinationClient::new(channel()).profile(&query, port).await.unwrap();
        assert!(stream.next().await.unwrap().unwrap().value.opaque);

        let mut request =
            CertifyRequest { identity: "web.x".into(), token: b"good".to_vec(), csr: b"csr".to_vec() };
        assert!(!format!("{request:?}").contains("103"), "the token is not shown");
        let response = IdentityClient::new(channel()).certify(&request).await.unwrap();
        assert_eq!((response.leaf.as_slice(), response.intermediates.len()), (&b"csr"[..], 2));
        request.token = b"bad".to_vec();
        let status = IdentityClient::new(channel()).certify(&request).await.unwrap_err();
        assert_eq!(status.code, Code::FailedPrecondition);
    });
}

#[test]
fn a_service_that_is_not_there_is_unimplemented() {
    run(async {
        let target = Target::Authority("web.x:80".into());
        let query = TrafficQuery { workload: "w".into(), target };
        let status = PolicyClient::new(channel()).outbound(&query).await.err().unwrap();
        assert_eq!(status.code, Code::Unimplemented);
    });
}

#[test]
fn requests_that_make_no_sense_are_refused_for_good() {
    struct Never;
    impl Policies for Never {
        fn outbound(&self, _: Caller, _: TrafficQuery) -> Answer {
            panic!("not reached")
        }
        fn inbound(&self, _: Caller, _: PortQuery) -> Answer {
            panic!("not reached")
        }
    }
    let router = Router::new().with_policies(Arc::new(Never));
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let router = router.clone();
        async move { Ok::<_, BoxError>(router.call(request).await) }
    });
    run(async {
        use api::inbound::inbound_server_policies_client::InboundServerPoliciesClient;
        let mut client = InboundServerPoliciesClient::new(service.clone());
        for port in [0, 65_536, u32::MAX] {
            let request = api::inbound::PortSpec { workload: "w".into(), port };
            let status = client.watch_port(request.clone()).await.err().unwrap();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert_eq!(client.get_port(request).await.err().unwrap().code(), tonic::Code::InvalidArgument);
        }
        use api::outbound::outbound_policies_client::OutboundPoliciesClient;
        let spec = api::outbound::TrafficSpec { source_workload: "w".into(), target: None };
        let status = OutboundPoliciesClient::new(service).watch(spec).await.err().unwrap();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
    });
}

#[test]
fn stock_clients_read_the_same_messages() {
    run(async {
        use api::destination::destination_client::DestinationClient as Stock;
        let mut client = Stock::new(channel());
        let request = api::destination::GetDestination { path: "split".into(), ..Default::default() };
        let mut stream = client.get(request).await.unwrap().into_inner();
        let mut adds = Vec::new();
        while let Some(update) = stream.message().await.unwrap() {
            match update.update {
                Some(api::destination::update::Update::Add(set)) => adds.push(set.addrs.len()),
                Some(api::destination::update::Update::Remove(set)) => adds.push(100 + set.addrs.len()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(adds, [2, 1, 2, 101]);
        let oversized =
            api::destination::GetDestination { path: "x".repeat(MAX_REQUEST_BYTES), ..Default::default() };
        assert_eq!(client.get(oversized).await.err().unwrap().code(), tonic::Code::OutOfRange);
    });
}
