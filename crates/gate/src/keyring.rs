//! Workspace keys: what seals contents at rest and fingerprints what must be compared but not revealed.
//!
//! A root key (32 bytes, from the composition root) wraps one random key per workspace; sub-keys come from it by HKDF-SHA256
//! (RFC 5869). Sealing is AES-256-GCM with a random nonce in front; the associated data names what is sealed, so that one
//! sealed thing can't be passed off as another.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hkdf, hmac};
use countersign_domain::WorkspaceName;
use countersign_ledger::state::{Fingerprint, StateOp};
use countersign_ledger::{Append, AppendError, Ledger};
use zeroize::Zeroizing;

const NONCE: usize = 12;

/// Why a key or a sealed thing could not be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The bytes were not sealed with this key for this purpose, or were changed.
    #[error("sealed data does not open")]
    DoesNotOpen,
    /// The ledger could not store or read a wrapped key.
    #[error("workspace key: {0}")]
    Ledger(String),
    /// The cryptographic library refused; does not happen with keys of ours.
    #[error("cryptographic failure")]
    Crypto,
}

/// The keys of one workspace.
pub struct WorkspaceKeys {
    seal: RandomizedNonceKey,
    fingerprint: hmac::Key,
    token: hmac::Key,
}

impl WorkspaceKeys {
    fn derive(key: &[u8; 32]) -> Result<Self, KeyError> {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"countersign/workspace/v1").extract(key);
        let sub = |label: &'static [u8]| -> Result<Zeroizing<[u8; 32]>, KeyError> {
            let mut out = Zeroizing::new([0; 32]);
            let okm = prk.expand(std::slice::from_ref(&label), hkdf::HKDF_SHA256).map_err(|_| KeyError::Crypto)?;
            okm.fill(&mut out[..]).map_err(|_| KeyError::Crypto)?;
            Ok(out)
        };
        Ok(Self {
            seal: RandomizedNonceKey::new(&AES_256_GCM, &sub(b"seal")?[..]).map_err(|_| KeyError::Crypto)?,
            fingerprint: hmac::Key::new(hmac::HMAC_SHA256, &sub(b"fingerprint")?[..]),
            token: hmac::Key::new(hmac::HMAC_SHA256, &sub(b"action-token")?[..]),
        })
    }

    /// An HMAC-SHA256 over the parts, each with its length, under a label.
    pub fn fingerprint(&self, label: &str, parts: &[&[u8]]) -> Fingerprint {
        mac(&self.fingerprint, label, parts)
    }

    /// The secret half of a request's action token.
    pub fn action_token(&self, request: &[u8], requester: &str) -> Fingerprint {
        mac(&self.token, "redeem", &[request, requester.as_bytes()])
    }

    /// Seals `plain` for a purpose: nonce ‖ ciphertext ‖ tag.
    ///
    /// # Errors
    /// Only if the cryptographic library fails.
    pub fn seal(&self, purpose: &[u8], plain: &[u8]) -> Result<Vec<u8>, KeyError> {
        seal_with(&self.seal, purpose, plain)
    }

    /// Opens what [`WorkspaceKeys::seal`] sealed for the same purpose.
    ///
    /// # Errors
    /// If it was sealed otherwise, or changed.
    pub fn open(&self, purpose: &[u8], sealed: &[u8]) -> Result<Vec<u8>, KeyError> {
        open_with(&self.seal, purpose, sealed)
    }
}

fn mac(key: &hmac::Key, label: &str, parts: &[&[u8]]) -> Fingerprint {
    let mut context = hmac::Context::with_key(key);
    for part in std::iter::once(&label.as_bytes()).chain(parts) {
        // The length prefix makes the encoding injective: no two lists of parts share their bytes.
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.sign().as_ref());
    out
}

fn seal_with(key: &RandomizedNonceKey, purpose: &[u8], plain: &[u8]) -> Result<Vec<u8>, KeyError> {
    let mut body = plain.to_vec();
    let nonce = key.seal_in_place_append_tag(Aad::from(purpose), &mut body).map_err(|_| KeyError::Crypto)?;
    let mut out = Vec::with_capacity(NONCE + body.len());
    out.extend_from_slice(nonce.as_ref());
    out.append(&mut body);
    Ok(out)
}

