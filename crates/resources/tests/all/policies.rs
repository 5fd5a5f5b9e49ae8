//! Servers, authorizations, routes and egress networks that their owners' schemas and admission refuse (control-plane.md §1H).

use std::sync::Arc;
use weft_resources::parse::{Parsed, parse};

fn read(kind: &str, spec: &str) -> Parsed {
    let version = match kind {
        "Server" => "policy.linkerd.io/v1beta3",
        "ServerAuthorization" => "policy.linkerd.io/v1beta1",
        "GRPCRoute" | "HTTPRoute" => "gateway.networking.k8s.io/v1",
        "TLSRoute" | "TCPRoute" => "gateway.networking.k8s.io/v1alpha2",
        "ReferenceGrant" => "gateway.networking.k8s.io/v1beta1",
        _ => "policy.linkerd.io/v1alpha1",
    };
    let (annotations, spec) =
        spec.split_once('@').map_or(("", spec), |(annotations, spec)| (annotations, spec));
    let text = format!(
        "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x, namespace: shop, annotations: {{{annotations}}}}}\nspec: {spec}\n"
    );
    let file: Arc<str> = "x.yaml".into();
    parse(&file, &text)
}

/// Where an object is wrong, and what is said about it.
fn check(kind: &str, spec: &str, field: &str, message: &str) {
    let parsed = read(kind, spec);
    let [finding] = &parsed.rejected[..] else { panic!("{kind} {spec}: {parsed:?}") };
    assert_eq!(finding.field, field, "{kind} {spec}: {}", finding.message);
    assert!(finding.message.contains(message), "{kind} {spec}: {}", finding.message);
    assert_eq!(finding.object, format!("{kind} shop/x"));
}

#[test]
fn servers_and_authorizations_are_refused_as_admission_refuses_them() {
    let server = |rest: &str| format!("{{externalWorkloadSelector: {{}}, {rest}}}");
    check("Server", "{port: 80}", "spec", "podSelector and externalWorkloadSelector");
    check("Server", "{podSelector: {}, externalWorkloadSelector: {}, port: 80}", "spec", "needs one of");
    check("Server", &server("proxyProtocol: HTTP/1"), "spec.port", "is missing");
    check("Server", &server("port: 0"), "spec.port", "not a port");
    check(
        "Server",
        &server("port: 80, proxyProtocol: http"),
        "spec.proxyProtocol",
        "is none of unknown, HTTP/1",
    );
    check("Server", &server("port: 80, accessPolicy: open"), "spec.accessPolicy", "is none of deny");
    let expression = |text: &str| format!("{{podSelector: {{matchExpressions: [{{{text}}}]}}, port: 80}}");
    let at = "spec.podSelector.matchExpressions[0]";
    check("Server", &expression("key: a, operator: In"), at, "needs values");
    check("Server", &expression("key: a, operator: Exists, values: [b]"), at, "takes no values");
    check("Server", &expression("key: a, operator: Like"), at, "is not In, NotIn");

    let client = |text: &str| format!("{{server: {{name: s}}, client: {{{text}}}}}");
    let kind = "ServerAuthorization";
    check(kind, "{server: {}, client: {unauthenticated: true}}", "spec.server", "name and selector");
    check(kind, &client(""), "spec.client", "needs `unauthenticated: true` or meshTLS");
    check(kind, &client("unauthenticated: true, meshTLS: {identities: [a.b]}"), "spec.client", "has both");
    check(kind, &client("meshTLS: {}"), "spec.client.meshTLS", "exactly one of");
    check(
        kind,
        &client("meshTLS: {identities: [a.b], serviceAccounts: [{name: a}]}"),
        "spec.client.meshTLS",
        "exactly one of",
    );
    check(kind, &client("unauthenticated: true, networks: []"), "spec.client.networks", "is empty");
    let network = |text: &str| client(&format!("unauthenticated: true, networks: [{{{text}}}]"));
    check(kind, &network("cidr: x"), "spec.client.networks[0].cidr", "is not a network");
    let hole = "spec.client.networks[0].except[0]";
    check(kind, &network("cidr: 10.0.0.0/8, except: [11.0.0.0/16]"), hole, "is not a part of 10.0.0.0/8");
    check(kind, &network("cidr: 10.0.0.0/8, except: [10.0.0.0/8]"), hole, "is not a part of");
    for wrong in ["a b", "*x", "https://mesh/web", "spiffe://", "spiffe://mesh//a", "spiffe://mesh/*/a"] {
        let spec = format!("{{identities: ['{wrong}']}}");
        check("MeshTLSAuthentication", &spec, "spec.identities[0]", "is no identity");
    }
    for sound in ["*", "*.shop", "a", "spiffe://mesh/web", "spiffe://mesh/*", "spiffe://mesh/shop/*"] {
        let parsed = read("MeshTLSAuthentication", &format!("{{identities: ['{sound}']}}"));
        assert_eq!((parsed.objects.len(), parsed.rejected), (1, vec![]), "{sound}");
    }
    let kind = "MeshTLSAuthentication";
    check(kind, "{}", "spec", "needs one of identities and identityRefs");
    check(kind, "{identities: [a.b], identityRefs: [{kind: Namespace, name: a}]}", "spec", "needs one of");
    check(kind, "{identityRefs: [{kind: Pod, name: a}]}", "spec.identityRefs[0]", "has no identity");
    check(kind, "{identityRefs: [{kind: ServiceAccount}]}", "spec.identityRefs[0].name", "is missing");
    let spaced = "{identityRefs: [{kind: Namespace, name: a, namespace: b}]}";
    check(kind, spaced, "spec.identityRefs[0]", "is in no namespace");
    check("NetworkAuthentication", "{networks: []}", "spec.networks", "is empty");
}

