//! What the node says of a caller to an authorization server: a short-lived JWT (RFC 7523), signed with a key of its own
//! (ES256), whose public half is served as a JWKS.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_domain::{Millis, Principal};
use serde_json::{Value, json};

use super::Secret;

/// How long an assertion is good for, in seconds.
const LIFE: u64 = 60;

/// The key that assertions are signed with.
pub struct AssertionKey {
    pair: EcdsaKeyPair,
    kid: String,
}

impl AssertionKey {
    /// A new key, PKCS #8.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn generate() -> Result<Vec<u8>, String> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        document.map(|d| d.as_ref().to_vec()).map_err(|e| e.to_string())
    }

    /// Reads a key.
    ///
    /// # Errors
    /// If it is not a P-256 key.
    pub fn from_pkcs8(bytes: &[u8]) -> Result<Self, String> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes).map_err(|e| e.to_string())?;
        let digest = countersign_proof::digest::Digest::of(pair.public_key().as_ref());
        let kid = format!("node-{}", &digest.hex()[..16]);
        Ok(Self { pair, kid })
    }

    /// The public half as a JWKS (RFC 7517, RFC 7518).
    pub fn jwks(&self) -> Value {
        // An uncompressed point: 4, then 32 bytes each of x and y.
        let point = self.pair.public_key().as_ref();
        let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(point.get(range).unwrap_or_default());
        let (x, y) = (part(1..33), part(33..65));
        json!({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.kid, "x": x, "y": y}]})
    }

    /// Says to `audience` who calls. With a person behind an agent, the person is `sub` and the agent `act.sub` (RFC 8693);
    /// `sub_id` names the issuer that vouched for them (RFC 9493), since this node only passes its word on.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn assert(&self, caller: &Principal, issuer: &str, audience: &str, now: Millis) -> Result<Secret, String> {
        let subject = caller.on_behalf_of.as_deref().unwrap_or(&caller.id);
        let now = now / 1_000;
        let mut claims = json!({
            "iss": issuer, "aud": audience, "sub": subject, "iat": now, "nbf": now, "exp": now + LIFE,
            "jti": URL_SAFE_NO_PAD.encode(crate::entropy::<16>()), "tenant": caller.workspace.as_str(),
            "sub_id": {"format": "iss_sub", "iss": caller.issuer, "sub": subject},
        });
        if caller.on_behalf_of.is_some() {
            claims["act"] = json!({ "sub": caller.id });
        }
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": self.kid});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let input = format!("{}.{}", part(&header), part(&claims));
        let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes()).map_err(|e| e.to_string())?;
        Ok(Secret::new(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))))
    }
}
