//! `weft check`: the table and the exit status, as a person or a CI job sees them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SHOP: &str = r#"apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {config.linkerd.io/opaque-ports: "80,x y"}}
spec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: bad, namespace: shop}
spec: {ports: [{port: 99999}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s, namespace: shop, labels: {kubernetes.io/service-name: gone}}
addressType: IPv4
endpoints: [{addresses: [10.1.0.1]}]
ports: [{port: 80}]
"#;

const RIVAL: &str = "apiVersion: v1
kind: Service
metadata: {name: a-rival, namespace: shop}
spec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}
";

const FINE: &str = "apiVersion: v1
kind: Service
metadata: {name: fine, namespace: shop}
spec: {ports: [{port: 80}]}
";

/// A directory of this test's own, removed at its end.
struct Manifests(PathBuf);

impl Manifests {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let path = std::env::temp_dir().join(format!("weft-check-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        for (file, text) in files {
            fs::write(path.join(file), text).unwrap();
        }
        Self(path)
    }
}

impl Drop for Manifests {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Exit status and table.
fn check(roots: &[&Path], more: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.arg("check").args(more);
    for root in roots {
        command.arg("--manifests").arg(root);
    }
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn every_object_has_its_row_and_what_is_wrong_fails_the_check() {
    let manifests = Manifests::new("all", &[("shop.yaml", SHOP), ("rival.yaml", RIVAL)]);
    let (status, table) = check(&[&manifests.0], &[]);
    let expected = "\
PLACE         OBJECT                STATE       WHY
rival.yaml:1  Service shop/a-rival  accepted
shop.yaml:1   Service shop/web      conflicted  clusterIP 10.0.0.1, with Service shop/a-rival; \
        config.linkerd.io/opaque-ports: `x y` is not a port, a range or a port name
shop.yaml:9   Service shop/bad      rejected    spec.ports[0].port: 99999 is not a port in 1–65535
shop.yaml:11  EndpointSlice shop/s  dangling    Service shop/gone is missing

1 accepted, 1 conflicted, 1 dangling, 1 rejected, in 2 files
";
    assert_eq!((status, table.as_str()), (Some(1), expected));
}

#[test]
fn warnings_fail_only_a_strict_check() {
    let waiting = SHOP.rsplit("---\n").next().unwrap();
    let manifests = Manifests::new("strict", &[("fine.yaml", FINE), ("waiting.yaml", waiting)]);
    assert_eq!(check(&[&manifests.0], &[]).0, Some(0));
    assert_eq!(check(&[&manifests.0], &["--strict"]).0, Some(1));
    fs::remove_file(manifests.0.join("waiting.yaml")).unwrap();
    assert_eq!(check(&[&manifests.0], &["--strict"]).0, Some(0));
}

#[test]
fn an_object_in_two_directories_is_a_conflict_and_a_missing_directory_an_error() {
    let (one, two) = (Manifests::new("one", &[("f.yaml", FINE)]), Manifests::new("two", &[("g.yaml", FINE)]));
    let (status, table) = check(&[&one.0, &two.0], &[]);
    let first = one.0.join("f.yaml").display().to_string();
    assert!(table.contains(&format!("it is also in {first}; the one that changes last counts")), "{table}");
    assert_eq!(status, Some(1));
    let (status, table) = check(&[&one.0.join("nothing")], &[]);
    assert_eq!((status, table.as_str()), (Some(1), ""));
}
