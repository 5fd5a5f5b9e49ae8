//! The life of one request, top to bottom.
//!
//! `serve` calls `forward` for each request that hyper reads; inbound and outbound are the same page. It
//! finds the plan and the rule, asks permission, runs filters, takes an endpoint, sends, judges the
//! outcome, and answers or tries again. Whatever goes wrong becomes a `Refusal` with its reason, and
//! `reply` turns that into the answer. It never waits without a bound.

mod repeat;

use crate::gateway;
use crate::given_up::{GIVEN_UP, Unanswered};
use crate::headers::{self, Switch};
use crate::heard::{Heard, Kept};
use crate::passage::{GrpcOutcome, Passage};
use crate::permit;
use crate::prepare::{self, Wish};
use crate::received::{self, Counted};
use crate::reply::{self, Carried, Form, Grpc, Refusal};
use crate::target::{self, Aim};
use crate::tunnel;
use crate::via::{Admitted, Via};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::Body as _;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use weft_attempt::replay::Spare;
use weft_attempt::timeout::{Attempt, BodyLimits, Expired, Outgoing};
use weft_balance::backend::Picked;
use weft_balance::health::{Mark, Verdict};
use weft_balance::unavailable::{Cause, Unavailable};
use weft_connect::error::{SendError, SendFailure, Whereabouts};
use weft_decide::classify::Class;
use weft_decide::filter::{self, Outcome};
use weft_decide::matching::RequestView;
use weft_discover::plan::{Choice, Meshed, Plan, Protocol, Rule, RuleBackend, Upstream};
use weft_model::reason::{Code, Evidence, Phase, Reason};
use weft_net::body::{Body, Reset};
use weft_route::frames::FrameSizes;
use weft_route::metrics::{Ending, Exchange};
use weft_route::requested::{self, Limits};
use weft_route::retry::Retry;
use weft_route::table::Found;

/// Endpoints that one request is sent to while none of them processes it. A guess: three that refuse in a row
/// are more likely to share a cause than to be unlucky.
pub(crate) const MAX_ATTEMPTS: u32 = 4;

/// Longest pause that a `Retry-After` gets of a request that is to be tried again. A guess: whoever waits longer for one
/// request would rather be told.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Bytes of a request's body kept until an HTTP/2 endpoint answers, for the case that it refuses the stream: what
/// an HTTP/2 peer takes in without being asked for more (RFC 9113 §6.9.2).
const REFUSED_BODY: usize = 65_535;

/// Serves one request. What it returns is as small as a pointer, for hyper to move about.
pub(crate) fn forward(
    via: Arc<Via>,
    request: Request<Body>,
) -> Pin<Box<impl Future<Output = Result<Response<Body>, Reset>> + Send>> {
    // Written where it stays: `Box::pin` would build it on the stack and copy all of its 4 KB.
    Box::into_pin(Box::write(Box::new_uninit(), begin(via, request)))
}

/// Not inlined, so that its result is written straight to its place.
#[inline(never)]
fn begin(
    via: Arc<Via>,
    mut request: Request<Body>,
) -> impl Future<Output = Result<Response<Body>, Reset>> + Send {
    let form = Form {
        version: request.version(),
        carried: Carried::of(request.version(), request.headers()),
        grpc: Grpc::of(request.version(), request.headers()),
        openness: via.openness(),
    };
    // A captured request is held once, where the argument of an `async fn` is held twice; it is large.
    async move {
        let subject = via.subject(&request);
        match exchange(&via, form, &mut request).await {
            Ok(response) => {
                via.answered(response.status());
                Ok(response)
            }
            Err(Failure::Reset(reset)) if form.version == Version::HTTP_2 && form.carried == Carried::No => {
                Err(reset)
            }
            Err(failure) => {
                let refusal = failure.into_refusal(&via);
                via.report(refusal.reason(), &subject);
                if reply::closes(&refusal) {
                    via.close_after_this();
                }
                let response = reply::answer(&refusal, form);
                via.answered(response.status());
                Ok(prepare::outgoing_answer(response, form.carried))
            }
        }
    }
}

