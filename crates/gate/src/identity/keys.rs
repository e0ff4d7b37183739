//! An issuer's keys: fetched seldom, kept while the issuer is away, replaced when it rotates them.
//!
//! - A key set is good for [`KeyPolicy::ttl`]; then it is fetched again beside the calls. While the issuer is away the old set
//!   goes on for [`KeyPolicy::stale`] and no longer.
//! - An unknown `kid` makes us ask, at most once in [`KeyPolicy::pause`], whoever sends how many tokens.
//! - A key that the issuer withdraws is believed for [`KeyPolicy::grace`] more.
//! - A document that is too large, or holds a private key, is refused as a whole: the set before it stays.
//!
//! `kid` is compared and nothing else: it is never a path, a URL or a query. `jku`, `x5u`, `x5c` and `jwk` in a token's header
//! are not read.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::cause::Cause;

/// The largest JWKS document that is looked at, bytes.
pub const MAX_JWKS_BYTES: usize = 256 * 1024;
/// The most keys in one document.
pub const MAX_KEYS: usize = 100;
/// The longest `kid`.
const MAX_KID: usize = 512;
/// RSA moduli, bits: shorter ones are weak, longer ones make verifying a lever against us.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Where an issuer's keys come from. The network side lives with the composition root.
#[async_trait]
pub trait KeySource: Send + Sync {
    /// The issuer's current JWKS document.
    ///
    /// # Errors
    /// In words, for the log.
    async fn fetch(&self) -> Result<Vec<u8>, String>;
}

/// How long keys are believed, and how often the issuer is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyPolicy {
    /// How long a fetched set is good.
    pub ttl: Duration,
    /// How long past that it goes on while the issuer is away.
    pub stale: Duration,
    /// How long a withdrawn key is still believed.
    pub grace: Duration,
    /// The shortest time between two questions to the issuer.
    pub pause: Duration,
}

impl Default for KeyPolicy {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Self { ttl: minutes(10), stale: minutes(60), grace: minutes(2), pause: Duration::from_secs(30) }
    }
}

/// One key and the one algorithm that it is for (RFC 8725, section 3.1).
#[derive(Clone)]
struct Known {
    key: DecodingKey,
    /// The public parts, to tell a changed key under an old name.
    material: String,
    /// When it stops being believed; `None` while the issuer publishes it.
    until: Option<Instant>,
}

type Name = (Option<String>, Algorithm);

#[derive(Default)]
struct KeySet {
    keys: HashMap<Name, Known>,
    fetched: Option<Instant>,
    /// Grows with every change of the keys, so that tokens verified before are looked at again.
    generation: u64,
}

pub(crate) struct IssuerKeys {
    issuer: String,
    source: Box<dyn KeySource>,
    policy: KeyPolicy,
    set: ArcSwap<KeySet>,
    asked: Mutex<Option<Instant>>,
}

impl IssuerKeys {
    pub fn new(issuer: &str, source: Box<dyn KeySource>, policy: KeyPolicy) -> Arc<Self> {
        let issuer = issuer.to_owned();
        Arc::new(Self { issuer, source, policy, set: ArcSwap::default(), asked: Mutex::default() })
    }

    /// Which keys are known: a number that changes with them. `None` if they are too old to be believed.
    pub fn generation(&self) -> Option<u64> {
        if self.set.load().is_lapsing() {
            self.set.rcu(|set| if set.is_lapsing() { Arc::new(set.pruned()) } else { Arc::clone(set) });
        }
        let set = self.set.load();
        (set.fetched?.elapsed() <= self.policy.ttl + self.policy.stale).then_some(set.generation)
    }

    /// Asks the issuer beside the calls if the set is due.
    pub fn refresh_if_due(self: &Arc<Self>) {
        let due = self.set.load().fetched.is_some_and(|at| at.elapsed() > self.policy.ttl);
        // Whoever holds the lock asks already.
        if due && self.asked.try_lock().is_ok_and(|asked| self.may_ask(*asked)) {
            let keys = Arc::clone(self);
            tokio::spawn(async move { keys.ask().await });
        }
    }

    /// The key of this name for this algorithm, and the generation that it belongs to.
    pub async fn key(self: &Arc<Self>, kid: Option<&str>, algorithm: Algorithm) -> Result<(DecodingKey, u64), Cause> {
        if kid.is_some_and(|kid| kid.len() > MAX_KID) {
            return Err(Cause::Key);
        }
        let name = (kid.map(str::to_owned), algorithm);
        if let Ok(found) = self.look(&name) {
            self.refresh_if_due();
            return Ok(found);
        }
        self.ask().await;
        self.look(&name)
    }

    fn look(&self, name: &Name) -> Result<(DecodingKey, u64), Cause> {
        let set = self.set.load();
        let believed = set.fetched.is_some_and(|at| at.elapsed() <= self.policy.ttl + self.policy.stale);
        if !believed {
            return Err(Cause::KeysAway);
        }
        let known = set.keys.get(name).filter(|known| known.until.is_none_or(|until| Instant::now() < until));
        match known {
            Some(known) => Ok((known.key.clone(), set.generation)),
            // A key of that name for another algorithm: the token chose wrongly, the key did not.
            None if set.keys.keys().any(|(kid, _)| *kid == name.0) => Err(Cause::Algorithm),
            None => Err(Cause::Key),
        }
    }

