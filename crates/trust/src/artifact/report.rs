//! What a verification of an artifact found: every check by name, the key and its state, and what nobody checked.
//!
//! Names of checks and failures are stable: programs may match on them.

use std::fmt;

use countersign_proof::report::Code as JwsCode;
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

macro_rules! failures {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a check failed, or why it could not be made. The names are stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            /// What is wrong with the JWS or its signature.
            Jws(JwsCode),
            $($(#[$doc])* $variant,)*
        }

        impl Code {
            /// Every code beside those of JWS.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The stable machine name.
            pub fn name(self) -> &'static str {
                match self { Self::Jws(code) => code.name(), $(Self::$variant => $name),* }
            }
        }
    };
}

failures! {
    /// `typ` is not that of a signed artifact.
    TypMismatch = "typ_mismatch",
    /// The payload is no artifact.
    ArtifactMalformed = "artifact_malformed",
    /// The payload is an artifact, but not in its canonical bytes.
    PayloadNotCanonical = "payload_not_canonical",
    /// The header lacks a claim, or has one of the wrong type.
    ClaimMissing = "claim_missing",
    /// `iss` is not the artifact's workspace.
    IssuerMismatch = "issuer_mismatch",
    /// `sub` is not the artifact's id.
    SubjectMismatch = "subject_mismatch",
    /// `artifact_type` is not the artifact's type.
    TypeMismatch = "type_mismatch",
    /// `artifact_version` is not the artifact's version.
    VersionMismatch = "version_mismatch",
    /// The artifact is of another workspace than the keys.
    WorkspaceMismatch = "workspace_mismatch",
    /// Nobody said whose the keys are.
    WorkspaceUnknown = "workspace_unknown",
    /// The signature claims to expire before it was made.
    TimesMismatch = "times_mismatch",
    /// The signature claims to be made later than now.
    IssuedInFuture = "issued_in_future",
    /// It was signed after the key was retired.
    KeyRetired = "key_retired",
    /// The key was revoked, and nothing but the signer's word says that it was signed before.
    KeyRevoked = "key_revoked",
    /// Nobody said what state the key was in.
    KeyStateUnknown = "key_state_unknown",
    /// No such type of artifact is known.
    TypeUnknown = "type_unknown",
    /// The body is not one of its type.
    BodyMismatch = "body_mismatch",
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
