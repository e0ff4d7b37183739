//! Bearer tokens: whom they name, and every way in which they must not be believed.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use countersign_domain::PrincipalKind;
use countersign_gate::identity::{Authenticator, ClaimNames, IssuerConfig, KeySource};
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

#[derive(Clone)]
struct Source {
    document: Arc<Mutex<Value>>,
    fetches: Arc<AtomicU32>,
}

#[async_trait]
impl KeySource for Source {
    async fn fetch(&self) -> Result<Vec<u8>, String> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        Ok(self.document.lock().map_err(|e| e.to_string())?.to_string().into_bytes())
    }
}

fn authenticator(keys: &[&Key]) -> (Authenticator, Source) {
    let document = json!({"keys": keys.iter().map(|k| k.jwk.clone()).collect::<Vec<_>>()});
    let source = Source { document: Arc::new(Mutex::new(document)), fetches: Arc::default() };
    let config = IssuerConfig {
        issuer: ISSUER.into(),
        audience: "countersign".into(),
        claims: ClaimNames::default(),
        default_workspace: Some("default".parse().expect("a name")),
        development: false,
        keys: Box::new(source.clone()),
    };
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
    let header = Header { kid: Some(key.id.into()), ..Header::new(Algorithm::ES256) };
    encode(&header, claims, &EncodingKey::from_ec_der(&key.pkcs8)).expect("signs")
}

async fn cause(authenticator: &Authenticator, token: &str) -> String {
    let refusal = authenticator.authenticate(token, seconds() * 1000).await.expect_err("refused");
    assert_eq!(refusal.kind.slug(), "unauthenticated");
    refusal.extra["cause"].as_str().expect("a cause").to_owned()
}

#[tokio::test]
async fn a_good_token_names_who_acts_for_whom() {
    let key = key("k1");
    let (authenticator, _) = authenticator(&[&key]);
    let plain = authenticator.authenticate(&signed(&key, &claims()), seconds() * 1000).await.expect("accepted");
    assert_eq!((plain.kind, plain.id.as_str(), plain.on_behalf_of.as_deref()), (PrincipalKind::Agent, "robot", None));
    assert!(plain.roles.contains("teller") && plain.scopes.contains("b"));
    let acting = with(json!({"sub": "ada", "act": {"sub": "helper"}, "tenant": "ward-7"}));
    let acting = authenticator.authenticate(&signed(&key, &acting), seconds() * 1000).await.expect("accepted");
    assert_eq!((acting.id.as_str(), acting.on_behalf_of.as_deref()), ("helper", Some("ada")));
    assert_eq!(acting.workspace.as_str(), "ward-7");
}

#[tokio::test]
async fn what_is_not_believed() {
    let (good, stranger) = (key("k1"), key("k1"));
    let (authenticator, _) = authenticator(&[&good]);
    let cases = [
        (signed(&good, &with(json!({"aud": "someone-else"}))), "audience"),
        (signed(&good, &with(json!({"aud": null}))), "audience"),
        (signed(&good, &with(json!({"exp": seconds() - 120}))), "expired"),
        (signed(&good, &with(json!({"exp": null}))), "claims"),
        (signed(&good, &with(json!({"nbf": seconds() + 600}))), "not-yet-valid"),
        (signed(&good, &with(json!({"iss": "https://evil.example"}))), "issuer"),
        (signed(&good, &with(json!({"sub": null}))), "claims"),
        (signed(&good, &with(json!({"tenant": "_node"}))), "claims"),
        (signed(&good, &with(json!({"tenant": "No Such"}))), "claims"),
        (signed(&good, &with(json!({"kind": "node"}))), "claims"),
        (signed(&good, &with(json!({"act": "helper"}))), "claims"),
        (signed(&stranger, &claims()), "signature"),
        ("not.a.token".to_owned(), "malformed"),
        ("x".repeat(20_000), "malformed"),
    ];
    for (token, expected) in cases {
        assert_eq!(cause(&authenticator, &token).await, expected);
    }
}

#[tokio::test]
async fn algorithms_come_from_the_key_not_from_the_token() {
    let key = key("k1");
    let (authenticator, _) = authenticator(&[&key]);
    let payload = B64.encode(claims().to_string());
    for alg in ["none", "None", "nOnE"] {
        let header = B64.encode(json!({"alg": alg, "kid": "k1"}).to_string());
        assert_eq!(cause(&authenticator, &format!("{header}.{payload}.")).await, "algorithm");
    }
    // The classic confusion: the public key used as an HMAC secret.
    let public = key.jwk["x"].as_str().expect("x");
    let header = Header { kid: Some("k1".into()), ..Header::new(Algorithm::HS256) };
    let token = encode(&header, &claims(), &EncodingKey::from_secret(public.as_bytes())).expect("signs");
    assert_eq!(cause(&authenticator, &token).await, "algorithm");
}

#[tokio::test]
async fn new_keys_are_found_and_strangers_do_not_make_us_ask_again_and_again() {
    let (old, new, unknown) = (key("k1"), key("k2"), key("k3"));
    let (authenticator, source) = authenticator(&[&old]);
    for _ in 0..50 {
        assert_eq!(cause(&authenticator, &signed(&unknown, &claims())).await, "key");
    }
    assert_eq!(source.fetches.load(Ordering::Relaxed), 1, "one fetch for fifty unknown keys");
    *source.document.lock().expect("lock") = json!({"keys": [{"kty": "odd"}, new.jwk]});
    // Within the pause the new key is not known yet; that is the price of not being a lever against the issuer.
    assert_eq!(cause(&authenticator, &signed(&new, &claims())).await, "key");
    authenticator.authenticate(&signed(&old, &claims()), seconds() * 1000).await.expect("the old key is still known");
}
