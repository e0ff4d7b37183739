//! Bearer tokens: whom they name, and every way in which they must not be believed.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use countersign_domain::PrincipalKind;
use countersign_domain::{Principal, Refusal};
use countersign_gate::identity::{
    Authenticator, ClaimRules, IssuerConfig, KeyPolicy, KeySource, Presented, TokenType, Workspaces,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

const ISSUER: &str = "https://idp.example";

struct Key {
    id: &'static str,
    pkcs8: Vec<u8>,
    jwk: Value,
}

fn key(id: &'static str) -> Key {
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &aws_lc_rs::rand::SystemRandom::new())
        .expect("a key");
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).expect("a key");
    let point = pair.public_key().as_ref().to_vec();
    let jwk = json!({"kty": "EC", "crv": "P-256", "kid": id, "use": "sig", "alg": "ES256",
        "x": B64.encode(&point[1..33]), "y": B64.encode(&point[33..65])});
    Key { id, pkcs8: pkcs8.as_ref().to_vec(), jwk }
}

/// An issuer's JWKS endpoint: what it answers now, and how often it was asked. `None`: it is down.
#[derive(Clone, Default)]
struct Source {
    document: Arc<Mutex<Option<Value>>>,
    fetches: Arc<AtomicU32>,
}

impl Source {
    fn publish(&self, keys: &[&Key]) {
        let keys: Vec<&Value> = keys.iter().map(|key| &key.jwk).collect();
        *self.document.lock().expect("lock") = Some(json!({ "keys": keys }));
    }
    fn fall_silent(&self) {
        *self.document.lock().expect("lock") = None;
    }
    fn asked(&self) -> u32 {
        self.fetches.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl KeySource for Source {
    async fn fetch(&self) -> Result<Vec<u8>, String> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        let document = self.document.lock().map_err(|e| e.to_string())?;
        document.as_ref().map(|document| document.to_string().into_bytes()).ok_or_else(|| "down".to_owned())
    }
}

fn issuer(name: &str, keys: &[&Key]) -> (IssuerConfig, Source) {
    let source = Source::default();
    source.publish(keys);
    let claims = ClaimRules { workspaces: Workspaces::Any, ..ClaimRules::default() };
    (IssuerConfig { claims, ..IssuerConfig::new(name, "countersign", Box::new(source.clone())) }, source)
}

fn authenticator(keys: &[&Key]) -> (Authenticator, Source) {
    let (config, source) = issuer(ISSUER, keys);
    (Authenticator::new(vec![config]), source)
}

fn seconds() -> u64 {
    countersign_ledger::handle::system_clock() / 1000
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": "countersign", "sub": "robot", "exp": seconds() + 600, "roles": ["teller"], "scope": "a b"})
}

fn with(changes: Value) -> Value {
    let mut all = claims();
    for (name, value) in changes.as_object().expect("an object") {
        all[name] = value.clone();
    }
    all.as_object_mut().expect("an object").retain(|_, v| !v.is_null());
    all
}

fn signed(key: &Key, claims: &Value) -> String {
    signed_as(key, &json!({"alg": "ES256", "kid": key.id}), claims)
}

/// Any header over a correct ES256 signature.
fn signed_as(key: &Key, header: &Value, claims: &Value) -> String {
    let input = format!("{}.{}", B64.encode(header.to_string()), B64.encode(claims.to_string()));
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.pkcs8).expect("a key");
    let signature = pair.sign(&aws_lc_rs::rand::SystemRandom::new(), input.as_bytes()).expect("signs");
    format!("{input}.{}", B64.encode(signature))
}

async fn ask(authenticator: &Authenticator, token: &str) -> Result<Arc<Principal>, Refusal> {
    authenticator.authenticate(&Presented { bearer: token, ..Presented::default() }, seconds() * 1000).await
}

fn cause_in(refusal: &Refusal) -> &str {
    refusal.extra["cause"].as_str().expect("a cause")
}

async fn cause(authenticator: &Authenticator, token: &str) -> String {
    let refusal = ask(authenticator, token).await.expect_err("refused");
    assert_eq!(refusal.kind.slug(), "unauthenticated");
    cause_in(&refusal).to_owned()
}