#[test]
fn policies_and_limits_are_refused_as_admission_refuses_them() {
    let policy = |target: &str, refs: &str| {
        format!("{{targetRef: {{{target}}}, requiredAuthenticationRefs: [{refs}]}}")
    };
    let server = "group: policy.linkerd.io, kind: Server, name: s";
    let of = |kind: &str, name: &str| format!("{{group: policy.linkerd.io, kind: {kind}, name: {name}}}");
    let (mesh, net, account) = (
        of("MeshTLSAuthentication", "m"),
        of("NetworkAuthentication", "net"),
        "{kind: ServiceAccount, name: a}",
    );
    let (kind, refs) = ("AuthorizationPolicy", "spec.requiredAuthenticationRefs");
    check(kind, &policy("kind: Namespace, name: other", ""), "spec.targetRef", "is not the policy's own");
    check(kind, &policy("kind: Pod, name: a", ""), "spec.targetRef", "cannot be a target");
    check(kind, &policy(&format!("{server}, namespace: other"), ""), "spec.targetRef", "own namespace");
    check(kind, &policy(server, &format!("{mesh}, {mesh}")), refs, "several identities");
    check(kind, &policy(server, &format!("{mesh}, {account}")), refs, "several identities");
    check(kind, &policy(server, &format!("{account}, {account}")), refs, "several identities");
    check(kind, &policy(server, &format!("{net}, {net}")), refs, "several NetworkAuthentications");
    check(kind, &policy(server, "{kind: Pod, name: a}"), &format!("{refs}[0]"), "cannot be required");
    check(kind, &format!("{{targetRef: {{{server}}}}}"), refs, "is missing");

    let limit = |rest: &str| format!("{{targetRef: {{{server}}}, {rest}}}");
    let rate = |rate: i64| format!("{{requestsPerSecond: {rate}}}");
    let kind = "HTTPLocalRateLimitPolicy";
    check(kind, "{targetRef: {kind: Service, name: a}}", "spec.targetRef", "cannot be a target");
    check(kind, &limit(&format!("total: {}", rate(0))), "spec.total.requestsPerSecond", "0 is not in");
    let above = limit(&format!("total: {}, identity: {}", rate(1), rate(2)));
    check(kind, &above, "spec.identity", "more than total");
    let over = |clients: &str| {
        limit(&format!("total: {}, overrides: [{{requestsPerSecond: 2, clientRefs: [{clients}]}}]", rate(1)))
    };
    check(kind, &over(account), "spec.overrides[0]", "more than total");
    let pod = limit("overrides: [{requestsPerSecond: 2, clientRefs: [{kind: Pod, name: a}]}]");
    check(kind, &pod, "spec.overrides[0].clientRefs[0]", "cannot be limited");
    check("EgressNetwork", "{}", "spec.trafficPolicy", "is missing");
    check("EgressNetwork", "{trafficPolicy: Maybe}", "spec.trafficPolicy", "neither Allow nor Deny");
    check("EgressNetwork", "{trafficPolicy: Deny, networks: []}", "spec.networks", "is empty");
}

