//! Signatures beside their artifacts, as cosign writes them: a file with the signature, and one with the certificate or key.
//!
//! Such a signature alone has no log entry and no time, so that less can be shown: with a key, that its holder signed; with a
//! certificate, not even whether it was valid then. An entry of a log that is found elsewhere shows both.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Artifact, Expected, Policy, verify_parsed};
use crate::bundle::{Bundle, Content, Material};
use crate::certificate::MAX_CERTIFICATE_BYTES;
use crate::entry::LogEntry;
use crate::pem::{self, PemError};
use crate::report::Report;
use crate::root::TrustedRoot;

/// The longest signature that is read, in bytes.
pub const MAX_SIGNATURE_BYTES: usize = 1024;

/// Why files are no signature with a certificate or key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DetachedError {
    /// Neither base64 nor DER, empty, or too long.
    #[error("not a signature: base64 or DER of at most {MAX_SIGNATURE_BYTES} bytes")]
    Signature,
    /// Not PEM with what is expected in it.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// Too large.
    #[error("the certificate is larger than {MAX_CERTIFICATE_BYTES} bytes")]
    TooLarge,
}

/// Whose signature it is said to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// DER of the signer's certificate.
    Certificate(Vec<u8>),
    /// DER of a `SubjectPublicKeyInfo`.
    Key(Vec<u8>),
}

impl Holder {
    /// The signer's certificate, the first of a PEM text, which may be in base64 once more, as cosign writes it.
    ///
    /// # Errors
    /// [`DetachedError`].
    pub fn certificate(text: &[u8]) -> Result<Self, DetachedError> {
        let first = pem::certificates(&unwrapped(text))?.into_iter().next().unwrap_or_default();
        if first.len() > MAX_CERTIFICATE_BYTES { Err(DetachedError::TooLarge) } else { Ok(Self::Certificate(first)) }
    }

    /// A public key in PEM.
    ///
    /// # Errors
    /// [`DetachedError`].
    pub fn key(text: &[u8]) -> Result<Self, DetachedError> {
        Ok(Self::Key(pem::public_key(&unwrapped(text))?))
    }

    /// DER of the certificate, if it is one.
    pub fn certificate_der(&self) -> Option<&[u8]> {
        match self {
            Self::Certificate(der) => Some(der),
            Self::Key(_) => None,
        }
    }

    /// DER.
    pub fn der(&self) -> &[u8] {
        match self {
            Self::Certificate(der) | Self::Key(der) => der,
        }
    }
}

fn unwrapped(text: &[u8]) -> Vec<u8> {
    let trimmed = text.trim_ascii();
    if !trimmed.starts_with(b"-----") && trimmed.len() <= pem::MAX_PEM_BYTES {
        return STANDARD.decode(trimmed).unwrap_or_else(|_| text.to_vec());
    }
    text.to_vec()
}

/// A signature in base64, or as the DER that it is.
///
/// # Errors
/// [`DetachedError::Signature`].
pub fn signature(text: &[u8]) -> Result<Vec<u8>, DetachedError> {
    let decoded = STANDARD.decode(text.trim_ascii()).unwrap_or_else(|_| text.to_vec());
    match (1..=MAX_SIGNATURE_BYTES).contains(&decoded.len()) {
        true => Ok(decoded),
        false => Err(DetachedError::Signature),
    }
}

/// Verifies a signature by itself, or by the entries that a log has of it. A bare key is expected by being given.
///
/// `entries`: `None` where no log was asked, so that the signature stands alone. Where one was asked and has none, the list is
/// empty, and the report is not valid: whoever names a log wants to know that the signature is in it.
pub fn verify_detached(
    signature: &[u8],
    holder: &Holder,
    entries: Option<Vec<LogEntry>>,
    artifact: &Artifact<'_>,
    root: &TrustedRoot,
    policy: &Policy,
) -> Report {
    let without_log = entries.is_none();
    let entries = entries.unwrap_or_default();
    let (material, expected) = match holder {
        Holder::Certificate(der) => (Material::Certificate(der.clone()), policy.expected.clone()),
        Holder::Key(spki) => (Material::PublicKeyHint(String::new()), Expected::Key(spki.clone())),
    };
    let content = Content::MessageSignature { digest: None, signature: signature.to_vec() };
    let policy = Policy {
        expected,
        without_log,
        // Only an entry could say when.
        without_time: policy.without_time || entries.is_empty(),
        ..policy.clone()
    };
    let bundle = Bundle { material, entries, timestamps: Vec::new(), content };
    verify_parsed(&bundle, artifact, root, &policy)
}
