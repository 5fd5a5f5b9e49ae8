//! `Destination.GetProfile` (§1B).

use crate::world::*;
use std::time::Duration;
use weft_index::RefusalKind;
use weft_model::destination::{EndpointInfo, ProtocolHint};
use weft_model::profile::{Profile, ProfileRoute};
use weft_model::route::{Condition, Pattern, RetryBudget};
use weft_model::service::{ProfileOverride, ServiceProfile, TargetKind};

const WEB: &str = "web.shop.svc.cluster.local:80";

fn shop() -> World {
    let mut world = World::new();
    world.put(service("shop/web", "240.0.0.1"));
    world.put(workload("shop/web-1", "web", "10.1.0.1"));
    world
}

fn sp(path: &str, route: &str) -> ServiceProfile {
    ServiceProfile {
        meta: meta(path),
        routes: vec![ProfileRoute {
            condition: Condition::Path(Pattern("/.*".into())),
            classes: Vec::new(),
            labels: std::sync::Arc::new(pairs(&[("route", route)])),
            retryable: true,
            timeout: Some(Duration::from_secs(1)),
        }],
        retry_budget: None,
        overrides: Vec::new(),
    }
}

fn route(profile: &Profile) -> Option<String> {
    profile.routes.first().and_then(|r| r.labels.get("route").cloned())
}

#[test]
fn a_service_has_one_profile_by_name_and_by_address() {
    let mut world = shop();
    world.put(service("shop/six", "240.0.0.6,fd00::6"));
    let by_name = world.profile(WEB).unwrap();
    assert_eq!(by_name, world.profile("240.0.0.1:80").unwrap());
    assert_eq!(by_name, world.profile("[::ffff:240.0.0.1]:80").unwrap());
    assert_eq!(by_name.logical.as_ref().unwrap().to_string(), WEB);
    assert_eq!(by_name.retry_budget, Some(RetryBudget::default()));
    assert!(!by_name.opaque && by_name.endpoint.is_none() && by_name.routes.is_empty());
    let parent = by_name.parent.unwrap();
    assert_eq!(
        (parent.group(), parent.kind(), parent.name(), parent.port()),
        ("core", "Service", "web", Some(80))
    );
    let source = by_name.source.unwrap();
    assert_eq!((source.group(), source.kind(), source.name()), ("linkerd.io", "", ""));
    let six = world.profile("[fd00::6]:80").unwrap();
    assert_eq!(six.logical.unwrap().to_string(), "six.shop.svc.cluster.local:80");
}

#[test]
fn what_cannot_be_asked_is_refused() {
    use RefusalKind::*;
    let world = shop();
    for (path, expected) in [
        ("none.shop.svc.cluster.local:80", Some(NotFound)),
        ("example.org:80", Some(InvalidArgument)),
        ("a.b.c.shop.svc.cluster.local:80", Some(InvalidArgument)),
        ("240.0.0.1:0", Some(InvalidArgument)),
        ("x.web.shop.svc.cluster.local:80", Some(NotFound)),
        ("192.0.2.1:80", None),
    ] {
        assert_eq!(kind(world.profile(path)), expected, "{path}");
    }
}

#[test]
fn a_port_that_the_service_does_not_declare_has_an_empty_profile_until_it_does() {
    let mut world = shop();
    assert_eq!(world.profile("240.0.0.1:81").unwrap(), Profile::default());
    let mut web = service("shop/web", "240.0.0.1");
    web.ports.push(service_port("more", 81, "http"));
    world.put(web);
    assert!(world.profile("240.0.0.1:81").unwrap().logical.is_some());
}

#[test]
fn opaqueness_comes_from_the_service_its_namespace_or_the_default_list() {
    let check = |of_namespace: Option<&str>, of_service: Option<&str>, number: u16, opaque: bool| {
        let mut world = World::new();
        let key = "config.linkerd.io/opaque-ports";
        let mut web = service("shop/web", "240.0.0.1");
        web.ports = vec![service_port("http", number, "http")];
        web.meta.annotations = of_service.map(|v| pairs(&[(key, v)])).unwrap_or_default();
        world.put(web);
        if let Some(v) = of_namespace {
            world.put(namespace("shop", &[(key, v)]));
        }
        let case = format!("{of_namespace:?} {of_service:?} {number}");
        assert_eq!(world.profile(&format!("240.0.0.1:{number}")).unwrap().opaque, opaque, "{case}");
    };
    check(None, None, 80, false);
    check(None, None, 3306, true);
    check(None, Some(""), 3306, false);
    check(None, Some("80"), 80, true);
    check(None, Some("http"), 80, true);
    check(None, Some("70-90"), 80, true);
    check(Some("80"), None, 80, true);
    check(Some("80"), Some("81"), 80, false);
    check(Some(""), None, 3306, false);
}

#[test]
fn the_askers_own_profile_of_a_service_comes_before_the_services() {
    let mut world = shop();
    let name = "web.shop.svc.cluster.local";
    world.asker.namespace = "office".into();
    world.put(sp(&format!("shop/{name}"), "owner"));
    assert_eq!(route(&world.profile(WEB).unwrap()).as_deref(), Some("owner"));
    let touched = world.put(sp(&format!("office/{name}"), "asker"));
    assert!(touched.addresses.contains(&"240.0.0.1".parse().unwrap()));
    let profile = world.profile(WEB).unwrap();
    assert_eq!(route(&profile).as_deref(), Some("asker"));
    assert_eq!(profile.source.unwrap().namespace(), "office");
    world.asker.namespace = "third".into();
    assert_eq!(route(&world.profile(WEB).unwrap()).as_deref(), Some("owner"));
    world.delete(sp(&format!("shop/{name}"), ""));
    assert_eq!(route(&world.profile(WEB).unwrap()), None);
}

