//! A directory as a source, on real files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::timeout;
use weft_model::object::{Change, Key, Kind, Object};
use weft_resources::directory::read_once;
use weft_resources::{Batch, Directory, Part, Report, Settings, Source};

/// A place for one test, removed at its end.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("dir-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("manifests")).unwrap();
        Self(path)
    }

    fn root(&self) -> PathBuf {
        self.0.join("manifests")
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.root().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, file: &str) {
        fs::remove_file(self.root().join(file)).unwrap();
    }

    fn settings(&self) -> Settings {
        Settings {
            state: Some(self.0.join("state")),
            quiet: Duration::from_millis(100),
            longest: Duration::from_secs(5),
            // Only the kernel's reports can be what wakes these tests.
            rescan: Duration::from_secs(3600),
            save_every: Duration::ZERO,
            ..Settings::new(self.root())
        }
    }

    fn open(&self) -> Directory {
        Directory::open(self.settings())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);

async fn next(directory: &mut Directory) -> Batch {
    timeout(PATIENCE, directory.next()).await.expect("a batch should have come")
}

/// Drives the directory until its report is as wanted, without a batch.
async fn until(directory: &mut Directory, wanted: impl Fn(&Report) -> bool) -> Arc<Report> {
    let mut reports = directory.reports();
    let found = async {
        tokio::select! {
            report = reports.wait_for(|r| wanted(r)) => report.unwrap().clone(),
            batch = directory.next() => panic!("unexpected {batch:?}"),
        }
    };
    timeout(PATIENCE, found).await.expect("the report should have changed")
}

fn service(name: &str, extra: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{{port: 80}}]{extra}}}\n"
    )
}

fn key(name: &str) -> Key {
    Key { kind: Kind::Service, namespace: "shop".into(), name: name.into() }
}

/// What a batch does, as `+name` and `-name`, sorted.
fn summary(batch: &Batch) -> Vec<String> {
    let mut all: Vec<String> = batch
        .changes
        .iter()
        .map(|change| match change {
            Change::Upsert(object) => format!("+{}", object.meta().name),
            Change::Delete(key) => format!("-{}", key.name),
        })
        .collect();
    all.sort();
    all
}

fn address(batch: &Batch, name: &str) -> String {
    let found = batch.changes.iter().find_map(|change| match change {
        Change::Upsert(Object::Service(service)) if service.meta.name == name => Some(service.clone()),
        _ => None,
    });
    found.unwrap().virtual_ips().iter().map(|ip| ip.to_string()).collect::<Vec<_>>().join(",")
}

