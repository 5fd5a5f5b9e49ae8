//! The whole chain: manifests on disk, the real control plane, real proxies, and traffic that never stops.

use crate::world::{elsewhere, proxy_of};
use bytes::Bytes;
use http::Response;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use weft_control::{Control, Options};
use weft_net::body::Body;
use weft_testkit::application::{Application, takes};
use weft_testkit::client::{Answer, Raw, get};
use weft_testkit::mesh::{Mesh, Running, identity};
use weft_testkit::until;

/// A directory of manifests and the control plane that reads it.
struct Town {
    mesh: Mesh,
    control: Control,
    directory: PathBuf,
    servers: Vec<Server>,
}

struct Server {
    name: &'static str,
    version: &'static str,
    app: Application,
    proxy: Running,
    /// Where peers reach the proxy: from an address that is not its host's own, which every policy admits.
    door: Application,
}

impl Drop for Town {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Town {
    /// Two workloads of version 1 and one of version 2 of a service `web`, each behind its proxy. Every application says
    /// which version it is.
    async fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("weft-town-{}-{number}", std::process::id()));
        std::fs::create_dir_all(directory.join("manifests")).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let options = Options {
            manifests: vec![directory.join("manifests")],
            state: directory.join("state"),
            listen: any,
            names: Vec::new(),
            admin: any,
            config: Default::default(),
            issuer: None,
            issuance_lifetime: Duration::from_secs(24 * 3600),
            connections: 1000,
            connections_per_source: 1000,
            streams: Default::default(),
        };
        let mesh = Mesh::new();
        let control = weft_control::start(options, None).await.unwrap();
        let mut town = Self { mesh, control, directory, servers: Vec::new() };
        for (name, version) in [("web-1", "v1"), ("web-2", "v1"), ("web-3", "v2")] {
            let app = Application::http(move |_| async move {
                // Long enough that something is under way whenever a manifest changes.
                takes(Duration::from_millis(2)).await;
                Response::new(Body::from(Bytes::from_static(version.as_bytes())))
            })
            .await;
            let settings = town.settings(name);
            let settings: Vec<_> = settings.iter().map(|(k, v)| (*k, v.as_str())).collect();
            let proxy = proxy_of(&town.mesh, name, &app, &settings).await;
            let door = elsewhere(proxy.proxy.inbound).await;
            town.servers.push(Server { name, version, app, proxy, door });
        }
        town.put(
            "services.yaml",
            &[service("web", ""), service("web-v1", ", v: v1"), service("web-v2", ", v: v2")],
        );
        for server in &town.servers {
            town.put(&format!("{}.yaml", server.name), &[server.manifest("True")]);
        }
        town
    }

    /// What makes a proxy one of this control plane's. Its identity comes from the mesh's authority.
    fn settings(&self, name: &str) -> Vec<(&'static str, String)> {
        let control = self.control.listen.to_string();
        vec![
            ("DESTINATION_SVC_ADDR", control.clone()),
            ("POLICY_SVC_ADDR", control),
            ("DESTINATION_CONTEXT", format!("{{\"ns\":\"default\",\"pod\":\"{name}\"}}")),
            ("POLICY_WORKLOAD", format!("{{\"ns\":\"default\",\"external_workload\":\"{name}\"}}")),
            ("INBOUND_DEFAULT_POLICY", "all-unauthenticated".to_owned()),
        ]
    }

    /// A proxy that leads to the service.
    async fn client(&self, name: &str) -> Running {
        let settings = self.settings(name);
        let settings: Vec<_> = settings.iter().map(|(k, v)| (*k, v.as_str())).collect();
        crate::world::proxy_to(&self.mesh, name, &settings).await
    }

    /// Puts documents into a file, at once.
    fn put(&self, file: &str, documents: &[String]) {
        let partial = self.directory.join("manifests/.partial");
        std::fs::write(&partial, documents.join("---\n")).unwrap();
        std::fs::rename(partial, self.directory.join("manifests").join(file)).unwrap();
    }

    fn remove(&self, file: &str) {
        let _ = std::fs::remove_file(self.directory.join("manifests").join(file));
    }
}

