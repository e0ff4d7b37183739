//! The scrub's part that looks at documents of scans, which are in the same store: each against the digest that was signed.

use countersign_domain::WorkspaceName;
use countersign_ledger::objects::ObjectError;
use countersign_ledger::trust::{TrustKind, TrustQuery, TrustRow};
use countersign_proof::digest::Digest;
use serde::Serialize;
use uuid::Uuid;

use super::Artifacts;
use super::scrub::{MAX_FINDINGS, Scrubbed};
use crate::capability::Failure;
use crate::trust::documents::{SIGNED_AS, document_of, key_of, object_of, place_of};

const PAGE: u32 = 200;
/// Signatures of one document that are looked at for the one that kept it.
const TRIED: u32 = 1000;

/// A document that does not hold.
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
        found.documents += 1;
        let why = match document_of(&*self.objects, row, &object).await {
            Ok(_) => {
                found.documents_intact += 1;
                return Ok(());
            }
            Err(damage @ (ObjectError::Missing(_) | ObjectError::Changed { .. })) => damage.to_string(),
            Err(error) => return Err(error.into()),
        };
        if found.damaged_documents.len() < MAX_FINDINGS {
            found.damaged_documents.push(DamagedDocument {
                workspace: row.workspace.clone(),
                entry_id: row.id,
                document: row.artifact.clone(),
                why,
            });
        }
        Ok(())
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