/// Why a request got no answer from an endpoint.
pub(crate) enum Failure {
    Refused(Refusal),
    Reset(Reset),
}

impl Failure {
    fn into_refusal(self, via: &Via) -> Refusal {
        match self {
            Failure::Refused(refusal) => refusal,
            Failure::Reset(reset) => {
                via.client.reason(Code::StreamReset, Phase::Request).detail(reset.to_string()).into()
            }
        }
    }
}

impl<R: Into<Refusal>> From<R> for Failure {
    fn from(refusal: R) -> Self {
        Failure::Refused(refusal.into())
    }
}

/// From the request's head to the response's. The request is sent from its place.
async fn exchange(
    via: &Arc<Via>,
    form: Form,
    request: &mut Request<Body>,
) -> Result<Response<Body>, Failure> {
    let admitted = Admitted::of(via).ok_or_else(|| via.client.reason(Code::Overloaded, Phase::Head))?;
    let wish = prepare::incoming(via, request)?;
    let mut plan = {
        let held = via.aim.held(&via.client, request, wish.named.as_ref())?;
        match held.plan_now() {
            Some(plan) => plan,
            None => Box::pin(target::awaited(&via.client, &held, via.patience())).await?,
        }
    };
    if let Aim::Gateway(gateway) = &via.aim {
        // The plan so far is that of the door, which is asked first.
        passes(via, &plan, request)?;
        plan = Box::pin(gateway::request(via, gateway, request)).await?;
    }
    if wish.named.is_some() && plan.protocol == Protocol::Opaque {
        // As the peer does: who names a destination of bytes for a request is told, and not sent elsewhere.
        let reason = via.client.reason(Code::InvalidPolicy, Phase::Discovery);
        return Err(reason.detail("the destination of `l5d-dst-override` speaks no HTTP").into());
    }
    let (rule, admitted_by) = passes(via, &plan, request)?;
    if let Some(canonical) = &rule.canonical {
        request.headers_mut().insert(headers::DST_CANONICAL, canonical.clone());
    }
    let asked = match rule.allow_request_headers {
        true => requested::take(request.headers_mut(), &rule.limits),
        false => None,
    };
    let limits = asked.as_deref().unwrap_or(&rule.limits);
    let mut course = Course::new(via, (&rule, limits), form, (request, wish));
    course.admitted = Some(admitted);
    if let Some(exchange) = admitted_by {
        course.counted(exchange).await;
    }
    let answered = course.run().await;
    course.settled = true;
    if let Err(failure) = &answered {
        course.failed(failure);
    }
    answered
}

/// Asks a plan about a request: a route, an authorization, the route's filters, a place within the rate limit (§4.4).
fn passes(
    via: &Via,
    plan: &Plan,
    request: &mut Request<Body>,
) -> Result<(Arc<Rule>, Option<Arc<Exchange>>), Refusal> {
    let table = if request.version() == Version::HTTP_2 { &plan.http2 } else { &plan.http1 };
    let view = RequestView::of(request);
    let found = table.find(&view).ok_or_else(|| permit::no_route(via, plan, (table, &view)))?;
    let rule = found.rule.clone();
    let admitted_by = permit::authorized(via, plan, &rule)?;
    filters(via, &found, request)?;
    permit::within_limit(via, plan)?;
    Ok((rule, admitted_by))
}

/// Runs the rule's filters; any of them may answer by itself.
fn filters(via: &Via, found: &Found<'_, Upstream>, request: &mut Request<Body>) -> Result<(), Refusal> {
    for filter in &found.rule.filters {
        apply(via, filter, found.prefix, request)?;
    }
    Ok(())
}

