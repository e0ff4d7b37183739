//! Who calls: JWT access tokens (RFC 7519, RFC 9068) against the JWKS of configured issuers.
//!
//! Issuer, audience, subject and expiry are mandatory. The algorithm comes from the issuer's key and must be on its list;
//! symmetric algorithms and `none` cannot be expressed. A token that is bound to a certificate (RFC 8705) is believed only on a
//! connection that presented it. Verified tokens are remembered by digest until they expire or the issuer's keys change, at
//! most ten minutes.
//!
//! [`keys`] keeps the issuers' keys, [`claims`] turns claims into a principal.

mod cause;
pub mod claims;
pub mod keys;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_domain::{Millis, Principal, Refusal};
use countersign_proof::digest::Digest;
use jsonwebtoken::{Algorithm, Validation, decode};
use quick_cache::sync::Cache;
use serde_json::{Map, Value};

use cause::Cause;
use claims::principal_of;
use keys::IssuerKeys;

pub use claims::{ClaimRules, Workspaces};
pub use keys::{KeyPolicy, KeySource};

/// The longest token that is looked at.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// How far the issuer's clock may be off.
const SKEW_SECONDS: i64 = 30;
const CACHE_TOKENS: usize = 10_000;
const CACHE_MILLIS: u64 = 600_000;
/// The most audiences of one token.
const MAX_AUDIENCES: usize = 50;

/// What a token may call itself (RFC 7519, section 5.1; RFC 9068, section 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TokenType {
    /// `at+jwt`: an access token.
    Access,
    /// `JWT`, or nothing: whatever it may be, as long as no claim says that it is an ID token.
    Plain,
    /// An OpenID Connect ID token.
    Id,
}

/// An issuer whose tokens are accepted.
pub struct IssuerConfig {
    /// The exact `iss`.
    pub issuer: String,
    /// The `aud`s of which its tokens must carry one.
    pub audiences: BTreeSet<String>,
    /// The algorithms that its keys may have.
    pub algorithms: Vec<Algorithm>,
    /// What its tokens may call themselves.
    pub token_types: BTreeSet<TokenType>,
    /// Which claims carry what, and what it may say.
    pub claims: ClaimRules,
    /// Whether principals are marked as development identities.
    pub development: bool,
    /// How long its keys are believed.
    pub key_policy: KeyPolicy,
    /// Where its keys come from.
    pub keys: Box<dyn KeySource>,
}

impl IssuerConfig {
    /// An issuer with the usual rules.
    pub fn new(issuer: &str, audience: &str, keys: Box<dyn KeySource>) -> Self {
        Self {
            issuer: issuer.to_owned(),
            audiences: [audience.to_owned()].into(),
            algorithms: default_algorithms(),
            token_types: [TokenType::Access, TokenType::Plain].into(),
            claims: ClaimRules::default(),
            development: false,
            key_policy: KeyPolicy::default(),
            keys,
        }
    }
}

/// The algorithms that are accepted unless an issuer's configuration says otherwise.
pub fn default_algorithms() -> Vec<Algorithm> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, RS256};
    vec![ES256, ES384, EdDSA, RS256, PS256]
}

/// An accepted algorithm by its JWA name; `None` for `none`, symmetric and unknown ones.
pub fn algorithm_named(name: &str) -> Option<Algorithm> {
    use Algorithm as A;
    Some(match name {
        "ES256" => A::ES256,
        "ES384" => A::ES384,
        "EdDSA" | "Ed25519" => A::EdDSA,
        "RS256" => A::RS256,
        "RS384" => A::RS384,
        "RS512" => A::RS512,
        "PS256" => A::PS256,
        "PS384" => A::PS384,
        "PS512" => A::PS512,
        _ => return None,
    })
}

/// What a request presents to say who makes it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Presented<'a> {
    /// The bearer token.
    pub bearer: &'a str,
    /// SHA-256 of the client certificate that the connection proved, DER.
    pub certificate: Option<[u8; 32]>,
    /// Where the request comes from.
    pub client: Option<std::net::IpAddr>,
    /// The path of the protected resource that is asked for, such as `/mcp/ads`.
    pub resource: &'a str,
    /// Audiences that are good for this resource besides those of the issuer.
    pub audiences: &'a [String],
}

