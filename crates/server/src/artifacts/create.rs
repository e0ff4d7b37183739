//! `create`: an artifact is checked, signed, stored as an object, and only then made known.

use countersign_domain::Principal;
use countersign_ledger::artifacts::ArtifactRow;
use countersign_ledger::state::{Conflict, StateOp};
use countersign_ledger::{Append, AppendError, PublicEntry};
use countersign_proof::digest::Digest;
use countersign_trust::artifact::sign::{Times, prepare};
use countersign_trust::artifact::types::Types;
use countersign_trust::artifact::{Artifact, ArtifactId};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Artifacts;
use crate::capability::{Failure, Told};
use crate::time::rfc3339;

/// By how much the maker's clock may be ahead.
const CLOCK_SKEW_MS: i64 = 300_000;
/// How often the hold of the version before may change under one that is being made.
const HOLD_CHANGES: u32 = 4;

impl Artifacts {
    pub(super) async fn create(&self, principal: &Principal, arguments: &str) -> Result<Told, Failure> {
        // Before any key is looked at: a signature says no later than this.
        let now = (self.clock)();
        let artifact = self.accepted(arguments, principal, now).await?;
        if let Some(known) = self.placed(principal, &artifact).await? {
            return self.told(&known, true).await;
        }
        let key = self.keys.current(&principal.workspace).await?;
        let public = key.public.clone();
        let prepared = self.computing.run(move || {
            let prepared = prepare(&artifact, &public, Times::from(now / 1000)).map_err(|e| e.to_string())?;
            Ok::<_, String>((artifact, prepared.digest(), prepared))
        });
        let undone = |why: String| Failure::Undone(format!("nothing was signed: {why}"));
        let (artifact, digest, prepared) = prepared.await?.map_err(undone)?;
        let signature = self.keys.sign(&key, &digest).await?;
        let signed = self
            .computing
            .run(move || {
                let signed = prepared.finish(&signature).map_err(|e| e.to_string())?;
                let leaf = signed.log_entry().and_then(|entry| entry.to_body()).map_err(|e| e.to_string())?;
                Ok::<_, String>((artifact, signed.to_flattened(), leaf))
            })
            .await?;
        let (artifact, jws, leaf) = signed.map_err(undone)?;
        let entry = Uuid::now_v7();
        let held = self.is_held(principal, &artifact).await?;
        let object = self.objects.put(&key_of(principal, &artifact, &jws), &jws, held).await?;
        let mut row = ArtifactRow {
            entry,
            workspace: principal.workspace.clone(),
            id: uuid(artifact.id()),
            version: artifact.version(),
            artifact_type: artifact.artifact_type().to_owned(),
            created: artifact.created_at().to_owned(),
            at: now,
            digest: artifact.digest(),
            kid: key.public.kid().to_owned(),
            object,
            compliance: artifact.compliance().to_vec(),
            sources: artifact.derived_from().iter().map(|id| uuid(*id)).collect(),
        };
        let public = PublicEntry::new(entry, principal.workspace.clone(), leaf);
        let public = public.map_err(|e| Failure::Undone(e.to_string()))?;
        if self.make_known(principal, &artifact, &mut row, &public).await? {
            return self.told(&row, true).await.map_err(Failure::after_the_fact);
        }
        match self.placed(principal, &artifact).await? {
            Some(known) => self.told(&known, true).await,
            None => Err(Failure::Exists("another version was stored meanwhile; look at it first".to_owned())),
        }
    }

