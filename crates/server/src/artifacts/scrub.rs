//! Holds every stored artifact against its row, its key and the log, and finds objects that no row knows. By command and once a month.

use std::sync::Arc;
use std::time::Duration;

use countersign_domain::{EventDraft, EventType, Millis, Principal, WorkspaceName};
use countersign_ledger::artifacts::ArtifactRow;
use countersign_ledger::contract::EventQuery;
use countersign_ledger::objects::{ObjectRef, lock_trouble};
use countersign_ledger::trust::TrustRow;
use countersign_ledger::{Append, Entry};
use countersign_trust::artifact::report::Report;
use futures_util::future::join_all;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::documents::DamagedDocument;
use super::read::Held;
use super::{Artifacts, SIDE_BY_SIDE};
use crate::capability::Failure;

/// How often the node does it by itself.
const EVERY: Millis = 30 * 24 * 3600 * 1000;
/// How often the node looks whether it is time.
const LOOK: Duration = Duration::from_secs(3600);
const PAGE: u32 = 200;
/// The most findings that are named.
const MAX_FINDINGS: usize = 100;
/// An object that is younger may belong to a call that is under way.
const GRACE: Millis = 3600 * 1000;

/// What was found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Scrubbed {
    /// Artifacts that were looked at.
    pub checked: u64,
    /// Of them, those that hold.
    pub intact: u64,
    /// Those that do not, at most 100.
    pub damaged: Vec<Damaged>,
    /// Those that hold, while something in the object store stands in their way for whoever does not name their version; at most 100.
    pub overlaid: Vec<Damaged>,
    /// The same of documents of scans.
    pub overlaid_documents: Vec<DamagedDocument>,
    /// How many both are.
    #[serde(skip)]
    over: u64,
    /// Documents of scans that were looked at.
    pub documents: u64,
    /// Of them, those that hold.
    pub documents_intact: u64,
    /// Those that do not, at most 100.
    pub damaged_documents: Vec<DamagedDocument>,
    /// Objects that nobody has: left by calls that ended early. Harmless.
    pub orphans: u64,
    /// The event that records it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<Uuid>,
}

/// What is wrong with an artifact or a document.
pub(super) enum Finding {
    Nothing,
    Damage(String),
    Overlaid(String),
}

/// An artifact with a finding.
#[derive(Debug, Serialize)]
pub(crate) struct Damaged {
    pub workspace: WorkspaceName,
    pub id: Uuid,
    pub version: u64,
    pub why: String,
}

impl Artifacts {
    /// Looks at everything.
    ///
    /// # Errors
    /// If ledger or objects cannot be read; what was changed or is missing is a finding, not an error.
    pub async fn scrub(&self, by: &Principal) -> Result<Scrubbed, Failure> {
        let mut found = Scrubbed::default();
        let mut behind = None;
        loop {
            let rows = self.read(move |r| r.artifacts_behind(behind, PAGE)).await?;
            let Some(last) = rows.last() else { break };
            behind = Some(last.entry);
            // A store across the network is asked about several at a time.
            for some in rows.chunks(SIDE_BY_SIDE) {
                let findings = join_all(some.iter().map(|row| self.finding(row))).await;
                for (row, finding) in some.iter().zip(findings) {
                    found.add(row, finding?);
                }
            }
        }
        self.scrub_documents(&mut found).await?;
        found.orphans = self.orphans().await?;
        let damaged = found.checked - found.intact + found.documents - found.documents_intact;
        let now = (self.clock)();
        let draft = EventDraft::new(Uuid::now_v7(), WorkspaceName::node(), EventType::ArtifactsScrubbed, now)
            .by(by)
            .with("checked", found.checked)
            .with("damaged", damaged)
            .with("documents", found.documents)
            .with("orphans", found.orphans)
            .with("overlaid", found.over)
            .with("artifacts", json!(found.damaged.iter().map(|one| one.id.to_string()).collect::<Vec<_>>()));
        found.event = Some(draft.id);
        let events = vec![Entry::new(draft.prepare().map_err(|e| Failure::Undone(e.to_string()))?)];
        self.ledger.append(Append { events, ..Append::default() }).await?;
        if damaged > 0 {
            tracing::error!(
                damaged,
                checked = found.checked + found.documents,
                "stored artifacts or documents do not hold: `countersign artifacts scrub` names them"
            );
        }
        if found.over > 0 {
            let overlaid = found.over;
            tracing::error!(
                overlaid,
                "somebody laid something over stored artifacts or documents: `countersign artifacts scrub` names them"
            );
        }
        Ok(found)
    }