struct Issuer {
    config: IssuerRules,
    keys: Arc<IssuerKeys>,
}

/// [`IssuerConfig`] without the source of its keys.
struct IssuerRules {
    issuer: String,
    audiences: BTreeSet<String>,
    algorithms: Vec<Algorithm>,
    token_types: BTreeSet<TokenType>,
    claims: ClaimRules,
    development: bool,
}

/// A token that verified: what has to be checked again with every request that carries it.
#[derive(Clone)]
struct Verified {
    until: Millis,
    expires: Millis,
    issuer: Arc<str>,
    generation: u64,
    audiences: Arc<[String]>,
    certificate: Option<[u8; 32]>,
    principal: Arc<Principal>,
}

/// Checks bearer tokens.
pub struct Authenticator {
    issuers: HashMap<Arc<str>, Issuer>,
    /// The node's own URL; a token for it, or for a path of it, is meant for us (RFC 8707).
    resource: Option<String>,
    cache: Cache<[u8; 32], Verified>,
}

impl Authenticator {
    /// An authenticator for these issuers.
    pub fn new(issuers: Vec<IssuerConfig>) -> Self {
        let issuers = issuers.into_iter().map(|config| {
            let keys = IssuerKeys::new(&config.issuer, config.keys, config.key_policy);
            let rules = IssuerRules {
                issuer: config.issuer.clone(),
                audiences: config.audiences,
                algorithms: config.algorithms,
                token_types: config.token_types,
                claims: config.claims,
                development: config.development,
            };
            (Arc::from(config.issuer), Issuer { config: rules, keys })
        });
        Self { issuers: issuers.collect(), resource: None, cache: Cache::new(CACHE_TOKENS) }
    }

    /// The same for a node with this URL, without a trailing slash: tokens whose audience is the URL, or the resource that is
    /// asked for, or a path above that, are accepted besides those with a configured audience.
    #[must_use]
    pub fn for_resource(mut self, url: Option<String>) -> Self {
        self.resource = url;
        self
    }

    /// Who the bearer of this token is.
    ///
    /// # Errors
    /// [`RefusalKind::Unauthenticated`](countersign_domain::RefusalKind::Unauthenticated), or
    /// [`RefusalKind::Unavailable`](countersign_domain::RefusalKind::Unavailable) while the issuer's keys cannot be had; both
    /// with a machine-readable `cause`.
    pub async fn authenticate(&self, presented: &Presented<'_>, now: Millis) -> Result<Arc<Principal>, Refusal> {
        self.believe(presented, now).await.map_err(Cause::refusal)
    }

    async fn believe(&self, presented: &Presented<'_>, now: Millis) -> Result<Arc<Principal>, Cause> {
        if presented.bearer.len() > MAX_TOKEN_BYTES {
            return Err(Cause::Malformed);
        }
        let digest = Digest::of(presented.bearer.as_bytes()).0;
        let verified = match self.cache.get(&digest).filter(|known| self.still_holds(known, now)) {
            Some(known) => known,
            None => {
                let verified = self.verify(presented.bearer, now).await?;
                self.cache.insert(digest, verified.clone());
                verified
            }
        };
        let issuer = self.issuers.get(&verified.issuer).ok_or(Cause::Issuer)?;
        let is_for_this = verified.audiences.iter().any(|audience| presented.audiences.contains(audience));
        if !is_for_this && !self.is_for_us(&verified.audiences, &issuer.config, presented.resource) {
            return Err(Cause::Audience);
        }
        if verified.certificate.is_some() && verified.certificate != presented.certificate {
            return Err(Cause::Binding);
        }
        Ok(verified.principal)
    }

    /// Whether a remembered token need not be verified again.
    fn still_holds(&self, known: &Verified, now: Millis) -> bool {
        let Some(issuer) = self.issuers.get(&known.issuer) else { return false };
        issuer.keys.refresh_if_due();
        now < known.until && now < known.expires && issuer.keys.generation() == Some(known.generation)
    }

