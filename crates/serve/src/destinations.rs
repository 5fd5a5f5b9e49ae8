//! The destination service: endpoints and profiles (§1A, §1B).

use crate::follow::Service;
use std::sync::Arc;
use weft_index::{Question, ask};
use weft_model::workload::Asker;
use weft_wire::services::{self, Answer, Caller, Code, DestinationQuery, Status};

/// Longest path that is kept for a stream, bytes: a DNS name with a port is shorter.
pub(crate) const MAX_PATH: usize = 300;

/// Answers `Destination.Get` and `GetProfile`.
pub struct Destinations(Service);

impl Destinations {
    /// The service, ready for a router.
    pub fn new(service: Service) -> Arc<Self> {
        Arc::new(Self(service))
    }

    /// Who asks: a malformed token counts as empty (§1A.1), a false one is refused.
    fn asker(&self, caller: &Caller, query: &DestinationQuery) -> Result<Asker, Status> {
        if query.path.len() > MAX_PATH {
            return Err(Status::new(Code::InvalidArgument, "the path is too long"));
        }
        let asker = ask::asker(&query.context).unwrap_or_else(|| {
            tracing::debug!(caller = ?caller.id, "a malformed context token is taken for none");
            Asker::default()
        });
        self.0.check_claim(caller, &asker)?;
        Ok(asker)
    }
}

impl services::Destinations for Destinations {
    fn endpoints(&self, caller: Caller, query: DestinationQuery) -> Answer {
        let asker = self.asker(&caller, &query);
        let question = asker.map(|asker| Question::Endpoints { path: query.path, asker });
        let answers = question.and_then(|question| self.0.follow(&caller, "Get", question));
        Box::pin(std::future::ready(answers))
    }

    fn profile(&self, caller: Caller, query: DestinationQuery) -> Answer {
        let asker = self.asker(&caller, &query);
        let question = asker.map(|asker| Question::Profile { path: query.path, asker });
        let answers = question.and_then(|question| self.0.follow(&caller, "GetProfile", question));
        Box::pin(std::future::ready(answers))
    }
}