fn apply(
    via: &Via,
    filter: &weft_model::route::Filter,
    prefix: Option<usize>,
    request: &mut Request<Body>,
) -> Result<(), Refusal> {
    let uri = request.uri().clone();
    match filter::on_request(filter, &uri, request.headers_mut(), prefix, fastrand::f64()) {
        Outcome::Pass => Ok(()),
        Outcome::Redirect(status, to) => {
            Err(Refusal::Redirect(via.client.reason(Code::Redirected, Phase::Route), status, to))
        }
        Outcome::Inject(answer, message) => Err(Refusal::Injected(
            via.client.reason(Code::InjectedFailure, Phase::Route).detail(message),
            answer,
        )),
        Outcome::Forbidden => Err(via.client.reason(Code::Forbidden, Phase::Route).into()),
        Outcome::Invalid(message) => {
            Err(via.client.reason(Code::InvalidPolicy, Phase::Route).detail(message).into())
        }
    }
}

/// One request's way through its rule.
struct Course<'a> {
    via: &'a Arc<Via>,
    rule: &'a Arc<Rule>,
    /// The rule's, or what the request has asked for instead.
    limits: &'a Limits,
    form: Form,
    /// The place of the request, which holds it whenever an attempt begins.
    request: &'a mut Request<Body>,
    wish: Wish,
    started: Instant,
    deadline: Option<Instant>,
    attempts: u32,
    /// The draw for the next attempt's backend.
    draw: f64,
    /// How long the next attempt is to wait.
    wait: Option<Duration>,
    /// The request's headers without what a backend's filters did to them.
    unfiltered: Option<Box<HeaderMap>>,
    /// Whether an answer was refused in favour of another one.
    retried: bool,
    /// Endpoints that did not process the request.
    refused_by: Vec<SocketAddr>,
    /// Spent waiting for endpoints.
    waited: Duration,
    admitted: Option<Admitted>,
    /// Inbound, what the request is counted under.
    counted: Option<Counted>,
    /// Whether it has come to an answer or a failure.
    settled: bool,
}

impl Drop for Course<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.ended(&GIVEN_UP);
        }
    }
}

/// What to do after an attempt.
enum Next {
    Answer(Response<Body>),
    /// The request is back in its place.
    Again,
}

