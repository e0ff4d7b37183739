//! What was signed and verified, to be found again: a row for each, written with the append that makes it true.
//!
//! A signature's row has the id of its public entry. What the rows mean is the trust capability's business; a store finds them.

use countersign_domain::{Millis, WorkspaceName};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrustKind {
    /// Something was signed.
    Signature,
    /// Somebody verified a signature.
    Verification,
    /// Somebody decided about an artifact.
    Review,
    /// A certificate was issued to somebody who signs elsewhere.
    Certificate,
    /// Something was handed on to a log of somebody else.
    Forward,
}

/// A signature or a verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustRow {
    /// UUIDv7: rows are in the order of time.
    pub id: Uuid,
    /// The workspace that it belongs to.
    pub workspace: WorkspaceName,
    /// What it is.
    pub kind: TrustKind,
    /// When.
    pub at: Millis,
    /// The artifact's digest, `sha256:…`.
    pub artifact: String,
    /// What kind of artifact, in the signer's words.
    pub artifact_type: String,
    /// What people call it.
    pub subject: Option<String>,
    /// What it belongs to, such as a scan.
    pub chain: Option<String>,
    /// The signer, as the certificate says.
    pub signer: String,
    /// What a verification came to.
    pub valid: Option<bool>,
    /// More: a JSON object that the capability reads and writes.
    pub body: String,
}

/// A filter over rows of one workspace, newest first; all given parts must match.
#[derive(Debug, Clone)]
pub struct TrustQuery {
    /// The workspace.
    pub workspace: WorkspaceName,
    /// Only these.
    pub kind: Option<TrustKind>,
    /// Only of this artifact.
    pub artifact: Option<String>,
    /// Only of this type.
    pub artifact_type: Option<String>,
    /// Only of this signer.
    pub signer: Option<String>,
    /// Only what ended so: verifications that passed or failed.
    pub valid: Option<bool>,
    /// Only whose artifact, subject or chain this is.
    pub about: Option<String>,
    /// `at >= since`.
    pub since: Option<Millis>,
    /// `at < until`.
    pub until: Option<Millis>,
    /// Only rows before this one.
    pub before: Option<Uuid>,
    /// At most this many, 1 to 1000.
    pub limit: u32,
}

impl TrustQuery {
    /// Everything in a workspace.
    pub fn of(workspace: WorkspaceName) -> Self {
        Self {
            workspace,
            kind: None,
            artifact: None,
            artifact_type: None,
            signer: None,
            valid: None,
            about: None,
            since: None,
            until: None,
            before: None,
            limit: 100,
        }
    }
}

/// A page of rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustPage {
    /// The rows, newest first.
    pub rows: Vec<TrustRow>,
    /// Whether more match.
    pub more: bool,
}

/// How many rows of a workspace are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustCount {
    /// What they are.
    pub kind: TrustKind,
    /// Their type of artifact.
    pub artifact_type: String,
    /// Their signer.
    pub signer: String,
    /// What they came to.
    pub valid: Option<bool>,
    /// How many.
    pub count: u64,
}
