//! The log's leaf for a signed artifact: the RFC 8785 bytes of Rekor's `hashedrekord` entry, version 0.0.2, and the
//! request that asks a log of Rekor's second version for one.
//!
//! What was signed is in it as a digest only: of the artifact, or of an envelope's pre-authentication encoding.

use countersign_proof::canonical::canonical_of;
use serde::{Deserialize, Serialize};

use crate::certificate::{Certificate, CertificateError};
use crate::keys::{HashAlgorithm, KeyError, PublicKey};
use crate::wire::{self, Base64, ShapeError};

/// The kind of these entries.
pub const KIND: &str = "hashedrekord";
/// Their version.
pub const VERSION: &str = "0.0.2";
/// The largest leaf: tiles of entries prefix each with its length in 16 bits (C2SP tlog-tiles).
pub const MAX_BODY_BYTES: usize = 65_535;
/// The largest request, in bytes.
pub const MAX_REQUEST_BYTES: usize = 65_535;

/// Why bytes are no entry, or an entry that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Not JSON, or not of this shape.
    #[error("not a hashedrekord entry: {0}")]
    Shape(#[from] ShapeError),
    /// The bytes are not the canonical ones.
    #[error("the entry is not in canonical form (RFC 8785)")]
    NotCanonical,
    /// Another kind or version of entry.
    #[error("entries of kind {0:?} are not accepted; log the digest of a DSSE envelope's encoding as hashedrekord")]
    Kind(String),
    /// A hash that is not supported, or a digest of another length.
    #[error("the digest is not one of {0:?}")]
    Digest(String),
    /// Not exactly one certificate or public key.
    #[error("the verifier must be exactly one certificate or one public key")]
    Verifier,
    /// The certificate cannot be read.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The key cannot be read or is not supported.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// `keyDetails` is not what the key is.
    #[error("keyDetails says {stated:?}, but the key is {actual}")]
    KeyDetails {
        /// In the entry.
        stated: String,
        /// The key's.
        actual: &'static str,
    },
    /// The signature is not over that digest by that key.
    #[error("the signature is wrong")]
    Signature,
    /// The entry would be larger than a leaf may be.
    #[error("the entry has more than {MAX_BODY_BYTES} bytes")]
    TooLarge,
}

/// With what a signature is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verifier {
    /// DER of a certificate.
    Certificate(Vec<u8>),
    /// DER of a `SubjectPublicKeyInfo`.
    PublicKey(Vec<u8>),
}

impl Verifier {
    /// The public key.
    ///
    /// # Errors
    /// [`EntryError::Certificate`], [`EntryError::Key`].
    pub fn public_key(&self) -> Result<PublicKey, EntryError> {
        match self {
            Self::Certificate(der) => Ok(Certificate::from_der(der)?.public_key()?),
            Self::PublicKey(spki) => Ok(PublicKey::from_spki(spki)?),
        }
    }
}

/// An entry: that a signature over a digest was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashedRekord {
    /// Of what `digest` is.
    pub hash: HashAlgorithm,
    /// Of what was signed.
    pub digest: Vec<u8>,
    /// DER for ECDSA.
    pub signature: Vec<u8>,
    /// With what it is verified.
    pub verifier: Verifier,
    /// The key's name in Sigstore's algorithm registry.
    pub key_details: String,
}

impl HashedRekord {
    /// An entry of which everything is known to fit: the key is read, its hash is the registry's, and the signature holds.
    ///
    /// # Errors
    /// [`EntryError`].
    pub fn new(digest: Vec<u8>, signature: Vec<u8>, verifier: Verifier) -> Result<Self, EntryError> {
        let key = verifier.public_key()?;
        let key_details = key.details().to_owned();
        let entry = Self { hash: key.registered_hash(), digest, signature, verifier, key_details };
        entry.check()?;
        Ok(entry)
    }

