//! One table per rule of §2.4, each starting from a policy that is valid.

use super::super::{Decoded, with_warnings};
use super::*;
use api::http_route as hr;
use outbound::http_route as oh;
use outbound::proxy_protocol::{Detect, Grpc, Http1, Http2, Kind, Opaque, Tls};

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn named(name: &str) -> Option<api::meta::Metadata> {
    Some(api::meta::Metadata { kind: Some(api::meta::metadata::Kind::Default(name.into())) })
}

fn decode(kind: Option<Kind>) -> Decoded<OutboundPolicy> {
    let protocol = Some(outbound::ProxyProtocol { kind });
    with_warnings(|w| policy_or_invalid(outbound::OutboundPolicy { protocol, metadata: named("p") }, w))
}

fn waits() -> Option<outbound::ExponentialBackoff> {
    Some(outbound::ExponentialBackoff {
        min_backoff: seconds(1),
        max_backoff: seconds(60),
        jitter_ratio: 0.5,
        respect_retry_after_hint: true,
    })
}

fn balancer() -> outbound::Backend {
    use outbound::backend::{BalanceP2c, EndpointDiscovery, balance_p2c, endpoint_discovery};
    let dst = endpoint_discovery::DestinationGet { path: "web.shop.svc.cluster.local:80".into() };
    let ewma = balance_p2c::PeakEwma { default_rtt: seconds(1), decay: seconds(10) };
    outbound::Backend {
        metadata: named("b"),
        queue: Some(outbound::Queue { capacity: 100, failfast_timeout: seconds(3) }),
        kind: Some(outbound::backend::Kind::Balancer(BalanceP2c {
            discovery: Some(EndpointDiscovery { kind: Some(endpoint_discovery::Kind::Dst(dst)) }),
            load: Some(balance_p2c::Load::PeakEwma(ewma)),
        })),
    }
}

fn route_backend(backend: outbound::Backend) -> oh::RouteBackend {
    oh::RouteBackend { backend: Some(backend), ..Default::default() }
}

fn first(backends: Vec<oh::RouteBackend>) -> Option<oh::Distribution> {
    let kind = oh::distribution::Kind::FirstAvailable(oh::distribution::FirstAvailable { backends });
    Some(oh::Distribution { kind: Some(kind) })
}

fn random(weights: &[u32]) -> Option<oh::Distribution> {
    let one =
        |weight: &u32| oh::WeightedRouteBackend { backend: Some(route_backend(balancer())), weight: *weight };
    let backends = weights.iter().map(one).collect();
    let kind = oh::distribution::Kind::RandomAvailable(oh::distribution::RandomAvailable { backends });
    Some(oh::Distribution { kind: Some(kind) })
}

fn rule() -> oh::Rule {
    oh::Rule { backends: first(vec![route_backend(balancer())]), ..Default::default() }
}

fn route(rule: oh::Rule) -> outbound::HttpRoute {
    outbound::HttpRoute { metadata: named("r"), hosts: vec![], rules: vec![rule] }
}

fn http1(rule: oh::Rule) -> Option<Kind> {
    Some(Kind::Http1(Http1 { routes: vec![route(rule)], failure_accrual: None }))
}

fn is_invalid(decoded: &Decoded<OutboundPolicy>) -> bool {
    let invalid = decoded.value.meta == Meta::default_named("invalid");
    assert_eq!(decoded.warnings.iter().any(|w| w.contains("policy is invalid")), invalid);
    invalid
}

fn check(rule: oh::Rule, valid: bool) {
    let shown = format!("{rule:?}");
    assert_eq!(is_invalid(&decode(http1(rule))), !valid, "{shown}");
}

