//! Views: the canonical form of what proxies ask, and the answers.
//!
//! Many questions share one view (every proxy of a zone that asks for the same service and port), so
//! that `serve` computes and encodes each answer once. The work behind an answer is in `services.rs`,
//! `profiles.rs` and `policies.rs`.

pub use crate::answer::{Answer, EndpointSet, ProfileTarget, Refusal, RefusalKind, ViewKey};

use crate::ask::{self, OutboundTarget, PolicyWorkload, Question};
use crate::index::Index;
use std::net::SocketAddr;
use weft_model::address::Addr;
use weft_model::destination::EndpointInfo;
use weft_model::service::TrafficPolicy;

impl Index {
    /// The view that answers a question, or why none can. The same question may move to another view
    /// when manifests change: ask again when [`crate::Touched`] touches the view or moves the asker.
    pub fn view(&self, question: &Question) -> Result<ViewKey, Refusal> {
        match question {
            Question::Endpoints { path, asker } => {
                let Addr::Name(addr) = ask::path(path)? else {
                    let problem = format!("`{path}` is an IP address; endpoints are asked by service name");
                    return Err(Refusal::new(RefusalKind::InvalidArgument, problem));
                };
                let host = self.service_host(&addr.name)?;
                let local = self.service(&host.service).is_some_and(|s| s.traffic == TrafficPolicy::Local);
                Ok(ViewKey::Endpoints {
                    zone: self.zone_of(asker).to_owned(),
                    node: if local { self.node_of(asker).to_owned() } else { String::new() },
                    service: host.service,
                    instance: host.instance,
                    port: addr.port,
                })
            }
            Question::Profile { path, asker } => {
                let target = match ask::path(path)? {
                    Addr::Socket(addr) => {
                        ProfileTarget::Address(SocketAddr::new(ask::canonical(addr.ip()), addr.port()))
                    }
                    Addr::Name(addr) => {
                        let (port, host) = (addr.port, self.service_host(&addr.name)?);
                        let service = host.service;
                        match host.instance {
                            Some(instance) => ProfileTarget::Instance { service, instance, port },
                            None => ProfileTarget::Service { service, port },
                        }
                    }
                };
                Ok(ViewKey::Profile { target, namespace: asker.namespace.clone() })
            }
            Question::Outbound { target, asker } => self.outbound_view(target, &asker.namespace),
            Question::Inbound { workload, port } => match ask::workload(workload)? {
                PolicyWorkload::External(workload) => {
                    Ok(ViewKey::Inbound { workload, port: ask::port(*port)? })
                }
                PolicyWorkload::Pod(pod) => {
                    Err(Refusal::new(RefusalKind::NotFound, format!("pod {pod} is not known")))
                }
            },
        }
    }

    fn outbound_view(&self, target: &OutboundTarget, namespace: &str) -> Result<ViewKey, Refusal> {
        let namespace = namespace.to_owned();
        let by_address = |addr: SocketAddr| match addr.port() {
            0 => Err(Refusal::new(RefusalKind::InvalidArgument, "port 0 cannot be reached")),
            port => Ok(ViewKey::OutboundAddress {
                addr: SocketAddr::new(ask::canonical(addr.ip()), port),
                namespace: namespace.clone(),
            }),
        };
        let authority = match target {
            OutboundTarget::Address(addr) => return by_address(*addr),
            OutboundTarget::Authority(authority) => authority,
        };
        match ask::path(authority)? {
            Addr::Socket(addr) => by_address(addr),
            Addr::Name(addr) => match ask::authority_host(&addr.name, &self.config().mesh.cluster_domain) {
                Some(service) => Ok(ViewKey::OutboundService { service, port: addr.port, namespace }),
                None => {
                    let problem = format!("`{}` is not the name of a service", addr.name);
                    Err(Refusal::new(RefusalKind::NotFound, problem))
                }
            },
        }
    }

    fn service_host(&self, name: &weft_model::name::DnsName) -> Result<ask::ServiceHost, Refusal> {
        let domain = &self.config().mesh.cluster_domain;
        ask::service_host(name, domain).ok_or_else(|| {
            let problem = format!("`{name}` is not of the form `[instance.]service.namespace.svc.{domain}`");
            Refusal::new(RefusalKind::InvalidArgument, problem)
        })
    }

    /// What a view says now. Costs time proportional to the endpoints of the answer.
    pub fn resolve(&self, key: &ViewKey) -> Answer {
        let answer = match key {
            ViewKey::Endpoints { .. } => self.endpoints(key).map(Answer::Endpoints),
            ViewKey::Profile { target, namespace } => {
                self.profile(target, namespace).map(|p| Answer::Profile(Box::new(p)))
            }
            ViewKey::OutboundAddress { addr, namespace } => {
                self.outbound_by_address(*addr, namespace).map(|p| Answer::Outbound(Box::new(p)))
            }
            ViewKey::OutboundService { service, port, namespace } => {
                Ok(Answer::Outbound(Box::new(self.outbound_by_service(service, *port, namespace))))
            }
            ViewKey::Inbound { workload, port } => {
                self.inbound(workload, *port).map(|p| Answer::Inbound(Box::new(p)))
            }
        };
        answer.unwrap_or_else(Answer::Refused)
    }
}

/// What turns one list of endpoints into another, both sorted by address with each address once:
/// the new and changed endpoints, and the addresses that are gone. Linear in both lengths.
pub fn diff(old: &[EndpointInfo], new: &[EndpointInfo]) -> (Vec<EndpointInfo>, Vec<SocketAddr>) {
    let (mut adds, mut removes) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        match (old.peek(), new.peek()) {
            (None, None) => return (adds, removes),
            (Some(o), Some(n)) if o.addr == n.addr => {
                if o != n {
                    adds.push((*n).clone());
                }
                old.next();
                new.next();
            }
            (Some(o), n) if n.is_none_or(|n| o.addr < n.addr) => {
                removes.push(o.addr);
                old.next();
            }
            (_, Some(n)) => {
                adds.push((*n).clone());
                new.next();
            }
            (Some(_), None) => {
                old.next();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(ports: &[u16]) -> Vec<EndpointInfo> {
        ports.iter().map(|p| EndpointInfo::plain(SocketAddr::from(([10, 0, 0, 1], *p)))).collect()
    }

    fn check(old: &[u16], new: &[u16], adds: &[u16], removes: &[u16]) {
        let (a, r) = diff(&list(old), &list(new));
        assert_eq!(a.iter().map(|e| e.addr.port()).collect::<Vec<_>>(), adds, "{old:?} → {new:?}");
        assert_eq!(r.iter().map(|a| a.port()).collect::<Vec<_>>(), removes, "{old:?} → {new:?}");
    }

    #[test]
    fn differences_are_what_came_and_what_went() {
        check(&[], &[], &[], &[]);
        check(&[], &[1, 2], &[1, 2], &[]);
        check(&[1, 2], &[], &[], &[1, 2]);
        check(&[1, 2, 3], &[1, 2, 3], &[], &[]);
        check(&[1, 3, 5], &[2, 3, 4], &[2, 4], &[1, 5]);
        check(&[2], &[1, 2, 3], &[1, 3], &[]);
    }

    #[test]
    fn a_changed_endpoint_is_added_again() {
        let old = list(&[1, 2]);
        let mut new = old.clone();
        new[1].weight = 5;
        let (adds, removes) = diff(&old, &new);
        assert_eq!(adds, vec![new[1].clone()]);
        assert!(removes.is_empty());
    }
}
