//! What clients of Sigstore's ask a certificate authority for: the body of Fulcio's `POST /api/v2/signingCert` and its answer, and
//! the proof that whoever asks has the key.
//!
//! Who asks is not in it: that is for an identity token to say, which is only taken out of the body here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use der::{Decode as _, Encode as _};
use serde::{Deserialize, Serialize};
use x509_cert::request::CertReq;

use crate::keys::{HashAlgorithm, KeyError, PublicKey};
use crate::pem;
use crate::wire::{self, Base64, ShapeError};

/// The largest request that is read, in bytes.
pub const MAX_REQUEST_BYTES: usize = 64 << 10;

/// Why a request for a certificate is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuingError {
    /// Not JSON, or not of this shape.
    #[error("not a request for a certificate: {0}")]
    Shape(#[from] ShapeError),
    /// Neither a certification request nor a key, or both.
    #[error("give either a certificate signing request, or a public key with a proof of possession")]
    Either,
    /// The PEM or what is in it cannot be read.
    #[error("{0}")]
    Malformed(&'static str),
    /// The key cannot be read or is not supported.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Whoever asks has not shown that the key is theirs.
    #[error(
        "the proof of possession is wrong: it is a signature with the key over the token's subject or mail address"
    )]
    Proof,
    /// The certification request is not signed with the key that it names.
    #[error("the certificate signing request is not signed with its key")]
    Unsigned,
}

/// A key for which a certificate is wanted, and what shows that it is in the asker's hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// DER of a certification request (PKCS #10, RFC 2986), which is signed with the key.
    Request(Vec<u8>),
    /// The key by itself.
    Key {
        /// DER of its `SubjectPublicKeyInfo`.
        spki: Vec<u8>,
        /// A signature with it over a text that names the asker.
        proof: Vec<u8>,
    },
}

impl Wanted {
    /// From a certification request in PEM, or from a public key in PEM with a proof in base64.
    ///
    /// # Errors
    /// [`IssuingError::Either`], [`IssuingError::Malformed`].
    pub fn new(request: Option<&str>, key: Option<(&str, &str)>) -> Result<Self, IssuingError> {
        match (request, key) {
            (Some(request), None) => Self::from_request(request),
            (None, Some((key, proof))) => {
                let proof = STANDARD.decode(proof);
                Self::from_key(key, proof.map_err(|_| IssuingError::Malformed("the proof is not base64"))?)
            }
            _ => Err(IssuingError::Either),
        }
    }

    fn from_request(text: &str) -> Result<Self, IssuingError> {
        let malformed = IssuingError::Malformed("the certificate signing request is not one block of PEM");
        pem::decode(text, pem::CERTIFICATE_REQUEST).map(Self::Request).ok_or(malformed)
    }

    fn from_key(text: &str, proof: Vec<u8>) -> Result<Self, IssuingError> {
        let malformed = IssuingError::Malformed("the public key is not one block of PEM");
        let spki = pem::decode(text, pem::PUBLIC_KEY).ok_or(malformed)?;
        Ok(Self::Key { spki, proof })
    }

    /// DER of the key's `SubjectPublicKeyInfo`, if it is shown to be in the hands of somebody of these names. A certification
    /// request's own names are not looked at (as Fulcio does not): who asks is known otherwise.
    ///
    /// # Errors
    /// [`IssuingError`].
    pub fn proven(&self, names: &[&str]) -> Result<Vec<u8>, IssuingError> {
        match self {
            Self::Request(der) => signed_by_itself(der),
            Self::Key { spki, proof } => {
                let key = PublicKey::from_spki(spki)?;
                let hash = key.registered_hash();
                let shown = names.iter().any(|name| !name.is_empty() && key.verify(hash, name.as_bytes(), proof));
                if shown { Ok(spki.clone()) } else { Err(IssuingError::Proof) }
            }
        }
    }
}

/// The key of a certification request whose signature holds.
fn signed_by_itself(der: &[u8]) -> Result<Vec<u8>, IssuingError> {
    let malformed = IssuingError::Malformed("the certificate signing request is not DER of one");
    let request = CertReq::from_der(der).map_err(|_| malformed.clone())?;
    let info = request.info.to_der().map_err(|_| malformed.clone())?;
    let spki = request.info.public_key.to_der().map_err(|_| malformed.clone())?;
    let hash = HashAlgorithm::of_ecdsa(&request.algorithm.oid)
        .ok_or_else(|| KeyError::Unsupported(request.algorithm.oid.to_string()))?;
    let signature = request.signature.as_bytes().ok_or(malformed)?;
    if PublicKey::from_spki(&spki)?.verify(hash, &info, signature) { Ok(spki) } else { Err(IssuingError::Unsigned) }
}

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningCertificateRequest {
    /// The identity token, where it stands in the body.
    pub token: Option<String>,
    /// The certification request in PEM, or the key in PEM with the proof in base64.
    pub request: Option<String>,
    /// See there.
    pub key: Option<(String, String)>,
}

