//! The development issuer: tokens for a node on loopback, signed with a key in its data directory.
//!
//! Whoever can read the key can be anybody, so its principals are marked as development identities in every event, and a
//! node that others can reach refuses it.

use std::path::Path;
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::keys::{KeyFileError, read_private, write_private};

/// The `iss` of its tokens.
pub const DEV_ISSUER: &str = "countersign-dev";
const FILE_NAME: &str = "dev-issuer.json";
const FILE_VERSION: u64 = 1;

/// The development issuer's Ed25519 key.
pub struct DevIssuer {
    kid: String,
    public_key: Vec<u8>,
    signing: EncodingKey,
}

/// Who a token shall be for.
#[derive(Debug, Clone, Default)]
pub struct MintRequest {
    /// The subject: a person's name, or an agent's.
    pub sub: String,
    /// `person`, `agent` or `service`.
    pub kind: Option<String>,
    /// The agent that acts for the subject (RFC 8693 `act`).
    pub act: Option<String>,
    /// The workspace; `default` if none.
    pub workspace: Option<String>,
    /// Roles.
    pub roles: Vec<String>,
    /// OAuth scopes.
    pub scopes: Vec<String>,
    /// A mail address, said to be verified.
    pub mail: Option<String>,
    /// The audience; `countersign` if empty.
    pub audience: String,
    /// How long it is good for.
    pub ttl: Duration,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    version: u64,
    issuer: String,
    kid: String,
    algorithm: String,
    /// PKCS #8 (RFC 5958), base64.
    private_key: String,
}

impl DevIssuer {
    /// Reads the key from the data directory's `keys`.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn open(keys_dir: &Path) -> Result<Self, KeyFileError> {
        let path = keys_dir.join(FILE_NAME);
        let text = read_private(&path)?;
        let wrong = |message: String| KeyFileError::Format { path: path.clone(), message };
        let file: KeyFile = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        if file.version != FILE_VERSION || file.algorithm != "EdDSA" || file.issuer != DEV_ISSUER {
            return Err(wrong("not a development issuer's key of version 1".to_owned()));
        }
        let pkcs8 = STANDARD.decode(&file.private_key).map_err(|_| wrong("the key is not base64".to_owned()))?;
        Self::from_pkcs8(&pkcs8)
    }

    /// Reads the key, or makes one. The directory must exist.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn open_or_create(keys_dir: &Path) -> Result<Self, KeyFileError> {
        match Self::open(keys_dir) {
            Err(KeyFileError::Io { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {
                Self::create(&keys_dir.join(FILE_NAME))?;
                Self::open(keys_dir)
            }
            other => other,
        }
    }

    fn create(path: &Path) -> Result<(), KeyFileError> {
        let crypto = |e: aws_lc_rs::error::Unspecified| KeyFileError::Crypto(e.to_string());
        let pair = Ed25519KeyPair::generate().map_err(crypto)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(crypto)?;
        let file = KeyFile {
            version: FILE_VERSION,
            issuer: DEV_ISSUER.to_owned(),
            kid: kid_of(pair.public_key().as_ref()),
            algorithm: "EdDSA".to_owned(),
            private_key: STANDARD.encode(pkcs8.as_ref()),
        };
        let text = serde_json::to_string_pretty(&file).map_err(|e| KeyFileError::Crypto(e.to_string()))?;
        write_private(path, format!("{text}\n").as_bytes())
    }

    fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyFileError> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8);
        let pair = pair.map_err(|e| KeyFileError::Crypto(e.to_string()))?;
        let public_key = pair.public_key().as_ref().to_vec();
        Ok(Self { kid: kid_of(&public_key), public_key, signing: EncodingKey::from_ed_der(pkcs8) })
    }

    /// Its JWKS document (RFC 7517, RFC 8037).
    pub fn jwks(&self) -> Vec<u8> {
        let x = URL_SAFE_NO_PAD.encode(&self.public_key);
        let key = json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.kid, "x": x});
        json!({ "keys": [key] }).to_string().into_bytes()
    }

    /// Signs a token. `now_seconds` is the Unix time of issue.
    ///
    /// # Errors
    /// If the library refuses the key.
    pub fn mint(&self, request: &MintRequest, now_seconds: u64) -> Result<String, KeyFileError> {
        let audience = if request.audience.is_empty() { "countersign" } else { &request.audience };
        let mut claims = Map::from_iter([
            ("iss".to_owned(), json!(DEV_ISSUER)),
            ("aud".to_owned(), json!(audience)),
            ("sub".to_owned(), json!(request.sub)),
            ("iat".to_owned(), json!(now_seconds)),
            ("exp".to_owned(), json!(now_seconds.saturating_add(request.ttl.as_secs()))),
            ("tenant".to_owned(), json!(request.workspace.as_deref().unwrap_or("default"))),
            ("roles".to_owned(), json!(request.roles)),
        ]);
        let mut optional = |name: &str, value: Option<Value>| value.map(|value| claims.insert(name.to_owned(), value));
        optional("kind", request.kind.as_ref().map(|kind| json!(kind)));
        optional("email", request.mail.as_ref().map(|mail| json!(mail)));
        optional("email_verified", request.mail.as_ref().map(|_| json!(true)));
        optional("act", request.act.as_ref().map(|agent| json!({ "sub": agent })));
        optional("scope", Some(&request.scopes).filter(|s| !s.is_empty()).map(|s| json!(s.join(" "))));
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, &claims, &self.signing).map_err(|e| KeyFileError::Crypto(e.to_string()))
    }
}

/// Derived from the key, so that a new key has a new name.
fn kid_of(public_key: &[u8]) -> String {
    format!("dev-{}", &countersign_proof::digest::Digest::of(public_key).hex()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minted_token_verifies_with_the_published_key_after_reopening() {
        let dir = tempfile::tempdir().expect("a directory");
        DevIssuer::open_or_create(dir.path()).expect("created");
        let issuer = DevIssuer::open(dir.path()).expect("read");
        let request = MintRequest {
            sub: "tess".into(),
            act: Some("bot".into()),
            roles: vec!["treasurer".into()],
            scopes: vec!["a".into(), "b".into()],
            ttl: Duration::from_secs(60),
            ..MintRequest::default()
        };
        let token = issuer.mint(&request, 4_000_000_000).expect("minted");
        let jwks: jsonwebtoken::jwk::JwkSet = serde_json::from_slice(&issuer.jwks()).expect("a JWKS document");
        let key = jsonwebtoken::DecodingKey::from_jwk(&jwks.keys[0]).expect("a usable key");
        let mut rules = jsonwebtoken::Validation::new(Algorithm::EdDSA);
        rules.set_audience(&["countersign"]);
        rules.set_issuer(&[DEV_ISSUER]);
        let claims = jsonwebtoken::decode::<Value>(&token, &key, &rules).expect("verifies").claims;
        assert_eq!(claims["sub"], "tess");
        assert_eq!(claims["act"]["sub"], "bot");
        assert_eq!(claims["scope"], "a b");
        assert_eq!(claims["exp"], 4_000_000_060_u64);
    }
}
