use crate::world::*;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use weft_identity::authority::{Authority, Lifetimes};
use weft_identity::join::JoinFile;
use weft_identity::keys::{Given, Keys};
use weft_identity::renew::{
    Certified, Certify, CertifyError, CertifyRequest, Credential, Limits, Proof, Renewal, State,
};
use weft_identity::store::Store;
use weft_identity::token::Token;

const HOUR: Duration = Duration::from_secs(3600);

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

// ── the schedule, pure ──────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_renewal_comes_at_seven_tenths_within_the_limits() {
    let limits = Limits::default();
    assert_eq!(limits.after_success(seconds(1000)), seconds(700));
    assert_eq!(limits.after_success(DAY), DAY.mul_f64(0.7));
    assert_eq!(limits.after_success(seconds(1)), seconds(10));
    assert_eq!(limits.after_success(Duration::ZERO), seconds(10));
    assert_eq!(limits.after_success(DAY * 365), DAY);
}

#[test]
fn retries_double_up_to_a_tenth_of_what_remains() {
    let limits = Limits::default();
    let millis = |failures| limits.after_failure(failures, Duration::ZERO, 1.0).as_millis();
    assert_eq!([1, 2, 3, 6, 7, 100, u32::MAX].map(millis), [200, 400, 800, 6400, 10_000, 10_000, 10_000]);
    assert_eq!(limits.after_failure(100, HOUR * 10, 1.0), HOUR);
    assert_eq!(limits.after_failure(100, HOUR * 10, 0.0), HOUR / 2);
    assert_eq!(limits.after_failure(1, HOUR * 10, 0.5), Duration::from_millis(150));
}

/// Lives through twenty lifetimes with outages, and holds what the schedule promises.
fn simulate(seed: u64) {
    let mut draw = fastrand::Rng::with_seed(seed);
    let limits = Limits::default();
    let lifetime = seconds(draw.u64(60..2 * 86_400));
    let end = lifetime * 20;
    let (mut now, mut up_until, mut down_until) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let (mut not_after, mut failures, mut failed_for) = (None::<Duration>, 0_u32, Duration::ZERO);
    let mut attempts_in_outage = 0_u32;
    while now < end {
        if now >= down_until {
            let up = lifetime.mul_f64(draw.f64() * 2.0);
            up_until = now + up;
            down_until = up_until + lifetime.mul_f64(draw.f64() * 0.8);
        }
        let wait = if now < up_until {
            if let Some(not_after) = not_after.filter(|&end| now > end) {
                // Expired before this renewal: only an outage that lasted up to the end excuses that.
                let gap = limits.min_refresh;
                assert!(
                    failed_for + gap >= not_after.min(now),
                    "seed {seed}: expired without need at {now:?}"
                );
            }
            not_after = Some(now + lifetime);
            (failures, attempts_in_outage) = (0, 0);
            limits.after_success(lifetime)
        } else {
            failures += 1;
            attempts_in_outage += 1;
            failed_for = down_until;
            let remaining = not_after.map(|end| end.saturating_sub(now)).unwrap_or_default();
            limits.after_failure(failures, remaining, draw.f64())
        };
        assert!(wait <= limits.max_refresh && wait >= Duration::from_millis(100), "seed {seed}: {wait:?}");
        now += wait;
        let outage = down_until.saturating_sub(up_until);
        // Seven quick ones at most, then no closer than half the shortest refresh.
        let bound = 8 + u32::try_from(outage.as_secs() / 5).unwrap();
        assert!(attempts_in_outage <= bound, "seed {seed}: {attempts_in_outage} attempts");
    }
}

#[test]
fn a_certificate_never_expires_without_an_outage_up_to_its_end() {
    for seed in 0..300 {
        simulate(seed);
    }
}

// ── the loop, in paused time ────────────────────────────────────────────────────────────────────────────

/// A wall clock that follows tokio's time.
#[derive(Debug)]
struct Following(Instant);

impl TimeProvider for Following {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(seconds(START) + self.0.elapsed()))
    }
}

type Script = VecDeque<Result<(), CertifyError>>;