#[tokio::test]
async fn the_first_batch_is_everything_and_then_come_changes() {
    let place = Place::new();
    place.write("a.yaml", &service("a", ""));
    place.write("deep/er/b.yml", &service("b", ""));
    place.write("c.json", r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop"}}"#);
    let mut directory = place.open();
    let first = next(&mut directory).await;
    assert_eq!(
        (first.part, first.revision, summary(&first)),
        (Part::Initial, 1, vec!["+a".into(), "+b".into(), "+shop".into()])
    );
    place.write("a.yaml", &service("a", ", selector: {app: a}"));
    let second = next(&mut directory).await;
    assert_eq!((second.part, second.revision, summary(&second)), (Part::Changes, 2, vec!["+a".into()]));
    fs::rename(place.root().join("deep/er/b.yml"), place.root().join("deep/b.txt")).unwrap();
    assert_eq!(summary(&next(&mut directory).await), ["-b"]);
    place.write("new/dir/d.yaml", &service("d", ""));
    assert_eq!(summary(&next(&mut directory).await), ["+d"]);
    let report = directory.reports().borrow().clone();
    assert_eq!((report.objects, report.files, report.revision), (3, 3, 4));
    assert!(report.rejected.is_empty() && report.held.is_none() && report.stale.is_none());
}

#[tokio::test]
async fn an_empty_directory_gives_an_empty_first_batch() {
    let place = Place::new();
    let first = next(&mut place.open()).await;
    assert_eq!((first.part, first.changes.len()), (Part::Initial, 0));
}

#[tokio::test]
async fn files_changed_together_land_together() {
    let place = Place::new();
    let mut directory = place.open();
    next(&mut directory).await;
    for name in ["a", "b", "c", "d", "e"] {
        place.write(&format!("{name}.yaml"), &service(name, ""));
    }
    assert_eq!(next(&mut directory).await.changes.len(), 5);
}

#[tokio::test]
async fn files_that_are_still_being_written_are_waited_for() {
    let place = Place::new();
    let mut directory =
        Directory::open(Settings { quiet: Duration::from_secs(1), longest: PATIENCE, ..place.settings() });
    next(&mut directory).await;
    // One after the other while the directory is driven, which hears of the first at once.
    let root = place.root();
    let writing = tokio::task::spawn_blocking(move || {
        for n in 0..300 {
            fs::write(root.join(format!("s{n}.yaml")), service(&format!("s{n}"), "")).unwrap();
        }
    });
    assert_eq!(next(&mut directory).await.changes.len(), 300);
    writing.await.unwrap();
}

#[tokio::test]
async fn files_that_are_no_manifests_are_skipped() {
    let place = Place::new();
    for file in
        [".hidden.yaml", "a.yaml~", "a.yaml.swp", "a.yaml.tmp", "kustomization.yaml", "a.txt", ".git/a.yaml"]
    {
        place.write(file, &service("a", ""));
    }
    place.write("b.yaml", &service("b", ""));
    let (objects, report) = read_once(&place.root()).unwrap();
    assert_eq!((objects.len(), report.files, report.rejected.len()), (1, 1, 0));
}

#[tokio::test]
async fn a_volume_whose_data_link_is_swapped_is_read_at_once() {
    let place = Place::new();
    let root = place.root();
    for (version, names) in [("..1", ["a", "b"]), ("..2", ["a", "c"])] {
        for name in names {
            place.write(&format!("{version}/{name}.yaml"), &service(name, ""));
        }
    }
    symlink("..1", root.join("..data")).unwrap();
    for name in ["a", "b", "c"] {
        symlink(format!("..data/{name}.yaml"), root.join(format!("{name}.yaml"))).unwrap();
    }
    let mut directory = place.open();
    assert_eq!(summary(&next(&mut directory).await), ["+a", "+b"]);
    symlink("..2", root.join("..data_tmp")).unwrap();
    fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    assert_eq!(summary(&next(&mut directory).await), ["+c", "-b"]);
}

#[tokio::test]
async fn a_root_that_is_a_link_may_be_exchanged() {
    let place = Place::new();
    for (version, name) in [("v1", "a"), ("v2", "b")] {
        let path = place.0.join(version);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("keep.yaml"), service("keep", "")).unwrap();
        fs::write(path.join("s.yaml"), service(name, "")).unwrap();
    }
    let link = place.0.join("current");
    symlink("v1", &link).unwrap();
    let mut directory = Directory::open(Settings { root: link.clone(), ..place.settings() });
    assert_eq!(summary(&next(&mut directory).await), ["+a", "+keep"]);
    symlink("v2", place.0.join("tmp")).unwrap();
    fs::rename(place.0.join("tmp"), &link).unwrap();
    assert_eq!(summary(&next(&mut directory).await), ["+b", "-a"]);
    fs::write(place.0.join("v2/s.yaml"), service("c", "")).unwrap();
    assert_eq!(summary(&next(&mut directory).await), ["+c", "-b"], "the new root is watched too");
}