    /// The leaf.
    ///
    /// # Errors
    /// [`EntryError::TooLarge`].
    pub fn to_body(&self) -> Result<Vec<u8>, EntryError> {
        let data = Data { algorithm: self.hash.sigstore_name().to_owned(), digest: Base64(self.digest.clone()) };
        let signature = SignatureWire::of(self);
        let spec = Spec { v002: SpecV002 { data, signature } };
        let body = Body { api_version: VERSION.to_owned(), kind: KIND.to_owned(), spec };
        // Text and bytes only, which always have a canonical form.
        let bytes = canonical_of(&body).map_err(|e| ShapeError::Shape(e.to_string()))?;
        if bytes.len() > MAX_BODY_BYTES { Err(EntryError::TooLarge) } else { Ok(bytes) }
    }

    /// Reads a leaf. Only canonical bytes are one. Whether its signature holds is [`Self::check`]'s question.
    ///
    /// # Errors
    /// [`EntryError`].
    pub fn parse_body(bytes: &[u8]) -> Result<Self, EntryError> {
        let body: Body = wire::parse(bytes, MAX_BODY_BYTES)?;
        if body.kind != KIND || body.api_version != VERSION {
            return Err(EntryError::Kind(format!("{}/{}", body.kind, body.api_version)));
        }
        let SpecV002 { data, signature } = body.spec.v002;
        let hash = HashAlgorithm::from_sigstore_name(&data.algorithm);
        let hash = hash.filter(|h| h.digest_len() == data.digest.0.len()).ok_or(EntryError::Digest(data.algorithm))?;
        let entry = signature.into_entry(hash, data.digest.0)?;
        if entry.to_body()? == bytes { Ok(entry) } else { Err(EntryError::NotCanonical) }
    }

    /// Reads the body of `POST /api/v2/log/entries`, and verifies the signature in it.
    ///
    /// # Errors
    /// [`EntryError`].
    pub fn parse_request(json: &[u8]) -> Result<Self, EntryError> {
        let request: RequestWire = wire::parse(json, MAX_REQUEST_BYTES)?;
        let request = match (request.hashed_rekord, request.dsse) {
            (Some(request), None) => request,
            (None, Some(_)) => return Err(EntryError::Kind("dsse".to_owned())),
            _ => return Err(ShapeError::Shape("exactly one of the request's members must be there".to_owned()).into()),
        };
        // The request does not name the hash: it is the one that the registry pairs with the key.
        let entry = request.signature.into_entry(HashAlgorithm::Sha256, request.digest.0)?;
        let hash = entry.verifier.public_key()?.registered_hash();
        let entry = Self { hash, ..entry };
        entry.check()?;
        Ok(entry)
    }

    /// The body of `POST /api/v2/log/entries` that asks for this entry.
    pub fn to_request(&self) -> Vec<u8> {
        let request = RequestV002 { digest: Base64(self.digest.clone()), signature: SignatureWire::of(self) };
        wire::to_json(&RequestWire { hashed_rekord: Some(request), dsse: None })
    }

