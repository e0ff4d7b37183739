//! Signing artifacts: JWS by ES256 over the canonical bytes, with what the signature says of itself in the protected header.
//!
//! The payload is the artifact and nothing else, so the claims about the signature stand in the header: RFC 7515 section 4.3
//! allows private names there, RFC 7519 section 5.3 shows claims replicated there. `typ` is not `JWT`: an artifact is no set of
//! claims, and whoever accepts JWTs as credentials must be able to tell that this is none (RFC 8725 section 3.11).
//!
//! [`prepare`] says what is to be signed, and [`Prepared::finish`] takes the signature of whoever holds the key.
//! Nothing here looks at the body's type: [`Types::check`](super::types::Types::check) does, before anything is signed.

use countersign_proof::artifact::TYP;
use countersign_proof::canonical::MAX_SAFE_INTEGER;
use countersign_proof::digest::Digest;
use countersign_proof::jwk::Jwk;
use countersign_proof::jws::{ALGORITHM, Jws, JwsError, SIGNATURE_BYTES, Unsigned, signature_from_der};
use serde_json::{Map, Value, json};

use super::Artifact;
use crate::hashedrekord::{EntryError, HashedRekord, Verifier};
use crate::keys::{Signer, p256_spki, signature_to_der};

/// For how long a signature is meant to be used, in seconds, unless something else is asked for: 90 days.
pub const LIFETIME: u64 = 90 * 24 * 3600;

/// When a signature is made, and until when it is meant to be used; in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// `iat`.
    pub issued_at: u64,
    /// `exp`, after `issued_at`.
    pub expires_at: u64,
}

impl Times {
    /// Made now, to be used for [`LIFETIME`].
    pub fn from(now: u64) -> Self {
        Self { issued_at: now, expires_at: now.saturating_add(LIFETIME) }
    }

    /// Made now, to be used for so many seconds.
    pub fn lasting(now: u64, seconds: u64) -> Self {
        Self { issued_at: now, expires_at: now.saturating_add(seconds) }
    }
}

/// Why an artifact was not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// Header and payload make no JWS.
    #[error(transparent)]
    Jws(#[from] JwsError),
    /// The times are not in order, or not times.
    #[error("a signature must expire after it was made, and before 2^53 seconds")]
    Times,
    /// Not r and s, or not DER of them.
    #[error("the signature is malformed")]
    Malformed,
    /// The signature is not the key's over what was prepared.
    #[error("the signature is not by the key {0:?}")]
    Wrong(String),
}

/// An artifact with everything but the signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    unsigned: Unsigned,
    key: Jwk,
}

/// What is to be signed with this key of the artifact's workspace.
///
/// # Errors
/// [`SignError::Times`], [`SignError::Jws`].
pub fn prepare(artifact: &Artifact, key: &Jwk, times: Times) -> Result<Prepared, SignError> {
    let Times { issued_at, expires_at } = times;
    if issued_at >= expires_at || expires_at > MAX_SAFE_INTEGER.unsigned_abs() {
        return Err(SignError::Times);
    }
    let members: [(&str, Value); 9] = [
        ("alg", json!(ALGORITHM)),
        ("kid", json!(key.kid())),
        ("typ", json!(TYP)),
        ("iss", json!(artifact.workspace())),
        ("sub", json!(artifact.id())),
        ("iat", json!(issued_at)),
        ("exp", json!(expires_at)),
        ("artifact_type", json!(artifact.artifact_type())),
        ("artifact_version", json!(artifact.version())),
    ];
    let header: Map<String, Value> = members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Ok(Prepared { unsigned: Unsigned::new(header, artifact.canonical().to_vec())?, key: key.clone() })
}

/// Signs with a key that is at hand.
///
/// # Errors
/// [`SignError`].
pub fn sign(artifact: &Artifact, key: &Signer, times: Times) -> Result<SignedArtifact, SignError> {
    let prepared = prepare(artifact, &key.jwk(), times)?;
    let signature = key.sign_raw(&prepared.signing_input());
    prepared.finish(&signature)
}

impl Prepared {
    /// The bytes whose SHA-256 is to be signed.
    pub fn signing_input(&self) -> Vec<u8> {
        self.unsigned.signing_input()
    }

    /// Their SHA-256, for signers that take digests.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.signing_input())
    }

    /// The signed artifact, from r and s of 32 bytes each.
    ///
    /// # Errors
    /// [`SignError::Wrong`]: a wrong signature, whoever made it, does not leave here.
    pub fn finish(self, signature: &[u8; SIGNATURE_BYTES]) -> Result<SignedArtifact, SignError> {
        if !self.key.verifies(&self.signing_input(), signature) {
            return Err(SignError::Wrong(self.key.kid().to_owned()));
        }
        Ok(SignedArtifact { jws: self.unsigned.with_signature(signature), key: self.key })
    }

    /// As [`Self::finish`], from DER, as KMSs give it.
    ///
    /// # Errors
    /// [`SignError::Malformed`], [`SignError::Wrong`].
    pub fn finish_der(self, der: &[u8]) -> Result<SignedArtifact, SignError> {
        let signature = signature_from_der(der).ok_or(SignError::Malformed)?;
        self.finish(&signature)
    }
}

/// A signed artifact. Its signature holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedArtifact {
    jws: Jws,
    key: Jwk,
}

impl SignedArtifact {
    /// The JWS.
    pub fn jws(&self) -> &Jws {
        &self.jws
    }

    /// The key that signed.
    pub fn key(&self) -> &Jwk {
        &self.key
    }

    /// The flattened JSON serialization (media type `application/jose+json`).
    pub fn to_flattened(&self) -> Vec<u8> {
        self.jws.to_flattened()
    }

    /// The compact serialization (media type `application/jose`).
    pub fn to_compact(&self) -> String {
        self.jws.to_compact()
    }

    /// The leaf for the log. It digests the signing input, since that is what the signature is over.
    ///
    /// # Errors
    /// [`EntryError`].
    pub fn log_entry(&self) -> Result<HashedRekord, EntryError> {
        log_entry(&self.jws, &self.key)
    }
}

/// The leaf of a signed artifact that is read back, by the key that signed it.
///
/// # Errors
/// [`EntryError`].
pub fn log_entry(jws: &Jws, key: &Jwk) -> Result<HashedRekord, EntryError> {
    let digest = Digest::of(&jws.signing_input());
    let signature = signature_to_der(jws.signature()).ok_or(EntryError::Signature)?;
    HashedRekord::new(digest.0.to_vec(), signature, Verifier::PublicKey(p256_spki(key)))
}
