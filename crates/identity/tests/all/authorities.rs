use crate::world::*;
use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose};
use std::collections::HashSet;
use std::time::Duration;
use weft_identity::authority::{Authority, AuthorityError, Class, FILE, IssuerFiles, Lifetimes, Role};
use weft_identity::certificate::Certificate;
use weft_identity::private::FileError;
use weft_identity::verify::Refusal;

fn open(directory: &Directory, clock: &Clock) -> Result<Authority, AuthorityError> {
    let state = directory.path().join("state");
    Authority::open(&state, "root.linkerd.cluster.local", Lifetimes::default(), clock.provider())
}

#[test]
fn an_authority_is_created_once_and_restored_from_then_on() {
    let (clock, directory) = (Clock::new(), Directory::new());
    let first = open(&directory, &clock).unwrap();
    let path = directory.path().join("state").join(FILE);
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    let text = std::fs::read_to_string(&path).unwrap();

    clock.forward(DAY);
    let second = open(&directory, &clock).unwrap();
    assert_eq!(second.anchors().to_pem(), first.anchors().to_pem());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    let (old, new) = (store("a.ns", &first, &clock), store("a.ns", &second, &clock));
    assert!(old.holds_valid() && new.holds_valid());
    let files: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(files.len(), 1, "no draft is left behind");
    assert!(!first.anchors().to_pem().contains("PRIVATE"));
}