impl SigningCertificateRequest {
    /// Reads the body of `POST /api/v2/signingCert`. Members that do not matter here are passed over, as Fulcio passes them over.
    ///
    /// # Errors
    /// [`IssuingError::Shape`], [`IssuingError::Malformed`].
    pub fn parse(json: &[u8]) -> Result<Self, IssuingError> {
        let wire: RequestWire = wire::parse(json, MAX_REQUEST_BYTES)?;
        let text = |bytes: Base64| {
            String::from_utf8(bytes.0)
                .map_err(|_| IssuingError::Malformed("the certificate signing request is not PEM"))
        };
        let key = wire.public_key_request.map(|request| {
            (request.public_key.content, STANDARD.encode(request.proof_of_possession.unwrap_or_default().0))
        });
        Ok(Self {
            token: wire.credentials.and_then(|credentials| credentials.oidc_identity_token),
            request: wire.certificate_signing_request.map(text).transpose()?,
            key,
        })
    }
}

/// The answer to it: the certificate and its issuers, each in PEM, leaf first.
pub fn answer(chain: &[String]) -> Vec<u8> {
    wire::to_json(&AnswerWire { signed_certificate_embedded_sct: Chained { chain: Chain { certificates: chain } } })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestWire {
    credentials: Option<CredentialsWire>,
    public_key_request: Option<KeyRequestWire>,
    certificate_signing_request: Option<Base64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CredentialsWire {
    oidc_identity_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyRequestWire {
    public_key: KeyWire,
    proof_of_possession: Option<Base64>,
}

#[derive(Deserialize)]
struct KeyWire {
    content: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AnswerWire<'a> {
    signed_certificate_embedded_sct: Chained<'a>,
}

#[derive(Serialize)]
struct Chained<'a> {
    chain: Chain<'a>,
}

#[derive(Serialize)]
struct Chain<'a> {
    certificates: &'a [String],
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Signer;

    /// Made by `openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=nobody`, of OpenSSL 3.0.
    const REQUEST: &str = include_str!("issuing/request.pem");

    fn key() -> Signer {
        Signer::from_seed(&[1; 32], "test")
    }

    fn wanted(subject: &str) -> Wanted {
        let proof = STANDARD.encode(key().sign(subject.as_bytes()));
        Wanted::new(None, Some((&pem::encode(&key().spki(), pem::PUBLIC_KEY), &proof))).unwrap()
    }

    #[test]
    fn who_asks_has_to_have_the_key() {
        assert_eq!(wanted("ada").proven(&["", "ada"]), Ok(key().spki()));
        assert_eq!(wanted("ada").proven(&["bob", "ada@example.com"]), Err(IssuingError::Proof));
        // Nobody has no name, whatever was signed.
        assert_eq!(wanted("").proven(&[""]), Err(IssuingError::Proof));
        let request = Wanted::new(Some(REQUEST), None).unwrap();
        let spki = request.proven(&[]).unwrap();
        assert!(matches!(PublicKey::from_spki(&spki), Ok(PublicKey::P256(_))));
        let Wanted::Request(der) = request else { panic!("a request") };
        for at in [12, der.len() / 2, der.len() - 1] {
            let mut changed = der.clone();
            changed[at] ^= 1;
            assert!(Wanted::Request(changed).proven(&[]).is_err(), "byte {at}");
        }
    }

    #[test]
    fn bodies_are_read_as_fulcio_reads_them() {
        let csr = STANDARD.encode(REQUEST);
        let read = |json: &str| SigningCertificateRequest::parse(json.as_bytes());
        let body = format!(r#"{{"credentials":{{"oidcIdentityToken":"t"}},"certificateSigningRequest":"{csr}"}}"#);
        let found = read(&body).unwrap();
        assert_eq!((found.token.as_deref(), found.request.as_deref(), found.key), (Some("t"), Some(REQUEST), None));
        let body =
            r#"{"publicKeyRequest":{"publicKey":{"algorithm":"ECDSA","content":"P"},"proofOfPossession":"AA=="}}"#;
        assert_eq!(read(body).unwrap().key, Some(("P".to_owned(), "AA==".to_owned())));
        for wrong in ["", "[]", r#"{"certificateSigningRequest":"%"}"#, r#"{"certificateSigningRequest":"/w=="}"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Wanted::new(None, None), Err(IssuingError::Either));
        assert_eq!(Wanted::new(Some(REQUEST), Some(("P", ""))), Err(IssuingError::Either));
    }
}
