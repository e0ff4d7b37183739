//! `hold`: an artifact's objects are put under legal hold, or taken off it.
//!
//! The store comes first, then the rows, which say what the store was asked for. Whether it did it, where its answer was lost, the store is asked
//! ([`Objects::hold`](countersign_ledger::objects::Objects::hold)): only what cannot be found out is unknown. If the process dies in between, the call
//! is unknown too, and once a person has looked, the same call sets both right; until then the scrub names a hold that the rows still ask for, and a
//! hold that only the store knows keeps more than it must.
//!
//! A version that is made meanwhile follows the row of the one before it: what the call finds behind those that it noted, it takes in.

use countersign_domain::Principal;
use countersign_ledger::artifacts::{ArtifactPage, ArtifactQuery, ArtifactRow};
use countersign_ledger::objects::ObjectError;
use countersign_ledger::state::StateOp;
use countersign_ledger::{Append, AppendError};
use futures_util::future::join_all;
use serde_json::{Map, Value, json};

use super::{Artifacts, SIDE_BY_SIDE, artifact_id, tools};
use crate::capability::{Failure, Told};

/// The most versions of one call.
const MAX_VERSIONS: u32 = 1000;
/// How often a call looks for versions that were made meanwhile.
const ROUNDS: u32 = 4;

/// What became of the versions that the store was asked about.
#[derive(Default)]
struct Asked {
    done: Vec<ArtifactRow>,
    /// How many are certainly as they were.
    undone: usize,
    /// Of how many that is not known.
    unknown: usize,
    /// Why it is not done for all.
    why: Option<ObjectError>,
}

impl Artifacts {
    pub(super) async fn hold(&self, principal: &Principal, wanted: tools::Hold) -> Result<Told, Failure> {
        let mut rows = self.to_hold(principal, &wanted).await?;
        let mut done = Vec::new();
        for _ in 0..ROUNDS {
            let asked = self.ask(rows, wanted.hold).await;
            self.note(&asked.done, wanted.hold).await?;
            done.extend(asked.done);
            if let Some(why) = asked.why {
                return Err(incomplete(done.len(), asked.undone, asked.unknown, &why));
            }
            rows = self.missed(principal, &wanted, &done).await.map_err(Failure::after_the_fact)?;
            if rows.is_empty() {
                return Ok(told(&wanted, &done));
            }
        }
        let some = done.len();
        Err(Failure::Partly(format!("it is done for {some} versions, and more were made meanwhile: call it again")))
    }

    /// The version that is named, or all.
    async fn to_hold(&self, principal: &Principal, wanted: &tools::Hold) -> Result<Vec<ArtifactRow>, Failure> {
        let newest = self.found(principal, &wanted.id, wanted.version).await?;
        if wanted.version.is_some() || newest.version == 1 {
            return Ok(vec![newest]);
        }
        let page = self.versions(principal, wanted).await?;
        match page.more {
            false => Ok(page.rows),
            true => Err(Failure::Input(format!(
                "the artifact has more than {MAX_VERSIONS} versions: name them by `version`, one at a time"
            ))),
        }
    }

    async fn versions(&self, principal: &Principal, wanted: &tools::Hold) -> Result<ArtifactPage, Failure> {
        let id = Some(artifact_id(&wanted.id)?);
        let query = ArtifactQuery { id, limit: MAX_VERSIONS, ..ArtifactQuery::of(principal.workspace.clone()) };
        self.read(move |r| r.artifacts(&query)).await
    }

    /// Asks the store, about several at a time, until it does not do one.
    async fn ask(&self, rows: Vec<ArtifactRow>, held: bool) -> Asked {
        let mut asked = Asked::default();
        for some in rows.chunks(SIDE_BY_SIDE) {
            let answers = join_all(some.iter().map(|row| self.objects.hold(&row.object, held))).await;
            for (row, answer) in some.iter().zip(answers) {
                match answer {
                    Ok(()) => asked.done.push(row.clone()),
                    Err(why) => {
                        asked.unknown += usize::from(matches!(why, ObjectError::Unavailable(_)));
                        asked.why = Some(why);
                    }
                }
            }
            if asked.why.is_some() {
                break;
            }
        }
        asked.undone = rows.len() - asked.done.len() - asked.unknown;
        asked
    }

    /// The rows say what the store did.
    async fn note(&self, done: &[ArtifactRow], held: bool) -> Result<(), Failure> {
        if done.is_empty() {
            return Ok(());
        }
        let ops = done.iter().map(|row| StateOp::ArtifactHold { entry: row.entry, held }).collect();
        let noted = self.ledger.append(Append { ops, ..Append::default() }).await;
        let lost =
            |error: AppendError| Failure::Unknown(format!("the store did it, and the rows may not say so: {error}"));
        noted.map(drop).map_err(lost)
    }

    /// Versions that were made while the call was under way, behind one whose row was not changed yet.
    async fn missed(
        &self,
        principal: &Principal,
        wanted: &tools::Hold,
        done: &[ArtifactRow],
    ) -> Result<Vec<ArtifactRow>, Failure> {
        if wanted.version.is_some() {
            return Ok(Vec::new());
        }
        let mut rows = self.versions(principal, wanted).await?.rows;
        rows.retain(|row| row.object.held != wanted.hold && done.iter().all(|done| done.version != row.version));
        Ok(rows)
    }
}

/// How a call ends that is not done for all versions. What is known of each is an outcome, after which the same call may be made.
fn incomplete(done: usize, undone: usize, unknown: usize, why: &ObjectError) -> Failure {
    match (done, unknown, why) {
        (0, 0, ObjectError::Unsupported(why)) => Failure::Input(why.clone()),
        (0, 0, why) => Failure::Undone(format!("nothing was changed: {why}")),
        (done, 0, why) => {
            tracing::warn!(%why, done, undone, "a legal hold was changed on some versions and not on others");
            Failure::Partly(format!(
                "it is done for {done} versions, and not for {undone}, which are as they were: the object store did not do it; the same call again does the rest"
            ))
        }
        (done, unknown, why) => Failure::Unknown(format!(
            "it is done for {done} versions, not for {undone}, and of {unknown} it is not known: {why}"
        )),
    }
}

fn told(wanted: &tools::Hold, done: &[ArtifactRow]) -> Told {
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