    async fn verify(&self, token: &str, now: Millis) -> Result<Verified, Cause> {
        let (header, unverified) = parts(token)?;
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(Cause::Malformed)?;
        let algorithm = algorithm_named(algorithm).ok_or(Cause::Algorithm)?;
        // What must be understood and is not makes the token invalid (RFC 7515, section 4.1.11); we understand none of it.
        if header.contains_key("crit") || header.contains_key("b64") || header.contains_key("zip") {
            return Err(Cause::Malformed);
        }
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.as_str()),
            Some(_) => return Err(Cause::Malformed),
        };
        let named = unverified.get("iss").and_then(Value::as_str).ok_or(Cause::Claims)?;
        let (name, issuer) = self.issuers.get_key_value(named).ok_or(Cause::Issuer)?;
        if !issuer.config.algorithms.contains(&algorithm) {
            return Err(Cause::Algorithm);
        }
        let (key, generation) = issuer.keys.key(kid, algorithm).await?;
        // Signature only: every claim is checked below, against the clock that we were given.
        let mut rules = Validation::new(algorithm);
        rules.validate_exp = false;
        rules.validate_aud = false;
        rules.required_spec_claims.clear();
        let claims = decode::<Map<String, Value>>(token, &key, &rules).map_err(|error| cause_of(&error))?.claims;

        let expires = within_time(&claims, now)?;
        let token_type = token_type(&header, &claims)?;
        if !issuer.config.token_types.contains(&token_type) {
            return Err(Cause::TokenType);
        }
        let config = &issuer.config;
        let principal = principal_of(&claims, &config.issuer, &config.claims, config.development)?;
        Ok(Verified {
            until: now + CACHE_MILLIS,
            expires,
            issuer: Arc::clone(name),
            generation,
            audiences: audiences(&claims)?,
            certificate: certificate(&claims)?,
            principal: Arc::new(principal),
        })
    }

    fn is_for_us(&self, audiences: &[String], issuer: &IssuerRules, path: &str) -> bool {
        audiences.iter().any(|audience| {
            issuer.audiences.contains(audience)
                || self.resource.as_deref().is_some_and(|own| names_resource(audience, own, path))
        })
    }
}

/// Whether an audience is this node's URL, or the resource at `path`, or one above it: whoever may use all of `/mcp` may use
/// `/mcp/ads`, and not the other way round.
fn names_resource(audience: &str, own: &str, path: &str) -> bool {
    let Some(below) = audience.strip_prefix(own) else { return false };
    let below = below.trim_end_matches('/');
    match path.strip_prefix(below) {
        Some(rest) => below.is_empty() || (below.starts_with('/') && (rest.is_empty() || rest.starts_with('/'))),
        None => false,
    }
}

type Json = Map<String, Value>;

/// Header and claims of a compact JWS, not verified.
fn parts(token: &str) -> Result<(Json, Json), Cause> {
    let mut parts = token.split('.');
    let (Some(header), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(Cause::Malformed);
    };
    let object = |part: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Cause::Malformed)?;
        serde_json::from_slice::<Json>(&bytes).map_err(|_| Cause::Malformed)
    };
    Ok((object(header)?, object(claims)?))
}

fn cause_of(error: &jsonwebtoken::errors::Error) -> Cause {
    use jsonwebtoken::errors::ErrorKind as K;
    match error.kind() {
        K::InvalidSignature => Cause::Signature,
        K::InvalidAlgorithm | K::InvalidAlgorithmName => Cause::Algorithm,
        _ => Cause::Malformed,
    }
}

/// A NumericDate (RFC 7519, section 2): seconds, possibly with a fraction, which is dropped.
fn date(claims: &Json, name: &str) -> Result<Option<i64>, Cause> {
    const LATEST: f64 = 253_402_300_800.0;
    match claims.get(name) {
        None => Ok(None),
        Some(value) => {
            let seconds = value.as_f64().filter(|seconds| (0.0..LATEST).contains(seconds)).ok_or(Cause::Claims)?;
            Ok(Some(seconds as i64))
        }
    }
}

