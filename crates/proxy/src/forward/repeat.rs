//! Whether a request is sent once more, when, and what of it is kept for that (§3.8).
//!
//! Part of the page `forward`, which asks after each attempt. A request goes again only while its rule, its budget and its
//! deadline allow it, and never once part of its answer was passed on.

use super::{Course, Failure, LONGEST_PAUSE, MAX_ATTEMPTS, Next};
use crate::heard::Heard;
use crate::limits::Limit;
use crate::prepare;
use http::Request;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use weft_attempt::replay::Spare;
use weft_balance::unavailable::{Cause, Unavailable};
use weft_model::reason::{Code, Phase};
use weft_model::route::RetryPolicy;
use weft_net::body::Body;
use weft_route::metrics::Granted;
use weft_route::retry::Retry;

impl<'a> Course<'a> {
    /// The distance between attempts that the policy wants, cut off at the deadline.
    pub(super) fn pause(&self, wait: Duration) -> tokio::time::Sleep {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        tokio::time::sleep(left.map_or(wait, |left| left.min(wait)))
    }

    /// How long the answer wants its sender left alone, where the policy obeys that: `Some(None)` if it does not say, `None`
    /// if that is longer than the request may wait or for ever, so that the answer is passed on with what it says.
    pub(super) fn pause_asked_for(&self, policy: &RetryPolicy, heard: &Heard) -> Option<Option<Duration>> {
        if !policy.respect_retry_after {
            return Some(None);
        }
        let said = heard.said();
        if prepare::forbids_retries(said) {
            return None;
        }
        let Some(asked) = prepare::retry_after(heard.response.status(), said) else { return Some(None) };
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        (asked <= LONGEST_PAUSE && left.is_none_or(|left| asked < left)).then_some(Some(asked))
    }

    pub(super) fn retry_policy(&self) -> Option<&'a RetryPolicy> {
        match &self.limits.retry {
            Some(Retry::Policy(policy)) => Some(policy),
            _ => None,
        }
    }

    /// The request once more, if the policy still grants a retry and its backend could take it at once. Counts
    /// either way.
    pub(super) fn policy_retry(
        &mut self,
        policy: &RetryPolicy,
        spare: Option<Box<Spare>>,
    ) -> Option<Request<Body>> {
        if !self.may_try_again(policy) {
            return None;
        }
        let again = spare?.again()?;
        self.could_be_sent(policy).then_some(again)
    }

    fn may_try_again(&self, policy: &RetryPolicy) -> bool {
        let left = self.attempts <= policy.limit;
        if let (false, Some(metrics)) = (left, &self.rule.metrics.retries) {
            metrics.limit.inc();
        }
        left
    }

    /// Whether an endpoint is ready for another attempt, which then is due after the policy's backoff.
    fn could_be_sent(&mut self, policy: &RetryPolicy) -> bool {
        let next = self.rule.choose(Instant::now(), self.draw).and_then(|b| b.backend.as_ref());
        let ready = next.is_some_and(|balancer| balancer.has_ready());
        if let Some(metrics) = &self.rule.metrics.retries {
            if ready { &metrics.requests } else { &metrics.overflow }.inc();
        }
        if ready {
            self.retried = true;
            let past = self.attempts.saturating_sub(1);
            self.wait = policy.backoff.map(|backoff| backoff.wait(past, fastrand::f64()));
        }
        ready
    }

    /// Goes to another backend where the policy retries and this one kept the request waiting in vain; else the failure.
    /// What a backend sheds at once is not tried again (§3.8).
    pub(super) fn instead(&mut self, unavailable: &Unavailable) -> Result<(), Failure> {
        let failure = self.unavailable(unavailable);
        let in_vain = unavailable.phase == Phase::Queue
            && matches!(
                unavailable.cause,
                Cause::AllUnready | Cause::AllEjected | Cause::NoEndpoints | Cause::Undiscovered
            );
        self.attempts += 1;
        match self.retry_policy() {
            Some(policy) if in_vain && self.may_try_again(policy) && self.could_be_sent(policy) => {
                self.tells_again(None, &failure.code);
                Ok(())
            }
            _ => Err(failure.into()),
        }
    }

    /// Tells that the request is tried again, and what came of the last attempt.
    pub(super) fn tells_again(&self, endpoint: Option<SocketAddr>, came: &dyn fmt::Display) {
        let mut reason = self.reason(Code::Retried, Phase::Request);
        reason.evidence.tries = Some(self.attempts);
        reason.evidence.endpoint = endpoint.map(|addr| addr.to_string());
        reason.evidence.policy = Some(self.rule.route.name().to_owned());
        let via = self.via;
        via.shared.reports.again(&reason.detail(came.to_string()), &via.subject(self.request), &via.client);
    }

    /// Keeps the request for a retry, as far as its rule and the settings allow.
    pub(super) fn spare(&mut self, limit: usize) -> Option<Box<Spare>> {
        let shared = &self.via.shared;
        let spare = Spare::keep(self.request, limit.min(shared.settings.limits.retry_body_bytes));
        if spare.is_none() {
            shared.reports.limits.reached(Limit::RetryBody, self.via.client.hop);
        }
        spare
    }

    /// A copy of the request, if the answer is one that the rule retries and the budget pays.
    pub(super) fn worth_repeating(
        &mut self,
        heard: &Heard,
        spare: Option<Box<Spare>>,
    ) -> Option<Request<Body>> {
        let rule = self.rule;
        let retry = self.limits.retry.as_ref()?;
        if !retry.wants(&rule.classes, heard.response.status(), heard.grpc.code()) {
            if self.retried
                && let Some(metrics) = &rule.metrics.retries
            {
                metrics.successes.inc();
            }
            return None;
        }
        match retry {
            Retry::Policy(policy) => {
                let asked = self.pause_asked_for(policy, heard)?;
                let again = self.policy_retry(policy, spare)?;
                self.wait = self.wait.max(asked);
                Some(again)
            }
            Retry::Profile(budget) => {
                let again = spare?.again()?;
                let granted = if budget.withdraw(Instant::now()) { Granted::Yes } else { Granted::No };
                self.rule.metrics.retryable(granted);
                (granted == Granted::Yes).then_some(again)
            }
        }
    }

    /// Tries the application again for as long as the inbound queue has patience.
    pub(super) async fn await_application(&mut self, failure: Failure) -> Result<Next, Failure> {
        let settings = &self.via.shared.settings.inbound;
        let in_time = self.deadline.is_none_or(|deadline| Instant::now() < deadline);
        if !in_time || self.started.elapsed() >= settings.queue.failfast {
            return Err(failure);
        }
        tokio::time::sleep(settings.connect_backoff.min).await;
        Ok(Next::Again)
    }

    /// The request once more, to whichever endpoint but this is drawn next, within the budget; else the failure.
    pub(super) fn elsewhere(&mut self, addr: SocketAddr, failure: Failure) -> Result<Next, Failure> {
        if self.attempts < MAX_ATTEMPTS && self.via.shared.unprocessed.withdraw(Instant::now()) {
            self.refused_by.push(addr);
            match &failure {
                Failure::Refused(refusal) => self.tells_again(Some(addr), &refusal.reason().code),
                Failure::Reset(reset) => self.tells_again(Some(addr), reset),
            }
            return Ok(Next::Again);
        }
        Err(failure)
    }
}
