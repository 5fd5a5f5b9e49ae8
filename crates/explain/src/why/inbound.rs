//! The second half of a decision: what the proxy beside the called workload makes of a request.
//!
//! Called by `why.rs` with the endpoints that a request may go to. Endpoints whose workloads have the same policy are told of
//! together.

use super::{End, Telling};
use crate::describe;
use std::num::NonZeroU16;
use weft_decide::authorize::admit;
use weft_decide::explain::{near_miss, nearest};
use weft_decide::matching::Matcher;
use weft_model::authorization::Authorization;
use weft_model::destination::EndpointInfo;
use weft_model::identity::Peer;
use weft_model::object::Kind;
use weft_model::policy::{InboundPolicy, InboundProtocol, InboundRoutes};
use weft_model::reason::Code;
use weft_model::service::ServiceName;

/// Most endpoints whose policies are compared; the others are taken to be like these.
const COMPARED: usize = 1000;

impl Telling<'_> {
    /// What becomes of a request at these endpoints.
    pub(super) fn arrive(&mut self, endpoints: &[EndpointInfo]) -> End {
        let mut sorts: Vec<(Option<InboundPolicy>, Vec<String>)> = Vec::new();
        for endpoint in endpoints.iter().take(COMPARED) {
            let (name, policy) = self.behind(endpoint);
            match sorts.iter_mut().find(|(other, _)| *other == policy) {
                Some((_, names)) => names.push(name),
                None => sorts.push((policy, vec![name])),
            }
        }
        let several = sorts.len() > 1;
        let mut ends = Vec::new();
        for (policy, names) in sorts {
            let shown = match names.as_slice() {
                [one] => one.clone(),
                [first, others @ ..] => format!("{first} and {} like it", others.len()),
                [] => String::new(),
            };
            let end = match policy {
                None => {
                    self.tell("server", format!("{shown}: not in the mesh, so nobody checks there"));
                    End { outcome: "it reaches the application, in plaintext".into(), reason: None }
                }
                Some(policy) => self.served(&policy, &shown),
            };
            ends.push((shown, end));
        }
        match ends.len() {
            0 => End::refused(Code::NoEndpoints),
            1 if !several => ends.remove(0).1,
            _ => {
                let reason = ends.iter().find_map(|(_, end)| end.reason);
                let each: Vec<_> =
                    ends.iter().map(|(name, end)| format!("{name}: {}", end.outcome)).collect();
                End { outcome: each.join("; "), reason }
            }
        }
    }

    /// What is behind an endpoint, and its policy if that is a workload of the mesh.
    fn behind(&self, endpoint: &EndpointInfo) -> (String, Option<InboundPolicy>) {
        let unknown = (endpoint.addr.to_string(), None);
        let (Some(_), Some(port)) = (&endpoint.tls, NonZeroU16::new(endpoint.addr.port())) else {
            return unknown;
        };
        let Some((name, policy)) = self.index.served_at(endpoint.addr.ip(), port) else { return unknown };
        let shown = ServiceName { namespace: name.namespace.clone(), name: name.name.clone() };
        (self.named(Kind::ExternalWorkload, &shown), policy)
    }

    fn served(&mut self, policy: &InboundPolicy, whose: &str) -> End {
        let speaks = describe::inbound_protocol(&policy.protocol);
        let server = match policy.meta.kind() {
            "default" => {
                format!("no Server is for its port; the default policy `{}` holds", policy.meta.name())
            }
            _ => {
                let name = ServiceName {
                    namespace: policy.meta.namespace().to_owned(),
                    name: policy.meta.name().to_owned(),
                };
                self.named(Kind::Server, &name)
            }
        };
        self.tell("server", format!("{whose}: {server}; it speaks {speaks}"));
        match &policy.protocol {
            InboundProtocol::Detect { http, .. }
            | InboundProtocol::Http1(http)
            | InboundProtocol::Http2(http)
            | InboundProtocol::Grpc(http) => self.requested(policy, http),
            InboundProtocol::Opaque | InboundProtocol::Tls => {
                let admitted = self.authorized(policy.authorizations.iter());
                admitted.unwrap_or_else(reached)
            }
        }
    }

    fn requested(&mut self, policy: &InboundPolicy, http: &InboundRoutes) -> End {
        let Ok(matcher) = Matcher::new(&http.routes) else { return End::refused(Code::InvalidPolicy) };
        let Some(found) = matcher.find(&self.request()) else {
            let near = near_miss(&matcher, &self.request());
            self.tell("route", format!("none of the Server's: {}", near.wanted));
            return End::refused(Code::NoRoute);
        };
        let Some((route, rule)) =
            http.routes.get(found.route).and_then(|route| Some((route, route.rules.get(found.rule)?)))
        else {
            return End::refused(Code::NoRoute);
        };
        self.tell(
            "route",
            format!("{}: {}", describe::origin(&route.meta), describe::matches(&rule.matches)),
        );
        if let Some(end) = self.authorized(route.authorizations.iter().chain(&policy.authorizations)) {
            return end;
        }
        if let Some(end) = self.filtered(&rule.filters, found.prefix) {
            return end;
        }
        if let Some(limit) = &http.rate_limit {
            self.tell("limit", describe::rate_limit(limit));
        }
        reached()
    }

    /// Whether one of these admits the caller; the end if none does.
    fn authorized<'p>(&mut self, all: impl Iterator<Item = &'p Authorization> + Clone) -> Option<End> {
        let who = match &self.peer {
            Peer::Tls(Some(id)) => id.to_string(),
            _ => "a client without identity".to_owned(),
        };
        if let Some(by) = admit(all.clone(), self.client, &self.peer) {
            let text = format!("{} admits {}", describe::origin(&by.meta), describe::admits(by));
            self.tell("authorization", text);
            return None;
        }
        let text = match nearest(all.clone(), self.client, &self.peer) {
            None => format!("none is there, so {who} is refused"),
            Some((near, clause)) => format!(
                "none of {} admits {who}; nearest is {}, which admits {}: {clause}",
                all.count(),
                describe::origin(&near.meta),
                describe::admits(near)
            ),
        };
        self.tell("authorization", text);
        Some(End::refused(Code::Unauthorized))
    }
}

fn reached() -> End {
    End { outcome: "it reaches the application".into(), reason: None }
}
