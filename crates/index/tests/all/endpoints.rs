//! `Destination.Get` (§1A).

use crate::world::*;
use weft_index::config::{Families, Http2Upgrade, TransportMode, ZoneWeights};
use weft_index::{Config, RefusalKind, ViewKey};
use weft_model::destination::{Locality, ProtocolHint};
use weft_model::identity::Id;
use weft_model::service::{Addressing, TargetKind, TrafficPolicy};
use weft_model::workload::{Owner, WorkloadPort};

const WEB: &str = "web.shop.svc.cluster.local:80";

fn shop() -> World {
    let mut world = World::new();
    world.put(service("shop/web", "240.0.0.1"));
    world.put(workload("shop/web-1", "web", "10.1.0.1"));
    world.put(workload("shop/web-2", "web", "10.1.0.2"));
    world.put(workload("shop/other", "other", "10.1.0.3"));
    world.put(workload("elsewhere/web-3", "web", "10.1.0.4"));
    world
}

#[test]
fn a_path_must_name_a_service_of_the_mesh() {
    use RefusalKind::*;
    let mut world = shop();
    let mut external = service("shop/ext", "");
    external.addressing = Addressing::External("example.org".into());
    world.put(external);
    for (path, expected) in [
        ("web.shop.svc.cluster.local:80", None),
        ("web.shop.svc.cluster.local", None),
        ("Web.Shop.Svc.Cluster.Local.:80", None),
        ("web.shop.svc.cluster.local:0", Some(InvalidArgument)),
        ("web.shop.svc.cluster.local:65536", Some(InvalidArgument)),
        ("10.1.0.1:80", Some(InvalidArgument)),
        ("[::1]:80", Some(InvalidArgument)),
        ("web.shop.svc.example.org:80", Some(InvalidArgument)),
        ("web.shop:80", Some(InvalidArgument)),
        ("a.b.web.shop.svc.cluster.local:80", Some(InvalidArgument)),
        ("", Some(InvalidArgument)),
        ("none.shop.svc.cluster.local:80", Some(NotFound)),
        ("ext.shop.svc.cluster.local:80", Some(InvalidArgument)),
    ] {
        assert_eq!(kind(world.endpoints(path)), expected, "{path}");
    }
}

#[test]
fn a_selector_picks_the_ready_workloads_of_its_namespace_in_order() {
    let mut world = shop();
    assert_eq!(world.addrs(WEB), ["10.1.0.1:8080", "10.1.0.2:8080"]);
    let mut unready = workload("shop/web-1", "web", "10.1.0.1");
    unready.ready = Some(false);
    world.put(unready);
    assert_eq!(world.addrs(WEB), ["10.1.0.2:8080"]);
    world.delete(workload("shop/web-2", "web", "10.1.0.2"));
    assert!(world.addrs(WEB).is_empty(), "a service without endpoints is an answer, not an error");
    world.delete(service("shop/web", ""));
    assert_eq!(kind(world.endpoints(WEB)), Some(RefusalKind::NotFound));
}

#[test]
fn target_ports_are_names_or_numbers_that_the_workload_declares() {
    let mut world = shop();
    let mut web = service("shop/web", "240.0.0.1");
    web.ports = vec![
        service_port("http", 80, "http"),
        service_port("admin", 81, "9990"),
        service_port("none", 82, "7777"),
        service_port("gone", 83, "grpc"),
    ];
    world.put(web);
    for (port, expected) in [
        (80, vec!["10.1.0.1:8080", "10.1.0.2:8080"]),
        (81, vec!["10.1.0.1:9990", "10.1.0.2:9990"]),
        (82, vec![]),
        (83, vec![]),
        // A port that the service does not declare is taken as the workloads' own.
        (5000, vec!["10.1.0.1:5000", "10.1.0.2:5000"]),
    ] {
        assert_eq!(world.addrs(&format!("web.shop.svc.cluster.local:{port}")), expected, "{port}");
    }
}

#[test]
fn a_named_port_may_differ_from_workload_to_workload() {
    let mut world = shop();
    let mut second = workload("shop/web-2", "web", "10.1.0.2");
    second.ports = vec![WorkloadPort { name: "http".into(), port: port(9080) }];
    world.put(second);
    assert_eq!(world.addrs(WEB), ["10.1.0.1:8080", "10.1.0.2:9080"]);
}