#[tokio::test]
async fn a_good_token_names_who_acts_for_whom() {
    let key = key("k1");
    let (authenticator, _) = authenticator(&[&key]);
    let plain = ask(&authenticator, &signed(&key, &claims())).await.expect("accepted");
    assert_eq!((plain.kind, plain.id.as_str(), plain.on_behalf_of.as_deref()), (PrincipalKind::Agent, "robot", None));
    assert!(plain.roles.contains("teller") && plain.scopes.contains("b"));
    let acting = with(json!({"sub": "ada", "act": {"sub": "helper"}, "tenant": "ward-7"}));
    let acting = ask(&authenticator, &signed(&key, &acting)).await.expect("accepted");
    assert_eq!((acting.id.as_str(), acting.on_behalf_of.as_deref()), ("helper", Some("ada")));
    assert_eq!(acting.workspace.as_str(), "ward-7");
}

#[tokio::test]
async fn what_is_not_believed() {
    let (good, stranger) = (key("k1"), key("k1"));
    let (authenticator, _) = authenticator(&[&good]);
    let cases = [
        (with(json!({"aud": "someone-else"})), "audience"),
        (with(json!({"aud": null})), "audience"),
        (with(json!({"aud": []})), "audience"),
        (with(json!({"aud": ["someone-else", 7]})), "audience"),
        (with(json!({"aud": {"0": "countersign"}})), "audience"),
        (with(json!({"exp": seconds() - 120})), "expired"),
        (with(json!({"exp": null})), "claims"),
        (with(json!({"exp": "never"})), "claims"),
        (with(json!({"exp": -1})), "claims"),
        (with(json!({"exp": 1e300})), "claims"),
        (with(json!({"nbf": seconds() + 600})), "not-yet-valid"),
        (with(json!({"iat": seconds() + 600})), "not-yet-valid"),
        (with(json!({"iss": "https://evil.example"})), "issuer"),
        (with(json!({"iss": null})), "claims"),
        (with(json!({"iss": [ISSUER]})), "claims"),
        (with(json!({"sub": null})), "claims"),
        (with(json!({"sub": "a\u{0}b"})), "claims"),
        (with(json!({"tenant": "_node"})), "workspace"),
        (with(json!({"tenant": "No Such"})), "claims"),
        (with(json!({"kind": "node"})), "claims"),
        (with(json!({"act": "helper"})), "claims"),
        (with(json!({"nonce": "n"})), "token-type"),
        (with(json!({"typ": "ID"})), "token-type"),
        (with(json!({"typ": "Refresh"})), "token-type"),
        (with(json!({"cnf": {"jkt": "x"}})), "binding"),
        (with(json!({"cnf": {"x5t#S256": "short"}})), "claims"),
    ];
    for (claims, expected) in cases {
        assert_eq!(cause(&authenticator, &signed(&good, &claims)).await, expected, "{claims}");
    }
    assert_eq!(cause(&authenticator, &signed(&stranger, &claims())).await, "signature");
    for token in ["not.a.token", "", "..", "a.b.c.d", &"x".repeat(20_000)] {
        assert_eq!(cause(&authenticator, token).await, "malformed");
    }
    let several =
        signed(&good, &with(json!({"aud": ["other", "countersign"], "exp": seconds() + 600, "nbf": seconds() + 5})));
    ask(&authenticator, &several).await.expect("one of its audiences is ours, and clocks may differ a little");
}

