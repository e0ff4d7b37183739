//! Artifacts: JSON documents in an envelope that says what, which version, whose and when, under a signature.
//!
//! The envelope is FedMCP's (`docs/artifact.md`). What is signed and stored are its RFC 8785 bytes, so an artifact has one
//! spelling: whatever is read is held to those bytes, and the bound on its size is a bound on them.

pub mod report;
pub mod schema;
pub mod sign;
pub mod types;
pub mod verify;

mod id;
mod members;

pub use countersign_proof::artifact::MAX_BYTES;
use countersign_proof::canonical::{CanonicalError, JsonError, Limits, parse_strict, to_canonical};
use countersign_proof::digest::Digest;
use serde::Serialize;
use serde_json::{Map, Value};

pub use id::{ArtifactId, InvalidId};

use members::Members;

/// Bounds on the text that an artifact is read from: escapes and white space may make it longer than its canonical form.
pub const TEXT_LIMITS: Limits = Limits { max_bytes: 8 << 20, max_depth: 64 };
/// Most artifacts that one may name as its sources.
pub const MAX_DERIVED_FROM: usize = 64;
/// Most sources of evidence.
pub const MAX_EVIDENCE: usize = 256;
/// Most compliance tags.
pub const MAX_COMPLIANCE: usize = 64;
/// Longest text of a source of evidence, in characters.
pub const MAX_SOURCE_CHARS: usize = 2048;

/// Why something is no artifact. Members are named by their path, such as `evidence[2].digest`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactError {
    /// Not JSON, ambiguous JSON, or beyond the bounds on the text.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A value that has no canonical form.
    #[error(transparent)]
    NotCanonical(#[from] CanonicalError),
    /// More canonical bytes than an artifact may have.
    #[error("the artifact has {actual} bytes in canonical form; at most {MAX_BYTES} are accepted")]
    TooLarge {
        /// Canonical bytes.
        actual: usize,
    },
    /// Not an object.
    #[error("an artifact is a JSON object")]
    NotAnObject,
    /// A member that the envelope does not have.
    #[error("the member {member:?} is not known: {help}")]
    Unknown {
        /// Which.
        member: String,
        /// What may have been meant.
        help: String,
    },
    /// A member that must be there is not.
    #[error("the member {member:?} is missing")]
    Missing {
        /// Which.
        member: String,
    },
    /// A member is not as it must be.
    #[error("{member}: {problem}")]
    Member {
        /// Which.
        member: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl ArtifactError {
    /// The path of the member that is wrong, where it is one.
    pub fn member(&self) -> Option<&str> {
        match self {
            Self::Unknown { member, .. } | Self::Missing { member } | Self::Member { member, .. } => Some(member),
            Self::Json(_) | Self::NotCanonical(_) | Self::TooLarge { .. } | Self::NotAnObject => None,
        }
    }
}

/// What an artifact is made from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Draft {
    /// Its name for all time.
    pub id: ArtifactId,
    /// The name of its type.
    #[serde(rename = "type")]
    pub artifact_type: String,
    /// Its version, from 1.
    pub version: u64,
    /// Whose it is.
    pub workspace_id: String,
    /// When it was made (RFC 3339).
    pub created_at: String,
    /// What it says.
    pub json_body: Map<String, Value>,
    /// The artifacts that it was made from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub derived_from: Vec<ArtifactId>,
    /// What it rests on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Evidence>,
    /// The rules that it falls under.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub compliance: Vec<String>,
}

/// A source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// A URI or a citation.
    pub source: String,
    /// A title for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The digest of what was read there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// When it was read (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retrieved_at: Option<String>,
}

/// An artifact: well-formed, within bounds, and with one spelling.
#[derive(Debug, Clone, PartialEq)]
pub struct Artifact {
    draft: Draft,
    created_at_ms: i64,
    canonical: Vec<u8>,
}

impl Artifact {
    /// Makes an artifact.
    ///
    /// # Errors
    /// [`ArtifactError`], as for one that is read.
    pub fn new(draft: &Draft) -> Result<Self, ArtifactError> {
        let value = serde_json::to_value(draft).map_err(|e| CanonicalError::Serialize(e.to_string()))?;
        Self::from_value(&value)
    }

    /// Reads an artifact in any spelling.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub fn parse(json: &[u8]) -> Result<Self, ArtifactError> {
        Self::from_value(&parse_strict(json, &TEXT_LIMITS)?)
    }

    /// As [`Self::parse`], of what was read already.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub fn from_value(value: &Value) -> Result<Self, ArtifactError> {
        let canonical = to_canonical(value)?;
        if canonical.len() > MAX_BYTES {
            return Err(ArtifactError::TooLarge { actual: canonical.len() });
        }
        // What is kept is what the canonical bytes say, so that `1.0` and `1`, or `-0` and `0`, are one value from here on.
        let limits = Limits { max_bytes: MAX_BYTES, ..TEXT_LIMITS };
        let Value::Object(members) = parse_strict(&canonical, &limits)? else { return Err(ArtifactError::NotAnObject) };
        let (draft, created_at_ms) = Members::top(&members).read_envelope()?;
        Ok(Self { draft, created_at_ms, canonical })
    }

    /// The RFC 8785 bytes: what is signed and stored.
    pub fn canonical(&self) -> &[u8] {
        &self.canonical
    }

    /// SHA-256 of the canonical bytes.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.canonical)
    }

    /// Its name for all time.
    pub fn id(&self) -> ArtifactId {
        self.draft.id
    }

    /// The name of its type.
    pub fn artifact_type(&self) -> &str {
        &self.draft.artifact_type
    }

    /// Its version, from 1.
    pub fn version(&self) -> u64 {
        self.draft.version
    }

    /// Whose it is.
    pub fn workspace(&self) -> &str {
        &self.draft.workspace_id
    }

    /// When it was made, as it says.
    pub fn created_at(&self) -> &str {
        &self.draft.created_at
    }

    /// The same in milliseconds since 1970.
    pub fn created_at_ms(&self) -> i64 {
        self.created_at_ms
    }

    /// What it says.
    pub fn body(&self) -> &Map<String, Value> {
        &self.draft.json_body
    }

    /// The artifacts that it was made from.
    pub fn derived_from(&self) -> &[ArtifactId] {
        &self.draft.derived_from
    }

    /// What it rests on.
    pub fn evidence(&self) -> &[Evidence] {
        &self.draft.evidence
    }

    /// The rules that it falls under.
    pub fn compliance(&self) -> &[String] {
        &self.draft.compliance
    }
}

#[cfg(test)]
mod tests;
