//! Keys: P-256 for signing, and P-256, P-384 or Ed25519 for what others signed.
//!
//! Signatures of ours are deterministic (RFC 6979), in DER (RFC 3279 section 2.2.3), as Sigstore's bundles have them, or
//! as r and s (RFC 7518 section 3.4), as JWS have them.

use std::fmt;

use countersign_proof::digest::Digest;
use countersign_proof::jwk::Jwk;
use countersign_proof::jws::SIGNATURE_BYTES;
use der::Decode as _;
use der::asn1::ObjectIdentifier;
use p256::ecdsa::signature::hazmat::{PrehashSigner as _, PrehashVerifier as _};
use sha2::Digest as _;
use spki::SubjectPublicKeyInfoRef;
use zeroize::{Zeroize as _, Zeroizing};

use crate::asn1::oid;

/// The longest public key (DER of a `SubjectPublicKeyInfo`) that is read, in bytes.
pub const MAX_SPKI_BYTES: usize = 2048;

/// Everything in a P-256 `SubjectPublicKeyInfo` (RFC 5480 section 2) before the uncompressed point's 65 bytes.
const P256_SPKI_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Everything in an Ed25519 `SubjectPublicKeyInfo` (RFC 8410 section 4) before the key's 32 bytes.
const ED25519_SPKI_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Why a key was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a `SubjectPublicKeyInfo`, too long a one, or not a point of its curve.
    #[error("malformed public key")]
    Malformed,
    /// An algorithm or curve that is not supported here.
    #[error("keys of kind {0} are not supported")]
    Unsupported(String),
    /// A secret that is not a scalar of the curve.
    #[error("not a P-256 secret key")]
    Secret,
}

/// The hash algorithms that signatures and timestamps use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HashAlgorithm {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl HashAlgorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// The digest of `bytes`.
    pub fn digest(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => sha2::Sha256::digest(bytes).to_vec(),
            Self::Sha384 => sha2::Sha384::digest(bytes).to_vec(),
            Self::Sha512 => sha2::Sha512::digest(bytes).to_vec(),
        }
    }

    /// Length of a digest in bytes.
    pub fn digest_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The name in Sigstore's protobuf JSON.
    pub fn sigstore_name(self) -> &'static str {
        match self {
            Self::Sha256 => "SHA2_256",
            Self::Sha384 => "SHA2_384",
            Self::Sha512 => "SHA2_512",
        }
    }

    /// The name in in-toto subjects and in Rekor's older entries.
    pub fn in_toto_name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    pub(crate) fn oid(self) -> ObjectIdentifier {
        match self {
            Self::Sha256 => oid::SHA256,
            Self::Sha384 => oid::SHA384,
            Self::Sha512 => oid::SHA512,
        }
    }

    pub(crate) fn from_oid(id: &ObjectIdentifier) -> Option<Self> {
        Self::ALL.into_iter().find(|h| h.oid() == *id)
    }

    pub(crate) fn from_sigstore_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|h| h.sigstore_name() == name)
    }

    /// The hash of an ECDSA signature algorithm (RFC 5758 section 3.2).
    pub(crate) fn of_ecdsa(id: &ObjectIdentifier) -> Option<Self> {
        match *id {
            oid::ECDSA_SHA256 => Some(Self::Sha256),
            oid::ECDSA_SHA384 => Some(Self::Sha384),
            oid::ECDSA_SHA512 => Some(Self::Sha512),
            _ => None,
        }
    }
}

/// A P-256 key that signs. The secret is wiped from memory when this is dropped.
#[derive(Clone)]
pub struct Signer(p256::ecdsa::SigningKey);

impl Signer {
    /// The key that a seed of 32 uniformly random bytes stands for. Different labels give independent keys.
    pub fn from_seed(seed: &[u8; 32], label: &str) -> Self {
        let mut attempt = 0_u8;
        loop {
            let mut scalar = derive(seed, label, attempt);
            let key = p256::ecdsa::SigningKey::from_slice(&scalar);
            scalar.zeroize();
            match key {
                Ok(key) => return Self(key),
                // A hash is no scalar of the curve once in 2^32; many in a row do not happen.
                Err(_) => attempt = attempt.wrapping_add(1),
            }
        }
    }

    /// A key from its secret scalar, big-endian, as [`Self::to_bytes`] gave it.
    ///
    /// # Errors
    /// [`KeyError::Secret`].
    pub fn from_bytes(secret: &[u8; 32]) -> Result<Self, KeyError> {
        p256::ecdsa::SigningKey::from_slice(secret).map(Self).map_err(|_| KeyError::Secret)
    }