    fn may_ask(&self, asked: Option<Instant>) -> bool {
        asked.is_none_or(|at| at.elapsed() >= self.policy.pause)
    }

    /// One question at a time; who comes while it is asked waits for its answer.
    async fn ask(&self) {
        let mut asked = self.asked.lock().await;
        if !self.may_ask(*asked) {
            return;
        }
        *asked = Some(Instant::now());
        let outcome = match self.source.fetch().await {
            Ok(document) => usable_keys(&document),
            Err(why) => Err(why),
        };
        match outcome {
            Ok(keys) => self.replace(keys),
            Err(why) => tracing::warn!(issuer = self.issuer, why, "no new keys of the issuer"),
        }
    }

    fn replace(&self, fresh: HashMap<Name, (DecodingKey, String)>) {
        let now = Instant::now();
        let before = self.set.load_full();
        let mut keys: HashMap<Name, Known> =
            fresh.into_iter().map(|(name, (key, material))| (name, Known { key, material, until: None })).collect();
        let same = keys.len() == before.keys.len()
            && keys.iter().all(|(name, new)| {
                before.keys.get(name).is_some_and(|old| old.until.is_none() && old.material == new.material)
            });
        // Keys of a set that was too old to be believed are not believed again because a new one came.
        let believed = before.fetched.is_some_and(|at| at.elapsed() <= self.policy.ttl + self.policy.stale);
        for (name, old) in before.keys.iter().filter(|_| believed) {
            // A withdrawn name lingers; a name whose key was replaced does not: two keys under one name are one too many.
            let until = old.until.unwrap_or(now + self.policy.grace);
            if !keys.contains_key(name) && now < until {
                keys.insert(name.clone(), Known { until: Some(until), ..old.clone() });
            }
        }
        let generation = before.generation + u64::from(!same);
        if !same {
            tracing::info!(issuer = self.issuer, keys = keys.len(), generation, "the issuer's keys changed");
        }
        self.set.store(Arc::new(KeySet { keys, fetched: Some(now), generation }));
    }
}

impl KeySet {
    /// Whether a withdrawn key has come to its end: what it signed must be looked at again.
    fn is_lapsing(&self) -> bool {
        self.keys.values().any(|known| known.until.is_some_and(|until| Instant::now() >= until))
    }

    fn pruned(&self) -> Self {
        let now = Instant::now();
        let kept = self.keys.iter().filter(|(_, known)| known.until.is_none_or(|until| now < until));
        let keys = kept.map(|(name, known)| (name.clone(), known.clone())).collect();
        Self { keys, fetched: self.fetched, generation: self.generation + 1 }
    }
}

/// The keys of a JWKS that can verify: public, asymmetric, for signatures, each with the algorithm that it is for.
pub(crate) fn usable_keys(document: &[u8]) -> Result<HashMap<Name, (DecodingKey, String)>, String> {
    if document.len() > MAX_JWKS_BYTES {
        return Err(format!("the JWKS has more than {MAX_JWKS_BYTES} bytes"));
    }
    let mut raw: Map<String, Value> = serde_json::from_slice(document).map_err(|e| format!("the JWKS: {e}"))?;
    let Some(Value::Array(jwks)) = raw.remove("keys") else { return Err("the JWKS has no array of keys".into()) };
    if jwks.len() > MAX_KEYS {
        return Err(format!("the JWKS has {} keys; at most {MAX_KEYS} are read", jwks.len()));
    }
    let mut found = HashMap::<Name, Option<(DecodingKey, String)>>::new();
    // One key that we cannot read must not hide the others, so each is read by itself.
    for jwk in jwks.iter().filter_map(Value::as_object) {
        if ["d", "p", "q", "dp", "dq", "qi", "oth"].iter().any(|part| jwk.contains_key(*part)) {
            return Err("the JWKS holds a private key: none of it can be believed".into());
        }
        let Some((name, key, material)) = usable(jwk) else { continue };
        let slot = found.entry(name).or_insert_with(|| Some((key, material.clone())));
        if slot.as_ref().is_some_and(|(_, known)| *known != material) {
            let kid = jwk.get("kid").and_then(Value::as_str);
            tracing::warn!(kid, "two keys under one kid: neither is used");
            *slot = None;
        }
    }
    Ok(found.into_iter().filter_map(|(name, key)| Some((name, key?))).collect())
}