#[tokio::test]
async fn algorithms_come_from_the_key_not_from_the_token() {
    let key = key("k1");
    let (mut config, source) = issuer(ISSUER, &[&key]);
    let strict = Authenticator::new(vec![config]);
    let payload = B64.encode(claims().to_string());
    for alg in ["none", "None", "nOnE", "HS256", "ES512", ""] {
        let header = B64.encode(json!({"alg": alg, "kid": "k1"}).to_string());
        assert_eq!(cause(&strict, &format!("{header}.{payload}.")).await, "algorithm");
    }
    // The classic confusion: the public key used as an HMAC secret.
    let public = key.jwk["x"].as_str().expect("x");
    let header = Header { kid: Some("k1".into()), ..Header::new(Algorithm::HS256) };
    let token = encode(&header, &claims(), &EncodingKey::from_secret(public.as_bytes())).expect("signs");
    assert_eq!(cause(&strict, &token).await, "algorithm");
    // A key of that name, for another algorithm than the token says.
    assert_eq!(cause(&strict, &signed_as(&key, &json!({"alg": "RS256", "kid": "k1"}), &claims())).await, "algorithm");
    config = IssuerConfig::new(ISSUER, "countersign", Box::new(source));
    config.algorithms = vec![Algorithm::EdDSA];
    assert_eq!(cause(&Authenticator::new(vec![config]), &signed(&key, &claims())).await, "algorithm");
}

#[tokio::test]
async fn a_header_brings_no_keys_and_a_kid_is_only_compared() {
    let (good, evil) = (key("k1"), key("evil"));
    let (authenticator, source) = authenticator(&[&good]);
    ask(&authenticator, &signed(&good, &claims())).await.expect("the twin");
    for smuggled in [
        json!({"jwk": evil.jwk}),
        json!({"jku": "https://evil.example/jwks"}),
        json!({"x5u": "http://127.0.0.1/"}),
        json!({"x5c": ["AA=="]}),
    ] {
        let mut header = json!({"alg": "ES256", "kid": "k1"});
        header.as_object_mut().expect("an object").extend(smuggled.as_object().expect("an object").clone());
        assert_eq!(cause(&authenticator, &signed_as(&evil, &header, &claims())).await, "signature", "{header}");
        header["kid"] = json!("evil");
        assert_eq!(cause(&authenticator, &signed_as(&evil, &header, &claims())).await, "key", "{header}");
    }
    for kid in [
        "../../k1",
        "/dev/null",
        "https://evil.example/k1",
        "k1\u{0}",
        "' OR '1'='1",
        "K1",
        "k1 ",
        "",
        &"k".repeat(5000),
    ] {
        assert_eq!(
            cause(&authenticator, &signed_as(&good, &json!({"alg": "ES256", "kid": kid}), &claims())).await,
            "key",
            "{kid:?}"
        );
    }
    for header in [
        json!({"alg": "ES256", "kid": 1}),
        json!({"alg": "ES256", "kid": "k1", "crit": ["exp"]}),
        json!({"alg": "ES256", "kid": "k1", "b64": false}),
    ] {
        assert_eq!(cause(&authenticator, &signed_as(&good, &header, &claims())).await, "malformed", "{header}");
    }
    assert_eq!(source.asked(), 1, "none of this is a reason to ask the issuer again so soon");
}

#[tokio::test]
async fn tokens_are_what_they_call_themselves() {
    let key = key("k1");
    let of = |types: &[TokenType]| {
        let (config, _) = issuer(ISSUER, &[&key]);
        Authenticator::new(vec![IssuerConfig { token_types: types.iter().copied().collect(), ..config }])
    };
    let typed = |typ: &str, claims: &Value| signed_as(&key, &json!({"alg": "ES256", "kid": "k1", "typ": typ}), claims);
    let usual = of(&[TokenType::Access, TokenType::Plain]);
    for typ in ["at+jwt", "AT+JWT", "application/at+jwt", "JWT"] {
        ask(&usual, &typed(typ, &claims())).await.unwrap_or_else(|e| panic!("{typ}: {e}"));
    }
    for typ in ["logout+jwt", "dpop+jwt", "secevent+jwt", "at+jwt2", ""] {
        assert_eq!(cause(&usual, &typed(typ, &claims())).await, "token-type", "{typ}");
    }
    let id_token = with(json!({"nonce": "n", "at_hash": "h"}));
    assert_eq!(cause(&usual, &typed("JWT", &id_token)).await, "token-type");
    ask(&of(&[TokenType::Id]), &typed("JWT", &id_token)).await.expect("asked for");
    assert_eq!(cause(&of(&[TokenType::Access]), &typed("JWT", &claims())).await, "token-type");
}