    /// The secret scalar, big-endian. The caller seals it.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes().into())
    }

    /// Signs the SHA-256 of `message`; DER.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.sign_digest(&Digest::of(message))
    }

    /// Signs a message by its SHA-256; DER.
    pub fn sign_digest(&self, digest: &Digest) -> Vec<u8> {
        let signature: Result<p256::ecdsa::Signature, _> = self.0.sign_prehash(digest.as_bytes());
        // It is refused only for digests shorter than half a scalar. An empty signature holds for nothing.
        signature.map_or_else(|_| Vec::new(), |s| s.to_der().as_bytes().to_vec())
    }

    /// Signs the SHA-256 of `message`; r and s of 32 bytes each.
    pub fn sign_raw(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let signature: Result<p256::ecdsa::Signature, _> = self.0.sign_prehash(Digest::of(message).as_bytes());
        // As above. Zeros hold for nothing either.
        signature.map_or([0; SIGNATURE_BYTES], |s| s.to_bytes().into())
    }

    /// The public key as DER of a `SubjectPublicKeyInfo`.
    pub fn spki(&self) -> Vec<u8> {
        [P256_SPKI_HEAD.as_slice(), self.0.verifying_key().to_sec1_point(false).as_bytes()].concat()
    }

    /// The public key as a JSON Web Key; its `kid` is its thumbprint.
    pub fn jwk(&self) -> Jwk {
        Jwk::from(*self.0.verifying_key())
    }
}

impl fmt::Debug for Signer {
    /// Names the key; never shows the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signer").field(&Digest::of(&self.spki())).finish()
    }
}

/// SHA-256 of a domain tag, the label, an attempt and the seed. The caller wipes it where it is a secret.
pub(crate) fn derive(seed: &[u8; 32], label: &str, attempt: u8) -> [u8; 32] {
    Digest::of_parts(&[b"countersign-trust/v1\n", label.as_bytes(), b"\n", &[attempt], seed]).0
}

/// A public key of somebody who signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// ECDSA over P-256.
    P256(p256::ecdsa::VerifyingKey),
    /// ECDSA over P-384.
    P384(p384::ecdsa::VerifyingKey),
    /// Ed25519.
    Ed25519(ed25519_dalek::VerifyingKey),
}

impl PublicKey {
    /// Reads DER of a `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        if der.len() > MAX_SPKI_BYTES {
            return Err(KeyError::Malformed);
        }
        let info = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| KeyError::Malformed)?;
        let key = info.subject_public_key.as_bytes().ok_or(KeyError::Malformed)?;
        match info.algorithm.oid {
            oid::ED25519 => ed25519(key).map(Self::Ed25519),
            oid::EC_PUBLIC_KEY => {
                let curve = info.algorithm.parameters_oid().map_err(|_| KeyError::Malformed)?;
                match curve {
                    oid::P256 => p256::ecdsa::VerifyingKey::from_sec1_bytes(key).map(Self::P256),
                    oid::P384 => p384::ecdsa::VerifyingKey::from_sec1_bytes(key).map(Self::P384),
                    other => return Err(KeyError::Unsupported(other.to_string())),
                }
                .map_err(|_| KeyError::Malformed)
            }
            other => Err(KeyError::Unsupported(named(&other))),
        }
    }

    /// Whether `signature` (DER for ECDSA, 64 bytes for Ed25519) is this key's over `message`. Ed25519 hashes by itself.
    pub fn verify(&self, hash: HashAlgorithm, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Ed25519(key) => ed25519_dalek::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok()),
            Self::P256(_) | Self::P384(_) => self.verify_digest(&hash.digest(message), signature),
        }
    }

    /// Whether `signature` is this key's over a message with this digest. Never so for Ed25519, which needs the message.
    pub fn verify_digest(&self, digest: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::P256(key) => p256::ecdsa::Signature::from_der(signature)
                .is_ok_and(|signature| key.verify_prehash(digest, &signature).is_ok()),
            Self::P384(key) => p384::ecdsa::Signature::from_der(signature)
                .is_ok_and(|signature| key.verify_prehash(digest, &signature).is_ok()),
            Self::Ed25519(_) => false,
        }
    }

    /// The key as a JSON Web Key, which has its thumbprint as its name; only of P-256 keys.
    pub fn jwk(&self) -> Option<Jwk> {
        match self {
            Self::P256(key) => Some(Jwk::from(*key)),
            Self::P384(_) | Self::Ed25519(_) => None,
        }
    }

    /// The hash that Sigstore's algorithm registry pairs with this key.
    pub fn registered_hash(&self) -> HashAlgorithm {
        match self {
            Self::P256(_) => HashAlgorithm::Sha256,
            Self::P384(_) => HashAlgorithm::Sha384,
            Self::Ed25519(_) => HashAlgorithm::Sha512,
        }
    }

    /// The name of key and hash in Sigstore's algorithm registry (`PublicKeyDetails`).
    pub fn details(&self) -> &'static str {
        match self {
            Self::P256(_) => "PKIX_ECDSA_P256_SHA_256",
            Self::P384(_) => "PKIX_ECDSA_P384_SHA_384",
            Self::Ed25519(_) => "PKIX_ED25519",
        }
    }
}

/// An algorithm in words, where it is one that people will meet and that is not supported: RSA (RFC 8017 appendix A).
pub(crate) fn named(id: &ObjectIdentifier) -> String {
    match id.parent() {
        Some(family) if family == oid::PKCS1 => format!("RSA ({id})"),
        _ => id.to_string(),
    }
}