#[tokio::test]
async fn links_out_of_the_root_circles_and_odd_files_are_refused() {
    let place = Place::new();
    let root = place.root();
    place.write("a.yaml", &service("a", ""));
    fs::write(place.0.join("secret.yaml"), service("secret", "")).unwrap();
    symlink("../secret.yaml", root.join("out.yaml")).unwrap();
    symlink("..", root.join("up")).unwrap();
    symlink(".", root.join("around")).unwrap();
    symlink("nowhere.yaml", root.join("broken.yaml")).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(root.join("pipe.yaml")).status();
    place.write("large.yaml", &format!("# {}", "x".repeat(5 << 20)));
    fs::write(root.join("latin.yaml"), b"a: \xe9").unwrap();
    fs::create_dir(root.join("dir.yaml")).unwrap();
    let (objects, report) = read_once(&root).unwrap();
    assert_eq!(objects.into_keys().collect::<Vec<_>>(), [key("a")]);
    let found: BTreeMap<&str, &str> =
        report.rejected.iter().map(|f| (&*f.file, f.message.as_str())).collect();
    for (file, message) in [
        ("out.yaml", "leaves the manifests' root"),
        ("up", "leaves the manifests' root"),
        ("broken.yaml", "a link to nothing"),
        ("large.yaml", "larger than"),
        ("latin.yaml", "not UTF-8"),
    ] {
        assert!(found.get(file).is_some_and(|m| m.contains(message)), "{file}: {found:?}");
    }
    let piped = pipe.is_ok_and(|s| s.success());
    assert_eq!(found.contains_key("pipe.yaml"), piped);
    assert_eq!(found.len(), 5 + usize::from(piped), "{found:?}");
    assert_eq!(report.errors_by_file.get("out.yaml"), Some(&1));
}

#[tokio::test]
async fn a_bad_file_keeps_what_it_held_and_a_bad_object_only_itself() {
    let place = Place::new();
    place.write("a.yaml", &format!("{}---\n{}", service("a", ""), service("b", "")));
    let mut directory = place.open();
    next(&mut directory).await;
    // The file as a whole cannot be read.
    place.write("a.yaml", "a: [");
    let report = until(&mut directory, |r| !r.rejected.is_empty()).await;
    assert_eq!((report.objects, report.rejected[0].line > 0, &*report.rejected[0].file), (2, true, "a.yaml"));
    // One object is wrong, the other changes, a third comes.
    let text = format!(
        "{}---\n{}---\n{}",
        service("a", "").replace("80", "0"),
        service("b", ", selector: {x: z}"),
        service("c", "")
    );
    place.write("a.yaml", &text);
    assert_eq!(summary(&next(&mut directory).await), ["+b", "+c"]);
    let report = directory.reports().borrow().clone();
    assert_eq!((report.objects, report.rejected.len()), (3, 1));
    assert_eq!(report.rejected[0].object, "Service shop/a");
    assert_eq!(report.rejected[0].field, "spec.ports[0].port");
    assert_eq!(report.errors_by_file.get("a.yaml"), Some(&1));
    // The wrong one is taken out for good.
    place.write("a.yaml", &format!("{}---\n{}", service("b", ", selector: {x: z}"), service("c", "")));
    assert_eq!(summary(&next(&mut directory).await), ["+b", "+c", "-a"], "their lines moved");
    assert!(directory.reports().borrow().rejected.is_empty());
}

#[tokio::test]
async fn of_two_files_with_one_object_the_earlier_stays_and_both_are_named() {
    let place = Place::new();
    place.write("m.yaml", &service("web", ", selector: {from: m}"));
    let mut directory = place.open();
    next(&mut directory).await;
    // By name it would come first; it came later.
    place.write("a.yaml", &service("web", ", selector: {from: a}"));
    let report = until(&mut directory, |r| !r.rejected.is_empty()).await;
    let files: Vec<&str> = report.rejected.iter().map(|f| &*f.file).collect();
    assert_eq!((files, report.objects), (vec!["a.yaml", "m.yaml"], 1));
    place.remove("m.yaml");
    let batch = next(&mut directory).await;
    let Change::Upsert(Object::Service(web)) = &batch.changes[0] else { panic!("{batch:?}") };
    assert_eq!(web.selector["from"], "a");
    assert!(directory.reports().borrow().rejected.is_empty());
}