#[tokio::test]
async fn a_token_for_one_resource_is_not_one_for_another() {
    let key = key("k1");
    let (config, _) = issuer(ISSUER, &[&key]);
    let authenticator = Authenticator::new(vec![config]).for_resource(Some("https://gate.example".into()));
    let at = async |audience: &str, resource: &'static str| {
        let token = signed(&key, &with(json!({ "aud": audience })));
        let presented = Presented { bearer: &token, resource, ..Presented::default() };
        authenticator.authenticate(&presented, seconds() * 1000).await.is_ok()
    };
    assert!(at("https://gate.example", "/mcp/ads").await && at("https://gate.example/mcp", "/mcp/ads").await);
    assert!(at("https://gate.example/mcp/ads", "/mcp/ads").await);
    assert!(!at("https://gate.example/mcp/ads", "/mcp/bank").await, "remembered or not, each request is checked");
    assert!(!at("https://gate.example/mcp/ads", "/admin/freeze").await);
    assert!(!at("https://gate.example.evil", "/mcp").await);
}

#[tokio::test]
async fn a_token_bound_to_a_certificate_needs_that_certificate() {
    let key = key("k1");
    let (authenticator, _) = authenticator(&[&key]);
    let token = signed(&key, &with(json!({"cnf": {"x5t#S256": B64.encode([7_u8; 32])}})));
    let with_certificate = async |certificate| {
        let presented = Presented { bearer: &token, certificate, ..Presented::default() };
        authenticator.authenticate(&presented, seconds() * 1000).await
    };
    with_certificate(Some([7; 32])).await.expect("its own");
    for stolen in [None, Some([8; 32])] {
        let refusal = with_certificate(stolen).await.expect_err("refused, though remembered");
        assert_eq!(cause_in(&refusal), "binding");
    }
    let free = signed(&key, &claims());
    let presented = Presented { bearer: &free, certificate: Some([8; 32]), ..Presented::default() };
    authenticator.authenticate(&presented, seconds() * 1000).await.expect("an unbound token may come with any");
}

#[tokio::test]
async fn one_issuer_cannot_speak_for_another() {
    let (ours, theirs) = (key("k1"), key("k1"));
    let (mut first, _) = issuer(ISSUER, &[&ours]);
    first.claims.workspaces = Workspaces::Only(["ward-7".parse().expect("a name")].into());
    first.claims.default_workspace = None;
    let (mut second, _) = issuer("https://partner.example", &[&theirs]);
    second.claims = ClaimRules::default();
    let authenticator = Authenticator::new(vec![first, second]);
    let partner = |tenant: &str| {
        with(json!({"iss": "https://partner.example", "tenant": tenant, "roles": ["operator", "auditor", "teller"]}))
    };
    let honest = ask(&authenticator, &signed(&theirs, &partner("default"))).await.expect("its own workspace");
    assert_eq!(honest.roles.iter().collect::<Vec<_>>(), ["teller"], "the node's roles are not a partner's to give");
    assert_eq!(cause(&authenticator, &signed(&theirs, &partner("ward-7"))).await, "workspace");
    assert_eq!(cause(&authenticator, &signed(&theirs, &with(json!({"tenant": "ward-7"})))).await, "signature");
    assert_eq!(cause(&authenticator, &signed(&ours, &partner("default"))).await, "signature");
    assert_eq!(cause(&authenticator, &signed(&ours, &claims())).await, "claims", "no workspace, and no default");
}

fn short() -> KeyPolicy {
    let seconds = Duration::from_secs;
    KeyPolicy { ttl: seconds(600), stale: seconds(3600), grace: seconds(120), pause: seconds(30) }
}

fn rotating(keys: &[&Key]) -> (Authenticator, Source) {
    let (config, source) = issuer(ISSUER, keys);
    (Authenticator::new(vec![IssuerConfig { key_policy: short(), ..config }]), source)
}

