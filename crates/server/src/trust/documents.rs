//! The documents of scans: kept as objects under the digest that was signed, handed out again once they hold, and found by the scrub.
//!
//! What is true if the process dies while one is added: before its row, there is at most an object that nobody has seen. The same document has the
//! same object, whoever adds it and however often.

use countersign_domain::{Principal, WorkspaceName};
use countersign_ledger::objects::{ObjectError, ObjectRef, Objects};
use countersign_ledger::trust::{TrustKind, TrustQuery, TrustRow};
use countersign_proof::digest::Digest;
use serde_json::{Value, json};

use super::find::entry_id;
use super::sign::Kept;
use super::{Trust, tools};
use crate::capability::Failure;
use crate::time::rfc3339;

/// The types of artifact as which documents are signed: reports of findings, and bills that report none.
pub(crate) const SIGNED_AS: [&str; 2] = ["scan_result", "sbom"];
/// How many signatures of one document are looked at for the one that kept it.
const TRIED: u32 = 50;

/// The name of a document's object.
pub(crate) fn key_of(workspace: &WorkspaceName, document: &Digest) -> String {
    format!("scans/{workspace}/{}.json", document.hex())
}

/// Workspace and digest of a name that [`key_of`] made.
pub(crate) fn place_of(key: &str) -> Option<(WorkspaceName, Digest)> {
    let mut parts = key.split('/');
    let ("scans", workspace, file, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else {
        return None;
    };
    Some((workspace.parse().ok()?, format!("sha256:{}", file.strip_suffix(".json")?).parse().ok()?))
}

/// Where the document that a row is the signature of is kept, if it is.
pub(crate) fn object_of(row: &TrustRow) -> Option<ObjectRef> {
    if row.kind != TrustKind::Signature {
        return None;
    }
    serde_json::from_str::<Kept>(&row.body).ok()?.object
}

/// The document of a row, held against the digest that was signed. Reference and row are of the same database: either alone could have been changed.
///
/// # Errors
/// [`ObjectError`].
pub(crate) async fn document_of(
    objects: &dyn Objects,
    row: &TrustRow,
    object: &ObjectRef,
) -> Result<Vec<u8>, ObjectError> {
    let bytes = objects.get(object).await?;
    let found = Digest::of(&bytes).to_string();
    if found == row.artifact {
        return Ok(bytes);
    }
    let problem = format!("its SHA-256 is {found}, and {} was signed", row.artifact);
    Err(ObjectError::Changed { key: object.key.clone(), problem })
}

impl Trust {
    /// A document as the scanner wrote it, with what is known of it. Nobody is handed one that does not hold.
    pub(super) async fn get_scan(&self, principal: &Principal, wanted: tools::GetScan) -> Result<Value, Failure> {
        let row = match (wanted.entry_id, wanted.document) {
            (Some(id), None) => self.own_row(principal, entry_id(&id)?).await?,
            (None, Some(document)) => self.newest_of(principal, tools::digest(&document)?).await?,
            (_, _) => {
                return Err(Failure::Input("give the entry_id of a scan, or the digest of its document".to_owned()));
            }
        };
        let kept: Kept = serde_json::from_str(&row.body).map_err(|e| Failure::Undone(e.to_string()))?;
        let Some(scan) = kept.scan else {
            return Err(Failure::NotFound(format!("{} is a signature of something else than a scan", row.id)));
        };
        let unkept = || Failure::NotFound(format!("the document of {} was not kept when it was signed", row.id));
        let object = kept.object.ok_or_else(unkept)?;
        let bytes = document_of(&*self.objects, &row, &object).await?;
        let (report, whole) = self.verified_again(&row, &self.own_root().await?).await?;
        if !report.is_valid() {
            let codes: Vec<&str> = report.failures().map(|code| code.name()).collect();
            return Err(Failure::Undone(format!("the signature {} does not hold: {}", row.id, codes.join(", "))));
        }
        let text = String::from_utf8(bytes).map_err(|_| Failure::Undone("the document is no text".to_owned()))?;
        Ok(json!({
            "entry_id": row.id.to_string(),
            "artifact": row.chain,
            "document": row.artifact,
            "media_type": scan.format.media_type(),
            "size": object.size,
            "subject": row.subject,
            "timestamp": rfc3339(row.at),
            "signer": row.signer,
            "transparency_index": whole.inclusion.index,
            "rekor_url": self.url_of(row.id),
            "scan": scan,
            "text": text,
        }))
    }

    async fn newest_of(&self, principal: &Principal, document: Digest) -> Result<TrustRow, Failure> {
        let query = TrustQuery {
            kind: Some(TrustKind::Signature),
            artifact: Some(document.to_string()),
            limit: TRIED,
            ..TrustQuery::of(principal.workspace.clone())
        };
        let page = self.read(move |r| r.trust_rows(&query)).await?;
        let (kept, others): (Vec<_>, Vec<_>) = page.rows.into_iter().partition(|row| object_of(row).is_some());
        let missing = || Failure::NotFound(format!("there is no scan whose document is {document} in this workspace"));
        kept.into_iter().chain(others).next().ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_documents_are_read_back_and_others_are_not() {
        let (workspace, digest) = ("north-clinic".parse().expect("a name"), Digest::of(b"a document"));
        let key = key_of(&workspace, &digest);
        assert_eq!(countersign_ledger::objects::check_key(&key), Ok(()));
        assert_eq!(place_of(&key), Some((workspace, digest)));
        let hex = digest.hex();
        for other in [
            "",
            "scans/w",
            "scans/w/x.json",
            "artifacts/w/1/1-a.jws",
            &format!("scans/w/{hex}"),
            &format!("scans/w/{hex}.json/x"),
        ] {
            assert_eq!(place_of(other), None, "{other}");
        }
    }
}
