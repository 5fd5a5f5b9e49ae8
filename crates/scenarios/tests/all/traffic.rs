//! Profiles, and the choice among endpoints.

use crate::world::{WEB, plain, tell};
use http::Response;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use weft_model::destination::EndpointInfo;
use weft_model::profile::{Profile, ProfileRoute, WeightedDst};
use weft_model::route::{Condition, Labels, RetryBudget};
use weft_net::body::Body;
use weft_testkit::application::Application;
use weft_testkit::client::{Raw, get};
use weft_testkit::plane::Said;
use weft_testkit::until;

fn route() -> ProfileRoute {
    ProfileRoute {
        condition: Condition::All(Vec::new()),
        classes: Vec::new(),
        labels: Labels::default(),
        retryable: false,
        timeout: None,
    }
}

fn profile(route: ProfileRoute) -> Said<Profile> {
    let retry_budget = Some(RetryBudget { min_per_second: 100, ratio: 0.5, ttl: Duration::from_secs(10) });
    let logical = Some(WEB.parse().unwrap());
    Said::Told(Profile { logical, routes: vec![route], retry_budget, ..Profile::default() })
}

#[tokio::test]
async fn a_retryable_route_hides_failures() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let app = Application::http(move |_| {
        let mut response = Response::new(Body::empty());
        if counted.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        }
        async { response }
    });
    let app = app.await;
    let (mesh, proxy) = plain(&[&app], &[]).await;
    mesh.facts.profile(WEB, profile(ProfileRoute { retryable: true, ..route() }));
    for _ in 0..4 {
        assert_eq!(get(proxy.upstream(), "/").await.status, 200);
    }
    assert_eq!(count.load(Ordering::Relaxed), 8);
}

#[tokio::test]
async fn a_routes_timeout_ends_a_request() {
    let app = Application::http(|_| std::future::pending()).await;
    let (mesh, proxy) = plain(&[&app], &[]).await;
    mesh.facts.profile(WEB, profile(ProfileRoute { timeout: Some(Duration::from_millis(50)), ..route() }));
    let answer = get(proxy.upstream(), "/").await;
    assert_eq!(answer.status, 504);
    assert!(answer.header("weft-reason").starts_with("profile-timeout"), "{answer:?}");
}

#[tokio::test]
async fn a_traffic_split_moves_while_requests_go_on() {
    let (a, b) = (Application::saying("a").await, Application::saying("b").await);
    let (mesh, proxy) = plain(&[], &[]).await;
    let name = |version: &str| format!("web-{version}.default.svc.cluster.local:80");
    for (version, app) in [("a", &a), ("b", &b)] {
        mesh.facts.endpoints(&name(version), Said::Told(vec![EndpointInfo::plain(app.addr)]));
    }
    let split = |version: &str| {
        let overrides = vec![WeightedDst { addr: name(version).parse().unwrap(), weight: 1 }];
        let logical = Some(WEB.parse().unwrap());
        mesh.facts.profile(WEB, Said::Told(Profile { logical, overrides, ..Profile::default() }));
    };
    split("a");
    let mut raw = Raw::connect(proxy.upstream()).await;
    let mut ask = async || {
        raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
        let answer = raw.answer().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.text()
    };
    assert_eq!(ask().await, "a");
    split("b");
    until("the split moves", async || ask().await == "b").await;
    assert_eq!(ask().await, "b");
}

#[tokio::test]
async fn endpoint_churn_loses_no_request() {
    let apps =
        [Application::saying("x").await, Application::saying("x").await, Application::saying("x").await];
    let (mesh, proxy) = plain(&[&apps[0]], &[]).await;
    let requests = async {
        for _ in 0..60 {
            assert_eq!(get(proxy.upstream(), "/").await.status, 200);
        }
    };
    let churn = async {
        for n in 1.. {
            tell(&mesh, &[&apps[n % 3], &apps[(n + 1) % 3]]);
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = requests => {}
        () = churn => {}
    }
}

#[tokio::test]
async fn a_dead_endpoint_among_living_ones_is_avoided() {
    let (living, dying) = (Application::saying("living").await, Application::saying("dying").await);
    let (_mesh, proxy) = plain(&[&living, &dying], &[]).await;
    assert_eq!(get(proxy.upstream(), "/").await.status, 200);
    dying.kill().await;
    for _ in 0..40 {
        let answer = get(proxy.upstream(), "/").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "living"));
    }
}
