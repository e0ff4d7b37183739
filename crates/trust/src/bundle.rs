//! Sigstore bundles, version 0.3: a signature with everything that is needed to verify it offline. Versions 0.1 and 0.2,
//! which npm's registry still answers, are read too.
//!
//! Reading is strict: unknown members are refused, since a verifier that skips what it does not understand may skip what
//! matters. Of the chains of certificates in older bundles only the signer's is kept: issuers come from a trusted root.

use serde::{Deserialize, Serialize};

use crate::certificate::MAX_CERTIFICATE_BYTES;
use crate::dsse::{Envelope, MAX_PAYLOAD_BYTES};
use crate::entry::{EntryWire, LogEntry};
use crate::keys::HashAlgorithm;
use crate::root::MAX_CHAIN;
use crate::timestamp::MAX_RESPONSE_BYTES;
use crate::wire::{self, Base64, ShapeError};

/// The media type that is written.
pub const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// An older spelling of the same version, still read.
const MEDIA_TYPE_OLD: &str = "application/vnd.dev.sigstore.bundle+json;version=0.3";
/// Older versions, still read.
const MEDIA_TYPES_BEFORE: [&str; 2] =
    ["application/vnd.dev.sigstore.bundle+json;version=0.1", "application/vnd.dev.sigstore.bundle+json;version=0.2"];
/// The largest bundle that is read, in bytes.
pub const MAX_BUNDLE_BYTES: usize = 16 << 20;
/// Most log entries and most timestamps in a bundle.
pub const MAX_PARTS: usize = 8;

/// Why bytes are not a bundle that is read here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Not JSON, or not of this shape.
    #[error("not a Sigstore bundle: {0}")]
    Shape(#[from] ShapeError),
    /// Another version.
    #[error("bundles of type {0:?} are not read, only {MEDIA_TYPE:?} and older versions")]
    MediaType(String),
    /// Not exactly one certificate or key, or not exactly one content.
    #[error("malformed bundle: {0}")]
    Choice(&'static str),
    /// More parts, or a larger one, than is accepted.
    #[error("the bundle is beyond a bound: {0}")]
    Bound(&'static str),
}

/// A signature and its evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Whose signature it says it is.
    pub material: Material,
    /// The log's evidence.
    pub entries: Vec<LogEntry>,
    /// DER of timestamp answers, over the signature.
    pub timestamps: Vec<Vec<u8>>,
    /// What was signed.
    pub content: Content,
}

/// With what a bundle is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Material {
    /// DER of the signer's certificate.
    Certificate(Vec<u8>),
    /// Something by which the verifier may find the key that it was given.
    PublicKeyHint(String),
}

/// What a bundle's signature is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The artifact itself.
    MessageSignature {
        /// Of the artifact; only a help for finding it.
        digest: Option<(HashAlgorithm, Vec<u8>)>,
        /// DER for ECDSA.
        signature: Vec<u8>,
    },
    /// A statement about it.
    Dsse(Envelope),
}

impl Content {
    /// The signature's bytes: what timestamps are over.
    pub fn signature(&self) -> &[u8] {
        match self {
            Self::MessageSignature { signature, .. } => signature,
            Self::Dsse(envelope) => &envelope.signature,
        }
    }
}

