//! The last look at a signature before anybody gets it, and the public keys that this needs.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use countersign_proof::digest::Digest;
use countersign_proof::jwk::Jwk;
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use p256::ecdsa::{Signature, VerifyingKey};

use crate::KeyError;

/// Most public keys that are remembered; beyond, they are asked for again.
const MAX_REMEMBERED: usize = 1024;

/// The signature, if it is the key's over the digest.
pub(crate) fn verified(public: &Jwk, digest: &Digest, signature: &[u8; 64]) -> Result<[u8; 64], KeyError> {
    let key = VerifyingKey::from_sec1_bytes(&public.point());
    let holds = key.is_ok_and(|key| {
        Signature::from_slice(signature).is_ok_and(|parsed| key.verify_prehash(digest.as_bytes(), &parsed).is_ok())
    });
    if holds {
        return Ok(*signature);
    }
    let kid = public.kid();
    Err(KeyError::Refused(format!(
        "the provider's signature is not by the key {kid} over this digest; it was thrown away"
    )))
}

/// Public keys by their references.
#[derive(Debug, Default)]
pub(crate) struct PublicKeys(Mutex<HashMap<String, Jwk>>);

impl PublicKeys {
    pub(crate) fn get(&self, reference: &str) -> Option<Jwk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(reference).cloned()
    }

    pub(crate) fn put(&self, reference: &str, public: &Jwk) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= MAX_REMEMBERED {
            keys.clear();
        }
        keys.insert(reference.to_owned(), public.clone());
    }
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::SigningKey;
    use p256::ecdsa::signature::hazmat::PrehashSigner as _;

    use super::*;

    #[test]
    fn only_the_keys_own_signature_over_the_digest_passes() {
        let pair = |seed| {
            let secret = SigningKey::from_slice(&[seed; 32]).unwrap();
            let point = secret.verifying_key().to_sec1_point(false);
            let public = Jwk::from_point(&point.as_bytes().try_into().unwrap()).unwrap();
            (secret, public)
        };
        let ((secret, public), (_, other)) = (pair(1), pair(2));
        let digest = Digest::of(b"text");
        let signature: Signature = secret.sign_prehash(digest.as_bytes()).unwrap();
        let signature: [u8; 64] = signature.to_bytes().into();
        assert_eq!(verified(&public, &digest, &signature), Ok(signature));
        let mut changed = signature;
        changed[63] ^= 1;
        for (key, digest, signature) in [
            (&other, digest, signature),
            (&public, Digest::of(b"Text"), signature),
            (&public, digest, changed),
            (&public, digest, [0; 64]),
            (&public, digest, [0xff; 64]),
        ] {
            assert!(matches!(verified(key, &digest, &signature), Err(KeyError::Refused(_))));
        }
    }
}
