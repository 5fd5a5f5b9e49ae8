//! `Destination.Get` and `GetProfile`, as a stock client sees them.

use crate::world::*;
use linkerd2_proxy_api::destination as api;
use linkerd2_proxy_api::destination::destination_client::DestinationClient;
use std::net::SocketAddr;
use tonic::{Code, Streaming};

const PATH: &str = "web.shop.svc.cluster.local:80";
const SHOP: &str = r#"{"ns":"shop"}"#;

fn get(path: &str, context: &str) -> api::GetDestination {
    api::GetDestination { scheme: String::new(), path: path.into(), context_token: context.into() }
}

async fn client(world: &World) -> DestinationClient<Channel> {
    DestinationClient::with_origin(world.channel().await, origin())
}

async fn follow(world: &World) -> Streaming<api::Update> {
    client(world).await.get(get(PATH, SHOP)).await.unwrap().into_inner()
}

fn ip(addr: &linkerd2_proxy_api::net::TcpAddress) -> String {
    SocketAddr::try_from(*addr).unwrap().ip().to_string()
}

/// The next message as text: `+IP,IP`, `-IP`, `none`, `absent`.
async fn heard(stream: &mut Streaming<api::Update>) -> String {
    use api::update::Update::*;
    match stream.message().await.unwrap().unwrap().update.unwrap() {
        Add(set) => {
            let ips: Vec<_> = set.addrs.iter().map(|a| ip(a.addr.as_ref().unwrap())).collect();
            format!("+{}", ips.join(","))
        }
        Remove(set) => format!("-{}", set.addrs.iter().map(ip).collect::<Vec<_>>().join(",")),
        NoEndpoints(none) if none.exists => "none".into(),
        NoEndpoints(_) => "absent".into(),
    }
}

#[tokio::test]
async fn endpoints_come_as_a_snapshot_and_then_as_differences() {
    let world = World::start().await;
    world.put(service("shop/web", "240.0.0.1"));
    world.put(workload("shop/web-1", "web", "10.0.0.1"));
    let mut stream = follow(&world).await;
    assert_eq!(heard(&mut stream).await, "+10.0.0.1");
    world.put(workload("shop/web-2", "web", "10.0.0.2"));
    assert_eq!(heard(&mut stream).await, "+10.0.0.2");
    world.delete(workload("shop/web-1", "web", "10.0.0.1"));
    assert_eq!(heard(&mut stream).await, "-10.0.0.1");
    world.delete(workload("shop/web-2", "web", "10.0.0.1"));
    assert_eq!(heard(&mut stream).await, "none");
    world.put(workload("shop/web-3", "web", "10.0.0.3"));
    assert_eq!(heard(&mut stream).await, "+10.0.0.3");
    world.delete(service("shop/web", "240.0.0.1"));
    assert_eq!(heard(&mut stream).await, "absent");
    world.put(service("shop/web", "240.0.0.1"));
    assert_eq!(heard(&mut stream).await, "+10.0.0.3");
}

#[tokio::test]
async fn a_service_without_endpoints_is_announced_as_empty() {
    let world = World::start().await;
    world.put(service("shop/web", "240.0.0.1"));
    assert_eq!(heard(&mut follow(&world).await).await, "none");
}

#[tokio::test]
async fn equal_answers_are_not_sent_again() {
    let world = World::start().await;
    world.put(service("shop/web", "240.0.0.1"));
    let mut first = workload("shop/web-1", "web", "10.0.0.1");
    world.put(first.clone());
    let mut stream = follow(&world).await;
    assert_eq!(heard(&mut stream).await, "+10.0.0.1");
    // Touches the view, but says nothing that a client is told.
    first.meta.labels.insert("note".into(), "x".into());
    world.put(first);
    world.put(workload("shop/web-2", "web", "10.0.0.2"));
    assert_eq!(heard(&mut stream).await, "+10.0.0.2");
}