#[tokio::test]
async fn mass_disappearance_is_held_back_until_confirmed() {
    let place = Place::new();
    for n in 0..8 {
        place.write(&format!("s{n}.yaml"), &service(&format!("s{n}"), ""));
    }
    let mut directory = place.open();
    next(&mut directory).await;
    for n in 0..5 {
        place.remove(&format!("s{n}.yaml"));
    }
    let report = until(&mut directory, |r| r.held.is_some()).await;
    let hold = report.held.clone().unwrap();
    assert_eq!((hold.missing, hold.of, report.objects, hold.examples.len()), (5, 8, 8, 5));
    // What else happens still happens.
    place.write("new.yaml", &service("new", ""));
    assert_eq!(summary(&next(&mut directory).await), ["+new"]);
    assert!(directory.reports().borrow().held.is_some());
    // Files that come back are no longer missed.
    place.write("s0.yaml", &service("s0", ""));
    place.write("s1.yaml", &service("s1", ""));
    let gone = next(&mut directory).await;
    assert_eq!(summary(&gone), ["-s2", "-s3", "-s4"], "three may go");
    assert!(directory.reports().borrow().held.is_none());
    for entry in fs::read_dir(place.root()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let report = until(&mut directory, |r| r.held.is_some()).await;
    assert!(report.held.as_ref().unwrap().message.contains("all objects"));
    directory.handle().confirm_removals();
    assert_eq!(next(&mut directory).await.changes.len(), 6);
    assert_eq!(directory.reports().borrow().objects, 0);
}

#[tokio::test]
async fn objects_that_the_mesh_wrote_itself_come_and_go_freely() {
    let place = Place::new();
    place.write("a.yaml", &service("a", ""));
    let mut directory = place.open();
    next(&mut directory).await;
    let writer = directory.writer();
    let text = "apiVersion: workload.linkerd.io/v1beta1\nkind: ExternalWorkload\nmetadata: {name: web-1, namespace: shop}
spec: {meshTLS: {identity: web.shop, serverName: web.shop}, workloadIPs: [{ip: 10.0.0.1}], ports: [{name: http, port: 8080}]}";
    let object = weft_resources::parse::parse(&"x".into(), text).objects.remove(0);
    let path = writer.write_object(&object).unwrap();
    assert_eq!(path.file_name().unwrap().to_str(), Some("weft-run-externalworkload_shop_web-1.yaml"));
    assert_eq!(summary(&next(&mut directory).await), ["+web-1"]);
    writer.remove_object(&object.key()).unwrap();
    assert_eq!(summary(&next(&mut directory).await), ["-web-1"]);
    assert!(directory.reports().borrow().held.is_none());
    use weft_resources::write::Removed;
    assert_eq!(writer.remove_object(&object.key()).unwrap(), Removed::WasNotThere);
    let left: Vec<_> = fs::read_dir(place.root()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["a.yaml"], "no temporary files are left");
}

#[tokio::test]
async fn a_manifest_of_the_mesh_is_exchanged_as_a_whole() {
    let place = Place::new();
    let object = |app: &str| {
        let text = service("own", &format!(", selector: {{app: {app}}}"));
        weft_resources::parse::parse(&"x".into(), &text).objects.remove(0)
    };
    let writer = weft_resources::Writer::new(place.root());
    let path = writer.write_object(&object("first")).unwrap();
    let first = fs::read_to_string(&path).unwrap();
    // Whoever has opened the first goes on reading the first, to its end.
    let mut opened = fs::File::open(&path).unwrap();
    writer.write_object(&object("second")).unwrap();
    let mut read = String::new();
    std::io::Read::read_to_string(&mut opened, &mut read).unwrap();
    assert_eq!(read, first);
    assert!(fs::read_to_string(&path).unwrap().contains("app: second"));
    assert_eq!(fs::read_dir(place.root()).unwrap().count(), 1);
}

#[tokio::test]
async fn virtual_addresses_and_first_seen_times_outlive_a_restart() {
    let place = Place::new();
    place.write("a.yaml", &service("a", ""));
    place.write("b.yaml", &service("b", ", clusterIP: 10.9.9.9"));
    place.write("h.yaml", &service("h", ", clusterIP: None"));
    let created = |batch: &Batch, name: &str| {
        batch.changes.iter().find_map(|c| match c {
            Change::Upsert(o) if o.meta().name == name => o.meta().created,
            _ => None,
        })
    };
    let (first, hash) = {
        let mut directory = place.open();
        let first = next(&mut directory).await;
        let hash = directory.reports().borrow().hash.clone();
        (first, hash)
    };
    assert!(address(&first, "a").starts_with("240."));
    assert_eq!((address(&first, "b"), address(&first, "h")), ("10.9.9.9".into(), String::new()));
    assert!(created(&first, "a").is_some());
    let state = fs::read_to_string(place.0.join("state/manifests.state")).unwrap();
    assert!(state.contains(&address(&first, "a")));
    let mut directory = place.open();
    let second = next(&mut directory).await;
    assert_eq!(address(&second, "a"), address(&first, "a"));
    assert_eq!(created(&second, "a"), created(&first, "a"));
    assert_eq!(directory.reports().borrow().hash, hash);
    // Edits do not move it; another replica without state agrees.
    place.write("a.yaml", &service("a", ", selector: {x: z}"));
    assert_eq!(address(&next(&mut directory).await, "a"), address(&first, "a"));
    let mut replica = Directory::open(Settings { state: None, ..place.settings() });
    assert_eq!(address(&next(&mut replica).await, "a"), address(&first, "a"));
    assert_eq!(replica.reports().borrow().hash, directory.reports().borrow().hash);
}

#[tokio::test]
async fn a_virtual_address_that_was_given_out_stays_though_a_newcomer_would_have_come_first() {
    let place = Place::new();
    place.write("z.yaml", &service("z", ""));
    // Two addresses, so that some name soon wants the one that `z` has.
    let settings =
        |state| Settings { state, virtual_range: "240.0.0.0/30".parse().unwrap(), ..place.settings() };
    let kept = Some(place.0.join("state"));
    let given = address(&next(&mut Directory::open(settings(kept.clone()))).await, "z");
    let mut moved = given.clone();
    for newcomer in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        let file = format!("{newcomer}.yaml");
        place.write(&file, &service(newcomer, ""));
        moved = address(&next(&mut Directory::open(settings(None))).await, "z");
        if moved != given {
            break;
        }
        place.remove(&file);
    }
    assert_ne!(moved, given, "whoever remembers nothing gives it another one");
    assert_eq!(address(&next(&mut Directory::open(settings(kept))).await, "z"), given);
}