impl Server {
    fn manifest(&self, ready: &str) -> String {
        let (name, version, identity) = (self.name, self.version, identity(self.name));
        let (port, proxy) = (self.proxy.bind().port(), self.door.addr.port());
        format!(
            "apiVersion: workload.linkerd.io/v1beta1\nkind: ExternalWorkload\n\
             metadata: {{name: {name}, namespace: default, labels: {{app: web, v: {version}}}}}\nspec:\n  \
             meshTLS: {{identity: {identity}, serverName: {identity}}}\n  workloadIPs: [{{ip: 127.0.0.1}}]\n  \
             ports: [{{name: app, port: {port}}}, {{name: linkerd-proxy, port: {proxy}}}]\n\
             status: {{conditions: [{{type: Ready, status: \"{ready}\"}}]}}\n"
        )
    }
}

fn service(name: &str, selector: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
         spec: {{selector: {{app: web{selector}}}, ports: [{{name: app, port: 80, targetPort: app}}]}}\n"
    )
}

/// A route of the service's for a path, and what its one rule does.
fn http_route(name: &str, path: &str, rest: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: default}}\n\
         spec:\n  parentRefs: [{{group: core, kind: Service, name: web, port: 80}}]\n  \
         rules: [{{matches: [{{path: {{type: PathPrefix, value: {path}}}}}], {rest}}}]\n"
    )
}

/// A split by weights.
fn split(v1: u32, v2: u32) -> String {
    format!(
        "backendRefs: [{{name: web-v1, port: 80, weight: {v1}}}, {{name: web-v2, port: 80, weight: {v2}}}]"
    )
}

/// Clients that ask without a break, and what they were told.
struct Traffic {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    wrong: Arc<Mutex<Vec<String>>>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Traffic {
    /// `fits` says whether an answer to a path is one that somebody wanted; it is asked for a mark before each request.
    fn begin<M, B, F>(at: SocketAddr, paths: &'static [&'static str], begin: B, fits: F) -> Self
    where
        M: Send,
        B: Fn() -> M + Clone + Send + 'static,
        F: Fn(&M, &str, &Answer) -> bool + Clone + Send + 'static,
    {
        let traffic =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
        let clients = (0..4).map(|client| {
            let (stop, answered, wrong) = traffic.clone();
            let (begin, fits) = (begin.clone(), fits.clone());
            tokio::spawn(async move {
                let mut raw = Raw::connect(at).await;
                for path in paths.iter().cycle().skip(client) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let mark = begin();
                    raw.send(format!("GET {path} HTTP/1.1\r\nhost: web\r\n\r\n")).await;
                    let answer = raw.answer().await;
                    answered.fetch_add(1, Ordering::Relaxed);
                    if !fits(&mark, path, &answer) {
                        let why = answer.header("weft-reason");
                        let text = format!("{path}: {} {} {why}", answer.status, answer.text());
                        wrong.lock().unwrap().push(text);
                    }
                    if answer.header("connection") == "close" {
                        raw = Raw::connect(at).await;
                    }
                }
            })
        });
        let clients = clients.collect();
        let (stop, answered, wrong) = traffic;
        Self { stop, answered, wrong, clients }
    }

    /// Waits until so many more requests have been answered.
    async fn go_on_for(&self, more: u64) {
        let now = self.answered.load(Ordering::Relaxed);
        until("traffic goes on", async || self.answered.load(Ordering::Relaxed) >= now + more).await;
    }

    /// Ends it. Nobody was told anything wrong.
    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        let wrong = self.wrong.lock().unwrap();
        let shown = wrong.iter().take(20).collect::<Vec<_>>();
        assert!(wrong.is_empty(), "{} wrong answers: {shown:#?}", wrong.len());
        self.answered.load(Ordering::Relaxed)
    }
}