fn usable(jwk: &Map<String, Value>) -> Option<(Name, DecodingKey, String)> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    if jwk.get("use").is_some_and(|wanted| wanted.as_str() != Some("sig")) {
        return None;
    }
    if let Some(operations) = jwk.get("key_ops")
        && !operations.as_array()?.iter().any(|operation| operation.as_str() == Some("verify"))
    {
        return None;
    }
    let kid = match jwk.get("kid") {
        None => None,
        Some(kid) => Some(kid.as_str().filter(|kid| kid.len() <= MAX_KID)?.to_owned()),
    };
    let bytes = |name: &str| text(name).and_then(|value| URL_SAFE_NO_PAD.decode(value).ok());
    let is = |name: &str, length: usize| bytes(name).is_some_and(|value| value.len() == length);
    let stated = text("alg");
    let fits = |name: &str| stated.is_none_or(|stated| stated == name);
    let (algorithm, key, parts) = match (text("kty")?, text("crv")) {
        ("EC", Some("P-256")) if fits("ES256") && is("x", 32) && is("y", 32) => {
            (Algorithm::ES256, DecodingKey::from_ec_components(text("x")?, text("y")?), ["x", "y"])
        }
        ("EC", Some("P-384")) if fits("ES384") && is("x", 48) && is("y", 48) => {
            (Algorithm::ES384, DecodingKey::from_ec_components(text("x")?, text("y")?), ["x", "y"])
        }
        ("OKP", Some("Ed25519")) if (fits("EdDSA") || fits("Ed25519")) && is("x", 32) => {
            (Algorithm::EdDSA, DecodingKey::from_ed_components(text("x")?), ["x", "x"])
        }
        ("RSA", None) => {
            let modulus = bytes("n")?;
            let bits = modulus.iter().skip_while(|byte| **byte == 0).count() * 8;
            let algorithm = rsa_algorithm(stated).filter(|_| RSA_BITS.contains(&bits))?;
            (algorithm, DecodingKey::from_rsa_components(text("n")?, text("e")?), ["n", "e"])
        }
        _ => return None,
    };
    let material = parts.map(|part| text(part).unwrap_or_default()).join(".");
    Some(((kid, algorithm), key.ok()?, material))
}

/// An RSA key that names no algorithm is for RS256, the one that everybody means.
fn rsa_algorithm(stated: Option<&str>) -> Option<Algorithm> {
    match stated {
        None | Some("RS256") => Some(Algorithm::RS256),
        Some("RS384") => Some(Algorithm::RS384),
        Some("RS512") => Some(Algorithm::RS512),
        Some("PS256") => Some(Algorithm::PS256),
        Some("PS384") => Some(Algorithm::PS384),
        Some("PS512") => Some(Algorithm::PS512),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ed(kid: &str, byte: u8) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "use": "sig", "x": URL_SAFE_NO_PAD.encode([byte; 32])})
    }

    fn count(keys: Value) -> Result<usize, String> {
        usable_keys(json!({ "keys": keys }).to_string().as_bytes()).map(|keys| keys.len())
    }

    fn with(mut key: Value, name: &str, value: Value) -> Value {
        key[name] = value;
        key
    }

    #[test]
    fn only_keys_for_verifying_are_used() {
        let rsa = |bytes: usize| json!({"kty": "RSA", "kid": "r", "e": "AQAB", "n": URL_SAFE_NO_PAD.encode(vec![0xc1; bytes])});
        let cases = [
            (ed("a", 1), 1),
            (with(ed("a", 1), "use", json!("enc")), 0),
            (with(ed("a", 1), "key_ops", json!(["verify"])), 1),
            (with(ed("a", 1), "key_ops", json!(["sign"])), 0),
            (with(ed("a", 1), "key_ops", json!("verify")), 0),
            (with(ed("a", 1), "alg", json!("HS256")), 0),
            (with(ed("a", 1), "kid", json!(7)), 0),
            (with(ed("a", 1), "kid", json!("k".repeat(600))), 0),
            (with(ed("a", 1), "x", json!("AAAA")), 0),
            (json!({"kty": "oct", "kid": "s", "k": "c2VjcmV0", "alg": "HS256"}), 0),
            (rsa(256), 1),
            (rsa(128), 0),
            (rsa(2048), 0),
            (with(rsa(256), "alg", json!("RSA-OAEP")), 0),
            (json!("key"), 0),
        ];
        for (key, expected) in cases {
            assert_eq!(count(json!([key, {"kty": "odd"}])), Ok(expected), "{key}");
        }
    }

    #[test]
    fn a_poisoned_document_is_refused_and_doubtful_names_are_dropped() {
        assert_eq!(count(json!([ed("a", 1), ed("a", 1), ed("b", 2)])), Ok(2), "the same key twice is one key");
        assert_eq!(count(json!([ed("a", 1), ed("a", 2), ed("b", 2)])), Ok(1), "two keys under one name are none");
        assert_eq!(count(json!([ed("a", 1), ed("a", 2), ed("a", 1)])), Ok(0), "not even if one of them comes again");
        assert!(count(json!([with(ed("a", 1), "d", json!("c2VjcmV0")), ed("b", 2)])).is_err());
        let many: Vec<Value> = (0..2000).map(|n| ed(&format!("k{n}"), 1)).collect();
        assert!(count(json!(many)).is_err());
        for text in ["", "[]", "{}", "{\"keys\":{}}", "{\"keys\":"] {
            assert!(usable_keys(text.as_bytes()).is_err(), "{text}");
        }
        assert!(usable_keys(&vec![b' '; MAX_JWKS_BYTES + 1]).is_err());
    }
}
