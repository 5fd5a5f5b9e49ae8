use crate::world::*;
use std::net::IpAddr;
use std::time::Duration;
use weft_identity::authority::Class;
use weft_identity::join::JoinFile;
use weft_identity::private::FileError;
use weft_identity::token::{FILE, Grant, Presented, Token, TokenKey, TokenRefusal, Uses, Validator};
use weft_model::identity::Id;

struct World {
    clock: Clock,
    directory: Directory,
    validator: Validator,
    web: Id,
}

impl World {
    fn new() -> Self {
        let directory = Directory::new();
        let validator = Validator::open(&directory.path().join("state")).unwrap();
        World { clock: Clock::new(), validator, directory, web: id("web.default") }
    }

    fn grant(&self) -> Grant {
        Grant { identity: self.web.clone(), lifetime: DAY, uses: Uses::Unlimited, networks: vec![] }
    }

    fn sign(&self, grant: &Grant) -> Token {
        self.validator.key().sign(grant, self.clock.now()).unwrap()
    }

    fn presented(&self) -> Presented<'_> {
        Presented { identity: &self.web, peer: None, now: self.clock.now() }
    }

    async fn redeem(&self, token: &Token) -> Result<(), TokenRefusal> {
        self.validator.redeem(token.reveal(), &self.presented()).await.map(|_| ())
    }
}

#[tokio::test]
async fn a_token_allows_what_was_granted() {
    let world = World::new();
    let networks = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
    let token = world.sign(&Grant { networks: networks.clone(), ..world.grant() });
    let at = Presented { peer: Some("10.1.2.3".parse().unwrap()), ..world.presented() };
    let claims = world.validator.redeem(token.reveal(), &at).await.unwrap();
    assert_eq!(
        (claims.identity, claims.networks, claims.uses),
        (world.web.clone(), networks, Uses::Unlimited)
    );
    assert_eq!((claims.issued, claims.expires), (world.clock.now(), world.clock.now() + DAY));
    assert_eq!(claims.id.len(), 32);
    let with_newline = [token.reveal(), b"\n"].concat();
    assert!(world.validator.redeem(&with_newline, &at).await.is_ok());
}

#[tokio::test]
async fn an_expired_token_is_refused_from_its_last_second_on() {
    let world = World::new();
    let token = world.sign(&world.grant());
    world.clock.forward(DAY - Duration::from_secs(1));
    world.redeem(&token).await.unwrap();
    world.clock.forward(Duration::from_secs(1));
    let refusal = world.redeem(&token).await.unwrap_err();
    assert!(matches!(refusal, TokenRefusal::Expired(Duration::ZERO)), "{refusal}");
    assert_eq!(refusal.class(), Class::FailedPrecondition);
}

#[tokio::test]
async fn a_token_from_the_future_is_refused_beyond_a_minute() {
    let world = World::new();
    let token = world.sign(&world.grant());
    world.clock.back(Duration::from_secs(60));
    world.redeem(&token).await.unwrap();
    world.clock.back(Duration::from_secs(1));
    assert!(matches!(world.redeem(&token).await, Err(TokenRefusal::NotYetIssued(_))));
}

#[tokio::test]
async fn a_token_of_another_control_plane_is_refused() {
    let (world, other) = (World::new(), World::new());
    let refusal = world.redeem(&other.sign(&other.grant())).await.unwrap_err();
    assert!(matches!(refusal, TokenRefusal::ForeignKey), "{refusal}");
}

#[tokio::test]
async fn a_token_for_another_identity_is_refused_and_not_burnt() {
    let world = World::new();
    let token = world.sign(&Grant { uses: Uses::Once, ..world.grant() });
    let other = id("db.default");
    let at = Presented { identity: &other, ..world.presented() };
    let refusal = world.validator.redeem(token.reveal(), &at).await.unwrap_err();
    assert_eq!(refusal.to_string(), "the token is for `web.default`, not for `db.default`");
    world.redeem(&token).await.unwrap();
}

#[tokio::test]
async fn a_token_bound_to_networks_is_refused_elsewhere() {
    let world = World::new();
    let token = world.sign(&Grant { networks: vec!["10.0.0.0/8".parse().unwrap()], ..world.grant() });
    for (peer, allowed) in [
        (Some("10.255.0.1"), true),
        (Some("::ffff:10.0.0.1"), true),
        (Some("11.0.0.1"), false),
        (Some("::1"), false),
        (None, false),
    ] {
        let peer: Option<IpAddr> = peer.map(|ip| ip.parse().unwrap());
        let outcome = world.validator.redeem(token.reveal(), &Presented { peer, ..world.presented() }).await;
        match outcome {
            Ok(_) => assert!(allowed, "{peer:?}"),
            Err(TokenRefusal::OutsideNetworks(ip)) => assert!(!allowed && ip == peer),
            Err(other) => panic!("{other}"),
        }
    }
}

