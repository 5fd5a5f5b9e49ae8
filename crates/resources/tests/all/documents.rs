//! Texts of manifests, good and bad.

use std::sync::Arc;
use weft_model::identity::Id;
use weft_model::object::Object;
use weft_model::service::{Addressing, TargetPort};
use weft_model::workload::ExternalWorkload;
use weft_resources::parse::{Parsed, TEXT_LIMIT, parse};

fn read(text: &str) -> Parsed {
    let file: Arc<str> = "dir/file.yaml".into();
    parse(&file, text)
}

/// A sound external workload with a field replaced.
fn workload(replace: &str, by: &str) -> String {
    let text = "apiVersion: workload.linkerd.io/v1beta1
kind: ExternalWorkload
metadata:
  name: web-1
  namespace: shop
  labels:
    app: web
spec:
  meshTLS:
    identity: web.shop.serviceaccount.identity.linkerd.cluster.local
    serverName: web.shop.serviceaccount.identity.linkerd.cluster.local
  workloadIPs:
  - ip: 10.1.0.11
  ports:
  - name: http
    port: 8080
status:
  conditions:
  - type: Ready
    status: \"True\"
";
    assert!(replace.is_empty() || text.contains(replace), "{replace}");
    text.replacen(replace, by, 1)
}

fn only_workload(text: &str) -> Arc<ExternalWorkload> {
    let read = read(text);
    assert_eq!((&read.rejected, &read.warnings), (&vec![], &vec![]));
    match &read.objects[..] {
        [Object::ExternalWorkload(workload)] => workload.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sound_workload_is_read() {
    let web = only_workload(&workload("", ""));
    assert_eq!((web.meta.namespace.as_str(), web.meta.name.as_str()), ("shop", "web-1"));
    assert_eq!(web.meta.origin.to_string(), "dir/file.yaml:1");
    assert_eq!(web.ready, Some(true));
    assert_eq!((web.ips.len(), web.ports.len()), (1, 1));
    assert!(matches!(web.identity, Id::Dns(_)));
}

#[test]
fn each_mistake_is_named_with_its_line_and_field() {
    for (replace, by, line, field, message) in [
        ("  name: web-1\n", "", 4, "metadata.name", "is missing"),
        ("name: web-1", "name: Web_1", 4, "metadata.name", "`Web_1` is not a name"),
        ("namespace: shop", "namespace: a.b", 5, "metadata.namespace", "not the name of a namespace"),
        ("app: web", "app: true", 7, "metadata.labels.app", "put it in quotes"),
        ("app: web", "app: a b", 7, "metadata.labels.app", "not a label value"),
        ("identity: web.shop", "identity: web shop", 10, "spec.meshTLS.identity", "not an identity"),
        (
            "    serverName: web.shop.serviceaccount.identity.linkerd.cluster.local\n",
            "",
            10,
            "spec.meshTLS.serverName",
            "is missing",
        ),
        ("ip: 10.1.0.11", "ip: 10.1.0.999", 13, "spec.workloadIPs[0].ip", "not an IP address"),
        ("ip: 10.1.0.11", "ip: 0.0.0.0", 13, "spec.workloadIPs[0].ip", "not the address of anything"),
        (
            "  - ip: 10.1.0.11",
            "  - ip: 10.1.0.11\n  - ip: 10.1.0.12\n  - ip: 10.1.0.13",
            13,
            "spec.workloadIPs",
            "the limit is 2",
        ),
        ("port: 8080", "port: 0", 16, "spec.ports[0].port", "0 is not a port"),
        ("port: 8080", "port: \"8080\"", 16, "spec.ports[0].port", "a whole number"),
        (
            "    port: 8080",
            "    port: 1\n  - name: http\n    port: 2",
            17,
            "spec.ports[1]",
            "called `http` too",
        ),
        ("status: \"True\"", "status: true", 20, "status.conditions[0].status", "put it in quotes"),
        ("v1beta1", "v9", 1, "apiVersion", "not a known version"),
    ] {
        let parsed = read(&workload(replace, by));
        assert!(parsed.objects.is_empty(), "{by}");
        let [problem] = &parsed.rejected[..] else { panic!("{by}: {:?}", parsed.rejected) };
        assert!(problem.message.contains(message), "{by}: {problem}");
        assert_eq!((problem.line, problem.field.as_str()), (line, field), "{by}: {problem}");
        let known = field != "metadata.name" && field != "metadata.namespace";
        assert_eq!(
            parsed.broken.len(),
            usize::from(known),
            "{by}: a name, if readable, says what stays in force"
        );
        assert_eq!(parsed.unreadable, !known, "{by}");
    }
}

#[test]
fn documents_stand_alone_and_lines_count_through_the_file() {
    let text = format!(
        "# head\n---\n{}---\nnot: [closed\n--- # again\n{}...\n---\n# only a comment\n---\n{}",
        workload("", ""),
        workload("web-1", "web-2"),
        workload("port: 8080", "port: 70000").replace("web-1", "web-3"),
    );
    let parsed = read(&text);
    let names: Vec<_> =
        parsed.objects.iter().map(|o| (o.meta().name.clone(), o.meta().origin.line)).collect();
    assert_eq!(names, [("web-1".to_owned(), 3), ("web-2".to_owned(), 26)]);
    let at: Vec<_> = parsed.rejected.iter().map(|p| p.line).collect();
    assert_eq!(at.len(), 2, "{:?}", parsed.rejected);
    assert!((24..=25).contains(&at[0]), "{:?}", parsed.rejected);
    assert_eq!(text.lines().nth(at[1] as usize - 1), Some("    port: 70000"));
    assert!(parsed.unreadable);
}

#[test]
fn json_and_lists_load_as_kubectl_prints_them() {
    let list = r#"apiVersion: v1
items:
- apiVersion: v1
  kind: Service
  metadata:
    annotations:
      kubectl.kubernetes.io/last-applied-configuration: |
        {"apiVersion":"v1","kind":"Service"}
    creationTimestamp: "2024-05-01T10:00:00Z"
    labels:
      app: web
    managedFields:
    - apiVersion: v1
      fieldsType: FieldsV1
    name: web
    namespace: shop
    resourceVersion: "1234"
    uid: 0b3f1c1e-0000-0000-0000-000000000000
  spec:
    clusterIP: 10.43.1.2
    clusterIPs:
    - 10.43.1.2
    internalTrafficPolicy: Cluster
    ipFamilies:
    - IPv4
    ipFamilyPolicy: SingleStack
    ports:
    - name: http
      nodePort: 30080
      port: 80
      protocol: TCP
      targetPort: 8080
    selector:
      app: web
    sessionAffinity: None
    type: NodePort
  status:
    loadBalancer: {}
- apiVersion: discovery.k8s.io/v1
  addressType: IPv4
  endpoints:
  - addresses:
    - 10.42.0.9
    conditions:
      ready: true
      serving: true
      terminating: false
    nodeName: node-1
    targetRef:
      kind: Pod
      name: web-abc
      namespace: shop
      uid: 1b3f1c1e-0000-0000-0000-000000000000
  kind: EndpointSlice
  metadata:
    generateName: web-
    labels:
      endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io
      kubernetes.io/service-name: web
    name: web-x7k
    namespace: shop
    ownerReferences:
    - apiVersion: v1
      blockOwnerDeletion: true
      controller: true
      kind: Service
      name: web
      uid: 0b3f1c1e-0000-0000-0000-000000000000
  ports:
  - name: http
    port: 8080
    protocol: TCP
kind: List
metadata:
  resourceVersion: ""
"#;
    let parsed = read(list);
    assert_eq!((&parsed.rejected, &parsed.warnings), (&vec![], &vec![]));
    let [Object::Service(web), Object::EndpointSlice(slice)] = &parsed.objects[..] else {
        panic!("{parsed:?}")
    };
    assert_eq!(web.addressing, Addressing::Virtual(vec!["10.43.1.2".parse().unwrap()]));
    assert_eq!(web.meta.created.map(|c| c.0), Some(1_714_557_600));
    assert_eq!(web.meta.origin.line, 3);
    assert_eq!(slice.service, "web");

    let json = r#"{"kind": "ServiceList", "apiVersion": "v1", "items": [
        {"kind": "Service", "apiVersion": "v1", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}},
        {"kind": "Service", "apiVersion": "v1", "metadata": {"name": "b"}, "spec": {"ports": [{"port": 0}]}}
    ]}"#;
    let parsed = read(json);
    let [Object::Service(a)] = &parsed.objects[..] else { panic!("{parsed:?}") };
    assert_eq!(a.meta.namespace, "default");
    assert_eq!(a.ports[0].target, TargetPort::Number(a.ports[0].port));
    assert_eq!((parsed.rejected[0].line, parsed.rejected[0].object.as_str()), (3, "Service default/b"));
}