    /// Whether digest, key and signature fit one another. Whether the certificate is to be trusted is another question.
    ///
    /// # Errors
    /// [`EntryError`].
    pub fn check(&self) -> Result<(), EntryError> {
        let key = self.verifier.public_key()?;
        if self.key_details != key.details() {
            return Err(EntryError::KeyDetails { stated: self.key_details.clone(), actual: key.details() });
        }
        if self.hash != key.registered_hash() || self.digest.len() != self.hash.digest_len() {
            return Err(EntryError::Digest(key.registered_hash().sigstore_name().to_owned()));
        }
        if key.verify_digest(&self.digest, &self.signature) { Ok(()) } else { Err(EntryError::Signature) }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Body {
    api_version: String,
    kind: String,
    spec: Spec,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    #[serde(rename = "hashedRekordV002")]
    v002: SpecV002,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpecV002 {
    data: Data,
    signature: SignatureWire,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    algorithm: String,
    digest: Base64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignatureWire {
    content: Base64,
    verifier: VerifierWire,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct VerifierWire {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    public_key: Option<RawBytes>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x509_certificate: Option<RawBytes>,
    key_details: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawBytes {
    raw_bytes: Base64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestWire {
    #[serde(rename = "hashedRekordRequestV002", default, skip_serializing_if = "Option::is_none")]
    hashed_rekord: Option<RequestV002>,
    #[serde(rename = "dsseRequestV002", default, skip_serializing_if = "Option::is_none")]
    dsse: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestV002 {
    digest: Base64,
    signature: SignatureWire,
}

impl SignatureWire {
    fn of(entry: &HashedRekord) -> Self {
        let raw = |bytes: &Vec<u8>| Some(RawBytes { raw_bytes: Base64(bytes.clone()) });
        let (public_key, x509_certificate) = match &entry.verifier {
            Verifier::PublicKey(spki) => (raw(spki), None),
            Verifier::Certificate(der) => (None, raw(der)),
        };
        let verifier = VerifierWire { public_key, x509_certificate, key_details: entry.key_details.clone() };
        Self { content: Base64(entry.signature.clone()), verifier }
    }

    fn into_entry(self, hash: HashAlgorithm, digest: Vec<u8>) -> Result<HashedRekord, EntryError> {
        let verifier = match (self.verifier.public_key, self.verifier.x509_certificate) {
            (Some(key), None) => Verifier::PublicKey(key.raw_bytes.0),
            (None, Some(certificate)) => Verifier::Certificate(certificate.raw_bytes.0),
            _ => return Err(EntryError::Verifier),
        };
        let key_details = self.verifier.key_details;
        Ok(HashedRekord { hash, digest, signature: self.content.0, verifier, key_details })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Signer;

    fn entry() -> HashedRekord {
        let key = Signer::from_seed(&[1; 32], "test");
        let digest = HashAlgorithm::Sha256.digest(b"artifact");
        HashedRekord::new(digest, key.sign(b"artifact"), Verifier::PublicKey(key.spki())).unwrap()
    }

    #[test]
    fn the_leaf_is_canonical_and_read_back() {
        let entry = entry();
        let body = entry.to_body().unwrap();
        let text = std::str::from_utf8(&body).unwrap();
        let head = r#"{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{"data":{"algorithm":"SHA2_256","#;
        assert!(text.starts_with(head), "{text}");
        assert_eq!(HashedRekord::parse_body(&body).unwrap(), entry);
        let spaced = text.replacen(':', ": ", 1);
        assert_eq!(HashedRekord::parse_body(spaced.as_bytes()), Err(EntryError::NotCanonical));
    }

    #[test]
    fn a_request_is_read_back_and_its_signature_verified() {
        let entry = entry();
        assert_eq!(HashedRekord::parse_request(&entry.to_request()).unwrap(), entry);
        let other = HashedRekord { digest: HashAlgorithm::Sha256.digest(b"another"), ..entry.clone() };
        assert_eq!(HashedRekord::parse_request(&other.to_request()), Err(EntryError::Signature));
        let short = HashedRekord { digest: vec![1; 20], ..entry.clone() };
        assert_eq!(HashedRekord::parse_request(&short.to_request()), Err(EntryError::Digest("SHA2_256".to_owned())));
        let mislabelled = HashedRekord { key_details: "PKIX_ED25519".to_owned(), ..entry };
        assert!(matches!(HashedRekord::parse_request(&mislabelled.to_request()), Err(EntryError::KeyDetails { .. })));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let parse = |json: &str| HashedRekord::parse_request(json.as_bytes()).unwrap_err();
        assert_eq!(parse(r#"{"dsseRequestV002":{}}"#), EntryError::Kind("dsse".to_owned()));
        assert!(matches!(parse("{}"), EntryError::Shape(ShapeError::Shape(_))));
        assert!(matches!(parse(r#"{"x":1}"#), EntryError::Shape(ShapeError::Shape(_))));
        assert!(matches!(parse("{"), EntryError::Shape(ShapeError::Json(_))));
        let both = String::from_utf8(entry().to_request()).unwrap();
        let both = both.replace(r#""verifier":{"#, r#""verifier":{"x509Certificate":{"rawBytes":"AA=="},"#);
        assert_eq!(parse(&both), EntryError::Verifier);
    }
}