    async fn finding(&self, row: &ArtifactRow) -> Result<Finding, Failure> {
        let owner = Principal { workspace: row.workspace.clone(), ..Principal::node() };
        let Held { report, damage, lock } = self.held(&owner, row).await?;
        let unlocked = lock.and_then(|lock| lock_trouble(&row.object, &lock, (self.clock)()));
        // That a key was revoked later is no damage.
        let codes =
            report.iter().flat_map(Report::failures).map(|code| code.name()).filter(|code| *code != "key_revoked");
        let all = codes.map(str::to_owned).chain(damage).chain(unlocked).collect();
        self.weighed(&row.object, all).await
    }

    /// What it comes to: what is wrong with it, or else what lies over its object.
    pub(super) async fn weighed(&self, object: &ObjectRef, wrong: Vec<String>) -> Result<Finding, Failure> {
        if !wrong.is_empty() {
            return Ok(Finding::Damage(wrong.join("; ")));
        }
        let over = self.objects.overlaid(object).await?;
        Ok(over.map_or(Finding::Nothing, Finding::Overlaid))
    }

    async fn orphans(&self) -> Result<u64, Failure> {
        let (mut orphans, mut behind) = (0, None);
        let old = (self.clock)().saturating_sub(GRACE);
        loop {
            let page = self.objects.list(behind.as_deref()).await?;
            let Some(last) = page.last() else { return Ok(orphans) };
            behind = Some(last.key.clone());
            for object in page.into_iter().filter(|object| object.at < old) {
                let known = match place_of(&object.key) {
                    None if self.is_document(&object.key).await? => continue,
                    None => None,
                    Some((workspace, id, version)) => {
                        self.read(move |r| r.artifact(&workspace, id, Some(version))).await?
                    }
                };
                orphans += u64::from(known.is_none_or(|row| row.object.key != object.key));
            }
        }
    }

    /// Once a month, by the events of all nodes that share the log.
    pub async fn keep_scrubbing(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            match self.last_scrub().await {
                Ok(Some(at)) if (self.clock)() < at.saturating_add(EVERY) => {}
                Ok(_) => {
                    if let Err(error) = self.scrub(&Principal::node()).await {
                        tracing::warn!(%error, "the stored artifacts could not be checked; tried again in an hour");
                    }
                }
                Err(error) => tracing::debug!(%error, "when artifacts were last checked is not known"),
            }
        }
    }

    async fn last_scrub(&self) -> Result<Option<Millis>, Failure> {
        let query = EventQuery {
            kind: Some(EventType::ArtifactsScrubbed.as_str().to_owned()),
            descending: true,
            limit: 1,
            ..EventQuery::default()
        };
        let page = self.read(move |r| r.events(&query)).await?;
        Ok(page.rows.first().map(|(_, row)| row.time))
    }
}

impl Scrubbed {
    fn add(&mut self, row: &ArtifactRow, finding: Finding) {
        self.checked += 1;
        let (list, why) = match finding {
            Finding::Nothing => {
                self.intact += 1;
                return;
            }
            Finding::Damage(why) => (&mut self.damaged, why),
            Finding::Overlaid(why) => {
                self.intact += 1;
                self.over += 1;
                (&mut self.overlaid, why)
            }
        };
        if list.len() < MAX_FINDINGS {
            list.push(Damaged { workspace: row.workspace.clone(), id: row.id, version: row.version, why });
        }
    }

    pub(super) fn add_document(&mut self, row: &TrustRow, finding: Finding) {
        self.documents += 1;
        let (list, why) = match finding {
            Finding::Nothing => {
                self.documents_intact += 1;
                return;
            }
            Finding::Damage(why) => (&mut self.damaged_documents, why),
            Finding::Overlaid(why) => {
                self.documents_intact += 1;
                self.over += 1;
                (&mut self.overlaid_documents, why)
            }
        };
        if list.len() < MAX_FINDINGS {
            let (workspace, document) = (row.workspace.clone(), row.artifact.clone());
            list.push(DamagedDocument { workspace, entry_id: row.id, document, why });
        }
    }
}

/// Workspace, id and version of a key that `create` made.
fn place_of(key: &str) -> Option<(WorkspaceName, Uuid, u64)> {
    let mut parts = key.split('/');
    let ("artifacts", workspace, id, file, None) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next())
    else {
        return None;
    };
    Some((workspace.parse().ok()?, id.parse().ok()?, file.split_once('-')?.0.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_artifacts_are_read_back_and_others_are_not() {
        let id = Uuid::now_v7();
        let (workspace, read, version) = place_of(&format!("artifacts/north-clinic/{id}/12-ab.jws")).expect("a place");
        assert_eq!((workspace.as_str(), read, version), ("north-clinic", id, 12));
        for other in [
            "",
            "artifacts/w/x/1-a.jws",
            "other/w/{id}/1-a.jws",
            &format!("artifacts/w/{id}/1-a/b"),
            &format!("artifacts/w/{id}/a-1"),
        ] {
            assert_eq!(place_of(other), None, "{other}");
        }
    }
}