impl Bundle {
    /// Reads a bundle. Nothing in it has been verified then.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn parse(json: &[u8]) -> Result<Self, BundleError> {
        // The type is looked at first, so that another version is refused as such and not for its members.
        let value: serde_json::Value = wire::parse(json, MAX_BUNDLE_BYTES)?;
        let media_type = value.get("mediaType").and_then(|v| v.as_str()).unwrap_or_default();
        let before = MEDIA_TYPES_BEFORE.contains(&media_type);
        if media_type != MEDIA_TYPE && media_type != MEDIA_TYPE_OLD && !before {
            return Err(BundleError::MediaType(media_type.chars().take(128).collect()));
        }
        let wire: BundleWire = serde_json::from_value(value).map_err(|e| ShapeError::Shape(e.to_string()))?;
        if wire.verification_material.x509_certificate_chain.is_some() && !before {
            return Err(BundleError::Choice("since version 0.3 there is one certificate, no chain"));
        }
        wire.try_into()
    }

    /// Writes a bundle.
    pub fn to_json(&self) -> Vec<u8> {
        wire::to_json(&BundleWire::from(self))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BundleWire {
    media_type: String,
    verification_material: MaterialWire,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message_signature: Option<MessageSignatureWire>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dsse_envelope: Option<EnvelopeWire>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MaterialWire {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<RawBytes>,
    #[serde(default, skip_serializing)]
    x509_certificate_chain: Option<ChainWire>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    public_key: Option<HintWire>,
    #[serde(default)]
    tlog_entries: Vec<EntryWire>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timestamp_verification_data: Option<TimestampsWire>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawBytes {
    raw_bytes: Base64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChainWire {
    certificates: Vec<RawBytes>,
}

impl ChainWire {
    /// The signer's certificate comes first.
    fn into_leaf(self) -> Result<RawBytes, BundleError> {
        if self.certificates.len() > MAX_CHAIN {
            return Err(BundleError::Bound("a chain has more than 8 certificates"));
        }
        self.certificates.into_iter().next().ok_or(BundleError::Choice("the chain has no certificate"))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HintWire {
    #[serde(default)]
    hint: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TimestampsWire {
    #[serde(default)]
    rfc3161_timestamps: Vec<TimestampWire>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TimestampWire {
    signed_timestamp: Base64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MessageSignatureWire {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message_digest: Option<DigestWire>,
    signature: Base64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DigestWire {
    algorithm: String,
    digest: Base64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EnvelopeWire {
    payload: Base64,
    payload_type: String,
    signatures: Vec<EnvelopeSignatureWire>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvelopeSignatureWire {
    sig: Base64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    keyid: String,
}

impl From<&Bundle> for BundleWire {
    fn from(bundle: &Bundle) -> Self {
        let (certificate, public_key) = match &bundle.material {
            Material::Certificate(der) => (Some(RawBytes { raw_bytes: Base64(der.clone()) }), None),
            Material::PublicKeyHint(hint) => (None, Some(HintWire { hint: hint.clone() })),
        };
        let stamp = |der: &Vec<u8>| TimestampWire { signed_timestamp: Base64(der.clone()) };
        let timestamps = TimestampsWire { rfc3161_timestamps: bundle.timestamps.iter().map(stamp).collect() };
        let (message_signature, dsse_envelope) = match &bundle.content {
            Content::MessageSignature { digest, signature } => {
                let message_digest = digest.as_ref().map(|(hash, digest)| DigestWire {
                    algorithm: hash.sigstore_name().to_owned(),
                    digest: Base64(digest.clone()),
                });
                (Some(MessageSignatureWire { message_digest, signature: Base64(signature.clone()) }), None)
            }
            Content::Dsse(envelope) => {
                let sig = Base64(envelope.signature.clone());
                let signatures = vec![EnvelopeSignatureWire { sig, keyid: envelope.key_id.clone() }];
                let payload = Base64(envelope.payload.clone());
                (None, Some(EnvelopeWire { payload, payload_type: envelope.payload_type.clone(), signatures }))
            }
        };
        let verification_material = MaterialWire {
            certificate,
            x509_certificate_chain: None,
            public_key,
            tlog_entries: bundle.entries.iter().map(EntryWire::from).collect(),
            timestamp_verification_data: (!bundle.timestamps.is_empty()).then_some(timestamps),
        };
        Self { media_type: MEDIA_TYPE.to_owned(), verification_material, message_signature, dsse_envelope }
    }
}

impl TryFrom<BundleWire> for Bundle {
    type Error = BundleError;

    fn try_from(wire: BundleWire) -> Result<Self, BundleError> {
        let material = wire.verification_material;
        let stamps = material.timestamp_verification_data.map(|t| t.rfc3161_timestamps).unwrap_or_default();
        if material.tlog_entries.len() > MAX_PARTS || stamps.len() > MAX_PARTS {
            return Err(BundleError::Bound("more than 8 log entries or timestamps"));
        }
        let timestamps: Vec<_> = stamps.into_iter().map(|s| s.signed_timestamp.0).collect();
        if timestamps.iter().any(|t| t.len() > MAX_RESPONSE_BYTES) {
            return Err(BundleError::Bound("a timestamp is larger than 64 KiB"));
        }
        let entries = material.tlog_entries.into_iter().map(LogEntry::try_from).collect::<Result<_, _>>()?;
        let certificate = match (material.certificate, material.x509_certificate_chain) {
            (Some(_), Some(_)) => return Err(BundleError::Choice("there is a certificate beside a chain")),
            (certificate, None) => certificate,
            (None, Some(chain)) => Some(chain.into_leaf()?),
        };
        let material = match (certificate, material.public_key) {
            (Some(certificate), None) if certificate.raw_bytes.0.len() > MAX_CERTIFICATE_BYTES => {
                return Err(BundleError::Bound("the certificate is larger than 16 KiB"));
            }
            (Some(certificate), None) => Material::Certificate(certificate.raw_bytes.0),
            (None, Some(key)) => Material::PublicKeyHint(key.hint),
            _ => return Err(BundleError::Choice("exactly one of certificate and publicKey must be there")),
        };
        let content = match (wire.message_signature, wire.dsse_envelope) {
            (Some(signature), None) => signature.try_into()?,
            (None, Some(envelope)) => Content::Dsse(envelope.try_into()?),
            _ => return Err(BundleError::Choice("exactly one of messageSignature and dsseEnvelope must be there")),
        };
        Ok(Self { material, entries, timestamps, content })
    }
}

impl TryFrom<MessageSignatureWire> for Content {
    type Error = BundleError;

    fn try_from(wire: MessageSignatureWire) -> Result<Self, BundleError> {
        let digest = wire.message_digest.map(|digest| {
            let hash = HashAlgorithm::from_sigstore_name(&digest.algorithm);
            let hash = hash.filter(|h| h.digest_len() == digest.digest.0.len());
            hash.map(|hash| (hash, digest.digest.0))
                .ok_or(BundleError::Choice("the message digest is of no known kind"))
        });
        Ok(Self::MessageSignature { digest: digest.transpose()?, signature: wire.signature.0 })
    }
}

impl TryFrom<EnvelopeWire> for Envelope {
    type Error = BundleError;

    fn try_from(wire: EnvelopeWire) -> Result<Self, BundleError> {
        if wire.payload.0.len() > MAX_PAYLOAD_BYTES {
            return Err(BundleError::Bound("the envelope's payload is larger than 8 MiB"));
        }
        let Ok([signature]) = <[EnvelopeSignatureWire; 1]>::try_from(wire.signatures) else {
            return Err(BundleError::Choice("an envelope must have exactly one signature"));
        };
        Ok(Self {
            payload: wire.payload.0,
            payload_type: wire.payload_type,
            signature: signature.sig.0,
            key_id: signature.keyid,
        })
    }
}