#[test]
fn a_workload_is_announced_with_identity_hint_and_transport_port() {
    let mut world = shop();
    let mut first = workload("shop/web-1", "web", "10.1.0.1");
    first.owner = Some(Owner { kind: "Deployment".into(), name: "web".into() });
    first.meta.labels.insert("topology.kubernetes.io/zone".into(), "rack-a".into());
    world.put(first);
    let set = world.endpoints(WEB).unwrap();
    assert_eq!(*set.labels, pairs(&[("namespace", "shop"), ("service", "web")]));
    let web = &set.endpoints[0];
    assert_eq!(web.weight, 10_000);
    let labels = pairs(&[("external_workload", "web-1"), ("deployment", "web"), ("zone", "rack-a")]);
    assert_eq!(*web.labels, labels);
    let tls = web.tls.as_ref().unwrap();
    assert_eq!(tls.id.as_str(), "web.shop.serviceaccount.identity.linkerd.cluster.local");
    assert_eq!(tls.server_name.as_str(), tls.id.as_str());
    assert_eq!(web.hint, ProtocolHint::Http2);
    assert_eq!(web.transport_port, Some(port(4143)));
    assert!(web.http2.unwrap().keep_alive.is_some());
    assert_eq!(web.authority_override, None);
}

#[test]
fn a_spiffe_identity_is_a_uri_and_keeps_its_server_name() {
    let mut world = shop();
    let mut first = workload("shop/web-1", "web", "10.1.0.1");
    first.identity = "spiffe://mesh/web".parse().unwrap();
    world.put(first);
    let set = world.endpoints(WEB).unwrap();
    let tls = set.endpoints[0].tls.as_ref().unwrap();
    assert!(matches!(&tls.id, Id::Uri(uri) if &**uri == "spiffe://mesh/web"));
    assert_eq!(tls.server_name.as_str(), "web.shop.serviceaccount.identity.linkerd.cluster.local");
}

#[test]
fn the_proxys_port_is_the_one_the_workload_names() {
    let mut world = shop();
    let mut first = workload("shop/web-1", "web", "10.1.0.1");
    first.ports.push(WorkloadPort { name: "linkerd-proxy".into(), port: port(5143) });
    world.put(first);
    assert_eq!(world.endpoints(WEB).unwrap().endpoints[0].transport_port, Some(port(5143)));
    let itself = world.endpoints("web.shop.svc.cluster.local:5143").unwrap();
    assert_eq!(itself.endpoints[0].transport_port, None, "no header to the proxy's own port");
}

#[test]
fn hints_obey_opaque_ports_the_upgrade_setting_and_the_transport_mode() {
    let own: &[(&str, &str)] = &[("config.linkerd.io/opaque-ports", "http,1-10")];
    let other: &[(&str, &str)] = &[("config.linkerd.io/opaque-ports", "9000")];
    for (upgrade, mode, of_namespace, of_workload, hint, header) in [
        (Http2Upgrade::Offered, TransportMode::Header, &[][..], &[][..], ProtocolHint::Http2, true),
        (Http2Upgrade::Withheld, TransportMode::Header, &[], &[], ProtocolHint::Unknown, true),
        (Http2Upgrade::Offered, TransportMode::Transparent, &[], &[], ProtocolHint::Http2, false),
        (Http2Upgrade::Offered, TransportMode::Transparent, &[], own, ProtocolHint::Opaque, true),
        (Http2Upgrade::Withheld, TransportMode::Header, own, &[], ProtocolHint::Opaque, true),
        (Http2Upgrade::Offered, TransportMode::Header, own, other, ProtocolHint::Http2, true),
    ] {
        let mut world = World::with(Config { upgrade, transport: mode, ..Config::default() });
        world.put(service("shop/web", "240.0.0.1"));
        world.put(namespace("shop", of_namespace));
        let mut web = workload("shop/web-1", "web", "10.1.0.1");
        web.meta.annotations = pairs(of_workload);
        world.put(web);
        let set = world.endpoints(WEB).unwrap();
        let case = format!("{upgrade:?} {mode:?} {of_namespace:?} {of_workload:?}");
        assert_eq!(set.endpoints[0].hint, hint, "{case}");
        assert_eq!(set.endpoints[0].transport_port.is_some(), header, "{case}");
    }
}