#[test]
fn splits_take_the_asked_port_and_leave_zero_weights_out() {
    let mut world = shop();
    let mut profile = sp("shop/web.shop.svc.cluster.local", "r");
    let leg = |host: &str, number: Option<u16>, weight| ProfileOverride {
        host: host.parse().unwrap(),
        port: number.map(port),
        weight,
    };
    profile.overrides = vec![
        leg("a.shop.svc.cluster.local", None, 10_000),
        leg("b.shop.svc.cluster.local", Some(8080), 5_000),
        leg("c.shop.svc.cluster.local", None, 0),
    ];
    profile.retry_budget = Some(RetryBudget { ratio: 0.5, ..RetryBudget::default() });
    world.put(profile);
    let profile = world.profile(WEB).unwrap();
    let legs: Vec<_> = profile.overrides.iter().map(|o| (o.addr.to_string(), o.weight)).collect();
    assert_eq!(
        legs,
        [("a.shop.svc.cluster.local:80".into(), 10_000), ("b.shop.svc.cluster.local:8080".into(), 5_000)]
    );
    assert_eq!(profile.retry_budget.unwrap().ratio, 0.5);
}

#[test]
fn a_workloads_own_address_has_a_profile_with_its_endpoint_ready_or_not() {
    let mut world = shop();
    for ready in [None, Some(false), Some(true)] {
        let mut web = workload("shop/web-1", "web", "10.1.0.1");
        web.ready = ready;
        world.put(web);
        let profile = world.profile("10.1.0.1:8080").unwrap();
        let endpoint = profile.endpoint.unwrap();
        assert_eq!(*endpoint.labels, pairs(&[("external_workload", "web-1"), ("namespace", "shop")]));
        assert!(endpoint.tls.is_some());
        assert_eq!(endpoint.hint, ProtocolHint::Http2);
        assert_eq!((profile.logical, profile.parent, profile.source), (None, None, None));
        assert_eq!(profile.retry_budget, Some(RetryBudget::default()));
    }
}

#[test]
fn an_opaque_port_of_a_workload_is_opaque_in_its_own_profile() {
    let mut world = shop();
    let mut web = workload("shop/web-1", "web", "10.1.0.1");
    web.meta.annotations = pairs(&[("config.linkerd.io/opaque-ports", "http")]);
    let touched = world.put(web);
    assert!(touched.addresses.contains(&"10.1.0.1".parse().unwrap()));
    let profile = world.profile("10.1.0.1:8080").unwrap();
    assert!(profile.opaque);
    assert_eq!(profile.endpoint.unwrap().hint, ProtocolHint::Opaque);
    assert!(!world.profile("10.1.0.1:9990").unwrap().opaque);
}

#[test]
fn any_other_address_has_a_profile_of_nothing_but_itself() {
    let world = shop();
    for addr in ["10.1.0.99:8080", "10.1.0.1:1234", "192.0.2.1:443"] {
        let expected =
            Profile { endpoint: Some(EndpointInfo::plain(addr.parse().unwrap())), ..Profile::default() };
        assert_eq!(world.profile(addr).unwrap(), expected, "{addr}");
    }
    assert!(world.profile("192.0.2.1:3306").unwrap().opaque, "the default list holds there too");
}

#[test]
fn an_instance_of_a_headless_service_has_its_endpoints_profile() {
    let mut world = shop();
    world.put(service("shop/web", "None"));
    let profile = world.profile("web-1.web.shop.svc.cluster.local:80").unwrap();
    assert_eq!(profile, world.profile("10.1.0.1:8080").unwrap());
    let mut db = service("shop/db", "None");
    db.selector.clear();
    world.put(db);
    let mut pod = endpoint("10.2.0.1");
    pod.hostname = Some("db-0".into());
    pod.target = target(TargetKind::Pod, "shop/db-0");
    world.put(slice("shop/db", "db", vec![pod]));
    let profile = world.profile("db-0.db.shop.svc.cluster.local:80").unwrap();
    assert_eq!(profile.endpoint.unwrap().addr.to_string(), "10.2.0.1:8080");
}

#[test]
fn of_two_services_with_one_address_the_oldest_owns_it() {
    let mut world = shop();
    let owner = |world: &World| world.profile("240.0.0.1:80").unwrap().logical.unwrap().name.to_string();
    let mut rival = service("shop/abc", "240.0.0.1");
    world.put(rival.clone());
    assert_eq!(owner(&world), "abc.shop.svc.cluster.local", "undated ones go by name");
    rival.meta.created = created(100);
    let mut web = service("shop/web", "240.0.0.1");
    web.meta.created = created(50);
    world.put(rival);
    world.put(web);
    assert_eq!(owner(&world), "web.shop.svc.cluster.local");
    let touched = world.delete(service("shop/web", ""));
    assert_eq!(owner(&world), "abc.shop.svc.cluster.local");
    assert!(touched.addresses.contains(&"240.0.0.1".parse().unwrap()));
}
