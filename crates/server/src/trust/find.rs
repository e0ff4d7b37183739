//! `query_transparency`, `get_signature`, `get_stats`: what was signed and verified in the caller's workspace.

use countersign_domain::Principal;
use countersign_ledger::trust::{TrustCount, TrustKind, TrustQuery, TrustRow};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::tools::Verifications;
use super::verify::GIVEN;
use super::{Trust, forwarded, tools};
use crate::capability::{Failure, clipped, moment};
use crate::time::rfc3339;

const DEFAULT_PAGE: u32 = 10;
/// The most signers that are named.
const MAX_SIGNERS: usize = 100;

impl Trust {
    pub(super) async fn query(&self, principal: &Principal, wanted: tools::Query) -> Result<Value, Failure> {
        if wanted.log.is_some() {
            return self.query_elsewhere(principal, wanted).await;
        }
        let cursor = wanted.cursor.as_deref().map(entry_id).transpose()?;
        let (kind, valid) = match wanted.verifications {
            None => (TrustKind::Signature, None),
            Some(Verifications::All) => (TrustKind::Verification, None),
            Some(wanted) => (TrustKind::Verification, Some(wanted == Verifications::Passed)),
        };
        if kind == TrustKind::Verification && wanted.artifact_type.is_some() {
            return Err(Failure::Input("an attempt to verify names an artifact, not its type".to_owned()));
        }
        let query = TrustQuery {
            kind: Some(kind),
            valid,
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
        let entries = page.rows.iter().map(|row| match kind {
            TrustKind::Verification => attempt(row),
            _ => self.listed(row),
        });
        let entries: Vec<Value> = entries.collect();
        Ok(json!({ "entries": entries, "next": next }))
    }

    /// An entry of a list: what is stored of it, without a look into the log.
    pub(super) fn listed(&self, row: &TrustRow) -> Value {
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
        let outside = match wanted.log.as_deref() {
            None | Some("own") => false,
            Some("outside") => true,
            Some(other) => {
                let why = format!("log: {:?} is neither \"own\" nor \"outside\"", clipped(other));
                return Err(Failure::Input(why));
            }
        };
        let row = self.read(move |r| r.trust_row(id)).await?;
        if let Some(row) = row.filter(|row| row.kind == TrustKind::Forward) {
            return self.checkpoint(&row);
        }
        let row = self.own_row(principal, id).await?;
        let known = self.read(move |r| forwarded::about_entry(r, id)).await?;
        let mut shown = self.shown(&row).await?;
        shown["outside_entries"] = known.iter().map(|(row, kept)| forwarded::shown(row, kept)).collect();
        if outside {
            let entry = known.iter().find_map(|(_, kept)| kept.entry.clone());
            let entry = entry.ok_or_else(|| Failure::NotFound(format!("no other log has signature {id}")))?;
            // Verifiers want exactly one entry.
            shown["bundle"]["verificationMaterial"]["tlogEntries"] = json!([entry]);
        }
        Ok(shown)
    }

    /// A checkpoint of this log that is in another one: everybody may see it.
    fn checkpoint(&self, row: &TrustRow) -> Result<Value, Failure> {
        let kept = forwarded::read(row)?;
        let (Some(note), Some(bundle)) = (&kept.checkpoint, &kept.bundle) else {
            return Err(Failure::NotFound(format!("there is no signature {}", row.id)));
        };
        Ok(json!({
            "entry_id": row.id.to_string(),
            "artifact": row.artifact,
            "artifact_type": row.artifact_type,
            "timestamp": rfc3339(row.at),
            "signer": format!("{}/log", self.custody.issuer()),
            "issuer": self.custody.issuer(),
            "signature": bundle["messageSignature"]["signature"],
            "rekor_url": self.url_of(row.id),
            "checkpoint": note,
            "outside_entries": [forwarded::shown(row, &kept)],
            "bundle": bundle,
        }))
    }

    /// A signature of the caller's workspace. What another workspace signed is as unknown as what nobody did.
    pub(super) async fn own_row(&self, principal: &Principal, id: Uuid) -> Result<TrustRow, Failure> {
        let row = self.read(move |r| r.trust_row(id)).await?;
        let own = |row: &TrustRow| row.workspace == principal.workspace && row.kind == TrustKind::Signature;
        row.filter(own).ok_or_else(|| Failure::NotFound(format!("there is no signature {id}")))
    }

    pub(super) async fn stats(&self, principal: &Principal, _: tools::Nothing) -> Result<Value, Failure> {
        let workspace = principal.workspace.clone();
        let counts = self.read(move |r| r.trust_counts(&workspace)).await?;
        let sum = |kind: TrustKind, valid: Option<bool>| -> u64 {
            let counted =
                |c: &&TrustCount| c.kind == kind && c.artifact_type != GIVEN && (valid.is_none() || c.valid == valid);
            counts.iter().filter(counted).map(|c| c.count).sum()
        };
        let given: u64 = counts.iter().filter(|c| c.artifact_type == GIVEN).map(|c| c.count).sum();
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
        let forwarding = match &self.outside.forwarding {
            None => Value::Null,
            Some(forwarding) => forwarding.describe().await?,
        };
        Ok(json!({
            "forwarding": forwarding,
            "total_signatures": sum(TrustKind::Signature, None),
            "total_transparency_entries": self.ledger.head().size,
            "verification_stats": { "total": total, "successful": good, "failed": total - good },
            "verifications_under_given_trust": given,
            "artifact_types": types,
            "signers": signers,
            "scenarios": self.scenarios,
            "timestamp": rfc3339((self.clock)()),
        }))
    }
}

/// An attempt to verify. It is no entry of the log: it has neither an address there nor a signature of its own.
pub(super) fn attempt(row: &TrustRow) -> Value {
    let kept: Value = serde_json::from_str(&row.body).unwrap_or_default();
    json!({
        "entry_id": row.id.to_string(),
        "artifact": row.artifact,
        "subject": row.subject,
        "verified_at": rfc3339(row.at),
        "signer": Some(&row.signer).filter(|signer| !signer.is_empty()),
        "valid": row.valid,
        "trust": if row.artifact_type == GIVEN { "given" } else { "node" },
        "verified_by": kept["by"],
        "reason": kept["reason"],
    })
}

pub(super) fn entry_id(text: &str) -> Result<Uuid, Failure> {
    text.parse().map_err(|_| Failure::Input(format!("{:?} is not the id of an entry", clipped(text))))
}