/// When the token expires, in milliseconds, if it is good now.
fn within_time(claims: &Json, now: Millis) -> Result<Millis, Cause> {
    let now = i64::try_from(now / 1000).unwrap_or(i64::MAX);
    let expires = date(claims, "exp")?.ok_or(Cause::Claims)?;
    if now >= expires + SKEW_SECONDS {
        return Err(Cause::Expired);
    }
    for start in ["nbf", "iat"] {
        if date(claims, start)?.is_some_and(|start| start > now + SKEW_SECONDS) {
            return Err(Cause::NotYetValid);
        }
    }
    Ok(u64::try_from((expires + SKEW_SECONDS) * 1000).unwrap_or(0))
}

/// What the token is. Issuers that say `JWT` for everything give ID tokens away by claims that access tokens do not have.
fn token_type(header: &Json, claims: &Json) -> Result<TokenType, Cause> {
    let stated = match header.get("typ") {
        None => "jwt".to_owned(),
        Some(typ) => typ.as_str().ok_or(Cause::Malformed)?.to_ascii_lowercase(),
    };
    match stated.strip_prefix("application/").unwrap_or(&stated) {
        "at+jwt" => Ok(TokenType::Access),
        "jwt" => {
            let only_in_id_tokens =
                ["at_hash", "c_hash", "s_hash", "nonce"].iter().any(|name| claims.contains_key(*name));
            // Keycloak says what a token is in a claim.
            match claims.get("typ").and_then(Value::as_str) {
                None | Some("Bearer") if only_in_id_tokens => Ok(TokenType::Id),
                None | Some("Bearer" | "JWT" | "at+jwt") => Ok(TokenType::Plain),
                Some("ID") => Ok(TokenType::Id),
                Some(_) => Err(Cause::TokenType),
            }
        }
        _ => Err(Cause::TokenType),
    }
}

fn audiences(claims: &Json) -> Result<Arc<[String]>, Cause> {
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or(Cause::Audience);
    match claims.get("aud") {
        Some(Value::Array(all)) if (1..=MAX_AUDIENCES).contains(&all.len()) => all.iter().map(text).collect(),
        Some(one @ Value::String(_)) => Ok([text(one)?].into()),
        _ => Err(Cause::Audience),
    }
}

/// The certificate that the token is bound to (RFC 8705, section 3.1). Other bindings are not proved here, and a token that
/// wants one is not a bearer token.
fn certificate(claims: &Json) -> Result<Option<[u8; 32]>, Cause> {
    let Some(confirmation) = claims.get("cnf") else { return Ok(None) };
    let confirmation = confirmation.as_object().ok_or(Cause::Claims)?;
    let thumbprint = match (confirmation.len(), confirmation.get("x5t#S256")) {
        (1, Some(thumbprint)) => thumbprint.as_str().ok_or(Cause::Claims)?,
        _ => return Err(Cause::Binding),
    };
    let bytes = URL_SAFE_NO_PAD.decode(thumbprint).map_err(|_| Cause::Claims)?;
    bytes.try_into().map(Some).map_err(|_| Cause::Claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audience_names_a_resource_or_one_above_it() {
        let own = "https://gate.example";
        for (audience, path, expected) in [
            ("https://gate.example", "/mcp/ads", true),
            ("https://gate.example/", "/tools/x/invoke", true),
            ("https://gate.example/mcp", "/mcp", true),
            ("https://gate.example/mcp", "/mcp/ads", true),
            ("https://gate.example/mcp/", "/mcp/ads", true),
            ("https://gate.example/mcp/ads", "/mcp/ads", true),
            ("https://gate.example/mcp/ads", "/mcp", false),
            ("https://gate.example/mcp/ads", "/mcp/adsense", false),
            ("https://gate.example/mcp", "/mcpx", false),
            ("https://gate.example/mcp", "/tools/x", false),
            ("https://gate.example.evil", "/mcp", false),
            ("https://gate.example:444", "/mcp", false),
            ("https://gate.exampl", "/mcp", false),
            ("", "/mcp", false),
        ] {
            assert_eq!(names_resource(audience, own, path), expected, "{audience} for {path}");
        }
    }
}
