//! What happens to open streams when manifests on disk change, break, vanish and come back.

use crate::text;
use crate::world::{
    Channel, NAME, PATIENCE, Scratch, admin, admin_post, member, origin, plaintext, start, tls,
};
use linkerd2_proxy_api::destination::destination_client::DestinationClient;
use linkerd2_proxy_api::destination::{GetDestination, Update};
use linkerd2_proxy_api::identity::CertifyRequest;
use linkerd2_proxy_api::identity::identity_client::IdentityClient;
use std::fmt::Write;
use std::time::SystemTime;
use tokio::time::timeout;
use tonic::{Code, Streaming};
use weft_control::{ControlError, Options};
use weft_model::identity::TlsTarget;
use weft_net::body::Body;
use weft_net::socket::{self, SocketOptions};
use weft_net::stream::Stream;
use weft_net::web;

const PATH: &str = "web.shop.svc.cluster.local:80";

/// A service without an address of its own, so that it is given one.
const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n\
    spec: {selector: {app: web}, ports: [{port: 80}]}\n";

/// Workload `web-N` at 10.1.0.N.
fn workload(n: usize) -> String {
    format!(
        "---\napiVersion: workload.linkerd.io/v1beta1\nkind: ExternalWorkload\n\
         metadata: {{name: web-{n}, namespace: shop, labels: {{app: web}}}}\n\
         spec:\n  meshTLS: {{identity: spiffe://mesh/web, serverName: web.mesh}}\n  \
         workloadIPs: [{{ip: 10.1.0.{n}}}]\n  ports: [{{port: 80}}]\n"
    )
}

async fn follow(channel: &Channel) -> Streaming<Update> {
    let mut client = DestinationClient::with_origin(channel.clone(), origin());
    let request = GetDestination { path: PATH.into(), ..Default::default() };
    client.get(request).await.unwrap().into_inner()
}

/// The next message: what it is and which addresses it has.
async fn hear(stream: &mut Streaming<Update>) -> String {
    use linkerd2_proxy_api::destination::update::Update as Kind;
    let message = timeout(PATIENCE, stream.message()).await.expect("nothing was said").unwrap().unwrap();
    let (mut said, addrs) = match message.update.unwrap() {
        Kind::Add(set) => ("add".to_owned(), set.addrs.into_iter().map(|a| a.addr.unwrap()).collect()),
        Kind::Remove(set) => ("remove".to_owned(), set.addrs),
        Kind::NoEndpoints(none) => return format!("no endpoints, exists: {}", none.exists),
    };
    for addr in addrs {
        write!(said, " {}", text::of(&addr).replace("10.1.0.", ".").replace(":80", "")).unwrap();
    }
    said
}

