//! `query_transparency`, `get_signature`, `get_provenance`, `get_stats`: what was signed and verified in the caller's workspace.

use std::sync::Arc;

use countersign_domain::Principal;
use countersign_ledger::trust::{TrustKind, TrustQuery, TrustRow};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Trust, tools};
use crate::capability::{Failure, clipped, moment};
use crate::time::rfc3339;

const DEFAULT_PAGE: u32 = 10;
/// The most signatures and verifications that a provenance looks at.
const MAX_CHAIN: u32 = 200;
/// The most signers that are named.
const MAX_SIGNERS: usize = 100;

impl Trust {
    pub(super) async fn query(&self, principal: &Principal, wanted: tools::Query) -> Result<Value, Failure> {
        let cursor = wanted.cursor.as_deref().map(entry_id).transpose()?;
        let query = TrustQuery {
            kind: Some(TrustKind::Signature),
            artifact: wanted.artifact.as_deref().map(tools::digest).transpose()?.map(|digest| digest.to_string()),
            artifact_type: wanted.artifact_type,
            signer: wanted.signer,
            since: wanted.start_date.as_deref().map(|text| moment(text, "start_date", false)).transpose()?,
            until: wanted.end_date.as_deref().map(|text| moment(text, "end_date", true)).transpose()?,
            before: cursor,
            limit: wanted.limit.unwrap_or(DEFAULT_PAGE).clamp(1, tools::MAX_PAGE),
            ..TrustQuery::of(principal.workspace.clone())
        };
        let page = self.read(move |r| r.trust_rows(&query)).await?;
        let next = page.rows.last().filter(|_| page.more).map(|row| row.id.to_string());
        let entries: Vec<Value> = page.rows.iter().map(|row| self.listed(row)).collect();
        Ok(json!({ "entries": entries, "next": next }))
    }

    /// An entry of a list: what is stored of it, without a look into the log.
    fn listed(&self, row: &TrustRow) -> Value {
        json!({
            "entry_id": row.id.to_string(),
            "artifact": row.artifact,
            "artifact_type": row.artifact_type,
            "subject": row.subject,
            "timestamp": rfc3339(row.at),
            "signer": row.signer,
            "signature": serde_json::from_str::<Value>(&row.body).ok().map(|kept| kept["signature"].clone()),
            "rekor_url": self.url_of(row.id),
        })
    }

    pub(super) async fn signature(&self, principal: &Principal, wanted: tools::OfEntry) -> Result<Value, Failure> {
        let id = entry_id(&wanted.entry_id)?;
        let row = self.read(move |r| r.trust_row(id)).await?;
        // What another workspace signed is as unknown as what nobody did.
        let own = |row: &TrustRow| row.workspace == principal.workspace && row.kind == TrustKind::Signature;
        let row = row.filter(own).ok_or_else(|| Failure::NotFound(format!("there is no signature {id}")))?;
        self.shown(&row).await
    }

    pub(super) async fn stats(&self, principal: &Principal, _: tools::Nothing) -> Result<Value, Failure> {
        let workspace = principal.workspace.clone();
        let counts = self.read(move |r| r.trust_counts(&workspace)).await?;
        let sum = |kind: TrustKind, valid: Option<bool>| -> u64 {
            counts.iter().filter(|c| c.kind == kind && (valid.is_none() || c.valid == valid)).map(|c| c.count).sum()
        };
        let mut signers: Vec<&str> =
            counts.iter().filter(|c| c.kind == TrustKind::Signature).map(|c| c.signer.as_str()).collect();
        signers.sort_unstable();
        signers.dedup();
        signers.truncate(MAX_SIGNERS);
        let mut types = Map::new();
        for count in counts.iter().filter(|c| c.kind == TrustKind::Signature) {
            let before = types.get(&count.artifact_type).and_then(Value::as_u64).unwrap_or(0);
            types.insert(count.artifact_type.clone(), json!(before + count.count));
        }
        let (total, good) = (sum(TrustKind::Verification, None), sum(TrustKind::Verification, Some(true)));
        Ok(json!({
            "total_signatures": sum(TrustKind::Signature, None),
            "total_transparency_entries": self.ledger.head().size,
            "verification_stats": { "total": total, "successful": good, "failed": total - good },
            "artifact_types": types,
            "signers": signers,
            "timestamp": rfc3339((self.clock)()),
        }))
    }