    /// Makes an artifact known whose object is stored; or not, if somebody was faster with this version. If the version before was put under hold
    /// meanwhile, or taken off it, the object follows first: until there is a row, nobody has seen it.
    async fn make_known(
        &self,
        principal: &Principal,
        artifact: &Artifact,
        row: &mut ArtifactRow,
        public: &PublicEntry,
    ) -> Result<bool, Failure> {
        let mut changes = 0;
        loop {
            let (entries, ops) = (vec![public.clone()], vec![StateOp::ArtifactAdd { row: Box::new(row.clone()) }]);
            match self.ledger.append(Append { entries, ops, ..Append::default() }).await {
                Ok(_) => return Ok(true),
                Err(AppendError::Conflict(Conflict::Exists)) => return Ok(false),
                Err(AppendError::Conflict(Conflict::HoldChanged)) if changes < HOLD_CHANGES => {
                    changes += 1;
                    row.object.held = self.is_held(principal, artifact).await?;
                    self.objects.hold(&row.object, row.object.held).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// An artifact that may be signed in the caller's name.
    async fn accepted(&self, arguments: &str, principal: &Principal, now: u64) -> Result<Artifact, Failure> {
        let artifact = Artifact::parse(arguments.as_bytes()).map_err(|e| Failure::Input(e.to_string()))?;
        let workspace = principal.workspace.as_str();
        if artifact.workspace() != workspace {
            let theirs = artifact.workspace();
            return Err(Failure::Input(format!("workspaceId is {theirs}, and this credential acts in {workspace}")));
        }
        if artifact.created_at_ms() > i64::try_from(now).unwrap_or(i64::MAX).saturating_add(CLOCK_SKEW_MS) {
            return Err(Failure::Input("createdAt is more than five minutes ahead of the node's clock".to_owned()));
        }
        check_body(&self.types, &artifact)?;
        for source in artifact.derived_from() {
            if self.row(principal, uuid(*source), None).await?.is_none() {
                return Err(Failure::Input(format!("derivedFrom: there is no artifact {source} in this workspace")));
            }
        }
        Ok(artifact)
    }

    /// The same artifact, if it is stored already; refused, if its version cannot follow what is.
    async fn placed(&self, principal: &Principal, artifact: &Artifact) -> Result<Option<ArtifactRow>, Failure> {
        let (id, version) = (uuid(artifact.id()), artifact.version());
        let Some(newest) = self.row(principal, id, None).await? else {
            let first = || Failure::Input(format!("a first version is version 1, not {version}"));
            return if version == 1 { Ok(None) } else { Err(first()) };
        };
        if newest.artifact_type != artifact.artifact_type() {
            let was = newest.artifact_type;
            return Err(Failure::Exists(format!(
                "the artifact {id} is of the type {was}; another type is another artifact"
            )));
        }
        if version == newest.version + 1 {
            return Ok(None);
        }
        let known = if version == newest.version {
            Some(newest.clone())
        } else {
            self.row(principal, id, Some(version)).await?
        };
        match known {
            Some(known) if known.digest == artifact.digest() => Ok(Some(known)),
            Some(_) => {
                let next = newest.version + 1;
                Err(Failure::Exists(format!(
                    "version {version} of {id} says something else; a change is version {next}"
                )))
            }
            None => Err(Failure::Exists(format!(
                "the newest version of {id} is {}, so the next is {}",
                newest.version,
                newest.version + 1
            ))),
        }
    }

    /// What is under hold grows under hold.
    async fn is_held(&self, principal: &Principal, artifact: &Artifact) -> Result<bool, Failure> {
        if artifact.version() == 1 {
            return Ok(false);
        }
        let before = self.row(principal, uuid(artifact.id()), Some(artifact.version() - 1)).await?;
        Ok(before.is_some_and(|before| before.object.held))
    }

    /// A stored artifact as its maker and its readers are told of it.
    pub(super) async fn told(&self, row: &ArtifactRow, made: bool) -> Result<Told, Failure> {
        let jws = self.objects.get(&row.object).await?;
        let jws: Value = serde_json::from_slice(&jws).map_err(|e| Failure::Undone(e.to_string()))?;
        let mut value = self.listed(row);
        value["jws"] = jws;
        Ok(Told { value, remarks: self.remarks_on(row, made) })
    }

    /// An artifact of a list.
    pub(super) fn listed(&self, row: &ArtifactRow) -> Value {
        let mut value = json!({
            "id": row.id.to_string(),
            "version": row.version,
            "type": row.artifact_type,
            "created_at": row.created,
            "stored_at": rfc3339(row.at),
            "digest": row.digest.to_string(),
            "kid": row.kid,
            "entry_id": row.entry.to_string(),
            "compliance": row.compliance,
            "derived_from": row.sources.iter().map(Uuid::to_string).collect::<Vec<_>>(),
            "url": format!("{}/artifacts/{}?version={}", self.base_url, row.id, row.version),
            "hold": row.object.held,
        });
        if let Some(retention) = row.object.retention {
            value["retention"] = json!({ "mode": retention.mode, "until": rfc3339(retention.until) });
        }
        value
    }
}

fn check_body(types: &Types, artifact: &Artifact) -> Result<(), Failure> {
    types.check(artifact).map(drop).map_err(|e| Failure::Input(e.to_string()))
}

/// A name of its own for each signature: two that are made at once do not meet.
fn key_of(principal: &Principal, artifact: &Artifact, jws: &[u8]) -> String {
    let (workspace, id, version) = (&principal.workspace, artifact.id(), artifact.version());
    format!("artifacts/{workspace}/{id}/{version}-{}.jws", &Digest::of(jws).hex()[..32])
}

pub(super) fn uuid(id: ArtifactId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}
