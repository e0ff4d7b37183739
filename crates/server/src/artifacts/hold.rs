//! `hold`: an artifact's objects are put under legal hold, or taken off it.
//!
//! The store comes first, then the rows, which say what the store was asked for. If the process dies in between, the same call sets both right; until
//! then the scrub names a hold that the rows still ask for, and a hold that only the store knows keeps more than it must.

use countersign_domain::Principal;
use countersign_ledger::Append;
use countersign_ledger::artifacts::{ArtifactQuery, ArtifactRow};
use countersign_ledger::objects::ObjectError;
use countersign_ledger::state::StateOp;
use futures_util::future::join_all;
use serde_json::{Map, Value, json};

use super::{Artifacts, SIDE_BY_SIDE, artifact_id, tools};
use crate::capability::{Failure, Told};

/// The most versions of one call.
const MAX_VERSIONS: u32 = 1000;

impl Artifacts {
    pub(super) async fn hold(&self, principal: &Principal, wanted: tools::Hold) -> Result<Told, Failure> {
        let rows = self.to_hold(principal, &wanted).await?;
        let (mut done, mut failed) = (Vec::new(), None);
        for some in rows.chunks(SIDE_BY_SIDE) {
            let set = some.iter().map(|row| self.objects.hold(&row.object, wanted.hold));
            for (row, set) in some.iter().zip(join_all(set).await) {
                match set {
                    Ok(()) => done.push(row),
                    Err(error) => failed = Some(error),
                }
            }
            if failed.is_some() {
                break;
            }
        }
        match (&failed, done.is_empty()) {
            (Some(ObjectError::Unsupported(why)), true) => return Err(Failure::Input(why.clone())),
            (Some(error), true) => return Err(Failure::Undone(error.to_string())),
            (_, _) => {}
        }
        let note = |row: &&ArtifactRow| StateOp::ArtifactHold { entry: row.entry, held: wanted.hold };
        let ops = done.iter().map(note).collect();
        let noted = self.ledger.append(Append { ops, ..Append::default() }).await;
        noted.map_err(|error| Failure::from(error).after_the_fact())?;
        if let Some(error) = failed {
            let (some, all) = (done.len(), rows.len());
            return Err(Failure::Unknown(format!("it is done for {some} of {all} versions: {error}; call it again")));
        }
        Ok(told(&wanted, &done))
    }

    /// The version that is named, or all.
    async fn to_hold(&self, principal: &Principal, wanted: &tools::Hold) -> Result<Vec<ArtifactRow>, Failure> {
        let newest = self.found(principal, &wanted.id, wanted.version).await?;
        if wanted.version.is_some() || newest.version == 1 {
            return Ok(vec![newest]);
        }
        let workspace = principal.workspace.clone();
        let id = Some(artifact_id(&wanted.id)?);
        let query = ArtifactQuery { id, limit: MAX_VERSIONS, ..ArtifactQuery::of(workspace) };
        let page = self.read(move |r| r.artifacts(&query)).await?;
        match page.more {
            false => Ok(page.rows),
            true => Err(Failure::Input(format!(
                "the artifact has more than {MAX_VERSIONS} versions: name them by `version`, one at a time"
            ))),
        }
    }
}

fn told(wanted: &tools::Hold, done: &[&ArtifactRow]) -> Told {
    let mut versions: Vec<u64> = done.iter().map(|row| row.version).collect();
    versions.sort_unstable();
    let id = done.first().map(|row| row.id.to_string());
    let mut remarks = Map::new();
    remarks.insert("artifact_versions".into(), json!(versions.len()));
    Told { value: json!({ "id": id, "hold": wanted.hold, "versions": versions, "reason": wanted.reason }), remarks }
}

/// What the events of such a call say, whatever comes of it: which way, and why.
pub(super) fn remarks(input: &Value) -> Map<String, Value> {
    let mut members = Map::new();
    members.extend(input.get("hold").and_then(Value::as_bool).map(|hold| ("hold".to_owned(), json!(hold))));
    let reason = input.get("reason").and_then(Value::as_str);
    let bounded = reason.map(|reason| reason.chars().take(tools::MAX_REASON).collect::<String>());
    // `reason` is why a call was refused.
    members.extend(bounded.map(|reason| ("hold_reason".to_owned(), json!(reason))));
    members
}