impl<'a> Course<'a> {
    fn new(
        via: &'a Arc<Via>,
        (rule, limits): (&'a Arc<Rule>, &'a Limits),
        form: Form,
        (request, wish): (&'a mut Request<Body>, Wish),
    ) -> Self {
        let started = Instant::now();
        let limit = [limits.timeouts.request, rule.profile_timeout].into_iter().flatten().min();
        rule.metrics.received();
        Self {
            via,
            rule,
            limits,
            form,
            request,
            wish,
            started,
            deadline: limit.and_then(|l| started.checked_add(l)),
            attempts: 0,
            draw: fastrand::f64(),
            wait: None,
            unfiltered: None,
            retried: false,
            refused_by: Vec::new(),
            waited: Duration::ZERO,
            counted: None,
            admitted: None,
            settled: false,
        }
    }

    /// Takes note of what an admitted request is counted under.
    async fn counted(&mut self, exchange: Arc<Exchange>) {
        let route = match &self.via.shared.received {
            Some(names) => received::route(names, &self.via.name, self.wish.meshes, self.request).await,
            None => None,
        };
        if let Some(route) = &route {
            route.metrics.sent();
        }
        self.counted = Some(Counted { exchange, route });
    }

    /// Attempts until there is an answer or no more reason to try.
    async fn run(&mut self) -> Result<Response<Body>, Failure> {
        if let Some(Retry::Profile(budget)) = &self.limits.retry {
            budget.deposit(self.started);
        }
        self.via.shared.unprocessed.deposit(self.started);
        loop {
            if let Some(wait) = self.wait.take() {
                Box::pin(self.pause(wait)).await;
            }
            let now = if self.attempts == 0 { self.started } else { Instant::now() };
            let rule = self.rule;
            let draw = std::mem::replace(&mut self.draw, fastrand::f64());
            let backend = rule.choose(now, draw).ok_or_else(|| self.reason(Code::NoBackend, Phase::Route))?;
            self.backend_filters(backend)?;
            let picked = match self.pick(backend, now).await? {
                Ok(picked) => picked,
                Err(unavailable) => {
                    self.instead(&unavailable)?;
                    continue;
                }
            };
            if let Next::Answer(response) = self.attempt(backend, picked).await? {
                return Ok(response);
            }
        }
    }

    fn backend_filters(&mut self, backend: &RuleBackend) -> Result<(), Failure> {
        match &self.unfiltered {
            Some(headers) => self.request.headers_mut().clone_from(headers),
            None if backend.filters.is_empty() => return Ok(()),
            None => self.unfiltered = Some(Box::new(self.request.headers().clone())),
        }
        Ok(backend.filters.iter().try_for_each(|f| apply(self.via, f, None, self.request))?)
    }

    /// An endpoint that is ready, at once or after waiting in the backend's queue.
    async fn pick(
        &mut self,
        backend: &RuleBackend,
        now: Instant,
    ) -> Result<Result<Picked<Upstream>, Unavailable>, Failure> {
        let Some(balancer) = &backend.backend else {
            return Err(self.reason(Code::NoDispatcher, Phase::Route).into());
        };
        let other = match self.refused_by.as_slice() {
            [] => None,
            avoided => balancer.pick_other(now, fastrand::u64(..), avoided),
        };
        if let Some(picked) = other.or_else(|| balancer.pick(now, fastrand::u64(..)).ok()) {
            return Ok(Ok(picked));
        }
        let outcome = Box::pin(balancer.ready(self.deadline)).await;
        self.waited += now.elapsed();
        Ok(outcome)
    }

    /// Sends the request to one endpoint and judges what comes of it.
    async fn attempt(&mut self, backend: &RuleBackend, picked: Picked<Upstream>) -> Result<Next, Failure> {
        self.attempts += 1;
        prepare::required_identity(self.via, self.wish.require_id.as_ref(), picked.info())?;
        let spare = match &self.limits.retry {
            Some(retry) => self.spare(retry.body_limit()),
            // What an endpoint refuses comes back by itself if it has no body.
            None if !self.request.body().is_end_stream()
                && picked.endpoint().endpoint.may_refuse(self.request) =>
            {
                Spare::keep(self.request, REFUSED_BODY)
            }
            None => None,
        };
        let sent = Instant::now();
        let exchange = received::exchange_of(&self.counted, picked.endpoint());
        if let Some(metrics) = exchange {
            metrics.sent();
        }
        backend.metrics.sent();
        self.rule.metrics.attempted();
        let limits = Attempt::of(self.limits, self.attempts, self.deadline);
        let outgoing = Outgoing::watch(self.request, self.limits);
        let unanswered = Unanswered { exchange, backend: &backend.metrics, rule: self.rule, sent };
        let outcome = {
            let sending = pin!(picked.endpoint().endpoint.send(self.request));
            limits.head(outgoing.as_deref(), sending).await
        };
        unanswered.settled();
        match outcome {
            Ok(Ok(response)) => {
                let kept = if spare.is_some() { Kept::Yes } else { Kept::No };
                let heard = Heard::of(response, self.limits, kept, (sent, self.deadline)).await;
                self.judge(backend, (picked, sent), heard, (spare, outgoing))
            }
            Ok(Err(error)) => Box::pin(self.lost(backend, (picked, sent), error, spare)).await,
            Err(Expired::Attempt(code)) => {
                let addr = picked.info().addr;
                self.settle_failed(backend, (picked, sent), code);
                let again = match self.retry_policy() {
                    Some(policy) if code == Code::HeadersTimeout => self.policy_retry(policy, spare),
                    _ => None,
                };
                *self.request = again.ok_or_else(|| self.reason(code, Phase::Request))?;
                self.tells_again(Some(addr), &code);
                Ok(Next::Again)
            }
            Err(Expired::Request) => {
                let reason = self.out_of_time();
                self.settle_failed(backend, (picked, sent), reason.code);
                Err(reason.into())
            }
        }
    }

    /// There is an answer: pass it on, or try once more where the rule wants that.
    fn judge(
        &mut self,
        backend: &RuleBackend,
        (picked, sent): (Picked<Upstream>, Instant),
        heard: Heard,
        (spare, outgoing): (Option<Box<Spare>>, Option<Arc<Outgoing>>),
    ) -> Result<Next, Failure> {
        if let Some(again) = self.worth_repeating(&heard, spare) {
            let addr = picked.info().addr;
            let mut passage = self.passage(backend, picked, sent, &heard);
            passage.settle_attempt();
            // The request goes on, and with it its place among those in flight.
            self.admitted = passage.admitted.take();
            *self.request = again;
            self.tells_again(Some(addr), &heard);
            return Ok(Next::Again);
        }
        let (meshed, choice) = (picked.endpoint().meshed, picked.endpoint().choice);
        let passage = self.passage(backend, picked, sent, &heard);
        let mut response = heard.response;
        if meshed == Meshed::No {
            headers::remove_claims(response.headers_mut());
        } else if prepare::says_close(response.headers_mut()) && choice == Choice::Only {
            // One of several that goes away is no reason for the client to (§3.7).
            prepare::announce_close(&mut response, self.form);
            self.via.close_after_this();
        }
        // The other way round than on requests: what ran last is passed first.
        for filter in backend.filters.iter().chain(&self.rule.filters) {
            filter::on_response(filter, response.headers_mut());
        }
        if tunnel::switched(self.wish.switch, response.status()) {
            let upgraded = tunnel::side(&mut response);
            tunnel::start(self.via, self.wish.upgrade.take(), upgraded, passage);
            return Ok(Next::Answer(
                prepare::outgoing(response, self.form, self.wish.switch).map(|_| Body::empty()),
            ));
        }
        let response = prepare::outgoing(response, self.form, Switch::None);
        let limits = BodyLimits::of(self.limits, self.via.client.hop, self.deadline, (sent, outgoing));
        Ok(Next::Answer(response.map(|body| limits.apply(body).watched(Box::new(passage)))))
    }

    /// There is no answer. A request that was certainly not processed goes to another endpoint; the
    /// application beside us gets the time that a restart takes.
    async fn lost(
        &mut self,
        backend: &RuleBackend,
        (picked, sent): (Picked<Upstream>, Instant),
        error: SendError,
        spare: Option<Box<Spare>>,
    ) -> Result<Next, Failure> {
        let unreached = matches!(error.failure, SendFailure::Connect(_));
        let code = match error.code() {
            Code::ClientGone if self.via.late.load(Ordering::Relaxed) => Code::SlowClient,
            code => code,
        };
        let mut reason = self.reason(code, if unreached { Phase::Connect } else { Phase::Request });
        reason.evidence.endpoint = Some(picked.info().addr.to_string());
        reason = reason.detail(error.failure.to_string());
        let addr = picked.info().addr;
        self.settle_failed(backend, (picked, sent), code);
        let failure = match error.reset() {
            Some(code) => Failure::Reset(code.into()),
            None => reason.into(),
        };
        if !error.unprocessed {
            return Err(failure);
        }
        let back = match (error.request, spare) {
            (Whereabouts::Back, _) => true,
            (Whereabouts::Gone, Some(spare)) => match spare.again_from_start(self.deadline).await {
                Some(request) => {
                    *self.request = request;
                    true
                }
                None => false,
            },
            (Whereabouts::Gone, None) => false,
        };
        if !back {
            return Err(failure);
        }
        // What it may have begun is not for it to see again and again.
        if self.via.ends_here() && unreached {
            return self.await_application(failure).await;
        }
        self.elsewhere(addr, failure)
    }

    /// Settles load, breaker and metrics of an attempt that brought no answer.
    fn settle_failed(&self, backend: &RuleBackend, (picked, sent): (Picked<Upstream>, Instant), code: Code) {
        let now = Instant::now();
        let ending = Ending { status: None, grpc: None, class: Class::Failure, error: Some(code) };
        if let Some(metrics) = received::exchange_of(&self.counted, picked.endpoint()) {
            metrics.ended(&ending);
        }
        backend.metrics.ended(&ending, now.saturating_duration_since(sent));
        self.rule.metrics.attempt_ended(&ending);
        let mut pending = picked.into_pending();
        // A client that breaks its own request off, or is too slow with it, says nothing about the endpoint. Nor is it certain
        // who lets a body rest.
        if matches!(code, Code::ClientGone | Code::SlowClient | Code::IdleTimeout) {
            return;
        }
        pending.fail(now, None);
        pending.mark(Mark::Error(code));
        pending.judge(Verdict::Failure, None, now);
    }

    fn passage(
        &mut self,
        backend: &RuleBackend,
        picked: Picked<Upstream>,
        sent: Instant,
        heard: &Heard,
    ) -> Passage {
        let (response, grpc) = (&heard.response, heard.grpc);
        let may_fail = grpc != GrpcOutcome::None || !response.status().is_success();
        Passage {
            pending: picked.into_pending(),
            rule: self.rule.clone(),
            backend: backend.metrics.clone(),
            counted: self.counted.clone(),
            started: self.started,
            sent,
            status: response.status(),
            grpc,
            retry_after: may_fail.then(|| prepare::retry_after(response.status(), heard.said())).flatten(),
            frames: FrameSizes::default(),
            last_words: (self.form.grpc == Grpc::Yes).then_some((self.via.client.hop, self.form.openness)),
            answered: false,
            ended: false,
            admitted: self.admitted.take(),
        }
    }

    /// Counts a request that ends without an answer from an endpoint.
    fn failed(&self, failure: &Failure) {
        let error = match failure {
            Failure::Refused(refusal) => refusal.reason().code,
            Failure::Reset(_) => Code::StreamReset,
        };
        let status = match failure {
            Failure::Refused(refusal) => StatusCode::from_u16(refusal.reason().status()).ok(),
            Failure::Reset(_) => None,
        };
        let ending = Ending { status, grpc: None, class: Class::Failure, error: Some(error) };
        self.ended(&ending);
    }

    /// Counts the end of a request that got no answer.
    fn ended(&self, ending: &Ending) {
        self.rule.metrics.ended(ending, self.started.elapsed());
        if let Some(route) = self.counted.as_ref().and_then(|c| c.route.as_ref()) {
            route.metrics.ended(ending);
        }
    }

    fn out_of_time(&self) -> Reason {
        let profile = self.rule.profile_timeout.is_some() && self.limits.timeouts.request.is_none();
        let code = if profile { Code::ProfileTimeout } else { Code::RequestTimeout };
        self.reason(code, Phase::Request)
    }

    fn unavailable(&self, unavailable: &Unavailable) -> Reason {
        let code = match unavailable.cause {
            Cause::Deadline => self.out_of_time().code,
            _ => unavailable.code(),
        };
        Reason {
            code,
            hop: self.via.client.hop,
            phase: unavailable.phase,
            evidence: Box::new(Evidence {
                tries: Some(self.attempts).filter(|tries| *tries > 1),
                ..unavailable.evidence()
            }),
        }
    }

    fn reason(&self, code: Code, phase: Phase) -> Reason {
        let waited = Some(self.waited).filter(|w| !w.is_zero());
        let tries = Some(self.attempts).filter(|tries| *tries > 1);
        let mut reason = self.via.client.reason(code, phase);
        *reason.evidence = Evidence { waited, tries, ..Evidence::default() };
        reason
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_under_way_is_small() {
        fn size<A, B, F>(_: fn(A, B) -> F) -> usize {
            std::mem::size_of::<F>()
        }
        // It is copied once, into its task or box, and there may be many: what is rare and large is boxed.
        assert!(size(begin) <= 4096, "{}", size(begin));
    }
}
