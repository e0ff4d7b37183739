//! Who calls: JWT bearer tokens (RFC 7519) against the JWKS of configured issuers.
//!
//! Issuer, audience and expiry are mandatory. The algorithm comes from the issuer's key, never from the token alone; symmetric
//! algorithms and `none` cannot be expressed. Verified tokens are remembered by digest until they expire, at most ten minutes,
//! so that a key that an issuer withdraws stops working soon.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use countersign_domain::{Millis, Principal, PrincipalKind, Refusal, RefusalKind, WorkspaceName};
use countersign_proof::digest::Digest;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use quick_cache::sync::Cache;
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// The longest token that is looked at.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;
const LEEWAY_SECONDS: u64 = 30;
const CACHE_TOKENS: usize = 10_000;
const CACHE_MILLIS: u64 = 600_000;
/// A key that is not known makes us ask the issuer again, but not more often than this.
const REFETCH_PAUSE: Duration = Duration::from_secs(30);
const REFETCH_AGE: Duration = Duration::from_secs(600);

/// Where an issuer's keys come from. The network side lives with the composition root.
#[async_trait]
pub trait KeySource: Send + Sync {
    /// The issuer's current JWKS document.
    ///
    /// # Errors
    /// In words, for the log.
    async fn fetch(&self) -> Result<Vec<u8>, String>;
}

/// Which claims carry what.
#[derive(Debug, Clone)]
pub struct ClaimNames {
    /// The workspace.
    pub workspace: String,
    /// An array of roles.
    pub roles: String,
    /// `agent`, `person` or `service`.
    pub kind: String,
}

impl Default for ClaimNames {
    fn default() -> Self {
        Self { workspace: "tenant".into(), roles: "roles".into(), kind: "kind".into() }
    }
}

/// An issuer whose tokens are accepted.
pub struct IssuerConfig {
    /// The exact `iss`.
    pub issuer: String,
    /// The `aud` that its tokens must carry for us.
    pub audience: String,
    /// Which claims carry what.
    pub claims: ClaimNames,
    /// The workspace of tokens that name none; `None` refuses them.
    pub default_workspace: Option<WorkspaceName>,
    /// Whether principals are marked as development identities.
    pub development: bool,
    /// Where its keys come from.
    pub keys: Box<dyn KeySource>,
}

struct Issuer {
    config: IssuerConfig,
    keys: ArcSwap<HashMap<String, (DecodingKey, Algorithm)>>,
    fetched: Mutex<Option<Instant>>,
}

/// Checks bearer tokens.
pub struct Authenticator {
    issuers: HashMap<String, Issuer>,
    cache: Cache<[u8; 32], (Millis, Arc<Principal>)>,
}

/// Why a token was refused; the name is what the aggregates count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Malformed,
    Algorithm,
    Issuer,
    Key,
    Signature,
    Audience,
    Expired,
    NotYetValid,
    Claims,
}

impl Cause {
    fn name(self) -> &'static str {
        match self {
            Cause::Malformed => "malformed",
            Cause::Algorithm => "algorithm",
            Cause::Issuer => "issuer",
            Cause::Key => "key",
            Cause::Signature => "signature",
            Cause::Audience => "audience",
            Cause::Expired => "expired",
            Cause::NotYetValid => "not-yet-valid",
            Cause::Claims => "claims",
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Cause::Malformed => "the bearer token is not a JWT",
            Cause::Algorithm => "the token's algorithm is not accepted; sign with ES256, ES384, EdDSA, RS256 or PS256",
            Cause::Issuer => "the token's issuer is not configured here",
            Cause::Key => "the token's key (kid) is not in its issuer's JWKS",
            Cause::Signature => "the token's signature does not verify",
            Cause::Audience => "the token is not meant for this service (aud)",
            Cause::Expired => "the token has expired; get a new one",
            Cause::NotYetValid => "the token is not valid yet (nbf)",
            Cause::Claims => "the token lacks a claim that is needed here, or one has the wrong form",
        }
    }

    fn refusal(self) -> Refusal {
        Refusal::new(RefusalKind::Unauthenticated, self.advice()).with("cause", self.name())
    }
}

impl Authenticator {
    /// An authenticator for these issuers.
    pub fn new(issuers: Vec<IssuerConfig>) -> Self {
        let issuers = issuers.into_iter().map(|config| {
            let name = config.issuer.clone();
            (name, Issuer { config, keys: ArcSwap::default(), fetched: Mutex::new(None) })
        });
        Self { issuers: issuers.collect(), cache: Cache::new(CACHE_TOKENS) }
    }