#[test]
fn a_dump_of_a_whole_namespace_loads_unchanged_and_what_is_not_ours_is_counted() {
    let parsed = read(include_str!("../dumps/shop.yaml"));
    assert_eq!(parsed.rejected, vec![]);
    let ignored: Vec<_> = parsed.ignored.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
    assert_eq!(
        ignored,
        [("apps/v1/Deployment", 1), ("apps/v1/ReplicaSet", 1), ("v1/Node", 1), ("v1/Pod", 2)]
    );
    let told: Vec<_> = parsed.warnings.iter().map(|w| (w.field.as_str(), w.message.as_str())).collect();
    assert_eq!(told.iter().filter(|(field, _)| *field == "kind").count(), 4, "each kind once: {told:?}");
    let names: Vec<String> = parsed.objects.iter().map(|o| o.key().to_string()).collect();
    assert_eq!(
        names,
        [
            "Namespace shop",
            "Service shop/web",
            "Service shop/db",
            "Service shop/upstream",
            "EndpointSlice shop/web-7x2kq",
            "EndpointSlice shop/web-v6-9qplm",
            "EndpointSlice shop/upstream-names",
            "ServiceProfile shop/web.shop.svc.cluster.local",
        ]
    );
    let slices: Vec<_> = parsed
        .objects
        .iter()
        .filter_map(|object| match object {
            Object::EndpointSlice(slice) => Some(slice),
            _ => None,
        })
        .collect();
    let ips = |n: usize| slices[n].endpoints.iter().map(|e| e.ips.len()).collect::<Vec<_>>();
    assert_eq!((ips(0), ips(1), ips(2)), (vec![1, 1], vec![1], vec![0]), "names are not resolved");
    assert_eq!(slices[0].endpoints.iter().map(|e| e.ready).collect::<Vec<_>>(), [Some(true), Some(false)]);
    assert_eq!(slices[1].endpoints[0].ips[0], "2001:db8::7".parse::<std::net::IpAddr>().unwrap());
    let fqdn: Vec<_> = told.iter().filter(|(field, _)| *field == "addressType").collect();
    assert_eq!(fqdn.len(), 1, "that names have no effect is said: {told:?}");
    assert_eq!(told.len(), 5, "and nothing else is: {told:?}");
}