#[tokio::test]
async fn a_burst_of_changes_is_heard_as_its_outcome() {
    let world = World::start().await;
    world.put(service("shop/web", "240.0.0.1"));
    let mut stream = follow(&world).await;
    assert_eq!(heard(&mut stream).await, "none");
    for round in 0..100 {
        world.put(workload("shop/web-1", "web", &format!("10.0.0.{}", 1 + round % 2)));
    }
    world.put(workload("shop/web-2", "web", "10.0.0.9"));
    let (mut known, mut messages) = (std::collections::BTreeSet::new(), 0);
    while !known.contains("10.0.0.9") || known.len() != 2 {
        let message = heard(&mut stream).await;
        let (sign, ips) = message.split_at(1);
        for ip in ips.split(',') {
            if sign == "+" {
                known.insert(ip.to_owned())
            } else {
                known.remove(ip)
            };
        }
        messages += 1;
    }
    assert!(known.contains("10.0.0.2"), "{known:?}");
    assert!(messages < 50, "{messages} messages for 101 changes");
}

#[tokio::test]
async fn labels_of_the_service_stand_with_the_set() {
    let world = World::start().await;
    world.put(service("shop/web", "240.0.0.1"));
    world.put(workload("shop/web-1", "web", "10.0.0.1"));
    let mut stream = follow(&world).await;
    let Some(api::update::Update::Add(set)) = stream.message().await.unwrap().unwrap().update else {
        panic!()
    };
    assert_eq!(
        (set.metric_labels["service"].as_str(), set.metric_labels["namespace"].as_str()),
        ("web", "shop")
    );
    assert_eq!(set.addrs[0].metric_labels["external_workload"], "web-1");
    assert!(!set.addrs[0].metric_labels.contains_key("service"));
    assert!(set.addrs[0].tls_identity.is_some());
}

#[tokio::test]
async fn questions_without_answer_are_refused_with_the_contracts_codes() {
    let world = World::start().await;
    world.put(service("shop/web", "240.0.0.1"));
    let mut client = client(&world).await;
    let long = format!("{}:80", "a.".repeat(400));
    for (path, expected) in [
        ("10.0.0.1:80", Code::InvalidArgument),
        ("web.shop.example.org:80", Code::InvalidArgument),
        ("web.shop.svc.cluster.local:0", Code::InvalidArgument),
        (&long, Code::InvalidArgument),
        ("none.shop.svc.cluster.local:80", Code::NotFound),
    ] {
        let status = client.get(get(path, "")).await.err().unwrap();
        assert_eq!(status.code(), expected, "{path}: {status}");
    }
    // A malformed token is no error.
    client.get(get(PATH, "{broken")).await.unwrap();
}