#[tokio::test]
async fn a_bad_document_is_named_and_holds_up_nothing_else() {
    let scratch = Scratch::new();
    scratch.put("service.yaml", SERVICE);
    scratch.put("one.yaml", &workload(1));
    let control = start(scratch.options()).await;
    let mut stream = follow(&plaintext(control.listen).await).await;
    assert_eq!(hear(&mut stream).await, "add .1");

    // The port of the first document is none; a second document follows, and another file comes.
    let bad = workload(1).replace("port: 80", "port: 80000") + &workload(2);
    scratch.put("one.yaml", &bad);
    scratch.put("three.yaml", &workload(3));
    assert_eq!(hear(&mut stream).await, "add .2 .3", "the last good workload stays, and says nothing new");
    let state = admin(&control, "/state.json").await;
    assert!(state.contains(r#""file": "one.yaml""#) && state.contains(r#""line": 8"#), "{state}");
    assert!(state.contains("spec.ports[0].port") && state.contains("80000 is not a port"), "{state}");
    let metrics = admin(&control, "/metrics").await;
    assert!(metrics.contains(r#"manifest_errors{file="one.yaml"} 1"#), "{metrics}");
    for line in [
        "manifest_objects 4",
        r#"control_plane_streams{method="Get"} 1"#,
        r#"control_plane_messages_total{method="Get"} 2"#,
        r#"control_plane_propagation_seconds_count{method="Get"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }

    // A file that is no YAML at all keeps everything it held.
    scratch.put("one.yaml", &(workload(1) + "---\nkind: {a: b\n"));
    scratch.put("four.yaml", &workload(4));
    assert_eq!(hear(&mut stream).await, "add .4");
    let state = admin(&control, "/state.json").await;
    assert!(state.contains(r#""line": 10"#) && !state.contains("at line"), "lines are the file's: {state}");
    scratch.put("one.yaml", &workload(2));
    assert_eq!(hear(&mut stream).await, "remove .1");
    let metrics = admin(&control, "/metrics").await;
    assert!(!metrics.contains(r#"manifest_errors{file="#), "{metrics}");
    control.kill();
}

#[tokio::test]
async fn a_mass_disappearance_is_held_until_it_is_confirmed() {
    let scratch = Scratch::new();
    scratch.put("service.yaml", SERVICE);
    (1..=5).for_each(|n| scratch.put(&format!("{n}.yaml"), &workload(n)));
    let control = start(scratch.options()).await;
    let mut stream = follow(&plaintext(control.listen).await).await;
    assert_eq!(hear(&mut stream).await, "add .1 .2 .3 .4 .5");

    scratch.put("9.yaml", &workload(9));
    (1..=4).for_each(|n| scratch.remove(&format!("{n}.yaml")));
    assert_eq!(hear(&mut stream).await, "add .9", "what is new takes effect, what is missing does not go");
    let state = admin(&control, "/state.json").await;
    assert!(state.contains(r#""missing": 4"#) && state.contains("too many of the workloads"), "{state}");
    assert!(admin(&control, "/metrics").await.contains("manifest_removals_held 4"));

    assert!(admin(&control, "/confirm-removals").await.contains("POST"), "looking changes nothing");
    assert!(admin_post(&control, "/confirm-removals").await.contains("will take effect"));
    assert_eq!(hear(&mut stream).await, "remove .1 .2 .3 .4");
    assert!(admin(&control, "/metrics").await.contains("manifest_removals_held 0"));
    control.kill();
}

#[tokio::test]
async fn a_restart_without_readable_manifests_serves_what_is_remembered() {
    let scratch = Scratch::new();
    scratch.put("all.yaml", &(SERVICE.to_owned() + &workload(1)));
    let first = start(scratch.options()).await;
    let channel = plaintext(first.listen).await;
    let mut stream = follow(&channel).await;
    assert_eq!(hear(&mut stream).await, "add .1");
    // The state is written before the next change is handed out.
    scratch.put("more.yaml", &workload(2));
    assert_eq!(hear(&mut stream).await, "add .2");
    first.stop(PATIENCE).await;
    assert!(stream.message().await.is_ok_and(|end| end.is_none()), "a stop ends streams well");

    let address = virtual_address(&scratch);

    let aside = scratch.0.join("aside");
    std::fs::rename(scratch.manifests(), &aside).unwrap();
    let second = start(scratch.options()).await;
    let channel = plaintext(second.listen).await;
    let mut stream = follow(&channel).await;
    let heard = hear(&mut stream).await;
    assert!(heard.starts_with("add .1"), "{heard}");
    assert_eq!(owner_of(&channel, address).await, "web.shop.svc.cluster.local");
    let state = admin(&second, "/state.json").await;
    assert!(state.contains("remembered from an earlier run"), "{state}");
    assert!(admin(&second, "/metrics").await.contains("manifest_directories_stale 1"));
    assert_eq!(admin(&second, "/ready").await, "ready\n");

    // The directory is back, with less in it.
    std::fs::remove_file(aside.join("more.yaml")).unwrap();
    std::fs::write(aside.join("three.yaml"), workload(3)).unwrap();
    std::fs::rename(&aside, scratch.manifests()).unwrap();
    assert_eq!(hear(&mut stream).await, "add .3");
    if heard.ends_with(".2") {
        assert_eq!(hear(&mut stream).await, "remove .2");
    }
    assert!(!admin(&second, "/state.json").await.contains("earlier run"));
    second.kill();
}

/// The address that the service was given, as the state directory remembers it.
fn virtual_address(scratch: &Scratch) -> String {
    let text = std::fs::read_to_string(scratch.state().join("manifests.state")).unwrap();
    let line = text.lines().find(|line| line.starts_with(r#"{"address""#)).unwrap();
    let entry: serde_json::Value = serde_json::from_str(line).unwrap();
    format!("{}:80", entry["address"][2].as_str().unwrap())
}

/// Whose address it is.
async fn owner_of(channel: &Channel, path: String) -> String {
    let mut client = DestinationClient::with_origin(channel.clone(), origin());
    let request = GetDestination { path, ..Default::default() };
    let mut stream = client.get_profile(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap().fully_qualified_name
}

#[tokio::test]
async fn without_manifests_and_memory_it_is_not_ready_and_says_why() {
    let scratch = Scratch::new();
    std::fs::remove_dir(scratch.manifests()).unwrap();
    let control = start(scratch.options()).await;
    let ready = admin(&control, "/ready").await;
    assert!(ready.contains("cannot be read") && ready.contains("No such file"), "{ready}");
    std::fs::create_dir(scratch.manifests()).unwrap();
    scratch.put("all.yaml", &(SERVICE.to_owned() + &workload(1)));
    let mut client = DestinationClient::with_origin(plaintext(control.listen).await, origin());
    let request = GetDestination { path: PATH.into(), ..Default::default() };
    let refused = client.get(request).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    control.kill();
}

#[tokio::test]
async fn plaintext_is_refused_where_other_hosts_could_connect() {
    let scratch = Scratch::new();
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let options = Options { listen: listen.parse().unwrap(), ..scratch.options() };
        let refused = weft_control::start(options, None).await.err().unwrap();
        assert!(matches!(refused, ControlError::Plaintext(_)), "{refused}");
    }
    assert!(!scratch.state().exists(), "nothing was begun");
}

#[tokio::test]
async fn a_second_control_plane_on_the_same_port_leaves_the_state_alone() {
    let scratch = Scratch::new();
    let control = start(scratch.options()).await;
    let other = Scratch::new();
    for options in [
        Options { listen: control.listen, ..other.options() },
        Options { admin: control.admin, ..other.options() },
    ] {
        let refused = weft_control::start(options, None).await.err().unwrap().to_string();
        assert!(refused.contains("cannot listen on 127.0.0.1:"), "{refused}");
        assert!(refused.contains("in use"), "{refused}");
    }
    assert!(!other.state().exists());
    control.kill();
}

#[tokio::test]
async fn a_caller_speaks_for_its_own_namespace_and_workload_only() {
    let scratch = Scratch::new();
    let identity = "web.shop.serviceaccount.identity.linkerd.cluster.local";
    let own = workload(1).replace("spiffe://mesh/web", identity);
    scratch.put("all.yaml", &(SERVICE.to_owned() + &own + &workload(2)));
    let control = start(scratch.tls_options()).await;
    let channel = tls(control.listen, &member(&scratch.authority(), identity)).await;
    let mut client = DestinationClient::with_origin(channel, origin());
    for (token, expected) in [
        ("", Code::Ok),
        (r#"{"ns":"shop"}"#, Code::Ok),
        ("ns:shop", Code::Ok),
        (r#"{"ns":"shop","external_workload":"web-1"}"#, Code::Ok),
        (r#"{"ns":"bank"}"#, Code::PermissionDenied),
        ("ns:bank", Code::PermissionDenied),
        // Another's workload, although in its namespace.
        (r#"{"ns":"shop","external_workload":"web-2"}"#, Code::PermissionDenied),
    ] {
        let request = GetDestination { path: PATH.into(), context_token: token.into(), ..Default::default() };
        let code = client.get(request.clone()).await.map_or_else(|status| status.code(), |_| Code::Ok);
        assert_eq!(code, expected, "{token}");
        let code = client.get_profile(request).await.map_or_else(|status| status.code(), |_| Code::Ok);
        assert_eq!(code, expected, "{token}");
    }
    control.kill();
}

#[tokio::test]
async fn every_promised_metric_is_there() {
    let scratch = Scratch::new();
    scratch.put("all.yaml", &(SERVICE.to_owned() + &workload(1) + "---\n{apiVersion: v1, kind: Pod}\n"));
    scratch
        .put("bad.yaml", "{apiVersion: v1, kind: Service, metadata: {name: x, namespace: shop}, spec: []}\n");
    let control = start(scratch.tls_options()).await;
    let identity = "web.shop.serviceaccount.identity.linkerd.cluster.local";
    let channel = tls(control.listen, &member(&scratch.authority(), identity)).await;
    let mut stream = follow(&channel).await;
    assert_eq!(hear(&mut stream).await, "add .1");
    scratch.put("more.yaml", &workload(2));
    assert_eq!(hear(&mut stream).await, "add .2");
    let mut certify = IdentityClient::with_origin(channel, origin());
    certify.certify(CertifyRequest::default()).await.unwrap_err();
    let metrics = admin(&control, "/metrics").await;
    for line in [
        r#"control_plane_streams{method="Get"} 1"#,
        "control_plane_oldest_unsent_change_seconds 0",
        r#"control_plane_propagation_seconds_count{method="Get"} 1"#,
        r#"manifest_errors{file="bad.yaml"} 1"#,
        r#"manifest_documents_ignored{kind="v1/Pod"} 1"#,
        r#"control_plane_certificates_total{outcome="INVALID_ARGUMENT"} 1"#,
        r#"control_plane_calls_refused_total{code="INVALID_ARGUMENT"} 1"#,
        r#"control_plane_connections{identified="true"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    let state: serde_json::Value = serde_json::from_str(&admin(&control, "/state.json").await).unwrap();
    let shown: Vec<_> = state["certificates"].as_array().unwrap().iter().collect();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let (day, year) = (24 * 3600, 365 * 24 * 3600);
    for (role, subject, least, most) in [
        ("anchor", "root.linkerd.cluster.local", 9 * year, 11 * year),
        ("issuer", "root.linkerd.cluster.local", 9 * year, 11 * year),
        ("leaf", NAME, day - 600, day + 600),
    ] {
        let name = "control_plane_certificate_expiration_timestamp_seconds";
        let series =
            metrics.lines().find(|line| line.starts_with(&format!(r#"{name}{{role="{role}",subject=""#)));
        let (labels, end) =
            series.unwrap_or_else(|| panic!("no {role} in {metrics}")).rsplit_once(' ').unwrap();
        assert!(labels.contains(subject), "{labels}");
        let left = end.parse::<u64>().unwrap() - now;
        assert!((least..most).contains(&left), "{role}: {left} s");
        assert!(
            shown.iter().any(|c| c["role"] == role && c["not_after"] == end.parse::<u64>().unwrap()),
            "{state}"
        );
    }
    control.kill();
}

#[tokio::test]
async fn what_manifests_do_to_each_other_is_shown() {
    let scratch = Scratch::new();
    let service = |name: &str, more: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop{more}}}\nspec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}\n"
        )
    };
    let opaque = ", annotations: {config.linkerd.io/opaque-ports: 'a b'}";
    scratch.put("all.yaml", &(service("a", opaque) + &service("b", "")));
    let control = start(scratch.options()).await;
    let state: serde_json::Value = serde_json::from_str(&admin(&control, "/state.json").await).unwrap();
    let verdicts = state["verdicts"].as_array().unwrap();
    let of =
        |object: &str| verdicts.iter().find(|v| v["object"] == object).unwrap_or_else(|| panic!("{state}"));
    assert!(of("Service shop/a")["notes"][0].as_str().unwrap().contains("a b"), "{state}");
    let b = of("Service shop/b");
    assert_eq!((b["state"].as_str(), b["line"].as_u64()), (Some("conflicted"), Some(7)), "{state}");
    assert!(b["about"].as_str().unwrap().contains("clusterIP 10.96.0.1, with Service shop/a"), "{state}");
    control.kill();
}

#[tokio::test]
async fn verdicts_and_reasons_of_decisions_are_told_below_v1() {
    let scratch = Scratch::new();
    scratch.put(
        "all.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{port: 80}]}\n---\n\
         apiVersion: policy.linkerd.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\n\
         spec: {targetRef: {group: policy.linkerd.io, kind: Server, name: gone}, requiredAuthenticationRefs: []}\n",
    );
    let control = start(scratch.options()).await;
    let told = async |path: &str| -> serde_json::Value {
        serde_json::from_str(&admin(&control, path).await).unwrap()
    };

    let verdicts = told("/v1/verdicts").await;
    assert_eq!((&verdicts["apiVersion"], &verdicts["left_off"]), (&"weft/v1".into(), &0.into()));
    let [one] = &verdicts["items"].as_array().unwrap()[..] else { panic!("{verdicts}") };
    assert_eq!((&one["object"], &one["state"]), (&"AuthorizationPolicy shop/p".into(), &"dangling".into()));
    assert_eq!((&one["about"], &one["line"]), (&"Server shop/gone is missing".into(), &6.into()));
    assert_eq!(told("/v1/verdicts?all=true").await["items"].as_array().unwrap().len(), 2);
    assert_eq!(told("/v1/verdicts?namespace=other").await["items"], serde_json::json!([]));
    assert!(told("/v1/verdicts?x").await["error"].as_str().unwrap().contains("not known"));

    let why = told("/v1/why?namespace=shop&to=web.shop").await;
    assert_eq!((&why["reason"], &why["apiVersion"]), (&"no-endpoints".into(), &"weft/v1".into()));
    assert_eq!(why["items"][1]["about"], "destination");
    assert!(told("/v1/why?to=web.shop").await["error"].as_str().unwrap().contains("`namespace` is missing"));
    assert_eq!(admin(&control, "/v1/other").await, "there is nothing here\n");
    assert_eq!(admin_post(&control, "/v1/verdicts").await, "allowed: GET\n");
    control.kill();
}

#[tokio::test]
async fn the_admin_listener_speaks_tls_to_those_who_do() {
    let scratch = Scratch::new();
    let control = start(scratch.tls_options()).await;
    let member = member(&scratch.authority(), "web.shop.serviceaccount.identity.linkerd.cluster.local");
    let socket = socket::connect(control.admin, &SocketOptions::default()).await.unwrap();
    let target = TlsTarget { id: NAME.parse().unwrap(), server_name: NAME.parse().unwrap() };
    let connected = member.connect(Stream::tcp(socket), &target, &[]).await.unwrap();
    let request = http::Request::get("/v1/verdicts").header("host", "admin").body(Body::empty()).unwrap();
    let response = web::request(connected.stream, request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(admin(&control, "/live").await.contains("live"), "and plaintext to the others");
    control.kill();
}