#[test]
fn ports_of_the_default_list_are_opaque_unless_an_annotation_says_otherwise() {
    let mut world = shop();
    let mut db = workload("shop/web-1", "web", "10.1.0.1");
    db.ports = vec![WorkloadPort { name: "http".into(), port: port(3306) }];
    world.put(db.clone());
    assert_eq!(world.endpoints(WEB).unwrap().endpoints[0].hint, ProtocolHint::Opaque);
    db.meta.annotations = pairs(&[("config.linkerd.io/opaque-ports", "")]);
    world.put(db);
    assert_eq!(world.endpoints(WEB).unwrap().endpoints[0].hint, ProtocolHint::Http2);
}

#[test]
fn skipped_ports_are_announced_without_identity_or_hint() {
    let mut world = shop();
    world.put(namespace("shop", &[("config.linkerd.io/skip-inbound-ports", "8080")]));
    let web = world.endpoints(WEB).unwrap().endpoints[0].clone();
    assert_eq!((web.tls, web.hint, web.transport_port, web.http2), (None, ProtocolHint::Unknown, None, None));
}

#[test]
fn an_edit_of_a_workload_is_noticed() {
    let mut world = shop();
    let before = world.endpoints(WEB).unwrap();
    let mut web = workload("shop/web-1", "web", "10.1.0.1");
    web.identity = "new.shop.serviceaccount.identity.linkerd.cluster.local".parse().unwrap();
    let touched = world.put(web);
    let after = world.endpoints(WEB).unwrap();
    let (adds, removes) = weft_index::diff(&before.endpoints, &after.endpoints);
    assert_eq!(adds.len(), 1);
    assert!(removes.is_empty());
    assert!(touched.endpoints.iter().any(|s| s.name == "web"));
}

#[test]
fn both_addresses_of_a_dual_stack_workload_are_kept_unless_the_setting_says_otherwise() {
    for (families, expected) in [
        (Families::Both, vec!["10.1.0.1:8080", "10.1.0.2:8080", "[fd00::1]:8080"]),
        (Families::PreferV6, vec!["10.1.0.2:8080", "[fd00::1]:8080"]),
        (Families::V4, vec!["10.1.0.1:8080", "10.1.0.2:8080"]),
    ] {
        let mut world = World::with(Config { families, ..Config::default() });
        world.put(service("shop/web", "240.0.0.1"));
        world.put(workload("shop/web-1", "web", "10.1.0.1,fd00::1"));
        world.put(workload("shop/web-2", "web", "10.1.0.2"));
        assert_eq!(world.addrs(WEB), expected, "{families:?}");
    }
}

#[test]
fn a_headless_service_gives_its_instances_by_name() {
    let mut world = shop();
    world.put(service("shop/web", "None"));
    assert_eq!(world.addrs(WEB), ["10.1.0.1:8080", "10.1.0.2:8080"]);
    assert_eq!(world.addrs("web-2.web.shop.svc.cluster.local:80"), ["10.1.0.2:8080"]);
    assert!(world.addrs("web-9.web.shop.svc.cluster.local:80").is_empty());
}

#[test]
fn a_service_without_selector_takes_the_addresses_of_its_slices() {
    let mut world = World::new();
    let mut db = service("shop/db", "240.0.0.2");
    db.selector.clear();
    world.put(db);
    let mut unready = endpoint("10.2.0.2");
    unready.ready = Some(false);
    let mut named = endpoint("10.2.0.3");
    named.hostname = Some("db-0".into());
    world.put(slice("shop/db-a", "db", vec![endpoint("10.2.0.1"), unready]));
    world.put(slice("shop/db-b", "db", vec![named, endpoint("10.2.0.1")]));
    world.put(slice("shop/other", "other", vec![endpoint("10.2.0.9")]));
    let path = "db.shop.svc.cluster.local:80";
    assert_eq!(world.addrs(path), ["10.2.0.1:8080", "10.2.0.3:8080"]);
    assert_eq!(world.addrs("db-0.db.shop.svc.cluster.local:80"), ["10.2.0.3:8080"]);
    assert_eq!(world.addrs("db.shop.svc.cluster.local:99"), ["10.2.0.1:99", "10.2.0.3:99"]);
    let plain = world.endpoints(path).unwrap().endpoints[0].clone();
    assert_eq!((plain.tls, plain.hint, plain.labels.len()), (None, ProtocolHint::Unknown, 0));
    let mut portless = slice("shop/db-a", "db", vec![endpoint("10.2.0.1")]);
    portless.ports = None;
    world.put(portless);
    assert_eq!(world.addrs("db.shop.svc.cluster.local:99"), ["10.2.0.1:99", "10.2.0.3:99"]);
    world.delete(slice("shop/db-b", "db", vec![]));
    assert!(world.addrs(path).is_empty(), "a slice without ports gives nothing");
}