/// Issues from an authority after what a script says, and remembers what it was asked.
struct Scripted {
    authority: Authority,
    script: Mutex<Script>,
    asked: Mutex<Vec<(Duration, String)>>,
    csrs: Mutex<Vec<Vec<u8>>>,
    begun: Instant,
}

impl Scripted {
    fn new(leaf: Duration, script: impl IntoIterator<Item = Result<(), CertifyError>>) -> Arc<Self> {
        let begun = Instant::now();
        let lifetimes = Lifetimes { leaf, skew: Duration::ZERO };
        let authority = Authority::in_memory(lifetimes, Arc::new(Following(begun))).unwrap();
        let script = Mutex::new(script.into_iter().collect());
        Arc::new(Self { authority, script, asked: Mutex::default(), csrs: Mutex::default(), begun })
    }

    fn store(&self) -> Store {
        let name = bare("web.default", &self.authority.anchors(), &Clock::new()).local_name().clone();
        let anchors = self.authority.anchors().as_ref().clone();
        Store::with_clock(name, anchors, Arc::new(Following(self.begun)))
    }

    fn times(&self) -> Vec<u64> {
        self.asked.lock().unwrap().iter().map(|(at, _)| at.as_secs()).collect()
    }

    fn proofs(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|(_, proof)| proof.clone()).collect()
    }
}

impl Certify for Scripted {
    fn certify(&self, request: CertifyRequest) -> Certified<'_> {
        assert_eq!(request.identity, id("web.default"));
        let proof = match &request.proof {
            Proof::Token(token) => String::from_utf8(token.reveal().to_vec()).unwrap(),
            Proof::CurrentCertificate => "certificate".into(),
            Proof::InProcess => "nothing".into(),
        };
        self.asked.lock().unwrap().push((self.begun.elapsed(), proof));
        self.csrs.lock().unwrap().push(request.csr.clone());
        match self.script.lock().unwrap().pop_front() {
            Some(Err(CertifyError::Unreachable(why))) if why == "hang" => Box::pin(std::future::pending()),
            Some(Err(error)) => Box::pin(std::future::ready(Err(error))),
            _ => self.authority.certify(request),
        }
    }
}

fn start(scripted: &Arc<Scripted>, credential: Credential) -> (Store, watch::Receiver<State>) {
    let store = scripted.store();
    let (renewal, state) = Renewal::new(store.clone(), scripted.clone(), credential, Limits::default());
    tokio::spawn(renewal.run());
    (store, state)
}

fn refused() -> Result<(), CertifyError> {
    Err(CertifyError::Refused("no such account".into()))
}

#[tokio::test(start_paused = true)]
async fn certificates_are_renewed_at_seven_tenths_for_ever() {
    let scripted = Scripted::new(seconds(1000), []);
    let (store, state) = start(&scripted, Credential::OwnAuthority);
    store.wait_ready().await;
    sleep(seconds(2900)).await;
    assert_eq!(scripted.times(), [0, 700, 1400, 2100, 2800]);
    assert_eq!(scripted.proofs()[0], "nothing");
    let state = state.borrow().clone();
    assert_eq!((state.issued, state.failed, state.waiting()), (5, 0, None));
    assert!(store.holds_valid());
    assert_eq!(state.validity, store.validity());
}