#[test]
fn routes_are_refused_as_admission_refuses_them() {
    let rule = |text: &str| {
        format!("{{parentRefs: [{{group: core, kind: Service, name: web}}], rules: [{{{text}}}]}}")
    };
    let of = |text: &str| rule(&format!("matches: [{{{text}}}]"));
    let (kind, m) = ("HTTPRoute", "spec.rules[0].matches[0]");
    check(kind, &of("path: {value: a}"), &format!("{m}.path.value"), "does not begin with `/`");
    check(kind, &of("path: {type: Glob, value: /a}"), &format!("{m}.path"), "is not Exact");
    check(
        kind,
        &of("path: {type: RegularExpression, value: '('}"),
        &format!("{m}.path.value"),
        "regular expression",
    );
    check(kind, &of("headers: [{name: 'a b', value: c}]"), &format!("{m}.headers[0].name"), "no header name");
    check(
        kind,
        &of("headers: [{name: a, type: Like, value: c}]"),
        &format!("{m}.headers[0]"),
        "neither Exact",
    );
    check(kind, &of("queryParams: [{name: '', value: c}]"), &format!("{m}.queryParams[0].name"), "is empty");
    check(kind, &of("method: 'A B'"), &format!("{m}.method"), "is no method");
    let filter = |text: &str| rule(&format!("filters: [{{{text}}}]"));
    let f = "spec.rules[0].filters[0]";
    check(kind, &filter("type: RequestHeaderModifier"), &format!("{f}.requestHeaderModifier"), "is missing");
    let set = "type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: \"b\\n\"}]}";
    check(kind, &filter(set), &format!("{f}.requestHeaderModifier.set[0].value"), "no header value");
    let redirect = |text: &str| filter(&format!("type: RequestRedirect, requestRedirect: {{{text}}}"));
    let r = format!("{f}.requestRedirect");
    check(kind, &redirect("scheme: ftp"), &format!("{r}.scheme"), "neither http nor https");
    check(kind, &redirect("hostname: '*.a.b'"), &format!("{r}.hostname"), "must not begin with");
    check(kind, &redirect("statusCode: 200"), &format!("{r}.statusCode"), "not the status of a redirect");
    check(kind, &redirect("path: {type: ReplaceFullPath}"), &format!("{r}.path"), "needs type");
    let backend = |text: &str| rule(&format!("backendRefs: [{{{text}}}]"));
    let b = "spec.rules[0].backendRefs[0]";
    check(kind, &backend("name: web"), b, "needs a port");
    check(kind, &backend("name: web, port: 80, weight: -1"), &format!("{b}.weight"), "not a weight");
    let limits = |text: &str| rule(&format!("timeouts: {{{text}}}"));
    let t = "spec.rules[0].timeouts";
    check(kind, &limits("request: -1s"), &format!("{t}.request"), "not a duration");
    check(kind, &limits("request: 1s, backendRequest: 2s"), t, "longer than request");
    let egress = "{parentRefs: [{group: policy.linkerd.io, kind: EgressNetwork, name: x}]}";
    check(kind, egress, "spec.parentRefs[0]", "needs a port");
    check(kind, "{hostnames: [10.0.0.1]}", "spec.hostnames[0]", "is not a host name");
    let retried = format!("retry.linkerd.io/http: 4xx@{}", rule(""));
    check(kind, &retried, "metadata.annotations", "`4xx` is neither");
    let limited = format!("timeout.linkerd.io/request: soon@{}", rule(""));
    check("GRPCRoute", &limited, "metadata.annotations", "is not a duration");
    check(
        "GRPCRoute",
        &format!("retry.linkerd.io/grpc: ok@{}", rule("")),
        "metadata.annotations",
        "`ok` is none of",
    );
    check("GRPCRoute", &of("method: {}"), &format!("{m}.method"), "needs service or method");
    let regex = of("method: {type: RegularExpression, service: a}");
    check("GRPCRoute", &regex, &format!("{m}.method"), "only the type Exact");
    for kind in ["TLSRoute", "TCPRoute"] {
        check(kind, "{rules: []}", "spec", "has 0 rules");
        check(kind, "{rules: [{}, {}]}", "spec", "exactly one");
        check(kind, "{}", "spec", "needs rules");
    }
}

#[test]
fn what_has_no_effect_in_a_route_is_warned_of() {
    for (spec, warning) in [
        ("{parentRefs: [{kind: Service, name: web}]}", "write `group: core`"),
        ("{parentRefs: [{kind: Server, name: web}]}", "write `group: policy.linkerd.io`"),
        (
            "{rules: [{filters: [{type: URLRewrite, urlRewrite: {hostname: a}}]}]}",
            "URLRewrite is not supported",
        ),
        (
            "{rules: [{matches: [{headers: [{name: a, value: b}, {name: A, value: c}]}]}]}",
            "a is given twice; the first counts",
        ),
    ] {
        let parsed = read("HTTPRoute", spec);
        assert_eq!((parsed.objects.len(), parsed.rejected.len()), (1, 0), "{spec}");
        assert!(parsed.warnings.iter().any(|w| w.message.contains(warning)), "{spec}: {:?}", parsed.warnings);
    }
}