/// A P-256 signature (DER) as the one of its two forms whose s is low: (r, s) and (r, n - s) verify alike. Other bytes as they are.
pub fn low_s(signature: &[u8]) -> Vec<u8> {
    let parsed = p256::ecdsa::Signature::from_der(signature);
    parsed.map_or_else(|_| signature.to_vec(), |parsed| parsed.normalize_s().to_der().as_bytes().to_vec())
}

fn ed25519(key: &[u8]) -> Result<ed25519_dalek::VerifyingKey, KeyError> {
    let key = key.try_into().map_err(|_| KeyError::Malformed)?;
    let key = ed25519_dalek::VerifyingKey::from_bytes(key).map_err(|_| KeyError::Malformed)?;
    // For keys of small order, signatures can be made that hold for many messages.
    if key.is_weak() { Err(KeyError::Malformed) } else { Ok(key) }
}

/// DER of a `SubjectPublicKeyInfo` for a P-256 key.
pub fn p256_spki(key: &Jwk) -> Vec<u8> {
    [P256_SPKI_HEAD.as_slice(), &key.point()].concat()
}

/// Turns r and s into DER; nothing where they are no signature's.
pub fn signature_to_der(signature: &[u8; SIGNATURE_BYTES]) -> Option<Vec<u8>> {
    Some(p256::ecdsa::Signature::from_slice(signature).ok()?.to_der().as_bytes().to_vec())
}

/// DER of a `SubjectPublicKeyInfo` for an Ed25519 key.
pub fn ed25519_spki(public_key: &[u8; 32]) -> Vec<u8> {
    [ED25519_SPKI_HEAD.as_slice(), public_key].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        let nibble = |b: u8| (b as char).to_digit(16).unwrap() as u8;
        let bytes: Vec<u8> = hex.as_bytes().chunks(2).map(|p| nibble(p[0]) << 4 | nibble(p[1])).collect();
        bytes.try_into().unwrap()
    }

    #[test]
    fn signatures_are_those_of_rfc_6979() {
        // RFC 6979 appendix A.2.5, SHA-256.
        let key =
            Signer::from_bytes(&bytes("C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721")).unwrap();
        for (message, r, s) in [
            (
                "sample",
                "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716",
                "F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8",
            ),
            (
                "test",
                "F1ABB023518351CD71D881567B1EA663ED3EFCF6C5132B354F28D3B0B7D38367",
                "019F4113742A2B14BD25926B49C649155F267E60D3814B4C0CC84250E46F0083",
            ),
        ] {
            let signature = key.sign(message.as_bytes());
            let parsed = p256::ecdsa::Signature::from_der(&signature).unwrap();
            assert_eq!(parsed.to_bytes()[..], [bytes::<32>(r), bytes::<32>(s)].concat()[..], "{message}");
            let public = PublicKey::from_spki(&key.spki()).unwrap();
            assert!(public.verify(HashAlgorithm::Sha256, message.as_bytes(), &signature));
            assert!(!public.verify(HashAlgorithm::Sha256, b"another", &signature));
            assert!(!public.verify(HashAlgorithm::Sha384, message.as_bytes(), &signature));
        }
    }

    #[test]
    fn a_seed_gives_one_key_for_each_label() {
        let (a, b) = (Signer::from_seed(&[7; 32], "a"), Signer::from_seed(&[7; 32], "b"));
        assert_eq!(a.spki(), Signer::from_seed(&[7; 32], "a").spki());
        assert_ne!(a.spki(), b.spki());
        assert_eq!(Signer::from_bytes(&a.to_bytes()).unwrap().spki(), a.spki());
        assert_eq!(format!("{a:?}"), format!("Signer({})", Digest::of(&a.spki())));
    }

    #[test]
    fn keys_that_are_none_are_refused() {
        let good = Signer::from_seed(&[7; 32], "a").spki();
        let mut off_curve = good.clone();
        *off_curve.last_mut().unwrap() ^= 1;
        for wrong in [&[][..], &good[..90], &off_curve, &[good.as_slice(), &[0]].concat(), &vec![0x30; 5000]] {
            assert_eq!(PublicKey::from_spki(wrong), Err(KeyError::Malformed));
        }
        // RFC 8410 section 10.1's key, and one of order 1.
        let ed = bytes("19BF44096984CDFE8541BAC167DC3B96C85086AA30B6B6CB0C5C38AD703166E1");
        assert_eq!(PublicKey::from_spki(&ed25519_spki(&ed)).unwrap().details(), "PKIX_ED25519");
        let mut weak = [0; 32];
        weak[0] = 1;
        assert_eq!(PublicKey::from_spki(&ed25519_spki(&weak)), Err(KeyError::Malformed));
        assert_eq!(Signer::from_bytes(&[0; 32]).map(|_| ()), Err(KeyError::Secret));
        assert_eq!(Signer::from_bytes(&[0xff; 32]).map(|_| ()), Err(KeyError::Secret));
    }
}