async fn later(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

/// Lets what was started beside the calls come to its end.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn strangers_do_not_make_us_ask_again_and_again_and_new_keys_are_found() {
    let (old, new, unknown) = (key("k1"), key("k2"), key("k3"));
    let (authenticator, source) = rotating(&[&old]);
    for _ in 0..50 {
        assert_eq!(cause(&authenticator, &signed(&unknown, &claims())).await, "key");
    }
    assert_eq!(source.asked(), 1, "one question for fifty unknown keys");
    source.publish(&[&old, &new]);
    assert_eq!(cause(&authenticator, &signed(&new, &claims())).await, "key", "the price of not being a lever");
    later(31).await;
    ask(&authenticator, &signed(&new, &claims())).await.expect("found");
    ask(&authenticator, &signed(&old, &claims())).await.expect("still published");
    assert_eq!(source.asked(), 2);
    for _ in 0..1000 {
        ask(&authenticator, &signed(&new, &claims())).await.expect("known");
    }
    assert_eq!(source.asked(), 2, "a known key is no question at all");
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_key_is_believed_for_a_moment_and_its_remembered_tokens_with_it() {
    let (old, new) = (key("k1"), key("k2"));
    let (authenticator, source) = rotating(&[&old]);
    let token = signed(&old, &claims());
    ask(&authenticator, &token).await.expect("good");
    source.publish(&[&new]);
    later(601).await;
    ask(&authenticator, &token).await.expect("asked beside the call");
    settle().await;
    assert_eq!(source.asked(), 2);
    ask(&authenticator, &token).await.expect("within the grace");
    ask(&authenticator, &signed(&new, &claims())).await.expect("new");
    later(121).await;
    assert_eq!(cause(&authenticator, &token).await, "key", "remembered, and not believed any more");
    // The same name for another key: the old one is gone at once.
    let changed = key("k2");
    source.publish(&[&changed]);
    later(601).await;
    let _ = ask(&authenticator, &signed(&new, &claims())).await;
    settle().await;
    assert_eq!(cause(&authenticator, &signed(&new, &claims())).await, "signature");
    ask(&authenticator, &signed(&changed, &claims())).await.expect("the new one");
}

#[tokio::test(start_paused = true)]
async fn while_the_issuer_is_away_its_keys_go_on_for_a_while_and_no_longer() {
    let key = key("k1");
    let (authenticator, source) = rotating(&[&key]);
    let token = signed(&key, &claims());
    source.fall_silent();
    let refusal = ask(&authenticator, &token).await.expect_err("nothing is known of it yet");
    assert_eq!((refusal.kind.slug(), cause_in(&refusal)), ("unavailable", "issuer-away"));
    source.publish(&[&key]);
    later(31).await;
    ask(&authenticator, &token).await.expect("back");
    source.fall_silent();
    later(4000).await;
    ask(&authenticator, &token).await.expect("stale, but within bounds");
    settle().await;
    let asked = source.asked();
    for _ in 0..100 {
        ask(&authenticator, &token).await.expect("stale");
    }
    settle().await;
    assert_eq!(source.asked(), asked, "nor does an issuer that is away get a question for each call");
    later(300).await;
    let refusal = ask(&authenticator, &token).await.expect_err("too old");
    assert_eq!(
        (refusal.kind.slug(), cause_in(&refusal), refusal.retry_after),
        ("unavailable", "issuer-away", Some(30))
    );
    *source.document.lock().expect("lock") = Some(json!({"keys": [{"kty": "RSA", "d": "private"}]}));
    later(31).await;
    assert!(ask(&authenticator, &token).await.is_err(), "a poisoned document replaces nothing");
    source.publish(&[&key]);
    later(31).await;
    ask(&authenticator, &token).await.expect("and back again");
    source.fall_silent();
    later(4300).await;
    assert!(ask(&authenticator, &token).await.is_err());
    let new = self::key("k2");
    source.publish(&[&new]);
    later(31).await;
    ask(&authenticator, &signed(&new, &claims())).await.expect("back with another key");
    assert_eq!(cause(&authenticator, &token).await, "key", "no grace for what was not believed any more");
}
