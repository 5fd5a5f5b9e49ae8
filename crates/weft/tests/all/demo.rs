//! The demo as a test: everything happens once, and every claim holds.

use std::process::Command;

#[test]
fn a_demo_that_runs_by_itself_proves_every_claim() {
    let run = || Command::new(env!("CARGO_BIN_EXE_weft")).args(["demo", "--for", "8s"]).output().unwrap();
    // Some claims are statistics, and other tests use the machine at the same time: two chances.
    let output = Some(run()).filter(|output| output.status.success()).unwrap_or_else(run);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(told.lines().filter(|line| line.starts_with("ok ")).count(), 7, "{told}");
}

#[test]
fn a_lost_request_is_noticed() {
    let arguments = ["demo", "--for", "8s", "--break", "lost"];
    let output = Command::new(env!("CARGO_BIN_EXE_weft")).args(arguments).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success());
    assert!(told.contains("FAILED  lost "), "{told}");
}