    pub(super) async fn provenance(&self, principal: &Principal, wanted: tools::Provenance) -> Result<Value, Failure> {
        let scan = wanted.scan_id;
        let query = TrustQuery {
            about: Some(tools::digest(&scan).map_or_else(|_| scan.clone(), |digest| digest.to_string())),
            limit: MAX_CHAIN,
            ..TrustQuery::of(principal.workspace.clone())
        };
        let page = self.read(move |r| r.trust_rows(&query)).await?;
        let (signatures, verifications): (Vec<_>, Vec<_>) =
            page.rows.into_iter().partition(|row| row.kind == TrustKind::Signature);
        let root = Arc::new(self.custody.published().await?.trusted_root);
        let (mut scans, mut manifest, mut broken) = (Vec::new(), Value::Null, Vec::new());
        // Oldest first, as the chain grew.
        for row in signatures.iter().rev() {
            let (report, whole) = self.verified_again(row, &root).await?;
            let mut shown = self.listed(row);
            shown["valid"] = json!(report.is_valid());
            shown["transparency_index"] = json!(whole.inclusion.index);
            shown["metadata"] = json!(whole.kept.metadata);
            if !report.is_valid() {
                let reasons: Vec<_> = report.failures().map(|code| code.name()).collect();
                shown["reasons"] = json!(reasons);
                broken.push(row.id);
            }
            match row.artifact_type.as_str() {
                "manifest" | "scan_manifest" => manifest = shown,
                _ => scans.push(shown),
            }
        }
        let trail: Vec<Value> = verifications
            .iter()
            .rev()
            .map(|row| json!({ "verified_at": rfc3339(row.at), "artifact": row.artifact, "signer": row.signer, "valid": row.valid }))
            .collect();
        let (chain_status, trust_level, reasons) =
            judged(signatures.len(), &broken, !manifest.is_null(), &verifications);
        let log = self.ledger.head();
        Ok(json!({
            "scan_id": scan,
            "manifest": manifest,
            "scans": scans,
            "verification_trail": trail,
            "storage_locations": { "transparency_log": { "origin": log.origin, "size": log.size } },
            "chain_status": chain_status,
            "trust_level": trust_level,
            "reasons": reasons,
            "truncated": page.more,
        }))
    }
}

/// What a chain comes to, and why.
fn judged(
    signatures: usize,
    broken: &[Uuid],
    has_manifest: bool,
    verifications: &[TrustRow],
) -> (&'static str, &'static str, Vec<String>) {
    let failed = verifications.iter().filter(|row| row.valid == Some(false)).count();
    let mut reasons = vec![format!("{signatures} signatures, each verified again now")];
    reasons.extend((!broken.is_empty()).then(|| format!("{} of them do not hold", broken.len())));
    reasons.push(if has_manifest { "a manifest is signed" } else { "no manifest is signed" }.to_owned());
    reasons.extend((failed > 0).then(|| format!("{failed} earlier verifications failed")));
    match (signatures, broken.is_empty(), has_manifest) {
        (0, _, _) => ("unknown", "none", vec!["nothing was signed under this name in this workspace".to_owned()]),
        (_, false, _) => ("broken", "none", reasons),
        (_, true, true) if failed == 0 => ("complete", "high", reasons),
        (_, true, true) => ("complete", "medium", reasons),
        (_, true, false) => ("partial", "medium", reasons),
    }
}

fn entry_id(text: &str) -> Result<Uuid, Failure> {
    text.parse().map_err(|_| Failure::Input(format!("{:?} is not the id of an entry", clipped(text))))
}
