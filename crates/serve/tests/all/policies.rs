//! Both policy services, as a stock client sees them.

use crate::world::*;
use linkerd2_proxy_api::inbound::inbound_server_policies_client::InboundServerPoliciesClient;
use linkerd2_proxy_api::inbound::{PortSpec, proxy_protocol as inbound_protocol};
use linkerd2_proxy_api::outbound::outbound_policies_client::OutboundPoliciesClient;
use linkerd2_proxy_api::outbound::{TrafficSpec, proxy_protocol, traffic_spec::Target};
use std::net::SocketAddr;
use tonic::Code;

const ME: &str = r#"{"ns":"shop","external_workload":"web-1"}"#;

fn to(addr: &str) -> TrafficSpec {
    let addr: SocketAddr = addr.parse().unwrap();
    TrafficSpec { source_workload: ME.into(), target: Some(Target::Addr(addr.into())) }
}

fn named(authority: &str) -> TrafficSpec {
    TrafficSpec { source_workload: ME.into(), target: Some(Target::Authority(authority.into())) }
}

async fn shop() -> World {
    let world = World::start().await;
    world.put(service("shop/web", "240.0.0.1"));
    world.put(workload("shop/web-1", "web", "10.0.0.1"));
    world
}

async fn outbound(world: &World) -> OutboundPoliciesClient<Channel> {
    OutboundPoliciesClient::with_origin(world.channel().await, origin())
}

async fn inbound(world: &World) -> InboundServerPoliciesClient<Channel> {
    InboundServerPoliciesClient::with_origin(world.channel().await, origin())
}

#[tokio::test]
async fn an_undeclared_port_is_forbidden_until_it_is_declared() {
    let world = shop().await;
    let mut client = outbound(&world).await;
    let mut stream = client.watch(to("240.0.0.1:81")).await.unwrap().into_inner();
    let kind = |policy: linkerd2_proxy_api::outbound::OutboundPolicy| policy.protocol.unwrap().kind.unwrap();
    let proxy_protocol::Kind::Opaque(opaque) = kind(stream.message().await.unwrap().unwrap()) else {
        panic!()
    };
    assert_eq!(opaque.routes[0].rules[0].filters.len(), 1);
    let mut web = service("shop/web", "240.0.0.1");
    web.ports.push(service_port(81));
    world.put(web);
    let proxy_protocol::Kind::Detect(_) = kind(stream.message().await.unwrap().unwrap()) else { panic!() };
}

#[tokio::test]
async fn policies_are_found_by_address_and_by_name_and_once_or_for_ever() {
    let world = shop().await;
    let mut client = outbound(&world).await;
    let by_address = client.get(to("240.0.0.1:80")).await.unwrap().into_inner();
    let by_name = client.get(named("web.shop.svc.cluster.local:80")).await.unwrap().into_inner();
    assert_eq!(by_address, by_name);
    let first = client.watch(to("240.0.0.1:80")).await.unwrap().into_inner().message().await.unwrap();
    assert_eq!(first, Some(by_address));
}

#[tokio::test]
async fn outbound_questions_without_answer_are_refused_with_the_contracts_codes() {
    let world = shop().await;
    let mut client = outbound(&world).await;
    let with = |workload: &str| TrafficSpec { source_workload: workload.into(), ..to("240.0.0.1:80") };
    for (spec, expected) in [
        (to("10.0.0.9:80"), Code::NotFound),
        (named("web.example.org:80"), Code::NotFound),
        (named("a b:80"), Code::InvalidArgument),
        (named(&"a".repeat(500)), Code::InvalidArgument),
        (TrafficSpec { target: None, ..to("240.0.0.1:80") }, Code::InvalidArgument),
        (with("nonsense"), Code::InvalidArgument),
        (with(r#"{"ns":"bank","pod":"x"}"#), Code::PermissionDenied),
    ] {
        let status = client.watch(spec.clone()).await.err().unwrap();
        assert_eq!(status.code(), expected, "{spec:?}: {status}");
    }
}

#[tokio::test]
async fn an_inbound_policy_is_followed_and_its_stream_ends_well_with_the_workload() {
    let world = shop().await;
    let mut client = inbound(&world).await;
    let spec = PortSpec { workload: ME.into(), port: 8080 };
    let once = client.get_port(spec.clone()).await.unwrap().into_inner();
    let mut stream = client.watch_port(spec).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(first, once);
    assert_eq!(first.labels["name"], "all-unauthenticated");
    let inbound_protocol::Kind::Detect(_) = first.protocol.unwrap().kind.unwrap() else { panic!() };

    let mut denied = workload("shop/web-1", "web", "10.0.0.1");
    denied.meta.annotations.insert("config.linkerd.io/default-inbound-policy".into(), "deny".into());
    world.put(denied.clone());
    let second = stream.message().await.unwrap().unwrap();
    assert_eq!((second.labels["name"].as_str(), second.authorizations.len()), ("deny", 0));
    world.delete(denied);
    assert_eq!(stream.message().await.unwrap(), None);
}

#[tokio::test]
async fn inbound_policies_are_only_for_the_workload_itself() {
    let world = shop().await;
    world.put(workload("shop/bank-1", "bank", "10.0.0.9"));
    let mut client = inbound(&world).await;
    for (workload, port, expected) in [
        (r#"{"ns":"shop","external_workload":"bank-1"}"#, 8080, Code::PermissionDenied),
        (r#"{"ns":"shop","external_workload":"none"}"#, 8080, Code::NotFound),
        ("nonsense", 8080, Code::InvalidArgument),
        (ME, 0, Code::InvalidArgument),
        (ME, 65_536, Code::InvalidArgument),
    ] {
        let status = client.watch_port(PortSpec { workload: workload.into(), port }).await.err().unwrap();
        assert_eq!(status.code(), expected, "{workload} {port}: {status}");
    }
}
