//! A test issuer: an Ed25519 key, its JWKS (RFC 7517, RFC 8037) and any token one may want, well-formed or not.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Map, Value, json};

/// An issuer whose private key the test holds.
#[derive(Debug, Clone)]
pub struct Issuer {
    name: String,
    kid: String,
    key: SigningKey,
}

/// What a token says; see [`Claims::agent`] and [`Claims::person`] for the usual ones.
#[derive(Debug, Clone)]
pub struct Claims(pub Map<String, Value>);

impl Issuer {
    /// An issuer named `name`; the key follows from the seed, so that two runs can share a home.
    pub fn new(name: &str, seed: u8) -> Self {
        Self { name: name.to_owned(), kid: format!("test-{seed}"), key: SigningKey::from_bytes(&[seed; 32]) }
    }

    /// Its `iss`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The public key, 32 bytes.
    pub fn public_key(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    /// The JWKS document.
    pub fn jwks(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.public_key());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": self.kid, "x": x}]})
            .to_string()
    }

    /// A correct token with these claims; `iss`, `aud` and `exp` (an hour) are added where absent.
    pub fn token(&self, claims: &Claims) -> String {
        self.token_with_header(&json!({"alg": "EdDSA", "typ": "JWT", "kid": self.kid}), claims)
    }

    /// A token with any header, signed with Ed25519 whatever the header says.
    pub fn token_with_header(&self, header: &Value, claims: &Claims) -> String {
        let input = self.signing_input(header, claims);
        let signature = self.key.sign(input.as_bytes()).to_bytes();
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Header and claims without a signature: `header.claims`.
    pub fn signing_input(&self, header: &Value, claims: &Claims) -> String {
        let mut claims = claims.0.clone();
        claims.entry("iss").or_insert_with(|| json!(self.name));
        claims.entry("aud").or_insert_with(|| json!("countersign"));
        claims.entry("exp").or_insert_with(|| json!(unix_now() + 3600));
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}", part(header), part(&Value::Object(claims)))
    }

    /// The header of this issuer's correct tokens.
    pub fn header(&self) -> Value {
        json!({"alg": "EdDSA", "typ": "JWT", "kid": self.kid})
    }
}

impl Claims {
    /// An agent of the default workspace with roles.
    pub fn agent(id: &str, roles: &[&str]) -> Self {
        Self::of("agent", id, roles)
    }

    /// A person of the default workspace with roles.
    pub fn person(id: &str, roles: &[&str]) -> Self {
        Self::of("person", id, roles)
    }

    fn of(kind: &str, id: &str, roles: &[&str]) -> Self {
        Self(Map::new()).with("sub", json!(id)).with("kind", json!(kind)).with("roles", json!(roles))
    }

    /// The same claims with one set.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.0.insert(name.to_owned(), value);
        self
    }

    /// The same claims without one.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.0.remove(name);
        self
    }
}

/// Seconds since 1970.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
