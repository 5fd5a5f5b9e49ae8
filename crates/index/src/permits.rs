//! Who may use a server or a route: authorization resources as the authorizations that proxies evaluate (§1E.4).
//!
//! Used by `inbound.rs`; `verdict.rs` asks why a policy grants nothing. An authorization that refers to something that is not
//! there is left out: it grants nothing, and takes nothing from others.

use crate::inbound::policy_meta;
use crate::index::Index;
use crate::scope::Scope;
use weft_model::identity::Id;
use weft_model::object::{Key, Kind};
use weft_model::policy::{Authentication, Authorization, DefaultPolicy, NetworkMatch, Suffix};
use weft_model::server::{
    AccountRef, AuthenticationRef, AuthorizationPolicy, Client, PolicyTarget, Server, ServerAuthorization,
    Subject,
};

impl Index {
    /// Everybody who may use a server: its authorizations, those of its namespace, and its own default.
    pub(crate) fn server_authorizations(&self, scope: &Scope, server: &Server) -> Vec<Authorization> {
        let mut all: Vec<Authorization> =
            scope.kept.server_authorizations(server).map(|a| self.server_authorization(a)).collect();
        all.extend(self.policies_about(scope, &PolicyTarget::Server(server.meta.name.clone())));
        all.extend(self.policies_about(scope, &PolicyTarget::Namespace));
        if server.access != DefaultPolicy::Deny {
            all.extend(server.access.authorizations(&self.config().cluster_networks));
        }
        all
    }

    /// The authorization policies about a target, those that refer to something missing left out.
    pub(crate) fn policies_about(&self, scope: &Scope, target: &PolicyTarget) -> Vec<Authorization> {
        scope
            .kept
            .policies_about(target)
            .filter_map(|policy| self.authorization_policy(policy).ok())
            .collect()
    }

    fn server_authorization(&self, from: &ServerAuthorization) -> Authorization {
        let networks = match from.networks.is_empty() {
            true => self.config().cluster_networks.iter().copied().map(NetworkMatch::from).collect(),
            false => from.networks.clone(),
        };
        let authentication = match &from.client {
            Client::Unauthenticated => Authentication::Unauthenticated,
            Client::TlsUnauthenticated => Authentication::TlsUnauthenticated,
            Client::Authenticated(subjects) => self.authenticated(subjects, &from.meta.namespace),
        };
        Authorization { meta: policy_meta("serverauthorization", &from.meta), networks, authentication }
    }

    /// What an authorization policy grants; the error is an object that it needs and that is not there.
    pub(crate) fn authorization_policy(&self, policy: &AuthorizationPolicy) -> Result<Authorization, Key> {
        let mut networks = NetworkMatch::everywhere();
        let mut authentication = Authentication::Unauthenticated;
        for required in &policy.required {
            match required {
                AuthenticationRef::Account(account) => {
                    authentication =
                        self.authenticated(&[Subject::Account(account.clone())], &policy.meta.namespace);
                }
                AuthenticationRef::MeshTls { namespace, name } => {
                    let namespace = namespace.as_ref().unwrap_or(&policy.meta.namespace);
                    let found = self.scope(namespace).and_then(|scope| scope.kept.mesh_tls(name));
                    let found = found.ok_or_else(|| missing(Kind::MeshTlsAuthentication, namespace, name))?;
                    authentication = self.authenticated(&found.subjects, &found.meta.namespace);
                }
                AuthenticationRef::Network { namespace, name } => {
                    let namespace = namespace.as_ref().unwrap_or(&policy.meta.namespace);
                    let found = self.scope(namespace).and_then(|scope| scope.kept.network(name));
                    let found = found.ok_or_else(|| missing(Kind::NetworkAuthentication, namespace, name))?;
                    networks = found.networks.clone();
                }
            }
        }
        Ok(Authorization { meta: policy_meta("authorizationpolicy", &policy.meta), networks, authentication })
    }

    /// Subjects as identities; `namespace` is that of the object that names them.
    fn authenticated(&self, subjects: &[Subject], namespace: &str) -> Authentication {
        let (mut ids, mut suffixes) = (Vec::new(), Vec::new());
        let mesh = &self.config().mesh;
        for subject in subjects {
            match subject {
                Subject::Anybody => suffixes.push(Suffix(String::new())),
                Subject::Id(id) => ids.push(id.clone()),
                Subject::Within(suffix) => suffixes.push(Suffix(suffix.clone())),
                Subject::Account(account) => ids.extend(self.account_id(account, namespace)),
                Subject::Namespace(name) => suffixes.push(Suffix(format!(
                    "{name}.serviceaccount.identity.{}.{}",
                    mesh.control_namespace, mesh.trust_domain
                ))),
            }
        }
        Authentication::TlsAuthenticated { ids, suffixes }
    }

    /// The identity of a service account; `None` for a name that no certificate can carry.
    pub(crate) fn account_id(&self, account: &AccountRef, namespace: &str) -> Option<Id> {
        let namespace = account.namespace.as_deref().unwrap_or(namespace);
        Id::service_account(&account.name, namespace, &self.config().mesh).ok()
    }
}

fn missing(kind: Kind, namespace: &str, name: &str) -> Key {
    Key { kind, namespace: namespace.to_owned(), name: name.to_owned() }
}