#[test]
fn a_slice_may_point_at_workloads_pods_and_gateways() {
    let mut world = World::new();
    let mut db = service("shop/db", "240.0.0.2");
    db.selector.clear();
    world.put(db);
    world.put(workload("shop/db-1", "db", "10.2.0.1"));
    let mut known = endpoint("10.2.0.1");
    known.target = target(TargetKind::ExternalWorkload, "shop/db-1");
    let mut unknown = endpoint("10.2.0.2");
    unknown.target = target(TargetKind::ExternalWorkload, "shop/gone");
    let mut pod = endpoint("10.2.0.3");
    pod.target = target(TargetKind::Pod, "shop/db-pod");
    let mut gateway = slice("shop/db", "db", vec![known, unknown, pod, endpoint("10.2.0.4")]);
    gateway.meta.annotations = pairs(&[
        ("mirror.linkerd.io/remote-gateway-identity", "gw.linkerd-multicluster.serviceaccount.identity.x"),
        ("mirror.linkerd.io/remote-svc-fq-name", "db.shop.svc.west.local"),
    ]);
    world.put(gateway);
    let set = world.endpoints("db.shop.svc.cluster.local:80").unwrap();
    let [known, pod, gateway] = &set.endpoints[..] else { panic!("{:?}", set.endpoints) };
    assert_eq!(known.labels.get("external_workload").map(String::as_str), Some("db-1"));
    assert!(known.tls.is_some());
    assert_eq!(pod.labels.get("pod").map(String::as_str), Some("db-pod"));
    assert!(pod.tls.is_none());
    assert_eq!(gateway.authority_override.as_deref(), Some("db.shop.svc.west.local:80"));
    assert_eq!(
        gateway.tls.as_ref().unwrap().id.as_str(),
        "gw.linkerd-multicluster.serviceaccount.identity.x"
    );
    assert_eq!((gateway.hint, gateway.transport_port), (ProtocolHint::Http2, None));
    let touched = world.delete(workload("shop/db-1", "db", "10.2.0.1"));
    assert!(touched.endpoints.iter().any(|s| s.name == "db"), "the slice's service hears of it");
}

#[test]
fn slices_of_a_mirrored_service_carry_its_target_labels() {
    let mut world = World::new();
    let mut db = service("shop/db-west", "240.0.0.2");
    db.meta.labels = pairs(&[("mirror.linkerd.io/cluster-name", "west")]);
    db.meta.annotations = pairs(&[("mirror.linkerd.io/remote-svc-fq-name", "db.store.svc.west.local")]);
    world.put(db);
    let labels = world.endpoints("db-west.shop.svc.cluster.local:80").unwrap().labels;
    assert_eq!(
        *labels,
        pairs(&[
            ("namespace", "shop"),
            ("service", "db-west"),
            ("target_cluster", "west"),
            ("target_service", "db"),
            ("target_service_namespace", "store"),
        ])
    );
}

#[test]
fn a_selected_workload_is_not_doubled_by_a_slice_somebody_wrote_down() {
    let mut world = shop();
    let mut stale = endpoint("10.1.0.7");
    stale.target = target(TargetKind::ExternalWorkload, "shop/web-1");
    world.put(slice("shop/linkerd-external-web", "web", vec![stale, endpoint("10.1.0.1")]));
    let set = world.endpoints(WEB).unwrap();
    assert_eq!(set.endpoints.len(), 2);
    assert!(set.endpoints[0].tls.is_some(), "what is known best about an address wins");
}

