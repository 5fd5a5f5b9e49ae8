//! What a view says at one version, and the messages that bring a client there, encoded once for all.
//!
//! Made by `views` when an answer changes, read by every stream (`follow`) of the view.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use weft_index::{Answer, EndpointSet, diff};
use weft_wire::encode;
use weft_wire::services::{MAX_MESSAGE_BYTES, Message};

/// Steps kept for one version. Nearly all streams come from the version before; the others lag by different
/// amounts, and beyond this many each computes its own.
pub(crate) const MAX_STEPS: usize = 8;

/// Messages shared by all streams that send them.
pub(crate) type Messages = Arc<[Message]>;

/// An answer and its encoded forms.
pub(crate) struct Content {
    /// Unique in the process and rising.
    pub(crate) version: u64,
    pub(crate) answer: Answer,
    snapshot: OnceLock<Messages>,
    /// By the version that the client has.
    steps: Mutex<Vec<(u64, Messages)>>,
}

/// What a client has been told.
#[derive(Clone)]
pub(crate) enum Known {
    /// These endpoints, or that the name does not exist.
    Endpoints(Option<EndpointSet>),
    /// Another answer.
    Other(Arc<Content>),
}

impl Content {
    pub(crate) fn new(version: u64, answer: Answer) -> Self {
        Self { version, answer, snapshot: OnceLock::new(), steps: Mutex::new(Vec::new()) }
    }

    /// What a client knows that has been told this.
    pub(crate) fn known(self: &Arc<Self>) -> Known {
        match &self.answer {
            Answer::Endpoints(set) => Known::Endpoints(Some(set.clone())),
            Answer::Refused(_) => Known::Endpoints(None),
            _ => Known::Other(self.clone()),
        }
    }

    /// All of it, for a client that knows nothing.
    pub(crate) fn snapshot(&self) -> Messages {
        self.snapshot.get_or_init(|| whole(&self.answer)).clone()
    }

    /// What a client that has `version`, and so knows `known`, must hear; nothing if it makes no difference.
    pub(crate) fn step(&self, version: u64, known: &Known) -> Messages {
        let old = match known {
            Known::Other(content) if content.answer == self.answer => return Arc::new([]),
            Known::Other(_) => return self.snapshot(),
            Known::Endpoints(old) => old.as_ref(),
        };
        let new = match &self.answer {
            Answer::Endpoints(set) => Some(set),
            _ => None,
        };
        // The first stream computes while the others wait for it.
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, messages)) = steps.iter().find(|(from, _)| *from == version) {
            return messages.clone();
        }
        let has_room = steps.len() < MAX_STEPS;
        if !has_room {
            drop(steps);
            return delta(old, new);
        }
        let messages = delta(old, new);
        steps.push((version, messages.clone()));
        messages
    }
}

fn whole(answer: &Answer) -> Messages {
    let message = match answer {
        Answer::Endpoints(set) => return delta(None, Some(set)),
        Answer::Refused(_) => return Arc::new([]),
        Answer::Profile(profile) => encode::profile(profile),
        Answer::Outbound(policy) => encode::outbound_policy(policy),
        Answer::Inbound(policy) => encode::inbound_policy(policy),
    };
    if message.len() > MAX_MESSAGE_BYTES {
        tracing::warn!(
            bytes = message.len(),
            "an answer is larger than clients read; simplify its resources"
        );
    }
    Arc::new([message.into()])
}