#[test]
fn kinds_without_effect_are_told_apart_up_to_a_bound() {
    let text: String = (0..200).map(|n| format!("---\n{{apiVersion: v1, kind: K{n}}}\n")).collect();
    let parsed = read(&text);
    assert_eq!((parsed.ignored.len(), parsed.ignored["(others)"]), (51, 150));
    assert_eq!((parsed.warnings.len(), parsed.rejected.len()), (51, 0));
}

#[test]
fn older_versions_are_brought_up_to_date() {
    let old = workload("v1beta1", "v1alpha1").replace("meshTLS", "meshTls");
    assert_eq!(only_workload(&old).ips.len(), 1);
    let two = old.replace("  - ip: 10.1.0.11", "  - ip: 10.1.0.11\n  - ip: 10.1.0.12");
    assert!(read(&two).rejected[0].message.contains("the limit is 1"));
    let old =
        "apiVersion: linkerd.io/v1alpha1\nkind: ServiceProfile\nmetadata: {name: a.b.svc.cluster.local}\n";
    assert_eq!(read(old).objects.len(), 1);
    let old =
        "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: a}\naddressType: IPv4
endpoints: [{addresses: [10.0.0.1], topology: {topology.kubernetes.io/zone: z, kubernetes.io/hostname: h}}]";
    let parsed = read(old);
    let [Object::EndpointSlice(slice)] = &parsed.objects[..] else { panic!("{parsed:?}") };
    assert_eq!(
        (slice.endpoints[0].zone.as_deref(), slice.endpoints[0].node.as_deref()),
        (Some("z"), Some("h"))
    );
}