#[tokio::test(start_paused = true)]
async fn readiness_says_what_it_waits_for_until_there_is_a_certificate() {
    let hang = Err(CertifyError::Unreachable("hang".into()));
    let scripted = Scripted::new(HOUR, [refused(), hang]);
    let (store, mut state) = start(&scripted, Credential::OwnAuthority);
    assert_eq!(state.borrow().waiting().unwrap(), "waiting for identity: no answer yet");
    state.changed().await.unwrap();
    assert_eq!(
        state.borrow_and_update().waiting().unwrap(),
        "waiting for identity: last error: the control plane refuses a certificate: no such account"
    );
    state.changed().await.unwrap();
    let waiting = state.borrow_and_update().waiting().unwrap();
    assert!(waiting.ends_with("the control plane did not answer within 10s"), "{waiting}");
    assert!(!store.is_ready());
    state.changed().await.unwrap();
    let state = state.borrow().clone();
    assert_eq!((state.waiting(), state.issued, state.failed, state.failed_in_a_row), (None, 1, 2, 0));
    assert!(scripted.begun.elapsed() < seconds(11), "the first retries come quickly");
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_keeps_the_certificate_and_is_repeated_before_the_end() {
    let failures = std::iter::once(Ok(())).chain(std::iter::repeat_with(refused).take(8));
    let scripted = Scripted::new(seconds(1000), failures);
    let (store, state) = start(&scripted, Credential::OwnAuthority);
    sleep(seconds(705)).await;
    assert!(store.holds_valid());
    assert!(state.borrow().failed_in_a_row >= 3 && state.borrow().waiting().is_none());
    sleep(seconds(200)).await;
    assert_eq!((state.borrow().issued, state.borrow().failed), (2, 8));
}

#[tokio::test(start_paused = true)]
async fn an_expired_certificate_stays_until_a_new_one_comes() {
    let failures = std::iter::once(Ok(())).chain(std::iter::repeat_with(refused).take(60));
    let scripted = Scripted::new(seconds(100), failures);
    let (store, state) = start(&scripted, Credential::OwnAuthority);
    sleep(seconds(120)).await;
    assert!(store.is_ready() && !store.holds_valid());
    sleep(seconds(600)).await;
    assert!(store.holds_valid());
    assert!(state.borrow().last_error.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_unusable_answer_counts_as_a_failure() {
    let scripted = Scripted::new(HOUR, []);
    let foreign = Scripted::new(HOUR, []);
    let (renewal, mut state) =
        Renewal::new(scripted.store(), foreign, Credential::OwnAuthority, Limits::default());
    tokio::spawn(renewal.run());
    state.changed().await.unwrap();
    let error = state.borrow().last_error.clone().unwrap();
    assert!(error.contains("does not lead to our trust anchors"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_token_file_is_read_anew_for_each_attempt() {
    let directory = Directory::new();
    let path = directory.file("token", "first", 0o644);
    let scripted = Scripted::new(seconds(1000), []);
    let (store, mut state) = start(&scripted, Credential::TokenFile(path.clone()));
    store.wait_ready().await;
    std::fs::write(&path, "second").unwrap();
    sleep(seconds(701)).await;
    assert_eq!(scripted.proofs(), ["first", "second"]);
    state.mark_unchanged();
    std::fs::write(&path, "").unwrap();
    state.changed().await.unwrap();
    assert!(state.borrow().last_error.as_ref().unwrap().contains("empty or too large"));
    std::fs::remove_file(&path).unwrap();
    state.changed().await.unwrap();
    assert!(state.borrow().last_error.as_ref().unwrap().contains("No such file"));
    assert!(store.holds_valid());
}

#[tokio::test(start_paused = true)]
async fn a_join_token_is_shown_until_there_is_a_certificate_and_in_turn_when_that_is_refused() {
    let directory = Directory::new();
    let path = directory.path().join("web.join");
    let scripted = Scripted::new(seconds(1000), [refused(), Ok(()), Ok(()), refused(), refused(), Ok(())]);
    let file = JoinFile {
        trust_anchors: scripted.authority.anchors().to_pem().into(),
        control_address: "10.0.0.1:8086".into(),
        control_name: "control.linkerd".parse().unwrap(),
        identity: id("web.default"),
        token: Token::from(b"secret".to_vec()),
    };
    file.write(&path).unwrap();
    let (store, _) = start(&scripted, Credential::JoinFile(path));
    store.wait_ready().await;
    sleep(seconds(1500)).await;
    assert_eq!(
        scripted.proofs(),
        ["secret", "secret", "certificate", "certificate", "secret", "certificate"]
    );
}

/// A wall clock that jumps, as after a suspension that the monotonic clock does not count.
#[derive(Debug)]
struct Jumping(Mutex<Duration>, Instant);

impl TimeProvider for Jumping {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(seconds(START) + self.1.elapsed() + *self.0.lock().unwrap()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_wakes_up_renews_within_a_minute() {
    let clock = Arc::new(Jumping(Mutex::default(), Instant::now()));
    let authority = Arc::new(Authority::in_memory(Lifetimes::default(), clock.clone()).unwrap());
    let name = bare("web.default", &authority.anchors(), &Clock::new()).local_name().clone();
    let store = Store::with_clock(name, authority.anchors().as_ref().clone(), clock.clone());
    let (renewal, mut state) =
        Renewal::new(store.clone(), authority, Credential::OwnAuthority, Limits::default());
    tokio::spawn(renewal.run());
    store.wait_ready().await;
    state.mark_unchanged();
    sleep(seconds(30)).await;
    *clock.0.lock().unwrap() = DAY * 3;
    assert!(!store.holds_valid());
    let woken = Instant::now();
    state.changed().await.unwrap();
    assert!(woken.elapsed() <= seconds(60) && store.holds_valid());
    assert!(store.validity().unwrap().not_after > SystemTime::UNIX_EPOCH + seconds(START) + DAY * 3);
}

// ── the keys ────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test(start_paused = true)]
async fn each_certificate_has_a_key_of_its_own() {
    let scripted = Scripted::new(HOUR, []);
    let (_store, mut state) = start(&scripted, Credential::OwnAuthority);
    state.wait_for(|state| state.issued == 3).await.unwrap();
    // Requests differ by their signatures alone, so the keys in them are compared.
    let csrs = scripted.csrs.lock().unwrap();
    let keys: Vec<_> =
        csrs.iter().map(|csr| weft_identity::csr::check(&id("web.default"), csr).unwrap()).collect();
    assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2]);
}

/// Writes a key and a request for `name` made with it.
fn give(directory: &Path, name: &str) -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&key).unwrap().der().to_vec();
    std::fs::create_dir_all(directory).unwrap();
    std::fs::write(directory.join("csr.der"), &csr).unwrap();
    std::fs::write(directory.join("key.p8"), key.serialize_der()).unwrap();
    set_mode(&directory.join("key.p8"), 0o600);
    csr
}

#[tokio::test(start_paused = true)]
async fn a_given_key_and_request_are_used_for_every_certificate() {
    let scratch = Directory::new();
    let csr = give(scratch.path(), "web.default");
    let given = Given::read(scratch.path(), &id("web.default")).unwrap();
    let scripted = Scripted::new(HOUR, []);
    let (renewal, mut state) =
        Renewal::new(scripted.store(), scripted.clone(), Credential::OwnAuthority, Limits::default());
    let running = tokio::spawn(renewal.with_keys(Keys::Given(given)).run());
    state.wait_for(|state| state.issued == 2).await.unwrap();
    assert_eq!(*scripted.csrs.lock().unwrap(), [csr.clone(), csr]);
    running.abort();
}

#[test]
fn a_given_key_that_does_not_serve_is_named() {
    let scratch = Directory::new();
    let at = |name: &str| scratch.path().join(name);
    let refusal = || Given::read(&at("a"), &id("web.default")).err().unwrap().to_string();
    assert!(refusal().contains("key.p8"), "{}", refusal());
    give(&at("a"), "web.default");
    assert!(Given::read(&at("a"), &id("other.default")).is_err(), "the request is for somebody else");
    set_mode(&at("a/key.p8"), 0o644);
    assert!(refusal().contains("lets others read"), "{}", refusal());
    give(&at("b"), "web.default");
    std::fs::copy(at("b/key.p8"), at("a/key.p8")).unwrap();
    set_mode(&at("a/key.p8"), 0o600);
    assert!(refusal().contains("another key"), "{}", refusal());
    std::fs::write(at("a/key.p8"), "nonsense").unwrap();
    assert!(refusal().contains("not a PKCS#8 key"), "{}", refusal());
    std::fs::remove_file(at("b/csr.der")).unwrap();
    assert!(Given::read(&at("b"), &id("web.default")).err().unwrap().is_missing());
}