#[tokio::test]
async fn what_was_good_last_is_served_while_the_manifests_cannot_be_read() {
    let place = Place::new();
    place.write("a.yaml", &service("a", ""));
    place.write("weft-run-service_shop_own.yaml", &service("own", ""));
    let first = next(&mut place.open()).await;
    // The volume is not mounted: the directory is not there.
    fs::rename(place.root(), place.0.join("away")).unwrap();
    let mut directory = place.open();
    let batch = next(&mut directory).await;
    assert_eq!((batch.part, summary(&batch)), (Part::Initial, vec!["+a".to_owned(), "+own".into()]));
    assert_eq!(address(&batch, "a"), address(&first, "a"));
    assert!(directory.reports().borrow().stale.as_ref().unwrap().contains("remembered"));
    // It comes back, changed.
    fs::rename(place.0.join("away"), place.root()).unwrap();
    place.remove("weft-run-service_shop_own.yaml");
    assert_eq!(summary(&next(&mut directory).await), ["-own"]);
    assert_eq!(directory.reports().borrow().stale, None);
    drop(directory);
    // The directory is there, but empty.
    place.remove("a.yaml");
    let mut directory = place.open();
    assert_eq!(summary(&next(&mut directory).await), ["+a"]);
    let report = directory.reports().borrow().clone();
    assert!(report.stale.is_some() && report.held.is_some());
    directory.handle().confirm_removals();
    assert_eq!(summary(&next(&mut directory).await), ["-a"]);
}