/// The versions that serve there.
async fn versions(at: SocketAddr) -> String {
    let mut seen = BTreeSet::new();
    for _ in 0..12 {
        seen.insert(get(at, "/").await.text());
    }
    seen.into_iter().collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_manifests_say_comes_into_force_without_a_failed_request() {
    let town = Town::new().await;
    let client = town.client("client").await;
    let at = client.upstream();
    until("there is an answer", async || get(at, "/").await.status == 200).await;
    let traffic = Traffic::begin(at, &["/", "/x"], || (), |(), _, answer| answer.status == 200);
    let versions = async || versions(at).await;
    // Routes and their shares.
    for (v1, v2, expected) in [(0, 1, "v2"), (1, 0, "v1"), (1, 1, "v1 v2"), (0, 1, "v2")] {
        town.put("route.yaml", &[http_route("route", "/", &split(v1, v2))]);
        until("the shares are in force", async || versions().await == expected).await;
    }
    // What is done to a response, and a profile in place of the policy.
    let filter =
        "filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: era, value: two}]}}]";
    town.put("route.yaml", &[http_route("route", "/", &format!("{filter}, {}", split(0, 1)))]);
    until("the filter is in force", async || get(at, "/").await.header("era") == "two").await;
    let profile = "apiVersion: linkerd.io/v1alpha2\nkind: ServiceProfile\n\
        metadata: {name: web.default.svc.cluster.local, namespace: default}\nspec:\n  routes: []\n  \
        dstOverrides: [{authority: web-v1.default.svc.cluster.local:80, weight: 1}]\n";
    town.put("profile.yaml", &[profile.to_owned()]);
    until("the profile is in force", async || versions().await == "v1").await;
    town.remove("profile.yaml");
    until("the policy is in force again", async || versions().await == "v2").await;
    town.remove("route.yaml");
    until("all serve again", async || versions().await == "v1 v2").await;
    // Endpoints that come and go.
    for _ in 0..3 {
        for ready in ["False", "True"] {
            town.put("web-3.yaml", &[town.servers[2].manifest(ready)]);
            let expected = if ready == "True" { "v1 v2" } else { "v1" };
            until("the endpoints are in force", async || versions().await == expected).await;
        }
    }
    traffic.go_on_for(50).await;
    assert!(traffic.end().await > 500);
    assert!(town.servers.iter().all(|server| !server.app.seen().is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_lead_to_services_of_other_namespaces() {
    let town = Town::new().await;
    let client = town.client("client").await;
    let at = client.upstream();
    until("there is an answer", async || get(at, "/").await.status == 200).await;
    let library = service("books", ", v: v2").replace("namespace: default", "namespace: library");
    let shelf = town.servers[2].manifest("True").replace("namespace: default", "namespace: library");
    let to = |namespace: &str| {
        http_route("route", "/", &format!("backendRefs: [{{name: books, namespace: {namespace}, port: 80}}]"))
    };
    town.put("web-3.yaml", &[shelf]);
    town.put("library.yaml", &[library]);
    town.put("route.yaml", &[to("library")]);
    until("the other namespace serves", async || versions(at).await == "v2").await;
    // There is none of that name in the own one, and that is told and not served by whoever else there is.
    town.put("route.yaml", &[to("default")]);
    until("the backend is missing", async || get(at, "/").await.status == 500).await;
    let told = get(at, "/").await;
    assert!(told.header("weft-reason").contains("default/books"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_manifest_denies_is_denied_with_its_reason_and_nothing_else() {
    let town = Town::new().await;
    let (client, other) = (town.client("client").await, town.client("other").await);
    until("there is an answer", async || get(client.upstream(), "/").await.status == 200).await;
    let admin =
        |answer: &Answer| answer.status == 200 || answer.header("weft-reason").starts_with("unauthorized");
    let traffic = Traffic::begin(
        client.upstream(),
        &["/", "/admin", "/admin/x"],
        || (),
        move |(), path, answer| {
            if path.starts_with("/admin") { admin(answer) } else { answer.status == 200 }
        },
    );
    let server =
        "apiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata: {name: web, namespace: default}\n\
        spec: {externalWorkloadSelector: {matchLabels: {app: web}}, port: app, proxyProtocol: unknown}\n"
            .to_owned();
    let route = |name: &str, path: &str| {
        format!(
            "apiVersion: policy.linkerd.io/v1beta3\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: default}}\n\
             spec:\n  parentRefs: [{{group: policy.linkerd.io, kind: Server, name: web}}]\n  \
             rules: [{{matches: [{{path: {{type: PathPrefix, value: {path}}}}}]}}]\n"
        )
    };
    let policy = |name: &str, route: &str, accounts: &[&str]| {
        let mut text = format!(
            "apiVersion: policy.linkerd.io/v1alpha1\nkind: AuthorizationPolicy\n\
             metadata: {{name: {name}, namespace: default}}\nspec:\n  \
             targetRef: {{group: policy.linkerd.io, kind: HTTPRoute, name: {route}}}\n  requiredAuthenticationRefs:\n"
        );
        for account in accounts {
            let _ = writeln!(text, "  - {{kind: ServiceAccount, name: {account}}}");
        }
        text
    };
    let everything = || {
        vec![
            server.clone(),
            route("rest", "/"),
            route("admin", "/admin"),
            policy("rest", "rest", &["client"]),
        ]
    };
    for (accounts, of_client, of_other) in [("other", 403, 200), ("client", 200, 403), ("other", 403, 200)] {
        let mut all = everything();
        all.push(policy("admin", "admin", &[accounts]));
        town.put("access.yaml", &all);
        until("the permission is in force", async || {
            let asked =
                [get(client.upstream(), "/admin").await.status, get(other.upstream(), "/admin").await.status];
            let everywhere = async || {
                // Each workload hears of it by itself.
                let mut all = Vec::new();
                for _ in 0..12 {
                    all.push(get(client.upstream(), "/admin").await.status == of_client);
                }
                all.iter().all(|held| *held)
            };
            asked == [of_client, of_other] && everywhere().await
        })
        .await;
    }
    let denied = get(client.upstream(), "/admin").await;
    assert!(
        denied.header("weft-reason").contains("nearest") || denied.header("weft-reason").contains("admin"),
        "{denied:?}"
    );
    traffic.go_on_for(50).await;
    traffic.end().await;
}

/// What a world of random manifests may say about each path, apart from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Era {
    /// Of ten requests, so many go to version 1.
    share: u32,
    /// The route of `/moved` redirects.
    moved: bool,
    /// The route of `/broken` injects a failure.
    broken: bool,
    /// Clients may ask for `/secret`.
    secret: bool,
    /// Which of the three workloads are ready.
    ready: [bool; 3],
}

impl Era {
    fn random(random: &mut fastrand::Rng) -> Self {
        // One of each version always stays: shares and endpoints come into force one after the other, and no mixture of two
        // eras may lead nowhere.
        let ready = [true, random.bool(), true];
        Self {
            share: random.u32(..=10),
            moved: random.bool(),
            broken: random.bool(),
            secret: random.bool(),
            ready,
        }
    }

    fn put(&self, town: &Town, order: &mut fastrand::Rng) {
        let split = split(self.share, 10 - self.share);
        let filtered =
            |on: bool, filter: &str| if on { format!("filters: [{filter}], {split}") } else { split.clone() };
        let moved = filtered(
            self.moved,
            "{type: RequestRedirect, requestRedirect: {hostname: elsewhere, statusCode: 302}}",
        );
        let broken = match self.broken {
            // A backend of weight 0 alone is answered with 500.
            true => "backendRefs: [{name: web-v1, port: 80, weight: 0}]".to_owned(),
            false => split.clone(),
        };
        let access = [
            "apiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata: {name: web, namespace: default}\n\
             spec: {externalWorkloadSelector: {matchLabels: {app: web}}, port: app, proxyProtocol: unknown}\n"
                .to_owned(),
            permission("rest", "/", "client"),
            permission("secret", "/secret", if self.secret { "client" } else { "nobody" }),
        ];
        let mut files: Vec<(String, Vec<String>)> = vec![
            ("all.yaml".into(), vec![http_route("all", "/", &split)]),
            ("moved.yaml".into(), vec![http_route("moved", "/moved", &moved)]),
            ("broken.yaml".into(), vec![http_route("broken", "/broken", &broken)]),
            ("access.yaml".into(), access.into()),
        ];
        for (server, ready) in town.servers.iter().zip(self.ready) {
            let ready = if ready { "True" } else { "False" };
            files.push((format!("{}.yaml", server.name), vec![server.manifest(ready)]));
        }
        order.shuffle(&mut files);
        for (file, documents) in files {
            town.put(&file, &documents);
        }
    }

    /// Whether this era alone explains an answer to a path.
    fn explains(&self, path: &str, answer: &Answer) -> bool {
        match path {
            "/moved" if self.moved => answer.status == 302,
            "/broken" if self.broken => answer.status == 500,
            "/secret" if !self.secret => answer.status == 403,
            _ => answer.status == 200,
        }
    }
}

/// A route of the server's with who may use it.
fn permission(name: &str, path: &str, account: &str) -> String {
    format!(
        "apiVersion: policy.linkerd.io/v1beta3\nkind: HTTPRoute\nmetadata: {{name: in-{name}, namespace: default}}\n\
         spec:\n  parentRefs: [{{group: policy.linkerd.io, kind: Server, name: web}}]\n  \
         rules: [{{matches: [{{path: {{type: PathPrefix, value: {path}}}}}]}}]\n---\n\
         apiVersion: policy.linkerd.io/v1alpha1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: default}}\nspec:\n  \
         targetRef: {{group: policy.linkerd.io, kind: HTTPRoute, name: in-{name}}}\n  \
         requiredAuthenticationRefs: [{{kind: ServiceAccount, name: {account}}}]\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_random_manifests_no_request_fails_that_no_manifest_in_force_would_fail() {
    const PATHS: &[&str] = &["/", "/moved", "/broken", "/secret", "/x/y"];
    let seed = 7;
    let mut random = fastrand::Rng::with_seed(seed);
    let town = Town::new().await;
    let mut last = Era { share: 5, moved: false, broken: false, secret: true, ready: [true; 3] };
    last.put(&town, &mut random);
    let client = town.client("client").await;
    let at = client.upstream();
    // The eras that may be in force: the last that was seen to be, and all that were written since.
    let eras = Arc::new(Mutex::new(vec![last]));
    let in_force = async |era: Era| {
        until("the manifests are in force", async || {
            for _ in 0..6 {
                for path in PATHS {
                    let answer = get(at, path).await;
                    if !era.explains(path, &answer) {
                        return false;
                    }
                }
            }
            true
        })
        .await;
    };
    in_force(last).await;
    // A request may meet what was in force when it began, and whatever is written until it is answered.
    let (before, after) = (eras.clone(), eras.clone());
    let begin = move || before.lock().unwrap().clone();
    let fits = move |began: &Vec<Era>, path: &str, answer: &Answer| {
        let now = after.lock().unwrap();
        began.iter().chain(now.iter()).any(|era| era.explains(path, answer))
    };
    let traffic = Traffic::begin(at, PATHS, begin, fits);
    for _ in 0..12 {
        for _ in 0..random.usize(1..4) {
            last = Era::random(&mut random);
            eras.lock().unwrap().push(last);
            last.put(&town, &mut random);
            traffic.go_on_for(random.u64(1..40)).await;
        }
        in_force(last).await;
        *eras.lock().unwrap() = vec![last];
        traffic.go_on_for(20).await;
    }
    let answered = traffic.end().await;
    assert!(answered > 1000, "{answered}");
}

#[tokio::test]
async fn probes_pass_where_everything_else_is_denied() {
    let town = Town::new().await;
    let deny = "config.linkerd.io/default-inbound-policy: deny, weft/probes: app/healthz";
    let manifest = town.servers[0].manifest("True");
    let annotated =
        manifest.replace("namespace: default,", &format!("namespace: default, annotations: {{{deny}}},"));
    assert_ne!(manifest, annotated);
    town.put("web-1.yaml", &[annotated]);
    let at = town.servers[0].proxy.bind();
    let ask = async |path: &str| {
        let mut raw = Raw::connect_from("127.0.0.2".parse().unwrap(), at).await;
        raw.send(format!("GET {path} HTTP/1.1\r\nhost: web\r\n\r\n")).await;
        raw.answer().await.status
    };
    until("the policy is in force", async || ask("/").await != 200).await;
    assert_eq!(
        (ask("/healthz").await, ask("/healthz/deep").await),
        (200, 403),
        "the path that is named, and no other"
    );
    assert_eq!(ask("/").await, 403);
}