#[test]
fn local_traffic_stays_on_the_askers_host() {
    let mut world = shop();
    let mut web = service("shop/web", "240.0.0.1");
    web.traffic = TrafficPolicy::Local;
    world.put(web);
    let mut first = workload("shop/web-1", "web", "10.1.0.1");
    first.meta.labels.insert("kubernetes.io/hostname".into(), "host-a".into());
    world.put(first);
    assert!(world.addrs(WEB).is_empty(), "an asker on no known host gets nothing");
    world.asker.node = "host-a".into();
    assert_eq!(world.addrs(WEB), ["10.1.0.1:8080"]);
    world.asker.node = "host-b".into();
    assert!(world.addrs(WEB).is_empty());
}

#[test]
fn zones_make_labels_and_weights_and_are_followed() {
    let mut world = World::with(Config { zone_weights: ZoneWeights::LocalTenfold, ..Config::default() });
    world.put(service("shop/web", "240.0.0.1"));
    for (name, ip, zone) in [("web-1", "10.1.0.1", "a"), ("web-2", "10.1.0.2", "b")] {
        let mut web = workload(&format!("shop/{name}"), "web", ip);
        web.meta.labels.insert("topology.kubernetes.io/zone".into(), zone.into());
        world.put(web);
    }
    world.put(workload("shop/web-3", "web", "10.1.0.3"));
    let seen = |world: &World| -> Vec<_> {
        world.endpoints(WEB).unwrap().endpoints.iter().map(|e| (e.locality, e.weight)).collect()
    };
    use Locality::*;
    assert_eq!(seen(&world), [(Unknown, 10_000), (Unknown, 10_000), (Unknown, 10_000)]);
    for (zone, expected) in [
        ("a", [(Local, 100_000), (Remote, 10_000), (Unknown, 10_000)]),
        ("b", [(Remote, 10_000), (Local, 100_000), (Unknown, 10_000)]),
    ] {
        let mut client = workload("shop/client", "client", "10.1.0.9");
        client.meta.labels.insert("topology.kubernetes.io/zone".into(), zone.into());
        let touched = world.put(client);
        assert!(touched.moves(&world.asker), "the asker hears that it moved");
        assert_eq!(seen(&world), expected, "{zone}");
    }
    let local = world.endpoints(WEB).unwrap().endpoints[1].clone();
    assert_eq!(local.labels.get("zone_locality").map(String::as_str), Some("local"));
}

#[test]
fn topology_hints_are_obeyed_only_if_all_have_them_and_one_fits() {
    let hinted = |hints: [&str; 2]| {
        let mut world = World::new();
        let mut db = service("shop/web", "240.0.0.2");
        db.selector.clear();
        world.put(db);
        let mut client = workload("shop/client", "client", "10.1.0.9");
        client.meta.labels.insert("topology.kubernetes.io/zone".into(), "a".into());
        world.put(client);
        let endpoints = ["10.2.0.1", "10.2.0.2"].iter().zip(hints).map(|(ip, hint)| {
            let mut e = endpoint(ip);
            e.hints = hint.split(',').filter(|h| !h.is_empty()).map(str::to_owned).collect();
            e
        });
        world.put(slice("shop/db", "web", endpoints.collect()));
        world.addrs(WEB)
    };
    assert_eq!(hinted(["a", "b"]), ["10.2.0.1:8080"]);
    assert_eq!(hinted(["a,b", "b,a"]), ["10.2.0.1:8080", "10.2.0.2:8080"]);
    assert_eq!(hinted(["a", ""]), ["10.2.0.1:8080", "10.2.0.2:8080"]);
    assert_eq!(hinted(["b", "c"]), ["10.2.0.1:8080", "10.2.0.2:8080"]);
}

#[test]
fn askers_of_one_zone_share_a_view() {
    let world = shop();
    let view = |workload: &str, node: &str| {
        let asker = weft_model::workload::Asker {
            namespace: "shop".into(),
            workload: workload.into(),
            node: node.into(),
        };
        world.index.view(&weft_index::Question::Endpoints { path: WEB.into(), asker }).unwrap()
    };
    let key = view("a", "n1");
    assert_eq!(key, view("b", "n2"));
    assert!(matches!(key, ViewKey::Endpoints { .. }));
}