fn only_rule(decoded: Decoded<OutboundPolicy>) -> Rule {
    match decoded.value.protocol {
        OutboundProtocol::Http1(http) => http.routes[0].rules[0].clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_invalid_policy_refuses_everything() {
    let decoded = decode(None);
    assert!(is_invalid(&decoded));
    let OutboundProtocol::Detect { timeout, http1, http2, opaque } = decoded.value.protocol else { panic!() };
    assert_eq!(timeout, Duration::from_secs(10));
    for http in [http1, http2] {
        assert!(matches!(http.routes[0].rules[0].filters[..], [Filter::Invalid { .. }]));
        assert_eq!(http.routes[0].rules[0].backends, Distribution::Empty);
    }
    assert!(matches!(opaque[0].filters[..], [Filter::Invalid { .. }]));
}

#[test]
fn protocol_and_metadata_are_needed() {
    let message = outbound::OutboundPolicy { protocol: None, metadata: named("p") };
    assert!(is_invalid(&with_warnings(|w| policy_or_invalid(message, w))));
    let protocol = Some(outbound::ProxyProtocol { kind: http1(rule()) });
    let message = outbound::OutboundPolicy { protocol, metadata: None };
    assert!(is_invalid(&with_warnings(|w| policy_or_invalid(message, w))));
    assert!(!is_invalid(&decode(http1(rule()))));
}

#[test]
fn detection_needs_all_three_branches_and_a_timeout() {
    let one = || Some(Http1 { routes: vec![route(rule())], failure_accrual: None });
    let two = || Some(Http2 { routes: vec![route(rule())], failure_accrual: None });
    let tcp = || Some(Opaque { routes: vec![] });
    for (timeout, opaque, http1, http2, valid) in [
        (seconds(10), tcp(), one(), two(), true),
        (None, tcp(), one(), two(), false),
        (seconds(-1), tcp(), one(), two(), false),
        (seconds(10), None, one(), two(), false),
        (seconds(10), tcp(), None, two(), false),
        (seconds(10), tcp(), one(), None, false),
    ] {
        let decoded = decode(Some(Kind::Detect(Detect { timeout, opaque, http1, http2 })));
        assert_eq!(is_invalid(&decoded), !valid);
        if let OutboundProtocol::Detect { http1, http2, .. } = &decoded.value.protocol {
            assert!(!valid || Arc::ptr_eq(&http1.routes, &http2.routes), "equal routes are shared");
        }
    }
}

#[test]
fn filters_of_unknown_kind_or_with_bad_values_fail_their_own_requests() {
    let filter = |kind| oh::Filter { kind };
    let inject = |status| {
        let failure = hr::HttpFailureInjector { status, message: String::new(), ratio: None };
        filter(Some(oh::filter::Kind::FailureInjector(failure)))
    };
    for (filters, valid) in
        [(vec![inject(503)], true), (vec![inject(503), inject(9)], false), (vec![filter(None)], false)]
    {
        let backend = oh::RouteBackend { filters: filters.clone(), ..route_backend(balancer()) };
        let decoded = decode(http1(oh::Rule { filters, backends: first(vec![backend]), ..rule() }));
        assert!(!is_invalid(&decoded));
        let OutboundProtocol::Http1(http) = &decoded.value.protocol else { panic!() };
        let rule = &http.routes[0].rules[0];
        let Distribution::FirstAvailable(backends) = &rule.backends else { panic!() };
        for filters in [&rule.filters, &backends[0].filters] {
            assert_eq!(!filters.iter().any(|f| matches!(f, Filter::Invalid { .. })), valid, "{filters:?}");
        }
    }
}

#[test]
fn distributions_need_backends() {
    for (backends, valid) in [
        (None, false),
        (Some(oh::Distribution { kind: None }), false),
        (Some(oh::Distribution { kind: Some(oh::distribution::Kind::Empty(Default::default())) }), true),
        (first(vec![]), false),
        (first(vec![oh::RouteBackend::default()]), false),
        (random(&[]), false),
        (random(&[1, 0]), true),
    ] {
        check(oh::Rule { backends, ..rule() }, valid);
    }
}

#[test]
fn weights_of_zero_do_no_harm() {
    let of = |weights: &[u32]| {
        let decoded = decode(http1(oh::Rule { backends: random(weights), ..rule() }));
        let warnings = decoded.warnings.len();
        (only_rule(decoded).backends, warnings)
    };
    assert!(matches!(of(&[0]), (Distribution::FirstAvailable(list), 0) if list.len() == 1));
    assert!(matches!(of(&[7]), (Distribution::FirstAvailable(list), 0) if list.len() == 1));
    assert!(matches!(of(&[0, 0]), (Distribution::Empty, 1)));
    assert!(matches!(of(&[0, 5]), (Distribution::RandomAvailable(list), 0) if list[1].1 == 5));
}

#[test]
fn equal_backends_are_one() {
    let Distribution::RandomAvailable(list) =
        only_rule(decode(http1(oh::Rule { backends: random(&[1, 2]), ..rule() }))).backends
    else {
        panic!()
    };
    assert!(Arc::ptr_eq(&list[0].0.backend, &list[1].0.backend));
}

#[test]
fn backends_are_validated() {
    use api::destination::WeightedAddr;
    use outbound::backend::{BalanceP2c, EndpointDiscovery, Kind, balance_p2c, endpoint_discovery};
    let base = balancer;
    let dst = |path: &str| {
        let dst = endpoint_discovery::DestinationGet { path: path.into() };
        Some(EndpointDiscovery { kind: Some(endpoint_discovery::Kind::Dst(dst)) })
    };
    let balance = |discovery, load| Some(Kind::Balancer(BalanceP2c { discovery, load }));
    let ewma =
        |default_rtt, decay| Some(balance_p2c::Load::PeakEwma(balance_p2c::PeakEwma { default_rtt, decay }));
    let good = || ewma(seconds(1), seconds(1));
    let forward = |port| {
        let ip = Some(std::net::IpAddr::from([10, 0, 0, 1]).into());
        Some(Kind::Forward(WeightedAddr {
            addr: Some(api::net::TcpAddress { ip, port }),
            ..Default::default()
        }))
    };
    for (backend, valid) in [
        (base(), true),
        (outbound::Backend { metadata: None, ..base() }, false),
        (outbound::Backend { queue: None, ..base() }, false),
        (outbound::Backend { kind: None, ..base() }, true),
        (outbound::Backend { kind: balance(dst("web.x:80"), good()), ..base() }, true),
        (outbound::Backend { kind: balance(dst("web.x"), good()), ..base() }, false),
        (outbound::Backend { kind: balance(None, good()), ..base() }, false),
        (outbound::Backend { kind: balance(dst("web.x:80"), None), ..base() }, false),
        (outbound::Backend { kind: balance(dst("web.x:80"), ewma(None, seconds(1))), ..base() }, false),
        (outbound::Backend { kind: balance(dst("web.x:80"), ewma(seconds(1), None)), ..base() }, false),
        (outbound::Backend { kind: forward(80), ..base() }, true),
        (outbound::Backend { kind: forward(0), ..base() }, false),
    ] {
        check(oh::Rule { backends: first(vec![route_backend(backend)]), ..rule() }, valid);
    }
    let none = outbound::Backend { kind: None, ..base() };
    let rule = oh::Rule { backends: first(vec![route_backend(none)]), ..rule() };
    let Distribution::FirstAvailable(list) = only_rule(decode(http1(rule))).backends else { panic!() };
    assert_eq!(list[0].backend.dispatch, Dispatch::Missing);
}

#[test]
fn queues_are_bounded_and_have_defaults() {
    for (capacity, failfast_timeout, expected) in [
        (100, seconds(3), Queue { capacity: 100, failfast: Duration::from_secs(3) }),
        (0, None, Queue::default()),
        (u32::MAX, seconds(0), Queue { capacity: MAX_QUEUE, ..Queue::default() }),
    ] {
        let queue = Some(outbound::Queue { capacity, failfast_timeout });
        let backend = outbound::Backend { queue, ..balancer() };
        let rule = oh::Rule { backends: first(vec![route_backend(backend)]), ..rule() };
        let Distribution::FirstAvailable(list) = only_rule(decode(http1(rule))).backends else { panic!() };
        assert_eq!(list[0].backend.queue, expected);
    }
}

#[test]
fn penalties_have_defaults() {
    use outbound::backend::{Kind, balance_p2c};
    let mut backend = balancer();
    let Some(Kind::Balancer(balancer)) = &mut backend.kind else { panic!() };
    balancer.load = Some(balance_p2c::Load::PenaltyPeakEwma(Default::default()));
    let rule = oh::Rule { backends: first(vec![route_backend(backend)]), ..rule() };
    let Distribution::FirstAvailable(list) = only_rule(decode(http1(rule))).backends else { panic!() };
    let Dispatch::Balance { load, .. } = &list[0].backend.dispatch else { panic!() };
    let penalty = Penalty {
        penalty: Duration::from_secs(5),
        max_retry_after: Duration::from_secs(300),
        decay: Duration::from_secs(10),
    };
    assert_eq!(*load, LoadParams { penalty: Some(penalty), ..LoadParams::default() });
}

#[test]
#[expect(deprecated, reason = "the rule is about the old field")]
fn the_old_request_timeout_counts_only_without_the_new() {
    let new = |request| Some(hr::Timeouts { request, ..Default::default() });
    for (timeouts, old, expected) in [
        (None, None, None),
        (None, seconds(5), Some(5)),
        (new(None), seconds(5), Some(5)),
        (new(seconds(7)), seconds(5), Some(7)),
        (new(seconds(0)), None, None),
    ] {
        let rule = oh::Rule { timeouts, request_timeout: old, ..rule() };
        assert_eq!(only_rule(decode(http1(rule))).timeouts.request, expected.map(Duration::from_secs));
    }
    check(oh::Rule { timeouts: new(seconds(-1)), ..rule() }, false);
}

#[test]
fn http_retries_are_validated() {
    use oh::retry::{Conditions, conditions::StatusRange};
    let retry = |max_retries, start, end| {
        let conditions = Some(Conditions { status_ranges: vec![StatusRange { start, end }] });
        Some(oh::Retry { max_retries, max_request_bytes: 64, conditions, timeout: None, backoff: waits() })
    };
    for (policy, valid) in [
        (retry(3, 500, 599), true),
        (retry(65_535, 1, 1), true),
        (retry(65_536, 500, 599), false),
        (retry(3, 0, 599), false),
        (retry(3, 500, 600), false),
        (retry(3, 504, 502), false),
    ] {
        check(oh::Rule { retry: policy, ..rule() }, valid);
    }
    let retry = only_rule(decode(http1(oh::Rule { retry: retry(3, 500, 599), ..rule() }))).retry.unwrap();
    assert!(retry.respect_retry_after && retry.limit == 3 && retry.max_request_bytes == 64);
    assert_eq!(retry.http, [StatusRangeModel { min: 500, max: 599 }]);
}

use weft_model::route::StatusRange as StatusRangeModel;

#[test]
fn grpc_retries_name_their_codes() {
    use outbound::grpc_route as og;
    let all = og::retry::Conditions {
        cancelled: true,
        deadine_exceeded: true,
        resource_exhausted: true,
        internal: true,
        unavailable: true,
    };
    let kind = og::distribution::Kind::Empty(Default::default());
    let rule = og::Rule {
        backends: Some(og::Distribution { kind: Some(kind) }),
        retry: Some(og::Retry { conditions: Some(all), ..Default::default() }),
        ..Default::default()
    };
    let route = outbound::GrpcRoute { metadata: named("g"), hosts: vec![], rules: vec![rule] };
    let decoded = decode(Some(Kind::Grpc(Grpc { routes: vec![route], failure_accrual: None })));
    let OutboundProtocol::Grpc(http) = decoded.value.protocol else { panic!() };
    assert_eq!(http.routes[0].rules[0].retry.as_ref().unwrap().grpc, [1, 4, 8, 13, 14]);
}

#[test]
fn backoffs_are_validated() {
    let with = |min_backoff, max_backoff, jitter_ratio| outbound::ExponentialBackoff {
        min_backoff,
        max_backoff,
        jitter_ratio,
        respect_retry_after_hint: false,
    };
    for (message, valid) in [
        (with(seconds(1), seconds(60), 0.0), true),
        (with(seconds(1), seconds(1), 100.0), true),
        (with(seconds(2), seconds(1), 0.0), false),
        (with(seconds(0), seconds(0), 0.0), false),
        (with(None, seconds(1), 0.0), false),
        (with(seconds(1), None, 0.0), false),
        (with(seconds(1), seconds(2), -0.1), false),
        (with(seconds(1), seconds(2), 100.1), false),
        (with(seconds(1), seconds(2), f32::NAN), false),
    ] {
        assert_eq!(backoff(message).is_ok(), valid, "{message:?}");
    }
}

#[test]
fn breakers_are_validated() {
    use outbound::failure_accrual::{ConsecutiveFailures, Kind as Breaker, Unified};
    let consecutive = |max_failures, backoff| {
        Some(Breaker::ConsecutiveFailures(ConsecutiveFailures { max_failures, backoff }))
    };
    let unified = |success_rate_threshold, decay, min_requests| {
        Some(Breaker::Unified(Unified {
            success_rate_threshold,
            decay,
            min_requests,
            max_consecutive_failures: 7,
            backoff: waits(),
        }))
    };
    let short = Some(prost_types::Duration { seconds: 0, nanos: 9_999_999 });
    // (message, valid, on)
    for (kind, valid, on) in [
        (consecutive(7, waits()), true, true),
        (consecutive(7, None), false, false),
        (consecutive(0, waits()), true, false),
        (None, true, false),
        (unified(0.8, None, 5), true, true),
        (unified(1.1, None, 5), false, false),
        (unified(-0.1, None, 5), false, false),
        (unified(f64::NAN, None, 5), false, false),
        (unified(0.8, short, 5), false, false),
        (unified(0.0, short, 5), true, true),
        (unified(0.8, None, 1_000_001), false, false),
    ] {
        let accrual = Some(outbound::FailureAccrual { ejection: None, kind });
        let decoded = decode(Some(Kind::Http2(Http2 { routes: vec![], failure_accrual: accrual })));
        assert_eq!(is_invalid(&decoded), !valid, "{kind:?}");
        if let OutboundProtocol::Http2(http) = &decoded.value.protocol {
            assert_eq!(http.breaker.is_some(), on, "{kind:?}");
        }
    }
    let Some(Breaker::Unified(message)) = unified(0.123_456, None, 5) else { panic!() };
    let FailureAccrual::Unified { success_rate, window, respect_retry_after, .. } =
        unified_breaker(message).unwrap()
    else {
        panic!()
    };
    assert_eq!((success_rate, window, respect_retry_after), (0.1235, Duration::from_secs(10), true));
}

#[test]
fn opaque_has_at_most_one_route_and_routes_exactly_one_rule() {
    use outbound::opaque_route as oo;
    let empty = || Some(oo::Distribution { kind: Some(oo::distribution::Kind::Empty(Default::default())) });
    let rule = |kinds: &[oo::filter::Kind]| oo::Rule {
        backends: empty(),
        filters: kinds.iter().map(|k| oo::Filter { kind: Some(k.clone()) }).collect(),
    };
    let route = |rules| outbound::OpaqueRoute { metadata: named("o"), rules };
    let forbidden = oo::filter::Kind::Forbidden(Default::default());
    for (routes, valid) in [
        (vec![], true),
        (vec![route(vec![rule(&[])])], true),
        (vec![route(vec![rule(&[forbidden])])], true),
        (vec![route(vec![rule(&[])]), route(vec![rule(&[])])], false),
        (vec![route(vec![])], false),
        (vec![route(vec![rule(&[]), rule(&[])])], false),
        // It refuses its connections.
        (vec![route(vec![oo::Rule { filters: vec![oo::Filter { kind: None }], ..rule(&[]) }])], true),
        (vec![route(vec![oo::Rule { backends: None, ..rule(&[]) }])], false),
    ] {
        let decoded = decode(Some(Kind::Opaque(Opaque { routes: routes.clone() })));
        assert_eq!(is_invalid(&decoded), !valid, "{routes:?}");
    }
}

#[test]
fn tls_routes_have_exactly_one_rule_and_valid_names() {
    use api::tls_route::{SniMatch, sni_match};
    use outbound::tls_route as ot;
    let rule = || ot::Rule {
        backends: Some(ot::Distribution { kind: Some(ot::distribution::Kind::Empty(Default::default())) }),
        filters: vec![],
    };
    let exact = SniMatch { r#match: Some(sni_match::Match::Exact("web.x".into())) };
    let route = |snis, rules| outbound::TlsRoute { metadata: named("t"), snis, rules };
    for (routes, valid) in [
        (vec![route(vec![exact.clone()], vec![rule()]), route(vec![], vec![rule()])], true),
        (vec![route(vec![SniMatch { r#match: None }], vec![rule()])], false),
        (vec![route(vec![], vec![])], false),
        (vec![route(vec![], vec![rule(), rule()])], false),
    ] {
        let decoded = decode(Some(Kind::Tls(Tls { routes: routes.clone() })));
        assert_eq!(is_invalid(&decoded), !valid, "{routes:?}");
    }
}