/// The messages that turn one endpoint set into another; `None`: the name does not exist.
fn delta(old: Option<&EndpointSet>, new: Option<&EndpointSet>) -> Messages {
    let Some(new) = new else {
        return if old.is_some() { Arc::new([encode::absent().into()]) } else { Arc::new([]) };
    };
    let old_endpoints = old.map_or(&[][..], |set| &set.endpoints);
    if new.endpoints.is_empty() {
        let is_news = old.is_none() || !old_endpoints.is_empty();
        return if is_news { Arc::new([encode::empty().into()]) } else { Arc::new([]) };
    }
    let (mut adds, removes) = diff(old_endpoints, &new.endpoints);
    if old.is_some_and(|old| old.labels != new.labels) {
        adds = new.endpoints.to_vec();
    }
    // Additions first: what is replaced as a whole is never empty in between.
    let mut messages: Vec<Message> =
        encode::endpoints(&adds, &new.labels, encode::MAX_SET_BYTES).into_iter().map(Message::from).collect();
    if !removes.is_empty() {
        messages.push(encode::remove(&removes).into());
    }
    messages.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use weft_index::{Refusal, RefusalKind};
    use weft_model::destination::{EndpointInfo, EndpointUpdate};
    use weft_model::meta::Labels;
    use weft_wire::decode;

    fn set(ports: &[u16], label: &str) -> Answer {
        let endpoint = |port: &u16| EndpointInfo::plain(SocketAddr::from(([10, 0, 0, 1], *port)));
        let labels = [("service".to_owned(), label.to_owned())].into();
        Answer::Endpoints(EndpointSet {
            labels: Labels::new(labels),
            endpoints: ports.iter().map(endpoint).collect(),
            left_out: 0,
        })
    }

    fn absent() -> Answer {
        Answer::Refused(Refusal::new(RefusalKind::NotFound, "gone"))
    }

    /// Writes what a client hears as text: `+1,2 -3`, `none`, `absent`.
    fn heard(messages: &Messages) -> String {
        let ports = |addrs: Vec<u16>| addrs.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        let text = |message: &Message| match decode::endpoint_update(&mut message.encoded()).unwrap().value {
            Some(EndpointUpdate::Add(list)) => {
                format!("+{}", ports(list.iter().map(|e| e.addr.port()).collect()))
            }
            Some(EndpointUpdate::Remove(list)) => {
                format!("-{}", ports(list.iter().map(|a| a.port()).collect()))
            }
            Some(EndpointUpdate::NoEndpoints { exists: true }) => "none".into(),
            Some(EndpointUpdate::NoEndpoints { exists: false }) => "absent".into(),
            None => "?".into(),
        };
        messages.iter().map(text).collect::<Vec<_>>().join(" ")
    }

    #[track_caller]
    fn check(old: Answer, new: Answer, expected: &str) {
        let known = Arc::new(Content::new(1, old)).known();
        assert_eq!(heard(&Content::new(2, new).step(1, &known)), expected);
    }

    #[test]
    fn snapshots_say_everything() {
        for (answer, expected) in [(set(&[1, 2], "a"), "+1,2"), (set(&[], "a"), "none"), (absent(), "")] {
            assert_eq!(heard(&Content::new(1, answer).snapshot()), expected);
        }
    }

    #[test]
    fn steps_say_the_difference() {
        check(set(&[1, 2], "a"), set(&[2, 3], "a"), "+3 -1");
        check(set(&[1, 2], "a"), set(&[1], "a"), "-2");
        check(set(&[1, 2], "a"), set(&[1, 2], "a"), "");
        check(set(&[1, 2], "a"), set(&[], "a"), "none");
        check(set(&[], "a"), set(&[], "a"), "");
        check(set(&[], "a"), set(&[1], "a"), "+1");
        check(set(&[1, 3], "a"), set(&[1, 2], "b"), "+1,2 -3");
        check(set(&[1], "a"), absent(), "absent");
        check(set(&[], "a"), absent(), "absent");
        check(absent(), absent(), "");
        check(absent(), set(&[], "a"), "none");
        check(absent(), set(&[1], "a"), "+1");
    }

    #[test]
    fn a_step_is_encoded_once() {
        let known = Arc::new(Content::new(1, set(&[1], "a"))).known();
        let content = Content::new(9, set(&[1, 2], "a"));
        let first = content.step(1, &known);
        assert!(Arc::ptr_eq(&first, &content.step(1, &known)));
        assert!(Arc::ptr_eq(&content.snapshot(), &content.snapshot()));
        // Many laggards do not fill the memory.
        for version in 2..100 {
            assert_eq!(heard(&content.step(version, &known)), "+2");
        }
        assert_eq!(content.steps.lock().unwrap().len(), MAX_STEPS);
    }
}