/// A token of the world's own key with these claims.
fn forged(world: &World, header: &jsonwebtoken::Header, claims: &serde_json::Value) -> Token {
    let pem = std::fs::read(world.directory.path().join("state").join(FILE)).unwrap();
    let key = jsonwebtoken::EncodingKey::from_ec_pem(&pem).unwrap();
    Token::from(jsonwebtoken::encode(header, claims, &key).unwrap().into_bytes())
}

#[tokio::test]
async fn the_audience_must_be_identity() {
    let world = World::new();
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
    let claims = |aud: serde_json::Value| serde_json::json!({ "sub": "web.default", "aud": aud, "iat": START, "exp": START + 60, "jti": "x-1" });
    world.redeem(&forged(&world, &header, &claims("identity.l5d.io".into()))).await.unwrap();
    world.redeem(&forged(&world, &header, &claims(vec!["a", "identity.l5d.io"].into()))).await.unwrap();
    for aud in ["kubernetes".into(), vec!["a", "b"].into(), "".into()] {
        let refusal = world.redeem(&forged(&world, &header, &claims(aud))).await.unwrap_err();
        assert!(matches!(refusal, TokenRefusal::WrongAudience), "{refusal}");
    }
}

#[tokio::test]
async fn malformed_tokens_are_refused_without_quoting_them() {
    let world = World::new();
    let token = world.sign(&world.grant());
    let text = std::str::from_utf8(token.reveal()).unwrap().to_owned();
    let parts: Vec<_> = text.split('.').collect();
    let none = "eyJhbGciOiJub25lIn0"; // {"alg":"none"}
    let hs256 = "eyJhbGciOiJIUzI1NiJ9"; // {"alg":"HS256"}
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
    let odd = |claims: serde_json::Value| forged(&world, &header, &claims).reveal().to_vec();
    let base = |sub: &str, jti: &str, exp: u64| {
        odd(serde_json::json!({"sub": sub, "aud": "identity.l5d.io", "iat": START, "exp": exp, "jti": jti}))
    };
    for bad in [
        vec![],
        b"   ".to_vec(),
        b"secret".to_vec(),
        vec![0xff; 100],
        vec![b'a'; 20_000],
        format!("{}.{}", parts[0], parts[1]).into_bytes(),
        format!("{none}.{}.", parts[1]).into_bytes(),
        format!("{hs256}.{}.{}", parts[1], parts[2]).into_bytes(),
        odd(serde_json::json!({"sub": "web.default"})),
        base("no identity!", "x", START + 60),
        base("web.default", "two words", START + 60),
        base("web.default", "", START + 60),
        base("web.default", "x", u64::MAX),
    ] {
        let refusal = world.validator.redeem(&bad, &world.presented()).await.unwrap_err();
        assert!(matches!(refusal, TokenRefusal::Malformed(_)), "{refusal}");
        assert_eq!(refusal.class(), Class::InvalidArgument);
        assert!(!refusal.to_string().contains("secret"));
    }
    let changed = format!("{}.{}x.{}", parts[0], parts[1], parts[2]);
    assert!(world.validator.redeem(changed.as_bytes(), &world.presented()).await.is_err());
}

