//! The scrub's part that looks at documents of scans, which are in the same store: each against the digest that was signed and the lock that was
//! asked for.

use countersign_domain::WorkspaceName;
use countersign_ledger::objects::{ObjectError, ObjectRef, lock_trouble};
use countersign_ledger::trust::{TrustKind, TrustQuery, TrustRow};
use countersign_proof::digest::Digest;
use serde::Serialize;
use uuid::Uuid;

use super::Artifacts;
use super::scrub::{Finding, Scrubbed};
use crate::capability::Failure;
use crate::trust::documents::{SIGNED_AS, key_of, object_of, place_of};

const PAGE: u32 = 200;
/// Signatures of one document that are looked at for the one that kept it.
const TRIED: u32 = 1000;

/// A document with a finding.
#[derive(Debug, Serialize)]
pub(crate) struct DamagedDocument {
    pub workspace: WorkspaceName,
    /// The entry of its signature.
    pub entry_id: Uuid,
    /// What was signed.
    pub document: String,
    pub why: String,
}

impl Artifacts {
    /// Looks at the documents of every workspace.
    pub(super) async fn scrub_documents(&self, found: &mut Scrubbed) -> Result<(), Failure> {
        for workspace in self.read(|r| r.workspaces()).await? {
            for artifact_type in SIGNED_AS {
                self.scrub_documents_of(&workspace, artifact_type, found).await?;
            }
        }
        Ok(())
    }

    async fn scrub_documents_of(
        &self,
        workspace: &WorkspaceName,
        artifact_type: &str,
        found: &mut Scrubbed,
    ) -> Result<(), Failure> {
        let mut before = None;
        loop {
            let query = TrustQuery {
                kind: Some(TrustKind::Signature),
                artifact_type: Some(artifact_type.to_owned()),
                before,
                limit: PAGE,
                ..TrustQuery::of(workspace.clone())
            };
            let page = self.read(move |r| r.trust_rows(&query)).await?;
            before = page.rows.last().map(|row| row.id);
            for row in &page.rows {
                self.scrub_document(row, found).await?;
            }
            if !page.more {
                return Ok(());
            }
        }
    }

    async fn scrub_document(&self, row: &TrustRow, found: &mut Scrubbed) -> Result<(), Failure> {
        let Some(object) = object_of(row) else { return Ok(()) };
        let finding = self.document_finding(row, &object).await?;
        found.add_document(row, finding);
        Ok(())
    }

    async fn document_finding(&self, row: &TrustRow, object: &ObjectRef) -> Result<Finding, Failure> {
        let lock = match self.objects.fetch(object).await {
            Ok(fetched) => fetched.lock,
            Err(damage @ (ObjectError::Missing(_) | ObjectError::Changed { .. })) => {
                return Ok(Finding::Damage(damage.to_string()));
            }
            Err(error) => return Err(error.into()),
        };
        // The bytes are those of the reference, which could have been changed without the row.
        let kept = object.digest.to_string();
        let other = (kept != row.artifact).then(|| format!("its SHA-256 is {kept}, and {} was signed", row.artifact));
        let unlocked = lock_trouble(object, &lock, (self.clock)());
        self.weighed(object, other.into_iter().chain(unlocked).collect()).await
    }

    /// Whether an object of this name is a document that somebody signed.
    pub(super) async fn is_document(&self, key: &str) -> Result<bool, Failure> {
        let Some((workspace, document)) = place_of(key) else { return Ok(false) };
        let own = key_of(&workspace, &document);
        let rows = self.signatures_of(workspace, &document).await?;
        Ok(rows.iter().filter_map(object_of).any(|object| object.key == own))
    }

    async fn signatures_of(&self, workspace: WorkspaceName, document: &Digest) -> Result<Vec<TrustRow>, Failure> {
        let query = TrustQuery {
            kind: Some(TrustKind::Signature),
            artifact: Some(document.to_string()),
            limit: TRIED,
            ..TrustQuery::of(workspace)
        };
        Ok(self.read(move |r| r.trust_rows(&query)).await?.rows)
    }
}