#[test]
fn processes_that_start_at_once_agree_on_one_authority() {
    let (clock, directory) = (Clock::new(), Directory::new());
    let anchors: HashSet<String> = std::thread::scope(|scope| {
        let start = || open(&directory, &clock).unwrap().anchors().to_pem().to_owned();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(anchors.len(), 1);
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let (clock, directory) = (Clock::new(), Directory::new());
    open(&directory, &clock).unwrap();
    let path = directory.path().join("state").join(FILE);
    for mode in [0o640, 0o604, 0o660, 0o622] {
        set_mode(&path, mode);
        let error = open(&directory, &clock).unwrap_err();
        assert!(matches!(error, AuthorityError::File(FileError::Exposed { .. })), "{error}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
    set_mode(&path, 0o400);
    assert!(open(&directory, &clock).is_ok());
}

#[test]
fn an_unreadable_authority_is_never_overwritten() {
    let (clock, directory) = (Clock::new(), Directory::new());
    let good = open(&directory, &clock).unwrap().anchors().to_pem().to_owned();
    let path = directory.path().join("state").join(FILE);
    let whole = std::fs::read_to_string(&path).unwrap();
    for damaged in ["", "garbage", &whole[..whole.len() / 2], &good] {
        std::fs::write(&path, damaged).unwrap();
        assert!(open(&directory, &clock).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), damaged);
    }
    let other = Directory::new();
    open(&other, &clock).unwrap();
    let foreign = std::fs::read_to_string(other.path().join("state").join(FILE)).unwrap();
    let (foreign_key, _) = foreign.split_once("-----BEGIN CERTIFICATE").unwrap();
    std::fs::write(&path, format!("{foreign_key}{good}")).unwrap();
    let error = open(&directory, &clock).unwrap_err();
    assert!(error.to_string().contains("not the first certificate's"), "{error}");
}

#[test]
fn leaves_live_a_day_and_never_longer_than_their_issuer() {
    let clock = Clock::new();
    let ca = authority(&clock);
    let (issued, _) = ca.issue_own(&id("web.default")).unwrap();
    let leaf = Certificate::parse(&issued.leaf).unwrap();
    assert_eq!(leaf.validity, issued.validity);
    assert_eq!(leaf.validity.not_before, clock.now() - Duration::from_secs(20));
    assert_eq!(leaf.validity.not_after, clock.now() + DAY + Duration::from_secs(20));

    clock.forward(DAY * 3650 - Duration::from_secs(3600));
    let (issued, _) = ca.issue_own(&id("web.default")).unwrap();
    assert_eq!(issued.validity.not_after, clock.now() + Duration::from_secs(3600));

    clock.forward(Duration::from_secs(3601));
    let error = ca.issue_own(&id("web.default")).unwrap_err();
    assert!(matches!(error, AuthorityError::Issuer(Refusal::Expired { .. })), "{error}");
    assert_eq!(error.class(), Class::Unavailable);
    assert_eq!(ca.check(&id("web.default"), b"").unwrap_err().class(), Class::Unavailable);
}

#[test]
fn serial_numbers_are_random_and_long_names_fit() {
    let clock = Clock::new();
    let ca = authority(&clock);
    let long = format!("{}.ns.serviceaccount.identity.linkerd.cluster.local", "a".repeat(63));
    let mut serials = HashSet::new();
    for _ in 0..64 {
        let (issued, _) = ca.issue_own(&id(&long)).unwrap();
        let (_, leaf) = x509_parser::parse_x509_certificate(&issued.leaf).unwrap();
        assert!(leaf.raw_serial().len() <= 17);
        serials.insert(leaf.raw_serial().to_vec());
    }
    assert_eq!(serials.len(), 64);
    assert!(serials.iter().any(|serial| serial.len() >= 16));
}

/// Files of an authority maintained elsewhere: anchor, intermediate issuer, and a second, unrelated anchor.
struct Outside {
    directory: Directory,
    files: IssuerFiles,
    root: Ca,
}

impl Outside {
    fn new() -> Self {
        let directory = Directory::new();
        let root = Ca::root("outside root");
        let issuer = root.intermediate(ca_params("outside issuer"));
        let anchors = [Ca::root("unrelated").pem, root.pem.clone()].concat();
        let files = IssuerFiles {
            certificates: directory.file("tls.crt", &issuer.pem, 0o644),
            key: directory.file("tls.key", &issuer.key_pem, 0o640),
            anchors: directory.file("ca-bundle.crt", &anchors, 0o644),
        };
        Self { directory, files, root }
    }

    fn load(&self, clock: &Clock) -> Result<Authority, AuthorityError> {
        Authority::load(self.files.clone(), Lifetimes::default(), clock.provider())
    }
}

#[test]
fn an_outside_issuer_sends_its_chain_without_the_anchors() {
    let (clock, outside) = (Clock::new(), Outside::new());
    let ca = outside.load(&clock).unwrap();
    assert_eq!(ca.anchors().outlines().len(), 2);
    let (issued, _) = ca.issue_own(&id("web.default")).unwrap();
    assert_eq!(issued.intermediates.len(), 1);
    assert!(store("web.default", &ca, &clock).holds_valid());
    let roles: Vec<_> = ca.expiries().into_iter().map(|e| (e.role, e.subject)).collect();
    let expected = [
        (Role::Anchor, "CN=unrelated"),
        (Role::Anchor, "CN=outside root"),
        (Role::Issuer, "CN=outside issuer"),
    ];
    assert_eq!(roles, expected.map(|(role, subject)| (role, subject.to_owned())));
}

#[test]
fn an_issuer_that_cannot_serve_is_refused_with_the_reason() {
    let clock = Clock::new();
    let outside = Outside::new();
    let lone = Ca::root("elsewhere");
    let mut no_ca = ca_params("no ca");
    no_ca.is_ca = IsCa::ExplicitNoCa;
    let mut no_sign = ca_params("no sign");
    no_sign.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let mut expired = ca_params("expired");
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let mut shallow = ca_params("shallow");
    shallow.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let shallow = outside.root.intermediate(shallow);
    let deep = shallow.intermediate(ca_params("too deep"));
    for (certificates, key, part) in [
        (lone.pem.clone(), &lone.key_pem, "does not lead to our trust anchors"),
        (outside.root.pem.clone(), &lone.key_pem, "not the first certificate's"),
        (String::new(), &lone.key_pem, "no certificate in it"),
        (lone.pem.clone(), &String::new(), "no private key"),
        (deep.pem.clone() + &shallow.pem, &deep.key_pem, "does not lead"),
    ] {
        outside.directory.file("tls.crt", &certificates, 0o644);
        outside.directory.file("tls.key", key, 0o600);
        let error = outside.load(&clock).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(error.class(), Class::Unavailable);
    }
    for (params, part) in [(no_ca, "not a CA's"), (no_sign, "may not sign"), (expired, "expired")] {
        let issuer = outside.root.intermediate(params);
        outside.directory.file("tls.crt", &issuer.pem, 0o644);
        outside.directory.file("tls.key", &issuer.key_pem, 0o600);
        let error = outside.load(&clock).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    set_mode(&outside.files.key, 0o644);
    let error = outside.load(&clock).unwrap_err();
    assert!(matches!(error, AuthorityError::File(FileError::Exposed { .. })), "{error}");
}

#[test]
fn new_files_are_taken_over_on_reload_and_bad_ones_change_nothing() {
    let (clock, outside) = (Clock::new(), Outside::new());
    let ca = outside.load(&clock).unwrap();
    let before = ca.anchors().to_pem().to_owned();

    outside.directory.file("tls.crt", "garbage", 0o644);
    assert!(ca.reload().is_err());
    assert_eq!(ca.anchors().to_pem(), before);
    assert!(ca.issue_own(&id("web.default")).is_ok());

    let next = outside.root.intermediate(ca_params("next issuer"));
    outside.directory.file("tls.crt", &next.pem, 0o644);
    outside.directory.file("tls.key", &next.key_pem, 0o600);
    outside.directory.file("ca-bundle.crt", &outside.root.pem, 0o644);
    ca.reload().unwrap();
    assert_eq!(ca.anchors().to_pem(), outside.root.pem);
    assert!(ca.expiries().iter().any(|expiry| expiry.subject == "CN=next issuer"));
    assert!(store("web.default", &ca, &clock).holds_valid());
}
