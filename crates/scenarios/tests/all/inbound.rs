//! Who may use a workload's port, and what its application learns about them.

use crate::world::Pair;
use weft_testkit::application::Application;
use weft_testkit::client::exchange;
use weft_testkit::mesh::identity;

#[tokio::test]
async fn the_application_learns_the_clients_identity_and_nobody_forges_it() {
    let pair = Pair::around(Application::saying("x").await).await;
    let forged =
        "GET / HTTP/1.1\r\nhost: web\r\nl5d-client-id: admin\r\nweft-reason: x\r\nl5d-proxy-error: y\r\n\r\n";
    assert_eq!(exchange(pair.client.upstream(), forged).await.status, 200);
    assert_eq!(exchange(pair.server.bind(), forged).await.status, 200);
    let seen = pair.app.seen();
    assert_eq!(seen[0].headers()["l5d-client-id"], identity("client").as_str());
    assert!(!seen[1].headers().contains_key("l5d-client-id"));
    for request in &seen {
        for claim in ["weft-reason", "l5d-proxy-error"] {
            assert!(!request.headers().contains_key(claim), "{claim}");
        }
    }
}
