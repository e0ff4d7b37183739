//! Keys that live in somebody else's keeping: hardware with a PKCS#11 module, or AWS KMS.
//!
//! One contract for both, and for whoever else keeps keys: [`SigningKeys`] makes P-256 keys and signs with them (ES256, RFC 7518
//! section 3.4), [`RootKey`] wraps a node's root secret. What crosses the contract are digests, signatures, public keys and wrapped
//! secrets, never a private key. The embedded default, keys sealed in the database, is the server's and needs no keeper.
//!
//! - A signature is verified here, against the key's public half, before anybody gets it: a provider that errs is noticed where it errs.
//! - Every operation has a deadline. What may be tried again is tried again inside it, a few times; the caller need not.
//! - Messages are for operators. They say what to do, and never hold a PIN, a password or a secret.

mod error;
mod kms;
mod pkcs11;
mod secret;
mod signature;

use async_trait::async_trait;
use countersign_proof::digest::Digest;
use countersign_proof::jwk::Jwk;
use zeroize::Zeroizing;

pub use error::KeyError;
pub use kms::{AwsCredentialSources, AwsKms, AwsKmsConfig};
pub use pkcs11::{Pkcs11Config, Pkcs11Keys, TokenChoice};
pub use secret::{SecretSource, SecretText};

/// Longest label of a key, in bytes. Labels are letters, digits, `/`, `_` and `-` of ASCII: what every provider takes.
pub const MAX_LABEL_BYTES: usize = 128;

/// A signing key that a provider holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeKey {
    /// What the provider knows it by; to be kept, and given to [`SigningKeys::sign`].
    pub reference: String,
    /// Its public half.
    pub public: Jwk,
}

/// Makes P-256 key pairs and signs with them.
#[async_trait]
pub trait SigningKeys: Send + Sync {
    /// The provider's name in configuration and listings: `pkcs11`, `aws-kms`.
    fn provider(&self) -> &'static str;

    /// Makes a key pair under a label that nothing else has. If a usable one has the label already, it is that one: after a crash, or
    /// an error that left open whether the key was made, the same call is made again.
    ///
    /// Two nodes that do this at the same moment may each get a key of their own; both keys work, and whoever keeps references
    /// decides which one counts.
    ///
    /// # Errors
    /// [`KeyError`].
    async fn create(&self, label: &str) -> Result<MadeKey, KeyError>;

    /// Signs a SHA-256 digest: r and s, 32 bytes each, verified against the public key.
    ///
    /// # Errors
    /// [`KeyError`].
    async fn sign(&self, reference: &str, digest: &Digest) -> Result<[u8; 64], KeyError>;
}

/// Wraps a root secret under a key that never leaves its provider.
#[async_trait]
pub trait RootKey: Send + Sync {
    /// Wraps a secret. The same secret is wrapped into other bytes each time.
    ///
    /// # Errors
    /// [`KeyError`].
    async fn wrap(&self, secret: &[u8; 32]) -> Result<Vec<u8>, KeyError>;

    /// Gives back what [`RootKey::wrap`] wrapped.
    ///
    /// # Errors
    /// [`KeyError::Refused`] if the bytes were changed or another key wrapped them, [`KeyError::Malformed`] if they are nothing of
    /// this provider's; otherwise as for any operation.
    async fn unwrap(&self, wrapped: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeyError>;
}

/// Whether every provider takes the label.
fn check_label(label: &str) -> Result<(), KeyError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"/_-".contains(&b);
    if (1..=MAX_LABEL_BYTES).contains(&label.len()) && label.bytes().all(fits) {
        return Ok(());
    }
    let words =
        format!("a key's label is 1 to {MAX_LABEL_BYTES} letters, digits, `/`, `_` or `-`; {label:.140?} is not");
    Err(KeyError::Config(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_what_every_provider_takes() {
        for good in ["a", "acme/1", "ws_0-9/Z", &"x".repeat(MAX_LABEL_BYTES)] {
            assert_eq!(check_label(good), Ok(()), "{good}");
        }
        for bad in ["", "a b", "a.b", "ä", "a:b", "a\n", &"x".repeat(MAX_LABEL_BYTES + 1)] {
            assert!(matches!(check_label(bad), Err(KeyError::Config(_))), "{bad}");
        }
    }
}