#[tokio::test]
async fn a_token_for_one_use_is_burnt_by_it_also_across_restarts() {
    let world = World::new();
    let once = Grant { uses: Uses::Once, ..world.grant() };
    let (first, second) = (world.sign(&once), world.sign(&once));
    world.redeem(&first).await.unwrap();
    assert!(matches!(world.redeem(&first).await, Err(TokenRefusal::Spent)));

    let restarted = Validator::open(&world.directory.path().join("state")).unwrap();
    let again = restarted.redeem(first.reveal(), &world.presented()).await.unwrap_err();
    assert!(matches!(again, TokenRefusal::Spent), "{again}");
    restarted.redeem(second.reveal(), &world.presented()).await.unwrap();
    assert!(matches!(world.redeem(&second).await, Err(TokenRefusal::Spent)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_uses_at_once_one_succeeds() {
    let world = World::new();
    let token = world.sign(&Grant { uses: Uses::Once, ..world.grant() });
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..16 {
        let (validator, token) = (world.validator.clone(), token.clone());
        let other = Validator::open(&world.directory.path().join("state")).unwrap();
        let (web, now) = (world.web.clone(), world.clock.now());
        tasks.spawn(async move {
            let validator = if n % 2 == 0 { validator } else { other };
            validator.redeem(token.reveal(), &Presented { identity: &web, peer: None, now }).await.is_ok()
        });
    }
    assert_eq!(tasks.join_all().await.into_iter().filter(|&ok| ok).count(), 1);
}

#[tokio::test]
async fn the_ledger_forgets_expired_ids_survives_a_torn_line_and_refuses_when_damaged() {
    let world = World::new();
    let ledger = world.directory.path().join("state/spent-tokens");
    let once = Grant { uses: Uses::Once, ..world.grant() };
    let sign = || world.sign(&once);
    let first = sign();
    world.redeem(&first).await.unwrap();
    assert_eq!(mode(&ledger), 0o600);

    let mut text = std::fs::read_to_string(&ledger).unwrap();
    text.push_str("17900"); // the power failed while this was written
    std::fs::write(&ledger, &text).unwrap();
    world.redeem(&sign()).await.unwrap();
    assert!(matches!(world.redeem(&first).await, Err(TokenRefusal::Spent)));
    assert_eq!(std::fs::read_to_string(&ledger).unwrap().lines().count(), 2);

    let stale: String = (0..300).map(|n| format!("{} old{n}\n", START - 1)).collect();
    std::fs::write(&ledger, stale + &std::fs::read_to_string(&ledger).unwrap()).unwrap();
    world.redeem(&sign()).await.unwrap();
    assert_eq!(std::fs::read_to_string(&ledger).unwrap().lines().count(), 3);

    let whole = std::fs::read_to_string(&ledger).unwrap();
    std::fs::write(&ledger, format!("nonsense\n{whole}")).unwrap();
    let refusal = world.redeem(&sign()).await.unwrap_err();
    assert!(refusal.to_string().contains("line 1 is damaged"), "{refusal}");
    assert_eq!(refusal.class(), Class::Unavailable);

    let full: String = (0..50_000).map(|n| format!("{} id{n}\n", START + 9)).collect();
    std::fs::write(&ledger, full).unwrap();
    let refusal = world.redeem(&sign()).await.unwrap_err();
    assert!(matches!(refusal, TokenRefusal::Ledger(_)), "{refusal}");
    world.clock.forward(Duration::from_secs(10));
    world.redeem(&sign()).await.unwrap();
}

#[test]
fn the_signing_key_is_kept_private_and_never_overwritten() {
    let directory = Directory::new();
    let key = TokenKey::open(directory.path()).unwrap();
    let path = directory.path().join(FILE);
    assert_eq!(mode(&path), 0o600);
    assert_eq!(format!("{key:?}"), "TokenKey(hidden)");
    set_mode(&path, 0o644);
    assert!(matches!(TokenKey::open(directory.path()), Err(FileError::Exposed { .. })));
    set_mode(&path, 0o600);
    std::fs::write(&path, "nonsense").unwrap();
    assert!(TokenKey::open(directory.path()).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "nonsense");
}

#[test]
fn a_join_file_round_trips_and_keeps_its_secret() {
    let world = World::new();
    let path = world.directory.path().join("web.join");
    let file = JoinFile {
        trust_anchors: Ca::root("r").pem,
        control_address: "10.0.0.1:8086".into(),
        control_name: "control.linkerd".parse().unwrap(),
        identity: world.web.clone(),
        token: world.sign(&world.grant()),
    };
    file.write(&path).unwrap();
    assert_eq!(mode(&path), 0o600);
    let read = JoinFile::read(&path).unwrap();
    assert_eq!(read.token, file.token);
    assert_eq!((&read.trust_anchors, &read.control_address), (&file.trust_anchors, &file.control_address));
    assert_eq!((&read.control_name, &read.identity), (&file.control_name, &file.identity));
    let shown = format!("{read:?}");
    assert!(shown.contains("Token(hidden)") && !shown.contains("eyJ"), "{shown}");

    file.write(&path).unwrap();
    set_mode(&path, 0o644);
    assert!(matches!(JoinFile::read(&path), Err(FileError::Exposed { .. })));
    set_mode(&path, 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"identity\": \"", "\"identity\": \"!")).unwrap();
    assert!(JoinFile::read(&path).unwrap_err().to_string().contains("identity"));
    std::fs::write(&path, "{\"token\": 7}").unwrap();
    assert!(JoinFile::read(&path).unwrap_err().to_string().contains("not a join file (line 1"));
    let missing = JoinFile::read(&world.directory.path().join("none")).unwrap_err();
    assert!(missing.is_missing());
}
