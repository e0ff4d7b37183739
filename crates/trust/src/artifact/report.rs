//! What a verification of an artifact found: every check by name, the key and its state, and what nobody checked.
//!
//! Names of checks and failures are stable: programs may match on them.

use std::fmt;

use countersign_proof::report::Code as ProofCode;
pub use countersign_proof::report::{Status, Verdict};
use serde::{Deserialize, Serialize, Serializer};

use super::ArtifactId;

/// The checks, in the order in which they are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckName {
    /// It is a JWS, as strict as `docs/artifact.md` says.
    Jws,
    /// It is signed by a key that the verifier brought.
    Signature,
    /// That key was fit to sign when this was signed.
    KeyState,
    /// The payload is an artifact in its canonical bytes.
    Artifact,
    /// The header says what the artifact says.
    Claims,
    /// The artifact is of the workspace whose keys these are.
    Workspace,
    /// The signature's times are in order.
    Times,
    /// The body is one of its type.
    Body,
}

/// Why a check failed, or why it could not be made. The names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// What an auditor's verification names, too: what is wrong with the JWS, its signature, its claims or its key.
    Proof(ProofCode),
    /// No such type of artifact is known.
    TypeUnknown,
    /// The body is not one of its type.
    BodyMismatch,
}

impl Code {
    /// Every code that is about artifacts, and not about any JWS.
    pub const ALL: &[Self] = &[
        Self::Proof(ProofCode::TypMismatch),
        Self::Proof(ProofCode::ArtifactMalformed),
        Self::Proof(ProofCode::PayloadNotCanonical),
        Self::Proof(ProofCode::ClaimMissing),
        Self::Proof(ProofCode::IssuerMismatch),
        Self::Proof(ProofCode::SubjectMismatch),
        Self::Proof(ProofCode::TypeMismatch),
        Self::Proof(ProofCode::VersionMismatch),
        Self::Proof(ProofCode::WorkspaceMismatch),
        Self::Proof(ProofCode::WorkspaceUnknown),
        Self::Proof(ProofCode::TimesMismatch),
        Self::Proof(ProofCode::IssuedInFuture),
        Self::Proof(ProofCode::KeyRetired),
        Self::Proof(ProofCode::KeyRevoked),
        Self::Proof(ProofCode::KeyStateUnknown),
        Self::TypeUnknown,
        Self::BodyMismatch,
    ];

    /// The stable machine name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Proof(code) => code.name(),
            Self::TypeUnknown => "type_unknown",
            Self::BodyMismatch => "body_mismatch",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(self.name())
    }
}

/// What may be done with a key. Times are in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase", deny_unknown_fields)]
pub enum KeyState {
    /// It signs.
    Active,
    /// It signed until then; what it signed stays good.
    Retired {
        /// When.
        at: u64,
    },
    /// From then on somebody else may have had it, who can sign with any date.
    Revoked {
        /// When.
        at: u64,
    },
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Which.
    pub name: CheckName,
    /// How it ended.
    pub status: Status,
    /// Why it failed, or why it was left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// For people.
    pub detail: String,
}

/// The facts of an artifact that a reader wants to see first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Its name.
    pub id: ArtifactId,
    /// Its type.
    #[serde(rename = "type")]
    pub artifact_type: String,
    /// Its version.
    pub version: u64,
    /// Whose it is.
    pub workspace_id: String,
    /// When it was made, as it says.
    pub created_at: String,
}

/// The outcome of a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The overall answer. That a signature has expired does not change it: see `expired`.
    pub verdict: Verdict,
    /// Every check that was made or left out, in order.
    pub checks: Vec<Check>,
    /// The key that the header names, whether it is known or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// That key's state, as the verifier was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_state: Option<KeyState>,
    /// When it was signed, by the signer's word, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_at: Option<u64>,
    /// Until when the signature is meant to be used, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// Whether that is over. The artifact is as genuine as before; it should be signed anew before it is relied upon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expired: Option<bool>,
    /// What was signed. Rely on it only if the verdict is valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact: Option<Summary>,
    /// What the findings mean.
    pub statements: Vec<String>,
    /// What the findings do not show.
    pub not_checked: Vec<String>,
}

impl Report {
    /// The check of that name.
    pub fn check(&self, name: CheckName) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }

    /// Why checks failed.
    pub fn failures(&self) -> impl Iterator<Item = Code> {
        self.checks.iter().filter(|check| check.status == Status::Failed).filter_map(|check| check.code)
    }

    /// Whether it is genuine: everything holds, against a key that the verifier brought.
    pub fn is_valid(&self) -> bool {
        self.verdict == Verdict::Valid
    }

    /// Whether it is genuine and its signature has not expired.
    pub fn is_current(&self) -> bool {
        self.is_valid() && self.expired == Some(false)
    }
}