    /// Who the bearer of this token is.
    ///
    /// # Errors
    /// [`RefusalKind::Unauthenticated`] with a machine-readable `cause`.
    pub async fn authenticate(&self, token: &str, now: Millis) -> Result<Arc<Principal>, Refusal> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Cause::Malformed.refusal());
        }
        let digest = Digest::of(token.as_bytes()).0;
        if let Some((until, principal)) = self.cache.get(&digest)
            && now < until
        {
            return Ok(principal);
        }
        let (claims, issuer) = self.verify(token).await.map_err(Cause::refusal)?;
        let principal = Arc::new(principal_of(&claims, &issuer.config).map_err(Cause::refusal)?);
        let expires = claims.get("exp").and_then(Value::as_u64).unwrap_or(0).saturating_mul(1000);
        self.cache.insert(digest, (expires.min(now + CACHE_MILLIS), Arc::clone(&principal)));
        Ok(principal)
    }

    async fn verify(&self, token: &str) -> Result<(Map<String, Value>, &Issuer), Cause> {
        let header = decode_header(token).map_err(|e| header_cause(token, &e))?;
        let claimed: IssuerClaim =
            jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_| Cause::Malformed)?;
        let issuer = self.issuers.get(&claimed.iss).ok_or(Cause::Issuer)?;
        let kid = header.kid.as_deref().unwrap_or_default();
        let (key, algorithm) = issuer.key(kid).await.ok_or(Cause::Key)?;
        if header.alg != algorithm {
            return Err(Cause::Algorithm);
        }
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_audience(&[&issuer.config.audience]);
        validation.set_issuer(&[&issuer.config.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let data = decode::<Map<String, Value>>(token, &key, &validation).map_err(|e| cause_of(&e))?;
        Ok((data.claims, issuer))
    }
}

#[derive(serde::Deserialize)]
struct IssuerClaim {
    iss: String,
}

/// `alg: none` and unknown algorithms fail while the header is parsed; they are told apart for the aggregates.
fn header_cause(token: &str, error: &jsonwebtoken::errors::Error) -> Cause {
    use base64::Engine as _;
    let part = token.split('.').next().unwrap_or_default();
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).ok();
    let header = json.and_then(|bytes| serde_json::from_slice::<Map<String, Value>>(&bytes).ok());
    match (header.and_then(|h| h.get("alg").cloned()), error.kind()) {
        (Some(_), _) | (_, jsonwebtoken::errors::ErrorKind::InvalidAlgorithmName) => Cause::Algorithm,
        (None, _) => Cause::Malformed,
    }
}

fn cause_of(error: &jsonwebtoken::errors::Error) -> Cause {
    use jsonwebtoken::errors::ErrorKind as K;
    match error.kind() {
        K::ExpiredSignature => Cause::Expired,
        K::ImmatureSignature => Cause::NotYetValid,
        K::InvalidAudience => Cause::Audience,
        K::InvalidIssuer => Cause::Issuer,
        K::InvalidAlgorithm | K::InvalidAlgorithmName => Cause::Algorithm,
        K::InvalidSignature => Cause::Signature,
        K::MissingRequiredClaim(claim) if claim == "aud" => Cause::Audience,
        K::MissingRequiredClaim(_) | K::InvalidSubject => Cause::Claims,
        _ => Cause::Malformed,
    }
}

impl Issuer {
    async fn key(&self, kid: &str) -> Option<(DecodingKey, Algorithm)> {
        let found = self.keys.load().get(kid).cloned();
        let mut fetched = match (&found, self.fetched.try_lock()) {
            // Someone else is asking: go on with what is known, or wait for them if nothing is.
            (Some(_), Err(_)) => return found,
            (None, Err(_)) => self.fetched.lock().await,
            (_, Ok(guard)) => guard,
        };
        let age = fetched.map(|at| at.elapsed());
        let due = match found {
            Some(_) => age.is_none_or(|age| age > REFETCH_AGE),
            None => age.is_none_or(|age| age > REFETCH_PAUSE),
        };
        if due {
            *fetched = Some(Instant::now());
            match self.config.keys.fetch().await {
                Ok(document) => self.keys.store(Arc::new(usable_keys(&document))),
                Err(why) => tracing::warn!(issuer = self.config.issuer, why, "could not fetch the issuer's keys"),
            }
        }
        self.keys.load().get(kid).cloned()
    }
}