#[test]
fn unknown_kinds_are_named_once_and_unknown_fields_each() {
    let pods = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Pod\n";
    let text = format!("{pods}---\n{}", workload("  ports:", "  prots: []\n  ports:"));
    let parsed = read(&text);
    assert_eq!(parsed.objects.len(), 1);
    assert!(parsed.rejected.is_empty());
    let found: Vec<_> = parsed.warnings.iter().map(|w| (w.line, w.field.as_str())).collect();
    assert_eq!(found, [(1, "kind"), (21, "spec.prots")]);
    assert!(parsed.warnings[0].message.contains("v1/Pod"));
    assert_eq!(parsed.warnings[1].object, "ExternalWorkload shop/web-1");
}

#[test]
fn readiness_is_the_ready_condition_or_unsaid() {
    for (replace, by, expected) in [
        ("\"True\"", "\"True\"", Some(true)),
        ("\"True\"", "\"False\"", Some(false)),
        ("\"True\"", "Unknown", Some(false)),
        ("type: Ready", "type: Other", None),
        ("status:\n  conditions:\n  - type: Ready\n    status: \"True\"\n", "", None),
    ] {
        assert_eq!(only_workload(&workload(replace, by)).ready, expected, "{by}");
    }
}

#[test]
fn addressing_of_services_is_checked() {
    let service =
        |spec: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {spec}\n");
    let virtual_ip = |list: &[&str]| Addressing::Virtual(list.iter().map(|ip| ip.parse().unwrap()).collect());
    for (spec, expected) in [
        ("{}", Some(virtual_ip(&[]))),
        ("{clusterIP: ''}", Some(virtual_ip(&[]))),
        ("{clusterIP: 10.0.0.1}", Some(virtual_ip(&["10.0.0.1"]))),
        ("{clusterIPs: [10.0.0.1, 'fd00::1']}", Some(virtual_ip(&["10.0.0.1", "fd00::1"]))),
        ("{clusterIP: None, clusterIPs: [None]}", Some(Addressing::Headless)),
        ("{type: ExternalName, externalName: a.b}", Some(Addressing::External("a.b".into()))),
        ("{type: ExternalName}", None),
        ("{clusterIP: None, clusterIPs: [10.0.0.1]}", None),
        ("{clusterIP: 10.0.0.1, clusterIPs: [10.0.0.2]}", None),
        ("{clusterIP: x}", None),
        ("{type: Other}", None),
        ("{ports: [{port: 80}, {port: 81}]}", None),
        ("{ports: [{name: a, port: 80}, {name: b, port: 80}]}", None),
        ("{ports: [{name: a, port: 80}, {name: b, port: 80, protocol: UDP}]}", Some(virtual_ip(&[]))),
        ("{ports: [{port: 80, targetPort: A B}]}", None),
        ("[]", None),
    ] {
        let parsed = read(&service(spec));
        let found = parsed.objects.first().map(|o| match o {
            Object::Service(service) => service.addressing.clone(),
            other => panic!("{other:?}"),
        });
        assert_eq!(found, expected, "{spec}: {:?}", parsed.rejected);
    }
}