fn open_with(key: &RandomizedNonceKey, purpose: &[u8], sealed: &[u8]) -> Result<Vec<u8>, KeyError> {
    let (nonce, body) = sealed.split_at_checked(NONCE).ok_or(KeyError::DoesNotOpen)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| KeyError::DoesNotOpen)?;
    let mut body = body.to_vec();
    let plain = key.open_in_place(nonce, Aad::from(purpose), &mut body).map_err(|_| KeyError::DoesNotOpen)?;
    Ok(plain.to_vec())
}

/// All workspaces' keys, loaded on first use and kept in memory.
pub struct Keyring {
    root: RandomizedNonceKey,
    ledger: Ledger,
    cache: RwLock<HashMap<WorkspaceName, Arc<WorkspaceKeys>>>,
}

impl Keyring {
    /// A keyring over the root key.
    ///
    /// # Errors
    /// Only if the cryptographic library fails.
    pub fn new(root: &[u8; 32], ledger: Ledger) -> Result<Self, KeyError> {
        let root = RandomizedNonceKey::new(&AES_256_GCM, root).map_err(|_| KeyError::Crypto)?;
        Ok(Self { root, ledger, cache: RwLock::default() })
    }

    /// A workspace's keys; made and stored on first use.
    ///
    /// # Errors
    /// If the ledger is away, or the stored key does not open under this root.
    pub async fn workspace(&self, name: &WorkspaceName) -> Result<Arc<WorkspaceKeys>, KeyError> {
        if let Some(keys) = self.cache.read().ok().and_then(|cache| cache.get(name).cloned()) {
            return Ok(keys);
        }
        let purpose = [b"countersign/workspace-key/v1|", name.as_str().as_bytes()].concat();
        let wrapped = match self.stored(name).await? {
            Some(wrapped) => wrapped,
            None => self.create(name, &purpose).await?,
        };
        let plain = Zeroizing::new(open_with(&self.root, &purpose, &wrapped)?);
        let key = Zeroizing::new(<[u8; 32]>::try_from(&plain[..]).map_err(|_| KeyError::DoesNotOpen)?);
        let keys = Arc::new(WorkspaceKeys::derive(&key)?);
        if let Ok(mut cache) = self.cache.write() {
            cache.insert(name.clone(), Arc::clone(&keys));
        }
        Ok(keys)
    }

    async fn stored(&self, name: &WorkspaceName) -> Result<Option<Vec<u8>>, KeyError> {
        let name = name.clone();
        self.ledger.read(move |r| r.workspace_key(&name)).await.map_err(|e| KeyError::Ledger(e.to_string()))
    }

    /// Stores a new key. Two at once are harmless: the first one stored wins, and it is read back.
    async fn create(&self, name: &WorkspaceName, purpose: &[u8]) -> Result<Vec<u8>, KeyError> {
        let key = Zeroizing::new(crate::entropy::<32>());
        let wrapped = seal_with(&self.root, purpose, &key[..])?;
        let op = StateOp::WorkspaceKey { workspace: name.clone(), wrapped };
        let stored = self.ledger.append(Append { events: vec![], ops: vec![op], ..Append::default() }).await;
        stored.map_err(|e: AppendError| KeyError::Ledger(e.to_string()))?;
        self.stored(name).await?.ok_or_else(|| KeyError::Ledger("the new key was not stored".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_things_open_only_for_their_purpose() {
        let keys = WorkspaceKeys::derive(&[7; 32]).expect("keys");
        let sealed = keys.seal(b"arguments|1", b"secret").expect("seals");
        assert_eq!(keys.open(b"arguments|1", &sealed).expect("opens"), b"secret");
        assert!(keys.open(b"arguments|2", &sealed).is_err());
        for i in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[i] ^= 1;
            assert!(keys.open(b"arguments|1", &bent).is_err(), "byte {i}");
        }
        let other = WorkspaceKeys::derive(&[8; 32]).expect("keys");
        assert!(other.open(b"arguments|1", &sealed).is_err());
    }

    #[test]
    fn fingerprints_do_not_mix_parts() {
        let keys = WorkspaceKeys::derive(&[7; 32]).expect("keys");
        assert_ne!(keys.fingerprint("x", &[b"ab", b"c"]), keys.fingerprint("x", &[b"a", b"bc"]));
        assert_ne!(keys.fingerprint("x", &[b"ab"]), keys.fingerprint("y", &[b"ab"]));
    }
}