/// The keys of a JWKS that can verify: public, asymmetric, for signatures, with an algorithm that follows from the key.
fn usable_keys(document: &[u8]) -> HashMap<String, (DecodingKey, Algorithm)> {
    let Ok(Value::Object(mut raw)) = serde_json::from_slice::<Value>(document) else {
        return HashMap::new();
    };
    let keys = match raw.remove("keys") {
        Some(Value::Array(keys)) => keys,
        _ => Vec::new(),
    };
    // One key that we can't read must not hide the others, so each is parsed by itself.
    let parsed = keys.into_iter().take(100).filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
    let set = JwkSet { keys: parsed.collect() };
    let usable = set.keys.iter().filter_map(|jwk| {
        let algorithm = algorithm_of(jwk)?;
        let key = DecodingKey::from_jwk(jwk).ok()?;
        Some((jwk.common.key_id.clone().unwrap_or_default(), (key, algorithm)))
    });
    usable.collect()
}

fn algorithm_of(jwk: &Jwk) -> Option<Algorithm> {
    use jsonwebtoken::jwk::{AlgorithmParameters as P, EllipticCurve as C, KeyAlgorithm as K, PublicKeyUse};
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    match (&jwk.algorithm, jwk.common.key_algorithm) {
        (P::EllipticCurve(k), None | Some(K::ES256)) if k.curve == C::P256 => Some(Algorithm::ES256),
        (P::EllipticCurve(k), None | Some(K::ES384)) if k.curve == C::P384 => Some(Algorithm::ES384),
        (P::OctetKeyPair(k), None | Some(K::EdDSA)) if k.curve == C::Ed25519 => Some(Algorithm::EdDSA),
        (P::RSA(_), None | Some(K::RS256)) => Some(Algorithm::RS256),
        (P::RSA(_), Some(K::PS256)) => Some(Algorithm::PS256),
        _ => None,
    }
}

fn text<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    claims
        .get(name)
        .and_then(Value::as_str)
        .filter(|s| !s.is_empty() && s.len() <= 256 && !s.chars().any(char::is_control))
}

fn strings(value: Option<&Value>) -> Result<BTreeSet<String>, Cause> {
    let bounded = |set: BTreeSet<String>| if set.len() <= 200 { Ok(set) } else { Err(Cause::Claims) };
    match value {
        None | Some(Value::Null) => Ok(BTreeSet::new()),
        Some(Value::String(list)) => bounded(list.split_ascii_whitespace().map(str::to_owned).collect()),
        Some(Value::Array(items)) => {
            let texts = items.iter().map(|item| item.as_str().map(str::to_owned).ok_or(Cause::Claims));
            bounded(texts.collect::<Result<_, _>>()?)
        }
        Some(_) => Err(Cause::Claims),
    }
}

fn principal_of(claims: &Map<String, Value>, config: &IssuerConfig) -> Result<Principal, Cause> {
    let subject = text(claims, "sub").ok_or(Cause::Claims)?;
    let actor = match claims.get("act") {
        None => None,
        Some(Value::Object(act)) => Some(text(act, "sub").ok_or(Cause::Claims)?),
        Some(_) => return Err(Cause::Claims),
    };
    let kind = match (actor, claims.get(&config.claims.kind)) {
        // RFC 8693, 4.1: `act` names who acts; the token's subject is the person for whom.
        (Some(_), _) | (None, None) => PrincipalKind::Agent,
        (None, Some(kind)) => match kind.as_str() {
            Some("agent") => PrincipalKind::Agent,
            Some("person") => PrincipalKind::Person,
            Some("service") => PrincipalKind::Service,
            _ => return Err(Cause::Claims),
        },
    };
    let workspace = match claims.get(&config.claims.workspace) {
        Some(name) => name.as_str().and_then(|n| n.parse().ok()).filter(|w| *w != WorkspaceName::node()),
        None => config.default_workspace.clone(),
    };
    let mut scopes = strings(claims.get("scopes"))?;
    scopes.extend(strings(claims.get("scope"))?);
    let attributes = claims.iter().filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
    Ok(Principal {
        kind,
        id: actor.unwrap_or(subject).to_owned(),
        issuer: config.issuer.clone(),
        on_behalf_of: actor.map(|_| subject.to_owned()),
        workspace: workspace.ok_or(Cause::Claims)?,
        roles: strings(claims.get(&config.claims.roles))?,
        scopes,
        development: config.development,
        attributes: attributes.filter(|(_, v)| v.len() <= 1024).take(64).collect::<BTreeMap<_, _>>(),
    })
}