#[test]
fn profiles_are_rejected_as_a_whole_for_one_bad_route() {
    let profile = |spec: &str| {
        format!(
            "apiVersion: linkerd.io/v1alpha2\nkind: ServiceProfile\nmetadata: {{name: a.b.svc.x}}\nspec: {spec}\n"
        )
    };
    for (spec, field) in [
        ("{routes: [{name: r, condition: {pathRegex: '('}}]}", "spec.routes[0].condition.pathRegex"),
        ("{routes: [{name: r, condition: {}}]}", "spec.routes[0].condition"),
        ("{routes: [{name: r, condition: {method: 'G T'}}]}", "spec.routes[0].condition.method"),
        ("{routes: [{name: r}]}", "spec.routes[0].condition"),
        (
            "{routes: [{name: r, condition: {method: GET}, responseClasses: [{condition: {status: {min: 99}}}]}]}",
            "spec.routes[0].responseClasses[0].condition.status.min",
        ),
        ("{retryBudget: {retryRatio: 0.1, minRetriesPerSecond: 1, ttl: 61s}}", "spec.retryBudget.ttl"),
        ("{dstOverrides: [{authority: 'a b', weight: 1}]}", "spec.dstOverrides[0].authority"),
        ("{dstOverrides: [{authority: a, weight: -1}]}", "spec.dstOverrides[0].weight"),
        ("{dstOverrides: [{authority: a, weight: 9223372036854775807}]}", "spec.dstOverrides[0].weight"),
    ] {
        let parsed = read(&profile(spec));
        assert!(parsed.objects.is_empty(), "{spec}");
        assert_eq!(parsed.rejected[0].field, field, "{spec}");
    }
    let lenient =
        read(&profile("{opaquePorts: ['1'], routes: [{name: r, condition: {method: GET}, timeout: soon}]}"));
    assert_eq!((lenient.objects.len(), lenient.warnings.len()), (1, 2), "{:?}", lenient.warnings);
    let weights =
        read(&profile("{dstOverrides: [{authority: 'a:1', weight: 500m}, {authority: b, weight: 1}]}"));
    let [Object::ServiceProfile(p)] = &weights.objects[..] else { panic!("{weights:?}") };
    assert_eq!(p.overrides.iter().map(|o| o.weight).collect::<Vec<_>>(), [5_000, 10_000]);
}

#[test]
fn hostile_texts_are_refused_within_bounds() {
    let deep_flow = format!("a: {}{}", "[".repeat(10_000), "]".repeat(10_000));
    let deep_block: String = (0..2_000).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
    let laughs = {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..10 {
            let list = vec![format!("*a{}", n - 1); 10].join(", ");
            text.push_str(&format!("a{n}: &a{n} [{list}]\n"));
        }
        text
    };
    let recursive = "a: &a [*a]\n".to_owned();
    let large = format!("a: {}", "x".repeat(TEXT_LIMIT));
    for text in [deep_flow, deep_block, laughs, recursive, large, "a: 1\na: 2\n".into(), "\u{0}".into()] {
        let parsed = read(&text);
        assert!(parsed.objects.is_empty());
        assert_eq!(parsed.rejected.len(), 1, "{}", text.chars().take(60).collect::<String>());
        assert!(parsed.unreadable);
        assert!(parsed.rejected[0].message.len() < 300);
    }
    let many = read(&"a: [\n---\n".repeat(5_000));
    assert_eq!(many.rejected.len(), 1000, "the list of findings is bounded too");
    for harmless in ["", "\n\n", "# nothing\n", "---\n---\n...\n", "\u{feff}# bom\n"] {
        let parsed = read(harmless);
        assert_eq!((parsed.objects.len(), parsed.rejected.len()), (0, 0), "{harmless:?}");
    }
    let with_bom = format!("\u{feff}{}", workload("", ""));
    assert_eq!(read(&with_bom).objects.len(), 1);
}

#[test]
fn aliases_and_merges_work_within_one_document() {
    let text = workload("  labels:\n    app: web", "  labels: &l\n    app: web\n  annotations: *l");
    assert_eq!(only_workload(&text).meta.annotations.get("app").map(String::as_str), Some("web"));
}

#[test]
fn windows_line_ends_do_not_disturb() {
    let text = format!("{}---\n{}", workload("", ""), workload("web-1", "web-2")).replace('\n', "\r\n");
    let parsed = read(&text);
    assert_eq!((parsed.objects.len(), parsed.rejected.len()), (2, 0), "{:?}", parsed.rejected);
}
