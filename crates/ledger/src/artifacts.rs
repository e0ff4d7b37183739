//! Signed artifacts: what is known of each version, to be found again. The bytes are an object ([`crate::objects`]) that is stored
//! before its row: a row without its object is damage, an object without a row is nothing that anybody has seen.

use countersign_domain::{Millis, WorkspaceName};
use countersign_proof::digest::Digest;
use uuid::Uuid;

use crate::objects::ObjectRef;
use crate::state::Conflict;

/// One version of an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactRow {
    /// The id of the public entry that records its signature. UUIDv7: rows are in the order of time.
    pub entry: Uuid,
    /// Whose it is.
    pub workspace: WorkspaceName,
    /// Its name for all time, within the workspace.
    pub id: Uuid,
    /// From 1, without gaps.
    pub version: u64,
    /// The name of its type.
    pub artifact_type: String,
    /// When it was made, as it says (RFC 3339).
    pub created: String,
    /// When it was stored.
    pub at: Millis,
    /// SHA-256 of its canonical bytes.
    pub digest: Digest,
    /// The key that signed it.
    pub kid: String,
    /// Where its JWS is kept.
    pub object: ObjectRef,
    /// The rules that it falls under.
    pub compliance: Vec<String>,
    /// The artifacts that it was made from.
    pub sources: Vec<Uuid>,
}

impl ArtifactRow {
    /// Whether it may follow the newest version, of which number and legal hold are given: numbers have no gaps, and what follows a version under
    /// hold is under hold.
    ///
    /// # Errors
    /// [`Conflict::Exists`], [`Conflict::HoldChanged`].
    pub fn follows(&self, newest: Option<(u64, bool)>) -> Result<(), Conflict> {
        if self.version != newest.map_or(0, |(version, _)| version) + 1 {
            return Err(Conflict::Exists);
        }
        match newest {
            Some((_, held)) if held != self.object.held => Err(Conflict::HoldChanged),
            _ => Ok(()),
        }
    }
}

/// A filter over artifacts of one workspace, newest first; all given parts must match.
#[derive(Debug, Clone)]
pub struct ArtifactQuery {
    /// The workspace.
    pub workspace: WorkspaceName,
    /// Only versions of this one.
    pub id: Option<Uuid>,
    /// Only of this type.
    pub artifact_type: Option<String>,
    /// Only with all of these compliance tags.
    pub compliance: Vec<String>,
    /// Only what was made from this one.
    pub source: Option<Uuid>,
    /// `at >= since`.
    pub since: Option<Millis>,
    /// `at < until`.
    pub until: Option<Millis>,
    /// Only rows before this entry.
    pub before: Option<Uuid>,
    /// At most this many, 1 to 1000.
    pub limit: u32,
}

impl ArtifactQuery {
    /// Everything in a workspace.
    pub fn of(workspace: WorkspaceName) -> Self {
        Self {
            workspace,
            id: None,
            artifact_type: None,
            compliance: Vec::new(),
            source: None,
            since: None,
            until: None,
            before: None,
            limit: 100,
        }
    }
}

/// A page of rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArtifactPage {
    /// The rows, newest first.
    pub rows: Vec<ArtifactRow>,
    /// Whether more match.
    pub more: bool,
}
