//! `weft why` and `weft diff`: the texts and exit statuses, as a person or a CI job sees them.

use crate::beside::{Mesh, Running};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const SHOP: &str = r#"apiVersion: v1
kind: Service
metadata: {name: books, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: books}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: workload.linkerd.io/v1beta1
kind: ExternalWorkload
metadata: {name: books-1, namespace: shop, labels: {app: books}}
spec:
  meshTLS: {identity: books.shop, serverName: books.shop}
  workloadIPs: [{ip: 10.1.0.1}]
  ports: [{name: http, port: 8080}]
---
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: books-http, namespace: shop}
spec: {externalWorkloadSelector: {}, port: http}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: web-only, namespace: shop}
spec:
  targetRef: {group: policy.linkerd.io, kind: Server, name: books-http}
  requiredAuthenticationRefs: [{kind: ServiceAccount, name: web}]
"#;

/// A directory of this test's own, removed at its end.
struct Manifests(PathBuf);

impl Manifests {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weft-why-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("shop.yaml"), text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Manifests {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Exit status, output, and errors.
fn weft(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_weft")).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_decision_is_told_step_by_step() {
    let manifests = Manifests::new("steps", SHOP);
    let (status, told, _) =
        weft(&["why", "--manifests", manifests.path(), "--from", "web.shop", "--to", "books.shop:80"]);
    let web = "web.shop.serviceaccount.identity.linkerd.cluster.local";
    let expected = format!(
        "\
caller         {web} at 10.0.0.0, an address that is assumed
destination    Service shop/books (shop.yaml:1), port 80
policy         Service shop/books:80: the port speaks detected
route          default http, rule 0: any path
backend        Service shop/books:80
endpoint       one of 1 by load, such as 10.1.0.1:8080
server         ExternalWorkload shop/books-1 (shop.yaml:6): Server shop/books-http (shop.yaml:14); it speaks detected
route          default default: any path
authorization  AuthorizationPolicy shop/web-only admits {web} from anywhere

→ it reaches the application
"
    );
    assert_eq!((status, told), (Some(0), expected));
}

#[test]
fn a_refusal_leads_to_its_explanation_and_json_has_the_same() {
    let manifests = Manifests::new("refusal", SHOP);
    let ask = ["why", "--manifests", manifests.path(), "--from", "api.shop", "--to", "books.shop"];
    let (_, told, _) = weft(&ask);
    assert!(told.ends_with("  what to do about it: weft explain unauthorized\n"), "{told}");
    let (_, json, _) = weft(&[&ask[..], &["--output", "json"]].concat());
    assert!(json.contains("\"reason\": \"unauthorized\""), "{json}");
    let (_, told, _) = weft(&[&ask[..], &["--identity", "web.shop"]].concat());
    assert!(told.ends_with("→ it reaches the application\n"), "{told}");
    let (_, told, _) = weft(&[&ask[..], &["--unmeshed"]].concat());
    assert!(told.contains("does not speak TLS of the mesh"), "{told}");
}

#[test]
fn what_cannot_be_asked_is_refused_with_a_remedy() {
    let manifests = Manifests::new("wrong", SHOP);
    for (more, status, problem) in [
        (&["--from", "web", "--to", "books.shop"][..], 64, "expected a service account and its namespace"),
        (&["--from", "web.shop", "--to", "books.shop", "--header", "x"][..], 64, "expected `name: value`"),
        (&["--from", "web.shop", "--to", "books"][..], 1, "names no namespace"),
    ] {
        let (got, _, error) = weft(&[&["why", "--manifests", manifests.path()][..], more].concat());
        assert_eq!(got, Some(status), "{error}");
        assert!(error.contains(problem), "{error}");
    }
    let nobody = ["why", "--control", "127.0.0.1:1", "--from", "web.shop", "--to", "books.shop"];
    assert!(weft(&nobody).2.contains("name another with --control, or --manifests"));
}

#[test]
fn a_difference_is_an_exit_status_and_a_list() {
    let (old, same) = (Manifests::new("old", SHOP), Manifests::new("same", SHOP));
    let (status, text, _) = weft(&["diff", old.path(), same.path()]);
    assert_eq!((status, text.as_str()), (Some(0), "no route, backend, limit or permission changes\n"));
    let new = Manifests::new("new", &SHOP.replace("ServiceAccount, name: web", "ServiceAccount, name: api"));
    let (status, text, _) = weft(&["diff", old.path(), new.path()]);
    let of = |name: &str| {
        format!(
            "AuthorizationPolicy shop/web-only admits {name}.shop.serviceaccount.identity.linkerd.cluster.local from anywhere"
        )
    };
    let expected =
        format!("ExternalWorkload shop/books-1 port 8080\n  - {}\n  + {}\n\n", of("web"), of("api"));
    assert_eq!((status, text), (Some(1), expected));
    let (status, _, error) = weft(&["diff", old.path(), "/nowhere"]);
    assert_eq!(status, Some(2));
    assert!(error.contains("cannot be read"), "{error}");
}

#[test]
fn a_running_control_plane_says_what_is_not_in_force_and_when_it_is_mended() {
    let mesh = Mesh::without_control();
    let file = mesh.root.join("manifests/shop.yaml");
    fs::write(&file, SHOP.replace("name: books-http}\n  required", "name: gone}\n  required")).unwrap();
    let mut control = Running(mesh.control().spawn().unwrap());
    let said = control.out();
    said.until("AuthorizationPolicy shop/web-only: dangling: Server shop/gone is missing (shop.yaml:19)");
    fs::write(&file, SHOP).unwrap();
    said.until("AuthorizationPolicy shop/web-only: nothing is wrong with it any more");
}