#[tokio::test]
async fn a_damaged_state_file_is_reported_and_not_believed() {
    let place = Place::new();
    place.write("a.yaml", &service("a", ""));
    next(&mut place.open()).await;
    let path = place.0.join("state/manifests.state");
    let text = fs::read_to_string(&path).unwrap();
    for damaged in
        [text.replace("shop", "shap"), text[..text.len() - 10].to_owned(), "x".into(), String::new()]
    {
        fs::write(&path, damaged).unwrap();
        fs::rename(place.root().join("a.yaml"), place.0.join("a.yaml")).unwrap();
        let mut directory =
            Directory::open(Settings { save_every: Duration::from_secs(3600), ..place.settings() });
        assert!(next(&mut directory).await.changes.is_empty());
        let report = directory.reports().borrow().clone();
        assert!(report.warnings.iter().any(|w| &*w.file == "(state)"), "{report:?}");
        fs::rename(place.0.join("a.yaml"), place.root().join("a.yaml")).unwrap();
    }
}

#[tokio::test]
async fn a_dropped_wait_loses_nothing() {
    let place = Place::new();
    let mut directory = place.open();
    for moment in [0, 1, 5, 20] {
        let _ = timeout(Duration::from_millis(moment), directory.next()).await;
    }
    place.write("a.yaml", &service("a", ""));
    let mut seen = Vec::new();
    for _ in 0..3000 {
        if let Ok(batch) = timeout(Duration::from_millis(10), directory.next()).await {
            seen.extend(summary(&batch));
            if seen == ["+a"] {
                return;
            }
        }
    }
    panic!("the change was lost: {seen:?}");
}

#[tokio::test]
async fn a_change_that_the_kernel_does_not_report_is_found_by_the_slow_look() {
    let place = Place::new();
    // Written through another name of the same file, outside of the watched directory.
    let outside = place.0.join("outside.yaml");
    fs::write(&outside, service("a", "")).unwrap();
    fs::hard_link(&outside, place.root().join("a.yaml")).unwrap();
    let mut directory = Directory::open(Settings { rescan: Duration::from_millis(300), ..place.settings() });
    next(&mut directory).await;
    fs::write(&outside, service("b", "")).unwrap();
    assert_eq!(summary(&next(&mut directory).await), ["+b", "-a"]);
}

#[tokio::test]
async fn a_root_that_comes_later_is_found() {
    let place = Place::new();
    fs::remove_dir(place.root()).unwrap();
    let mut directory = place.open();
    assert!(next(&mut directory).await.changes.is_empty());
    assert!(directory.reports().borrow().stale.as_ref().unwrap().contains("cannot be read"));
    place.write("a.yaml", &service("a", ""));
    assert_eq!(summary(&next(&mut directory).await), ["+a"]);
    assert_eq!(directory.reports().borrow().stale, None);
}

#[tokio::test]
async fn when_a_file_was_touched_decides_nothing() {
    let hour = Duration::from_secs(3600);
    let read = async |older: &str| {
        let place = Place::new();
        place.write("a.yaml", &service("web", ", selector: {from: a}"));
        place.write("b.yaml", &service("web", ", selector: {from: b}"));
        let file = fs::File::options().write(true).open(place.root().join(older)).unwrap();
        file.set_modified(std::time::SystemTime::now() - hour).unwrap();
        let mut directory = place.open();
        let batch = next(&mut directory).await;
        let Change::Upsert(Object::Service(web)) = &batch.changes[0] else { panic!("{batch:?}") };
        (web.selector["from"].clone(), directory.reports().borrow().hash.clone())
    };
    let (one, other) = (read("a.yaml").await, read("b.yaml").await);
    assert_eq!((one.0.as_str(), &one), ("a", &other));
}
