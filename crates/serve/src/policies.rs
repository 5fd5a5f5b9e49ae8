//! Both policy services: how destinations are spoken to, and who may use a port (§1E, §1F).

use crate::follow::Service;
use std::sync::Arc;
use weft_index::ask::{self, PolicyWorkload};
use weft_index::{OutboundTarget, Question};
use weft_model::workload::Asker;
use weft_wire::services::{self, Answer, Caller, Code, PortQuery, Status, Target, TrafficQuery};

/// Longest authority that is kept for a stream, bytes: a DNS name with a port is shorter.
pub(crate) const MAX_AUTHORITY: usize = 300;

/// Answers `OutboundPolicies` and `InboundServerPolicies`.
pub struct Policies(Service);

impl Policies {
    /// The service, ready for a router.
    pub fn new(service: Service) -> Arc<Self> {
        Arc::new(Self(service))
    }

    /// The workload that a request is for, which must be the caller's own.
    fn claimed(&self, caller: &Caller, workload: &str) -> Result<Asker, Status> {
        let workload = ask::workload(workload).map_err(|e| Status::new(Code::InvalidArgument, e.message))?;
        let (PolicyWorkload::Pod(name) | PolicyWorkload::External(name)) = workload;
        let asker = Asker { namespace: name.namespace, workload: name.name, node: String::new() };
        self.0.check_claim(caller, &asker)?;
        Ok(asker)
    }

    fn outbound_question(&self, caller: &Caller, query: TrafficQuery) -> Result<Question, Status> {
        let asker = self.claimed(caller, &query.workload)?;
        let target = match query.target {
            Target::Addr(addr) => OutboundTarget::Address(addr),
            Target::Authority(authority) if authority.len() > MAX_AUTHORITY => {
                return Err(Status::new(Code::InvalidArgument, "the authority is too long"));
            }
            Target::Authority(authority) => OutboundTarget::Authority(authority),
        };
        Ok(Question::Outbound { target, asker })
    }

    fn inbound_question(&self, caller: &Caller, query: PortQuery) -> Result<Question, Status> {
        self.claimed(caller, &query.workload)?;
        Ok(Question::Inbound { workload: query.workload, port: query.port.get().into() })
    }
}

impl services::Policies for Policies {
    fn outbound(&self, caller: Caller, query: TrafficQuery) -> Answer {
        let question = self.outbound_question(&caller, query);
        let answers = question.and_then(|question| self.0.follow(&caller, "Watch", question));
        Box::pin(std::future::ready(answers))
    }

    fn inbound(&self, caller: Caller, query: PortQuery) -> Answer {
        let question = self.inbound_question(&caller, query);
        let answers = question.and_then(|question| self.0.follow(&caller, "WatchPort", question));
        Box::pin(std::future::ready(answers))
    }
}