#[tokio::test]
async fn a_caller_may_not_claim_another_namespace() {
    let world = World::start().await;
    world.put(service("shop/web", "240.0.0.1"));
    world.put(workload("shop/bank-1", "bank", "10.0.0.9"));
    let mut client = client(&world).await;
    for (context, allowed) in [
        ("ns:shop", true),
        (r#"{"ns":"bank"}"#, false),
        ("ns:bank", false),
        (r#"{"ns":"shop","external_workload":"bank-1"}"#, false),
    ] {
        let outcome = client.get(get(PATH, context)).await;
        assert_eq!(outcome.as_ref().err().map(|s| s.code()), (!allowed).then_some(Code::PermissionDenied));
        let outcome = client.get_profile(get(PATH, context)).await;
        assert_eq!(
            outcome.err().map(|s| s.code()),
            (!allowed).then_some(Code::PermissionDenied),
            "{context}"
        );
    }
}

#[tokio::test]
async fn an_asker_that_moves_to_another_zone_hears_of_it() {
    let world = World::start().await;
    world.put(service("shop/web", "240.0.0.1"));
    let zone = |path: &str, ip: &str, zone: &str| {
        let mut workload = workload(path, "web", ip);
        workload.meta.labels.insert("topology.kubernetes.io/zone".into(), zone.into());
        workload
    };
    world.put(zone("shop/web-1", "10.0.0.1", "a"));
    let mut asker = zone("shop/me", "10.0.0.2", "a");
    asker.meta.labels.insert("app".into(), "none".into());
    world.put(asker.clone());
    let context = r#"{"ns":"shop","external_workload":"me"}"#;
    let mut stream = client(&world).await.get(get(PATH, context)).await.unwrap().into_inner();
    let locality = |update: api::Update| match update.update {
        Some(api::update::Update::Add(set)) => set.addrs[0].metric_labels["zone_locality"].clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(locality(stream.message().await.unwrap().unwrap()), "local");
    asker.meta.labels.insert("topology.kubernetes.io/zone".into(), "b".into());
    world.put(asker);
    assert_eq!(locality(stream.message().await.unwrap().unwrap()), "remote");
}

#[tokio::test]
async fn profiles_are_followed_and_end_with_their_service() {
    let world = World::start().await;
    world.put(service("shop/web", "240.0.0.1"));
    let mut client = client(&world).await;
    let mut stream = client.get_profile(get("240.0.0.1:80", SHOP)).await.unwrap().into_inner();
    let profile = stream.message().await.unwrap().unwrap();
    assert_eq!(profile.fully_qualified_name, "web.shop.svc.cluster.local");
    assert!(!profile.opaque_protocol);
    let mut opaque = service("shop/web", "240.0.0.1");
    opaque.meta.annotations.insert("config.linkerd.io/opaque-ports".into(), "80".into());
    world.put(opaque);
    assert!(stream.message().await.unwrap().unwrap().opaque_protocol);

    let mut by_name = client.get_profile(get(PATH, SHOP)).await.unwrap().into_inner();
    assert!(by_name.message().await.unwrap().unwrap().opaque_protocol);
    world.delete(service("shop/web", "240.0.0.1"));
    assert_eq!(by_name.message().await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn ten_thousand_endpoints_come_in_several_messages_that_a_stock_client_reads() {
    let world = World::start().await;
    world.put(service("shop/web", "240.0.0.1"));
    let long = "x".repeat(60);
    let all = (0..10_000u32).map(|n| {
        let ip = std::net::Ipv4Addr::from_bits(0x0a00_0001 + n).to_string();
        let mut workload = workload(&format!("shop/{long}-{n}"), "web", &ip);
        workload.owner =
            Some(weft_model::workload::Owner { kind: "Deployment".into(), name: format!("web-{long}") });
        weft_model::object::Change::Upsert(workload.object())
    });
    world.views.apply(all.collect::<Vec<_>>());
    let mut stream = follow(&world).await;
    let (mut addrs, mut messages) = (0, 0);
    while addrs < 10_000 {
        let Some(api::update::Update::Add(set)) = stream.message().await.unwrap().unwrap().update else {
            panic!()
        };
        addrs += set.addrs.len();
        messages += 1;
    }
    assert!(messages > 1, "{messages}");
    // Ours takes the parts for one.
    let mut channel = world.channel().await;
    let channel =
        weft_wire::services::Channel::new(tower::service_fn(move |mut request: http::Request<_>| {
            *request.uri_mut() = format!("http://control.mesh{}", request.uri().path()).parse().unwrap();
            let sent = tower::Service::call(&mut channel, request);
            async move { Ok::<_, weft_wire::services::BoxError>(sent.await?.map(tonic::body::Body::new)) }
        }));
    let query = weft_wire::services::DestinationQuery { path: PATH.into(), context: SHOP.into() };
    let client = weft_wire::services::DestinationClient::new(channel);
    let first = client.endpoints(&query).await.unwrap().next().await.unwrap().unwrap();
    let weft_model::destination::EndpointUpdate::Add(list) = first.value else { panic!() };
    assert_eq!((list.len(), first.warnings), (10_000, vec![]));
}
