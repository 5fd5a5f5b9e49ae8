//! Servers, authorizations, authentications and rate limits back to manifests. Pure.
//!
//! Called by `render.rs`; `policies.rs` reads what this writes.

use super::{fields, texts};
use serde_json::{Map, Value, json};
use weft_model::authorization::NetworkMatch;
use weft_model::server::{
    AccountRef, AuthenticationRef, AuthorizationPolicy, Client, Expression, MeshTlsAuthentication,
    NetworkAuthentication, Operator, PolicyTarget, RateLimitPolicy, Selector, Server, ServerAuthorization,
    Servers, Subject, Workloads,
};
use weft_model::service::TargetPort;

const GROUP: &str = "policy.linkerd.io";

pub(super) fn server(server: &Server) -> Map<String, Value> {
    let (key, workloads) = match &server.workloads {
        Workloads::Pods(pods) => ("podSelector", pods),
        Workloads::External(external) => ("externalWorkloadSelector", external),
    };
    fields([
        (key, Some(selector(workloads))),
        (
            "port",
            Some(match &server.port {
                TargetPort::Number(number) => json!(number),
                TargetPort::Name(name) => json!(name),
            }),
        ),
        ("proxyProtocol", Some(json!(server.protocol.name()))),
        ("accessPolicy", Some(json!(server.access.name()))),
    ])
}

fn selector(from: &Selector) -> Value {
    let expression = |Expression { key, operator }: &Expression| {
        let (operator, values) = match operator {
            Operator::In(values) => ("In", Some(values)),
            Operator::NotIn(values) => ("NotIn", Some(values)),
            Operator::Exists => ("Exists", None),
            Operator::DoesNotExist => ("DoesNotExist", None),
        };
        Value::Object(fields([
            ("key", Some(json!(key))),
            ("operator", Some(json!(operator))),
            ("values", values.map(|values| json!(values))),
        ]))
    };
    let expressions: Vec<Value> = from.expressions.iter().map(expression).collect();
    Value::Object(fields([
        ("matchLabels", texts(&from.labels)),
        ("matchExpressions", (!expressions.is_empty()).then(|| json!(expressions))),
    ]))
}

pub(super) fn server_authorization(from: &ServerAuthorization) -> Value {
    let servers = match &from.servers {
        Servers::Named(name) => json!({"name": name}),
        Servers::Selected(servers) => json!({"selector": selector(servers)}),
    };
    let mesh = match &from.client {
        Client::Unauthenticated => None,
        Client::TlsUnauthenticated => Some(json!({"unauthenticatedTLS": true})),
        Client::Authenticated(subjects) => Some(match subjects.as_slice() {
            [Subject::Account(_), ..] => json!({"serviceAccounts": accounts(subjects)}),
            _ => json!({"identities": identities(subjects)}),
        }),
    };
    let client = fields([
        ("networks", (!from.networks.is_empty()).then(|| networks(&from.networks))),
        ("unauthenticated", (from.client == Client::Unauthenticated).then_some(Value::Bool(true))),
        ("meshTLS", mesh),
    ]);
    json!({"server": servers, "client": client})
}

fn accounts(subjects: &[Subject]) -> Vec<Value> {
    let account = |subject: &Subject| match subject {
        Subject::Account(AccountRef { namespace, name }) => Some(Value::Object(fields([
            ("name", Some(json!(name))),
            ("namespace", namespace.as_ref().map(|namespace| json!(namespace))),
        ]))),
        _ => None,
    };
    subjects.iter().filter_map(account).collect()
}

fn identities(subjects: &[Subject]) -> Vec<String> {
    let identity = |subject: &Subject| match subject {
        Subject::Anybody => Some("*".to_owned()),
        Subject::Within(suffix) => Some(format!("*.{suffix}")),
        Subject::Id(id) => Some(id.to_string()),
        Subject::Account(_) | Subject::Namespace(_) => None,
    };
    subjects.iter().filter_map(identity).collect()
}

pub(super) fn networks(networks: &[NetworkMatch]) -> Value {
    let network = |from: &NetworkMatch| {
        Value::Object(fields([
            ("cidr", Some(json!(from.net))),
            ("except", (!from.except.is_empty()).then(|| json!(from.except))),
        ]))
    };
    networks.iter().map(network).collect()
}

fn account_ref(AccountRef { namespace, name }: &AccountRef) -> Value {
    reference("", "ServiceAccount", name, namespace.as_deref())
}

fn reference(group: &str, kind: &str, name: &str, namespace: Option<&str>) -> Value {
    Value::Object(fields([
        ("group", (!group.is_empty()).then(|| json!(group))),
        ("kind", Some(json!(kind))),
        ("name", Some(json!(name))),
        ("namespace", namespace.map(|namespace| json!(namespace))),
    ]))
}

pub(super) fn authorization_policy(from: &AuthorizationPolicy) -> Value {
    let target = match &from.target {
        PolicyTarget::Namespace => reference("core", "Namespace", &from.meta.namespace, None),
        PolicyTarget::Server(name) => reference(GROUP, "Server", name, None),
        PolicyTarget::Route(kind, name) => reference(kind.group(), kind.name(), name, None),
    };
    let required = from.required.iter().map(|required| match required {
        AuthenticationRef::MeshTls { namespace, name } => {
            reference(GROUP, "MeshTLSAuthentication", name, namespace.as_deref())
        }
        AuthenticationRef::Network { namespace, name } => {
            reference(GROUP, "NetworkAuthentication", name, namespace.as_deref())
        }
        AuthenticationRef::Account(account) => account_ref(account),
    });
    json!({"targetRef": target, "requiredAuthenticationRefs": required.collect::<Vec<_>>()})
}

pub(super) fn mesh_tls_authentication(from: &MeshTlsAuthentication) -> Value {
    let refs: Vec<Value> = from
        .subjects
        .iter()
        .filter_map(|subject| match subject {
            Subject::Account(account) => Some(account_ref(account)),
            Subject::Namespace(name) => Some(reference("", "Namespace", name, None)),
            _ => None,
        })
        .collect();
    match refs.is_empty() {
        true => json!({"identities": identities(&from.subjects)}),
        false => json!({"identityRefs": refs}),
    }
}

pub(super) fn network_authentication(from: &NetworkAuthentication) -> Value {
    json!({"networks": networks(&from.networks)})
}

pub(super) fn rate_limit(from: &RateLimitPolicy) -> Map<String, Value> {
    let rate = |rate: &u32| json!({"requestsPerSecond": rate});
    let overrides: Vec<Value> = from
        .overrides
        .iter()
        .map(|(rate, clients)| {
            let clients: Vec<Value> = clients.iter().map(account_ref).collect();
            json!({"requestsPerSecond": rate, "clientRefs": clients})
        })
        .collect();
    fields([
        ("targetRef", Some(reference(GROUP, "Server", &from.server, None))),
        ("total", from.total.as_ref().map(rate)),
        ("identity", from.identity.as_ref().map(rate)),
        ("overrides", (!overrides.is_empty()).then(|| json!(overrides))),
    ])
}
