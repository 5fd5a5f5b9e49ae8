//! The operator's listener: what it tells, and whom.

use crate::world::{Pair, WEB, plain};
use std::net::{SocketAddr, UdpSocket};
use weft_testkit::application::Application;
use weft_testkit::client::{Raw, exchange, get};
use weft_testkit::mesh::{Mesh, identity};
use weft_testkit::plane::Manner;
use weft_testkit::until;

#[tokio::test]
async fn a_proxy_without_an_identity_lives_and_says_what_it_waits_for() {
    let mut mesh = Mesh::new();
    mesh.kill_plane().await;
    let proxy = mesh.unready_proxy("client", &[]).await;
    assert_eq!(get(proxy.proxy.admin, "/live").await.text(), "live\n");
    let page = get(proxy.proxy.admin, "/ready").await;
    assert_eq!(page.status, 503);
    assert!(page.text().starts_with("not ready\nwaiting for identity"), "{page:?}");
    until("it says why it waits", async || {
        proxy.page("/ready").await.body.len() > "not ready\nwaiting for identity: no answer yet\n".len()
    })
    .await;
    mesh.start_plane(Manner::Talks).await;
    until("it is ready", async || proxy.page("/ready").await.status == 200).await;
    assert_eq!(get(proxy.proxy.admin, "/ready").await.text(), "ready\n");
    mesh.kill_plane().await;
    assert_eq!(get(proxy.proxy.admin, "/ready").await.status, 200, "it stays ready without a control plane");
}

#[tokio::test]
async fn the_state_shows_destinations_endpoints_policies_certificate_and_settings() {
    let pair = Pair::around(Application::saying("x").await).await;
    assert_eq!(get(pair.client.upstream(), "/").await.status, 200);
    let state = pair.client.state().await;
    assert_eq!(state["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(state["reasons_version"], weft_model::reason::VERSION);
    let outbound = &state["outbound"][0];
    assert_eq!(outbound["destination"], WEB);
    let endpoint = &outbound["plan"]["http"][0]["backends"][0]["endpoints"][0];
    assert_eq!(endpoint["address"], pair.server.bind().to_string());
    assert_eq!(endpoint["identity"], identity("web"));
    assert_eq!(endpoint["state"], "ready");
    assert_eq!(endpoint["pending"], 0);
    assert!(endpoint["estimate_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{endpoint}");
    assert_eq!(state["identity"]["id"], identity("client"));
    assert!(state["identity"]["not_after"].as_u64() > state["identity"]["not_before"].as_u64());
    assert!(state["settings"]["OUTBOUND_DETECT_TIMEOUT"].is_object(), "{}", state["settings"]);
    assert!(state["lookups"].as_array().is_some_and(|rows| !rows.is_empty()));
    let text = state.to_string();
    assert!(!text.contains("for the fake control plane"), "the token is shown");
    let inbound = &pair.server.state().await["inbound"][0];
    assert_eq!(inbound["application"], pair.app.addr.to_string());
    assert!(inbound["plan"]["parent"]["name"].is_string(), "{inbound}");
    let mut raw = Raw::connect(pair.client.upstream()).await;
    raw.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
    assert_eq!(raw.answer().await.status, 200);
    let connections = pair.client.state().await["connections"].clone();
    let rows = connections.as_array().unwrap();
    let of_client = rows.iter().find(|row| row["of"]["target_addr"] == WEB).unwrap();
    assert!(of_client["open"] == 1 && of_client["bytes_read"].as_u64() > Some(20), "{of_client}");
}

#[tokio::test]
async fn methods_and_paths_that_are_not_there_are_refused() {
    let (_mesh, proxy) = plain(&[], &[]).await;
    let admin = proxy.proxy.admin;
    let ask = async |line: &str| exchange(admin, &format!("{line} HTTP/1.1\r\nhost: admin\r\n\r\n")).await;
    assert_eq!(ask("GET /").await.status, 404);
    let refused = ask("DELETE /state.json").await;
    assert_eq!((refused.status, refused.header("allow")), (405, "GET"));
    let refused = ask("POST /shutdown").await;
    assert_eq!(refused.status, 404, "off unless SHUTDOWN_ENDPOINT_ENABLED");
    let zipped =
        exchange(admin, "GET /metrics HTTP/1.1\r\nhost: admin\r\naccept-encoding: br, gzip\r\n\r\n").await;
    assert_eq!((zipped.header("content-encoding"), &zipped.body[..2]), ("gzip", &[0x1f, 0x8b][..]));
}

/// Our address on some network, if we are on one. Nothing is sent.
fn own_address() -> Option<SocketAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().filter(|addr| !addr.ip().is_loopback() && !addr.ip().is_unspecified())
}

#[tokio::test]
async fn only_clients_on_the_host_change_anything_or_see_more_than_numbers() {
    let Some(own) = own_address() else { return };
    let settings = [("ADMIN_LISTEN_ADDR", "0.0.0.0:0"), ("SHUTDOWN_ENDPOINT_ENABLED", "true")];
    let (_mesh, proxy) = plain(&[], &settings).await;
    let remote = SocketAddr::new(own.ip(), proxy.proxy.admin.port());
    for path in ["/live", "/ready", "/metrics"] {
        assert_eq!(get(remote, path).await.status, 200, "{path}");
    }
    for line in ["GET /state.json", "GET /proxy-log-level", "PUT /proxy-log-level", "POST /shutdown"] {
        let answer =
            exchange(remote, &format!("{line} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")).await;
        assert_eq!(answer.status, 403, "{line}");
    }
    assert_eq!(proxy.state().await["draining"], false);
}

#[tokio::test]
async fn a_local_client_may_begin_the_drain_where_that_is_turned_on() {
    let (_mesh, mut proxy) = plain(&[], &[("SHUTDOWN_ENDPOINT_ENABLED", "true")]).await;
    let admin = proxy.proxy.admin;
    let wrong = get(admin, "/shutdown").await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, "POST"));
    let answer = exchange(admin, "POST /shutdown HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "shutdown\n"));
    weft_testkit::within("the drain", proxy.proxy.drained()).await;
}

#[tokio::test]
async fn what_must_go_on_goes_on_while_the_data_path_stands_still() {
    // A runtime that nobody drives: none of its tasks ever gets on.
    let stuck = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut mesh = Mesh::new();
    let settings = [("INBOUND_PORTS", "9"), ("CONTROL_KEEP_ALIVE_INTERVAL", "50ms")];
    let proxy = mesh.unready_proxy_on(stuck.handle().clone(), "web", &settings).await;
    until("it has its certificate", async || proxy.page("/ready").await.status == 200).await;
    until("its policy is asked for", async || mesh.facts.asked("inbound 9") > 0).await;
    assert_eq!(proxy.page("/metrics").await.status, 200);
    // A successor of the control plane is found and asked as well.
    mesh.start_plane(Manner::Talks).await;
    let before = mesh.facts.asked("inbound 9");
    until("its policy is asked for anew", async || mesh.facts.asked("inbound 9") > before).await;
    assert_eq!(proxy.state().await["identity"]["issued"], 1);
    tokio::task::spawn_blocking(move || drop((proxy, stuck))).await.unwrap();
}
